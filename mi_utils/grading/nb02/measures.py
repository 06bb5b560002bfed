"""Checks of notebook 02 about how good an SAE is: unexplained variance, features found, loss recovered."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_utils.grading.answers import ask, compare
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 02.fvu: fraction of variance unexplained


def _judge_fvu(answer: Callable) -> None:
    generator = seeded()
    # A mean far from 0 and components of unlike variance, as activations have them; the second time worse than the mean.
    for tokens, width, noise in ((12, 5, 0.4), (9, 4, 2.5)):
        spread, mean = torch.linspace(0.5, 2.0, width), torch.linspace(-2, 4, width)
        x = torch.randn(tokens, width, generator=generator) * spread + mean
        reconstruction = x + noise * torch.randn(tokens, width, generator=generator) + noise / 2
        got, unchanged = ask(answer, x, reconstruction)
        _compare_fvu(got, x.double(), reconstruction.double())
        if not unchanged:
            raise Mistake("in_place")


def _compare_fvu(got: Any, x: Tensor, reconstruction: Tensor) -> None:
    tokens, width = x.shape
    right = (x - reconstruction).square().sum() / (x - x.mean(0)).square().sum()
    shapes = {"per_token": [(tokens,), (tokens, 1)], "per_dimension": [(width,), (1, width)]}
    compare(got, right, _wrong_fvus(x, reconstruction, right), shapes)


def _wrong_fvus(x: Tensor, reconstruction: Tensor, right: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    tokens, width = x.shape
    apart, off = x - reconstruction, x - x.mean(0)
    error, variance, raw = apart.square(), off.square(), x.square()
    total = error.sum()
    by_token, by_dimension = error.sum(1), error.sum(0)
    wrong = [
        ("explained", 1 - right),
        ("inverted", 1 / right),
        ("no_mean", total / raw.sum()),
        ("no_mean", 1 - total / raw.sum()),
        ("mean_over_width", total / (x - x.mean(1, keepdim=True)).square().sum()),
        ("one_mean", total / (x - x.mean()).square().sum()),
        ("one_mean", total / tokens / width / x.var()),
        ("mean_of_reconstruction", total / (x - reconstruction.mean(0)).square().sum()),
        ("of_reconstruction", total / (reconstruction - reconstruction.mean(0)).square().sum()),
        ("of_reconstruction", total / (reconstruction - x.mean(0)).square().sum()),
        ("ratio_of_variances", reconstruction.var(0).sum() / x.var(0).sum()),
        ("ratio_of_variances", 1 - reconstruction.var(0).sum() / x.var(0).sum()),
        ("error_centred", apart.var(0).sum() / x.var(0).sum()),
        ("error_centred", 1 - apart.var(0).sum() / x.var(0).sum()),
        ("error_centred", apart.var() / x.var()),
        ("mean_over_dimensions", (by_dimension / variance.sum(0)).mean()),
        ("mean_over_dimensions", (by_dimension / raw.sum(0)).mean()),
        ("mean_over_dimensions", 1 - (by_dimension / variance.sum(0)).mean()),
        ("mean_over_tokens", (by_token / variance.sum(1)).mean()),
        ("mean_over_tokens", (by_token / raw.sum(1)).mean()),
        ("mean_over_tokens", 1 - (by_token / variance.sum(1)).mean()),
        ("root", right.sqrt()),
        ("root", by_token.sqrt().sum() / variance.sum(1).sqrt().sum()),
        ("root", (by_token.sqrt() / variance.sum(1).sqrt()).mean()),
        ("root", apart.abs().sum() / off.abs().sum()),
        ("n_minus_one", right * (tokens - 1) / tokens),
        ("error_alone", total),
        ("error_alone", error.mean()),
        ("error_alone", total / tokens),
        ("percent", 100 * right),
    ]
    factors = [by for n in (tokens, width, tokens * width) for by in (n, 1 / n)]
    factors += [
        (tokens - 1) * by for by in (1, width, width / tokens, 1 / width / tokens)
    ]  # of a variance with n - 1
    wrong += [("sums_and_means", right * by) for by in factors]
    if right > 1:
        wrong += [("clipped", torch.ones_like(right))]
    return wrong


FVU = Exercise(
    id="02.fvu",
    title="Fraction of variance unexplained",
    minutes=5,
    difficulty=2,
    hints=(
        "What is the best reconstruction that doesn't look at the token at all? Its error is what yours is compared with.",
        "It is the mean over the batch, `x.mean(dim=0)`: the fraction is your squared error over the squared error of that, each summed over everything.",
        "`(x - reconstruction).square().sum() / (x - x.mean(dim=0)).square().sum()`",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "per_token": "That is one number for each token. Sum error and variance over everything, then divide.",
        "per_dimension": "That is one number for each dimension. Sum error and variance over everything, then divide.",
        "no_mean": "No mean is subtracted from x in the denominator. Then an SAE that gives the mean each time looks good already, and more so the larger the mean; variance is what is left after it.",
        "mean_over_width": "That subtracts each token's mean over its own dimensions. The mean is over the batch, dim=0: one number for each dimension.",
        "one_mean": "That subtracts one number, the mean over everything. Each dimension has its own mean: dim=0.",
        "mean_of_reconstruction": "That subtracts the mean of the reconstruction. The variance to be explained is that of x about its own mean.",
        "of_reconstruction": "The denominator is made from the reconstruction. The variance to be explained is that of x (in the order x, reconstruction).",
        "ratio_of_variances": "That compares the variance of the reconstruction with that of x. A reconstruction can vary as much as x and still be wrong everywhere: compare the *error* with the variance.",
        "error_centred": "The mean of the error was subtracted from it (a variance of x - reconstruction does that), so that an SAE which is off by a constant gets away with it. The error counts in full.",
        "explained": "That is the fraction explained, 1 - FVU. Asked for is what is *un*explained: 0 is perfect.",
        "inverted": "That is the variance over the error. The error is the numerator.",
        "mean_over_dimensions": "That is a mean of one ratio for each dimension. Dimensions with hardly any variance then count as much as those with most of it: sum first, then divide.",
        "mean_over_tokens": "That is a mean of one ratio for each token. Tokens near the mean have next to no variance and decide everything that way: sum first, then divide.",
        "root": "Those are lengths or absolute values, not squares. Variance is squared: no root anywhere.",
        "n_minus_one": "Almost: one side divides by n - 1, as `x.var(0)` does, the other by n. Use sums, or `correction=0`.",
        "sums_and_means": "Right up to a factor: one side is a sum where the other is a mean. Take the same on both.",
        "error_alone": "That is the error. Divide it by the variance of x, so that 1 means no better than the mean.",
        "percent": "That is in per cent. Return the fraction.",
        "clipped": "That never gets above 1. A reconstruction worse than the mean has an FVU above 1, and one wants to know.",
        "in_place": "Right, but your function changed what it was given. Subtract into a new tensor.",
        "something_else": "That is not the squared error over the squared distance of x from its mean.",
    },
    judge=_judge_fvu,
)

# ------------------------------------------------------------------ 02.mmcs: were the features found?


def _judge_mmcs(answer: Callable) -> None:
    generator = seeded()
    features = (torch.eye(4, 12) + 0.15 * torch.randn(4, 12, generator=generator)) * torch.linspace(
        0.5, 3, 4
    )[:, None]
    noise = torch.randn(9, 12, generator=generator)
    # Feature 0 is found twice, 1 and 2 share a latent (nothing else is near), 3 has one that points the other way.
    unit = F.normalize(features, dim=-1)
    rows = [unit[0], 3 * unit[0], unit[1] + unit[2], -2 * unit[3]]
    lengths = torch.linspace(0.3, 4.0, 5)[:, None]
    dictionary = torch.cat([torch.stack(rows) + 0.1 * noise[:4], noise[4:] * lengths])
    _compare_mmcs(answer, dictionary, features)
    # All cosines of feature 0 are negative here.
    _compare_mmcs(
        answer, torch.tensor([[1.0, 0.2, 0.0], [0.8, -0.3, 0.5]]), torch.tensor([[-2.0, 0, 0], [0, 0.5, 1]])
    )


def _compare_mmcs(answer: Callable, dictionary: Tensor, features: Tensor) -> None:
    got, unchanged = ask(answer, dictionary, features)
    latents, n = len(dictionary), len(features)
    shapes = {
        "per_feature": [(n,), (n, 1), (1, n)],
        "other_axis": [(latents,)],
        "all_cosines": [(n, latents), (latents, n)],
    }
    cosines = F.normalize(dictionary, dim=-1) @ F.normalize(features, dim=-1).T
    compare(got, cosines.amax(0).mean(), _wrong_mmcs(dictionary, features, cosines), shapes)
    if not unchanged:
        raise Mistake("in_place")


def _wrong_mmcs(dictionary: Tensor, features: Tensor, cosines: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives for cosines [latent, feature], by the mistake's name."""
    dots, unit, unit_features = (
        dictionary @ features.T,
        F.normalize(dictionary, dim=-1),
        F.normalize(features, dim=-1),
    )
    by_column = F.normalize(dictionary, dim=0) @ F.normalize(features, dim=0).T
    best = cosines.amax(0)
    lengths = dictionary.norm(dim=-1)[:, None], features.norm(dim=-1)[None]
    return [
        ("other_axis", cosines.amax(1).mean()),
        ("other_axis", cosines.abs().amax(1).mean()),
        ("other_axis", dots.amax(1).mean()),
        ("not_normalised", dots.amax(0).mean()),
        ("not_normalised", dots.abs().amax(0).mean()),
        ("not_normalised", cosines.gather(0, dots.argmax(0, keepdim=True)).mean()),
        ("half_normalised", (unit @ features.T).amax(0).mean()),
        ("half_normalised", (dictionary @ unit_features.T).amax(0).mean()),
        ("other_norm", by_column.amax(0).mean()),
        ("other_norm", (dictionary / dictionary.norm() @ (features / features.norm()).T).amax(0).mean()),
        ("other_norm", (dots / lengths[0].square() / lengths[1].square()).amax(0).mean()),
        ("absolute", cosines.abs().amax(0).mean()),
        ("squared", cosines.square().amax(0).mean()),
        ("squared", best.square().mean()),
        ("mean_of_all", cosines.mean()),
        ("mean_of_all", cosines.abs().mean()),
        ("max_of_all", cosines.max()),
        ("worst_feature", best.min()),
        ("smallest", cosines.amin(0).mean()),
        ("smallest", cosines.amin(1).mean()),
        ("median", best.quantile(0.5)),
        ("median", best.median()),
        ("summed", best.sum()),
        ("summed", best.sum() / len(dictionary)),
        ("one_to_one", _paired(cosines)),
        ("starts_at_zero", best.relu().mean()),
        ("both_ways", (best.mean() + cosines.amax(1).mean()) / 2),
        ("which", cosines.argmax(0).float().mean()),
        ("which", cosines.argmax(1).float().mean()),
        ("distance", torch.cdist(unit, unit_features).amin(0).mean()),
        ("distance", torch.cdist(dictionary, features).amin(0).mean()),
        ("distance", 1 - best.mean()),
    ]


def _paired(cosines: Tensor) -> Tensor:
    """The mean cosine of the best one-to-one assignment; small enough to try them all."""
    count, size = min(cosines.shape), max(cosines.shape)
    wide = cosines if len(cosines) == count else cosines.T
    orders = torch.tensor(list(permutations(range(size), count)))
    return wide[torch.arange(count), orders].mean(1).max()


MMCS = Exercise(
    id="02.mmcs",
    title="Were the features found?",
    minutes=10,
    difficulty=2,
    hints=(
        "For one true feature: which latent is most like it, and how much? Then take all features together.",
        "With both sides at length 1, a matrix product gives all cosines, [d_sae, feature]. For each feature, take the largest over the latents.",
        "With `a = dictionary / dictionary.norm(dim=-1, keepdim=True)` and `b` likewise from `truth`: `(a @ b.T).amax(dim=0).mean()`.",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "per_feature": "That is one number for each feature. Return their mean.",
        "all_cosines": "Those are all the cosines. For each feature take the largest, then their mean.",
        "other_axis": "That takes each *latent's* best feature (or the arguments are swapped: the dictionary comes first). Dead and useless latents then pull it down, and a dictionary that finds one feature only can get 1. Ask each true feature for its best latent.",
        "not_normalised": "Those are dot products: long rows win. Divide both sides by the lengths of their rows.",
        "half_normalised": "Only one side is brought to length 1. A cosine divides by both lengths.",
        "other_norm": "The rows aren't brought to length 1 by that. Divide each row by its own length: `norm(dim=-1, keepdim=True)`.",
        "absolute": "That goes by absolute values. A latent is never negative, so one that points the other way has not found the feature.",
        "squared": "Those are squared cosines. They also take a latent that points the other way for a find.",
        "mean_of_all": "That is the mean of all cosines. For each feature, only its best latent counts.",
        "max_of_all": "That is the largest of all cosines: one feature found is enough for it. Take the largest for each feature, then the mean.",
        "worst_feature": "That is the worst feature's. Take the mean over features.",
        "smallest": "That takes the smallest cosine. The best latent has the largest.",
        "median": "That is the median over features. MMCS is the mean.",
        "summed": "That is a sum, or a sum divided by the number of latents. Divide by the number of features.",
        "one_to_one": "That pairs features with latents one to one (as the Hungarian algorithm does), so that no latent serves twice. A good measure too, but a stricter one: here each feature takes its best latent, whoever else has taken it.",
        "starts_at_zero": "Right unless all cosines of a feature are negative: then yours gives 0. Take the largest of them as it is.",
        "both_ways": "That averages both directions, features' best latents and latents' best features. Only the first is asked for.",
        "which": "argmax says *which* latent is best. Asked for is how good it is: the maximum itself.",
        "distance": "That is a distance: small where the feature was found. Return the cosine.",
        "in_place": "Right, but your function changed what it was given (`/=` does so). Normalise into a new tensor.",
        "something_else": "That is not the mean over features of the largest cosine with a row of the dictionary.",
    },
    judge=_judge_mmcs,
)

# ------------------------------------------------------------------ 02.loss_recovered: the loss recovered

# clean, spliced and ablated, nats per token: as usual; worse than the ablation; better than the model itself.
_LOSSES = ((3.1, 3.5, 8.4), (3.0, 9.2, 8.0), (3.4, 3.2, 6.1))


def _judge_recovered(answer: Callable) -> None:
    for clean, spliced, ablated in _LOSSES:
        losses = [torch.tensor(one, dtype=torch.float64) for one in (clean, spliced, ablated)]
        right = (losses[2] - losses[1]) / (losses[2] - losses[0])
        compare(answer(clean, spliced, ablated), right, _wrong_recovered(*losses))


def _wrong_recovered(clean: Tensor, spliced: Tensor, ablated: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    right = (ablated - spliced) / (ablated - clean)
    clean_e, spliced_e, ablated_e = clean.exp(), spliced.exp(), ablated.exp()
    return [
        ("lost", 1 - right),
        ("inverted", 1 / right),
        ("absolute", right.abs()),
        ("sign", -right),
        ("sign", right - 1),
        ("other_whole", (ablated - spliced) / ablated),
        ("other_whole", (ablated - spliced) / clean),
        ("other_whole", (ablated - spliced) / spliced),
        ("other_whole", (spliced - clean) / clean),
        ("other_whole", 1 - (spliced - clean) / clean),
        ("other_whole", (ablated - spliced) / (spliced - clean)),
        ("ratio_of_losses", clean / spliced),
        ("ratio_of_losses", spliced / clean),
        ("ratio_of_losses", spliced / ablated),
        ("ratio_of_losses", ablated / spliced),
        ("difference", ablated - spliced),
        ("difference", spliced - clean),
        ("difference", clean - spliced),
        ("percent", 100 * right),
        ("perplexities", (ablated_e - spliced_e) / (ablated_e - clean_e)),
        ("probabilities", (1 / ablated_e - 1 / spliced_e) / (1 / ablated_e - 1 / clean_e)),
        ("clipped", right.clamp(0, 1)),
    ]


LOSS_RECOVERED = Exercise(
    id="02.loss_recovered",
    title="How much of the loss is recovered?",
    minutes=5,
    difficulty=1,
    hints=(
        "The measure should be 1 where splicing costs nothing, and 0 where it is no better than ablating. Which difference is 0 in the second case?",
        "`ablated - spliced` is 0 there. By what must it be divided to be 1 where `spliced` is `clean`?",
        "`(ablated - spliced) / (ablated - clean)`",
    ),
    mistakes={
        "shape": "Return one number.",
        "lost": "That is what is *lost*: 0 where nothing is. Asked for is what is recovered: 1 where `spliced` is as good as `clean`.",
        "inverted": "That is upside down (or `clean` and `spliced` have changed places). What can be recovered at all, ablated - clean, is the denominator.",
        "sign": "That has a sign wrong: it should be 1 where `spliced` is `clean`, and 0 where it is `ablated`.",
        "other_whole": "The denominator is another. What can be recovered is everything between the ablated and the clean loss, ablated - clean; a loss by itself has no natural 0.",
        "ratio_of_losses": "That is a ratio of two losses. It looks good for any SAE, since no loss is near 0: compare with what ablation costs.",
        "difference": "That is a difference, in nats. Divide by what can be recovered, ablated - clean.",
        "percent": "That is in per cent. Return the fraction.",
        "perplexities": "Those are perplexities, exp of the loss. The measure is of the losses themselves.",
        "probabilities": "Those are probabilities, exp of minus the loss. The measure is of the losses themselves.",
        "absolute": "Right unless splicing is worse than ablating: that is negative, and the absolute value hides it.",
        "clipped": "Right between 0 and 1, but yours stays inside. Below 0, splicing is worse than ablating; above 1, better than the model itself. Either is something to know.",
        "something_else": "That is not (ablated - spliced) / (ablated - clean).",
    },
    judge=_judge_recovered,
)
