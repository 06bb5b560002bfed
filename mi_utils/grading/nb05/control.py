"""Check of notebook 05 of the matched random control: what is drawn, and from which generator."""

import random
from collections import Counter
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_utils.grading.answers import kind
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import chance_kept, global_chance, seeded

Head = tuple[int, int]

_HEADS: list[Head] = [(layer, head) for layer in range(6) for head in range(6)]
_TOP: list[Head] = [(4, 2), (2, 1), (3, 4), (4, 5), (3, 0)]
_DRAWS = 500
# Each head is drawn 81 times on average with a standard deviation of 8; of the 170,000 sets few come twice.
_COUNT_BOUND, _LEAST_SETS = 52, 450
_ELSEWHERE = 765_432_101  # a seed that nobody takes: where an answer seeds a global generator, that must show


def _judge_control(answer: Callable) -> None:
    with chance_kept():
        _judge_source(answer)
        generator = seeded(0)
        draws = [_drawn(answer, generator) for _ in range(_DRAWS)]
        _judge_sets(draws)
        _judge_generator(answer)
        _judge_uniform(draws)


def _drawn(answer: Callable, generator: torch.Generator) -> list[Head]:
    heads, top = list(_HEADS), list(_TOP)
    got = _as_heads(answer(heads, top, generator))
    if heads != _HEADS or top != _TOP:
        raise Mistake("in_place")
    return got


def _as_heads(got: Any) -> list[Head]:
    """Pairs of whole numbers from whatever holds them in order; sets too."""
    rows = got.tolist() if isinstance(got, Tensor | np.ndarray) else got
    if not isinstance(rows, list | tuple | set | frozenset):
        raise Mistake("shape", f"It returned {kind(got)}.")
    rows = [one.tolist() if isinstance(one, Tensor | np.ndarray) else one for one in rows]
    if any(isinstance(one, Integral) for one in rows):
        raise Mistake("flat")
    for one in rows:
        if not (isinstance(one, list | tuple) and len(one) == 2 and all(_is_whole(number) for number in one)):
            raise Mistake("shape", f"In it stands {one!r}.")
    return [(int(layer), int(head)) for layer, head in rows]


def _is_whole(one: Any) -> bool:
    return isinstance(one, Integral) or (
        isinstance(one, Tensor) and one.ndim == 0 and not one.is_floating_point()
    )


def _judge_sets(draws: list[list[Head]]) -> None:
    """What must be true of every draw."""
    for draw in draws:
        if unknown := set(draw) - set(_HEADS):
            raise Mistake("no_such_head", f"It returned {min(unknown)}.")
    for draw in draws:
        if shared := set(draw) & set(_TOP):
            raise Mistake("has_top", f"It returned {min(shared)}.")
    for draw in draws:
        if len(draw) != len(_TOP):
            raise Mistake("other_number", f"For {len(_TOP)} heads in `top` it returned {len(draw)}.")
    for draw in draws:
        if len(set(draw)) < len(draw):
            raise Mistake("repeats", f"It returned {Counter(draw).most_common(1)[0][0]} more than once.")


def _judge_source(answer: Callable) -> None:
    """Whether global generators are left alone."""
    _drawn(answer, seeded(0))  # whether it has the right form comes first
    torch.default_generator.manual_seed(_ELSEWHERE)
    random.seed(_ELSEWHERE)
    np.random.seed(_ELSEWHERE)
    before = global_chance()
    answer(list(_HEADS), list(_TOP), seeded(0))
    if global_chance() != before:
        raise Mistake("global_generator")


def _judge_generator(answer: Callable) -> None:
    """Whether all chance comes from the generator that is handed over, which is used as it is and moves on."""
    firsts = [_drawn(answer, seeded(seed)) for seed in range(8)]
    if all(set(one) == set(firsts[0]) for one in firsts):
        raise Mistake("not_random")
    if [_drawn(answer, seeded(seed)) for seed in range(8)] != firsts:
        raise Mistake("not_reproducible")
    generator = seeded(0)
    successive = [_drawn(answer, generator) for _ in range(8)]
    if all(one == successive[0] for one in successive):
        raise Mistake("same_again")


def _judge_uniform(draws: list[list[Head]]) -> None:
    layers = sorted(layer for layer, _ in _TOP)
    if all(sorted(layer for layer, _ in draw) == layers for draw in draws):
        raise Mistake("same_layers")
    others = [head for head in _HEADS if head not in _TOP]
    count = Counter(head for draw in draws for head in draw)
    expected = _DRAWS * len(_TOP) / len(others)
    never = next((head for head in others if not count[head]), None)
    if never is not None:
        raise Mistake("not_uniform", f"In {_DRAWS} draws {never} never came.")
    if any(abs(count[head] - expected) > _COUNT_BOUND for head in others):
        most, least = max(others, key=count.__getitem__), min(others, key=count.__getitem__)
        raise Mistake(
            "not_uniform", f"In {_DRAWS} draws {most} came {count[most]} times, {least} {count[least]}."
        )
    if len(set(map(frozenset, draws))) < _LEAST_SETS:
        raise Mistake(
            "not_uniform", "Each head comes as often as the others, but always in the same company."
        )


RANDOM_CONTROL = Exercise(
    id="05.random_control",
    title="Heads to compare with",
    minutes=5,
    difficulty=2,
    hints=(
        "Leave out the heads in `top` first; then draw from what is left.",
        "`torch.randperm(n, generator=generator)` shuffles the numbers below n. The first few of them are different, and any set is as likely as any other.",
        "`others = [head for head in heads if head not in top]`, then `[others[i] for i in torch.randperm(len(others), generator=generator)[: len(top)].tolist()]`.",
    ),
    mistakes={
        "shape": "Return a list of heads, each a pair (layer, head).",
        "flat": "Those are single numbers, such as indices into a list. Return the heads themselves, each a pair (layer, head).",
        "in_place": "Your function changed the list `heads` or `top` that it was given, and both are used again. Make a new list.",
        "no_such_head": "There is a head in it that isn't in `heads`: draw from that list.",
        "has_top": "There are heads of `top` in it, so that the control does some of the harm it is to be compared with. Leave them out before you draw.",
        "other_number": "The number of heads is not that of `top`. Knocking out more heads does more harm, whichever they are; so the control needs exactly as many (leave out those in `top` *before* you draw, not afterwards).",
        "repeats": "A head is drawn twice, so that fewer heads are knocked out than in `top`. Draw without replacement: `torch.randperm` does.",
        "global_generator": "That draws from a global generator: torch's, NumPy's or Python's. Hand the one you got to every call that draws, `generator=generator`, and seed nothing.",
        "not_random": "The same heads come whatever the generator: nothing is drawn, or it is seeded anew each time. One fixed choice may be a lucky one, or an unlucky.",
        "not_reproducible": "With two generators of the same seed it returns two different controls, so that something is drawn elsewhere. Use `generator` only.",
        "same_again": "Called again with the same generator, it returns the same once more. A generator moves on as it is used: use the one you got, and don't make another from its seed.",
        "same_layers": "Your control has as many heads in each layer as `top`. That is a sensible control too, a stricter one, but the one asked for is drawn uniformly from all heads that are not in `top`.",
        "not_uniform": "Not every set of heads is equally likely.",
    },
    judge=_judge_control,
)
