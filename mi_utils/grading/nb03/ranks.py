"""Checks of notebook 03 about ranks: of an answer, and the layer from which on it is the first."""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import kind, same
from mi_utils.grading.core import Exercise, Mistake, Stopped
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 03.rank: the rank of an answer


def _judge_rank(answer: Callable) -> None:
    token, other = 7, 3
    logits = 2 * torch.randn(5, 4, 160, generator=seeded())
    logits[2, 1, token] = 20.0  # somewhere it is the first choice
    log_probs, ties = logits.log_softmax(-1), logits.round().log_softmax(-1)
    got = answer(log_probs.clone(), token)
    if not same(got, _rank(log_probs, token)):
        raise _rank_mistake(answer, got, log_probs, ties, token)
    if not same(answer(log_probs.clone(), other), _rank(log_probs, other)):
        raise Mistake("ignores_token", f"Right for token {token}, but not for token {other}.")
    if not same(answer(ties.clone(), token), _rank(ties, token)):
        raise Mistake("ties")


def _rank(log_probs: Tensor, token: int) -> Tensor:
    return (log_probs > log_probs[..., token, None]).sum(-1).double()


def _rank_mistake(answer: Callable, got: Any, log_probs: Tensor, ties: Tensor, token: int) -> Mistake:
    rank, (layers, positions, vocab) = _rank(log_probs, token), log_probs.shape
    if not isinstance(got, Tensor) or got.shape != rank.shape:
        return _rank_shape_mistake(got, layers, positions, vocab)
    if same(got, rank + 1):
        first_is_one = same(answer(ties.clone(), token), _rank(ties, token) + 1)
        return Mistake("one_based" if first_is_one else "counts_itself")
    for name, wrong in _wrong_ranks(log_probs, token):
        if same(got, wrong):
            return Mistake(name)
    if 0 < got.max() < rank.max() and same(got, rank.clamp(max=float(got.max()))):
        return Mistake("capped", f"Yours is never more than {float(got.max()):g}.")
    if same(answer(log_probs.clone(), token + 1), got.detach().double()):
        return Mistake("ignores_token")
    return Mistake("something_else")


def _rank_shape_mistake(got: Any, layers: int, positions: int, vocab: int) -> Mistake:
    shapes = {
        "last_position": [(layers,)],
        "last_layer": [(positions,)],
        "wrong_axis": [(positions, vocab), (layers, vocab)],
    }
    detail = f"It returned {kind(got)}; wanted is {(layers, positions)}."
    for name, its_shapes in shapes.items():
        if isinstance(got, Tensor) and got.shape in its_shapes:
            return Mistake(name, detail)
    return Mistake("shape", detail)


def _wrong_ranks(log_probs: Tensor, token: int) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    rank, vocab = _rank(log_probs, token), log_probs.shape[-1]
    return [
        ("reversed", vocab - 1 - rank),
        ("reversed", vocab - rank),
        ("token_at_rank", log_probs.argsort(-1, descending=True)[..., token].double()),
        ("token_at_rank", log_probs.argsort(-1)[..., token].double()),
        ("wrong_axis", _rank_along(-log_probs, 0)[..., token]),
        ("wrong_axis", _rank_along(log_probs, 0)[..., token]),
        ("wrong_axis", _rank_along(-log_probs, 1)[..., token]),
        ("wrong_axis", _rank_along(log_probs, 1)[..., token]),
        ("fraction", rank / vocab),
        ("fraction", rank / (vocab - 1)),
        ("yes_or_no", (rank == 0).double()),
        ("yes_or_no", (rank != 0).double()),
        ("likelihood", log_probs[..., token]),
        ("likelihood", log_probs[..., token].exp()),
    ]


def _rank_along(values: Tensor, dim: int) -> Tensor:
    return values.argsort(dim).argsort(dim).double()


RANK = Exercise(
    id="03.rank",
    title="Rank of an answer by layer",
    minutes=5,
    difficulty=2,
    hints=(
        "There is no need to sort: the rank is a number of tokens, so count them.",
        "Compare `log_probs` with the token's own value, `log_probs[..., token, None]`; the `None` keeps the axes in line.",
        "`(log_probs > log_probs[..., token, None]).sum(dim=-1)`",
    ),
    mistakes={
        "shape": "Return one whole number for each layer and position: shape [layer, pos].",
        "last_position": "That is one number for each layer. Give the rank at every position: shape [layer, pos].",
        "last_layer": "That is one number for each position. Give the rank at every layer: shape [layer, pos].",
        "wrong_axis": "You compare or count along layers or positions. A rank is among the tokens of the vocabulary: the last axis.",
        "one_based": "Your ranks begin at 1. Here 0 is the first choice: the number of tokens that are *likelier*.",
        "counts_itself": "The token counts itself: `>=` is true of it too. Count the tokens that are strictly likelier.",
        "reversed": "You count the tokens that are *less* likely, so that the first choice gets the largest number.",
        "token_at_rank": "argsort gives the tokens in order of likelihood; at index `token` of that order stands another token's id. The rank is the other way round: where in the order the token stands.",
        "fraction": "That is a share of the vocabulary. Return the number of likelier tokens.",
        "yes_or_no": "That says whether the token is the first choice. The rank also tells how far away from it a token is.",
        "likelihood": "That is how likely the token is, not how many tokens are likelier.",
        "capped": "Beyond some rank yours stops counting. In early layers a token often stands in the thousands, and its way up is what we want to see.",
        "ignores_token": "Use the argument `token`: the rank of another token is another one.",
        "ties": "Right unless tokens are exactly as likely: sorting puts some of those in front. Only strictly likelier ones count, so compare instead of sorting.",
        "something_else": "Those are not the numbers of likelier tokens.",
    },
    judge=_judge_rank,
)

# ------------------------------------------------------------------ 03.decision_layer: the layer of decision

_ANSWER, _A, _B = 284, 1042, 311  # ids beyond 256, as in a vocabulary
_BY_HAND = (
    (_A, _B, _ANSWER, _ANSWER),
    (_ANSWER, _A, _ANSWER, _ANSWER, _ANSWER),  # on top, lost, on top again
    (_A, _ANSWER, _ANSWER, _ANSWER, _ANSWER, _B, _ANSWER, _ANSWER),  # the longest run isn't the last
    (_ANSWER, _ANSWER, _ANSWER),  # from the first row on
    (_ANSWER,),
    (_A, _B, _A, _B, _ANSWER),  # only in the last row
    (_ANSWER, _ANSWER, _A),  # lost in the end
    (_A, _ANSWER, _B, _B),
    (_A, _B),  # never
    (_B,),
)


def _sequences() -> list[tuple[int, ...]]:
    generator, ids = seeded(), (_ANSWER, _ANSWER, _A, _B)
    lengths = torch.randint(1, 9, (80,), generator=generator).tolist()
    drawn = (torch.randint(len(ids), (length,), generator=generator).tolist() for length in lengths)
    return [*_BY_HAND, *(tuple(ids[i] for i in row) for row in drawn)]


def _judge_decision(answer: Callable) -> None:
    tops = _sequences()
    for cases in ([top for top in tops if top[-1] == _ANSWER], [top for top in tops if top[-1] != _ANSWER]):
        wanted = [_decided(top) for top in cases]
        seen = _rows(answer, torch.tensor, cases)
        if seen == wanted:
            continue
        if _rows(answer, list, cases) == wanted:
            raise Mistake("lists_only", _differs(seen, cases))
        if isinstance(seen, Stopped):
            raise seen
        raise _decision_mistake(seen, cases)


def _decided(top: Sequence[int]) -> int | None:
    row = len(top)
    while row and top[row - 1] == _ANSWER:
        row -= 1
    return row if row < len(top) else None


def _rows(answer: Callable, form: Callable, cases: list[tuple[int, ...]]) -> list[int | None] | Stopped:
    """What the function gives for each sequence, handed over as a list or a tensor; or how it stopped."""
    try:
        return [_as_row(answer(form(top), _ANSWER)) for top in cases]
    except Stopped as stopped:
        return stopped


def _as_row(got: Any) -> int | None:
    if (
        isinstance(got, Tensor)
        and got.numel() == 1
        and not got.dtype.is_floating_point
        and got.dtype != torch.bool
    ):
        return int(got)
    if got is None or (isinstance(got, Integral) and not isinstance(got, bool)):
        return got if got is None else int(got)
    raise Mistake("not_a_row", f"It returned {kind(got)}.")


def _differs(seen: list[int | None] | Stopped, cases: list[tuple[int, ...]]) -> str:
    """The first sequence for which the function is wrong, in words."""
    if isinstance(seen, Stopped):
        return f"It stopped with {type(seen.__cause__).__name__}: {seen.__cause__}"
    top, got = next((top, got) for top, got in zip(cases, seen, strict=True) if got != _decided(top))
    return f"For top = {list(top)} and answer = {_ANSWER} it returned {got}; it should be {_decided(top)}."


def _decision_mistake(seen: list[int | None], cases: list[tuple[int, ...]]) -> Mistake:
    detail = _differs(seen, cases)
    if cases[0][-1] != _ANSWER:
        return Mistake("not_none", detail)
    for name, choose in _wrong_decisions():
        if seen == [choose(top, _decided(top)) for top in cases]:
            return Mistake(name, detail)
    return Mistake("something_else", detail)


def _wrong_decisions() -> list[tuple[str, Callable[[Sequence[int], int], int | None]]]:
    """What each known mistake makes of a sequence that ends with the answer, and of the right row."""
    return [
        ("first_time", lambda top, row: top.index(_ANSWER)),
        ("last_time", lambda top, row: len(top) - 1),
        ("count", lambda top, row: top.count(_ANSWER)),
        ("from_the_end", lambda top, row: len(top) - row),
        ("from_the_end", lambda top, row: len(top) - row - 1),
        ("from_the_end", lambda top, row: row - len(top)),
        ("off_by_one", lambda top, row: row + 1),
        ("off_by_one", lambda top, row: row - 1),
        ("off_by_one", lambda top, row: max(row - 1, 0)),
        ("off_by_one", lambda top, row: row - 1 if row else None),
        ("zero_is_none", lambda top, row: row or None),
        ("longest_run", lambda top, row: _start_of_longest_run(top)),
    ]


def _start_of_longest_run(top: Sequence[int]) -> int:
    runs = [0] * (len(top) + 1)  # how long the run from each row is
    for row in reversed(range(len(top))):
        runs[row] = runs[row + 1] + 1 if top[row] == _ANSWER else 0
    return runs.index(max(runs))


DECISION_LAYER = Exercise(
    id="03.decision_layer",
    title="When does the model make up its mind?",
    minutes=8,
    difficulty=3,
    hints=(
        "Begin at the end: is the last row the answer? From there, how far back does it stay so?",
        "Walk back from the last row as long as the answer is on top; stop at the first row where it isn't. The row after that one is it.",
        "Mind the edges: on top in every row gives 0, which is not None; and a tensor can't be reversed with `[::-1]`.",
    ),
    mistakes={
        "not_a_row": "Return a row, a whole number, or None.",
        "first_time": "That is the first row in which the answer is on top. It may be lost again later; wanted is the row from which on it *stays*.",
        "last_time": "That is the last row, where the answer is on top in any case. Go back from there for as long as it stays on top.",
        "count": "That counts the rows in which the answer is on top. Wanted is the index of the row from which on it stays.",
        "from_the_end": "That counts from the end, or says how long the last stretch is. Count rows from the first, which is 0.",
        "off_by_one": "That is a neighbour of the right row: the last one *before* the answer stays, or one too late.",
        "zero_is_none": "Where the answer is on top from the first row on, yours gives None instead of 0. Note that 0 counts as false in `or` and `if`, and that a walk back to the first row meets no other token at which to stop.",
        "longest_run": "That is where the longest stretch begins. A shorter one may be the last, and only the last reaches the end.",
        "not_none": "If the last row isn't the answer, the model never settled on it: return None.",
        "lists_only": "Right for a list, but `top` is a tensor: `top.tolist()` makes a list of it.",
        "something_else": "That is not the row from which on the answer stays on top.",
    },
    judge=_judge_decision,
)
