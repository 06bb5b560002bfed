"""Check of notebook 01 about drawing sparse features at random."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, kind
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.nb01.bounds import GENERATOR_MISTAKES, mean_bound, uniform_bound
from mi_utils.grading.tensors import chance_kept, judge_randomness, seeded

# ------------------------------------------------------------------ 01.sparse_batch: sparse features

_SPARSITY = torch.tensor([0.3, 0.0, 0.75, 0.3, 0.96])
_TWINS = 0, 3  # instances with the same sparsity: random numbers shared by instances give them the same zeros
_DENSE = 1  # nothing is zero here
_BATCH, _N = 4000, 6


def _judge_batch(answer: Callable) -> None:
    def draw(generator: torch.Generator, batch: int = 7) -> Tensor:
        got, _ = ask(answer, batch, _SPARSITY, _N, generator)
        if not isinstance(got, Tensor) or got.shape != (batch, len(_SPARSITY), _N):
            raise _batch_shape_mistake(got, batch)
        return got.detach().cpu().double()

    with chance_kept():  # the notebook's own generator stays where it is
        x = draw(seeded(0), _BATCH)
    if not x.isfinite().all():
        raise Mistake("not_uniform", "There is NaN or infinity.")
    _judge_dependence(x)
    _judge_share_of_zeros(x)
    _judge_values(x)
    _judge_covariance(x)
    judge_randomness(draw, lambda x: (x != 0, x[:, _DENSE]))


def _batch_shape_mistake(got: Any, batch: int) -> Mistake:
    wanted = (batch, len(_SPARSITY), _N)
    detail = f"For batch = {batch}, {len(_SPARSITY)} instances and n = {_N} it returned {kind(got)}."
    same_sizes = isinstance(got, Tensor) and sorted(got.shape) == sorted(wanted)
    return Mistake("axes" if same_sizes else "shape", detail)


def _judge_dependence(x: Tensor) -> None:
    """What is drawn once and used in many places, for the zeros or for the values."""
    present, dense = x != 0, x[:, _DENSE]
    sparse, one, other = present[:, _SPARSITY > 0], *(present[:, twin] for twin in _TWINS)
    shared_zeros = {
        "one_for_batch": _varies(sparse) and (sparse == sparse[:1]).all(),
        "one_for_row": _varies(sparse) and (sparse == sparse[..., :1]).all(),
        "one_for_instances": _varies(one) and (one == other).all(),
    }
    both = one & other
    twins = [x[:, twin][both] for twin in _TWINS]
    shared_values = {
        "one_for_batch": _varies(dense) and (dense == dense[:1]).all(),
        "one_for_row": _varies(dense) and (dense == dense[:, :1]).all(),
        "one_for_instances": _varies(twins[0]) and torch.equal(*twins),
    }
    for name, zeros in shared_zeros.items():
        if zeros:
            raise Mistake(name)
    for name, values in shared_values.items():
        if values:
            raise Mistake(name, "The zeros are independent, the values aren't.")


def _varies(x: Tensor) -> bool:
    return x.unique().numel() > 1


def _judge_share_of_zeros(x: Tensor) -> None:
    p, present = 1 - _SPARSITY.double(), (x != 0).double()
    share, variance = present.mean((0, 2)), p * (1 - p)
    close = mean_bound(variance, _BATCH * _N)
    if ((share - p).abs() > close).any():
        raise _share_mistake(share, p, close)
    if ((present.mean(0) - p[:, None]).abs() > mean_bound(variance, _BATCH)[:, None]).any():
        raise Mistake("by_position")
    spread = (present.mean(-1) - p).square()  # of the share in one example, [batch, instance]
    expected = variance / _N
    its_variance = (
        variance + 3 * (_N - 2) * variance**2
    ) / _N**3 - expected**2  # from a binomial's fourth moment
    if ((spread.mean(0) - expected).abs() > mean_bound(its_variance, _BATCH)).any():
        raise Mistake("not_independent")


def _share_mistake(share: Tensor, p: Tensor, close: Tensor) -> Mistake:
    detail = "Zeros by instance: " + ", ".join(
        f"{1 - float(one):.0%} where {1 - float(wanted):.0%} were asked for"
        for one, wanted in zip(share, p, strict=True)
    )
    if share.max() == 0:
        return Mistake("all_zero")
    if ((share - (1 - p)).abs() <= close).all():
        return Mistake("present_for_sparse", f"{detail}.")
    if share.max() - share.min() <= 2 * close.max():
        return Mistake("one_sparsity", f"{detail}.")
    return Mistake("other_share", f"{detail}.")


def _judge_values(x: Tensor) -> None:
    """Given that the share of zeros is right."""
    values = [one[one != 0] for one in x.unbind(1)]
    low, high = (torch.stack([pick(one) for one in values]) for pick in (torch.min, torch.max))
    detail = f"They go from {low.min():.3g} to {high.max():.3g}."
    p, sparse, slack = 1 - _SPARSITY, _SPARSITY > 0, 1e-6
    if all((one == 1).all() for one in values):
        raise Mistake("only_ones")
    if low.min() < 0:
        raise Mistake("signed" if low.min() >= -1 and high.max() <= 1 else "normal", detail)
    if all(_is_uniform(one * share) for one, share in zip(values, p, strict=True)):
        raise Mistake("rescaled", detail)
    if (low >= _SPARSITY - slack)[sparse].all() or (high <= p + slack)[sparse].all():
        raise Mistake("one_random_number")
    if not all(map(_is_uniform, values)):
        raise Mistake("not_uniform", detail)


def _is_uniform(values: Tensor) -> bool:
    """On [0, 1]."""
    steps = torch.linspace(0, 1, len(values), dtype=values.dtype)
    # A step is k / (n - 1), while the share of smaller values jumps from k / n to (k + 1) / n.
    return bool((values.sort().values - steps).abs().max() <= uniform_bound(len(values)) + 1 / len(values))


def _judge_covariance(x: Tensor) -> None:
    """That no two entries go together, of an example or of two examples."""
    p = 1 - _SPARSITY.double()
    deviation = (p / 3 - p**2 / 4).sqrt()
    z = ((x - p[:, None] / 2) / deviation[:, None]).flatten(1)
    largest = ((1 - p / 2) / deviation).repeat_interleave(_N)  # of |z|
    limit = largest[:, None] * largest
    bound = limit * mean_bound(1 / limit**2, _BATCH)
    if ((z.T @ z / _BATCH).abs() > bound).fill_diagonal_(False).any():
        raise Mistake("not_independent")
    # Examples that come back at any distance; for the least sparse instances |z| < 2, and chance stays below 0.1 with a
    # probability of 1 - 1e-15 (Freedman's inequality).
    power = torch.fft.rfft(z[:, largest < 2], n=2 * _BATCH, dim=0).abs().square()
    if torch.fft.irfft(power, dim=0)[1:_BATCH].mean(1).abs().max() / _BATCH > 0.1:
        raise Mistake("one_for_batch", "Some go together, at least.")


SPARSE_BATCH = Exercise(
    id="01.sparse_batch",
    title="Draw sparse features",
    minutes=10,
    difficulty=2,
    hints=(
        "Two independent questions for each entry: is the feature there, and if so how large is it? How many random numbers does that take?",
        "Draw two tensors of shape (batch, instances, n) with `torch.rand(..., generator=generator)`. Keep a value where the other number is at least the instance's sparsity; `sparsity[:, None]` lines it up with the axis of instances.",
        "`shape = (batch, len(sparsity), n)`, then "
        "`values, lots = (torch.rand(shape, generator=generator) for _ in range(2))` and `values * (lots >= sparsity[:, None])`.",
    ),
    mistakes={
        "shape": "Return one number for each example, instance and feature: shape [batch, instance, n].",
        "axes": "The sizes are right, the order of the axes isn't: [batch, instance, n].",
        "one_for_batch": "Examples repeat each other, as if one was drawn and used throughout the batch. Each has to be drawn by itself.",
        "one_for_row": "All features of an example share one random number, so that they are zero, or as large, all at once. Draw for each feature by itself: superposition works because few are present *together*.",
        "one_for_instances": "Instances share random numbers: two of the same sparsity get the same. Draw for each instance by itself; the middle axis of what you draw should be `len(sparsity)` long.",
        "by_position": "The share of zeros is right on the whole, but some features of an instance are zero more often than others, as if they were sorted. Each has the same probability.",
        "not_independent": "The share of zeros is right, but features of an example depend on each other, so that the number present varies too much or too little (exactly k of them each time, say), or one says something about the next. Each is drawn by itself.",
        "present_for_sparse": "That takes `sparsity` for the probability that a feature is *there*. It is the probability that the feature is zero.",
        "one_sparsity": "All instances have the same share of zeros. Each has its own sparsity: `sparsity[:, None]` lines up with the axis of instances, the last but one.",
        "all_zero": "All entries are zero.",
        "other_share": "The share of zeros isn't the sparsity.",
        "only_ones": "That says which features are present (all values are 1). A feature that is present has a size: uniform on [0, 1].",
        "signed": "There are negative values. A feature that is present is uniform on [0, 1]; `torch.rand` gives just that.",
        "normal": "Some values are negative, and some beyond -1 or 1: normally distributed, from `torch.randn`? A feature that is present is uniform on [0, 1].",
        "rescaled": "The values are divided by the probability that a feature is present, as dropout does to keep the mean. Here a feature that is present is uniform on [0, 1], however rare.",
        "one_random_number": "The same random number decides whether a feature is present and how large it is, so that only large values, or only small ones, are left. Draw two, or stretch what is left to [0, 1] again.",
        "not_uniform": "The values that are not zero aren't uniform on [0, 1].",
        **GENERATOR_MISTAKES,
    },
    judge=_judge_batch,
)
