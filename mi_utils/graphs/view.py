"""Attribution graphs to look at: a browser for notebooks, and the same as one HTML file.

Both show token position by layer, tokens at the bottom and logits on top; positive links are solid, negative
ones dashed. The browser is plain JavaScript and SVG (``front/``); it asks nothing of the network, and
text from a graph only ever becomes text.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from mi_utils import data_files
from mi_utils.graphs.file import GraphFile, show
from mi_utils.graphs.layout import place
from mi_utils.plots import html

Details = Mapping[str, str | Mapping[str, str]]
_BODY = '<div class="mi-page"><h1>{{ title }}</h1><div id="graph"></div></div>'
_SCRIPTS = ("state.js", "chart.js", "panel.js", "view.js")


@cache
def _front(*names: str) -> str:
    folder = resources.files("mi_utils.graphs") / "front"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


class GraphBrowser(anywidget.AnyWidget):
    """A graph to explore: point at a node or click it to see what feeds it and what it feeds, with signed
    weights.

    Nodes can be pinned and put into supernodes; the button *save* downloads a graph file with that state,
    *load* takes the state from one. In the notebook, the same state is ``pinned``, ``supernodes`` (each a
    name, then node ids), ``threshold`` (nodes up to this cumulative influence are shown) and ``clicked``:
    they can be read, set and observed, and ``saved()`` is the graph file with them. A graph file's own state
    is where the browser starts.

    Args:
        graph_file: what to show.
        details: of nodes, by id: a text, or texts by name. Shown as they are, as text.

    Raises:
        ValueError: details of a node that the graph does not have; later also a state with such a node, or a
            threshold outside [0, 1].
    """

    _esm = _front(*_SCRIPTS) + "\nexport default { render };\n"
    _css = _front("view.css")
    graph = traitlets.Dict(read_only=True).tag(sync=True)
    places = traitlets.Dict(read_only=True).tag(sync=True)
    details = traitlets.Dict(read_only=True).tag(sync=True)
    pinned = traitlets.List(traitlets.Unicode()).tag(sync=True)
    supernodes = traitlets.List(traitlets.List(traitlets.Unicode())).tag(sync=True)
    threshold = traitlets.Float(1.0).tag(sync=True)
    clicked = traitlets.Unicode("").tag(sync=True)

    def __init__(self, graph_file: GraphFile, *, details: Details | None = None):
        self._file = graph_file
        self._ids = {node.node_id for node in graph_file.nodes}
        state = _start(graph_file, details)
        given = {name: state.pop(name) for name in ("graph", "places", "details")}
        super().__init__(**state)
        for name, value in given.items():
            self.set_trait(name, value)

    def __repr__(self) -> str:
        """What is shown, without what changes from run to run."""
        parts = f"{len(self._file.nodes)} nodes, {len(self.pinned)} pinned, {len(self.supernodes)} supernodes"
        return f"GraphBrowser({self._file.metadata['slug'][:40]!r}, {parts})"

    def saved(self) -> GraphFile:
        """The graph file with what is pinned, grouped and clicked now, for ``graphs.write``."""
        return self._file.with_state(pinned=self.pinned, supernodes=self.supernodes, clicked=self.clicked)

    @traitlets.validate("pinned")
    def _valid_pinned(self, proposal: Any) -> list[str]:
        return self._known("pinned", proposal.value, proposal.value)

    @traitlets.validate("supernodes")
    def _valid_supernodes(self, proposal: Any) -> list[list[str]]:
        groups = proposal.value
        if empty := [group for group in groups if len(group) < 2]:
            raise ValueError(
                f"supernodes has {show(empty[0])}; each should be a name, then at least one node id"
            )
        members = [one for group in groups for one in group[1:]]
        if len(set(members)) < len(members):
            twice = next(one for one in members if members.count(one) > 1)
            raise ValueError(f"supernodes has {show(twice)} twice; a node should be in one of them")
        return self._known("supernodes", members, groups)

    @traitlets.validate("clicked")
    def _valid_clicked(self, proposal: Any) -> str:
        return self._known("clicked", [proposal.value] if proposal.value else [], proposal.value)

    @traitlets.validate("threshold")
    def _valid_threshold(self, proposal: Any) -> float:
        if not 0 <= proposal.value <= 1:
            raise ValueError(f"threshold is {proposal.value}; it should be between 0 and 1")
        return proposal.value

    def _known(self, name: str, ids: Sequence[str], value: Any) -> Any:
        if unknown := [one for one in ids if one not in self._ids]:
            raise ValueError(f"{name} has {show(unknown[0])}; it should name nodes of the graph")
        return value


def _start(graph_file: GraphFile, details: Details | None) -> dict[str, Any]:
    """What a browser begins with; of the state in the file, what is about nodes that the file has."""
    known = {node.node_id for node in graph_file.nodes}
    if unknown := [one for one in details or {} if one not in known]:
        raise ValueError(f"details has {show(unknown[0])}; it should name nodes of the graph")
    saved, taken = graph_file.q_params, set()
    groups = []
    for name, *ids in saved.get("supernodes", []):
        fresh = [one for one in dict.fromkeys(ids) if one in known and one not in taken]
        taken.update(fresh)
        groups += [[name, *fresh]] if fresh else []
    clicked = saved.get("clickedId") or ""
    return {
        "graph": graph_file.to_json(),
        "places": place(graph_file).to_json(),
        "details": {
            one: text if isinstance(text, str) else dict(text) for one, text in (details or {}).items()
        },
        "pinned": [one for one in dict.fromkeys(saved.get("pinnedIds", [])) if one in known],
        "supernodes": groups,
        "threshold": 1.0,
        "clicked": clicked if clicked in known else "",
    }


def export(
    graph_file: GraphFile, path: str | Path, *, details: Details | None = None, title: str | None = None
) -> Path:
    """Write the browser as one HTML file that loads nothing and needs no server; no script runs in it but its
    own.

    Args:
        graph_file: what to show.
        path: where.
        details: of nodes, as ``GraphBrowser`` takes them.
        title: of the page; by default the prompt.

    Raises:
        ValueError: as ``GraphBrowser``, or a folder that is not there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"path is {str(path)!r}; it should be in a folder that exists")
    heading = title or graph_file.metadata["prompt"]
    content = html.document(
        heading,
        html.render(_BODY, title=heading),
        script=f"\n{_front(*_SCRIPTS, 'page.js')}\n",
        style=_front("page.css", "view.css"),
        data={"graph-data": _start(graph_file, details)},
    )
    # a lone surrogate, half of a character in a token, has no UTF-8
    return data_files.write(content.encode("utf-8", errors="replace"), path)
