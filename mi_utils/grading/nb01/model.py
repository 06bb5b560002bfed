"""Checks of two exercises of notebook 01: the model itself and its loss."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, compare, expect
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

_IN_PLACE = "Right, but your function changed what it was given: `+=`, `/=` and functions that end in `_` write into the caller's tensor. Compute a new one."

# ------------------------------------------------------------------ 01.reconstruct: the model


def _judge_reconstruct(answer: Callable) -> None:
    # As many dimensions as features first: there a confusion of the two is no error, and can be told by what it gives.
    for batch, instances, m, n in ((6, 3, 4, 4), (5, 3, 2, 4)):
        generator = seeded()
        W = torch.randn(instances, m, n, generator=generator)
        b = torch.randn(instances, n, generator=generator) / 2
        x = torch.rand(batch, instances, n, generator=generator)
        got, intact = ask(answer, W, b, x)
        shapes = {
            "instance_first": [(instances, batch, n)],
            "hidden": [(batch, instances, m)],
            "only_weights": [(instances, n, n), (instances, m, m)],
            "instances_mixed": [(batch, n)],
        }
        compare(got, (_linear(W, x) + b).relu(), _wrong_outputs(W, b, x), shapes)
        if not intact:
            raise Mistake("in_place")


def _linear(W: Tensor, x: Tensor) -> Tensor:
    """W^T W x for each instance."""
    return _out(W, _hidden(W, x))


def _hidden(W: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("imn,bin->bim", W, x)


def _out(W: Tensor, hidden: Tensor) -> Tensor:
    return torch.einsum("imn,bim->bin", W, hidden)


def _wrong_outputs(W: Tensor, b: Tensor, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    h, before = _hidden(W, x), _linear(W, x) + b
    yield "no_relu", before
    yield from (("relu_on_hidden", one) for one in (_out(W, h.relu()) + b, (_out(W, h.relu()) + b).relu()))
    yield "relu_on_hidden", _out(W, h.relu())
    yield from (("no_bias", one) for one in (_linear(W, x).relu(), _linear(W, x)))
    yield "bias_after_relu", _linear(W, x).relu() + b
    yield from (("bias_first", one) for one in (_linear(W, x + b).relu(), _linear(W, x - b).relu()))
    yield from (("bias_first", _linear(W, x + sign * b) - sign * b) for sign in (1, -1))
    yield "bias_subtracted", (_linear(W, x) - b).relu()
    yield from (("hidden", one) for one in (h, h.relu()))
    for activation in (
        torch.sigmoid,
        torch.tanh,
        torch.nn.functional.gelu,
        torch.nn.functional.silu,
        torch.abs,
    ):
        yield "other_activation", activation(before)
    for activation in (torch.nn.functional.softplus, torch.nn.functional.leaky_relu, lambda y: y.clamp(0, 1)):
        yield "other_activation", activation(before)
    for other in (W[:1].expand_as(W), W[-1:].expand_as(W), W.mean(0).expand_as(W), W.sum(0).expand_as(W)):
        yield "instances_mixed", (_linear(other, x) + b).relu()
    for bias in (b[:1], b.sum(0)):
        yield "instances_mixed", (_linear(W, x) + bias).relu()
    for one in (x[:, :1].expand_as(x), x.sum(1, keepdim=True).expand_as(x)):
        yield "instances_mixed", (_linear(W, one) + b).relu()
    yield "instances_mixed", (_out(W, h.sum(1, keepdim=True).expand_as(h)) + b).relu()
    if W.shape[1] == W.shape[2]:
        yield from _wrong_if_square(W, b, x)


def _wrong_if_square(W: Tensor, b: Tensor, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What stops with an error unless there are as many dimensions as features."""
    back = W.mT
    yield "bias_first", _out(W, _hidden(W, x) + b).relu()
    yield "bias_first", _out(W, (_hidden(W, x) + b).relu())
    for inner, outer, name in (
        (back, back, "transposed"),
        (W, back, "not_transposed"),
        (back, W, "not_transposed"),
    ):
        # `_out` multiplies by the transpose: with both transposed it is W W^T x; else W W x, or W^T W^T x.
        yield name, (_out(outer, _hidden(inner, x)) + b).relu()
        yield name, _out(outer, _hidden(inner, x)) + b


RECONSTRUCT = Exercise(
    id="01.reconstruct",
    title="Write the model",
    minutes=10,
    difficulty=2,
    hints=(
        "The model squeezes n features into m numbers and unfolds them again. Which axis of W [instance, m, n] is summed over on the way in, and which on the way out?",
        "Two einsums, in which `i` (the instance) and `b` (the example) stay: in with `imn,bin->bim`, out with the same W, `imn,bim->bin`. Bias and ReLU come last.",
        '`hidden = torch.einsum("imn,bin->bim", W, x)`, then `(torch.einsum("imn,bim->bin", W, hidden) + b).relu()`.',
    ),
    mistakes={
        "shape": "Return one number for each example, instance and feature, as in x: shape [batch, instance, n].",
        "instance_first": "The sizes are right, but the axes are [instance, batch, n]; asked for is [batch, instance, n], as in x.",
        "hidden": "That is the hidden layer, W x. The way back is missing: W^T, bias, ReLU.",
        "only_weights": "That is W^T W (or W W^T), the weights alone. Multiply x by it, add the bias and take the ReLU.",
        "no_relu": "The ReLU is missing. Without it the model is linear, and interference below zero can't be cut off: no superposition.",
        "relu_on_hidden": "The ReLU is on the hidden layer. In this model the hidden layer is linear; the ReLU comes last, after the bias.",
        "no_bias": "The bias b is missing: it is added before the ReLU.",
        "bias_after_relu": "The bias comes after the ReLU there. Add it before: a negative bias is what lets the ReLU cut off small interference.",
        "bias_first": "The bias goes through the weights there. It is added once, after W^T: to features, not to x or to the hidden layer.",
        "bias_subtracted": "The bias has the wrong sign: W^T W x *plus* b.",
        "other_activation": "That is another function than ReLU at the end: `relu` cuts off what is below zero and leaves the rest as it is.",
        "transposed": "That is W W^T x, the order reversed: it fits only here, where the check has m = n. W [m, n] takes features to the hidden layer, so W x comes first and W^T second.",
        "not_transposed": "The way out is the way in once more there (W W x or W^T W^T x): it fits only here, where the check has m = n. Go in with W and out with W^T.",
        "instances_mixed": "Instances are mixed up: each is a model of its own, with its own weights and bias, and sees its own x[:, instance].",
        "in_place": _IN_PLACE,
        "something_else": "That is not ReLU(W^T W x + b).",
    },
    judge=_judge_reconstruct,
)

# ------------------------------------------------------------------ 01.loss: the loss


def _judge_loss(answer: Callable) -> None:
    generator, batch, instances, n = seeded(), 6, 3, 4
    x = torch.rand(batch, instances, n, generator=generator)
    out = x + torch.randn(batch, instances, n, generator=generator)
    importance = torch.tensor([1.0, 0.6, 1.7, 0.2])
    shapes = {
        "one_number": [()],
        "per_example": [(batch, instances), (instances, batch)],
        "per_feature": [(instances, n), (n,)],
        "instances_mixed": [(batch,), (batch, n)],
        "not_reduced": [(batch, instances, n)],
    }
    for weights in (importance, importance.flip(0) / 3):
        wanted = (weights * (x - out) ** 2).sum(-1).mean(0)
        expect(answer, (x, out, weights), wanted, _wrong_losses(x, out, weights), shapes)


def _wrong_losses(x: Tensor, out: Tensor, importance: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, and two at once, by a mistake's name."""
    error = x - out
    terms = [
        ("", importance * error**2),
        ("unweighted", error**2),
        ("importance_squared", (importance * error) ** 2),
        ("importance_on_one", (importance * x - out) ** 2),
        ("importance_on_one", (x - importance * out) ** 2),
        ("not_squared", importance * error.abs()),
        ("not_squared", importance * error),
        ("not_squared", -importance * error),
        ("not_squared", error.abs()),
    ]
    for name, each in terms:
        yield name or "batch_summed", each.sum((0, 2))
        yield name or "features_averaged", each.mean((0, 2))
        yield name or "features_averaged", each.mean(-1).sum(0)
        if name:
            yield name, each.sum(-1).mean(0)
    right = (importance * error**2).sum(-1)
    yield from (("rooted", one) for one in (right.mean(0).sqrt(), right.sqrt().mean(0)))
    yield "weights_normalised", right.mean(0) / importance.sum()
    yield "squared_late", (importance * error).sum(-1).square().mean(0)
    yield "squared_late", (importance * error.mean(0) ** 2).sum(-1)


LOSS = Exercise(
    id="01.loss",
    title="A loss that knows what matters",
    minutes=5,
    difficulty=1,
    hints=(
        "x has the axes [batch, instance, n], and the loss has one number for each instance. Which axis is summed over, which averaged?",
        "`importance` [n] lines up with the last axis by itself: multiply the *squared* difference by it, sum over features, then average over the batch.",
        "`(importance * (x - out) ** 2).sum(dim=-1).mean(dim=0)`",
    ),
    mistakes={
        "shape": "Return one number for each instance: shape [instance].",
        "one_number": "That is one number for all instances together. Each instance is a model of its own: keep the middle axis.",
        "per_example": "That is a loss for each example. Average over the batch, the first axis.",
        "per_feature": "That is a loss for each feature. Sum over features, the last axis, and keep the instances.",
        "instances_mixed": "The instances were added up or averaged. Each is a model of its own: keep the middle axis, and reduce the first and the last.",
        "not_reduced": "Those are the terms. Sum them over the features and average over the batch.",
        "features_averaged": "The loss is a *sum* over the features; the mean (or F.mse_loss) divides by n, so that losses of models with different numbers of features can't be compared.",
        "batch_summed": "The loss is a *mean* over the batch: summed, it grows with the number of examples, and so does every step of the training.",
        "unweighted": "The importance is missing: each feature's squared error counts `importance` times.",
        "importance_squared": "The importance is squared along with the error. Square the difference first, then multiply.",
        "importance_on_one": "The importance multiplies x or `out` alone, so that even a perfect copy has a loss. Multiply the squared difference.",
        "not_squared": "The errors aren't squared. With their absolute values the best constant is another one (the median), and the formulas of this notebook don't hold; without even those they cancel.",
        "rooted": "There is a square root too many: the loss is the mean of the squared errors itself.",
        "weights_normalised": "That divides by the sum of the importances, a weighted mean. The loss is a sum over the features.",
        "squared_late": "The errors are added up before they are squared, so that those of different signs cancel. Square each of them first.",
        "in_place": _IN_PLACE,
        "something_else": "That is not the mean over the batch of sum_i I_i (x_i - out_i)^2.",
    },
    judge=_judge_loss,
)
