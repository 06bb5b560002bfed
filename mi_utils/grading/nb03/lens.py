"""Check of notebook 03 about the logit lens by hand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import kind, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.nb03.logits import centres, like_logits, other_bias, random_stream
from mi_utils.grading.tensors import centred, rms

# ------------------------------------------------------------------ 03.lens_by_hand: the logit lens by hand


@torch.no_grad()
def _judge_lens(answer: Callable, *, model: Any, stream: Tensor) -> None:
    _compare_logits(answer, model, stream)
    _compare_logits(answer, model, random_stream(model, *stream.shape[:2]))
    with other_bias(model):
        _compare_logits(answer, model, random_stream(model, 2, 3))


def _compare_logits(answer: Callable, model: Any, stream: Tensor) -> None:
    got = answer(model, stream.clone())
    wanted = model.unembed(model.ln_final(stream))
    if like_logits(got, wanted):
        return
    if not isinstance(got, Tensor) or got.shape != wanted.shape:
        raise _lens_shape_mistake(got, wanted)
    if not got.isfinite().all():
        raise Mistake("not_a_number")
    for name, wrong in _wrong_lenses(model, stream, wanted):
        if like_logits(got, wrong) or (wrong is not None and like_logits(got, wrong + model.unembed.b_U)):
            raise Mistake(name)
    raise _lens_behaviour(answer, got, model, stream)


def _lens_shape_mistake(got: Any, wanted: Tensor) -> Mistake:
    batch, pos, vocab = wanted.shape
    shapes = {
        "last_position": [(batch, vocab), (batch, 1, vocab)],
        "top_token": [(batch, pos)],
        "no_batch": [(pos, vocab), (1, pos, vocab)],
    }
    detail = f"It returned {kind(got)}; wanted is {tuple(wanted.shape)}."
    for name, its_shapes in shapes.items():
        if isinstance(got, Tensor) and got.shape in its_shapes:
            return Mistake(name, detail)
    return Mistake("shape", detail)


def _wrong_lenses(model: Any, stream: Tensor, logits: Tensor) -> list[tuple[str, Tensor | None]]:
    """What each known mistake gives, the unembedding's bias left out or not, by the mistake's name."""
    out, back, bias = model.W_U, model.W_E.T, model.unembed.b_U
    tied = same(back, out)  # then the embedding is no mistake
    normed, raw = model.ln_final(stream), stream @ out
    own = centred(stream) if centres(model) else stream  # what the model's own norm divides
    other = (
        stream / rms(stream, keepdim=True)
        if centres(model)
        else centred(stream) / rms(centred(stream), keepdim=True)
    )
    return [
        ("probabilities", logits.softmax(-1)),
        ("log_probs", logits.log_softmax(-1)),
        ("no_norm", raw),
        ("embedding", None if tied else normed @ back),
        ("embedding", None if tied else stream @ back),
        ("norm_after", raw / rms(raw, keepdim=True)),
        ("norm_after", centred(raw) / rms(centred(raw), keepdim=True)),
        ("norm_after", (raw + bias) / rms(raw + bias, keepdim=True)),
        ("norm_after", centred(raw + bias) / rms(centred(raw + bias), keepdim=True)),
        ("other_norm", other @ out),
        ("other_norm", stream / stream.std(-1, keepdim=True) @ out),
        ("euclidean", normed @ out / stream.shape[-1] ** 0.5),
        ("mean_square", own / own.square().mean(-1, keepdim=True) @ out),
        ("norm_axis", own / own.square().mean().sqrt() @ out),
        ("norm_axis", own / own.square().mean(1, keepdim=True).sqrt() @ out),
        ("norm_axis", own / own.square().mean(0, keepdim=True).sqrt() @ out),
        ("no_bias", logits - bias),
    ]


def _lens_behaviour(answer: Callable, got: Tensor, model: Any, stream: Tensor) -> Mistake:
    """A mistake that shows in how the answer changes with the stream."""
    got = got.detach().to(stream.device, stream.dtype)
    moved = stream.clone()
    moved[:, 0] = random_stream(model, *stream.shape[:2])[:, 0]
    after = answer(model, moved.clone())
    if like_logits(after, got):
        return Mistake("ignores_stream")
    raw = stream @ model.W_U
    for offset in (0.0, model.unembed.b_U):  # right up to a factor for each position?
        ratio = ((got - offset) * raw).sum(-1, keepdim=True) / raw.square().sum(-1, keepdim=True)
        if ratio.min() > 0 and like_logits(got, ratio * raw + offset):
            return Mistake("other_scale")
    if stream.shape[1] > 1 and isinstance(after, Tensor) and not like_logits(after[:, 1:], got[:, 1:]):
        return Mistake("rest_of_model")
    return Mistake("something_else")


LENS_BY_HAND = Exercise(
    id="03.lens_by_hand",
    title="Look through the logit lens",
    minutes=10,
    difficulty=2,
    hints=(
        "What does the model do to its *last* residual stream to get logits? Two steps; do the same to yours.",
        "The steps are the final norm and the unembedding: `model.ln_final` and `model.unembed`, in this order.",
        "`model.unembed(model.ln_final(stream))`",
    ),
    mistakes={
        "shape": "The lens gives one logit for each token of the vocabulary at every position: [batch, pos, vocab].",
        "no_batch": "The batch is gone, or only its first prompt came back. Keep the shape [batch, pos, vocab].",
        "last_position": "Only the last position came back. The lens reads every position, and a picture of a whole prompt needs them all.",
        "top_token": "That is one number for each position. Return the logits of all tokens; the likeliest can be picked out later.",
        "probabilities": "Those are probabilities: the softmax is one step too many here. Return the logits.",
        "log_probs": "Those are log-probabilities: the log_softmax is one step too many here. Return the logits.",
        "no_norm": "The final norm is missing. The model never unembeds a stream as it is: it brings it to a common length first, and the unembedding was trained on that.",
        "embedding": "That goes out through the embedding. The way out is the unembedding, W_U; the scale of the final norm is folded into it, so it isn't the embedding transposed even where the two are tied.",
        "norm_after": "The norm comes after the unembedding there. It acts on the stream: first the norm, then the unembedding.",
        "other_norm": "That is another norm than the model's. RMSNorm divides by the root mean square; LayerNorm subtracts the mean first. `model.ln_final` is the right one in any model.",
        "euclidean": "Almost: that divides by the length of the stream. The norm divides by the root *mean* square, which is smaller by a factor of sqrt(d_model).",
        "mean_square": "A square root is missing: the norm divides by the *root* of the mean square.",
        "norm_axis": "The norm was taken over positions or prompts too. Each position is normalised by itself, over d_model.",
        "other_scale": "Right up to a factor at each position: you divide by a scale that isn't this stream's, such as the final stream's from a cache. The lens treats your stream as the last one, so its own scale counts.",
        "no_bias": "The unembedding's bias is missing. It is 0 in some models, but where a LayerNorm was folded in (GPT-2, say) it isn't; `model.unembed` adds it.",
        "not_a_number": "There is NaN or infinity in it: from the root of something negative or a division by 0. The norm takes the mean of *squares*, which can't be negative.",
        "rest_of_model": "What you return at a position depends on other positions, so attention has been at work: the remaining blocks ran. The lens skips them.",
        "ignores_stream": "The same comes back for another stream. Compute it from the argument `stream`, not from the model's own logits or a cache made earlier.",
        "something_else": "Those are not the logits that the model would give if this were its last stream.",
    },
    judge=_judge_lens,
)
