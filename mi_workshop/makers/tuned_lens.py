"""The lens that ships, ``data/tuned_lens_smollm2-135m.safetensors``: ``python -m
mi_workshop.makers.tuned_lens``.

The recipe of notebook 03 with more text: a ridge fit, then rounds of descent, each on text of its own. Every
round is kept in the cache, so an interrupted run goes on (delete its folder there when the corpus has
changed); all of it takes about half an hour on two cores.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import config, corpus, data_files, harvest, lens, models
from mi_utils.lens.training import LensSettings, Moments, train
from mi_workshop.cli import say

COMMAND = "python -m mi_workshop.makers.tuned_lens"
FILE = lens.shipped.LENS
LENGTH = 128
RIDGE_CONTEXTS = 2_048
ROUNDS = 10
ROUND_CONTEXTS = 256
DESCENT = LensSettings(steps=125, batch=256)
# The file should stay under 10 MB, which 8 bits a weight exceed by a hair; the embedding layer can best do
# with less.
EMBEDDING_RANK = 128


def folder() -> Path:
    """Where the rounds are kept until the lens is done; by another recipe they are kept elsewhere."""
    return config.cache_dir() / f"tuned_lens_{ROUNDS}x{ROUND_CONTEXTS}_{DESCENT.steps}x{DESCENT.batch}"


def streams_of(
    model: TransformerBridge, contexts: Int[Tensor, "context pos"]
) -> Float[Tensor, "stream token d_model"]:
    """Residual streams without massive activations."""
    return harvest.drop_massive(harvest.residual_streams(model, contexts))


def reduce_rank(
    matrix: Float[Tensor, "d_in d_out"], covariance: Float[Tensor, "d_in d_in"], rank: int
) -> Float[Tensor, "d_in d_out"]:
    """The matrix of that rank whose outputs differ least, on inputs of that covariance, from those of
    ``matrix``."""
    values, vectors = torch.linalg.eigh(covariance.double())
    root = vectors * values.clamp_min(1e-8 * values.max()).sqrt() @ vectors.T
    u, s, v = torch.linalg.svd(root @ matrix.double())
    return (torch.linalg.solve(root, u[:, :rank] * s[:rank]) @ v[:rank]).float()


def made_once(name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from the cache, or made now and put there."""
    file = folder() / f"{name}.safetensors"
    if not file.is_file():
        folder().mkdir(parents=True, exist_ok=True)
        with data_files.staged(file) as new:
            save_file(make(), new)
        say(f"{name} done")
    return load_file(file)


def main() -> None:
    quick, exact = models.load_model(dtype=torch.bfloat16), models.load_model()
    contexts = corpus.contexts(quick, length=LENGTH)
    needed = RIDGE_CONTEXTS + ROUNDS * ROUND_CONTEXTS
    if len(contexts) < needed:
        raise ValueError(
            f"the corpus has {len(contexts)} contexts of {LENGTH} tokens; this recipe uses {needed}"
        )
    cfg = exact.cfg

    def ridge() -> dict[str, Tensor]:
        moments = Moments(cfg.n_layers, cfg.d_model)
        for piece in contexts[:RIDGE_CONTEXTS].split(ROUND_CONTEXTS):
            moments.add(streams_of(quick, piece))
        made = moments.ridge(cfg.model_name)
        return {
            "matrices": made.matrices,
            "biases": made.biases,
            "mean": moments.means()[0].float(),
            "covariance": moments.covariance(0).float(),
        }

    kept = fitted = made_once("ridge", ridge)
    for number in range(ROUNDS):
        first = RIDGE_CONTEXTS + number * ROUND_CONTEXTS
        start = lens.Lens(kept["matrices"], kept["biases"], cfg.model_name)
        settings = replace(DESCENT, lr=DESCENT.lr * (1 - number / ROUNDS), seed=number)

        def descend(first=first, start=start, settings=settings) -> dict[str, Tensor]:
            made = train(exact, streams_of(quick, contexts[first : first + ROUND_CONTEXTS]), start, settings)
            say(json.dumps([round(loss, 3) for loss in made.validation[-1, ::3].tolist()]))
            return {"matrices": made.lens.matrices, "biases": made.lens.biases}

        kept = made_once(f"round{number:02d}", descend)
    full = kept["matrices"][0].clone()  # else it would change with the next line
    kept["matrices"][0] = reduce_rank(full, fitted["covariance"], EMBEDDING_RANK)
    kept["biases"][0] += fitted["mean"] @ (full - kept["matrices"][0])
    final = lens.Lens(kept["matrices"], kept["biases"], cfg.model_name)
    lens.save(final, data_files.folder() / FILE, low_rank={0: EMBEDDING_RANK})
    tokens = needed * (LENGTH - 1)
    data_files.record(
        FILE,
        licence="Apache-2.0",
        command=COMMAND,
        source=f"trained on about {tokens:,} tokens of corpus.safetensors against smollm2-135m",
    )


if __name__ == "__main__":
    main()
