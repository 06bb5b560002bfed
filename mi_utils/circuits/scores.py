"""How good a ranking of components or edges is: by the behaviour it keeps, and against a known circuit.

``cpr`` and ``cmd`` are those of MIB (Mueller et al. 2025): areas over the sizes of circuit that a ranking
gives, from a thousandth of the edges to all of them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from scipy.integrate import trapezoid
from scipy.stats import mannwhitneyu
from torch import Tensor

from mi_utils import data_files

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the edges, in MIB
IOI_HEADS = "ioi_gpt2_heads.json"


@dataclass(frozen=True)
class Curve:
    """Precision and recall as more and more is taken, from the highest score down.

    Items of equal scores are taken together.
    """

    threshold: Float[Tensor, "step"]  # what scores at least this is taken
    precision: Float[Tensor, "step"] = field(repr=False)
    recall: Float[Tensor, "step"] = field(repr=False)


def cpr(faithfulness: Float[Tensor, "fraction"], fractions: Sequence[float] = FRACTIONS) -> float:
    """Integrated circuit performance ratio: the area under the faithfulness; more is better.

    Args:
        faithfulness: ``(m(C) - m(empty)) / (m(model) - m(empty))`` of the circuits that hold these fractions
            of the edges, the best by the ranking.
        fractions: increasing, from above 0 to at most 1. With MIB's, faithfulness 1 throughout gives 0.999.

    Raises:
        ValueError: not a finite number for each of at least two increasing fractions.
    """
    return _area(faithfulness, fractions)


def cmd(faithfulness: Float[Tensor, "fraction"], fractions: Sequence[float] = FRACTIONS) -> float:
    """Integrated circuit-model distance: the area under ``|1 - faithfulness|``; less is better, 0 the best.

    Unlike ``cpr`` it does not reward a circuit for doing the task better than the model.

    Args:
        faithfulness, fractions: as for ``cpr``.

    Raises:
        ValueError: as ``cpr``.
    """
    return _area((1 - faithfulness).abs(), fractions)


def _area(values: Float[Tensor, "fraction"], fractions: Sequence[float]) -> float:
    """The area under the values by the trapezoid rule."""
    places = torch.as_tensor(fractions, dtype=torch.float64)
    if len(values) != len(places) or len(places) < 2 or not values.isfinite().all():
        raise ValueError(
            f"faithfulness has {len(values)} values, {int(values.isfinite().sum())} finite; it should "
            f"have a finite one for each of the {len(places)} fractions (at least 2)"
        )
    if not (places.diff() > 0).all() or places[0] <= 0 or places[-1] > 1:
        raise ValueError(f"fractions is {list(fractions)}; it should increase, from above 0 to at most 1")
    return float(trapezoid(values.detach().double().cpu().numpy(), places.numpy()))


def precision_recall(scores: Float[Tensor, "*item"], truth: Bool[Tensor, "*item"]) -> Curve:
    """How much of what a ranking puts first is in a known set, and how much of the set is found by then.

    Args:
        scores: the higher, the more likely in the set: pass absolute values where the sign does not matter.
        truth: which items are in the set. Leave out items that can't be (pairs that no edge joins).

    Raises:
        ValueError: other shapes, NaN, or a set that is empty or everything.
    """
    scores, truth = _checked(scores, truth)
    ranked, order = scores.sort(descending=True, stable=True)
    last_of_ties = torch.cat([ranked.diff() != 0, torch.tensor([True])])
    hits = truth[order].cumsum(dim=0)[last_of_ties]
    taken = torch.arange(1, len(scores) + 1)[last_of_ties]
    return Curve(ranked[last_of_ties], hits / taken, hits / truth.sum())


def auc(scores: Float[Tensor, "*item"], truth: Bool[Tensor, "*item"]) -> float:
    """Area under the ROC curve: how often an item of the set scores above one that is not (ties count half).

    0.5 is what a random ranking gives. It is the statistic of Mann and Whitney's test, as a share of all
    pairs.

    Args:
        scores, truth: as for ``precision_recall``.

    Raises:
        ValueError: as ``precision_recall``.
    """
    scores, truth = _checked(scores, truth)
    inside, outside = scores[truth].numpy(), scores[~truth].numpy()
    pairs_won = mannwhitneyu(inside, outside, method="asymptotic").statistic  # the p value is not asked for
    return float(pairs_won) / (len(inside) * len(outside))


def _checked(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both as one row on the CPU."""
    if scores.shape != truth.shape or scores.isnan().any():
        raise ValueError(
            f"scores has shape {tuple(scores.shape)}{' and NaN' * bool(scores.isnan().any())}; it should "
            f"be numbers of the shape of truth, {tuple(truth.shape)}"
        )
    if truth.all() or not truth.any():
        raise ValueError(
            f"truth holds {int(truth.sum())} of {truth.numel()} items; it should hold some, but not all"
        )
    return scores.detach().double().cpu().flatten(), truth.cpu().flatten()


def published_ioi_heads() -> dict[str, tuple[tuple[int, int], ...]]:
    """The 26 heads of GPT-2 small's IOI circuit as (layer, head), by class, after Wang et al. 2023.

    Classes: name mover, backup name mover, negative name mover, S-inhibition, induction, duplicate token,
    previous token.

    Raises:
        ValueError: the file is missing or was changed.
    """
    table = json.loads(data_files.path(IOI_HEADS).read_text(encoding="utf-8"))["classes"]
    return {name: tuple((layer, head) for layer, head in heads) for name, heads in table.items()}
