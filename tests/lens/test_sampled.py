"""KL on a part of the vocabulary: what is kept, what is drawn, and that it is right on average."""

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import harvest, lens, models
from mi_utils.lens.sampled import likeliest_tokens, sample_vocabulary, sampled_kl


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    return request.getfixturevalue(request.param)


@pytest.fixture
def streams(model: TransformerBridge) -> torch.Tensor:
    tokens = torch.randint(2, model.cfg.d_vocab, (3, 64), generator=rng())
    tokens[:, 0] = 0
    return harvest.residual_streams(model, tokens)


@pytest.fixture
def fitted(model: TransformerBridge, streams: torch.Tensor) -> lens.Lens:
    return lens.fit_ridge(model, streams)


def mean_kl(model: TransformerBridge, measured: lens.Lens, streams: torch.Tensor) -> torch.Tensor:
    return lens.evaluate(model, measured, streams).kl.mean(dim=1)


def test_whole_vocabulary_is_the_exact_loss(model, streams, fitted):
    likeliest = likeliest_tokens(model, streams[-1])
    for kept, drawn in ((1024, 1024), (300, 16), (0, 316), (316, 1)):
        vocabulary = sample_vocabulary(likeliest, kept=kept, drawn=drawn, generator=rng())
        assert sorted(vocabulary.ids.tolist()) == list(range(316))
        assert vocabulary.log_weights.abs().max() == 0
        loss = sampled_kl(model, streams[-1], fitted.translate_all(streams[:-1]), vocabulary)
        torch.testing.assert_close(loss, mean_kl(model, fitted, streams), atol=1e-4, rtol=1e-3)


def test_likeliest_tokens_are_those_of_all_tokens(model, streams):
    """More tokens than are unembedded at a time, the last ones too few to fill a piece."""
    final = streams[-1]
    assert len(final) == 189
    order = likeliest_tokens(model, final)
    mean = models.unembed(model, final).softmax(dim=-1).mean(dim=0)
    assert sorted(order.tolist()) == list(range(316))
    assert (mean[order].diff() <= 1e-6).all()
    # The last piece counts: were its tokens all of another kind, the order would be another.
    other = torch.cat([final[:128], 3 * final[128:129].expand(61, -1)])
    mean = models.unembed(model, other).softmax(dim=-1).mean(dim=0)
    assert (mean[likeliest_tokens(model, other)].diff() <= 1e-6).all()


def test_a_sample_keeps_the_likeliest_and_weighs_the_others():
    likeliest, generator = torch.randperm(316, generator=rng(1)), rng()
    samples = [sample_vocabulary(likeliest, kept=40, drawn=23, generator=generator) for _ in range(150)]
    for one in samples:
        ids = one.ids.tolist()
        assert torch.equal(one.ids[:40], likeliest[:40]) and len(set(ids)) == len(ids) == 63
        assert one.log_weights[:40].abs().max() == 0
        torch.testing.assert_close(one.log_weights[40:].exp(), torch.full((23,), (316 - 40) / 23))
    assert not torch.equal(samples[0].ids, samples[1].ids)
    assert len({token for one in samples for token in one.ids.tolist()}) == 316, "any may be drawn"


def test_the_partition_function_of_a_sample_is_right_on_average():
    generator = rng()
    logits = torch.randn(316, generator=generator)
    likeliest, estimates = logits.argsort(descending=True), []
    for _ in range(3000):
        one = sample_vocabulary(likeliest, kept=40, drawn=20, generator=generator)
        estimates.append((logits[one.ids] + one.log_weights).exp().sum())
    estimates = torch.stack(estimates)
    error = estimates.std() / len(estimates) ** 0.5
    assert error < 0.003 * logits.exp().sum()
    assert (estimates.mean() - logits.exp().sum()).abs() < 4 * error


def test_the_sampled_loss_is_near_the_whole_one(model, streams):
    """Over many draws; it is not the mean exactly, the logarithm in between."""
    measured, generator = lens.logit_lens(model), rng()
    likeliest = likeliest_tokens(model, streams[-1])
    losses = []
    for _ in range(40):
        vocabulary = sample_vocabulary(likeliest, kept=100, drawn=60, generator=generator)
        losses.append(sampled_kl(model, streams[-1], measured.translate_all(streams[:-1]), vocabulary))
    wanted = mean_kl(model, measured, streams)
    torch.testing.assert_close(torch.stack(losses).mean(dim=0), wanted, rtol=0.1, atol=0.01)


def test_nothing_of_the_model_and_nothing_of_the_final_stream_is_learned(model, streams, fitted):
    given = streams.clone().requires_grad_()
    vocabulary = sample_vocabulary(torch.arange(316), kept=100, drawn=60, generator=rng())
    sampled_kl(model, given[-1], fitted.translate_all(given[:-1]), vocabulary).sum().backward()
    assert given.grad[:-1].abs().max() > 0 and given.grad[-1].abs().max() == 0
    assert all(one.grad is None for one in model.unembed.parameters())
    for one in model.parameters():
        one.grad = None
