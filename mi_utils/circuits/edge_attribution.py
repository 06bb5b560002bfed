"""Edge attribution patching: the effects of all edges of a model's head-and-MLP graph, estimated from one
gradient.

An edge (``circuits.edges``) is ablated by exchanging one term of the sum that its receiver reads: what the
sender wrote in the base run for what it wrote in the source run. ``circuits.edge_ablation`` does that
exactly, one forward pass an edge. Edge attribution patching (EAP) estimates it for all edges at once, to
first order: the change of the sender's output (source - base) times the gradient of the metric at the
receiver's input, which is taken in the *base* run, since that is the run that is edited.

Sources: Syed, Rager and Conmy 2023 (EAP), Hanna, Pezzelle and Belinkov 2024 (EAP-IG).
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models
from mi_utils.circuits.edges import edge_graph
from mi_utils.models.run import Hook
from mi_utils.patching.engine import Metric

Found = dict[tuple[str, int], Tensor]  # activations by site and layer
WRITTEN = ("resid_pre", "z", "mlp_out", "resid_post")  # what ``node_outputs`` and ``check_sum`` need


def eap(
    model: TransformerBridge,
    base: Int[Tensor, "batch pos"],
    source: Int[Tensor, "batch pos"],
    metric: Metric,
) -> Float[Tensor, "sender receiver"]:
    """Edge attribution patching: an estimate, for each edge, of the change in the metric when that edge is
    ablated.

    Ablated means noised: in the base run the receiver reads what the sender writes in the source run. So
    an edge that carries the behaviour has a *negative* score when the metric measures the behaviour. It takes
    two forward passes and one backward pass, whatever the number of edges, and holds what every node writes
    (see ``node_outputs``); of more pairs than fit, take the mean of several calls.

    Args:
        model: any with blocks of heads and MLPs that add to the stream; float32.
        base, source: prompts in pairs, all of one length, each with its start token.
        metric: a number for each pair from the logits at the last position, such as
            ``patching.logit_difference``.

    Returns:
        Scores in units of the metric, averaged over the pairs and summed over positions; rows and columns are
        ``edge_graph(model)``'s senders and receivers, and zero where there is no edge.

    Raises:
        ValueError: prompts that are not pairs of equal length, a corruption that changes nothing, a metric
            that does not give one number a pair, or a model whose nodes do not add up to its residual stream.
    """
    return _scores(model, base, source, metric, weights=(0.0,))


def eap_ig(
    model: TransformerBridge,
    base: Int[Tensor, "batch pos"],
    source: Int[Tensor, "batch pos"],
    metric: Metric,
    *,
    steps: int = 5,
) -> Float[Tensor, "sender receiver"]:
    """EAP with integrated gradients, in the variant that interpolates *inputs* (embeddings).

    As ``eap``, but the gradient at each receiver is the mean over ``steps`` forward passes whose embeddings
    lie between the base ones and the source ones, at the midpoints of equal intervals (1/10, 3/10, ...
    for five). Everything above the embeddings is computed from them. (The other published variant
    interpolates each node's activation by itself and needs a pass for each layer and step; it is not this
    one.)

    Raises:
        ValueError: as ``eap``; ``steps`` below 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; it should be at least 1")
    return _scores(model, base, source, metric, weights=[(step + 0.5) / steps for step in range(steps)])


def check_pairs(base: Int[Tensor, "batch pos"], source: Int[Tensor, "batch pos"]) -> None:
    """Refuse what can't be compared position by position.

    Raises:
        ValueError: no prompts, other shapes, or prompts that are all the same.
    """
    if base.ndim != 2 or not base.numel():
        raise ValueError(
            f"base has shape {tuple(base.shape)}; it should be prompts x positions, with at least one"
        )
    if base.shape != source.shape:
        raise ValueError(
            f"base has shape {tuple(base.shape)} and source {tuple(source.shape)}; they should be "
            "pairs of prompts of one length"
        )
    if torch.equal(base, source):
        raise ValueError("source is the same as base; it should differ, or no edge carries anything")


@torch.no_grad()
def node_outputs(model: TransformerBridge, found: Found) -> Float[Tensor, "sender batch pos d_model"]:
    """What each node writes into the residual stream, in ``edge_graph(model)``'s order, from what ``watch``
    recorded.

    All nodes at once take 166 MB for 16 prompts of 15 tokens in smollm2-135m.
    """
    outputs = [found["resid_pre", 0][None]]
    for layer, projection in enumerate(model.W_O):
        outputs.append(torch.einsum("bphe,hed->hbpd", found["z", layer], projection))
        if ("mlp_out", layer) in found:
            outputs.append(found["mlp_out", layer][None])
    return torch.cat(outputs)


def watch(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    sites: Iterable[str],
    hooks: Sequence[Hook] = (),
) -> Found:
    """One forward pass that keeps activations, still joined to their gradients where those are on.

    Sites are names of ``models.run.SITES``, and ``mlp_in``: the normed stream that the MLP reads. ``logits``
    of the last layer + 1 are those at the last position. Other hooks come before those that keep.
    """
    found: Found = {}
    end = "resid_post", model.cfg.n_layers - 1
    places = dict.fromkeys([*_places(model, sites), end])
    with models.attached(
        model, [*hooks, *(models.keeper(models.hook_name(model, *place), place, found) for place in places)]
    ):
        models.run_body(model, tokens)
    found["logits", model.cfg.n_layers] = models.unembed(model, found[end][:, -1])
    return found


def _places(model: TransformerBridge, sites: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Sites and layers, less what a model without MLPs or with parallel blocks does not have."""
    edges = edge_graph(model)
    missing = () if edges.has_mlps and not edges.parallel else ("resid_mid",)
    missing += () if edges.has_mlps else ("mlp_in", "mlp_out")
    return ((site, layer) for site in sites if site not in missing for layer in range(model.cfg.n_layers))


def _scores(
    model: TransformerBridge, base: Tensor, source: Tensor, metric: Metric, weights: Sequence[float]
) -> Tensor:
    """Difference of the senders' outputs times the mean gradient at the receivers' inputs."""
    check_pairs(base, source)
    edges, last = edge_graph(model).edges.to(base.device), model.cfg.n_layers - 1
    with torch.no_grad():
        there = watch(model, source, WRITTEN)
        here = watch(model, base, WRITTEN) if all(weights) else _run_for_gradients(model, base)
    # What is written is linear in what was recorded, so the difference can be taken first.
    change = node_outputs(model, {key: there[key] - here[key].detach() for key in there})
    check_sum(model, change, there["resid_post", last] - here["resid_post", last].detach())
    flat, scores = change.flatten(1), torch.zeros(edges.shape, device=edges.device)
    for weight in weights:
        found = _run_for_gradients(model, base, weight * change[0]) if weight else here
        for columns, gradients in _input_gradients(model, found, metric):
            below = int(edges[:, columns].any(dim=1).sum())  # senders that come first are a prefix of all
            scores[:below, columns] += (flat[:below] @ gradients.flatten(1).T).float()
        del found  # before the next run, to hold one at a time
    return (scores / (len(base) * len(weights))).masked_fill_(~edges, 0)


def _run_for_gradients(model: TransformerBridge, tokens: Tensor, shift: Tensor | None = None) -> Found:
    """A pass that gradients can be taken from, with the residual stream moved by ``shift`` where it
    starts."""

    def start(value: Tensor, hook) -> Tensor:
        return (value if shift is None else value + shift).detach().requires_grad_()

    with torch.enable_grad():
        sites = ("q", "k", "v", "mlp_in", "resid_mid", *WRITTEN)
        return watch(model, tokens, sites, [(models.hook_name(model, "resid_pre", 0), start)])


def _input_gradients(
    model: TransformerBridge, found: Found, metric: Metric
) -> Iterator[tuple[slice, Float[Tensor, "receiver batch pos d_model"]]]:
    """Gradient of the metric, summed over pairs, at the inputs of a few receivers at a time, from one
    backward pass."""
    edges, last, logits = edge_graph(model), model.cfg.n_layers - 1, found["logits", model.cfg.n_layers]
    with torch.enable_grad():
        values = metric(logits)
        total = values.sum()
    if values.shape != logits.shape[:1] or not values.requires_grad:
        raise ValueError(
            f"metric gives shape {tuple(values.shape)}; it should give one number for each of the "
            f"{len(logits)} pairs, computed from the logits"
        )
    keys = [*_places(model, ("q", "k", "v", "mlp_in")), ("resid_post", last)]
    gradients = dict(zip(keys, torch.autograd.grad(total, [found[key] for key in keys]), strict=True))
    weights = {"q": model.W_Q, "k": model.W_K, "v": model.W_V}
    column = 0
    for layer, block in enumerate(model.blocks):
        heads = torch.cat(
            [
                torch.einsum("bphe,hde->hbpd", gradients[site, layer], weights[site][layer].detach())
                for site in "qkv"
            ]
        )
        yield (
            slice(column, column := column + len(heads)),
            _through(block.ln1, found["resid_pre", layer], heads),
        )
        if edges.has_mlps:
            stream = found["resid_pre" if edges.parallel else "resid_mid", layer]
            into_mlp = _through(models.norm_before_mlp(block), stream, gradients["mlp_in", layer][None])
            yield slice(column, column := column + 1), into_mlp
    yield slice(column, column + 1), gradients["resid_post", last][None]


def _through(
    norm: nn.Module,
    stream: Float[Tensor, "batch pos d_model"],
    gradients: Float[Tensor, "receiver batch pos d_model"],
) -> Float[Tensor, "receiver batch pos d_model"]:
    """Gradients at the output of a norm, taken back to its input: exactly, whether or not its scale was
    folded.

    For RMSNorm without a scale that is ``(g - n mean(g n)) / rms(x)`` with ``n = x / rms(x)``.
    """
    with torch.enable_grad():
        inputs = stream.detach().expand_as(gradients).clone().requires_grad_()
        return torch.autograd.grad(norm(inputs), inputs, gradients)[0]


def check_sum(
    model: TransformerBridge,
    change: Float[Tensor, "sender batch pos d_model"],
    of_stream: Float[Tensor, "batch pos d_model"],
) -> None:
    """Refuse a model whose residual stream is not the sum of what its nodes write (outputs are scaled or
    normed).

    Raises:
        ValueError: the nodes' changes between two runs do not add up to the change of the stream.
    """
    off, size = (change.sum(dim=0) - of_stream).abs().max(), of_stream.abs().max()
    if not off <= 1e-2 * size:
        raise ValueError(
            f"model is {model.cfg.model_name}, whose residual stream is not the sum of what its heads and "
            "MLPs write; it should be one whose blocks add their outputs unchanged"
        )
