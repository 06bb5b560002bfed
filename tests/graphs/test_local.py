"""mi_utils.graphs.local: it is the model on its own prompt, and what is clamped moves the rest as hooks
say."""

from dataclasses import replace

import attribution_reference as reference
import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import graphs

CLOSE = dict(atol=1e-5, rtol=1e-5)
SORTS = pytest.mark.parametrize(("sort", "skip"), reference.SORTS)


@pytest.fixture(scope="module", params=reference.KINDS)
def model(request, tmp_path_factory):
    return reference.load(request.param, tmp_path_factory.mktemp("tiny"))


def both(model, sort="clt", skip=True):
    made, tokens = reference.transcoders(model, sort, skip), reference.prompt(model)
    return graphs.local_model(model, made, tokens), reference.Frozen(model, made, tokens)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, **CLOSE)


@SORTS
def test_what_is_recorded_is_what_the_model_computes(model, sort, skip):
    local, literal = both(model, sort, skip)
    kept, n = literal.kept, range(model.cfg.n_layers)
    close(local.logits, literal.logits)
    close(local.mlp_in, literal.mlp_in)
    close(local.mlp_out, literal.mlp_out)
    close(local.features, literal.features)
    close(local.errors, literal.errors)
    close(local.stream, torch.stack([kept[f"blocks.{i}.hook_resid_pre"][0] for i in n]))
    close(local.patterns, torch.stack([kept[f"blocks.{i}.attn.hook_pattern"][0] for i in n]))
    close(local.attn_scale, torch.stack([kept[f"blocks.{i}.ln1.hook_scale"][0] for i in n]))
    close(local.mlp_scale, torch.stack([kept[f"blocks.{i}.ln2.hook_scale"][0] for i in n]))
    close(local.final_scale, kept["ln_final.hook_scale"][0])
    for layer in n:
        close(local.attention(local.stream[layer], layer), kept[f"blocks.{layer}.hook_attn_out"][0])
    assert torch.equal(local.active, (literal.features > 0).nonzero())
    assert (local.n_layers, local.n_pos) == (3, 6) and local.replaced.tolist() == [False] + [True] * 5
    assert (local.features[:, 0] == 0).all() and torch.equal(local.errors[:, 0], local.mlp_out[:, 0])


@SORTS
@pytest.mark.parametrize("attention", ["frozen", "live"])
@pytest.mark.parametrize("linear", [False, True])
def test_with_nothing_clamped_it_is_the_model(model, sort, skip, attention, linear):
    local, _ = both(model, sort, skip)
    found = graphs.run_local(local, attention=attention, linear=linear)
    close(found.logits, local.logits)
    close(found.features, local.features)
    assert local.errors[:, 1:].norm() > 1, "the errors have something to make up for"


@SORTS
@pytest.mark.parametrize("attention", ["frozen", "live"])
@pytest.mark.parametrize("linear", [False, True])
def test_clamped_features_against_a_literal_run(model, sort, skip, attention, linear):
    local, literal = both(model, sort, skip)
    off = (local.features[1, 1:] == 0).nonzero()[0].tolist()
    clamp = {
        tuple(local.active[3].tolist()): 0.0,
        tuple(local.active[9].tolist()): 4,
        (1, off[0] + 1, off[1]): -2.0,
    }

    def choose(layer, pre):
        on = literal.features[layer] > 0 if linear else pre > local.transcoders.threshold[layer]
        values = torch.where(on, pre, 0.0)
        for (at, position, index), value in clamp.items():
            if at == layer:
                values[position, index] = value
        return values

    with torch.no_grad():
        pre, logits = literal.run(choose, attention=attention)
    found = graphs.run_local(local, clamp, linear=linear, attention=attention)
    close(found.pre_activations, pre)
    close(found.logits, logits)
    assert (logits - local.logits).abs().max() > 0.1, "the change is far above the tolerance"
    for site, value in clamp.items():
        assert found.features[site] == value


def test_thresholds_frozen_features_and_live_attention_make_a_difference(model):
    local, _ = both(model)
    clamp = {tuple(local.active[0].tolist()): 6.0}
    found = [
        graphs.run_local(local, clamp, linear=a, attention=b).logits
        for a, b in ((False, "frozen"), (True, "frozen"), (False, "live"))
    ]
    assert min((found[0] - other).abs().max() for other in found[1:]) > 1e-2


def test_bad_prompts(model):
    made, tokens = reference.transcoders(model), reference.prompt(model)
    name, longest, last = model.cfg.model_name, model.cfg.n_ctx, model.cfg.d_vocab - 1
    for bad, words in (
        (tokens[:1], ("tokens has 1 positions", name, f"from 2 to {longest}")),
        (tokens.repeat(longest), (f"tokens has {6 * longest} positions", f"from 2 to {longest}")),
        (tokens[:0], ("tokens has 0 positions",)),
        (torch.tensor([0, last + 1]), ("tokens holds ids from 0", f"0 to {last}")),
        (torch.tensor([0, -1]), ("tokens holds ids from -1 to 0", f"0 to {last}")),
    ):
        with pytest.raises(ValueError) as error:
            graphs.local_model(model, made, bad)
        assert_one_sentence(error.value, *words)


def test_transcoders_of_another_model_depth_or_width(model):
    made, tokens = reference.transcoders(model, "plt", True), reference.prompt(model)
    fewer = replace(
        made,
        W_enc=made.W_enc[:2],
        b_enc=made.b_enc[:2],
        threshold=made.threshold[:2],
        W_dec=made.W_dec[:2],
        b_dec=made.b_dec[:2],
        W_skip=made.W_skip[:2],
    )
    d = 30
    narrow = replace(
        made,
        W_enc=made.W_enc[:, :d],
        W_dec=tuple(w[..., :d] for w in made.W_dec),
        b_dec=made.b_dec[:, :d],
        W_skip=made.W_skip[:, :d, :d],
    )
    for bad, words in (
        (replace(made, model="gpt2-xl"), ("trained on gpt2-xl", f"the model is {model.cfg.model_name}")),
        (fewer, ("transcoders have 2 layers", "has 3")),
        (narrow, ("transcoders read width 30", "has 32")),
    ):
        with pytest.raises(ValueError) as error:
            graphs.local_model(model, bad, tokens)
        assert_one_sentence(error.value, *words)
    assert graphs.local_model(model, replace(made, model=""), tokens).transcoders.model == ""
    with pytest.raises(ValueError) as error:
        replace(made, W_enc=torch.where(made.W_enc > 0.3, torch.nan, made.W_enc))
    assert_one_sentence(error.value, "W_enc holds values that are not finite")


def test_features_layers_and_positions_that_do_not_exist(model):
    local, _ = both(model)
    for site, word in (
        ((3, 1, 0), "layer is 3"),
        ((-1, 1, 0), "layer is -1"),
        ((0, 0, 0), "position is 0"),
        ((0, 6, 0), "position is 6"),
        ((0, -1, 0), "position is -1"),
        ((0, 1, 9), "feature is 9"),
        ((0, 1, -1), "feature is -1"),
    ):
        with pytest.raises(ValueError) as error:
            graphs.run_local(local, {site: 1.0})
        assert_one_sentence(error.value, word)
    with pytest.raises(ValueError) as error:
        graphs.run_local(local, {(0, 1, 0): float("nan")})
    assert_one_sentence(error.value, "clamp holds nan for feature (0, 1, 0)", "finite")
    with pytest.raises(ValueError) as error:
        graphs.run_local(local, attention="cold")
    assert_one_sentence(error.value, "attention is 'cold'", "'frozen' or 'live'")
