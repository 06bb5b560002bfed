"""Checks of notebook 03 about how a tuned lens is trained: by ridge regression, and keeping the best."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import kind, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 03.ridge: ridge regression


def _ridge(h: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
    """The matrix of least squared error with a penalty; ``strength`` is one number or one for each component."""
    penalty = strength * torch.eye(h.shape[1], dtype=h.dtype)
    return torch.linalg.solve(h.T @ h / len(h) + penalty, h.T @ y / len(h))


def _judge_ridge(answer: Callable) -> None:
    generator = seeded()
    spread = torch.tensor([0.6, 1.0, 1.4, 1.8, 2.2])
    stream = torch.randn(40, 5, generator=generator) * spread + torch.linspace(-1, 2, 5)
    mixed = stream @ torch.randn(5, 5, generator=generator)
    final = mixed + torch.randn(40, 5, generator=generator) + torch.linspace(3, -2, 5)
    strength = 0.3
    given = stream.clone(), final.clone()
    matrix, bias = _matrix_and_bias(answer(*given, strength), stream.shape[1])
    h, y = stream.double(), final.double()
    wanted = _ridge(_off_mean(h), _off_mean(y), strength)
    if not same(matrix, wanted):
        raise _matrix_mistake(matrix, h, y, strength)
    if not same(bias, y.mean(0) - h.mean(0) @ wanted):
        raise _bias_mistake(bias, h, y, wanted)
    if not (torch.equal(given[0], stream) and torch.equal(given[1], final)):
        raise Mistake("in_place")


def _off_mean(x: Tensor) -> Tensor:
    return x - x.mean(0)


def _matrix_and_bias(got: Any, width: int) -> tuple[Tensor, Tensor]:
    if isinstance(got, Tensor) and got.shape == (width, width):
        raise Mistake("only_matrix")
    if not isinstance(got, tuple | list) or len(got) != 2 or not all(isinstance(one, Tensor) for one in got):
        raise Mistake("shape", f"It returned {kind(got)}.")
    shapes = [tuple(one.shape) for one in got]
    if shapes == [(width,), (width, width)]:
        raise Mistake("order")
    if shapes != [(width, width), (width,)]:
        raise Mistake("shape", f"Yours have shapes {shapes[0]} and {shapes[1]}.")
    return got[0], got[1]


def _matrix_mistake(matrix: Tensor, h: Tensor, y: Tensor, strength: float) -> Mistake:
    for name, wrong in _wrong_matrices(h, y, strength):
        if same(matrix, wrong):
            return Mistake(name)
    count, width = h.shape
    others = [
        strength * factor
        for factor in (count, width, 1 / width, count * width, 1 / (count * width), 2, 0.5, -1)
    ]
    others += [power / by for power in (strength**2, strength**0.5, 1 / strength) for by in (1, count)]
    fixed = [size / by for size in (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6) for by in (1, count)]
    for name, strengths in {"other_penalty": others, "ignores_strength": fixed}.items():
        if any(same(matrix, _ridge(_off_mean(h), _off_mean(y), one)) for one in strengths):
            return Mistake(name)
    return Mistake("other_matrix")


def _wrong_matrices(h: Tensor, y: Tensor, strength: float) -> list[tuple[str, Tensor]]:
    """The matrix that each known mistake gives, by the mistake's name."""
    hc, yc, count = _off_mean(h), _off_mean(y), len(h)
    summed = strength / count  # the strength where the error is a sum over tokens
    with_one = torch.cat([h, torch.ones(count, 1, dtype=h.dtype)], dim=1)
    identity = torch.eye(h.shape[1], dtype=h.dtype)
    return [
        ("transposed", _ridge(hc, yc, strength).T),
        ("no_penalty", _ridge(hc, yc, 0.0)),
        ("not_centred", _ridge(h, y, strength)),
        ("not_centred", _ridge(h, y, summed)),
        ("not_centred", _ridge(h, y, 0.0)),
        ("not_centred", _ridge(h, yc, strength)),
        ("penalises_bias", _ridge(with_one, y, strength)[:-1]),
        ("penalises_bias", _ridge(with_one, y, summed)[:-1]),
        ("penalty_not_scaled", _ridge(hc, yc, summed)),
        ("swapped", _ridge(yc, hc, strength)),
        ("swapped", _ridge(yc, hc, summed)),
        ("difference", _ridge(hc, yc - hc, strength)),
        ("difference", _ridge(hc, yc - hc, summed)),
        ("towards_identity", _ridge(hc, yc - hc, strength) + identity),
        ("towards_identity", _ridge(hc, yc - hc, summed) + identity),
        ("relative_penalty", _ridge(hc, yc, strength * hc.square().mean(0))),
        ("n_minus_one", _ridge(hc, yc, strength * (count - 1) / count)),
    ]


def _bias_mistake(bias: Tensor, h: Tensor, y: Tensor, matrix: Tensor) -> Mistake:
    for name, wrong in _wrong_biases(h.mean(0), y.mean(0), matrix):
        if same(bias, wrong):
            return Mistake(name)
    return Mistake("other_bias")


def _wrong_biases(h: Tensor, y: Tensor, matrix: Tensor) -> list[tuple[str, Tensor]]:
    """The bias that each known mistake gives for the two means and the right matrix, by the mistake's name."""
    return [
        ("no_bias", torch.zeros_like(y)),
        ("bias_sign", h @ matrix - y),
        ("bias_sign", h @ matrix + y),
        ("bias_without_matrix", y),
        ("bias_without_matrix", y - h),
        ("bias_of_transposed", y - matrix @ h),
    ]


RIDGE = Exercise(
    id="03.ridge",
    title="A translator in closed form",
    minutes=12,
    difficulty=3,
    hints=(
        "The bias isn't penalised, so for any matrix the best bias makes the mean error 0. Subtract the means from both sides and it is gone.",
        "With H and Y centred and n tokens, set the derivative to 0: (H^T H / n + strength I) matrix = H^T Y / n. `torch.linalg.solve` solves that.",
        "The bias afterwards: the mean of `final` less the mean of `stream` times the matrix.",
    ),
    mistakes={
        "shape": "Return two tensors: a matrix of shape [d, d] and a bias of shape [d].",
        "only_matrix": "The bias is missing: return the matrix and the bias.",
        "order": "Return the matrix first, the bias second.",
        "transposed": "The matrix is transposed. A stream's rows are multiplied from the left here, `stream @ matrix`: rows of the matrix are inputs, columns outputs.",
        "not_centred": "The means were not taken off both sides before solving. The matrix then has to explain the mean as well, which is the bias's work.",
        "penalises_bias": "A column of ones makes a bias, but the penalty must not touch it: leave its entry on the diagonal at 0.",
        "no_penalty": "That is the fit without the penalty: add `strength` to the diagonal.",
        "penalty_not_scaled": "The error is a mean over tokens, the penalty isn't. Divide H^T H and H^T Y by n (or multiply the penalty by n); with a plain sum the penalty all but vanishes.",
        "other_penalty": "The form is right, the strength isn't: the penalty on the diagonal of H^T H / n is `strength` itself.",
        "ignores_strength": "Use the argument `strength`: yours is the fit for a fixed one.",
        "relative_penalty": "That penalises each component in proportion to its variance, which is a good idea and what `lens.training` does. Here every entry of the matrix is penalised alike.",
        "n_minus_one": "Almost: that divides by n - 1, as `torch.cov` does. The error is a mean over n tokens; use `correction=0`.",
        "swapped": "That predicts the stream from the final one. The translator goes the other way.",
        "difference": "That predicts what is still to be added, final - stream. The matrix is then off by the identity; and adding it would penalise something else.",
        "towards_identity": "That penalises the distance to the identity, so that a strong penalty gives the logit lens. A sensible choice, but asked for is the penalty on the matrix itself.",
        "other_matrix": "The matrix doesn't minimise that error.",
        "no_bias": "The matrix is right and the bias is 0. What it should be is what is left of the means: mean(final) - mean(stream) @ matrix.",
        "bias_sign": "The matrix is right; the bias has a wrong sign in it. It is mean(final) *minus* mean(stream) @ matrix.",
        "bias_without_matrix": "The matrix is right; in the bias the mean of the stream has to go through the matrix: mean(final) - mean(stream) @ matrix.",
        "bias_of_transposed": "The matrix is right; in the bias the mean of the stream was multiplied from the wrong side.",
        "other_bias": "The matrix is right, the bias isn't: it should be mean(final) - mean(stream) @ matrix.",
        "in_place": "Right, but your function changed what it was given: `-=` centres the caller's stream too. Subtract into a new tensor.",
    },
    judge=_judge_ridge,
)

# ------------------------------------------------------------------ 03.never_worse: keep the best

_NAN = float("nan")
# Rows are layers here, columns checks: falling; rising; a dip; a dip after a hump; diverged (three times); an early dip.
_LOSSES = torch.tensor(
    [
        [3.0, 2.6, 2.2, 1.9, 1.7, 1.6],
        [0.5, 0.6, 0.8, 1.1, 1.5, 2.0],
        [2.0, 1.6, 1.1, 1.4, 1.9, 2.1],
        [3.0, 2.0, 2.5, 2.2, 1.5, 1.8],
        [1.9, 1.5, 1.2, _NAN, _NAN, _NAN],
        [0.7, 0.9, _NAN, _NAN, _NAN, _NAN],
        [2.4, 2.1, _NAN, 1.9, 1.3, 1.4],
        [2.0, 1.0, 1.8, 1.6, 1.5, 1.4],
    ]
).T


def _judge_best(answer: Callable) -> None:
    generator = seeded()
    translators = torch.randn(*_LOSSES.shape, 3, generator=generator)
    _compare_best(answer, _LOSSES, translators)
    sound = torch.rand(4, 9, generator=generator)
    _compare_best(answer, sound, torch.randn(4, 9, 2, generator=generator))


def _compare_best(answer: Callable, losses: Tensor, translators: Tensor) -> None:
    got = answer(losses.clone(), translators.clone())
    checks, layers, width = translators.shape
    best = losses.nan_to_num(nan=math.inf).argmin(0)
    each = torch.arange(layers)
    if same(got, translators[best, each]):
        return
    if not isinstance(got, Tensor) or got.shape != (layers, width):
        raise _best_shape_mistake(got, checks, layers, width)
    for name, which in _wrong_choices(losses):
        if same(got, translators[which, each]):
            raise Mistake(name)
    if any(same(got, one) for one in translators):
        raise Mistake("one_check_for_all")
    if any(same(got, translators[best, layer]) for layer in (0, -1)):
        raise Mistake("other_layer")
    raise Mistake("something_else")


def _best_shape_mistake(got: Any, checks: int, layers: int, width: int) -> Mistake:
    shapes = {"per_check": (checks, width), "which_only": (layers,), "all_pairs": (layers, layers, width)}
    detail = f"It returned {kind(got)}; wanted is {(layers, width)}."
    for name, shape in shapes.items():
        if isinstance(got, Tensor) and got.shape == shape:
            return Mistake(name, detail)
    return Mistake("shape", detail)


def _wrong_choices(losses: Tensor) -> list[tuple[str, Tensor]]:
    """For each known mistake, the check that it picks for each layer."""
    checks, layers = losses.shape
    filled, broken = losses.nan_to_num(nan=math.inf), losses.isnan()
    best, worst = filled.argmin(0), losses.nan_to_num(nan=-math.inf).argmax(0)
    in_all = filled[~broken.any(1)]  # the checks at which all layers are sound, the start among them
    later = filled[1:].argmin(0)
    falls = losses[1:] < losses[:-1]
    return [
        ("last_check", torch.full((layers,), checks - 1)),
        ("always_start", torch.zeros(layers, dtype=torch.int64)),
        ("nan_wins", losses.argmin(0)),
        ("nan_wins", _not_worse(losses)),
        ("largest", worst),
        ("largest", losses.argmax(0)),
        ("drops_the_start", later + 1),
        ("off_by_one", later),
        ("off_by_one", (best + 1).clamp(max=checks - 1)),
        ("start_where_nan", torch.where(broken.any(0), 0, best)),
        ("drops_whole_check", (~broken.any(1)).nonzero()[:, 0][in_all.argmin(0)]),
        ("first_dip", falls.long().cumprod(0).sum(0)),
        ("better_than_previous", (torch.arange(1, checks)[:, None] * falls).amax(0)),
        ("better_than_start", (torch.arange(checks)[:, None] * (losses < losses[0])).amax(0)),
    ]


def _not_worse(losses: Tensor) -> Tensor:
    """The check kept by a loop that replaces what is best unless the loss is larger: NaN isn't larger."""
    which, least = torch.zeros(losses.shape[1], dtype=torch.int64), losses[0].clone()
    for check, loss in enumerate(losses):
        kept = ~(loss > least)
        which[kept], least[kept] = check, loss[kept]
    return which


KEEP_BEST = Exercise(
    id="03.never_worse",
    title="A descent that never makes a layer worse",
    minutes=8,
    difficulty=3,
    hints=(
        "For each layer by itself: at which check was its loss least? That is an argmin over the checks, dim 0.",
        "torch's argmin takes NaN for the smallest of all. Replace it by infinity first: `losses.nan_to_num(nan=float('inf'))`.",
        "Index both axes together, so that each layer meets its own check: `translators[best, torch.arange(len(best))]`.",
    ),
    mistakes={
        "shape": "Return one translator for each layer: shape [layer, d].",
        "all_pairs": "`translators[best]` gives *all* layers for each entry of `best`. Index both axes together: `translators[best, torch.arange(n_layers)]`.",
        "per_check": "That picks a layer for each check: the argmin went over layers. Choose over checks, dim 0.",
        "which_only": "That is one number for each layer, which check is best or how good it is. Return the translators themselves.",
        "other_layer": "The checks are right, but every layer got the translator of one and the same layer. Index both axes together.",
        "one_check_for_all": "That takes one check for all layers. Each layer has its own best moment: late layers are at their best early, early ones late.",
        "last_check": "That is the last check. By then some layers have become worse, or diverged.",
        "always_start": "That is where the descent began; nothing was kept of it.",
        "nan_wins": "A diverged layer won: argmin takes NaN for the smallest, and every comparison with NaN is false, so that `not loss > best` lets it in. Replace NaN by infinity first, or ask `loss < best`.",
        "largest": "That keeps the check with the *largest* loss.",
        "drops_the_start": "The start never gets chosen. Row 0 belongs in the comparison; it is what promises that no layer gets worse.",
        "off_by_one": "That is a neighbour of the best check: an index was counted from another row than the first.",
        "start_where_nan": "A layer that diverges goes back to the start. What it had reached before, it may keep.",
        "drops_whole_check": "A check is dropped for all layers as soon as one of them is NaN. The others are sound.",
        "first_dip": "That stops at the first rise of the loss. It may fall further afterwards; all checks are here, so look at them all.",
        "better_than_previous": "That keeps a check if it is better than the one *before*. Compare with the best so far.",
        "better_than_start": "That keeps the last check that is better than the start. Compare with the best so far.",
        "something_else": "Those are not the translators with the least loss.",
    },
    judge=_judge_best,
)
