"""Checks of the exercises of notebook 07 about errors: the normalised one, and the lift over a skip."""

from collections.abc import Callable

import torch
from torch import Tensor

from mi_utils.grading.answers import expect
from mi_utils.grading.core import Exercise
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 07.nmse: normalised mean squared error


def _judge_nmse(answer: Callable) -> None:
    # A mean far from 0 and dimensions of unlike variance; the second reconstruction is worse than the mean.
    for tokens, width, noise in ((12, 5, 0.4), (9, 4, 2.5)):
        generator = seeded()
        spread, mean = torch.linspace(0.5, 2.0, width), torch.linspace(-2, 4, width)
        y = torch.randn(tokens, width, generator=generator) * spread + mean
        y_hat = 0.8 * y + noise * torch.randn(tokens, width, generator=generator) + noise / 2
        exact, exact_hat = y.double(), y_hat.double()
        shapes = {"per_token": [(tokens,), (tokens, 1)], "per_dimension": [(width,), (1, width)]}
        right = (exact - exact_hat).square().sum() / (exact - exact.mean(0)).square().sum()
        expect(answer, (y, y_hat), right, _wrong_nmses(exact, exact_hat, right), shapes)


def _wrong_nmses(y: Tensor, y_hat: Tensor, right: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    tokens, width = y.shape
    error, spread = (y - y_hat).square(), (y - y.mean(0)).square()
    total = error.sum()
    return [
        ("mean_not_subtracted", total / y.square().sum()),
        ("one_mean", total / (y - y.mean()).square().sum()),
        ("one_mean", error.mean() / y.var()),
        ("mean_of_each_token", total / (y - y.mean(1, keepdim=True)).square().sum()),
        ("ratio_of_each_token", (error.sum(1) / spread.sum(1)).mean()),
        ("ratio_of_each_token", (error / spread).mean()),
        ("ratio_of_each_dimension", (error.sum(0) / spread.sum(0)).mean()),
        ("ratio_of_each_dimension", (error.mean(0) / y.var(0)).mean()),
        ("root", right.sqrt()),
        ("root", (error.sum(1).sqrt() / spread.sum(1).sqrt()).mean()),
        ("root", error.sqrt().sum() / spread.sqrt().sum()),
        ("of_reconstruction", total / (y_hat - y_hat.mean(0)).square().sum()),
        ("of_reconstruction", total / (y - y_hat.mean(0)).square().sum()),
        ("of_reconstruction", total / (y_hat - y.mean(0)).square().sum()),
        ("explained", 1 - right),
        ("inverted", 1 / right),
        ("error_alone", total),
        ("error_alone", error.mean()),
        ("error_alone", total / tokens),
        ("n_minus_one", error.mean(0).sum() / y.var(0).sum()),
        *(("sums_and_means", right * by) for n in (tokens, width, tokens * width) for by in (n, 1 / n)),
        ("percent", 100 * right),
        ("clipped", right.clamp(max=1)),
    ]


NMSE = Exercise(
    id="07.nmse",
    title="An error without a unit",
    minutes=5,
    difficulty=2,
    hints=(
        "Which reconstruction is the best of those that ignore the token?",
        "The mean output, `y.mean(dim=0)`, one number for each dimension: its squared error is the denominator. Sum both squares over everything, and divide at the end.",
        "`(y - y_hat).square().sum() / (y - y.mean(dim=0)).square().sum()`",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "per_token": "That is one number for each token. Sum both parts over everything, then divide.",
        "per_dimension": "That is one number for each dimension. Sum both parts over everything, then divide.",
        "mean_not_subtracted": "The denominator is the size of `y`, mean included. A constant output would then explain a lot: take the distance from the mean over tokens.",
        "one_mean": "One mean is taken over everything. Each dimension has its own: `y.mean(dim=0)`.",
        "mean_of_each_token": "That is each token's mean over its own dimensions. The mean is over tokens: dim=0.",
        "ratio_of_each_token": "That is a mean of ratios, one for each token or entry. Those near the mean have hardly anything in the denominator and decide it all: sum first, then divide.",
        "ratio_of_each_dimension": "That is a mean of ratios, one for each dimension. Dimensions with next to no variance then count as much as the others: sum first, then divide.",
        "root": "Those are lengths or absolute values, not squares. There is no root in it.",
        "of_reconstruction": "The denominator has something of `y_hat` in it. What is to be explained is how `y` varies about its own mean (the order is `y`, `y_hat`).",
        "explained": "That is the share explained. Asked for is what is left, 0 for a perfect reconstruction.",
        "inverted": "That is upside down: the error is the numerator.",
        "error_alone": "That is the error in its own unit. Divide it by the squared distance of `y` from its mean.",
        "n_minus_one": "Almost: `y.var` divides by n - 1 and your error by n. Use sums for both.",
        "sums_and_means": "Right up to a factor: one part is a sum where the other is a mean. Take the same for both.",
        "percent": "That is in per cent. Return the fraction.",
        "clipped": "Right below 1, but yours stops there. A reconstruction can be worse than the mean, and one wants to know.",
        "in_place": "Right, but your function changed what it was given. Subtract into a new tensor.",
        "something_else": "That is not the squared error over the squared distance of `y` from its mean.",
    },
    judge=_judge_nmse,
)

# ------------------------------------------------------------------ 07.lift: the lift over a skip

_SKIP = (0.42, 0.08, 0.31, 0.90, 0.55, 0.24, 0.67)
_LATENTS = (0.21, 0.07, 0.09, 0.72, 0.56, 0.19, 0.33)  # one layer does worse with them
_HARMFUL = (0.45, 0.12, 0.30, 0.99, 0.61, 0.20, 0.80)  # most do


def _judge_lift(answer: Callable) -> None:
    skip = torch.tensor(_SKIP)
    for fvu in (torch.tensor(_LATENTS), torch.tensor(_HARMFUL)):
        shapes = {"per_layer": [(len(skip),)]}
        expect(answer, (fvu, skip), (1 - fvu / skip).median(), _wrong_lifts(fvu, skip), shapes)


def _wrong_lifts(fvu: Tensor, skip: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    lift, left = 1 - fvu / skip, fvu / skip
    return [
        ("difference", (skip - fvu).median()),
        ("difference", (fvu - skip).median()),
        ("difference", skip.median() - fvu.median()),
        ("skip_ignored", (1 - fvu).median()),
        ("skip_ignored", 1 - fvu.mean()),
        ("skip_ignored", fvu.median()),
        ("ratio_of_medians", 1 - fvu.median() / skip.median()),
        ("ratio_of_medians", 1 - fvu.mean() / skip.mean()),
        ("ratio_of_medians", fvu.median() / skip.median()),
        ("mean", lift.mean()),
        ("share_left", left.median()),
        ("share_left", left.mean()),
        ("inverted", (skip / fvu).median()),
        ("inverted", ((skip - fvu) / fvu).median()),
        ("inverted", (1 - skip / fvu).median()),
        ("sign", (left - 1).median()),
        ("of_explained", ((skip - fvu) / (1 - fvu)).median()),
        ("of_explained", ((skip - fvu) / (1 - skip)).median()),
        ("extreme", lift.max()),
        ("extreme", lift.min()),
        ("percent", 100 * lift.median()),
        ("clipped", lift.clamp(min=0).median()),
        ("clipped", lift.abs().median()),
    ]


LIFT = Exercise(
    id="07.lift",
    title="What do the latents add?",
    minutes=5,
    difficulty=2,
    hints=(
        "In a single layer: the skip leaves 0.4, with the latents 0.1 is left. Which share of the 0.4 is gone?",
        "How much is gone is `fvu_skip - fvu`. Divide it by what there was to remove, layer by layer, and only then take the median.",
        "`((fvu_skip - fvu) / fvu_skip).median()`",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "per_layer": "That is one number for each layer. Return their median.",
        "difference": "That is a difference of two shares of the *whole* variance. Where the skip left little, little can be removed: divide by `fvu_skip`.",
        "skip_ignored": "That doesn't ask what the skip alone can do: it is the variance explained (or not) by both together. Credit the latents only with what they add.",
        "ratio_of_medians": "Medians or means are taken before the division, so that numbers of different layers get divided. First the share of each layer, then the median.",
        "mean": "That is the mean over layers, which one odd layer can pull anywhere. Return the median.",
        "share_left": "That is the share that is left. Asked for is the share that the latents remove: one minus that.",
        "inverted": "The other number is the denominator: what there was to remove is `fvu_skip`.",
        "sign": "The sign is the other way round: latents that help have a positive lift.",
        "of_explained": "The denominator is what is explained already. The latents can only remove what the skip left *un*explained, `fvu_skip`.",
        "extreme": "That is the best or the worst layer. Return the median.",
        "percent": "That is in per cent. Return the fraction.",
        "clipped": "Right where the latents help. Where they do harm, the lift is negative, and yours hides it.",
        "in_place": "Right, but your function changed what it was given. Write the result into a new tensor.",
        "something_else": "That is not the median over layers of (fvu_skip - fvu) / fvu_skip.",
    },
    judge=_judge_lift,
)
