"""mi_utils.features.rules: planted rules are found, noise has none, and the controls are at chance."""

import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import features
from mi_utils.features.rules import TOKEN_CLASSES, Rule, detection, explain, token_class_purity

WORDS = [
    "<|s|>",
    " cat",
    "Cat",
    " dog",
    " of",
    " the",
    "7",
    "42",
    ".",
    ",",
    "\n",
    " running",
    " ran",
    " Paris",
    " blue",
]
WORDS += [f" word{i}" for i in range(60)]
TEXTS = dict(enumerate(WORDS))
ID = {text: i for i, text in TEXTS.items()}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def contexts(seed, rows=60, length=24):
    tokens = torch.randint(1, len(WORDS), (rows, length), generator=rng(seed))
    tokens[:, 0] = 0
    return tokens


def recorded(tokens, fires):
    """Latents that fire where ``fires`` [context, pos, latent] is, at random strengths."""
    strength = torch.rand(fires.shape, generator=rng(9)) + 0.5
    return features.record(torch.relu, (fires * strength)[:, 1:].flatten(0, 1), tokens)


def planted(seed):
    """On " cat" and "Cat"; on " dog" or " blue"; after " of"; on " the" after " of"; by chance."""
    tokens = contexts(seed)
    tokens[:, 1::5] = torch.where(torch.rand(tokens[:, 1::5].shape, generator=rng(seed)) > 0.5, ID[" of"], 1)
    tokens[:, 2::5] = torch.where(
        torch.rand(tokens[:, 2::5].shape, generator=rng(seed + 50)) > 0.5, ID[" the"], 3
    )
    before = torch.cat([tokens[:, :1], tokens[:, :-1]], dim=1)

    def on(*texts):
        return torch.isin(tokens, torch.tensor([ID[text] for text in texts]))

    def after(text):
        return before == ID[text]

    noise = torch.rand(tokens.shape, generator=rng(seed + 100)) > 0.95
    fires = [on(" cat", "Cat"), on(" dog", " blue"), after(" of"), after(" of") & on(" the"), noise]
    return recorded(tokens, torch.stack(fires, dim=-1))


@pytest.fixture(scope="module")
def train():
    return planted(0)


@pytest.fixture(scope="module")
def rules(train):
    return explain(train, range(5), TEXTS)


def refused(names, call, *args, **kwargs):
    with pytest.raises(ValueError) as caught:
        call(*args, **kwargs)
    assert_one_sentence(caught.value, *names)


# -- rules -----------------------------------------------------------------------------------------


def test_planted_rules_are_found(rules):
    assert (rules[0].kind, set(rules[0].keys)) == ("token", {("cat",)})
    assert (rules[1].kind, set(rules[1].keys)) == ("token", {("dog",), ("blue",)})
    assert (rules[2].kind, set(rules[2].keys)) == ("previous", {("of",)})
    assert (rules[3].kind, set(rules[3].keys)) == ("pair", {("of", "the")})


def test_rules_found_tell_held_out_contexts_and_others_do_not(rules):
    found = detection(planted(1), rules, TEXTS, n=15, window=2, generator=rng())
    assert found.latents == (0, 1, 2, 3, 4)
    assert (found.own[:4] == 1).all()
    assert 0.3 < found.own[4] < 0.7, "there is nothing to be found in noise"
    assert (found.shuffled < 1).all() and found.shuffled.mean() < 0.75, "two of them are about the same"


def test_unrelated_rules_are_at_chance():
    """40 latents, each with a token of its own, in contexts that have them all."""
    tokens = contexts(3, rows=200)
    ids = torch.arange(15, 55)
    acts = recorded(tokens, tokens[..., None] == ids)
    rules = {i: Rule("token", ((WORDS[token].strip(),),)) for i, token in enumerate(ids.tolist())}
    found = detection(acts, rules, TEXTS, n=20, window=3, generator=rng())
    assert (found.own == 1).all() and abs(found.shuffled.mean() - 0.5) < 0.02
    found = detection(acts, {0: rules[0], 1: rules[0]}, TEXTS, n=20, window=3, generator=rng())
    assert found.own[0] == 1 == found.shuffled[0] and found.own[1] == found.shuffled[1] < 0.7


def test_accuracy_is_the_mean_over_both_sorts():
    tokens = contexts(4)
    acts = recorded(tokens, torch.isin(tokens, torch.tensor([1, 2]))[..., None].expand(-1, -1, 2))
    always, never = (
        Rule("token", tuple((text.strip().casefold() or text,) for text in WORDS)),
        Rule("token", ()),
    )
    found = detection(acts, {0: always, 1: never}, TEXTS, n=10, window=1, generator=rng())
    assert found.own.tolist() == found.shuffled.tolist() == [0.5, 0.5]


def test_the_strongest_activations_can_be_asked_for():
    """Strong on " cat", weak on every other token but " dog"."""
    tokens = contexts(5, rows=100)
    strength = torch.where(tokens == ID[" cat"], 5.0, torch.where(tokens % 7 == 3, 0.0, 1.0))
    values = strength[:, 1:].flatten(0, 1)[:, None].repeat(1, 2)
    acts = features.record(torch.relu, values, tokens)
    rules = dict.fromkeys((0, 1), Rule("token", (("cat",),)))
    scores = [
        detection(acts, rules, TEXTS, n=15, window=0, above=above, generator=rng()).own.mean()
        for above in (0, 0.99)
    ]
    assert scores[0] < 0.7 and scores[1] == 1


def test_what_a_rule_marks():
    texts = [" The", "cat", " of", " the", "CAT", "\n", " "]
    assert Rule("token", (("cat",), ("\n",))).marks(texts) == [False, True, False, False, True, True, False]
    assert Rule("previous", (("the",),)).marks(texts) == [False, True, False, False, True, False, False]
    assert Rule("pair", (("of", "the"),)).marks(texts) == [False, False, False, True, False, False, False]
    assert Rule("pair", (("of", "the"),)).predicts(texts) and not Rule("pair", (("the", "of"),)).predicts(
        texts
    )
    for kind in ("token", "previous", "pair"):
        assert Rule(kind, (("a",),)).marks([]) == []
    assert Rule("previous", (("the",),)).marks([" the"]) == [False]


def test_a_rule_says_what_it_is():
    assert str(Rule("token", (("cat",), ("\n",)))) == r"on cat, \n"
    assert str(Rule("previous", (("of",),))) == "after of"
    assert str(Rule("pair", (("of", "the"),))) == "on the pair of+the"


def test_what_was_seen_once_is_no_rule():
    """A latent that fires on half of all " cat", and on each of 60 words that occur once: those are not in
    the rule."""
    tokens = contexts(6, rows=200)
    tokens[torch.arange(60) * 3, 10] = torch.arange(1000, 1060)
    texts = TEXTS | {i: f" rare{i}" for i in range(1000, 1060)}
    cats = (tokens == ID[" cat"]) & (torch.rand(tokens.shape, generator=rng(1)) > 0.5)
    rule = explain(recorded(tokens, (cats | (tokens >= 1000))[..., None]), [0], texts)[0]
    assert rule == Rule("token", (("cat",),))


def test_tokens_that_were_not_looked_at_do_not_count():
    """Half of all " dog" are massive: nobody looked. Of " blue" a third is silent because the latent is."""
    tokens = contexts(7, rows=200)
    dogs, blue = tokens == ID[" dog"], tokens == ID[" blue"]
    fires = dogs | (blue & (torch.rand(tokens.shape, generator=rng(1)) > 0.33))
    kept = ~(dogs & (torch.arange(200)[:, None] % 4 > 1))[:, 1:].flatten()
    values = fires[:, 1:].flatten()[kept, None].float()
    rule = explain(features.record(torch.relu, values, tokens, kept), [0], TEXTS)[0]
    assert rule == Rule("token", (("dog",), ("blue",)))


# -- classes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        (" the", {"function word"}),
        ("the", {"function word", "inside a word"}),
        (" Paris", {"capitalised"}),
        (" A", {"capitalised", "function word"}),
        (" NASA", {"all capitals"}),
        ("7", {"digits"}),
        (" 42", {"digits"}),
        (").", {"punctuation"}),
        ("\n\n", {"white space", "line break"}),
        ("   ", {"white space"}),
        (":\n", {"punctuation", "line break"}),
        (" running", {"ends in -ing"}),
        (" king", set()),
        ("ization", {"inside a word", "ends in -ion"}),
        (" quickly", {"ends in -ly"}),
        (" walked", {"ends in -ed"}),
        (" houses", {"ends in -s"}),
        (" glass", set()),
        (" is", {"function word"}),
        (" blue", set()),
        (" ñandú", {"not ASCII"}),
        ("", {"white space"}),
    ],
)
def test_classes_of_tokens(text, classes):
    assert {name for name, belongs in TOKEN_CLASSES.items() if belongs(text)} == classes


def test_purity_is_the_share_of_the_commonest_class():
    tokens = contexts(8, rows=200)
    ids = [[ID["7"], ID["42"]], [ID[" cat"], ID["Cat"]], [ID[" blue"], ID["."], ID[","]]]
    acts = recorded(tokens, torch.stack([torch.isin(tokens, torch.tensor(some)) for some in ids], dim=-1))
    digits, cats, mixed = token_class_purity(acts, range(3), TEXTS, n=40, generator=rng())
    assert (digits.winner, digits.share, digits.n) == ("digits", 1, 40)
    assert (cats.winner, cats.share) == ("the token 'cat'", 1)
    top = acts.top_contexts(2, 40, window=0)
    share = sum(int(one.tokens) != ID[" blue"] for one in top) / 40
    assert (mixed.winner, mixed.share) == ("punctuation", pytest.approx(share)) and 0.5 < share < 0.9


def test_chance_is_the_purity_of_random_tokens():
    tokens = contexts(8, rows=200)
    acts = recorded(tokens, torch.rand(*tokens.shape, 30, generator=rng()) > 0.7)
    found = token_class_purity(acts, range(30), TEXTS, n=20, generator=rng())
    assert len({one.chance for one in found}) == 1
    mean = sum(one.share for one in found) / 30
    assert abs(mean - found[0].chance) < 0.03, "latents of noise are as pure as chance"
    same = torch.full((30, 10), ID[" blue"])
    acts = recorded(same, torch.ones(30, 10, 1))
    assert token_class_purity(acts, [0], TEXTS, n=5, generator=rng())[0].chance == 1


def test_draws_depend_on_the_generator_alone():
    tokens = contexts(8, rows=100)
    acts = recorded(tokens, torch.rand(*tokens.shape, 6, generator=rng()) > 0.7)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    chances = [
        token_class_purity(acts, [0], TEXTS, n=10, draws=5, generator=rng(seed))[0].chance
        for seed in (1, 1, *range(2, 8))
    ]
    rules = {i: Rule("token", ((f"word{i}",),)) for i in range(6)}
    scores = [detection(acts, rules, TEXTS, n=5, generator=rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state), "and change nothing else"
    assert chances[0] == chances[1] and len(set(chances)) > 2
    assert torch.equal(scores[0].own, scores[1].own) and torch.equal(scores[0].shuffled, scores[1].shuffled)
    assert not torch.equal(scores[0].own, scores[2].own)


def test_which_rule_is_the_control_is_drawn_and_never_the_latent_s_own():
    """Each rule fits its own latent only: were it judged by its own, the control would be perfect."""
    tokens = contexts(3, rows=200)
    ids = torch.arange(15, 21)
    acts = recorded(tokens, tokens[..., None] == ids)
    asked = []

    class Asked(Rule):
        def predicts(self, texts):
            asked.append(self.keys[0][0])
            return super().predicts(texts)

    rules = {i: Asked("token", ((WORDS[token].strip(),),)) for i, token in enumerate(ids.tolist())}
    orders = set()
    for seed in range(6):
        asked.clear()
        detection(acts, rules, TEXTS, n=5, window=3, generator=rng(seed))
        pairs = [(asked[at], asked[at + 10]) for at in range(0, len(asked), 20)]
        assert [own for own, _ in pairs] == [rules[i].keys[0][0] for i in rules]
        assert sorted(own for own, _ in pairs) == sorted(other for _, other in pairs)
        assert all(own != other for own, other in pairs)
        orders.add(tuple(pairs))
    assert len(orders) > 3


def test_chance_looks_only_at_what_was_looked_at():
    tokens = contexts(8, rows=50)
    blue = tokens[:, 1:] == ID[" blue"]
    tokens[:, 6], blue[:, 5] = ID[" blue"], True
    kept = blue.flatten()
    acts = features.record(torch.relu, torch.ones(int(kept.sum()), 1), tokens, kept)
    assert token_class_purity(acts, [0], TEXTS, n=20, generator=rng())[0].chance == 1


# -- what can't be ---------------------------------------------------------------------------------


def test_bad_input_is_refused(train, rules):
    dead = recorded(contexts(0), torch.zeros(60, 24, 2, dtype=torch.bool))
    refused(["latents", "0"], explain, train, [], TEXTS)
    refused(["latents", "1", "never fires"], explain, dead, [1], TEXTS)
    refused(["latent", "5", "0 to 4"], explain, train, [5], TEXTS)
    refused(["rules", "1"], detection, train, {0: rules[0]}, TEXTS, generator=rng())
    refused(["rules", "n is 61"], detection, train, rules, TEXTS, n=61, generator=rng())
    refused(["latent", "7"], detection, train, {0: rules[0], 7: rules[1]}, TEXTS, generator=rng())
    refused(["n is 0"], detection, train, rules, TEXTS, n=0, generator=rng())
    refused(["latents"], token_class_purity, train, [], TEXTS, generator=rng())
    refused(["n is 0"], token_class_purity, train, [0], TEXTS, n=0, generator=rng())
    refused(["n is 61", "60 contexts"], token_class_purity, train, [0], TEXTS, n=61, generator=rng())
    refused(["draws is 0"], token_class_purity, train, [0], TEXTS, draws=0, generator=rng())
    refused(["latents", "1", "0 contexts"], token_class_purity, dead, [1], TEXTS, generator=rng())
    refused(["latent", "9"], token_class_purity, train, [9], TEXTS, generator=rng())
    few = {i: text for i, text in TEXTS.items() if i != ID[" cat"]}
    for call in (explain, lambda *args: token_class_purity(*args, generator=rng())):
        refused(["texts", "lacks token 1"], call, train, [0], few)
    refused(["texts"], detection, train, rules, few, generator=rng())
