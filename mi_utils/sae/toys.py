"""Small worlds with known features, on which notebook 02 tries its sparse autoencoders, and the settings it
tries.

The *toy* is a model of superposition (notebook 01), whose hidden layer is taken apart. The *tree* has three
parents with three children each; a child is never there without its parent, and two children of a parent
never together (Chanin et al. 2024 describe what SAEs make of that).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils import superposition
from mi_utils.sae.sae import SAE, cosines
from mi_utils.sae.training import SAESettings

FEATURES, HIDDEN, SPARSITY = 32, 10, 0.95
TRAIN, TEST, D_SAE = 60_000, 10_000, 64  # examples to train and to test on; latents
STRENGTHS = {
    "standard": (0.1, 0.3, 1.0, 2.0),  # weight of L1
    "topk": (1, 2, 3, 5),  # k
    "batchtopk": (1, 2, 3, 5),
    "jumprelu": (0.1, 0.3, 1.0, 2.0),  # weight of L0
}
PARENTS, CHILDREN, WIDTH = 3, 3, 24
PARENT, CHILD = 0.1, 0.7  # how often a parent is there, and how often with one of its children
EXAMPLES = 40_000
TREE_SIZES = (
    PARENTS,
    PARENTS * (1 + CHILDREN),
    2 * PARENTS * (1 + CHILDREN),
)  # too few latents, as many, too many


def toy_settings(kind: str, strength: float | int, seed: int, d_sae: int = D_SAE) -> SAESettings:
    """Settings of one training on the toy; ``strength`` is ``k`` or the weight of the penalty."""
    sparse = {"k": strength} if kind in ("topk", "batchtopk") else {"sparsity": strength}
    return SAESettings(d_sae, kind, **sparse, steps=2_000, batch=512, lr=3e-3, dead_after=20_000, seed=seed)


def toy(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features [FEATURES, HIDDEN] of a trained toy model, and its hidden layer on training and test
    examples."""
    trained = superposition.train(
        FEATURES,
        HIDDEN,
        torch.tensor([SPARSITY]),
        torch.ones(FEATURES),
        superposition.ToySettings(steps=2_000, seed=seed),
    )
    generator = torch.Generator().manual_seed(seed)
    x = superposition.sparse_batch(TRAIN + TEST, torch.tensor([SPARSITY]), FEATURES, generator)[:, 0]
    hidden = x @ trained.W[0].T
    return trained.W[0].T, hidden[:TRAIN], hidden[TRAIN:]


def shrinkage(autoencoder: SAE, features: Float[Tensor, "feature width"]) -> float:
    """How much of a feature comes back when it is alone: mean of (x̂ · x) / (x · x). Below 1 is shrinkage."""
    back = autoencoder.reconstruct(features)
    return ((back * features).sum(dim=1) / features.square().sum(dim=1)).mean().item()


def tree(seed: int, *, independent: bool = False) -> tuple[Tensor, Tensor]:
    """Directions [feature, WIDTH], orthonormal, parents first; and how much of each is in each example.

    Args:
        seed: of directions and examples.
        independent: the control, in which children don't know of their parents.
    """
    generator = torch.Generator().manual_seed(seed)
    features = PARENTS * (1 + CHILDREN)
    directions = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q[:features]
    parents = torch.rand(EXAMPLES, PARENTS, generator=generator) < PARENT
    which = torch.randint(CHILDREN, (EXAMPLES, PARENTS), generator=generator)
    some = torch.rand(EXAMPLES, PARENTS, generator=generator) < CHILD
    of_parents = parents[torch.randperm(EXAMPLES, generator=generator)] if independent else parents
    children = torch.nn.functional.one_hot(which, CHILDREN).bool() & (some & of_parents)[..., None]
    there = torch.cat([parents, children.flatten(1)], dim=1).float()
    return directions, there * (1 + 0.1 * torch.randn(there.shape, generator=generator))


def tree_settings(d_sae: int, seed: int) -> SAESettings:
    """Settings of one training on the tree."""
    return SAESettings(d_sae, "standard", sparsity=1.5, steps=1_500, batch=512, lr=3e-3, seed=seed)


def absorbed(
    autoencoder: SAE, directions: Tensor, amounts: Float[Tensor, "example feature"]
) -> dict[str, float]:
    """What became of parents and children.

    Returns:
        ``parent``, ``child``: mean of the best cosine of a latent with a parent, a child; ``parent in
            child``:
        mean cosine of a child's best latent with its parent; ``parent beside child``: activation of a
        parent's best latent where a child is there too, as a share of its activation where the parent is
        alone (mean over the parents for which it fires at all; 0 where there is none).
    """
    similar = cosines(directions, autoencoder.W_dec)
    best = similar.max(dim=1)
    of_child = best.indices[PARENTS:]
    parent_of = torch.arange(PARENTS).repeat_interleave(CHILDREN)
    latents = autoencoder.encode(amounts @ directions)
    children = (amounts[:, PARENTS:] != 0).view(-1, PARENTS, CHILDREN).any(dim=2)
    shares = []
    for parent in range(PARENTS):
        active, there = latents[:, best.indices[parent]], amounts[:, parent] != 0
        with_child, alone = (
            active[there & children[:, parent]].mean(),
            active[there & ~children[:, parent]].mean(),
        )
        if alone > 0:  # with too few latents a parent's may never fire for the parent alone
            shares.append((with_child / alone).item())
    return {
        "parent": best.values[:PARENTS].mean().item(),
        "child": best.values[PARENTS:].mean().item(),
        "parent in child": similar[parent_of, of_child].mean().item(),
        "parent beside child": sum(shares) / len(shares) if shares else 0.0,
    }
