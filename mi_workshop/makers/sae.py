"""The sparse autoencoder that ships, ``data/sae_smollm2-135m``: ``python -m mi_workshop.makers.sae``.

The residual stream of the middle layer over the whole training text (one forward pass, kept in the cache as
bfloat16), then two trainings with the same settings: the one that ships and a second seed. Each is kept in
the cache, and so is the harvest, so an interrupted run goes on (delete the folder there when the corpus has
changed). About an hour on two cores; ``mi_workshop.makers.sae_card`` measures the result.
"""

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils import config, corpus, data_files, harvest, models, sae
from mi_utils.sae.sae import SAE
from mi_utils.sae.training import SAESettings, train
from mi_workshop.cli import say

COMMAND = "python -m mi_workshop.makers.sae"
FILE = "sae_smollm2-135m"
LENGTH, PIECE = 128, 256  # tokens in a context; contexts in a piece of the harvest
FACTOR = 5  # beyond this many times the median length, an activation is massive
HOOK, WIDTH = "blocks.15.hook_resid_pre", 576  # before the middle one of 30 blocks
SETTINGS = SAESettings(d_sae=4_608, k=32, steps=5_000, seed=0)
SECOND_SEED = 1


def folder() -> Path:
    """Where activations and finished trainings are kept."""
    return config.cache_dir() / "sae_recipe"


def harvested() -> Float[Tensor, "token d_model"]:
    """The training text's activations without massive ones, read from the disk as needed."""
    ready, raw = folder() / "ordinary.bf16", folder() / "all.bf16"
    if not ready.is_file():
        if not raw.is_file():
            _harvest(raw)
        _keep_ordinary(_mapped(raw), ready)
        raw.unlink()
    return _mapped(ready)


def _harvest(raw: Path) -> None:
    """Run the model over the training text; what is there already is not run again."""
    part = raw.with_suffix(".part")
    folder().mkdir(parents=True, exist_ok=True)
    model = models.load_model(dtype=torch.bfloat16)
    contexts = corpus.contexts(model, length=LENGTH)
    per_piece = PIECE * (LENGTH - 1) * WIDTH * 2
    have = part.stat().st_size // per_piece if part.is_file() else 0
    with part.open("r+b" if have else "wb") as file:
        file.truncate(have * per_piece)
        file.seek(have * per_piece)
        for i, values in enumerate(harvest.pieces(model, contexts[have * PIECE :], HOOK, contexts=PIECE)):
            file.write(values.contiguous().view(torch.int16).numpy().tobytes())
            say(f"harvest: {min((have + i + 1) * PIECE, len(contexts)):,} of {len(contexts):,} contexts")
    part.replace(raw)


def _mapped(file: Path) -> Float[Tensor, "token d_model"]:
    rows = file.stat().st_size // (2 * WIDTH)
    return torch.from_file(str(file), shared=False, size=rows * WIDTH, dtype=torch.bfloat16).view(rows, WIDTH)


def _keep_ordinary(values: Tensor, ready: Path) -> None:
    lengths = torch.cat(
        [torch.linalg.vector_norm(p, dim=-1, dtype=torch.float32) for p in values.split(16_384)]
    )
    kept = lengths <= FACTOR * lengths.median()
    with data_files.staged(ready) as new, new.open("wb") as file:
        for part, which in zip(values.split(16_384), kept.split(16_384), strict=True):
            file.write(part[which].view(torch.int16).numpy().tobytes())
    say(f"{int((~kept).sum()):,} of {len(kept):,} activations are massive and left out")


def trained(seed: int = SETTINGS.seed) -> SAE:
    """An SAE with the settings of the one that ships, trained now or taken from the cache."""
    kept = folder() / f"seed{seed}"
    if not kept.is_dir():
        result = train(harvested(), replace(SETTINGS, seed=seed), model=models.load.DEFAULT, hook=HOOK)
        sae.save(result.sae, kept.with_suffix(".new"), tokens=result.tokens, seconds=round(result.seconds))
        kept.with_suffix(".new").rename(kept)
        say(
            f"{kept.name}: {result.tokens:,} tokens in {result.seconds:,.0f} s, last FVU "
            f"{result.fvu[-50:].mean():.3f}"
        )
    return sae.load(kept)


def main() -> None:
    ships = trained()
    trained(SECOND_SEED)
    sae.save(ships, data_files.folder() / FILE, dtype=torch.float16, trained_by=COMMAND)
    for name in (sae.files.WEIGHTS, sae.files.CONFIG):
        data_files.record(
            f"{FILE}/{name}",
            licence="Apache-2.0",
            command=COMMAND,
            source="trained on activations of smollm2-135m over corpus.safetensors",
        )


if __name__ == "__main__":
    main()
