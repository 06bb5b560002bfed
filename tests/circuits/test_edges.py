"""The head-and-MLP graph: its order, its counts, its masks."""

from __future__ import annotations

import pytest
import torch
from circuit_models import native
from sentences import assert_one_sentence
from transformer_lens.model_bridge import TransformerBridge

from mi_utils.circuits.edges import EdgeGraph, edge_graph


def test_order_and_count():
    edges = EdgeGraph(n_layers=2, n_heads=2, n_key_value_heads=1, has_mlps=True, parallel=False)
    assert edges.senders == ("embed", "0.0", "0.1", "mlp0", "1.0", "1.1", "mlp1")
    assert edges.receivers == (
        "0.0.q",
        "0.1.q",
        "0.0.k",
        "0.0.v",
        "mlp0",
        "1.0.q",
        "1.1.q",
        "1.0.k",
        "1.0.v",
        "mlp1",
        "logits",
    )
    assert edges.edges.sum(dim=0).tolist() == [1, 1, 1, 1, 3, 4, 4, 4, 4, 6, 7]
    assert len(edges) == 36
    assert edges.edges.tolist() == sorted(
        edges.edges.tolist(), reverse=True
    )  # who comes first is read by more
    assert [edges.layer(column) for column in range(11)] == [0] * 5 + [1] * 5 + [2]
    assert [(edges.senders[edges.readers(column)]) for column in (1, 2, 3, 4, 9)] == [
        ("0.1",),
        ("0.0", "0.1"),
        ("0.0", "0.1"),
        ("mlp0",),
        ("mlp1",),
    ]


@pytest.mark.parametrize(
    ("shape", "count"), [((30, 9, 3, True, False), 70_651), ((12, 12, 12, True, False), 32_491)]
)  # smollm2-135m as in FEASIBILITY; GPT-2 small
def test_count_of_real_models(shape: tuple, count: int):
    assert len(EdgeGraph(*shape)) == count


def test_groups_of_heads_that_share_keys():
    edges = EdgeGraph(n_layers=1, n_heads=6, n_key_value_heads=3, has_mlps=False, parallel=False)
    assert edges.senders[edges.readers(edges.receivers.index("0.1.k"))] == ("0.2", "0.3")
    assert edges.senders[edges.readers(edges.receivers.index("0.2.v"))] == ("0.4", "0.5")


def test_graph_of_a_model(llama_model: TransformerBridge, gpt2_model: TransformerBridge):
    assert edge_graph(llama_model) == EdgeGraph(2, 4, 2, True, False)
    assert edge_graph(gpt2_model) == EdgeGraph(2, 4, 4, True, False)
    assert edge_graph(native("attention only")) == EdgeGraph(3, 4, 4, False, False)


def test_masks_and_names():
    edges = EdgeGraph(2, 2, 1, True, False)
    chosen = [("embed", "0.0.k"), ("0.1", "mlp0"), ("mlp1", "logits")]
    assert edges.names(edges.mask(chosen)) == chosen
    assert edges.names(edges.edges) == edges.names(edges.mask(edges.names(edges.edges)))
    scores = torch.zeros(edges.edges.shape)
    scores[0, 2], scores[2, 4], scores[6, 10], scores[6, 0] = 1, -3, 2, 9  # the last is no edge
    assert edges.names(edges.top(scores, 2)) == chosen[1:]
    assert edges.names(edges.top(scores, 3)) == chosen
    assert edges.top(scores, 36).sum() == 36
    assert edges.per_head(scores).tolist() == [[0, 3], [0, 0]]
    scores[4, 10] = -0.5  # 1.0 to the logits
    assert edges.per_head(scores).tolist() == [[0, 3], [0.5, 0]]


def test_masks_that_are_none(unchecked: None):
    edges = EdgeGraph(2, 2, 1, True, False)
    bad = [
        (lambda: edges.mask([("9.0", "logits")]), ("9.0", "sender")),
        (lambda: edges.mask([("embed", "0.1.k")]), ("0.1.k", "receiver")),
        (lambda: edges.mask([("mlp1", "mlp1")]), ("mlp1",)),
        (lambda: edges.names(~edges.edges), ("mask", "0.0, 0.0.q")),
        (lambda: edges.names(edges.edges[1:]), ("mask", "(6, 11)")),
        (lambda: edges.names(edges.edges.float()), ("mask", "float32")),
        (lambda: edges.top(torch.zeros(2, 2), 1), ("scores", "(2, 2)")),
        (lambda: edges.top(torch.full(edges.edges.shape, torch.nan), 1), ("scores", "NaN")),
        (lambda: edges.top(torch.zeros(edges.edges.shape), 0), ("count is 0", "36")),
        (lambda: edges.top(torch.zeros(edges.edges.shape), 37), ("count is 37", "36")),
    ]
    for call, names in bad:
        with pytest.raises(ValueError) as caught:
            call()
        assert_one_sentence(caught.value, *names)
