"""Checks of the exercises of notebook 06 about sets of heads: faithfulness and minimality."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import compare, kind, number, outcome, same
from mi_utils.grading.core import Exercise, Mistake, Stopped

# ------------------------------------------------------------------ 06.faithfulness: faithfulness


def _judge_faithfulness(answer: Callable) -> None:
    # Above 1 first: up to there, 1 less a distance from the whole looks like a share of it.
    for circuit, full, empty in ((4.5, 3.6, -0.4), (3.1, 3.6, -0.4), (-1.2, 3.6, -0.4), (0.7, -2.5, 1.5)):
        _compare_faithfulness(answer, circuit, full, empty)
    _compare_faithfulness(answer, 2.0, 3.0, 0.0)
    _compare_faithfulness(answer, 1.0, 0.0, 2.0)  # the whole model is at 0: nothing wrong with that
    _compare_faithfulness(answer, 0.5, 0.5, 2.0)
    for circuit, both in ((2.0, 1.5), (1.5, 1.5), (1.0, 0.0)):
        got, error = outcome(answer, circuit, both, both)
        if error is None:
            raise Mistake("no_refusal", f"For {circuit}, {both}, {both} it returned {_shown(got)}.")
        if not isinstance(error, ValueError):
            raise Mistake("other_exception", f"It raises {type(error).__name__}.")


def _shown(got: Any) -> str:
    one = number(got)
    return f"{one:.3g}" if isinstance(one, Tensor) and one.ndim == 0 else kind(got)


def _compare_faithfulness(answer: Callable, circuit: float, full: float, empty: float) -> None:
    given = f"circuit = {circuit}, full = {full}, empty = {empty}"
    try:
        got = number(answer(circuit, full, empty))
    except Stopped as stopped:
        if isinstance(stopped.__cause__, ValueError):
            raise Mistake("refuses_too_much", f"It refuses {given}.") from None
        raise
    m, f, e = (torch.tensor(one, dtype=torch.float64) for one in (circuit, full, empty))
    right = (m - e) / (f - e)
    if not 0 <= right <= 1 and same(got, right.clamp(0, 1)):
        raise Mistake("clipped", f"For {given} it returns {float(got):g}.")
    if right < 0 and same(got, -right):
        raise Mistake("absolute")
    compare(got, right, _wrong_faithfulness(m, f, e))


def _wrong_faithfulness(m: Tensor, f: Tensor, e: Tensor) -> Iterable[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    right = (m - e) / (f - e)
    return [
        ("share_of_full", m / f),
        ("share_kept", 1 - (f - m).abs() / f),
        ("share_kept", 1 - (f - m).abs() / f.abs()),
        ("share_kept", 1 - (f - m).abs() / (f - e).abs()),
        ("missing", (f - m) / (f - e)),
        ("missing", (f - m).abs() / (f - e).abs()),
        ("missing", (f - m).abs() / f.abs()),
        ("inverted", 1 / right),
        ("inverted", f / m),
        ("sign", -right),
        ("difference", f - m),
        ("difference", (f - m).abs()),
        ("difference", m - f),
        ("difference", m - e),
        ("other_whole", (m - e) / f),
        ("other_whole", m / (f - e)),
        ("other_whole", (m - e) / (f + e)),
        ("other_whole", (m - e) / m),
        ("percent", 100 * right),
        ("squared", right.square()),
        ("arguments", (f - m) / (e - m)),
        ("arguments", (e - f) / (m - f)),
        ("arguments", (e - m) / (f - m)),
    ]


FAITHFULNESS = Exercise(
    id="06.faithfulness",
    title="Faithfulness",
    minutes=5,
    difficulty=1,
    hints=(
        "Which number should come out if the circuit does as well as the whole model? And if it does no better than nothing?",
        "The way from empty to full is `full - empty`. How much of it has the circuit gone?",
        "`(circuit - empty) / (full - empty)`, after `if full == empty: raise ValueError(...)`.",
    ),
    mistakes={
        "shape": "Return one number.",
        "share_of_full": "That compares with 0, which nobody has shown to be the metric of a model without the circuit. Count from `empty`.",
        "share_kept": "That is 1 less the distance from the whole model, taken as absolute: a circuit that does *better* than the model looks as bad as one that does worse. Return the share of the way from empty to full.",
        "missing": "That is the share that is missing, or full and empty have changed places. It should be 1 where the circuit does as well as the whole model, 0 where it does as `empty`.",
        "inverted": "That is upside down: the whole way, full - empty, is the denominator.",
        "sign": "That has a sign wrong: it should be 1 where `circuit` equals `full`.",
        "difference": "That is a difference, in the metric's unit. Divide by the whole way, full - empty.",
        "other_whole": "The denominator is another, or the start is. From `empty` to `circuit`, as a share of from `empty` to `full`.",
        "percent": "That is in per cent. Return the fraction.",
        "squared": "That is the square, in which the sign is lost. Return the share itself.",
        "arguments": "The arguments are mixed up: they come in the order circuit, full, empty.",
        "absolute": "Right unless it is below 0: that a circuit does worse than nothing is hidden by the absolute value.",
        "clipped": "Right between 0 and 1, but yours stays inside. Above 1 the circuit does better than the whole model (something harmful was left out), below 0 worse than nothing: both are worth knowing.",
        "no_refusal": "Right, but where `full` equals `empty` there is nothing to be faithful to. Raise a ValueError there; NaN, infinity or some number would go into averages unseen.",
        "other_exception": "Right, but where `full` equals `empty`, raise a ValueError that says so.",
        "refuses_too_much": "Only `full` equal to `empty` is to be refused. Metrics may be 0 or negative, and the share above 1 or below 0.",
        "something_else": "That is not (circuit - empty) / (full - empty).",
    },
    judge=_judge_faithfulness,
)

# ------------------------------------------------------------------ 06.minimality: minimality

_Head = tuple[int, int]
_HEADS: tuple[_Head, ...] = ((4, 1), (7, 2), (7, 5), (9, 0), (9, 3), (11, 9))
_ALONE = (0.91, 1.37, 0.53, 2.11, 1.73, -1.19)  # one works against the answer: without it the metric rises
_TOGETHER = (  # by how much two do less together than each alone, because one backs the other up
    (0.0, 0.17, 0.05, 0.29, 0.11, 0.07),
    (0.0, 0.0, 0.13, 0.37, 0.23, 0.02),
    (0.0, 0.0, 0.0, 0.19, 0.08, 0.12),
    (0.0, 0.0, 0.0, 0.0, 0.61, 0.09),
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.15),
)


def _metric(kept: Any) -> float:
    """A metric of a set of heads, in which heads count for more where others are missing."""
    members = list(kept) if isinstance(kept, Iterable) else None
    if members is None or not all(one in _HEADS for one in members):
        raise Mistake("not_heads", f"It was called with {kept!r}.")
    chosen = [i for i, head in enumerate(_HEADS) if head in members]
    return sum((_ALONE[i] for i in chosen), 0.0) - sum(
        _TOGETHER[i][j] for i in chosen for j in chosen if i < j
    )


def _judge_minimality(answer: Callable) -> None:
    circuit = frozenset(_HEADS)
    cases = [(3, (1, 4)), (5, (0, 2, 3, 4)), (0, ())]
    groups = [(_HEADS[head], frozenset(_HEADS[i] for i in group)) for head, group in cases]
    for head, group in groups:
        _compare_minimality(answer, circuit, head, group)
    for head, group in groups[:2]:
        _compare_minimality(answer, circuit, head, group | {head})


def _compare_minimality(answer: Callable, circuit: frozenset, head: _Head, group: frozenset) -> None:
    got = number(answer(_metric, circuit, head, group))
    others, alone = group - {head}, frozenset({head})
    whole, with_head = _metric(circuit), _metric(circuit - others)
    without = _metric(circuit - others - alone)
    right = abs(with_head - without)
    single = abs(whole - _metric(circuit - alone))
    added = abs(_metric(others | alone) - _metric(others))
    wrong = [
        ("head_in_group" if head in group else "head_not_removed", 0.0),
        ("group_forgotten", single),
        ("group_forgotten", whole - _metric(circuit - alone)),
        ("signed", -right),
        ("group_counted", abs(whole - without)),
        ("group_counted", whole - without),
        ("group_effect", abs(whole - with_head)),
        ("group_effect", whole - with_head),
        ("adds", added),
        ("adds", _metric(others | alone) - _metric(others)),
        ("adds", abs(_metric(alone))),
        ("adds", _metric(alone)),
        ("not_a_difference", with_head),
        ("not_a_difference", without),
        ("not_a_difference", abs(without)),
        ("relative", right / abs(whole)),
        ("relative", right / abs(with_head)),
        ("relative", right / abs(without)),
        ("difference_of_effects", abs(single - right)),
        ("difference_of_effects", right - single),
        ("squared", right**2),
    ]
    wanted = torch.tensor(right, dtype=torch.float64)
    compare(got, wanted, [(name, torch.tensor(one, dtype=torch.float64)) for name, one in wrong])


MINIMALITY = Exercise(
    id="06.minimality",
    title="Is this head needed?",
    minutes=10,
    difficulty=3,
    hints=(
        "The metric is called twice, on two sets of heads that are kept. By which head do the sets differ, and what is missing in both?",
        "Sets have a minus sign: `circuit - group` is the circuit without the group. For a single head write `{head}`: `set(head)` would be the set of its two numbers.",
        "`without_group = circuit - (group - {head})`, then `abs(metric(without_group) - metric(without_group - {head}))`.",
    ),
    mistakes={
        "shape": "Return one number.",
        "not_heads": "The metric takes the set of heads that are kept, each a pair (layer, head). Sets of heads are taken apart by `circuit - group`, and a single head is put in by `{head}`.",
        "head_not_removed": "The two metrics are the same, because the head is in both sets (or in neither). Mind that `set(head)` is the set of its two numbers, layer and head, and takes no head away: write `{head}`.",
        "head_in_group": "Right unless the head is in `group`: then it is gone from both sets, and every head looks idle. It doesn't count as part of the group: `group - {head}`.",
        "group_forgotten": "The group is still there. That is the effect of the head in the whole circuit, where a backup can step in for it, so that both look idle.",
        "signed": "The sign is left in. Some heads work against the answer, and taking them out raises the metric: return the absolute value.",
        "group_counted": "That compares with the whole circuit, so it measures the group and the head together. The group is missing in *both* sets.",
        "group_effect": "That is the effect of the group. The two sets differ by the head alone.",
        "adds": "That starts from nothing and adds. The question is what the head is worth in the *circuit* from which the group was taken out.",
        "not_a_difference": "That is one metric. Return how far apart the two are.",
        "relative": "That is relative to another number. Return the distance itself, in the metric's unit.",
        "difference_of_effects": "That asks how much *more* the head does once the group is gone. Return what it does then.",
        "squared": "That is the square. Return the absolute value.",
        "something_else": "That is not the distance between the circuit without the group, and the same without the head.",
    },
    judge=_judge_minimality,
)
