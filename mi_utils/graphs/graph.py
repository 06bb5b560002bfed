"""How much each node of an attribution graph matters for the answer, and which can be dropped (Ameisen et al.
2025).

The absolute values of the edges into each node are scaled to sum to one; a node's *influence* is then what
reaches the logits from it over all paths, ``w (Â + Â² + ...)``, with the logits' probabilities as ``w``. The
graph has no cycles, so the sum ends. Pruning and scores follow circuit-tracer's ``graph.py``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """An attribution graph of one prompt.

    Nodes are in the order features, errors (by layer, then position), tokens, logits. ``adjacency[t, s]`` is
    the signed direct effect of node ``s`` on node ``t``; ``bias`` what biases add to each target, which is no
    node; ``left_out`` what features beyond the node cap add. ``features`` are (layer, position, index).
    """

    model: str
    transcoders: str
    prompt: tuple[str, ...]
    token_ids: Int[Tensor, "pos"] = field(repr=False)
    n_layers: int
    features: Int[Tensor, "feature 3"] = field(repr=False)
    activations: Float[Tensor, "feature"] = field(repr=False)
    logits: Int[Tensor, "logit"]
    probabilities: Float[Tensor, "logit"]
    adjacency: Float[Tensor, "node node"] = field(repr=False)
    bias: Float[Tensor, "node"] = field(repr=False)
    left_out: Float[Tensor, "node"] = field(repr=False)
    n_active: int = 0

    def __repr__(self) -> str:
        cut = f" of {self.n_active:,} active" if self.n_active > len(self.features) else ""
        edges = int((self.adjacency != 0).sum())
        size = f"{len(self.features):,} features{cut}, {self.n_nodes:,} nodes, {edges:,} edges"
        return f"Graph({size}, {self.model})"

    @property
    def n_features(self) -> int:
        """Feature nodes."""
        return len(self.features)

    @property
    def n_pos(self) -> int:
        """Positions of the prompt."""
        return len(self.prompt)

    @property
    def n_nodes(self) -> int:
        """All nodes."""
        return len(self.adjacency)

    @property
    def errors(self) -> slice:
        """Where the error nodes are."""
        return slice(self.n_features, self.n_features + self.n_layers * self.n_pos)

    @property
    def tokens(self) -> slice:
        """Where the token nodes are."""
        return slice(self.errors.stop, self.errors.stop + self.n_pos)

    @property
    def logit_nodes(self) -> slice:
        """Where the logit nodes are."""
        return slice(self.tokens.stop, self.n_nodes)

    def node(self, layer: int, position: int, index: int) -> int:
        """Number of a feature's node.

        Raises:
            ValueError: that feature has no node in this graph.
        """
        found = (self.features == torch.tensor([layer, position, index])).all(dim=1).nonzero()
        if not len(found):
            raise ValueError(
                f"feature ({layer}, {position}, {index}) has no node in this graph; it may not be active"
            )
        return int(found[0])


def incoming(graph: Graph, node: int) -> Iterator[tuple[int, float]]:
    """Nodes with an edge into a node and their direct effects, largest first.

    Raises:
        ValueError: no such node.
    """
    if not 0 <= node < graph.n_nodes:
        raise ValueError(f"node is {node}; this graph has nodes 0 to {graph.n_nodes - 1}")
    row = graph.adjacency[node]
    for source in row.abs().argsort(descending=True).tolist():
        if row[source] == 0:
            return
        yield source, float(row[source])


def normalised(adjacency: Float[Tensor, "target source"]) -> Float[Tensor, "target source"]:
    """Absolute edges, scaled so that those into each target sum to one (or are all zero)."""
    sizes = adjacency.abs()
    return sizes / sizes.sum(dim=1, keepdim=True).clamp(min=1e-10)


def influence(edges: Float[Tensor, "node node"], weights: Float[Tensor, "node"]) -> Float[Tensor, "node"]:
    """``w (Â + Â² + ...)`` for normalised edges [target, source]: what reaches the weighted nodes from each
    node.

    Raises:
        ValueError: edges that run in a circle.
    """
    total, step = torch.zeros_like(weights), weights
    for _ in range(len(weights) + 1):
        step = step @ edges
        if not step.any():
            return total
        total = total + step
    raise ValueError(
        "edges run in a circle; the edges of an attribution graph go from earlier to later layers"
    )


def _weights(graph: Graph) -> Tensor:
    weights = torch.zeros(graph.n_nodes)
    weights[graph.logit_nodes] = graph.probabilities
    return weights


def node_influence(graph: Graph) -> Float[Tensor, "node"]:
    """Influence of every node on the logits, each logit weighing as much as its probability."""
    return influence(normalised(graph.adjacency), _weights(graph))


@dataclass(frozen=True)
class Scores:
    """How much of a graph runs through features rather than errors.

    ``replacement``: of the influence that starts at tokens or errors, the share that starts at tokens.
    ``completeness``: the share of all nodes' inputs, weighted by influence, that does not come from errors.
    """

    replacement: float
    completeness: float


def scores(graph: Graph) -> Scores:
    """Replacement and completeness score of a graph; of the whole graph, before pruning."""
    edges, weights = normalised(graph.adjacency), _weights(graph)
    reach = influence(edges, weights)
    tokens, errors = reach[graph.tokens].sum(), reach[graph.errors].sum()
    everything = reach + weights
    clean = 1 - edges[:, graph.errors].sum(dim=1)
    return Scores(float(tokens / (tokens + errors)), float((clean * everything).sum() / everything.sum()))


@dataclass(frozen=True)
class Pruned:
    """What pruning keeps of a graph.

    ``influence`` is that of every node before pruning; ``cumulative`` the share of all influence that nodes
    at least as influential hold together, small for important nodes (graph files call this ``influence``).
    """

    graph: Graph
    nodes: Bool[Tensor, "node"] = field(repr=False)
    edges: Bool[Tensor, "node node"] = field(repr=False)
    influence: Float[Tensor, "node"] = field(repr=False)
    cumulative: Float[Tensor, "node"] = field(repr=False)
    node_threshold: float = 0.8
    edge_threshold: float = 0.98

    def __repr__(self) -> str:
        return (
            f"Pruned({int(self.nodes.sum()):,} of {self.graph.n_nodes:,} nodes, {int(self.edges.sum()):,} of "
            f"{int((self.graph.adjacency != 0).sum()):,} edges)"
        )


def prune(graph: Graph, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> Pruned:
    """Keep the nodes, then the edges, that hold most of the influence.

    Tokens and logits always stay. A feature or error without an edge to something kept goes, and so does a
    feature that nothing kept reaches; this is repeated until nothing changes.

    Args:
        graph: what to prune; it stays as it is.
        node_threshold: share of all influence on the logits that the kept nodes hold together.
        edge_threshold: the same of the kept edges, among those between kept nodes.

    Raises:
        ValueError: a threshold outside (0, 1].
    """
    for name, value in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} is {value}; it should be above 0 and at most 1")
    reach, weights = node_influence(graph), _weights(graph)
    always = torch.zeros(graph.n_nodes, dtype=torch.bool)
    always[graph.tokens] = always[graph.logit_nodes] = True
    nodes = always | _largest(reach, node_threshold)
    kept = normalised(graph.adjacency * nodes[:, None] * nodes[None])
    score = kept * (influence(kept, weights) + weights)[:, None]
    edges = _largest(score.flatten(), edge_threshold).view_as(score) & (kept > 0)
    nodes, edges = _tidy(graph, nodes, edges, always)
    order = reach.argsort(descending=True)
    cumulative = torch.empty_like(reach)
    cumulative[order] = reach[order].cumsum(0) / reach.sum().clamp(min=1e-10)
    return Pruned(graph, nodes, edges, reach, cumulative, float(node_threshold), float(edge_threshold))


def _largest(values: Float[Tensor, "any"], share: float) -> Bool[Tensor, "any"]:
    """The fewest largest values that hold ``share`` of the sum; none of them is zero."""
    ordered = values.sort(descending=True).values
    enough = (ordered.double().cumsum(0) < share * ordered.double().sum()).sum()
    cut = ordered[min(int(enough), len(ordered) - 1)]
    return (values >= cut) & (values > 0)


def _tidy(graph: Graph, nodes: Tensor, edges: Tensor, always: Tensor) -> tuple[Tensor, Tensor]:
    is_feature = torch.arange(graph.n_nodes) < graph.n_features
    while True:
        edges = edges & nodes[:, None] & nodes[None]
        fed, feeds = edges.any(dim=1), edges.any(dim=0)
        kept = nodes & (always | (feeds & (fed | ~is_feature)))
        if torch.equal(kept, nodes):
            return nodes, edges
        nodes = kept
