"""mi_utils.graphs.interventions: what is added, what the model then does, and what a graph predicts."""

import attribution_reference as reference
import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import graphs
from mi_utils.graphs.interventions import (
    change,
    intervene,
    nothing,
    predicted,
    predicted_with_attention,
    removal,
    swap,
)

CLOSE = dict(atol=2e-5, rtol=1e-4)
SORTS = pytest.mark.parametrize(("sort", "skip"), [("clt", True), ("plt", False)])


@pytest.fixture(scope="module", params=reference.KINDS)
def model(request, tmp_path_factory):
    return reference.load(request.param, tmp_path_factory.mktemp("tiny"))


def local_for(model, sort="clt", skip=True, seed=0):
    return graphs.local_model(
        model, reference.transcoders(model, sort, skip), reference.prompt(model, seed=seed)
    )


def close(found, wanted):
    torch.testing.assert_close(found, wanted, **CLOSE)


def sites_of(local, *numbers):
    return [tuple(local.active[number].tolist()) for number in numbers]


# -- what is added ---------------------------------------------------------------------------------


@SORTS
def test_a_change_is_the_decoders_times_how_far_the_value_moves(model, sort, skip):
    local = local_for(model, sort, skip)
    t, (first, second) = local.transcoders, sites_of(local, 2, -1)
    off = (1, 2, (local.features[1, 2] == 0).nonzero()[0].item())
    values = {first: 3.5, second: 0, off: -1}
    wanted = torch.zeros(3, 6, 32)
    for (layer, position, index), value in values.items():
        for target in range(layer, 3 if sort == "clt" else layer + 1):
            moved = value - float(local.features[layer, position, index])
            wanted[target, position] += moved * t.W_dec[layer][target - layer][index]
    close(change(local, values), wanted)
    assert (wanted.flatten(1).norm(dim=1) > 0).sum() >= 2


@SORTS
def test_removal_and_change_agree(model, sort, skip):
    local = local_for(model, sort, skip)
    sites = sites_of(local, 0, 4, 7)
    close(removal(local, sites), change(local, dict.fromkeys(sites, 0)))
    close(removal(local, sites, 2), 2 * removal(local, sites))
    close(removal(local, sites, 0.5), sum(change(local, {s: float(local.features[s]) / 2}) for s in sites))
    own = {site: float(local.features[site]) for site in sites}
    assert change(local, own).abs().max() < 1e-6 and removal(local, sites).norm() > 1
    assert torch.equal(nothing(local), change(local, {})) and not nothing(local).any()
    assert torch.equal(nothing(local), removal(local, []))


@SORTS
def test_removing_every_feature_leaves_bias_skip_and_error(model, sort, skip):
    local = local_for(model, sort, skip)
    t = local.transcoders
    rest = t.b_dec[:, None] + (torch.einsum("lpd,lde->lpe", local.mlp_in, t.W_skip) if skip else 0)
    everything = local.mlp_out + removal(local, sites_of(local, *range(len(local.active))))
    close(everything[:, 1:], (local.errors + rest)[:, 1:])
    close(everything[:, 0], local.mlp_out[:, 0])


@SORTS
def test_a_swap_gives_the_other_prompts_values(model, sort, skip):
    local, other = (local_for(model, sort, skip, seed) for seed in (0, 1))
    other = graphs.local_model(model, local.transcoders, other.tokens)
    assert not swap(local, local, range(1, 6)).any()
    for positions, layers in (([2, 4], None), ([1], [0]), ([5], [1, 2])):
        every = [
            (a, p, i) for a in (range(3) if layers is None else layers) for p in positions for i in range(9)
        ]
        close(
            swap(local, other, positions, layers), change(local, {s: float(other.features[s]) for s in every})
        )
    close(swap(local, other, [3]), -swap(other, local, [3]))
    assert swap(local, other, [3]).norm() > 0.1 and not swap(local, other, [3])[:, [0, 1, 2, 4, 5]].any()


# -- what the model does -----------------------------------------------------------------------------


def literally(local, delta, frozen_layers, attention):
    """One intervention as hooks on a run of its own, from activations that this test records itself."""
    model, tokens = local.model, local.tokens[None]
    _, kept = model.run_with_cache(tokens)

    def mlp(value, hook):
        layer = hook.layer()
        if frozen_layers is None:
            return value + delta[layer]
        return kept[f"blocks.{layer}.hook_mlp_out"] + delta[layer] if layer in frozen_layers else value

    edits = [(f"blocks.{layer}.hook_mlp_out", mlp) for layer in range(3)]
    if attention == "frozen":
        patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
        edits += [(name, lambda value, hook, name=name: kept[name]) for name in patterns]
    return model.run_with_hooks(tokens, fwd_hooks=edits)[0, -1]


FROZEN = [None, range(3), range(0, 2), range(1, 2)]


@pytest.mark.parametrize("attention", ["live", "frozen"])
@pytest.mark.parametrize("frozen_layers", FROZEN)
@torch.no_grad()
def test_runs_against_literal_hooks(model, frozen_layers, attention, monkeypatch):
    monkeypatch.setattr(graphs.interventions, "ROWS", 2)
    local = local_for(model)
    changes = torch.stack(
        [nothing(local), removal(local, sites_of(local, 1, 5), 3), change(local, {(1, 3, 2): 5})]
    )
    found = intervene(local, changes, frozen_layers=frozen_layers, attention=attention)
    wanted = torch.stack([literally(local, delta, frozen_layers, attention) for delta in changes])
    close(found, wanted)
    close(found[0], local.logits)
    assert (found[1:] - local.logits).abs().amax(dim=1).min() > 0.05 and not found.requires_grad


@torch.no_grad()
def test_what_is_frozen_makes_a_difference(model):
    local = local_for(model)
    delta = removal(local, sites_of(local, 1, 5), 3)[None]
    found = [
        intervene(local, delta, frozen_layers=f, attention=a)
        for f, a in ((None, "live"), (None, "frozen"), (range(3), "live"), (range(1), "live"))
    ]
    for i, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-3 for other in found[:i])


# -- what a graph predicts -----------------------------------------------------------------------------


@SORTS
@pytest.mark.parametrize("logit", [0, 3])
def test_total_effects_are_those_of_removal_in_the_linear_local_model(model, sort, skip, logit):
    local = local_for(model, sort, skip)
    graph = graphs.attribution_graph(local)
    token = int(graph.logits[logit])
    found = predicted(graph, logit)
    whole = local.logits[token] - local.logits.mean()
    wanted = []
    for site in sites_of(local, *range(len(local.active))):
        logits = graphs.run_local(local, {site: 0}, linear=True).logits
        wanted.append(logits[token] - logits.mean() - whole)
    close(found.total, torch.stack(wanted))
    close(found.direct, -graph.adjacency[graph.logit_nodes.start + logit, : graph.n_features])
    assert (found.total - found.direct).abs().max() > 0.1
    last = local.active[:, 0] == 2
    close(found.total[last], found.direct[last])


@SORTS
def test_first_order_effects_with_live_attention_against_finite_differences(model, sort, skip):
    local = local_for(model, sort, skip)
    token = int(local.logits.argmax())
    found = predicted_with_attention(local, token)
    wanted, step = [], 0.02
    for site in sites_of(local, *range(len(local.active))):
        ends = []
        for sign in (1, -1):  # the slope between a little more and a little less of the feature
            value = float(local.features[site]) * (1 + sign * step)
            logits = graphs.run_local(local, {site: value}, linear=True, attention="live").logits
            ends.append(logits[token] - logits.mean())
        wanted.append((ends[1] - ends[0]) / (2 * step))
    wanted = torch.stack(wanted)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=5e-3)
    frozen = predicted(graphs.attribution_graph(local, max_logits=1)).total
    assert (found - frozen).abs().max() > 0.02, "attention matters here"
    assert (found - frozen).abs().max() > 10 * (found - wanted).abs().max()


def test_without_a_live_pattern_both_predictions_agree(model, monkeypatch):
    local = local_for(model)
    slope = graphs.scores_of
    monkeypatch.setattr(graphs.interventions, "scores_of", lambda *given: slope(*given).detach())
    frozen = predicted(graphs.attribution_graph(local, max_logits=1)).total
    close(predicted_with_attention(local, int(local.logits.argmax())), frozen)


# -- bad input -----------------------------------------------------------------------------------------


def test_features_that_do_not_exist(model):
    local = local_for(model)
    for site, word in (
        ((3, 1, 0), "layer is 3"),
        ((0, 0, 0), "position is 0"),
        ((0, 6, 0), "position is 6"),
        ((0, 1, 9), "feature is 9"),
    ):
        for call in (lambda s=site: change(local, {s: 0}), lambda s=site: removal(local, [s])):
            with pytest.raises(ValueError) as error:
                call()
            assert_one_sentence(error.value, word)


def test_swaps_that_do_not_fit(model):
    local = local_for(model)
    longer = graphs.local_model(model, local.transcoders, reference.prompt(model, 7))
    foreign = local_for(model, "plt", False)
    for call, words in (
        (lambda: swap(local, longer, [1]), ("other has 7 positions", "has 6")),
        (lambda: swap(local, foreign, [1]), ("other transcoders",)),
        (lambda: swap(local, local, [6]), ("position is 6",)),
        (lambda: swap(local, local, [0]), ("position is 0",)),
        (lambda: swap(local, local, [1], [3]), ("layer is 3",)),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert_one_sentence(error.value, *words)


def test_changes_that_do_not_fit(model):
    local = local_for(model)
    fine = nothing(local)[None]
    for call, words in (
        (
            lambda: intervene(local, fine[:, :2]),
            ("changes has shape (1, 2, 6, 32)", "(at least 1, 3, 6, 32)"),
        ),
        (lambda: intervene(local, fine[:0]), ("changes has shape (0, 3, 6, 32)",)),
        (lambda: intervene(local, fine * float("nan")), ("changes holds values that are not finite",)),
        (lambda: intervene(local, fine, frozen_layers=range(4)), ("3",)),
        (lambda: intervene(local, fine, attention="warm"), ("attention is 'warm'", "'live' or 'frozen'")),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert_one_sentence(error.value, *words)


def test_predictions_of_what_is_not_there(model):
    local = local_for(model)
    graph = graphs.attribution_graph(local)
    capped = graphs.attribution_graph(local, max_features=10)
    for call, words in (
        (lambda: predicted(graph, 10), ("logit is 10", "0 to 9")),
        (lambda: predicted(graph, -1), ("logit is -1",)),
        (lambda: predicted(capped), ("graph has 10 of", "need all")),
        (lambda: predicted_with_attention(local, model.cfg.d_vocab), ("token is", "0 to")),
        (lambda: predicted_with_attention(local, -1), ("token is -1",)),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert_one_sentence(error.value, *words)
