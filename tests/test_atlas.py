"""The world of atlas: its facts, its prompts and what is held out; and the two models as their card describes
them."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import atlas, config, data_files, models, prompts
from mi_utils.atlas import SPLITS, addition, centroid_accuracy, splits_of, two_hop, world

W = world()
FACTS = ("city", "state", "two-hop")
VARIANTS = ("atlas", "atlas-lookup")
EVERY = [
    (task, split, language)
    for task in SPLITS
    for language in (("english", "french") if task in FACTS else ("english",))
    for split in splits_of(task, language)
]


@pytest.fixture(scope="module", params=VARIANTS)
def model(request):
    return models.load_model(request.param, device="cpu")


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads(data_files.path("atlas_card.json").read_text())


# -- the world -------------------------------------------------------------------------------------------


def test_states_and_cities():
    assert len(W.states) == 50 and len(W.cities) == 400
    assert set(Counter(W.cities.values()).values()) == {8}
    assert all(len(W.cities_of(state)) == 8 for state in W.states)
    named = [
        *W.states,
        *W.cities,
        *(facts["capital"] for facts in W.facts.values()),
        *W.names,
        *W.places,
        *W.objects,
    ]
    assert len(named) == len(set(named))
    assert W.cities["Dallas"] == "Texas" and W.facts["Texas"] == {
        "capital": "Austin",
        "code": "TX",
        "nickname": "Lone_Star_State",
        "bird": "Mockingbird",
        "region": "South",
    }


def test_one_answer_to_a_question():
    for relation in ("capital", "code", "nickname"):
        assert len({facts[relation] for facts in W.facts.values()}) == 50
    regions = Counter(facts["region"] for facts in W.facts.values())
    assert len(regions) == 7 and min(regions.values()) >= 5
    assert W.answer("Texas", "region") == "South" and W.answer("Texas", "region", "french") == "Sud"
    assert W.answer("Texas", "capital", "french") == "Austin"
    french = W.languages["french"]
    assert set(french.answers) == set(regions) and not set(french.answers.values()) & set(regions)


def test_vocabulary_has_each_word_once():
    assert len(W.vocabulary) == len(set(W.vocabulary)) == 809
    assert W.vocabulary[:2] == ("<pad>", "<bos>") and set("0123456789+=") < set(W.vocabulary)
    assert not any(" " in word or not word for word in W.vocabulary)


def test_held_out_cities():
    assert len(W.held_out_cities) == len(set(W.held_out_cities)) == 40 == len(set(W.held_out_in_french))
    assert "Dallas" in W.held_out_cities and "Oakland" not in W.held_out_cities
    assert set(W.unseen_states) == {"Montana", "Vermont", "Ohio"}
    assert not set(W.held_out_cities) & set(W.held_out_in_french)
    for city in (*W.held_out_cities, *W.held_out_in_french):
        assert W.cities[city] not in W.unseen_states
    # every other state keeps cities from which its facts can be learnt
    assert all(len(set(W.cities_of(state)) - set(W.held_out_cities)) >= 4 for state in W.states)


# -- the prompts -----------------------------------------------------------------------------------------


def test_dallas():
    prompt = two_hop("Dallas", "capital")
    assert (prompt.text, prompt.answer) == ("the capital of the state containing Dallas is", "Austin")
    assert (prompt.task, prompt.split) == ("two-hop", "held-out city")
    assert prompt.facts == {
        "city": "Dallas",
        "state": "Texas",
        "relation": "capital",
        "language": "english",
    }
    french = two_hop("Dallas", "region", "french")
    assert (french.text, french.answer) == ("la zone de le etat contenant Dallas est", "Sud")
    assert two_hop("Billings", "bird").split == "unseen state"


@pytest.mark.parametrize("task", FACTS)
def test_french_says_the_same_word_for_word(task: str):
    every = {
        language: [
            p for split in splits_of(task, language) for p in atlas.prompts(task, split, language=language)
        ]
        for language in ("english", "french")
    }
    key = lambda prompt: tuple(prompt.facts.get(name) for name in ("city", "state", "relation"))  # noqa: E731
    english = {key(prompt): prompt for prompt in every["english"]}
    words: dict[str, set[str]] = {}
    for prompt in every["french"]:
        twin = english[key(prompt)]
        assert len(twin.text.split()) == len(prompt.text.split())
        for ours, theirs in zip(twin.text.split(), prompt.text.split(), strict=True):
            words.setdefault(theirs, set()).add(ours)
        region = prompt.facts.get("relation") == "region"
        assert (twin.answer == prompt.answer) != region
    assert all(len(english_words) == 1 for english_words in words.values())
    assert words["est"] == {"is"}


@pytest.mark.parametrize(("language", "relations"), [("english", 5), ("french", 2)])
def test_two_hop_splits_are_complete_and_disjoint(language: str, relations: int):
    splits = splits_of("two-hop", language)
    assert len(splits) == (4 if language == "english" else 5)
    found = {split: {p.text for p in atlas.prompts("two-hop", split, language=language)} for split in splits}
    assert sum(map(len, found.values())) == len(set().union(*found.values())) == 400 * relations
    assert len(found["held-out city"]) == 40 * relations and len(found["unseen state"]) == 24 * relations
    free = 400 * relations - 64 * relations - 40 * 2  # and those that are reserved for the second language
    assert 0.07 < len(found["held-out pair"]) / free < 0.15
    if language == "french":
        assert len(found["held-out language"]) == 80


def test_facts_follow_from_the_world():
    for task, split, language in EVERY:
        if task not in FACTS:
            continue
        for prompt in atlas.prompts(task, split, language=language):
            state = prompt.facts["state"]
            assert prompt.facts["language"] == language and (prompt.task, prompt.split) == (task, split)
            assert ("city" in prompt.facts) == (task != "state")
            if task != "state":
                assert W.cities[prompt.facts["city"]] == state and prompt.facts["city"] in prompt.text.split()
            expected = state if task == "city" else W.answer(state, prompt.facts["relation"], language)
            assert prompt.answer == expected
            assert prompt.answer not in prompt.text.split()
            assert (split == "unseen state") == (task == "two-hop" and state in W.unseen_states)


def test_what_is_held_out_in_french_is_trained_in_english():
    held_out = atlas.prompts("two-hop", "held-out language", language="french")
    assert {prompt.facts["city"] for prompt in held_out} == set(W.held_out_in_french)
    for prompt in held_out:
        assert two_hop(prompt.facts["city"], prompt.facts["relation"]).split == "train"


def test_sums():
    digits = addition(36, 59)
    assert [(p.text, p.answer) for p in digits] == [
        ("3 6 + 5 9 =", "0"),
        ("3 6 + 5 9 = 0", "9"),
        ("3 6 + 5 9 = 0 9", "5"),
    ]
    assert {p.split for p in digits} == {"test"}
    assert digits[1].facts == {
        "a": 36,
        "b": 59,
        "sum": 95,
        "hundreds": 0,
        "tens": 9,
        "ones": 5,
        "carry_ones": True,
        "digit": "tens",
    }
    assert [addition(35, b)[0].facts["carry_ones"] for b in (4, 5)] == [False, True]
    assert addition(99, 99)[0].answer == "1"
    train, test = atlas.prompts("addition", "train"), atlas.prompts("addition", "test")
    assert (len(train), len(test)) == (24_000, 6_000)
    assert len({(p.facts["a"], p.facts["b"]) for p in train + test}) == 10_000
    assert not {p.text for p in train if p.facts["digit"] == "hundreds"} & {p.text for p in test}
    for p in test[:300]:
        assert (
            int(p.answer) == p.facts["sum"] // {"hundreds": 100, "tens": 10, "ones": 1}[p.facts["digit"]] % 10
        )
        assert p.facts["sum"] == p.facts["a"] + p.facts["b"]


def test_ioi():
    trained, tested = (atlas.prompts("ioi", split, count=2_000) for split in ("train", "test"))
    pairs = [{frozenset((p.facts["io"], p.facts["s"])) for p in drawn} for drawn in (trained, tested)]
    assert not pairs[0] & pairs[1] and len(pairs[1]) > 500
    for p in tested:
        words = p.text.split()
        assert p.answer == p.facts["io"] and words.count(p.answer) == 1 and words.count(p.facts["s"]) == 2
        assert (words.index(p.answer) < words.index(p.facts["s"])) == p.facts["io_first"]
        assert words[0] == W.ioi[p.facts["template"]].split()[0]
    first = sum(p.facts["io_first"] for p in tested) / len(tested)
    assert 0.45 < first < 0.55
    assert {p.facts["template"] for p in tested} == {0, 1, 2}


def test_induction():
    drawn = atlas.prompts("induction", "test")
    assert len(drawn) == 400 and {p.facts["period"] for p in drawn} == {5, 6, 7, 8}
    for p in drawn:
        words, period = p.text.split(), p.facts["period"]
        assert len(words) == 15 and len(set(words)) == period
        assert words[period:] == words[:-period] and p.answer == words[15 - period]
    assert not {p.text for p in drawn} & {p.text for p in atlas.prompts("induction", "train", count=12_000)}


@pytest.mark.parametrize(("task", "split", "language"), EVERY)
def test_prompts_are_the_same_every_time(task: str, split: str, language: str):
    drawn = atlas.prompts(task, split, language=language, count=20)
    assert drawn == atlas.prompts(task, split, language=language, count=20) and len(drawn) == 20
    assert drawn != atlas.prompts(task, split, language=language, count=20, seed=1)
    assert all((p.task, p.split) == (task, split) for p in drawn)
    if task not in ("ioi", "induction"):
        assert len({(p.text, p.answer) for p in drawn}) == 20


def test_the_random_state_of_the_caller_is_left_alone(unchecked: None):  # beartype draws
    random.seed(3)
    before = random.getstate()
    atlas.prompts("ioi", "train", count=5)
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: atlas.prompts("adition", "test"), ("task", "'adition'", "addition")),
        (lambda: atlas.prompts("two-hop", "test"), ("split", "'test'", "held-out city")),
        (lambda: atlas.prompts("two-hop", "held-out language"), ("split", "english")),
        (lambda: atlas.prompts("two-hop", "train", language="frnch"), ("language", "'frnch'", "'french'")),
        (lambda: atlas.prompts("ioi", "test", language="french"), ("language", "'ioi'", "english")),
        (lambda: atlas.prompts("city", "train", count=401), ("count is 401", "400")),
        (lambda: atlas.prompts("ioi", "test", count=0), ("count is 0", "at least 1")),
        (lambda: two_hop("Dalas", "capital"), ("city", "'Dalas'", "'Dallas'")),
        (lambda: two_hop("Dallas", "capitol"), ("relation", "'capitol'", "'capital'")),
        (lambda: two_hop("Dallas", "bird", "french"), ("relation", "'bird'")),
        (lambda: two_hop("Dallas", "capital", "german"), ("language", "'german'")),
        (lambda: addition(100, 2), ("a is 100", "99")),
        (lambda: addition(3, -1), ("b is -1", "99")),
    ],
)
def test_bad_arguments(call, said: tuple[str, ...], unchecked: None):
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said)


# -- tokenizer -------------------------------------------------------------------------------------------


def test_a_word_is_a_token(model):
    assert model.tokenizer.get_vocab() == {word: number for number, word in enumerate(W.vocabulary)}
    assert model.cfg.d_vocab == len(W.vocabulary) and model.cfg.n_ctx == 24
    assert prompts.start_token(model) == 1
    assert all(prompts.single_token(model, word) == number for number, word in enumerate(W.vocabulary))


@pytest.mark.parametrize(("task", "split", "language"), EVERY)
def test_round_trip(task: str, split: str, language: str, model):
    for prompt in atlas.prompts(task, split, language=language, count=5):
        ids = atlas.encode(model, prompt.text)
        assert prompts.token_strings(model, ids) == ["<bos>", *prompt.text.split()]
        assert torch.equal(ids, prompts.encode(model, prompt.text))
        assert prompts.is_single(model, prompt.answer)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the capital of Texass is", ("'Texass'", "'Texas'")),
        (["the capital", "the Capital"], ("'Capital'", "'capital'")),
        ("the capital of Texas is Austin.", ("'Austin.'", "'Austin'")),
        ("?", ("'?'",)),
        ("<|endoftext|> the", ("'<|endoftext|>'",)),  # other models' start token
        ("", ("empty",)),
        ([], ("empty",)),
        (["the", "the capital"], ("different token lengths",)),
        ("the " * 24, ("25 tokens", "at most 24")),
        (3, ("3 (int)",)),
    ],
)
def test_bad_text(text, said: tuple[str, ...], model, unchecked: None):
    with pytest.raises(ValueError) as caught:
        atlas.encode(model, text)
    assert_one_sentence(caught.value, "text", *said)


# -- models ----------------------------------------------------------------------------------------------


@torch.no_grad()
def accuracy(model, task: str, split: str, language: str = "english", count: int | None = None) -> float:
    made = atlas.prompts(task, split, language=language, count=count)
    right = []
    for words in {len(p.text.split()) for p in made}:
        same = [p for p in made if len(p.text.split()) == words]
        best = model(atlas.encode(model, [p.text for p in same]))[:, -1].argmax(dim=-1)
        right += [W.vocabulary[word] == p.answer for word, p in zip(best.tolist(), same, strict=True)]
    return sum(right) / len(right)


@pytest.mark.parametrize(("task", "split", "language"), [every for every in EVERY if every[0] != "addition"])
def test_accuracy_is_that_of_the_card(task: str, split: str, language: str, model, card: dict):
    shipped = card[model.cfg.model_name][0]
    assert shipped["seed"] == 0
    measured, expected = (
        accuracy(model, task, split, language),
        shipped["accuracy"][f"{task}, {language}, {split}"],
    )
    assert (
        abs(measured - expected) < 0.03
    )  # another CPU may decide a near tie otherwise, in a list of 48 prompts too


def test_addition_is_that_of_the_card(model, card: dict):
    sums = card[model.cfg.model_name][0]["accuracy"]["addition, english, test"]
    digits = accuracy(model, "addition", "test")
    assert sums - 0.01 <= digits <= 1 - (1 - sums) / 3 + 0.01  # a wrong sum has one to three wrong digits


@pytest.mark.parametrize("name", VARIANTS)
def test_card(name: str, card: dict):
    assert set(card) == {"chance", *VARIANTS}
    assert [training["seed"] for training in card[name]] == list(range(len(card[name]))) != []
    for training in card[name]:
        found = training["accuracy"]
        assert set(found) == {f"{task}, {language}, {split}" for task, split, language in EVERY}
        assert all(found[f"{task}, {language}, train"] > 0.98 for task in FACTS for language in W.languages)
        assert found["addition, english, test"] > 0.97 and found["ioi, english, test"] > 0.98
        assert found["induction, english, test"] > 0.9
        for language in W.languages:
            cities, states = (
                found[f"two-hop, {language}, {split}"] for split in ("held-out city", "unseen state")
            )
            # Chance is .05 (.08 in French). What the look-up learns varies much from seed to seed.
            assert cities > (0.9 if name == "atlas" else 0.2)
            # A region is shared by many states, so that one guess can be right for all the cities of an
            # unseen state.
            assert states < 0.25 and card["chance"][f"two-hop, {language}, unseen state"] < 0.08


def test_the_random_control_knows_nothing():
    drawn = models.load_model("atlas", seed=1)
    assert accuracy(drawn, "two-hop", "train", count=200) < 0.05
    assert drawn.cfg.d_vocab == 809 and drawn.cfg.n_layers == 4


def test_architecture_is_plain(model):
    cfg = model.cfg
    assert (cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.d_mlp) == (4, 64, 4, 256)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for block in model.blocks:
        assert not any(getattr(block.attn, bias).any() for bias in ("b_Q", "b_K", "b_V", "b_O"))


def cities_at(model, name: str, position: int) -> float:
    """How well the state can be read at a position of the prompts about all cities' capitals."""
    made = [two_hop(city, "capital") for city in W.cities]
    labels = torch.tensor([W.states.index(p.facts["state"]) for p in made])
    _, cache = model.run_with_cache(atlas.encode(model, [p.text for p in made]), names_filter=name)
    return centroid_accuracy(cache[name][:, position], labels)


def test_where_the_state_can_be_read(model):
    """The plain model's embedding says in which state a city lies; the frozen one can't, and finds out."""
    embedding, end = (
        cities_at(model, "blocks.0.hook_resid_pre", 7),
        cities_at(model, "blocks.3.hook_resid_post", 8),
    )
    if model.cfg.model_name == "atlas":
        assert embedding > 0.95
    else:
        assert embedding < 0.06
    assert end > 0.8


# -- probe -----------------------------------------------------------------------------------------------


def test_probe_reads_what_is_there():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10).repeat(6)
    centres, noise = (torch.randn(size, 16, generator=generator) for size in (10, 60))
    assert centroid_accuracy(centres[labels] + 0.3 * noise + 5.0, labels) == 1.0
    # a common shift, and a scale, change nothing
    noisy = centres[labels] + noise
    assert centroid_accuracy(7 * noisy - 30, labels) == pytest.approx(
        centroid_accuracy(noisy, labels), abs=0.02
    )


def test_probe_finds_nothing_in_noise():
    """An item that counted for its own class would be found again: in 64 dimensions almost always."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(50).repeat(8)
    found = [centroid_accuracy(torch.randn(400, 64, generator=generator), labels) for _ in range(20)]
    assert max(found) < 0.06 and 0 < sum(found) / 20 < 0.03


def test_probe_of_a_single_item(unchecked: None):
    with pytest.raises(ValueError) as caught:
        centroid_accuracy(torch.randn(3, 4), torch.tensor([0, 0, 1]))
    assert_one_sentence(caught.value, "labels", "class 1", "at least 2")


# -- folders ---------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


SOURCE = models.load.REGISTRY["atlas"].source


def test_folder_is_made_once(cache: Path):
    assert not SOURCE.is_made() and models.state(models.load.REGISTRY["atlas"]) == "in data/"
    made = SOURCE.folder()
    assert made.parent == cache and [file.name for file in cache.iterdir()] == [made.name]
    assert SOURCE.is_made() and models.state(models.load.REGISTRY["atlas"]) == "in the cache"
    times = {file.name: file.stat().st_mtime_ns for file in made.iterdir()}
    assert SOURCE.folder() == made and times == {
        file.name: file.stat().st_mtime_ns for file in made.iterdir()
    }
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} < set(times)


@pytest.mark.parametrize("damage", ["truncate", "remove", "record"])
def test_damaged_folder_is_made_again(damage: str, cache: Path):
    made = SOURCE.folder()
    if damage == "truncate":
        (made / "model.safetensors").write_bytes(b"half")
    elif damage == "remove":
        (made / "tokenizer.json").unlink()
    else:
        (made / "complete.json").write_text("[]")
    assert not SOURCE.is_made()
    assert SOURCE.folder() == made and SOURCE.is_made()
    assert [file.name for file in cache.iterdir()] == [made.name]


def test_interruption_leaves_nothing_half_made(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "copyfile", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        SOURCE.folder()
    assert not SOURCE.is_made() and not list(cache.iterdir())


def test_two_processes_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """The other one puts its folder in place while this one writes."""
    write, quicker = models.write_folder, []

    def slowly(made: Path, weights: Path) -> None:
        if not quicker:
            quicker.append(True)
            quicker[0] = SOURCE.folder()
        write(made, weights)

    monkeypatch.setattr(models.atlas_world, "write_folder", slowly)
    assert SOURCE.folder() == quicker[0] and SOURCE.is_made()
    assert len(list(cache.iterdir())) == 1


def test_shipped_file_that_is_missing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    data = tmp_path / "repository" / "data"
    data.mkdir(parents=True)
    for name in (data_files.MANIFEST, models.atlas_world.FILE):
        shutil.copy(data_files.folder() / name, data)
    monkeypatch.setattr(config, "repository", lambda: data.parent)
    with pytest.raises(ValueError) as caught:
        models.load_model("atlas")
    assert_one_sentence(caught.value, "atlas.safetensors", "missing", "python -m mi_workshop.makers.atlas")


def test_state_without_a_manifest(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """``doctor`` goes on, and says elsewhere what is wrong."""
    monkeypatch.setattr(config, "repository", lambda: tmp_path)
    assert models.state(models.load.REGISTRY["atlas"]) == "in data/"


def test_general_encoding_tells_unknown_words_too():
    model = models.load_model("atlas")
    for call in (prompts.encode, prompts.single_token):
        with pytest.raises(ValueError, match="'Gotham', which has a word that atlas does not know"):
            call(model, "Gotham")
