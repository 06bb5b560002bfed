"""Checks of the exercises of notebook 07 about what transcoders compute: activations, outputs, folded scalings."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, compare, expect, kind
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 07.jumprelu: JumpReLU


def _judge_jumprelu(answer: Callable) -> None:
    threshold = torch.tensor([0.5, 0.0, 1.25, 0.25])
    for shape in ((6, 4), (2, 5, 4), (4,)):
        pre = 2 * torch.randn(shape, generator=seeded(2))
        if pre.ndim > 1:
            pre[..., 0, :] = threshold  # not above it
            pre[..., 1, :] = threshold / 2  # positive, and off
        expect(answer, (pre, threshold), pre * (pre > threshold), _wrong_jumps(pre, threshold))


def _wrong_jumps(pre: Tensor, threshold: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    above, large = pre > threshold, pre.abs() > threshold
    return [
        ("shifted", (pre - threshold).relu()),
        ("shifted", (pre.abs() - threshold).relu() * pre.sign()),
        ("relu", pre.relu()),
        ("absolute", pre * large),
        ("absolute", pre.abs() * large),
        ("at_threshold", pre * (pre >= threshold)),
        ("mask", above.float()),
        ("opposite", pre * (pre < threshold)),
        ("opposite", pre * ~above),
        ("raised", torch.maximum(pre, threshold)),
        ("one_threshold", pre * (pre > threshold.mean())),
        ("one_threshold", pre * (pre > threshold[0])),
        ("one_threshold", pre * (pre > threshold.max())),
    ]


JUMPRELU = Exercise(
    id="07.jumprelu",
    title="All or nothing",
    minutes=5,
    difficulty=1,
    hints=(
        "Which entries of `pre` are above the threshold of their feature?",
        "`pre > threshold` lines up the last axis by itself. It holds True and False, which count as 1 and 0 in a product.",
        "`pre * (pre > threshold)`",
    ),
    mistakes={
        "shape": "Return the activations, with the shape of `pre`.",
        "shifted": "The threshold is subtracted from what passes, so that strong features come out too weak. JumpReLU lets a value through exactly as it is: hence the jump.",
        "relu": "That is a plain ReLU: it ignores the thresholds. A value between 0 and the threshold is off too.",
        "absolute": "A negative value far from 0 counts as active in yours. Compare the value itself with the threshold, not its size.",
        "at_threshold": "Almost: a value that equals its threshold is off. It has to be *above* it.",
        "mask": "That only says which are active, 1 or 0. Return the values themselves where they are above.",
        "opposite": "The other way round: what is above the threshold passes, and all else is 0.",
        "raised": "Below the threshold yours returns the threshold. There it should be 0.",
        "one_threshold": "One threshold is used for all features. Each feature has its own: compare along the last axis.",
        "in_place": "Right, but your function changed what it was given. Write the result into a new tensor.",
        "something_else": "That is not `pre` where it is above the threshold, and 0 elsewhere.",
    },
    judge=_judge_jumprelu,
)

# ------------------------------------------------------------------ 07.clt_output: the output of a cross-layer transcoder


def _judge_clt(answer: Callable) -> None:
    # First the case in which every wrong index still finds a decoder, then the last layer, the first and one between.
    for n_layers, layer in ((3, 1), (4, 3), (4, 0), (5, 2)):
        generator = seeded(n_layers)
        features = [torch.randn(6, 4, generator=generator).relu() for _ in range(n_layers)]
        W_dec = [torch.randn(n_layers - source, 4, 3, generator=generator) for source in range(n_layers)]
        b_dec = torch.randn(n_layers, 3, generator=generator)
        copies = [one.clone() for one in features], [one.clone() for one in W_dec]
        got, unchanged = ask(answer, *copies, b_dec, layer)
        wanted = (
            _written(features, W_dec, ((source, layer - source) for source in range(layer + 1)))
            + b_dec[layer]
        )
        shapes = {"all_targets": [(n_layers, 6, 3), (n_layers - layer, 6, 3)]}
        compare(got, wanted, _wrong_outputs(features, W_dec, b_dec, layer), shapes)
        same = all(map(torch.equal, copies[0] + copies[1], features + W_dec))
        if not (unchanged and same and [len(one) for one in copies] == [n_layers, n_layers]):
            raise Mistake("in_place")


def _written(features: list[Tensor], W_dec: list[Tensor], pairs: Iterable[tuple[int, int]]) -> Tensor | None:
    """What features of each source write by the decoder of that index; None where one of them does not exist."""
    pairs = list(pairs)
    if any(not -len(W_dec[source]) <= index < len(W_dec[source]) for source, index in pairs):
        return None
    return sum(
        (features[source] @ W_dec[source][index] for source, index in pairs),
        torch.zeros(len(features[0]), W_dec[0].shape[-1]),
    )


def _wrong_outputs(
    features: list[Tensor], W_dec: list[Tensor], b_dec: Tensor, layer: int
) -> list[tuple[str, Tensor | None]]:
    """What each known mistake gives, by the mistake's name."""
    up_to, everything = range(layer + 1), range(len(features))
    right = _written(features, W_dec, ((source, layer - source) for source in up_to))
    outputs = [
        ("own_layer_only", [(layer, 0)]),
        ("own_layer_missing", [(source, layer - source) for source in range(layer)]),
        ("later_layers", [(source, layer - source) for source in everything]),
        ("absolute_index", [(source, layer) for source in up_to]),
        ("other_decoder", [(source, 0) for source in up_to]),
        ("other_decoder", [(source, -1) for source in up_to]),
        ("other_decoder", [(source, source) for source in up_to]),
        ("source_and_target_swapped", [(layer, source) for source in up_to]),
        ("source_and_target_swapped", [(layer, index) for index in range(len(W_dec[layer]))]),
        ("all_targets", [(source, index) for source in up_to for index in range(len(W_dec[source]))]),
    ]
    given = [(name, _written(features, W_dec, pairs)) for name, pairs in outputs]
    return [
        *((name, None if one is None else one + b_dec[layer]) for name, one in given),
        ("no_bias", right),
        ("bias_of_each_source", right + (layer + 1) * b_dec[layer]),
        ("other_bias", right + b_dec[: layer + 1].sum(0)),
        ("other_bias", right + b_dec.sum(0)),
        ("other_bias", right + b_dec.mean(0)),
        *(("other_bias", right + bias) for bias in b_dec),
        ("mean", right / (layer + 1) + b_dec[layer]),
    ]


CLT_OUTPUT = Exercise(
    id="07.clt_output",
    title="One MLP, written by many layers",
    minutes=10,
    difficulty=3,
    hints=(
        "Which sources may write to `layer`? And `W_dec[source]` starts at the source's own layer: how far above it is `layer`?",
        "The sources are `range(layer + 1)`, and the decoder of each for this layer is `W_dec[source][layer - source]`, `[feature, d_model]`.",
        "`sum(features[source] @ W_dec[source][layer - source] for source in range(layer + 1)) + b_dec[layer]`",
    ),
    mistakes={
        "shape": "Return what stands in for the MLP output of one layer: shape [token, d_model].",
        "own_layer_only": "Only the layer's own features write in yours: that is a per-layer transcoder. Features of all earlier layers write here too.",
        "own_layer_missing": "The layer's own features are missing: the sources go up to `layer` and include it.",
        "later_layers": "Features of later layers write in yours, through a negative index that silently counts from the end. Features never write backwards: stop at `layer`.",
        "absolute_index": "`W_dec[source]` has no entry for the layers below the source: index 0 is layer `source` itself. The index of `layer` is `layer - source`.",
        "other_decoder": "The sources are right, but another of their decoders is used. Each has one for every target; the one for `layer` is at `layer - source`.",
        "source_and_target_swapped": "Those are decoders of `layer` itself, to itself and to later layers. Each source's features go through that source's own decoders, `W_dec[source]`.",
        "all_targets": "That has everything that the features write, to all targets. Only what they write to `layer` counts.",
        "no_bias": "The bias of the layer, `b_dec[layer]`, is missing.",
        "bias_of_each_source": "The bias is added once for every source. The layer has one bias: add it after the sum.",
        "other_bias": "The features' part is right; the bias is another layer's, or that of several layers. It is `b_dec[layer]`.",
        "mean": "That is the mean over sources. What they write is added up.",
        "in_place": "Right, but your function changed what it was given. If the sum starts as `total = b_dec[layer]`, then `total += ...` writes into `b_dec`: use `total = total + ...`.",
        "something_else": "That is not the sum over sources up to `layer` of what they write there, plus the bias of the layer.",
    },
    judge=_judge_clt,
)

# ------------------------------------------------------------------ 07.unscale: fold the scaling into the encoder


def _judge_unscale(answer: Callable) -> None:
    for d_model, width, size in ((4, 4, 2.5), (5, 3, 0.4)):
        generator = seeded(width)
        W_enc = torch.randn(d_model, width, generator=generator)
        b_enc = torch.randn(width, generator=generator)
        mean = torch.randn(d_model, generator=generator) + 1
        got, unchanged = ask(answer, W_enc, b_enc, mean, torch.tensor(size))
        W, b = _pair(got, W_enc)
        right = W_enc / size
        compare(W, right, _wrong_weights(W_enc, size))
        compare(b, b_enc - mean @ right, _wrong_shifts(W_enc, b_enc, mean, size))
        if not unchanged:
            raise Mistake("in_place")


def _pair(got: Any, W_enc: Tensor) -> tuple[Any, Any]:
    """The two parts of an answer, in their order."""
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Mistake("no_pair", f"It returned {kind(got)}.")
    W, b = got
    if getattr(W, "ndim", None) == 1 and getattr(b, "shape", None) == W_enc.shape:
        raise Mistake("order")
    return W, b


def _wrong_weights(W_enc: Tensor, size: float) -> list[tuple[str, Tensor]]:
    """What each known mistake gives for the weights, by the mistake's name."""
    return [
        ("multiplied", W_enc * size),
        ("weights_unchanged", W_enc),
        ("twice_divided", W_enc / size**2),
    ]


def _wrong_shifts(W_enc: Tensor, b_enc: Tensor, mean: Tensor, size: float) -> list[tuple[str, Tensor]]:
    """What each known mistake gives for the bias, by the mistake's name; some only where the sizes coincide."""
    raw = mean @ W_enc
    averages = (
        W_enc.mean(0),
        W_enc.sum(0),
        W_enc.mean(),
        W_enc.sum(0) * mean.mean(),
        W_enc.mean(0) * mean.mean(),
    )
    wrong = [
        ("bias_unchanged", b_enc),
        ("sign", b_enc + raw / size),
        ("shift_not_divided", b_enc - raw),
        ("shift_not_divided", b_enc + raw),
        ("shift_multiplied", b_enc - raw * size),
        ("shift_divided_twice", b_enc - raw / size**2),
        ("bias_divided", (b_enc - raw) / size),
        ("bias_divided", b_enc / size - raw / size),
        ("bias_divided", b_enc / size),
        ("bias_missing", -raw / size),
        *(("mean_of_weights", b_enc - one / by) for one in averages for by in (1, size)),
        ("not_projected", b_enc - mean.mean() / size),
        ("not_projected", b_enc - mean.mean()),
    ]
    if W_enc.shape[0] == W_enc.shape[1]:
        wrong += [
            ("other_axis", b_enc - W_enc @ mean / size),
            ("not_projected", b_enc - mean / size),
            ("not_projected", b_enc - mean),
        ]
    return wrong


UNSCALE = Exercise(
    id="07.unscale",
    title="Fold the scaling in",
    minutes=10,
    difficulty=3,
    hints=(
        "Multiply `(x - mean) / size @ W_enc + b_enc` out. Which part depends on `x`, and which is the same for every `x`?",
        "The part with `x` is `x @ (W_enc / size)`: there are the weights. What is left is `-mean @ (W_enc / size) + b_enc`.",
        "`W = W_enc / size`, and the bias is `b_enc - mean @ W`.",
    ),
    mistakes={
        "shape": "Return weights [d_model, feature] and a bias [feature].",
        "no_pair": "Return two tensors: `return W, b`.",
        "order": "Those are the bias and the weights. Return the weights first: `return W, b`.",
        "multiplied": "The weights are multiplied by `size`. The input was *divided* by it, and now the weights must do that.",
        "weights_unchanged": "The weights are those of before. `x` no longer gets divided by `size`, so they have to be.",
        "twice_divided": "The weights are divided by `size` twice.",
        "bias_unchanged": "The weights are right. But `mean` is no longer subtracted from the input, so what that did to the pre-activation has to go into the bias.",
        "sign": "The weights are right. The mean was *subtracted* from the input, so what the weights make of it is subtracted from the bias.",
        "shift_not_divided": "The weights are right. The mean was divided by `size` too, together with `x`: use the new weights for it, `mean @ W`.",
        "shift_multiplied": "The weights are right. The mean was divided by `size`, together with `x`; yours multiplies it.",
        "shift_divided_twice": "The weights are right. The mean is divided by `size` twice: `mean @ W` has it already.",
        "bias_divided": "The weights are right. The old bias was added after the division: it stays as it is, undivided.",
        "bias_missing": "The weights are right. The old bias, `b_enc`, got lost.",
        "mean_of_weights": "The weights are right. The bias needs what each feature makes of the vector `mean`, an inner product, `mean @ W`: not the mean or the sum of the weights.",
        "not_projected": "The weights are right. `mean` is a vector in the space of inputs; what a feature makes of it is `mean @ W`.",
        "other_axis": "The weights are right. Their first axis is the input's: `mean @ W`, not `W @ mean`.",
        "in_place": "Right, but your function changed what it was given. Write `W = W_enc / size`, not `W_enc /= size`.",
        "something_else": "Those are not the weights and the bias that do to `x` what the old ones did to `(x - mean) / size`.",
    },
    judge=_judge_unscale,
)
