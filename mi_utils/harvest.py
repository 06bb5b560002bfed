"""Activations of many tokens at once: what lenses, dictionaries and transcoders are trained on.

The first position of a context is left out: it holds the same vector whatever the text is (notebook 00). So are,
where ``ordinary`` is asked, other tokens with a massive activation: a handful of vectors a hundred times longer
than the rest would decide every sum of squares.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import hooks


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

    Nothing is unembedded, and only what is asked for is kept; ``make bench`` compares it with
    ``run_with_cache``, in float32 and bfloat16.

    Args:
        model: the model to run.
        tokens: the contexts, each with its start token.
        names: full names of hook points, as ``hooks.hook_name`` gives them.
        batch_size: contexts in a forward pass.
        skip_first: leave out the first position of each context.

    Raises:
        ValueError: no contexts, one token only, hook points that differ in width or never fire, or activations that
            are not finite (the hook point is named).
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
        batch, kept = tokens[start : start + batch_size], {}
        with _recording(model, names, kept):
            _run_without_head(model, batch)
        for i, name in enumerate(names):
            if name not in kept:
                raise ValueError(f"names holds {name!r}, which never fires in {model.cfg.model_name}")
            if kept[name].shape[:2] != batch.shape:
                raise ValueError(f"names holds {name!r}, which has shape {tuple(kept[name].shape)}: no vector a token")
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
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], *, batch_size: int = 32, skip_first: bool = True
) -> Float[Tensor, "stream token d_model"]:
    """The residual stream at every depth: index ``l`` is what block ``l`` reads, ``n_layers`` what the last one leaves.

    Raises:
        ValueError: as ``activations``.
    """
    return activations(model, tokens, stream_names(model), batch_size=batch_size, skip_first=skip_first)


def stream_names(model: TransformerBridge) -> list[str]:
    """Hook points of the residual stream: before each block, and after the last."""
    n_layers = model.cfg.n_layers
    before = [hooks.hook_name(model, "resid_pre", layer) for layer in range(n_layers)]
    return [*before, hooks.hook_name(model, "resid_post", n_layers - 1)]


def ordinary(streams: Float[Tensor, "stream token d_model"], *, factor: float | int = 5) -> Bool[Tensor, "token"]:
    """Tokens whose vector is nowhere longer than ``factor`` times the median length at that depth.

    Sun et al. 2024 (arXiv 2402.17762) describe the others.
    """
    sizes = torch.stack([stream.float().norm(dim=-1) for stream in streams])
    return (sizes <= factor * sizes.median(dim=1, keepdim=True).values).all(dim=0)


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


def _recording(model: TransformerBridge, names: Sequence[str], kept: dict[str, Tensor]) -> AbstractContextManager:
    def record(name):
        def hook(value, hook):
            kept[name] = value

        return hook

    return model.hooks(fwd_hooks=[(name, record(name)) for name in names])


def _run_without_head(model: TransformerBridge, tokens: Int[Tensor, "batch pos"]) -> None:
    """The blocks alone, where the wrapped model lets us: unembedding is a fifth of the work and not needed."""
    body = getattr(model.original_model, "base_model", None)
    if body is None or body is model.original_model:
        model(tokens, return_type=None)
    else:
        body(tokens, use_cache=False)
