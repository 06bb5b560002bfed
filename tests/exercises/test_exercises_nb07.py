"""The checks of notebook 07: what passes, and which mistake each wrong answer is told to be."""

import numpy as np
import torch
from torch.nn import functional as F

from mi_utils import grading
from mi_utils.grading.core import STOPPED

CONTEXTS = {
    "07.jumprelu": [lambda tiny: {}],
    "07.clt_output": [lambda tiny: {}],
    "07.tanh_penalty": [lambda tiny: {}],
    "07.nmse": [lambda tiny: {}],
    "07.batch_topk": [lambda tiny: {}],
    "07.unscale": [lambda tiny: {}],
    "07.lift": [lambda tiny: {}],
    "07.match": [lambda tiny: {}],
}

# ------------------------------------------------------------------ 1: JumpReLU


def jumprelu(pre, threshold):
    return pre * (pre > threshold)


def jump_in_place(pre, threshold):
    pre[pre <= threshold] = 0
    return pre


JUMP_RIGHT = {
    "mask": jumprelu,
    "where": lambda pre, t: torch.where(pre > t, pre, torch.zeros_like(pre)),
    "masked_fill": lambda pre, t: pre.masked_fill(pre <= t, 0),
    "shifted and back": lambda pre, t: (pre - t).relu() + t * (pre > t),
    "double": lambda pre, t: jumprelu(pre.double(), t),
    "numpy": lambda pre, t: np.where(pre.numpy() > t.numpy(), pre.numpy(), 0),
}
JUMP_WRONG = {
    "shape": [
        lambda pre, t: jumprelu(pre, t).sum(),
        lambda pre, t: pre[pre > t],
        lambda pre, t: pre.tolist(),
    ],
    "shifted": [
        lambda pre, t: F.relu(pre - t),
        lambda pre, t: (pre - t) * (pre > t),
        lambda pre, t: pre.sign() * (pre.abs() - t).clamp(min=0),
    ],
    "relu": [lambda pre, t: pre.relu(), lambda pre, t: pre.clamp(min=0)],
    "absolute": [lambda pre, t: pre * (pre.abs() > t), lambda pre, t: jumprelu(pre.abs(), t)],
    "at_threshold": [lambda pre, t: pre * (pre >= t), lambda pre, t: pre.masked_fill(pre < t, 0)],
    "mask": [lambda pre, t: pre > t, lambda pre, t: (pre > t).int()],
    "opposite": [lambda pre, t: pre * (pre < t), lambda pre, t: torch.where(pre > t, 0, pre)],
    "raised": [lambda pre, t: pre.clamp(min=t), lambda pre, t: torch.where(pre > t, pre, t)],
    "one_threshold": [
        lambda pre, t: pre * (pre > t.mean()),
        lambda pre, t: F.threshold(pre, t[0].item(), 0),
        lambda pre, t: pre * (pre > t.max()),
    ],
    "in_place": [jump_in_place],
    "something_else": [lambda pre, t: 2 * jumprelu(pre, t), lambda pre, t: pre],
    STOPPED: [lambda pre: pre, lambda pre, t: pre if pre > t else 0],
}

# ------------------------------------------------------------------ 2: the output of a cross-layer transcoder


def clt_output(features, W_dec, b_dec, layer):
    return sum(features[i] @ W_dec[i][layer - i] for i in range(layer + 1)) + b_dec[layer]


def clt_by_pairs(features, W_dec, b_dec, layer):
    total = b_dec[layer].clone()
    for source, (a, decoders) in enumerate(zip(features, W_dec, strict=True)):
        if source <= layer:
            total = total + a @ decoders[layer - source]
    return total


def clt_concatenated(features, W_dec, b_dec, layer):
    read = torch.cat(features[: layer + 1], dim=1)
    return read @ torch.cat([W_dec[i][layer - i] for i in range(layer + 1)]) + b_dec[layer]


def clt_from(index, sources=lambda layer, n: range(layer + 1), bias=lambda b, layer: b[layer]):
    """An answer with another index, other sources or another bias."""

    def answer(features, W_dec, b_dec, layer):
        chosen = sources(layer, len(features))
        return sum(features[i] @ W_dec[i][index(layer, i)] for i in chosen) + bias(b_dec, layer)

    return answer


def clt_other_bias(bias):
    return clt_from(lambda layer, i: layer - i, bias=bias)


def bias_in_the_loop(features, W_dec, b_dec, layer):
    total = 0
    for i in range(layer + 1):
        total = total + features[i] @ W_dec[i][layer - i] + b_dec[layer]
    return total


def adds_to_bias(features, W_dec, b_dec, layer):
    total = b_dec[layer].expand(len(features[0]), -1)
    b_dec += 1
    return clt_output(features, W_dec, b_dec - 1, layer) + 0 * total


def sums_into_bias(features, W_dec, b_dec, layer):
    out = clt_output(features, W_dec, b_dec, layer)
    row = b_dec[layer]
    row += out.mean(0)
    return out


def scales_features(features, W_dec, b_dec, layer):
    out = clt_output(features, W_dec, b_dec, layer)
    features[0] *= 2
    return out


def takes_features_off(features, W_dec, b_dec, layer):
    out = clt_output(features, W_dec, b_dec, layer)
    features.pop()
    return out


CLT_RIGHT = {"sum": clt_output, "pairs": clt_by_pairs, "concatenated": clt_concatenated}
CLT_WRONG = {
    "shape": [
        lambda *given: clt_output(*given).T,
        lambda *given: clt_output(*given).sum(0),
        lambda *given: clt_output(*given).tolist(),
    ],
    "own_layer_only": [
        lambda features, W, b, layer: features[layer] @ W[layer][0] + b[layer],
        clt_from(lambda layer, i: layer - i, lambda layer, n: [layer]),
    ],
    "own_layer_missing": [clt_from(lambda layer, i: layer - i, lambda layer, n: range(layer))],
    "later_layers": [clt_from(lambda layer, i: layer - i, lambda layer, n: range(n))],
    "absolute_index": [clt_from(lambda layer, i: layer)],
    "other_decoder": [
        clt_from(lambda layer, i: 0),
        clt_from(lambda layer, i: -1),
        clt_from(lambda layer, i: i),
    ],
    "source_and_target_swapped": [
        lambda features, W, b, layer: sum(features[layer] @ W[layer][i] for i in range(layer + 1)) + b[layer],
    ],
    "all_targets": [
        lambda features, W, b, layer: sum((features[i] @ W[i]).sum(0) for i in range(layer + 1)) + b[layer],
        lambda features, W, b, layer: features[layer] @ W[layer] + b[layer],
    ],
    "no_bias": [clt_other_bias(lambda b, layer: 0)],
    "bias_of_each_source": [bias_in_the_loop, clt_other_bias(lambda b, layer: (layer + 1) * b[layer])],
    "other_bias": [
        clt_other_bias(lambda b, layer: b[0]),
        clt_other_bias(lambda b, layer: b[-1]),
        clt_other_bias(lambda b, layer: b[: layer + 1].sum(0)),
        clt_other_bias(lambda b, layer: b.sum(0)),
        clt_other_bias(lambda b, layer: b.mean(0)),
    ],
    "mean": [
        lambda features, W, b, layer: (
            torch.stack([features[i] @ W[i][layer - i] for i in range(layer + 1)]).mean(0) + b[layer]
        )
    ],
    "in_place": [adds_to_bias, sums_into_bias, scales_features, takes_features_off],
    "something_else": [lambda *given: 2 * clt_output(*given), lambda *given: clt_output(*given).relu()],
    STOPPED: [lambda features: features, clt_from(lambda layer, i: layer + 5)],
}

# ------------------------------------------------------------------ 3: the tanh penalty


def together(decoders):
    return decoders.pow(2).sum(dim=(0, 2)).sqrt()


def tanh_penalty(features, decoders, c):
    return torch.tanh(c * together(decoders) * features).sum(-1).mean()


def penalty_with(norm):
    return lambda a, w, c: torch.tanh(c * norm(w) * a).sum(-1).mean()


def penalty_by_loops(features, decoders, c):
    total = 0.0
    for row in features.tolist():
        for i, a in enumerate(row):
            total += np.tanh(c * decoders[:, i].flatten().norm().item() * a)
    return total / len(features)


PENALTY_RIGHT = {
    "root of squares": tanh_penalty,
    "flattened": penalty_with(lambda w: w.permute(1, 0, 2).flatten(1).norm(dim=-1)),
    "norm of norms": penalty_with(lambda w: w.norm(dim=-1).norm(dim=0)),
    "two axes": penalty_with(lambda w: w.norm(dim=(0, 2))),
    "loops": penalty_by_loops,
    "concatenated": penalty_with(lambda w: torch.cat(list(w), dim=1).norm(dim=1)),
}
PENALTY_WRONG = {
    "shape": [lambda a, w, c: torch.tanh(c * a @ w).sum(-1), lambda a, w, c: "small"],
    "not_summed": [lambda a, w, c: torch.tanh(c * together(w) * a)],
    "per_token": [lambda a, w, c: torch.tanh(c * together(w) * a).sum(-1)],
    "per_feature": [lambda a, w, c: torch.tanh(c * together(w) * a).mean(0)],
    "norms_summed": [
        penalty_with(lambda w: w.norm(dim=-1).sum(0)),
        penalty_with(lambda w: w.norm(dim=-1).mean(0)),
        penalty_with(lambda w: w.norm(dim=-1).amax(0)),
    ],
    "one_decoder": [penalty_with(lambda w: w[0].norm(dim=-1)), penalty_with(lambda w: w[-1].norm(dim=-1))],
    "no_norm": [lambda a, w, c: torch.tanh(c * a).sum(-1).mean()],
    "squared_norm": [penalty_with(lambda w: w.square().sum(dim=(0, 2)))],
    "decoders_added": [
        penalty_with(lambda w: w.sum(0).norm(dim=-1)),
        penalty_with(lambda w: w.mean(0).norm(dim=-1)),
    ],
    "one_norm_for_all": [penalty_with(lambda w: w.norm()), penalty_with(lambda w: together(w).mean())],
    "each_target_pays": [
        lambda a, w, c: sum(torch.tanh(c * one.norm(dim=-1) * a).sum(-1).mean() for one in w)
    ],
    "tanh_of_sum": [
        lambda a, w, c: torch.tanh(c * (together(w) * a).sum(-1)).mean(),
        lambda a, w, c: torch.tanh(c * (together(w) * a).sum(-1).mean()),
        lambda a, w, c: torch.tanh(c * (together(w) * a).sum()),
    ],
    "mean_over_features": [
        lambda a, w, c: torch.tanh(c * together(w) * a).mean(),
        lambda a, w, c: torch.tanh(c * together(w) * a).sum(0).mean(),
    ],
    "summed_over_tokens": [lambda a, w, c: torch.tanh(c * together(w) * a).sum()],
    "l1": [
        lambda a, w, c: (together(w) * a).sum(-1).mean(),
        lambda a, w, c: c * (together(w) * a).sum(-1).mean(),
    ],
    "no_c": [lambda a, w, c: torch.tanh(together(w) * a).sum(-1).mean()],
    "c_outside": [lambda a, w, c: c * torch.tanh(together(w) * a).sum(-1).mean()],
    "norm_outside": [lambda a, w, c: (together(w) * torch.tanh(c * a)).sum(-1).mean()],
    "l0": [lambda a, w, c: (a > 0).float().sum(-1).mean()],
    "in_place": [lambda a, w, c: (tanh_penalty(a, w, c), a.mul_(2))[0]],
    "something_else": [lambda a, w, c: -tanh_penalty(a, w, c), lambda a, w, c: tanh_penalty(a, w, 2 * c)],
    STOPPED: [lambda a, w: a, lambda a, w, c: (a @ w[:, :2]).mean()],
}

# ------------------------------------------------------------------ 4: normalised mean squared error


def nmse(y, y_hat):
    return (y - y_hat).square().sum() / (y - y.mean(dim=0)).square().sum()


def squares(x):
    return x.square().sum()


NMSE_RIGHT = {
    "sums": nmse,
    "means": lambda y, y_hat: F.mse_loss(y_hat, y) / y.var(dim=0, correction=0).mean(),
    "norms": lambda y, y_hat: ((y - y_hat).norm() / (y - y.mean(0)).norm()) ** 2,
    "item": lambda y, y_hat: nmse(y, y_hat).item(),
    "numpy": lambda y, y_hat: ((y - y_hat).numpy() ** 2).mean(0).sum() / y.numpy().var(0).sum(),
}
NMSE_WRONG = {
    "shape": [lambda y, y_hat: (nmse(y, y_hat), 1), lambda y, y_hat: (y - y_hat) / y],
    "per_token": [lambda y, y_hat: (y - y_hat).square().sum(1) / (y - y.mean(0)).square().sum(1)],
    "per_dimension": [lambda y, y_hat: (y - y_hat).square().sum(0) / (y - y.mean(0)).square().sum(0)],
    "mean_not_subtracted": [lambda y, y_hat: squares(y - y_hat) / squares(y)],
    "one_mean": [
        lambda y, y_hat: squares(y - y_hat) / squares(y - y.mean()),
        lambda y, y_hat: F.mse_loss(y, y_hat) / y.var(),
    ],
    "mean_of_each_token": [lambda y, y_hat: squares(y - y_hat) / squares(y - y.mean(-1, keepdim=True))],
    "ratio_of_each_token": [
        lambda y, y_hat: ((y - y_hat).square().sum(1) / (y - y.mean(0)).square().sum(1)).mean(),
        lambda y, y_hat: ((y - y_hat) / (y - y.mean(0))).square().mean(),
    ],
    "ratio_of_each_dimension": [
        lambda y, y_hat: ((y - y_hat).square().mean(0) / y.var(0, correction=0)).mean(),
        lambda y, y_hat: ((y - y_hat).square().mean(0) / y.var(0)).mean(),
    ],
    "root": [
        lambda y, y_hat: nmse(y, y_hat).sqrt(),
        lambda y, y_hat: ((y - y_hat).norm(dim=1) / (y - y.mean(0)).norm(dim=1)).mean(),
        lambda y, y_hat: (y - y_hat).abs().sum() / (y - y.mean(0)).abs().sum(),
    ],
    "of_reconstruction": [
        lambda y, y_hat: nmse(y_hat, y),
        lambda y, y_hat: squares(y - y_hat) / squares(y - y_hat.mean(0)),
        lambda y, y_hat: squares(y - y_hat) / squares(y_hat - y.mean(0)),
    ],
    "explained": [lambda y, y_hat: 1 - nmse(y, y_hat)],
    "inverted": [lambda y, y_hat: 1 / nmse(y, y_hat)],
    "error_alone": [
        lambda y, y_hat: squares(y - y_hat),
        lambda y, y_hat: F.mse_loss(y, y_hat),
        lambda y, y_hat: (y - y_hat).square().sum(1).mean(),
    ],
    "n_minus_one": [lambda y, y_hat: (y - y_hat).square().mean(0).sum() / y.var(0).sum()],
    "sums_and_means": [
        lambda y, y_hat: squares(y - y_hat) / (y - y.mean(0)).square().mean(),
        lambda y, y_hat: F.mse_loss(y, y_hat) / squares(y - y.mean(0)),
        lambda y, y_hat: squares(y - y_hat) / y.var(0, correction=0).sum(),
    ],
    "percent": [lambda y, y_hat: 100 * nmse(y, y_hat)],
    "clipped": [lambda y, y_hat: nmse(y, y_hat).clamp(0, 1)],
    "in_place": [lambda y, y_hat: (nmse(y, y_hat), y.sub_(y_hat))[0]],
    "something_else": [lambda y, y_hat: nmse(y, y_hat) / 2.5, lambda y, y_hat: -nmse(y, y_hat)],
    STOPPED: [lambda y: y, lambda y, y_hat: y @ y_hat],
}

# ------------------------------------------------------------------ 5: BatchTopK


def keep(pre, mask):
    return pre.relu() * mask


def largest(pre, count):
    mask = torch.zeros(pre.numel())
    mask[pre.flatten().topk(count).indices] = 1
    return mask.view_as(pre)


def batch_topk(pre, k):
    return keep(pre, largest(pre, k * len(pre)))


def topk_by_threshold(pre, k):
    lowest = pre.flatten().topk(k * len(pre)).values[-1]
    return pre.relu() * (pre >= lowest)


def topk_by_sort(pre, k):
    ordered = pre.relu().flatten().sort(descending=True).values
    cut = ordered[k * len(pre)] if k * len(pre) < len(ordered) else -1
    return torch.where(pre > cut, pre.relu(), 0)


def topk_by_scatter(pre, k):
    values, places = pre.relu().flatten().topk(k * pre.shape[0])
    return torch.zeros(pre.numel()).scatter(0, places, values).view(pre.shape)


def each_token(pre, k):
    values, places = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, places, values)


def topk_in_place(pre, k):
    lowest = pre.flatten().topk(k * len(pre)).values[-1]
    pre[(pre < lowest) | (pre < 0)] = 0
    return pre


TOPK_RIGHT = {
    "mask": batch_topk,
    "threshold": topk_by_threshold,
    "sort": topk_by_sort,
    "scatter": topk_by_scatter,
    "relu first": lambda pre, k: keep(pre, largest(pre.relu(), k * len(pre))),
    "double": lambda pre, k: batch_topk(pre.double(), k),
}
TOPK_WRONG = {
    "shape": [lambda pre, k: batch_topk(pre, k).flatten(), lambda pre, k: batch_topk(pre, k).tolist()],
    "one_row": [
        lambda pre, k: pre.flatten().topk(k * len(pre)).values,
        lambda pre, k: pre.flatten().topk(k).values,
        lambda pre, k: pre.topk(k).values,
    ],
    "each_token": [each_token, lambda pre, k: each_token(pre.relu(), k)],
    "each_feature": [
        lambda pre, k: each_token(pre.T, k).T,
        lambda pre, k: each_token(pre.relu().T, k).T,
    ],
    "k_of_the_batch": [lambda pre, k: keep(pre, largest(pre, k)), lambda pre, k: pre * largest(pre, k)],
    "times_features": [lambda pre, k: pre * largest(pre, k * pre.shape[1])],
    "absolute": [
        lambda pre, k: pre * largest(pre.abs(), k * len(pre)),
        lambda pre, k: pre.abs() * largest(pre.abs(), k * len(pre)),
        lambda pre, k: pre.relu() * largest(pre.abs(), k * len(pre)),
    ],
    "negative_kept": [
        lambda pre, k: pre * largest(pre, k * len(pre)),
        lambda pre, k: torch.where(pre >= pre.flatten().topk(k * len(pre)).values[-1], pre, 0),
    ],
    "one_off": [
        lambda pre, k: pre.relu() * (pre > pre.flatten().topk(k * len(pre)).values[-1]),
        lambda pre, k: pre.relu() * (pre >= pre.flatten().sort(descending=True).values[k * len(pre)]),
    ],
    "mask": [
        lambda pre, k: largest(pre, k * len(pre)),
        lambda pre, k: largest(pre, k * len(pre)).bool(),
    ],
    "shifted": [lambda pre, k: (pre - pre.flatten().topk(k * len(pre)).values[-1]).relu()],
    "all_kept": [lambda pre, k: pre.relu()],
    "in_place": [topk_in_place],
    "something_else": [lambda pre, k: batch_topk(pre, k) * 2, lambda pre, k: batch_topk(-pre, k)],
    STOPPED: [lambda pre: pre, lambda pre, k: pre.topk(k * len(pre), dim=-1).values],
}

# ------------------------------------------------------------------ 6: fold the scaling in


def unscale(W_enc, b_enc, mean, size):
    W = W_enc / size
    return W, b_enc - mean @ W


def unscale_by_probing(W_enc, b_enc, mean, size):
    def before(x):
        return (x - mean) / size @ W_enc + b_enc

    b = before(torch.zeros_like(mean))
    return before(torch.eye(len(mean))) - b, b


def unscaled(bias, weights=lambda W, size: W / size):
    return lambda W, b, mean, size: (weights(W, size), bias(W, b, mean, size))


def divides_in_place(W_enc, b_enc, mean, size):
    W_enc /= size
    return W_enc, b_enc - mean @ W_enc


def shifts_in_place(W_enc, b_enc, mean, size):
    W = W_enc / size
    b_enc -= mean @ W
    return W, b_enc


UNSCALE_RIGHT = {
    "in two steps": unscale,
    "probing": unscale_by_probing,
    "einsum": unscaled(lambda W, b, mean, size: b - torch.einsum("d,df->f", mean, W) / size),
    "a list": lambda *given: list(unscale(*given)),
    "by loops": unscaled(lambda W, b, mean, size: b - (mean[:, None] * W).sum(0) / size),
}
UNSCALE_WRONG = {
    "shape": [
        lambda W, b, mean, size: (W / size, (b - mean @ W / size)[None]),
        lambda W, b, mean, size: ((W / size).T[:2], b),
        lambda W, b, mean, size: (W / size, 0.0),
    ],
    "no_pair": [
        lambda W, b, mean, size: W / size,
        lambda W, b, mean, size: (W / size, b, mean),
        lambda W, b, mean, size: {"W": W / size, "b": b},
    ],
    "order": [lambda *given: unscale(*given)[::-1]],
    "multiplied": [
        lambda W, b, mean, size: (W * size, b - mean @ (W * size)),
        unscaled(lambda W, b, mean, size: b - mean @ W / size, lambda W, size: W * size),
    ],
    "weights_unchanged": [unscaled(lambda W, b, mean, size: b - mean @ W / size, lambda W, size: W)],
    "twice_divided": [
        unscaled(lambda W, b, mean, size: b - mean @ W / size, lambda W, size: W / size.square())
    ],
    "bias_unchanged": [unscaled(lambda W, b, mean, size: b)],
    "sign": [unscaled(lambda W, b, mean, size: b + mean @ (W / size))],
    "shift_not_divided": [
        unscaled(lambda W, b, mean, size: b - mean @ W),
        unscaled(lambda W, b, mean, size: b + mean @ W),
    ],
    "shift_multiplied": [unscaled(lambda W, b, mean, size: b - size * mean @ W)],
    "shift_divided_twice": [unscaled(lambda W, b, mean, size: b - mean / size @ (W / size))],
    "bias_divided": [
        unscaled(lambda W, b, mean, size: (b - mean @ W) / size),
        unscaled(lambda W, b, mean, size: b / size),
    ],
    "bias_missing": [unscaled(lambda W, b, mean, size: -(mean @ W) / size)],
    "mean_of_weights": [
        unscaled(lambda W, b, mean, size: b - W.mean(0)),
        unscaled(lambda W, b, mean, size: b - (W / size).mean(0)),
        unscaled(lambda W, b, mean, size: b - (W / size).sum(0)),
        unscaled(lambda W, b, mean, size: b - (W / size).mean()),
        unscaled(lambda W, b, mean, size: b - (mean.mean() * W / size).sum(0)),
    ],
    "not_projected": [
        unscaled(lambda W, b, mean, size: b - mean),
        unscaled(lambda W, b, mean, size: b - mean / size),
        unscaled(lambda W, b, mean, size: b - mean.mean() / size),
        unscaled(lambda W, b, mean, size: b - mean.mean()),
    ],
    "other_axis": [unscaled(lambda W, b, mean, size: b - W / size @ mean)],
    "in_place": [divides_in_place, shifts_in_place],
    "something_else": [
        unscaled(lambda W, b, mean, size: 2 * (b - mean @ W / size)),
        unscaled(lambda W, b, mean, size: b - mean @ W / size, lambda W, size: -W / size),
    ],
    STOPPED: [lambda W: W, lambda W, b, mean, size: (W / size, b - W @ mean[:2])],
}

# ------------------------------------------------------------------ 7: the lift over a skip


def lift(fvu, fvu_skip):
    return ((fvu_skip - fvu) / fvu_skip).median()


LIFT_RIGHT = {
    "median": lift,
    "one minus": lambda fvu, skip: (1 - fvu / skip).median(),
    "one minus outside": lambda fvu, skip: 1 - (fvu / skip).median(),
    "quantile": lambda fvu, skip: (1 - fvu / skip).quantile(0.5),
    "numpy": lambda fvu, skip: np.median(1 - fvu.numpy() / skip.numpy()),
    "item": lambda fvu, skip: lift(fvu, skip).item(),
}
LIFT_WRONG = {
    "shape": [lambda fvu, skip: (1 - fvu / skip).median(dim=0), lambda fvu, skip: "a lot"],
    "per_layer": [lambda fvu, skip: 1 - fvu / skip],
    "difference": [
        lambda fvu, skip: (skip - fvu).median(),
        lambda fvu, skip: (fvu - skip).median(),
        lambda fvu, skip: skip.median() - fvu.median(),
    ],
    "skip_ignored": [lambda fvu, skip: (1 - fvu).median(), lambda fvu, skip: 1 - fvu.mean()],
    "ratio_of_medians": [
        lambda fvu, skip: (skip.median() - fvu.median()) / skip.median(),
        lambda fvu, skip: 1 - fvu.mean() / skip.mean(),
    ],
    "mean": [lambda fvu, skip: (1 - fvu / skip).mean()],
    "share_left": [lambda fvu, skip: (fvu / skip).median()],
    "inverted": [
        lambda fvu, skip: (skip / fvu).median(),
        lambda fvu, skip: ((skip - fvu) / fvu).median(),
        lambda fvu, skip: lift(skip, fvu),
    ],
    "sign": [lambda fvu, skip: ((fvu - skip) / skip).median()],
    "of_explained": [
        lambda fvu, skip: ((skip - fvu) / (1 - skip)).median(),
        lambda fvu, skip: ((skip - fvu) / (1 - fvu)).median(),
    ],
    "extreme": [lambda fvu, skip: (1 - fvu / skip).max(), lambda fvu, skip: (1 - fvu / skip).min()],
    "percent": [lambda fvu, skip: 100 * lift(fvu, skip)],
    "clipped": [
        lambda fvu, skip: (1 - fvu / skip).relu().median(),
        lambda fvu, skip: max(lift(fvu, skip), 0),
    ],
    "in_place": [lambda fvu, skip: (lift(fvu, skip), fvu.div_(skip))[0]],
    "something_else": [lambda fvu, skip: lift(fvu, skip) / 2, lambda fvu, skip: 0.3],
    STOPPED: [lambda fvu: fvu, lambda fvu, skip: fvu @ skip[1:]],
}

# ------------------------------------------------------------------ 8: which feature tells the label?


def shares(features, labels):
    """The share of labelled prompts on which each feature is active; of the others, on which it is not."""
    active = features > 0
    return active[labels].float().mean(0), (~active[~labels]).float().mean(0)


def balanced(features, labels):
    return sum(shares(features, labels)) / 2


def match(features, labels):
    score, index = balanced(features, labels).max(0)
    return index.item(), score.item()


def match_by_loops(features, labels):
    found = []
    for i in range(features.shape[1]):
        active = [value > 0 for value in features[:, i].tolist()]
        hits = [a for a, label in zip(active, labels.tolist(), strict=True) if label]
        quiet = [not a for a, label in zip(active, labels.tolist(), strict=True) if not label]
        found.append((sum(hits) / len(hits) + sum(quiet) / len(quiet)) / 2)
    return found.index(max(found)), max(found)


def best_by(measure, largest=True):
    """An answer that takes the feature with the largest of some measure, [feature], and that as its score."""

    def answer(features, labels):
        values = measure(features, labels)
        index = values.argmax() if largest else values.argmin()
        return index.item(), values[index].item()

    return answer


def hits(features, labels):
    return ((features > 0) & labels[:, None]).float()


def precision(features, labels):
    return hits(features, labels).sum(0) / (features > 0).sum(0)


def accuracy(features, labels):
    return ((features > 0) == labels[:, None]).float().mean(0)


def correlation(features, labels):
    table = torch.cat([features.T, labels[None].float()])
    return torch.corrcoef(table)[-1, :-1].nan_to_num()


def difference(features, labels):
    return features[labels].mean(0) - features[~labels].mean(0)


MATCH_RIGHT = {
    "max": match,
    "loops": match_by_loops,
    "tensors": lambda *given: tuple(map(torch.tensor, match(*given))),
    "a list": lambda *given: list(match(*given)),
    "numpy": lambda *given: (np.int64(match(*given)[0]), np.float32(match(*given)[1])),
    "Youden": lambda f, labels: (match(f, labels)[0], ((2 * balanced(f, labels) - 1).max() + 1) / 2),
}
MATCH_WRONG = {
    "no_pair": [
        lambda *given: match(*given)[0],
        balanced,
        lambda *given: balanced(*given)[None],
        lambda *given: (0, balanced(*given)),
        lambda *given: (float("nan"), 0.5),
        lambda *given: (0.5, 0.5),
        lambda *given: ("0", 0.5),
    ],
    "order": [lambda *given: match(*given)[::-1], lambda *given: tuple(balanced(*given).max(0))],
    "plain_accuracy": [
        best_by(accuracy),
        lambda f, labels: ((f.sum(0) == 0).float().argmax().item(), 0.5),
    ],
    "recall": [
        best_by(lambda *given: shares(*given)[0]),
        best_by(lambda f, labels: hits(f, labels).sum(0)),
        best_by(lambda f, labels: hits(f, labels).mean(0)),
    ],
    "precision": [best_by(lambda *given: precision(*given).nan_to_num())],
    "quiet_only": [best_by(lambda *given: shares(*given)[1])],
    "strength": [
        best_by(difference),
        best_by(correlation),
        best_by(lambda f, labels: f[labels].mean(0)),
        best_by(lambda f, labels: f.amax(0)),
        best_by(lambda f, labels: f[labels].sum(0)),
    ],
    "inverted": [
        best_by(lambda *given: torch.maximum(balanced(*given), 1 - balanced(*given))),
        best_by(lambda f, labels: balanced(f, ~labels)),
    ],
    "worst": [best_by(balanced, largest=False), lambda *given: (balanced(*given).argmin(), 0.25)],
    "other_shares": [best_by(lambda f, labels: (shares(f, labels)[0] + (f == 0).float().mean(0)) / 2)],
    "nan": [best_by(precision), best_by(lambda f, labels: (precision(f, labels) + shares(f, labels)[0]) / 2)],
    "score": [
        lambda f, labels: (match(f, labels)[0], accuracy(f, labels)[match(f, labels)[0]]),
        lambda *given: (match(*given)[0], 2 * match(*given)[1]),
        lambda *given: (match(*given)[0], 100 * match(*given)[1]),
    ],
    "index": [
        lambda *given: (match(*given)[0] + 1, match(*given)[1]),
        lambda *given: (match(*given)[0] - 1, match(*given)[1]),
        lambda *given: (17, 0.5),
    ],
    "in_place": [lambda f, labels: (match(f, labels), f.mul_(2))[0]],
    "something_else": [lambda f, labels: (f.shape[1] - 1, 0.25)],
    STOPPED: [lambda f: f, lambda f, labels: (f > 0).mean(0)],
}

RIGHT = {
    "07.jumprelu": JUMP_RIGHT,
    "07.clt_output": CLT_RIGHT,
    "07.tanh_penalty": PENALTY_RIGHT,
    "07.nmse": NMSE_RIGHT,
    "07.batch_topk": TOPK_RIGHT,
    "07.unscale": UNSCALE_RIGHT,
    "07.lift": LIFT_RIGHT,
    "07.match": MATCH_RIGHT,
}
WRONG = {
    "07.jumprelu": JUMP_WRONG,
    "07.clt_output": CLT_WRONG,
    "07.tanh_penalty": PENALTY_WRONG,
    "07.nmse": NMSE_WRONG,
    "07.batch_topk": TOPK_WRONG,
    "07.unscale": UNSCALE_WRONG,
    "07.lift": LIFT_WRONG,
    "07.match": MATCH_WRONG,
}


def test_the_score_of_the_right_feature_is_told_beside_the_wanted_one():
    verdict = grading.check("07.match", lambda *given: (match(*given)[0], 0.5))
    assert verdict.mistake == "score" and "It gives 0.5, not 0.843." in verdict.text
