"""A forward pass with edges cut is exact, and the search finds the circuit that was put in."""

from __future__ import annotations

import circuit_models
import pytest
import torch
from circuit_models import by_hand, metric, native, pairs
from sentences import assert_one_sentence
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import circuits
from mi_utils.circuits.edge_ablation import acdc, run_edges
from mi_utils.circuits.edges import edge_graph

KINDS = [*circuit_models.KINDS, "Llama", "GPT-2"]


@pytest.fixture
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    hub = {"Llama": "llama_model", "GPT-2": "gpt2_model"}
    kind = request.param
    return request.getfixturevalue(hub[kind]) if kind in hub else native(kind)


def last(model: TransformerBridge, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens)[:, -1]


def divergence(full: torch.Tensor, part: torch.Tensor) -> float:
    return torch.nn.functional.kl_div(
        part.log_softmax(-1), full.log_softmax(-1), reduction="batchmean", log_target=True
    ).item()


# -- cut and ---------------------------------------------------------------------------------------------
# kept edges


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_ends(model: TransformerBridge):
    """All edges kept: the clean run; none: the corrupted run."""
    clean, corrupted = pairs()
    edges = edge_graph(model).edges
    logits = run_edges(model, clean, corrupted, torch.stack([edges, torch.zeros_like(edges)]))
    assert torch.allclose(logits[0], last(model, clean), atol=1e-4)
    assert torch.allclose(logits[1], last(model, corrupted), atol=1e-4)
    assert (logits[0] - logits[1]).abs().max() > 0.01
    assert torch.equal(run_edges(model, clean, corrupted, edges), logits[0])


@pytest.mark.parametrize("model", ["LayerNorm", "Llama"], indirect=True)
def test_nodes_whose_inputs_are_all_cut(model: TransformerBridge):
    """Such a node writes what it wrote in the corrupted run, so of the edges into the logits one alone
    counts."""
    clean, corrupted = pairs()
    corrupted[:, -1] = (
        clean[:, -1] + 1
    ) % circuit_models.VOCABULARY  # the last position is where it can be seen
    edges = edge_graph(model)
    into_logits = edges.edges.clone()
    into_logits[:, :-1] = False
    logits = run_edges(model, clean, corrupted, torch.stack([into_logits, edges.mask([("embed", "logits")])]))
    assert torch.allclose(logits[0], logits[1], atol=1e-5)
    assert (logits[0] - last(model, corrupted)).abs().max() > 0.01


def test_shape_of_several_circuits():
    model, two = native("LayerNorm"), pairs()
    edges = edge_graph(model).edges
    assert run_edges(model, *two, edges.expand(2, 1, *edges.shape)).shape == (
        2,
        1,
        3,
        circuit_models.VOCABULARY,
    )
    assert run_edges(model, *two, edges).shape == (3, circuit_models.VOCABULARY)


def test_only_what_was_put_in_matters():
    model, circuit = by_hand()
    clean, corrupted = pairs()
    assert torch.allclose(run_edges(model, clean, corrupted, circuit), last(model, clean), atol=1e-4)
    for row, column in circuit.nonzero().tolist():
        less = circuit.clone()
        less[row, column] = False
        assert (run_edges(model, clean, corrupted, less) - last(model, clean)).abs().max() > 0.1


def test_no_trace():
    model, (clean, corrupted) = native("LayerNorm"), pairs()
    before = last(model, clean)
    acdc(
        model,
        clean,
        corrupted,
        0.1,
        candidates=edge_graph(model).mask([("embed", "0.0.q"), ("embed", "logits")]),
    )
    assert torch.equal(last(model, clean), before)


# -- acdc ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1e-3, 1e-2])
def test_finds_the_circuit(tau: float):
    """Exhaustively, from all edges of the model whose circuit is known: those four, and no other."""
    model, circuit = by_hand()
    found = acdc(model, *pairs(count=6), tau)
    assert edge_graph(model).names(found.kept) == edge_graph(model).names(circuit)
    assert found.at_start == pytest.approx(0, abs=1e-5) and abs(found.divergence) < 1e-4
    assert (
        len(circuit_models.CIRCUIT) <= found.runs < len(edge_graph(model))
    )  # what nothing reads any more takes no run


def test_divergences_are_those_of_the_circuits():
    model, (clean, corrupted) = native("grouped"), pairs()
    edges = edge_graph(model)
    scores = circuits.eap(model, clean, corrupted, metric)
    start = edges.top(scores, 60)
    found = acdc(model, clean, corrupted, 0.02, candidates=start)
    full = last(model, clean)
    assert found.at_start == pytest.approx(
        divergence(full, run_edges(model, clean, corrupted, start)), abs=1e-5
    )
    assert found.divergence == pytest.approx(
        divergence(full, run_edges(model, clean, corrupted, found.kept)), abs=1e-5
    )
    assert not (found.kept & ~start).any() and 0 < found.kept.sum() < 60
    # Nothing else to cut: each edge left is one whose removal, when it was tried, cost at least tau. Most
    # still do.
    costs = []
    for row, column in found.kept.nonzero().tolist():
        less = found.kept.clone()
        less[row, column] = False
        costs.append(divergence(full, run_edges(model, clean, corrupted, less)) - found.divergence)
    assert sum(cost >= 0.02 for cost in costs) > len(costs) / 2


def test_larger_tau_cuts_more():
    """Not a law of a greedy search, but so over this range; and no edge at all is worth a hundred nats."""
    model, two = native("LayerNorm"), pairs()
    candidates = edge_graph(model).top(circuits.eap(model, *two, metric), 80)
    counts = [int(acdc(model, *two, tau, candidates=candidates).kept.sum()) for tau in (0.0003, 0.01, 100)]
    assert 80 > counts[0] > counts[1] > counts[2] == 0


def test_the_rest_cut_or_kept():
    model, two = native("LayerNorm"), pairs()
    edges = edge_graph(model)
    candidates = edges.mask([("embed", "mlp0"), ("mlp0", "logits"), ("0.1", "2.1.v"), ("embed", "1.0.q")])
    kept = acdc(model, *two, 0.001, candidates=candidates, rest="kept")
    assert (kept.kept | candidates).equal(edges.edges) and abs(kept.at_start) < 1e-5
    cut = acdc(model, *two, 0.001, candidates=candidates)
    assert not (cut.kept & ~candidates).any() and cut.at_start > 0.01
    # Cut away from all else, the last two lead nowhere: they go without a run.
    assert not (cut.kept & edges.mask([("0.1", "2.1.v"), ("embed", "1.0.q")])).any() and cut.runs <= 2


def test_progress_is_told():
    model, two = by_hand()[0], pairs()
    told: list[tuple[int, int]] = []
    acdc(model, *two, 0.01, progress=lambda done, of: told.append((done, of)))
    assert told == [(done, len(edge_graph(model))) for done in range(1, len(edge_graph(model)) + 1)]


# -- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"tau": -0.1}, ("tau is -0.1",)),
        ({"tau": float("nan")}, ("tau is nan",)),
        ({"rest": "drop"}, ("rest is 'drop'", "'cut'")),
        ({"candidates": "none"}, ("candidates", "empty")),
        ({"candidates": "all pairs"}, ("candidates", "0.0, 0.0.q")),
    ],
)
def test_what_acdc_refuses(settings: dict, names: tuple[str, ...], unchecked: None):
    model, two = native("LayerNorm"), pairs()
    edges = edge_graph(model).edges
    masks = {"none": torch.zeros_like(edges), "all pairs": torch.ones_like(edges)}
    settings = {"tau": 0.1} | settings
    if "candidates" in settings:
        settings["candidates"] = masks[settings["candidates"]]
    with pytest.raises(ValueError) as caught:
        acdc(model, *two, settings.pop("tau"), **settings)
    assert_one_sentence(caught.value, *names)


def test_what_run_edges_refuses(unchecked: None):
    model, (clean, corrupted) = native("LayerNorm"), pairs()
    edges = edge_graph(model).edges
    for call, names in (
        (lambda: run_edges(model, clean, corrupted[:, 1:], edges), ("(3, 6)", "(3, 5)")),
        (lambda: run_edges(model, clean, clean, edges), ("source", "same")),
        (lambda: run_edges(model, clean, corrupted, ~edges), ("kept", "0.0, 0.0.q")),
        (lambda: run_edges(model, clean, corrupted, edges[1:]), ("kept", "(15, 40)")),
        (lambda: run_edges(model, clean, corrupted, edges.expand(0, *edges.shape)), ("kept", "no mask")),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert_one_sentence(caught.value, *names)


def test_model_that_is_computed_otherwise():
    model, two = native("LayerNorm"), pairs()
    model.blocks[1].register_forward_hook(lambda module, args, out: (out[0] * 2,))
    with pytest.raises(ValueError) as caught:
        run_edges(model, *two, edge_graph(model).edges)
    assert_one_sentence(caught.value, "model", "heads and MLPs")
