"""What notebook 04 promises besides its claims: what is derived in it by hand agrees with the package."""

from functools import partial

import pytest
import torch
import worked

from mi_utils import models, patching
from mi_utils.patching.engine import Patch
from mi_workshop import sources

NOTEBOOK = sources.read(sources.find("04")[0])
solution = partial(worked.solution, NOTEBOOK, "04")
SITES = ("attn_out", "mlp_out", "z", "resid_post")


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def pair(model):
    """Three prompts and their partners, which differ at one position: clean run, corrupted run, metric."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 300, (3, 8), generator=generator)
    other = tokens.clone()
    other[:, 4] = torch.randint(2, 300, (3,), generator=generator)
    metric = patching.logit_difference(torch.tensor([3, 4, 5]), torch.tensor([30, 40, 50]))
    return *(patching.record(model, one, SITES) for one in (tokens, other)), metric


def test_a_patched_position_by_hand_is_the_engine_s(model, pair):
    clean, corrupted, metric = pair
    by_hand = solution("patch_position")["patch_position"](corrupted["mlp_out", 0], clean["mlp_out", 0], 4)
    patches = [[Patch("mlp_out", 0, by_hand)], [Patch("mlp_out", 0, clean["mlp_out", 0], 4)]]
    one, other = patching.run_patched(model, corrupted, patches, metric)
    assert torch.allclose(one, other, atol=1e-5) and not torch.allclose(
        one, metric(corrupted.logits), atol=1e-3
    )


def test_recovery_by_hand_is_the_package_s(model, pair):
    clean, corrupted, metric = pair
    by_hand = solution("recovery")["recovery"]
    ends = metric(clean.logits), metric(corrupted.logits)
    patched = ends[1] + patching.sweep(model, corrupted, clean, "attn_out", metric)
    assert torch.allclose(by_hand(patched, *ends), patching.recovery(patched, *ends))
    for recovery in (by_hand, patching.recovery):
        with pytest.raises(ValueError):
            recovery(patched, ends[0], ends[0])


def test_attribution_by_hand_is_the_package_s(model, pair):
    clean, corrupted, metric = pair
    gradients = {
        name: patching.gradients(model, run.tokens, ["mlp_out"], metric)["mlp_out", 0]
        for name, run in (("clean", clean), ("corrupted", corrupted))
    }
    by_hand = solution("attribute")["attribute"](gradients, clean["mlp_out", 0], corrupted["mlp_out", 0])
    found = patching.attribution(model, corrupted, clean, {"mlp_out": "position"}, metric)["mlp_out"]
    assert torch.allclose(by_hand, found[0].T, atol=1e-5)


def test_integrated_gradients_by_hand_are_the_package_s(model, pair):
    """On the embedding itself, where the way of the package is the activation's own."""
    clean, corrupted, metric = pair

    def gradient(embedding):
        return patching.gradients(model, corrupted.tokens, ["resid_pre"], metric, embedding)["resid_pre", 0]

    by_hand = solution("integrated")["integrated"](
        gradient, clean["resid_pre", 0], corrupted["resid_pre", 0], 4
    )
    sites = {"resid_pre": "position"}
    found = patching.attribution(model, corrupted, clean, sites, metric, steps=4)["resid_pre"]
    assert torch.allclose(by_hand, found[0].T, atol=1e-5)


def test_the_effect_by_hand_is_the_change_of_the_metric(pair):
    clean, corrupted, metric = pair
    effect = solution("mend_the_metric")["effect"]
    answer, wrong = torch.tensor([3, 4, 5]), torch.tensor([30, 40, 50])
    by_hand = effect(clean.logits, corrupted.logits, answer, wrong)
    assert torch.allclose(by_hand, metric(clean.logits) - metric(corrupted.logits), atol=1e-5)


@torch.no_grad()
def test_direct_effects_by_hand_add_up_to_the_logit(model, pair):
    """Of all parts of the last stream, centred where the model's norm is a LayerNorm, with its epsilon left
    out."""
    clean, _, _ = pair
    last = model.cfg.n_layers - 1
    parts = [
        clean["resid_pre", 0],
        *(clean[site, i] for i in range(last + 1) for site in ("attn_out", "mlp_out")),
    ]
    final = models.centred(model, clean["resid_post", last][:, -1])
    direction = model.W_U[:, torch.tensor([3, 4, 5])].T
    by_hand = solution("direct_effect")["direct_effect"]
    shares = sum(by_hand(models.centred(model, part[:, -1]), final, direction) for part in parts)
    logits = (
        clean.logits[torch.arange(3), torch.tensor([3, 4, 5])] - model.unembed.b_U[torch.tensor([3, 4, 5])]
    )
    assert torch.allclose(shares, logits, atol=1e-3 * float(logits.abs().max()) + 1e-3)
    scale = models.norm_scale(model, clean["resid_post", last][:, -1])
    assert torch.allclose((final * direction).sum(-1) / scale[:, 0], logits, atol=1e-4)
