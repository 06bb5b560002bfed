"""Alternative text: what a figure shows, in words, for a reader who doesn't see it.

The best text says what is to be seen, and only the author knows that: a figure may carry it as
``layout.meta["alt"]``. Where it doesn't, the text is put together from what the figure says of itself: title,
kinds and names of traces, titles of axes and of the colour scale.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

_KINDS = {
    "bar": "bars",
    "box": "boxes",
    "contour": "contour plot",
    "heatmap": "heat map",
    "histogram": "histogram",
    "scatter3d": "points in three dimensions",
    "violin": "violins",
}
_MOST_NAMES = 8


def of(figure: dict[str, Any]) -> str:
    """The alternative text of a plotly figure, in one line.

    Args:
        figure: the figure's JSON, as in a notebook's output: ``data`` and ``layout``.
    """
    layout = figure.get("layout", {})
    meta = layout.get("meta")
    given = _plain(meta.get("alt")) if isinstance(meta, dict) else ""
    return given or " ".join(map(_sentence, _parts(figure.get("data", []), layout)))


def _sentence(part: str) -> str:
    return part if part.endswith((".", "?", "!")) else f"{part}."


def _parts(traces: list[dict[str, Any]], layout: dict[str, Any]) -> Iterator[str]:
    """What the figure says of itself, one part a sentence."""
    if title := _title(layout):
        yield title
    yield _shown(traces)
    panels = [_plain(note.get("text")) for note in layout.get("annotations", []) if _is_heading(note)]
    for what, titles in (
        ("panels", panels),
        ("across", _axis_titles(layout, "xaxis")),
        ("up", _axis_titles(layout, "yaxis")),
        ("colour", _colour_titles(traces, layout)),
    ):
        distinct = [*dict.fromkeys(filter(None, titles))]
        if distinct:
            yield f"{what.capitalize()}: {'; '.join(distinct)}"


def _shown(traces: list[dict[str, Any]]) -> str:
    """The kinds of a figure's traces, with the names that its legend shows."""
    drawn = [trace for trace in traces if _kind(trace) != "text"] or traces
    if not drawn:
        return "An empty figure"
    kinds = Counter(map(_kind, drawn))
    words = " and ".join(kind if count == 1 else f"{kind} ({count} traces)" for kind, count in kinds.items())
    names = [*dict.fromkeys(filter(None, (_plain(trace.get("name")) for trace in drawn)))]
    left = len(names) - _MOST_NAMES
    names = [*names[:_MOST_NAMES], f"and {left} more"] if left > 0 else names
    shown = f"{words[0].upper()}{words[1:]}"
    return f"{shown}: {'; '.join(names)}" if names else shown


def _kind(trace: dict[str, Any]) -> str:
    """The kind of a trace, in a word or two."""
    kind = trace.get("type", "scatter")
    if kind in ("scatter", "scattergl"):
        mode = trace.get("mode", "lines")
        return "lines" if "lines" in mode else "points" if "markers" in mode else "text"
    return _KINDS.get(kind, kind)


def _is_heading(note: dict[str, Any]) -> bool:
    """Whether an annotation is the heading of a panel, as plotly's subplots write it."""
    return note.get("xref") == note.get("yref") == "paper" and not note.get("showarrow", True)


def _axis_titles(layout: dict[str, Any], axis: str) -> list[str]:
    return [_title(layout[key]) for key in sorted(layout) if re.fullmatch(rf"{axis}\d*", key)]


def _colour_titles(traces: list[dict[str, Any]], layout: dict[str, Any]) -> list[str]:
    scales = [layout[key] for key in sorted(layout) if re.fullmatch(r"coloraxis\d*", key)]
    scales += [*traces, *(trace.get("marker", {}) for trace in traces)]
    return [_title(scale.get("colorbar", {})) for scale in scales]


def _title(part: dict[str, Any]) -> str:
    """The title of a layout, an axis or a colour bar; plotly takes it as text or as a dictionary."""
    title = part.get("title") or ""
    return _plain(title.get("text") if isinstance(title, dict) else title)


def _plain(text: object) -> str:
    """A figure's text without its tags and entities, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", str(text or ""))).split())
