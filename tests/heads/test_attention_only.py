"""Small models that learn to repeat: their data, that training is the one described, and what the settings
refuse."""

from dataclasses import replace

import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import heads
from mi_utils.heads.attention_only import AttentionOnlySettings
from mi_workshop.makers import induction_seeds

SMALL = AttentionOnlySettings(
    n_heads=2,
    d_model=16,
    d_head=8,
    d_vocab=32,
    n_ctx=24,
    periods=(3, 8),
    test_period=8,
    steps=4,
    batch=8,
    checks=3,
    test_batch=4,
)


@pytest.fixture(scope="module")
def trained():
    return heads.train(SMALL)


def test_sequences_repeat_with_a_period_of_their_own():
    tokens = heads.sequences(SMALL, 300, torch.Generator().manual_seed(0))
    assert (
        tokens.shape == (300, 24)
        and (tokens[:, 0] == 0).all()
        and tokens[:, 1:].min() == 1
        and tokens.max() == 31
    )
    periods = []
    for row in tokens[:, 1:]:
        periods.append(next(p for p in range(1, 24) if torch.equal(row[p:], row[: 23 - p])))
    assert set(periods) >= set(range(3, 9)) and max(periods) == 8


def test_test_sequences_are_fixed_by_the_seed_and_the_control_repeats_nothing():
    first, again = heads.test_tokens(SMALL), heads.test_tokens(SMALL)
    assert torch.equal(first, again) and first.shape == (4, 17) and torch.equal(first[:, 1:9], first[:, 9:])
    assert not torch.equal(first, heads.test_tokens(replace(SMALL, seed=1)))
    control = heads.test_tokens(SMALL, repeat=False)
    assert all(len(set(row.tolist())) == 17 for row in control)


def test_a_model_is_what_the_settings_say():
    model = heads.attention_only_model(SMALL)
    assert model.W_Q.shape == (2, 2, 16, 8) and model.W_E.shape == (32, 16) and model.cfg.attn_only
    same, other = heads.attention_only_model(SMALL), heads.attention_only_model(replace(SMALL, seed=1))
    assert torch.equal(model.W_E, same.W_E) and not torch.equal(model.W_E, other.W_E)


@torch.no_grad()
def test_the_norm_divides_by_the_root_mean_square_and_does_nothing_else():
    model = heads.attention_only_model(SMALL)
    cache = model.run_with_cache(heads.test_tokens(SMALL))[1]
    stream = cache["resid_pre", 1]
    scale = (stream.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    keys = torch.einsum("bpd,hde->bphe", stream / scale, model.W_K[1])
    assert torch.allclose(cache["k", 1], keys + model.blocks[1].attn.b_K, atol=1e-5)


def test_what_is_recorded(trained):
    assert trained.steps == [0, 2, 4] and trained.loss.shape == (3, 16)
    assert {tuple(values.shape) for values in trained.scores.values()} == {(3, 2, 2)}
    assert {"induction", "previous", "copying", "entropy"} <= set(trained.scores)
    tokens = heads.test_tokens(SMALL)
    last = heads.loss_by_position(trained.model, tokens).mean(dim=0)
    assert torch.allclose(trained.loss[-1], last, atol=1e-5)
    untrained = heads.score_heads(heads.attention_only_model(SMALL), tokens, 8).mean("induction")
    assert torch.allclose(trained.scores["induction"][0], untrained, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in trained.model.original_model.parameters())


def test_training_is_adamw_on_the_next_token(trained):
    model = heads.attention_only_model(SMALL)
    network, generator = model.original_model, torch.Generator().manual_seed(SMALL.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=SMALL.lr, weight_decay=SMALL.weight_decay)
    for _ in range(SMALL.steps):
        rows = heads.sequences(SMALL, SMALL.batch, generator)
        loss = model(rows, return_type="loss")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.allclose(model.W_E, trained.model.W_E, atol=1e-5)
    assert torch.allclose(model.W_Q, trained.model.W_Q, atol=1e-5)


def test_training_works_without_gradients_and_leaves_the_global_state_alone(trained):
    before = torch.random.get_rng_state()
    with torch.no_grad():
        again = heads.train(SMALL)
        assert not torch.is_grad_enabled()
    assert torch.equal(again.loss, trained.loss) and torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"n_layers": 0},
        {"periods": (1, 8)},
        {"periods": (9, 8)},
        {"periods": (3, 23)},
        {"test_period": 2},
        {"test_period": 12},
        {"d_vocab": 16},
        {"checks": 1},
        {"checks": 6},
        {"test_batch": 0},
    ],
)
def test_settings_that_cannot_be(change):
    with pytest.raises(ValueError, match=next(iter(change))) as error:
        replace(SMALL, **change)
    assert_one_sentence(error.value)


def test_the_recipe_measures_what_it_says(trained):
    one = heads.train(replace(SMALL, n_layers=1))
    found = induction_seeds.of_training(trained, one) | induction_seeds.of_composition(trained)
    later = [(1, 0), (1, 1)]
    source = heads.top_heads(trained.scores["previous"][-1])[0]
    assert found["best prefix matching, two layers"] == trained.scores["induction"][-1].max().item()
    assert found["loss on the second copy, one layer"] == pytest.approx(one.loss[-1, 9:].mean().item())
    assert found["in-context score, two layers"] == pytest.approx(
        (trained.loss[-1, 9:].mean() - trained.loss[-1, :8].mean()).item(), abs=1e-5
    )
    if source[0] == 0:
        K = heads.composition_scores(trained.model, "K", later)[:, 0].mean(dim=0)
        assert found["K score of that head"] == pytest.approx(K[source[1]].item())
