"""The verdict word on a published figure and ours; :meth:`claims.Claims.paper` asks for it."""

from typing import Any

from mi_utils.claims.criteria import Number, Scalar, as_figure, judge, show

__all__ = []

_SIDES = {"met": "agrees", "below": "smaller", "above": "larger", "unmet": "differs"}


def as_published(value: object) -> int | float | str:
    """A published figure, a number or a few words.

    Raises:
        ValueError: there is none, or a number that is not finite.
    """
    if value is None or value == "":
        raise ValueError(
            f"published is {value!r}; a line of 'Paper and here' should have a published figure, and what "
            "has none is a check"
        )
    return as_figure("published", value)


def compare_with_published(
    ours: int | float | str,
    published: int | float | str,
    *,
    tolerance: Number | None,
    at_least: Number | None,
    at_most: Number | None,
    holds: bool | Scalar | None,
) -> tuple[str, str]:
    """``agrees``, ``larger``, ``smaller`` or ``differs``, and in words what counts as agreement.

    Raises:
        ValueError: no criterion or several, or bounds that the published figure itself is not within.
    """
    outcome = judge(ours, published, tolerance=tolerance, at_least=at_least, at_most=at_most, holds=holds)
    bounded = at_least is not None or at_most is not None
    if bounded and not isinstance(published, str):
        at_published = judge(published, at_least=at_least, at_most=at_most)
        if at_published.side != "met":
            raise ValueError(f"published is {show(published)}; it should be {outcome.words}, as agreement is")
    return _SIDES[outcome.side], outcome.words


def set_beside(
    ours: int | float | str, published: int | float | str, *, tolerance: Number | None, **criterion: Any
) -> tuple[str, str]:
    """``not comparable``, or ``differs`` where our figure alone does not meet its criterion.

    Raises:
        ValueError: no criterion or several, or a tolerance, which would compare.
    """
    if tolerance is not None:
        raise ValueError("tolerance is given; a figure that is not comparable should have bounds of its own")
    outcome = judge(ours, published, **criterion)
    return ("not comparable" if outcome.side == "met" else "differs"), outcome.words
