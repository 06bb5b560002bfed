"""mi_utils.transcoders.atlas_mlps: the mix of sentences, what is held out, and activations in the order of
their tokens."""

from collections import Counter

import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import atlas, models, transcoders


@pytest.fixture(scope="module")
def model():
    return models.load_model("atlas", device="cpu")


@pytest.fixture(scope="module")
def drawn():
    return transcoders.sentences(500)


def kinds_of(prompts):
    return {" ".join([*prompt.text.split(), prompt.answer]): prompt.task for prompt in prompts}


# -- sentences ---------------------------------------------------------------------------------------


def test_the_mix_adds_up_and_sentences_come_in_its_proportions(drawn):
    assert sum(share for *_, share in transcoders.atlas_mlps.MIX) == 100
    counts, start = Counter(), 0
    for task, language, share in transcoders.atlas_mlps.MIX:
        part, start = drawn[start : start + 5 * share], start + 5 * share
        assert len(part) == 5 * share
        if task in ("ioi", "induction"):
            counts[task] += len(part)
            continue
        known = kinds_of(atlas.prompts(task, "train", language=language))
        assert all(" ".join(text) in known for text in part), (task, language)
        counts[task] += len(part)
    assert start == len(drawn) == 500 and counts["two-hop"] == 180 and counts["addition"] == 100


def test_nothing_held_out_is_among_them(drawn):
    seen = {" ".join(text) for text in transcoders.sentences(3_000)}
    for task, split, language in transcoders.atlas_mlps.HELD_OUT:
        if task not in ("ioi", "induction"):
            assert not seen & set(kinds_of(atlas.prompts(task, split, language=language)))
    sums = [text for text in drawn if "+" in text]
    assert all(len(text) == len(sums[0]) for text in sums), (
        "only whole sums: the last digit's prompt holds the others"
    )


def test_a_seed_gives_the_same_sentences(drawn):
    assert transcoders.sentences(500) == drawn != transcoders.sentences(500, seed=1)
    state = torch.get_rng_state()
    transcoders.sentences(50, seed=3)
    assert torch.equal(state, torch.get_rng_state())


def test_few_sentences_still_hold_every_kind():
    assert len(transcoders.sentences(1)) == len(transcoders.atlas_mlps.MIX)
    for count in (0, -1):
        with pytest.raises(ValueError) as error:
            transcoders.sentences(count)
        assert_one_sentence(error.value, f"count is {count}", "at least 1")


def test_content_words_are_what_sentences_are_about():
    words = transcoders.content_words()
    world = atlas.world()
    assert {"Dallas", "Texas", "7", *world.names, *world.places, *world.objects} <= words
    assert not words & {"the", "of", "capital", "state", "containing", "is", "+", "=", "<bos>"}


# -- activations -------------------------------------------------------------------------------------


@torch.no_grad()
def test_activations_are_those_of_runs_one_by_one(model, drawn):
    texts = drawn[::25]
    x, y = transcoders.mlp_activations(model, texts)
    wanted_x, wanted_y = [], []
    for text in sorted(texts, key=len):  # stable: those of one length keep their order
        _, kept = model.run_with_cache(atlas.encode(model, " ".join(text)))
        layers = range(model.cfg.n_layers)
        wanted_x.append(torch.stack([kept[f"blocks.{layer}.mlp.hook_in"][0, 1:] for layer in layers]))
        wanted_y.append(torch.stack([kept[f"blocks.{layer}.hook_mlp_out"][0, 1:] for layer in layers]))
    torch.testing.assert_close(x.float(), torch.cat(wanted_x, dim=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(y.float(), torch.cat(wanted_y, dim=1), atol=1e-4, rtol=1e-4)
    assert x.shape[1] == sum(len(text) for text in texts), "without start tokens"


def test_thinning_drops_only_what_comes_before_the_first_content_word(model, drawn):
    texts, content = drawn[::25], transcoders.content_words()
    whole, _ = transcoders.mlp_activations(model, texts)
    before = []
    for text in sorted(texts, key=len):
        reached = False
        for word in text:
            reached = reached or word in content
            before.append(not reached)
    before = torch.tensor(before)
    assert 20 < before.sum() < len(before) - 20
    assert torch.equal(transcoders.mlp_activations(model, texts, thin=0)[0], whole[:, ~before])
    some, written = transcoders.mlp_activations(model, texts, thin=0.5)
    assert some.shape == written.shape and int((~before).sum()) < some.shape[1] < len(before)
    share = (some.shape[1] - int((~before).sum())) / int(before.sum())
    assert 0.2 < share < 0.8
    assert torch.equal(some, transcoders.mlp_activations(model, texts, thin=0.5)[0])
    other = transcoders.mlp_activations(model, texts, thin=0.5, seed=1)[0]
    assert other.shape != some.shape or not torch.equal(other, some)


def test_batches_are_tokens_of_both_alike():
    x = torch.arange(7.0)[None, :, None].expand(2, 7, 3) + torch.tensor([0.0, 100.0])[:, None, None]
    made = transcoders.batches(x, x + 0.5, size=64)
    inputs, outputs = next(made)
    assert inputs.shape == (2, 64, 3) and torch.equal(outputs, inputs + 0.5)
    assert torch.equal(inputs[1], inputs[0] + 100) and set(inputs[0, :, 0].tolist()) == set(range(7))
    assert not torch.equal(inputs, next(made)[0])
    assert torch.equal(inputs, next(transcoders.batches(x, x, size=64))[0])
    assert not torch.equal(inputs, next(transcoders.batches(x, x, size=64, seed=1))[0])


# -- prompts -----------------------------------------------------------------------------------------


def test_answers_go_with_their_prompts(model):
    made = atlas.prompts("two-hop", "train", count=4) + atlas.prompts("addition", "test", count=3)
    found = {}
    for tokens, wanted in transcoders.answers(model, made):
        assert len(tokens) == len(wanted)
        for row, answer in zip(tokens, wanted, strict=True):
            found[model.tokenizer.decode(row[1:])] = model.tokenizer.decode([int(answer)])
    assert found == {prompt.text: prompt.answer for prompt in made}


def test_held_out_prompts_by_task():
    found = transcoders.held_out(20)
    assert list(found) == ["two-hop", "two-hop, french", "addition", "ioi", "induction"]
    for (task, split, _), made in zip(transcoders.atlas_mlps.HELD_OUT, found.values(), strict=True):
        assert len({prompt.text for prompt in made}) == len(made) == 20 or task in ("ioi", "induction")
        assert {(prompt.task, prompt.split) for prompt in made} == {(task, split)}
    assert found == transcoders.held_out(20) != transcoders.held_out(20, seed=1)
    every = transcoders.held_out(0)
    assert len(every["two-hop"]) == len(atlas.prompts("two-hop", "held-out city"))


def test_unknown_words_are_refused(model):
    with pytest.raises(ValueError) as error:
        transcoders.mlp_activations(model, [["the", "capital", "of", "Mordor", "is"]])
    assert_one_sentence(error.value, "Mordor")
