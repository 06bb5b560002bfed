"""How far a latent can be foretold from the text alone: classes of tokens, and rules found by counting.

Everything here is decided by a fixed rule, so that latents and neurons are judged alike and nobody who knows
which is which has a say. What such a rule can't see it counts as uninterpretable: a topic, a tone, a place in
a list.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_utils.features.store import LatentActivations, at_least_one

# Articles, conjunctions, prepositions, pronouns, auxiliary verbs, "not" and "no".
_FUNCTION_WORDS = """
    a an the this that these those
    and or but nor if of in on at to for from by with as into about over under than then
    i you he she it we they me him her us them my your his its our their who whom whose which what
    is are was were be been being am do does did have has had
    will would shall should can could may might must not no so
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def _ends(text: str, ending: str) -> bool:
    word = text.strip()
    return word.isalpha() and word.islower() and word.endswith(ending) and len(word) > len(ending) + 2


# What a token may be, by its text as the tokenizer decodes it (so " Paris" begins with a space). A token may
# belong to several classes, or to none: an ordinary word in lower case has none but itself, or the class
# would be so common that any set of tokens looked pure. English is assumed, and a tokenizer that writes a
# word's space before it.
TOKEN_CLASSES: dict[str, Callable[[str], bool]] = {
    "white space": lambda text: not text.strip(),
    "line break": lambda text: "\n" in text,
    "digits": lambda text: text.strip().isdigit(),
    "punctuation": lambda text: bool(text.strip()) and not any(c.isalnum() for c in text),
    "capitalised": lambda text: text.strip()[:1].isupper() and not text.strip()[1:].isupper(),
    "all capitals": lambda text: len(text.strip()) > 1 and text.strip().isupper(),
    "function word": lambda text: text.strip().casefold() in FUNCTION_WORDS,
    "inside a word": lambda text: text[:1].isalpha() and text.islower(),
    "not ASCII": lambda text: not text.isascii(),
    "ends in -ing": lambda text: _ends(text, "ing"),
    "ends in -ed": lambda text: _ends(text, "ed"),
    "ends in -ly": lambda text: _ends(text, "ly"),
    "ends in -ion": lambda text: _ends(text, "ion"),
    "ends in -s": lambda text: _ends(text, "s") and not _ends(text, "ss"),
}

LONGEST = 20  # tokens that a rule may name
PRIOR = 10  # silent occurrences added to every token's own before tokens are compared


@dataclass(frozen=True)
class Purity:
    """How alike the tokens are on which a latent fires most.

    ``share`` of the ``n`` tokens belong to ``winner``, the commonest class among them; ``chance`` is the mean
    share of the commonest class among ``n`` tokens drawn at random from as many contexts.
    """

    share: float
    winner: str
    n: int
    chance: float


def token_class_purity(
    acts: LatentActivations,
    latents: Sequence[int],
    texts: Mapping[int, str],
    *,
    n: int = 20,
    draws: int = 200,
    generator: torch.Generator,
) -> list[Purity]:
    """The share of each latent's strongest tokens, one a context, that belong to the commonest of
    ``TOKEN_CLASSES``.

    One further class is "the same token", whatever it is, upper and lower case alike. The limits: a latent
    for a topic or a phrase fires on tokens of all classes and scores low, one for any frequent word scores
    high and may explain nothing; only the strongest tokens count; classes differ in how common they are, so
    compare with ``chance`` and between dictionaries on the same text, not with 1.

    Args:
        acts: where the latents fire.
        latents: which are judged; ``acts.n_contexts`` says which fire often enough.
        texts: the text of each token id, as ``features.texts`` gives it.
        n: strongest tokens that are looked at.
        draws: random sets of tokens that make the chance level.
        generator: for these.

    Raises:
        ValueError: no latents, one that does not exist or fires in fewer than ``n`` contexts, more tokens
            than contexts, counts below 1, or tokens that ``texts`` lacks.
    """
    at_least_one(n, "n")
    at_least_one(draws, "draws")
    at_least_one(len(latents), "the number of latents")
    _check_texts(acts, texts)
    rows = acts.seen.any(dim=1).nonzero()[:, 0]
    if n > len(rows):
        raise ValueError(f"n is {n}; there are {len(rows)} contexts, and one token of each is looked at")
    classes = {i: _classes(text) for i, text in texts.items()}
    shares = []
    for _ in range(draws):
        some = rows[torch.randperm(len(rows), generator=generator)[:n]]
        places = torch.multinomial(acts.seen[some].float(), 1, generator=generator)
        drawn = acts.tokens[some].gather(1, places)[:, 0]
        shares.append(_commonest(drawn, classes)[1])
    chance = sum(shares) / draws
    found = []
    for latent in latents:
        top = acts.top_contexts(latent, n, window=0)
        if len(top) < n:
            raise ValueError(
                f"latents holds {latent}, which fires in {len(top)} contexts; it should in {n} (n)"
            )
        winner, share = _commonest(torch.cat([excerpt.tokens for excerpt in top]), classes)
        found.append(Purity(share, winner, n, chance))
    return found


Kind = Literal["token", "previous", "pair"]
KINDS: dict[Kind, str] = {"token": "on", "previous": "after", "pair": "on the pair"}


@dataclass(frozen=True)
class Rule:
    """A guess at when a latent fires: ``on`` one of these tokens, ``after`` one of them, or ``on the pair``.

    ``keys`` are token texts without spaces and in lower case (``pair``: the token before and the token
    itself).
    """

    kind: Kind
    keys: tuple[tuple[str, ...], ...]

    def marks(self, texts: Sequence[str]) -> list[bool]:
        """For each token, whether the latent is predicted to fire on it; nothing is known before the
        first."""
        names, wanted = [_key(text) for text in texts], set(self.keys)
        if self.kind == "token":
            return [(name,) in wanted for name in names]
        before = pairwise(names)
        found = [((a, b) if self.kind == "pair" else (a,)) in wanted for a, b in before]
        return [False, *found][: len(names)]

    def predicts(self, texts: Sequence[str]) -> bool:
        """Whether the latent is predicted to fire somewhere on these tokens."""
        return any(self.marks(texts))

    def __str__(self) -> str:
        shown = ", ".join("+".join(repr(part)[1:-1] for part in key) for key in self.keys)
        return f"{KINDS[self.kind]} {shown}"


def explain(acts: LatentActivations, latents: Sequence[int], texts: Mapping[int, str]) -> dict[int, Rule]:
    """A rule for each latent, found by counting: what tokens it fires on, or after, or on what pairs.

    Tokens are ordered by their mean activation (``PRIOR`` silent occurrences are added to each, or what
    occurs once would come first), and a rule is the beginning of the ordered list. What kind of rule, and how
    long, is decided by F1 on every other context, with lists ordered on the rest: precision is how many
    occurrences fire, recall how much of all activation they hold. The list of that kind and length is then
    made from all contexts.

    Args:
        acts: where the latents fire, on training contexts.
        latents: which are explained.
        texts: the text of each token id, as ``features.texts`` gives it.

    Raises:
        ValueError: no latents, one that does not exist or never fires, or tokens that ``texts`` lacks.
    """
    at_least_one(len(latents), "the number of latents")
    _check_texts(acts, texts)
    coded = {kind: _codes(acts, texts, kind) for kind in KINDS}
    half = torch.arange(len(acts.tokens)) % 2 == 1
    rules = {}
    for latent in latents:
        if not len(acts.entries(latent)[0]):
            raise ValueError(f"latents holds {latent}, which never fires; it should fire at least once")
        best = ("token", 1, 0.0)
        for kind, (codes, _) in coded.items():  # of equals the first, which is the simplest
            order = _order(_counts(acts, latent, codes, ~half))
            for length, score in enumerate(_f1(_counts(acts, latent, codes, half), order), start=1):
                best = max(best, (kind, length, score), key=lambda one: one[2])
        kind, length, _ = best
        codes, named = coded[kind]
        chosen = _order(_counts(acts, latent, codes, torch.ones_like(half)))[:length]
        rules[latent] = Rule(kind, tuple(map(named, chosen.tolist())))
    return rules


@dataclass(frozen=True)
class Detection:
    """How well rules tell excerpts in which a latent fires from others: balanced accuracy, chance is 0.5.

    ``shuffled`` is the control: the same excerpts judged by the rule of another latent.
    """

    latents: tuple[int, ...]
    own: Float[Tensor, "latent"]
    shuffled: Float[Tensor, "latent"]


def detection(
    acts: LatentActivations,
    rules: Mapping[int, Rule],
    texts: Mapping[int, str],
    *,
    n: int = 20,
    window: int = 5,
    above: float | int = 0,
    generator: torch.Generator,
) -> Detection:
    """Score rules on contexts that they were not found on.

    For each latent ``n`` excerpts in which it fires, drawn from all over its range, and ``n`` in which it
    does not, each sort from ``n`` different contexts; accuracy is the mean of the shares judged rightly in
    the two.

    Args:
        acts: where the latents fire, on held-out contexts.
        rules: by latent, as ``explain`` gives them.
        texts: the text of each token id of these contexts.
        n: excerpts of each sort.
        window: tokens before and after.
        above: leave out the weakest activations, this share of them; with 0.9 only the strongest tenth has to
            be told from silence, which is far easier.
        generator: for the draw of excerpts and of the control's rules.

    Raises:
        ValueError: fewer than two rules (the control needs another), or a latent with fewer than ``n``
            excerpts of either sort, or tokens that ``texts`` lacks.
    """
    latents = tuple(rules)
    if len(latents) < 2:
        raise ValueError(
            f"rules has {len(latents)} entries; it should have at least 2, for the control to exchange"
        )
    _check_texts(acts, texts)
    order = torch.randperm(len(latents), generator=generator).tolist()
    other = {latents[a]: rules[latents[b]] for a, b in zip(order, order[1:] + order[:1], strict=True)}
    own, shuffled = [], []
    for latent in latents:
        fires = acts.random_contexts(latent, n, generator, window=window, above=above)
        quiet = acts.quiet_contexts(latent, n, generator, window=window)
        if min(len(fires), len(quiet)) < n:
            raise ValueError(
                f"rules holds latent {latent}, for which there are {len(fires)} excerpts in which it fires "
                f"and {len(quiet)} in which it does not; n is {n}, and there should be as many of each"
            )
        read = [[texts[i] for i in excerpt.tokens.tolist()] for excerpt in fires + quiet]
        truth = torch.arange(2 * n) < n
        for rule, scores in ((rules[latent], own), (other[latent], shuffled)):
            scores.append((torch.tensor([rule.predicts(one) for one in read]) == truth).float().mean())
    return Detection(latents, torch.stack(own), torch.stack(shuffled))


def _check_texts(acts: LatentActivations, texts: Mapping[int, str]) -> None:
    if missing := [i for i in acts.tokens.unique().tolist() if i not in texts]:
        raise ValueError(
            f"texts lacks token {missing[0]}; it should be what features.texts gives for these contexts"
        )


def _key(text: str) -> str:
    """What a token is called in rules: without spaces and in lower case; white space as it stands."""
    return text.strip().casefold() or text


def _classes(text: str) -> tuple[str, ...]:
    names = [name for name, belongs in TOKEN_CLASSES.items() if belongs(text)]
    return (f"the token {_key(text)!r}", *names)


def _commonest(tokens: Int[Tensor, "token"], classes: Mapping[int, tuple[str, ...]]) -> tuple[str, float]:
    """Of equals the more particular one, which is first."""
    counts = Counter(name for i in tokens.tolist() for name in classes[i])
    winner, count = counts.most_common(1)[0]
    return winner, count / len(tokens)


def _codes(
    acts: LatentActivations, texts: Mapping[int, str], kind: Kind
) -> tuple[Int[Tensor, "context pos"], Callable[[int], tuple[str, ...]]]:
    """What a rule of this kind goes by at each position, as a number, and what the numbers stand for."""
    ids = acts.tokens.unique()
    keys = [_key(texts[i]) for i in ids.tolist()]
    words = list(dict.fromkeys(keys))
    numbers = {key: i for i, key in enumerate(words)}
    of_id = torch.tensor([numbers[key] for key in keys])
    here = of_id[torch.searchsorted(ids, acts.tokens)]
    if kind == "token":
        return here, lambda code: (words[code],)
    before = torch.cat([here[:, :1], here[:, :-1]], dim=1)
    if kind == "previous":
        return before, lambda code: (words[code],)
    pairs, codes = torch.unique(before * len(words) + here, return_inverse=True)
    return codes, lambda code: (words[int(pairs[code]) // len(words)], words[int(pairs[code]) % len(words)])


@dataclass(frozen=True)
class _Counts:
    """For each code: how often it occurs, how often the latent fires there, and how much in all."""

    occurs: Float[Tensor, "code"]
    fires: Float[Tensor, "code"]
    mass: Float[Tensor, "code"]


def _counts(
    acts: LatentActivations,
    latent: int,
    codes: Int[Tensor, "context pos"],
    contexts: Bool[Tensor, "context"],
) -> _Counts:
    """What is counted on some of the contexts."""
    places, values = acts.entries(latent)
    used = contexts[places // codes.shape[1]]
    here, values = codes.flatten()[places[used]], values[used].double()
    size = int(codes.max()) + 1
    occurs = torch.bincount(codes[acts.seen & contexts[:, None]], minlength=size).double()
    fires = torch.bincount(here, minlength=size).double()
    return _Counts(occurs, fires, torch.bincount(here, weights=values, minlength=size))


def _order(counts: _Counts) -> Int[Tensor, "ordered"]:
    """The codes on which a latent fires, strongest first."""
    order = (counts.mass / (counts.occurs + PRIOR)).argsort(descending=True, stable=True)[:LONGEST]
    return order[counts.mass[order] > 0]


def _f1(counts: _Counts, order: Int[Tensor, "ordered"]) -> list[float]:
    """Of the rules that are made of the first code, the first two, and so on."""
    occurs, fires, mass = (values[order].cumsum(0) for values in (counts.occurs, counts.fires, counts.mass))
    precision, recall = fires / occurs.clamp_min(1), mass / counts.mass.sum().clamp_min(1e-30)
    return (2 * precision * recall / (precision + recall).clamp_min(1e-30)).tolist()
