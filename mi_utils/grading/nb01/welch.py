"""Check of notebook 01 about the Welch bound."""

import math
from collections.abc import Callable, Iterable, Iterator
from numbers import Complex
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, kind, named, number, same
from mi_utils.grading.core import Exercise, Mistake, Stopped

# ------------------------------------------------------------------ 01.welch: the Welch bound

_CROWDED = ((3, 2), (20, 5), (400, 30), (8, 7), (50, 1))
_ROOMY = ((5, 5), (2, 7), (6, 30), (1, 1), (1, 4))


def _judge_welch(answer: Callable) -> None:
    wanted = torch.tensor([_welch(N, m) for N, m in _CROWDED], dtype=torch.float64)
    try:
        got = _numbers(answer, _CROWDED)
    except (Stopped, Mistake):
        _judge_swapped(answer, wanted)
        raise
    if not same(got, wanted):
        _judge_swapped(answer, wanted)
        first = (
            f"For N = {_CROWDED[1][0]} and m = {_CROWDED[1][1]} it gives {got[1]:.4f}, not {wanted[1]:.4f}."
        )
        raise named(got, _wrong_bounds(), Mistake("something_else", first))
    for N, m in _ROOMY:
        _judge_roomy(answer, N, m)


def _welch(N: int, m: int) -> float:
    return math.sqrt((N - m) / (m * (N - 1)))


def _numbers(answer: Callable, pairs: Iterable[tuple[int, int]]) -> Tensor:
    return torch.stack([_as_number(ask(answer, *pair)[0]) for pair in pairs])


def _as_number(got: Any) -> Tensor:
    got = number(got)
    if isinstance(got, Complex) or (isinstance(got, Tensor) and got.is_complex()):
        raise Mistake("root_of_negative")
    if not isinstance(got, Tensor) or got.ndim:
        raise Mistake("shape", f"It returned {kind(got)}.")
    return got.detach().cpu().double()


def _judge_swapped(answer: Callable, wanted: Tensor) -> None:
    """Whether it is right once the arguments change places."""
    try:
        swapped = _numbers(answer, [(m, N) for N, m in _CROWDED])
    except (Stopped, Mistake):
        return
    if same(swapped, wanted):
        raise Mistake("swapped")


def _judge_roomy(answer: Callable, N: int, m: int) -> None:
    """Where all directions can be orthogonal."""
    try:
        got = number(ask(answer, N, m)[0])
    except Stopped as stopped:
        seen = f"stops with {type(stopped.__cause__).__name__}"
    else:
        if same(got, torch.zeros(())):
            return
        seen = (
            f"gives {float(got):.4g}" if isinstance(got, Tensor) and got.ndim == 0 else f"returns {kind(got)}"
        )
    raise Mistake("single" if N == 1 else "not_zero", f"For N = {N} and m = {m} it {seen}.")


def _wrong_bounds() -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    N, m = torch.tensor(_CROWDED, dtype=torch.float64).unbind(1)
    square = (N - m) / (m * (N - 1))
    yield "squared", square
    yield "swapped", ((N - m) / (N * (m - 1))).sqrt()
    yield "one_over_root_m", m.rsqrt()
    yield "one_over_root_m", 1 / m
    yield "no_minus_one", ((N - m) / (m * N)).sqrt()
    yield "parentheses", ((N - m) / m * (N - 1)).sqrt()
    yield "parentheses", (N - m / (m * (N - 1))).sqrt()
    yield "parentheses", ((N - m) / (m * N - 1)).sqrt()
    yield "parentheses", (N - m).sqrt() / (m * (N - 1))
    yield "parentheses", (N - m) / (m * (N - 1)).sqrt()
    yield "m_missing", ((N - m) / (N - 1)).sqrt()
    yield "inverse", square.rsqrt()
    yield "inverse", 1 / square
    yield "angle", square.sqrt().acos()
    yield "angle", square.sqrt().acos().rad2deg()


WELCH = Exercise(
    id="01.welch",
    title="The Welch bound",
    minutes=5,
    difficulty=2,
    hints=(
        "With at most m directions in m dimensions, how small can the largest overlap be? From which N on does the formula say something?",
        "Ask for N <= m first and return 0 there: the root would be of something negative, and N = 1 divides by 0. Else it is sqrt((N - m) / (m (N - 1))); mind the parentheses.",
        "`return math.sqrt((N - m) / (m * (N - 1))) if N > m else 0.0`",
    ),
    mistakes={
        "shape": "Return one number.",
        "squared": "The square root is missing: that bounds the squared cosine.",
        "swapped": "N and m have changed places: N is the number of directions, the first argument, and m the dimension.",
        "one_over_root_m": "That is what is left for very many directions. With N of them the bound is sqrt((N - m) / (m (N - 1))), which is smaller.",
        "no_minus_one": "The denominator has N - 1 in it: each direction overlaps with the N - 1 others.",
        "parentheses": "The formula is another one as Python reads it: write `(N - m) / (m * (N - 1))` with all its parentheses, and the root around the whole.",
        "m_missing": "The m in the denominator is missing: m (N - 1).",
        "inverse": "That is upside down: (N - m) is divided by m (N - 1).",
        "angle": "That is an angle. The bound is on the cosine itself.",
        "root_of_negative": "A complex number came back: there is a root of something negative. For N > m, (N - m) / (m (N - 1)) is positive.",
        "not_zero": "Right for N > m. With N <= m directions all can be orthogonal, so that the bound is 0.",
        "single": "Right but for one direction alone: N - 1 is 0 there, and the bound is 0, as for all N <= m.",
        "something_else": "That is not sqrt((N - m) / (m (N - 1))).",
    },
    judge=_judge_welch,
)
