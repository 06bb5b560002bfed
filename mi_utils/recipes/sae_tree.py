"""Splitting and absorption on a known tree, ``data/sae_tree.json``: ``python -m mi_utils.recipes.sae_tree``.

Three parents with three children each. A child is never there without its parent, and two children of a
parent never together (Chanin et al. 2024 describe what SAEs make of that). In the control the same children
come and go independently of their parents. Takes about ten minutes on one core.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils import sae
from mi_utils.recipes import seeds
from mi_utils.sae.training import Settings, train

COMMAND = "python -m mi_utils.recipes.sae_tree"
FILE = "sae_tree.json"
SEEDS = 20
PARENTS, CHILDREN, WIDTH = 3, 3, 24
PARENT, CHILD = 0.1, 0.7  # how often a parent is there, and how often with one of its children
EXAMPLES = 40_000
SIZES = (
    PARENTS,
    PARENTS * (1 + CHILDREN),
    2 * PARENTS * (1 + CHILDREN),
)  # too few latents, as many, too many


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


def settings(d_sae: int, seed: int) -> Settings:
    """As in the notebook."""
    return Settings(d_sae, "standard", sparsity=1.5, steps=1_500, batch=512, lr=3e-3, seed=seed)


def absorbed(
    autoencoder: sae.SAE, directions: Tensor, amounts: Float[Tensor, "example feature"]
) -> dict[str, float]:
    """What became of parents and children.

    Returns:
        ``parent``, ``child``: mean of the best cosine of a latent with a parent, a child; ``parent in
            child``: mean
        cosine of a child's best latent with its parent; ``parent beside child``: activation of a parent's
        best latent where a child is there too, as a share of its activation where the parent is alone (mean
        over the parents for which it fires at all; 0 where there is none).
    """
    similar = sae.cosines(directions, autoencoder.W_dec)
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


def one_seed(seed: int) -> dict:
    result: dict = {"seed": seed}
    for name, independent in (("tree", False), ("control", True)):
        directions, amounts = tree(seed, independent=independent)
        for size in SIZES:
            found = train(amounts @ directions, settings(size, seed)).sae
            result[f"{name} {size}"] = {
                k: round(v, 4) for k, v in absorbed(found, directions, amounts).items()
            }
    return result


def main() -> None:
    seeds.record(FILE, SEEDS, one_seed, source="trained by this project", command=COMMAND)


if __name__ == "__main__":
    main()
