"""The hand-wired model: it answers, its transcoders are exact, and the graph finds its true edges and no
others."""

import pytest
import torch

from mi_utils import atlas, graphs

PROMPTS = [(relation, city) for relation in graphs.hand_wired.RELATIONS for city in graphs.hand_wired.CITIES]


@pytest.fixture(scope="module")
def model():
    return graphs.hand_wired_model()


def local_of(model, relation, city, **options):
    tokens = atlas.encode(model, f"{relation} {city} is")[0]
    return graphs.local_model(model, graphs.hand_wired_transcoders(model, **options), tokens)


def edges_of(graph):
    names = graphs.node_names(graph)
    found = (graph.adjacency.abs() > 1e-4).nonzero().tolist()
    return {
        (names[source], names[target]): float(graph.adjacency[target, source]) for target, source in found
    }


@pytest.mark.parametrize(("relation", "city"), PROMPTS)
def test_it_answers(model, relation, city):
    probabilities = model(atlas.encode(model, f"{relation} {city} is"))[0, -1].softmax(dim=-1)
    answer = graphs.hand_wired.ANSWERS.get(
        (graphs.hand_wired.CITIES[city], relation), graphs.hand_wired.UNKNOWN
    )
    assert graphs.hand_wired.WORDS[int(probabilities.argmax())] == answer
    assert probabilities.max() > 0.9


@pytest.mark.parametrize("kind", ["plt", "clt"])
@pytest.mark.parametrize(("relation", "city"), PROMPTS)
def test_the_graph_has_the_true_edges_and_no_others(model, relation, city, kind):
    local = local_of(model, relation, city, kind=kind)
    graph = graphs.attribution_graph(local, max_logits=1)
    found = {ends: 1 if weight > 0 else -1 for ends, weight in edges_of(graph).items()}
    assert found == graphs.true_edges(relation, city)
    assert max(graphs.check_sums(local, graph)) < 1e-5


def test_edges_have_the_values_of_the_arithmetic(model):
    """The whole computation of *capital Dallas is* by hand, one dimension at a time."""
    width = model.cfg.d_model

    def rms(*entries):
        return (sum(entry**2 for entry in entries) / width + model.cfg.eps) ** 0.5

    word = 1 / rms(1, 1)  # a city, or a relation: its own dimension and the shared one
    lookup = word - 1  # Texas and "a city" at Dallas
    heard = 0.5 * word  # the relation, brought to "is"
    asks_in = heard / rms(1, heard)
    asks = asks_in - 1
    brought = 0.5 * (0.5 * lookup) / rms(1, 1, 0.5 * lookup, 0.5 * lookup)
    norm = rms(1, heard, 0.5 * asks, brought, brought)
    both = (brought + 0.5 * asks) / norm - 3.4
    unsure = (brought - 0.6 * brought) / norm - 0.25
    said = 2 * both - 0.5 * unsure
    final = rms(1, heard, 0.5 * asks, brought, brought, said, *3 * [-0.5 * unsure], unsure)
    mean = 2 * both / len(graphs.hand_wired.WORDS), (4 * -0.5 + 1) * unsure / len(graphs.hand_wired.WORDS)
    wanted = {
        ("capital", "asks capital @ capital"): word,
        ("capital", "asks capital @ is"): asks_in,
        ("Dallas", "a city @ Dallas"): word,
        ("Dallas", "Texas @ Dallas"): word,
        ("a city @ Dallas", "unsure @ is"): brought / norm,
        ("Texas @ Dallas", "unsure @ is"): -0.6 * brought / norm,
        ("Texas @ Dallas", "Texas + capital @ is"): brought / norm,
        ("asks capital @ is", "Texas + capital @ is"): 0.5 * asks / norm,
        ("Texas + capital @ is", "say Austin"): 2 * (2 * both - mean[0]) / final,
        ("unsure @ is", "say Austin"): 2 * (-0.5 * unsure - mean[1]) / final,
    }
    graph = graphs.attribution_graph(local_of(model, "capital", "Dallas"), max_logits=1)
    assert edges_of(graph) == pytest.approx(wanted, abs=1e-4)


def test_a_feature_that_leads_nowhere_is_pruned(model):
    graph = graphs.attribution_graph(local_of(model, "capital", "Dallas"), max_logits=1)
    pruned = graphs.prune(graph, node_threshold=1.0, edge_threshold=1.0)
    names = graphs.node_names(graph)
    kept = {
        name for name, stays in zip(names[: graph.n_features], pruned.nodes.tolist(), strict=False) if stays
    }
    assert set(names[: graph.n_features]) - kept == {"asks capital @ capital"}


def test_transcoders_are_the_neurons(model):
    local = local_of(model, "bird", "Fresno")
    assert local.errors[:, 1:].abs().max() < 1e-6
    assert local.errors[:, 0].abs().max() < 1e-6  # no neuron fires at the start token


def test_a_neuron_left_out_becomes_error(model):
    whole, part = local_of(model, "bird", "Fresno"), local_of(model, "bird", "Fresno", without=["unsure"])
    index = graphs.hand_wired.NEURONS[1].index("unsure")
    written = whole.features[1, -1, index] * whole.transcoders.decoder(1, 1)[index]
    assert written.norm() > 0.5
    torch.testing.assert_close(part.errors[1, -1], written)
    assert part.features[1, -1, index] == 0
    assert part.errors[0, 1:].abs().max() < 1e-6
    torch.testing.assert_close(part.logits, whole.logits)


def test_what_a_left_out_neuron_did_comes_from_the_error_of_its_place(model):
    graph = graphs.attribution_graph(local_of(model, "capital", "Dallas", without=["Texas"]), max_logits=1)
    sources = {name: weight for (name, _), weight in edges_of(graph).items() if name.startswith("error")}
    assert max(sources, key=lambda name: abs(sources[name])) == "error 0 @ Dallas"


def test_bad_names(model):
    with pytest.raises(ValueError, match=r"without has 'Ohio'; neurons are Texas,"):
        graphs.hand_wired_transcoders(model, without=["Ohio"])
    with pytest.raises(
        ValueError, match=r"relation and city are 'capital' and 'Paris'; they should be one of capital"
    ):
        graphs.true_edges("capital", "Paris")
    with pytest.raises(ValueError, match=r"relation and city are 'flower' and 'Dallas'"):
        graphs.true_edges("flower", "Dallas")
