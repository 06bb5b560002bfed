"""What a graph file holds, and the checks that it is one.

The format is that of circuit-tracer's ``frontend/graph_models.py``. What a file has beyond it is kept, so
that reading and writing loses nothing. :mod:`mi_utils.graphs.conversion` makes such files from graphs, reads
and writes them.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

SCHEMA_VERSION = 1
FEATURE, ERROR = "cross layer transcoder", "mlp reconstruction error"
EMBEDDING, LOGIT = "embedding", "logit"

_METADATA = {"slug": str, "scan": str, "prompt_tokens": list, "prompt": str}
_PARTS = {"metadata": dict, "qParams": dict, "nodes": list, "links": list}
_CALLED = {
    str: "a string",
    list: "a list",
    dict: "an object",
    int: "a whole number",
    float: "a finite number",
}
_LARGEST = sys.float_info.max
_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Node:
    """A node of a graph file, its fields named as in the file (``js_node_id`` is ``jsNodeId`` there).

    Attributes:
        node_id: ``layer_feature_position`` for a feature; unlike any other node's.
        feature: Cantor's pairing of layer and index for a feature, -1 or None for an error.
        layer: number of the layer as text or number, ``"E"`` for a token, one more than the layers for a
            logit.
        ctx_idx: position in the prompt, 0 is the start token.
        feature_type: ``FEATURE``, ``ERROR``, ``EMBEDDING``, ``LOGIT`` or a type that another program knows.
        js_node_id: whose dashboard it is.
        clerp: label, "" if there is none.
        more: the optional fields that the file has: ``influence``, ``activation``, ``token_prob``...
    """

    node_id: str
    feature: int | None
    layer: str | int
    ctx_idx: int
    feature_type: str
    js_node_id: str
    clerp: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def influence(self) -> float | None:
        """Cumulative share of influence at which the node enters: small is important, None is unknown."""
        return self.more.get("influence")

    @property
    def activation(self) -> float | None:
        return self.more.get("activation")

    @property
    def token_prob(self) -> float:
        """Probability of a logit's token, 0 for other nodes."""
        return self.more.get("token_prob", 0.0)

    def to_json(self) -> dict[str, Any]:
        return {_IN_FILE.get(name, name): getattr(self, name) for name in _NODE} | dict(self.more)


_NODE = {
    "node_id": (str,),
    "feature": (int, type(None)),
    "layer": (str, int),
    "ctx_idx": (int,),
    "feature_type": (str,),
    "js_node_id": (str,),
    "clerp": (str,),
}
_IN_FILE = {"js_node_id": "jsNodeId"}
_LINK = {"source": (str,), "target": (str,), "weight": (float, int)}


@dataclass(frozen=True)
class Link:
    """A direct effect of one node on another: signed and raw, in units of the target's pre-activation or
    logit."""

    source: str
    target: str
    weight: float | int
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _LINK} | dict(self.more)


@dataclass(frozen=True, repr=False)
class GraphFile:
    """What a graph file holds; making one checks it.

    Attributes:
        metadata: slug, scan (model), prompt, prompt_tokens and what else the file says about the graph.
        q_params: the saved state of the view: ``pinnedIds``, ``supernodes`` (a name, then node ids),
            ``clickedId``.
        nodes, links: of the graph.
        more: further parts of the file.

    Raises:
        ValueError: a missing part, an unknown schema version, two nodes of one id, a node outside the prompt,
            a link from or to a node that is not there, or a number that is not finite.
    """

    metadata: Mapping[str, Any]
    q_params: Mapping[str, Any]
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    def __repr__(self) -> str:
        return f"GraphFile({self.metadata['slug']!r}, {len(self.nodes)} nodes, {len(self.links)} links)"

    @property
    def tokens(self) -> tuple[str, ...]:
        """Of the prompt, start token included."""
        return tuple(self.metadata["prompt_tokens"])

    def with_state(
        self, *, pinned: Sequence[str], supernodes: Sequence[Sequence[str]], clicked: str = ""
    ) -> "GraphFile":
        """The same graph with another saved state; the rest of ``qParams`` stays.

        Args:
            pinned: node ids.
            supernodes: each a name, then the ids of its nodes.
            clicked: a node id, or "" for none.

        Raises:
            ValueError: an id that the graph does not have.
        """
        known = {node.node_id for node in self.nodes}
        used = [*pinned, *(one for group in supernodes for one in group[1:]), *([clicked] if clicked else [])]
        if unknown := [one for one in used if one not in known]:
            raise ValueError(f"the state names {show(unknown[0])}; it should name nodes of the graph only")
        state = {
            "pinnedIds": list(pinned),
            "supernodes": [list(one) for one in supernodes],
            "clickedId": clicked,
        }
        return replace(self, q_params={**self.q_params, **state})

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        parts = {"metadata": dict(self.metadata), "qParams": dict(self.q_params)}
        parts |= {
            "nodes": [one.to_json() for one in self.nodes],
            "links": [one.to_json() for one in self.links],
        }
        return parts | dict(self.more)


def parse(text: str) -> GraphFile:
    """The graph file whose text this is.

    Raises:
        ValueError: text that is not JSON, a field of another type than the format wants, or what
            ``GraphFile`` refuses.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not JSON ({error}); it should be a graph in JSON") from None
    if not isinstance(raw, dict):
        raise ValueError(f"this is {show(raw)}; it should be an object with {', '.join(_PARTS)}")
    for name, kind in _PARTS.items():
        _expect(raw, name, (kind,), "the graph")
    nodes = tuple(_record(Node, _NODE, one, f"nodes[{i}]") for i, one in enumerate(raw["nodes"]))
    links = tuple(_record(Link, _LINK, one, f"links[{i}]") for i, one in enumerate(raw["links"]))
    rest = {name: value for name, value in raw.items() if name not in _PARTS}
    return GraphFile(raw["metadata"], raw["qParams"], nodes, links, rest)


def _record(kind: type, fields: Mapping[str, tuple[type, ...]], raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is {show(raw)}; it should be an object")
    keys = {_IN_FILE.get(name, name): types for name, types in fields.items()}
    for name, types in keys.items():
        _expect(raw, name, types, where)
    return kind(
        *(raw[name] for name in keys), {name: value for name, value in raw.items() if name not in keys}
    )


def _expect(raw: Mapping[str, Any], name: str, kinds: tuple[type, ...], where: str) -> None:
    wanted = (
        _CALLED[kinds[0]]
        if float in kinds
        else " or ".join(_CALLED[kind] for kind in kinds if kind in _CALLED)
    )
    if name not in raw:
        raise ValueError(f"{where} has no {name}; it should have {wanted} there")
    if not isinstance(raw[name], kinds) or isinstance(raw[name], bool):
        raise ValueError(f"{name} of {where} is {show(raw[name])}; it should be {wanted}")


def _check(graph: GraphFile) -> None:
    for name, kind in _METADATA.items():
        _expect(graph.metadata, name, (kind,), "metadata")
    version = graph.metadata.get("schema_version")
    if version is not None and (version != SCHEMA_VERSION or isinstance(version, bool)):
        raise ValueError(f"schema_version is {show(version)}; it should be {SCHEMA_VERSION}")
    if not all(isinstance(token, str) for token in graph.metadata["prompt_tokens"]):
        raise ValueError(
            "prompt_tokens of metadata holds something else than strings; it should hold strings only"
        )
    _check_state(graph.q_params)
    known: set[str] = set()
    n_tokens = len(graph.metadata["prompt_tokens"])
    for node in graph.nodes:
        where = f"node {show(node.node_id)}"
        if node.node_id in known:
            raise ValueError(f"{where} is there twice; ids of nodes should differ")
        known.add(node.node_id)
        if not 0 <= node.ctx_idx < n_tokens:
            raise ValueError(
                f"ctx_idx of {where} is {node.ctx_idx}; it should be a position of the {n_tokens} tokens"
            )
        for name in ("influence", "activation", "token_prob"):
            if node.more.get(name) is not None:
                _finite(node.more[name], name, where)
    for i, link in enumerate(graph.links):
        for name, end in (("source", link.source), ("target", link.target)):
            if end not in known:
                raise ValueError(
                    f"{name} of links[{i}] is {show(end)}; it should be the id of a node in the graph"
                )
        _finite(link.weight, "weight", f"links[{i}]")


def _check_state(state: Mapping[str, Any]) -> None:
    pinned, groups = state.get("pinnedIds", []), state.get("supernodes", [])
    if not isinstance(pinned, list) or not all(isinstance(one, str) for one in pinned):
        raise ValueError(f"pinnedIds of qParams is {show(pinned)}; it should be a list of node ids")
    good = isinstance(groups, list) and all(isinstance(one, list) and one for one in groups)
    if not good or not all(isinstance(part, str) for group in groups for part in group):
        raise ValueError(
            f"supernodes of qParams is {show(groups)}; it should be a list of lists: a name, then node ids"
        )
    if not isinstance(state.get("clickedId", ""), str | None):
        raise ValueError(f"clickedId of qParams is {show(state['clickedId'])}; it should be a node id")


def _finite(value: Any, name: str, where: str) -> None:
    # Compared rather than math.isfinite, which fails on a whole number of 400 digits.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise ValueError(f"{name} of {where} is {show(value)}; it should be a finite number")


def show(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
