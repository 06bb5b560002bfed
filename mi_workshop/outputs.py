"""How the stored outputs of a notebook's cell are compared with fresh ones: number by number.

Floating-point results differ a little from one processor to another, and a model trained live differs more.
So a text (what is printed, and the plain text of a result or a table) is read as words and numbers:

* **words** are compared exactly, and so are numbers inside words: ``L5H3``, ``0.1.2``, ``06.abc``;
* **whole numbers** are compared exactly (``1,234`` is ``1234``, and a typographic minus is a minus);
* **decimals**, numbers with an exponent, and percentages may differ by the tolerance, relative to the stored
  number, *plus one unit of its last digit shown*. Without that unit a number near 0 could never be shown:
  ``0.001`` and ``-0.0004``, both written with three digits after the point, are 0.001 and -0.000. Where only
  one of the two numbers has a point (``1`` and ``0.998``, as ``%.3g`` writes them) it is a decimal;
* **spaces** only separate: columns grow wider as 9.9 becomes 10.1. A line is compared with the line of the
  same place, and a value in brackets that was broken over several lines counts as one.

Figures are compared by their :mod:`skeleton <mi_workshop.skeleton>`, other kinds of output exactly.
HTML is not compared: it is there for people, and its plain text says the same.
"""

import difflib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mi_workshop.skeleton import PLOTLY_MIME, skeleton

TOLERANCE = 0.05
"""How far a decimal may be from the stored one, as a share of the stored one."""

# stderr depends on versions and the machine; widgets' ids are random; PNGs are drawn anew.
_SKIPPED = frozenset(
    {"stderr", "text/html", "image/png", "image/jpeg", "application/vnd.jupyter.widget-view+json"}
)
_TEXTS = frozenset({"stdout", "text/plain", "text/markdown"})
_LONGEST_REPORT = 20  # lines

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_POWER = r"[eE][+\-−]?\d+"
_TOKEN = re.compile(
    rf"""(?P<rule> [-=_─━═]{{3,}} )                    # a line under a heading, as wide as its table
       | (?P<number>
           (?:(?<![\w.])[+\-−])?  (?<![\w.])           # a sign, unless it joins two words
           (?: (?P<decimal> (?:{_WHOLE}?\.\d+(?:{_POWER})?|\d+{_POWER})
                 (?!\.?\d|\.\w|_)                      # not 0.1.2
                 (?=[^\W\d_]{{0,4}}(?!\w)) )           # but 2.5GiB
             | {_WHOLE}(?!\.?\w)                       # not 5ms, not 06.abc
                 (?P<percent>(?=\ ?(?:%|percent\b)))? )
           \.? )                                       # of "1." or of the sentence's end
       | \S""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Number:
    """A number in a text.

    Attributes:
        text: how it is written, without separators of thousands and with a plain minus.
        value: what it is.
        unit: one unit of its last digit shown; ``None`` for a whole number.
    """

    text: str
    value: Decimal
    unit: Decimal | None


def tolerance_of(metadata: Mapping[str, Any]) -> float:
    """The tolerance that a cell's metadata state under ``tolerance``, or the usual one.

    Raises:
        ValueError: it is no number above 0 and at most 1.
    """
    stated = metadata.get("tolerance", TOLERANCE)
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 < stated <= 1:
        raise ValueError(f"tolerance is {stated!r}; it should be a number above 0 and at most 1")
    return float(stated)


def differences(
    stored: Iterable[Mapping[str, Any]],
    fresh: Iterable[Mapping[str, Any]],
    *,
    tolerance: float = TOLERANCE,
    rewrite: Callable[[str], str] = str,
) -> list[str]:
    """What differs between a cell's stored and fresh outputs, in words; nothing if they agree.

    Args:
        stored, fresh: outputs as nbformat has them. The order of outputs of different kinds does not count.
        tolerance: how far a decimal may be off, as a share of the stored one.
        rewrite: applied to every text of both sides first, such as nbval's ``sanitize``.
    """
    expected, found = _by_kind(stored), _by_kind(fresh)
    report: list[str] = []
    for kind in sorted(expected.keys() | found.keys()):
        before, after = expected[kind], found[kind]
        if len(before) != len(after):
            report.append(f"{kind}: {len(before)} outputs expected, {len(after)} found")
            report += [line for value in before for line in _quoted("expected", value)]
            report += [line for value in after for line in _quoted("found", value)]
            continue
        for old, new in zip(before, after, strict=True):
            report += [f"{kind}, {line}" for line in _differences(kind, old, new, tolerance, rewrite)]
    if len(report) > _LONGEST_REPORT:
        left = len(report) - _LONGEST_REPORT
        report = [*report[:_LONGEST_REPORT], f"... and {left} lines more"]
    return report


def _by_kind(outputs: Iterable[Mapping[str, Any]]) -> defaultdict[str, list[Any]]:
    """What is compared of a cell's outputs, by stream or MIME type; of a figure its skeleton."""
    values: defaultdict[str, list[Any]] = defaultdict(list)
    for output in outputs:
        if output["output_type"] == "stream":
            values[output["name"]].append(output["text"])
        elif output["output_type"] == "error":
            values["error"].append(f"{output['ename']}: {output['evalue']}")
        for kind, value in output.get("data", {}).items():
            values[kind].append(skeleton(value) if kind == PLOTLY_MIME else value)
    for kind in _SKIPPED & values.keys():
        del values[kind]
    return values


def _differences(
    kind: str, stored: Any, fresh: Any, tolerance: float, rewrite: Callable[[str], str]
) -> list[str]:
    if isinstance(stored, str) and isinstance(fresh, str):
        stored, fresh = rewrite(stored), rewrite(fresh)
        if kind in _TEXTS:
            return text_differences(stored, fresh, tolerance=tolerance)
        if stored != fresh:
            lines = difflib.unified_diff(stored.splitlines(), fresh.splitlines(), n=1, lineterm="")
            return [line for line in lines if not line.startswith(("---", "+++"))]
    return [] if stored == fresh else [*_quoted("expected", stored), *_quoted("found", fresh)]


def _quoted(word: str, value: Any) -> list[str]:
    text = str(value)
    return [f"    {word + ':':<9} {line}" for line in text[:1000].splitlines()[:8]]


# --- texts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """A line of a text, or several where one value in brackets was broken over them."""

    number: int  # counted from 1
    text: str

    @property
    def tokens(self) -> list[str | Number]:
        return tokens(self.text)

    @property
    def shape(self) -> tuple[str, ...]:
        """What must be equal in lines that agree, to tell which lines were gained."""
        decimal = "a decimal"
        return tuple(
            token if isinstance(token, str) else decimal if token.unit is not None else token.text
            for token in self.tokens
        )


def text_differences(stored: str, fresh: str, *, tolerance: float = TOLERANCE) -> list[str]:
    """What differs between two texts, in words: the line, what was expected and found, what was allowed.

    Args:
        stored: what was expected.
        fresh: what was found.
        tolerance: how far a decimal may be off, as a share of the stored one.
    """
    before, after = _lines(stored), _lines(fresh)
    if len(before) == len(after):
        pairs = zip(before, after, strict=True)
        return [what for old, new in pairs for what in _line_differences(old, new, tolerance)]
    report = [f"{len(before)} lines expected, {len(after)} found"]
    shapes = [[line.shape for line in lines] for lines in (before, after)]
    matcher = difflib.SequenceMatcher(None, *shapes, autojunk=False)
    for what, start, stop, new_start, new_stop in matcher.get_opcodes():
        if what != "equal":
            report += [f"line {line.number} lost: {line.text}" for line in before[start:stop]]
            report += [f"line {line.number} gained: {line.text}" for line in after[new_start:new_stop]]
    return report


def tokens(text: str) -> list[str | Number]:
    """The words and numbers of a text, in order. A word is what stands between spaces and numbers."""
    found: list[str | Number] = []
    end = -1  # of the word before, if the last token is one
    for match in _TOKEN.finditer(text):
        if match["number"]:
            found.append(_number(match))
        elif match["rule"]:
            found.append("---")
        elif match.start() == end:
            found[-1] = f"{found[-1]}{match[0]}"
        else:
            found.append(match[0])
        end = match.end() if match.lastgroup is None else -1
    return found


def _number(match: re.Match[str]) -> Number:
    text = match["number"].replace(",", "").replace("−", "-").removesuffix(".")
    value = Decimal(text)
    if match["decimal"]:
        return Number(text, value, _unit(value))
    return Number(text, value, Decimal(1) if match["percent"] is not None else None)


def _unit(value: Decimal) -> Decimal:
    """One unit of the last digit with which ``value`` was written: 0.01 of 2.50, 0.1e-5 of 1.2e-5."""
    return Decimal(1).scaleb(value.as_tuple().exponent)


def _lines(text: str) -> list[_Line]:
    """The lines of a text without blank ones; a value in brackets that goes on further right is one line."""
    lines: list[_Line] = []
    depth = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if depth > 0 and line.startswith(" "):
            lines[-1] = _Line(lines[-1].number, f"{lines[-1].text} {line.strip()}")
        else:
            depth = 0
            lines.append(_Line(number, line.rstrip()))
        depth += sum(line.count(mark) for mark in "([{") - sum(line.count(mark) for mark in ")]}")
    return lines


def _line_differences(stored: _Line, fresh: _Line, tolerance: float) -> list[str]:
    before, after = stored.tokens, fresh.tokens
    kinds = [[isinstance(token, Number) for token in line] for line in (before, after)]
    if kinds[0] == kinds[1]:
        found = [
            what for pair in zip(before, after, strict=True) for what in _token_differences(*pair, tolerance)
        ]
    else:
        found = ["the words and numbers are others"]
    where = f"line {fresh.number}: {'; '.join(found)}"
    return [where, *_quoted("expected", stored.text), *_quoted("found", fresh.text)] if found else []


def _token_differences(stored: str | Number, fresh: str | Number, tolerance: float) -> Iterator[str]:
    if isinstance(stored, str) or isinstance(fresh, str):
        if stored != fresh:
            yield f"{stored!r} expected, {fresh!r} found"
        return
    unit = fresh.unit if stored.unit is None else stored.unit
    if unit is None:
        if stored.text != fresh.text:
            yield f"the whole number {stored.text} expected, {fresh.text} found"
        return
    gap, size = abs(fresh.value - stored.value), abs(stored.value)
    if gap > Decimal(str(tolerance)) * size + unit:
        share = float(gap / size) if size else math.inf
        allowed = f"{tolerance:.3g} of it and {unit} are allowed"
        yield f"{stored.text} expected, {fresh.text} found, off by {share:.2g} of it; {allowed}"
