"""Hook points are what their names say, and an index that does not exist is an error."""

import math

import numpy as np
import pytest
import torch
from sentences import assert_one_sentence
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models, prompts

# Off unless asked for: they cost memory.
GATED = {"attn_in": "set_use_attn_in", "result": "set_use_attn_result"}
ONCE = ("embed", "final_scale")
TEXT = "When Mary and John went to the store"
LOADED = ["llama_model", "gpt2_model", "real_model"]


@pytest.fixture(params=LOADED)
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    return request.getfixturevalue(request.param)


def name_of(model: TransformerBridge, site: str) -> str:
    return models.hook_name(model, site, None if site in ONCE else 1)


def shapes(model: TransformerBridge, pos: int) -> dict[str, tuple[int, ...]]:
    """What each site holds, per prompt."""
    cfg = model.cfg
    shared = cfg.n_key_value_heads or cfg.n_heads
    stream = (pos, cfg.d_model)
    expected = dict.fromkeys(
        ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post"), stream
    )
    return expected | {
        "attn_in": (pos, cfg.n_heads, cfg.d_model),
        "q": (pos, cfg.n_heads, cfg.d_head),
        "k": (pos, shared, cfg.d_head),
        "v": (pos, shared, cfg.d_head),
        "scores": (cfg.n_heads, pos, pos),
        "pattern": (cfg.n_heads, pos, pos),
        "z": (pos, cfg.n_heads, cfg.d_head),
        "result": (pos, cfg.n_heads, cfg.d_model),
        "mlp_pre": (pos, cfg.d_mlp),
        "mlp_post": (pos, cfg.d_mlp),
        "final_scale": (pos, 1),
    }


@torch.no_grad()
def fired(model: TransformerBridge, name: str) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []

    def look(value: torch.Tensor, hook: object) -> None:
        seen.append(tuple(value.shape))

    model.run_with_hooks(prompts.encode(model, TEXT), fwd_hooks=[(name, look)])
    return seen


# ----------------------------------------------------------------------------------------------------------
# sites


@pytest.mark.parametrize("site", models.run.SITES)
def test_every_site_fires_once_with_its_shape(site: str, model: TransformerBridge):
    expected = [(1, *shapes(model, prompts.encode(model, TEXT).shape[1])[site])]
    if site in GATED:
        # It would never fire, in silence: naming it says what to call, and then it fires.
        with pytest.raises(ValueError) as caught:
            name_of(model, site)
        assert_one_sentence(caught.value, f"site is {site!r}", f"model.{GATED[site]}(True)")
        getattr(model, GATED[site])(True)
    try:
        name = name_of(model, site)
        assert name in model.hook_dict
        assert fired(model, name) == expected
    finally:
        if site in GATED:
            getattr(model, GATED[site])(False)


@torch.no_grad()
def test_sites_are_what_they_are_called(model: TransformerBridge):
    model.set_use_attn_result(True)
    try:
        _, cache = model.run_with_cache(prompts.encode(model, TEXT))
        at = {site: cache[name_of(model, site)] for site in models.run.SITES if site != "attn_in"}
    finally:
        model.set_use_attn_result(False)
    block = model.blocks[1]

    def same(left: torch.Tensor, right: torch.Tensor) -> None:
        torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-4)

    def bias(part: object, name: str) -> torch.Tensor | float:
        value = getattr(part, name, None)
        return 0.0 if value is None else value

    same(at["resid_pre"], cache[models.hook_name(model, "resid_post", 0)])
    same(at["resid_mid"], at["resid_pre"] + at["attn_out"])
    same(at["resid_post"], at["resid_mid"] + at["mlp_out"])
    same(at["mlp_in"], models.centred(model, at["resid_mid"]) / models.norm_scale(model, at["resid_mid"]))
    same(at["pattern"], at["scores"].softmax(-1))
    same(at["result"], torch.einsum("bphd,hdm->bphm", at["z"], model.W_O[1]))
    same(at["attn_out"], at["result"].sum(2) + bias(block.attn, "b_O"))
    same(at["mlp_out"], at["mlp_post"] @ model.W_out[1] + bias(block.mlp, "b_out"))
    assert (at["mlp_pre"] - at["mlp_post"]).abs().max() > 0.1
    values = at["v"].repeat_interleave(model.cfg.n_heads // at["v"].shape[2], dim=2)
    same(at["z"], torch.einsum("bhqk,bkhd->bqhd", at["pattern"], values))


def test_names_are_transformer_lens_names(llama_model: TransformerBridge):
    assert models.hook_name(llama_model, "z", 1) == "blocks.1.attn.hook_z"
    assert models.hook_name(llama_model, "resid_post", 0) == "blocks.0.hook_resid_post"
    assert models.hook_name(llama_model, "embed") == "hook_embed"


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ("resid_pos", "'resid_post'"),
        ("patern", "'pattern'"),
        ("atn_out", "'attn_out'"),
        ("#####", "resid_mid"),
    ],
)
def test_unknown_site(site: str, said: str, llama_model: TransformerBridge):
    with pytest.raises(ValueError) as caught:
        models.hook_name(llama_model, site, 0)
    assert_one_sentence(caught.value, "site", repr(site), said)


@pytest.mark.parametrize("site", ONCE)
def test_layer_that_is_not_wanted(site: str, llama_model: TransformerBridge):
    with pytest.raises(ValueError) as caught:
        models.hook_name(llama_model, site, 0)
    assert_one_sentence(caught.value, "layer", repr(site), "None")


# ----------------------------------------------------------------------------------------------------------
# indices

BAD = [2, -1, 100, True, False, None, 1.0, 0.5, "1"]


@pytest.mark.parametrize("layer", BAD)
def test_layer_that_does_not_exist(layer: object, unchecked: None, llama_model: TransformerBridge):
    for call in (
        lambda: models.check_layer(llama_model, layer),
        lambda: models.hook_name(llama_model, "z", layer),
        lambda: models.zero_head(llama_model, layer, 0),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert_one_sentence(caught.value, f"layer is {layer!r}", "tiny-llama", "whole number from 0 to 1")


@pytest.mark.parametrize("head", [4, *BAD[1:]])
def test_head_that_does_not_exist(head: object, unchecked: None, llama_model: TransformerBridge):
    for call in (
        lambda: models.check_head(llama_model, head),
        lambda: models.zero_head(llama_model, 0, head),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert_one_sentence(caught.value, f"head is {head!r}", "tiny-llama", "whole number from 0 to 3")


def test_every_index_that_exists(llama_model: TransformerBridge):
    assert [models.check_layer(llama_model, layer) for layer in range(2)] == [0, 1]
    assert [models.check_head(llama_model, head) for head in range(4)] == [0, 1, 2, 3]
    for one in (np.int64(1), torch.tensor(1)):  # what argmax gives
        assert models.check_layer(llama_model, one) == 1
        assert models.zero_head(llama_model, one, one)[0] == "blocks.1.attn.hook_z"


def test_key_value_heads_are_fewer(llama_model: TransformerBridge, gpt2_model: TransformerBridge):
    for site, count in {"q": 4, "k": 2, "v": 2, "z": 4, "pattern": 4, "result": 4}.items():
        assert models.n_heads(llama_model, site) == count
        assert models.n_heads(gpt2_model, site) == 4
    assert models.check_head(llama_model, 1, "k") == 1
    for site in ("k", "v"):
        with pytest.raises(ValueError) as caught:
            models.check_head(llama_model, 2, site)
        assert_one_sentence(caught.value, "head is 2", "from 0 to 1")


# ----------------------------------------------------------------------------------------------------------
# zero_head


@torch.no_grad()
def test_zero_head_takes_away_what_the_head_writes(model: TransformerBridge):
    tokens = prompts.encode(model, TEXT)
    clean, cache = model.run_with_cache(tokens)
    results = []
    for layer, head in ((0, 0), (1, model.cfg.n_heads - 1)):
        zeroed = model.run_with_hooks(tokens, fwd_hooks=[models.zero_head(model, layer, head)])
        written = cache[models.hook_name(model, "z", layer)][:, :, head] @ model.W_O[layer, head]

        def subtract(out: torch.Tensor, hook: object, written: torch.Tensor = written) -> torch.Tensor:
            return out - written

        by_hand = model.run_with_hooks(
            tokens, fwd_hooks=[(models.hook_name(model, "attn_out", layer), subtract)]
        )
        torch.testing.assert_close(zeroed, by_hand, atol=1e-3, rtol=1e-4)
        results.append(zeroed)
        assert (zeroed - clean).abs().max() > 1e-2
    assert (results[0] - results[1]).abs().max() > 1e-2
    # nothing stays behind
    assert torch.equal(model(tokens), clean)


@torch.no_grad()
def test_zero_head_leaves_its_argument_alone(llama_model: TransformerBridge):
    _, cache = llama_model.run_with_cache(prompts.encode(llama_model, TEXT))
    name, zero = models.zero_head(llama_model, 1, 3)
    before = cache[name].clone()
    after = zero(cache[name], hook=None)
    assert torch.equal(cache[name], before)
    assert not after[:, :, 3].any()
    assert torch.equal(after[:, :, :3], before[:, :, :3])


# ----------------------------------------------------------------------------------------------------------
# heads


def test_all_heads_stand_layer_by_layer(llama_model: TransformerBridge):
    wanted = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert models.all_heads(llama_model) == wanted
    assert models.check_heads(llama_model, wanted) == frozenset(wanted)


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        ([(0, 3), (2, 0)], "layer is 2"),
        ([(0, 4)], "head is 4"),
        ([(-1, 0)], "layer is -1"),
        ([3], "receivers holds 3"),
        ([(0, 1, 2)], "receivers holds (0, 1, 2)"),
    ],
)
def test_heads_that_the_model_does_not_have(
    heads: list, words: str, unchecked: None, llama_model: TransformerBridge
):
    with pytest.raises(ValueError) as caught:
        models.check_heads(llama_model, heads, "receivers")
    assert_one_sentence(caught.value, words)


@torch.no_grad()
def test_each_query_head_has_the_keys_and_values_that_it_shares(model: TransformerBridge):
    tokens = prompts.encode(model, TEXT)
    _, cache = model.run_with_cache(tokens)
    read = models.centred(model, cache["resid_pre", 1]) / models.norm_scale(model, cache["resid_pre", 1])
    attn = model.blocks[1].attn
    values = torch.einsum("bpm,hmd->bphd", read, models.value_weights(model, 1))
    bias = getattr(attn, "b_V", None)
    if bias is not None:
        values = values + bias.reshape(-1, model.cfg.d_head)
    weighted = torch.einsum("bhqk,bkhd->bqhd", cache["pattern", 1], values)
    torch.testing.assert_close(weighted, cache["z", 1], atol=1e-3, rtol=1e-3)
    keys = models.key_weights(model, 1)
    shared = model.cfg.n_heads // attn.W_K.shape[0]
    assert keys.shape == (model.cfg.n_heads, model.cfg.d_model, model.cfg.d_head)
    assert all(torch.equal(keys[head], attn.W_K[head // shared]) for head in range(model.cfg.n_heads))


# ----------------------------------------------------------------------------------------------------------
# running parts, norms


@torch.no_grad()
def test_the_way_out_is_that_of_the_model(model: TransformerBridge):
    logits, cache = model.run_with_cache(prompts.encode(model, TEXT))
    final = cache["resid_post", model.cfg.n_layers - 1]
    torch.testing.assert_close(models.unembed(model, final), logits, atol=1e-3, rtol=1e-4)
    assert models.unembed(model, final[0, -1]).shape == (model.cfg.d_vocab,)


@torch.no_grad()
def test_norms_centre_and_divide_as_the_model_does(model: TransformerBridge):
    _, cache = model.run_with_cache(prompts.encode(model, TEXT))
    final = cache["resid_post", model.cfg.n_layers - 1]
    scale = models.norm_scale(model, final)
    torch.testing.assert_close(scale, cache["ln_final.hook_scale"], atol=1e-4, rtol=1e-4)
    by_hand = models.centred(model, final) / scale
    torch.testing.assert_close(by_hand, model.ln_final(final), atol=1e-3, rtol=1e-4)
    middle = cache["resid_mid", 0]
    read = models.norm_before_mlp(model.blocks[0])(middle)
    torch.testing.assert_close(
        read, models.centred(model, middle) / models.norm_scale(model, middle), atol=1e-3, rtol=1e-4
    )


def test_sequences_longer_than_the_context(llama_model: TransformerBridge):
    longest = llama_model.cfg.n_ctx
    models.check_length(llama_model, torch.zeros(1, longest, dtype=torch.long))
    with pytest.raises(ValueError) as caught:
        models.check_length(llama_model, torch.zeros(1, longest + 1, dtype=torch.long))
    assert_one_sentence(caught.value, f"tokens has {longest + 1} positions", f"at most {longest}")


# ----------------------------------------------------------------------------------------------------------
# hooks while something lasts, and runs that end early


def n_hooks(model: TransformerBridge) -> int:
    points = {id(point): point for point in model.hook_dict.values()}  # some have two names
    return sum(len(point.fwd_hooks) for point in points.values())


@torch.no_grad()
def test_attached_hooks_edit_like_those_of_transformer_lens_and_go_away(model: TransformerBridge):
    tokens = prompts.encode(model, TEXT)
    before, hooks = model(tokens), [models.zero_head(model, 1, 0), models.zero_head(model, 0, 1)]
    with models.attached(model, hooks):
        edited = model(tokens)
        with models.attached(model, [models.zero_head(model, 1, 1)]):  # one inside the other
            both = model(tokens)
        assert torch.equal(model(tokens), edited)
    torch.testing.assert_close(edited, model.run_with_hooks(tokens, fwd_hooks=hooks), atol=1e-4, rtol=1e-4)
    assert (edited - before).abs().max() > 1e-2 and (both - edited).abs().max() > 1e-2
    assert n_hooks(model) == 0 and model.context_level == 0 and torch.equal(model(tokens), before)


def test_a_hook_point_that_does_not_exist(llama_model: TransformerBridge):
    hooks = [models.zero_head(llama_model, 0, 0), ("blocks.0.nonsense", print)]
    tokens = prompts.encode(llama_model, TEXT)
    for start in (
        lambda: models.attached(llama_model, hooks).__enter__(),
        lambda: models.run_for_hooks(llama_model, tokens, hooks),
    ):
        with pytest.raises(ValueError) as caught:
            start()
        assert_one_sentence(caught.value, "blocks.0.nonsense", "does not exist")
        assert n_hooks(llama_model) == 0 and llama_model.context_level == 0


@torch.no_grad()
def test_a_run_for_hooks_ends_when_all_were_called(model: TransformerBridge):
    tokens, seen = prompts.encode(model, TEXT), {}
    wanted = [("resid_mid", 0), ("z", 0), ("resid_pre", 1)]  # not in the order of the model
    names = [models.hook_name(model, *place) for place in wanted]
    everywhere = [
        models.hook_name(model, site, layer) for layer in (0, 1) for site in ("resid_pre", "z", "mlp_out")
    ]
    passed = []
    watch = [(name, models.look_only(lambda value, name=name: passed.append(name))) for name in everywhere]
    with models.attached(model, watch):
        models.run_for_hooks(model, tokens, [models.keeper(name, name, seen) for name in names])
    assert passed == everywhere[:4]  # the stream before block 1 was the last that was asked for
    _, cache = model.run_with_cache(tokens)
    for name in names:
        torch.testing.assert_close(seen[name], cache[name], atol=1e-4, rtol=1e-4)
    assert n_hooks(model) == 0


@torch.no_grad()
def test_what_hooks_of_such_a_run_change_reaches_later_ones(model: TransformerBridge):
    tokens, name = prompts.encode(model, TEXT), models.hook_name(model, "resid_post", 1)
    seen: dict[str, torch.Tensor] = {}
    zero = models.zero_head(model, 1, 2)
    models.run_for_hooks(model, tokens, [zero, models.keeper(name, "edited", seen)])
    with models.attached(model, [zero]):
        _, cache = model.run_with_cache(tokens)
    torch.testing.assert_close(seen["edited"], cache[name], atol=1e-4, rtol=1e-4)
    models.run_for_hooks(model, tokens, [models.keeper(name, "as it is", seen)])
    assert (seen["edited"] - seen["as it is"]).abs().max() > 1e-2


@torch.no_grad()
def test_an_error_in_a_hook_is_not_the_end_of_a_run(llama_model: TransformerBridge):
    def fail(value: torch.Tensor, hook: object) -> None:
        raise RuntimeError("mine")

    tokens = prompts.encode(llama_model, TEXT)
    with pytest.raises(RuntimeError, match="mine"):
        models.run_for_hooks(llama_model, tokens, [(models.hook_name(llama_model, "z", 1), fail)])
    assert n_hooks(llama_model) == 0


@torch.no_grad()
def test_kl_is_the_sum_over_the_vocabulary():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(5, 3, 20, generator=generator).log_softmax(dim=-1) for _ in range(2))
    wanted = (p.double().exp() * (p.double() - q.double())).sum(dim=-1).float()
    torch.testing.assert_close(models.kl(p, q), wanted)
    torch.testing.assert_close(models.kl(p[0, 0], q), torch.stack([models.kl(p[0, 0], one) for one in q]))
    assert not torch.allclose(models.kl(p, q), models.kl(q, p)), "what is believed comes first"
    assert models.kl(p, p).abs().max() == 0
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    even, uneven = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert models.kl(even, uneven).item() == pytest.approx(by_hand)


def test_the_body_runs_all_blocks_and_no_unembedding(model: TransformerBridge):
    passed = []
    names = [
        models.hook_name(model, "resid_post", model.cfg.n_layers - 1),
        "ln_final.hook_normalized",
        "unembed.hook_in",
    ]
    watch = [(name, models.look_only(lambda value, name=name: passed.append(name))) for name in names]
    with models.attached(model, watch):
        models.run_body(model, prompts.encode(model, TEXT))
    assert passed == names[:2]


@torch.no_grad()
def test_calls_of_modules_are_seen_and_may_be_changed(model: TransformerBridge):
    tokens, calls = prompts.encode(model, TEXT), []
    clean = model(tokens)
    norms = [block.ln1 for block in model.blocks]
    with models.before_each(norms, lambda module, args, named: calls.append((module, args[0]))):
        assert torch.equal(model(tokens), clean)
    assert [module for module, _ in calls] == norms
    with models.before_each(norms[-1:], lambda module, args, named: ((2 + args[0].flip(-1),), named)):
        assert (model(tokens) - clean).abs().max() > 1e-2
    assert torch.equal(model(tokens), clean) and len(calls) == len(norms)
