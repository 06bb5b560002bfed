"""Harvested activations are those of ``run_with_cache``, whatever the batch size."""

from pathlib import Path

import pytest
import torch
from sentences import assert_one_sentence
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import harvest, models
from mi_utils.models.load import load_model

ROWS, POS = 5, 7
SITES = ("resid_pre", "attn_out", "mlp_out", "resid_post")  # all of width d_model


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    return request.getfixturevalue(request.param)


def some_tokens(rows: int = ROWS, pos: int = POS) -> torch.Tensor:
    tokens = torch.randint(2, 316, (rows, pos), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    return tokens


@torch.no_grad()
def cached(model: TransformerBridge, name: str, tokens: torch.Tensor) -> torch.Tensor:
    return model.run_with_cache(tokens, names_filter=lambda found: found == name)[1][name]


def refused(model: TransformerBridge, tokens: torch.Tensor, names: list[str], *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        harvest.activations(model, tokens, names)
    assert_one_sentence(caught.value, *said)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 32])
def test_streams_equal_the_cache(batch_size: int, model: TransformerBridge):
    tokens, d_model = some_tokens(), model.cfg.d_model
    streams = harvest.residual_streams(model, tokens, batch_size=batch_size)
    assert streams.shape == (model.cfg.n_layers + 1, ROWS * (POS - 1), d_model)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
    names.append(f"blocks.{model.cfg.n_layers - 1}.hook_resid_post")
    assert harvest.stream_names(model) == names
    for stream, name in zip(streams, names, strict=True):
        torch.testing.assert_close(stream.reshape(ROWS, POS - 1, d_model), cached(model, name, tokens)[:, 1:])


def test_sites_of_one_width_in_the_order_asked_for(model: TransformerBridge):
    tokens = some_tokens()
    names = [models.hook_name(model, site, layer) for layer in (1, 0) for site in SITES]
    found = harvest.activations(model, tokens, names, batch_size=2, skip_first=False)
    assert len(found) == len(names)
    for values, name in zip(found, names, strict=True):
        torch.testing.assert_close(values, cached(model, name, tokens).flatten(0, 1))


def test_first_position_is_left_out_unless_asked_for(model: TransformerBridge):
    tokens = some_tokens()
    with_first = harvest.residual_streams(model, tokens, skip_first=False)
    assert with_first.shape[1] == ROWS * POS
    without = with_first.unflatten(1, (ROWS, POS))[:, :, 1:].flatten(1, 2)
    torch.testing.assert_close(harvest.residual_streams(model, tokens), without)


def test_heads_are_laid_side_by_side(model: TransformerBridge):
    tokens, name = some_tokens(), models.hook_name(model, "z", 1)
    z = harvest.activations(model, tokens, [name], batch_size=2)
    assert z.shape == (1, ROWS * (POS - 1), model.cfg.n_heads * model.cfg.d_head)
    torch.testing.assert_close(z[0], cached(model, name, tokens)[:, 1:].flatten(2, 3).flatten(0, 1))


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2"])
def test_bfloat16_stays_bfloat16(folder: str, request: pytest.FixtureRequest):
    model = load_model(str(request.getfixturevalue(folder)), dtype=torch.bfloat16)
    tokens = some_tokens()
    streams = harvest.residual_streams(model, tokens, batch_size=ROWS)
    assert streams.dtype == torch.bfloat16
    for stream, name in zip(streams, harvest.stream_names(model), strict=True):
        torch.testing.assert_close(stream, cached(model, name, tokens)[:, 1:].flatten(0, 1))
    assert harvest.ordinary(streams).dtype == torch.bool


def test_nothing_stays_behind(model: TransformerBridge):
    """No hook, no graph: neither after a harvest nor after a failed one."""
    tokens = some_tokens()
    streams = harvest.residual_streams(model, tokens)
    assert not streams.requires_grad
    refused(model, tokens, ["blocks.0.hook_resid_pre", "unembed.hook_out"], "unembed.hook_out")
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    torch.testing.assert_close(harvest.residual_streams(model, tokens), streams)


# ------------------------------------------------------------------------------------------------------ bad
# input


def test_not_a_number_is_named(tiny_llama: Path):
    model = load_model(str(tiny_llama))
    with torch.no_grad():
        for name, value in model.original_model.named_parameters():
            if ".layers.1." in name and "down_proj" in name:
                value[3, 4] = torch.nan
    with pytest.raises(ValueError) as caught:
        harvest.residual_streams(model, some_tokens())
    assert_one_sentence(caught.value, "blocks.1.hook_resid_post", "not finite")
    assert harvest.activations(model, some_tokens(), ["blocks.1.hook_resid_pre"]).isfinite().all()


def test_infinity_is_named(tiny_llama: Path):
    model = load_model(str(tiny_llama))
    with torch.no_grad():
        for name, value in model.original_model.named_parameters():
            if "embed_tokens" in name:
                value[5] = torch.inf
    tokens = some_tokens()
    tokens[-1, -1] = 5  # in the last batch only
    with pytest.raises(ValueError) as caught:
        harvest.activations(model, tokens, ["blocks.0.hook_resid_pre"], batch_size=2)
    assert_one_sentence(caught.value, "blocks.0.hook_resid_pre", "not finite")


def test_prompts_of_one_token(model: TransformerBridge):
    names = harvest.stream_names(model)
    refused(model, some_tokens(pos=1), names, "tokens has shape (5, 1)", "at least two tokens")
    assert harvest.activations(model, some_tokens(pos=1), names, skip_first=False).shape[1] == ROWS
    assert harvest.activations(model, some_tokens(pos=2), names).shape[1] == ROWS


@pytest.mark.parametrize("skip_first", [True, False])
@pytest.mark.parametrize("shape", [(0, 7), (5, 0), (0, 0)])
def test_no_contexts(shape: tuple[int, int], skip_first: bool, model: TransformerBridge):
    with pytest.raises(ValueError) as caught:
        harvest.residual_streams(model, torch.zeros(shape, dtype=torch.int64), skip_first=skip_first)
    assert_one_sentence(caught.value, f"tokens has shape {shape}", "a batch of contexts")


@pytest.mark.parametrize("name", ["unembed.hook_out", "nonsense"])
def test_hook_that_never_fires(name: str, model: TransformerBridge):
    refused(model, some_tokens(), [name], repr(name), "never fires", model.cfg.model_name)


def test_different_widths(model: TransformerBridge):
    names = [models.hook_name(model, "resid_pre", 0), models.hook_name(model, "mlp_post", 0)]
    refused(model, some_tokens(), names, "different widths", *names)


# -------------------------------------------------------------------------------------------- massive
# activations


def planted(sizes: dict[tuple[int, int], float]) -> torch.Tensor:
    """Streams of unit vectors, at each depth of another scale, some of them made longer."""
    streams = torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(0))
    streams /= streams.norm(dim=-1, keepdim=True)
    for (stream, token), size in sizes.items():
        streams[stream, token] *= size
    return streams * torch.tensor([1.0, 30.0, 1000.0])[:, None, None]


def test_planted_massive_tokens_are_found():
    streams = planted({(1, 7): 100, (2, 20): 6, (0, 33): 1000, (1, 8): 4})
    for dtype in (torch.float32, torch.bfloat16):
        found = harvest.ordinary(streams.to(dtype))
        assert (~found).nonzero()[:, 0].tolist() == [7, 20, 33]


def test_factor_of_ordinary():
    streams = planted({(1, 7): 100, (1, 8): 4})
    assert (~harvest.ordinary(streams, factor=3)).nonzero()[:, 0].tolist() == [7, 8]
    assert harvest.ordinary(streams, factor=101).all()
    assert harvest.ordinary(planted({})).all()
    assert not harvest.ordinary(streams, factor=0.5).any()


def test_no_names_and_a_name_twice(model: TransformerBridge):
    refused(model, some_tokens(), [], "names is empty")
    name = models.hook_name(model, "resid_pre", 1)
    twice = harvest.activations(model, some_tokens(), [name, name], batch_size=2)
    assert torch.equal(twice[0], twice[1])
    torch.testing.assert_close(
        twice[:1], harvest.activations(model, some_tokens(), [name])
    )  # in other batches


def test_hook_point_that_has_no_vector_a_token(model: TransformerBridge):
    name = models.hook_name(model, "pattern", 1)
    refused(model, some_tokens(), [name], name, "no vector")


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_below_one(batch_size: int, model: TransformerBridge):
    with pytest.raises(ValueError) as caught:
        harvest.residual_streams(model, some_tokens(), batch_size=batch_size)
    assert_one_sentence(caught.value, f"batch_size is {batch_size}")


def test_massive_tokens_are_dropped_in_place_and_the_others_stay_in_order():
    streams = torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(0))
    streams[1, [0, 7, 49]] *= 100
    kept = harvest.ordinary(streams)
    wanted = streams[:, kept].clone()
    found = harvest.drop_massive(streams)
    assert kept.sum() == 47 and torch.equal(found, wanted)
    assert found.data_ptr() == streams.data_ptr()


# ------------------------------------------------------------------------------------- no further than it has
# to


def fired(model: TransformerBridge, watched: list[str], run) -> list[str]:
    """Which of the hook points something passes while ``run`` is called, in that order."""
    seen = []
    with model.hooks(
        fwd_hooks=[(name, lambda value, hook, name=name: seen.append(name)) for name in watched]
    ):
        run()
    return seen


def depths(model: TransformerBridge) -> list[str]:
    inside = [
        f"blocks.{layer}.{site}"
        for layer in (0, 1)
        for site in ("hook_resid_pre", "attn.hook_z", "hook_mlp_out")
    ]
    return [*inside, "blocks.1.hook_resid_post", "ln_final.hook_normalized", "unembed.hook_in"]


@pytest.mark.parametrize("last", range(7))
def test_nothing_runs_after_the_last_hook_point_asked_for(last: int, model: TransformerBridge):
    """One batch: everything up to that hook point fires once, nothing behind it does."""
    watched, tokens = depths(model), some_tokens()
    assert fired(model, watched, lambda: model(tokens)) == watched
    seen = fired(
        model, watched, lambda: harvest.activations(model, tokens, [watched[last], watched[last // 2]])
    )
    assert seen == watched[: last + 1]  # the watching hook came first, so it still sees the last point


def test_order_of_names_is_not_that_of_the_model(model: TransformerBridge):
    tokens, watched = some_tokens(), [name for name in depths(model) if "hook_z" not in name][:5]
    for names in (watched[::-1], [watched[i] for i in (3, 0, 4, 0, 3)]):
        found = harvest.activations(model, tokens, names, batch_size=2, skip_first=False)
        for values, name in zip(found, names, strict=True):
            torch.testing.assert_close(values, cached(model, name, tokens).flatten(0, 1))


def test_the_model_is_as_before_after_a_harvest_that_stopped(model: TransformerBridge):
    tokens = some_tokens()
    with torch.no_grad():
        before = model(tokens)
        harvest.activations(model, tokens, ["blocks.0.hook_resid_pre"])
        torch.testing.assert_close(model(tokens), before)
    assert fired(model, depths(model), lambda: model(tokens)) == depths(model)


@pytest.mark.parametrize("missing", ["unembed.hook_out", "nonsense"])
def test_a_hook_that_never_fires_is_reported_beside_others(missing: str, model: TransformerBridge):
    """Those behind the blocks too, which are not run."""
    fine = "blocks.0.hook_resid_pre"
    for names in ([missing, fine], [fine, missing], [fine, missing, fine], [missing, missing]):
        refused(model, some_tokens(), names, repr(missing), "never fires")
