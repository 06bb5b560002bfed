"""The transcoders that ship for the default model: ``python -m mi_workshop.makers.transcoders``.

A skip transcoder for each of the 30 MLPs, all in one stream over the training text: a piece of text goes
through the model, what every MLP reads and writes is kept (2.3 GB), the transcoders see it twice, and the
next piece comes. Memory stays at some 4 GiB, however much text there is. The state is kept in the cache, so
an interrupted run goes on. About an hour on one core that multiplies bfloat16.
``mi_workshop.makers.transcoders_card`` measures the result.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import config, corpus, data_files, harvest, models, transcoders
from mi_utils.transcoders.settings import TranscoderSettings
from mi_utils.transcoders.trainer import Trainer
from mi_workshop.cli import say

COMMAND = "python -m mi_workshop.makers.transcoders"
FILE = "transcoders_smollm2-135m.safetensors"
LENGTH = 128  # tokens of a context
PIECE = 256  # contexts in memory at once: a piece of text
PIECES = 34
PASSES = 2  # over each piece
BATCH = 512  # tokens of a step
# a piece has some 31,900 ordinary tokens: 62 batches, and a few less where more tokens are massive
STEPS_A_PASS = 60
SAVE_EVERY = 6  # pieces
SETTINGS = TranscoderSettings(
    features=736,  # with 8 bits a weight and the skip, the file stays under 36 MB
    kind="plt",
    k=32,
    rank_by="value",
    skip=True,
    steps=PIECES * PASSES * STEPS_A_PASS,
    lr=5e-3,
    precision=torch.bfloat16,
    seed=0,
)


def folder() -> Path:
    """Where the state of the training is kept."""
    return config.cache_dir() / "transcoders_recipe"


def piece(model: TransformerBridge, tokens: Tensor) -> tuple[Float[Tensor, "layer token d_model"], ...]:
    """What the MLPs read and write on some contexts, without tokens on which an MLP writes a massive
    vector."""
    both = harvest.drop_massive(harvest.activations(model, tokens, transcoders.mlp_names(model)))
    return both[: model.cfg.n_layers], both[model.cfg.n_layers :]


def batches(x: Tensor, y: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``STEPS_A_PASS`` batches of a piece in a random order, ``PASSES`` times."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(PASSES):
        order = torch.randperm(x.shape[1], generator=generator)
        for i in range(STEPS_A_PASS):
            chosen = order[(i * BATCH) % (x.shape[1] - BATCH) :][:BATCH]
            yield x[:, chosen], y[:, chosen]


def train() -> transcoders.Transcoders:
    """Train, or go on training, over ``PIECES`` pieces of the training text."""
    model = models.load_model(dtype=torch.bfloat16)
    contexts = corpus.contexts(model, length=LENGTH)
    stored = folder() / "state.safetensors"
    folder().mkdir(parents=True, exist_ok=True)
    trainer, done = None, 0
    if stored.is_file():
        kept = load_file(stored)
        done = int(kept["done"]) // (PASSES * STEPS_A_PASS)
    for number in range(done, PIECES):
        x, y = piece(model, contexts[number * PIECE : (number + 1) * PIECE])
        if trainer is None:
            trainer = Trainer(SETTINGS, x, y, model=model.cfg.model_name)
            if done:
                trainer.restore(kept)
        for step in batches(x, y, SETTINGS.seed + number):
            last = trainer.step(*step)
        say(f"piece {number + 1} of {PIECES}: FVU {last.fvu:.3f}, L0 {last.l0:.0f}, dead {last.dead:.1%}")
        if (number + 1) % SAVE_EVERY == 0 or number + 1 == PIECES:
            with data_files.staged(stored) as new:
                save_file(trainer.state(), new)
        del x, y
    return trainer.result()


def main() -> None:
    """Train and write ``data/transcoders_smollm2-135m.safetensors``."""
    finished = folder() / "finished.safetensors"
    made = transcoders.load(finished) if finished.is_file() else train()
    transcoders.save(made, finished)
    transcoders.save(made, data_files.folder() / FILE, bits=8)
    data_files.record(
        FILE,
        licence="Apache-2.0",
        source="trained on what the MLPs of smollm2-135m read and write on corpus.safetensors",
        command=COMMAND,
    )
    say(f"data/{FILE}: {(data_files.folder() / FILE).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
