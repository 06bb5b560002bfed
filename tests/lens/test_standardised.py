"""A lens in the making reads standardised inputs, and is the lens that it hands out."""

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import lens
from mi_utils.lens.standardised import Standardised


def made_up(tokens: int = 400, *, seed: int = 0) -> Tensor:
    """Streams whose components differ in scale and mean, and depend on one another."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(3, tokens, 32, generator=generator)
    mixed = mixed @ (torch.eye(32) + 0.1 * torch.randn(32, 32, generator=generator))
    return mixed * torch.logspace(-0.5, 0.5, 32) + 2 * torch.randn(32, generator=generator)


@pytest.fixture
def start(llama_model: TransformerBridge) -> lens.Lens:
    return lens.fit_ridge(llama_model, made_up())


def same_lens(one: lens.Lens, other: lens.Lens, **tolerance: float) -> None:
    assert one.model == other.model
    torch.testing.assert_close(one.matrices, other.matrices, **tolerance)
    torch.testing.assert_close(one.biases, other.biases, **tolerance)


def test_it_starts_as_the_start(llama_model: TransformerBridge, start: lens.Lens):
    streams = made_up(seed=2)
    for given in (lens.logit_lens(llama_model), start):
        making = Standardised(given, streams[:-1])
        same_lens(making.lens(), given, atol=2e-5, rtol=1e-4)
        translated = making.translate_all(streams[:-1])
        for layer in range(2):
            expected = given.translate(streams[layer], layer)
            torch.testing.assert_close(translated[layer], expected, atol=1e-3, rtol=1e-3)


def test_it_is_the_lens_that_it_hands_out(start: lens.Lens):
    """After it moved, too: on tokens it was not made with."""
    making, others = Standardised(start, made_up()[:-1]), made_up(seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        making.matrices += 0.3 * torch.randn(making.matrices.shape, generator=generator)
        making.biases += 0.7
    given, translated = making.lens(), making.translate_all(others[:-1])
    for layer in range(2):
        expected = given.translate(others[layer], layer)
        torch.testing.assert_close(expected, translated[layer], atol=1e-2, rtol=1e-3)


def test_steps_are_in_units_of_the_scale(start: lens.Lens):
    """Inputs a hundred times larger or ten times smaller at one component: the same numbers to learn."""
    streams, factor = made_up(), torch.ones(32)
    factor[5], factor[9] = 100.0, 0.1
    scaled = lens.Lens(start.matrices / factor[:, None], start.biases, start.model)
    one, other = Standardised(start, streams[:-1]), Standardised(scaled, streams[:-1] * factor)
    torch.testing.assert_close(one.matrices, other.matrices, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(one.biases, other.biases, atol=1e-3, rtol=1e-3)
    written = torch.stack([start.translate(streams[layer], layer) for layer in range(2)])
    torch.testing.assert_close(one.scale.flatten(), written.square().mean(dim=(1, 2)).sqrt())


def test_a_component_that_never_varies_is_not_blown_up(llama_model: TransformerBridge):
    streams = made_up()
    streams[:, :, 3] = 2.0
    making = Standardised(lens.logit_lens(llama_model), streams[:-1])
    assert making.lens().matrices.isfinite().all()
    other = streams[:-1].clone()
    other[..., 3] += 1e-3
    moved = making.translate_all(other) - making.translate_all(streams[:-1])
    assert moved.isfinite().all() and moved.abs().max() < 1
