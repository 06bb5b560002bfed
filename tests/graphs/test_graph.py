"""mi_utils.graphs.graph: influence against the matrix inverse, pruning against its rules written out."""

from dataclasses import replace

import pytest
import torch
from graph_examples import pruned as example
from sentences import assert_one_sentence

from mi_utils.graphs.graph import influence, node_influence, normalised, prune, scores

CLOSE = dict(atol=1e-5, rtol=1e-4)


def five_nodes():
    """A feature, an error, two tokens (one layer, two positions, one of them without an error) and a logit.

    Token 1 -> feature 3.0, error -> feature -1.0; feature -> logit 2.0, error -> logit 1.0, token 1 -> logit
    -1.0.
    """
    graph = example().graph
    adjacency = torch.zeros(6, 6)  # feature, errors at 0 and 1, tokens 0 and 1, logit
    adjacency[0, 4], adjacency[0, 2] = 3.0, -1.0
    adjacency[5, 0], adjacency[5, 2], adjacency[5, 4] = 2.0, 1.0, -1.0
    return replace(
        graph,
        prompt=("<s>", "a"),
        token_ids=torch.tensor([0, 1]),
        n_layers=1,
        features=torch.tensor([[0, 1, 7]]),
        activations=torch.tensor([2.0]),
        logits=torch.tensor([3]),
        probabilities=torch.tensor([0.8]),
        adjacency=adjacency,
        bias=torch.zeros(6),
        left_out=torch.zeros(6),
    )


def random_graph(seed, *, n_features=12, layers=3, positions=3, logits=3):
    """A graph of random edges from earlier to later nodes, in circuit-tracer's sense."""
    generator = torch.Generator().manual_seed(seed)
    size = n_features + layers * positions + positions + logits
    layer = torch.randint(layers, (n_features,), generator=generator).sort().values
    position = torch.randint(1, positions, (n_features,), generator=generator)
    features = torch.stack([layer, position, torch.arange(n_features)], dim=1)
    graph = replace(
        five_nodes(),
        prompt=("<s>", "a", "b"),
        token_ids=torch.arange(positions),
        n_layers=layers,
        features=features,
        activations=torch.ones(n_features),
        logits=torch.arange(logits),
        probabilities=torch.tensor([0.5, 0.3, 0.1])[:logits],
        bias=torch.zeros(size),
        left_out=torch.zeros(size),
        adjacency=torch.zeros(size, size),
    )
    heights = torch.full((size,), -1)
    heights[:n_features], heights[graph.logit_nodes] = layer, layers
    heights[graph.errors] = torch.arange(layers).repeat_interleave(positions)
    can = heights[None] < heights[:, None]
    can[graph.errors] = can[graph.tokens] = False
    sizes = torch.randn((size, size), generator=generator) * (
        torch.rand((size, size), generator=generator) < 0.4
    )
    graph.adjacency[:] = sizes * can
    graph.adjacency[n_features // 2] = 0  # a feature that nothing feeds
    graph.adjacency[:, n_features // 3] = 0  # and one that feeds nothing
    return graph


def weights_of(graph):
    weights = torch.zeros(graph.n_nodes)
    weights[graph.logit_nodes] = graph.probabilities
    return weights


# -- influence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_influence_is_that_of_the_matrix_inverse(seed):
    graph = random_graph(seed)
    sizes = graph.adjacency.abs()
    edges = torch.stack([row / row.sum() if row.sum() > 0 else row for row in sizes])
    torch.testing.assert_close(normalised(graph.adjacency), edges, **CLOSE)
    eye = torch.eye(graph.n_nodes)
    wanted = weights_of(graph) @ (torch.linalg.inv(eye - edges) - eye)
    torch.testing.assert_close(node_influence(graph), wanted, **CLOSE)
    torch.testing.assert_close(influence(edges, weights_of(graph)), wanted, **CLOSE)
    assert wanted.max() > 0.1 and not wanted[graph.logit_nodes].any()


def test_what_starts_at_the_logits_ends_at_tokens_and_errors():
    """Every unit of influence ends at a node that nothing feeds."""
    graph = random_graph(1)
    unfed = graph.adjacency.abs().sum(dim=1) == 0
    ends = node_influence(graph)[unfed & ~(torch.arange(graph.n_nodes) >= graph.tokens.stop)].sum()
    assert float(ends) == pytest.approx(float(graph.probabilities.sum()), rel=1e-5)


@pytest.mark.parametrize("circle", [[(0, 0)], [(0, 1), (1, 0)], [(0, 1), (1, 2), (2, 0)]])
def test_a_circle_is_refused(circle):
    edges = torch.zeros(4, 4)
    edges[3, 0] = 1.0
    for target, source in circle:
        edges[target, source] = 1.0
    with pytest.raises(ValueError) as error:
        influence(edges, torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert_one_sentence(error.value, "edges run in a circle", "earlier to later")


def test_the_longest_path_is_followed():
    edges = torch.diag(torch.ones(5), -1)  # node i + 1 reads node i alone
    reach = influence(edges, torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.25]))
    assert reach.tolist() == [0.25] * 5 + [0.0]


def test_influence_and_scores_of_five_nodes_by_hand():
    graph = five_nodes()
    # into the feature 3/4 and 1/4, into the logit 2/4, 1/4 and 1/4; the logit weighs 0.8
    feature, error, token = 0.8 * 0.5, 0.8 * (0.25 + 0.5 * 0.25), 0.8 * (0.25 + 0.5 * 0.75)
    assert node_influence(graph).tolist() == pytest.approx([feature, 0, error, 0, token, 0])
    found = scores(graph)
    assert found.replacement == pytest.approx(token / (token + error))
    # inputs without errors: 3/4 of the feature's and of the logit's; tokens and errors have no inputs at all
    whole = 0.8 + feature + error + token
    assert found.completeness == pytest.approx((0.75 * (0.8 + feature) + error + token) / whole)


@pytest.mark.parametrize("seed", range(3))
def test_scores_against_sums_over_nodes(seed):
    graph = random_graph(seed)
    reach, weights, edges = node_influence(graph), weights_of(graph), normalised(graph.adjacency)
    tokens = sum(float(reach[i]) for i in range(graph.tokens.start, graph.tokens.stop))
    errors = sum(float(reach[i]) for i in range(graph.errors.start, graph.errors.stop))
    clean, whole = 0.0, 0.0
    for node in range(graph.n_nodes):
        importance = float(reach[node] + weights[node])
        lost = sum(float(edges[node, i]) for i in range(graph.errors.start, graph.errors.stop))
        clean, whole = clean + (1 - lost) * importance, whole + importance
    found = scores(graph)
    assert found.replacement == pytest.approx(tokens / (tokens + errors), rel=1e-4)
    assert found.completeness == pytest.approx(clean / whole, rel=1e-4)
    assert 0.05 < found.replacement < 0.95 and found.completeness < 0.98


# -- pruning ---------------------------------------------------------------------------------------


def slowly_pruned(graph, node_threshold, edge_threshold):
    """The rules of circuit-tracer's pruning, a node and an edge at a time, in float64 and with the matrix
    inverse."""
    size, weights = graph.n_nodes, weights_of(graph).double()
    always = {*range(graph.tokens.start, graph.tokens.stop), *range(graph.tokens.stop, size)}

    def reach_of(adjacency):
        edges = adjacency.double().abs()
        edges = edges / edges.sum(dim=1, keepdim=True).clamp(min=1e-10)
        return edges, weights @ (
            torch.linalg.inv(torch.eye(size).double() - edges) - torch.eye(size).double()
        )

    def best(values, share):
        chosen, held = set(), 0.0
        for key in sorted(values, key=values.get, reverse=True):
            if values[key] <= 0 or held >= share * sum(values.values()) - 1e-9:
                break
            chosen.add(key)
            held += values[key]
        return chosen

    _, reach = reach_of(graph.adjacency)
    nodes = always | best({i: float(value) for i, value in enumerate(reach)}, node_threshold)
    mask = torch.tensor([[float(t in nodes and s in nodes) for s in range(size)] for t in range(size)])
    edges, again = reach_of(graph.adjacency * mask)
    score = {(t, s): float(edges[t, s] * (again[t] + weights[t])) for t in range(size) for s in range(size)}
    kept = best(score, edge_threshold)
    while True:
        kept = {(t, s) for t, s in kept if t in nodes and s in nodes}
        fed, feeds = {t for t, _ in kept}, {s for _, s in kept}
        gone = {i for i in nodes - always if i not in feeds or (i < graph.n_features and i not in fed)}
        if not gone:
            return sorted(nodes), sorted(kept)
        nodes = nodes - gone


THRESHOLDS = [(0.8, 0.98), (0.5, 0.9), (0.3, 0.3), (0.95, 0.6), (1.0, 0.5), (0.6, 1.0), (0.01, 0.01)]


@pytest.mark.parametrize("thresholds", THRESHOLDS)
@pytest.mark.parametrize("seed", range(4))
def test_pruning_against_its_rules_written_out(seed, thresholds):
    graph = random_graph(seed)
    found = prune(graph, *thresholds)
    nodes, edges = slowly_pruned(graph, *thresholds)
    assert found.nodes.nonzero().flatten().tolist() == nodes
    assert [tuple(edge) for edge in found.edges.nonzero().tolist()] == edges
    assert (found.node_threshold, found.edge_threshold) == thresholds and found.graph is graph


def test_the_usual_thresholds_are_the_default():
    graph = random_graph(0)
    found = prune(graph)
    assert torch.equal(found.nodes, prune(graph, 0.8, 0.98).nodes)
    assert torch.equal(found.edges, prune(graph, 0.8, 0.98).edges)
    assert 0 < found.edges.sum() < (graph.adjacency != 0).sum() and found.nodes.sum() < graph.n_nodes
    assert repr(found).startswith(
        f"Pruned({int(found.nodes.sum())} of {graph.n_nodes} nodes, {int(found.edges.sum())}"
    )


@pytest.mark.parametrize("seed", range(4))
def test_with_thresholds_of_one_every_node_with_influence_stays(seed):
    graph = random_graph(seed)
    for feature in range(
        graph.n_features
    ):  # one that nothing feeds goes by another rule: here it has no influence
        if not graph.adjacency[feature].any():
            graph.adjacency[:, feature] = 0
    reach, found = node_influence(graph), prune(graph, 1.0, 1.0)
    wanted = reach > 0
    wanted[graph.tokens] = wanted[graph.logit_nodes] = True
    assert torch.equal(found.nodes, wanted) and not wanted.all()
    assert torch.equal(found.edges, wanted[:, None] & wanted[None] & (graph.adjacency != 0))


def test_tokens_and_logits_stay_even_without_influence():
    found = prune(
        five_nodes(), 0.01, 0.01
    )  # the token is the most influential; nothing flows from that at position 0
    assert found.nodes.tolist() == [False, False, False, True, True, True]


def test_what_pruning_drops_by_hand():
    graph = five_nodes()  # influence: token .5, feature .4, error .3, of 1.2 in all
    assert prune(graph, 0.4, 1.0).nodes.tolist() == [False, False, False, True, True, True]
    assert prune(graph, 0.74, 1.0).nodes.tolist() == [True, False, False, True, True, True]
    assert prune(graph, 0.76, 1.0).nodes.tolist() == [True, False, True, True, True, True]
    weak = prune(
        graph, 0.74, 0.5
    )  # without the error: token -> feature and feature -> logit 2/3 each, the third 1/3
    assert [tuple(e) for e in weak.edges.nonzero().tolist()] == [(0, 4), (5, 0)] and weak.nodes[0]


def test_cumulative_is_the_share_of_nodes_at_least_as_influential():
    graph = random_graph(2)
    found = prune(graph)
    reach = node_influence(graph).double()
    assert torch.equal(found.influence, node_influence(graph))
    for node in range(graph.n_nodes):
        if (reach == reach[node]).sum() == 1:
            share = reach[reach >= reach[node]].sum() / reach.sum()
            assert float(found.cumulative[node]) == pytest.approx(float(share), abs=1e-5)
    assert float(found.cumulative.max()) == pytest.approx(1, abs=1e-5)


def test_a_graph_without_edges():
    graph = five_nodes()
    graph.adjacency.zero_()
    found = prune(graph)
    assert found.nodes.tolist() == [False] * 3 + [True] * 3 and not found.edges.any()


@pytest.mark.parametrize("bad", [0, -0.1, 1.01, 80, float("nan")])
@pytest.mark.parametrize("name", ["node_threshold", "edge_threshold"])
def test_thresholds_out_of_range(unchecked, name, bad):
    with pytest.raises(ValueError) as error:
        prune(five_nodes(), **{name: bad})
    assert_one_sentence(error.value, f"{name} is {bad}", "above 0 and at most 1")
    assert int(prune(five_nodes(), **{name: 1}).nodes.sum()) >= 4
