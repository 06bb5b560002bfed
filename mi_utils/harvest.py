"""Activations of many tokens at once: what lenses, dictionaries and transcoders are trained on.

The first position of a context is left out: it holds the same vector whatever the text is (notebook 00). So
are, where ``ordinary`` is asked, other tokens with a massive activation: a handful of vectors a hundred times
longer than the rest would decide every sum of squares.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models


@torch.no_grad()
def activations(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    names: Sequence[str],
    *,
    batch_size: int = 32,
    skip_first: bool = True,
) -> Float[Tensor, "site token width"]:
    """What passes several hook points of the same width, for every token, in the model's dtype.

    The model runs no further than it has to, and only what is asked for is kept; ``make bench`` compares it
    with ``run_with_cache``, in float32 and bfloat16.

    Args:
        model: the model to run.
        tokens: the contexts, each with its start token.
        names: full names of hook points, as ``models.hook_name`` gives them.
        batch_size: contexts in a forward pass.
        skip_first: leave out the first position of each context.

    Raises:
        ValueError: no contexts, one token only, hook points that differ in width or never fire, or
            activations that are not finite (the hook point is named).
    """
    first = int(skip_first)
    if tokens.numel() == 0 or tokens.shape[1] <= first:
        wanted = "a batch of contexts with at least two tokens" if skip_first else "a batch of contexts"
        raise ValueError(f"tokens has shape {tuple(tokens.shape)}; it should be {wanted}")
    if not names:
        raise ValueError("names is empty; it should hold names of hook points")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it should be at least 1")
    rows, per_row = len(tokens), tokens.shape[1] - first
    stored: Tensor | None = None  # as wide as the first hook point turns out to be
    for start in range(0, rows, batch_size):
        batch = tokens[start : start + batch_size]
        kept = _recorded(model, batch, names)
        for i, name in enumerate(names):
            if kept[name].shape[:2] != batch.shape:
                raise ValueError(
                    f"names holds {name!r}, which has shape {tuple(kept[name].shape)}: no vector a token"
                )
            values = kept[name][:, first:].flatten(0, 1).flatten(1)
            if not torch.isfinite(values).all():
                raise ValueError(f"{name} holds values that are not finite (NaN or infinity)")
            if stored is None:
                stored = values.new_empty(len(names), rows * per_row, values.shape[-1])
            if values.shape[-1] != stored.shape[-1]:
                raise ValueError(f"names holds hook points of different widths: {names[0]} and {name}")
            stored[i, start * per_row : start * per_row + len(values)] = values
    return stored


def residual_streams(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    *,
    batch_size: int = 32,
    skip_first: bool = True,
) -> Float[Tensor, "stream token d_model"]:
    """The residual stream at every depth: index ``l`` is what block ``l`` reads, ``n_layers`` what the last
    one leaves.

    Raises:
        ValueError: as ``activations``.
    """
    return activations(model, tokens, stream_names(model), batch_size=batch_size, skip_first=skip_first)


def stream_names(model: TransformerBridge) -> list[str]:
    """Hook points of the residual stream: before each block, and after the last."""
    n_layers = model.cfg.n_layers
    before = [models.hook_name(model, "resid_pre", layer) for layer in range(n_layers)]
    return [*before, models.hook_name(model, "resid_post", n_layers - 1)]


def ordinary(
    streams: Float[Tensor, "stream token d_model"], *, factor: float | int = 5
) -> Bool[Tensor, "token"]:
    """Tokens whose vector is nowhere longer than ``factor`` times the median length at that depth.

    Sun et al. 2024 (arXiv 2402.17762) describe the others.
    """
    sizes = torch.stack([stream.float().norm(dim=-1) for stream in streams])
    return (sizes <= factor * sizes.median(dim=1, keepdim=True).values).all(dim=0)


@dataclass(frozen=True)
class Harvest:
    """Activations without the massive ones, and what was left out.

    ``values`` is [token, width]; ``kept`` says for every token that was read, in order, whether it is among
    them; ``limit`` is the length beyond which a vector counts as massive.
    """

    values: Float[Tensor, "token width"]
    kept: Bool[Tensor, "read"]
    limit: float

    @property
    def dropped(self) -> int:
        """How many tokens were left out as massive."""
        return int((~self.kept).sum())

    def __repr__(self) -> str:
        count, width = self.values.shape
        return (
            f"Harvest({count:,} tokens of width {width}; {self.dropped:,} massive ones dropped, "
            f"{self.dropped / len(self.kept):.1%})"
        )


def collect(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    name: str,
    *,
    factor: float | int = 5,
    memory_gib: float | int = 1.0,
    batch_size: int = 32,
) -> Harvest:
    """One hook point over many contexts, without first positions and massive activations.

    Args:
        model, tokens, name, batch_size: as ``activations`` takes them.
        factor: how many times the median length a vector may have; ``float("inf")`` keeps all.
        memory_gib: what the result may take, in GiB.

    Raises:
        ValueError: as ``activations``; a factor of 1 or less; more tokens than fit into ``memory_gib``.
    """
    if not factor > 1:
        raise ValueError(
            f"factor is {factor}; it should be above 1, or ordinary vectors would be dropped too"
        )
    # bfloat16 and float32 models alike are counted with their own weights' size
    size = tokens.numel() * model.cfg.d_model * next(model.parameters()).element_size() / 2**30
    if size > memory_gib:
        raise ValueError(
            f"tokens has {tokens.numel():,} of them, whose activations take {size:.2g} GiB; memory_gib "
            "allows "
            f"{memory_gib:g}; take fewer contexts, or go through them with harvest.pieces"
        )
    values = activations(model, tokens, [name], batch_size=batch_size)[0]
    lengths = values.float().norm(dim=-1)
    limit = float(factor * lengths.median())
    kept = lengths <= limit
    return Harvest(drop_massive(values[None], factor=factor)[0], kept, limit)


def pieces(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    name: str,
    *,
    contexts: int = 256,
    batch_size: int = 32,
) -> Iterator[Float[Tensor, "token width"]]:
    """The same hook point, ``contexts`` contexts at a time, massive activations included.

    For more text than fits into memory: what to drop is decided by whoever has seen enough of it.

    Raises:
        ValueError: as ``activations``, or ``contexts`` below 1.
    """
    if contexts < 1:
        raise ValueError(f"contexts is {contexts}; it should be at least 1")
    for start in range(0, len(tokens), contexts):
        yield activations(model, tokens[start : start + contexts], [name], batch_size=batch_size)[0]


def drop_massive(
    streams: Float[Tensor, "stream token d_model"], *, factor: float | int = 5
) -> Float[Tensor, "stream kept d_model"]:
    """The ``ordinary`` tokens only. They are moved together **in place**: a copy would need the memory twice.

    Returns:
        The beginning of ``streams``, which is not to be used any more.
    """
    kept = ordinary(streams, factor=factor)
    count = int(kept.sum())
    for stream in streams:
        stream[:count] = stream[kept]
    return streams[:, :count]


def _recorded(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], names: Sequence[str]
) -> dict[str, Tensor]:
    """What passes the hook points in one run, which ends when all of them were passed."""
    kept: dict[str, Tensor] = {}
    points = model.hook_dict  # made anew at each look
    known = [name for name in dict.fromkeys(names) if name in points]
    models.run_for_hooks(model, tokens, [models.keeper(name, name, kept) for name in known])
    for name in names:
        if name not in kept:
            raise ValueError(f"names holds {name!r}, which never fires in {model.cfg.model_name}")
    return kept
