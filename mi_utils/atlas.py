"""Prompts for ``atlas`` and ``atlas-lookup``, two small language models whose world is known.

``load_model("atlas")`` was trained from scratch on sentences about the world in ``data/atlas_world.json``;
``load_model("atlas-lookup")`` likewise, with the embeddings of cities and states frozen at random vectors, so
that they can't say which city lies in which state. A ``Prompt`` comes with its answer and with what the world
knows about it. What the models made of the world is not known: that is what notebooks 07 and 08 find out.

The tokens of a prompt come from ``encode``. A word is a token, and prompts hold only words of
``world().vocabulary``.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.model_bridge import TransformerBridge

from mi_utils.models.atlas_world import World, world
from mi_utils.prompts import tokens as any_prompts

__all__ = [
    "SPLITS",
    "Prompt",
    "World",
    "addition",
    "centroid_accuracy",
    "encode",
    "prompts",
    "splits_of",
    "two_hop",
    "world",
]

Task = Literal["city", "state", "two-hop", "addition", "ioi", "induction"]
SPLITS: Mapping[str, tuple[str, ...]] = {
    "city": ("train",),  # has to be learnt by heart, as the next: nothing is held out
    "state": ("train",),
    "two-hop": ("train", "held-out pair", "held-out city", "unseen state", "held-out language"),
    "addition": ("train", "test"),
    "ioi": ("train", "test"),
    "induction": ("train", "test"),
}
DIGITS = ("hundreds", "tens", "ones")
PERIODS = (5, 6, 7, 8)
_REPEATED = 16  # words of an induction sentence, the answer included
_HELD_OUT_PAIRS, _HELD_OUT_SUMS, _HELD_OUT_NAMES = 0.1, 0.2, 0.2
_DRAWN = 400  # prompts by default where there is no complete list


@dataclass(frozen=True)
class Prompt:
    """A sentence up to its answer.

    ``text`` has no start token (``encode`` puts it there) and no answer; ``answer`` is one word. ``facts`` is
    what the world knows about the sentence, that is, what a model might represent of it:

    * questions about states: ``state``, ``language`` and as the task has it ``city``, ``relation``;
    * addition: ``a``, ``b``, ``sum``, its digits ``hundreds``, ``tens`` and ``ones``, ``carry_ones`` (whether
      the ones add up to 10 or more) and ``digit``, which of the three is asked for;
    * IOI: ``io`` (the answer), ``s``, ``io_first`` and ``template``, an index into ``world().ioi``;
    * induction: ``period``.
    """

    text: str
    answer: str
    task: str
    split: str
    facts: Mapping[str, str | int | bool]


def prompts(
    task: Task, split: str, *, language: str = "english", count: int | None = None, seed: int = 0
) -> list[Prompt]:
    """Prompts of a task, the same ones on every call.

    * ``city``: the state containing Dallas is *Texas*; ``state``: the capital of Texas is *Austin*. All are
      trained.
    * ``two-hop``: the capital of the state containing Dallas is *Austin*. Splits: ``train``; ``held-out
      pair``, a tenth of the pairs of city and relation; ``held-out city``, cities that are in no two-hop
      sentence of the training; ``unseen state``, states none of whose cities is in one; in French besides
      ``held-out language``, cities that are in two-hop sentences in English only.
    * ``addition``: 3 6 + 5 9 = 0 *9*, a prompt for each digit of the answer, after the digits before it. A
      fifth of the 10,000 sums is held out (``test``).
    * ``ioi``: when Mary and John went to the park , John gave a book to *Mary*. In ``test`` are pairs of
      names that are in no sentence of the training.
    * ``induction``: five to eight different words, repeated until there are sixteen. ``test`` differs from
      ``train`` only in what is drawn.

    Args:
        task: one of these.
        split: a split of the task, see ``SPLITS``.
        language: ``"english"``, or for questions about states ``"french"``, which has two relations
            (``capital`` and ``region``).
        count: how many, drawn without replacement where the split is a list. By default all, or 400 where
            sentences are drawn (``ioi`` and ``induction``).
        seed: of the draw.

    Raises:
        ValueError: no such task, split or language, or more prompts than there are.
    """
    _check(task, split, language)
    if count is not None and count < 1:
        raise ValueError(f"count is {count}; it should be at least 1")
    rng = Random(f"{task} {split} {seed}")
    if task in ("ioi", "induction"):
        draw = _ioi if task == "ioi" else _induction
        return [draw(split, rng) for _ in range(_DRAWN if count is None else count)]
    made = [prompt for prompt in _all(task, language) if prompt.split == split]
    if count is None:
        return made
    if count > len(made):
        raise ValueError(f"count is {count}; {split!r} of {task!r} in {language} has {len(made)} prompts")
    return _shuffled(made, rng)[:count]


def splits_of(task: str, language: str = "english") -> tuple[str, ...]:
    """The splits of a task in a language: those of ``SPLITS``, but nothing is held out to English alone."""
    return tuple(split for split in SPLITS[task] if (split, language) != ("held-out language", "english"))


def two_hop(city: str, relation: str, language: str = "english") -> Prompt:
    """A two-hop prompt about one city, whichever split it is in.

    Raises:
        ValueError: no such city, or no such relation in that language.
    """
    _known("language", language, world().languages)
    _known("city", city, world().cities)
    _known("relation", relation, world().languages[language].relations)
    return next(
        prompt
        for prompt in _all("two-hop", language)
        if (prompt.facts["city"], prompt.facts["relation"]) == (city, relation)
    )


def addition(a: int, b: int) -> list[Prompt]:
    """The three prompts of a sum: for its hundreds, its tens and its ones.

    Raises:
        ValueError: a summand that is not from 0 to 99.
    """
    for name, value in (("a", a), ("b", b)):
        if not 0 <= value <= 99:
            raise ValueError(f"{name} is {value}; it should be a whole number from 0 to 99")
    digits = f"{a + b:03d}"
    question = " ".join((*f"{a:02d}", "+", *f"{b:02d}", "="))
    facts = {"a": a, "b": b, "sum": a + b, "carry_ones": a % 10 + b % 10 >= 10}
    facts |= dict(zip(DIGITS, map(int, digits), strict=True))
    split = "test" if (a, b) in _held_out_sums() else "train"
    return [
        Prompt(
            " ".join((question, *digits[:place])),
            digits[place],
            "addition",
            split,
            facts | {"digit": digit},
        )
        for place, digit in enumerate(DIGITS)
    ]


def encode(model: TransformerBridge, text: str | Sequence[str]) -> Int[Tensor, "batch pos"]:
    """Token ids of one prompt, or of several with the same number of words, each after the start token.

    Like ``prompts.encode``, which this calls, with a sentence of its own for words the model does not know.

    Raises:
        ValueError: a word that is not in the world (the nearest that is gets named), no text, prompts of
            different lengths, or one longer than the context of 24 tokens.
    """
    known = model.tokenizer.get_vocab()
    texts = [text] if isinstance(text, str) else text if isinstance(text, Sequence) else []
    for word in (word for one in texts if isinstance(one, str) for word in one.split()):
        if word not in known:
            name, near = model.cfg.model_name, difflib.get_close_matches(word, known, n=1, cutoff=0)
            raise ValueError(
                f"text has the word {word!r}, which {name} does not know; the nearest is {near[0]!r}"
            )
    return any_prompts.encode(model, text)


def centroid_accuracy(vectors: Float[Tensor, "item width"], labels: Int[Tensor, "item"]) -> float:
    """How well a label can be read from a vector: the share of items nearest to the mean of their own class.

    The probe has nothing to fit or to tune. Each item is left out of the mean of its own class; near means a
    high cosine, after the mean of all vectors has been subtracted. For classes of equal size chance is just
    below one in the number of classes (an item taken out of its class leaves that mean a little further
    away).

    Args:
        vectors: one for each item.
        labels: class of each item, from 0; every class has at least two items.

    Raises:
        ValueError: a class with fewer than two items.
    """
    members = F.one_hot(labels).to(vectors.dtype)
    sizes = members.sum(dim=0)
    if sizes.min() < 2:
        raise ValueError(
            f"labels has {int(sizes.min())} of class {int(sizes.argmin())}; each should have at least 2"
        )
    centred = vectors - vectors.mean(dim=0)
    sums = members.T @ centred
    own = members[:, :, None] * centred[:, None]  # [item, class, width]: an item, where its class is
    means = (sums - own) / (sizes - members)[:, :, None]
    nearest = torch.cosine_similarity(means, centred[:, None], dim=-1).argmax(dim=1)
    return (nearest == labels).float().mean().item()


def _check(task: str, split: str, language: str) -> None:
    if task not in get_args(Task):
        raise ValueError(f"task is {task!r}; it should be one of {', '.join(get_args(Task))}")
    _known("language", language, world().languages)
    if language != "english" and task not in ("city", "state", "two-hop"):
        raise ValueError(f"language is {language!r}; task {task!r} is in english only")
    if split not in splits_of(task, language):
        raise ValueError(
            f"split is {split!r}; {task!r} in {language} has {', '.join(splits_of(task, language))}"
        )


def _known(argument: str, name: str, among: Mapping[str, Any]) -> None:
    if name not in among:
        near = difflib.get_close_matches(str(name), among, n=1, cutoff=0)
        raise ValueError(
            f"{argument} is {name!r}, which this world does not have; the nearest is {near[0]!r}"
        )


@cache
def _all(task: str, language: str) -> tuple[Prompt, ...]:
    """The complete list of a task's prompts."""
    make = {"city": _cities, "state": _states, "two-hop": _two_hops, "addition": _additions}[task]
    return tuple(make(language))


def _cities(language: str) -> Iterator[Prompt]:
    template = world().languages[language].templates["city"]
    for city, state in world().cities.items():
        facts = {"city": city, "state": state, "language": language}
        yield Prompt(template.format(city=city), state, "city", "train", facts)


def _states(language: str) -> Iterator[Prompt]:
    spoken = world().languages[language]
    for state in world().states:
        for relation, word in spoken.relations.items():
            text = spoken.templates["state"].format(relation=word, state=state)
            facts = {"state": state, "relation": relation, "language": language}
            yield Prompt(text, world().answer(state, relation, language), "state", "train", facts)


def _two_hops(language: str) -> Iterator[Prompt]:
    spoken, rng = world().languages[language], Random(f"pairs in {language}")
    for city, state in world().cities.items():
        for relation, word in spoken.relations.items():
            split = _two_hop_split(city, relation, language, is_drawn=rng.random() < _HELD_OUT_PAIRS)
            text = spoken.templates["two-hop"].format(relation=word, city=city)
            facts = {"city": city, "state": state, "relation": relation, "language": language}
            yield Prompt(text, world().answer(state, relation, language), "two-hop", split, facts)


def _two_hop_split(city: str, relation: str, language: str, *, is_drawn: bool) -> str:
    if world().cities[city] in world().unseen_states:
        return "unseen state"
    if city in world().held_out_cities:
        return "held-out city"
    if city in world().held_out_in_french and relation in world().languages["french"].relations:
        return "train" if language == "english" else "held-out language"  # always trained in English
    return "held-out pair" if is_drawn else "train"


def _additions(language: str) -> Iterator[Prompt]:
    for a in range(100):
        for b in range(100):
            yield from addition(a, b)


@cache
def _held_out_sums() -> frozenset[tuple[int, int]]:
    pairs = _shuffled([(a, b) for a in range(100) for b in range(100) if (a, b) != (36, 59)], Random("sums"))
    return frozenset([(36, 59), *pairs[: int(_HELD_OUT_SUMS * 10_000) - 1]])


@cache
def _name_pairs(split: str) -> tuple[tuple[str, str], ...]:
    names = world().names
    pairs = _shuffled([(one, two) for i, one in enumerate(names) for two in names[i + 1 :]], Random("names"))
    held_out = int(_HELD_OUT_NAMES * len(pairs))
    return tuple(pairs[:held_out] if split == "test" else pairs[held_out:])


def _ioi(split: str, rng: Random) -> Prompt:
    pairs, w = _name_pairs(split), world()
    first, second = _shuffled(pairs[_below(len(pairs), rng)], rng)
    io_first, which = rng.random() < 0.5, _below(len(w.ioi), rng)
    io, s = (first, second) if io_first else (second, first)
    place, thing = w.places[_below(len(w.places), rng)], w.objects[_below(len(w.objects), rng)]
    text = w.ioi[which].format(A=first, B=second, S=s, place=place, object=thing)
    return Prompt(text, io, "ioi", split, {"io": io, "s": s, "io_first": io_first, "template": which})


def _induction(split: str, rng: Random) -> Prompt:
    period = PERIODS[_below(len(PERIODS), rng)]
    pool = world().names + world().places + world().objects
    words = _shuffled(pool, rng)[:period]
    sentence = [words[at % period] for at in range(_REPEATED)]
    return Prompt(" ".join(sentence[:-1]), sentence[-1], "induction", split, {"period": period})


def _below(end: int, rng: Random) -> int:
    """A number from 0 to ``end - 1``."""
    return int(rng.random() * end)  # only Random.random is promised to draw alike in every version of Python


def _shuffled(items: Sequence[Any], rng: Random) -> list[Any]:
    return sorted(items, key=lambda _: rng.random())
