"""Ridge regression against least squares; descent, which may only improve."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from sentences import assert_one_sentence
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import harvest, lens
from mi_utils.lens.training import LensSettings, Moments, fit_ridge, train

QUICK = LensSettings(steps=60, batch=64, kept=64, drawn=64, held_back=128, warm_up=5, lr=3e-3)
SHORT = replace(QUICK, steps=4, checks=2)


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    return request.getfixturevalue(request.param)


def streams_of(model: TransformerBridge, *, rows: int = 24, pos: int = 64, seed: int = 0) -> Tensor:
    tokens = torch.randint(2, model.cfg.d_vocab, (rows, pos), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 0
    return harvest.residual_streams(model, tokens)


def made_up(tokens: int = 400, *, seed: int = 0) -> Tensor:
    """Streams whose components differ in scale and mean, and depend on one another."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(3, tokens, 32, generator=generator)
    mixed = mixed @ (torch.eye(32) + 0.1 * torch.randn(32, 32, generator=generator))
    return mixed * torch.logspace(-0.5, 0.5, 32) + 2 * torch.randn(32, generator=generator)


def mean_kl(model: TransformerBridge, measured: lens.Lens, streams: Tensor) -> Tensor:
    return lens.evaluate(model, measured, streams).kl.mean(dim=1)


def same_lens(one: lens.Lens, other: lens.Lens, **tolerance: float) -> None:
    assert one.model == other.model
    torch.testing.assert_close(one.matrices, other.matrices, **tolerance)
    torch.testing.assert_close(one.biases, other.biases, **tolerance)


def refused(call, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said)


# ----------------------------------------------------------------------------------------------------------
# ridge


@pytest.mark.parametrize("strength", [0.0, 1e-3, 0.3])
def test_ridge_is_the_least_squares_solution(strength: float, llama_model: TransformerBridge):
    """Penalty written as more rows of data, intercept as one more column that is not penalised."""
    streams = made_up()
    found = fit_ridge(llama_model, streams, strength=strength)
    y, n = streams[-1].double(), streams.shape[1]
    for layer in range(2):
        x = streams[layer].double()
        penalty = torch.diag((n * strength * x.var(dim=0, correction=0)).sqrt())
        rows = torch.cat(
            [torch.cat([x, torch.ones(n, 1)], dim=1), torch.cat([penalty, torch.zeros(32, 1)], dim=1)]
        )
        solution = torch.linalg.lstsq(rows, torch.cat([y, torch.zeros(32, y.shape[1])])).solution
        torch.testing.assert_close(found.matrices[layer].double(), solution[:-1], atol=2e-4, rtol=2e-3)
        torch.testing.assert_close(found.biases[layer].double(), solution[-1], atol=1e-3, rtol=1e-3)
    assert found.model == llama_model.cfg.model_name


def test_ridge_recovers_what_is_affine(llama_model: TransformerBridge):
    streams, generator = made_up(), torch.Generator().manual_seed(5)
    matrix, bias = torch.randn(32, 32, generator=generator), torch.randn(32, generator=generator) * 7
    streams[-1] = streams[0] @ matrix + bias
    found = fit_ridge(llama_model, streams, strength=0.0)
    torch.testing.assert_close(found.matrices[0], matrix, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.biases[0], bias, atol=1e-3, rtol=1e-3)


def test_component_that_never_varies(llama_model: TransformerBridge):
    """It may not carry anything, nor spoil the others."""
    streams = made_up()
    streams[:2, :, 3] = 40.0
    found = fit_ridge(llama_model, streams)
    assert found.matrices.isfinite().all() and found.matrices[:, 3].abs().max() < 1
    predicted = found.translate(streams[0], 0)
    others = [i for i in range(32) if i != 3]
    x = torch.cat([streams[0][:, others], torch.ones(400, 1)], dim=1).double()
    best = x @ torch.linalg.lstsq(x, streams[-1].double()).solution
    loss, least = ((guess - streams[-1]).square().mean().item() for guess in (predicted, best))
    assert least <= loss < 1.01 * least


def test_moments_piece_by_piece():
    streams = made_up()
    at_once, pieces = Moments(2, 32).add(streams), Moments(2, 32)
    for piece in streams.split(37, dim=1):
        assert pieces.add(piece) is pieces
    assert at_once.count == pieces.count == 400
    torch.testing.assert_close(at_once.means().float(), streams.mean(dim=1), atol=1e-4, rtol=1e-4)
    for layer in range(2):
        expected = torch.cov(streams[layer].double().T, correction=0)
        for moments in (at_once, pieces):
            torch.testing.assert_close(moments.covariance(layer), expected, atol=1e-3, rtol=1e-4)
    same_lens(at_once.ridge("tiny"), pieces.ridge("tiny"), atol=1e-3, rtol=1e-3)


def test_moments_of_very_many_pieces_lose_nothing():
    """Small tokens after large ones: in float32 each would vanish beside the sum so far."""
    large = torch.tensor([[1e4, -1e4], [-1e4, 1e4]]).repeat(2, 1, 1)  # mean 0: the origin
    moments, n = Moments(1, 2).add(large), 500
    for _ in range(n):
        moments.add(torch.ones(2, 1, 2))
    mean = n / (n + 2)
    wanted = (2e8 + n) / (n + 2) - mean**2
    covariance = moments.covariance(0)
    assert covariance[0, 0].item() == pytest.approx(wanted, rel=1e-9)
    assert covariance[0, 1].item() == pytest.approx((-2e8 + n) / (n + 2) - mean**2, rel=1e-9)
    assert moments.means()[0, 0].item() == pytest.approx(mean, rel=1e-9)


def test_the_mean_of_a_large_and_very_many_small_tokens():
    moments = Moments(1, 1).add(torch.zeros(2, 1, 1)).add(torch.full((2, 1, 1), 1e8))
    for _ in range(100):
        moments.add(torch.ones(2, 1, 1))
    assert moments.means()[0].item() == pytest.approx((1e8 + 100) / 102, rel=1e-9)


def test_ridge_helps_on_other_tokens(model: TransformerBridge):
    fitted, held_out = fit_ridge(model, streams_of(model)), streams_of(model, rows=8, seed=1)
    errors = [
        [(guess.translate(held_out[layer], layer) - held_out[-1]).square().mean() for layer in range(2)]
        for guess in (fitted, lens.logit_lens(model))
    ]
    assert all(a < b for a, b in zip(*errors, strict=True))


# ----------------------------------------------------------------------------------------------------------
# train


@pytest.mark.parametrize("start", ["logit lens", "ridge"])
def test_training_lowers_the_loss_on_other_tokens(start: str, model: TransformerBridge):
    """The loss on the whole vocabulary, by a measure of its own; training sees a sample of it."""
    streams, held_out = streams_of(model), streams_of(model, rows=8, seed=1)
    first = lens.logit_lens(model) if start == "logit lens" else fit_ridge(model, streams)
    settings = replace(QUICK, steps=200, lr=5e-4, held_back=256, kept=128)
    trained = train(model, streams, first, settings)
    before, after = mean_kl(model, first, held_out), mean_kl(model, trained.lens, held_out)
    assert (after < (0.85 if start == "logit lens" else 0.98) * before).all(), (before, after)
    assert trained.losses.shape == (settings.steps, 2) and trained.losses.isfinite().all()
    assert trained.validation.shape == (settings.checks + 1, 2) and (trained.best > 0).all()


@pytest.mark.parametrize("rate", [1e3, 1e30, math.inf, math.nan])
def test_never_worse_than_the_start(rate: float, model: TransformerBridge):
    """At an absurd rate the start is what is left, even where losses are not numbers any more."""
    streams = streams_of(model)
    start = fit_ridge(model, streams)
    trained = train(model, streams, start, replace(QUICK, steps=20, lr=rate))
    if not math.isfinite(rate):
        assert trained.losses[-1].isnan().all()
        assert (trained.best == 0).all()
    assert (trained.validation[trained.best, [0, 1]] <= trained.validation[0]).all()
    kept = trained.best == 0
    assert torch.equal(trained.lens.matrices[kept], start.matrices[kept])
    assert torch.equal(trained.lens.biases[kept], start.biases[kept])
    assert trained.lens.matrices.isfinite().all() and trained.lens.biases.isfinite().all()


def test_each_layer_keeps_its_own_best(model: TransformerBridge):
    """One layer that starts where nothing is to be gained, another far off; with the loss of the whole
    vocabulary."""
    streams = streams_of(model)
    streams[1] = streams[-1]  # the logit lens is perfect here
    trained = train(model, streams, lens.logit_lens(model), replace(QUICK, kept=1000))
    assert trained.best[0] > 0 and trained.best[1] == 0
    assert torch.equal(trained.lens.matrices[1], torch.eye(32)) and trained.lens.biases[1].abs().max() == 0
    found = mean_kl(model, trained.lens, streams[:, trained.aside])
    torch.testing.assert_close(found, trained.validation[trained.best, [0, 1]], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("held_back", [64, 100, 129])
def test_all_tokens_set_aside_are_validated(held_back: int, model: TransformerBridge):
    """Those too that are too few to fill a batch, and each as much as any other."""
    streams, start = streams_of(model), lens.logit_lens(model)
    settings = replace(SHORT, held_back=held_back, kept=1000)
    trained = train(model, streams, start, settings)
    wanted = mean_kl(model, start, streams[:, trained.aside])
    torch.testing.assert_close(trained.validation[0], wanted, atol=1e-5, rtol=1e-4)


def test_best_of_several_checks(model: TransformerBridge):
    """For each layer the least loss of all, not the last to beat the start; never one that is no number."""
    streams, middle = streams_of(model), 0
    start, settings = fit_ridge(model, streams), replace(QUICK, steps=40, kept=1000, checks=8)
    for seed, lr in ((0, 3e-3), (1, 3e-3), (2, 3e-3), (3, 3e-3), (4, 3e-3), (0, 0.1), (0, 1e30)):
        trained = train(model, streams, start, replace(settings, lr=lr, seed=seed))
        losses = trained.validation.nan_to_num(nan=math.inf)
        assert trained.best.tolist() == losses.argmin(dim=0).tolist()
        found = mean_kl(model, trained.lens, streams[:, trained.aside])
        torch.testing.assert_close(found, losses.amin(dim=0), atol=1e-5, rtol=1e-3)
        middle += int(((trained.best > 0) & (trained.best < settings.checks)).sum())
    assert middle, "the best is now and then neither the first nor the last"


def test_tokens_set_aside_are_not_trained_on(llama_model: TransformerBridge):
    """Other tokens in their places change what is validated and not one training loss, and the other way
    round."""
    streams, start = made_up(1200), lens.logit_lens(llama_model)
    settings = replace(QUICK, steps=80, kept=1000, lr=0.0)
    trained = train(llama_model, streams, start, settings)
    assert len(set(trained.aside.tolist())) == len(trained.aside) == QUICK.held_back
    pool = torch.ones(streams.shape[1], dtype=torch.bool)
    pool[trained.aside] = False
    for changed, first_loss_stays in ((~pool, True), (pool, False)):
        other = streams.clone()
        other[:, changed] = made_up(1200, seed=1)[:, changed]
        again = train(llama_model, other, start, settings)
        assert torch.equal(again.aside, trained.aside)
        assert torch.allclose(again.losses[0], trained.losses[0], rtol=1e-4) == first_loss_stays
        assert torch.allclose(again.validation[0], trained.validation[0], rtol=1e-4) != first_loss_stays


def test_all_other_tokens_are_trained_on(llama_model: TransformerBridge):
    """A token that is far off shows in the losses, whichever it is, when its turn comes."""
    streams, start = made_up(80), lens.logit_lens(llama_model)
    settings = replace(QUICK, steps=25, batch=16, kept=1000, held_back=64, lr=0.0)
    trained = train(llama_model, streams, start, settings)
    pool = set(range(80)) - set(trained.aside.tolist())
    assert len(pool) == 16
    for one in pool:
        other = streams.clone()
        other[-1, one] = -other[-1, one]
        assert not torch.equal(train(llama_model, other, start, settings).losses, trained.losses)


def test_seed_decides(llama_model: TransformerBridge):
    streams, start = streams_of(llama_model, rows=8), lens.logit_lens(llama_model)
    global_state = torch.get_rng_state()
    one = train(llama_model, streams, start, SHORT)
    torch.rand(5)
    again, other = (
        train(llama_model, streams, start, SHORT),
        train(llama_model, streams, start, replace(SHORT, seed=1)),
    )
    torch.set_rng_state(global_state)
    train(llama_model, streams, start, SHORT)
    assert torch.equal(torch.get_rng_state(), global_state)
    same_lens(one.lens, again.lens, atol=0, rtol=0)
    torch.testing.assert_close(one.losses, again.losses)
    torch.testing.assert_close(one.validation, again.validation)
    assert not torch.equal(one.losses, other.losses)


def test_what_is_given_is_not_changed(model: TransformerBridge):
    streams, start = streams_of(model, rows=8), lens.logit_lens(model)
    before = [value.clone() for value in (*model.parameters(), streams, start.matrices, start.biases)]
    with torch.no_grad():  # as a notebook may have it
        trained = train(model, streams, start, SHORT)
    after = [*model.parameters(), streams, start.matrices, start.biases]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert not any(
        value.requires_grad for value in (trained.lens.matrices, trained.lens.biases, trained.losses)
    )
    assert not trained.validation.requires_grad
    assert all(value.grad is None for value in model.parameters())


def test_rates(llama_model: TransformerBridge, monkeypatch: pytest.MonkeyPatch):
    """Up in a line, then down in a line to zero; the biases' is a multiple."""
    seen = []

    class Recorded(torch.optim.Adam):
        def step(self, closure=None):
            seen.append([group["lr"] for group in self.param_groups])
            assert [group["params"][0].ndim for group in self.param_groups] == [3, 3]
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Recorded)
    settings = replace(SHORT, lr=1e-3, warm_up=2, bias_lr_factor=20.0)
    train(llama_model, streams_of(llama_model, rows=8), lens.logit_lens(llama_model), settings)
    assert [matrices for matrices, _ in seen] == pytest.approx([5e-4, 7.5e-4, 5e-4, 2.5e-4])
    assert [biases for _, biases in seen] == pytest.approx([1e-2, 1.5e-2, 1e-2, 5e-3])


def test_streams_in_bfloat16(model: TransformerBridge):
    """Harvested in bfloat16, trained in float32."""
    streams = streams_of(model, rows=8)
    assert (
        train(model, streams.bfloat16(), lens.logit_lens(model), SHORT).lens.matrices.dtype == torch.float32
    )
    assert fit_ridge(model, streams.bfloat16()).matrices.dtype == torch.float32


# ------------------------------------------------------------------------------------------------------ bad
# input


def test_too_few_tokens(llama_model: TransformerBridge):
    streams, start = streams_of(llama_model), lens.logit_lens(llama_model)
    needed = SHORT.held_back + SHORT.batch
    refused(
        lambda: train(llama_model, streams[:, : needed - 1], start, SHORT),
        f"{needed - 1} tokens",
        "128",
        "64",
    )
    assert train(llama_model, streams[:, :needed], start, SHORT).losses.isfinite().all()
    refused(lambda: fit_ridge(llama_model, streams[:, :1]), "streams has 1 token")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_streams_that_are_not_finite(bad: float, llama_model: TransformerBridge):
    start = lens.logit_lens(llama_model)
    for layer in range(3):
        streams = streams_of(llama_model, rows=8)
        streams[layer, 3, 4] = bad
        refused(lambda: fit_ridge(llama_model, streams), "not finite", f"layer {layer}")  # noqa: B023
        refused(partial(train, llama_model, streams, start, SHORT), "not finite", f"layer {layer}")


def test_streams_and_lenses_of_another_model(llama_model: TransformerBridge, gpt2_model: TransformerBridge):
    streams, other = streams_of(llama_model, rows=8), lens.logit_lens(gpt2_model)
    refused(lambda: train(llama_model, streams, other, SHORT), "'tiny-gpt2'", "'tiny-llama'")
    for wrong in (streams[:2], streams[..., :16]):
        refused(lambda: fit_ridge(llama_model, wrong), "[3, tokens, 32]")  # noqa: B023
        start = lens.logit_lens(llama_model)
        refused(partial(train, llama_model, wrong, start, SHORT), "[3, tokens, 32]")


def test_negative_strength(llama_model: TransformerBridge):
    refused(lambda: fit_ridge(llama_model, made_up(), strength=-0.1), "strength is -0.1", "0 or more")


@pytest.mark.parametrize("name", ["steps", "batch", "warm_up", "drawn", "held_back", "checks"])
def test_settings_below_one(name: str):
    refused(lambda: replace(SHORT, **{name: 0}), f"{name} is 0", "at least 1")
    refused(lambda: LensSettings(kept=-1), "kept is -1")


def test_strength_that_is_not_a_number(llama_model: TransformerBridge):
    refused(lambda: fit_ridge(llama_model, made_up(), strength=math.nan), "strength is nan")
