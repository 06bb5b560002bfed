"""The checks of notebook 05: what passes, and which mistake each wrong answer is told to be."""

import functools
import random
from collections.abc import Callable

import numpy as np
import torch
from frame import FromContext, answer_for

from mi_utils import grading
from mi_utils.grading import tensors
from mi_utils.grading.core import STOPPED
from mi_utils.grading.nb05 import control

CONTEXTS = {
    "05.offsets": [lambda tiny: {"period": 20}, lambda tiny: {"period": 4}],
    "05.prefix_matching": [lambda tiny: {}],
    "05.in_context_score": [lambda tiny: {}],
    "05.copying": [lambda tiny: {}],
    "05.k_composition": [lambda tiny: {}],
    "05.random_control": [lambda tiny: {}],
    "05.composed_input": [lambda tiny: {}],
    "05.mend_the_classes": [lambda tiny: {}],
}


# ------------------------------------------------------------------ 1: how far back?


def offsets(previous, duplicate, induction) -> FromContext:
    """From functions of the period, or numbers."""
    parts = {"previous": previous, "duplicate": duplicate, "induction": induction}

    def make(context):
        return {name: part(context["period"]) if callable(part) else part for name, part in parts.items()}

    return FromContext(make)


def same(p):
    return p


def less(p):
    return p - 1


OFFSETS_RIGHT = {
    "numbers": offsets(1, same, less),
    "other order": FromContext(
        lambda c: {"induction": c["period"] - 1, "previous": 1, "duplicate": c["period"]}
    ),
    "floats": offsets(1.0, float, lambda p: p - 1.0),
    "tensors": offsets(torch.tensor(1), torch.tensor, lambda p: torch.tensor(p) - 1),
    "numpy": offsets(np.int64(1), np.int32, lambda p: np.float32(p - 1)),
}
OFFSETS_WRONG = {
    "shape": [
        5,
        (1, 20, 19),
        {"previous": 1, "duplicate": 20},
        {"previous": 1, "duplicate": 20, "induction": 19, "first": 21},
        {"previous": 1, "duplicate": 20, "induction": "19"},
        {"previous": True, "duplicate": 20, "induction": 19},
        {"previous": 1, "duplicate": 20, "induction": [19]},
        {"previous": 1, "duplicate": 20, "induction": torch.tensor([19, 18])},
    ],
    "negative": [
        offsets(-1, lambda p: -p, lambda p: 1 - p),
        offsets(-1, same, less),
        offsets(1, same, lambda p: 1 - p),
        offsets(1, same, -1),
    ],
    "swapped": [offsets(1, less, same), offsets(same, 1, less), offsets(less, same, 1)],
    "duplicate_for_induction": [offsets(1, same, same)],
    "before_the_copy": [offsets(1, same, lambda p: p + 1)],
    "start_token": [offsets(1, lambda p: p + 1, same), offsets(1, lambda p: p + 1, less)],
    "one_too_few": [
        offsets(1, less, lambda p: p - 2),
        offsets(0, less, lambda p: p - 2),
        offsets(1, same, lambda p: p - 2),
    ],
    "itself": [offsets(0, same, less)],
    "both_copies": [offsets(1, lambda p: 2 * p, lambda p: 2 * p - 1)],
    "something_else": [
        offsets(1, same, lambda p: 2 * p),
        offsets(2, same, less),
        offsets(1, same, 1),
        offsets(1, same, lambda p: p - 0.5),
        offsets(1, same, float("nan")),
    ],
}

# ------------------------------------------------------------------ 2: the prefix-matching score


def attended(pattern, period, back, start=1, stop=1):
    """Attention that many positions back, by head and query."""
    queries = torch.arange(period + start, 2 * period + stop)
    return pattern[:, queries, queries - back]


def prefix_matching(pattern, period):
    return attended(pattern, period, period - 1).mean(dim=-1)


def prefix_by_loops(pattern, period):
    rows = []
    for head in pattern:
        rows.append(sum(head[q, q - period + 1].item() for q in range(period + 1, 2 * period + 1)) / period)
    return torch.tensor(rows)


def prefix_by_mask(pattern, period):
    n = pattern.shape[-1]
    wanted = torch.zeros(n, n)
    for query in range(period + 1, n):
        wanted[query, query - (period - 1)] = 1
    return (pattern * wanted).sum(dim=(1, 2)) / wanted.sum()


def prefix_by_gather(pattern, period):
    keys = torch.arange(2, period + 2)[None, :, None].expand(len(pattern), -1, -1)
    return pattern[:, period + 1 :].gather(2, keys).mean(dim=(1, 2))


PREFIX_RIGHT = {
    "indices": prefix_matching,
    "diagonal": lambda a, p: a.diagonal(1 - p, dim1=-2, dim2=-1)[..., -p:].mean(-1),
    "diagonal from the end": lambda a, p: a.diagonal(1 - p, 1, 2)[:, 2:].sum(1) / p,
    "block": lambda a, p: a[:, p + 1 :, 2 : p + 2].diagonal(dim1=1, dim2=2).mean(-1),
    "trace": lambda a, p: torch.stack([torch.trace(one[p + 1 :, 2 : p + 2]) for one in a]) / p,
    "loops": prefix_by_loops,
    "mask": prefix_by_mask,
    "gather": prefix_by_gather,
    "einsum": lambda a, p: (
        torch.einsum("hqq->h", a[:, -p:, 2:-p]) / p if a.shape[-1] == 2 * p + 2 else prefix_matching(a, p)
    ),
    "period from the shape": lambda a, p: prefix_matching(a, (a.shape[1] - 1) // 2),
    "double": lambda a, p: prefix_matching(a.double(), p),
    "numpy": lambda a, p: np.diagonal(a.numpy(), 1 - p, 1, 2)[:, -p:].mean(-1),
    "gradients": lambda a, p: prefix_matching(a.requires_grad_(), p),
}
PREFIX_WRONG = {
    "shape": [
        lambda a, p: prefix_matching(a, p).tolist(),
        lambda a, p: prefix_matching(a, p)[:, None],
        lambda a, p: a,
        lambda a, p: (prefix_matching(a, p), p),
    ],
    "one_number": [
        lambda a, p: prefix_matching(a, p).mean(),
        lambda a, p: attended(a, p, p - 1).mean(),
        lambda a, p: prefix_matching(a, p)[0].item(),
    ],
    "not_averaged": [lambda a, p: attended(a, p, p - 1)],
    "per_query": [lambda a, p: attended(a, p, p - 1).mean(0)],
    "transposed": [
        lambda a, p: prefix_matching(a.mT, p),
        lambda a, p: a.diagonal(p - 1, 1, 2)[:, -p:].mean(-1),
        lambda a, p: attended(a.transpose(1, 2), p, p).mean(-1),
    ],
    "duplicate_token": [
        lambda a, p: attended(a, p, p).mean(-1),
        lambda a, p: a.diagonal(-p, 1, 2).mean(-1),
        lambda a, p: a[:, p + 1 :, 1 : p + 1].diagonal(dim1=1, dim2=2).mean(-1),
    ],
    "before_the_copy": [
        lambda a, p: attended(a, p, p + 1).mean(-1),
        lambda a, p: a.diagonal(-p - 1, 1, 2).mean(-1),
    ],
    "previous_token": [
        lambda a, p: attended(a, p, 1).mean(-1),
        lambda a, p: a.diagonal(-1, 1, 2).mean(-1),
    ],
    "two_after": [lambda a, p: attended(a, p, p - 2).mean(-1)],
    "first_copy_too": [
        lambda a, p: a.diagonal(1 - p, 1, 2).mean(-1),
        lambda a, p: torch.stack([one.diagonal(-(p - 1)).mean() for one in a]),
        lambda a, p: attended(a, p, p - 1, start=0).mean(-1),
        lambda a, p: a.diagonal(1 - p, 1, 2).sum(-1) / p,
    ],
    "all_queries": [
        lambda a, p: attended(a, p, p - 1).sum(-1) / a.shape[-1],
        lambda a, p: attended(a, p, p - 1).sum(-1) / (2 * p),
        lambda a, p: a.diagonal(1 - p, 1, 2).sum(-1) / a.shape[-1],
    ],
    "start_token": [
        lambda a, p: attended(a, p, p - 1, start=0, stop=0).mean(-1),
        lambda a, p: a[:, p : 2 * p, 1 : p + 1].diagonal(dim1=1, dim2=2).mean(-1),
    ],
    "one_left_out": [
        lambda a, p: attended(a, p, p - 1, start=2).mean(-1),
        lambda a, p: attended(a, p, p - 1, stop=0).mean(-1),
    ],
    "one_query": [lambda a, p: a[:, -1, p + 1], lambda a, p: a[:, p + 1, 2]],
    "largest": [
        lambda a, p: attended(a, p, p - 1).amax(-1),
        lambda a, p: attended(a, p, p - 1).max(dim=1).values,
    ],
    "summed": [lambda a, p: attended(a, p, p - 1).sum(-1)],
    "median": [lambda a, p: attended(a, p, p - 1).median(-1).values],
    "whole_block": [
        lambda a, p: a[:, p + 1 :, 1 : p + 1].mean((1, 2)),
        lambda a, p: a[:, p + 1 :, 2 : p + 2].mean((1, 2)),
        lambda a, p: a[:, p + 1 :, 1 : p + 1].sum(-1).mean(-1),
        lambda a, p: a[:, p + 1 :][:, :, 2 : p + 2].sum(2).mean(1),
    ],
    "most_attended": [lambda a, p: (a[:, p + 1 :].argmax(-1) == torch.arange(2, p + 2)).double().mean(-1)],
    "something_else": [
        lambda a, p: -prefix_matching(a, p),
        lambda a, p: prefix_matching(a, p).flip(0),
        lambda a, p: prefix_matching(a, p) if p == 7 else torch.rand(len(a)),
        lambda a, p: torch.full((len(a),), float("nan")),
    ],
    STOPPED: [
        lambda a: a,
        lambda a, p: attended(a, 30, 29).mean(-1),
        lambda a, p: attended(a, p, p - 1).mean(5),
    ],
}

# ------------------------------------------------------------------ 3: the in-context score


def in_context_score(loss, early, late):
    return (loss[:, late] - loss[:, early]).mean()


CONTEXT_RIGHT = {
    "difference": in_context_score,
    "means": lambda loss, a, b: loss[:, b].mean() - loss[:, a].mean(),
    "by position": lambda loss, a, b: loss.mean(dim=0)[b] - loss.mean(0)[a],
    "number": lambda loss, a, b: in_context_score(loss, a, b).item(),
    "numpy": lambda loss, a, b: loss.numpy()[:, b].mean() - loss.numpy()[:, a].mean(),
    "numpy double": lambda loss, a, b: np.float64(in_context_score(loss.double(), a, b)),
    "sums": lambda loss, a, b: (loss[:, b].sum() - loss[:, a].sum()) / len(loss),
    "double": lambda loss, a, b: in_context_score(loss.double(), a, b),
    "select": lambda loss, a, b: loss.index_select(1, torch.tensor([a, b])).diff(dim=1).mean(),
    "gradients": lambda loss, a, b: in_context_score(loss.requires_grad_(), a, b),
}
CONTEXT_WRONG = {
    "shape": [
        lambda loss, a, b: in_context_score(loss, a, b)[None],
        lambda loss, a, b: [in_context_score(loss, a, b)],
        lambda loss, a, b: loss,
        lambda loss, a, b: (loss[:, b] - loss[:, a]).mean(0, keepdim=True),
    ],
    "not_averaged": [lambda loss, a, b: loss[:, b] - loss[:, a]],
    "two_numbers": [lambda loss, a, b: loss[:, [a, b]].mean(0)],
    "positions_left": [lambda loss, a, b: loss.mean(0), lambda loss, a, b: loss[b] - loss[a]],
    "reversed": [
        lambda loss, a, b: (loss[:, a] - loss[:, b]).mean(),
        lambda loss, a, b: -in_context_score(loss, a, b).item(),
    ],
    "absolute": [
        lambda loss, a, b: in_context_score(loss, a, b).abs(),
        lambda loss, a, b: abs(in_context_score(loss, a, b).item()),
    ],
    "ratio": [
        lambda loss, a, b: loss[:, b].mean() / loss[:, a].mean(),
        lambda loss, a, b: loss[:, a].mean() / loss[:, b].mean(),
        lambda loss, a, b: (loss[:, b] / loss[:, a]).mean(),
        lambda loss, a, b: in_context_score(loss, a, b) / loss[:, a].mean(),
        lambda loss, a, b: (loss[:, b] / loss[:, a] - 1).mean(),
    ],
    "stretches": [
        lambda loss, a, b: loss[:, :b].mean() - loss[:, :a].mean(),
        lambda loss, a, b: loss[:, : b + 1].mean() - loss[:, : a + 1].mean(),
        lambda loss, a, b: loss[:, b:].mean() - loss[:, a:].mean(),
        lambda loss, a, b: loss[:, b:].mean() - loss[:, :a].mean(),
        lambda loss, a, b: loss[:, b:].mean() - loss[:, : a + 1].mean(),
        lambda loss, a, b: loss[:, b:].mean() - loss[:, :b].mean(),
        lambda loss, a, b: loss[:, b].mean() - loss[:, :b].mean(),
        lambda loss, a, b: loss[:, a:b].mean(),
        lambda loss, a, b: loss[:, a : b + 1].mean(),
    ],
    "ignores_positions": [
        lambda loss, a, b: loss[:, -1].mean() - loss[:, 0].mean(),
        lambda loss, a, b: loss[:, loss.shape[1] // 2 :].mean() - loss[:, : loss.shape[1] // 2].mean(),
    ],
    "one_prompt": [
        lambda loss, a, b: loss[0, b] - loss[0, a],
        lambda loss, a, b: (loss[-1, b] - loss[-1, a]).item(),
    ],
    "summed": [lambda loss, a, b: (loss[:, b] - loss[:, a]).sum()],
    "median": [
        lambda loss, a, b: (loss[:, b] - loss[:, a]).median(),
        lambda loss, a, b: loss[:, b].median() - loss[:, a].median(),
    ],
    "wrong_axis": [
        lambda loss, a, b: (loss[b] - loss[a]).mean(),
        lambda loss, a, b: loss[b].mean() - loss[a].mean(),
    ],
    "counts_from_one": [
        lambda loss, a, b: in_context_score(loss, a - 1, b - 1),
        lambda loss, a, b: in_context_score(loss, a + 1, b + 1),
    ],
    "exponential": [
        lambda loss, a, b: (loss[:, b].exp() - loss[:, a].exp()).mean(),
        lambda loss, a, b: loss[:, b].mean().exp() - loss[:, a].mean().exp(),
    ],
    "one_position": [lambda loss, a, b: loss[:, b].mean(), lambda loss, a, b: loss[:, a].mean()],
    "something_else": [
        lambda loss, a, b: 0.0,
        lambda loss, a, b: (loss[:, b] + loss[:, a]).mean(),
        lambda loss, a, b: loss.mean(),
        lambda loss, a, b: in_context_score(loss, 2, 9) if a == 2 else 1.0,
        lambda loss, a, b: float("nan"),
    ],
    STOPPED: [lambda loss: loss, lambda loss, a, b: loss[:, 500].mean() - loss[:, 50].mean()],
}

# ------------------------------------------------------------------ 4: does a head copy?


def copied(ov):
    return ov.argmax(dim=1) == torch.arange(len(ov))


def copying_score(ov):
    return copied(ov).float().mean()


def copying_by_loops(ov):
    count = 0
    for i, row in enumerate(ov.tolist()):
        count += all(row[i] > other for j, other in enumerate(row) if j != i)
    return count / len(ov)


def copying_by_masking(ov):
    others = ov.clone().fill_diagonal_(-torch.inf)
    return (ov.diagonal() > others.amax(1)).double().mean()


COPYING_RIGHT = {
    "argmax": copying_score,
    "loops": copying_by_loops,
    "masking": copying_by_masking,
    "max": lambda ov: (ov.max(dim=-1).indices == torch.arange(ov.shape[0])).sum() / len(ov),
    "probabilities": lambda ov: copying_score(ov.softmax(-1)),
    "numpy": lambda ov: np.mean(ov.numpy().argmax(1) == np.arange(len(ov))),
    "numpy single": lambda ov: np.float32(copying_score(ov)),
    "number": lambda ov: copied(ov).sum().item() / len(ov),
    "others": lambda ov: ((ov >= ov.diagonal()[:, None]).sum(1) == 1).float().mean(),
    "double": lambda ov: copying_score(ov.double()).double(),
    "in place": lambda ov: copying_score(ov.sub_(ov.mean(1, keepdim=True))),
}
COPYING_WRONG = {
    "shape": [
        lambda ov: copying_score(ov)[None],
        lambda ov: [copying_score(ov)],
        lambda ov: (ov.argmax(dim=1), copying_score(ov)),
        lambda ov: copied(ov)[:, None],
    ],
    "per_token": [copied, lambda ov: ov.argmax(1), lambda ov: ov.diagonal()],
    "matrix": [lambda ov: ov == ov.amax(1, keepdim=True), lambda ov: ov.softmax(-1)],
    "wrong_axis": [
        lambda ov: copying_score(ov.T),
        lambda ov: (ov.argmax(0) == torch.arange(len(ov))).float().mean(),
    ],
    "positive": [lambda ov: (ov.diagonal() > 0).float().mean()],
    "absolute": [lambda ov: copying_score(ov.abs()), lambda ov: copying_score(ov.square())],
    "smallest": [lambda ov: (ov.argmin(1) == torch.arange(len(ov))).float().mean()],
    "positive_too": [lambda ov: (copied(ov) & (ov.diagonal() > 0)).float().mean()],
    "above_average": [
        lambda ov: (ov.diagonal() > ov.mean(1)).float().mean(),
        lambda ov: (ov.diagonal() > ov.median(dim=1).values).float().mean(),
    ],
    "diagonal": [
        lambda ov: ov.diagonal().mean(),
        torch.trace,
        lambda ov: (ov.diagonal() - ov.mean(1)).mean(),
        lambda ov: ov.trace() / ov.sum(),
        lambda ov: ov.diagonal().abs().sum() / ov.abs().sum(),
    ],
    "probability": [lambda ov: ov.softmax(1).diagonal().mean()],
    "count": [lambda ov: copied(ov).sum(), lambda ov: copied(ov).sum().item()],
    "percent": [lambda ov: 100 * copying_score(ov)],
    "not_copied": [lambda ov: (~copied(ov)).float().mean()],
    "eigenvalues": [
        lambda ov: (torch.linalg.eigvals(ov).sum() / torch.linalg.eigvals(ov).abs().sum()).real,
        lambda ov: (torch.linalg.eigvals(ov).real > 0).float().mean(),
    ],
    "top_few": [
        lambda ov: (ov.topk(5, dim=1).indices == torch.arange(len(ov))[:, None]).any(1).float().mean(),
        lambda ov: ((ov > ov.diagonal()[:, None]).sum(1) < 10).float().mean(),
    ],
    "ties": [
        lambda ov: (ov.diagonal() >= ov.amax(1)).float().mean(),
        lambda ov: (ov.diagonal() == ov.max(dim=1).values).float().mean(),
        lambda ov: ((ov > ov.diagonal()[:, None]).sum(1) == 0).float().mean(),
    ],
    "something_else": [
        lambda ov: -copying_score(ov),
        lambda ov: copying_score(ov[:50, :50]),
        lambda ov: 0.5,
        lambda ov: torch.tensor(float("nan")),
    ],
    STOPPED: [lambda: 0, lambda ov: copied(ov).mean(), lambda ov: ov.argmax(3)],
}

# ------------------------------------------------------------------ 5: K-composition


def ratio(product, *factors):
    return product.norm() / (factors[0].norm() * factors[1].norm())


def k_composition(W_OV, W_QK):
    return ratio(W_QK @ W_OV.T, W_QK, W_OV)


def with_norm(norm: Callable) -> Callable:
    return lambda W_OV, W_QK: norm(W_QK @ W_OV.T) / (norm(W_QK) * norm(W_OV))


def composition_by_traces(W_OV, W_QK):
    above = torch.trace(W_QK @ W_OV.T @ W_OV @ W_QK.T)
    return (above / (torch.trace(W_QK @ W_QK.T) * torch.trace(W_OV.T @ W_OV))).sqrt()


def as_in_the_paper(W_OV, W_QK):
    """Columns first."""
    W_OV, W_QK = W_OV.T, W_QK
    return ratio(W_QK @ W_OV, W_QK, W_OV)


COMPOSITION_RIGHT = {
    "norms": k_composition,
    "transposed": lambda ov, qk: ratio(ov @ qk.T, ov, qk),
    "linalg": with_norm(torch.linalg.matrix_norm),
    "squares": with_norm(lambda x: x.square().sum().sqrt()),
    "singular values": with_norm(lambda x: torch.linalg.svdvals(x).norm()),
    "traces": composition_by_traces,
    "columns": as_in_the_paper,
    "unit norms": lambda ov, qk: ((qk / qk.norm()) @ (ov / ov.norm()).mT).norm("fro"),
    "einsum": lambda ov, qk: torch.einsum("qk,sk->qs", qk, ov).norm() / ov.norm() / qk.norm(),
    "numpy": lambda ov, qk: (
        np.linalg.norm(qk.numpy() @ ov.numpy().T) / np.linalg.norm(ov) / np.linalg.norm(qk)
    ),
    "double": lambda ov, qk: k_composition(ov.double(), qk.double()),
    "number": lambda ov, qk: k_composition(ov, qk).item(),
}
COMPOSITION_WRONG = {
    "shape": [
        lambda ov, qk: k_composition(ov, qk)[None],
        lambda ov, qk: [k_composition(ov, qk)],
        lambda ov, qk: (qk @ ov.T).norm(dim=0) / (qk.norm() * ov.norm()),
    ],
    "matrix": [lambda ov, qk: qk @ ov.T, lambda ov, qk: qk @ ov.T / (qk.norm() * ov.norm())],
    "no_transpose": [lambda ov, qk: ratio(qk @ ov, ov, qk), lambda ov, qk: (qk @ ov).norm()],
    "q_composition": [
        lambda ov, qk: ratio(ov @ qk, ov, qk),
        lambda ov, qk: ratio(qk.T @ ov.T, ov, qk),
        lambda ov, qk: ratio(qk.T @ ov, ov, qk),
        lambda ov, qk: ratio(ov.T @ qk, ov, qk),
        lambda ov, qk: (ov @ qk).norm(),
    ],
    "elementwise": [lambda ov, qk: ratio(qk * ov.T, ov, qk), lambda ov, qk: (qk * ov).norm()],
    "added": [lambda ov, qk: ratio(qk + ov.T, ov, qk), lambda ov, qk: ratio(qk + ov, ov, qk)],
    "not_normalised": [lambda ov, qk: (qk @ ov.T).norm()],
    "one_norm": [
        lambda ov, qk: (qk @ ov.T).norm() / qk.norm(),
        lambda ov, qk: (qk @ ov.T).norm() / ov.norm(),
    ],
    "sum_of_norms": [lambda ov, qk: (qk @ ov.T).norm() / (qk.norm() + ov.norm())],
    "own_norm": [
        lambda ov, qk: (qk @ ov.T).norm() / (qk @ ov.T).norm(),
        lambda ov, qk: 1 / k_composition(ov, qk),
    ],
    "squared": [
        lambda ov, qk: k_composition(ov, qk) ** 2,
        lambda ov, qk: (qk @ ov.T).square().sum() / (qk.norm() * ov.norm()),
        lambda ov, qk: (qk @ ov.T).norm() / (qk.square().sum() * ov.square().sum()),
        lambda ov, qk: k_composition(ov, qk).sqrt(),
    ],
    "root_mean": [
        with_norm(lambda x: x.square().mean().sqrt()),
        lambda ov, qk: (qk @ ov.T).square().mean().sqrt() / (qk.norm() * ov.norm()),
    ],
    "other_norm": [
        with_norm(lambda x: torch.linalg.matrix_norm(x, "nuc")),
        with_norm(lambda x: torch.linalg.matrix_norm(x, 2)),
        with_norm(lambda x: torch.linalg.norm(x, 1)),
        with_norm(lambda x: x.abs().sum()),
        with_norm(lambda x: x.abs().mean()),
        with_norm(lambda x: x.abs().max()),
    ],
    "cosine": [
        lambda ov, qk: torch.cosine_similarity(qk.flatten(), ov.flatten(), dim=0),
        lambda ov, qk: torch.trace(qk @ ov) / (qk.norm() * ov.norm()),
    ],
    "something_else": [
        lambda ov, qk: -k_composition(ov, qk),
        lambda ov, qk: 0.5,
        lambda ov, qk: ratio(qk @ qk.T, qk, qk),
        lambda ov, qk: float("nan"),
    ],
    STOPPED: [lambda ov: ov, lambda ov, qk: (qk @ ov[:3]).norm()],
}

# ------------------------------------------------------------------ 6: heads to compare with


def others(heads, top):
    return [head for head in heads if head not in top]


def shuffled(pool, generator):
    return [pool[i] for i in torch.randperm(len(pool), generator=generator).tolist()]


def matched_random(heads, top, generator):
    return shuffled(others(heads, top), generator)[: len(top)]


def control_by_multinomial(heads, top, generator):
    weights = torch.tensor([0.0 if head in top else 1.0 for head in heads])
    return [heads[i] for i in weights.multinomial(len(top), replacement=False, generator=generator)]


def control_by_rejection(heads, top, generator):
    chosen = []
    while len(chosen) < len(top):
        head = heads[torch.randint(len(heads), (), generator=generator)]
        if head not in top and head not in chosen:
            chosen.append(head)
    return chosen


def control_by_keys(heads, top, generator):
    pool = sorted(set(heads) - set(top))
    keys = torch.rand(len(pool), generator=generator)
    return sorted(pool[i] for i in keys.topk(len(top)).indices)


def control_by_python(heads, top, generator):
    seed = torch.randint(2**31, (1,), generator=generator).item()
    return random.Random(seed).sample(others(heads, top), len(top))


def control_by_numpy(heads, top, generator):
    rng = np.random.default_rng(torch.randint(2**31, (1,), generator=generator).item())
    return rng.choice(np.array(others(heads, top)), len(top), replace=False)


CONTROL_RIGHT = {
    "shuffled": matched_random,
    "multinomial": control_by_multinomial,
    "rejection": control_by_rejection,
    "keys": control_by_keys,
    "python": control_by_python,
    "numpy": control_by_numpy,
    "tensor": lambda h, t, g: torch.tensor(matched_random(h, t, g)),
    "indexed tensor": lambda h, t, g: torch.tensor(others(h, t))[
        torch.randperm(len(h) - len(t), generator=g)[: len(t)]
    ],
    "tuple": lambda h, t, g: tuple(matched_random(h, t, g)),
    "set": lambda h, t, g: set(matched_random(h, t, g)),
    "lists": lambda h, t, g: [list(head) for head in matched_random(h, t, g)],
    "rows": lambda h, t, g: list(torch.tensor(matched_random(h, t, g))),
    "after shuffling all": lambda h, t, g: others(shuffled(h, g), t)[: len(t)],
    "tensors of numbers": lambda h, t, g: [tuple(torch.tensor(head)) for head in matched_random(h, t, g)],
}


def drawn_with_replacement(heads, top, generator):
    pool = others(heads, top)
    return [pool[i] for i in torch.randint(len(pool), (len(top),), generator=generator)]


def by_removing(heads, top, generator):
    for head in top:
        heads.remove(head)
    return shuffled(heads, generator)[: len(top)]


def layer_by_layer(heads, top, generator):
    chosen = []
    for layer, _ in top:
        pool = [head for head in others(heads, top) if head[0] == layer and head not in chosen]
        chosen.append(shuffled(pool, generator)[0])
    return chosen


def a_window(heads, top, generator, around=False):
    pool = others(heads, top)
    start = torch.randint(len(pool) if around else len(pool) - len(top) + 1, (), generator=generator).item()
    return (pool + pool)[start : start + len(top)]


def favouring_late_layers(heads, top, generator):
    pool = others(heads, top)
    weights = torch.tensor([1.0 + layer for layer, _ in pool])
    return [pool[i] for i in weights.multinomial(len(top), generator=generator)]


def seeding_globally(heads, top, generator):
    torch.manual_seed(0)
    return matched_random(heads, top, None)


def with_its_own_chance(heads, top, generator):
    return random.SystemRandom().sample(others(heads, top), len(top))


def numpy_shuffled(heads, top, generator):
    return [tuple(head) for head in np.random.permutation(others(heads, top))[: len(top)]]


CONTROL_WRONG = {
    "shape": [
        lambda h, t, g: dict(matched_random(h, t, g)),
        lambda h, t, g: 5,
        lambda h, t, g: [(*head, 0) for head in matched_random(h, t, g)],
        lambda h, t, g: [f"{layer}.{head}" for layer, head in matched_random(h, t, g)],
        lambda h, t, g: torch.rand(len(t), 2, generator=g),
        lambda h, t, g: iter(matched_random(h, t, g)),
    ],
    "flat": [
        lambda h, t, g: torch.randperm(len(h) - len(t), generator=g)[: len(t)],
        lambda h, t, g: torch.randperm(len(h), generator=g)[: len(t)].tolist(),
        lambda h, t, g: [6 * layer + head for layer, head in matched_random(h, t, g)],
        lambda h, t, g: [i for i in torch.randperm(31, generator=g)[: len(t)]],
    ],
    "in_place": [
        by_removing,
        lambda h, t, g: (h.clear(), matched_random(control._HEADS, t, g))[1],
        lambda h, t, g: (t.sort(), matched_random(h, t, g))[1],
    ],
    "no_such_head": [
        lambda h, t, g: [(layer + 1, head) for layer, head in matched_random(h, t, g)],
        lambda h, t, g: [(i, 7) for i in torch.randperm(12, generator=g)[: len(t)].tolist()],
    ],
    "has_top": [
        lambda h, t, g: shuffled(h, g)[: len(t)],
        lambda h, t, g: shuffled(t, g),
        lambda h, t, g: [h[i] for i in torch.randint(len(h), (len(t),), generator=g)],
        lambda h, t, g: t,
    ],
    "other_number": [
        lambda h, t, g: others(shuffled(h, g)[: len(t)], t),
        lambda h, t, g: shuffled(others(h, t), g),
        lambda h, t, g: [*set(drawn_with_replacement(h, t, g))],
        lambda h, t, g: matched_random(h, t, g)[:1],
        lambda h, t, g: [],
    ],
    "repeats": [drawn_with_replacement, lambda h, t, g: matched_random(h, t, g)[:1] * len(t)],
    "global_generator": [
        lambda h, t, g: matched_random(h, t, None),
        lambda h, t, g: random.sample(others(h, t), len(t)),
        numpy_shuffled,
        seeding_globally,
    ],
    "not_random": [
        lambda h, t, g: others(h, t)[: len(t)],
        lambda h, t, g: others(h, t)[-len(t) :],
        lambda h, t, g: random.Random(0).sample(others(h, t), len(t)),
        lambda h, t, g: matched_random(h, t, torch.Generator().manual_seed(0)),
        lambda h, t, g: matched_random(h, t, g.manual_seed(3)),
        lambda h, t, g: shuffled(others(h, t)[: len(t)], g),
    ],
    "not_reproducible": [with_its_own_chance],
    "same_again": [lambda h, t, g: matched_random(h, t, torch.Generator().manual_seed(g.initial_seed()))],
    "same_layers": [layer_by_layer],
    "not_uniform": [
        a_window,
        functools.partial(a_window, around=True),
        favouring_late_layers,
        lambda h, t, g: shuffled(others(h, t)[:12], g)[: len(t)],
        lambda h, t, g: shuffled([head for head in others(h, t) if head[0] >= 2], g)[: len(t)],
    ],
    STOPPED: [
        lambda h, t: h,
        lambda h, t, g: g.choice(others(h, t), len(t)),
        lambda h, t, g: set(h) - t,
    ],
}

# ------------------------------------------------------------------ 7: one head taken out of the keys


def read(x, W_K):
    return torch.einsum("bpd,hde->bphe", x, W_K)


def without_source(keys, out, W_K, scale):
    return keys - read(out / scale, W_K)


def without_by_heads(keys, out, W_K, scale):
    parts = [(out / scale) @ W_K[head] for head in range(len(W_K))]
    return keys - torch.stack(parts, dim=2)


def without_in_a_copy(keys, out, W_K, scale):
    keys = keys.clone()
    for head in range(keys.shape[2]):
        keys[:, :, head] -= out @ W_K[head] / scale
    return keys


def first_head_only(keys, out, W_K, scale):
    keys = keys.clone()
    keys[:, :, 0] -= out / scale @ W_K[0]
    return keys


def in_place(keys, out, W_K, scale):
    keys -= read(out / scale, W_K)
    return keys


def earlier(x, by=1):
    """What stood ``by`` positions before, zero at the start."""
    return torch.cat([torch.zeros_like(x[:, :by]), x[:, :-by]], dim=1)


def rms(x):
    return x.square().mean(-1, keepdim=True).sqrt()


def part_without(wrong: Callable) -> Callable:
    """The keys without a part that is computed like this."""
    return lambda keys, out, W_K, scale: keys - wrong(out, W_K, scale)


def projected(keys, out, W_K, scale):
    direction = torch.nn.functional.normalize(read(out / scale, W_K), dim=-1)
    return keys - (keys * direction).sum(-1, keepdim=True) * direction


COMPOSED_RIGHT = {
    "einsum": without_source,
    "heads": without_by_heads,
    "copy": without_in_a_copy,
    "scaled after": part_without(lambda out, W_K, scale: read(out, W_K) / scale[..., None]),
    "matmul": part_without(lambda out, W_K, scale: ((out / scale)[:, None] @ W_K).transpose(1, 2)),
    "tensordot": part_without(lambda out, W_K, scale: torch.tensordot(out / scale, W_K, dims=([2], [1]))),
    "double": lambda keys, out, W_K, scale: without_source(
        keys.double(), out.double(), W_K.double(), scale.double()
    ),
    "numpy": lambda k, o, W, s: k.numpy() - np.einsum("bpd,hde->bphe", (o / s).numpy(), W.numpy()),
    "stream": lambda k, o, W, s: ((k * s[..., None]) - read(o, W)) / s[..., None],
}
COMPOSED_WRONG = {
    "shape": [
        lambda k, o, W, s: without_source(k, o, W, s).flatten(2),
        lambda k, o, W, s: without_source(k, o, W, s).transpose(1, 2),
        lambda k, o, W, s: without_source(k, o, W, s)[:, :, 0],
        lambda k, o, W, s: without_source(k, o, W, s).tolist(),
    ],
    "in_place": [in_place, lambda k, o, W, s: k - read(o.div_(s), W)],
    "unchanged": [lambda k, o, W, s: k],
    "zeroed": [lambda k, o, W, s: torch.zeros_like(k), lambda k, o, W, s: k - k],
    "added": [lambda k, o, W, s: k + read(o / s, W)],
    "no_scale": [part_without(lambda o, W, s: read(o, W)), lambda k, o, W, s: k + read(o, W)],
    "times_scale": [part_without(lambda o, W, s: read(o * s, W))],
    "scale_twice": [part_without(lambda o, W, s: read(o / s, W) / s[..., None])],
    "scales_all": [
        lambda k, o, W, s: (k - read(o, W)) / s[..., None],
        lambda k, o, W, s: k / s[..., None] - read(o / s, W),
        lambda k, o, W, s: k * s[..., None] - read(o, W),
        lambda k, o, W, s: without_source(k, o, W, s) / s[..., None],
    ],
    "own_norm": [
        part_without(lambda o, W, s: read(o / rms(o), W)),
        part_without(lambda o, W, s: read(o / o.norm(dim=-1, keepdim=True), W)),
        part_without(lambda o, W, s: read(torch.nn.functional.rms_norm(o, o.shape[-1:], eps=1e-5), W)),
    ],
    "norm_recomputed": [
        lambda k, o, W, s: (k * s[..., None] - read(o, W)) / (s**2 - rms(o) ** 2).sqrt()[..., None]
    ],
    "one_scale": [
        part_without(lambda o, W, s: read(o, W) / s.mean()),
        part_without(lambda o, W, s: read(o / s[:, -1:], W)),
        part_without(lambda o, W, s: read(o / s[:, :1], W)),
    ],
    "only_the_part": [lambda k, o, W, s: read(o / s, W), lambda k, o, W, s: -read(o / s, W)],
    "one_head": [first_head_only],
    "one_position": [
        lambda k, o, W, s: torch.cat([k[:, :-1], without_source(k, o, W, s)[:, -1:]], dim=1),
        lambda k, o, W, s: torch.cat([without_source(k, o, W, s)[:, :1], k[:, 1:]], dim=1),
    ],
    "one_W_K": [
        part_without(lambda o, W, s: (o / s @ W[0])[:, :, None]),
        part_without(lambda o, W, s: (o / s @ W[-1])[:, :, None]),
    ],
    "heads_mixed": [
        part_without(lambda o, W, s: torch.einsum("bpd,hde->bpe", o / s, W)[:, :, None]),
        part_without(lambda o, W, s: (o / s @ W.mean(0)).unsqueeze(2)),
    ],
    "shifted": [
        part_without(lambda o, W, s: read(earlier(o / s), W)),
        part_without(lambda o, W, s: read(o / s, W).roll(1, 1)),
        part_without(lambda o, W, s: read(o / s, W).roll(-1, 1)),
    ],
    "projected": [projected],
    "mean_kept": [
        part_without(lambda o, W, s: read(o / s, W) - read(o / s, W).mean(0)),
        part_without(lambda o, W, s: read(o / s, W) - read(o / s, W).mean(1, keepdim=True)),
        part_without(lambda o, W, s: read(o / s, W) - read(o / s, W).mean((0, 1))),
    ],
    "something_else": [
        lambda k, o, W, s: -without_source(k, o, W, s),
        lambda k, o, W, s: without_source(k, o, W.flip(0), s),
        lambda k, o, W, s: torch.full_like(k, float("nan")),
        part_without(lambda o, W, s: read(o / s, W) / 2),
    ],
    STOPPED: [
        lambda k, o, W: k,
        lambda k, o, W, s: k - o,
        lambda k, o, W, s: k - o / s @ W,
        part_without(lambda o, W, s: read(o, W) / s),
    ],
}

# ------------------------------------------------------------------ 8: mend the classes


def indices(mask):
    return mask.nonzero()[:, 0].tolist()


def rule(decide: Callable) -> Callable:
    """Classes by a rule for each class by itself, from score, null and threshold."""

    def answer(scores, null, threshold):
        return {name: indices(decide(scores[name], null[name], threshold)) for name in null}

    return answer


classify = rule(lambda score, chance, threshold: score - chance > threshold)


def by_score_names(scores, null, threshold):
    return {name: indices(scores[name] - null[name] > threshold) for name in scores if name != "entropy"}


def by_loops(scores, null, threshold):
    classes = {}
    for name in null:
        classes[name] = []
        for head in range(len(null[name])):
            if scores[name][head] - null[name][head] > threshold:
                classes[name].append(head)
    return classes


def in_form(form: Callable) -> Callable:
    return lambda *given: {name: form(heads) for name, heads in classify(*given).items()}


CLASSES_RIGHT = {
    "by null": classify,
    "by score": by_score_names,
    "loops": by_loops,
    "tuples": in_form(tuple),
    "tensors": in_form(lambda heads: torch.tensor(heads, dtype=torch.int64)),
    "sets": in_form(set),
    "numpy": in_form(lambda heads: np.array(heads, dtype=int)),
    "numpy numbers": in_form(lambda heads: [np.int64(head) for head in heads]),
    "tensors of one": in_form(lambda heads: [torch.tensor(head) for head in heads]),
    "another order": in_form(lambda heads: heads[::-1]),
    "where": rule(lambda s, n, t: torch.where(s - n > t, True, False)),
    "double": rule(lambda s, n, t: s.double() - n.double() > t),
    "margin": rule(lambda s, n, t: s - n - t > 0),
    "flatten": lambda s, n, t: {name: (s[name] - n[name] > t).nonzero().flatten() for name in n},
}


def popular(scores, null, threshold, names=None, decide=lambda value: True):
    """Each head in the class of its largest score."""
    names = list(names or scores)
    classes = {name: [] for name in names}
    for head, i in enumerate(torch.stack([scores[name] for name in names]).argmax(dim=0).tolist()):
        if decide(scores[names[i]][head]):
            classes[names[i]].append(head)
    return classes


def in_both(classes, others):
    return {name: [head for head in heads if head in others[name]] for name, heads in classes.items()}


def without_empty(classes):
    return {name: heads for name, heads in classes.items() if heads}


def best_excess(scores, null, threshold, ask=True):
    excess = {name: scores[name] - null[name] for name in null}
    return popular(excess, null, threshold, decide=lambda value: not ask or value > threshold)


def elif_chain(scores, null, threshold):
    classes = {name: [] for name in null}
    for head in range(len(null["previous"])):
        for name in null:
            if scores[name][head] - null[name][head] > threshold:
                classes[name].append(head)
                break
    return classes


def popping(scores, null, threshold):
    scores.pop("entropy")
    return {name: indices(scores[name] - null[name] > threshold) for name in scores}


def subtracting(scores, null, threshold):
    for name in null:
        scores[name] -= null[name]
    return {name: indices(scores[name] > threshold) for name in null}


def entropy_as_class(scores, null, threshold):
    return {name: indices(scores[name] - null.get(name, 0) > threshold) for name in scores}


CLASSES_WRONG = {
    "shape": [
        lambda s, n, t: 3,
        lambda s, n, t: {name.upper(): heads for name, heads in classify(s, n, t).items()},
        lambda s, n, t: {name: len(heads) for name, heads in classify(s, n, t).items()},
        lambda s, n, t: {name: [float(h) for h in heads] for name, heads in classify(s, n, t).items()},
        lambda s, n, t: {
            name: [s[name][h].item() for h in heads] for name, heads in classify(s, n, t).items()
        },
        lambda s, n, t: set(n),
    ],
    "by_head": [
        lambda s, n, t: (
            [[name for name in n if s[name][h] - n[name][h] > t] for h in range(len(n["first"]))]
            if "first" in n
            else classify(s, n, t)
        ),
        lambda s, n, t: [list(s)[i] for i in torch.stack(list(s.values())).argmax(0)],
        lambda s, n, t: torch.stack([s[name] - n[name] > t for name in n]),
        lambda s, n, t: {h: [name for name in n if s[name][h] - n[name][h] > t] for h in range(3)},
    ],
    "mask": [
        lambda s, n, t: {name: s[name] - n[name] > t for name in n},
        lambda s, n, t: {name: (s[name] - n[name] > t).tolist() for name in n},
        lambda s, n, t: {name: (s[name] - n[name] > t).numpy() for name in n},
        lambda s, n, t: {name: list(s[name] - n[name] > t) for name in n},
    ],
    "nested": [
        lambda s, n, t: {name: (s[name] - n[name] > t).nonzero().tolist() for name in n},
        lambda s, n, t: {name: (s[name] - n[name] > t).nonzero() for name in n},
        lambda s, n, t: {name: list((s[name] - n[name] > t).nonzero()) for name in n},
        lambda s, n, t: {name: np.nonzero((s[name] - n[name] > t).numpy()) for name in n},
    ],
    "in_place": [popping, subtracting],
    "missing_class": [lambda s, n, t: without_empty(classify(s, n, t))],
    "entropy_kept": [
        entropy_as_class,
        lambda s, n, t: {name: indices(s[name] - n[name] > t) for name in s},  # stops: entropy has no null
        lambda s, n, t: classify(s, n, t) | {"entropy": []},
        lambda s, n, t: {name: indices(s[name] - n.get(name, s[name].mean()) > t) for name in s},
    ],
    "largest": [
        popular,
        lambda s, n, t: without_empty(popular(s, n, t)),
        lambda s, n, t: popular(s, n, t, names=n),
        lambda s, n, t: popular(s, n, t, names=n, decide=lambda value: value > t),
        lambda s, n, t: popular(s, n, t, decide=lambda value: value > t),
        lambda s, n, t: {
            name: [h for h in heads if h in classify(s, n, t)[name]]
            for name, heads in popular(s, n, t, names=n).items()
        },
    ],
    "one_class": [best_excess, functools.partial(best_excess, ask=False), elif_chain],
    "null_not_subtracted": [
        rule(lambda s, n, t: s > t),
        lambda s, n, t: {name: indices(s[name] > t) for name in s},
    ],
    "threshold_on_null": [
        rule(lambda s, n, t: (s > t) & (n < t)),
        rule(lambda s, n, t: (s > t) & (s > n)),
        rule(lambda s, n, t: n > t),
        rule(lambda s, n, t: n < t),
    ],
    "one_null": [
        rule(lambda s, n, t: s - n.mean() > t),
        rule(lambda s, n, t: s - n.max() > t),
        rule(lambda s, n, t: s - n.median() > t),
        lambda s, n, t: {name: indices(s[name] - torch.stack([*n.values()]).mean() > t) for name in n},
    ],
    "absolute": [rule(lambda s, n, t: (s - n).abs() > t)],
    "reversed": [rule(lambda s, n, t: n - s > t)],
    "below": [rule(lambda s, n, t: s - n < t), rule(lambda s, n, t: ~(s - n > t))],
    "ratio": [rule(lambda s, n, t: s / n > t), rule(lambda s, n, t: (s - n) / n > t)],
    "added": [rule(lambda s, n, t: s + n > t)],
    "ignores_threshold": [
        rule(lambda s, n, t: s > n),
        rule(lambda s, n, t: s - n > 0.3),
        rule(lambda s, n, t: s - n > 0.2),
    ],
    "at_threshold": [
        rule(lambda s, n, t: s - n >= t),
        rule(lambda s, n, t: ~(s - n < t)),
    ],
    "something_else": [
        lambda s, n, t: {name: [] for name in n},
        lambda s, n, t: {name: [0] for name in n},
        lambda s, n, t: dict(zip(n, reversed(classify(s, n, t).values()), strict=True)),
        lambda s, n, t: classify(s, n, 2 * t),
    ],
    STOPPED: [
        lambda s: s,
        lambda s, n, t: s - n > t,
    ],
}

RIGHT = {
    "05.offsets": OFFSETS_RIGHT,
    "05.prefix_matching": PREFIX_RIGHT,
    "05.in_context_score": CONTEXT_RIGHT,
    "05.copying": COPYING_RIGHT,
    "05.k_composition": COMPOSITION_RIGHT,
    "05.random_control": CONTROL_RIGHT,
    "05.composed_input": COMPOSED_RIGHT,
    "05.mend_the_classes": CLASSES_RIGHT,
}
WRONG = {
    "05.offsets": OFFSETS_WRONG,
    "05.prefix_matching": PREFIX_WRONG,
    "05.in_context_score": CONTEXT_WRONG,
    "05.copying": COPYING_WRONG,
    "05.k_composition": COMPOSITION_WRONG,
    "05.random_control": CONTROL_WRONG,
    "05.composed_input": COMPOSED_WRONG,
    "05.mend_the_classes": CLASSES_WRONG,
}


def verdict_on(exercise, answer):
    given = CONTEXTS[exercise][0](None)  # no check of this notebook needs a model
    return grading.check(exercise, answer_for(answer, given), **given)


def test_the_two_answers_to_a_tie_with_a_later_token_are_both_fine():
    """argmax takes the first of equal logits, so that a token tied with a later one is left open."""
    assert {verdict_on("05.copying", answer).status for answer in (copying_score, copying_by_loops)} == {
        "passed"
    }
    tied = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert copying_score(tied) != copying_by_loops(tied)


def test_the_product_is_what_the_scores_see_of_the_earlier_head_as_a_key():
    generator = torch.Generator().manual_seed(0)
    W_OV, W_QK = torch.randn(2, 5, 5, generator=generator, dtype=torch.float64)
    query, key = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    through_key = query @ W_QK @ (key @ W_OV).T
    torch.testing.assert_close(through_key, query @ (W_QK @ W_OV.T) @ key.T)


def test_without_a_source_the_keys_are_those_of_the_stream_without_it():
    generator = torch.Generator().manual_seed(0)
    out, rest = torch.randn(2, 2, 5, 7, generator=generator)
    W_K, scale = torch.randn(3, 7, 4, generator=generator), rms(out + rest)
    keys = read((out + rest) / scale, W_K)
    torch.testing.assert_close(
        without_source(keys, out, W_K, scale), read(rest / scale, W_K), rtol=1e-4, atol=1e-5
    )


def test_a_check_leaves_the_global_generators_where_they_were():
    for answer in (matched_random, *CONTROL_WRONG["global_generator"]):
        before = tensors.global_chance()
        torch_before = torch.get_rng_state()
        verdict_on("05.random_control", answer)
        assert torch.equal(torch.get_rng_state(), torch_before)
        assert tensors.global_chance()[2:] == before[2:]


def test_a_global_seed_shows_even_where_it_was_set_before():
    torch_before = torch.get_rng_state()
    try:
        seeding_globally(control._HEADS, control._TOP, None)  # the notebook's generator is there already
        assert verdict_on("05.random_control", seeding_globally).mistake == "global_generator"
    finally:
        torch.set_rng_state(torch_before)


def test_what_is_wrong_is_shown():
    pairs = [
        ("05.offsets", offsets(1, same, 3), "Look again at 'induction'."),
        (
            "05.random_control",
            lambda h, t, g: shuffled(others(h, t), g),
            "For 5 heads in `top` it returned 31.",
        ),
        ("05.random_control", lambda h, t, g: t, "It returned (2, 1)."),
        ("05.mend_the_classes", lambda s, n, t: {"nonsense": [1]}, "There is no class 'nonsense'."),
        (
            "05.prefix_matching",
            lambda a, p: a[0],
            "It returned a tensor of shape (15, 15); wanted is shape (6,).",
        ),
    ]
    for exercise, answer, words in pairs:
        assert words in verdict_on(exercise, answer).text
