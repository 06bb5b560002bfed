"""Interventions on features in the model itself, to test what an attribution graph says.

A feature is changed by adding to MLP outputs: what it writes, times how far its value is to move. Everything
else is the model's own. *Constrained patching* (Ameisen et al. 2025) holds the MLP outputs of some layers at
their recorded values (plus the change), so that only the direct effects on what comes after are seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils import models
from mi_utils.graphs.graph import Graph
from mi_utils.graphs.local import LocalModel, Site, attend
from mi_utils.graphs.qk import scores_of

ROWS = 64  # interventions in a forward pass


def nothing(local: LocalModel) -> Float[Tensor, "layer pos d_model"]:
    """No change of any MLP output: where to begin adding."""
    return torch.zeros(local.n_layers, local.n_pos, local.transcoders.d_model)


def change(local: LocalModel, values: dict[Site, float | int]) -> Float[Tensor, "layer pos d_model"]:
    """What to add to MLP outputs so that features have these values instead of their own.

    Args:
        local: the frozen prompt.
        values: (layer, position, feature) -> the value it should have; 0 removes it.

    Raises:
        ValueError: a feature, layer or position that does not exist.
    """
    total = nothing(local)
    for site, value in values.items():
        layer, position, index = local.check_site(*site)
        moved = float(value) - local.features[layer, position, index]
        for target in local.transcoders.targets(layer):
            total[target, position] += moved * local.transcoders.decoder(layer, target)[index]
    return total


def removal(
    local: LocalModel, sites: Iterable[Site], factor: float | int = 1
) -> Float[Tensor, "layer pos d_model"]:
    """What to add to MLP outputs to suppress features: 1 removes them, 2 turns them round.

    Raises:
        ValueError: as ``change``.
    """
    sites = [local.check_site(*site) for site in sites]
    return change(local, {site: float(local.features[site]) * (1 - factor) for site in sites})


def swap(
    local: LocalModel, other: LocalModel, positions: Iterable[int], layers: Iterable[int] | None = None
) -> Float[Tensor, "layer pos d_model"]:
    """What to add so that features at some positions have the values they have on another prompt.

    Both prompts must have the same length, and mean the same positions.

    Args:
        local: the prompt that is edited.
        other: the one whose features come in.
        positions: where.
        layers: of the features that are swapped; all by default.

    Raises:
        ValueError: prompts of different lengths, transcoders that differ, or a layer or position that does
            not exist.
    """
    if local.n_pos != other.n_pos:
        raise ValueError(f"other has {other.n_pos} positions; the prompt that is edited has {local.n_pos}")
    if local.transcoders is not other.transcoders:
        raise ValueError("other was built with other transcoders; both prompts should share theirs")
    total = nothing(local)
    layers = list(range(local.n_layers) if layers is None else layers)
    for position in positions:
        for layer in layers:
            local.check_site(layer, position, 0)
            moved = other.features[layer, position] - local.features[layer, position]
            for target in local.transcoders.targets(layer):
                total[target, position] += moved @ local.transcoders.decoder(layer, target)
    return total


@torch.no_grad()
def intervene(
    local: LocalModel,
    changes: Float[Tensor, "change layer pos d_model"],
    *,
    frozen_layers: range | None = None,
    attention: str = "live",
) -> Float[Tensor, "change vocab"]:
    """Logits of the model itself at the last position, under changes of its MLP outputs.

    Args:
        local: the frozen prompt; its transcoders are not used, only what was recorded.
        changes: what to add to each MLP output, a row for each intervention.
        frozen_layers: whose MLP outputs are held at their recorded values plus the change (constrained
            patching); the other MLPs answer to what reaches them, and get no change.
        attention: ``live``, or ``frozen`` to hold all patterns at the recorded ones.

    Raises:
        ValueError: changes that don't fit the prompt or aren't finite, layers that do not exist, an unknown
            ``attention``.
    """
    _check_changes(local, changes, frozen_layers, attention)
    return torch.cat([_run(local, part, frozen_layers, attention) for part in changes.split(ROWS)])


def _check_changes(local: LocalModel, changes: Tensor, frozen_layers: range | None, attention: str) -> None:
    wanted = (local.n_layers, local.n_pos, local.transcoders.d_model)
    if tuple(changes.shape[1:]) != wanted or not len(changes):
        raise ValueError(
            f"changes has shape {tuple(changes.shape)}; it should be (at least 1, "
            f"{', '.join(map(str, wanted))})"
        )
    if not torch.isfinite(changes).all():
        raise ValueError("changes holds values that are not finite (NaN or infinity)")
    for layer in frozen_layers or ():
        models.check_layer(local.model, layer)
    if attention not in ("live", "frozen"):
        raise ValueError(f"attention is {attention!r}; it should be 'live' or 'frozen'")


def _run(local: LocalModel, changes: Tensor, frozen_layers: range | None, attention: str) -> Tensor:
    def write(layer: int):
        def hook(value: Tensor, hook) -> Tensor:
            if frozen_layers is None:
                return value + changes[:, layer]
            return local.mlp_out[layer] + changes[:, layer] if layer in frozen_layers else value

        return hook

    def look(layer: int):
        def hook(value: Tensor, hook) -> Tensor:
            return local.patterns[layer].expand_as(value)

        return hook

    edits = [
        (models.hook_name(local.model, "mlp_out", layer), write(layer)) for layer in range(local.n_layers)
    ]
    if attention == "frozen":
        edits += [
            (models.hook_name(local.model, "pattern", layer), look(layer)) for layer in range(local.n_layers)
        ]
    with models.attached(local.model, edits):
        return local.model(local.tokens.expand(len(changes), -1))[:, -1]


@dataclass(frozen=True)
class Effects:
    """Predicted effects of removing each feature node on a logit less the mean logit, one number a feature.

    ``direct`` is what its edge to the logit says; ``total`` follows all paths of the graph.
    """

    direct: Float[Tensor, "feature"] = field(repr=False)
    total: Float[Tensor, "feature"] = field(repr=False)


def predicted(graph: Graph, logit: int = 0) -> Effects:
    """What a graph says that removing each of its features does to one of its logit nodes.

    Raises:
        ValueError: no such logit node, or a graph in which features were left out.
    """
    if not 0 <= logit < len(graph.logits):
        raise ValueError(f"logit is {logit}; this graph has logit nodes 0 to {len(graph.logits) - 1}")
    if graph.n_active > graph.n_features:
        raise ValueError(
            f"graph has {graph.n_features} of {graph.n_active} active features; total effects need all"
        )
    n = graph.n_features
    row = graph.adjacency[graph.logit_nodes.start + logit, :n]
    # an edge is the effect of the source's whole value: divide by it for the effect of one unit
    unit = graph.adjacency[:n, :n] / graph.activations[None]
    total = torch.linalg.solve((torch.eye(n) - unit).T, row / graph.activations) * graph.activations
    return Effects(-row, -total)


def predicted_with_attention(local: LocalModel, token: int) -> Float[Tensor, "active"]:
    """First-order effect of removing each active feature on a logit less the mean, with attention patterns
    live.

    The gradient of the local replacement model, in which patterns answer to the stream while norms, errors
    and the set of active features stay frozen: what a graph misses by freezing attention is in it, to first
    order.

    Raises:
        ValueError: no such token.
    """
    if not 0 <= token < len(local.logits):
        raise ValueError(f"token is {token}; the model has tokens 0 to {len(local.logits) - 1}")
    t, model = local.transcoders, local.model
    layers, positions, indices = local.active.T
    values = local.features[layers, positions, indices]
    extra = torch.zeros(len(values), requires_grad=True)  # added to each active feature's value
    stream, features = local.stream[0], []
    with torch.enable_grad():
        for layer in range(local.n_layers):
            moved = stream + _attention_with_gradient(local, stream, layer)
            read = models.centred(model, stream if local.parallel else moved) / local.mlp_scale[layer]
            on = (local.features[layer] > 0).float()
            here = (layers == layer).nonzero().flatten()
            added = torch.zeros_like(on).index_put((positions[here], indices[here]), extra[here])
            features.append(t.pre_activations(read, layer) * on + added)
            written = t.output(features, layer, read) * local.replaced[:, None]
            stream = moved + written + local.errors[layer]
        final = models.centred(model, stream[-1]) / local.final_scale[-1]
        W_U = model.W_U.detach()
        (gradient,) = torch.autograd.grad(final @ (W_U[:, token] - W_U.mean(dim=1)), extra)
    return -gradient * values


def _attention_with_gradient(local: LocalModel, stream: Tensor, layer: int) -> Tensor:
    """Frozen attention plus the first-order change of its patterns, as a function of the stream."""
    read = models.centred(local.model, stream) / local.attn_scale[layer]
    scores = scores_of(local, read, layer)
    # what was recorded is the value, the scores give the slope
    frozen = local.patterns[layer]
    live = frozen + frozen * (
        (scores - scores.detach()) - (frozen * (scores - scores.detach())).sum(-1, keepdim=True)
    )
    return attend(local, read, live, layer) + local.attn_bias[layer]
