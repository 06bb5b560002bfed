"""Estimates of what edges do, against edges ablated one by one through the hooks of TransformerLens."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import circuit_models
import pytest
import torch
from circuit_models import metric, native, pairs
from sentences import assert_one_sentence
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import circuits
from mi_utils.circuits.edge_ablation import run_edges
from mi_utils.circuits.edges import edge_graph

KINDS = ("Llama", "GPT-2", "GPT-NeoX")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], TransformerBridge]:
    """Models of three layers, by kind and seed, loaded once each."""

    @functools.cache
    def load(kind: str, seed: int = 0) -> TransformerBridge:
        return circuit_models.three_layers(kind, tmp_path_factory.mktemp("deep"), seed)

    return load


def answer(model: TransformerBridge, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return metric(model(tokens)[:, -1])


def ablated(model: TransformerBridge, clean: Tensor, corrupted: Tensor) -> Tensor:
    """What each edge does when it is ablated by itself: the metric's change, averaged over pairs.

    By TransformerLens' own split inputs and its results of single heads, so that nothing of ours is in it.
    """
    edges, filled = edge_graph(model), torch.zeros(edge_graph(model).edges.shape)
    base = answer(model, clean)
    switches = ("attn_result", "split_qkv_input", *(["hook_mlp_in"] if edges.has_mlps else []))
    for switch in switches:
        getattr(model, f"set_use_{switch}")(True)
    try:
        with torch.no_grad():
            here, there = model.run_with_cache(clean)[1], model.run_with_cache(corrupted)[1]
            changes = torch.stack(
                [written(there, sender) - written(here, sender) for sender in edges.senders]
            )
            for column, receiver in enumerate(edges.receivers):
                rows = edges.edges[:, column]
                name, head = place(receiver, edges.n_layers)
                change = changes[rows].flatten(0, 1)  # all senders at once: rows of one batch

                def add(value: Tensor, hook, change=change, head=head) -> Tensor:
                    value = value.clone()
                    (value if head is None else value[:, :, head]).add_(change)
                    return value

                logits = model.run_with_hooks(clean.repeat(int(rows.sum()), 1), fwd_hooks=[(name, add)])[
                    :, -1
                ]
                filled[rows, column] = metric(logits).view(-1, len(clean)).mean(dim=1) - base.mean()
    finally:
        for switch in switches:
            getattr(model, f"set_use_{switch}")(False)
    return filled


def written(cache, sender: str) -> Tensor:
    if sender == "embed":
        return cache["blocks.0.hook_resid_pre"]
    if sender.startswith("mlp"):
        return cache[f"blocks.{sender[3:]}.hook_mlp_out"]
    layer, head = sender.split(".")
    return cache[f"blocks.{layer}.attn.hook_result"][:, :, int(head)]


def place(receiver: str, n_layers: int) -> tuple[str, int | None]:
    if receiver == "logits":
        return f"blocks.{n_layers - 1}.hook_resid_post", None
    if receiver.startswith("mlp"):
        return f"blocks.{receiver[3:]}.hook_mlp_in", None
    layer, head, kind = receiver.split(".")
    return f"blocks.{layer}.hook_{kind}_input", int(head)


def correlation(first: Tensor, second: Tensor) -> float:
    return torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].item()


# -------------------------------------------------------------------------------------------- against ablated
# edges


@pytest.mark.parametrize("kind", KINDS)
def test_first_order(kind: str, deep: Callable):
    """Where the corruption is small, the estimate is the effect: here within 3 % of the largest.

    A corrupted token is then the clean one, with an embedding that is one per cent away.
    """
    model, (clean, _) = deep(kind, 0), pairs()
    clean = clean.clamp(max=11)
    clean[:, 2] = 10
    corrupted = clean.clone()
    corrupted[:, 2] = 12
    with nearly_the_same(model, 12, 10):
        true, scores = ablated(model, clean, corrupted), circuits.eap(model, clean, corrupted, metric)
    assert true.abs().max() > 1e-3 and (true.abs() > 0.01 * true.abs().max()).float().mean() > 0.1
    assert (scores - true).abs().max() < 0.03 * true.abs().max()


@contextmanager
def nearly_the_same(model: TransformerBridge, token: int, other: int) -> Iterator[None]:
    weight = model.embed.original_component.weight
    before = weight.detach().clone()
    step = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        weight[token] = weight[other] + 0.01 * weight[other].norm() * step / step.norm()
    yield
    with torch.no_grad():
        weight.copy_(before)


def test_real_corruptions(deep: Callable):
    """Means over six random models: EAP is a fair estimate, integrated gradients a better one, the wrong run
    a bad one.

    They are means: in a single model any of the three may come first.
    """
    found: dict[str, list[float]] = {"eap": [], "ig": [], "wrong run": []}
    for kind, seed in itertools.product(KINDS, (0, 1)):
        model, (clean, corrupted) = deep(kind, seed), pairs(seed=seed)
        edges, true = edge_graph(model).edges, ablated(model, clean, corrupted)
        estimates = {
            "eap": circuits.eap(model, clean, corrupted, metric),
            "ig": circuits.eap_ig(model, clean, corrupted, metric, steps=5),
            "wrong run": -circuits.eap(model, corrupted, clean, metric),
        }
        for name, scores in estimates.items():
            assert (scores[~edges] == 0).all()
            found[name].append(correlation(scores[edges], true[edges]))
    means = {name: sum(values) / len(values) for name, values in found.items()}
    assert means["eap"] > 0.65, found
    assert means["ig"] > means["eap"] + 0.05, found
    assert means["wrong run"] < means["eap"] - 0.1, found


@pytest.mark.parametrize("kind", KINDS)
def test_exact_ablation(kind: str, deep: Callable):
    """One edge at a time: our forward pass node by node against TransformerLens' split inputs."""
    model, (clean, corrupted) = deep(kind, 0), pairs()
    edges, true = edge_graph(model), ablated(model, clean, corrupted)
    places = edges.edges.nonzero()
    kept = edges.edges.repeat(len(places), 1, 1)
    kept[torch.arange(len(places)), places[:, 0], places[:, 1]] = False
    effects = (metric(run_edges(model, clean, corrupted, kept)) - answer(model, clean)).mean(dim=1)
    assert torch.allclose(effects, true[edges.edges], atol=1e-5) and true.abs().max() > 0.1


def test_sign_and_size():
    """Without norms, what an edge brings to the logits is linear, so its score is its effect, with its
    sign."""
    model, circuit = circuit_models.by_hand()
    clean, corrupted = pairs()
    scores = circuits.eap(model, clean, corrupted, metric)
    total = (answer(model, corrupted) - answer(model, clean)).mean().item()
    assert scores[:, -1].sum().item() == pytest.approx(total, abs=1e-5) and abs(total) > 0.1
    assert (scores[~circuit] == 0).all()  # nothing else leads to the logits, not even a little
    assert (scores[circuit].abs() > 1e-3).all()


def test_batch_is_a_mean_over_pairs():
    model, (clean, corrupted) = native("LayerNorm"), pairs()
    together = circuits.eap_ig(model, clean, corrupted, metric, steps=2)
    alone = [
        circuits.eap_ig(model, clean[i : i + 1], corrupted[i : i + 1], metric, steps=2) for i in range(3)
    ]
    assert torch.allclose(together, torch.stack(alone).mean(dim=0), atol=1e-6)


def test_integrated_gradient_sums_to_the_change():
    """Over the edges that leave the embedding, and only where no path is counted twice, the scores add up."""
    model, _ = circuit_models.by_hand()
    clean, corrupted = pairs()
    total = (answer(model, corrupted) - answer(model, clean)).mean().item()
    from_embedding = circuits.eap_ig(model, clean, corrupted, metric, steps=50)[0].sum().item()
    assert from_embedding == pytest.approx(total, rel=2e-3)
    at_clean = circuits.eap(model, clean, corrupted, metric)[0].sum().item()
    assert abs(at_clean - total) > 5 * abs(from_embedding - total)


def test_parallel_blocks(deep: Callable):
    """In GPT-NeoX attention and MLP of a layer read the same stream, so there is no edge between them."""
    edges = edge_graph(deep("GPT-NeoX", 0))
    assert edges.parallel and len(edges) == 250
    with pytest.raises(ValueError) as caught:
        edges.mask([("0.0", "mlp0")])
    assert_one_sentence(caught.value, "0.0", "mlp0")


@pytest.mark.parametrize("steps", [1, 4])
def test_points_lie_evenly_between_the_runs(steps: int):
    """The same points serve both directions, so exchanging clean and corrupted changes the sign and nothing
    else."""
    model, (clean, corrupted) = native("LayerNorm"), pairs()
    there = circuits.eap_ig(model, clean, corrupted, metric, steps=steps)
    back = circuits.eap_ig(model, corrupted, clean, metric, steps=steps)
    assert torch.allclose(there, -back, atol=1e-4) and there.abs().max() > 0.1


def test_leaves_no_trace():
    model, (clean, corrupted) = native("LayerNorm"), pairs()
    before = answer(model, clean)
    circuits.eap(model, clean, corrupted, metric)
    assert torch.equal(answer(model, clean), before)
    assert all(value.grad is None for value in model.parameters())
    with torch.no_grad():  # a notebook may have switched gradients off
        assert circuits.eap(model, clean, corrupted, metric).abs().max() > 0


# ------------------------------------------------------------------------------------------------------- bad
# input


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda clean, other: (clean, other[:, :-1]), ("(3, 6)", "(3, 5)")),
        (lambda clean, other: (clean[:2], other), ("(2, 6)", "(3, 6)")),
        (lambda clean, other: (clean[:0], other[:0]), ("base", "(0, 6)")),
        (lambda clean, other: (clean, clean.clone()), ("source", "same")),
    ],
)
def test_prompts_that_are_no_pairs(change, names: tuple[str, ...], unchecked: None):
    with pytest.raises(ValueError) as caught:
        circuits.eap(native("LayerNorm"), *change(*pairs()), metric)
    assert_one_sentence(caught.value, *names)


def test_steps_and_metrics(unchecked: None):
    model, two = native("LayerNorm"), pairs()
    with pytest.raises(ValueError) as caught:
        circuits.eap_ig(model, *two, metric, steps=0)
    assert_one_sentence(caught.value, "steps is 0")
    for wrong in (
        lambda logits: logits,
        lambda logits: metric(logits).mean(),
        lambda logits: metric(logits.detach()),
    ):
        with pytest.raises(ValueError) as caught:
            circuits.eap(model, *two, wrong)
        assert_one_sentence(caught.value, "metric", "3 pairs")


def test_model_whose_outputs_are_scaled():
    model, two = native("LayerNorm"), pairs()
    model.blocks[1].mlp.register_forward_hook(lambda module, args, out: 3 * out)
    with pytest.raises(ValueError) as caught:
        circuits.eap(model, *two, metric)
    assert_one_sentence(caught.value, "model", "residual stream")
