"""Checks of the exercises of notebook 07 about what makes features sparse: a penalty, and a budget."""

from collections.abc import Callable

import torch
from torch import Tensor

from mi_utils.grading.answers import expect
from mi_utils.grading.core import Exercise
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 07.tanh_penalty: the tanh penalty


def _judge_penalty(answer: Callable) -> None:
    for tokens, width, targets, c in ((6, 5, 3, 0.7), (4, 4, 2, 2.0)):
        generator = seeded(tokens)
        features = torch.randn(tokens, width, generator=generator).relu()
        decoders = (
            torch.randn(targets, width, 3, generator=generator) * torch.linspace(0.3, 0.9, width)[:, None]
        )
        shapes = {
            "not_summed": [(tokens, width)],
            "per_token": [(tokens,), (tokens, 1)],
            "per_feature": [(width,)],
        }
        norms = decoders.square().sum((0, 2)).sqrt()
        right = torch.tanh(c * norms * features).sum(-1).mean()
        expect(answer, (features, decoders, c), right, _wrong_penalties(features, decoders, c), shapes)


def _wrong_penalties(features: Tensor, decoders: Tensor, c: float) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    single = decoders.norm(dim=-1)  # target feature
    together = single.square().sum(0).sqrt()
    lengths = [
        ("norms_summed", single.sum(0)),
        ("norms_summed", single.mean(0)),
        ("norms_summed", single.amax(0)),
        *(("one_decoder", one) for one in single),
        ("no_norm", torch.ones(())),
        ("squared_norm", together.square()),
        ("decoders_added", decoders.sum(0).norm(dim=-1)),
        ("decoders_added", decoders.mean(0).norm(dim=-1)),
        ("one_norm_for_all", decoders.norm()),
        ("one_norm_for_all", together.mean()),
    ]
    size, on = together * features, (features > 0).float()
    each = torch.tanh(c * size)
    return [
        *((name, torch.tanh(c * norm * features).sum(-1).mean()) for name, norm in lengths),
        ("each_target_pays", torch.tanh(c * single[:, None] * features).sum((0, 2)).mean()),
        ("tanh_of_sum", torch.tanh((c * size).sum(-1)).mean()),
        ("tanh_of_sum", torch.tanh((c * size).sum(-1).mean())),
        ("tanh_of_sum", torch.tanh((c * size).sum())),
        ("mean_over_features", each.mean()),
        ("mean_over_features", each.sum(0).mean()),
        ("summed_over_tokens", each.sum()),
        ("l1", size.sum(-1).mean()),
        ("l1", (c * size).sum(-1).mean()),
        ("no_c", torch.tanh(size).sum(-1).mean()),
        ("c_outside", (c * torch.tanh(size)).sum(-1).mean()),
        ("norm_outside", (together * torch.tanh(c * features)).sum(-1).mean()),
        ("l0", on.sum(-1).mean()),
    ]


TANH_PENALTY = Exercise(
    id="07.tanh_penalty",
    title="A price that stops rising",
    minutes=10,
    difficulty=3,
    hints=(
        "Several vectors are put end to end to make a long one. How long is it?",
        "Its squared length is the sum of the squares of *all* entries: `decoders.square().sum(dim=(0, 2)).sqrt()` has one length for each feature. It multiplies the activations inside the tanh.",
        "`torch.tanh(c * norms * features).sum(dim=-1).mean()`",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "not_summed": "That is one number for each token and feature. Sum over features, then take the mean over tokens.",
        "per_token": "That is one number for each token. Take the mean over tokens too.",
        "per_feature": "That is one number for each feature. Sum over features, and take the mean over tokens.",
        "norms_summed": "The lengths of the single decoders are summed, averaged or compared. Put end to end they make one vector; its length is the root of the sum of *squares* over targets and dimensions.",
        "one_decoder": "That is the length of one decoder only. All targets count together.",
        "no_norm": "The length of the decoders is missing. Without it a feature could shrink its activation, grow its decoders, and pay nothing.",
        "squared_norm": "That is the square of the length: the root is missing.",
        "decoders_added": "The decoders are added up or averaged before the length is taken, so that what a feature writes to one layer can cancel what it writes to another. Put them end to end.",
        "one_norm_for_all": "One length is used for all features. Each feature has its own: sum over targets and d_model, not over features.",
        "each_target_pays": "The feature pays for each target separately. It pays once, by the length of all its decoders together.",
        "tanh_of_sum": "The tanh is taken of a sum over features. Then a token whose features are many pays no more than one with a few: each feature has its own tanh.",
        "mean_over_features": "That is a mean over features. The price of a token is the sum over its features; the mean is over tokens.",
        "summed_over_tokens": "That is the sum over tokens, which grows with the batch. Take the mean.",
        "l1": "The tanh is missing: that is an L1 penalty, which never levels off.",
        "no_c": "`c` is missing: it says how soon the price levels off.",
        "c_outside": "`c` multiplies the tanh in yours. It belongs inside, where it sets how soon the price levels off.",
        "norm_outside": "The length multiplies the tanh in yours. It belongs inside, with the activation: a feature's size is what it writes.",
        "l0": "That counts the active features. It is what the penalty comes close to for a large `c`, but it has no slope to learn from.",
        "in_place": "Right, but your function changed what it was given.",
        "something_else": "That is not the mean over tokens of the sum over features of tanh(c * norm * activation).",
    },
    judge=_judge_penalty,
)

# ------------------------------------------------------------------ 07.batch_topk: BatchTopK


def _judge_batch_topk(answer: Callable) -> None:
    # Some tokens with much larger values than others; in the last case fewer values are positive than may be kept.
    for tokens, width, k, shift in ((5, 6, 2, 0.0), (4, 7, 1, -0.2), (4, 5, 3, -1.0)):
        generator = seeded(tokens + width)
        scale = torch.linspace(0.5, 3, tokens)[:, None]
        pre = scale * (torch.randn(tokens, width, generator=generator) + shift)
        expect(
            answer,
            (pre, k),
            _kept(pre, k * tokens),
            _wrong_budgets(pre, k),
            {"one_row": [(k * tokens,), (k,), (tokens, k)]},
        )


def _largest(ranked: Tensor, count: int) -> Tensor:
    """A mask of the ``count`` largest values of a tensor."""
    mask = torch.zeros(ranked.numel(), dtype=torch.bool)
    mask[ranked.flatten().topk(min(count, ranked.numel())).indices] = True
    return mask.view_as(ranked)


def _kept(pre: Tensor, count: int) -> Tensor:
    return pre.relu() * _largest(pre, count)


def _wrong_budgets(pre: Tensor, k: int) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    tokens, width = pre.shape
    budget = k * tokens
    row_wise = torch.stack([_largest(row, k) for row in pre])
    column_wise = torch.stack([_largest(column, k) for column in pre.T], dim=1)
    by_size = _largest(pre.abs(), budget)
    lowest = pre[_largest(pre, budget)].min()
    return [
        ("each_token", pre * row_wise),
        ("each_token", pre.relu() * row_wise),
        ("each_feature", pre.relu() * column_wise),
        ("each_feature", pre * column_wise),
        ("k_of_the_batch", _kept(pre, k)),
        ("k_of_the_batch", pre * _largest(pre, k)),
        ("times_features", _kept(pre, k * width)),
        ("times_features", pre * _largest(pre, k * width)),
        ("absolute", pre * by_size),
        ("absolute", pre.abs() * by_size),
        ("absolute", pre.relu() * by_size),
        ("negative_kept", pre * _largest(pre, budget)),
        ("one_off", _kept(pre, budget - 1)),
        ("one_off", _kept(pre, budget + 1)),
        ("mask", _largest(pre, budget).float()),
        ("mask", (_kept(pre, budget) > 0).float()),
        ("shifted", (pre - lowest).relu()),
        ("all_kept", pre.relu()),
    ]


BATCH_TOPK = Exercise(
    id="07.batch_topk",
    title="A budget for the whole batch",
    minutes=10,
    difficulty=2,
    hints=(
        "How many values may be active in the whole batch? And does it matter in which row they stand?",
        "`pre.flatten().topk(k * len(pre)).indices` are the places of the largest. Make a mask of zeros with ones there, in the shape of `pre`; or compare with the smallest value that is kept.",
        "`lowest = pre.flatten().topk(k * len(pre)).values[-1]`, then `pre.relu() * (pre >= lowest)`",
    ),
    mistakes={
        "shape": "Return the activations, with the shape of `pre`.",
        "one_row": "Those are the values that are kept, taken out of their places. Return a tensor with the shape of `pre`, with 0 for all others.",
        "each_token": "That keeps the `k` largest of each token: TopK. Here the batch shares one budget, so that a hard token may use more than an easy one.",
        "each_feature": "That keeps the `k` largest of each feature. One budget is shared by the whole batch, tokens and features together.",
        "k_of_the_batch": "That keeps `k` values in the whole batch. `k` is the mean number for a token, so the batch may keep `k` times the number of tokens.",
        "times_features": "The budget is `k` times the number of *features* in yours. It is `k` times the number of tokens, `len(pre)`.",
        "absolute": "That ranks by size, whatever the sign. Only positive values may be active: rank the values themselves.",
        "negative_kept": "Right as long as enough values are positive. Where they are not, negative ones are among the largest, and yours keeps them: an active feature is above 0.",
        "one_off": "The budget is off by one: exactly `k * len(pre)` values are kept, the smallest of them included.",
        "mask": "That only says which are kept, 1 or 0. Return the values themselves.",
        "shifted": "The smallest value that is kept has been subtracted from all. They are kept as they are.",
        "all_kept": "That keeps every positive value: a ReLU without a budget.",
        "in_place": "Right, but your function changed `pre`. Write the result into a new tensor.",
        "something_else": "That does not keep the `k * len(pre)` largest values of the batch.",
    },
    judge=_judge_batch_topk,
)
