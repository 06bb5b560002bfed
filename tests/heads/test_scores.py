"""Scores of attention heads: by hand on patterns that are known, and against TransformerLens' head
detector."""

from unittest.mock import Mock

import pytest
import torch
from sentences import assert_one_sentence
from transformer_lens import head_detector

from mi_utils import heads, models, prompts

PERIOD = 6


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(model, *, batch: int = 3, period: int = PERIOD, **more) -> torch.Tensor:
    words = heads.ordinary_tokens(model)
    start = prompts.start_token(model)
    return heads.repeated_tokens(words, period, batch=batch, start=start, generator=generator(), **more)


def looking_back(offset: int, period: int = PERIOD) -> torch.Tensor:
    """A head that looks ``offset`` back where it can, and else at the start token."""
    length = 2 * period + 1
    pattern = torch.zeros(length, length)
    queries = torch.arange(length)
    pattern[queries, (queries - offset).clamp_min(0)] = 1
    return pattern


def some_scores(values: dict[str, list], period: int = PERIOD) -> heads.HeadScores:
    """Two sequences, one layer; the sequences differ by +-0.01."""
    noise = torch.tensor([0.01, -0.01])[:, None, None]
    return heads.HeadScores({name: torch.tensor(v)[None, None] + noise for name, v in values.items()}, period)


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request):
    return request.getfixturevalue(request.param)


# -- sequences ------------------------------------------------------------------------------------------


def test_repeated_tokens_are_two_copies_of_different_tokens():
    tokens = heads.repeated_tokens(torch.arange(50), 10, batch=5, start=7, generator=generator())
    assert tokens.shape == (5, 21) and (tokens[:, 0] == 7).all()
    assert torch.equal(tokens[:, 1:11], tokens[:, 11:]) and (tokens[:, 1:] != 7).all()
    assert all(len(set(row[1:11].tolist())) == 10 for row in tokens)
    assert len({tuple(row.tolist()) for row in tokens}) == 5


def test_the_control_repeats_nothing_and_is_as_long():
    tokens = heads.repeated_tokens(
        torch.arange(50), 10, batch=5, start=7, generator=generator(), repeat=False
    )
    assert tokens.shape == (5, 21) and all(len(set(row.tolist())) == 21 for row in tokens)


def test_sequences_follow_their_generator_and_leave_the_global_one_alone():
    before = torch.random.get_rng_state()
    first, again, other = (
        heads.repeated_tokens(torch.arange(50), 5, batch=2, start=0, generator=generator(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"period": 2}, "period is 2"),
        ({"batch": 0}, "batch is 0"),
        ({"period": 50}, "candidates has 49"),
        ({"period": 25, "repeat": False}, "candidates has 49"),
    ],
)
def test_bad_sequences(changes, word):
    arguments = {"period": 10, "batch": 2} | changes
    period = arguments.pop("period")
    with pytest.raises(ValueError, match=word) as error:
        heads.repeated_tokens(torch.arange(50), period, start=0, generator=generator(), **arguments)
    assert_one_sentence(error.value)


def test_ordinary_tokens_of_the_default_model_are_words(real_model):
    words = heads.ordinary_tokens(real_model)
    assert len(words) > 10_000
    texts = prompts.token_strings(real_model, words[::997].tolist())
    assert all(text[0] == " " and text[1:].isalpha() and len(text) > 2 for text in texts)


def test_a_vocabulary_without_words_gives_all_but_the_start_token(model):
    assert heads.ordinary_tokens(model).tolist() == [
        i for i in range(model.cfg.d_vocab) if i != prompts.start_token(model)
    ]


# -- scores ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["previous", "neighbour", "duplicate", "induction"])
def test_a_head_that_does_one_thing_scores_one_there_and_zero_elsewhere(name):
    found = heads.pattern_scores(looking_back(heads.offsets(PERIOD)[name]), PERIOD)
    assert {other: round(found[other].item(), 6) for other in heads.scores.WEIGHTS if other != "first"} == {
        other: float(other == name) for other in heads.scores.WEIGHTS if other != "first"
    }
    assert found["first"] == 0 and found["entropy"] == 0


def test_induction_looks_at_the_follower():
    tokens = heads.repeated_tokens(torch.arange(50), PERIOD, batch=1, start=0, generator=generator())[0]
    back = heads.offsets(PERIOD)
    for query in range(PERIOD + 1, 2 * PERIOD):
        assert tokens[query - back["duplicate"]] == tokens[query]
        assert tokens[query - back["induction"]] == tokens[query + 1]


def test_an_even_head():
    length = 2 * PERIOD + 1
    even = torch.tril(torch.ones(length, length))
    even /= even.sum(dim=-1, keepdim=True)
    found = heads.pattern_scores(even, PERIOD)
    sizes = torch.arange(PERIOD + 2, length + 1).float()
    assert found["first"].item() == pytest.approx((1 / sizes).mean().item())
    assert found["entropy"].item() == pytest.approx(sizes.log().mean().item())
    assert heads.null_of(some_scores({name: [0.0] for name in heads.scores.WEIGHTS})).mean(
        "first"
    ).item() == pytest.approx((1 / sizes).mean().item())


def test_only_queries_of_the_second_copy_count():
    pattern = looking_back(PERIOD - 1)
    spoilt = pattern.clone()
    spoilt[: PERIOD + 1] = 0
    spoilt[: PERIOD + 1, 0] = 1
    scores, others = heads.pattern_scores(pattern, PERIOD), heads.pattern_scores(spoilt, PERIOD)
    assert scores["induction"] == others["induction"] == 1 and scores["first"] == others["first"] == 0


@pytest.mark.parametrize(("size", "period"), [(12, 6), (13, 5), (5, 2)])
def test_a_pattern_of_another_length(size, period):
    with pytest.raises(ValueError) as error:
        heads.pattern_scores(torch.eye(size), period)
    assert_one_sentence(error.value)


@pytest.mark.parametrize(("offset", "first"), [(-1, 3), (4, 3), (1, 13), (1, -1)])
def test_attention_back_out_of_range(offset, first):
    with pytest.raises(ValueError) as error:
        heads.attention_back(torch.eye(13), offset, first_query=first)
    assert_one_sentence(error.value)


@torch.no_grad()
def test_scores_of_a_model_are_those_of_the_head_detector(model):
    tokens = draw(model)
    found = heads.score_heads(model, tokens, PERIOD)
    assert found.values["induction"].shape == (3, 2, 4)
    for i, row in enumerate(tokens):
        cache = model.run_with_cache(row[None])[1]
        wanted = {
            "induction": head_detector.get_induction_head_detection_pattern(row[None]),
            "duplicate": head_detector.get_duplicate_token_head_detection_pattern(row[None]),
        }
        for name, detection in wanted.items():
            for layer, head in models.all_heads(model):
                theirs = head_detector.compute_head_attention_similarity_score(
                    cache["pattern", layer][0, head],
                    detection,
                    exclude_bos=False,
                    exclude_current_token=False,
                    error_measure="mul",
                )
                # theirs is a share of all attention, of 2 * period + 1 queries; ours a mean over period of
                # them
                assert found.values[name][i, layer, head].item() == pytest.approx(
                    theirs * (2 * PERIOD + 1) / PERIOD, abs=1e-5
                )


@torch.no_grad()
def test_previous_token_scores_are_those_of_the_head_detector_from_position_three(model):
    tokens = draw(model, batch=1)
    pattern = model.run_with_cache(tokens)[1]["pattern", 1][0]
    detection = head_detector.get_previous_token_head_detection_pattern(tokens)
    detection[:3] = 0
    ours = heads.score_heads(model, tokens, PERIOD).mean("previous")[1]
    theirs = (pattern * detection).sum(dim=(-2, -1)) / (2 * PERIOD - 2)
    assert torch.allclose(ours, theirs, atol=1e-6)


@torch.no_grad()
def test_scores_do_not_depend_on_what_stands_beside(model, monkeypatch):
    tokens = draw(model)
    together = heads.score_heads(model, tokens, PERIOD)
    few = Mock(return_value=2)
    monkeypatch.setattr(models.run, "rows_at_once", few)
    apart = heads.score_heads(model, tokens, PERIOD)
    assert few.called
    for name in together.values:
        assert torch.allclose(together.values[name], apart.values[name], atol=1e-5)
        assert torch.allclose(together.mean(name), together.values[name].mean(dim=0))


def test_the_error_of_one_sequence_is_not_known(model):
    one = heads.score_heads(model, draw(model, batch=1), PERIOD)
    assert one.mean("induction").isfinite().all() and one.error("induction").isnan().all()
    three = heads.score_heads(model, draw(model, batch=3), PERIOD)
    wanted = three.values["first"].std(dim=0) / 3**0.5
    assert torch.allclose(three.error("first"), wanted)


def test_bad_input_to_scores(model):
    for tokens, period in (
        (draw(model), PERIOD + 1),
        (draw(model)[:0], PERIOD),
        (draw(model, period=70), 70),
    ):
        with pytest.raises(ValueError) as error:
            heads.score_heads(model, tokens, period)
        assert_one_sentence(error.value)
    with pytest.raises(ValueError, match="it should be one of"):
        heads.score_heads(model, draw(model), PERIOD).mean("inductive")


# -- classes --------------------------------------------------------------------------------------------

BASE = {name: [0.0, 0.0, 0.0, 0.0] for name in heads.scores.WEIGHTS} | {"entropy": [3.0, 3.0, 3.0, 3.0]}


def test_a_head_belongs_to_every_class_in_which_it_exceeds_its_own_null():
    scores = some_scores(BASE | {"previous": [0.9, 0.0, 0.5, 0.5], "induction": [0.6, 0.7, 0.0, 0.0]})
    null = heads.null_of(some_scores(BASE | {"neighbour": [0.0, 0.0, 0.4, 0.0]}))
    found = heads.classify(scores, null, threshold=0.3)
    assert found["previous"] == [(0, 0), (0, 3)]  # head 2 looks as much at what stands two back
    assert (
        found["induction"] == [(0, 1), (0, 0)]
        and found["duplicate"] == []
        and set(found) == set(heads.scores.CLASSES)
    )


def test_a_null_is_no_class_at_the_threshold_it_gives():
    null = heads.null_of(
        some_scores(BASE | {"neighbour": [0.1, 0.35, 0.2, 0.0], "duplicate": [0.0, 0.2, 0.0, 0.0]})
    )
    assert heads.largest_null(null) == pytest.approx(0.35)
    low = heads.null_of(some_scores(BASE | {"neighbour": [0.02, 0.0, 0.0, 0.0]}))
    assert heads.largest_null(low) == pytest.approx(0.02)  # that of "first" is larger, and no measurement
    nothing = heads.null_of(some_scores(BASE))
    assert heads.classify(null, nothing, threshold=heads.largest_null(null) + 1e-6)["previous"] == []


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_thresholds_are_shares(threshold):
    scores = some_scores(BASE)
    with pytest.raises(ValueError, match="threshold"):
        heads.classify(scores, heads.null_of(scores), threshold=threshold)


def test_top_heads_in_order_and_without_those_of_minus_infinity():
    values = torch.tensor([[0.1, 0.9], [0.5, -torch.inf]])
    assert heads.top_heads(values) == [(0, 1), (1, 0), (0, 0)] and heads.top_heads(values, 1) == [(0, 1)]
    for count in (0, 5):
        with pytest.raises(ValueError, match="count"):
            heads.top_heads(values, count)


def test_random_heads_are_others_and_all_others_come_up():
    everything, top = [(layer, head) for layer in range(3) for head in range(4)], [(0, 1), (2, 3), (1, 1)]
    drawn = [heads.matched_random(everything, top, generator(seed)) for seed in range(200)]
    assert all(len(set(one)) == 3 and not set(one) & set(top) for one in drawn)
    counts = [sum(head in one for one in drawn) for head in everything if head not in top]
    assert min(counts) > 40 and max(counts) < 100  # 67 expected
    for bad, word in (([], "top is empty"), (everything[:7], "heads has 5")):
        with pytest.raises(ValueError, match=word):
            heads.matched_random(everything, bad, generator())


# -- effects --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_zero_ablation_of_all_heads_leaves_no_attention(model):
    tokens = draw(model)
    seen = {}
    edits = heads.ablate(model, [(1, head) for head in range(4)])
    look = ("blocks.1.hook_attn_out", models.look_only(lambda out: seen.update(out=out)))
    model.run_with_hooks(tokens, fwd_hooks=[*edits, look])
    bias = model.blocks[1].attn.b_O if model.blocks[1].attn.b_O is not None else 0
    assert torch.allclose(seen["out"][:, 1:], torch.zeros_like(seen["out"][:, 1:]) + bias, atol=1e-5)
    clean = model.run_with_cache(tokens)[1]["attn_out", 1]
    assert torch.allclose(seen["out"][:, 0], clean[:, 0], atol=1e-5)  # the first position is left alone
    assert not torch.allclose(seen["out"][:, 1:], clean[:, 1:], atol=1e-3)


@torch.no_grad()
def test_mean_ablation_puts_in_the_mean_and_leaves_other_heads(model):
    tokens = draw(model)
    cache = model.run_with_cache(tokens)[1]
    means = heads.mean_z(model, tokens)
    for layer in (0, 1):
        assert torch.allclose(means[layer], cache["z", layer][:, 1:].mean(dim=(0, 1)), atol=1e-5)
    seen = {}
    look = ("blocks.1.attn.hook_z", models.look_only(lambda z: seen.update(z=z)))
    model.run_with_hooks(tokens, fwd_hooks=[*heads.ablate(model, [(1, 2)], means), look])
    assert torch.allclose(seen["z"][:, 1:, 2], means[1, 2].expand_as(seen["z"][:, 1:, 2]))
    assert torch.allclose(seen["z"][:, :, [0, 1, 3]], cache["z", 1][:, :, [0, 1, 3]], atol=1e-5)


@pytest.mark.parametrize("bad", [[], [(0, 0), (0, 0)], [(2, 0)], [(0, 4)], [(-1, 0)]])
def test_bad_sets_of_heads(bad, model):
    with pytest.raises(ValueError) as error:
        heads.ablate(model, bad)
    assert_one_sentence(error.value)


@torch.no_grad()
def test_loss_by_position_is_the_model_s_loss(model, monkeypatch):
    tokens = draw(model)
    loss = heads.loss_by_position(model, tokens)
    wanted = model(tokens, return_type="loss", loss_per_token=True)
    assert loss.shape == (3, 2 * PERIOD) and torch.allclose(loss, wanted, atol=1e-4)
    one = Mock(return_value=1)
    monkeypatch.setattr(models.run, "rows_at_once", one)
    assert torch.allclose(loss, heads.loss_by_position(model, tokens), atol=1e-4)
    assert one.called


def test_the_in_context_score_is_below_zero_where_context_helps():
    loss = torch.tensor([[4.0, 3.0, 1.0], [6.0, 3.0, 2.0]])
    assert heads.in_context_score(loss, 0, 2).item() == pytest.approx(-3.5)
    assert heads.in_context_score(loss, slice(0, 2), slice(2, None)).item() == pytest.approx(1.5 - 4)
    for early, late, word in (
        (3, 1, "early is 3"),
        (0, -1, "late is -1"),
        (slice(2, 2), 0, "early is slice"),
    ):
        with pytest.raises(ValueError, match=word):
            heads.in_context_score(loss, early, late)


def test_mean_z_needs_sequences(model):
    for tokens in (draw(model)[:0], draw(model)[:, :1]):
        with pytest.raises(ValueError, match="tokens has shape"):
            heads.mean_z(model, tokens)
