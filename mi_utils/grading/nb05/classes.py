"""Check of notebook 05 of a classification of heads, the find-the-bug exercise."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_utils.grading.answers import kind
from mi_utils.grading.core import Exercise, Mistake, Stopped
from mi_utils.grading.tensors import seeded

Classes = dict[str, list[int]]

_CLASSES = ("previous", "duplicate", "induction", "first")
_N = 24


def _scores(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Scores with entropy among them, and nulls without, all multiples of 1/64: differences are exact."""
    generator = seeded(seed)
    null = {name: torch.randint(0, 33, (_N,), generator=generator) / 64 for name in _CLASSES}
    scores = {name: torch.randint(0, 65, (_N,), generator=generator) / 64 for name in _CLASSES}
    for name in _CLASSES[:3]:  # a head that looks at the start token whatever comes, as most do
        scores[name][0], null[name][0] = 1 / 64, 1 / 64
    scores["first"][0], null["first"][0] = 60 / 64, 58 / 64
    return scores | {"entropy": torch.randint(0, 193, (_N,), generator=generator) / 64}, null


def _judge_classes(answer: Callable) -> None:
    for seed, threshold in ((0, 0.3), (1, 0.1), (2, 0.5 - 1 / 128)):
        scores, null = _scores(seed)
        got = _classes(answer, scores, null, threshold)
        wanted = _above(scores, null, threshold)
        if got != wanted:
            raise _class_mistake(got, wanted, scores, null, threshold)
    _judge_edges(answer)


def _judge_edges(answer: Callable) -> None:
    """A score that is above its null by exactly the threshold, and a class without heads."""
    scores = {"previous": torch.tensor([0.75, 0.25, 0.5]), "induction": torch.tensor([0.25, 0.125, 0.5])}
    null = {name: torch.full((3,), 0.25) for name in scores}
    scores["entropy"] = torch.tensor([1.0, 2.0, 0.5])
    for threshold, at in ((0.25, {"previous": [0, 2], "induction": [2]}), (0.625, {})):
        got, wanted = _classes(answer, scores, null, threshold), _above(scores, null, threshold)
        if got == wanted:
            continue
        if got == wanted | at:
            raise Mistake("at_threshold")
        raise Mistake("missing_class" if got == _bare(wanted) else "something_else")


def _above(scores: Mapping[str, Tensor], null: Mapping[str, Tensor], threshold: float) -> Classes:
    return _indices({name: scores[name] - null[name] > threshold for name in null})


def _indices(masks: Mapping[str, Tensor]) -> Classes:
    return {name: mask.nonzero()[:, 0].tolist() for name, mask in masks.items()}


def _bare(classes: Classes) -> Classes:
    """Without entropy and without classes that have no heads."""
    return {name: heads for name, heads in classes.items() if heads and name != "entropy"}


def _classes(
    answer: Callable, scores: Mapping[str, Tensor], null: Mapping[str, Tensor], threshold: float
) -> Classes:
    """What the function returns for copies, with each list in order."""
    copies = [{name: one.clone() for name, one in given.items()} for given in (scores, null)]
    try:
        got = answer(*copies, threshold)
    except Stopped as stopped:
        if isinstance(stopped.__cause__, KeyError) and "entropy" in str(stopped.__cause__):
            raise Mistake(
                "entropy_kept", "It stopped where it asked `null` for entropy: go through its names."
            ) from None
        raise
    for given, copy in zip((scores, null), copies, strict=True):
        if given.keys() != copy.keys() or not all(torch.equal(given[name], copy[name]) for name in given):
            raise Mistake("in_place")
    if isinstance(got, list | tuple | Tensor):
        raise Mistake("by_head")
    if not isinstance(got, Mapping):
        raise Mistake("shape", f"It returned {kind(got)}.")
    if not all(isinstance(key, str) for key in got):
        raise Mistake("by_head")
    if unknown := set(got) - set(scores):
        raise Mistake("shape", f"There is no class {min(unknown)!r}.")
    return {name: _as_indices(name, heads) for name, heads in got.items()}


def _as_indices(name: str, heads: Any) -> list[int]:
    dtype_is_bool = str(getattr(heads, "dtype", "")).endswith("bool")
    rows = heads.tolist() if isinstance(heads, Tensor | np.ndarray) else heads
    if not isinstance(rows, list | tuple | set | frozenset):
        raise Mistake("shape", f"For {name!r} it returned {kind(heads)}.")
    rows = [one.tolist() if isinstance(one, Tensor | np.ndarray | np.generic) else one for one in rows]
    if dtype_is_bool or any(isinstance(one, bool) for one in rows):
        raise Mistake("mask")
    if any(isinstance(one, list | tuple) for one in rows):
        raise Mistake("nested")
    if not all(isinstance(one, Integral) for one in rows):
        raise Mistake("shape", f"For {name!r} it returned {list(rows)[:3]} and so on.")
    return sorted(rows)


def _class_mistake(
    got: Classes, wanted: Classes, scores: Mapping[str, Tensor], null: Mapping[str, Tensor], threshold: float
) -> Mistake:
    if _bare(got) == _bare(wanted):
        return Mistake("entropy_kept" if "entropy" in got else "missing_class")
    for name, wrong in _wrong_classes(scores, null, threshold):
        if _bare(got) == _bare(_indices(wrong)):
            return Mistake(name)
    if "entropy" in got:
        return Mistake("entropy_kept")
    off = next(key for key in wanted if got.get(key, []) != wanted[key])
    return Mistake("something_else", f"Look at the class {off!r} with a threshold of {threshold:g}.")


def _wrong_classes(
    scores: Mapping[str, Tensor], null: Mapping[str, Tensor], threshold: float
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What each known mistake gives, as masks over heads."""
    each = partial(_each, scores, null)
    excess = each(torch.sub)
    classes = {name: scores[name] for name in null}
    enough = each(lambda score, chance: score - chance > threshold)
    for candidates in (scores, classes):
        largest = _largest(candidates)
        yield "largest", largest
        yield "largest", {name: largest[name] & (candidates[name] > threshold) for name in candidates}
        yield "largest", {name: largest[name] & enough[name] for name in null}
    yield "one_class", {name: one & enough[name] for name, one in _largest(excess).items()}
    yield "one_class", _largest(excess)
    yield "one_class", _first_only(enough)
    yield "null_not_subtracted", each(lambda score, chance: score > threshold)
    yield "absolute", each(lambda score, chance: (score - chance).abs() > threshold)
    yield "reversed", each(lambda score, chance: chance - score > threshold)
    yield "below", each(lambda score, chance: score - chance < threshold)
    yield "threshold_on_null", each(lambda score, chance: (score > threshold) & (chance < threshold))
    yield "threshold_on_null", each(lambda score, chance: (score > threshold) & (score > chance))
    yield "threshold_on_null", each(lambda score, chance: chance > threshold)
    yield "threshold_on_null", each(lambda score, chance: chance < threshold)
    yield "one_null", each(lambda score, chance: score - chance.mean() > threshold)
    yield "one_null", each(lambda score, chance: score - chance.max() > threshold)
    yield "one_null", each(lambda score, chance: score - chance.median() > threshold)
    yield "one_null", each(lambda score, chance: score - torch.cat([*null.values()]).mean() > threshold)
    yield "ratio", each(lambda score, chance: score / chance > threshold)
    yield "ratio", each(lambda score, chance: score / chance > 1 + threshold)
    yield "added", each(lambda score, chance: score + chance > threshold)
    for fixed in (0.0, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5):
        yield "ignores_threshold", each(lambda score, chance, fixed=fixed: score - chance > fixed)


def _each(
    scores: Mapping[str, Tensor], null: Mapping[str, Tensor], rule: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    return {name: rule(scores[name], null[name]) for name in null}


def _largest(candidates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each name, the heads of which it has the largest value."""
    which = torch.stack(list(candidates.values())).argmax(0)
    return {name: which == i for i, name in enumerate(candidates)}


def _first_only(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each head in the first of its classes only."""
    taken, left = torch.zeros(_N, dtype=torch.bool), {}
    for name, mask in masks.items():
        left[name] = mask & ~taken
        taken = taken | mask
    return left


MEND_THE_CLASSES = Exercise(
    id="05.mend_the_classes",
    title="Find the bug in a classification of heads",
    minutes=10,
    difficulty=3,
    hints=(
        "Attention lies between 0 and 1. What is the entropy of attention spread evenly over 40 positions, in nats? Which of the two is larger?",
        "Don't ask which score is the largest: ask of each class by itself whether the score is far enough above what it is by chance, `scores[name] - null[name] > threshold`. A head may be in several classes, or in none.",
        "Go through the names in `null` (entropy has none), and make a list of a mask by `mask.nonzero()[:, 0].tolist()`.",
    ),
    mistakes={
        "shape": "Return a dictionary: for each class that has a null, the list of its heads' indices.",
        "by_head": "That goes by head. Return a dictionary that goes by class, each with the list of its heads' indices: then a head can be in several classes.",
        "mask": "Those are True and False for each head. Return the indices of the heads: `mask.nonzero()[:, 0].tolist()`.",
        "nested": "Each index stands in a list of its own: `nonzero()` gives one *row* for each hit. Take its first column, `nonzero()[:, 0]`.",
        "in_place": "Your function changed `scores` or `null`, the dictionaries it was given (`pop` does that): whoever uses them next won't find what was there. Leave them as they are.",
        "missing_class": "A class without heads is missing. Give it an empty list: that none was found is a result, and whoever asks for that class gets an answer.",
        "entropy_kept": "Entropy is still among the classes. It is measured in nats, not in attention; there is no null for it, and low or high, it doesn't say where a head looks.",
        "largest": "The bug is still there: the largest score decides. Entropy in nats beats any attention; and even without it, a head may be high in several, or owe its largest one to chance. Ask of each class by itself whether the score is above its null.",
        "one_class": "That allows each head one class at most. A head may be in several, an induction head that also attends to duplicates, say: ask of each class by itself.",
        "null_not_subtracted": "The null is missing: a high score means nothing if the head gets it where there is nothing to find. Ask whether `scores[name] - null[name]` exceeds the threshold.",
        "threshold_on_null": "That compares score and null with the threshold, or with one another, one by one. It is the *difference* that has to exceed it: a head at 0.31 with a null of 0.29 has shown nothing.",
        "one_null": "That uses one null for all heads, such as the mean. Each head has its own: some score high on anything.",
        "absolute": "Without the absolute value: a head that scores far *less* than by chance is in the class as well, that way.",
        "reversed": "The difference is the other way round: the score should exceed the null.",
        "below": "Those are the heads that are *not* in the class.",
        "ratio": "That is a ratio. Near a null of 0 any score becomes huge; the rule asks for the difference.",
        "added": "That adds the null. Subtract it.",
        "ignores_threshold": "Use the argument `threshold` as it is handed over: the rule should not have a number of its own.",
        "at_threshold": "Almost: a head whose score is above its null by exactly the threshold is in your class. It has to be *more*: `>`, not `>=`.",
        "something_else": "Those are not the heads whose score exceeds their null by more than the threshold.",
    },
    judge=_judge_classes,
)
