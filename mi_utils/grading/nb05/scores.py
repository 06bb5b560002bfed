"""Checks of notebook 05 about scores: offsets of attention, prefix matching and the in-context score."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, compare, kind, number, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 05.offsets: how far back?


def _judge_offsets(answer: Any, *, period: int) -> None:
    wanted = {"previous": 1, "duplicate": period, "induction": period - 1}
    got = _offsets(answer, list(wanted))
    if got == wanted:
        return
    if any(offset < 0 for offset in got.values()):
        raise Mistake("negative")
    for name, wrong in _wrong_offsets(period):
        if got == wanted | wrong:
            raise Mistake(name)
    off = next(key for key in wanted if got[key] != wanted[key])
    raise Mistake("something_else", f"Look again at {off!r}.")


def _offsets(answer: Any, names: list[str]) -> dict[str, float]:
    if not isinstance(answer, Mapping):
        raise Mistake("shape", f"Yours is {kind(answer)}.")
    if set(answer) != set(names):
        raise Mistake("shape", f"Yours has the keys {list(answer)}.")
    numbers = {name: number(answer[name]) for name in names}
    for name, one in numbers.items():
        if not isinstance(one, Tensor) or one.numel() != 1 or isinstance(answer[name], bool):
            raise Mistake("shape", f"The value of {name!r} is {kind(answer[name])}.")
    return {name: float(one) for name, one in numbers.items()}


def _wrong_offsets(period: int) -> list[tuple[str, dict[str, int]]]:
    """For each known mistake, the offsets that differ from the right ones."""
    return [
        ("swapped", {"duplicate": period - 1, "induction": period}),
        ("swapped", {"previous": period, "duplicate": 1}),
        ("swapped", {"previous": period - 1, "induction": 1}),
        ("start_token", {"duplicate": period + 1, "induction": period}),
        ("start_token", {"duplicate": period + 1}),
        ("duplicate_for_induction", {"induction": period}),
        ("before_the_copy", {"induction": period + 1}),
        ("one_too_few", {"previous": 0, "duplicate": period - 1, "induction": period - 2}),
        ("one_too_few", {"duplicate": period - 1, "induction": period - 2}),
        ("one_too_few", {"induction": period - 2}),
        ("itself", {"previous": 0}),
        ("both_copies", {"duplicate": 2 * period, "induction": 2 * period - 1}),
    ]


OFFSETS = Exercise(
    id="05.offsets",
    title="How far back?",
    minutes=5,
    difficulty=2,
    hints=(
        "Take a small case and draw it: period 3, `start a b c a b c`. Stand on the second `b`, at position 5.",
        "There the previous token is at 4, the earlier `b` at 2, and what followed the earlier `b` is the first `c`, at 3.",
        "The follower of the earlier copy is one step *nearer* than the copy itself: `period - 1`.",
    ),
    mistakes={
        "shape": "Give a dictionary of three whole numbers, with the keys 'previous', 'duplicate' and 'induction'.",
        "negative": "Count positions *back* as positive numbers: the token just before is 1 back.",
        "swapped": "Two of them are exchanged. The duplicate-token head looks at the same token, a whole period back; what followed that is one step nearer.",
        "duplicate_for_induction": "A whole period back stands the earlier copy of the token itself; a duplicate-token head looks there. The induction head looks at what *followed* it.",
        "before_the_copy": "One more than a period back stands the token *before* the earlier copy. What followed it is on the other side, one step nearer to you.",
        "start_token": "The start token is in the way of your count. It stands before both copies, so the distance from one copy to the other is the period, whatever comes before them.",
        "one_too_few": "One too few: an offset is the difference of two positions, so the token just before is 1 back, and the same token in the other copy a whole period.",
        "itself": "0 back is the token itself. The token just before is 1 back.",
        "both_copies": "Two periods back would lie before the first copy: the sequence is two copies long in all. The earlier copy is one period back.",
        "something_else": "Those are not the three offsets. Draw a small case, such as `start a b c a b c`, and count.",
    },
    judge=_judge_offsets,
    asks_for="value",
)

# ------------------------------------------------------------------ 05.prefix_matching: the prefix-matching score


def _pattern(heads: int, period: int) -> Tensor:
    """Causal attention [head, query, key]; each row sums to 1."""
    positions = 2 * period + 1
    scores = 2 * torch.randn(heads, positions, positions, generator=seeded(period))
    future = torch.ones(positions, positions, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def _judge_prefix(answer: Callable) -> None:
    for heads, period in ((6, 7), (3, 4)):
        pattern = _pattern(heads, period)
        got, _ = ask(answer, pattern, period)
        shapes = {"one_number": [()], "not_averaged": [(heads, period)], "per_query": [(period,)]}
        compare(
            got, _on_diagonal(pattern, period, period - 1).mean(-1), _wrong_prefix(pattern, period), shapes
        )


def _on_diagonal(pattern: Tensor, period: int, offset: int, first: int = 0, last: int = 0) -> Tensor:
    """Attention ``offset`` back from the queries of the second copy, with ``first`` and ``last`` added to their ends."""
    queries = torch.arange(period + 1 + first, 2 * period + 1 + last)
    return pattern[:, queries, queries - offset]


def _wrong_prefix(pattern: Tensor, period: int) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    offset = period - 1
    right = _on_diagonal(pattern, period, offset)
    whole = pattern.diagonal(-offset, 1, 2)  # the first copy's last two queries are on it too
    later, first_copy, followers = slice(period + 1, None), slice(1, period + 1), slice(2, period + 2)
    blocks = [pattern[:, later, first_copy], pattern[:, later, followers]]
    return [
        ("transposed", torch.zeros(len(pattern))),  # above the diagonal of causal attention
        ("duplicate_token", _on_diagonal(pattern, period, period).mean(-1)),
        ("duplicate_token", pattern.diagonal(-period, 1, 2).mean(-1)),
        ("before_the_copy", _on_diagonal(pattern, period, period + 1).mean(-1)),
        ("before_the_copy", pattern.diagonal(-period - 1, 1, 2).mean(-1)),
        ("previous_token", _on_diagonal(pattern, period, 1).mean(-1)),
        ("previous_token", pattern.diagonal(-1, 1, 2).mean(-1)),
        ("two_after", _on_diagonal(pattern, period, period - 2).mean(-1)),
        ("first_copy_too", whole.mean(-1)),
        ("first_copy_too", _on_diagonal(pattern, period, offset, first=-1).mean(-1)),
        ("first_copy_too", whole.sum(-1) / period),
        ("all_queries", right.sum(-1) / pattern.shape[-1]),
        ("all_queries", right.sum(-1) / (2 * period)),
        ("all_queries", whole.sum(-1) / pattern.shape[-1]),
        ("start_token", _on_diagonal(pattern, period, offset, first=-1, last=-1).mean(-1)),
        ("one_left_out", right[:, 1:].mean(-1)),
        ("one_left_out", right[:, :-1].mean(-1)),
        ("one_query", right[:, -1]),
        ("one_query", right[:, 0]),
        ("largest", right.amax(-1)),
        ("summed", right.sum(-1)),
        ("median", right.median(-1).values),
        ("whole_block", blocks[0].mean((1, 2))),
        ("whole_block", blocks[1].mean((1, 2))),
        ("whole_block", blocks[0].sum(-1).mean(-1)),
        ("whole_block", blocks[1].sum(-1).mean(-1)),
        ("most_attended", (pattern[:, later].argmax(-1) == torch.arange(2, period + 2)).float().mean(-1)),
    ]


PREFIX_MATCHING = Exercise(
    id="05.prefix_matching",
    title="The prefix-matching score",
    minutes=10,
    difficulty=3,
    hints=(
        "Which entry of `pattern[head]` says how much the query at position p looks `period - 1` back?",
        "The queries are `torch.arange(period + 1, 2 * period + 1)`, the key of each stands `period - 1` before it. Index both axes together.",
        "`pattern[:, queries, queries - (period - 1)].mean(dim=-1)`. Or the last `period` entries of the diagonal `pattern.diagonal(1 - period, 1, 2)`.",
    ),
    mistakes={
        "shape": "Return one number for each head: shape [head].",
        "one_number": "That is one number for all heads together. Each head has a score of its own: shape [head].",
        "not_averaged": "The mean over the queries of the second copy is missing.",
        "per_query": "That is one number for each query. Take the mean over queries and keep the heads: shape [head].",
        "transposed": "That is 0 for every head: it reads where the key comes *after* the query, and attention never looks ahead. Query and key are swapped; the axes are [head, query, key].",
        "duplicate_token": "That is the duplicate-token score: attention to the earlier copy itself, `period` back. Its follower is one step nearer.",
        "before_the_copy": "That is attention to the token *before* the earlier copy. Its follower stands one step nearer than the copy, not one further.",
        "previous_token": "That is the previous-token score: attention one back.",
        "two_after": "That is attention to the second token after the earlier copy. The follower is `period - 1` back.",
        "first_copy_too": "Queries of the first copy are in it. The diagonal `period - 1` back begins before the second copy does: two of its entries have no earlier copy to look for. Keep the last `period`.",
        "all_queries": "The mean goes over too many queries: those of the first copy count as zeros. Divide by `period`, the number of queries in the second copy.",
        "start_token": "Your queries begin one too early: the start token shifts everything by one, so that the second copy is at positions `period + 1` to `2 * period`.",
        "one_left_out": "One query is missing, the first or the last of the second copy. All `period` of them have an earlier copy, and it has a follower.",
        "one_query": "That is a single query. Take the mean over all queries of the second copy.",
        "largest": "That is the largest of the queries. One good hit makes no induction head: take the mean.",
        "summed": "That is the sum over queries, which grows with the period. Take the mean, which is at most 1.",
        "median": "That is the median. The score is the mean.",
        "whole_block": "That takes a whole block of the pattern: all keys of the first copy for every query. Each query has one follower of its own, so index queries and keys together (two slices give every pair).",
        "most_attended": "That is the share of queries for which the follower gets the *most* attention. The score is how much attention it gets.",
        "something_else": "That is not the mean attention from the second copy to the followers.",
    },
    judge=_judge_prefix,
)

# ------------------------------------------------------------------ 05.in_context_score: the in-context score


def _judge_context(answer: Callable) -> None:
    for seed, slope in ((3, -0.1), (2, 0.1)):  # context helps; context harms
        loss = 3 + torch.rand(11, 13, generator=seeded(seed)) + slope * torch.arange(13)
        for early, late in ((2, 9), (4, 10)):
            _compare_context(answer, loss, early, late)


def _compare_context(answer: Callable, loss: Tensor, early: int, late: int) -> None:
    got, _ = ask(answer, loss, early, late)
    wanted = (loss[:, late] - loss[:, early]).mean()
    if same(number(got), wanted):
        return
    if same(number(got), -wanted):
        mirrored, _ = ask(answer, 10 - loss, early, late)  # has the opposite score
        raise Mistake("absolute" if same(number(mirrored), -wanted) else "reversed")
    shapes = {"not_averaged": [(len(loss),)], "two_numbers": [(2,)], "positions_left": [(loss.shape[1],)]}
    compare(got, wanted, _wrong_context(loss, early, late), shapes)


def _wrong_context(loss: Tensor, early: int, late: int) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    at = loss.mean(0)
    half = len(at) // 2
    first, last = loss[:, early], loss[:, late]
    return [
        ("ratio", at[late] / at[early]),
        ("ratio", at[early] / at[late]),
        ("ratio", (at[late] - at[early]) / at[early]),
        ("ratio", (last / first).mean()),
        ("ratio", ((last - first) / first).mean()),
        ("stretches", at[:late].mean() - at[:early].mean()),
        ("stretches", at[: late + 1].mean() - at[: early + 1].mean()),
        ("stretches", at[late:].mean() - at[early:].mean()),
        ("stretches", at[late:].mean() - at[:early].mean()),
        ("stretches", at[late:].mean() - at[: early + 1].mean()),
        ("stretches", at[late:].mean() - at[:late].mean()),
        ("stretches", at[late] - at[:late].mean()),
        ("stretches", at[early:late].mean()),
        ("stretches", at[early : late + 1].mean()),
        ("ignores_positions", at[-1] - at[0]),
        ("ignores_positions", at[half:].mean() - at[:half].mean()),
        ("one_prompt", last[0] - first[0]),
        ("one_prompt", last[-1] - first[-1]),
        ("summed", (last - first).sum()),
        ("median", last.median() - first.median()),
        ("median", (last - first).median()),
        ("wrong_axis", loss[late].mean() - loss[early].mean()),
        ("counts_from_one", at[late - 1] - at[early - 1]),
        ("counts_from_one", at[late + 1] - at[early + 1]),
        ("exponential", at[late].exp() - at[early].exp()),
        ("exponential", last.exp().mean() - first.exp().mean()),
        ("one_position", at[late]),
        ("one_position", at[early]),
    ]


IN_CONTEXT_SCORE = Exercise(
    id="05.in_context_score",
    title="The in-context score",
    minutes=5,
    difficulty=1,
    hints=(
        "Two columns of `loss` are all you need.",
        "`loss[:, late]` is the loss of every prompt at that position. Which of the two columns is subtracted?",
        "`(loss[:, late] - loss[:, early]).mean()`",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "not_averaged": "That is one number for each prompt. Take the mean over the batch.",
        "two_numbers": "Those are two numbers, the loss at each of the positions. Return their difference.",
        "positions_left": "That is one number for each position. Only two of them count: `late` and `early`.",
        "reversed": "The sign is the other way round: the score is late minus early, so that it is negative where context helps.",
        "absolute": "Without the absolute value: the sign says whether context helps (negative) or harms.",
        "ratio": "That is a ratio. The score is a difference, in nats.",
        "stretches": "That averages over a stretch of positions. The score compares two single positions, `late` and `early`.",
        "ignores_positions": "That doesn't look at the positions asked for. Use the arguments `early` and `late`.",
        "one_prompt": "That is one prompt only. Take the mean over the batch.",
        "summed": "That is the sum over the batch, which grows with the number of prompts. Take the mean.",
        "median": "That is the median over the batch. The score is a difference of means.",
        "wrong_axis": "That picks prompts instead of positions: `loss[late]` is a row. The axes are [batch, pos], so write `loss[:, late]`.",
        "counts_from_one": "Those are neighbouring positions: `early` and `late` are indices into `loss` as they are, counted from 0.",
        "exponential": "That is a difference of perplexities. The score is a difference of losses; leave out the exponential.",
        "one_position": "That is the loss at one of the positions. The score is the difference of the two.",
        "something_else": "That is not the mean loss at `late` minus the mean loss at `early`.",
    },
    judge=_judge_context,
)
