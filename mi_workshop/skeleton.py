"""What of a plotly figure is compared when a notebook is tested: everything a reader would name, no number.

Floating-point results differ in their last digits from one CPU to another, and plotly stores arrays as
base64, in which one digit changes everything. So a figure is reduced to its *skeleton*: trace types, names,
titles, tick texts, category names, and of each array its kind and shape.
"""

import base64
import json
import re
from typing import Any

PLOTLY_MIME = "application/vnd.plotly.v1+json"

# Lists of strings in a trace that name what is shown. Any other list of strings (the text on a heatmap's
# cells, hover texts, colours) is data, and only its shape counts.
_NAMES = frozenset({"x", "y", "label", "labels", "parents", "ticktext"})
# A slider or a menu is told by what stands on it; what its steps do is data again.
_CONTROLS = frozenset({"sliders", "updatemenus"})


def skeleton(figure: dict[str, Any]) -> str:
    """The skeleton of a plotly figure, as text whose lines can be compared.

    Args:
        figure: the figure's JSON, as in a notebook's output: ``data``, ``layout`` and perhaps ``frames``.

    Returns:
        JSON with sorted keys. Arrays stand there as ``f8[3, 4]`` or ``int[5]``, plain lists as ``number[3]``
        or ``text[2, 7]``, single numbers as ``number``. The template is left out, and so are the ticks of a
        logarithmic axis, which are numbers too, and ``meta``, where the figure's alternative text stands:
        prose, in which numbers may drift.

    Raises:
        ValueError: an array's dtype is none that plotly writes.
    """
    layout = {k: v for k, v in figure.get("layout", {}).items() if k not in _CONTROLS | {"template", "meta"}}
    reduced = {
        "traces": [_reduced(trace, _NAMES) for trace in figure.get("data", [])],
        "layout": _reduced(layout, None),
        "controls": [
            _labels(c) for kind in sorted(_CONTROLS) for c in figure.get("layout", {}).get(kind, [])
        ],
        "frames": [_frame(frame) for frame in figure.get("frames") or []],
    }
    return json.dumps(reduced, indent=1, sort_keys=True, ensure_ascii=False)


def _reduced(value: Any, names: frozenset[str] | None, key: str = "") -> Any:
    """``value`` without its numbers; lists of strings are kept under the keys ``names`` (None: all)."""
    if isinstance(value, dict):
        if "bdata" in value:
            return _array(value)
        if value.get("type") == "log":  # ticks of a logarithmic axis are numbers, written out
            value = {k: v for k, v in value.items() if k not in ("tickvals", "ticktext")}
        return {k: _reduced(v, names, k) for k, v in value.items() if k != "uid"}
    if isinstance(value, list):
        if any(isinstance(v, dict) for v in value):
            return [_reduced(v, names, key) for v in value]
        kind = _kind(value)
        named = kind == "text" and (names is None or key in names)
        return [_reduced(v, names, key) for v in value] if named else f"{kind}{_shape(value)}"
    if isinstance(value, bool | str | None):
        return value
    return "number"


def _array(value: dict[str, Any]) -> str:
    """Kind and shape of a typed array; plotly writes ``shape`` only for those of several dimensions."""
    dtype = str(value["dtype"])
    if value.get("shape"):
        shape = [int(n) for n in re.findall(r"\d+", str(value["shape"]))]
    else:
        shape = [len(base64.b64decode(value["bdata"])) // _itemsize(dtype)]
    # plotly stores integers in the narrowest type that holds them, so their width is data.
    return f"{dtype if dtype.startswith('f') else 'int'}{shape}"


def _itemsize(dtype: str) -> int:
    if not re.fullmatch(r"[iuf]\d", dtype):
        raise ValueError(f"dtype is {dtype!r}; that of a plotly array should be one such as 'f8' or 'i4'")
    return int(dtype[1])


def _kind(value: list[Any]) -> str:
    leaves = list(_leaves(value))
    if any(isinstance(leaf, str) for leaf in leaves):
        return "text"
    return "bool" if leaves and all(isinstance(leaf, bool) for leaf in leaves) else "number"


def _leaves(value: Any) -> Any:
    if not isinstance(value, list):
        yield value
        return
    for item in value:
        yield from _leaves(item)


def _shape(value: Any) -> list[int]:
    """Shape of nested lists; those of unequal lengths give the outer length and, below it, the total."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        below = [v for v in value if isinstance(v, list)]
        if not below:
            break
        if len({len(v) for v in below}) > 1 or len(below) < len(value):
            return [*shape, sum(len(v) for v in below)]
        value = below[0]
    return shape


def _labels(control: dict[str, Any]) -> list[Any]:
    return [item.get("label") for item in control.get("steps") or control.get("buttons") or []]


def _frame(frame: dict[str, Any]) -> dict[str, Any]:
    return {"name": frame.get("name"), "types": [trace.get("type") for trace in frame.get("data") or []]}
