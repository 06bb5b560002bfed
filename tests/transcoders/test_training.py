"""Training of transcoders: what a step does, what comes back, and what is found where the truth is known."""

import math
from dataclasses import replace

import pytest
import torch
from sentences import assert_one_sentence
from torch import Tensor

from mi_utils import sae
from mi_utils.transcoders.settings import TranscoderSettings
from mi_utils.transcoders.trainer import Trainer
from mi_utils.transcoders.training import train
from mi_utils.transcoders.transcoders import Transcoders, evaluate, skip_alone

LAYERS, D, TRUE = 3, 12, 6
KINDS = ("clt", "plt")
SPARSITIES = ("batchtopk", "jumprelu")
ALL = [(kind, sparsity, skip) for kind in KINDS for sparsity in SPARSITIES for skip in (False, True)]
SMALL = TranscoderSettings(16, k=2, steps=20, warm_up=3, resample=False)
STILL = replace(SMALL, steps=10, lr=1e-12, anneal=1)  # the parameters stay where they begin


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(count: int = 96, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and outputs with nothing to find, of different sizes and off the origin in each layer."""
    sizes = torch.tensor([0.5, 2.0, 30.0])[:, None, None]
    return noise(LAYERS, count, D, seed=seed) * sizes + 3, noise(LAYERS, count, D, seed=seed + 1) / sizes - 1


def planted(count: int, *, seed: int = 0, passed_on: bool = True) -> tuple[Tensor, Tensor]:
    """Six features in each layer, present a fifth of the time, with either sign; positive ones are written.

    ``passed_on``: to this and all later layers, each with a decoder of its own; else to this layer only.
    """
    truth = torch.Generator().manual_seed(99)
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(LAYERS, count, TRUE, generator=generator) < 0.2
    value = present * (0.5 + torch.rand(LAYERS, count, TRUE, generator=generator))
    value = value * torch.where(torch.rand(LAYERS, count, TRUE, generator=generator) < 0.5, -1, 1)
    readers = torch.linalg.qr(torch.randn(LAYERS, D, D, generator=truth)).Q[:, :TRUE]
    writers = torch.randn(LAYERS, LAYERS, TRUE, D, generator=truth)
    x = value @ readers + 0.03 * torch.randn(LAYERS, count, D, generator=generator)
    y = torch.zeros_like(x)
    for target in range(LAYERS):
        for source in range(target + 1) if passed_on else [target]:
            y[target] += value[source].relu() @ writers[source, target]
    return x, y


def batches(settings: TranscoderSettings, *, size: int = 128, **more):
    for step in range(settings.steps):
        yield planted(size, seed=1000 + step, **more)


def linear_fvu(x: Tensor, y: Tensor) -> Tensor:
    """[layer] of the best affine map from the layer's own input."""
    found = []
    for inputs, outputs in zip(x, y, strict=True):
        a = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
        error = outputs - a @ torch.linalg.lstsq(a, outputs).solution
        found.append(error.square().sum() / (outputs - outputs.mean(dim=0)).square().sum())
    return torch.stack(found)


def as_trained(trainer: Trainer, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the trainer's own forward pass makes of ``x``: features, and outputs in the units of the model."""
    scaling = trainer.scaling
    with torch.no_grad():
        inputs, _ = trainer.scaling.apply(x, torch.zeros_like(x))
        features, _ = trainer._features(inputs, 1.0)
        outputs = torch.stack([trainer._output(features, inputs, layer) for layer in range(trainer.n_layers)])
    return torch.stack(features), outputs * scaling.size_y + scaling.mean_y


def replayed(t: Transcoders, x: Tensor) -> tuple[Tensor, Tensor]:
    features = [t.encode(x[layer], layer) for layer in range(t.n_layers)]
    return torch.stack(features), torch.stack(
        [t.output(features, layer, x[layer]) for layer in range(t.n_layers)]
    )


def same(one: Transcoders, other: Transcoders) -> bool:
    """Bit for bit."""
    names = ("W_enc", "b_enc", "threshold", "b_dec") + ("W_skip",) * (one.W_skip is not None)
    pairs = [(getattr(one, name), getattr(other, name)) for name in names] + list(
        zip(one.W_dec, other.W_dec, strict=True)
    )
    return all(torch.equal(*pair) for pair in pairs)


def refused(call, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said)


# ------------------------------------------------------------------------ the result is what was in training


@pytest.mark.parametrize(("normalise", "rank_by"), [(True, "writes"), (True, "value"), (False, "writes")])
@pytest.mark.parametrize(("kind", "sparsity", "skip"), ALL)
def test_result_computes_what_the_trainer_computes(
    kind: str, sparsity: str, skip: bool, normalise: bool, rank_by: str
):
    """Centring and scaling are folded into the weights: the same features, and outputs in the model's
    units."""
    x, y = plain()
    settings = replace(SMALL, kind=kind, sparsity=sparsity, skip=skip, normalise=normalise, rank_by=rank_by)
    trainer = Trainer(settings, x, y, model="some model")
    for seed in range(12):
        trainer.step(*plain(seed=2 * seed))
    features, outputs = as_trained(trainer, x)
    result = trainer.result()
    found, rebuilt = replayed(result, x)
    assert (result.kind, result.model, result.W_skip is not None) == (kind, "some model", skip)
    assert 0.02 < (features > 0).float().mean() < 0.99
    assert ((found > 0) == (features > 0)).float().mean() > 0.999
    torch.testing.assert_close(found, features, rtol=1e-3, atol=2e-3)
    for layer in range(LAYERS):
        size = outputs[layer].abs().max().item()
        torch.testing.assert_close(rebuilt[layer], outputs[layer], rtol=1e-3, atol=2e-3 * size)
    assert not any(
        value.requires_grad for value in (result.W_enc, result.b_dec, result.threshold, *result.W_dec)
    )


@pytest.mark.parametrize(("kind", "sparsity", "skip"), ALL)
def test_what_a_step_reports_is_what_evaluate_finds(kind: str, sparsity: str, skip: bool):
    x, y = plain()
    trainer = Trainer(replace(STILL, kind=kind, sparsity=sparsity, skip=skip), x, y)
    steps = [trainer.step(x, y) for _ in range(10)]
    fit = evaluate(trainer.result(), x, y)
    assert [step.step for step in steps] == list(range(1, 11))
    assert steps[-1].fvu == pytest.approx(fit.fvu.mean().item(), rel=1e-3)
    assert steps[-1].l0 == pytest.approx(fit.l0.sum().item(), rel=1e-2)
    assert steps[-1].dead == 0


def test_a_result_is_a_copy():
    trainer = Trainer(SMALL, *plain())
    trainer.step(*plain())
    result = trainer.result()
    kept = replace(result, W_enc=result.W_enc.clone(), W_dec=tuple(w.clone() for w in result.W_dec))
    trainer.step(*plain(seed=5))
    assert same(result, kept) and not same(trainer.result(), kept)


@pytest.mark.parametrize("init", ["data", "random"])
def test_where_training_begins(init: str):
    """Encoders of length 1; from data, decoders of 0.1 in their own layer and nothing in later ones."""
    x, y = plain()
    trainer = Trainer(replace(STILL, init=init, normalise=False), x / 10, y / 10)
    trainer.step(x / 10, y / 10)
    t = trainer.result()
    torch.testing.assert_close(t.W_enc.norm(dim=1), torch.ones(LAYERS, 16))
    own = torch.stack([w[0].norm(dim=-1) for w in t.W_dec])
    later = torch.cat([w[1:].flatten() for w in t.W_dec])
    if init == "data":
        torch.testing.assert_close(own, torch.full((LAYERS, 16), 0.1))
        assert later.abs().max() < 1e-9
        towards = torch.nn.functional.normalize(x[1], dim=-1) @ t.W_enc[1]
        assert (towards.amax(dim=0) > 0.95).all()  # an input from the sample, and some noise
    else:
        bound = 1 / math.sqrt(LAYERS * D)
        assert 0.8 * bound < later.abs().max() <= bound and own.max() <= bound * math.sqrt(D)


def test_the_skip_begins_as_a_linear_regression():
    x, y = plain(400)
    y = 0.3 * y + x @ noise(LAYERS, D, D, seed=8) / x.std(dim=(1, 2), keepdim=True)
    trainer = Trainer(replace(STILL, skip=True, steps=1), x, y)
    trainer.step(x, y)
    found = evaluate(skip_alone(trainer.result()), x, y).fvu
    torch.testing.assert_close(found, linear_fvu(x, y), rtol=1e-2, atol=1e-3)
    assert found.max() < 0.5


# ------------------------------------------------------------------------------------------ what a step does


def test_rates_rise_stay_and_fall_over_the_last_two_fifths():
    settings = replace(SMALL, steps=50, warm_up=5, lr=1e-3, skip=True, sparsity="jumprelu")
    trainer, (x, y), rates = Trainer(settings, *plain()), plain(), []
    for _ in range(50):
        trainer.step(x, y)
        rates.append([group["lr"] for group in trainer._optimiser.param_groups])
    main = [rate[0] for rate in rates]
    assert main[:5] == pytest.approx([1e-3 * i / 5 for i in range(1, 6)])
    assert main[5:31] == pytest.approx([1e-3] * 26)
    assert main[30:] == pytest.approx([1e-3 * max(0.02, (50 - i) / 20) for i in range(30, 50)])
    assert [rate[1] for rate in rates] == pytest.approx(main)
    assert [rate[2] for rate in rates] == pytest.approx([rate / 5 for rate in main])


@pytest.mark.parametrize("kind", KINDS)
def test_batchtopk_begins_with_more_and_comes_down_over_the_first_quarter(kind: str):
    x, y = plain(64)
    trainer = Trainer(replace(STILL, kind=kind, steps=40, anneal=3), x, y)
    found = [trainer.step(x, y).l0 / LAYERS for _ in range(40)]
    wanted = [2 * (1 + 2 * max(0.0, 1 - 4 * i / 40)) for i in range(40)]
    assert found == pytest.approx(wanted, abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank_by", ["writes", "value"])
def test_batchtopk_keeps_its_budget_on_fresh_tokens(kind: str, rank_by: str):
    """A CLT shares it among layers; with a PLT each layer has its own."""
    settings = TranscoderSettings(24, kind, k=1.5, steps=150, warm_up=10, rank_by=rank_by, normalise=False)
    t = train(settings, planted(512), batches(settings)).transcoders
    l0 = evaluate(t, *planted(2000, seed=7)).l0
    assert l0.mean().item() == pytest.approx(1.5, rel=0.15)
    if kind == "plt":
        torch.testing.assert_close(l0, torch.full((LAYERS,), 1.5), rtol=0.25, atol=0)
    assert (t.threshold > 0).all()
    writes = t.decoder_norms() > 1e-3  # not those that began at a token without outputs
    cut = t.threshold * (t.decoder_norms() if rank_by == "writes" else 1)
    by_layer = torch.stack([cut[layer][writes[layer]].median() for layer in range(LAYERS)])
    torch.testing.assert_close(cut[writes], by_layer[:, None].expand_as(cut)[writes], rtol=1e-4, atol=0)
    assert writes.float().mean() > 0.5
    assert torch.allclose(by_layer, by_layer[0], rtol=1e-4) == (kind == "clt")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank_by", ["writes", "value"])
def test_ranking_by_what_is_written_does_not_ask_how_it_is_divided(kind: str, rank_by: str):
    """An encoder made larger and the decoders smaller by the same factor: the same function, ranked the same
    or not."""
    x, y = plain()
    trainer = Trainer(replace(STILL, kind=kind, rank_by=rank_by), x, y)
    factors = noise(16, seed=3).exp()
    inputs, _ = trainer.scaling.apply(x, y)
    with torch.no_grad():
        before = [features > 0 for features in trainer._features(inputs, 0.0)[0]]
        for layer in range(LAYERS):
            trainer.W_enc[layer].mul_(factors)
            trainer.W_dec[layer].view(-1, 16, D).div_(factors[:, None])
        after = [features > 0 for features in trainer._features(inputs, 0.0)[0]]
    kept = torch.stack([(one == other).float().mean() for one, other in zip(before, after, strict=True)])
    assert (kept > 0.999).all() if rank_by == "writes" else (kept < 0.97).all()


def test_gradient_of_a_threshold_is_that_of_the_smoothed_step():
    """Rajamanoharan et al.: the step becomes a ramp of the bandwidth's width, the value at it the
    threshold's."""
    pre, bandwidth = 2 * noise(200, 3, seed=1).double(), 0.5
    weights = noise(200, 3, seed=2).double()
    threshold = torch.tensor([0.3, 0.7, 1.2], dtype=torch.float64)

    def smoothed(moved: Tensor) -> Tensor:
        ramp = ((pre - moved) / bandwidth + 0.5).clamp(0, 1)
        return (weights * threshold * ramp).sum(dim=0)

    inputs, leaf = pre.clone().requires_grad_(), threshold.clone().requires_grad_()
    values = sae.Jump.apply(inputs, leaf, bandwidth)
    assert torch.equal(values, torch.where(pre > threshold, pre, 0))
    (weights * values).sum().backward()
    step = 1e-7
    wanted = (smoothed(threshold + step) - smoothed(threshold - step)) / (2 * step)
    torch.testing.assert_close(leaf.grad, wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(inputs.grad, weights * (pre > threshold))


def test_gradient_of_a_threshold_is_right_on_average():
    """Over evenly spread inputs it is the derivative of the mean of the JumpReLU itself."""
    pre = torch.linspace(-2, 2, 400_001, dtype=torch.float64)[:, None]

    def mean(threshold: float) -> float:
        return (pre * (pre > threshold)).mean().item()

    leaf = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    sae.Jump.apply(pre, leaf, 0.5).mean().backward()
    assert leaf.grad.item() == pytest.approx((mean(0.75) - mean(0.65)) / 0.1, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_penalty_is_the_published_one(kind: str):
    """tanh(c · length · value) with the length of all decoders together, in units in which a mean square is
    1."""
    x, y = plain(20)
    trainer = Trainer(
        replace(SMALL, kind=kind, sparsity="jumprelu", normalise=False, penalty=0.05, c=3), x, y
    )
    trainer.step(x, y)
    lengths = trainer.result().decoder_norms() / math.sqrt(D)
    for progress, share in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        with torch.no_grad():
            features, found = trainer._features(x, progress)
            pre = [x[i] @ trainer.W_enc[i] + trainer.b_enc[i] for i in range(LAYERS)]
        wanted = 0.0
        for layer in range(LAYERS):
            threshold = trainer.log_threshold[layer].detach().exp()
            wanted += 0.05 * share * torch.tanh(3 * lengths[layer] * features[layer]).sum().item() / 20
            wanted += 3e-6 * ((threshold - pre[layer]).clamp(min=0) * lengths[layer]).sum().item() / 20
        assert found.item() == pytest.approx(wanted, rel=1e-4)
        assert found > 0


def test_a_larger_penalty_leaves_fewer_features_active():
    l0 = []
    for penalty in (0.0, 0.03, 0.3):
        settings = TranscoderSettings(
            24, sparsity="jumprelu", penalty=penalty, steps=100, warm_up=10, lr=1e-2
        )
        l0.append(
            evaluate(
                train(settings, planted(512), batches(settings)).transcoders, *planted(800, seed=7)
            ).l0.sum()
        )
    assert l0[0] > 1.1 * l0[1] > 1.1 * 1.1 * l0[2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("sparsity", "rank_by", "least"),
    [("jumprelu", "writes", 4), ("batchtopk", "value", 4), ("batchtopk", "writes", 1)],
)
def test_dead_features_are_revived(kind: str, sparsity: str, rank_by: str, least: int):
    """Four of a layer that can never fire: resampled, they fire; left alone, they don't.

    What a resampled feature writes is small at first, so that ranked by it not all four get through at once.
    """
    fired = {}
    settings = TranscoderSettings(
        16, kind, sparsity, k=2, penalty=1e-3, steps=400, warm_up=10, rank_by=rank_by
    )
    for resample in (True, False):
        settings = replace(settings, resample=resample)
        trainer = Trainer(settings, *planted(512))
        data = list(batches(replace(settings, steps=130)))
        for x, y in data[:90]:
            trainer.step(x, y)
        with torch.no_grad():
            trainer.b_enc[1][:4] = -100
            trainer._fired[1, :4] = 0.1
        shares = [trainer.step(x, y).dead for x, y in data[90:]]
        assert shares[0] == pytest.approx(4 / 48) and (shares[-1] == 0) == resample
        density = evaluate(trainer.result(), *planted(1000, seed=7)).density
        fired[resample] = (density[1, :4] > 0).sum().item()
    assert fired[True] >= least and fired[False] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_resampling_changes_nothing_but_the_dead(kind: str):
    """They get the direction of an input, no bias, a short decoder in their own layer and none in later
    ones."""
    x, y = plain()
    trainer = Trainer(
        replace(STILL, kind=kind, steps=400, resample=True, init="random", normalise=False), x, y
    )
    trainer.step(x, y)
    with torch.no_grad():
        trainer.b_enc[1][:4] = -100
    before, trainer._done = trainer.result(), 99
    trainer._fired[1, :4] = 0.1
    trainer.step(x, y)
    after, others = trainer.result(), torch.ones(LAYERS, 16, dtype=torch.bool)
    others[1, :4] = False
    for name in ("W_enc", "b_enc"):
        one, other = (getattr(t, name).reshape(LAYERS, -1, 16).mT for t in (before, after))
        torch.testing.assert_close(other[others], one[others], rtol=0, atol=1e-6)
    for layer in range(LAYERS):
        one, other = (t.W_dec[layer][:, others[layer]] for t in (before, after))
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6)
    along = torch.nn.functional.normalize(x[1], dim=-1) @ after.W_enc[1][:, :4]
    torch.testing.assert_close(along.amax(dim=0), torch.ones(4), rtol=1e-4, atol=0)
    assert (after.b_enc[1, :4] == 0).all()
    torch.testing.assert_close(after.W_dec[1][0, :4].norm(dim=-1), torch.full((4,), 0.1))
    assert (after.W_dec[1][1:, :4] == 0).all() and not (before.W_dec[1][1:, :4] == 0).any()


def test_a_feature_counts_as_dead_after_some_150_steps():
    x, y = plain(16)
    trainer = Trainer(replace(STILL, steps=200), x, y)
    with torch.no_grad():
        trainer.b_enc[2][5] = -1e4
    dead = [trainer.step(x, y).dead for _ in range(200)]
    first = next(i for i, share in enumerate(dead) if share > 0)
    assert 140 < first < 160


def test_half_precision_of_products_changes_little():
    settings = replace(SMALL, steps=60, skip=True)
    errors = []
    for precision in (torch.float32, torch.bfloat16):
        trained = train(replace(settings, precision=precision), planted(256), batches(settings, size=64))
        errors.append(trained.history[-1].fvu)
        assert trained.transcoders.W_enc.dtype == torch.float32
    assert errors[1] == pytest.approx(errors[0], rel=0.1) and errors[0] != errors[1]


# --------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_planted_features_that_are_passed_on_are_found_by_a_clt(sparsity: str):
    """A third of the variance is what the best linear map explains; a PLT can't see earlier layers, a CLT
    can."""
    fresh, fits = planted(1000, seed=7), {}
    for kind in KINDS:
        settings = TranscoderSettings(
            24, kind, sparsity, k=2, penalty=1e-3, steps=250, warm_up=10, lr=6e-3, anneal=2
        )
        trained = train(settings, planted(512), batches(settings))
        fits[kind] = evaluate(trained.transcoders, *fresh)
        assert trained.history[-1].fvu < 0.8 * trained.history[0].fvu
    linear = linear_fvu(*fresh)
    assert (fits["clt"].fvu < 0.15).all() and (linear > 0.4).all()
    assert fits["plt"].fvu[0] < 0.15
    assert (fits["plt"].fvu[1:] > 3 * fits["clt"].fvu[1:]).all()


def test_planted_features_of_one_layer_are_found_by_a_plt():
    settings = TranscoderSettings(24, "plt", k=2, steps=250, warm_up=10, lr=6e-3, anneal=2)
    t = train(settings, planted(512), batches(settings, passed_on=False)).transcoders
    fresh = planted(1000, seed=7, passed_on=False)
    assert (evaluate(t, *fresh).fvu < 0.15).all() and (linear_fvu(*fresh) > 0.4).all()


# --------------------------------------------------------------------------------- seeds, and going on later


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_a_seed_decides_everything_and_the_global_one_nothing(sparsity: str):
    settings, state = replace(SMALL, sparsity=sparsity), torch.get_rng_state()
    first = train(settings, plain(), batches(settings))
    assert torch.equal(state, torch.get_rng_state())
    assert same(first.transcoders, train(settings, plain(), batches(settings)).transcoders)
    assert not same(
        first.transcoders, train(replace(settings, seed=1), plain(), batches(settings)).transcoders
    )
    assert len(first.history) == settings.steps


def test_what_is_trained_on_is_left_as_it_was():
    x, y = plain()
    kept = x.clone(), y.clone()
    train(SMALL, (x, y), [(x, y)] * SMALL.steps)
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])


def test_training_where_gradients_are_switched_off():
    wanted = train(SMALL, plain(), batches(SMALL)).transcoders
    with torch.no_grad():
        assert same(train(SMALL, plain(), batches(SMALL)).transcoders, wanted)


@pytest.mark.parametrize(
    ("kind", "sparsity", "skip"), [("clt", "batchtopk", False), ("plt", "jumprelu", True)]
)
def test_going_on_is_going_through(kind: str, sparsity: str, skip: bool):
    """Bit for bit, across a resampling, whose draws are part of the state."""
    settings = TranscoderSettings(16, kind, sparsity, k=2, skip=skip, steps=300, warm_up=10)
    data = list(batches(replace(settings, steps=110), size=32))
    through = Trainer(settings, *planted(128))
    for x, y in data[:95]:
        through.step(x, y)
    through._fired[1, :4] = 0.1
    with torch.no_grad():
        through.b_enc[1][:4] = -100
    state = through.state()
    kept = {name: value.clone() for name, value in state.items()}
    on = Trainer(
        replace(settings, seed=1), *planted(128, seed=3)
    )  # whatever these are: what counts is restored
    on.restore(state)
    for x, y in data[95:]:
        assert through.step(x, y) == on.step(x, y)
    assert same(through.result(), on.result())
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert on.result().b_enc[1, :4].min() > -50  # resampled, so that the draws mattered


def test_a_state_from_before_the_first_step():
    through = Trainer(SMALL, *plain())
    state = through.state()
    on = Trainer(replace(SMALL, seed=1), *plain(seed=3))
    on.step(*plain(seed=9))
    on.restore(state)
    for trainer in (through, on):
        for x, y in batches(replace(SMALL, steps=5)):
            trainer.step(x, y)
    assert same(through.result(), on.result())


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"features": 0}, "features is 0; it should be above 0"),
        ({"k": 0}, "k is 0; it should be above 0"),
        ({"k": 17}, "k is 17; with 16 features in a layer it should be at most that"),
        ({"k": math.nan}, "k is nan"),
        ({"c": 0.0}, "c is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"bandwidth": -0.1}, "bandwidth is -0.1"),
        ({"anneal": 0.5}, "anneal is 0.5"),
        ({"anneal": math.nan}, "anneal is nan"),
        ({"penalty": -1e-3}, "penalty -0.001; they should be at least 1 and 0"),
        ({"penalty": math.nan}, "penalty nan"),
        ({"kind": "sae"}, "kind is 'sae'; it should be clt or plt"),
        ({"sparsity": "topk"}, "sparsity is 'topk'; it should be batchtopk or jumprelu"),
        ({"rank_by": "norm"}, "rank_by is 'norm'; it should be writes or value"),
        ({"init": "zeros"}, "init is 'zeros'; it should be data or random"),
    ],
)
def test_settings_out_of_range(changed: dict, said: str, unchecked: None):
    refused(lambda: replace(SMALL, **changed), said)


def test_samples_that_cannot_be_trained_on(unchecked: None):
    x, y = plain()
    for bad_x, bad_y in ((x, y[:, :5]), (x[:2], y), (x, y[..., :3]), (x[:, :1], y[:, :1])):
        refused(lambda a=bad_x, b=bad_y: Trainer(SMALL, a, b), "x and y have shapes", "they should agree")
    for value in (math.nan, math.inf):
        for broken in (0, 1):
            given = [x.clone(), y.clone()]
            given[broken][2, 3, 4] = value
            refused(lambda given=given: Trainer(SMALL, *given), "x or y holds values that are not finite")


def test_nothing_to_return_and_too_few_batches():
    refused(lambda: Trainer(SMALL, *plain()).result(), "no step was made yet")
    refused(lambda: train(SMALL, plain(), [plain()] * 7), "batches ended after 7 steps; settings asks for 20")


def test_no_batch_is_taken_that_is_not_needed():
    given = iter([plain()] * 25)
    train(SMALL, plain(), given)
    assert len(list(given)) == 5


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_a_loss_that_is_not_finite(sparsity: str):
    trainer = Trainer(replace(SMALL, sparsity=sparsity), *plain())
    trainer.step(*plain())
    x, y = plain()
    y[0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="not finite at step 1; try a smaller lr than 0.003"):
        trainer.step(x, y)
