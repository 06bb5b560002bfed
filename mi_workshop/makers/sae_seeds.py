"""Twenty trainings of notebook 02's one-minute SAE, ``data/sae_seeds.json``: ``python -m
mi_workshop.makers.sae_seeds``.

Each seed has other text, another start and another order. The notebook trains one of them and asserts what
holds for all. Needs the harvest of ``mi_workshop.makers.sae``; every seed is kept in the cache; about 20
minutes on two cores.
"""

from mi_utils import corpus, harvest, models, sae
from mi_utils.sae.training import SAESettings, train
from mi_workshop.makers import sae as recipe
from mi_workshop.makers import seeds

COMMAND = "python -m mi_workshop.makers.sae_seeds"
FILE = "sae_seeds.json"
SEEDS = 20
TOKENS, D_SAE, K, STEPS = 101_000, 2_304, 32, 350  # as in the notebook
TEST_CONTEXTS, CAUSAL_CONTEXTS = 48, 6


def settings(seed: int) -> SAESettings:
    """As in the notebook."""
    return SAESettings(D_SAE, "topk", k=K, steps=STEPS, seed=seed)


def one_seed(model, x, test, tokens, seed: int) -> dict:
    """Train on a stretch of the harvest and measure on held-out text; contexts lie in random order there."""
    start = seed * (len(x) - TOKENS) // (SEEDS - 1)
    found = train(x[start : start + TOKENS], settings(seed), model=models.load.DEFAULT, hook=recipe.HOOK).sae
    fit, splice = sae.evaluate(found, test), sae.evaluate_splice(model, found, tokens)
    return {
        "seed": seed,
        "fvu": round(fit.fvu, 4),
        "l0": round(fit.l0, 2),
        "dead": round(fit.dead, 4),
        "CE recovered (zero)": round(splice.recovered("zero"), 4),
        "CE recovered (mean)": round(splice.recovered("mean"), 4),
        "CE above clean": round(splice.spliced - splice.clean, 4),
    }


def main() -> None:
    model, x = models.load_model(), recipe.harvested()
    contexts = corpus.contexts(model, split="test", count=TEST_CONTEXTS, seed=0)
    test = harvest.collect(model, contexts, recipe.HOOK).values
    seeds.record(
        FILE,
        SEEDS,
        lambda seed: one_seed(model, x, test, contexts[:CAUSAL_CONTEXTS], seed),
        command=COMMAND,
        source="trained on smollm2-135m over corpus.safetensors",
    )


if __name__ == "__main__":
    main()
