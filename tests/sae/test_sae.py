"""Encoding, decoding and the measures of an SAE against the formulas written out."""

import itertools
import math

import pytest
import torch
from sentences import assert_one_sentence
from torch import Tensor
from torch.nn import functional as F

from mi_utils.sae import sae as saes
from mi_utils.sae.sae import SAE

D_IN, D_SAE, K = 6, 10, 3
ARCHITECTURES = ("standard", "topk", "jumprelu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parts(*, d_in: int = D_IN, d_sae: int = D_SAE) -> dict[str, Tensor]:
    """Encoder and decoder unrelated, all biases at work."""
    return dict(
        W_enc=noise(d_in, d_sae, seed=1),
        b_enc=noise(d_sae, seed=2),
        W_dec=F.normalize(noise(d_sae, d_in, seed=3), dim=-1),
        b_dec=noise(d_in, seed=4),
    )


def made_up(architecture: str = "standard", **more) -> SAE:
    needed = {"topk": {"k": K}, "jumprelu": {"threshold": noise(D_SAE, seed=5).abs()}}.get(architecture, {})
    return SAE(**(parts() | needed | more), architecture=architecture)


def identity(d_in: int = D_IN, shift: float = 0.0) -> SAE:
    """Reconstructs anything: a latent for each direction and one for its opposite."""
    basis = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
    return SAE(basis.T.contiguous(), torch.zeros(2 * d_in), basis, torch.full((d_in,), shift))


def latents_by_hand(sae: SAE, x: Tensor) -> Tensor:
    """One token, one latent at a time."""
    result = torch.zeros(len(x), sae.d_sae)
    for row, token in enumerate(x):
        pre = [float((token - sae.b_dec) @ sae.W_enc[:, j] + sae.b_enc[j]) for j in range(sae.d_sae)]
        best = sorted(range(sae.d_sae), key=lambda j: -pre[j])[: sae.k]
        for j, value in enumerate(pre):
            allowed = {
                "standard": True,
                "topk": j in best,
                "jumprelu": sae.architecture == "jumprelu" and value > float(sae.threshold[j]),
            }[sae.architecture]
            result[row, j] = max(value, 0.0) if allowed else 0.0
    return result


def refused(call, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said)


# ------------------------------------------------------------------------------------------- encode, decode


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_latents_and_reconstruction_are_those_of_the_formula(architecture: str):
    sae, x = made_up(architecture), 2 * noise(40, D_IN)
    latents = latents_by_hand(sae, x)
    assert 0 < (latents > 0).float().mean() < 0.9
    torch.testing.assert_close(sae.encode(x), latents)
    rebuilt = sae.b_dec + sum(latents[:, j, None] * sae.W_dec[j] for j in range(D_SAE))
    torch.testing.assert_close(sae.decode(latents), rebuilt)
    torch.testing.assert_close(sae.reconstruct(x), rebuilt)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_leading_dimensions_make_no_difference(architecture: str):
    sae, x = made_up(architecture), noise(2, 3, 4, D_IN)
    assert sae.encode(x).shape == (2, 3, 4, D_SAE) and sae.reconstruct(x).shape == x.shape
    torch.testing.assert_close(sae.encode(x).flatten(0, 2), sae.encode(x.flatten(0, 2)))
    torch.testing.assert_close(sae.reconstruct(x).flatten(0, 2), sae.reconstruct(x.flatten(0, 2)))
    torch.testing.assert_close(sae.encode(x[0, 0, 0]), sae.encode(x)[0, 0, 0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rows", [1, 511, 512, 513, 1300])
def test_reconstruction_in_pieces_is_that_of_the_whole(rows: int, architecture: str):
    sae, x = made_up(architecture), noise(rows, D_IN)
    torch.testing.assert_close(sae.reconstruct(x), sae.decode(sae.encode(x)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_no_activations(shape: tuple[int, ...], architecture: str):
    sae, x = made_up(architecture), torch.zeros(*shape, D_IN)
    assert sae.encode(x).shape == (*shape, D_SAE)
    assert sae.reconstruct(x).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_activations_are_read_in_the_precision_of_the_weights(dtype: torch.dtype):
    sae, x = made_up(), noise(20, D_IN).to(dtype)
    torch.testing.assert_close(sae.encode(x), sae.encode(x.float()), rtol=0, atol=0)
    assert sae.reconstruct(x).dtype == torch.float32
    assert saes.evaluate(sae, x).fvu == pytest.approx(saes.evaluate(sae, x.float()).fvu)


def test_topk_with_ties_keeps_k():
    kept = saes.keep_top(torch.tensor([[2.0, 1.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0]]), 2)
    assert (kept > 0).sum(dim=1).tolist() == [2, 2]
    assert kept.sum(dim=1).tolist() == [3.0, 10.0] and kept[0, 0] == 2


def test_topk_with_fewer_than_k_positive_keeps_only_those():
    pre = torch.tensor([[-1.0, 0.5, -2.0, 3.0], [-1.0, -2.0, -3.0, -4.0]])
    assert saes.keep_top(pre, 3).tolist() == [[0.0, 0.5, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]]


def test_topk_of_all_is_relu():
    x = noise(30, D_IN)
    torch.testing.assert_close(made_up("topk", k=D_SAE).encode(x), made_up().encode(x))


def test_a_threshold_is_passed_only_from_above_and_never_by_negatives():
    sae = SAE(
        torch.eye(3),
        torch.zeros(3),
        torch.eye(3),
        torch.zeros(3),
        "jumprelu",
        None,
        torch.tensor([1, 0.5, -1]),
    )
    x = torch.tensor([[1.0, 0.5, -0.5], [1.25, 0.75, 0.5]])
    assert sae.encode(x).tolist() == [[0.0, 0.0, 0.0], [1.25, 0.75, 0.5]]


def test_names_and_sizes():
    sae = made_up("topk", model="tiny", hook="blocks.1.hook_resid_pre")
    assert (sae.d_in, sae.d_sae) == (D_IN, D_SAE)
    assert repr(sae) == "SAE(TopK 3, 6 -> 10 latents at blocks.1.hook_resid_pre of tiny)"
    assert repr(made_up()) == "SAE(ReLU, 6 -> 10 latents)" and "JumpReLU" in repr(made_up("jumprelu"))


# ----------------------------------------------------------------------------------------------- how well it
# does


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tokens", [2, 512, 1100])
def test_fit_is_the_dense_computation(tokens: int, architecture: str, dtype: torch.dtype):
    sae, x = made_up(architecture), (noise(tokens, D_IN) * torch.arange(1, 7) + 3).to(dtype)
    fit, exact = saes.evaluate(sae, x), x.double()
    latents = latents_by_hand(sae, x.float())
    error = exact - (latents.double() @ sae.W_dec.double() + sae.b_dec)
    assert fit.fvu == pytest.approx(
        float(error.square().sum() / (exact - exact.mean(dim=0)).square().sum()), rel=1e-4
    )
    assert fit.l0 == pytest.approx((latents > 0).sum().item() / tokens)
    torch.testing.assert_close(fit.density, (latents > 0).float().mean(dim=0))
    assert fit.dead == pytest.approx((latents > 0).logical_not().all(dim=0).float().mean().item())


def test_fraction_of_variance_unexplained_is_zero_when_perfect_and_one_for_the_mean():
    x = noise(700, D_IN) + 50
    assert saes.evaluate(identity(shift=50.0), x).fvu == pytest.approx(0, abs=1e-9)
    silent = SAE(torch.zeros(D_IN, 4), -torch.ones(4), torch.zeros(4, D_IN), x.mean(dim=0))
    fit = saes.evaluate(silent, x)
    assert fit.fvu == pytest.approx(1, rel=1e-4)
    assert (fit.l0, fit.dead, fit.dense) == (0, 1, 0)


def test_the_mean_of_half_precision_is_not_taken_in_it():
    """At a hundred, bfloat16 has steps of a half: a mean rounded to them would enlarge the variance."""
    x = (noise(2_000, D_IN) + 100.2).bfloat16()
    assert saes.evaluate(made_up(), x).fvu == pytest.approx(saes.evaluate(made_up(), x.float()).fvu, rel=1e-3)


def test_dead_and_dense_latents_are_counted():
    """Latent 0 is never active, 1 on one token in 20, 2 on exactly a tenth, 3 on three tenths, 4 always."""
    x = torch.zeros(20, 5)
    for latent, count in enumerate((0, 1, 2, 6, 20)):
        x[:count, latent] = 1.0
    fit = saes.evaluate(SAE(torch.eye(5), torch.zeros(5), torch.eye(5), torch.zeros(5)), x)
    torch.testing.assert_close(fit.density, torch.tensor([0, 0.05, 0.1, 0.3, 1.0]))
    assert fit.l0 == pytest.approx(29 / 20)
    assert (fit.dead, fit.dense) == (pytest.approx(0.2), pytest.approx(0.4))


def test_evaluating_leaves_no_graph():
    fit = saes.evaluate(made_up(b_enc=torch.zeros(D_SAE, requires_grad=True)), noise(9, D_IN))
    assert not fit.density.requires_grad and isinstance(fit.fvu, float)


def test_cosines_of_rows():
    a, b = noise(4, 5, seed=1), noise(3, 5, seed=2)
    a[2] = 0
    wanted = [[float(r @ s / (r.norm() * s.norm())) if r.any() else 0.0 for s in b] for r in a]
    torch.testing.assert_close(saes.cosines(a, b), torch.tensor(wanted))


def test_mmcs_is_a_mean_over_features():
    features = torch.eye(3)
    dictionary = torch.tensor([[2.0, 0, 0], [3.0, 4.0, 0], [-1.0, 0, 0], [0, 0, -1.0]])
    assert saes.mmcs(dictionary, features) == pytest.approx((1 + 0.8 + 0) / 3)
    assert saes.mmcs(features, dictionary) == pytest.approx((1 + 0.8 + 0 + 0) / 4)


@pytest.mark.parametrize("seed", range(5))
def test_matching_is_the_best_of_all_permutations(seed: int):
    a, b = noise(4, 3, seed=seed), noise(4, 3, seed=seed + 100)
    similar = F.cosine_similarity(a[:, None], b[None], dim=-1)
    best = max(itertools.permutations(range(4)), key=lambda p: sum(float(similar[i, p[i]]) for i in range(4)))
    pairs, values = saes.match(a, b)
    assert pairs.tolist() == [[i, best[i]] for i in range(4)]
    torch.testing.assert_close(values, torch.stack([similar[i, best[i]] for i in range(4)]))


@pytest.mark.parametrize("sizes", [(2, 5), (5, 2)])
def test_matching_of_unequal_numbers(sizes: tuple[int, int]):
    a, b = noise(sizes[0], 7, seed=1), noise(sizes[1], 7, seed=2)
    similar = F.cosine_similarity(a[:, None], b[None], dim=-1)
    pairs, values = saes.match(a, b)
    assert pairs.shape == (2, 2) and len(set(pairs[:, 0].tolist())) == len(set(pairs[:, 1].tolist())) == 2
    short = similar if sizes[0] == 2 else similar.T
    best = max(float(short[0, i] + short[1, j]) for i, j in itertools.permutations(range(5), 2))
    assert values.sum().item() == pytest.approx(best, abs=1e-6)
    torch.testing.assert_close(values, similar[pairs[:, 0], pairs[:, 1]])


# ------------------------------------------------------------------------------------------------------ bad
# input


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("call", [SAE.encode, SAE.reconstruct, saes.evaluate])
def test_activations_that_do_not_fit(call, architecture: str, unchecked: None):
    sae, broken = made_up(architecture), noise(4, D_IN)
    refused(lambda: call(sae, noise(4, D_IN + 1)), "x has width 7", "width 6")
    for value in (math.nan, math.inf, -math.inf):
        broken[3, 2] = value
        refused(lambda: call(sae, broken), "x holds values that are not finite")


def test_not_a_number_late_in_the_tokens():
    x = noise(2000, D_IN)
    x[1999, 5] = math.nan
    refused(lambda: saes.evaluate(made_up(), x), "not finite")


def test_evaluating_on_too_little():
    for count in (0, 1):
        refused(
            lambda count=count: saes.evaluate(made_up(), noise(count, D_IN)),
            f"x has {count} tokens",
            "at least 2",
        )
    refused(lambda: saes.evaluate(made_up(), torch.ones(5, D_IN)), "x is the same for all tokens")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"b_enc": torch.zeros(9)}, ("b_enc has shape (9,)", "(10,)")),
        ({"W_dec": torch.zeros(6, 10)}, ("W_dec has shape (6, 10)", "(10, 6)")),
        ({"b_dec": torch.zeros(10)}, ("b_dec has shape (10,)", "(6,)")),
        ({"threshold": torch.zeros(1), "architecture": "jumprelu"}, ("threshold has shape (1,)", "(10,)")),
        ({"W_enc": torch.full((6, 10), math.nan)}, ("W_enc", "not finite")),
        ({"b_enc": torch.full((10,), -math.inf)}, ("b_enc", "not finite")),
        ({"W_dec": torch.full((10, 6), math.inf)}, ("W_dec", "not finite")),
        ({"b_dec": torch.full((6,), math.nan)}, ("b_dec", "not finite")),
        ({"threshold": torch.full((10,), math.inf), "architecture": "jumprelu"}, ("threshold", "not finite")),
        ({"architecture": "gated"}, ("architecture is 'gated'", "standard, topk or jumprelu")),
        ({"architecture": "jumprelu"}, ("threshold is missing",)),
        ({"architecture": "topk"}, ("k is None", "from 1 to 10")),
        ({"architecture": "topk", "k": 0}, ("k is 0", "from 1 to 10")),
        ({"architecture": "topk", "k": 11}, ("k is 11", "10 latents")),
    ],
)
def test_parts_that_do_not_make_an_sae(changed: dict, said: tuple[str, ...], unchecked: None):
    refused(lambda: SAE(**(parts() | changed)), *said)


@pytest.mark.parametrize("latent", [-1, D_SAE, 4_608, True])
def test_latents_that_do_not_exist(latent: int):
    refused(lambda: made_up().check_latent(latent), f"latent is {latent}", "latents 0 to 9")


def test_latents_that_exist():
    assert [made_up().check_latent(latent) for latent in (0, 9)] == [0, 9]


@pytest.mark.parametrize("k", [1, D_SAE])
def test_smallest_and_largest_k(k: int):
    assert (made_up("topk", k=k).encode(noise(50, D_IN) + 9) > 0).sum(dim=1).max() <= k


def test_an_sae_for_another_model_hook_point_or_width(llama_model, gpt2_model):
    hook, name = "blocks.1.hook_resid_pre", llama_model.cfg.model_name
    saes.check_fits(llama_model, SAE(**parts(d_in=32), model=name, hook=hook))
    saes.check_fits(gpt2_model, SAE(**parts(d_in=32), hook=hook))
    other = SAE(**parts(d_in=32), model=name, hook=hook)
    refused(
        lambda: saes.check_fits(gpt2_model, other),
        f"trained on {name}",
        f"the model is {gpt2_model.cfg.model_name}",
    )
    for wrong in ("blocks.2.hook_resid_pre", "", "<b>"):
        sae = SAE(**parts(d_in=32), model=name, hook=wrong)
        refused(lambda sae=sae, wrong=wrong: saes.check_fits(llama_model, sae), f"sae reads {wrong!r}", name)
    narrow = SAE(**parts(), model=name, hook=hook)
    refused(lambda: saes.check_fits(llama_model, narrow), "width 6", f"{name} has 32")
