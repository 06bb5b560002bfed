"""Twenty toy models with their SAEs, ``data/sae_toy.json``: ``python -m mi_workshop.makers.sae_toy``.

For each seed a toy model of superposition (notebook 01) and the SAEs that notebook 02 trains on its hidden
layer; for the first five seeds besides, four kinds of SAE at four strengths of sparsity each. Every seed is
kept in the cache, so an interrupted run goes on; all of it takes about 15 minutes on one core.
"""

from torch import Tensor

from mi_utils import sae
from mi_utils.sae.toys import FEATURES, STRENGTHS, shrinkage, toy, toy_settings
from mi_workshop.makers import seeds

COMMAND = "python -m mi_workshop.makers.sae_toy"
FILE = "sae_toy.json"
SEEDS, WHOLE = 20, 5  # toys; those that get every strength
LIVE = {
    "standard": 1.0,
    "topk": 2,
    "batchtopk": 2,
    "jumprelu": 1.0,
}  # the one of each that the notebook trains
BY_HAND = {"standard": 1.0, "a tenth of the price": 0.1, "topk": 2}  # with as many latents as features


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
            found = sae.train(hidden, toy_settings(kind, strength, seed)).sae
            points.append({"kind": kind, "strength": strength, **measured(found, features, test)})
    small = {}
    for name, strength in BY_HAND.items():
        kind = name if name in STRENGTHS else "standard"
        found = sae.train(hidden, toy_settings(kind, strength, seed, FEATURES)).sae
        small[name] = measured(found, features, test)
    return {"seed": seed, "points": points, "as many latents as features": small}


def main() -> None:
    seeds.record(FILE, SEEDS, one_seed, source="trained by this project", command=COMMAND)


if __name__ == "__main__":
    main()
