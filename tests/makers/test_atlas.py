"""How atlas was made: nothing that is held out is trained, and the settings do what they say."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mi_utils import atlas
from mi_utils.atlas import world
from mi_workshop.makers import atlas as recipe

W = world()
SHORT = replace(recipe.Recipe(), steps=4, facts=20, sums=6, ioi=3, induction=2)


def texts(rows: recipe.Rows) -> list[str]:
    return [" ".join(W.vocabulary[word] for word in row if word) for row in rows.ids.tolist()]


@pytest.fixture(scope="module")
def trained_on() -> list[str]:
    """Sentences of 60 steps with the recipe's own batches."""
    drawn = recipe.batches(replace(recipe.RECIPES["atlas"], steps=60), seed=0)
    return [text for short, long in drawn for text in texts(short) + texts(long)]


def test_nothing_held_out_is_trained(trained_on: list[str]):
    seen = set(trained_on)
    for language in W.languages:
        for split in atlas.splits_of("two-hop", language)[1:]:
            for p in atlas.prompts("two-hop", split, language=language):
                assert f"<bos> {p.text} {p.answer}" not in seen
    sums = {(p.facts["a"], p.facts["b"]) for p in atlas.prompts("addition", "test")}
    questions = [text.split() for text in seen if "+" in text]
    assert len(questions) > 1_500
    assert not sums & {(int(q[1] + q[2]), int(q[4] + q[5])) for q in questions}
    pairs = {frozenset((p.facts["io"], p.facts["s"])) for p in atlas.prompts("ioi", "test", count=4_000)}
    named = [frozenset(set(text.split()) & set(W.names)) for text in seen if text.endswith(tuple(W.names))]
    assert not pairs & {names for names in named if len(names) == 2}


def test_every_fact_is_trained(trained_on: list[str]):
    seen = set(trained_on)
    for task, least in (("city", 0.5), ("state", 0.9), ("two-hop", 0.5)):
        for language in W.languages:
            made = atlas.prompts(task, "train", language=language)
            found = sum(f"<bos> {p.text} {p.answer}" in seen for p in made) / len(made)
            assert found > least, (task, language, found)


def test_answers_weigh_most():
    made = [
        atlas.two_hop("Dallas", "capital"),
        atlas.addition(36, 59)[2],
        atlas.prompts("induction", "train")[0],
    ]
    rows = recipe.rows(made, 0.1)
    assert texts(rows)[:2] == [
        "<bos> the capital of the state containing Dallas is Austin",
        "<bos> 3 6 + 5 9 = 0 9 5",
    ]
    assert rows.ids.shape == (3, 17)
    assert rows.weights[0].tolist() == pytest.approx([0.1] * 9 + [1.0] + [0.0] * 7)
    assert rows.weights[1].tolist() == pytest.approx([0.1] * 7 + [1.0] * 3 + [0.0] * 7)
    first = 2 + made[2].facts["period"]  # the start token, the first round, and the first repeated word
    assert rows.weights[2].tolist() == pytest.approx([0.1] * first + [1.0] * (17 - first))
    assert rows.ids[2, first] == rows.ids[2, 2]


def test_loss_is_the_weighted_cross_entropy():
    model = recipe.untrained(SHORT, 0)
    rows = recipe.rows([atlas.two_hop("Dallas", "capital"), *atlas.addition(36, 59)[2:]], 0.1)
    logp = F.log_softmax(model(rows.ids).logits, dim=-1)
    total = sum(
        -rows.weights[row, at] * logp[row, at - 1, rows.ids[row, at]]
        for row in range(2)
        for at in range(1, rows.ids.shape[1])
    )
    torch.testing.assert_close(recipe.loss_of(model, rows), total / 4)  # one answer, and three digits


def test_learning_rate():
    made = recipe.Recipe(steps=1_000, warm_up=100, flat=0.3)
    rates = [recipe.rate_at(step, made) for step in range(1_000)]
    assert rates[0] == pytest.approx(0.01) and rates[49] == pytest.approx(0.5) and set(rates[99:300]) == {1.0}
    assert rates[650] == pytest.approx(0.5) and rates[-1] == 0.01
    assert all(one >= two for one, two in zip(rates[99:], rates[100:], strict=False))


def test_initial_weights():
    model = recipe.untrained(recipe.Recipe(), 0)
    scale = {
        "wte": 0.02,
        "attn.c_attn": 0.5 / 8,
        "attn.c_proj": 0.5 / 8 / 8**0.5,
        "mlp.c_proj": 0.5 / 16 / 8**0.5,
        "lm_head": 1 / 8,
    }
    for part, expected in scale.items():
        stds = [value.std().item() for name, value in model.named_parameters() if f"{part}.weight" in name]
        assert stds and all(std == pytest.approx(expected, rel=0.05) for std in stds), part
    assert not any(value.any() for name, value in model.named_parameters() if name.endswith("bias"))
    trainable = {name.split(".", 3)[-1] for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name in trainable if name.endswith("bias")} == {"mlp.c_fc.bias", "mlp.c_proj.bias"}


@pytest.mark.parametrize("frozen", [0.0, 0.1])
def test_frozen_embeddings_stay(frozen: float):
    settings = replace(SHORT, frozen=frozen)
    before = recipe.untrained(settings, 5)
    after = recipe.train(settings, 5)
    ids = recipe.named_ids(W)
    assert len(ids) == 450
    old, new = (model.transformer.wte.weight.detach() for model in (before, after))
    assert torch.equal(old[ids], new[ids]) == bool(frozen)
    if frozen:
        assert old[ids].std().item() == pytest.approx(frozen, rel=0.05)
    word = W.vocabulary.index("is")
    assert not torch.equal(old[word], new[word])
    biases = {
        name: value
        for name, value in after.named_parameters()
        if name.endswith("bias") and ".mlp." not in name
    }
    assert len(biases) == 4 * 4 + 1 and not any(value.any() for value in biases.values())
    assert after.transformer.h[0].mlp.c_fc.bias.any()


def test_training_depends_on_its_seed_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, again, other = (recipe.train(SHORT, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_trainings_are_kept(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MI_CACHE", str(tmp_path))
    monkeypatch.setitem(recipe.RECIPES, "atlas", SHORT)
    monkeypatch.setattr(recipe, "accuracies", lambda model: {"all": 0.5})
    made = recipe.one_training("atlas", 0)
    assert made == {"seed": 0, "accuracy": {"all": 0.5}}
    monkeypatch.setattr(recipe, "train", lambda *a: pytest.fail("it is there already"))
    assert recipe.one_training("atlas", 0) == made
    assert sorted(file.name for file in (tmp_path / "atlas_recipe").iterdir()) == [
        "atlas-0.json",
        "atlas-0.safetensors",
    ]


def test_correct_compares_the_best_word_with_the_answer():
    model = recipe.untrained(SHORT, 0).eval()
    made = [atlas.two_hop("Dallas", "capital"), *atlas.addition(36, 59)]
    logits = [model(torch.tensor([recipe.sentence(prompt)])).logits[0, -1] for prompt in made]
    expected = [W.vocabulary[one.argmax()] for one in logits]
    true = [replace(prompt, answer=word) for prompt, word in zip(made, expected, strict=True)]
    assert recipe.correct(model, true) == [True] * 4
    assert recipe.correct(model, [true[0], replace(true[1], answer="Texas"), *true[2:]]) == [
        True,
        False,
        True,
        True,
    ]


def test_accuracies(monkeypatch: pytest.MonkeyPatch):
    """Sums whose ones are wrong are wrong; of the other tasks half is right."""
    monkeypatch.setattr(
        recipe,
        "correct",
        lambda model, made: [
            p.facts["digit"] != "ones" or p.facts["a"] < 50 if p.task == "addition" else at % 2 == 0
            for at, p in enumerate(made)
        ],
    )
    found = recipe.accuracies(recipe.untrained(SHORT, 0))
    assert len(found) == 19 and json.dumps(found) and "two-hop, english, held-out language" not in found
    sums = [found.pop(f"addition, english, {split}") for split in ("train", "test")]
    assert sums == pytest.approx([0.5, 0.5], abs=0.05) and sum(sums) != 1.0
    assert set(found.values()) <= {0.5, 0.5034, 0.5003}


def test_chances():
    found = recipe.chances()
    # the three unseen states have capitals, codes and nicknames of their own, which no trained two-hop
    # answers
    trained = atlas.prompts("two-hop", "train")
    answers = {p.answer for p in trained}
    unseen = atlas.prompts("two-hop", "unseen state")
    assert {p.facts["relation"] for p in unseen if p.answer in answers} == {"bird", "region"}
    shares = [
        sum(q.answer == p.answer for q in trained if q.facts["relation"] == p.facts["relation"])
        / sum(q.facts["relation"] == p.facts["relation"] for q in trained)
        for p in unseen
    ]
    assert found["two-hop, english, unseen state"] == pytest.approx(sum(shares) / len(shares), abs=1e-4)
    assert len(found) == 9 and all(0.03 < chance < 0.1 for chance in found.values())
