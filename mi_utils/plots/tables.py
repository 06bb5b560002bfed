"""Tables of results: a pandas frame whose numbers are written to be read, and compared from run to run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mi_utils.plots import html
from mi_utils.plots.style import INK

Column = Sequence[Any] | np.ndarray | pd.Series | Any  # Any: a tensor, by its ``tolist``
MISSING = "–"

# Inline, and on every row, because a notebook's own style sheet colours the rows and the text of tables.
_CELL = "padding:3px 10px;white-space:pre-line;vertical-align:top;text-align:"
_TABLE = f"border-collapse:collapse;margin:0;color:{INK};font-size:13px"
_TEMPLATE = """\
<table style="{{ table }}">
{% if caption %}
<caption style="caption-side:top;text-align:left;padding:0 10px 6px;color:inherit">{{ caption }}</caption>
{% endif %}
<thead><tr style="background:#ffffff;border-bottom:1px solid #555555">
{% for heading, side in headings %}
<th scope="col" style="{{ cell }}{{ side }}">{{ heading }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr style="background:#ffffff;border-bottom:1px solid #e4e4e4">
{% for text, side in row %}
{% if loop.index0 < labels %}
<th scope="row" style="{{ cell }}{{ side }};font-weight:600">{{ text }}</th>
{% else %}
<td style="{{ cell }}{{ side }}">{{ text }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
"""


@dataclass(frozen=True, repr=False)
class Table:
    """A formatted table, as :func:`table` makes it: HTML in a notebook, aligned columns as text.

    Attributes:
        frame: the values as they were given, to compute with.
        cells: the same as they are shown; the first ``labels`` columns name the rows.
        caption: the line above it.
    """

    frame: pd.DataFrame
    cells: tuple[tuple[str, ...], ...]
    headings: tuple[str, ...]
    caption: str
    labels: int
    numeric: tuple[bool, ...] = field(repr=False)

    def __repr__(self) -> str:
        """The table as text: the caption, the headings, then each row on a line of its own, uncut."""
        lines = [self.headings, *self.cells]
        lines = [[" ".join(text.split()) for text in line] for line in lines]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = []
        for line in lines:
            padded = [
                text.rjust(width) if numeric else text.ljust(width)
                for text, width, numeric in zip(line, widths, self.numeric, strict=True)
            ]
            shown.append("  ".join(padded).rstrip())
        return "\n".join([self.caption] * bool(self.caption) + shown)

    def _repr_html_(self) -> str:
        return str(html.frame(self.html()))

    def html(self) -> html.Markup:
        """The ``<table>`` alone, without a frame around it."""
        sides = ["right" if numeric else "left" for numeric in self.numeric]
        return html.render(
            _TEMPLATE,
            table=_TABLE,
            cell=_CELL,
            caption=self.caption,
            labels=self.labels,
            headings=list(zip(self.headings, sides, strict=True)),
            rows=[
                [
                    (text.replace("-", "−", 1) if _signed(text) else text, side)
                    for text, side in zip(row, sides, strict=True)
                ]
                for row in self.cells
            ],
        )


def table(
    data: pd.DataFrame | Mapping[str, Column] | Sequence[Mapping[str, Any]],
    *,
    caption: str = "",
    index: str | Sequence[object] | None = None,
    formats: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
) -> Table:
    """Results as a table: numbers and text, no verdicts.

    Whole numbers (integers) are written whole, others to three significant digits and always with a decimal
    point, so that what was counted and what was measured can be told apart; ``1,234.5`` is the shortest form
    of a measured number from 100 on. What is missing (``None``, NaN) is a dash.

    Args:
        data: a frame, whose index names the rows unless it only counts them; or a mapping from heading to
            column (of one length, tensors and arrays too); or rows as mappings, where a row may lack some.
        caption: a line above the table.
        index: what names the rows: a column, or one label for each row.
        formats: column -> format specification of Python, such as ``".1%"`` or ``"+.2f"``.
        units: column -> its unit, written in the heading.

    Raises:
        ValueError: nothing to show, columns of different lengths, a cell that is neither number nor text
            (True and False are verdicts: show the number they were made from), a name in ``formats``,
            ``units`` or ``index`` that is no column, a format that doesn't fit.
    """
    frame, labels = _indexed(_frame(data), index)
    names = list(frame.columns)
    formats, units = dict(formats or {}), dict(units or {})
    for argument, given in (("formats", formats), ("units", units)):
        if stray := [name for name in given if name not in names]:
            raise ValueError(f"{argument} has {stray[0]!r}; it should name columns of the table: {names}")
    columns = [_column(name, frame.iloc[:, i].tolist(), formats.get(name)) for i, name in enumerate(names)]
    return Table(
        frame=frame,
        cells=tuple(zip(*(texts for texts, _ in columns), strict=True)),
        headings=tuple(f"{name} ({units[name]})" if name in units else str(name) for name in names),
        caption=" ".join(caption.split()),
        labels=labels,
        numeric=tuple(numeric for _, numeric in columns),
    )


def number(value: int | float) -> str:
    """A number as a table shows it: ``1,234``, ``0.123``, ``1.50``, ``1,234.5``, ``1.20e-05``; ``∞``."""
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if math.isinf(size):
        return "∞" if value > 0 else "-∞"
    if size >= 1e7 or 0 < size < 1e-4:
        return f"{value:.2e}"
    if size >= 99.95:  # "#.3g" writes 99.96 as "100.", without a digit after the point
        return f"{value:,.1f}"
    return f"{value + 0.0:#.3g}"  # + 0.0: no "-0.00" for the negative zero


def _frame(data: Any) -> pd.DataFrame:
    """What was given as a frame of Python's own values; an integer stays one beside a missing value."""
    if isinstance(data, pd.DataFrame):
        if data.columns.nlevels > 1:
            raise ValueError("data has columns of several levels; each should have one name")
        found = data
    elif isinstance(data, Mapping):
        columns = {name: _values(name, column) for name, column in data.items()}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"data has columns of different lengths, {lengths}; all should have one length")
        found = pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in columns.items()})
    elif (
        isinstance(data, Sequence)
        and not isinstance(data, str)
        and all(isinstance(row, Mapping) for row in data)
    ):
        names = list(dict.fromkeys(name for row in data for name in row))
        found = pd.DataFrame(
            {name: pd.Series([row.get(name) for row in data], dtype=object) for name in names}
        )
    else:
        raise ValueError(
            f"data is a {type(data).__name__}; it should be a frame, a mapping of columns or "
            "a list of mappings"
        )
    if found.empty:
        raise ValueError("data is empty; it should have at least one row and one column")
    return found


def _values(name: object, column: Any) -> list[Any]:
    values = column.tolist() if hasattr(column, "tolist") else column
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ValueError(
            f"data[{name!r}] is {values!r}; it should be a column, one number or text for each row"
        )
    return list(values)


def _indexed(frame: pd.DataFrame, index: str | Sequence[object] | None) -> tuple[pd.DataFrame, int]:
    """The frame with what names the rows as its first columns, and how many these are."""
    if isinstance(index, str):
        if index not in frame.columns:
            raise ValueError(f"index is {index!r}; it should be a column of the table: {list(frame.columns)}")
        rest = [name for name in frame.columns if name != index]
        return frame[[index, *rest]], 1
    if index is not None:
        labels = list(index)
        if len(labels) != len(frame):
            raise ValueError(f"index has {len(labels)} labels; it should have {len(frame)}, one for each row")
        frame = frame.set_axis(pd.Index(labels, dtype=object))
    elif isinstance(frame.index, pd.RangeIndex):
        return frame, 0
    levels = frame.index.nlevels
    names = ["" if name is None else name for name in frame.index.names]
    return frame.reset_index(names=names), levels


def _column(name: object, values: list[Any], spec: str | None) -> tuple[list[str], bool]:
    """The cells of a column as they are shown, and whether it is a column of numbers."""
    plain = [_plain(name, value) for value in values]
    numeric = any(isinstance(value, int | float) for value in plain)
    return [_cell(name, value, spec) for value in plain], numeric


def _plain(name: object, value: Any) -> int | float | str | None:
    """A cell as a number or a text; ``None`` where it is missing."""
    if hasattr(value, "item") and np.size(value) == 1:  # a scalar of numpy or torch
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        raise ValueError(
            f"data has {value} in column {name!r}; a cell should be a number or a text, such as "
            "what was measured"
        )
    if not isinstance(value, int | float | str):
        raise ValueError(
            f"data has a {type(value).__name__} in column {name!r}; a cell should be a number or a text"
        )
    return value


def _cell(name: object, value: int | float | str | None, spec: str | None) -> str:
    if value is None:
        return MISSING
    if spec is None or isinstance(value, str):
        return number(value) if isinstance(value, int | float) else value
    try:
        return format(value, spec)
    except ValueError:
        raise ValueError(
            f"formats[{name!r}] is {spec!r}; it should be a format for {value!r}, such as '.2f'"
        ) from None


def _signed(text: str) -> bool:
    """Whether a cell is a negative number: its hyphen is shown as the minus that it stands for."""
    return text.startswith("-") and text[1:2].isdigit() or text == "-∞"
