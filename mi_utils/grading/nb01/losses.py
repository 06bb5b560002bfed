"""Checks of notebook 01 about losses that theory knows: three candidates, and the best linear model."""

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, kind, named, number, same
from mi_utils.grading.core import Exercise, Mistake, Stopped


def _variance(p: Tensor) -> Tensor:
    """Of a feature that is there with probability ``p`` and then uniform on [0, 1]."""
    return p / 3 - p**2 / 4


def _wrong_variances(p: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives for the loss of a feature that is dropped, by the mistake's name."""
    one = torch.ones_like(p)
    return [
        ("no_bias", p / 3),
        ("no_bias", one / 3),
        ("only_where_present", p / 12),
        ("only_where_present", one / 12),
        ("bias_of_present", one / 4 - p / 6),
        ("only_the_lot", p * (1 - p) / 4),
        ("only_the_lot", p * (1 - p)),
        ("whole_feature", p),
        ("sparsity_for_p", _variance(1 - p)),
        ("sparsity_for_p", (1 - p) / 3),
    ]


# ------------------------------------------------------------------ 01.candidates: three candidates

_PRESENT = (0.3, 0.8, 0.15, 0.55)
_IMPORTANCE = (0.6, 2.5, 1.0, 0.4)


def _judge_candidates(answer: Callable) -> None:
    got = torch.stack([_three(_at(answer, p, i)) for p, i in zip(_PRESENT, _IMPORTANCE, strict=True)])
    p, importance = (torch.tensor(values, dtype=torch.float64) for values in (_PRESENT, _IMPORTANCE))
    wanted = _candidates(p, importance)
    if same(got, wanted):
        return
    if not got.isfinite().all() or (got < -1e-6).any():
        raise Mistake("negative", _at_first(got))
    if same(got, wanted / 2):
        raise Mistake("features_averaged")
    if same(got[:, [1, 0]], wanted[:, :2]):
        raise Mistake("dropped_for_kept")
    if any(same(got[:, order], wanted) for order in permutations(range(3))):
        raise Mistake("order")
    if not same(got[:, :2], wanted[:, :2]):
        raise named(got[:, :2], _wrong_dedicated(p, importance), Mistake("dedicated", _at_first(got, wanted)))
    raise named(got[:, 2], _wrong_antipodal(p, importance), Mistake("antipodal", _at_first(got, wanted)))


def _at(answer: Callable, p: float, importance: float) -> Any:
    """For two numbers; for the same as tensors where the answer stops at plain numbers."""
    try:
        return ask(answer, p, importance)[0]
    except Stopped as stopped:
        try:
            return ask(answer, torch.tensor(p), torch.tensor(importance))[0]
        except Stopped:
            raise stopped from stopped.__cause__


def _three(got: Any) -> Tensor:
    if isinstance(got, tuple | list) and len(got) == 3:
        each = [number(one) for one in got]
        got = torch.stack(each) if all(isinstance(one, Tensor) and one.ndim == 0 for one in each) else got
    if not isinstance(got, Tensor) or got.shape != (3,):
        raise Mistake("shape", f"It returned {kind(got)}.")
    return got.detach().cpu().double()


def _candidates(p: Tensor, importance: Tensor) -> Tensor:
    return torch.stack([importance * _variance(p), _variance(p), (1 + importance) * p**2 / 6], dim=-1)


def _at_first(got: Tensor, wanted: Tensor | None = None) -> str:
    """The first case, in words."""

    def row(values: Tensor) -> str:
        return ", ".join(f"{one:.4f}" for one in values[0].tolist())

    there = f"For p = {_PRESENT[0]} and importance = {_IMPORTANCE[0]} yours are {row(got)}"
    return f"{there}; they should be {row(wanted)}." if wanted is not None else f"{there}."


def _wrong_dedicated(p: Tensor, importance: Tensor) -> Iterator[tuple[str, Tensor]]:
    one = torch.ones_like(p)
    weights = [
        ("", (importance, one)),
        ("unweighted", (one, one)),
        ("dropped_for_kept", (one, importance)),
        ("importance_squared", (importance**2, one)),
        ("other_importance", (1 + importance, 1 + importance)),
        ("other_importance", (importance, importance)),
    ]
    for name, variance in [("", _variance(p)), *_wrong_variances(p)]:
        for other, both in weights:
            if name or other:
                yield name or other, torch.stack([weight * variance for weight in both], dim=-1)


def _wrong_antipodal(p: Tensor, importance: Tensor) -> Iterator[tuple[str, Tensor]]:
    one, both = torch.ones_like(p), 1 + importance
    yield from (("no_collision_probability", one * both / by) for by in (3, 6, 12))
    yield "collision_p", both * p / 6
    yield from (("collision_p", both * p * (1 - p) / by) for by in (3, 6))
    yield "no_relu", both * p / 3
    yield "not_the_smaller", both * p**2 / 3
    yield "not_the_smaller", both * p**2 / 4
    yield "not_the_smaller", both * p**2 / 2
    yield "one_of_two", both * p**2 / 12
    yield from (("one_side", side * p**2 / 6) for side in (one, importance))
    yield from (("unweighted", p**2 / by) for by in (3, 1.5))
    yield "square_of_mean", both * p**2 / 9
    yield "importance_squared", (1 + importance**2) * p**2 / 6
    yield "sparsity_for_p", both * (1 - p) ** 2 / 6


CANDIDATES = Exercise(
    id="01.candidates",
    title="Three candidates for two features",
    minutes=15,
    difficulty=4,
    hints=(
        "Take [1, 0]: feature 1 comes back as it is, and of feature 2 the model knows nothing. Which constant is the best guess, and how large is the squared error then, on average? For [1, -1]: what comes out if only one feature is there, and what if both are?",
        "The best constant is the mean, p/2, and the squared error left is the variance: E[x^2] - (p/2)^2 with E[x^2] = p/3. For [1, -1] the outputs are ReLU(x1 - x2) and ReLU(x2 - x1): nothing goes wrong until both are there (probability p^2), and then *each* output is off by the smaller of the two, whose mean square is 1/6.",
        "`variance = p / 3 - p**2 / 4`, then `torch.tensor([importance * variance, variance, (1 + importance) * p**2 / 6])`.",
    ),
    mistakes={
        "shape": "Return three numbers, the losses of [1, 0], [0, 1] and [1, -1]: shape [3].",
        "order": "The three numbers are right, the order isn't: [1, 0], [0, 1], [1, -1].",
        "negative": "A loss can't be negative, nor NaN: it is a mean of squares. The variance is E[x^2] minus the *square* of the mean.",
        "sparsity_for_p": "That takes p for the sparsity. Here p = 1 - S is the probability that a feature is *there*.",
        "features_averaged": "Those are half of the right ones: the loss is a sum over the two features, not a mean.",
        "dropped_for_kept": "The first two are exchanged: [1, 0] keeps feature 1 and loses feature 2, so its loss has the importance of feature 2 in it; [0, 1] loses feature 1, whose importance is 1.",
        "no_bias": "That is E[x^2] (p/3), the loss if the dropped feature's output were 0. The model has a bias, and outputs the constant that fits best, the mean p/2: that saves its square.",
        "only_where_present": "That is the variance of a feature that is there, 1/12 (or p times that). The model doesn't know when it is: the best constant has to serve for the zeros as well, and the variance is that of the mixture.",
        "bias_of_present": "That guesses 1/2, the mean of a feature that is there. The best constant is the mean over all examples, zeros included: p/2.",
        "only_the_lot": "That is the variance of being there or not, as if a feature were always equally large when it is. Start from E[x^2] = p/3 and the mean p/2.",
        "whole_feature": "That is how often the feature is there. The loss is its mean squared error: E[x^2] = p/3, less what the bias saves.",
        "unweighted": "The importance is missing: the squared error of feature 2 counts `importance` times.",
        "importance_squared": "The importance enters once, not squared.",
        "other_importance": "[1, 0] and [0, 1] each lose one feature only: [1, 0] loses feature 2, which counts `importance` times, and [0, 1] loses feature 1, which counts once.",
        "dedicated": "The loss of [1, 0] or [0, 1] isn't right: the variance of the feature that is dropped, times its importance.",
        "no_collision_probability": "[1, -1]: that is the loss once both features are there. How often are they? Otherwise nothing is lost.",
        "collision_p": "[1, -1] gives a single feature back without error. Something is lost only when *both* are there: with two independent features that has the probability p^2.",
        "no_relu": "[1, -1]: that is the loss without the ReLU. The ReLU cuts off the -x1 that a lone feature 1 leaves at the output of feature 2; that is what makes the antipodal pair worth while.",
        "not_the_smaller": "[1, -1]: when both are there, the larger comes out too small, and the other as 0. Each output is off by the *smaller* of the two, whose mean square is 1/6; 1/3 is the mean square of a feature taken alone, and also the mean of the smaller one before it is squared.",
        "one_of_two": "[1, -1]: half of it is missing. When both are there, both outputs are off: the smaller feature's is 0, and the larger's is too small by just as much. The loss is the sum of the two errors.",
        "one_side": "[1, -1]: that counts the error of one feature. Both are off when both are there: one with importance 1, the other with `importance`.",
        "square_of_mean": "[1, -1]: that squares the mean of the smaller one (1/3). The loss is the mean of its square: 1/6.",
        "antipodal": "The loss of [1, -1] isn't right: ask how often both are there, and by how much each output is off then.",
    },
    judge=_judge_candidates,
)

# ------------------------------------------------------------------ 01.pca: the best linear model


def _judge_linear(answer: Callable) -> None:
    sparsity = torch.tensor([0.3, 0.85, 0.6])
    for importance, m in (([0.55, 2.0, 0.9, 1.4, 0.3], 2), ([1.0, 0.7, 1.3, 0.2, 0.45, 0.9], 4)):
        _compare_linear(answer, sparsity, torch.tensor(importance), m)
    importance = torch.tensor([0.5, 2.0, 0.8])
    try:
        got, _ = ask(answer, sparsity, importance, 3)
    except Stopped as stopped:
        raise Mistake(
            "nothing_left_out", f"There it stops with {type(stopped.__cause__).__name__}."
        ) from None
    if not same(got, torch.zeros(3)):
        raise Mistake("nothing_left_out")


def _compare_linear(answer: Callable, sparsity: Tensor, importance: Tensor, m: int) -> None:
    wanted = _left_out(importance, m) * _variance(1 - sparsity)
    try:
        got, intact = ask(answer, sparsity, importance, m)
    except Stopped:
        _judge_one_by_one(answer, sparsity, importance, m)
        raise
    if same(got, wanted):
        if not intact:
            raise Mistake("in_place")
        return
    if not isinstance(got, Tensor) or got.shape != wanted.shape:
        if isinstance(number(got), Tensor) and number(got).ndim == 0:
            _judge_one_by_one(answer, sparsity, importance, m)
        raise Mistake("shape", f"For {len(sparsity)} sparsities it returned {kind(got)}.")
    raise named(got, _wrong_linear(1 - sparsity, importance, m), Mistake("something_else"))


def _left_out(importance: Tensor, m: int) -> Tensor:
    return importance.sort().values[: len(importance) - m].sum()


def _judge_one_by_one(answer: Callable, sparsity: Tensor, importance: Tensor, m: int) -> None:
    """Whether it is right for a sparsity that is a plain number."""
    try:
        each = [number(ask(answer, float(one), importance, m)[0]) for one in sparsity]
    except Stopped:
        return
    wanted = _left_out(importance, m) * _variance(1 - sparsity)
    if all(same(one, value) for one, value in zip(each, wanted, strict=True)):
        raise Mistake("one_sparsity_only")


def _wrong_linear(p: Tensor, importance: Tensor, m: int) -> Iterator[tuple[str, Tensor]]:
    n, falling = len(importance), importance.sort(descending=True).values
    weights = [
        ("", falling[m:].sum()),
        ("unweighted", torch.tensor(float(n - m))),
        ("largest", falling[: n - m].sum()),
        ("kept", falling[:m].sum()),
        ("m_for_rest", falling[n - m :].sum()),
        ("not_sorted", importance[m:].sum()),
        ("not_sorted", importance[: n - m].sum()),
        ("not_sorted", importance[:m].sum()),
        ("not_sorted", importance[n - m :].sum()),
        ("all_features", importance.sum()),
        ("one_feature", falling[m]),
        ("one_feature", falling[-1]),
        ("importance_squared", falling[m:].square().sum()),
        ("features_averaged", falling[m:].mean()),
        ("features_averaged", falling[m:].sum() / n),
    ]
    for name, variance in [("", _variance(p)), *_wrong_variances(p)]:
        for other, weight in weights:
            if name or other:
                yield other or name, weight * variance


BEST_LINEAR = Exercise(
    id="01.pca",
    title="The best that a linear model can do",
    minutes=10,
    difficulty=3,
    hints=(
        "A linear model with m dimensions keeps m features whole and gives the rest their mean. Which should it keep, and what does each of the others cost?",
        "A feature that is left out costs its importance times its variance: with p = 1 - sparsity, E[x^2] = p/3 less the square of the mean p/2. All have the same variance here, so the n - m of least importance are left out. Importances come in any order: sort them.",
        "`left_out = importance.sort().values[: len(importance) - m].sum()`, then with `p = 1 - sparsity`: `left_out * (p / 3 - p**2 / 4)`.",
    ),
    mistakes={
        "shape": "Return one loss for each entry of `sparsity`: shape [instance].",
        "one_sparsity_only": "Right for one sparsity, a plain number. Here `sparsity` is a tensor with one for each instance: return as many losses.",
        "unweighted": "The importance is missing: what a feature costs is its importance times its variance.",
        "largest": "That leaves out the *most* important features. The best model leaves out those that cost least.",
        "kept": "That sums over the m features that are kept. They cost nothing; the loss is of the n - m others.",
        "m_for_rest": "That leaves out m features. m are kept, so n - m are left out.",
        "not_sorted": "That goes by the order in which the importances come. They can come in any order: sort them first.",
        "all_features": "That is the loss of a model that keeps nothing. With m dimensions, m features cost nothing.",
        "one_feature": "That is the cost of one feature. All n - m that are left out cost something: sum them.",
        "importance_squared": "The importance enters once, not squared.",
        "features_averaged": "The loss is a sum over features, not a mean: features that are kept contribute 0, and nothing is divided by n.",
        "sparsity_for_p": "The sparsity went in for p. p = 1 - sparsity is the probability that a feature is *there*.",
        "no_bias": "That is E[x^2], the loss without a bias. With a bias the model outputs the mean p/2 of what it leaves out, and the variance remains: p/3 - p^2/4.",
        "only_where_present": "That is the variance of a feature that is there (1/12, or p times that). The zeros belong to the distribution as well: p/3 - p^2/4.",
        "bias_of_present": "That guesses 1/2, the mean of a feature that is there. The best bias is the mean over all examples, p/2.",
        "only_the_lot": "That is the variance of being there or not, as if a feature were always equally large when it is. Start from E[x^2] = p/3 and the mean p/2.",
        "whole_feature": "That is how often features are there. The cost of one is its variance, p/3 - p^2/4.",
        "nothing_left_out": "Right, except where m = n: then nothing is left out and the loss is 0. Note that a slice such as `[-(n - m):]` takes everything when n - m is 0.",
        "in_place": "Right, but your function changed what it was given: `sort_`, `-=` and the like write into the caller's tensor. Compute a new one.",
        "something_else": "That is not the sum of importance times variance over the n - m features that cost least.",
    },
    judge=_judge_linear,
)
