"""Checks of two exercises of notebook 01 about directions: dimensionality and interference."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mi_utils.grading.answers import ask, compare, expect
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

_INSTANCES, _M, _N = 3, 4, 6
_SHAPES = {
    "rows": [(_INSTANCES, _M)],
    "per_instance": [(_INSTANCES,)],
    "pairs": [(_INSTANCES, _N, _N), (_INSTANCES, _M, _M)],
    "instances_mixed": [(_N,)],
}
_IN_PLACE = "Right, but your function changed the W that it was given, so that the trained weights are lost. `/=` and functions that end in `_` write into the caller's tensor: compute a new one."


def _weights() -> Tensor:
    """Columns of many lengths, none of them zero."""
    generator = seeded()
    W = torch.randn(_INSTANCES, _M, _N, generator=generator)
    return W * torch.linspace(0.5, 1.4, _N) * torch.tensor([0.8, 1.0, 1.3])[:, None, None]


def _with_dropped() -> Tensor:
    """The same with columns that are zero, and an instance that keeps nothing."""
    W = _weights()
    W[0, :, 2] = W[1, :, 4:] = W[2] = 0.0
    return W


def _judge_columns(
    answer: Callable, right: Callable[[Tensor], Tensor], wrong: Callable[[Tensor], Iterator]
) -> None:
    W = _weights()
    expect(answer, (W,), right(W), wrong(W), _SHAPES)
    dropped = _with_dropped()
    got, _ = ask(answer, dropped)
    if isinstance(got, Tensor) and not got.isfinite().all():
        raise Mistake("not_a_number")
    compare(got, right(dropped), [("not_zero", got)], _SHAPES)


def _overlaps(W: Tensor) -> Tensor:
    """What_i . W_j; 0 where W_i is 0."""
    return normalize(W, dim=1).mT @ W


def _of_others(values: Tensor) -> Tensor:
    """Without the diagonal."""
    return values * (1 - torch.eye(values.shape[-1]))


# ------------------------------------------------------------------ 01.dimensionality: the dimensionality of a feature


def _judge_dimensionality(answer: Callable) -> None:
    _judge_columns(answer, _dimensionality, _wrong_dimensionalities)


def _dimensionality(W: Tensor) -> Tensor:
    crowd = _overlaps(W).square().sum(-1)
    return W.square().sum(1) / crowd.where(crowd > 0, 1.0)


def _wrong_dimensionalities(W: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    gram, overlaps, length = W.mT @ W, _overlaps(W), W.norm(dim=1)
    cosines, square = normalize(W, dim=1).mT @ normalize(W, dim=1), W.square().sum(1)
    crowd, right = overlaps.square().sum(-1), _dimensionality(W)
    # 1 / sum of squared cosines comes from both sides: the other one at unit length, or both and the numerator too.
    yield from (("both_unit", top / cosines.square().sum(-1)) for top in (square, length))
    yield from (("not_unit", top / gram.square().sum(-1)) for top in (square, 1, length))
    yield from (("other_unit", top / overlaps.square().sum(-2)) for top in (square, 1, length))
    yield "length_not_squared", length / crowd
    yield "length_to_the_fourth", square.square() / crowd
    for values in (overlaps, overlaps.abs()):
        yield from (("overlap_not_squared", top / values.sum(-1)) for top in (square, length))
    yield "squared_late", square / overlaps.sum(-1).square()
    yield "without_itself", square / _of_others(overlaps).square().sum(-1)
    yield "upside_down", 1 / right
    yield "averaged", square / overlaps.square().mean(-1)
    for one in (W / W.norm(dim=2, keepdim=True), W / W.norm(dim=0, keepdim=True)):
        yield "wrong_axis", square / (one.mT @ W).square().sum(-1)
    for whole in (W.norm(dim=(1, 2))[:, None], W.norm()):
        yield "wrong_axis", square / (overlaps * length[..., None] / whole[..., None]).square().sum(-1)
    yield "as_a_share", right / right.sum(-1, keepdim=True)
    yield "average_dimensions", (_M / square.sum(-1, keepdim=True)).expand_as(right)
    everything = normalize(W, dim=1).mT[:, None] @ W[None]  # [instance, other instance, n, n]
    yield "instances_mixed", square / everything.square().sum((1, 3))


DIMENSIONALITY = Exercise(
    id="01.dimensionality",
    title="How much of a dimension does a feature get?",
    minutes=10,
    difficulty=3,
    hints=(
        "Feature i has its column to itself if nobody else writes in that direction. What do you get when you project all columns, its own too, on the direction of column i?",
        "Directions: `W / W.norm(dim=1, keepdim=True)`, columns lie along dim 1. `directions.mT @ W` holds What_i . W_j in row i: square and sum over j, the last axis. A column of zeros has no direction: keep 0 / 0 from happening (`clamp_min`, `nan_to_num`).",
        "`directions = W / W.norm(dim=1, keepdim=True).clamp_min(1e-12)`, `crowd = (directions.mT @ W).pow(2).sum(-1)`, then `W.pow(2).sum(1) / crowd.clamp_min(1e-12)`.",
    ),
    mistakes={
        "shape": "Return one number for each instance and feature: shape [instance, n].",
        "rows": "Those are numbers for the m rows of W. Features are its columns: W is [instance, m, n].",
        "per_instance": "That is one number for each instance. Each feature has its own dimensionality: shape [instance, n].",
        "pairs": "That is a number for each pair. Sum the squared overlaps over j.",
        "instances_mixed": "Overlaps are taken, or summed, across instances. Each is a model of its own.",
        "both_unit": "Both columns are brought to unit length in the denominator. Only W_i is: a feature j that is hardly kept (a short column) hardly crowds anyone.",
        "not_unit": "W_i isn't brought to unit length in the denominator, or the squared length above is missing: with the *direction* of feature i, the overlap is What_i . W_j, and the numerator is |W_i|^2.",
        "other_unit": "The wrong one of the two is brought to unit length (or all of them, the numerator too), or the sum is over i: it goes over j of (What_i . W_j)^2, where i is the feature that is asked about.",
        "length_not_squared": "The numerator is the *squared* length of W_i.",
        "length_to_the_fourth": "The numerator is squared twice: it is |W_i|^2, the sum of the squares of the column.",
        "overlap_not_squared": "The overlaps in the denominator are squared before they are summed.",
        "squared_late": "The overlaps are summed before they are squared, so that those of opposite signs cancel. Square each of them first.",
        "without_itself": "The sum goes over all j, i itself included: for a feature that shares with nobody that makes D = 1, and not infinity.",
        "upside_down": "That is upside down: a feature that shares has *less* than a dimension.",
        "averaged": "The denominator is a sum over j, not a mean.",
        "wrong_axis": "The columns weren't brought to unit length one by one: the norm goes over the hidden dimensions, dim 1 of W [instance, m, n], with keepdim=True.",
        "as_a_share": "That divides by the sum over features. D_i needs no such step: the D_i add up to at most m by themselves.",
        "average_dimensions": "That is D* = m / |W|^2, the dimensions per feature on average. Asked for is D_i of each feature by itself.",
        "in_place": _IN_PLACE,
        "not_a_number": "Right, but a column of zeros gives NaN or infinity. A feature that isn't kept has no direction and no dimension: return 0 there.",
        "not_zero": "Right where all features are kept. With a column of zeros it isn't: such a feature has dimensionality 0, and the others keep theirs.",
        "something_else": "That is not |W_i|^2 / sum_j (What_i . W_j)^2.",
    },
    judge=_judge_dimensionality,
)

# ------------------------------------------------------------------ 01.find_the_bug: find the bug


def _judge_interference(answer: Callable) -> None:
    _judge_columns(answer, _interference, _wrong_interferences)


def _interference(W: Tensor) -> Tensor:
    return _of_others(_overlaps(W)).square().sum(-1)


def _wrong_interferences(W: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    gram, overlaps, length = W.mT @ W, _overlaps(W), W.norm(dim=1)
    cosines, right = normalize(W, dim=1).mT @ normalize(W, dim=1), _interference(W)
    others, all_ = _of_others(overlaps), overlaps.square().sum(-1)
    yield "still_itself", all_
    yield "still_itself", all_ / _N
    yield from (("wrong_itself", all_ - itself) for itself in (1, length, length**4))
    yield from (
        ("both_unit", one) for one in (_of_others(cosines).square().sum(-1), cosines.square().sum(-1) - 1)
    )
    yield "both_unit", cosines.square().sum(-1)
    yield from (("not_unit", one.square().sum(-1)) for one in (_of_others(gram), gram))
    yield from (("other_unit", one.square().sum(-2)) for one in (others, overlaps))
    for values in (others, others.abs(), overlaps, overlaps.abs()):
        yield "not_squared", values.sum(-1)
        yield "averaged", values.square().sum(-1) / (_N - 1)
        yield "averaged", values.square().sum(-1) / _N
        yield "not_squared", values.sum(-1) / (_N - 1)
        yield "squared_late", values.sum(-1).square()
    yield "rooted", right.sqrt()
    yield from (("largest_only", one) for one in (others.square().amax(-1), others.abs().amax(-1)))
    for half in (others.triu(), others.tril()):
        yield "each_pair_once", half.square().sum(-1)
    yield from (("relative", right / by) for by in (length**2, length, all_))
    yield "no_interference", torch.zeros_like(right)
    yield "only_itself", length**2
    everything = normalize(W, dim=1).mT[:, None] @ W[None]
    yield "instances_mixed", everything.square().sum((1, 3)) - length**2


FIND_THE_BUG = Exercise(
    id="01.find_the_bug",
    title="Find the bug: interference that isn't there",
    minutes=10,
    difficulty=3,
    hints=(
        "Give the function an orthogonal W, such as the identity. How much interference is there, and how much does it report?",
        "The sum runs over all j. One of its terms is the overlap of a feature with itself, |W_i|^2 as the square of |W_i|, and that is signal.",
        "Leave the diagonal out before the sum: `overlaps * (1 - torch.eye(W.shape[-1]))`; or subtract `W.pow(2).sum(dim=1)` after it.",
    ),
    mistakes={
        "shape": "Return one number for each instance and feature: shape [instance, n].",
        "rows": "Those are numbers for the m rows of W. Features are its columns: W is [instance, m, n].",
        "per_instance": "That is one number for each instance. Each feature has its own interference: shape [instance, n].",
        "pairs": "That is a number for each pair. Sum the squared overlaps over j.",
        "instances_mixed": "Overlaps are taken, or summed, across instances. Each is a model of its own.",
        "still_itself": "The bug is still there: a feature counts as its own interference. For an orthogonal W that should be 0, and it is |W_i|^2.",
        "wrong_itself": "You take something off the sum, but it isn't the feature's own term: What_i . W_i is |W_i|, so that its square is |W_i|^2 (not 1, and not |W_i|).",
        "both_unit": "Both columns are brought to unit length. Only W_i is: a feature j that is hardly kept (a short column) hardly interferes.",
        "not_unit": "W_i isn't brought to unit length any more: the overlap is What_i . W_j, with the *direction* of feature i.",
        "other_unit": "The wrong one of the two is brought to unit length, or the sum is over i. Asked for is what *others* (j) do in the direction of feature i.",
        "not_squared": "The overlaps aren't squared. With their signs, those of an antipodal pair and of others would cancel; squares can't.",
        "squared_late": "The overlaps are summed before they are squared, so that those of opposite signs cancel. Square each of them first.",
        "averaged": "That divides by the number of features. Interference is a sum over the others.",
        "rooted": "There is a square root too many.",
        "largest_only": "That is the largest overlap only. Interference sums over all others.",
        "each_pair_once": "Half of the pairs are missing (`triu`, `tril`, `j > i`). Feature i hears every other feature, those before it and those after it.",
        "relative": "That divides by the feature's own strength, or by all of it. Return the sum itself.",
        "no_interference": "Now there is none at all: the overlaps with others belong in the sum.",
        "only_itself": "That is the feature's own term, the one that doesn't belong there. Keep the others.",
        "in_place": _IN_PLACE,
        "not_a_number": "Right, but a column of zeros gives NaN or infinity. A feature that isn't kept has no direction in which it could be disturbed: return 0 there, as the function did before.",
        "not_zero": "Right where all features are kept. With a column of zeros it isn't: such a feature has interference 0, and doesn't disturb the others.",
        "something_else": "That is not the sum over j other than i of (What_i . W_j)^2.",
    },
    judge=_judge_interference,
)
