"""Where the nodes of a graph file stand: token position by layer, the nodes of one cell side by side.

The figure and the browser of :mod:`mi_utils.graphs.view` share it. The unit is the room of one node.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from mi_utils.graphs.file import EMBEDDING, ERROR, LOGIT, GraphFile, Node
from mi_utils.plots.style import token_labels

NARROWEST = 3.6  # a column, so that a token has room below it
_MARGIN = 1.0  # between columns
_LOGITS = 1.6  # from one logit to the next: their labels lean
_MOST_LAYERS = 200  # empty layers are shown among so many


@dataclass(frozen=True)
class Layout:
    """Places of nodes, columns and rows, in rooms of one node; y grows upwards.

    Attributes:
        x, y: of each node, in the order of the file.
        columns: left edge of each position, and the right edge of the last one.
        rows: lower edge of each row, and the upper edge of the last one.
        row_names: ``emb``, the layers from below, ``logit``.
        tokens: labels of the positions.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    columns: tuple[float, ...]
    rows: tuple[float, ...]
    row_names: tuple[str, ...]
    tokens: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {name: list(getattr(self, name)) for name in self.__dataclass_fields__}


def kind(node: Node) -> str:
    """``token``, ``feature``, ``error`` or ``logit``; a type of another program counts as a feature or an
    error."""
    if node.feature_type in (EMBEDDING, LOGIT):
        return "token" if node.feature_type == EMBEDDING else "logit"
    return "error" if node.feature_type == ERROR or "error" in node.feature_type else "feature"


def place(graph_file: GraphFile) -> Layout:
    """Tokens at the bottom, logits on top, layers between them; in a cell the most influential nodes come
    first."""
    nodes = graph_file.nodes
    names = _row_names(nodes)
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, node in enumerate(nodes):
        cells[names.index(_row(node)), node.ctx_idx].append(i)
    for inside in cells.values():
        inside.sort(
            key=lambda i: (kind(nodes[i]) == "error", 1.0 if (s := nodes[i].influence) is None else s)
        )
    widths, heights = [NARROWEST] * len(graph_file.tokens), [1.4] * len(names)
    for (row, column), inside in cells.items():
        wide, step = _across(names[row], len(inside))
        widths[column] = max(widths[column], wide * step + _MARGIN)
        heights[row] = max(heights[row], math.ceil(len(inside) / wide) + 0.6)
    columns, rows = _edges(widths), _edges(heights)
    x, y = [0.0] * len(nodes), [0.0] * len(nodes)
    for (row, column), inside in cells.items():
        middle, centre = (columns[column] + columns[column + 1]) / 2, (rows[row] + rows[row + 1]) / 2
        wide, step = _across(names[row], len(inside))
        lines = [inside[i : i + wide] for i in range(0, len(inside), wide)]
        for down, line in enumerate(lines):
            for along, i in enumerate(line):
                x[i] = middle + (along - (len(line) - 1) / 2) * step
                y[i] = centre - (down - (len(lines) - 1) / 2)
    labels = tuple(token_labels(graph_file.tokens))
    return Layout(tuple(x), tuple(y), columns, rows, tuple(names), labels)


def _across(row: str, count: int) -> tuple[int, float]:
    """How many nodes of a cell stand side by side, and how far apart."""
    return (count, _LOGITS) if row == "logit" else (math.ceil(math.sqrt(1.6 * count)), 1.0)


def _row(node: Node) -> str:
    return {"token": "emb", "logit": "logit"}.get(kind(node), str(node.layer))


def _row_names(nodes: tuple[Node, ...]) -> list[str]:
    layers = {_row(node) for node in nodes} - {"emb", "logit"}
    numbers = sorted(int(one) for one in layers if one.isdecimal())
    others = sorted(one for one in layers if not one.isdecimal())
    if numbers and numbers[-1] < _MOST_LAYERS:
        numbers = list(range(numbers[-1] + 1))
    return ["emb", *others, *map(str, numbers), "logit"]


def _edges(sizes: list[float]) -> tuple[float, ...]:
    edges = [0.0]
    for size in sizes:
        edges.append(edges[-1] + size)
    return tuple(edges)
