"""Twenty trainings of notebook 03's lens, ``data/lens_seeds.json``: ``python -m
mi_workshop.makers.lens_seeds``.

Each seed draws other contexts, another order and another sample of the vocabulary. The notebook trains one of
them and asserts what holds for all. Every seed is kept in the cache, so an interrupted run goes on; all of it
takes about 40 minutes on two cores.
"""

import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import config, corpus, data_files, harvest, lens, models
from mi_utils.lens.training import LensSettings, fit_ridge, train
from mi_workshop.cli import say

COMMAND = "python -m mi_workshop.makers.lens_seeds"
FILE = lens.shipped.SEEDS
SEEDS = 20
CONTEXTS, POOL, STEPS = 192, 768, 100  # as in the notebook; contexts are drawn from a pool harvested once
TEST_TOKENS = 320


def folder() -> Path:
    """Where finished seeds are kept."""
    return config.cache_dir() / "lens_seeds"


def one_seed(
    model: TransformerBridge,
    pool: Float[Tensor, "stream context pos d_model"],
    test: Float[Tensor, "stream token d_model"],
    logit_kl: Float[Tensor, "layer"],
    seed: int,
) -> dict:
    """Train on contexts of the pool, measure on the test tokens; ``logit_kl`` is the logit lens's there."""
    chosen = torch.randperm(pool.shape[1], generator=torch.Generator().manual_seed(seed))[:CONTEXTS]
    streams = harvest.drop_massive(pool[:, chosen].flatten(1, 2))
    settings = LensSettings(steps=STEPS, seed=seed)
    ridge = fit_ridge(model, streams)
    trained = train(model, streams, ridge, settings)
    identity = train(model, streams, lens.logit_lens(model), settings)
    of_ridge, of_tuned = (lens.evaluate(model, one, test) for one in (ridge, trained.lens))
    ridge_kl, tuned_kl = of_ridge.kl.mean(dim=1), of_tuned.kl.mean(dim=1)
    return {
        "seed": seed,
        "logit lens over tuned lens, least": (logit_kl / tuned_kl).min().item(),
        "logit lens over tuned lens, median": (logit_kl / tuned_kl)[1:].median().item(),
        "ridge over tuned lens, least": (ridge_kl / tuned_kl).min().item(),
        "steps down": (tuned_kl.diff() < 0).sum().item(),
        "bias in bits, median": (of_tuned.marginal_kl / torch.log(torch.tensor(2.0))).median().item(),
        "from the identity over tuned lens, least, on tokens set aside": (
            (identity.validation.amin(dim=0) / trained.validation.amin(dim=0)).min().item()
        ),
        "tuned KL": [round(value, 3) for value in tuned_kl.tolist()],
    }


def main() -> None:
    folder().mkdir(parents=True, exist_ok=True)
    files = [folder() / f"seed{seed:02d}.json" for seed in range(SEEDS)]
    missing = [seed for seed, file in enumerate(files) if not file.is_file()]
    if missing:
        quick, model = models.load_model(dtype=torch.bfloat16), models.load_model()
        pool = harvest.residual_streams(quick, corpus.contexts(quick, count=POOL, seed=1))
        pool = pool.unflatten(1, (POOL, -1))
        contexts = corpus.contexts(model, split="test", count=24, seed=1)
        test = harvest.drop_massive(harvest.residual_streams(model, contexts))
        order = torch.randperm(test.shape[1], generator=torch.Generator().manual_seed(1))
        test = test[:, order[:TEST_TOKENS]]
        logit_kl = lens.evaluate(model, lens.logit_lens(model), test).kl.mean(dim=1)
    for seed in missing:
        files[seed].write_text(json.dumps(one_seed(model, pool, test, logit_kl, seed)))
        say(f"seed {seed} done")
    rows = ",\n".join(file.read_text() for file in files)
    data_files.write(f"[\n{rows}\n]\n", data_files.folder() / FILE)
    data_files.record(
        FILE, licence="MIT", source="trained against smollm2-135m on corpus.safetensors", command=COMMAND
    )


if __name__ == "__main__":
    main()
