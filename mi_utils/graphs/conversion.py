"""Attribution graphs as files: the JSON that the front ends of Neuronpedia and circuit-tracer read and
write."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mi_utils import data_files
from mi_utils.graphs.file import (
    EMBEDDING,
    ERROR,
    FEATURE,
    LOGIT,
    SCHEMA_VERSION,
    GraphFile,
    Link,
    Node,
    parse,
    show,
)
from mi_utils.graphs.graph import Pruned

INDEX = "graph-metadata.json"


def from_graph(
    pruned: Pruned,
    *,
    slug: str,
    labels: Mapping[tuple[int, int], str] | None = None,
    logit_tokens: Sequence[str] | None = None,
    prompt: str | None = None,
) -> GraphFile:
    """What is left of a pruned graph, as a file: the kept nodes, and the kept edges with their raw weights.

    Args:
        pruned: as ``graphs.prune`` gives it.
        slug: name of the graph, without spaces or slashes; circuit-tracer expects the file to be called
            slug.json.
        labels: of features, by layer and index; the others have none.
        logit_tokens: text of each logit's token, as ``prompts.token_strings`` gives it; by default its
            number.
        prompt: as text; by default its tokens joined.

    Raises:
        ValueError: a slug that is empty or has other characters than letters, digits, ``-``, ``_`` and ``.``,
            or another number of ``logit_tokens`` than of logits.
    """
    if not slug or not all(c.isalnum() or c in "-_." for c in slug):
        raise ValueError(f"slug is {show(slug)}; it should be made of letters, digits, '-', '_' and '.'")
    graph = pruned.graph
    texts = [f"token {one}" for one in graph.logits.tolist()] if logit_tokens is None else list(logit_tokens)
    if len(texts) != len(graph.logits):
        raise ValueError(
            f"logit_tokens has {len(texts)} entries; it should have {len(graph.logits)}, one for each logit"
        )
    nodes = dict(_nodes(pruned, labels or {}, texts))
    kept = pruned.edges & pruned.nodes & pruned.nodes[:, None]
    ends = zip(kept.nonzero().tolist(), graph.adjacency[kept].tolist(), strict=True)
    links = [Link(nodes[source].node_id, nodes[target].node_id, weight) for (target, source), weight in ends]
    thresholds = {
        "node_threshold": float(pruned.node_threshold),
        "edge_threshold": float(pruned.edge_threshold),
    }
    metadata = {
        "slug": slug,
        "scan": graph.model,
        "transcoder_list": [graph.transcoders],
        "prompt_tokens": list(graph.prompt),
        "prompt": "".join(graph.prompt) if prompt is None else prompt,
        "node_threshold": thresholds["node_threshold"],
        "schema_version": SCHEMA_VERSION,
        "info": {"generator": {"name": "mi_utils"}},
        "pruning_settings": thresholds,
    }
    state = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return GraphFile(metadata, state, tuple(nodes.values()), tuple(links))


def _nodes(
    pruned: Pruned, labels: Mapping[tuple[int, int], str], logit_tokens: list[str]
) -> Iterable[tuple[int, Node]]:
    """The kept nodes by their place in the graph: features, errors, tokens, logits."""
    graph, cumulative = pruned.graph, pruned.cumulative.tolist()
    for at in pruned.nodes.nonzero()[:, 0].tolist():
        rest = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0}
        rest |= {"influence": cumulative[at], "activation": None}
        if at < graph.n_features:
            layer, pos, index = graph.features[at].tolist()
            rest["activation"] = float(graph.activations[at])
            yield at, feature_node(layer, pos, index, labels.get((layer, index), ""), rest)
        elif at < graph.errors.stop:
            layer, pos = divmod(at - graph.errors.start, graph.n_pos)
            yield at, Node(f"{layer}_-1_{pos}", -1, str(layer), pos, ERROR, f"{layer}_-1-{pos}", "", rest)
        elif at < graph.tokens.stop:
            pos = at - graph.tokens.start
            token = int(graph.token_ids[pos])
            yield (
                at,
                Node(
                    f"E_{token}_{pos}", pos, "E", pos, EMBEDDING, f"E_{token}-{pos}", graph.prompt[pos], rest
                ),
            )
        else:
            rank = at - graph.logit_nodes.start
            yield at, _logit_node(pruned, rank, logit_tokens[rank], rest)


def feature_node(layer: int, pos: int, index: int, label: str, more: Mapping[str, Any]) -> Node:
    """The node of feature ``index`` of ``layer`` at ``pos``; its number in the file is Cantor's pairing of
    the two."""
    number = (layer + index) * (layer + index + 1) // 2 + index
    return Node(f"{layer}_{index}_{pos}", number, str(layer), pos, FEATURE, f"{layer}_{index}-0", label, more)


def _logit_node(pruned: Pruned, rank: int, text: str, rest: dict[str, Any]) -> Node:
    graph = pruned.graph
    token, probability, pos = int(graph.logits[rank]), float(graph.probabilities[rank]), len(graph.prompt) - 1
    rest = rest | {"token_prob": probability, "is_target_logit": rank == 0, "influence": None}
    label = f'Output "{text}" (p={probability:.3f})'
    layer = str(graph.n_layers + 1)
    return Node(f"{layer}_{token}_{pos}", token, layer, pos, LOGIT, f"L_{token}-{pos}", label, rest)


def load(path: str | Path) -> GraphFile:
    """Read an attribution graph from the JSON of circuit-tracer and Neuronpedia; ``graphs.figure`` draws it.

    Raises:
        ValueError: a file that is not there or not UTF-8, or what ``parse`` refuses; the sentence begins with
            its name.
    """
    path = Path(path)
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"there is no file {path.name!r} to read; path should be a graph file") from None
    except ValueError as error:
        said = "this is not UTF-8; it should be a graph in JSON" if isinstance(error, UnicodeError) else error
        raise ValueError(f"{path.name}: {said}") from None


def save(graph_file: GraphFile, path: str | Path) -> Path:
    """Write a graph file: to a temporary name, then moved into place.

    Raises:
        ValueError: a number that is not finite, which JSON can't hold, or a folder that is not there.
    """
    return _write(graph_file.to_json(), path)


def write_index(graph_files: Sequence[GraphFile], folder: str | Path) -> Path:
    """Write ``graph-metadata.json``, the list of graphs that circuit-tracer's front end offers; it replaces
    an old one.

    Raises:
        ValueError: two graphs of one slug, or a folder that is not there.
    """
    slugs = [one.metadata["slug"] for one in graph_files]
    if twice := next((one for one in slugs if slugs.count(one) > 1), None):
        raise ValueError(f"graph_files has the slug {show(twice)} twice; slugs should differ")
    return _write({"graphs": [dict(one.metadata) for one in graph_files]}, Path(folder) / INDEX)


def _write(content: Mapping[str, Any], path: str | Path) -> Path:
    path = Path(path)
    try:
        text = json.dumps(
            content, allow_nan=False, indent=1
        )  # ASCII: a lone surrogate in a token has no UTF-8
    except ValueError as error:
        raise ValueError(
            f"the graph can't be written as JSON ({error}); its numbers should be finite"
        ) from None
    if not path.parent.is_dir():
        raise ValueError(f"path is {str(path)!r}; it should be in a folder that exists")
    return data_files.write(text, path)
