"""The losses of SAE training: their values and gradients against plain autograd, and the SAE they stand
for."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mi_utils import sae
from mi_utils.sae.training import SAESettings

NAMES = ("encoder", "decoder", "b_enc", "b_dec", "log_threshold")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_weights(kind: str, *, d_in: int = 6, d_sae: int = 12, **more) -> sae.training._Weights:
    """Encoder and decoder apart, all biases and thresholds at work."""
    needed = {"k": 3} if "topk" in kind else {"sparsity": 0.7}
    settings = SAESettings(d_sae, kind, **({"bandwidth": 0.5} | needed | more))
    weights = sae.training._Weights(d_in, settings, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for i, name in enumerate(("encoder", "b_enc", "b_dec", "log_threshold")):
            value = getattr(weights, name)
            value += 0.3 * drawn(*value.shape, seed=i + 1)
    return weights


def gradients(weights: sae.training._Weights, batch: Tensor) -> dict[str, Tensor]:
    loss = weights.loss(batch)[2]
    names = NAMES if weights.settings.kind == "jumprelu" else NAMES[:4]
    return dict(
        zip(names, torch.autograd.grad(loss, [getattr(weights, name) for name in names]), strict=True)
    )


def dense_loss(weights: sae.training._Weights, batch: Tensor) -> Tensor:
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


@pytest.mark.parametrize("dead", [(), (2,), (1, 4, 5, 7, 8)])
@pytest.mark.parametrize("k", [3, 9])
@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_gradients_are_those_of_the_dense_computation(kind: str, k: int, dead: tuple[int, ...]):
    """All four parameters, with and without the auxiliary loss, with fewer than ``k`` positive, batch after
    batch."""
    weights = some_weights(kind, k=k, aux=0.25, dead_after=1_000)
    weights.silent[list(dead)] = 5_000.0
    weights._watch = lambda active, tokens: None  # else those that are active now would not count as dead
    for seed, rows in enumerate((40, 40, 17)):
        batch = drawn(rows, 6, seed=seed)
        wanted_loss = dense_loss(weights, batch)
        wanted = torch.autograd.grad(wanted_loss, [getattr(weights, name) for name in NAMES[:4]])
        torch.testing.assert_close(weights.loss(batch)[2], wanted_loss)
        for name, gradient in zip(NAMES[:4], wanted, strict=True):
            assert gradient.abs().max() > 1e-3
            torch.testing.assert_close(
                gradients(weights, batch)[name], gradient, rtol=1e-4, atol=1e-5, msg=name
            )


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
        torch.testing.assert_close(
            loss, error.square().sum(dim=1).mean() + 0.7 * (pre > threshold).sum() / 60
        )
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
    sae.Step.apply(pre, threshold, 0.2).sum().backward()
    assert threshold.grad.item() == pytest.approx(-100_000, rel=1e-3)
    threshold.grad = None
    sae.Jump.apply(pre, threshold, 0.2).sum().backward()  # sum of pre above the threshold
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
        assert (
            moved[dead].flatten(1).abs().amax(dim=1).min() > 1e-4
            if name != "b_enc"
            else moved[dead].abs().min() > 0
        )


def test_the_auxiliary_loss_brings_back_a_latent_that_is_outranked():
    """Three features and three latents, of which TopK never picks the third: the others' biases outrank
    it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.eye(8)[torch.randint(3, (600,), generator=generator)]

    def last_error(aux: float) -> tuple[float, bool]:
        settings = SAESettings(
            3, "topk", k=1, aux=aux, dead_after=300, lr=1e-2, warm_up=0, steps=100, batch=100
        )
        weights = sae.training._Weights(8, settings, generator)
        with torch.no_grad():
            rows = torch.eye(8)[:3].clone()
            rows[2] = F.normalize(torch.tensor([0, 0, 1.0, 0.5, 0, 0, 0, 0]), dim=0)
            weights.decoder.copy_(rows)
            weights.encoder.copy_(rows * torch.tensor([1.0, 1.0, 0.3])[:, None])
            weights.b_enc.copy_(torch.tensor([1.0, 1.0, 0.0]))
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


def test_projected_gradient_has_nothing_along_the_rows():
    weights = some_weights("topk")
    weights.decoder.grad = drawn(12, 6, seed=7)
    along = (weights.decoder.grad * weights.decoder).sum(dim=1, keepdim=True) * weights.decoder
    wanted = (weights.decoder.grad - along).detach()
    weights.project_gradient()
    torch.testing.assert_close(weights.decoder.grad, wanted)
    assert (weights.decoder.grad * weights.decoder).sum(dim=1).abs().max() < 1e-5 < along.abs().max()


@pytest.mark.parametrize("kind", ["standard", "topk", "batchtopk", "jumprelu"])
def test_centring_and_scaling_are_folded_into_the_sae(kind: str):
    weights, mean, scale = some_weights(kind), drawn(6, seed=8) * 10, 7.5
    x = drawn(90, 6, seed=9) * scale + mean
    with torch.no_grad():
        error, active, _ = weights.loss((x - mean) / scale)
    weights.cut *= (
        0.9999  # the batch's last latent is to pass in the SAE too, which asks for more than the threshold
    )
    sae = weights.as_sae(mean, scale, "tiny", "blocks.0.hook_resid_pre")
    torch.testing.assert_close(x - sae.reconstruct(x), error * scale, rtol=1e-3, atol=1e-3)
    assert (sae.encode(x) > 0).sum().item() / 90 == pytest.approx(active, abs=0.02)
    assert (sae.model, sae.hook) == ("tiny", "blocks.0.hook_resid_pre")
    assert sae.architecture == ("jumprelu" if kind == "batchtopk" else kind)
    assert (sae.k, sae.threshold is None) == (3 if kind == "topk" else None, kind in ("standard", "topk"))
