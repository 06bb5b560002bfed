"""Checks of the two exercises of notebook 01 that draw at random: sparse features and the matched control.

What a function draws is compared with what it should be by bounds that a right answer leaves with a probability
below 1e-11 for each comparison, whatever it does with the generator; a given answer gets the same verdict each time.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, kind, same
from mi_utils.grading.chance import judge_randomness
from mi_utils.grading.core import Exercise, Mistake

_SURE = math.log(2 / 1e-12)


def _mean_bound(variance: Tensor | float, count: int) -> Tensor:
    """How far the mean of ``count`` independent numbers in [-1, 1] may be off (Bernstein's inequality)."""
    variance, linear = torch.as_tensor(variance, dtype=torch.float64), _SURE / (3 * count)
    return linear + (linear**2 + 2 * variance * _SURE / count).sqrt()


def _uniform_bound(count: int) -> float:
    """How far an empirical distribution of ``count`` numbers may be off anywhere (Dvoretzky, Kiefer and Wolfowitz)."""
    return math.sqrt(_SURE / (2 * count))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


_OF_THE_GENERATOR = {
    "global_generator": "That draws from torch's global generator. Hand the one you got to every call that draws, `generator=generator`; what takes none (dropout, for instance) can't be used, and nothing is to be seeded.",
    "same_again": "Called again with the same generator, it returns the same once more. A generator moves on as it is used: use the one you got, and don't seed it or make one of your own.",
    "not_reproducible": "With two generators of the same seed it returns two different things, so that something is drawn elsewhere (NumPy's or Python's random numbers, a generator of your own). Use `generator` only.",
}

# ------------------------------------------------------------------ 1: sparse features

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

    with torch.random.fork_rng(devices=[]):  # the notebook's own generator stays where it is
        x = draw(_generator(0), _BATCH)
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
    close = _mean_bound(variance, _BATCH * _N)
    if ((share - p).abs() > close).any():
        raise _share_mistake(share, p, close)
    if ((present.mean(0) - p[:, None]).abs() > _mean_bound(variance, _BATCH)[:, None]).any():
        raise Mistake("by_position")
    spread = (present.mean(-1) - p).square()  # of the share in one example, [batch, instance]
    expected = variance / _N
    its_variance = (variance + 3 * (_N - 2) * variance**2) / _N**3 - expected**2  # from a binomial's fourth moment
    if ((spread.mean(0) - expected).abs() > _mean_bound(its_variance, _BATCH)).any():
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
    return bool((values.sort().values - steps).abs().max() <= _uniform_bound(len(values)) + 1 / len(values))


def _judge_covariance(x: Tensor) -> None:
    """That no two entries go together, of an example or of two examples."""
    p = 1 - _SPARSITY.double()
    deviation = (p / 3 - p**2 / 4).sqrt()
    z = ((x - p[:, None] / 2) / deviation[:, None]).flatten(1)
    largest = ((1 - p / 2) / deviation).repeat_interleave(_N)  # of |z|
    limit = largest[:, None] * largest
    bound = limit * _mean_bound(1 / limit**2, _BATCH)
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
        **_OF_THE_GENERATOR,
    },
    judge=_judge_batch,
)

# ------------------------------------------------------------------ 7: the matched control

_INSTANCES, _M, _FEATURES = 100, 3, 40


def _judge_control(answer: Callable) -> None:
    trained = _trained_like()
    fewer = trained[:2, :, :7]

    def draw(generator: torch.Generator, W: Tensor = fewer) -> Tensor:
        got, intact = ask(answer, W, generator)
        if not isinstance(got, Tensor) or got.shape != W.shape:
            raise Mistake("shape", f"It returned {kind(got)}; W has {tuple(W.shape)}.")
        if not intact:
            raise Mistake("in_place")
        return got.detach().cpu().double()

    with torch.random.fork_rng(devices=[]):  # the notebook's own generator stays where it is
        control = draw(_generator(0), trained)
    W = trained.double()
    _judge_lengths(control, W)
    _judge_geometry(control, W)
    _judge_directions(control, W)
    judge_randomness(draw)


def _trained_like() -> Tensor:
    """Weights [instance, m, n] with columns of many lengths, some of them zero, and an axis that is preferred."""
    generator = _generator(7)
    W = torch.randn(_INSTANCES, _M, _FEATURES, generator=generator) * torch.tensor([1.6, 1.0, 0.7])[:, None]
    W = W * torch.linspace(0.3, 1.5, _FEATURES) * torch.linspace(0.7, 1.3, _INSTANCES)[:, None, None]
    W[:, :, 5] = 0.0
    return W


def _judge_lengths(control: Tensor, W: Tensor) -> None:
    lengths, wanted = control.norm(dim=1), W.norm(dim=1)
    if same(lengths, wanted):
        return
    if control.isnan().any():
        raise Mistake("not_a_number")
    if same(lengths.sort(dim=-1).values, wanted.sort(dim=-1).values):
        raise Mistake("lengths_shuffled")
    if same(control.norm(dim=2), W.norm(dim=2)):
        raise Mistake("rows")
    if same(lengths, torch.ones_like(wanted)):
        raise Mistake("unit_length")
    if same(lengths, wanted.square()) or same(lengths, wanted.sqrt()):
        raise Mistake("squared")
    if same(lengths.square().sum(-1), wanted.square().sum(-1)) or same(control.norm(), W.norm()):
        raise Mistake("total_length")
    raise Mistake("lengths")


def _cosines(W: Tensor) -> Tensor:
    """Between the columns of each instance; 0 with one that is zero."""
    unit = torch.nn.functional.normalize(W, dim=1)
    return unit.mT @ unit


def _judge_geometry(control: Tensor, W: Tensor) -> None:
    """What only seems to be drawn anew: W is still in it."""
    after, before = _cosines(control), _cosines(W)
    if same(control, W):
        raise Mistake("unchanged")
    if same(after, before, atol=1e-4):
        raise Mistake("rotated")
    if same(after.abs(), before.abs(), atol=1e-4):
        raise Mistake("signs")
    if same(after.abs().flatten(1).sort().values, before.abs().flatten(1).sort().values, atol=1e-4):
        raise Mistake("permuted")
    if same(control.abs().sort(dim=1).values, W.abs().sort(dim=1).values):
        raise Mistake("entries_reordered")


def _judge_directions(control: Tensor, W: Tensor) -> None:
    """That directions are independent, and each of them equally likely."""
    kept = W.norm(dim=1)[0] > 0  # the same in all instances
    cosines = _cosines(control[..., kept])
    unit, old = (torch.nn.functional.normalize(one, dim=1).mT[:, kept] for one in (control, W))  # [instance, column, m]
    if same(unit, unit[:1].expand_as(unit)):
        raise Mistake("one_for_instances")
    columns, count = unit.shape[1], unit[..., 0].numel()
    pairs = columns * (columns - 1)
    if ((cosines.abs() > 1 - 1e-9).double().mean(0).sum() - columns) / pairs > 1e-3:
        raise Mistake("repeated")
    close = _mean_bound(1 / _M, count)  # the variance of a component or of a cosine, and more than that of a product
    leaning = (unit * old).sum(-1)
    if max(leaning.mean().abs(), (leaning.square().mean() - 1 / _M).abs()) > close:
        raise Mistake("leans_on_W")
    products = torch.einsum("ica,icb->ab", unit, unit) / count - torch.eye(_M) / _M
    if max(unit.mean((0, 1)).abs().max(), products.abs().max()) > close:
        raise Mistake("one_sided")
    fourth_powers = unit.pow(4).sum(-1).mean() - 3 / (_M + 2)
    if fourth_powers.abs() > _mean_bound(0.0305, count):  # their variance on a sphere in 3 dimensions
        raise Mistake("from_a_cube" if fourth_powers < 0 else "near_axes")
    # Squared cosines of pairs average 1/m, with a variance of 4/45 for m = 3. Pairs aren't quite independent: ten sigma.
    squares = (cosines.square().sum() - count) / (pairs * _INSTANCES) - 1 / _M
    if squares.abs() > 10 * math.sqrt(4 / 45 / (pairs / 2 * _INSTANCES)):
        raise Mistake("not_independent")


MATCHED_CONTROL = Exercise(
    id="01.matched_control",
    title="A control with matched lengths",
    minutes=10,
    difficulty=2,
    hints=(
        "A column is a length times a direction. Which of the two should the control share with W, and what is the other drawn from?",
        "Directions that prefer no direction come from `torch.randn(W.shape, generator=generator)`, each column divided by its length. The columns of W [instance, m, n] lie along dim 1.",
        "With `R` those draws: `R / R.norm(dim=1, keepdim=True) * W.norm(dim=1, keepdim=True)`.",
    ),
    mistakes={
        "shape": "Return a tensor of the shape of W, [instance, m, n].",
        "in_place": "Your function changed the W that it was given, so that the trained weights are lost. Compute a new tensor.",
        "not_a_number": "There is NaN in it. A column of W may be zero (a feature that isn't kept): divide by the lengths of what you drew, and multiply by W's.",
        "lengths_shuffled": "The lengths are W's, but not at the same features. Column i of the control should be as long as column i of W.",
        "rows": "Those are the lengths of the rows. A feature is a *column* of W [instance, m, n]: take the norm over dim 1.",
        "unit_length": "Every column has length 1. Multiply by the lengths of W's columns: the number of features kept is what is to be matched.",
        "squared": "The lengths are the squares, or the square roots, of W's: multiply by the norm itself.",
        "total_length": "The matrix as a whole is as long as W, its columns aren't. A feature that W drops has to be dropped in the control as well: match each column by itself.",
        "lengths": "The columns aren't as long as W's. Normal draws have the right length at best on average: divide each column by its own length first.",
        "unchanged": "That is W itself.",
        "rotated": "That turns W as a whole (or swaps its rows): all angles between features stay, and with them the geometry whose absence is the control. Each column needs a direction of its own.",
        "signs": "Only signs were changed: features that were orthogonal still are, and antipodal pairs still lie on one line. Draw new directions.",
        "permuted": "Those are W's own directions, handed to other features: the same angles occur, and as often. Draw new directions.",
        "entries_reordered": "That reorders the entries of each column, or changes their signs. It keeps the lengths, but a column with one large entry stays close to an axis. Draw new directions.",
        "one_for_instances": "All instances have the same directions. Draw for each instance by itself: the draw should have all of W's shape.",
        "repeated": "Columns of an instance lie on the same line, far too many for chance. Draw a direction for each column by itself.",
        "leans_on_W": "The directions still lean towards (or away from) W's, as they do when noise is added to W. A control has nothing of W but the lengths.",
        "one_sided": "Some directions are likelier than others, to one side or along one axis: `torch.rand` has only positive numbers, for instance. Normal draws (`torch.randn`) prefer none.",
        "near_axes": "Directions close to an axis are likelier than others. Normal draws (`torch.randn`) prefer none.",
        "from_a_cube": "Almost: numbers uniform on [-1, 1] fill a cube, and a cube has corners, so that directions along its diagonals are likelier. Normal draws (`torch.randn`) prefer no direction.",
        "not_independent": "Columns of an instance avoid or seek each other, more than chance would have it (from an orthogonal matrix, say). Draw each by itself.",
        **_OF_THE_GENERATOR,
    },
    judge=_judge_control,
)
