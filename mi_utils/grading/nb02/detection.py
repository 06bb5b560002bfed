"""Check of notebook 02 about explanations: how well a rule detects where a latent fires."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, compare, number, outcome, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 02.detection: does a rule detect a latent?


def _judge_detection(answer: Callable) -> None:
    # Of 42 contexts the latent fires in 5; the rule finds 3 of them, and claims 7 others.
    rare = _contexts(hits=3, misses=2, false_alarms=7, rejections=30)
    _compare_detection(ask(answer, *rare)[0], *rare)
    silent = torch.zeros_like(rare[1])  # a rule that never says yes: half of the contexts, by this measure
    for scores in (silent, ~silent):
        got, error = outcome(answer, scores, rare[1])
        if error is not None:
            raise Mistake("refuses_a_rule", f"It stopped with {type(error).__name__}: {error}")
        if not same(number(got), torch.tensor(0.5, dtype=torch.float64)):
            raise Mistake("constant_rule", f"It returned {_shown(got)}.")
    for which, fires in {"no": silent, "every": ~silent}.items():
        got, error = outcome(answer, rare[0], fires)
        case = f"Where the latent fires in {which} context,"
        if error is None:
            raise Mistake("empty_class", f"{case} yours returned {_shown(got)}.")
        if not isinstance(error, ValueError):
            raise Mistake("other_exception", f"{case} yours raises {type(error).__name__}.")


def _contexts(*, hits: int, misses: int, false_alarms: int, rejections: int) -> tuple[Tensor, Tensor]:
    """What the rule says and whether the latent fires, in an order that means nothing."""
    pairs = [(True, True)] * hits + [(False, True)] * misses + [(True, False)] * false_alarms
    both = torch.tensor(pairs + [(False, False)] * rejections)
    both = both[torch.randperm(len(both), generator=seeded())]
    return both[:, 0].contiguous(), both[:, 1].contiguous()


def _compare_detection(got: Any, scores: Tensor, fires: Tensor) -> None:
    hits, misses = (scores & fires).sum().double(), (~scores & fires).sum().double()
    alarms, rejections = (scores & ~fires).sum().double(), (~scores & ~fires).sum().double()
    found, rejected = hits / (hits + misses), rejections / (rejections + alarms)
    precision, trusted = hits / (hits + alarms), rejections / (rejections + misses)
    right, count = (found + rejected) / 2, len(fires)
    plain = (hits + rejections) / count
    wrong = [
        ("plain_accuracy", plain),
        ("error_rate", 1 - right),
        ("error_rate", 1 - plain),
        ("recall", found),
        ("specificity", rejected),
        ("precision", precision),
        ("precision", trusted),
        ("f1", 2 * hits / (2 * hits + alarms + misses)),
        ("f1", hits / (hits + alarms + misses)),
        ("f1", hits / count),
        ("swapped", (precision + trusted) / 2),
        ("precision_and_recall", (precision + found) / 2),
        ("not_halved", found + rejected),
        ("above_chance", found + rejected - 1),
        ("geometric_mean", (found * rejected).sqrt()),
        ("geometric_mean", found * rejected),
        ("geometric_mean", 2 * found * rejected / (found + rejected)),
        ("of_all_contexts", plain / 2),
        ("counts", hits + rejections),
        ("counts", (hits + rejections) / 2),
        ("counts", hits),
        ("percent", 100 * right),
        ("false_alarms", (found + alarms / (alarms + rejections)) / 2),
    ]
    compare(got, right, wrong, {"both_rates": [(2,)], "per_context": [(count,)]})


def _shown(got: Any) -> str:
    one = number(got)
    return f"{one:.3g}" if isinstance(one, Tensor) and one.ndim == 0 else f"a {type(got).__name__}"


DETECTION = Exercise(
    id="02.detection",
    title="Score an explanation",
    minutes=10,
    difficulty=3,
    hints=(
        "A latent fires in one context of twenty. How good is the rule that always says no, and how good should the score say it is?",
        "Two rates, each among its own contexts: of those in which the latent fires, the share the rule says yes to; of the others, the share it says no to. The score is their mean.",
        "`(says[fires].float().mean() + (~says[~fires]).float().mean()) / 2`, after `if fires.all() or not fires.any(): raise ValueError(...)`.",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "both_rates": "Those are the two rates. Return their mean.",
        "per_context": "That is one value for each context. Return one number.",
        "plain_accuracy": "That is plain accuracy, the share of contexts in which the rule is right. Where a latent is rare, a rule that never says yes gets .95 that way: take the rate in each class, then the mean of the two.",
        "error_rate": "That is how often the rule is *wrong*. Return 1 less that.",
        "recall": "That is the true-positive rate alone. A rule that says yes to everything gets 1: take the mean with the true-negative rate.",
        "specificity": "That is the true-negative rate alone. A rule that never says yes gets 1: take the mean with the true-positive rate.",
        "precision": "That asks how far one of the rule's verdicts can be trusted (precision). The two rates are among contexts in which the latent fires, and among those in which it doesn't.",
        "f1": "That leaves out the contexts in which both say no (as F1 does), and depends on how rare the latent is. Take the mean of the true-positive and the true-negative rate.",
        "swapped": "The roles are swapped: you divide by what the rule says. Divide by what the latent does: the classes are where it fires and where it doesn't.",
        "precision_and_recall": "That is a mean of precision and recall. The second rate is the true-negative one: of the contexts in which the latent doesn't fire, the share the rule says no to.",
        "not_halved": "That is the sum of the two rates. Take their mean.",
        "above_chance": "That is the sum of the two rates less 1 (Youden's J), which is 0 at chance. Here chance is .5: take their mean.",
        "geometric_mean": "That is a product or another mean of the two rates. Take the plain mean.",
        "of_all_contexts": "You divide by the number of all contexts. Each rate is among its own class: by how many contexts the latent fires in, or doesn't.",
        "counts": "Those are counts. Divide each by the size of its class.",
        "percent": "That is in per cent. Return the fraction.",
        "false_alarms": "The second rate is that of false alarms. Take the true-negative rate: the share of quiet contexts to which the rule says no.",
        "refuses_a_rule": "A rule that always or never says yes can be scored: it gets .5. Only where the latent fires in no context, or in every one, is there no score.",
        "constant_rule": "Right for some rules, but one that says the same of every context should get .5: one rate is 1, the other 0.",
        "empty_class": "Right, but where the latent fires in no context, or in every one, one of the two rates is 0/0. Raise a ValueError there; NaN or a number would go into averages unseen.",
        "other_exception": "Right, but where one of the two classes is empty, raise a ValueError that says so.",
        "something_else": "That is not the mean of the true-positive and the true-negative rate.",
    },
    judge=_judge_detection,
)
