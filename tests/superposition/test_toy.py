"""mi_utils.superposition.toy and its parts: against loops, formulas and shapes that are known exactly."""

import json
import math

import nbformat
import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import superposition
from mi_workshop.makers import superposition as recipe

QUICK = superposition.ToySettings(steps=5, batch=16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def polygon(n: int) -> torch.Tensor:
    turn = torch.arange(n) * 2 * math.pi / n
    return torch.stack([turn.cos(), turn.sin()])[None]


# --------------------------------------------------------------------------------------------------------
# examples


def test_each_instance_has_its_own_sparsity_and_values_are_uniform():
    S = torch.tensor([0.0, 0.5, 0.9])
    x = superposition.sparse_batch(40_000, S, 4, generator())
    assert x.shape == (40_000, 3, 4) and x.min() >= 0 and x.max() < 1
    assert torch.allclose((x == 0).float().mean(dim=(0, 2)), S, atol=0.01)
    there = x[:, 2][x[:, 2] > 0]
    assert there.mean().item() == pytest.approx(0.5, abs=0.01) and there.var().item() == pytest.approx(
        1 / 12, abs=0.003
    )


def test_features_are_independent_of_each_other_and_of_other_instances():
    x = (superposition.sparse_batch(40_000, torch.full((2,), 0.5), 3, generator()) > 0).float().flatten(1)
    assert (torch.corrcoef(x.T) - torch.eye(6)).abs().max() < 0.03


def test_only_the_generator_is_used():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (superposition.sparse_batch(8, torch.tensor([0.5]), 2, generator(4)) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(before, torch.get_rng_state())


def test_pairs_come_together_or_never_and_are_as_frequent_as_others():
    S = torch.tensor([0.7, 0.9])
    both = superposition.paired_batch(40_000, S, 4, True, generator())
    apart = superposition.paired_batch(40_000, S, 4, False, generator())
    assert torch.equal(both[..., 0] > 0, both[..., 1] > 0) and not torch.equal(both[..., 0], both[..., 1])
    assert not ((apart[..., 0] > 0) & (apart[..., 1] > 0)).any()
    for x in (both, apart):
        assert torch.allclose((x > 0).float().mean(dim=0), (1 - S)[:, None].expand(2, 4), atol=0.01)
        assert ((x[..., 0] > 0) & (x[..., 2] > 0)).float().mean(dim=0)[0].item() == pytest.approx(
            0.09, abs=0.01
        )


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: superposition.sparse_batch(4, torch.tensor([1.0]), 2, generator()), "sparsity"),
        (lambda: superposition.sparse_batch(4, torch.tensor([-0.1]), 2, generator()), "sparsity"),
        (lambda: superposition.sparse_batch(4, torch.tensor([float("nan")]), 2, generator()), "sparsity"),
        (lambda: superposition.sparse_batch(4, torch.zeros(0), 2, generator()), "sparsity"),
        (lambda: superposition.sparse_batch(0, torch.tensor([0.1]), 2, generator()), "batch"),
        (lambda: superposition.sparse_batch(4, torch.tensor([0.1]), 0, generator()), "n is 0"),
        (lambda: superposition.paired_batch(4, torch.tensor([0.7]), 3, True, generator()), "n is 3"),
        (lambda: superposition.paired_batch(4, torch.tensor([0.4]), 4, False, generator()), "0.4"),
        (lambda: superposition.start(0, 2, 5, 0), "instances"),
        (lambda: superposition.train(3, 0, torch.tensor([0.1]), torch.ones(3), QUICK), "m is 0"),
        (lambda: superposition.train(3, 2, torch.tensor([0.1]), torch.ones(4), QUICK), "importance"),
        (lambda: superposition.train(3, 2, torch.tensor([0.1]), torch.ones(2, 3), QUICK), "importance"),
        (lambda: superposition.train(3, 2, torch.tensor([0.1]), torch.zeros(3), QUICK), "importance"),
        (
            lambda: superposition.train(3, 2, torch.tensor([0.1]), torch.full((3,), math.nan), QUICK),
            "importance",
        ),
        (
            lambda: superposition.train(
                3, 2, torch.tensor([0.1]), torch.ones(3), superposition.ToySettings(steps=0)
            ),
            "steps",
        ),
        (
            lambda: superposition.train(
                3, 2, torch.tensor([0.1]), torch.ones(3), superposition.ToySettings(steps=60, lr=1e30)
            ),
            "lr",
        ),
        (lambda: superposition.best_linear_loss(torch.tensor([0.1]), torch.ones(3), 4), "m is 4"),
        (lambda: superposition.share_near(torch.zeros(0)), "0 values"),
        (lambda: superposition.share_near(torch.zeros(2), []), "0 lines"),
        (lambda: superposition.welch_bound(0, 2), "N is 0"),
        (lambda: superposition.spread_out(1, 2), "N is 1"),
        (lambda: superposition.gram_figure(weights(2, 2, 5), torch.zeros(2, 5), ["one"]), "names"),
        (lambda: superposition.gram_figure(weights(1, 2, 5) * math.nan, torch.zeros(1, 5), ["one"]), "W^T W"),
        (lambda: superposition.training_animation(weights(3, 2, 5), (0, 1)), "steps"),
        (lambda: superposition.instance_slider(weights(2, 2, 5), torch.zeros(2, 5), ["one"]), "names"),
        (
            lambda: superposition.phase_figure(
                {"a": torch.full((2, 3), 0)}, torch.ones(2), torch.ones(2), "ab"
            ),
            "maps",
        ),
        (
            lambda: superposition.phase_figure(
                {"a": torch.full((2, 2), 2)}, torch.ones(2), torch.ones(2), "ab"
            ),
            "maps",
        ),
    ],
)
def test_bad_input_is_told_in_one_sentence(call, name):
    with pytest.raises(ValueError) as error:
        call()
    assert_one_sentence(error.value, name)


# -----------------------------------------------------------------------------------------------------------
# model


@pytest.mark.parametrize("relu", [True, False])
def test_the_model_is_relu_of_gram_times_x_for_each_instance(relu):
    W, b, x = weights(3, 2, 5), weights(3, 5, seed=1), weights(7, 3, 5, seed=2)
    out = superposition.reconstruct(W, b, x, relu)
    for i in range(3):
        wanted = x[:, i] @ (W[i].T @ W[i]) + b[i]
        assert torch.allclose(out[:, i], wanted.relu() if relu else wanted, atol=1e-5)


def test_the_loss_weights_sums_and_averages():
    x, out = torch.zeros(2, 1, 2), torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]])
    assert superposition.importance_loss(x, out, torch.tensor([1.0, 0.5])).tolist() == [(1 + 2 + 9) / 2]
    each = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert superposition.importance_loss(x.expand(2, 2, 2), out.expand(2, 2, 2), each).tolist() == [5, 2]


def test_expected_loss_is_that_of_the_examples_and_shares_them_between_instances():
    W, b, S = torch.zeros(2, 1, 3), torch.zeros(2, 3), torch.tensor([0.5, 0.5])
    found = superposition.expected_loss(W, b, S, torch.ones(3), batch=30_500)
    assert found[0] == found[1] and found[0].item() == pytest.approx(3 * 0.5 / 3, rel=0.02)
    assert superposition.expected_loss(W, b, S, torch.ones(3), batch=1001)[0].item() == pytest.approx(
        0.5, rel=0.1
    )


@pytest.mark.parametrize("batch", [500, 1_500])
def test_expected_loss_counts_the_last_partial_batch(batch):
    """Zero weights leave three features of mean square (1 - S) / 3 each."""
    found = superposition.expected_loss(
        torch.zeros(1, 2, 3), torch.zeros(1, 3), torch.tensor([0.5]), torch.ones(3), batch=batch
    )
    assert found.item() == pytest.approx(0.5, rel=0.15)


def test_the_seed_of_expected_loss_decides_the_examples():
    weights = torch.zeros(1, 2, 3), torch.zeros(1, 3), torch.tensor([0.5]), torch.ones(3)
    losses = [superposition.expected_loss(*weights, batch=500, seed=seed).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_candidates_on_paper_are_what_examples_give():
    p, importance = torch.tensor([0.3, 0.8, 1.0]), torch.tensor([0.4, 1.0, 3.0])
    weighted = torch.stack([torch.ones(3), importance], dim=-1)
    for k, (W, dropped) in enumerate([([1.0, 0.0], 1), ([0.0, 1.0], 0), ([1.0, -1.0], None)]):
        b = torch.zeros(3, 2)
        if dropped is not None:
            b[:, dropped] = p / 2
        found = superposition.expected_loss(
            torch.tensor([[W]]).expand(3, 1, 2), b, 1 - p, weighted, batch=200_000
        )
        assert torch.allclose(found, superposition.candidate_losses(p, importance)[:, k], rtol=0.02)


def test_antipodal_wins_where_the_algebra_says():
    for importance in (0.3, 1.0, 2.5):
        edge = min(4 * importance / (2 + 5 * importance), 4 / (5 + 2 * importance))
        for p, wanted in ((edge - 0.01, True), (edge + 0.01, False)):
            assert (superposition.candidate_losses(p, importance).argmin().item() == 2) == wanted


def test_candidates_broadcast_over_a_grid():
    found = superposition.candidate_losses(torch.rand(4, 1), torch.rand(1, 5))
    assert found.shape == (4, 5, 3)


def test_the_best_linear_loss_is_the_least_eigenvalues():
    x = superposition.sparse_batch(200_000, torch.tensor([0.6]), 4, generator())[:, 0]
    importance = torch.tensor([0.3, 2.0, 1.0, 0.5])
    left = torch.linalg.eigvalsh(torch.cov((x * importance.sqrt()).T))[:3].sum()
    found = superposition.best_linear_loss(torch.tensor([0.6]), importance, 1)
    assert found.item() == pytest.approx(left.item(), rel=0.02)


# --------------------------------------------------------------------------------------------------------
# training


def test_training_from_a_seed_repeats_and_keeps_frames():
    S = torch.tensor([0.5, 0.9])
    settings = superposition.ToySettings(steps=30, batch=32, seed=3, frames=4)
    first, second = (superposition.train(4, 2, S, torch.ones(4), settings) for _ in range(2))
    assert torch.equal(first.W, second.W) and torch.equal(first.b, second.b)
    assert first.steps == (0, 3, 13, 30) and len(first.history_W) == 4  # closer together at the beginning
    assert torch.equal(first.history_W[-1], first.W) and torch.equal(first.history_b[-1], first.b)
    assert torch.equal(first.history_W[0], superposition.start(2, 2, 4, 6)[0]) and not first.W.requires_grad
    other = superposition.train(4, 2, S, torch.ones(4), superposition.ToySettings(steps=30, batch=32, seed=4))
    assert (
        not torch.allclose(other.W, first.W) and other.history_W.shape == (0, 2, 2, 4) and other.steps == ()
    )


def test_examples_depend_on_the_seed_too(monkeypatch):
    fixed = superposition.start(1, 2, 3, 0)
    monkeypatch.setattr(superposition.toy, "start", lambda *_: tuple(one.clone() for one in fixed))
    first, second = (
        superposition.train(
            3, 2, torch.tensor([0.5]), torch.ones(3), superposition.ToySettings(steps=5, batch=8, seed=seed)
        )
        for seed in (1, 2)
    )
    assert not torch.allclose(first.W, second.W, atol=1e-4)


def test_a_linear_model_reaches_pca_and_a_relu_model_passes_it():
    S, importance = torch.full((6,), 0.9), 0.8 ** torch.arange(4)
    best = superposition.best_linear_loss(S[:1], importance, 2).item()
    settings = superposition.ToySettings(steps=700, batch=128)
    found = {}
    for relu in (False, True):
        trained = superposition.train(4, 2, S, importance, settings, relu=relu)
        found[relu] = (
            superposition.expected_loss(trained.W, trained.b, S, importance, relu=relu, batch=50_000)
            .min()
            .item()
        )
    assert found[False] == pytest.approx(best, rel=0.05) and found[True] < 0.4 * best


def test_instances_do_not_feel_each_other():
    fixed = superposition.sparse_batch(64, torch.tensor([0.5]), 3, generator())
    alone, beside = (
        superposition.train(
            3, 2, torch.full((k,), 0.5), torch.ones(3), QUICK, batches=lambda k=k: fixed.expand(64, k, 3)
        )
        for k in (1, 2)
    )
    assert torch.allclose(alone.W[0], beside.W[0], atol=1e-6) and not torch.allclose(beside.W[0], beside.W[1])


def test_training_works_where_gradients_are_off_and_leaves_them_off():
    with torch.no_grad():
        trained = superposition.train(3, 2, torch.tensor([0.5]), torch.ones(3), QUICK)
        assert not torch.is_grad_enabled() and not torch.equal(trained.W, superposition.start(1, 2, 3, 0)[0])


def test_importance_of_each_instance_counts():
    importance = torch.tensor([[1.0, 0.01], [0.01, 1.0]])
    trained = superposition.train(
        2, 1, torch.zeros(2), importance, superposition.ToySettings(steps=300, batch=64)
    )
    assert trained.W[:, 0].abs().argmax(dim=1).tolist() == [0, 1]


# --------------------------------------------------------------------------------------------------------
# geometry


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_regular_polygons_have_two_over_n(n):
    W = polygon(n)
    assert torch.allclose(superposition.dimensionality(W), torch.full((1, n), 2 / n), atol=1e-5)
    assert superposition.dimensions_per_feature(W).item() == pytest.approx(2 / n)


def test_lengths_and_missing_features():
    W = torch.tensor([[[2.0, -1.0, 0.0], [0.0, 0.0, 0.0]]])
    assert superposition.overlaps(W)[0].tolist() == [[2, -1, 0], [-2, 1, 0], [0, 0, 0]]
    assert superposition.dimensionality(W)[0].tolist() == pytest.approx([4 / 5, 1 / 5, 0])
    assert superposition.interference(W)[0].tolist() == pytest.approx([1, 4, 0])
    assert superposition.represented(W)[0].tolist() == [True, True, False]
    assert superposition.dimensions_per_feature(W).item() == pytest.approx(2 / 5)


def test_interference_and_dimensionality_are_two_sides_of_one_sum():
    W = weights(2, 3, 6)
    squared = W.pow(2).sum(dim=1)
    assert torch.allclose(
        superposition.dimensionality(W), squared / (squared + superposition.interference(W)), atol=1e-6
    )


def test_the_control_keeps_each_length_and_no_angle():
    W = weights(3, 4, 9) * torch.arange(9)
    control = superposition.matched_control(W, generator(1))
    assert torch.allclose(control.norm(dim=1), W.norm(dim=1), rtol=1e-5)
    assert not torch.allclose(
        superposition.overlaps(control).abs(), superposition.overlaps(W).abs(), atol=0.1
    )
    assert not torch.allclose(
        control[0] / control[0].norm(dim=0), control[1] / control[1].norm(dim=0), atol=0.1
    )


def test_share_near_a_line():
    assert superposition.share_near(
        torch.tensor([0.5, 0.41, 0.45, 0.2, 0.1]), (0.5, 0.4), 0.011
    ) == pytest.approx(0.4)
    assert superposition.geometry.LINES["square antiprism"] == 3 / 8


def test_kinds_of_two_features():
    W = torch.tensor([[1.0, 0.1], [0.2, -0.9], [0.9, -0.6], [0.8, 0.8]])[:, None]
    assert superposition.kinds(W).tolist() == [0, 1, 2, 0]


def test_the_best_seed_is_found_for_each_instance():
    losses = torch.tensor([[1.0, 2.0], [0.5, 3.0]])  # seed instance
    assert superposition.best_of(losses, torch.tensor([10, 11, 20, 21])).tolist() == [20, 11]


def test_coherence_and_welch():
    assert superposition.coherence(polygon(3)).item() == pytest.approx(0.5, abs=1e-6)
    assert superposition.welch_bound(3, 2) == pytest.approx(0.5) and superposition.welch_bound(
        6, 3
    ) == pytest.approx(5**-0.5)
    assert superposition.welch_bound(2, 2) == superposition.welch_bound(1, 4) == 0
    spread = superposition.spread_out(6, 3, superposition.ToySettings(steps=300, lr=0.05), tries=4)
    assert torch.allclose(spread.norm(dim=1), torch.ones(4, 6), atol=1e-5)
    assert superposition.coherence(spread).min().item() == pytest.approx(5**-0.5, abs=3e-3)


def test_directions_that_are_spread_out_depend_on_the_seed():
    settings = [superposition.ToySettings(steps=3, lr=0.05, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (superposition.spread_out(6, 3, one, tries=2) for one in settings)
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.1


# ---------------------------------------------------------------------------------------------------------
# figures


def test_gram_figures_show_the_product_the_bias_and_signs():
    W, b = torch.tensor([[[1.0, -1.0]]]), torch.tensor([[0.5, -0.5]])
    fig = superposition.gram_figure(W, b, ["<b>one"], title="$x$")
    z = torch.tensor(fig.data[0].z)
    assert (
        z[:, :2].tolist() == [[1, -1], [-1, 1]] and z[:, 3].tolist() == [0.5, -0.5] and z[:, 2].isnan().all()
    )
    assert list(fig.data[1].text) == ["", "−", "", "", "−", "", "", "−"]
    assert "<b>" not in fig.layout.annotations[0].text


def test_arrows_run_from_the_origin_to_each_direction():
    fig = superposition.arrows_figure(torch.tensor([[[1.0, 0.0], [0.0, -1.0]]]), ["one"])
    assert list(fig.data[0].x)[:2] == [0, 1] and list(fig.data[0].y)[3:5] == [0, -1]
    assert [label for label in fig.data[0].text if label] == ["1", "2"]


def test_the_animation_has_a_frame_for_each_moment_and_shows_the_last():
    history = weights(4, 2, 5)
    fig = superposition.training_animation(history, (0, 1, 5, 9))
    assert [frame.name for frame in fig.frames] == ["0", "1", "5", "9"]
    assert list(fig.data[0].x[1::3]) == pytest.approx(history[-1, 0].tolist())
    assert list(fig.frames[0].data[0].x[1::3]) == pytest.approx(history[0, 0].tolist())
    assert [step.label for step in fig.layout.sliders[0].steps] == ["0", "1", "5", "9"]


def test_the_slider_shows_one_instance_at_a_time():
    fig = superposition.instance_slider(weights(3, 2, 5), torch.zeros(3, 5), ["a", "b", "c"])
    assert [trace.visible for trace in fig.data] == [False] * 6 + [True] * 3
    for i, step in enumerate(fig.layout.sliders[0].steps):
        assert (
            step.args[0] == "visible" and [k // 3 for k, shown in enumerate(step.args[1]) if shown] == [i] * 3
        )


def test_phase_figures_write_the_kind_into_each_cell():
    kinds = torch.tensor([[0, 1], [2, 0]])
    fig = superposition.phase_figure(
        {"trained": kinds}, torch.tensor([0.1, 1.0]), torch.tensor([0.5, 2.0]), ["a", "bb", "cc"]
    )
    assert list(fig.data[1].text) == ["a", "b", "c", "a"] and (fig.data[0].z == kinds.numpy()).all()


# ----------------------------------------------------------------------------------------------------------
# recipe


def test_a_seed_runs_the_notebook_up_to_its_table():
    def cell(name: str, source: str, *tags: str) -> nbformat.NotebookNode:
        return nbformat.v4.new_code_cell(source, id=name, metadata={"tags": list(tags)})

    claim = 'table = claims.Claims("01", model="m")\ntable.add("s", source="t", ours=SEED, at_most=3)'
    notebook = nbformat.v4.new_notebook(
        cells=[
            cell("imports", "from mi_utils import claims"),
            cell("first", "SEED = 0", "parameters"),
            cell("fact", '{"seed": SEED}'),
            cell("drifts", '{"x": 1}', "nbval-ignore-output"),
            cell("check", "1 / 0", "check"),
            cell("add", claim),
            cell(recipe.LAST, "1 / 0"),
        ]
    )
    assert recipe.one_seed(notebook, 2)["claims"] == {"s": {"ours": 2, "as expected": True}}
    found = recipe.one_seed(notebook, 5)
    assert found == {
        "seed": 5,
        "claims": {"s": {"ours": 5, "as expected": False}},
        "facts": {"fact": {"seed": 5}},
    }
    json.dumps(found)


def test_the_sweep_has_a_row_for_each_world():
    found = recipe.sweep(n=12, m=3, worlds=4, settings=superposition.ToySettings(steps=200, batch=32))
    assert {len(values) for values in found.values()} == {4}
    assert found["1/p"][0] == 1 and found["1/p"][-1] == pytest.approx(20) and found["D*"][-1] < found["D*"][0]


def test_the_least_sparsity_is_the_one_that_is_named():
    with pytest.raises(ValueError, match=r"^sparsity is 0.2 at least; it should be 0.5 or more"):
        superposition.paired_batch(8, torch.tensor([0.9, 0.2, 0.7]), 4, False, torch.Generator())
