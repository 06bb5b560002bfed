"""Checks of the exercises of notebook 06 about prompts and their metric: the ABC corruption, and greater-than."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, compare, kind
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import chance_kept, judge_randomness, seeded

# ------------------------------------------------------------------ 06.abc: three unrelated names


@dataclass(frozen=True)
class _Prompts:
    """IOI-like prompts, each with its names elsewhere. tokens: [batch, pos]; io, s1, s2: [batch]; pool: [n]."""

    tokens: Tensor
    io: Tensor
    s1: Tensor
    s2: Tensor
    pool: Tensor

    @property
    def where(self) -> Tensor:
        return torch.stack([self.io, self.s1, self.s2], dim=1)

    def names(self, tokens: Tensor) -> Tensor:
        """What stands at the places of IO, S1 and S2: [batch, 3]."""
        return tokens.gather(1, self.where)


def _prompts(rows: int = 240, length: int = 13) -> _Prompts:
    """So many rows that a name drawn by chance is the prompt's own, or twice the same, in some of them."""
    generator = seeded()
    pool = 300 + 7 * torch.randperm(12, generator=generator)
    tokens = torch.randint(1000, 2000, (rows, length), generator=generator)
    # The second S comes after both other names, which come in either order; three columns hold no name in any row.
    first = torch.stack([torch.randperm(5, generator=generator)[:2] + 2 for _ in range(rows)])
    s2 = torch.randint(8, 11, (rows,), generator=generator)
    two = torch.stack([pool[torch.randperm(len(pool), generator=generator)[:2]] for _ in range(rows)])
    where = torch.cat([first, s2[:, None]], dim=1)
    tokens.scatter_(1, where, two[:, [0, 1, 1]])
    return _Prompts(tokens, *where.unbind(1), pool)


def _judge_abc(answer: Callable) -> None:
    prompts = _prompts()
    given = prompts.tokens, prompts.io, prompts.s1, prompts.s2, prompts.pool

    def draw(generator: torch.Generator) -> tuple[Tensor, bool]:
        got, unchanged = ask(answer, *given, generator)
        if not isinstance(got, Tensor) or got.shape != prompts.tokens.shape:
            raise Mistake("shape", f"It returned {kind(got)}; wanted is {tuple(prompts.tokens.shape)}.")
        if got.dtype.is_floating_point or got.dtype == torch.bool:
            raise Mistake("not_ids", f"It returned {got.dtype}.")
        return got.detach().cpu(), unchanged

    with chance_kept():  # the notebook's own generator stays where it is
        got, unchanged = draw(seeded())
    _judge_places(got, prompts)
    _judge_kept(prompts.names(got), prompts)
    _judge_names(prompts.names(got), prompts)
    judge_randomness(lambda generator: draw(generator)[0])
    if not unchanged:
        raise Mistake("in_place")


def _judge_places(got: Tensor, prompts: _Prompts) -> None:
    """Whether anything but the names was changed, and in which manner."""
    changed = got != prompts.tokens
    if not changed.any():
        raise Mistake("nothing_changed")
    if changed[0].any() and not changed[1:].any():
        raise Mistake("first_row_only")
    elsewhere = torch.ones_like(changed).scatter(1, prompts.where, False)
    if not (changed & elsewhere).any():
        return
    columns = changed.any(dim=0)
    if columns.sum() <= 3 and set(columns.nonzero()[:, 0].tolist()) <= set(prompts.where[0].tolist()):
        raise Mistake("places_of_first_row")
    if (changed | ~elsewhere)[:, columns].all() and columns.sum() < changed.shape[1]:
        raise Mistake("every_place_in_every_row")
    row, place = (changed & elsewhere).nonzero()[0].tolist()
    raise Mistake(
        "other_positions",
        f"In row {row}, position {place} changed; its names stand at "
        f"{', '.join(map(str, prompts.where[row].tolist()))}.",
    )


def _judge_kept(new: Tensor, prompts: _Prompts) -> None:
    """Names left where they were. ``new``: [batch, 3], at the places of IO, S1, S2."""
    old = prompts.names(prompts.tokens)
    kept = (new == old).all(dim=0)
    if kept[0]:
        raise Mistake("io_kept")
    if kept[1:].any():
        raise Mistake("s_kept", "S1 and S2 are." if kept[1:].all() else f"It is S{1 if kept[1] else 2}.")
    if torch.equal(new, old[:, [1, 0, 0]]):
        raise Mistake("swapped")
    if torch.isin(new, torch.arange(len(prompts.pool))).all():
        raise Mistake("index_not_id", f"Yours are numbers from {int(new.min())} to {int(new.max())}.")
    if not torch.isin(new, prompts.pool).all():
        raise Mistake("not_from_pool", f"Token {int(new[~torch.isin(new, prompts.pool)][0])} isn't in it.")


def _judge_names(new: Tensor, prompts: _Prompts) -> None:
    """Whether three names were drawn for each prompt as they should be. ``new``: [batch, 3]."""
    io, s1, s2 = new.unbind(1)
    if (s1 == s2).all():
        raise Mistake("repetition_kept")
    if len(new.unique(dim=0)) == 1:
        raise Mistake("same_names")
    own = (new[:, :, None] == prompts.names(prompts.tokens)[:, None]).any(dim=(1, 2))
    repeat = (io == s1) | (io == s2) | (s1 == s2)
    # Who draws once for all prompts of a batch may still avoid one name or another: look at what is common first.
    for name, rows in (("names_repeat", repeat), ("own_names", own)):
        if rows.any():
            row = int(rows.nonzero()[0])
            raise Mistake(
                name, f"It happened in {int(rows.sum())} of {len(new)} prompts, the first is row {row}."
            )
    never = len(prompts.pool) - len(new.unique())
    if never:
        raise Mistake(
            "part_of_pool", f"{never} of {len(prompts.pool)} names never came in {len(new)} prompts."
        )


ABC = Exercise(
    id="06.abc",
    title="Three unrelated names",
    minutes=10,
    difficulty=2,
    hints=(
        "Go row by row. Which names of the pool are still free, once those of this prompt are struck out?",
        "`torch.isin(pool, tokens[row, where])` marks the names to strike out; the first three of a random permutation of the rest are three different names.",
        "`free[torch.randperm(len(free), generator=generator)[:3]]`, put at `where = torch.stack([io[row], s1[row], s2[row]])` of a clone of `tokens`.",
    ),
    mistakes={
        "shape": "Return the token ids of all prompts: a tensor of the shape of `tokens`.",
        "not_ids": "The shape is right, but token ids are whole numbers.",
        "nothing_changed": "The prompts came back as they were.",
        "first_row_only": "Only the first prompt was changed. Every row has its own names to replace.",
        "places_of_first_row": "You replace at the positions of the first prompt in every row. Names stand elsewhere in each: use `io[row]`, `s1[row]`, `s2[row]`.",
        "every_place_in_every_row": "`changed[:, io]` means the columns `io` of *all* rows. Pair each row with its own position: `changed[torch.arange(len(tokens)), io]`.",
        "other_positions": "Something else than the three names was changed.",
        "io_kept": "IO is still there. Then the answer stands in the prompt, and heads that copy a name to the end still have it to copy.",
        "s_kept": "A name S is still in its old place. All three positions get new names.",
        "swapped": "IO and S have changed places: the names of the prompt are still there, one of them twice, and the task is the same with the other answer. The new names should have nothing to do with the old ones.",
        "index_not_id": "Those are places in the pool, not tokens: `pool[...]` turns them into ids.",
        "not_from_pool": "A new name is no token of the pool.",
        "repetition_kept": "S1 and S2 get the same new name, so that one name still stands there twice. The repetition is the cue of duplicate-token, induction and S-inhibition heads: it has to go. Three positions, three names.",
        "same_names": "All prompts got the same three names. Averaged over such prompts, a head's output would still tell those names: draw afresh for each.",
        "names_repeat": "Some prompt has the same new name twice, which brings back by chance the repetition that should go. Draw without replacement.",
        "own_names": "Some new name is a name of the same prompt: by chance it keeps, or even brings in twice, what should go. Strike the prompt's own names out of the pool first.",
        "part_of_pool": "Some names of the pool never come. Any name that isn't the prompt's own should have a chance: shuffle all that are free, then take three.",
        "global_generator": "That draws from torch's global generator. Hand the one you got to the call that draws: `generator=generator`.",
        "same_again": "Called again with the same generator, it returns the same once more. A generator moves on as it is used: use the one you got, and don't seed it or make one of your own.",
        "not_reproducible": "With two generators of the same seed it returns two different things, so that something is drawn elsewhere (NumPy's or Python's random numbers, say). Use `generator` only.",
        "in_place": "Right, but `tokens` itself was changed: the prompts to compare with are gone. Work on a clone.",
    },
    judge=_judge_abc,
)

# ------------------------------------------------------------------ 06.greater_than: greater than


def _judge_greater(answer: Callable) -> None:
    generator = seeded()
    digits = torch.tensor([3, 0, 9, 6, 8, 3, 1])
    # Not in order, and one of the ids is itself a digit: whoever takes one for the other is noticed.
    for ids in (torch.tensor([40, 17, 52, 4, 33, 21, 58, 29, 12, 45]), torch.arange(20, 30)):
        logits = torch.randn(len(digits), 60, generator=generator)
        logits[:, ids] += 1.5
        probs = logits.softmax(-1)
        got, unchanged = ask(answer, probs, digits, ids)
        wanted = _split(probs[:, ids], torch.arange(10) > digits[:, None])
        if isinstance(got, Tensor) and got.shape == wanted.shape and not got.isfinite().all():
            raise Mistake("not_a_number")
        compare(
            got, wanted, _wrong_metrics(probs, digits, ids), {"over_prompts": [()], "not_summed": [(7, 10)]}
        )
        if not unchanged:
            raise Mistake("in_place")


def _split(of_digits: Tensor, plus: Tensor, minus: Tensor | None = None) -> Tensor:
    """Sum of what is marked plus, less that of what is marked minus (all else, if not said)."""
    minus = ~plus if minus is None else minus
    return (of_digits * plus).sum(-1) - (of_digits * minus).sum(-1)


def _wrong_metrics(probs: Tensor, digits: Tensor, ids: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    of_digits, value = probs[:, ids], torch.arange(10)
    above, below = value > digits[:, None], value < digits[:, None]
    greater, others = (of_digits * above).sum(-1), (of_digits * ~above).sum(-1)
    right = greater - others
    rows = torch.arange(len(digits))
    following = of_digits[rows, (digits + 1).clamp(max=9)]
    return [
        ("sign", -right),
        ("digit_counts_as_greater", _split(of_digits, ~below)),
        ("digit_left_out", _split(of_digits, above, below)),
        ("greater_only", greater),
        ("greater_only", (of_digits * ~below).sum(-1)),
        ("others_only", others),
        ("others_only", -others),
        ("normalised", right / of_digits.sum(-1)),
        ("normalised", _split(of_digits.softmax(-1), above)),
        ("ratio", greater / others),
        ("all_tokens", 2 * greater - 1),
        ("ids_compared", _split(of_digits, ids > digits[:, None])),
        ("ids_compared", _split(of_digits, value > ids[digits][:, None])),
        ("ids_compared", _split(of_digits, ids > ids[digits][:, None])),
        ("digits_as_ids", _split(probs[:, :10], above)),
        ("first_prompt", _split(of_digits, value > digits[0])),
        ("averaged", right / 10),
        ("averaged", greater / above.sum(-1).clamp_min(1) - others / (~above).sum(-1)),
        ("softmax_again", _split(probs.softmax(-1)[:, ids], above)),
        ("logarithms", _split(of_digits.log(), above)),
        ("logarithms", greater.log() - others.log()),
        ("next_digit", following - of_digits[rows, digits]),
        ("next_digit", following),
        ("yes_or_no", (greater > others).to(probs.dtype)),
    ]


GREATER_THAN = Exercise(
    id="06.greater_than",
    title="A metric for greater than",
    minutes=10,
    difficulty=2,
    hints=(
        "Ten probabilities of each prompt count, `probs[:, ids]`, in the order of the digits 0 to 9. Which of them get a plus, and what do the others get?",
        "`torch.arange(10) > digit[:, None]` says, for each prompt, which of the ten are greater than its digit.",
        "`torch.where(greater, of_digits, -of_digits).sum(dim=-1)`",
    ),
    mistakes={
        "shape": "Return one number for each prompt: shape [batch].",
        "over_prompts": "That is one number for all prompts together. Return one for each: shape [batch].",
        "not_summed": "Those are ten numbers for each prompt. Add them up: shape [batch].",
        "sign": "That is the wrong way round: it should be positive where the greater digits are likelier.",
        "digit_counts_as_greater": "The digit itself counts as greater: `>=` is true of it too. Only digits strictly greater are on the plus side.",
        "digit_left_out": "The digit itself is on neither side. It isn't greater, so its probability is taken off: a model that repeats the start year would otherwise go unpunished.",
        "greater_only": "That is only what the greater digits get. Take off what the others get.",
        "others_only": "That is only what the digits get that are not greater. The metric is the greater ones less these.",
        "normalised": "You divide by what all digits get. Then a model that hardly expects a digit looks as sure as one that does: take the probabilities as they are.",
        "ratio": "That is a ratio, without a bound where the denominator is small. Take the difference.",
        "all_tokens": "Everything that isn't a greater digit is taken off, tokens that are no digit too. Those count for neither side.",
        "ids_compared": "That compares token ids. An id is a place in the vocabulary, and its order means nothing: compare the digits' values, 0 to 9.",
        "digits_as_ids": "That takes the tokens with the ids 0 to 9. The tokens of the digits are in `ids`.",
        "first_prompt": "The digit of the first prompt is used for all. Each has its own: `digit[:, None]` keeps the axes in line.",
        "averaged": "That takes means instead of sums. Probabilities of different digits add up: the chance that *some* greater digit comes is their sum.",
        "softmax_again": "There is a softmax too many: `probs` holds probabilities already.",
        "logarithms": "Those are logarithms. The metric is of probabilities: that some greater digit comes is their sum, and logarithms don't add up like that.",
        "next_digit": "You look at the next digit only. All greater digits count.",
        "yes_or_no": "That says which side is likelier. Return by how much.",
        "not_a_number": "There is NaN or infinity in it. The digit may be 9: then nothing is greater, and a mean over nothing or a division by it goes wrong. Sums don't.",
        "in_place": "Right, but an argument was changed: work on a copy.",
        "something_else": "That is not the probability of all greater digits less that of the others.",
    },
    judge=_judge_greater,
)
