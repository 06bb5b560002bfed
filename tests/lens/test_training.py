"""Ridge regression against least squares; descent, which may only improve."""

import math
from dataclasses import replace

import pytest
import torch
from sentences import assert_one_sentence
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import harvest, lens, models
from mi_utils.lens.training import Descent, Moments, fit_ridge, train

QUICK = Descent(steps=60, batch=64, kept=64, drawn=64, held_back=128, warm_up=5, rate=3e-3)
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
    settings = replace(QUICK, steps=200, rate=5e-4, held_back=256, kept=128)
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
    trained = train(model, streams, start, replace(QUICK, steps=20, rate=rate))
    if not math.isfinite(rate):
        assert trained.losses[-1].isnan().all()
        assert (trained.best == 0).all()
    assert (trained.validation[trained.best, [0, 1]] <= trained.validation[0]).all()
    kept = trained.best == 0
    assert torch.equal(trained.lens.matrices[kept], start.matrices[kept])
    assert torch.equal(trained.lens.biases[kept], start.biases[kept])
    assert trained.lens.matrices.isfinite().all() and trained.lens.biases.isfinite().all()


def test_each_layer_keeps_its_own_best(model: TransformerBridge, monkeypatch: pytest.MonkeyPatch):
    """One layer that starts where nothing is to be gained, another far off; with the loss of the whole
    vocabulary."""
    streams = streams_of(model)
    streams[1] = streams[-1]  # the logit lens is perfect here
    aside, compute = [], lens.training._validation

    def record(model, measured, streams, *rest):
        aside.append(streams)
        return compute(model, measured, streams, *rest)

    monkeypatch.setattr(lens.training, "_validation", record)
    trained = train(model, streams, lens.logit_lens(model), replace(QUICK, kept=1000))
    assert trained.best[0] > 0 and trained.best[1] == 0
    assert torch.equal(trained.lens.matrices[1], torch.eye(32)) and trained.lens.biases[1].abs().max() == 0
    assert len(aside) == QUICK.checks + 1 and all(torch.equal(aside[0], other) for other in aside)
    found = mean_kl(model, trained.lens, aside[0])
    torch.testing.assert_close(found, trained.validation.min(dim=0).values, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found, trained.validation[trained.best, [0, 1]], atol=1e-5, rtol=1e-3)
    assert trained.validation[:, 0].argmin() == trained.best[0]


def test_best_of_several_checks():
    """For each layer the least loss of all, not the last that beats the start; one that is no number
    never."""
    lenses = [
        lens.Lens(torch.full((3, 2, 2), float(i)), torch.full((3, 2), float(i)), "tiny") for i in range(4)
    ]
    losses = torch.tensor([[5.0, 5.0, 5.0], [3.0, 6.0, math.nan], [4.0, 2.0, 4.0], [3.5, 2.0, math.nan]])
    best = lens.training._Best(lenses[0], losses[0])
    for made, loss in zip(lenses[1:], losses[1:], strict=True):
        best.see(made, loss)
    assert best.which.tolist() == [1, 2, 2]
    assert best.lens().biases[:, 0].tolist() == best.lens().matrices[:, 1, 1].tolist() == [1, 2, 2]


def test_tokens_set_aside_are_not_trained_on(llama_model: TransformerBridge, monkeypatch: pytest.MonkeyPatch):
    streams, seen, compute = made_up(), {True: set(), False: set()}, lens.training._loss

    def record(model, measured, streams, vocabulary):
        seen[isinstance(measured, lens.Lens)] |= {tuple(row) for row in streams[1].tolist()}
        return compute(model, measured, streams, vocabulary)

    monkeypatch.setattr(lens.training, "_loss", record)
    train(llama_model, streams, lens.logit_lens(llama_model), replace(QUICK, steps=60))
    assert len(seen[True]) == QUICK.held_back and not seen[True] & seen[False]
    assert len(seen[False]) == streams.shape[1] - QUICK.held_back  # all the others are


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
    settings = replace(SHORT, rate=1e-3, warm_up=2, bias_rate=20.0)
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


# ------------------------------------------------------------------------------------------------ the
# parametrisation


def test_lens_in_the_making_starts_as_the_start(model: TransformerBridge):
    streams = streams_of(model, rows=8)
    for start in (lens.logit_lens(model), fit_ridge(model, streams)):
        making = lens.training._Standardised(start, streams[:-1])
        same_lens(making.lens(), start, atol=2e-5, rtol=1e-4)
        translated = making.translate_all(streams[:-1])
        for layer in range(2):
            expected = start.translate(streams[layer], layer)
            torch.testing.assert_close(translated[layer], expected, atol=1e-4, rtol=1e-3)


def test_lens_in_the_making_is_the_lens_it_hands_out(model: TransformerBridge):
    """After it moved, too: on tokens it was not made with."""
    streams, others = made_up(), made_up(seed=1)
    making = lens.training._Standardised(fit_ridge(model, streams), streams[:-1])
    with torch.no_grad():
        making.matrices += 0.3 * torch.randn(
            making.matrices.shape, generator=torch.Generator().manual_seed(1)
        )
        making.biases += 0.7
    given, translated = making.lens(), making.translate_all(others[:-1])
    for layer in range(2):
        torch.testing.assert_close(
            given.translate(others[layer], layer), translated[layer], atol=1e-2, rtol=1e-3
        )


def test_steps_are_in_units_of_the_scale(llama_model: TransformerBridge):
    """Inputs a thousand times smaller, at one component or all: the same numbers to learn."""
    streams = made_up()
    start = fit_ridge(llama_model, streams)
    factor = torch.ones(32)
    factor[5], factor[9] = 100.0, 0.1
    scaled = lens.Lens(start.matrices / factor[:, None], start.biases, start.model)
    one = lens.training._Standardised(start, streams[:-1])
    other = lens.training._Standardised(scaled, streams[:-1] * factor)
    torch.testing.assert_close(one.matrices, other.matrices, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(one.biases, other.biases, atol=1e-3, rtol=1e-3)
    written = torch.stack([start.translate(streams[layer], layer) for layer in range(2)])
    torch.testing.assert_close(one.scale.flatten(), written.square().mean(dim=(1, 2)).sqrt())


# --------------------------------------------------------------------------------------------- the sampled
# vocabulary


def test_whole_vocabulary_is_the_exact_loss(model: TransformerBridge):
    streams, measured = streams_of(model, rows=2), fit_ridge(model, streams_of(model))
    likeliest = lens.training._likeliest_tokens(model, streams[-1])
    for kept, drawn in ((1024, 1024), (300, 16), (0, 316), (316, 1)):
        settings = Descent(kept=kept, drawn=drawn)
        vocabulary = lens.training._vocabulary(likeliest, settings, torch.Generator().manual_seed(0))
        assert sorted(vocabulary[0].tolist()) == list(range(316)) and vocabulary[1].abs().max() == 0
        for given in (measured, lens.training._Standardised(measured, streams[:-1])):
            loss = lens.training._loss(model, given, streams, vocabulary).detach()
            torch.testing.assert_close(loss, mean_kl(model, measured, streams), atol=1e-4, rtol=1e-3)


def test_likeliest_tokens(model: TransformerBridge):
    final = streams_of(model, rows=2)[-1]
    order = lens.training._likeliest_tokens(model, final)
    mean = sum(models.unembed(model, row).softmax(dim=-1) for row in final) / len(final)
    assert sorted(order.tolist()) == list(range(316))
    assert (mean[order].diff() <= 1e-6).all()


def test_sample_keeps_the_likeliest_and_weighs_the_others():
    likeliest, settings = torch.randperm(316), Descent(kept=40, drawn=23)
    generator = torch.Generator().manual_seed(0)
    samples = [lens.training._vocabulary(likeliest, settings, generator) for _ in range(50)]
    for ids, log_weights in samples:
        assert torch.equal(ids[:40], likeliest[:40]) and len(set(ids.tolist())) == len(ids) == 63
        assert log_weights[:40].abs().max() == 0
        torch.testing.assert_close(log_weights[40:].exp(), torch.full((23,), (316 - 40) / 23))
    assert not torch.equal(samples[0][0], samples[1][0])
    assert len({token for ids, _ in samples for token in ids.tolist()}) > 300


def test_partition_function_of_the_sample_is_right_on_average():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(316, generator=generator)
    likeliest, settings = logits.argsort(descending=True), Descent(kept=40, drawn=20)
    estimates = []
    for _ in range(3000):
        ids, log_weights = lens.training._vocabulary(likeliest, settings, generator)
        estimates.append((logits[ids] + log_weights).exp().sum())
    estimates = torch.stack(estimates)
    error = estimates.std() / len(estimates) ** 0.5
    assert error < 0.003 * logits.exp().sum()
    assert (estimates.mean() - logits.exp().sum()).abs() < 4 * error


def test_sampled_loss_is_near_the_whole_one(model: TransformerBridge):
    """Over many draws; it is not the mean exactly, the logarithm in between."""
    streams = streams_of(model, rows=2)
    measured = lens.logit_lens(model)
    likeliest, generator = (
        lens.training._likeliest_tokens(model, streams[-1]),
        torch.Generator().manual_seed(0),
    )
    settings = Descent(kept=100, drawn=60)
    losses = [
        lens.training._loss(
            model, measured, streams, lens.training._vocabulary(likeliest, settings, generator)
        )
        for _ in range(40)
    ]
    torch.testing.assert_close(
        torch.stack(losses).mean(dim=0), mean_kl(model, measured, streams), rtol=0.1, atol=0.01
    )


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
        refused(lambda: train(llama_model, streams, start, SHORT), "not finite", f"layer {layer}")  # noqa: B023


def test_streams_and_lenses_of_another_model(llama_model: TransformerBridge, gpt2_model: TransformerBridge):
    streams, other = streams_of(llama_model, rows=8), lens.logit_lens(gpt2_model)
    refused(lambda: train(llama_model, streams, other, SHORT), "'tiny-gpt2'", "'tiny-llama'")
    for wrong in (streams[:2], streams[..., :16]):
        refused(lambda: fit_ridge(llama_model, wrong), "[3, tokens, 32]")  # noqa: B023
        refused(lambda: train(llama_model, wrong, lens.logit_lens(llama_model), SHORT), "[3, tokens, 32]")  # noqa: B023


def test_negative_strength(llama_model: TransformerBridge):
    refused(lambda: fit_ridge(llama_model, made_up(), strength=-0.1), "strength is -0.1", "0 or more")


@pytest.mark.parametrize("name", ["steps", "batch", "warm_up", "drawn", "held_back", "checks"])
def test_settings_below_one(name: str):
    refused(lambda: replace(SHORT, **{name: 0}), f"{name} is 0", "at least 1")
    refused(lambda: Descent(kept=-1), "kept is -1")


def test_strength_that_is_not_a_number(llama_model: TransformerBridge):
    refused(lambda: fit_ridge(llama_model, made_up(), strength=math.nan), "strength is nan")
