"""Check of notebook 00 about logit attribution: a final norm that is applied to the wrong thing."""

from collections.abc import Callable

import torch
from torch import Tensor

from mi_utils.grading.answers import kind, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import centred, rms, seeded

# ------------------------------------------------------------------ 00.find_the_bug: find the bug


def _judge_bug(answer: Callable, *, eps: float = 1e-5) -> None:
    generator = seeded()
    parts = torch.randn(7, 32, generator=generator) * torch.logspace(-1, 1, 7)[:, None] + 0.3
    direction = torch.randn(32, generator=generator)
    _compare_shares(answer, parts, direction, eps)
    # Parts so small that eps counts, and another eps than the usual one.
    larger = 1000 * eps
    _compare_shares(answer, parts * larger**0.5 / rms(parts.sum(0), 0.0), direction, larger)


def _compare_shares(answer: Callable, parts: Tensor, direction: Tensor, eps: float) -> None:
    got = answer(parts.clone(), direction.clone(), eps)
    if not isinstance(got, Tensor) or got.shape != (7,):
        raise Mistake("shape", f"It returned {kind(got)}.")
    wanted = parts @ direction / rms(parts.sum(0), eps)
    if same(got, wanted):
        return
    for name, wrong in _wrong_attributions(parts, direction, eps):
        if same(got, wrong):
            raise Mistake(name)
    if same(got.sum(), wanted.sum()):
        raise Mistake("forced")
    raise Mistake("does_not_add_up", f"They add up to {got.sum():.3f}; the logit is {wanted.sum():.3f}.")


def _wrong_attributions(parts: Tensor, direction: Tensor, eps: float) -> list[tuple[str, Tensor]]:
    """What each known mistake gives for parts [part, d_model] and a direction [d_model], by the mistake's name."""
    raw, total = parts @ direction, parts.sum(0)
    without_mean = centred(parts)
    return [
        ("each_alone", raw / rms(parts, eps)),
        ("no_norm", raw),
        ("euclidean", raw / total.norm()),
        ("running_scale", raw / rms(parts.cumsum(0), eps)),
        ("sum_of_scales", raw / rms(parts, eps).sum()),
        ("scale_of_mean", raw / rms(parts.mean(0), eps)),
        ("mean_square", raw / rms(total, eps).square()),
        ("layer_norm", without_mean @ direction / rms(without_mean.sum(0), eps)),
        ("layer_norm", raw / rms(without_mean.sum(0), eps)),
        ("layer_norm", raw / total.std()),
        ("eps_outside", raw / (rms(total, 0.0) + eps)),
        ("eps_ignored", raw / rms(total, 0.0)),
        ("eps_ignored", raw / rms(total, 1e-6)),
        ("eps_ignored", raw / rms(total, 1e-5)),
    ]


FIND_THE_BUG = Exercise(
    id="00.find_the_bug",
    title="Find the bug in an attribution",
    minutes=10,
    difficulty=3,
    hints=(
        "Add up what the function returns and compare with the logit. Should they agree?",
        "The model applies its final norm *once*, to the sum of all parts. What number does that norm divide by?",
        "Divide every part by the rms of the sum.",
    ),
    mistakes={
        "shape": "Return one number for each part: shape [part].",
        "each_alone": "The bug is still there: each part is divided by its own rms, so small parts are blown up and the parts no longer add up to the logit.",
        "no_norm": "Now there is no norm at all: these numbers add up, but not to the model's logit.",
        "euclidean": "Almost: that divides by the length of the sum. RMSNorm divides by the root *mean* square, which is smaller by a factor of sqrt(d_model).",
        "running_scale": "That divides by the rms of the stream as it was after each part. The model has one final norm, at the end, of the whole sum.",
        "sum_of_scales": "The rms of a sum is not the sum of the rms.",
        "scale_of_mean": "That is the rms of the mean of the parts; the norm sees their sum.",
        "mean_square": "A square root is missing: rms is the root of the mean square.",
        "layer_norm": "That subtracts the mean, as LayerNorm does. This model has RMSNorm, which does not centre.",
        "eps_outside": "Almost: eps stands under the root, sqrt(mean(x ** 2) + eps), not beside it. With a small stream that makes a difference.",
        "eps_ignored": "Almost: the eps that your function is given is not in it. It is added under the root, and with a small stream it makes a difference.",
        "forced": "The sum is right and each part is wrong: rescaling or shifting the buggy numbers until they add up does not tell what a part contributes.",
        "does_not_add_up": "The parts do not add up to the logit.",
    },
    judge=_judge_bug,
)
