"""Attribution patching: the estimate is the derivative of the patch it stands for, in the run that is
edited."""

import dataclasses
from pathlib import Path

import pytest
import tiny_models
import torch

from mi_utils import models, patching
from mi_utils.patching.estimates import attribution

AXES = {"resid_pre": "position", "resid_mid": "position", "attn_out": "position", "mlp_out": "position"}
AXES |= dict.fromkeys(("z", "q", "k", "v", "pattern"), "head")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp(request.param)
    return models.load_model(str(tiny_models.save(getattr(tiny_models, request.param)(), folder)))


@pytest.fixture(scope="module")
def pair(model):
    """Five prompts and partners, which differ at one position; more than a backward pass takes in one test
    below."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 300, (5, 7), generator=generator)
    other = tokens.clone()
    other[:, 3] = torch.randint(2, 300, (5,), generator=generator)
    metric = patching.logit_difference(torch.arange(3, 8), torch.arange(30, 35))
    return *(patching.record(model, one, AXES) for one in (tokens, other)), metric


def a_step_towards(base: patching.Run, source: patching.Run, size: float) -> patching.Run:
    """The base run with every activation a small step towards the source's: what a gradient is about."""
    near = {
        place: value + size * (source.activations[place] - value) for place, value in base.activations.items()
    }
    return dataclasses.replace(source, activations=near)


@pytest.mark.parametrize("site", AXES)
def test_for_a_small_step_the_estimate_is_the_patch(model, pair, site):
    source, base, metric = pair
    near = a_step_towards(base, source, 0.01)
    true = patching.sweep(model, base, near, site, metric, by=AXES[site])
    estimate = attribution(model, base, near, {site: AXES[site]}, metric)[site]
    assert true.abs().max() > 1e-3
    assert (estimate - true).abs().max() < 0.05 * true.abs().max() + 1e-5


def test_the_gradient_is_that_of_the_edited_run(model, pair):
    source, base, metric = pair
    slopes = patching.gradients(model, base.tokens, ["mlp_out"], metric)
    estimate = attribution(model, base, source, {"mlp_out": "position"}, metric)["mlp_out"]
    for layer in range(model.cfg.n_layers):
        change = source["mlp_out", layer] - base["mlp_out", layer]
        assert torch.allclose(estimate[layer], (change * slopes["mlp_out", layer]).sum(-1).T, atol=1e-5)


def test_all_sites_at_once_are_what_each_is_alone(model, pair):
    source, base, metric = pair
    together = attribution(model, base, source, AXES, metric)
    assert list(together) == list(AXES)
    for site, by in AXES.items():
        assert torch.allclose(
            together[site], attribution(model, base, source, {site: by}, metric)[site], atol=1e-5
        )


def test_on_the_way_the_whole_change_is_found(model, pair):
    """Integrated gradients are complete: over the embedding they sum to the change of the metric."""
    source, base, metric = pair
    whole = metric(source.logits) - metric(base.logits)
    one, many = (
        attribution(model, base, source, {"resid_pre": "position"}, metric, steps=steps)["resid_pre"][0].sum(
            0
        )
        for steps in (0, 100)
    )
    assert torch.allclose(many, whole, atol=0.02 * float(whole.abs().max()))
    assert (one - whole).abs().max() > 5 * (many - whole).abs().max()


def test_one_step_takes_the_gradient_half_way(model, pair):
    source, base, metric = pair
    change = source["resid_pre", 0] - base["resid_pre", 0]
    half_way = base["resid_pre", 0] + change / 2
    slope = patching.gradients(model, base.tokens, ["resid_pre"], metric, half_way)["resid_pre", 0]
    estimate = attribution(model, base, source, {"resid_pre": "position"}, metric, steps=1)["resid_pre"][0]
    assert torch.allclose(estimate, (change * slope).sum(-1).T, atol=1e-5)
    assert (
        estimate - attribution(model, base, source, {"resid_pre": "position"}, metric)["resid_pre"][0]
    ).any()


def test_few_at_once_changes_nothing(model, pair, monkeypatch):
    source, base, metric = pair
    before = attribution(model, base, source, {"z": "head"}, metric, steps=2)["z"]
    monkeypatch.setattr(patching.estimates, "PROMPTS_AT_ONCE", 2)
    assert torch.allclose(
        before, attribution(model, base, source, {"z": "head"}, metric, steps=2)["z"], atol=1e-5
    )


def test_gradients_may_be_switched_off_around_it(model, pair):
    source, base, metric = pair
    with torch.no_grad():
        estimate = attribution(model, base, source, {"z": "head"}, metric)["z"]
    assert not estimate.requires_grad and estimate.abs().max() > 1e-3
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("sites", "steps", "sentence"),
    [
        ({}, 0, "sites is empty"),
        ({"z": "head"}, -1, "steps is -1"),
        ({"resid_pre": "head"}, 0, "which has no heads"),
        ({"mlp_pre": "position"}, 0, "was not recorded"),
    ],
)
def test_bad_input(model, pair, sites, steps, sentence):
    source, base, metric = pair
    with pytest.raises(ValueError, match=sentence):
        attribution(model, base, source, sites, metric, steps=steps)
