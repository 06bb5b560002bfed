"""Checks of the exercises of notebook 08 that go beyond the graph: parts of an attention score, and swaps."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_utils.grading.answers import ask, compare
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 08.qk: parts of an attention score


def _judge_qk(answer: Callable) -> None:
    # First with sizes that coincide, so that what is left out or mixed up gives numbers; then with four unlike ones.
    for n_queries, n_keys, d_model, d_head in ((4, 4, 5, 5), (3, 6, 7, 4)):
        generator = seeded(d_head)
        queries = torch.randn(n_queries, d_model, generator=generator)
        keys = torch.randn(n_keys, d_model, generator=generator)
        W_Q, W_K = (torch.randn(d_model, d_head, generator=generator) for _ in range(2))
        got, unchanged = ask(answer, queries, keys, W_Q, W_K)
        shapes = {
            "transposed": [(n_keys, n_queries)],
            "summed": [(), (n_queries,), (n_keys,)],
            "not_all_pairs": [(n_queries, d_head)],
        }
        right = (queries @ W_Q) @ (keys @ W_K).T / d_head**0.5
        compare(got, right, _wrong_scores(queries, keys, W_Q, W_K), shapes)
        if not unchanged:
            raise Mistake("in_place")


def _wrong_scores(queries: Tensor, keys: Tensor, W_Q: Tensor, W_K: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name; some only where sizes coincide."""
    d_model, d_head = W_Q.shape
    q, k = queries @ W_Q, keys @ W_K
    raw = q @ k.T
    right = raw / d_head**0.5
    whole = right.sum()
    wrong = [
        ("no_scale", raw),
        ("root_of_d_model", raw / d_model**0.5),
        ("other_scale", raw / d_head),
        ("other_scale", raw / d_model),
        ("other_scale", raw * d_head**0.5),
        ("matrices_swapped", (queries @ W_K) @ (keys @ W_Q).T / d_head**0.5),
        ("one_matrix", q @ (keys @ W_Q).T / d_head**0.5),
        ("one_matrix", (queries @ W_K) @ k.T / d_head**0.5),
        ("softmax", right.softmax(-1)),
        ("softmax", right.softmax(0)),
        ("softmax", right.flatten().softmax(0).view_as(right)),
        ("softmax", raw.softmax(-1)),
        ("cosines", F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).T),
        ("absolute", right.abs()),
        ("fractions", right / whole),
        ("fractions", right / right.sum(-1, keepdim=True)),
    ]
    wrong += [("not_projected", queries @ keys.T / by) for by in (1, d_head**0.5, d_model**0.5)]
    if d_model == d_head:
        halves = q @ keys.T, queries @ k.T
        wrong += [("not_projected", half / by) for half in halves for by in (1, d_head**0.5)]
        wrong += [("transposed_matrix", (queries @ W_Q.T) @ (keys @ W_K.T).T / d_head**0.5)]
        wrong += [("transposed_matrix", queries @ W_Q @ W_K @ keys.T / d_head**0.5)]
    if len(queries) == len(keys):
        wrong += [("transposed", right.T)]
    return wrong


QK = Exercise(
    id="08.qk",
    title="Take an attention score apart",
    minutes=10,
    difficulty=3,
    hints=(
        "How would you compute the score if there were one query and one key, each a single vector?",
        "Project both: `queries @ W_Q` is `[a, d_head]` and `keys @ W_K` `[b, d_head]`. The inner products of all pairs are one matrix product.",
        "`(queries @ W_Q) @ (keys @ W_K).T / W_Q.shape[1] ** 0.5`",
    ),
    mistakes={
        "shape": "Return one number for each pair of parts: shape [a, b].",
        "summed": "That is summed over parts. Keep the pairs apart: shape [a, b]; their sum is the whole score.",
        "not_all_pairs": "That is no matrix of pairs. Take the inner products over d_head: `... @ (...).T`.",
        "no_scale": "The division by the square root of `d_head` is missing, so the parts don't add up to the model's score.",
        "root_of_d_model": "That divides by the square root of `d_model`. The vectors that are multiplied have `d_head` entries.",
        "other_scale": "The scale is another: divide by the square root of `d_head`.",
        "matrices_swapped": "`W_Q` and `W_K` have changed places. The query's parts go through `W_Q`.",
        "one_matrix": "Both go through the same matrix. The query's parts go through `W_Q`, the key's through `W_K`.",
        "transposed": "The axes have changed places: the query's parts come first, [a, b].",
        "softmax": "That is after a softmax, which is not a sum of parts any more. The score is what comes before it.",
        "not_projected": "The parts, or some of them, are not projected. A head sees the stream through `W_Q` and `W_K` alone.",
        "transposed_matrix": "A matrix is used the wrong way round. Both are [d_model, d_head] and stand to the right of the stream.",
        "cosines": "Those are cosines. The score is an inner product, lengths and all.",
        "absolute": "The sign is lost. Some parts turn the head away, and without their sign the sum is wrong.",
        "fractions": "Those are shares of the whole score. Return the scores themselves.",
        "in_place": "Right, but your function changed what it was given. Write the products into new tensors.",
        "something_else": "That is not the score of each pair. Together they should give the score of the whole streams.",
    },
    judge=_judge_qk,
)

# ------------------------------------------------------------------ 08.swap: swaps


def _judge_swap(answer: Callable) -> None:
    # Features that are active on this prompt only, on the other only, on both, and on none.
    here = torch.tensor([1.5, 0.0, 2.0, 0.0, 0.7])
    there = torch.tensor([0.0, 0.8, 0.5, 0.0, 1.9])
    for targets in (3, 1):
        decoders = torch.randn(targets, len(here), 4, generator=seeded(targets))
        got, unchanged = ask(answer, here, there, decoders)
        shapes = {
            "own_layer_only": [(4,)] if targets > 1 else [],
            "targets_summed": [(1, 4)] if targets > 1 else [],
            "not_summed": [(targets, len(here), 4)],
            "not_decoded": [(len(here),)],
        }
        compare(got, _write(there - here, decoders), _wrong_swaps(here, there, decoders), shapes)
        if not unchanged:
            raise Mistake("in_place")


def _write(features: Tensor, decoders: Tensor) -> Tensor:
    return torch.einsum("f,tfd->td", features, decoders)


def _wrong_swaps(here: Tensor, there: Tensor, decoders: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    change, on_here, on_there = there - here, here > 0, there > 0
    first_only, repeated = _write(change, decoders), _write(change, decoders[:1]).expand(len(decoders), -1)
    first_only[1:] = 0
    features = [
        ("only_added", there),
        ("only_removed", -here),
        ("only_removed", here),
        ("sign", -change),
        ("both_added", here + there),
        ("mixed", change / 2),
        ("mixed", (here + there) / 2),
        ("active_on_both", change * (on_here & on_there)),
        ("active_on_one", change * (on_here ^ on_there)),
        ("active_on_one", change * on_here),
        ("active_on_one", change * on_there),
        ("active_on_one", there * ~on_here - here * ~on_there),
        ("positive_change", change.relu()),
        ("positive_change", change.abs()),
        ("on_or_off", on_there.float() - on_here.float()),
    ]
    return [
        *((name, _write(one, decoders)) for name, one in features),
        ("own_layer_only", first_only),
        ("own_layer_only", repeated),
        ("mean", _write(change, decoders) / len(change)),
    ]


SWAP = Exercise(
    id="08.swap",
    title="Swap one thought for another",
    minutes=10,
    difficulty=3,
    hints=(
        "By how much does each feature have to change, if it goes from its value here to its value there?",
        "`there - here`, a number for each feature, negative for those that go. What does such a change write to each target?",
        '`torch.einsum("f,tfd->td", there - here, decoders)`',
    ),
    mistakes={
        "shape": "Return one vector for each MLP output: shape [target, d_model].",
        "own_layer_only": "Only one target is written to, or all get the same decoder. The features write to every target, each time by another decoder: shape [target, d_model].",
        "targets_summed": "The targets are summed. Each is an MLP output of its own: shape [target, d_model].",
        "not_summed": "Those are the features one by one. Sum over features.",
        "not_decoded": "That is the change of the features. Return what it makes them write, through the decoders.",
        "only_added": "That adds the other prompt's features and leaves ours where they are, so that the model holds both. Take ours out too.",
        "only_removed": "That takes ours out (or adds them once more) and puts nothing in their place.",
        "sign": "The other way round: what is there on the other prompt comes in, and what is here goes.",
        "both_added": "That adds both. What is here has to go: subtract it.",
        "mixed": "That goes half the way. A swap goes all of it.",
        "active_on_both": "Only features that are active on both prompts change. Those of only one are what a swap is about: they go, or come.",
        "active_on_one": "Some features are left as they are. Whatever differs changes: those that go, those that come, and those whose value is another.",
        "positive_change": "Features that get weaker should change by a negative amount: keep the sign.",
        "on_or_off": "That only looks at which features are active. Their values count.",
        "mean": "That is a mean over features. What they write adds up.",
        "in_place": "Right, but your function changed what it was given. Write `there - here`, which is new.",
        "something_else": "That is not what the change of the features writes.",
    },
    judge=_judge_swap,
)
