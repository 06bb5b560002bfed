"""Checks of notebook 04 about patches: one position, and the share that is recovered."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_utils.grading.answers import ask, compare, number
from mi_utils.grading.core import Exercise, Mistake, Stopped
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 04.patch_position: patch one position


def _judge_patch(answer: Callable) -> None:
    generator = seeded()
    # As many rows and components as positions, or more: an index on the wrong axis must find something.
    corrupted, clean = (torch.randn(6, 5, 7, generator=generator) for _ in range(2))
    for position in (2, 0, 4):
        given = corrupted.clone(), clean.clone()
        got = answer(*given, position)
        got = torch.from_numpy(got.copy()) if isinstance(got, np.ndarray) and got.dtype.kind == "f" else got
        if got is given[1]:
            raise Mistake("returns_clean")
        if got is None and not torch.equal(given[0], corrupted):
            raise Mistake("in_place", "It returned nothing, besides.")
        _compare_patch(got, corrupted, clean, position)
        if not torch.equal(given[0], corrupted):
            raise Mistake("in_place")
        if not torch.equal(given[1], clean):
            raise Mistake("changes_clean")


def _compare_patch(got: Any, corrupted: Tensor, clean: Tensor, position: int) -> None:
    batch, _, d_model = corrupted.shape
    shapes = {"position_only": [(batch, d_model), (batch, 1, d_model)]}
    compare(got, _put(corrupted, clean, position), _wrong_patches(corrupted, clean, position), shapes)


def _put(into: Tensor, source: Tensor, where: Any, dim: int = 1) -> Tensor:
    """``into`` with some indices along one axis taken from ``source``."""
    mask = torch.zeros(into.shape[dim], dtype=torch.bool)
    mask[where] = True
    return torch.where(mask[(..., *[None] * (into.ndim - 1 - dim))], source, into)


def _wrong_patches(corrupted: Tensor, clean: Tensor, position: int) -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    right, length = _put(corrupted, clean, position), corrupted.shape[1]
    yield "whole_sequence", clean
    yield "nothing_patched", corrupted
    yield "all_but_the_position", _put(clean, corrupted, position)
    for other in range(length):
        name = "neighbour" if abs(other - position) == 1 else "other_position"
        moved = clean.roll(position - other, dims=1)  # the other position's value, put at the right one
        yield name, _put(corrupted, clean, other)
        yield name, _put(corrupted, moved, position)
    for several in (slice(position + 1), slice(position), slice(position, None), slice(position + 1, None)):
        yield "several_positions", _put(corrupted, clean, several)
    for row in range(len(corrupted)):
        yield "one_row", _put(corrupted, right, row, dim=0)
        yield "one_row_for_all", _put(corrupted, clean[row].expand_as(clean), position)
    yield "one_row_for_all", _put(corrupted, clean.mean(0).expand_as(clean), position)
    for dim in (0, 2):
        yield "wrong_axis", _put(corrupted, clean, position, dim)
    for mixed in (corrupted + clean, (corrupted + clean) / 2, clean - corrupted, torch.zeros_like(clean)):
        yield "mixed", _put(corrupted, mixed, position)


PATCH_POSITION = Exercise(
    id="04.patch_position",
    title="Patch one position",
    minutes=5,
    difficulty=1,
    hints=(
        "Which axis holds the positions, and what comes before it?",
        "Make a copy first, `corrupted.clone()`: what you write into it doesn't reach the caller's tensor. Then assign to one index of dim 1.",
        "`patched = corrupted.clone()`, `patched[:, position] = clean[:, position]`, and return `patched`.",
    ),
    mistakes={
        "shape": "Return the whole activation after the patch: [batch, pos, d_model], as it came.",
        "position_only": "That is only the position that was patched. Return the whole activation, in which all other positions are still the corrupted ones.",
        "whole_sequence": "Every position was patched. Patching everything gives the clean run back, and says nothing about where the information stood.",
        "returns_clean": "That is `clean` itself. The run to be edited is the corrupted one: start from a copy of `corrupted` and take one position from `clean`.",
        "nothing_patched": "That is still the corrupted run: nothing was patched. Something like `x[:, position].clone()` makes a new tensor, and what you write into it is lost.",
        "all_but_the_position": "The other way round: everything *but* the position was patched. Start from `corrupted`, and take the one position from `clean`.",
        "neighbour": "That is a neighbour of the position asked for. Positions count from 0, and the start token is position 0.",
        "other_position": "That is another position than the one asked for. Use the argument `position`.",
        "several_positions": "That patches all positions up to there, or all from there on. One position only: an index and no slice.",
        "one_row": "Only one row of the batch was patched. `x[:, position]` takes all rows.",
        "one_row_for_all": "Every row got the same values. Each row has its own clean partner: row i of `corrupted` takes from row i of `clean`.",
        "wrong_axis": "The index went to another axis: a whole row of the batch, or one component of every vector. Positions are dim 1: `x[:, position]`.",
        "mixed": "At that position stands a sum, a mean, a difference or zero. A patch *replaces*: there should stand what the clean run had.",
        "in_place": "Your function writes into the `corrupted` that it was given, so that the next patch starts from a run that is patched already, and the effects pile up. Edit a `.clone()`.",
        "changes_clean": "Right, but your function changed `clean`. The next patch would take its values from something that never ran. Edit a `.clone()`.",
        "something_else": "That is not `corrupted` with one position taken from `clean`.",
    },
    judge=_judge_patch,
)

# ------------------------------------------------------------------ 04.recovery: the recovered share

_SOUND = (  # clean and corrupted: one pair for all; a corrupted run that is ahead of the clean one; and close pairs
    (3.0, -0.5),
    ([3.0, 0.5, 2.0], [-1.0, 2.5, 1.0]),
    ([0.25, 0.5, -1.0], [0.2, 0.6, -1.2]),
    ([1e-3, 0.0, 5e-4], [0.0, 1e-3, -5e-4]),
)
_NOTHING_TO_RECOVER = (  # the mistake of a function that lets it pass, clean, and corrupted
    ("no_error", 2.0, 2.0),
    ("no_error", torch.tensor(-0.5), torch.tensor(-0.5)),
    ("only_if_all", torch.tensor([3.0, 1.5, 2.0]), torch.tensor([-1.0, 1.5, 0.5])),
    ("exact_only", 0.0, 1e-9),
    ("exact_only", torch.tensor(1e-9), torch.tensor(0.0)),
)


def _judge_recovery(answer: Callable) -> None:
    patched = torch.tensor([[1.3, -2.0, 0.25], [4.5, 3.0, -0.5]])
    tensors = patched, torch.tensor([3.0, 0.5, 2.0]), torch.tensor([-0.5, -1.0, 1.0])
    numbers = 1.3, 3.0, -0.5
    _compare_recovery(_returned(answer, tensors, numbers), *tensors)
    _compare_recovery(_returned(answer, numbers, tensors), *map(torch.tensor, numbers))
    for clean, corrupted in _SOUND:
        _compare_sound(answer, patched, torch.tensor(clean), torch.tensor(corrupted))
    _, unchanged = ask(answer, *tensors)
    if not unchanged:
        raise Mistake("in_place")
    for mistake, clean, corrupted in _NOTHING_TO_RECOVER:
        if seen := _not_refused(answer, clean, corrupted):
            if mistake == "no_error" and _softened(answer, clean, corrupted):
                raise Mistake("epsilon", seen)
            raise Mistake(mistake, seen)


def _compare_sound(answer: Callable, *given: Tensor) -> None:
    try:
        got, _ = ask(answer, *given)
    except Stopped as stopped:
        if isinstance(stopped.__cause__, ValueError):
            _, clean, corrupted = map(_shown, given)
            raise Mistake("refuses_sound", f"Clean was {clean}, corrupted {corrupted}.") from None
        raise
    _compare_recovery(got, *given)


def _returned(answer: Callable, given: tuple, other: tuple) -> Any:
    """What comes back; a mistake where the answer stops, though it doesn't with the other kind of arguments."""
    try:
        return ask(answer, *given)[0]
    except Stopped as stopped:
        detail = f"It stopped with {type(stopped.__cause__).__name__}: {stopped.__cause__}"
        with suppress(Stopped):
            answer(*other)
            raise Mistake(
                "numbers_only" if isinstance(given[0], Tensor) else "tensors_only", detail
            ) from None
        raise


def _compare_recovery(got: Any, patched: Tensor, clean: Tensor, corrupted: Tensor) -> None:
    patched, clean, corrupted = (each.double() for each in (patched, clean, corrupted))
    right = (patched - corrupted) / (clean - corrupted)
    shapes = {"averaged": [(), right.shape[:1], right.shape[1:]]} if right.ndim else {}
    compare(got, right, _wrong_recoveries(patched, clean, corrupted), shapes)


def _wrong_recoveries(patched: Tensor, clean: Tensor, corrupted: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    change, gap = patched - corrupted, clean - corrupted
    right = change / gap
    yield "swapped", 1 - right
    yield "negative", -right
    yield from (("other_denominator", top / by) for top in (change, patched) for by in (clean, corrupted))
    yield from (
        ("other_denominator", top) for top in (patched / gap, change / patched, (patched - clean) / clean)
    )
    yield from (("not_divided", one) for one in (change, -change, patched - clean, clean - patched, patched))
    yield from (("absolute", one) for one in (right.abs(), (1 - right).abs()))
    yield "absolute_gap", change / gap.abs()
    yield from (("clamped", right.clamp(*ends)) for ends in ((0, 1), (0, None), (None, 1), (-1, 1)))
    yield "clamped", right.sigmoid()
    yield from (("upside_down", one) for one in (1 / right, 1 / (1 - right)))
    yield "percent", 100 * right
    for small in (digit * 10.0**-place for place in range(2, 8) for digit in (1, 2, 5)):
        yield from (
            ("epsilon", change / by) for by in (gap + small, gap + small * gap.sign(), gap.clamp(min=small))
        )


def _not_refused(answer: Callable, clean: Any, corrupted: Any) -> str:
    """What an answer returns, in words, where it should raise a ``ValueError``; ``""`` if it does."""
    patched = 1.0 if isinstance(clean, float) else torch.ones(2, 3)
    given = f"With clean = {_shown(clean)} and corrupted = {_shown(corrupted)}"
    try:
        return f"{given} it returned {_shown(answer(patched, clean, corrupted))}."
    except Stopped as stopped:
        error = stopped.__cause__
        if not isinstance(error, ValueError):
            raise Mistake("other_error", f"{given} it stopped with {type(error).__name__}: {error}") from None
        return ""


def _softened(answer: Callable, clean: Any, corrupted: Any) -> bool:
    """Whether shares are finite without a gap, and grow with the change: then they are divided by something small."""
    one, twice = (float(answer(corrupted + step, clean, corrupted)) for step in (-1.0, 2.0))
    return one != 0 and math.isfinite(one) and math.isclose(twice, -2 * one, rel_tol=1e-3)


def _shown(value: Any) -> Any:
    """As it is written: a tensor's numbers to six digits."""
    value = number(value)
    if not isinstance(value, Tensor):
        return value
    numbers = [float(f"{one:.6g}") for one in value.flatten().tolist()]
    return numbers if value.ndim else numbers[0]


RECOVERY = Exercise(
    id="04.recovery",
    title="How much came back?",
    minutes=5,
    difficulty=2,
    hints=(
        "What should come out if the patch does nothing, and what if it restores the clean run?",
        "Two differences, both measured from the corrupted run: how far the patch came, over how far it is to the clean run. Built-in `abs` takes numbers and tensors; `torch.as_tensor` makes a tensor of either, which has `.any()`.",
        "`gap = torch.as_tensor(clean - corrupted)`; if `(gap.abs() < 1e-6).any()`, raise a ValueError; else return `(patched - corrupted) / gap`.",
    ),
    mistakes={
        "shape": "Return one share for each entry of `patched`, in the shape to which the three broadcast.",
        "averaged": "That averages over rows, layers or positions. Return a share for each entry of `patched`.",
        "swapped": "Clean and corrupted are swapped: that is what is still *missing*, 1 minus the recovery. A patch that does nothing should get 0, one that restores the clean run 1.",
        "negative": "That has the wrong sign: one of the two differences is reversed. Both are measured from the corrupted run.",
        "other_denominator": "The denominator (or the numerator) isn't measured from the corrupted run. A corrupted run has a logit difference too, and it isn't 0: (patched - corrupted) / (clean - corrupted).",
        "not_divided": "That is a difference in logits. Divide by the whole way from corrupted to clean, so that prompts and models can be compared.",
        "absolute": "The sign is gone. A patch that makes things *worse* has a negative recovery, and that is a finding.",
        "absolute_gap": "The sign of the gap is gone. With clean 0.5, *below* corrupted 2.5, a patch that restores the clean run then gets -1 instead of 1. Divide by clean - corrupted as it is: `abs` belongs only in the test whether the gap is too small.",
        "clamped": "That squeezes values into a range. Below 0 means the patch made it worse, above 1 that it overshot; both should stay visible.",
        "upside_down": "That is upside down: how far the patch came is the numerator.",
        "percent": "That is in per cent. Return the share: 1 for all of it.",
        "numbers_only": "Right for plain numbers, but tensors stop it: an `if` or `float()` takes one value. Ask whether *any* entry is too small, `(abs(gap) < 1e-6).any()`.",
        "tensors_only": "Right for tensors, but plain numbers stop it: a float has no `.abs()`, `.any()` or `.item()`. `torch.as_tensor(clean - corrupted)` makes a tensor of either.",
        "refuses_sound": "Your function refuses runs that do differ. Only a gap of less than 1e-6 is too small, and it may be negative: test the *absolute* difference.",
        "no_error": "Clean and corrupted are the same, so there is nothing to recover: NaN or infinity would wander into a mean or a map and be painted over. Raise a ValueError.",
        "epsilon": "A small number is added to the gap, or put in its place. That changes the shares where the gap is small, and where there is none it gives an enormous share (or 0) instead of an error. Divide by the gap itself, and raise a ValueError where it is less than 1e-6.",
        "only_if_all": "One entry has no gap between clean and corrupted, and no error was raised. One such entry is enough: NaN or infinity there spoils every mean. Test with `.any()`.",
        "exact_only": "A gap of 1e-9 is rounding noise, and dividing by it gives an enormous share. Don't ask whether the two are exactly equal, but whether they differ by less than 1e-6.",
        "other_error": "It does stop, but a caller expects a ValueError, with a sentence that says what is wrong: test the gap before you divide, and `raise ValueError(...)`.",
        "in_place": "Right, but your function changed what it was given (`-=`, `/=` and names that end in `_` do that). Compute a new tensor.",
        "something_else": "That is not (patched - corrupted) / (clean - corrupted).",
    },
    judge=_judge_recovery,
)
