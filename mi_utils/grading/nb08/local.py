"""Checks of the exercises of notebook 08 about what a graph is made of: errors, frozen attention, edges."""

from collections.abc import Callable

import torch
from torch import Tensor

from mi_utils.grading.answers import expect
from mi_utils.grading.core import Exercise
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 08.error: error nodes


def _judge_error(answer: Callable) -> None:
    for shape in ((4, 6, 3), (2, 2, 5)):
        generator = seeded()
        mlp_out, replaced = (torch.randn(shape, generator=generator) for _ in range(2))
        expect(answer, (mlp_out, replaced), _errors(mlp_out, replaced), _wrong_errors(mlp_out, replaced))


def _errors(mlp_out: Tensor, replaced: Tensor, position: int = 0) -> Tensor:
    errors = mlp_out - replaced
    errors[:, position] = mlp_out[:, position]
    return errors


def _wrong_errors(mlp_out: Tensor, replaced: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    right, missed = _errors(mlp_out, replaced), mlp_out - replaced
    layer_first, zero, own, one, turned = (*(missed.clone() for _ in range(4)), -missed)
    layer_first[0] = mlp_out[0]
    zero[:, 0] = 0
    own[:, 0] = replaced[:, 0]
    one[0, 0] = mlp_out[0, 0]
    turned[:, 0] = mlp_out[:, 0]
    return [
        ("first_forgotten", missed),
        ("sign", -right),
        ("sign", -missed),
        ("sign", turned),
        ("size_only", right.abs()),
        ("size_only", right.square()),
        ("size_only", missed.abs()),
        ("size_only", missed.square()),
        ("last_position", _errors(mlp_out, replaced, -1)),
        ("first_layer", layer_first),
        ("first_layer", one),
        ("first_zero", zero),
        ("first_replaced", own),
        ("everything", mlp_out),
        ("sum", mlp_out + replaced),
    ]


ERROR = Exercise(
    id="08.error",
    title="What the transcoders miss",
    minutes=5,
    difficulty=1,
    hints=(
        "What has to be added to `replaced` to make it `mlp_out`? And what at the first position, where nothing is there to add it to?",
        "The difference of the two is a new tensor. In it, set the first position of every layer, `[:, 0]`, to what the MLP wrote there.",
        "`missed = mlp_out - replaced`, then `missed[:, 0] = mlp_out[:, 0]`",
    ),
    mistakes={
        "shape": "Return the errors, with the shape of `mlp_out`: [layer, pos, d_model].",
        "first_forgotten": "Right but for the first position. There are no transcoders there, whatever `replaced` holds: all of the MLP's output is error.",
        "sign": "The sign is the other way round: transcoders *plus* error give the MLP's output.",
        "size_only": "Those are absolute values or squares. An error node writes a vector into the stream, signs included.",
        "last_position": "That makes the *last* position an exception. It is the first, position 0, that has no transcoder.",
        "first_layer": "That makes the first *layer* an exception, or only the first position of the first layer. The axes are [layer, pos, d_model], and it is every layer's first position.",
        "first_zero": "At the first position yours has no error at all. All of what the MLP wrote there is error.",
        "first_replaced": "At the first position yours has what the transcoders would write. It is what the MLP wrote.",
        "everything": "That is all of the MLP's output at every position. What the transcoders explain has to be subtracted, except at the first.",
        "sum": "That is the sum. The error is what is *missing* in `replaced`: subtract it.",
        "in_place": "Right, but your function changed what it was given. Write into the difference, which is new, not into `mlp_out` or `replaced`.",
        "something_else": "That is not `mlp_out - replaced`, with all of `mlp_out` at the first position.",
    },
    judge=_judge_error,
)

# ------------------------------------------------------------------ 08.frozen_attention: frozen attention


def _judge_attend(answer: Callable) -> None:
    # First with sizes that coincide, so that axes which are mixed up give numbers.
    for positions, heads, d_head, d_model in ((5, 5, 4, 4), (6, 3, 2, 5)):
        given = _attention_case(positions, heads, d_head, d_model)
        shapes = {"heads_apart": [(heads, positions, d_model), (positions, heads, d_model)]}
        expect(answer, given, _attended(*given), _wrong_attention(*given), shapes)


_Attention = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _attention_case(positions: int, heads: int, d_head: int, d_model: int) -> _Attention:
    generator = seeded()
    stream = torch.randn(positions, d_model, generator=generator)
    future = torch.ones(positions, positions, dtype=torch.bool).triu(1)
    scores = 2 * torch.randn(heads, positions, positions, generator=generator)
    pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
    W_V = torch.randn(heads, d_model, d_head, generator=generator)
    W_O = torch.randn(heads, d_head, d_model, generator=generator)
    scale = 0.5 + 3 * torch.rand(positions, 1, generator=generator)
    return stream, pattern, W_V, W_O, scale


def _attended(stream: Tensor, pattern: Tensor, W_V: Tensor, W_O: Tensor, scale: Tensor) -> Tensor:
    return torch.einsum("hqk,kd,hde,hem->qm", pattern, stream / scale, W_V, W_O)


def _wrong_attention(
    stream: Tensor, pattern: Tensor, W_V: Tensor, W_O: Tensor, scale: Tensor
) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name; some only where sizes coincide."""
    right, unscaled = (_attended(stream, pattern, W_V, W_O, one) for one in (scale, torch.ones_like(scale)))
    rms = stream.square().mean(-1, keepdim=True)
    deviation = stream.var(-1, keepdim=True, correction=0)
    centred = stream - stream.mean(-1, keepdim=True)
    mean = pattern.mean(0, keepdim=True).expand_as(pattern)
    uniform = (pattern > 0) / (pattern > 0).sum(-1, keepdim=True)
    wrong = [
        ("norm_recomputed", _attended(stream, pattern, W_V, W_O, rms.sqrt())),
        ("norm_recomputed", _attended(stream, pattern, W_V, W_O, (rms + 1e-5).sqrt())),
        ("norm_recomputed", _attended(stream, pattern, W_V, W_O, stream.norm(dim=-1, keepdim=True))),
        ("norm_recomputed", _attended(centred, pattern, W_V, W_O, deviation.sqrt())),
        ("norm_recomputed", _attended(stream / rms.sqrt(), pattern, W_V, W_O, scale)),
        ("no_scale", unscaled),
        ("multiplied", _attended(stream, pattern, W_V, W_O, 1 / scale)),
        ("scale_at_query", unscaled / scale),
        ("transposed_pattern", _attended(stream, pattern.mT, W_V, W_O, scale)),
        ("heads_averaged", right / len(pattern)),
        ("one_pattern", _attended(stream, mean, W_V, W_O, scale)),
        ("one_pattern", _attended(stream, pattern[:1].expand_as(pattern), W_V, W_O, scale)),
        ("no_pattern", _attended(stream, torch.eye(len(stream)).expand_as(pattern), W_V, W_O, scale)),
        ("no_pattern", _attended(stream, torch.ones_like(pattern), W_V, W_O, scale)),
        ("no_pattern", _attended(stream, uniform, W_V, W_O, scale)),
        ("softmax_again", _attended(stream, pattern.softmax(-1), W_V, W_O, scale)),
        ("stream_added", right + stream),
        ("centred", _attended(centred, pattern, W_V, W_O, scale)),
        ("heads_mixed", torch.einsum("hqk,kd,hde,gem->qm", pattern, stream / scale, W_V, W_O)),
    ]
    if W_V.shape[1] == W_V.shape[2]:
        wrong += [
            ("transposed_weights", _attended(stream, pattern, W_V.mT, W_O, scale)),
            ("transposed_weights", _attended(stream, pattern, W_V, W_O.mT, scale)),
            ("transposed_weights", _attended(stream, pattern, W_V.mT, W_O.mT, scale)),
            ("transposed_weights", _attended(stream, pattern, W_O, W_V, scale)),
        ]
    return wrong


FROZEN_ATTENTION = Exercise(
    id="08.frozen_attention",
    title="Attention that no longer decides",
    minutes=10,
    difficulty=3,
    hints=(
        "What does each position hand over to a query that attends to it, and by whose scale is that divided?",
        'By its own: `values = torch.einsum("pd,hde->hpe", values_in / scale, W_V)` is `[head, pos, d_head]`. Then the pattern mixes over keys, and `W_O` writes.',
        '`torch.einsum("hqp,hpe,hed->qd", pattern, values, W_O)`: the head is on the left and not on the right, so it is summed over.',
    ),
    mistakes={
        "shape": "Return what attention writes at each position: shape [pos, d_model].",
        "heads_apart": "Those are the outputs of the single heads. Their sum is what attention writes: shape [pos, d_model].",
        "norm_recomputed": "The norm is computed anew from the stream that comes in. Then the output isn't linear in it: divide by the frozen `scale`, which may belong to another stream.",
        "no_scale": "The stream is not divided by `scale`: the heads read it after the norm.",
        "multiplied": "The stream is multiplied by `scale`. It is the norm's denominator: divide.",
        "scale_at_query": "The division comes after the mixing, by the scale of the *query's* position. What is attended to was normalised where it stands: divide the stream first.",
        "transposed_pattern": "Query and key have changed places. The axes are [head, query, key]: the sum over keys gives what arrives at the query.",
        "heads_averaged": "That is the mean over heads. Heads add up.",
        "one_pattern": "All heads mix by the same pattern. Each head has its own.",
        "no_pattern": "The pattern isn't used: every query gets its own value, or that of all keys alike.",
        "softmax_again": "The pattern goes through a softmax once more. It is the result of one already, frozen.",
        "stream_added": "That is the stream after attention. Return only what attention adds to it.",
        "centred": "The stream's mean is subtracted. Here the norm does not do that: divide by `scale`, and nothing else.",
        "heads_mixed": "Each head's values go through the output weights of *all* heads. Keep the head's axis in all three: pattern, values and `W_O`.",
        "transposed_weights": "A weight matrix is used the wrong way round, or the two have changed places. `W_V` is [head, d_model, d_head] and reads the stream, `W_O` [head, d_head, d_model] and writes.",
        "in_place": "Right, but your function changed what it was given. Write `values_in / scale`, not `values_in /= scale`.",
        "something_else": "That is not what the heads write with this pattern and this scale.",
    },
    judge=_judge_attend,
)

# ------------------------------------------------------------------ 08.edge: an edge


def _judge_edge(answer: Callable) -> None:
    # The second effect is negative.
    for targets, d_model, value, sign in ((3, 4, 2.5, 1), (2, 3, 0.4, -1)):
        generator = seeded(targets)
        decoders, carried = (torch.randn(targets, d_model, generator=generator) for _ in range(2))
        carried = carried * sign * (decoders * carried).sum().sign()
        activation = torch.tensor(value)
        shapes = {
            "not_summed": [(targets,), (targets, 1), (targets, d_model), (d_model,), (targets, targets)]
        }
        expect(
            answer,
            (activation, decoders, carried),
            activation * (decoders * carried).sum(),
            _wrong_edges(activation, decoders, carried),
            shapes,
        )


def _wrong_edges(activation: Tensor, decoders: Tensor, carried: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    each = activation * (decoders * carried).sum(-1)
    right = each.sum()
    cosines = torch.cosine_similarity(decoders, carried, dim=-1)
    whole = torch.cosine_similarity(decoders.flatten(), carried.flatten(), dim=0)
    crossed = decoders.sum(0) @ carried.sum(0)
    return [
        ("no_activation", right / activation),
        ("one_target", each[0]),
        ("one_target", each[-1]),
        ("absolute", right.abs()),
        ("absolute", each.abs().sum()),
        ("cosine", cosines.sum()),
        ("cosine", activation * cosines.sum()),
        ("cosine", cosines.mean()),
        ("cosine", activation * cosines.mean()),
        ("cosine", whole),
        ("cosine", activation * whole),
        ("mean", each.mean()),
        ("mean", right / decoders.numel()),
        ("crossed", activation * crossed),
        ("crossed", activation * decoders.mean(0) @ carried.mean(0)),
        ("crossed", crossed),
        ("largest", each[each.abs().argmax()]),
        ("squared", activation * right),
        ("sign", -right),
        ("positive_only", each.relu().sum()),
        ("positive_only", right.relu()),
    ]


EDGE = Exercise(
    id="08.edge",
    title="One edge",
    minutes=10,
    difficulty=3,
    hints=(
        "Take one MLP output. What does the source write there on this prompt, and what does the target make of it?",
        "It writes `activation * decoders[i]`, and the target's pre-activation changes by the inner product of that with `carried[i]`. What happens with several of them?",
        "`activation * (decoders * carried).sum()`",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "not_summed": "Those are parts of the effect. Sum over d_model and over the MLP outputs to which the source writes.",
        "no_activation": "That is what the source would add if its value were 1. It writes its decoders times its activation.",
        "one_target": "Only one of the MLP outputs counts in yours. A cross-layer feature reaches the target through all that it writes to.",
        "absolute": "The sign is lost. A source may hold its target down, and such edges are negative.",
        "cosine": "That is a cosine, which divides by the lengths. How far the pre-activation moves depends on them: take the inner product.",
        "mean": "That is a mean. The effects through the MLP outputs add up.",
        "crossed": "The sums come before the product, so that what is written to one MLP output is multiplied by how *another* is read. Multiply target by target, then sum.",
        "largest": "That is the largest of the effects. They add up.",
        "squared": "The activation comes in twice.",
        "sign": "The sign is the other way round.",
        "positive_only": "What is negative gets dropped. A source may hold its target down: the effect keeps its sign.",
        "in_place": "Right, but your function changed what it was given. Write the products into a new tensor.",
        "something_else": "That is not the activation times the sum of the inner products.",
    },
    judge=_judge_edge,
)
