"""Attribution patching: a whole patching sweep estimated from one backward pass, and what mends the estimate.

A patch moves an activation from ``a`` to ``b``; to first order the metric then changes by ``(b - a)`` times
its gradient *in the run that is edited*. Nanda 2023; Syed et al. 2023. Where the metric curves along the way
(a softmax that saturates, a norm) the gradient at the start is a poor guide; integrated gradients
(Sundararajan et al. 2017) average it over runs between the two, here along the straight line between the two
prompts' embeddings, as EAP-IG does (Hanna et al. 2024).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models
from mi_utils.patching.engine import Axis, Metric, axis_of
from mi_utils.patching.recording import Run
from mi_utils.patching.sweeps import can_change

PROMPTS_AT_ONCE = 16  # in a backward pass, which keeps every activation


def attribution(
    model: TransformerBridge,
    base: Run,
    source: Run,
    sites: Mapping[str, Axis],
    metric: Metric,
    *,
    steps: int = 0,
) -> dict[str, Float[Tensor, "layer part batch"]]:
    """By how much each patch of ``patching.sweep`` is estimated to change the metric, for several sites at
    once.

    Args:
        model: the model that was recorded.
        base: the run that is edited, where the gradient is taken.
        source: the run that activations are copied from. Both must have recorded the sites.
        sites: site -> ``"position"`` or ``"head"``, the ``by`` of ``patching.sweep``.
        metric: as in ``patching.sweep``; it must be differentiable.
        steps: 0 takes the gradient in ``base``; more average it over that many runs between ``base`` and
            ``source``, whose embeddings are at the midpoints of equal pieces of the line between theirs.

    Raises:
        ValueError: what ``patching.sweep`` raises, no sites, or a negative number of steps.
    """
    if not sites:
        raise ValueError("sites is empty; it should name at least one site and how to cut it, {'z': 'head'}")
    for site, by in sites.items():
        can_change(base, source, site, by=by)  # checks the arguments
    if steps < 0:
        raise ValueError(f"steps is {steps}; it should be 0 (the gradient in base) or more")
    start, step = base["resid_pre", 0], source["resid_pre", 0] - base["resid_pre", 0]
    fractions = [(k + 0.5) / steps for k in range(steps)] or [0.0]
    total: dict[tuple[str, int], Tensor] = {}
    for fraction in fractions:
        for place, slope in gradients(
            model, base.tokens, list(sites), metric, start + fraction * step
        ).items():
            total[place] = total.get(place, 0) + slope / len(fractions)
    return {site: _estimates(base, source, site, by, total) for site, by in sites.items()}


def _estimates(
    base: Run, source: Run, site: str, by: Axis, slopes: Mapping[tuple[str, int], Tensor]
) -> Float[Tensor, "layer part batch"]:
    axis = axis_of(site, by)
    layers = sorted(layer for name, layer in slopes if name == site)
    changes = [(source[site, layer] - base[site, layer]) * slopes[site, layer] for layer in layers]
    return torch.stack([change.movedim(axis, 0).flatten(2).sum(-1) for change in changes])


def gradients(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    sites: Sequence[str],
    metric: Metric,
    embedding: Float[Tensor, "batch pos d_model"] | None = None,
) -> dict[tuple[str, int], Tensor]:
    """The gradient of each prompt's metric with respect to its own activations: (site, layer) -> like the
    activation.

    ``embedding`` is put in place of the residual stream before the first layer; by default it is that of the
    tokens.
    """
    last = model.cfg.n_layers - 1
    places = [(site, layer) for site in sites for layer in range(last + 1)]
    parts: list[Sequence[Tensor]] = []
    for rows in torch.arange(len(tokens)).split(PROMPTS_AT_ONCE):
        seen: dict[tuple[str, int], Tensor] = {}
        hooks = [
            (models.hook_name(model, "resid_pre", 0), _begin(None if embedding is None else embedding[rows]))
        ]
        kept = dict.fromkeys([*places, ("resid_post", last)])
        hooks += [models.keeper(models.hook_name(model, *place), place, seen) for place in kept]
        with torch.enable_grad(), models.attached(model, hooks):
            models.run_body(model, tokens[rows])
            logits = models.unembed(model, seen["resid_post", last][:, -1])
            value = _of_rows(metric, logits, rows, len(tokens)).sum()
        parts.append(torch.autograd.grad(value, [seen[place] for place in places], materialize_grads=True))
    return {place: torch.cat(found) for place, found in zip(places, zip(*parts, strict=True), strict=True)}


def _begin(embedding: Tensor | None) -> Callable:
    """A hook that makes the graph begin at the embedding, whatever the weights need, and puts another in its
    place."""

    def begin(value: Tensor, hook: Any) -> Tensor:
        return (value if embedding is None else embedding).detach().clone().requires_grad_()

    return begin


def _of_rows(metric: Metric, logits: Tensor, rows: Tensor, batch: int) -> Tensor:
    """The metric of some of the prompts: it knows the answers of all of them, so it is given logits for
    all."""
    everyone = logits.new_zeros(batch, logits.shape[-1]).index_copy(0, rows.to(logits.device), logits)
    return metric(everyone)[rows]
