"""Checks of notebook 02 about how an SAE is trained: its loss, and the projection of the decoder's gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_utils.grading.answers import ask, compare, number, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 02.sae_loss: the loss

_FIRST_L1 = 0.3


def _judge_loss(answer: Callable) -> None:
    generator = seeded()
    # A square decoder first: with it, the norms of columns don't stop with an error and can be named.
    for batch, d_in, d_sae, l1 in ((4, 6, 6, _FIRST_L1), (7, 5, 8, 1.7)):
        x, reconstruction = (torch.randn(batch, d_in, generator=generator) for _ in range(2))
        latents = torch.randn(batch, d_sae, generator=generator).relu()
        w_dec = torch.randn(d_sae, d_in, generator=generator)
        given = x, latents, reconstruction, w_dec
        got, unchanged = ask(answer, *given, l1)
        _compare_loss(got, *given, l1)
        if not unchanged:
            raise Mistake("in_place")


def _compare_loss(
    got: Any, x: Tensor, latents: Tensor, reconstruction: Tensor, w_dec: Tensor, l1: float
) -> None:
    error = (x - reconstruction).square().sum(-1).mean()
    penalty = (latents * w_dec.norm(dim=-1)).sum(-1).mean()
    if isinstance(got, tuple | list) and len(got) in (2, 3) and all(map(_is_number, got)):
        raise Mistake("terms_apart")
    got, right = number(got), error + l1 * penalty
    if same(got, right):
        return
    for name, wrong in _wrong_sums(error, penalty, l1):
        if same(got, wrong):
            raise Mistake(name)
    errors = _wrong_errors(x, reconstruction)
    penalties = _wrong_penalties(latents, w_dec)
    for name, wrong in errors:  # a mistake in one term only
        if same(got, wrong + l1 * penalty):
            raise Mistake(name)
    for name, wrong in penalties:
        if same(got, error + l1 * wrong):
            raise Mistake(name)
    for name, wrong in errors:  # in both terms: the error first, the penalty when that is mended
        if any(same(got, wrong + l1 * other) for _, other in penalties):
            raise Mistake(name)
    compare(got, right, [], {"per_example": [(len(x),), (len(x), 1)]})


def _is_number(got: Any) -> bool:
    return getattr(number(got), "shape", None) == ()


def _wrong_sums(error: Tensor, penalty: Tensor, l1: float) -> list[tuple[str, Tensor]]:
    """What each known mistake makes of two right terms, by the mistake's name."""
    return [
        ("no_l1", error + penalty),
        ("ignores_l1", error + _FIRST_L1 * penalty),
        ("l1_elsewhere", l1 * (error + penalty)),
        ("l1_elsewhere", l1 * error + penalty),
        ("l1_elsewhere", (1 - l1) * error + l1 * penalty),
        ("negative_penalty", error - l1 * penalty),
        ("one_term", error),
        ("one_term", l1 * penalty),
        ("one_term", penalty),
    ]


def _wrong_errors(x: Tensor, reconstruction: Tensor) -> list[tuple[str, Tensor]]:
    """What the error is with each known mistake, by the mistake's name."""
    apart = x - reconstruction
    squared = apart.square().sum(-1)
    return [
        ("mean_error", apart.square().mean()),
        ("sum_over_batch", squared.sum()),
        ("not_squared", squared.sqrt().mean()),
        ("not_squared", squared.sum().sqrt()),
        ("not_squared", squared.mean().sqrt()),
        ("not_squared", apart.abs().sum(-1).mean()),
        ("not_squared", apart.abs().mean()),
        ("half_error", squared.mean() / 2),
        ("half_error", apart.square().mean() / 2),
        ("relative_error", squared.sum() / x.square().sum()),
        ("relative_error", (squared / x.square().sum(-1)).mean()),
        ("relative_error", squared.sum() / (x - x.mean(0)).square().sum()),
    ]


def _wrong_penalties(latents: Tensor, w_dec: Tensor) -> list[tuple[str, Tensor]]:
    """What the penalty is, without its factor, with each known mistake, by the mistake's name."""
    lengths = w_dec.norm(dim=-1)
    weighted, active = latents * lengths, (latents > 0).float()
    wrong = [
        ("no_norm", latents.sum(-1).mean()),
        ("mean_over_latents", weighted.mean()),
        ("mean_over_latents", latents.mean()),
        ("sum_over_batch", weighted.sum()),
        ("sum_over_batch", latents.sum()),
        ("l0", active.sum(-1).mean()),
        ("l0", (active * lengths).sum(-1).mean()),
        ("l0", active.mean()),
        ("l2", weighted.square().sum(-1).mean()),
        ("l2", (latents.square() * lengths).sum(-1).mean()),
        ("l2", latents.square().sum(-1).mean()),
        ("l2", latents.square().mean()),
        ("l2", weighted.norm(dim=-1).mean()),
        ("l2", latents.norm(dim=-1).mean()),
        ("l2", latents.norm()),
        ("other_norm", (latents * w_dec.abs().sum(-1)).sum(-1).mean()),
        ("other_norm", (latents * lengths.square()).sum(-1).mean()),
        ("one_norm_for_all", latents.sum(-1).mean() * w_dec.norm()),
        ("one_norm_for_all", latents.sum(-1).mean() * lengths.mean()),
        ("one_norm_for_all", latents.sum(-1).mean() * lengths.sum()),
        ("divides_by_norm", (latents / lengths).sum(-1).mean()),
        ("norm_added", latents.sum(-1).mean() + lengths.sum()),
        ("norm_of_sum", (latents @ w_dec).norm(dim=-1).mean()),
        ("norm_of_sum", (latents @ w_dec).abs().sum(-1).mean()),
    ]
    if w_dec.shape[0] == w_dec.shape[1]:
        wrong += [("column_norm", (latents * w_dec.norm(dim=0)).sum(-1).mean())]
    return wrong


SAE_LOSS = Exercise(
    id="02.sae_loss",
    title="What the autoencoder minimises",
    minutes=10,
    difficulty=2,
    hints=(
        "Two terms, each one number for each example and then averaged over the batch. Suppose latents shrink to a half and the decoder's rows double: which of the two should notice?",
        "Neither should: the reconstruction stays, and the penalty takes each latent times the length of its own row of W_dec, `W_dec.norm(dim=-1)`.",
        "With `error = (x - reconstruction).square().sum(-1)` and `penalty = (latents * W_dec.norm(dim=-1)).sum(-1)`: `(error + l1 * penalty).mean()`.",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "per_example": "That is one loss for each example of the batch. Return their mean.",
        "terms_apart": "Return one number, the sum of the two terms.",
        "mean_error": "The squared error is averaged over d_in too (as F.mse_loss does). It is *summed* over d_in and averaged over the batch only; else l1 weighs d_in times as much, and means something else at every width.",
        "sum_over_batch": "That sums over the batch. Take the mean over it, or the gradient grows with the batch size.",
        "not_squared": "The error is not squared there: it is the sum of the squared differences, without a root.",
        "half_error": "That is half the squared error. There is no 1/2 here; with it, l1 weighs twice as much.",
        "relative_error": "That divides the error by the size of x. A good measure (FVU is one), but the loss has the squared error itself.",
        "no_norm": "The penalty leaves out the length of each latent's decoder row. Then there is a way to cheat: smaller latents, longer rows, the same reconstruction and next to no penalty.",
        "column_norm": "Those are the lengths of W_dec's columns. Each latent has a *row*, its direction in the model: `W_dec.norm(dim=-1)`.",
        "other_norm": "The latents are weighted, but not by the length of the row: |W_dec_i| is the Euclidean norm, neither squared nor a sum of absolute values.",
        "one_norm_for_all": "That weighs all latents by one and the same number. Each is weighed by the length of its own row.",
        "divides_by_norm": "That divides by the length of the row, which rewards long ones. Multiply: what counts is how much a latent writes.",
        "norm_added": "That adds a penalty on the decoder besides. The length of a row multiplies its latent.",
        "norm_of_sum": "That is the length of what all latents write together. The penalty takes each latent's own share by itself, or two that cancel cost nothing.",
        "mean_over_latents": "The penalty is averaged over the latents. It is summed over them and averaged over the batch only; else a larger dictionary is penalised less.",
        "l0": "That counts the active latents (L0). It is what we want to be small, but it is flat: no gradient leads to it. The penalty is on their values, L1.",
        "l2": "That penalises squares or their root (L2). It makes many latents small, instead of making most of them 0. The penalty is the sum of the values.",
        "no_l1": "Both terms are right, but the factor l1 in front of the penalty is missing.",
        "ignores_l1": "Right for one l1, but not for another: use the argument `l1`.",
        "l1_elsewhere": "Both terms are right, but l1 is in the wrong place. It multiplies the penalty, nothing else.",
        "negative_penalty": "The penalty is subtracted, so that the loss rewards latents for being large. Add it.",
        "one_term": "One of the two terms is missing: the loss is the squared error plus l1 times the penalty.",
        "something_else": "That is not the squared error plus l1 times the penalty, averaged over the batch.",
        "in_place": "Right, but your function changed one of its arguments. Compute into new tensors.",
    },
    judge=_judge_loss,
)

# ------------------------------------------------------------------ 02.project_gradient: the gradient's projection


def _judge_projection(answer: Callable) -> None:
    generator = seeded()
    drawn, grad = (torch.randn(7, 4, generator=generator) for _ in range(2))
    unit = F.normalize(drawn, dim=-1)
    longer = unit * torch.linspace(0.4, 2.5, 7)[:, None]
    shapes = {"coefficient": [(len(grad),), (len(grad), 1)]}
    got, _ = _gradient(answer, unit, grad)
    compare(got, _projected(unit, grad), _wrong_projections(unit, grad), shapes)
    along, lengths = (grad * longer).sum(-1, keepdim=True), longer.norm(dim=-1, keepdim=True)
    once = [
        ("not_normalised", grad - along * longer),
        ("norm_once", grad - along / lengths * longer),
        ("norm_once", grad - along / lengths.pow(3) * longer),
    ]
    got, decoder_unchanged = _gradient(answer, longer, grad)
    compare(got, _projected(longer, grad), once, shapes)
    if not decoder_unchanged:
        raise Mistake("changes_decoder")


def _gradient(answer: Callable, w_dec: Tensor, grad: Tensor) -> tuple[Any, bool]:
    """What the function returns, and whether W_dec stayed as it was; the gradient may be changed, as optimisers do."""
    handed = w_dec.clone(), grad.clone()
    got = answer(*handed)
    if got is None and not torch.equal(handed[1], grad):
        raise Mistake("nothing_returned")
    return got, torch.equal(handed[0], w_dec)


def _projected(w_dec: Tensor, grad: Tensor) -> Tensor:
    unit = F.normalize(w_dec, dim=-1)
    return grad - (grad * unit).sum(-1, keepdim=True) * unit


def _wrong_projections(unit: Tensor, grad: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives for a decoder with rows of length 1, by the mistake's name."""
    by_column, unit_grad = F.normalize(unit, dim=0), F.normalize(grad, dim=-1)
    along, right = (grad * unit).sum(-1, keepdim=True), _projected(unit, grad)
    both = (grad * unit).sum()
    return [
        ("unchanged", grad),
        ("added", grad + along * unit),
        ("component", along * unit),
        ("negative", -right),
        ("reflected", grad - 2 * along * unit),
        ("mean_for_sum", grad - along / grad.shape[1] * unit),
        ("one_sided", grad - along.relu() * unit),
        ("one_sided", grad + (-along).relu() * unit),
        ("one_sided", grad - along.abs() * unit),
        ("columns", grad - (grad * by_column).sum(0) * by_column),
        ("columns", grad - (grad * unit).sum(0) * unit),
        ("all_at_once", grad - both / unit.square().sum() * unit),
        ("all_at_once", grad - both * unit),
        ("all_at_once", grad - both / unit.norm() * unit),
        ("every_row", grad - grad @ unit.T @ unit),
        ("swapped", unit - (unit * unit_grad).sum(-1, keepdim=True) * unit_grad),
        ("swapped", unit - (unit * grad).sum(-1, keepdim=True) * grad),
        ("subtracts_rows", grad - unit),
        ("normalises_gradient", F.normalize(right, dim=-1)),
        ("normalises_gradient", _projected(unit, unit_grad)),
        ("decoder_returned", unit),
    ]


PROJECT_GRADIENT = Exercise(
    id="02.project_gradient",
    title="A gradient that keeps rows at length 1",
    minutes=10,
    difficulty=3,
    hints=(
        "Each row of W_dec is a point on a sphere. Which part of its gradient leads away from the sphere, and which along it?",
        "The part to take out is along the row itself: with d the row at length 1, it is (grad . d) d. Row by row: `sum(-1, keepdim=True)`.",
        "`unit = W_dec / W_dec.norm(dim=-1, keepdim=True)`, then `return grad - (grad * unit).sum(-1, keepdim=True) * unit`.",
    ),
    mistakes={
        "shape": "Return a gradient for every row: the shape of W_dec, [d_sae, d_in].",
        "coefficient": "That is how much of each row's gradient lies along the row, one number a row. Multiply by the row's direction and subtract from the gradient.",
        "nothing_returned": "Your function changes `grad` and returns nothing. Return the projected gradient.",
        "unchanged": "That is the gradient as it came in: nothing has been taken out.",
        "added": "The component along the row is added: there is twice as much of it now. Subtract it.",
        "component": "That is the component along each row, the part to take out. Return what is left.",
        "negative": "That has the wrong sign: the component less the gradient. Return the gradient less its component.",
        "reflected": "The component is subtracted twice, so that the gradient points to the other side.",
        "mean_for_sum": "A dot product is a sum: that takes the mean of the products, d_in times less.",
        "one_sided": "The component has its sign changed or left out where it is negative. A row can shrink as well as grow: take the component out whatever its sign.",
        "columns": "That goes down the columns. Each latent has a *row* of W_dec, so the dot product is over the last axis: `sum(-1, keepdim=True)`.",
        "all_at_once": "That takes the whole matrix for one long vector and takes out one component. Each row has a length of its own to keep: one dot product a row.",
        "every_row": "That takes out the components along *all* the decoder's rows (a matrix product of all with all). A row's gradient loses only what lies along that row.",
        "swapped": "The roles are swapped: that takes the gradient's direction out of the decoder.",
        "subtracts_rows": "That subtracts the rows themselves. Subtract each row times the dot product of the gradient with it.",
        "normalises_gradient": "The gradient is brought to length 1, before or after. The direction is right, but how large a step is to be is lost.",
        "decoder_returned": "That is the decoder, its rows brought to length 1. Asked for is the gradient; the lengths are put right after the optimiser's step.",
        "not_normalised": "Right where rows have length 1, and only there: after a step they never have it exactly. Divide by the row's length first (or the component by its square).",
        "norm_once": "Right where rows have length 1, and only there. The row comes twice in (grad . d) d: divide by its length *squared*.",
        "changes_decoder": "Right, but your function changed W_dec itself. Normalise into a new tensor.",
        "something_else": "That is not the gradient less its component along each row.",
    },
    judge=_judge_projection,
)
