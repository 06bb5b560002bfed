"""Checks of notebook 04 about effects: a metric with a bug, and what a head adds directly to the logits."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mi_utils.grading.answers import ask, compare, expect
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import centred, rms, seeded

# ------------------------------------------------------------------ 04.mend_the_metric: find the bug


def _judge_metric(answer: Callable) -> None:
    generator = seeded()
    # Small ids at first: an index on the wrong axis must find something.
    for batch, vocab, ids in ((5, 7, 5), (3, 40, 40)):
        corrupted = 2 * torch.randn(batch, vocab, generator=generator)
        moved = torch.randn(batch, vocab, generator=generator) + torch.linspace(-2, 3, batch)[:, None]
        tokens = torch.stack([torch.randperm(ids, generator=generator)[:2] for _ in range(batch)])
        given = corrupted + moved, corrupted, tokens[:, 0], tokens[:, 1]
        shapes = {"one_number": [()], "all_pairs": [(batch, batch)], "all_tokens": [(batch, vocab)]}
        expect(answer, given, _change(*given), _wrong_effects(*given), shapes)


def _of(logits: Tensor, token: Tensor) -> Tensor:
    return logits.gather(-1, token[:, None])[:, 0]


def _ahead(logits: Tensor, answer: Tensor, wrong: Tensor) -> Tensor:
    """The logit difference."""
    return _of(logits, answer) - _of(logits, wrong)


def _change(patched: Tensor, corrupted: Tensor, answer: Tensor, wrong: Tensor) -> Tensor:
    return _ahead(patched, answer, wrong) - _ahead(corrupted, answer, wrong)


def _wrong_effects(
    patched: Tensor, corrupted: Tensor, answer: Tensor, wrong: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, one number for each row, by the mistake's name."""
    moved, rows = patched - corrupted, torch.arange(len(answer))
    right = _change(patched, corrupted, answer, wrong)
    yield "sign", -right
    yield from (("unsigned", one) for one in (right.abs(), right.square()))
    before, after = (_ahead(logits, answer, wrong) for logits in (corrupted, patched))
    yield "unsigned", after.abs() - before.abs()
    yield "unsigned", _of(moved, answer).abs() - _of(moved, wrong).abs()
    yield from (("one_run", one) for one in (after, before, -after))
    yield "answer_only", _of(moved, answer)
    yield from (("wrong_only", sign * _of(moved, wrong)) for sign in (1, -1))
    yield "added", _of(moved, answer) + _of(moved, wrong)
    for change in (moved, moved.abs(), moved.square()):
        yield from (("all_logits", one) for one in (change.mean(-1), change.sum(-1), change.amax(-1)))
    yield "all_logits", moved.norm(dim=-1)
    yield "all_logits", _of(moved, answer) - moved.mean(-1)
    chances = patched.softmax(-1), corrupted.softmax(-1)
    yield from (("probabilities", sign * _change(*chances, answer, wrong)) for sign in (1, -1))
    yield "probabilities", _of(chances[0], answer) - _of(chances[1], answer)
    yield "log_probability", _of(patched.log_softmax(-1), answer) - _of(corrupted.log_softmax(-1), answer)
    yield from (("relative", right / by) for by in (before, before.abs(), after))
    yield "halved", right / 2
    yield from (("one_row_for_all", moved[:, a] - moved[:, w]) for a, w in zip(answer, wrong, strict=True))
    if int(torch.cat([answer, wrong]).max()) < len(rows):
        yield "wrong_axis", moved[answer, rows] - moved[wrong, rows]


MEND_THE_METRIC = Exercise(
    id="04.mend_the_metric",
    title="Find the bug in a metric",
    minutes=10,
    difficulty=3,
    hints=(
        "Which of all those logits does the task ask about, and what does the measure say about a patch that makes the wrong answer likelier?",
        "For each row only two logits count: that of its `answer` and that of its `wrong`. `gather`, or an index with `torch.arange(len(answer))` beside it, picks one token for each row.",
        "`change = patched - corrupted`, `rows = torch.arange(len(answer))`, then `change[rows, answer] - change[rows, wrong]`.",
    ),
    mistakes={
        "shape": "Return one number for each row: shape [batch].",
        "one_number": "That is one number for the whole batch, as in the function with the bug. Return one for each row: averaging is the caller's choice, and with signs of both kinds the mean hides them.",
        "all_pairs": "`logits[:, answer]` takes *every* answer in every row: [batch, batch]. Pair each row with its own: `logits[torch.arange(len(answer)), answer]`, or `gather`.",
        "all_tokens": "That is a row for each prompt with a number for each token. Pick two tokens for each row: `logits[torch.arange(len(answer)), answer]`.",
        "all_logits": "The bug is still there, row by row: all of the vocabulary is in it. Thousands of logits that have nothing to do with the task outvote the two that have.",
        "unsigned": "The sign is gone: a patch that helps the answer and one that hurts it look alike. Keep the sign.",
        "sign": "Every sign is flipped: either the logit difference is wrong minus answer, or the change is corrupted minus patched (both give this). It is answer minus wrong, and patched minus corrupted.",
        "one_run": "That is the logit difference of one run. The effect of the patch is by how much it *changes*: patched minus corrupted.",
        "answer_only": "That is the answer's logit alone. A patch that raises all logits alike changes no prediction, and this calls it a success: subtract the wrong token's logit.",
        "wrong_only": "That is the wrong token's logit alone. Take the answer's minus the wrong one's.",
        "added": "The two logits are added. Their *difference* is what decides between the two tokens.",
        "probabilities": "Those are probabilities. They saturate: near 0 or 1 a large effect hardly shows. Stay with logits, whose difference is linear in the stream.",
        "log_probability": "That is the change of the answer's log-probability. It is a good measure, but it mixes in every other token: asked for is answer against wrong.",
        "relative": "That divides by a logit difference. Asked for is the change itself, in logits; a share comes by `recovery`.",
        "halved": "That is half of it: a difference of two logits, not a mean.",
        "one_row_for_all": "All rows are read at the tokens of one of them. Each row has its own answer and its own wrong token.",
        "wrong_axis": "The index is the wrong way round: rows come first, tokens second, `logits[torch.arange(len(answer)), answer]`.",
        "in_place": "Right, but your function changed the logits it was given. The corrupted run is the baseline of every other patch: compute new tensors.",
        "something_else": "That is not the change of the logit difference, answer minus wrong, from corrupted to patched.",
    },
    judge=_judge_metric,
)

# ------------------------------------------------------------------ 04.direct_effect: the direct effect of a head


def _judge_direct(answer: Callable) -> None:
    generator = seeded()
    for batch, width in ((4, 6), (2, 9)):
        # Every row has a scale of its own, and a mean that isn't 0, so that centring shows.
        scales = torch.linspace(8, 30, batch)[:, None]
        final = scales * (torch.randn(batch, width, generator=generator) + 0.5)
        head_out = 5 * torch.randn(batch, width, generator=generator) + 1.5
        direction = 2 * torch.randn(batch, width, generator=generator) + 0.3
        got, unchanged = ask(answer, head_out, final, direction)
        square = [(batch, batch)]  # two mistakes give this shape
        shapes = {"broadcast": square if _lacks_rank(got) else [], "all_pairs": square}
        shapes |= {"not_summed": [(batch, width)], "over_batch": [(), (width,)]}
        right = (head_out * direction).sum(-1) / rms(final)
        compare(got, right, _wrong_directs(head_out, final, direction), shapes)
        if not unchanged:
            raise Mistake("in_place")


def _lacks_rank(got: Any) -> bool:
    """Whether a matrix comes from numbers for each row, broadcast: then its rank is low, a matrix product's full."""
    if not isinstance(got, Tensor) or got.ndim != 2 or not got.isfinite().all():
        return False
    return int(torch.linalg.matrix_rank(got.detach().double(), rtol=1e-4)) < min(got.shape)


def _wrong_directs(head_out: Tensor, final: Tensor, direction: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    along, whole = (head_out * direction).sum(-1), (final * direction).sum(-1)
    right, without = along / rms(final), final - head_out
    yield from (
        ("own_norm", along / by) for by in (rms(head_out), head_out.norm(dim=-1), rms(centred(head_out)))
    )
    yield "no_norm", along
    yield "euclidean", along / final.norm(dim=-1)
    yield "mean_square", along / final.square().mean(-1)
    yield from (
        ("whole_batch", along / by) for by in (final.square().mean().sqrt(), final.norm(), final.std())
    )
    yield "whole_batch", along / final.square().mean(0).mean().sqrt()
    for top in (along, (centred(head_out) * direction).sum(-1)):
        yield from (("centred", top / scale) for scale in (rms(final), rms(centred(final)), final.std(-1)))
    yield "unit_direction", right / direction.norm(dim=-1)
    yield "unit_direction", along / direction.norm(dim=-1)
    yield "unit_direction", (normalize(head_out, dim=-1) * normalize(direction, dim=-1)).sum(-1)
    yield "mean_over_d_model", right / head_out.shape[-1]
    yield "whole_stream", whole / rms(final)
    yield "the_rest", (without * direction).sum(-1) / rms(final)
    yield "share", along / whole
    yield "norm_again", whole / rms(final) - (without * direction).sum(-1) / rms(without)
    yield "other_stream", along / rms(without)
    yield "other_stream", along / rms(final + head_out)
    yield from (("absolute", one) for one in (right.abs(), right.square()))
    yield "reversed", -right
    yield "multiplied", along * rms(final)
    yield from (("over_batch", one.expand_as(right)) for one in (right.sum(), right.mean()))


DIRECT_EFFECT = Exercise(
    id="04.direct_effect",
    title="The direct effect of a head",
    minutes=10,
    difficulty=3,
    hints=(
        "The stream is a sum, and the model divides the *sum* by one number for each row. By which number is each term divided, then?",
        "By the RMS of `final`, whatever term you look at: `final.square().mean(dim=-1).sqrt()`. What the head adds along the direction is a dot product for each row.",
        "`(head_out * direction).sum(dim=-1) / final.square().mean(dim=-1).sqrt()`",
    ),
    mistakes={
        "shape": "Return one number for each row: shape [batch].",
        "all_pairs": "A matrix product pairs every row with the direction of every other: [batch, batch]. Multiply entry by entry and sum over d_model.",
        "broadcast": "A column was combined with a row: of the dot products and the RMS, one has shape [batch, 1] and the other [batch], and the two broadcast to [batch, batch]. `keepdim=True` does that: leave it out, so that both are [batch].",
        "not_summed": "Those are the terms of each component. Sum over d_model, the last axis.",
        "over_batch": "You summed or averaged over the batch. Each row is a prompt with an effect of its own: [batch].",
        "own_norm": "The norm is taken of the head's output by itself. The model never does that: it divides the whole stream by the RMS of the whole stream. By itself a tiny head would count as much as a large one, and the terms wouldn't add up to the logit.",
        "no_norm": "The norm is missing. Those numbers are in the stream's units, which differ from row to row and from model to model, and they don't add up to the logit: divide by the RMS of `final`.",
        "euclidean": "Almost: that divides by the length of `final`. The root *mean* square is smaller by a factor of sqrt(d_model).",
        "mean_square": "A square root is missing: divide by the *root* of the mean square.",
        "whole_batch": "That takes one scale for the whole batch. Each row has a norm of its own: the mean goes over d_model, dim=-1.",
        "centred": "A mean was subtracted (`std` and `var` do that too). Here the norm is RMSNorm: it divides by the root mean square and doesn't centre.",
        "unit_direction": "The direction was brought to length 1. Its length belongs to the logit: take the direction as it comes.",
        "mean_over_d_model": "That is a mean over d_model. What is added to a logit is a *sum* over all components.",
        "whole_stream": "That is what the whole stream gives along the direction, the logit itself. Asked for is the head's term in it.",
        "the_rest": "That is what everything *but* the head adds. Asked for is the head's own term.",
        "share": "That is the head's share of the whole. Return what it adds, in logits.",
        "norm_again": "That takes the head away and applies the norm anew. It is a good experiment, but it mixes two things: the head's own term, and the rescaling of all the others. The direct effect holds the norm as it was.",
        "other_stream": "The head's output is part of `final` already: neither add nor subtract it before you take the RMS.",
        "absolute": "The sign is gone. A head may well push a logit down, and that is a finding.",
        "reversed": "The sign is flipped.",
        "multiplied": "You multiply by the RMS. The norm divides by it.",
        "in_place": "Right, but your function changed what it was given. The stream serves for every head: compute new tensors.",
        "something_else": "That is not the dot product of the head's output with the direction, divided by the RMS of the final stream.",
    },
    judge=_judge_direct,
)
