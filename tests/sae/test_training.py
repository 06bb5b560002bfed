"""Training of SAEs: schedule and order, what is recorded, what comes back, and what is found."""

import math
from dataclasses import replace

import pytest
import torch
from sentences import assert_one_sentence
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mi_utils import sae
from mi_utils.sae.training import SAESettings, train

KINDS = ("standard", "topk", "batchtopk", "jumprelu")
QUICK = {
    "standard": SAESettings(24, "standard", sparsity=0.7, steps=200, batch=256, lr=1e-2, warm_up=10),
    "topk": SAESettings(24, "topk", k=3, steps=200, batch=256, lr=1e-2, warm_up=10),
    "batchtopk": SAESettings(24, "batchtopk", k=2, steps=200, batch=256, lr=1e-2, warm_up=10),
    "jumprelu": SAESettings(
        24, "jumprelu", sparsity=3.0, steps=400, batch=128, lr=3e-2, warm_up=10, bandwidth=0.3
    ),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sparse_data(
    count: int = 3_000, *, seed: int = 0, width: int = 16, share: float = 0.12
) -> tuple[Tensor, Tensor]:
    """Tokens in which each of ``width`` orthogonal features is present or not, and the features."""
    features = torch.linalg.qr(drawn(width, width, seed=99)).Q
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(count, width, generator=generator) < share
    return (present * (0.5 + torch.rand(count, width, generator=generator))) @ features, features


def refused(call, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said)


# ------------------------------------------------------------------------------------------- what happens in
# a step


def test_schedule_rises_stays_and_falls_over_the_last_fifth():
    rates = [sae.training._schedule(step, SAESettings(8, k=1, steps=100, warm_up=10)) for step in range(100)]
    assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert rates[10:81] == pytest.approx([1.0] * 71)
    assert rates[80:] == pytest.approx([(100 - step) / 20 for step in range(80, 100)]) and rates[-1] > 0
    assert sae.training._schedule(0, SAESettings(8, k=1, steps=100, warm_up=0)) == 1


@pytest.mark.parametrize(("count", "batch"), [(12, 4), (14, 4), (5, 5), (3, 8)])
def test_every_token_comes_once_before_any_comes_again(count: int, batch: int):
    """What is left of a permutation after whole batches waits for the next one."""
    rows = sae.training._order(count, batch, torch.Generator().manual_seed(0))
    in_epoch = count // min(batch, count)
    epochs = [torch.cat([next(rows) for _ in range(in_epoch)]).tolist() for _ in range(20)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == in_epoch * min(batch, count)
    assert set().union(*epochs) == set(range(count))
    assert count <= 3 or len({tuple(epoch) for epoch in epochs}) > 15


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_rows_have_length_one(kind: str):
    trained = train(drawn(300, 16), replace(QUICK[kind], steps=7, batch=64))
    torch.testing.assert_close(trained.sae.W_dec.norm(dim=1), torch.ones(24))
    assert trained.sae.W_enc.norm(dim=0).sub(1).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_follows_the_projected_gradient(kind: str):
    """What Adam is given for the decoder has nothing along its rows; normalising afterwards would not undo
    that."""
    along = []

    def look(optimiser, *_):
        decoder = optimiser.param_groups[0]["params"][1]
        along.append(((decoder.grad * decoder).sum(dim=1).abs().max() / decoder.grad.abs().max()).item())

    handle = register_optimizer_step_pre_hook(look)
    try:
        train(drawn(300, 16), replace(QUICK[kind], steps=5, batch=64))
    finally:
        handle.remove()
    assert len(along) == 5 and max(along) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_record_is_that_of_the_batches(kind: str):
    """With a learning rate of almost nothing the SAE that comes back is the one that was measured."""
    x = 3 * drawn(200, 16) + 5
    trained = train(x, replace(QUICK[kind], steps=3, batch=999, lr=1e-12))
    assert trained.fvu.shape == trained.l0.shape == (3,) and trained.seconds > 0
    assert trained.tokens == 3 * 200  # no batch is larger than what there is
    fit = sae.evaluate(trained.sae, x)
    torch.testing.assert_close(trained.fvu, torch.full((3,), fit.fvu), rtol=2e-3, atol=0)
    torch.testing.assert_close(trained.l0, torch.full((3,), fit.l0), rtol=2e-3, atol=0.02)
    assert train(x, replace(QUICK[kind], steps=3, batch=50)).tokens == 150


@pytest.mark.parametrize("kind", KINDS)
def test_activations_in_other_units_give_the_same_sae_in_those_units(kind: str):
    """A factor of four is exact in binary; a shift is not, so there only the fit is compared."""
    x, settings = drawn(400, 16), replace(QUICK[kind], steps=12, batch=64)
    plain, scaled, shifted = (train(y, settings).sae for y in (x, 4 * x, 4 * x + 8))
    torch.testing.assert_close(scaled.W_enc, plain.W_enc)
    torch.testing.assert_close(scaled.W_dec, plain.W_dec)
    for name in ("b_enc", "b_dec", "threshold"):
        if getattr(plain, name) is not None:
            torch.testing.assert_close(getattr(scaled, name), 4 * getattr(plain, name))
    torch.testing.assert_close(scaled.encode(4 * x), 4 * plain.encode(x), rtol=1e-4, atol=1e-4)
    fits = [sae.evaluate(*pair).fvu for pair in ((plain, x), (scaled, 4 * x), (shifted, 4 * x + 8))]
    assert fits[1] == pytest.approx(fits[0], rel=1e-4) and fits[2] == pytest.approx(fits[0], rel=2e-2)


# ---------------------------------------------------------------------------------------------------- what is
# found


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_orthogonal_features_are_recovered(kind: str):
    (x, features), (fresh, _) = sparse_data(), sparse_data(1_000, seed=1)
    trained = train(x + 2, QUICK[kind])
    fit = sae.evaluate(trained.sae, fresh + 2)
    assert sae.mmcs(trained.sae.W_dec, features) > 0.95
    assert fit.fvu < 0.1 and fit.l0 < 4
    assert trained.fvu[-20:].mean() < 0.3 * trained.fvu[0]
    if kind == "batchtopk":
        assert fit.l0 <= 2.1


def test_threshold_of_batchtopk_lets_k_latents_through_on_fresh_tokens():
    generator = torch.Generator().manual_seed(4)
    mixing = torch.randn(40, 16, generator=generator)
    x, fresh = (torch.rand(n, 40, generator=generator).pow(8) @ mixing for n in (3_000, 2_000))
    trained = train(x, SAESettings(32, "batchtopk", k=5, steps=300, batch=256, lr=3e-3, warm_up=10))
    threshold = trained.sae.threshold
    assert (threshold == threshold[0]).all() and threshold[0] > 0
    assert trained.l0[-1] == pytest.approx(5, abs=0.01)
    assert sae.evaluate(trained.sae, fresh).l0 == pytest.approx(5, rel=0.12)


def same(one: sae.SAE, other: sae.SAE) -> bool:
    return all(
        torch.allclose(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-6)
        for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_everything_and_the_global_one_nothing(kind: str):
    x, settings = drawn(300, 16), replace(QUICK[kind], steps=5, batch=64)
    kept, state = x.clone(), torch.get_rng_state()
    first = train(x, settings).sae
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(x, kept)
    assert same(first, train(x, settings).sae)
    assert not same(first, train(x, replace(settings, seed=1)).sae)


@pytest.mark.parametrize("kind", KINDS)
def test_training_where_gradients_are_switched_off(kind: str):
    x, settings = drawn(300, 16), replace(QUICK[kind], steps=5, batch=64, dead_after=100)
    with torch.no_grad():
        found = train(x, settings)
    assert same(found.sae, train(x, settings).sae)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        value = getattr(found.sae, name)
        assert value is None or (not value.requires_grad and value.is_contiguous())
    assert not found.fvu.requires_grad


def test_half_precision_is_trained_on_in_float32():
    x, settings = (3 * drawn(300, 16) + 1).bfloat16(), replace(QUICK["topk"], steps=5, batch=64)
    found = train(x, settings).sae
    assert found.W_enc.dtype == torch.float32 and same(found, train(x.float(), settings).sae)


# ------------------------------------------------------------------------------------------------------- bad
# input


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"d_sae": 0}, "d_sae is 0"),
        ({"d_sae": -4}, "d_sae is -4"),
        ({"k": 13}, "k is 13; with 12 latents it should be from 1 to 12"),
        ({"k": 0}, "k is 0"),
        ({"k": -1}, "k is -1"),
        ({"k": None}, "k is None"),
        ({"k": None, "kind": "batchtopk"}, "k is None"),
        ({"k": 13, "kind": "batchtopk"}, "k is 13"),
        ({"kind": "standard"}, "sparsity is 0; a standard SAE is not sparse without it"),
        ({"kind": "jumprelu"}, "sparsity is 0; a jumprelu SAE"),
        ({"sparsity": -0.1, "kind": "standard"}, "sparsity is -0.1; it should not be negative"),
        ({"sparsity": math.nan, "kind": "standard"}, "sparsity is nan"),
        ({"aux": -1.0}, "aux is -1.0"),
        ({"warm_up": -1}, "warm_up is -1"),
        ({"steps": 0}, "steps is 0; it should be above 0"),
        ({"batch": 0}, "batch is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"bandwidth": 0.0, "kind": "jumprelu", "sparsity": 1.0}, "bandwidth is 0.0"),
        ({"dead_after": 0}, "dead_after is 0"),
    ],
)
def test_settings_out_of_range(changed: dict, said: str):
    refused(lambda: SAESettings(**({"d_sae": 12, "k": 3} | changed)), said)


@pytest.mark.parametrize("kind", ["gated", "ReLU", ""])
def test_an_unknown_kind(kind: str, unchecked: None):
    refused(lambda: SAESettings(12, kind, k=3), f"kind is {kind!r}", "standard, topk, batchtopk or jumprelu")


@pytest.mark.parametrize("kind", KINDS)
def test_activations_that_cannot_be_trained_on(kind: str):
    settings, x = replace(QUICK[kind], steps=2), drawn(50, 16)
    for count in (0, 1):
        refused(lambda count=count: train(x[:count], settings), f"x has {count} tokens", "at least 2")
    refused(lambda: train(torch.full((50, 16), 3.0), settings), "x is the same for all tokens")
    for value in (math.nan, math.inf, -math.inf):
        broken = x.clone()
        broken[49, 15] = value
        refused(lambda broken=broken: train(broken, settings), "x holds values that are not finite")


def test_a_rate_at_which_training_diverges():
    refused(lambda: train(drawn(50, 16), replace(QUICK["standard"], lr=1e30)), "lr is 1e+30", "smaller")


def test_an_sae_remembers_what_it_was_trained_on():
    found = train(
        drawn(60, 8), replace(QUICK["topk"], steps=2), model="tiny", hook="blocks.1.hook_resid_pre"
    ).sae
    assert (found.model, found.hook) == ("tiny", "blocks.1.hook_resid_pre")


def test_two_tokens_are_enough():
    assert torch.isfinite(
        train(drawn(2, 4), SAESettings(8, k=1, steps=20, lr=1e-2, warm_up=0)).sae.W_enc
    ).all()
