"""What a claim requires of a number that was measured here, and whether that is met."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = ["Outcome", "judge", "show"]


@runtime_checkable
class Scalar(Protocol):
    """A number from numpy or torch: what has ``item()``."""

    def item(self) -> Any: ...


Number = int | float | Scalar
Side = Literal["below", "met", "above", "unmet"]


@dataclass(frozen=True)
class Outcome:
    """Whether a criterion is met.

    Attributes:
        side: ``"met"``; else ``"below"`` or ``"above"`` what was required, or ``"unmet"`` where what was
            required is no range.
        words: the criterion as a table shows it, such as ``"≥ 0.9"``.
    """

    side: Side
    words: str


def judge(
    ours: int | float | str,
    published: int | float | str | None = None,
    *,
    tolerance: Number | None = None,
    at_least: Number | None = None,
    at_most: Number | None = None,
    holds: bool | Scalar | None = None,
) -> Outcome:
    """Whether what was measured here meets the one criterion that is given.

    Args:
        ours, published: figures as :func:`as_figure` makes them.
        tolerance: met when ``ours`` is within this of ``published`` (both numbers).
        at_least, at_most: met when ``ours`` lies within these bounds (one or both).
        holds: a comparison already made (an ordering, a set), as a plain bool.

    Raises:
        ValueError: no criterion or several, a number that is not finite, bounds that nothing can meet.
    """
    bounded = at_least is not None or at_most is not None
    if (tolerance is not None) + bounded + (holds is not None) != 1:
        raise ValueError("give exactly one criterion: tolerance, at_least/at_most, or holds")
    if holds is not None:
        return Outcome("met" if _truth(holds) else "unmet", "as stated")
    if tolerance is not None:
        return _near(
            as_number("ours", ours), as_number("published", published), as_number("tolerance", tolerance)
        )
    return _between(as_number("ours", ours), at_least, at_most)


def _near(ours: int | float, published: int | float, tolerance: int | float) -> Outcome:
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}; it should not be negative")
    words = f"within {show(tolerance)} of {show(published)}"
    if abs(ours - published) <= tolerance:
        return Outcome("met", words)
    return Outcome("below" if ours < published else "above", words)


def _between(ours: int | float, at_least: Number | None, at_most: Number | None) -> Outcome:
    low = -math.inf if at_least is None else as_number("at_least", at_least)
    high = math.inf if at_most is None else as_number("at_most", at_most)
    if low > high:
        raise ValueError(f"at_least is {show(low)} and at_most is {show(high)}; nothing could hold")
    words = [f"≥ {show(low)}"] * (at_least is not None) + [f"≤ {show(high)}"] * (at_most is not None)
    if low <= ours <= high:
        return Outcome("met", " and ".join(words))
    return Outcome("below" if ours < low else "above", " and ".join(words))


def as_figure(name: str, value: object) -> int | float | str:
    """A figure of a table: a text as it is, else a finite number.

    Raises:
        ValueError: it is neither; the message calls it ``name``.
    """
    return value if isinstance(value, str) else as_number(name, value)


def as_number(name: str, value: object) -> int | float:
    """A finite number as Python's own, also from a scalar of numpy or torch.

    Raises:
        ValueError: it is none; the message calls it ``name``.
    """
    plain = _plain(value)
    if not isinstance(plain, int | float) or isinstance(plain, bool) or not math.isfinite(plain):
        raise ValueError(f"{name} is {value!r}; it should be a finite number")
    return plain


def _truth(holds: object) -> bool:
    plain = _plain(holds)
    if not isinstance(plain, bool):
        raise ValueError(f"holds is {holds!r}; it should be True or False")
    return plain


def _plain(value: object) -> object:
    """A scalar of numpy or torch as the Python value it holds; anything else, larger arrays too, as it is."""
    if not isinstance(value, Scalar):
        return value
    try:
        return value.item()
    except (ValueError, RuntimeError):  # more than one element
        return value


def show(value: int | float | str | None) -> str:
    """A figure as the table shows it: counts in full, else three significant digits; a dash where there is
    none."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
