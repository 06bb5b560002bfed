"""The checks of notebook 08: what passes, and which mistake each wrong answer is told to be."""

import numpy as np
import torch

from mi_utils import grading
from mi_utils.grading.core import STOPPED

CONTEXTS = {
    "08.error": [lambda tiny: {}],
    "08.frozen_attention": [lambda tiny: {}],
    "08.edge": [lambda tiny: {}],
    "08.influence": [lambda tiny: {}],
    "08.replacement_score": [lambda tiny: {}],
    "08.logit_nodes": [lambda tiny: {}],
    "08.qk": [lambda tiny: {}],
    "08.swap": [lambda tiny: {}],
}

# ------------------------------------------------------------------ 1: error nodes


def errors(mlp_out, replaced):
    missed = mlp_out - replaced
    missed[:, 0] = mlp_out[:, 0]
    return missed


def with_first(rest, first):
    """``rest``, with ``first`` at the first position of every layer."""
    return torch.cat([first[:, :1], rest[:, 1:]], dim=1)


def first_layer(y, replaced):
    return torch.cat([y[:1], (y - replaced)[1:]])


def first_entry(y, replaced):
    missed = y - replaced
    missed[0][0] = y[0][0]
    return missed


def writes_into_replaced(y, replaced):
    replaced[:, 0] = 0
    return y - replaced


def writes_into_output(y, replaced):
    y[:, 1:] -= replaced[:, 1:]
    return y


ERROR_RIGHT = {
    "written in": errors,
    "joined": lambda y, r: with_first(y - r, y),
    "masked": lambda y, r: y - r * (torch.arange(y.shape[1]) > 0)[:, None],
    "a copy": lambda y, r: writes_into_replaced(y, r.clone()),
    "numpy": lambda y, r: errors(y, r).numpy(),
}
ERROR_WRONG = {
    "shape": [lambda y, r: errors(y, r)[:, 1:], lambda y, r: errors(y, r).norm(dim=-1), lambda y, r: 0.0],
    "first_forgotten": [lambda y, r: y - r],
    "sign": [lambda y, r: -errors(y, r), lambda y, r: r - y, lambda y, r: with_first(r - y, y)],
    "size_only": [
        lambda y, r: errors(y, r).abs(),
        lambda y, r: (y - r).abs(),
        lambda y, r: errors(y, r) ** 2,
        lambda y, r: (y - r) ** 2,
    ],
    "last_position": [lambda y, r: torch.cat([(y - r)[:, :-1], y[:, -1:]], dim=1)],
    "first_layer": [first_layer, first_entry],
    "first_zero": [lambda y, r: with_first(y - r, torch.zeros_like(y))],
    "first_replaced": [lambda y, r: with_first(y - r, r)],
    "everything": [lambda y, r: y],
    "sum": [lambda y, r: y + r],
    "in_place": [writes_into_replaced, writes_into_output],
    "something_else": [lambda y, r: 2 * errors(y, r), lambda y, r: r],
    STOPPED: [lambda y: y, lambda y, r: y @ r],
}

# ------------------------------------------------------------------ 2: frozen attention


def attend(x, pattern, W_V, W_O, scale):
    values = torch.einsum("pd,hde->hpe", x / scale, W_V)
    return torch.einsum("hqp,hpe,hed->qd", pattern, values, W_O)


def attend_by_heads(x, pattern, W_V, W_O, scale):
    out = torch.zeros_like(x)
    for head in range(len(pattern)):
        out = out + pattern[head] @ (x / scale @ W_V[head]) @ W_O[head]
    return out


def rms(x):
    return x.square().mean(dim=-1, keepdim=True).sqrt()


def divides_stream(x, pattern, W_V, W_O, scale):
    x /= scale
    return attend(x, pattern, W_V, W_O, torch.ones_like(scale))


def attend_with(**changes):
    """An answer in which some arguments are something else: functions of all arguments."""

    def answer(x, pattern, W_V, W_O, scale):
        given = {"x": x, "pattern": pattern, "W_V": W_V, "W_O": W_O, "scale": scale}
        return attend(**(given | {name: change(**given) for name, change in changes.items()}))

    return answer


ATTEND_RIGHT = {
    "einsum": attend,
    "heads": attend_by_heads,
    "matmul": lambda x, p, v, o, s: (p @ ((x / s) @ v) @ o).sum(0),
    "weights first": lambda x, p, v, o, s: torch.einsum("hqp,pd,hdm->qm", p, x / s, v @ o),
    "double": lambda *given: attend(*(one.double() for one in given)),
}
ATTEND_WRONG = {
    "shape": [lambda *given: attend(*given)[-1], lambda *given: attend(*given).tolist()],
    "norm_recomputed": [
        attend_with(scale=lambda x, **_: rms(x)),
        attend_with(scale=lambda x, **_: (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()),
        attend_with(scale=lambda x, **_: x.norm(dim=-1, keepdim=True)),
        attend_with(x=lambda x, **_: x / rms(x)),
        attend_with(
            x=lambda x, **_: x - x.mean(-1, keepdim=True),
            scale=lambda x, **_: x.std(-1, keepdim=True, correction=0),
        ),
    ],
    "no_scale": [attend_with(scale=lambda **_: 1)],
    "multiplied": [attend_with(scale=lambda scale, **_: 1 / scale)],
    "scale_at_query": [lambda x, p, v, o, s: attend(x, p, v, o, 1) / s],
    "transposed_pattern": [
        attend_with(pattern=lambda pattern, **_: pattern.mT),
        lambda x, p, v, o, s: torch.einsum("hpq,pd,hde,hem->qm", p, x / s, v, o),
    ],
    "heads_averaged": [lambda x, p, v, o, s: (p @ ((x / s) @ v) @ o).mean(0)],
    "one_pattern": [
        attend_with(pattern=lambda pattern, **_: pattern.mean(0).expand_as(pattern)),
        attend_with(pattern=lambda pattern, **_: pattern[0].expand_as(pattern)),
    ],
    "no_pattern": [
        lambda x, p, v, o, s: ((x / s) @ v @ o).sum(0),
        attend_with(pattern=lambda pattern, **_: torch.ones_like(pattern)),
        attend_with(pattern=lambda pattern, **_: (pattern > 0) / (pattern > 0).sum(-1, keepdim=True)),
    ],
    "softmax_again": [attend_with(pattern=lambda pattern, **_: pattern.softmax(-1))],
    "stream_added": [lambda x, *given: x + attend(x, *given)],
    "centred": [attend_with(x=lambda x, **_: x - x.mean(-1, keepdim=True))],
    "heads_mixed": [lambda x, p, v, o, s: (p @ ((x / s) @ v)).sum(0) @ o.sum(0)],
    "transposed_weights": [
        attend_with(W_V=lambda W_V, **_: W_V.mT),
        attend_with(W_O=lambda W_O, **_: W_O.mT),
        attend_with(W_V=lambda W_O, **_: W_O, W_O=lambda W_V, **_: W_V),
    ],
    "in_place": [divides_stream],
    "something_else": [lambda *given: 2 * attend(*given), lambda *given: attend(*given).flip(0)],
    STOPPED: [lambda x: x, lambda x, p, v, o, s: x @ p @ o[:, :1]],
    "heads_apart": [
        lambda x, p, v, o, s: p @ ((x / s) @ v) @ o,
        lambda x, p, v, o, s: torch.einsum("hqp,pd,hde,hem->qhm", p, x / s, v, o),
    ],
}

# ------------------------------------------------------------------ 3: an edge


def edge(activation, decoders, carried):
    return activation * (decoders * carried).sum()


def each(activation, decoders, carried):
    return activation * (decoders * carried).sum(-1)


def cosines(decoders, carried):
    return torch.cosine_similarity(decoders, carried, dim=-1)


EDGE_RIGHT = {
    "product": edge,
    "einsum": lambda a, d, c: torch.einsum(",td,td->", a, d, c),
    "trace": lambda a, d, c: a * torch.trace(d @ c.T),
    "flattened": lambda a, d, c: (a * d).flatten() @ c.flatten(),
    "loop": lambda a, d, c: sum(float(a * one @ other) for one, other in zip(d, c, strict=True)),
    "numpy": lambda a, d, c: float(a) * np.vdot(d.numpy(), c.numpy()),
}
EDGE_WRONG = {
    "shape": [lambda a, d, c: torch.zeros(7), lambda a, d, c: "positive"],
    "not_summed": [
        each,
        lambda a, d, c: a * d @ c.T,
        lambda a, d, c: a * d * c,
        lambda a, d, c: a * (d * c).sum(0),
    ],
    "no_activation": [lambda a, d, c: (d * c).sum()],
    "one_target": [lambda a, d, c: a * d[0] @ c[0], lambda a, d, c: a * d[-1] @ c[-1]],
    "absolute": [lambda a, d, c: edge(a, d, c).abs(), lambda a, d, c: each(a, d, c).abs().sum()],
    "cosine": [
        lambda a, d, c: a * cosines(d, c).sum(),
        lambda a, d, c: cosines(d, c).mean(),
        lambda a, d, c: torch.cosine_similarity(d.flatten(), c.flatten(), dim=0),
        lambda a, d, c: a * torch.cosine_similarity(d.flatten(), c.flatten(), dim=0),
    ],
    "mean": [lambda a, d, c: each(a, d, c).mean(), lambda a, d, c: a * (d * c).mean()],
    "crossed": [
        lambda a, d, c: a * d.sum(0) @ c.sum(0),
        lambda a, d, c: a * (d @ c.T).sum(),
        lambda a, d, c: a * d.mean(0) @ c.mean(0),
        lambda a, d, c: d.sum(0) @ c.sum(0),
    ],
    "largest": [lambda a, d, c: max(each(a, d, c), key=abs)],
    "squared": [lambda a, d, c: a * edge(a, d, c)],
    "sign": [lambda a, d, c: -edge(a, d, c)],
    "positive_only": [lambda a, d, c: edge(a, d, c).relu(), lambda a, d, c: each(a, d, c).relu().sum()],
    "in_place": [lambda a, d, c: a * d.mul_(c).sum()],
    "something_else": [lambda a, d, c: 3 * edge(a, d, c), lambda a, d, c: a],
    STOPPED: [lambda a: a, lambda a, d, c: a * d @ c[:, 1:]],
}

# ------------------------------------------------------------------ 4: influence over all paths


def shares(adjacency, dim=1):
    sizes = adjacency.abs()
    return sizes / sizes.sum(dim, keepdim=True).clamp(min=1e-10)


def paths(edges):
    identity = torch.eye(len(edges))
    return torch.linalg.inv(identity - edges) - identity


def influence(adjacency, weights):
    return weights @ paths(shares(adjacency))


def influence_by_steps(adjacency, weights):
    total, step = 0, weights
    for _ in range(len(weights)):
        step = step @ shares(adjacency)
        total = total + step
    return total


def influence_by_solving(adjacency, weights):
    identity = torch.eye(len(weights))
    return torch.linalg.solve(identity - shares(adjacency).T, weights) - weights


def influence_from(edges):
    return lambda adjacency, weights: weights @ paths(edges(adjacency))


def divided(adjacency):
    return adjacency.abs() / adjacency.abs().sum(1, keepdim=True)


def normalises_in_place(adjacency, weights):
    adjacency.abs_()
    adjacency /= adjacency.sum(1, keepdim=True).clamp(min=1e-10)
    return weights @ paths(adjacency)


INFLUENCE_RIGHT = {
    "inverse": influence,
    "steps": influence_by_steps,
    "solved": influence_by_solving,
    "nan_to_num": influence_from(lambda a: divided(a).nan_to_num()),
    "double": lambda a, w: influence(a.double(), w.double()),
    "powers": lambda a, w: w @ sum(torch.linalg.matrix_power(shares(a), n) for n in range(1, len(a))),
}
INFLUENCE_WRONG = {
    "shape": [lambda a, w: influence(a, w)[:-1], lambda a, w: influence(a, w).sum()],
    "matrix": [lambda a, w: paths(shares(a)), lambda a, w: w[:, None] * paths(shares(a))],
    "columns": [influence_from(lambda a: shares(a, 0)), influence_from(lambda a: shares(a.T).T)],
    "signed": [
        influence_from(lambda a: a / a.abs().sum(1, keepdim=True).clamp(min=1e-10)),
        influence_from(lambda a: (a / a.sum(1, keepdim=True)).nan_to_num()),
        lambda a, w: (w @ paths(a.sign() * shares(a))).abs(),
    ],
    "positive_only": [influence_from(lambda a: shares(a.relu()))],
    "not_scaled": [influence_from(lambda a: a.abs()), influence_from(lambda a: a)],
    "one_scale": [
        influence_from(lambda a: a.abs() / a.abs().sum()),
        influence_from(lambda a: a.abs() / a.abs().max()),
    ],
    "few_steps": [
        lambda a, w: w @ shares(a),
        lambda a, w: w @ shares(a) + w @ shares(a) @ shares(a),
        lambda a, w: w @ shares(a) @ shares(a),
    ],
    "one_step_missing": [lambda a, w: influence(a, w) - w @ shares(a)],
    "identity_kept": [lambda a, w: w @ torch.linalg.inv(torch.eye(len(a)) - shares(a))],
    "identity_twice": [lambda a, w: influence(a, w) - w],
    "transposed": [
        lambda a, w: paths(shares(a)) @ w,
        lambda a, w: torch.linalg.inv(torch.eye(len(a)) - shares(a)) @ w,
        lambda a, w: influence(a.T, w),
    ],
    "weights_ignored": [
        lambda a, w: paths(shares(a)).sum(0),
        lambda a, w: paths(shares(a)).mean(0),
        lambda a, w: (w > 0).float() @ paths(shares(a)),
    ],
    "made_to_sum_to_one": [lambda a, w: influence(a, w) / influence(a, w).sum()],
    "empty_rows": [
        influence_from(divided),
        lambda a, w: torch.linalg.solve(torch.eye(len(a)) - divided(a).T, w) - w,
        lambda a, w: torch.linalg.inv(torch.zeros_like(a)) @ w,
    ],
    "in_place": [normalises_in_place],
    "something_else": [lambda a, w: influence(a, w) / 2, lambda a, w: w],
    STOPPED: [lambda a: a, lambda a, w: w @ a[1:]],
}

# ------------------------------------------------------------------ 5: the replacement score


def score(reach, tokens, errors):
    return reach[tokens].sum() / (reach[tokens].sum() + reach[errors].sum())


SCORE_RIGHT = {
    "share": score,
    "item": lambda *given: score(*given).item(),
    "one minus": lambda r, t, e: 1 - r[e].sum() / (r[t].sum() + r[e].sum()),
    "joined": lambda r, t, e: r[t].sum() / torch.cat([r[t], r[e]]).sum(),
    "numpy": lambda r, t, e: r.numpy()[t].sum() / (r.numpy()[t].sum() + r.numpy()[e].sum()),
}
SCORE_WRONG = {
    "shape": [lambda r, t, e: r, lambda r, t, e: "most"],
    "not_summed": [lambda r, t, e: r[t] / (r[t].sum() + r[e].sum())],
    "two_numbers": [lambda r, t, e: torch.stack([score(r, t, e), 1 - score(r, t, e)])],
    "share_of_errors": [lambda r, t, e: 1 - score(r, t, e), lambda r, t, e: score(r, e, t)],
    "of_everything": [
        lambda r, t, e: r[t].sum() / r.sum(),
        lambda r, t, e: r[e].sum() / r.sum(),
        lambda r, t, e: (r[t].sum() + r[e].sum()) / r.sum(),
    ],
    "features_counted": [lambda r, t, e: 1 - r[e].sum() / r.sum(), lambda r, t, e: 1 - r[t].sum() / r.sum()],
    "nodes_counted": [lambda r, t, e: len(r[t]) / (len(r[t]) + len(r[e]))],
    "means": [lambda r, t, e: r[t].mean() / (r[t].mean() + r[e].mean())],
    "not_both": [
        lambda r, t, e: r[t].sum() / r[e].sum(),
        lambda r, t, e: r[e].sum() / r[t].sum(),
        lambda r, t, e: 1 - r[e].sum() / r[t].sum(),
    ],
    "difference": [
        lambda r, t, e: r[t].sum() - r[e].sum(),
        lambda r, t, e: (r[t].sum() - r[e].sum()) / (r[t].sum() + r[e].sum()),
    ],
    "no_share": [lambda r, t, e: r[t].sum(), lambda r, t, e: r[e].sum()],
    "percent": [lambda r, t, e: 100 * score(r, t, e)],
    "in_place": [lambda r, t, e: (score(r, t, e), r.div_(2))[0]],
    "something_else": [lambda r, t, e: score(r, t, e) / 3, lambda r, t, e: 1.0],
    STOPPED: [lambda r: r, lambda r, t, e: r[t] / r[e], lambda r, t, e: r[:t].sum()],
}

# ------------------------------------------------------------------ 6: which answers get a node?


def logit_nodes(p, mass, most):
    values, ids = p.sort(descending=True)
    return ids[: min((values.cumsum(0) < mass).sum().item() + 1, most)]


def logits_by_adding(p, mass, most):
    chosen, total = [], 0.0
    for token in p.argsort(descending=True).tolist():
        if total >= mass or len(chosen) == most:
            break
        chosen.append(token)
        total += p[token].item()
    return chosen


def nodes_of(count):
    """An answer that takes the ``count(values, mass, most)`` likeliest tokens."""

    def answer(p, mass, most):
        values, ids = p.sort(descending=True)
        return ids[: count(values, mass, most)]

    return answer


def short(values, mass):
    return int((values.cumsum(0) < mass).sum())


def zeroes_what_it_takes(p, mass, most):
    chosen, total = [], 0.0
    while total < mass and len(chosen) < most:
        chosen.append(p.argmax().item())
        total += p[chosen[-1]].item()
        p[chosen[-1]] = 0
    return chosen


LOGITS_RIGHT = {
    "cumsum": logit_nodes,
    "added up": logits_by_adding,
    "tuple of tensors": lambda *given: tuple(logit_nodes(*given)),
    "topk": lambda p, mass, most: p.topk(min(most, len(p))).indices[
        : short(p.sort(descending=True).values, mass) + 1
    ],
    "searchsorted": nodes_of(lambda v, mass, most: min(int(torch.searchsorted(v.cumsum(0), mass)) + 1, most)),
    "numpy": lambda *given: logit_nodes(*given).numpy(),
}
LOGITS_WRONG = {
    "no_list": [
        lambda *given: len(logit_nodes(*given)),
        lambda *given: logit_nodes(*given)[None],
        lambda *given: set(logit_nodes(*given).tolist()),
    ],
    "mask": [lambda p, mass, most: torch.isin(torch.arange(len(p)), logit_nodes(p, mass, most))],
    "probabilities": [lambda p, mass, most: p[logit_nodes(p, mass, most)], lambda p, mass, most: p],
    "by_id": [
        lambda *given: logit_nodes(*given).sort().values,
        lambda *given: logit_nodes(*given).flip(0),
    ],
    "cap_ignored": [nodes_of(lambda v, mass, most: short(v, mass) + 1)],
    "always_most": [nodes_of(lambda v, mass, most: most)],
    "one_too_few": [
        nodes_of(lambda v, mass, most: min(short(v, mass), most)),
        lambda *given: logit_nodes(*given)[:-1],
    ],
    "one_too_many": [
        nodes_of(lambda v, mass, most: min(int((v.cumsum(0) <= mass).sum()) + 1, most)),
        nodes_of(lambda v, mass, most: min(short(v, mass) + 2, most)),
    ],
    "each_probability": [
        lambda p, mass, most: (p >= mass).nonzero().flatten()[:most],
        lambda p, mass, most: (p >= 1 - mass).nonzero().flatten()[:most],
        nodes_of(lambda v, mass, most: min(int((v >= 1 - mass).sum()), most)),
    ],
    "least_likely": [lambda p, mass, most: p.argsort()[: len(logit_nodes(p, mass, most))]],
    "in_place": [zeroes_what_it_takes],
    "something_else": [lambda p, mass, most: torch.arange(most), lambda *given: logit_nodes(*given) + 1],
    STOPPED: [lambda p: p, lambda p, mass, most: p.topk(most + 5).indices],
}

# ------------------------------------------------------------------ 7: parts of an attention score


def qk(queries, keys, W_Q, W_K):
    return (queries @ W_Q) @ (keys @ W_K).T / W_Q.shape[1] ** 0.5


def raw(queries, keys, W_Q, W_K):
    return (queries @ W_Q) @ (keys @ W_K).T


QK_RIGHT = {
    "projected": qk,
    "one matrix": lambda q, k, w_q, w_k: q @ (w_q @ w_k.T) @ k.T / w_k.shape[-1] ** 0.5,
    "einsum": lambda q, k, w_q, w_k: torch.einsum("ad,de,ce,bc->ab", q, w_q, w_k, k) / np.sqrt(w_q.shape[1]),
    "double": lambda *given: qk(*(one.double() for one in given)),
}
QK_WRONG = {
    "shape": [lambda *given: qk(*given)[None], lambda *given: qk(*given).tolist()],
    "summed": [
        lambda *given: qk(*given).sum(),
        lambda *given: qk(*given).sum(0),
        lambda *given: qk(*given).sum(1),
    ],
    "no_scale": [raw],
    "root_of_d_model": [lambda q, k, w_q, w_k: raw(q, k, w_q, w_k) / w_q.shape[0] ** 0.5],
    "other_scale": [
        lambda q, k, w_q, w_k: raw(q, k, w_q, w_k) / w_q.shape[1],
        lambda q, k, w_q, w_k: raw(q, k, w_q, w_k) * w_q.shape[1] ** 0.5,
    ],
    "matrices_swapped": [lambda q, k, w_q, w_k: qk(q, k, w_k, w_q)],
    "one_matrix": [lambda q, k, w_q, w_k: qk(q, k, w_q, w_q), lambda q, k, w_q, w_k: qk(q, k, w_k, w_k)],
    "transposed": [lambda *given: qk(*given).T, lambda q, k, w_q, w_k: qk(k, q, w_k, w_q)],
    "softmax": [
        lambda *given: qk(*given).softmax(-1),
        lambda *given: qk(*given).softmax(0),
        lambda *given: raw(*given).softmax(-1),
    ],
    "not_projected": [
        lambda q, k, w_q, w_k: q @ k.T,
        lambda q, k, w_q, w_k: q @ k.T / w_q.shape[1] ** 0.5,
        lambda q, k, w_q, w_k: (q @ w_q) @ k.T / w_q.shape[1] ** 0.5,
        lambda q, k, w_q, w_k: q @ (k @ w_k).T / w_q.shape[1] ** 0.5,
    ],
    "transposed_matrix": [
        lambda q, k, w_q, w_k: qk(q, k, w_q.T, w_k.T),
        lambda q, k, w_q, w_k: q @ w_q @ w_k @ k.T / w_q.shape[1] ** 0.5,
    ],
    "cosines": [lambda q, k, w_q, w_k: torch.cosine_similarity((q @ w_q)[:, None], (k @ w_k)[None], dim=-1)],
    "absolute": [lambda *given: qk(*given).abs()],
    "fractions": [
        lambda *given: qk(*given) / qk(*given).sum(),
        lambda *given: qk(*given) / qk(*given).sum(-1, keepdim=True),
    ],
    "in_place": [lambda q, k, w_q, w_k: (qk(q, k, w_q, w_k), q.div_(2))[0]],
    "something_else": [lambda *given: 2 * qk(*given), lambda *given: -qk(*given)],
    "not_all_pairs": [lambda q, k, w_q, w_k: (q @ w_q) * (k @ w_k) / w_q.shape[1] ** 0.5],
    STOPPED: [lambda q: q, lambda q, k, w_q, w_k: (q @ w_q) * (k[1:] @ w_k)],
}

# ------------------------------------------------------------------ 8: swaps


def swap(here, there, decoders):
    return torch.einsum("f,tfd->td", there - here, decoders)


def write(features):
    """An answer that writes what ``features(here, there)`` write."""
    return lambda here, there, decoders: torch.einsum("f,tfd->td", features(here, there), decoders)


def first_target_only(here, there, decoders):
    out = torch.zeros(len(decoders), decoders.shape[-1])
    out[0] = (there - here) @ decoders[0]
    return out


SWAP_RIGHT = {
    "einsum": swap,
    "matmul": lambda here, there, w: (there - here) @ w,
    "two steps": lambda here, there, w: there @ w - here @ w,
    "loop": lambda here, there, w: torch.stack([(there - here) @ one for one in w]),
    "summed": lambda here, there, w: ((there - here)[:, None] * w).sum(1),
    "numpy": lambda here, there, w: (there - here).numpy() @ w.numpy(),
}
SWAP_WRONG = {
    "shape": [lambda *given: swap(*given).T, lambda *given: swap(*given).tolist()],
    "own_layer_only": [
        lambda here, there, w: (there - here) @ w[0],
        first_target_only,
        lambda here, there, w: ((there - here) @ w[0]).expand(len(w), -1),
    ],
    "targets_summed": [lambda *given: swap(*given).sum(0, keepdim=True)],
    "not_summed": [lambda here, there, w: (there - here)[:, None] * w],
    "not_decoded": [lambda here, there, w: there - here],
    "only_added": [write(lambda here, there: there)],
    "only_removed": [write(lambda here, there: -here), write(lambda here, there: here)],
    "sign": [write(lambda here, there: here - there)],
    "both_added": [write(lambda here, there: here + there)],
    "mixed": [write(lambda here, there: (there - here) / 2), write(lambda here, there: (here + there) / 2)],
    "active_on_both": [write(lambda here, there: (there - here) * (here > 0) * (there > 0))],
    "active_on_one": [
        write(lambda here, there: (there - here) * (here > 0)),
        write(lambda here, there: (there - here) * (there > 0)),
        write(lambda here, there: (there - here) * ((here > 0) != (there > 0))),
    ],
    "positive_change": [
        write(lambda here, there: (there - here).relu()),
        write(lambda here, there: abs(there - here)),
    ],
    "on_or_off": [write(lambda here, there: (there > 0).float() - (here > 0).float())],
    "mean": [lambda here, there, w: ((there - here)[:, None] * w).mean(1)],
    "in_place": [lambda here, there, w: there.sub_(here) @ w],
    "something_else": [lambda *given: 3 * swap(*given), lambda *given: 0 * swap(*given)],
    STOPPED: [lambda here: here, lambda here, there, w: w @ (there - here)[2:]],
}

RIGHT = {
    "08.error": ERROR_RIGHT,
    "08.frozen_attention": ATTEND_RIGHT,
    "08.edge": EDGE_RIGHT,
    "08.influence": INFLUENCE_RIGHT,
    "08.replacement_score": SCORE_RIGHT,
    "08.logit_nodes": LOGITS_RIGHT,
    "08.qk": QK_RIGHT,
    "08.swap": SWAP_RIGHT,
}
WRONG = {
    "08.error": ERROR_WRONG,
    "08.frozen_attention": ATTEND_WRONG,
    "08.edge": EDGE_WRONG,
    "08.influence": INFLUENCE_WRONG,
    "08.replacement_score": SCORE_WRONG,
    "08.logit_nodes": LOGITS_WRONG,
    "08.qk": QK_WRONG,
    "08.swap": SWAP_WRONG,
}


def test_a_wrong_choice_of_logits_is_told_with_its_case():
    verdict = grading.check("08.logit_nodes", LOGITS_WRONG["cap_ignored"][0])
    assert "With a mass of 0.9 and at most 3 it gives [1, 4, 3, 6, 5]." in verdict.text
