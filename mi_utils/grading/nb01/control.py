"""Check of notebook 01 about the matched control: directions drawn at random, lengths kept."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, kind, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.nb01.bounds import GENERATOR_MISTAKES, mean_bound
from mi_utils.grading.tensors import chance_kept, judge_randomness, seeded

# ------------------------------------------------------------------ 01.matched_control: the matched control

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

    with chance_kept():  # the notebook's own generator stays where it is
        control = draw(seeded(0), trained)
    W = trained.double()
    _judge_lengths(control, W)
    _judge_geometry(control, W)
    _judge_directions(control, W)
    judge_randomness(draw)


def _trained_like() -> Tensor:
    """Weights [instance, m, n] with columns of many lengths, some of them zero, and an axis that is preferred."""
    generator = seeded(7)
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
    unit, old = (
        torch.nn.functional.normalize(one, dim=1).mT[:, kept] for one in (control, W)
    )  # [instance, column, m]
    if same(unit, unit[:1].expand_as(unit)):
        raise Mistake("one_for_instances")
    columns, count = unit.shape[1], unit[..., 0].numel()
    pairs = columns * (columns - 1)
    if ((cosines.abs() > 1 - 1e-9).double().mean(0).sum() - columns) / pairs > 1e-3:
        raise Mistake("repeated")
    close = mean_bound(
        1 / _M, count
    )  # the variance of a component or of a cosine, and more than that of a product
    leaning = (unit * old).sum(-1)
    if max(leaning.mean().abs(), (leaning.square().mean() - 1 / _M).abs()) > close:
        raise Mistake("leans_on_W")
    products = torch.einsum("ica,icb->ab", unit, unit) / count - torch.eye(_M) / _M
    if max(unit.mean((0, 1)).abs().max(), products.abs().max()) > close:
        raise Mistake("one_sided")
    fourth_powers = unit.pow(4).sum(-1).mean() - 3 / (_M + 2)
    if fourth_powers.abs() > mean_bound(0.0305, count):  # their variance on a sphere in 3 dimensions
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
        **GENERATOR_MISTAKES,
    },
    judge=_judge_control,
)
