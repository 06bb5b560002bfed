"""Twenty toy models with their SAEs, ``data/sae_toy.json``: ``python -m mi_utils.recipes.sae_toy``.

For each seed a toy model of superposition (notebook 01) and the SAEs that notebook 02 trains on its hidden
layer; for the first five seeds besides, four kinds of SAE at four strengths of sparsity each. Every seed is
kept in the cache, so an interrupted run goes on; all of it takes about 15 minutes on one core.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils import sae, superposition
from mi_utils.recipes import seeds
from mi_utils.sae.training import Settings, train

COMMAND = "python -m mi_utils.recipes.sae_toy"
FILE = "sae_toy.json"
SEEDS, WHOLE = 20, 5  # toys; those that get every strength
FEATURES, HIDDEN, SPARSITY = 32, 10, 0.95
TRAIN, TEST, D_SAE = 60_000, 10_000, 64  # as in the notebook, and so are the settings below
STRENGTHS = {
    "standard": (0.1, 0.3, 1.0, 2.0),  # weight of L1
    "topk": (1, 2, 3, 5),  # k
    "batchtopk": (1, 2, 3, 5),
    "jumprelu": (0.1, 0.3, 1.0, 2.0),  # weight of L0
}
LIVE = {
    "standard": 1.0,
    "topk": 2,
    "batchtopk": 2,
    "jumprelu": 1.0,
}  # the one of each that the notebook trains
BY_HAND = {"standard": 1.0, "a tenth of the price": 0.1, "topk": 2}  # with as many latents as features


def settings(kind: str, strength: float | int, seed: int, d_sae: int = D_SAE) -> Settings:
    """Settings of one training; ``strength`` is ``k`` or the weight of the penalty."""
    sparse = {"k": strength} if kind in ("topk", "batchtopk") else {"sparsity": strength}
    return Settings(d_sae, kind, **sparse, steps=2_000, batch=512, lr=3e-3, dead_after=20_000, seed=seed)


def toy(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features [FEATURES, HIDDEN] of a trained toy model, and its hidden layer on training and test
    examples."""
    trained = superposition.train(
        FEATURES,
        HIDDEN,
        torch.tensor([SPARSITY]),
        torch.ones(FEATURES),
        superposition.Training(steps=2_000, seed=seed),
    )
    generator = torch.Generator().manual_seed(seed)
    x = superposition.sparse_batch(TRAIN + TEST, torch.tensor([SPARSITY]), FEATURES, generator)[:, 0]
    hidden = x @ trained.W[0].T
    return trained.W[0].T, hidden[:TRAIN], hidden[TRAIN:]


def shrinkage(autoencoder: sae.SAE, features: Float[Tensor, "feature width"]) -> float:
    """How much of a feature comes back when it is alone: mean of (x̂ · x) / (x · x). Below 1 is shrinkage."""
    back = autoencoder.reconstruct(features)
    return ((back * features).sum(dim=1) / features.square().sum(dim=1)).mean().item()


def measured(found: sae.SAE, features: Tensor, test: Tensor) -> dict[str, float]:
    """How well an SAE rebuilds unseen examples, and how much of the truth it found."""
    fit, (_, cosine) = sae.evaluate(found, test), sae.match(found.W_dec, features)
    return {
        "fvu": round(fit.fvu, 4),
        "l0": round(fit.l0, 3),
        "dead": round(fit.dead, 3),
        "mmcs": round(sae.mmcs(found.W_dec, features), 4),
        "recovered": round((cosine > 0.9).float().mean().item(), 4),
        "alone": round(shrinkage(found, features), 4),
    }


def one_seed(seed: int) -> dict:
    features, hidden, test = toy(seed)
    points = []
    for kind, strengths in STRENGTHS.items():
        for strength in strengths if seed < WHOLE else (LIVE[kind],):
            found = train(hidden, settings(kind, strength, seed)).sae
            points.append({"kind": kind, "strength": strength, **measured(found, features, test)})
    small = {}
    for name, strength in BY_HAND.items():
        kind = name if name in STRENGTHS else "standard"
        found = train(hidden, settings(kind, strength, seed, FEATURES)).sae
        small[name] = measured(found, features, test)
    return {"seed": seed, "points": points, "as many latents as features": small}


def main() -> None:
    seeds.record(FILE, SEEDS, one_seed, source="trained by this project", command=COMMAND)


if __name__ == "__main__":
    main()
