"""Check of notebook 03 about the shares of a logit that parts of the stream have: a function with a bug."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import kind, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.nb03.logits import centres, like_logits, other_bias, random_stream
from mi_utils.grading.tensors import centred, rms

# ------------------------------------------------------------------ 03.find_the_bug: find the bug


@torch.no_grad()
def _judge_shares(answer: Callable, *, model: Any, parts: Tensor, token: int) -> None:
    _compare_shares(answer, model, parts, token)
    random, other = random_stream(model, len(parts)), (token + 5) % model.W_U.shape[1]
    got = answer(model, random.clone(), other)
    if like_logits(got, _shares(model, random, token)):
        raise Mistake("ignores_token")
    if like_logits(got, _shares(model, parts, token)):
        raise Mistake("ignores_parts")
    with other_bias(model):
        _compare_shares(answer, model, random, other)


def _scale(model: Any, x: Tensor) -> Tensor:
    """What the model's norm divides by."""
    return rms(centred(x) if centres(model) else x, model.cfg.eps)


def _shares(model: Any, parts: Tensor, token: int) -> Tensor:
    return (centred(parts) if centres(model) else parts) @ model.W_U[:, token] / _scale(model, parts.sum(0))


def _compare_shares(answer: Callable, model: Any, parts: Tensor, token: int) -> None:
    got = answer(model, parts.clone(), token)
    wanted = _shares(model, parts, token)
    if like_logits(got, wanted):
        return
    if not isinstance(got, Tensor) or got.shape != wanted.shape:
        raise _shares_shape_mistake(got, len(parts), model.W_U.shape[1])
    for name, wrong in _wrong_shares(model, parts, token):
        if like_logits(got, wrong) or (
            wrong is not None and like_logits(got, wrong + model.unembed.b_U[token])
        ):
            raise Mistake(name)
    bias, total = model.unembed.b_U[token], got.sum().to(wanted.device, wanted.dtype)
    near = 1e-3 * float(wanted.abs().max())
    if min(abs(total - wanted.sum()), abs(total - wanted.sum() - bias)) <= near:
        raise Mistake("forced")
    raise Mistake(
        "does_not_add_up",
        f"With the bias, yours come to {total + bias:.3f}; the logit is {wanted.sum() + bias:.3f}.",
    )


def _shares_shape_mistake(got: Any, parts: int, vocab: int) -> Mistake:
    detail = f"It returned {kind(got)}; wanted is {(parts,)}."
    for name, shapes in {"all_tokens": [(parts, vocab)], "total": [(), (1,)]}.items():
        if isinstance(got, Tensor) and got.shape in shapes:
            return Mistake(name, detail)
    return Mistake("shape", detail)


def _wrong_shares(model: Any, parts: Tensor, token: int) -> list[tuple[str, Tensor | None]]:
    """What each known mistake gives for parts [part, d_model], the bias left out or not, by the mistake's name."""
    as_norm = centred if centres(model) else lambda x: x  # what the model's norm does first
    direction, back, bias = model.W_U[:, token], model.W_E[token], model.unembed.b_U[token]
    tied = same(back, direction)  # then the embedding is no mistake
    right, total, running = _shares(model, parts, token), parts.sum(0), parts.cumsum(0)
    raw, scale = as_norm(parts) @ direction, _scale(model, total)
    through = as_norm(running) @ direction / _scale(model, running)  # the logit lens after each part
    moved = through.diff(prepend=through.new_zeros(1))
    from_bias = moved + bias * (torch.arange(len(parts), device=bias.device) == 0)
    without = as_norm(total - parts) @ direction / _scale(model, total - parts)
    of_all = as_norm(parts) @ model.W_U
    alone = of_all / _scale(model, parts)[:, None]
    return (
        [
            ("each_alone", alone[:, token]),
            ("no_norm", parts @ direction),
            ("bias_in_each", right + bias),
            ("bias_spread", right + bias / len(parts)),
            ("running_scale", raw / _scale(model, running)),
            ("logits_so_far", through),
            ("running_difference", moved),
            ("running_difference", from_bias),
            ("left_out", right.sum() - without),
            ("left_out", without),
            ("euclidean", right / parts.shape[-1] ** 0.5),
            ("mean_square", right / scale),
            ("scale_of_mean", raw / _scale(model, parts.mean(0))),
            ("sum_of_scales", raw / _scale(model, parts).sum()),
            ("other_norm", raw / (rms(total) if centres(model) else rms(centred(total)))),
            ("other_norm", centred(parts) @ direction / rms(centred(total))),
            ("other_norm", raw / total.std()),
            ("embedding", None if tied else parts @ back / scale),
            ("embedding", None if tied else as_norm(parts) @ back / scale),
            ("centred", right - (of_all / scale).mean(-1)),
            ("fractions", right / right.sum()),
            ("fractions", right.softmax(-1)),
        ]
        + _as_probabilities(model, of_all / scale, token)
        + _as_probabilities(model, alone, token)
    )


def _as_probabilities(model: Any, logits: Tensor, token: int) -> list[tuple[str, Tensor]]:
    """For logits [part, vocab], without the bias."""
    with_bias = logits + model.unembed.b_U
    return [
        ("log_probs", logits.log_softmax(-1)[:, token]),
        ("log_probs", logits.softmax(-1)[:, token]),
        ("log_probs", with_bias.log_softmax(-1)[:, token]),
        ("log_probs", with_bias.softmax(-1)[:, token]),
    ]


FIND_THE_BUG = Exercise(
    id="03.find_the_bug",
    title="Find the bug in a popular recipe",
    minutes=10,
    difficulty=3,
    hints=(
        "Add up what the recipe returns and compare with the model's logit. Should they agree?",
        "The model applies its final norm once, to the *sum* of all parts. What does it divide by there?",
        "Divide each part's `parts @ model.W_U[:, token]` by that one number: for RMSNorm, the root mean square of `parts.sum(0)`.",
    ),
    mistakes={
        "shape": "Return one number for each part: shape [part].",
        "all_tokens": "That is the share in the logits of all tokens. Pick out the one asked for: shape [part].",
        "total": "That is one number, the logit. Return how much of it each part is: shape [part].",
        "each_alone": "The bug is still there: each part is normalised by itself, so that small parts are blown up and the sum is not the logit.",
        "no_norm": "Now there is no norm at all. Those numbers keep the right proportions, but they don't add up to the model's logit.",
        "bias_in_each": "The unembedding's bias is in every share. It belongs to no part: it comes once, besides.",
        "bias_spread": "The unembedding's bias is spread over the shares. It belongs to no part: leave it out, it comes besides.",
        "running_scale": "That divides by the norm of the stream as it was after each part. The model has one final norm, of the whole sum.",
        "logits_so_far": "That is the logit lens after each part: it contains all parts before. A share is of one part only.",
        "running_difference": "That is by how much each part moves the logit lens. It adds up, but a part is also charged for rescaling all those before it, so that the order decides.",
        "left_out": "That takes each part out and looks at what is missing, with a new norm each time. A good experiment, but another one: those don't add up to the logit.",
        "euclidean": "Almost: that divides by the length of the sum. The norm divides by the root *mean* square, which is smaller by a factor of sqrt(d_model).",
        "mean_square": "A square root is missing: the norm divides by the *root* of the mean square.",
        "scale_of_mean": "That is the scale of the mean of the parts; the norm sees their sum.",
        "sum_of_scales": "The scale of a sum is not the sum of the scales: parts point in different directions and cancel.",
        "other_norm": "That is another norm than the model's. RMSNorm divides by the root mean square; LayerNorm subtracts the mean first. `model.cfg.normalization_type` tells.",
        "embedding": "That goes out through the embedding. The direction of a token's logit is its column of W_U.",
        "log_probs": "A softmax takes all tokens of *one* prediction together; a part is no prediction. Stay with logits, in which parts add up.",
        "centred": "That subtracts the mean over the vocabulary. It is often useful, but then the shares add up to the logit less the mean of all logits.",
        "fractions": "Those are fractions of the whole. Return shares in the unit of logits, so that they add up to the logit.",
        "forced": "The sum is right and the shares are wrong: rescaling or shifting until it fits, or taking the rest all to one part, doesn't tell what each part contributes.",
        "ignores_token": "Right for one token, but not for another: use the argument `token`.",
        "ignores_parts": "The same comes back for other parts: use the argument `parts`, not what was computed earlier.",
        "does_not_add_up": "The shares do not add up to the logit less the bias.",
    },
    judge=_judge_shares,
)
