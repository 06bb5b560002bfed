"""mi_utils.graphs.attribution: edges are what autograd finds on a literal local replacement model, and they
sum."""

import attribution_reference as reference
import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import graphs
from mi_utils.transcoders.transcoders import Transcoders, skip_alone

CLOSE = dict(atol=1e-5, rtol=1e-5)
SORTS = pytest.mark.parametrize(("sort", "skip"), reference.SORTS)


@pytest.fixture(scope="module", params=reference.KINDS)
def model(request, tmp_path_factory):
    return reference.load(request.param, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return reference.load("gpt2", tmp_path_factory.mktemp("tiny"))


def local_for(model, sort="clt", skip=True, length=6):
    return graphs.local_model(
        model, reference.transcoders(model, sort, skip), reference.prompt(model, length)
    )


def rows_of(graph):
    """Edges into features and logits, without the columns of logits."""
    return torch.cat([graph.adjacency[: graph.n_features], graph.adjacency[graph.logit_nodes]])[
        :, : graph.tokens.stop
    ]


# -- edges -----------------------------------------------------------------------------------------


@SORTS
@pytest.mark.parametrize("through_skip", [True, False])
def test_every_edge_is_what_autograd_finds(model, sort, skip, through_skip):
    local = local_for(model, sort, skip)
    graph = graphs.attribution_graph(local, through_skip=through_skip)
    wanted, targets = reference.Frozen(model, local.transcoders, local.tokens).rows(
        graph.logits, skip=through_skip
    )
    torch.testing.assert_close(rows_of(graph), wanted, **CLOSE)
    assert (wanted.abs() > 1e-2).float().mean() > 0.1 and not graph.left_out.any()
    if through_skip or not skip:
        bias = torch.cat([graph.bias[: graph.n_features], graph.bias[graph.logit_nodes]])
        torch.testing.assert_close(bias, targets - wanted.sum(dim=1), **CLOSE)
        assert (bias.abs() > 0.1).float().mean() > 0.5


@SORTS
def test_incoming_edges_and_biases_sum_to_their_target(model, sort, skip):
    local = local_for(model, sort, skip)
    graph = graphs.attribution_graph(local)
    total = graph.adjacency.sum(dim=1) + graph.bias
    torch.testing.assert_close(total[: graph.n_features], local.features[local.features > 0], **CLOSE)
    wanted = local.logits[graph.logits] - local.logits.mean()
    torch.testing.assert_close(total[graph.logit_nodes], wanted, **CLOSE)
    assert max(graphs.check_sums(local, graph)) < 1e-5
    for part, where in ((0, 2), (1, graph.n_nodes - 1)):  # what is off is said, for features and for logits
        broken = graphs.Graph(**vars(graph) | {"bias": graph.bias.clone()})
        broken.bias[where] += 0.5
        assert graphs.check_sums(local, broken)[part] == pytest.approx(0.5, abs=1e-4)
        assert graphs.check_sums(local, broken)[1 - part] < 1e-5


def test_skips_carry_a_part_of_the_effects(model):
    local = local_for(model, "plt", True)
    whole, without = (graphs.attribution_graph(local, through_skip=through) for through in (True, False))
    assert (whole.adjacency - without.adjacency).abs().max() > 0.1
    assert torch.equal(whole.features, without.features)


@torch.no_grad()
def test_two_features_by_hand(gpt2):
    """With attention that writes nothing, an edge is a product of a decoder and an encoder over the norm."""
    local = local_for(gpt2, "plt", False)
    d, n = 32, 3
    W_enc, W_dec, b_enc = (
        torch.zeros(n, d, 1),
        [torch.zeros(1, 1, d) for _ in range(n)],
        torch.full((n, 1), -9.0),
    )
    b_enc[0], b_enc[2] = 2.0, 3.0  # both are on by their biases; that of layer 1 never is
    W_enc[2, 4, 0], W_enc[2, 5, 0] = 0.5, 0.25
    W_dec[0][0, 0, 4], W_dec[0][0, 0, 7] = 1.5, 1.0
    made = Transcoders(W_enc, b_enc, torch.zeros(n, 1), tuple(W_dec), torch.zeros(n, d), kind="plt")
    local = graphs.local_model(gpt2, made, local.tokens[:2])
    local = graphs.LocalModel(**vars(local) | {"patterns": torch.zeros_like(local.patterns)})
    graph = graphs.attribution_graph(local, max_logits=1)
    assert graph.features.tolist() == [[0, 1, 0], [2, 1, 0]] and graph.activations[0] == 2
    encoder_less_mean = 0.5 - (0.5 + 0.25) / d, -(0.5 + 0.25) / d  # where the decoder writes
    edge = 2.0 * (1.5 * encoder_less_mean[0] + 1.0 * encoder_less_mean[1]) / float(local.mlp_scale[2, 1])
    assert graph.adjacency[1, 0].item() == pytest.approx(edge, rel=1e-4)
    assert graph.adjacency[0].abs().sum() == 0, "its encoder reads nothing"
    assert graph.bias[0].item() == pytest.approx(2.0, abs=1e-6)
    embedded = local.stream[0, 1]
    token = 0.5 * embedded[4] + 0.25 * embedded[5] - 0.75 * embedded.mean()
    assert graph.adjacency[1, graph.tokens][1].item() == pytest.approx(
        float(token / local.mlp_scale[2, 1]), rel=1e-4
    )
    assert graph.adjacency[1, graph.tokens][0] == 0, "attention carries nothing here"


def test_no_feature_active(gpt2):
    made = skip_alone(reference.transcoders(gpt2, "clt", True))
    local = graphs.local_model(gpt2, made, reference.prompt(gpt2))
    for graph in (graphs.attribution_graph(local), graphs.attribution_graph(local, max_features=1)):
        assert graph.n_features == 0 and max(graphs.check_sums(local, graph)) < 1e-5


# -- nodes -----------------------------------------------------------------------------------------


def test_nodes_are_features_errors_tokens_logits(model):
    local = local_for(model)
    graph = graphs.attribution_graph(local, max_logits=4)
    n = graph.n_features
    assert n == graph.n_active == len(local.active) and torch.equal(graph.features, local.active)
    assert torch.equal(graph.activations, local.features[local.features > 0])
    slices = [(part.start, part.stop) for part in (graph.errors, graph.tokens, graph.logit_nodes)]
    assert slices == [(n, n + 18), (n + 18, n + 24), (n + 24, n + 28)]
    assert graph.n_nodes == n + 28 and graph.adjacency.shape == (n + 28, n + 28)
    assert not graph.adjacency[graph.errors.start : graph.tokens.stop].any(), (
        "nothing flows into errors and tokens"
    )
    assert not graph.adjacency[:, graph.logit_nodes].any(), "nor out of logits"
    assert len(graph.prompt) == graph.n_pos == 6 and torch.equal(graph.token_ids, local.tokens)
    layers, positions, _ = local.active.T
    later = (layers[None] >= layers[:, None]) | (positions[None] > positions[:, None])
    assert not graph.adjacency[:n, :n][later].any(), "from earlier layers, and not from later positions"
    for i in (0, n // 2, n - 1):
        assert graph.node(*graph.features[i].tolist()) == i
    assert f"{n} features, {n + 28} nodes" in repr(graph) and "active" not in repr(graph)


@pytest.mark.parametrize(("mass", "most"), [(0.95, 10), (0.5, 10), (1e-6, 10), (1.0, 5), (0.3, 400)])
def test_logits_are_the_likeliest_that_hold_the_mass(model, mass, most):
    graph = graphs.attribution_graph(local := local_for(model), logit_mass=mass, max_logits=most)
    chances = sorted(((float(p), i) for i, p in enumerate(local.logits.softmax(dim=-1))), reverse=True)
    wanted, total = [], 0.0
    for chance, token in chances[:most]:
        wanted.append(token)
        total += chance
        if total >= mass:
            break
    assert graph.logits.tolist() == wanted
    assert graph.probabilities.tolist() == pytest.approx([p for p, _ in chances[: len(wanted)]], rel=1e-4)


# -- the node cap ----------------------------------------------------------------------------------


def brute_order(local, graph, most, step):
    """What circuit-tracer does: the influence of all, from the rows known so far, a few features at a
    time."""
    full, n = graph.adjacency, graph.n_features
    known, order = torch.zeros(graph.n_nodes, dtype=torch.bool), []
    known[graph.logit_nodes] = True
    weights = torch.zeros(graph.n_nodes)
    weights[graph.logit_nodes] = graph.probabilities
    while len(order) < most:
        rows = (full * known[:, None]).abs()
        rows = rows / rows.sum(dim=1, keepdim=True).clamp(min=1e-10)
        reach = torch.linalg.solve((torch.eye(len(rows)) - rows).T, weights)[:n]
        reach[order] = -1
        order += reach.topk(min(step, most - len(order))).indices.tolist()
        known[order] = True
    return sorted(order)


@pytest.mark.parametrize(("most", "step"), [(1, 4), (10, 4), (23, 4), (20, 256)])
@pytest.mark.parametrize(("sort", "skip"), [("clt", False), ("plt", True)])
def test_a_node_cap_keeps_the_most_influential(model, sort, skip, most, step, monkeypatch):
    local = local_for(model, sort, skip)
    whole = graphs.attribution_graph(local)
    monkeypatch.setattr(graphs.attribution, "TARGETS", step)
    graph = graphs.attribution_graph(local, max_features=most)
    kept = [whole.node(*feature) for feature in graph.features.tolist()]
    assert kept == brute_order(local, whole, most, step)
    assert graph.n_active == len(local.active) > graph.n_features == most
    rest = [i for i in range(whole.n_nodes) if i >= whole.n_features or i in kept]
    torch.testing.assert_close(graph.adjacency, whole.adjacency[rest][:, rest], **CLOSE)
    torch.testing.assert_close(graph.bias, whole.bias[rest], **CLOSE)
    gone = [i for i in range(whole.n_features) if i not in kept]
    torch.testing.assert_close(graph.left_out, whole.adjacency[rest][:, gone].sum(dim=1), **CLOSE)
    assert max(graphs.check_sums(local, graph)) < 1e-5 and graph.left_out.abs().max() > 0.05
    assert f"{most} features of {whole.n_features} active" in repr(graph)
    with pytest.raises(ValueError) as error:
        graph.node(*whole.features[gone[0]].tolist())
    assert_one_sentence(error.value, "has no node in this graph")


def test_the_size_of_a_batch_changes_nothing(model, monkeypatch):
    local = local_for(model, "clt", True)
    whole = graphs.attribution_graph(local)
    monkeypatch.setattr(graphs.attribution, "TARGETS", 5)
    torch.testing.assert_close(graphs.attribution_graph(local).adjacency, whole.adjacency, **CLOSE)


# -- looking at a graph, and bad input --------------------------------------------------------------


def test_incoming_edges_largest_first(model):
    graph = graphs.attribution_graph(local_for(model))
    node = graph.logit_nodes.start
    found = list(graphs.incoming(graph, node))
    assert dict(found) == {i: v for i, v in enumerate(graph.adjacency[node].tolist()) if v != 0}
    sizes = [abs(value) for _, value in found]
    assert sizes == sorted(sizes, reverse=True) and min(value for _, value in found) < 0
    assert list(graphs.incoming(graph, graph.tokens.start)) == []
    for bad in (-1, graph.n_nodes):
        with pytest.raises(ValueError) as error:
            next(graphs.incoming(graph, bad))
        assert_one_sentence(error.value, f"node is {bad}", f"0 to {graph.n_nodes - 1}")


@pytest.mark.parametrize(
    "bad", [{"max_features": 0}, {"max_logits": 0}, {"logit_mass": 0.0}, {"logit_mass": 1.5}]
)
def test_numbers_out_of_range(gpt2, bad):
    with pytest.raises(ValueError) as error:
        graphs.attribution_graph(local_for(gpt2), **bad)
    assert_one_sentence(error.value, *bad, str(*bad.values()), "at least 1")


def test_a_feature_without_a_node(gpt2):
    graph = graphs.attribution_graph(local := local_for(gpt2))
    off = (local.features == 0).nonzero()[-1].tolist()
    with pytest.raises(ValueError) as error:
        graph.node(*off)
    assert_one_sentence(error.value, str(tuple(off)), "may not be active")
