"""Text that the model writes by itself: ``python -m mi_workshop.makers.samples``.

A dictionary or a lens is trained on activations, and those are most useful on the text that a model takes for
likely. The training data of the default model can't be shipped; its own samples can. They are drawn batch by
batch into the cache, each batch with a seed of its own, so an interrupted run goes on where it stopped.
Arithmetic in bfloat16 differs from one CPU to another, so a second run draws other texts from the same
distribution.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, StaticCache

from mi_utils import config, data_files, models
from mi_workshop.cli import say

START, TURN_END = 0, 2  # <|endoftext|> begins every document; <|im_end|> ends an answer


@dataclass(frozen=True)
class Recipe:
    """What is drawn: ``batches`` of ``documents`` texts of at most ``length`` tokens, the start token
    included.

    ``min_p`` leaves out tokens less likely than this share of the likeliest one's probability (Nguyen et al.
    2024, arXiv 2407.01082): sampling from the whole distribution soon drifts into noise.
    """

    batches: int = 24
    documents: int = 128
    length: int = 256
    min_p: float = 0.03
    seed: int = 0


@torch.inference_mode()
def sample_documents(
    model: PreTrainedModel,
    *,
    documents: int,
    length: int,
    min_p: float,
    generator: torch.Generator,
    start: int = START,
    stop: Sequence[int] = (START, TURN_END),
) -> Int[Tensor, "documents length"]:
    """Texts drawn token by token at temperature 1, each from the start token on.

    After its end a text is filled up with the token that ended it.

    Raises:
        ValueError: a count below one, or ``min_p`` outside 0 to 1.
    """
    if documents < 1 or length < 2:
        raise ValueError(f"documents is {documents} and length {length}; they should be at least 1 and 2")
    if not 0 <= min_p <= 1:
        raise ValueError(f"min_p is {min_p}; it should be from 0 to 1")
    ids = torch.full((documents, 1), start, device=model.device)
    ends = torch.tensor(list(stop), device=model.device)
    drawn, cache = [ids], StaticCache(config=model.config, max_cache_len=length)
    done = torch.zeros_like(ids, dtype=torch.bool)
    for _ in range(length - 1):
        logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
        ids = torch.where(done, ids, _draw(logits, min_p, generator))
        done = done | torch.isin(ids, ends)
        drawn.append(ids)
        if done.all():
            drawn.append(ids.expand(-1, length - len(drawn)))
            break
    return torch.cat(drawn, dim=1)


def _draw(
    logits: Float[Tensor, "documents d_vocab"], min_p: float, generator: torch.Generator
) -> Int[Tensor, "documents 1"]:
    """One token a row; by the inverse of the distribution function, five times faster than
    ``torch.multinomial``."""
    chances = logits.softmax(-1)
    chances = torch.where(chances < min_p * chances.amax(-1, keepdim=True), 0, chances)
    below = chances.cumsum(-1)
    height = torch.rand(len(below), 1, generator=generator).to(below.device) * below[:, -1:]
    # Right: the first token whose cumulative probability exceeds the height, never one of probability zero.
    return torch.searchsorted(below, height, right=True).clamp(max=logits.shape[-1] - 1)


def folder() -> Path:
    """Where the batches lie until the corpus is put together."""
    return config.cache_dir() / "samples"


def batch_file(recipe: Recipe, number: int) -> Path:
    """The file of one batch; its name holds what was asked for, so two recipes never mix."""
    what = f"{recipe.documents}x{recipe.length}_minp{recipe.min_p:g}_seed{recipe.seed}"
    return folder() / f"{what}_batch{number:03d}.safetensors"


def draw_missing(recipe: Recipe) -> list[Path]:
    """Draw the batches that are not there yet; returns the files of all of them."""
    files = [batch_file(recipe, number) for number in range(recipe.batches)]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    if missing:
        folder().mkdir(parents=True, exist_ok=True)
        source = models.fetch(models.load.REGISTRY[models.load.DEFAULT].source, say=say)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(
            str(source), dtype=torch.bfloat16, use_safetensors=True
        ).to(device)
    for number in missing:
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(recipe.seed * 100_000 + number)
        tokens = sample_documents(
            model, documents=recipe.documents, length=recipe.length, min_p=recipe.min_p, generator=generator
        )
        about = {name: str(value) for name, value in asdict(recipe).items()}
        with data_files.staged(files[number]) as new:
            save_file({"tokens": tokens.to(torch.int32).cpu()}, new, about)
        seconds = time.perf_counter() - started
        say(f"batch {number + 1} of {recipe.batches}: {tokens.numel() / seconds:.0f} tokens a second")
    return files


def read(files: Sequence[Path]) -> list[list[int]]:
    """The texts of several batches as token ids, without start token and end."""
    texts = []
    for file in files:
        for row in load_file(file)["tokens"].tolist():
            end = next((i for i, token in enumerate(row) if i and token in (START, TURN_END)), len(row))
            texts.append(row[1:end])
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=Recipe.batches)
    draw_missing(Recipe(batches=parser.parse_args().batches))


if __name__ == "__main__":
    main()
