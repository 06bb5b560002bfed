"""Checks of the exercises of notebook 08 about a whole graph: influence, the replacement score, logit nodes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, compare, expect, kind
from mi_utils.grading.core import Exercise, Mistake, Stopped
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 08.influence: influence over all paths


def _judge_influence(answer: Callable) -> None:
    for features, sources, logits in ((7, 4, 1), (4, 3, 2)):
        adjacency = _graph(features, sources, logits)
        weights = torch.zeros(len(adjacency))
        weights[-logits:] = torch.tensor([0.6, 0.3])[:logits]
        if logits == 1:
            weights[2] = 0.25  # of a feature, which matters for itself only by way of others
        got, unchanged = _ask_about(answer, adjacency, weights)
        shapes = {"matrix": [tuple(adjacency.shape)]}
        compare(got, _reach(_shares(adjacency), weights), _wrong_influences(adjacency, weights), shapes)
        if not unchanged:
            raise Mistake("in_place")


def _ask_about(answer: Callable, adjacency: Tensor, weights: Tensor) -> tuple[Any, bool]:
    try:
        got, unchanged = ask(answer, adjacency, weights)
    except Stopped as stopped:  # some linear algebra refuses NaN
        if isinstance(stopped.__cause__, torch.linalg.LinAlgError):
            raise Mistake("empty_rows", f"({stopped.__cause__})") from None
        raise
    if isinstance(got, Tensor) and got.isnan().any():
        raise Mistake("empty_rows")
    return got, unchanged


def _graph(features: int, sources: int, logits: int) -> Tensor:
    """Signed edges [target, source]: features from sources and earlier features, logits from all of these."""
    n = features + sources + logits
    edges = torch.randn(n, n, generator=seeded(n))
    edges[:features, :features].tril_(-1)
    edges[features : features + sources] = 0
    edges[:, -logits:] = 0
    edges[1, 0] = edges[-1, 1] = 0  # not everything has an edge
    return edges


def _shares(adjacency: Tensor, dim: int = 1) -> Tensor:
    sizes = adjacency.abs()
    return sizes / sizes.sum(dim, keepdim=True).clamp(min=1e-10)


def _all_paths(shares: Tensor) -> Tensor:
    """One step, two, three and so on; there are no circles."""
    total, step = torch.zeros_like(shares), shares
    for _ in range(len(shares)):
        total, step = total + step, step @ shares
    return total


def _reach(shares: Tensor, weights: Tensor) -> Tensor:
    return weights @ _all_paths(shares)


def _wrong_influences(adjacency: Tensor, weights: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    shares, sizes = _shares(adjacency), adjacency.abs()
    paths = _all_paths(shares)
    right = weights @ paths
    signed = adjacency.sign() * shares
    netted = adjacency / torch.where(adjacency.any(1), adjacency.sum(1), torch.ones(len(adjacency)))[:, None]
    positive = _shares(adjacency.relu())
    return [
        ("columns", _reach(_shares(adjacency, 0), weights)),
        ("signed", _reach(signed, weights)),
        ("signed", _reach(netted, weights)),
        ("signed", _reach(signed, weights).abs()),
        ("positive_only", _reach(positive, weights)),
        ("not_scaled", _reach(sizes, weights)),
        ("not_scaled", _reach(adjacency, weights)),
        ("one_scale", _reach(sizes / sizes.sum(), weights)),
        ("one_scale", _reach(sizes / sizes.max(), weights)),
        ("few_steps", weights @ shares),
        ("few_steps", weights @ (shares + shares @ shares)),
        ("few_steps", weights @ shares @ shares),
        ("one_step_missing", right - weights @ shares),
        ("identity_kept", right + weights),
        ("identity_twice", right - weights),
        ("transposed", paths @ weights),
        ("transposed", (paths + torch.eye(len(paths))) @ weights),
        ("transposed", _reach(_shares(adjacency.T), weights)),
        ("weights_ignored", paths.sum(0)),
        ("weights_ignored", paths.mean(0)),
        ("weights_ignored", (weights > 0).float() @ paths),
        ("made_to_sum_to_one", right / right.sum()),
    ]


INFLUENCE = Exercise(
    id="08.influence",
    title="Influence over all paths",
    minutes=15,
    difficulty=4,
    hints=(
        "The edges into a node are a row of `adjacency`. What do their absolute values sum to, and what if there are none?",
        "`sizes = adjacency.abs()` and `shares = sizes / sizes.sum(dim=1, keepdim=True).clamp(min=1e-10)`: an empty row stays zero. A row vector of weights stands on the left.",
        "`weights @ (torch.linalg.inv(torch.eye(len(shares)) - shares) - torch.eye(len(shares)))`",
    ),
    mistakes={
        "shape": "Return one number for each node: shape [node].",
        "matrix": "That has one number for each pair of nodes. Multiply by the weights from the left: shape [node].",
        "columns": "The columns are scaled to sum to 1: those are the edges *out of* a node. The edges into it are a row.",
        "signed": "The signs are left in, so that a path that helps and one that hinders cancel, and a node through which everything runs can look idle. Take absolute values first.",
        "positive_only": "Negative edges are dropped. A node that holds another down has influence too: take absolute values.",
        "not_scaled": "The edges are not scaled. Those into each node must sum to 1, so that they say what share of its input comes from where.",
        "one_scale": "All edges are divided by the same number. Each row has its own sum.",
        "few_steps": "That stops after a step or two. Paths of every length count: `(I - Â)⁻¹ - I`.",
        "one_step_missing": "The direct edges, paths of one step, are missing.",
        "identity_kept": "The weights themselves are in it: `(I - Â)⁻¹` begins with `I`, the path of no step. Subtract it.",
        "identity_twice": "The identity is subtracted twice, so that weighted nodes come out too small.",
        "transposed": "Targets and sources have changed places. Weights of targets stand on the left, `weights @ ...`, and what comes out belongs to the sources.",
        "weights_ignored": "The weights are not used, or only whether there is one. A logit counts as much as its weight.",
        "made_to_sum_to_one": "That is scaled to sum to 1. Influence isn't a share: on a path of several nodes each has it in full.",
        "empty_rows": "Some values are no numbers. Nothing runs into tokens and errors, and their rows sum to 0: dividing by that gives NaN. Such a row stays zero; `clamp(min=1e-10)` on the sums does it.",
        "in_place": "Right, but your function changed what it was given. Write into new tensors.",
        "something_else": "That is not `weights` times `(I - Â)⁻¹ - I`.",
    },
    judge=_judge_influence,
)

# ------------------------------------------------------------------ 08.replacement_score: the replacement score


def _judge_score(answer: Callable) -> None:
    # Features, errors, tokens, logits, as in a graph; then in another order.
    for n, tokens, errors in ((14, slice(9, 12), slice(5, 9)), (11, slice(0, 2), slice(6, 11))):
        influence = 0.1 + torch.rand(n, generator=seeded(n))
        at_tokens, at_errors = influence[tokens], influence[errors]
        right = at_tokens.sum() / (at_tokens.sum() + at_errors.sum())
        shapes = {"not_summed": [tuple(at_tokens.shape)], "two_numbers": [(2,)]}
        expect(
            answer, (influence, tokens, errors), right, _wrong_scores(influence, at_tokens, at_errors), shapes
        )


def _wrong_scores(influence: Tensor, at_tokens: Tensor, at_errors: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    tokens, errors, everything = at_tokens.sum(), at_errors.sum(), influence.sum()
    right = tokens / (tokens + errors)
    count = torch.tensor(len(at_tokens) / (len(at_tokens) + len(at_errors)))
    return [
        ("share_of_errors", 1 - right),
        ("of_everything", tokens / everything),
        ("of_everything", errors / everything),
        ("of_everything", (tokens + errors) / everything),
        ("features_counted", 1 - errors / everything),
        ("features_counted", 1 - tokens / everything),
        ("nodes_counted", count),
        ("nodes_counted", 1 - count),
        ("means", at_tokens.mean() / (at_tokens.mean() + at_errors.mean())),
        ("not_both", tokens / errors),
        ("not_both", errors / tokens),
        ("not_both", 1 - errors / tokens),
        ("difference", tokens - errors),
        ("difference", (tokens - errors) / (tokens + errors)),
        ("no_share", tokens),
        ("no_share", errors),
        ("percent", 100 * right),
    ]


REPLACEMENT_SCORE = Exercise(
    id="08.replacement_score",
    title="How much starts where it should?",
    minutes=5,
    difficulty=1,
    hints=(
        "What should come out for errors without any influence? And for tokens without any?",
        "`influence[tokens].sum()` is what starts at tokens. What is it a share of?",
        "`influence[tokens].sum() / (influence[tokens].sum() + influence[errors].sum())`",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "not_summed": "That is one number for each token. Sum over tokens, and over errors.",
        "two_numbers": "Those are two numbers. Return the share of the tokens.",
        "share_of_errors": "That is the errors' share. The score is 1 where the transcoders are perfect: it is the tokens' share.",
        "of_everything": "That is a share of *all* nodes' influence. Features lie on the way and start nothing: divide by tokens and errors together.",
        "features_counted": "Features are counted in, as all that is not error. They lie on the way and start nothing: only tokens and errors count.",
        "nodes_counted": "That counts nodes. Sum their influence.",
        "means": "Those are means, which forget how many nodes there are. Sum.",
        "not_both": "That divides one by the other. Divide by both together, so that the score lies between 0 and 1.",
        "difference": "That has a difference in it. The score is the tokens' share of both together.",
        "no_share": "That is not a share yet. Divide by tokens and errors together.",
        "percent": "That is in per cent. Return the fraction.",
        "in_place": "Right, but your function changed what it was given.",
        "something_else": "That is not the tokens' share of the influence of tokens and errors.",
    },
    judge=_judge_score,
)

# ------------------------------------------------------------------ 08.logit_nodes: which answers get a node?

_PARTS = (3, 24, 1, 10, 16, 4, 6)  # of 64, so that sums are exact; no two alike


def _judge_logits(answer: Callable) -> None:
    probabilities = torch.tensor(_PARTS) / 64
    # Then a mass that two tokens hold exactly, one too large for the cap, one that the first token has, and all.
    for mass, most in ((0.8, 6), (0.625, 5), (0.9, 3), (0.2, 4), (1.0, 10)):
        got, unchanged = ask(answer, probabilities, mass, most)
        _compare_logits(_ids(got), probabilities, mass, most)
        if not unchanged:
            raise Mistake("in_place")


def _ids(got: Any) -> list:
    if isinstance(got, Tensor) and got.dtype == torch.bool:
        raise Mistake("mask")
    if isinstance(got, Tensor) and got.ndim == 1:
        return got.tolist()
    if not isinstance(got, list | tuple):
        raise Mistake("no_list", f"It returned {kind(got)}.")
    return [one.item() if isinstance(one, Tensor) and not one.ndim else one for one in got]


def _compare_logits(got: list, probabilities: Tensor, mass: float, most: int) -> None:
    values, order = probabilities.sort(descending=True)
    ids, needed = order.tolist(), int((values.cumsum(0) < mass).sum()) + 1
    right = ids[: min(needed, most)]
    if got == right:
        return
    detail = f"With a mass of {mass} and at most {most} it gives {got}."
    wrong = [
        ("probabilities", values[: len(right)].tolist()),
        ("probabilities", probabilities.tolist()),
        ("by_id", sorted(right)),
        ("by_id", right[::-1]),
        ("cap_ignored", ids[:needed]),
        ("always_most", ids[:most]),
        ("one_too_few", ids[: min(needed - 1, most)]),
        ("one_too_few", ids[: min(needed, most) - 1]),
        ("one_too_many", ids[: needed + 1]),
        ("one_too_many", ids[: most + 1]),
        *(("each_probability", ids[:count]) for count in _above(probabilities, (mass, 1 - mass))),
        *(("each_probability", sorted(ids[:count])) for count in _above(probabilities, (mass, 1 - mass))),
        ("least_likely", ids[::-1][: len(right)]),
    ]
    for name, one in wrong:
        if got == one:
            raise Mistake(name, detail)
    raise Mistake("something_else", detail)


def _above(probabilities: Tensor, cuts: tuple[float, ...]) -> list[int]:
    """How many tokens have at least each of these probabilities."""
    return [int((probabilities >= cut).sum()) for cut in cuts]


LOGIT_NODES = Exercise(
    id="08.logit_nodes",
    title="Which answers get a node?",
    minutes=10,
    difficulty=2,
    hints=(
        "Sort the tokens, likeliest first, and add up. After how many is the mass reached?",
        "`values.cumsum(dim=0) < mass` is true as long as it is not. The token that reaches it belongs to the answer.",
        "`ids[: min((values.cumsum(dim=0) < mass).sum().item() + 1, most)]`, with `values, ids = probabilities.sort(descending=True)`",
    ),
    mistakes={
        "no_list": "Return the ids: a tensor with one axis, or a list.",
        "mask": "That is a mask. Return the ids, likeliest first.",
        "probabilities": "Those are probabilities. Return the ids of the tokens.",
        "by_id": "The right tokens in another order: the likeliest comes first.",
        "cap_ignored": "Those are more than `most`. Where many tokens are needed for the mass, stop there.",
        "always_most": "Those are always `most`. Take as few as hold the mass.",
        "one_too_few": "One too few: the token with which the mass is reached belongs to them.",
        "one_too_many": "One too many: where the first tokens hold the mass, exactly or more, no other is needed.",
        "each_probability": "That compares each token's own probability with a number. It is their *sum* that has to reach the mass.",
        "least_likely": "Those are the least likely ones. Sort the other way round.",
        "in_place": "Right, but your function changed the probabilities. Sort into a new tensor.",
        "something_else": "Those are not the fewest tokens that hold the mass.",
    },
    judge=_judge_logits,
)
