"""The engine of activation patching: any set of patches into a recorded run, computing only what they can
change.

* Layers below the patch are not run: the recorded residual stream goes in at the patched layer.
* Positions before the patch are not run: attention reads their recorded keys and values.
* Only the last position is unembedded.
* Many sets of patches go through the layers as one batch; those that begin at a later layer join there.

The layers themselves are the model's own, hooks included, so the engine assumes no architecture, only that
the model is causal and that each block reads what the one before it wrote. ``mi_utils.patching.sweeps`` is
what notebooks import.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models
from mi_utils.models.run import Hook
from mi_utils.patching.recording import HEAD_SITES, Run, check_run, check_site, remembering

Metric = Callable[[Float[Tensor, "*rows batch vocab"]], Float[Tensor, "*rows batch"]]

Axis = Literal["position", "head"]
# Axes of an activation that begins with the prompts: all but attention's are (prompt, position, head, ...).
POSITION_AXIS = {"pattern": 2, "scores": 2}
HEAD_AXIS = {"pattern": 1, "scores": 1} | dict.fromkeys(("q", "k", "v", "z", "result"), 2)
MOST_TOKENS = 2048  # through a layer at once: more is hardly faster, and costs memory
MOST_LOGITS = 128  # rows of logits at once


def axis_of(site: str, part: Axis) -> int:
    """Which axis of a site's activation runs over its positions, or over its heads."""
    return (HEAD_AXIS if part == "head" else POSITION_AXIS).get(site, 1)


@dataclass(frozen=True)
class Patch:
    """Put ``value`` at a site: at one position or all of them, in one head or all of them.

    ``value`` is like the site's activation for the whole batch (all positions, all heads), or broadcasts to
    it; the part at ``position`` and ``head`` is used. In attention patterns and scores the position is the
    query's.
    """

    site: str
    layer: int
    value: Tensor = field(repr=False)
    position: int | None = None
    head: int | None = None


# -- the patched run -----------------------------------------------------------------------------------


class _KeysValues:
    """A memory that puts the recorded keys and values in front of the new ones."""

    def __init__(self, run: Run, start: int) -> None:
        self.run, self.start = run, start

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.start:  # then nothing comes before
            return keys, values
        old_keys, old_values = (self._repeated(old, len(keys)) for old in self.run.keys_values[layer])
        return torch.cat((old_keys, keys), 2), torch.cat((old_values, values), 2)

    def _repeated(self, old: Tensor, rows: int) -> Tensor:
        return old[:, :, : self.start].repeat(rows // len(old), 1, 1, 1)


@dataclass
class _Row:
    """A set of patches on its way: where its result goes, and the first layer and position it can change."""

    index: int
    patches: Sequence[Patch]
    start: int
    layer: int


@torch.no_grad()
def run_patched(
    model: TransformerBridge,
    base: Run,
    interventions: Sequence[Sequence[Patch]],
    metric: Metric,
    *,
    start: int = 0,
) -> Float[Tensor, "intervention batch"]:
    """The metric of a run after each of several sets of patches, each made into the run as it was.

    Args:
        model: the model that was recorded.
        base: the run that is edited.
        interventions: sets of patches; the patches of a set are made at once. An empty set leaves the run as
            it was.
        metric: from logits at the last position to a number for each prompt.
        start: the first position that patches at all positions change. A later one than 0 is a promise, and
            quicker.

    Raises:
        ValueError: no interventions, or a patch whose site, layer, head or position doesn't exist.
    """
    if not interventions:
        raise ValueError("interventions is empty; it should hold at least one set of patches")
    check_run(model, base)
    _check_index("start", start, base.tokens.shape[1])
    rows = [_row(model, base, i, patches, start) for i, patches in enumerate(interventions)]
    unchanged = metric(base.logits[None])[0]
    result = unchanged.repeat(len(rows), 1)
    moving = sorted((row for row in rows if row.patches), key=lambda row: (row.start, row.layer))
    chunk: list[_Row] = []
    with models.attached(model, _hooks(model, base, moving, chunk)):
        for chunk[:] in _chunks(moving, base):
            with remembering(model, _KeysValues(base, chunk[0].start)):
                stream = _through_the_layers(model, base, chunk)
            result[[row.index for row in chunk]] = _measured(model, stream, len(base.tokens), metric)
    return result


def _chunks(rows: list[_Row], base: Run) -> Iterator[list[_Row]]:
    """Rows that go through the layers together: they begin at the same position, and are not too many."""
    batch, length = base.tokens.shape
    for start, group in groupby(rows, key=lambda row: row.start):
        together = list(group)
        size = max(1, MOST_TOKENS // (batch * (length - start)))
        yield from (together[i : i + size] for i in range(0, len(together), size))


def _row(model: TransformerBridge, base: Run, index: int, patches: Sequence[Patch], start: int) -> _Row:
    if isinstance(patches, Patch):
        raise ValueError("interventions holds a single Patch; it should hold sets of patches: [[patch], ...]")
    for patch in patches:
        check_site(model, patch.site, models.check_layer(model, patch.layer))
        if patch.site in ("pattern", "scores") and models.body(model) is None:
            raise ValueError(
                f"site is {patch.site!r}, which a model of TransformerLens' own computes but does not use"
            )
        if patch.head is not None:
            if patch.site not in HEAD_SITES:
                raise ValueError(
                    f"head is {patch.head} at site {patch.site!r}, which has no heads; it should be None"
                )
            models.check_head(model, patch.head, patch.site)
        if patch.position is not None:
            _check_index("position", patch.position, base.tokens.shape[1])
    if not base.keys_values:  # without recorded keys and values every position is run
        begin = 0
    else:
        begin = min((start if patch.position is None else patch.position for patch in patches), default=0)
    return _Row(index, patches, begin, min((patch.layer for patch in patches), default=0))


def _check_index(name: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise ValueError(
            f"{name} is {value}; it should be from 0 to {count - 1} for prompts of {count} tokens"
        )


def _through_the_layers(
    model: TransformerBridge, base: Run, rows: list[_Row]
) -> Float[Tensor, "row d_model"]:
    """The last residual stream at the last position, prompts of a row together; ``rows`` sorted by layer."""
    start = rows[0].start
    stream = base.inputs[rows[0].layer][:0, start:]
    for layer in range(rows[0].layer, model.cfg.n_layers):
        joining = sum(row.layer == layer for row in rows)
        if joining:
            stream = torch.cat((stream, base.inputs[layer][:, start:].repeat(joining, 1, 1)))
        arguments = {name: _later(base, name, value, start) for name, value in base.arguments[layer].items()}
        out = model.blocks[layer](stream, **arguments)
        stream = out[0] if isinstance(out, tuple) else out
    return stream[:, -1]


def _later(base: Run, name: str, value: Any, start: int) -> Any:
    """An argument of a block for the positions from ``start`` on, for any number of rows."""
    if name == "attention_mask" and isinstance(value, Tensor):
        return value[:1, :, start:] if value.ndim == 4 else value[:1]
    if name in ("position_ids", "position_embeddings"):
        return _map(lambda one: one[:1, start:], value)
    return value[start:] if name == "cache_position" and isinstance(value, Tensor) else value


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_map(change, one) for one in value)
    return change(value) if isinstance(value, Tensor) else value


def _hooks(model: TransformerBridge, base: Run, rows: list[_Row], chunk: list[_Row]) -> list[Hook]:
    """A hook for every site and layer with a patch; it makes those of the rows in ``chunk`` at that time."""
    batch, length = base.tokens.shape

    def hook(site: str, layer: int) -> Hook:
        def put(value: Tensor, hook: Any) -> Tensor:
            if site != "resid_mid":  # its hook is where the MLP reads: written into, the stream changes too
                value = value.clone()
            parts = value.split(batch)  # rows that join later are not there yet
            for row, part in zip(chunk, parts, strict=False):
                for patch in row.patches:
                    if (patch.site, patch.layer) == (site, layer):
                        _put(part, patch, row.start, length)
            return value

        return models.hook_name(model, site, layer), put

    places = dict.fromkeys((patch.site, patch.layer) for row in rows for patch in row.patches)
    return [hook(*place) for place in places]


def _put(value: Tensor, patch: Patch, start: int, length: int) -> None:
    """Write the patch into ``value``, an activation of its prompts that begins at position ``start``."""
    axis = axis_of(patch.site, "position")
    shape = list(value.shape)
    shape[axis] = length
    new = _broadcast(patch, shape).narrow(axis, start, length - start)
    where: list[Any] = [slice(None)] * value.ndim
    if patch.position is not None:
        where[axis] = patch.position - start
    if patch.head is not None:
        where[axis_of(patch.site, "head")] = patch.head
    value[tuple(where)] = new[tuple(where)].to(value.dtype)


def _broadcast(patch: Patch, shape: list[int]) -> Tensor:
    try:
        return torch.broadcast_to(patch.value, shape)
    except RuntimeError:
        raise ValueError(
            f"value has shape {tuple(patch.value.shape)}; at {patch.site!r} of layer {patch.layer} it should "
            f"be {tuple(shape)}, or broadcast to it"
        ) from None


def _measured(
    model: TransformerBridge, stream: Tensor, batch: int, metric: Metric
) -> Float[Tensor, "row batch"]:
    rows = stream.unflatten(0, (-1, batch))
    parts = rows.split(max(1, MOST_LOGITS // batch))
    return torch.cat([metric(models.unembed(model, part).float()) for part in parts])
