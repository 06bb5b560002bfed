"""Directions a lens depends on, and what their removal does."""

import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import corpus, harvest, lens

TEXTS = [
    "When Mary and John went to the store, John gave a drink to Mary. The capital of France is Paris. " * 3
]


def contexts(model, length=16):
    return corpus.cut_documents(model, TEXTS, length=length)


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def stream(model):
    return harvest.residual_streams(model, contexts(model))[1]


def some_lens(model):
    generator = torch.Generator().manual_seed(3)
    plain = lens.logit_lens(model)
    noise = 0.3 * torch.randn(plain.matrices.shape, generator=generator)
    return lens.Lens(plain.matrices + noise, plain.biases, plain.model)


def test_directions_have_unit_variance_and_are_uncorrelated(model, stream):
    found = lens.principal_directions(model, some_lens(model), 1, stream)
    amounts = (stream - found.mean) @ found.read.T
    kept = torch.linalg.eigvalsh(torch.cov(stream.T)) > 1e-5  # tokens repeat: some components never vary
    assert kept.sum() > 16
    assert torch.allclose(amounts[:, :8].T.cov(), torch.eye(8), atol=1e-2)


def test_read_and_write_fit_together(model, stream):
    found = lens.principal_directions(model, some_lens(model), 1, stream)
    for number in (0, 3):
        edited = found.remove(stream, number)
        assert ((edited - found.mean) @ found.read[number]).abs().max() < 1e-3  # gone
        others = [i for i in range(8) if i != number]
        before, after = ((x - found.mean) @ found.read[others].T for x in (stream, edited))
        assert torch.allclose(before, after, atol=1e-3)  # and nothing else


def test_the_first_direction_moves_the_logits_of_the_lens_most(model, stream):
    chosen = some_lens(model)
    found = lens.principal_directions(model, chosen, 1, stream)
    moved = found.write @ chosen.matrices[1] @ (model.W_U - model.W_U.mean(dim=1, keepdim=True))
    sizes = moved.norm(dim=1)
    assert (sizes.diff() <= 1e-3 * sizes[0]).all()
    drawn = lens.random_directions(1, stream, count=20, seed=1)
    at_random = drawn.write @ chosen.matrices[1] @ (model.W_U - model.W_U.mean(dim=1, keepdim=True))
    assert at_random.norm(dim=1).max() < sizes[0]


def test_what_moves_all_logits_alike_is_no_direction(model, stream, monkeypatch):
    """One vector added to all columns of W_U shifts all logits, which no softmax sees."""
    chosen, generator = some_lens(model), torch.Generator().manual_seed(0)
    before = lens.principal_directions(model, chosen, 1, stream)
    shifted = model.W_U + 10 * torch.randn(len(model.W_U), 1, generator=generator)
    monkeypatch.setattr(type(model), "W_U", property(lambda self: shifted))
    after = lens.principal_directions(model, chosen, 1, stream)
    cosine = torch.cosine_similarity(before.write[0], after.write[0], dim=0)
    assert cosine.abs() > 0.999


def test_directions_at_random_have_unit_variance_and_their_seed(stream):
    one, again, other = (lens.random_directions(1, stream, count=6, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.read, again.read) and torch.equal(one.write, again.write)
    assert torch.cosine_similarity(one.write, other.write).abs().max() < 0.99
    amounts = (stream - one.mean) @ one.read.T
    assert one.read.shape == one.write.shape == (6, stream.shape[1])
    # Tokens repeat: components that never vary take a part of a direction's variance.
    assert ((amounts.var(dim=0) > 0.2) & (amounts.var(dim=0) < 1.01)).all()


def test_effects_are_those_of_an_edit_by_hand(model, stream):
    chosen, tokens = some_lens(model), contexts(model)[:2]
    found = lens.principal_directions(model, chosen, 1, stream)
    on_lens, on_model = lens.removal_effects(model, chosen, found, tokens, [0, 5])

    def edit(value, hook):
        value = value.clone()
        value[:, 1:] = found.remove(value[:, 1:], 5)
        return value

    name = "blocks.1.hook_resid_pre"
    clean, cache = model.run_with_cache(tokens)
    edited = model.run_with_hooks(tokens, fwd_hooks=[(name, edit)])
    wanted = torch.nn.functional.kl_div(
        edited[:, 1:].log_softmax(-1), clean[:, 1:].log_softmax(-1), reduction="none", log_target=True
    )
    assert on_model[1] == pytest.approx(wanted.sum(-1).mean().item(), rel=1e-3, abs=1e-6)
    before = lens.log_probs(model, chosen, cache[name][:, 1:], 1)
    after = lens.log_probs(model, chosen, found.remove(cache[name][:, 1:], 5), 1)
    assert on_lens[1] == pytest.approx(
        (before.exp() * (before - after)).sum(-1).mean().item(), rel=1e-3, abs=1e-6
    )


def test_at_the_last_block_a_lens_that_ignores_a_direction_is_told_from_one_that_does_not(llama_model):
    # A probe can find what the model ignores, and the other way round: a blind lens sees no effect where
    # there is one.
    stream = harvest.residual_streams(llama_model, contexts(llama_model))[1]
    plain = lens.logit_lens(llama_model)
    found = lens.principal_directions(llama_model, plain, 1, stream)
    blind = lens.Lens(0 * plain.matrices, plain.biases + 1, plain.model)
    on_lens, on_model = lens.removal_effects(llama_model, blind, found, contexts(llama_model)[:2], [0])
    assert on_lens.item() < 1e-6 < on_model.item()


def test_bad_input(llama_model):
    stream = harvest.residual_streams(llama_model, contexts(llama_model))[1]
    with pytest.raises(ValueError) as error:
        lens.principal_directions(llama_model, lens.logit_lens(llama_model), 2, stream)
    assert_one_sentence(error, "layer is 2", "0 to 1")
    with pytest.raises(ValueError) as error:
        lens.principal_directions(llama_model, lens.logit_lens(llama_model), 1, stream[:20])
    assert_one_sentence(error, "stream has 20 tokens", "32")
