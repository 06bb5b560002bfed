"""Path patching: what one attention head tells another by the direct path alone (Wang et al. 2023, section
3.1).

The **sender**'s output is taken from another run, all other heads are frozen at the base run, and what then
arrives at the query, key or value of the **receiver** is put into an otherwise free run. With the heads
frozen nothing moves between positions, so only the receiver's position is computed: the change of the
sender's output is added to the stream there, and the MLPs in between answer to it (``mlps="recomputed"``, as
Wang et al. do) or not (``"frozen"``). All senders go through the layers as one batch; the free run begins at
the first receiver's layer.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models, patching
from mi_utils.models.run import Head

Target = Literal["q", "k", "v", "logits"]
MLPs = Literal["recomputed", "frozen"]
PATH_SITES = ("z", "q", "k", "v", "attn_out", "mlp_out")  # what ``patching.record`` must keep of the base run
_ROWS = 4096  # streams that go through an MLP at a time
_SENDERS = 32  # interventions handed over at a time


@torch.no_grad()
def path_patch(
    model: TransformerBridge,
    base: patching.Run,
    source: patching.Run,
    metric: patching.engine.Metric,
    *,
    target: Target,
    receivers: Collection[Head] = (),
    positions: Int[Tensor, "batch"] | None = None,
    mlps: MLPs = "recomputed",
) -> Float[Tensor, "layer head batch"]:
    """By how much the metric changes when one sender after the other reaches the receivers as in ``source``,
    by the direct path alone.

    Args:
        model: the model of both runs.
        base: the run that is edited, recorded with ``patching.paths.PATH_SITES``.
        source: where the senders' outputs come from, recorded with ``("z",)``; row by row as long as
            ``base``.
        metric: of the logits at the last position.
        target: which input of the receivers is changed, ``"q"``, ``"k"`` or ``"v"``; or ``"logits"``: the
            direct path to the answer (the final norm is recomputed).
        receivers: heads (layer, head); all are changed at once. With grouped queries several heads share a
            key and a value, which then change for all of them. None for ``"logits"``.
        positions: in each row the position at which the receivers' input is changed; elsewhere they keep what
            the base run had. By default the last.
        mlps: whether MLPs between sender and receiver answer to the change.

    Returns:
        For every head of the model as the sender the change of the metric from ``base``; positive where the
        metric rises. It is 0 for heads that don't lie below any receiver.

    Raises:
        ValueError: runs of different shapes, an unknown target or convention, no receivers or some out of
            range, receivers for ``"logits"``, a position out of range.
    """
    wanted = _check_paths(model, base, source, target, receivers, mlps)
    length, layers = base.tokens.shape[1], model.cfg.n_layers
    at = torch.full((len(base.tokens),), length - 1) if positions is None else positions.cpu()
    if at.shape != (len(base.tokens),) or not ((at >= 0) & (at < length)).all():
        raise ValueError(
            f"positions is {at.tolist()}; it should hold one from 0 to {length - 1} for each prompt"
        )
    unchanged = metric(base.logits)
    effects = torch.zeros_like(unchanged).repeat(layers, model.cfg.n_heads, 1)
    flat = effects.view(layers * model.cfg.n_heads, -1)
    if target == "logits":
        if not (at == length - 1).all():
            raise ValueError("positions should be the last of each prompt for 'logits', which are read there")
        streams = _streams(model, base, source, at, layers, mlps)
        flat[:] = _through_the_end(model, streams, metric) - unchanged
        return effects
    values = _receiver_values(model, base, source, wanted, target, at, mlps)
    for sender, patches in _interventions(base, values, target, at):
        patched = patching.run_patched(model, base, patches, metric, start=int(at.min()))
        flat[sender] = patched - unchanged
    return effects


def _check_paths(model, base, source, target, receivers, mlps) -> frozenset[Head]:
    if target not in get_args(Target):
        raise ValueError(f"target is {target!r}; it should be one of {', '.join(get_args(Target))}")
    if mlps not in get_args(MLPs):
        raise ValueError(f"mlps is {mlps!r}; it should be one of {', '.join(get_args(MLPs))}")
    if base.tokens.shape != source.tokens.shape:
        raise ValueError(
            f"source has tokens of shape {tuple(source.tokens.shape)}; it should be that of base, "
            f"{tuple(base.tokens.shape)}"
        )
    if (target == "logits") == bool(receivers):
        raise ValueError(
            f"receivers is {sorted(receivers)}; it should hold heads for q, k and v, none for 'logits'"
        )
    return models.check_heads(model, receivers, "receivers")


def _streams(model, base, source, at, layer: int, mlps: MLPs) -> Float[Tensor, "sender batch d_model"]:
    """The stream before ``layer``, at one position of each row, for each sender below it."""
    for reached, stream in _all_streams(model, base, source, at, mlps):
        if reached == layer:
            return stream
    raise AssertionError("unreachable: the layer was checked")


def _all_streams(model, base, source, at, mlps: MLPs) -> Iterator[tuple[int, Tensor]]:
    """Before each layer, and after the last: the stream for each sender below it, at one position of each
    row."""
    rows = torch.arange(len(at))

    def here(run, site, layer):
        return run[site, layer][rows, at]

    streams = here(base, "resid_pre", 0)[:0].unsqueeze(1).expand(0, len(at), -1)
    for layer in range(model.cfg.n_layers):
        yield layer, streams
        before, attention, mlp = (here(base, site, layer) for site in ("resid_pre", "attn_out", "mlp_out"))
        change = here(source, "z", layer) - here(base, "z", layer)
        change = torch.einsum("bhd,hdm->hbm", change.to(model.W_O.dtype), model.W_O[layer])
        if mlps == "frozen":
            streams = torch.cat([streams, (before + change)]) + attention + mlp
        elif getattr(model.cfg, "parallel_attn_mlp", False):  # the sender's own MLP does not see it
            old = streams + attention + _mlp(model, layer, streams)
            streams = torch.cat([old, before + attention + mlp + change])
        else:
            middle = torch.cat([streams, before + change]) + attention
            streams = middle + _mlp(model, layer, middle)
    yield model.cfg.n_layers, streams


def _mlp(model: TransformerBridge, layer: int, streams: Float[Tensor, "*any d_model"]) -> Tensor:
    """What the MLP of a layer answers to streams, with its norm."""
    block = model.blocks[layer]
    norm = models.norm_before_mlp(block)
    flat = streams.flatten(0, -2)
    parts = [block.mlp(norm(part[None]))[0] for part in flat.split(_ROWS)]
    return torch.cat(parts).view_as(streams) if parts else torch.zeros_like(streams)


def _through_the_end(model, streams, metric) -> Float[Tensor, "sender batch"]:
    return torch.stack([metric(models.unembed(model, one)) for one in streams])


def _receiver_values(model, base, source, receivers, target, at, mlps) -> dict[Head, Tensor]:
    """For each receiver (its key-value head for k and v) its new input for each sender below: [sender batch
    d_head]."""
    shared = model.cfg.n_heads // models.n_heads(model, target)
    by_layer: dict[int, set[int]] = {}
    for layer, head in receivers:
        by_layer.setdefault(layer, set()).add(head // shared)
    values = {}
    for layer, streams in _all_streams(model, base, source, at, mlps):
        for head in sorted(by_layer.get(layer, ())):
            values[layer, head] = _project(model, target, layer, head, streams)
        if layer == max(by_layer):
            return values
    raise AssertionError("unreachable: receivers were checked")


def _project(model, target, layer, head, streams) -> Float[Tensor, "*any d_head"]:
    """What a head reads from streams as its query, key or value."""
    block = model.blocks[layer]
    weight, bias = (getattr(block.attn, f"{kind}_{target.upper()}") for kind in "Wb")
    if not len(streams):
        return streams.new_zeros(0, streams.shape[1], weight.shape[-1])
    projected = block.ln1(streams) @ weight[head]
    return projected if bias is None else projected + bias[head]


def _interventions(base, values: Mapping[Head, Tensor], target, at) -> Iterator[tuple[slice, list]]:
    """Senders, some at a time, and the patches that each of them makes."""
    count, rows = max(len(value) for value in values.values()), torch.arange(len(at))
    same = bool((at == at[0]).all())
    for first in range(0, count, _SENDERS):
        batch = range(first, min(first + _SENDERS, count))
        patches: list[list[patching.Patch]] = [[] for _ in batch]
        for (layer, head), value in values.items():
            recorded = base[target, layer][:, :, head]
            for one, sender in zip(patches, batch, strict=True):
                below = sender < len(value)  # else it keeps the base run's input
                new = value[sender] if below else recorded[rows, at]
                if same:
                    one.append(
                        patching.Patch(target, layer, new[:, None, None], position=int(at[0]), head=head)
                    )
                else:
                    whole = recorded.clone()
                    whole[rows, at] = new
                    one.append(patching.Patch(target, layer, whole[:, :, None], head=head))
        yield slice(batch.start, batch.stop), patches
