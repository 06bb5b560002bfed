"""mi_utils.patching.engine: what is computed the short way is what whole runs with hooks give."""

import dataclasses
from unittest.mock import Mock

import patching_reference as reference
import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import models, patching
from mi_utils.patching.engine import Patch, run_patched
from mi_utils.patching.recording import HEAD_SITES, record

CLOSE = dict(atol=1e-5, rtol=1e-5)


def first_two(logits):
    """A metric that is not symmetric in the prompts."""
    return logits[..., 3] - logits[..., 8] + torch.arange(logits.shape[-2]) * logits[..., 5]


def n_hooks(model):
    points = {id(point): point for point in model.hook_dict.values()}  # some have two names
    return sum(len(point.fwd_hooks) for point in points.values())


def assert_same(model, base, interventions, **options):
    """The engine against whole runs; the difference that patches make is far above the tolerance."""
    found = run_patched(model, base, interventions, first_two, **options)
    assert found.shape == (len(interventions), len(base.tokens)) and not found.requires_grad
    wanted = torch.stack(
        [first_two(reference.patched_logits(model, base.tokens, one)) for one in interventions]
    )
    torch.testing.assert_close(found, wanted, **CLOSE)
    return (found - first_two(base.logits)).abs()


# -- recording -------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_run_holds_what_the_model_computes(model, sites, runs):
    base, _ = runs
    logits, cache = model.run_with_cache(base.tokens)
    torch.testing.assert_close(base.logits, logits[:, -1], **CLOSE)
    for site in sites:
        for layer in range(model.cfg.n_layers):
            torch.testing.assert_close(
                base[site, layer], cache[models.hook_name(model, site, layer)], **CLOSE
            )


def test_the_residual_stream_is_always_recorded_and_nothing_else_unasked(model, runs):
    run = record(model, runs[0].tokens)
    assert set(run.activations) == {("resid_pre", layer) for layer in range(model.cfg.n_layers)}
    assert torch.equal(run["resid_pre", 1], runs[0]["resid_pre", 1]) and torch.equal(
        run.logits, runs[0].logits
    )
    assert not any(one.requires_grad for one in (run.logits, *run.activations.values()))


def test_what_was_not_recorded_is_said(model, runs):
    run = record(model, runs[0].tokens, ["z"])
    for key in (("q", 0), ("z", model.cfg.n_layers)):
        with pytest.raises(ValueError) as error:
            run[key]
        assert_one_sentence(error.value, repr(key), "resid_pre, z", "record")


def test_recording_refuses_what_it_cannot_keep(model, runs):
    tokens = runs[0].tokens
    for wrong, names in (
        ("zz", ("site is 'zz'",)),
        ("embed", ("embed",)),
        ("result", ("result", "switched off")),
    ):
        with pytest.raises(ValueError) as error:
            record(model, tokens, [wrong])
        assert_one_sentence(error.value, *names)
    for empty in (tokens[:0], tokens[:, :0]):
        with pytest.raises(ValueError) as error:
            record(model, empty)
        assert_one_sentence(error.value, "tokens", str(tuple(empty.shape)))
    assert n_hooks(model) == 0


def test_a_site_that_the_model_has_not_is_said(tmp_path):
    model = reference.load("native", tmp_path)
    with pytest.raises(ValueError) as error:
        record(model, reference.pairs(model)[0], ["mlp_out"])
    assert_one_sentence(error.value, "mlp_out", "does not exist")
    assert n_hooks(model) == 0


def test_outputs_of_heads_are_patched_where_they_are_switched_on(tmp_path):
    model = reference.load("gpt2", tmp_path)
    model.set_use_attn_result(True)
    base, source = (record(model, tokens, ["result"]) for tokens in reference.pairs(model))
    sets = [
        [Patch("result", layer, source["result", layer], head=head)]
        for layer in range(2)
        for head in range(4)
    ]
    assert assert_same(model, base, sets).max() > 0.1


# -- patched runs ----------------------------------------------------------------------------------


def test_one_position_at_every_site(model, sites, runs):
    base, source = runs
    for site in sites:
        for layer in range(model.cfg.n_layers):
            sets = [[Patch(site, layer, source[site, layer], position=i)] for i in range(9)]
            moved = assert_same(model, base, sets)
            assert not moved[:3].max() > 1e-5, "before the first difference"


def test_one_head_at_all_positions_and_at_one(model, sites, runs, kind):
    base, source = runs
    for site in set(sites) & set(HEAD_SITES):
        heads = models.n_heads(model, site)
        everywhere = [[Patch(site, 0, source[site, 0], head=head)] for head in range(heads)]
        moved = assert_same(model, base, everywhere)
        assert bool(moved.max() > 1e-2), site
        layer = model.cfg.n_layers - 1
        assert_same(model, base, [[Patch(site, layer, source[site, layer], head=heads - 1, position=5)]])


def test_a_whole_activation(model, sites, runs, kind):
    base, source = runs
    sets = [[Patch(site, 1, source[site, 1])] for site in sites]
    moved = assert_same(model, base, sets).amax(1)
    assert {site for site, most in zip(sites, moved, strict=True) if most < 1e-3} == set()


def test_patches_of_a_set_are_made_at_once(model, runs):
    base, source = runs
    last = model.cfg.n_layers - 1
    sets = [
        [Patch("z", layer, source["z", layer], head=layer) for layer in range(last + 1)],
        [Patch("q", 0, source["q", 0], position=3), Patch("v", last, source["v", last], head=1)],
        [
            Patch("attn_out", 0, source["attn_out", 0], position=6),
            Patch("resid_pre", 1, source["resid_pre", 1], 4),
        ],
        [Patch("q", last, source["q", last], position=8, head=2), Patch("k", 0, source["k", 0], head=0)],
        [Patch("z", 1, source["z", 1], head=0), Patch("z", 1, source["z", 1], head=3)],
        [],
    ]
    moved = assert_same(model, base, sets)
    assert moved[:-1].amax(1).min() > 1e-3 and moved[-1].max() <= 1e-5


def test_patterns_that_the_model_would_not_use_are_refused(tmp_path):
    model = reference.load("native", tmp_path)
    base = record(model, reference.pairs(model)[0], ["pattern"])
    with pytest.raises(ValueError, match="which a model of TransformerLens' own computes but does not use"):
        run_patched(model, base, [[Patch("pattern", 0, base["pattern", 0])]], first_two)


def test_a_run_of_another_model_is_refused(model, runs):
    other = dataclasses.replace(runs[0], model="another")
    with pytest.raises(ValueError, match="the run was recorded with 'another'; it should be of"):
        run_patched(model, other, [[]], first_two)


def test_a_site_that_is_not_in_a_list_is_refused(model, runs):
    with pytest.raises(ValueError, match="should be several names"):
        record(model, runs[0].tokens, "z")


def test_of_two_patches_at_one_place_the_last_stays(model, runs):
    base, source = runs
    zero, whole = Patch("z", 1, torch.zeros(())), Patch("z", 1, source["z", 1])
    assert_same(model, base, [[zero, whole], [whole, zero]])


def test_each_set_is_made_into_the_run_as_it_was(model, runs):
    """In any order, together or alone."""
    base, source = runs
    sets = [[Patch("z", layer, source["z", layer], head=head)] for layer in (1, 0) for head in (2, 0)]
    sets += [[Patch("resid_pre", 1, source["resid_pre", 1], position=i)] for i in (8, 3, 5)]
    together = run_patched(model, base, sets, first_two)
    alone = torch.cat([run_patched(model, base, [one], first_two) for one in sets])
    backwards = run_patched(model, base, sets[::-1], first_two).flip(0)
    torch.testing.assert_close(together, alone, **CLOSE)
    torch.testing.assert_close(together, backwards, **CLOSE)


def test_values_broadcast(model, runs, kind):
    base, _ = runs
    mean = base["z", 0].mean((0, 1))  # [head d_head]
    sets = [
        [Patch("z", 1, torch.zeros(()), head=1)],
        [Patch("z", 0, mean)],
        [Patch("z", 0, mean[2], position=4)],
        [Patch("z", 0, base["z", 0][:1])],
        [Patch("resid_pre", 1, base["resid_pre", 1].mean(0), position=6)],
        [Patch("pattern", 0, torch.full((9,), 1 / 9), head=0)],
    ]
    sets = sets[:-1] if kind == "native" else sets  # which does not use its patterns
    assert assert_same(model, base, sets).amax(1).min() > 1e-3


def test_an_empty_set_leaves_the_run_as_it_was(model, runs):
    assert torch.equal(
        run_patched(model, runs[0], [[], []], first_two), first_two(runs[0].logits).repeat(2, 1)
    )


def test_its_own_values_change_nothing(model, sites, runs):
    base, _ = runs
    sets = [[Patch(site, layer, base[site, layer])] for site in sites for layer in range(model.cfg.n_layers)]
    found = run_patched(model, base, sets, first_two)
    torch.testing.assert_close(found, first_two(base.logits).expand_as(found), **CLOSE)


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
def test_a_whole_stream_at_any_layer_gives_the_other_run(model, runs, kind, site):
    if site in reference.MISSING.get(kind, ()):
        return  # attention and MLP side by side, or no MLP
    base, source = (record(model, run.tokens, [site]) for run in runs)
    sets = [[Patch(site, layer, source[site, layer])] for layer in range(model.cfg.n_layers)]
    found = run_patched(model, base, sets, first_two)
    torch.testing.assert_close(found, first_two(source.logits).expand_as(found), **CLOSE)


@pytest.mark.parametrize(("tokens", "logits"), [(1, 1), (60, 7), (1, 128), (2048, 1)])
def test_how_much_is_run_at_once_changes_nothing(model, runs, monkeypatch, tokens, logits):
    base, source = runs
    sets = [[Patch("z", layer, source["z", layer], head=head)] for layer in range(2) for head in range(4)]
    sets += [
        [Patch("resid_pre", layer, source["resid_pre", layer], position=i)]
        for i in range(9)
        for layer in (1, 0)
    ]
    wanted = run_patched(model, base, [*sets, []], first_two, start=3)
    monkeypatch.setattr(patching.engine, "MOST_TOKENS", tokens)
    monkeypatch.setattr(patching.engine, "MOST_LOGITS", logits)
    torch.testing.assert_close(run_patched(model, base, [*sets, []], first_two, start=3), wanted, **CLOSE)


@pytest.mark.parametrize("start", [0, 2, 3])
def test_nothing_before_start_needs_to_be_run(model, sites, runs, start):
    """Patches at all positions change none before the first token that differs."""
    base, source = runs
    assert_same(model, base, [[Patch(site, 1, source[site, 1])] for site in sites], start=start)


def test_a_position_before_start_is_run_all_the_same(model, runs):
    base, source = runs
    sets = [
        [Patch("z", 0, torch.zeros(()), position=1)],
        [Patch("z", 0, torch.zeros(()), position=1), Patch("attn_out", 1, source["attn_out", 1])],
    ]
    assert assert_same(model, base, sets, start=3).amax(1).min() > 1e-4


def test_layers_below_and_positions_before_a_patch_are_not_run(model, runs, kind):
    base, source = runs
    seen = []

    def watch(value, hook):
        seen.append(tuple(value.shape[:2]))

    names = [models.hook_name(model, "resid_pre", layer) for layer in range(model.cfg.n_layers)]
    with models.attached(model, [(name, watch) for name in names]):
        run_patched(model, base, [[Patch("z", 1, source["z", 1], position=i)] for i in (5, 5, 5)], first_two)
    positions = 9 if kind == "native" else 4  # without a cache every position is run
    assert seen == [(9, positions)] * (len(names) - 1), "three sets of three prompts, together"


def test_a_batch_of_one(model, sites, runs):
    base, source = (record(model, run.tokens[1:2], sites) for run in runs)
    sets = [[Patch(site, 1, source[site, 1], position=i)] for site in sites for i in (4, 8)]
    assert assert_same(model, base, sets).max() > 1e-3


def test_a_prompt_of_one_token(model):
    base, source = (record(model, torch.tensor([[one], [one + 1]]), ["z"]) for one in (3, 7))
    assert_same(
        model, base, [[Patch("z", 1, source["z", 1])], [Patch("resid_pre", 0, source["resid_pre", 0], 0)]]
    )


# -- what is left behind ---------------------------------------------------------------------------


def test_hooks_are_gone_afterwards_also_after_an_error(model, runs):
    base, source = runs
    before = model(base.tokens)
    patch = Patch("z", 1, source["z", 1])
    run_patched(model, base, [[patch]], first_two)
    assert n_hooks(model) == 0 and model.context_level == 0

    def breaks(logits):
        if logits.shape[0] == 2:
            raise RuntimeError("the metric broke")
        return first_two(logits)

    with pytest.raises(RuntimeError, match="the metric broke"):
        run_patched(model, base, [[patch], [patch]], breaks)
    with pytest.raises(ValueError, match="broadcast"):
        run_patched(model, base, [[Patch("z", 1, torch.zeros(7))]], first_two)
    with pytest.raises(IndexError):  # no such token
        record(model, torch.full((1, 5), 10**6), ["z"])
    assert n_hooks(model) == 0 and model.context_level == 0
    assert torch.equal(model(base.tokens), before)


def test_the_recorded_run_is_left_alone(model, sites, runs):
    base, source = runs
    kept = {key: value.clone() for run in runs for key, value in run.activations.items()}
    caches = [one.clone() for pair in base.keys_values for one in pair]
    run_patched(model, base, [[Patch(site, 0, source[site, 0])] for site in sites], first_two)
    assert all(torch.equal(source.activations[key], kept[key]) for key in kept)
    assert all(
        torch.equal(a, b) for a, b in zip(caches, [o for p in base.keys_values for o in p], strict=True)
    )


def test_keys_and_values_of_every_layer_are_kept(kind, model, runs):
    """Whatever Hugging Face's code calls the cache that it hands down, and whether it makes one at all."""
    base = runs[0]
    if kind == "native":
        assert base.keys_values == ()
        return
    cfg, (batch, length) = model.cfg, base.tokens.shape
    assert len(base.keys_values) == cfg.n_layers
    for keys, values in base.keys_values:
        assert keys.shape == values.shape == (batch, models.n_heads(model, "k"), length, cfg.d_head)
    values = torch.stack([values.transpose(1, 2) for _, values in base.keys_values])
    torch.testing.assert_close(values, torch.stack([base["v", layer] for layer in range(cfg.n_layers)]))


def test_without_keys_and_values_every_position_is_run(kind, model, sites, runs, monkeypatch):
    if kind == "native":
        pytest.skip("keeps none anyhow")
    forgetful = Mock(side_effect=lambda keys, values, **named: (keys, values))
    for block in model.blocks:
        monkeypatch.setattr(block.attn, "_update_kv_cache", forgetful)
    base, source = record(model, runs[0].tokens, ["z"]), runs[1]
    assert forgetful.called and base.keys_values == ()
    moved = assert_same(
        model, base, [[Patch("z", 1, source["z", 1], position=5)], [Patch("z", 0, source["z", 0])]]
    )
    assert moved[1].max() > 0.01


@pytest.mark.parametrize(
    ("site", "layer"), [("z", 1), ("resid_pre", 1), ("resid_post", 0), ("k", 0), ("q", 0)]
)
def test_hooks_of_the_caller_stay_and_act(model, runs, site, layer):
    """A steered model is patched as the steered model that it is: each hook acts once, as in a whole run."""
    tokens, source = runs[0].tokens, runs[1]
    name = models.hook_name(model, site, layer)
    with models.attached(model, [(name, lambda value, hook: 0.5 * value + 0.01)]):
        base = record(model, tokens, ["z"])
        sets = [[Patch("z", i, source["z", i])] for i in (0, 1)]
        sets += [[Patch("attn_out", i, source["attn_out", i], position=8)] for i in (0, 1)]
        moved = assert_same(model, base, sets)
        assert moved.amax(1).min() > 1e-3 and n_hooks(model) == 1
    assert not torch.allclose(base.logits, runs[0].logits, atol=1e-3)
    assert n_hooks(model) == 0


def test_nothing_needs_gradients(model, runs):
    base, source = runs
    assert torch.is_grad_enabled()
    value = source["z", 1].clone().requires_grad_()
    assert not run_patched(model, base, [[Patch("z", 1, value)]], first_two).requires_grad
    with torch.inference_mode():
        record(model, base.tokens, ["z"])
    assert torch.is_grad_enabled() and not any(p.grad is not None for p in model.parameters())


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"site": "zzz"}, ("site is 'zzz'",)),
        ({"site": "resid_per"}, ("'resid_per'", "did you mean 'resid_pre'?")),
        ({"site": "embed"}, ("embed",)),
        ({"layer": 9}, ("layer is 9", "from 0 to")),
        ({"layer": -1}, ("layer is -1", "from 0 to")),
        ({"head": 4}, ("head is 4", "from 0 to 3")),
        ({"head": -1}, ("head is -1", "from 0 to 3")),
        ({"site": "resid_pre", "head": 0}, ("head is 0", "resid_pre", "no heads")),
        ({"position": 9}, ("position is 9", "from 0 to 8")),
        ({"position": -1}, ("position is -1", "from 0 to 8")),
        ({"value": torch.zeros(5)}, ("value has shape (5,)", "'z'", "layer 1")),
        ({"value": torch.zeros(2, 9, 4, 6)}, ("value has shape (2, 9, 4, 6)", "(3, 9, 4,")),
    ],
)
def test_patches_that_cannot_be_made_are_refused(model, runs, changes, names):
    patch = Patch(**({"site": "z", "layer": 1, "value": torch.zeros(())} | changes))
    with pytest.raises(ValueError) as error:
        run_patched(model, runs[0], [[Patch("z", 0, torch.zeros(()))], [patch]], first_two)
    assert_one_sentence(error.value, *names)
    assert n_hooks(model) == 0


def test_key_value_heads_are_counted_as_they_are(tmp_path):
    model = reference.load("llama", tmp_path)
    base = record(model, reference.pairs(model)[0])
    with pytest.raises(ValueError) as error:
        run_patched(model, base, [[Patch("k", 0, torch.zeros(()), head=2)]], first_two)
    assert_one_sentence(error.value, "head is 2", "from 0 to 1")


def test_no_interventions_and_a_bare_patch_are_refused(model, runs, unchecked):
    with pytest.raises(ValueError) as error:
        run_patched(model, runs[0], [], first_two)
    assert_one_sentence(error.value, "interventions is empty")
    with pytest.raises(ValueError) as error:
        run_patched(model, runs[0], [Patch("z", 0, torch.zeros(()))], first_two)
    assert_one_sentence(error.value, "interventions", "[[patch], ...]")


@pytest.mark.parametrize("start", [-1, 9])
def test_a_start_out_of_range_is_refused(model, runs, start):
    with pytest.raises(ValueError) as error:
        run_patched(model, runs[0], [[]], first_two, start=start)
    assert_one_sentence(error.value, f"start is {start}", "from 0 to 8")
