"""The table *Paper and here*: published results beside ours, each line an assertion.

A claim says what was published, what was measured here, what would count as agreement, for which models it
is asserted and whether agreement is expected. A verdict other than the expected one is an error, so that a
notebook can't quietly show a result that no longer holds; an expected disagreement is stated, not hidden.
"""

import html
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Verdict = Literal["holds", "differs", "not asserted"]


@runtime_checkable
class Scalar(Protocol):
    """A number from numpy or torch: what has ``item()``."""

    def item(self) -> Any: ...


Number = int | float | Scalar


class ClaimError(AssertionError):
    """A claim came out otherwise than its author expects."""


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    ``published`` is the figure in the source, ``ours`` the one measured here, as numbers where they are
    compared. ``criterion`` says in words what was required. ``verdict`` is ``"not asserted"`` where the claim
    is not about the model in use: it is about ``models``, or about any where these are none.
    """

    statement: str
    source: str
    published: int | float | str | None
    ours: int | float | str
    criterion: str
    verdict: Verdict
    expected: Literal["holds", "differs"]
    explanation: str = ""
    models: tuple[str, ...] = ()

    @property
    def as_expected(self) -> bool:
        return self.verdict in ("not asserted", self.expected)


@dataclass
class Claims:
    """The claims of one notebook.

    Args:
        notebook: its number, ``"03"``.
        model: name of the model in use; claims about other models are shown as *not asserted*.

    Example::

        claims = Claims("03", model=MODEL)
        claims.add("the last layer's lens is the model itself", source="identity", ours=gap, at_most=1e-4)
        claims.table()
    """

    notebook: str
    model: str
    lines: list[Claim] = field(default_factory=list)

    def add(
        self,
        statement: str,
        *,
        source: str,
        ours: Number | str,
        published: Number | str | None = None,
        tolerance: Number | None = None,
        at_least: Number | None = None,
        at_most: Number | None = None,
        holds: bool | Scalar | None = None,
        models: tuple[str, ...] = (),
        expect: Literal["holds", "differs"] = "holds",
        explanation: str = "",
    ) -> Claim:
        """Add a line. Exactly one kind of criterion is given.

        Args:
            statement: what is claimed, as a sentence.
            source: paper and section, or ``"identity"`` for what must be true of any model.
            ours: what was measured here; a scalar of numpy or torch is as good as a number.
            published: the figure in the source; ``None`` where there is none (then say so in ``source``).
            tolerance: it holds when ``ours`` is within this of ``published`` (both numbers).
            at_least, at_most: it holds when ``ours`` lies within these bounds (one or both).
            holds: a comparison already made (an ordering, a set), as a plain bool.
            models: names of the models it is about; empty means any model.
            expect: ``"differs"`` for a published result that is known not to carry over; then say why in
                ``explanation``, which is shown.

        Raises:
            ValueError: no criterion or several, a number that is not finite, a missing explanation.
        """
        for name, text in (("statement", statement), ("source", source)):
            if not text.strip():
                raise ValueError(f"{name} is empty; it should say something")
        if isinstance(models, str):  # "gpt2" would hold "gpt": a name is looked for in a tuple, not in a word
            raise ValueError(f"models is {models!r}; it should be a tuple of names")
        ours, published = (
            _figure("ours", ours),
            None if published is None else _figure("published", published),
        )
        verdict, criterion = _judge(published, ours, tolerance, at_least, at_most, holds)
        if expect not in ("holds", "differs"):
            raise ValueError(f"expect is {expect!r}; it should be 'holds' or 'differs'")
        if expect == "differs" and not explanation.strip():
            raise ValueError("explanation is empty; a claim that is expected to differ should say why")
        if any(line.statement == statement for line in self.lines):
            raise ValueError(f"statement is {statement!r}, which is already in the table")
        if models and self.model not in models:
            verdict = "not asserted"
        claim = Claim(
            statement, source, published, ours, criterion, verdict, expect, explanation, tuple(models)
        )
        self.lines.append(claim)
        return claim

    def table(self) -> "ClaimsTable":
        """The table to show, once every line came out as expected.

        Where ``MI_CLAIMS_DIR`` is set, the lines are also written there, as ``<notebook>.json``.

        Raises:
            ValueError: there are no claims.
            ClaimError: a verdict is not the expected one; the message lists all that are not.
        """
        if not self.lines:
            raise ValueError("there are no claims; add at least one")
        folder = os.environ.get("MI_CLAIMS_DIR")
        if folder:
            self._write(Path(folder))
        wrong = [line for line in self.lines if not line.as_expected]
        if wrong:
            raise ClaimError(
                "\n".join(
                    f"{line.statement!r}: expected {line.expected!r}, found {line.verdict!r} "
                    f"(published {show(line.published)}, ours {show(line.ours)}, required {line.criterion})"
                    for line in wrong
                )
            )
        return ClaimsTable(tuple(self.lines))

    def _write(self, folder: Path) -> None:
        keys = ("statement", "source", "verdict", "expected", "criterion", "explanation")
        lines = [
            {key: getattr(line, key) for key in keys}
            | {
                "published": show(line.published),
                "ours": show(line.ours),
                "tolerance": line.criterion,
                "models": ", ".join(line.models),
            }
            for line in self.lines
        ]
        folder.mkdir(parents=True, exist_ok=True)
        content = {"notebook": self.notebook, "model": self.model, "claims": lines}
        (folder / f"{self.notebook}.json").write_text(
            json.dumps(content, indent=1, ensure_ascii=False), "utf-8"
        )


def _judge(published, ours, tolerance, at_least, at_most, holds) -> tuple[Verdict, str]:
    bounded = at_least is not None or at_most is not None
    if (tolerance is not None) + bounded + (holds is not None) != 1:
        raise ValueError("give exactly one criterion: tolerance, at_least/at_most, or holds")
    if holds is not None:
        agrees, words = _truth(holds), "as stated"
    elif tolerance is not None:
        agrees, words = _near(
            _number("ours", ours), _number("published", published), _number("tolerance", tolerance)
        )
    else:
        agrees, words = _between(_number("ours", ours), at_least, at_most)
    return ("holds" if agrees else "differs"), words


def _near(ours: int | float, published: int | float, tolerance: int | float) -> tuple[bool, str]:
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}; it should not be negative")
    return abs(ours - published) <= tolerance, f"within {show(tolerance)} of {show(published)}"


def _between(ours: int | float, at_least: Number | None, at_most: Number | None) -> tuple[bool, str]:
    low = -math.inf if at_least is None else _number("at_least", at_least)
    high = math.inf if at_most is None else _number("at_most", at_most)
    if low > high:
        raise ValueError(f"at_least is {show(low)} and at_most is {show(high)}; nothing could hold")
    words = [f"≥ {show(low)}"] * (at_least is not None) + [f"≤ {show(high)}"] * (at_most is not None)
    return low <= ours <= high, " and ".join(words)


def _plain(value: object) -> object:
    """A scalar of numpy or torch as the Python value it holds; anything else, larger arrays too, as it is."""
    if not isinstance(value, Scalar):
        return value
    try:
        return value.item()
    except (ValueError, RuntimeError):  # more than one element
        return value


def _figure(name: str, value: object) -> int | float | str:
    return value if isinstance(value, str) else _number(name, value)


def _number(name: str, value: object) -> int | float:
    plain = _plain(value)
    if not isinstance(plain, int | float) or isinstance(plain, bool) or not math.isfinite(plain):
        raise ValueError(f"{name} is {value!r}; it should be a finite number")
    return plain


def _truth(holds: object) -> bool:
    plain = _plain(holds)
    if not isinstance(plain, bool):
        raise ValueError(f"holds is {holds!r}; it should be True or False")
    return plain


def show(value: int | float | str | None) -> str:
    """A figure as the table shows it: counts in full, else three significant digits; a dash where there is
    none."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


@dataclass(frozen=True)
class ClaimsTable:
    """What a notebook shows: the figures for people, and in plain text only the conclusions."""

    lines: tuple[Claim, ...]

    def __repr__(self) -> str:
        marks = {"holds": "holds", "differs": "differs, as expected", "not asserted": "not asserted here"}
        return "\n".join(f"{marks[line.verdict]}: {line.statement}" for line in self.lines)

    def _repr_html_(self) -> str:
        head = "".join(
            f'<th style="text-align:left">{name}</th>'
            for name in ("claim", "source", "published", "here", "required", "verdict")
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, self.lines))}</tbody></table>"


def _row(line: Claim) -> str:
    mark = {"holds": "✓ holds", "differs": "≠ differs, as expected", "not asserted": "· not asserted"}[
        line.verdict
    ]
    note = f"<br><small>{html.escape(line.explanation)}</small>" if line.explanation else ""
    cells = (line.source, show(line.published), show(line.ours), line.criterion, mark)
    rest = "".join(f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in cells)
    return f'<tr><td style="text-align:left">{html.escape(line.statement)}{note}</td>{rest}</tr>'
