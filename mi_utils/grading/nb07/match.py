"""Check of the exercise of notebook 07 on finding the feature that tells a label."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, kind, number, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 07.match: which feature tells the label?

_ROLES = {  # on how many of the labelled prompts each feature is active, on how many of the others, and how strongly
    "best": (5, 8, 1.0),
    "never": (0, 0, 1.0),
    "always": (6, 54, 1.0),
    "precise": (2, 3, 1.0),
    "inverted": (0, 51, 1.0),
    "strong": (6, 40, 30.0),  # on labelled prompts; on the others it is barely active
    "dull": (3, 27, 1.0),
}
_LABELLED, _OTHERS = 6, 54


def _judge_match(answer: Callable) -> None:
    for seed, order in enumerate((tuple(_ROLES), tuple(reversed(_ROLES)))):
        features, labels = _match_case(order, seeded(seed))
        got, unchanged = ask(answer, features, labels)
        _compare_match(got, features, labels, order)
        if not unchanged:
            raise Mistake("in_place")


def _match_case(order: tuple[str, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features and labels, with prompts in random order."""
    features = torch.zeros(_LABELLED + _OTHERS, len(order))
    for i, role in enumerate(order):
        labelled, others, strength = _ROLES[role]
        values = 0.5 + torch.rand(len(features), generator=generator)
        values[:_LABELLED] *= strength
        on = torch.zeros(len(features), dtype=torch.bool)
        on[:labelled] = True
        on[_LABELLED : _LABELLED + others] = True
        features[:, i] = values * on
    shuffled = torch.randperm(len(features), generator=generator)
    return features[shuffled], shuffled < _LABELLED


def _compare_match(got: Any, features: Tensor, labels: Tensor, order: tuple[str, ...]) -> None:
    index, score = _index_and_score(got, len(order))
    active = (features > 0).double()
    recall, quiet = active[labels].mean(0), 1 - active[~labels].mean(0)
    balanced = (recall + quiet) / 2
    best = order.index("best")
    if index == best and same(score, balanced[best]):
        return
    if score.isnan():
        raise Mistake("nan")
    if index == order.index("inverted"):
        raise Mistake("inverted" if score > 0.5 else "worst")
    measures = _other_measures(features.double(), labels)
    for name, values in measures:
        if same(score, values[index]) and same(values[index], values.max()):
            raise Mistake(name)
    if index == best:
        raise Mistake("score", f"It gives {float(score):.3g}, not {float(balanced[best]):.3g}.")
    if same(score, balanced[best]):
        raise Mistake("index", f"It gives {index}, not {best}.")
    for name, values in measures:
        if values[index] == values.max():
            raise Mistake(name)
    raise Mistake("something_else", f"It gives feature {index}, with {float(score):.3g}.")


def _index_and_score(got: Any, n_features: int) -> tuple[int, Tensor]:
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Mistake("no_pair", f"It returned {kind(got)}.")
    index, score = map(number, got)
    for part in (index, score):
        if not isinstance(part, Tensor) or part.ndim:
            raise Mistake("no_pair", f"It returned {kind(got[0])} and {kind(got[1])}.")
    if not index.isfinite():
        raise Mistake("no_pair", f"The index is {float(index):.3g}.")
    if float(index) != int(index):
        raise Mistake(
            "order" if float(score).is_integer() else "no_pair", f"The index is {float(index):.3g}."
        )
    if not 0 <= int(index) < n_features:
        raise Mistake("index", f"It gives {int(index)}, and there are features 0 to {n_features - 1}.")
    return int(index), score


def _other_measures(features: Tensor, labels: Tensor) -> list[tuple[str, Tensor]]:
    """What other measures say of each feature, by the name of the mistake that takes them for ours."""
    active, truth = (features > 0).double(), labels.double()[:, None]
    right = active * truth
    recall, precision = active[labels].mean(0), right.sum(0) / active.sum(0).clamp(min=1)
    accuracy = (active == truth).double().mean(0)
    strength = features[labels].mean(0) - features[~labels].mean(0)
    off = features - features.mean(0)
    covariance = (off * (truth - truth.mean())).mean(0)
    quiet = 1 - active[~labels].mean(0)
    return [
        ("plain_accuracy", accuracy),
        ("recall", recall),
        ("recall", right.sum(0)),
        ("recall", right.mean(0)),
        ("precision", precision),
        ("quiet_only", quiet),
        ("strength", strength),
        ("strength", features[labels].mean(0)),
        ("strength", features[labels].sum(0)),
        ("strength", features.amax(0)),
        ("strength", covariance / (features.std(0, correction=0) * truth.std(correction=0)).clamp(min=1e-9)),
        ("other_shares", (recall + precision) / 2),
        ("other_shares", (recall + 1 - active.mean(0)) / 2),
        ("other_shares", recall - active.mean(0)),
    ]


MATCH = Exercise(
    id="07.match",
    title="Which feature knows it?",
    minutes=10,
    difficulty=3,
    hints=(
        "Take one feature. On which share of `features[labels]` is it active, and on which share of `features[~labels]` is it not?",
        "`active = features > 0`. Both shares are means over prompts, dim=0, of `active[labels]` and of `~active[~labels]`, as floats: one number for each feature.",
        "The mean of the two shares has its largest value at `index`: `score, index = balanced.max(dim=0)`. Return them in the other order.",
    ),
    mistakes={
        "no_pair": "Return two numbers: `return index, score`.",
        "order": "Those are the score and the index. Return the index first.",
        "plain_accuracy": "That is plain accuracy: few prompts are labelled, so a feature that never fires is nearly always right. Weigh labelled prompts and the others equally.",
        "recall": "That counts the labelled prompts on which the feature is active, and nothing else. A feature that is always active wins. It also has to be silent on the others.",
        "precision": "That is precision: of the prompts on which the feature is active, the share with the label. A feature that fires only now and then can win. Take the mean of the two shares.",
        "quiet_only": "That counts only the prompts without the label on which the feature is silent. A feature that never fires wins. It also has to be active on the others.",
        "strength": "That looks at how strong the feature is. What counts is whether it is active, `features > 0`: yours chooses one that is active on most prompts without the label too.",
        "inverted": "That feature is active where the label is *not*. Asked for is one whose being active says yes: don't count `1 - score`, an absolute value or a square.",
        "worst": "That is the feature with the *lowest* score. Take the largest.",
        "other_shares": "One of the two shares is another. They are: of the labelled prompts, those on which the feature is active; of the *others*, those on which it is not.",
        "nan": "The score is not a number: somewhere 0 was divided by 0, as happens for the precision of a feature that never fires. The two shares are of prompts with and without the label, of which there are some.",
        "score": "The feature is the right one, its score isn't: return the mean of the two shares.",
        "index": "The index is not the one of the best feature: it is its place in the last axis of `features`, counted from 0.",
        "in_place": "Right, but your function changed what it was given.",
        "something_else": "That is not the feature with the highest balanced accuracy.",
    },
    judge=_judge_match,
)
