"""Splicing an SAE in and editing single latents, against the same computed plainly."""

import math

import pytest
import torch
from sentences import assert_one_sentence
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.model_bridge import TransformerBridge

from mi_utils.models.load import load_model
from mi_utils.sae import causal as sae_causal
from mi_utils.sae.causal import Splice
from mi_utils.sae.sae import SAE

HOOK, MASSIVE = "blocks.1.hook_resid_pre", 5
ROWS, POS, WIDTH, LATENTS = 5, 8, 32, 64


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_gpt2"])
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    """A model in which one token's embedding is a hundred times longer than the others."""
    found = load_model(str(request.getfixturevalue(request.param)))
    with torch.no_grad():
        for name, value in found.original_model.named_parameters():
            if "embed_tokens" in name or "wte" in name:
                value[MASSIVE] *= 100
    return found


def some_tokens(*massive: tuple[int, int]) -> Tensor:
    tokens = torch.randint(6, 316, (ROWS, POS), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    for place in massive:
        tokens[place] = MASSIVE
    return tokens


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made_up(model: TransformerBridge, architecture: str = "topk", *, hook: str = HOOK) -> SAE:
    return SAE(
        noise(WIDTH, LATENTS, seed=1),
        noise(LATENTS, seed=2),
        F.normalize(noise(LATENTS, WIDTH, seed=3), dim=-1),
        noise(WIDTH, seed=4),
        architecture,
        6 if architecture == "topk" else None,
        None,
        model.cfg.model_name,
        hook,
    )


def identity(model: TransformerBridge) -> SAE:
    basis = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    return SAE(
        basis.T.contiguous(),
        torch.zeros(2 * WIDTH),
        basis,
        torch.zeros(WIDTH),
        "standard",
        None,
        None,
        model.cfg.model_name,
        HOOK,
    )


@torch.no_grad()
def stream_of(model: TransformerBridge, tokens: Tensor) -> Tensor:
    return model.run_with_cache(tokens, names_filter=lambda name: name == HOOK)[1][HOOK]


@torch.no_grad()
def run_with(model: TransformerBridge, tokens: Tensor, stream: Tensor) -> Tensor:
    """Logits with the whole stream given."""
    return model.run_with_hooks(tokens, return_type="logits", fwd_hooks=[(HOOK, lambda value, hook: stream)])


def refused(call, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said)


# ----------------------------------------------------------------------------------------------------
# splicing in


def plainly(model: TransformerBridge, sae: SAE, tokens: Tensor, protect: bool) -> dict[str, float]:
    stream = stream_of(model, tokens)
    open_to_edits = torch.ones(tokens.shape, dtype=torch.bool)
    if protect:
        lengths = stream.norm(dim=-1)
        open_to_edits = lengths <= 5 * lengths[:, 1:].median()
        open_to_edits[:, 0] = False
    mean = stream[open_to_edits].mean(dim=0)
    replaced = {
        "spliced": sae.decode(sae.encode(stream)),
        "zero": torch.zeros_like(stream),
        "mean": mean.expand_as(stream),
    }
    with torch.no_grad():
        clean, wanted = model(tokens), {}
    target = tokens[:, 1:].flatten()
    wanted["clean"] = F.cross_entropy(clean[:, :-1].flatten(0, 1), target).item()
    for name, other in replaced.items():
        logits = run_with(model, tokens, torch.where(open_to_edits[..., None], other, stream))
        p, q = (x[:, :-1].flatten(0, 1).log_softmax(-1) for x in (clean, logits))
        wanted[name] = F.cross_entropy(q, target).item()
        wanted[f"kl_{name}"] = F.kl_div(q, p, log_target=True, reduction="batchmean").item()
    return wanted


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("protect", [True, False])
def test_splicing_is_what_it_says(protect: bool, batch_size: int, model: TransformerBridge):
    sae, tokens = made_up(model), some_tokens((1, 4), (4, 7), (2, 1))
    found = vars(sae_causal.evaluate_splice(model, sae, tokens, protect=protect, batch_size=batch_size))
    wanted = plainly(model, sae, tokens, protect)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert min(found["kl_spliced"], found["kl_zero"], found["kl_mean"]) > 0.01


def test_protection_changes_the_ablations_too(model: TransformerBridge):
    sae, tokens = made_up(model), some_tokens((1, 4))
    on, off = (vars(sae_causal.evaluate_splice(model, sae, tokens, protect=p)) for p in (True, False))
    assert on["clean"] == pytest.approx(off["clean"])
    for name in ("kl_spliced", "kl_zero", "kl_mean"):
        assert on[name] != pytest.approx(off[name], rel=1e-3), name


@pytest.mark.parametrize("protect", [True, False])
def test_a_perfect_sae_recovers_everything(protect: bool, model: TransformerBridge):
    found = sae_causal.evaluate_splice(model, identity(model), some_tokens((1, 4)), protect=protect)
    assert found.spliced == pytest.approx(found.clean, abs=1e-5) and found.kl_spliced == pytest.approx(
        0, abs=1e-6
    )
    for against in ("zero", "mean"):
        assert found.recovered(against) == pytest.approx(1, abs=1e-3)
        assert found.kl_recovered(against) == pytest.approx(1, abs=1e-4)


def test_recovery_is_measured_from_each_ablation():
    splice = Splice(clean=2.0, spliced=3.0, zero=12.0, mean=4.0, kl_spliced=1.0, kl_zero=10.0, kl_mean=2.5)
    assert splice.recovered("zero") == pytest.approx(0.9) and splice.recovered("mean") == pytest.approx(0.5)
    assert splice.kl_recovered("zero") == pytest.approx(0.9) and splice.kl_recovered("mean") == pytest.approx(
        0.6
    )


def test_a_long_batch_is_unembedded_in_pieces(model: TransformerBridge, monkeypatch: pytest.MonkeyPatch):
    whole = sae_causal.evaluate_splice(model, made_up(model), some_tokens())
    monkeypatch.setattr(sae_causal, "_ROWS", 3)
    assert sae_causal.evaluate_splice(model, made_up(model), some_tokens()).kl_spliced == pytest.approx(
        whole.kl_spliced
    )


def test_bfloat16(tiny_llama):
    model = load_model(str(tiny_llama), dtype=torch.bfloat16)
    found = vars(sae_causal.evaluate_splice(model, made_up(model), some_tokens()))
    exact = vars(sae_causal.evaluate_splice(load_model(str(tiny_llama)), made_up(model), some_tokens()))
    for name, value in found.items():
        assert value == pytest.approx(exact[name], rel=0.05, abs=0.02), name


# ------------------------------------------------------------------------------------------------------- one
# edit


def test_only_what_the_mask_allows_is_edited(model: TransformerBridge):
    tokens, stream = some_tokens(), stream_of(model, some_tokens())
    where = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    seen = []

    def edit(x: Tensor) -> Tensor:
        seen.append(x)
        return 2 * x + 1

    found = sae_causal.run_edited(model, tokens, HOOK, edit, where)
    (read,) = seen
    torch.testing.assert_close(read, stream[where])
    wanted = run_with(model, tokens, torch.where(where[..., None], 2 * stream + 1, stream))
    torch.testing.assert_close(found, wanted)
    assert not found.requires_grad and found.shape == (ROWS, POS, model.cfg.d_vocab)


def test_an_edit_everywhere_and_nowhere(model: TransformerBridge):
    tokens, everywhere = some_tokens(), torch.ones(ROWS, POS, dtype=torch.bool)
    with torch.no_grad():
        clean = model(tokens)
    edited = sae_causal.run_edited(model, tokens, HOOK, torch.zeros_like)
    torch.testing.assert_close(
        edited, sae_causal.run_edited(model, tokens, HOOK, torch.zeros_like, everywhere)
    )
    assert (edited - clean).abs().max() > 0.1
    torch.testing.assert_close(
        sae_causal.run_edited(model, tokens, HOOK, torch.zeros_like, ~everywhere), clean
    )
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), clean)  # nothing stays behind


@pytest.mark.parametrize("architecture", ["standard", "topk"])
@pytest.mark.parametrize("value", [0, 0.0, 7.5])
def test_setting_a_latent_keeps_the_error_and_all_other_latents(value: float | int, architecture: str, model):
    """What is added is one direction; in the reconstruction's terms, one latent changed and the error
    kept."""
    sae, x = made_up(model, architecture), noise(60, WIDTH, seed=8)
    latents = sae.encode(x)
    latent = int(
        (latents > 0).float().mean(dim=0).sub(0.3).abs().argmin()
    )  # one that is active on some tokens
    changed = latents.clone()
    changed[:, latent] = value
    edited = sae_causal.set_latent(sae, latent, value)(x)
    torch.testing.assert_close(edited, sae.decode(changed) + (x - sae.decode(latents)), rtol=1e-4, atol=1e-4)
    moved = (edited - x).norm(dim=1)
    torch.testing.assert_close(moved, (value - latents[:, latent]).abs(), rtol=1e-4, atol=1e-5)
    if value == 0:
        silent = latents[:, latent] == 0
        assert 0 < silent.sum() < len(x) and torch.equal(edited[silent], x[silent])
        assert ((edited - x)[~silent] @ sae.W_dec[latent] < 0).all()
    else:
        assert (moved > 0).all()


def test_an_edit_works_at_any_shape_and_leaves_its_input(model: TransformerBridge):
    x = noise(2, 3, WIDTH)
    kept, edit = x.clone(), sae_causal.set_latent(made_up(model), 3, 2.0)
    torch.testing.assert_close(edit(x)[1, 2], edit(x[1, 2]))
    assert torch.equal(x, kept)


# -------------------------------------------------------------------------------------------------- many
# ablations


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_ablations_together_are_those_one_at_a_time(batch_size: int, model: TransformerBridge):
    sae, tokens = made_up(model), some_tokens((0, 3))[0]
    active = (sae.encode(stream_of(model, tokens[None])[0]) > 0).nonzero()
    places = active[torch.randperm(len(active), generator=torch.Generator().manual_seed(0))[:16]]
    found = sae_causal.ablate_each(model, sae, tokens, places, batch_size=batch_size)
    assert found.shape == (16, model.cfg.d_vocab) and not found.requires_grad
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(16))
    for row, (position, latent) in zip(found, places.tolist(), strict=True):
        where = torch.zeros(1, POS, dtype=torch.bool)
        where[0, position] = True
        edit = sae_causal.set_latent(sae, latent)
        wanted = sae_causal.run_edited(model, tokens[None], HOOK, edit, where)[0, -1].log_softmax(dim=-1)
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        clean = model(tokens[None])[0, -1].log_softmax(dim=-1)
    assert (found - clean).abs().amax(dim=1).max() > 1e-2


def test_ablating_what_is_not_active_changes_nothing(model: TransformerBridge):
    sae, tokens = made_up(model), some_tokens()[1]
    silent = (sae.encode(stream_of(model, tokens[None])[0]) == 0).nonzero()[::40]
    with torch.no_grad():
        clean = model(tokens.expand(len(silent), -1))[:, -1].log_softmax(dim=-1)
    torch.testing.assert_close(sae_causal.ablate_each(model, sae, tokens, silent), clean)


def test_ablations_do_not_reach_one_another(model: TransformerBridge):
    """The same place twice, and others beside it in the batch."""
    sae, tokens = made_up(model), some_tokens()[2]
    active = (sae.encode(stream_of(model, tokens[None])[0]) > 0).nonzero()
    alone = sae_causal.ablate_each(model, sae, tokens, active[-1:])
    together = sae_causal.ablate_each(model, sae, tokens, torch.cat([active[-1:], active[:5], active[-1:]]))
    for row in (0, -1):
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ bad
# input


def test_saes_that_do_not_fit(model: TransformerBridge, llama_model: TransformerBridge):
    other = SAE(noise(WIDTH, 4), noise(4), noise(4, WIDTH), noise(WIDTH), model="smollm2-135m", hook=HOOK)
    elsewhere, narrow = (
        made_up(model, hook="blocks.15.hook_resid_pre"),
        SAE(noise(3, 4), noise(4), noise(4, 3), noise(3), hook=HOOK),
    )
    for sae, said in (
        (other, "smollm2-135m"),
        (elsewhere, "'blocks.15.hook_resid_pre'"),
        (narrow, "width 3"),
    ):
        refused(lambda sae=sae: sae_causal.evaluate_splice(model, sae, some_tokens()), said)
        refused(
            lambda sae=sae: sae_causal.ablate_each(model, sae, some_tokens()[0], torch.tensor([[1, 1]])), said
        )


@pytest.mark.parametrize("shape", [(0, 8), (5, 0), (5, 1), (0, 0)])
def test_contexts_in_which_nothing_is_predicted(shape: tuple[int, int], model: TransformerBridge):
    tokens = torch.zeros(shape, dtype=torch.int64)
    refused(
        lambda: sae_causal.evaluate_splice(model, made_up(model), tokens),
        f"tokens has shape {shape}",
        "at least 2",
    )


@pytest.mark.parametrize("latent", [-1, LATENTS, True])
def test_latents_that_do_not_exist(latent: int, model: TransformerBridge):
    refused(lambda: sae_causal.set_latent(made_up(model), latent), f"latent is {latent}", "0 to 63")


def test_values_that_are_not_finite(model: TransformerBridge):
    refused(
        lambda: sae_causal.set_latent(made_up(model), 0)(torch.full((3, WIDTH), math.nan)), "x", "not finite"
    )


@pytest.mark.parametrize("place", [(POS, 0), (0, LATENTS), (-1, 0), (0, -1)])
def test_places_that_do_not_exist(place: tuple[int, int], model: TransformerBridge):
    places = torch.tensor([[1, 1], place])
    refused(
        lambda: sae_causal.ablate_each(model, made_up(model), some_tokens()[0], places), "places", "8", "64"
    )


def test_no_places(model: TransformerBridge):
    places = torch.zeros(0, 2, dtype=torch.int64)
    refused(
        lambda: sae_causal.ablate_each(model, made_up(model), some_tokens()[0], places), "places is empty"
    )


def test_first_and_last_place(model: TransformerBridge):
    places = torch.tensor([[0, 0], [POS - 1, LATENTS - 1]])
    assert sae_causal.ablate_each(model, made_up(model), some_tokens()[0], places).isfinite().all()
