"""Training of SAEs: gradients against plain autograd, the schedule, what comes back, and what is found."""

import math
from dataclasses import replace

import pytest
import torch
from sentences import assert_one_sentence
from torch import Tensor
from torch.nn import functional as F

from mi_utils import sae as saes
from mi_utils import sae_training
from mi_utils.sae_training import Settings, train

KINDS = ("standard", "topk", "batchtopk", "jumprelu")
QUICK = {
    "standard": Settings(24, "standard", sparsity=0.7, steps=200, batch=256, lr=1e-2, warm_up=10),
    "topk": Settings(24, "topk", k=3, steps=200, batch=256, lr=1e-2, warm_up=10),
    "batchtopk": Settings(24, "batchtopk", k=2, steps=200, batch=256, lr=1e-2, warm_up=10),
    "jumprelu": Settings(24, "jumprelu", sparsity=3.0, steps=400, batch=128, lr=3e-2, warm_up=10, bandwidth=0.3),
}
NAMES = ("encoder", "decoder", "b_enc", "b_dec", "log_threshold")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sparse_data(count: int = 3_000, *, seed: int = 0, width: int = 16, share: float = 0.12) -> tuple[Tensor, Tensor]:
    """Tokens in which each of ``width`` orthogonal features is present or not, and the features."""
    features = torch.linalg.qr(drawn(width, width, seed=99)).Q
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(count, width, generator=generator) < share
    return (present * (0.5 + torch.rand(count, width, generator=generator))) @ features, features


def some_weights(kind: str, *, d_in: int = 6, d_sae: int = 12, **more) -> sae_training._Weights:
    """Encoder and decoder apart, all biases and thresholds at work."""
    needed = {"k": 3} if "topk" in kind else {"sparsity": 0.7}
    settings = Settings(d_sae, kind, **({"bandwidth": 0.5} | needed | more))
    weights = sae_training._Weights(d_in, settings, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for i, name in enumerate(("encoder", "b_enc", "b_dec", "log_threshold")):
            value = getattr(weights, name)
            value += 0.3 * drawn(*value.shape, seed=i + 1)
    return weights


def gradients(weights: sae_training._Weights, batch: Tensor) -> dict[str, Tensor]:
    loss = weights.loss(batch)[2]
    names = NAMES if weights.settings.kind == "jumprelu" else NAMES[:4]
    return dict(zip(names, torch.autograd.grad(loss, [getattr(weights, name) for name in names]), strict=True))


def dense_loss(weights: sae_training._Weights, batch: Tensor) -> Tensor:
    """The loss written with full matrices and autograd's own derivatives (TopK and BatchTopK)."""
    settings, dead = weights.settings, weights.silent >= weights.settings.dead_after
    pre = (batch - weights.b_dec) @ weights.encoder.T + weights.b_enc
    if settings.kind == "topk":
        kept = pre >= pre.sort(dim=1, descending=True).values[:, settings.k - 1 : settings.k]
    else:
        kept = pre >= pre.flatten().sort(descending=True).values[settings.k * len(batch) - 1]
    error = batch - weights.b_dec - (pre.relu() * kept) @ weights.decoder
    loss = error.square().sum(dim=1).mean()
    if settings.aux and dead.any():
        count = min(int(dead.sum()), batch.shape[1] // 2, 2 * settings.k)
        among = pre.masked_fill(~dead, -math.inf)
        chosen = among >= among.sort(dim=1, descending=True).values[:, count - 1 : count]
        rebuilt = (pre.relu() * chosen) @ weights.decoder
        loss = loss + settings.aux * (error.detach() - rebuilt).square().sum(dim=1).mean()
    return loss


def refused(call, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said)


# ------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("dead", [(), (2,), (1, 4, 5, 7, 8)])
@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_gradients_are_those_of_the_dense_computation(kind: str, dead: tuple[int, ...]):
    """All four parameters, with and without the auxiliary loss, on more than one batch size."""
    for rows in (40, 40, 17):
        weights, batch = some_weights(kind, aux=0.25, dead_after=1_000), drawn(rows, 6, seed=rows)
        weights.silent[list(dead)] = 5_000.0
        weights._watch = lambda active, tokens: None  # else those that are active now would not count as dead
        wanted_loss = dense_loss(weights, batch)
        wanted = torch.autograd.grad(wanted_loss, [getattr(weights, name) for name in NAMES[:4]])
        torch.testing.assert_close(weights.loss(batch)[2], wanted_loss)
        for name, gradient in zip(NAMES[:4], wanted, strict=True):
            assert gradient.abs().max() > 1e-3
            torch.testing.assert_close(gradients(weights, batch)[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_standard_loss_is_the_error_and_the_l1_norm():
    weights, batch = some_weights("standard"), drawn(30, 6)
    with torch.no_grad():
        weights.decoder *= 2  # the norm counts latents in units of their directions
    error, active, loss = weights.loss(batch)
    latents = ((batch - weights.b_dec) @ weights.encoder.T + weights.b_enc).relu()
    torch.testing.assert_close(error, batch - weights.b_dec - latents @ weights.decoder)
    torch.testing.assert_close(loss, error.square().sum(dim=1).mean() + 0.7 * 2 * latents.sum(dim=1).mean())
    assert active == pytest.approx((latents > 0).sum().item() / 30)


def test_jumprelu_derivatives_are_those_of_the_paper():
    """Straight through a rectangle: Rajamanoharan et al. 2024, equations 11 and 12, per latent."""
    weights, batch = some_weights("jumprelu"), drawn(60, 6)
    error, active, loss = weights.loss(batch)
    with torch.no_grad():
        threshold = weights.log_threshold.exp()
        pre = (batch - weights.b_dec) @ weights.encoder.T + weights.b_enc
        latents = pre * (pre > threshold)
        torch.testing.assert_close(error, batch - weights.b_dec - latents @ weights.decoder)
        assert active == pytest.approx((pre > threshold).sum().item() / 60)
        torch.testing.assert_close(loss, error.square().sum(dim=1).mean() + 0.7 * (pre > threshold).sum() / 60)
        of_error = 2 * error / 60
        of_latents = -of_error @ weights.decoder.T
        near = ((pre - threshold) / 0.5).abs() < 0.5
        assert near.any() and not near.all()
        of_threshold = -((threshold / 0.5 * of_latents + 0.7 / 60 / 0.5) * near).sum(dim=0)
        of_pre = of_latents * (pre > threshold)
        wanted = {
            "log_threshold": of_threshold * threshold,
            "encoder": of_pre.T @ (batch - weights.b_dec),
            "b_enc": of_pre.sum(dim=0),
            "decoder": -latents.T @ of_error,
            "b_dec": -of_error.sum(dim=0) - of_pre.sum(dim=0) @ weights.encoder,
        }
    for name, gradient in gradients(weights, batch).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-5, msg=name)


def test_an_infinitesimal_step_of_the_threshold_is_what_its_derivative_says():
    """In expectation over tokens: the count that passes falls by the density at the threshold."""
    pre = torch.linspace(-2, 2, 400_001)[:, None]  # 100,000 tokens a unit
    threshold = torch.tensor([0.75], requires_grad=True)
    sae_training._Step.apply(pre, threshold, 0.2).sum().backward()
    assert threshold.grad.item() == pytest.approx(-100_000, rel=1e-3)
    threshold.grad = None
    sae_training._Jump.apply(pre, threshold, 0.2).sum().backward()  # sum of pre above the threshold
    assert threshold.grad.item() == pytest.approx(-0.75 * 100_000, rel=1e-3)


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_the_auxiliary_loss_moves_dead_latents_only(kind: str):
    batch, dead = drawn(50, 6), [2, 5, 9]
    found = []
    for aux in (0.0, 0.5):
        weights = some_weights(kind, aux=aux, dead_after=1_000)
        weights.silent[dead] = 5_000.0
        weights._watch = lambda active, tokens: None
        found.append(gradients(weights, batch))
    without, with_aux = found
    alive = [i for i in range(12) if i not in dead]
    for name in ("encoder", "decoder", "b_enc"):
        moved = with_aux[name] - without[name]
        assert (moved[alive] == 0).all(), name
        assert moved[dead].flatten(1).abs().amax(dim=1).min() > 1e-4 if name != "b_enc" else moved[dead].abs().min() > 0


def test_the_auxiliary_loss_brings_back_a_latent_that_is_outranked():
    """Three features, one of them with no latent but the third, which TopK never picks: others outrank it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.eye(8)[torch.randint(3, (600,), generator=generator)]

    def last_error(aux: float) -> tuple[float, bool]:
        settings = Settings(3, "topk", k=1, aux=aux, dead_after=300, lr=1e-2, warm_up=0, steps=150, batch=100)
        weights = sae_training._Weights(8, settings, generator)
        with torch.no_grad():
            rows = torch.eye(8)[:3].clone()
            rows[2] = F.normalize(torch.tensor([0, 0, 1.0, 0.5, 0, 0, 0, 0]), dim=0)
            weights.decoder.copy_(rows)
            weights.encoder.copy_(rows * torch.tensor([1.0, 1.0, 0.3])[:, None])
            weights.b_enc.copy_(torch.tensor([2.0, 2.0, 0.0]))
        optimiser = torch.optim.Adam(weights.parameters(), lr=settings.lr)
        for step in range(settings.steps):
            error, _, loss = weights.loss(x[100 * (step % 6) :][:100])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            weights.normalise()
        return error.square().sum().item(), bool(weights.silent[2] < 300)

    (left, alive), (helped, revived) = last_error(0.0), last_error(0.5)
    assert not alive and revived
    assert helped < 0.5 * left


def test_latents_are_dead_after_so_many_tokens_without_activation():
    weights = some_weights("topk")
    for count in (40, 30):
        weights._watch(torch.arange(12) % 3, count)
    assert weights.silent.tolist() == [70.0, 0, 0] * 4
    weights._watch(torch.ones(12), 5)
    assert (weights.silent == 0).all()


# ------------------------------------------------------------------------------------------- what happens in a step


def test_schedule_rises_stays_and_falls_over_the_last_fifth():
    rates = [sae_training._schedule(step, Settings(8, k=1, steps=100, warm_up=10)) for step in range(100)]
    assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert rates[10:81] == pytest.approx([1.0] * 71)
    assert rates[80:] == pytest.approx([(100 - step) / 20 for step in range(80, 100)]) and rates[-1] > 0
    assert sae_training._schedule(0, Settings(8, k=1, steps=100, warm_up=0)) == 1


@pytest.mark.parametrize(("count", "batch"), [(12, 4), (14, 4), (5, 5), (3, 8)])
def test_every_token_comes_once_before_any_comes_again(count: int, batch: int):
    """What is left of a permutation after whole batches waits for the next one."""
    rows = sae_training._order(count, batch, torch.Generator().manual_seed(0))
    in_epoch = count // min(batch, count)
    epochs = [torch.cat([next(rows) for _ in range(in_epoch)]).tolist() for _ in range(20)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == in_epoch * min(batch, count)
    assert set().union(*epochs) == set(range(count))
    assert count <= 3 or len({tuple(epoch) for epoch in epochs}) > 15


def test_projected_gradient_has_nothing_along_the_rows():
    weights = some_weights("topk")
    weights.decoder.grad = drawn(12, 6, seed=7)
    along = (weights.decoder.grad * weights.decoder).sum(dim=1, keepdim=True) * weights.decoder
    wanted = (weights.decoder.grad - along).detach()
    weights.project_gradient()
    torch.testing.assert_close(weights.decoder.grad, wanted)
    assert (weights.decoder.grad * weights.decoder).sum(dim=1).abs().max() < 1e-5 < along.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_rows_have_length_one(kind: str):
    trained = train(drawn(300, 16), replace(QUICK[kind], steps=7, batch=64))
    torch.testing.assert_close(trained.sae.W_dec.norm(dim=1), torch.ones(24))
    assert trained.sae.W_enc.norm(dim=0).sub(1).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_record_is_that_of_the_batches(kind: str):
    """With a learning rate of almost nothing the SAE that comes back is the one that was measured."""
    x = 3 * drawn(200, 16) + 5
    trained = train(x, replace(QUICK[kind], steps=3, batch=999, lr=1e-12))
    assert trained.fvu.shape == trained.l0.shape == (3,) and trained.seconds > 0
    assert trained.tokens == 3 * 200  # no batch is larger than what there is
    fit = saes.evaluate(trained.sae, x)
    torch.testing.assert_close(trained.fvu, torch.full((3,), fit.fvu), rtol=2e-3, atol=0)
    torch.testing.assert_close(trained.l0, torch.full((3,), fit.l0), rtol=2e-3, atol=0.02)
    assert train(x, replace(QUICK[kind], steps=3, batch=50)).tokens == 150


@pytest.mark.parametrize("kind", KINDS)
def test_centring_and_scaling_are_folded_into_the_sae(kind: str):
    weights, mean, scale = some_weights(kind), drawn(6, seed=8) * 10, 7.5
    x = drawn(90, 6, seed=9) * scale + mean
    with torch.no_grad():
        error, active, _ = weights.loss((x - mean) / scale)
    weights.cut *= 0.9999  # the batch's last latent is to pass in the SAE too, which asks for more than the threshold
    sae = weights.as_sae(mean, scale, "tiny", "blocks.0.hook_resid_pre")
    torch.testing.assert_close(x - sae.reconstruct(x), error * scale, rtol=1e-3, atol=1e-3)
    assert (sae.encode(x) > 0).sum().item() / 90 == pytest.approx(active, abs=0.02)
    assert (sae.model, sae.hook) == ("tiny", "blocks.0.hook_resid_pre")
    assert sae.architecture == ("jumprelu" if kind == "batchtopk" else kind)
    assert (sae.k, sae.threshold is None) == (3 if kind == "topk" else None, kind in ("standard", "topk"))


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
    fits = [saes.evaluate(*pair).fvu for pair in ((plain, x), (scaled, 4 * x), (shifted, 4 * x + 8))]
    assert fits[1] == pytest.approx(fits[0], rel=1e-4) and fits[2] == pytest.approx(fits[0], rel=2e-2)


# ---------------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_orthogonal_features_are_recovered(kind: str):
    (x, features), (fresh, _) = sparse_data(), sparse_data(1_000, seed=1)
    trained = train(x + 2, QUICK[kind])
    fit = saes.evaluate(trained.sae, fresh + 2)
    assert saes.mmcs(trained.sae.W_dec, features) > 0.95
    assert fit.fvu < 0.1 and fit.l0 < 4
    assert trained.fvu[-20:].mean() < 0.3 * trained.fvu[0]
    if kind == "batchtopk":
        assert fit.l0 <= 2.1


def test_threshold_of_batchtopk_lets_k_latents_through_on_fresh_tokens():
    generator = torch.Generator().manual_seed(4)
    mixing = torch.randn(40, 16, generator=generator)
    x, fresh = (torch.rand(n, 40, generator=generator).pow(8) @ mixing for n in (3_000, 2_000))
    trained = train(x, Settings(32, "batchtopk", k=5, steps=300, batch=256, lr=3e-3, warm_up=10))
    threshold = trained.sae.threshold
    assert (threshold == threshold[0]).all() and threshold[0] > 0
    assert trained.l0[-1] == pytest.approx(5, abs=0.01)
    assert saes.evaluate(trained.sae, fresh).l0 == pytest.approx(5, rel=0.12)


def same(one: saes.SAE, other: saes.SAE) -> bool:
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


# ------------------------------------------------------------------------------------------------------- bad input


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
    refused(lambda: Settings(**({"d_sae": 12, "k": 3} | changed)), said)


@pytest.mark.parametrize("kind", ["gated", "ReLU", ""])
def test_an_unknown_kind(kind: str, unchecked: None):
    refused(lambda: Settings(12, kind, k=3), f"kind is {kind!r}", "standard, topk, batchtopk or jumprelu")


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


def test_two_tokens_are_enough():
    assert torch.isfinite(train(drawn(2, 4), Settings(8, k=1, steps=20, lr=1e-2, warm_up=0)).sae.W_enc).all()
