"""The checks of notebook 02: what passes, and which mistake each wrong answer is told to be."""

import functools
import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from mi_utils import sae
from mi_utils.grading.core import STOPPED

NAMES = ["sae_forward", "sae_loss", "project_gradient", "topk", "fvu", "mmcs", "loss_recovered"] + [
    "keep_the_error",
    "promoted",
    "detection",
]
CONTEXTS = {f"02.{name}": [lambda tiny: {}] for name in NAMES}  # each check makes its own cases


def after(function, change):
    """A function whose result is changed."""
    return lambda *args: change(function(*args))


def unit(x, dim=-1):
    return x / x.norm(dim=dim, keepdim=True)


# ------------------------------------------------------------------ 1: the forward pass


def sae_forward(x, W_enc, b_enc, W_dec, b_dec):
    latents = ((x - b_dec) @ W_enc + b_enc).relu()
    return latents, latents @ W_dec + b_dec


def forward_by_einsum(x, W_enc, b_enc, W_dec, b_dec):
    latents = F.relu(torch.einsum("bi,is->bs", x - b_dec, W_enc) + b_enc)
    return [latents, torch.einsum("bs,si->bi", latents, W_dec) + b_dec]


def forward_by_loops(x, W_enc, b_enc, W_dec, b_dec):
    latents = torch.zeros(len(x), len(b_enc))
    for row in range(len(x)):
        for i in range(len(b_enc)):
            latents[row, i] = max(0.0, float((x[row] - b_dec) @ W_enc[:, i] + b_enc[i]))
    reconstruction = b_dec.repeat(len(x), 1)
    for i, direction in enumerate(W_dec):
        reconstruction += latents[:, i, None] * direction
    return latents, reconstruction


def forward_folded(x, W_enc, b_enc, W_dec, b_dec):
    latents = torch.clamp(F.linear(x, W_enc.T, b_enc - b_dec @ W_enc), min=0)
    return latents, torch.addmm(b_dec, latents, W_dec)


def forward_by_package(x, W_enc, b_enc, W_dec, b_dec):
    one = sae.SAE(W_enc, b_enc, W_dec, b_dec)
    return one.encode(x), one.reconstruct(x)


def forward_in_double(*args):
    return sae_forward(*(one.double() for one in args))


def forward_with_gradients(*args):
    return sae_forward(*(one.requires_grad_() for one in args))


FORWARD_RIGHT = {
    "matrix": sae_forward,
    "einsum": forward_by_einsum,
    "loops": forward_by_loops,
    "folded": forward_folded,
    "package": forward_by_package,
    "double": forward_in_double,
    "gradients": forward_with_gradients,
    "partial": functools.partial(sae_forward),
}


def encodes(how):
    """With latents made in another way, and decoded as they should be."""

    def answer(x, W_enc, b_enc, W_dec, b_dec):
        latents = how(x, W_enc, b_enc, W_dec, b_dec)
        return latents, latents @ W_dec + b_dec

    return answer


def decodes(how):
    """With the right latents ``f``, decoded in another way."""

    def answer(x, W_enc, b_enc, W_dec, b_dec):
        pre = (x - b_dec) @ W_enc + b_enc
        return pre.relu(), how(pre.relu(), W_dec, b_dec, x, pre, W_enc)

    return answer


def forward_in_place(x, W_enc, b_enc, W_dec, b_dec):
    x -= b_dec
    latents = (x @ W_enc + b_enc).relu_()
    return latents, latents @ W_dec + b_dec


def no_biases(x, W_enc, b_enc, W_dec, b_dec):
    latents = (x @ W_enc + b_enc).relu()
    return latents, latents @ W_dec


FORWARD_WRONG = {
    "shape": [
        after(sae_forward, lambda both: (*both, both[0])),
        after(sae_forward, lambda both: {"latents": both[0], "reconstruction": both[1]}),
        after(sae_forward, lambda both: (both[0].T, both[1])),
        after(sae_forward, lambda both: (both[0].sum(), both[1])),
        after(sae_forward, lambda both: (both[0].tolist(), both[1].tolist())),
        lambda x, e, a, d, b: None,
        lambda x, e, a, d, b: (x - b) @ e @ e.T @ e[:, :3],
    ],
    "one_returned": [after(sae_forward, lambda both: both[1]), after(sae_forward, lambda both: both[0])],
    "order": [after(sae_forward, lambda both: both[::-1])],
    "no_relu": [encodes(lambda x, e, a, d, b: (x - b) @ e + a)],
    "input_not_centred": [
        encodes(lambda x, e, a, d, b: (x @ e + a).relu()),
        encodes(lambda x, e, a, d, b: x @ e + a),
        no_biases,
    ],
    "b_dec_sign": [
        encodes(lambda x, e, a, d, b: ((x + b) @ e + a).relu()),
        encodes(lambda x, e, a, d, b: F.relu((b - x) @ e + a)),
    ],
    "data_mean": [
        encodes(lambda x, e, a, d, b: ((x - x.mean(0)) @ e + a).relu()),
        encodes(lambda x, e, a, d, b: ((x - x.mean(1, keepdim=True)) @ e + a).relu()),
    ],
    "no_b_enc": [
        encodes(lambda x, e, a, d, b: ((x - b) @ e).relu()),
        encodes(lambda x, e, a, d, b: (x @ e).relu()),
    ],
    "b_enc_sign": [encodes(lambda x, e, a, d, b: ((x - b) @ e - a).relu())],
    "b_enc_after_relu": [
        encodes(lambda x, e, a, d, b: ((x - b) @ e).relu() + a),
        encodes(lambda x, e, a, d, b: (x @ e).relu() + a),
    ],
    "tied_encoder": [
        encodes(lambda x, e, a, d, b: ((x - b) @ d.T + a).relu()),
        encodes(lambda x, e, a, d, b: (x @ d.T + a).relu()),
    ],
    "scaled": [encodes(lambda x, e, a, d, b: ((x - b) @ e + a).relu() * d.norm(dim=1))],
    "active_only": [encodes(lambda x, e, a, d, b: ((x - b) @ e + a > 0).float())],
    "other_activation": [
        encodes(lambda x, e, a, d, b, f=f: f((x - b) @ e + a))
        for f in (F.gelu, F.silu, F.elu, F.leaky_relu, F.softplus, torch.sigmoid, torch.tanh, torch.abs)
    ]
    + [encodes(lambda x, e, a, d, b: ((x - b) @ e + a).softmax(-1))],
    "other_latents": [
        encodes(lambda x, e, a, d, b: ((x - b) @ e + 2 * a).relu()),
        encodes(lambda x, e, a, d, b: sae.keep_top((x - b) @ e + a, 2)),
        encodes(lambda x, e, a, d, b: F.normalize((x - b) @ e + a, dim=-1).relu()),
        encodes(lambda x, e, a, d, b: ((x - b) @ e + a).clamp(max=0)),
    ],
    "no_b_dec": [decodes(lambda f, d, b, *_: f @ d)],
    "b_dec_subtracted": [decodes(lambda f, d, b, *_: f @ d - b)],
    "b_dec_twice": [decodes(lambda f, d, b, *_: f @ d + 2 * b)],
    "tied_decoder": [
        decodes(lambda f, d, b, x, pre, e: f @ e.T + b),
        decodes(lambda f, d, b, x, pre, e: f @ e.mT),
    ],
    "relu_on_reconstruction": [
        decodes(lambda f, d, b, *_: (f @ d + b).relu()),
        decodes(lambda f, d, b, *_: (f @ d).relu() + b),
        decodes(lambda f, d, b, *_: (f @ d).relu()),
    ],
    "decodes_pre_activations": [
        decodes(lambda f, d, b, x, pre, e: pre @ d + b),
        decodes(lambda f, d, b, x, pre, e: pre @ d),
    ],
    "unit_rows": [decodes(lambda f, d, b, *_: f @ unit(d) + b)],
    "not_the_reconstruction": [
        decodes(lambda f, d, b, x, *_: x),
        decodes(lambda f, d, b, x, *_: x - (f @ d + b)),
        decodes(lambda f, d, b, x, *_: (f @ d + b) - x),
        decodes(lambda f, d, b, x, *_: x - b),
    ],
    "other_reconstruction": [
        decodes(lambda f, d, b, *_: -(f @ d) + b),
        decodes(lambda f, d, b, *_: f @ unit(d, 0) + b),
        decodes(lambda f, d, b, x, *_: f @ d + x.mean(0)),
    ],
    "in_place": [forward_in_place],
    STOPPED: [
        lambda x: x,
        lambda x, e, a, d, b: (x - b) @ d,
        decodes(lambda f, d, b, *_: (f + b) @ d),
    ],
}

# ------------------------------------------------------------------ 2: the loss


def sae_loss(x, latents, reconstruction, W_dec, l1):
    error = (x - reconstruction).square().sum(dim=-1)
    penalty = (latents * W_dec.norm(dim=-1)).sum(dim=-1)
    return (error + l1 * penalty).mean()


def loss_by_loops(x, latents, reconstruction, W_dec, l1):
    total = 0.0
    for one, active, seen in zip(x, latents, reconstruction, strict=True):
        total += sum(float(v) ** 2 for v in one - seen)
        lengths = [math.sqrt(sum(float(w) ** 2 for w in row)) for row in W_dec]
        total += l1 * sum(float(f) * length for f, length in zip(active, lengths))  # noqa: B905
    return total / len(x)


def loss_in_numpy(x, latents, reconstruction, W_dec, l1):
    x, latents, reconstruction, W_dec = (one.numpy() for one in (x, latents, reconstruction, W_dec))
    return ((x - reconstruction) ** 2).sum(1).mean() + l1 * (latents @ np.linalg.norm(W_dec, axis=1)).mean()


LOSS_RIGHT = {
    "terms": sae_loss,
    "loops": loss_by_loops,
    "numpy": loss_in_numpy,
    "number": after(sae_loss, float),
    "double": lambda x, f, r, d, l1: sae_loss(x.double(), f.double(), r.double(), d.double(), l1),
    "gradients": lambda x, f, r, d, l1: sae_loss(x, f.requires_grad_(), r, d.requires_grad_(), l1),
    "mse": lambda x, f, r, d, l1: F.mse_loss(r, x) * x.shape[-1] + l1 * (f @ d.norm(dim=1)).mean(),
    "einsum": lambda x, f, r, d, l1: (
        (torch.einsum("bi,bi->", x - r, x - r) + l1 * torch.einsum("bs,s->", f, d.pow(2).sum(1).sqrt()))
        / len(x)
    ),
    "absolute": lambda x, f, r, d, l1: (
        torch.linalg.vector_norm(x - r, dim=1).pow(2) + l1 * (f.abs() * torch.linalg.norm(d, dim=1)).sum(1)
    ).mean(),
    "shares": lambda x, f, r, d, l1: (
        (x - r).square().sum(-1).mean() + l1 * (f[..., None] * d).norm(dim=-1).sum(-1).mean()
    ),
}


def errs(how):
    """With another error, and the right penalty."""
    return lambda x, f, r, d, l1: how(x, r) + l1 * (f * d.norm(dim=-1)).sum(-1).mean()


def penalises(how):
    """With another penalty, and the right error."""
    return lambda x, f, r, d, l1: (x - r).square().sum(-1).mean() + l1 * how(f, d)


def parts(how):
    return lambda x, f, r, d, l1: how((x - r).square().sum(-1).mean(), (f @ d.norm(dim=-1)).mean(), l1)


def loss_in_place(x, latents, reconstruction, W_dec, l1):
    latents *= W_dec.norm(dim=-1)
    return (x - reconstruction).square().sum(-1).mean() + l1 * latents.sum(-1).mean()


LOSS_WRONG = {
    "shape": [
        after(sae_loss, lambda loss: loss[None]),
        after(sae_loss, lambda loss: None),
        after(sae_loss, str),
        lambda x, f, r, d, l1: (x - r).square() + l1 * (f @ d.norm(dim=-1))[:, None],
    ],
    "per_example": [
        lambda x, f, r, d, l1: (x - r).square().sum(-1) + l1 * f @ d.norm(dim=-1),
        lambda x, f, r, d, l1: ((x - r).square().sum(-1) + l1 * f @ d.norm(dim=-1))[:, None],
    ],
    "terms_apart": [parts(lambda e, p, l1: (e, l1 * p)), parts(lambda e, p, l1: [e + l1 * p, float(e), p])],
    "mean_error": [
        errs(lambda x, r: (x - r).square().mean()),
        errs(F.mse_loss),
        lambda x, f, r, d, l1: F.mse_loss(r, x) + l1 * f.sum(-1).mean(),
        lambda x, f, r, d, l1: ((x - r).square().mean(-1) + l1 * f.sum(-1)).mean(),
        lambda x, f, r, d, l1: F.mse_loss(r, x) + l1 * f.abs().mean(),
    ],
    "sum_over_batch": [
        lambda x, f, r, d, l1: (x - r).square().sum() + l1 * (f @ d.norm(dim=1)).sum(),
        errs(lambda x, r: (x - r).square().sum()),
        errs(functools.partial(F.mse_loss, reduction="sum")),
        penalises(lambda f, d: (f @ d.norm(dim=1)).sum()),
        penalises(lambda f, d: f.sum()),
        lambda x, f, r, d, l1: (x - r).square().sum() + l1 * f.sum(),
    ],
    "not_squared": [
        errs(lambda x, r: (x - r).norm(dim=-1).mean()),
        errs(lambda x, r: (x - r).norm()),
        errs(lambda x, r: (x - r).square().sum(-1).mean().sqrt()),
        errs(lambda x, r: (x - r).abs().sum(-1).mean()),
        errs(F.l1_loss),
    ],
    "half_error": [
        errs(lambda x, r: (x - r).square().sum(-1).mean() / 2),
        errs(lambda x, r: F.mse_loss(x, r) / 2),
    ],
    "relative_error": [
        errs(lambda x, r: (x - r).square().sum() / x.square().sum()),
        errs(lambda x, r: (x - r).square().sum() / (x - x.mean(0)).square().sum()),
        errs(lambda x, r: ((x - r).square().sum(-1) / x.square().sum(-1)).mean()),
    ],
    "no_norm": [penalises(lambda f, d: f.sum(-1).mean()), penalises(lambda f, d: f.norm(p=1, dim=-1).mean())],
    "column_norm": [
        penalises(lambda f, d: (f * d.norm(dim=0)).sum(-1).mean()),
        penalises(lambda f, d: (f @ d.norm(dim=0)).mean()),
    ],
    "other_norm": [
        penalises(lambda f, d: (f * d.abs().sum(1)).sum(-1).mean()),
        penalises(lambda f, d: (f * d.square().sum(1)).sum(-1).mean()),
        penalises(lambda f, d: (f[..., None] * d).abs().sum((1, 2)).mean()),
    ],
    "one_norm_for_all": [
        penalises(lambda f, d: (f * d.norm()).sum(-1).mean()),
        penalises(lambda f, d: f.sum(-1).mean() * d.norm(dim=1).mean()),
        penalises(lambda f, d: f.sum(-1).mean() * d.norm(dim=1).sum()),
    ],
    "divides_by_norm": [penalises(lambda f, d: (f / d.norm(dim=1)).sum(-1).mean())],
    "norm_added": [penalises(lambda f, d: f.sum(-1).mean() + d.norm(dim=1).sum())],
    "norm_of_sum": [
        penalises(lambda f, d: (f @ d).norm(dim=-1).mean()),
        penalises(lambda f, d: (f @ d).abs().sum(-1).mean()),
    ],
    "mean_over_latents": [
        penalises(lambda f, d: (f * d.norm(dim=1)).mean()),
        penalises(lambda f, d: f.mean()),
    ],
    "l0": [
        penalises(lambda f, d: (f > 0).float().sum(-1).mean()),
        penalises(lambda f, d: (f > 0).float().mean()),
        penalises(lambda f, d: (f != 0).sum(-1).double().mean()),
        penalises(lambda f, d: ((f > 0) * d.norm(dim=1)).sum(-1).mean()),
    ],
    "l2": [
        penalises(lambda f, d: f.square().sum(-1).mean()),
        penalises(lambda f, d: f.norm(dim=-1).mean()),
        penalises(lambda f, d: (f * d.norm(dim=1)).square().sum(-1).mean()),
        penalises(lambda f, d: (f.square() * d.norm(dim=1)).sum(-1).mean()),
        penalises(lambda f, d: f.norm()),
        penalises(lambda f, d: f.square().mean()),
        penalises(lambda f, d: (f * d.norm(dim=1)).norm(dim=-1).mean()),
    ],
    "no_l1": [parts(lambda e, p, l1: e + p)],
    "ignores_l1": [parts(lambda e, p, l1: e + 0.3 * p)],
    "l1_elsewhere": [
        parts(lambda e, p, l1: l1 * (e + p)),
        parts(lambda e, p, l1: l1 * e + p),
        parts(lambda e, p, l1: (1 - l1) * e + l1 * p),
    ],
    "negative_penalty": [parts(lambda e, p, l1: e - l1 * p)],
    "one_term": [parts(lambda e, p, l1: e), parts(lambda e, p, l1: l1 * p), parts(lambda e, p, l1: p)],
    "something_else": [
        parts(lambda e, p, l1: e + l1**2 * p),
        parts(lambda e, p, l1: e * l1 * p),
        parts(lambda e, p, l1: e + 0.04 * p),  # another fixed one
        after(sae_loss, lambda loss: loss.log()),
        after(sae_loss, lambda loss: loss * float("nan")),
    ],
    "in_place": [loss_in_place],
    STOPPED: [
        lambda x, f, r: (x - r).square().sum(),
        lambda x, f, r, d, l1: (x - r).square().sum(2),
        penalises(lambda f, d: (f * d).sum(-1).mean()),
    ],
}

# ------------------------------------------------------------------ 3: the gradient's projection


def project_gradient(W_dec, grad):
    direction = W_dec / W_dec.norm(dim=-1, keepdim=True)
    return grad - (grad * direction).sum(dim=-1, keepdim=True) * direction


def project_by_loops(W_dec, grad):
    return torch.stack([g - (g @ w) / (w @ w) * w for w, g in zip(W_dec, grad, strict=True)])


def project_with_matrices(W_dec, grad):
    d = F.normalize(W_dec, dim=1)
    away = torch.eye(d.shape[1]) - torch.einsum("si,sj->sij", d, d)
    return torch.bmm(away, grad[..., None]).squeeze(-1)


def project_in_place(W_dec, grad):
    d = F.normalize(W_dec, dim=-1)
    grad -= torch.einsum("si,si->s", grad, d)[:, None] * d
    return grad


PROJECT_RIGHT = {
    "unit": project_gradient,
    "loops": project_by_loops,
    "matrices": project_with_matrices,
    "in place": project_in_place,
    "double": lambda d, g: project_by_loops(d.double(), g.double()),
    "twice": lambda d, g: project_gradient(d, project_gradient(d, g)),
    "epsilon": lambda d, g: g - (g * d).sum(1, keepdim=True) / (d.square().sum(1, keepdim=True) + 1e-8) * d,
    "diagonal": lambda d, g: g - torch.diag(F.normalize(d) @ g.T)[:, None] * F.normalize(d),
    "gradients": lambda d, g: project_gradient(d.requires_grad_(), g),
}


def along(d, g):
    return (g * unit(d)).sum(-1, keepdim=True)


def changes_and_forgets(W_dec, grad):
    project_in_place(W_dec, grad)


def renormalises_in_place(W_dec, grad):
    W_dec /= W_dec.norm(dim=-1, keepdim=True)
    return grad - (grad * W_dec).sum(-1, keepdim=True) * W_dec


PROJECT_WRONG = {
    "shape": [
        lambda d, g: None,
        lambda d, g: (project_gradient(d, g), d),
        lambda d, g: project_gradient(d, g).T,
        lambda d, g: project_gradient(d, g).tolist(),
        lambda d, g: project_gradient(d, g).norm(),
        lambda d, g: g @ d.T,
    ],
    "coefficient": [along, lambda d, g: (g * d).sum(-1)],
    "nothing_returned": [changes_and_forgets],
    "unchanged": [lambda d, g: g, lambda d, g: g.clone()],
    "added": [lambda d, g: g + along(d, g) * unit(d), lambda d, g: g + (g * d).sum(-1, keepdim=True) * d],
    "component": [lambda d, g: along(d, g) * unit(d), lambda d, g: (g * d).sum(-1, keepdim=True) * d],
    "negative": [lambda d, g: along(d, g) * unit(d) - g],
    "reflected": [lambda d, g: g - 2 * along(d, g) * unit(d)],
    "mean_for_sum": [lambda d, g: g - (g * unit(d)).mean(-1, keepdim=True) * unit(d)],
    "one_sided": [
        lambda d, g: g - along(d, g).relu() * unit(d),
        lambda d, g: g - along(d, g).abs() * unit(d),
        lambda d, g: g - along(d, g).clamp(max=0) * unit(d),
    ],
    "columns": [
        lambda d, g: g - (g * d).sum(0) * d,
        lambda d, g: g - (g * unit(d, 0)).sum(0) * unit(d, 0),
        lambda d, g: g - (g * unit(d)).sum(0, keepdim=True) * unit(d),
    ],
    "all_at_once": [
        lambda d, g: g - (g * d).sum() / (d * d).sum() * d,
        lambda d, g: g - (g * d).sum() * d,
        lambda d, g: g - (g.flatten() @ d.flatten()) * d / d.norm(),
    ],
    "every_row": [
        lambda d, g: g - (g @ d.T) @ d,
        lambda d, g: g - torch.einsum("si,ti,tj->sj", g, unit(d), unit(d)),
    ],
    "swapped": [
        lambda d, g: project_gradient(g, d),
        lambda d, g: d - (d * g).sum(-1, keepdim=True) * g,
    ],
    "subtracts_rows": [lambda d, g: g - d, lambda d, g: g - unit(d)],
    "normalises_gradient": [
        lambda d, g: unit(project_gradient(d, g)),
        lambda d, g: project_gradient(d, unit(g)),
    ],
    "decoder_returned": [lambda d, g: unit(d), lambda d, g: d],
    "not_normalised": [lambda d, g: g - (g * d).sum(-1, keepdim=True) * d],
    "norm_once": [
        lambda d, g: g - (g * unit(d)).sum(-1, keepdim=True) * d,
        lambda d, g: g - (g * d).sum(-1, keepdim=True) / d.norm(dim=-1, keepdim=True) * d,
    ],
    "changes_decoder": [renormalises_in_place],
    "something_else": [
        lambda d, g: torch.zeros_like(g),
        lambda d, g: g - g.norm(dim=-1, keepdim=True) * unit(d),
        lambda d, g: unit(d) * g,
        lambda d, g: unit(d - g),
        lambda d, g: g * float("inf"),
    ],
    STOPPED: [lambda d: d, lambda d, g: g - (g * d).sum(-1) * d, lambda d, g: g - g @ d],
}

# ------------------------------------------------------------------ 4: TopK


def topk_latents(pre, k):
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, values.relu())


def topk_by_loops(pre, k):
    out = torch.zeros(pre.shape)
    for row, values in enumerate(pre.tolist()):
        for i in sorted(range(len(values)), key=lambda i: -values[i])[:k]:
            out[row, i] = max(values[i], 0.0)
    return out


def topk_by_mask(pre, k):
    mask = torch.zeros_like(pre, dtype=torch.bool)
    mask[torch.arange(len(pre))[:, None], pre.argsort(dim=-1, descending=True)[:, :k]] = True
    return F.relu(pre).masked_fill(~mask, 0.0)


def topk_by_ranks(pre, k):
    return pre.relu() * (pre.argsort(-1, descending=True).argsort(-1) < k)


TOPK_RIGHT = {
    "scatter": topk_latents,
    "loops": topk_by_loops,
    "mask": topk_by_mask,
    "ranks": topk_by_ranks,
    "package": sae.keep_top,
    "relu first": lambda pre, k: topk_latents(pre.relu(), k),
    "double": lambda pre, k: topk_latents(pre.double(), k),
    "last wins": lambda pre, k: topk_latents(pre.flip(-1), k).flip(-1),
    "infinity": lambda pre, k: torch.where(topk_by_ranks(pre, k) > 0, pre, -torch.inf).relu(),
    "gradients": lambda pre, k: topk_latents(pre.requires_grad_(), k),
    "array": after(topk_latents, torch.Tensor.numpy),
    "rows": lambda pre, k: torch.stack([topk_latents(row, k) for row in pre]),
}


def kth(x, k):
    return x.topk(k, dim=-1).values[..., -1:]


def scatter(pre, chosen, values=None):
    return torch.zeros_like(pre).scatter(-1, chosen, pre.gather(-1, chosen) if values is None else values)


def topk_in_place(pre, k):
    pre[pre < kth(pre, k)] = 0
    return pre.relu()


def relu_in_place(pre, k):
    return topk_latents(pre.relu_(), k)


def over_the_batch(pre, k):
    return topk_latents(pre.flatten(), k * len(pre)).view_as(pre)


TOPK_WRONG = {
    "shape": [
        lambda pre, k: topk_latents(pre, k).tolist(),
        lambda pre, k: topk_latents(pre, k).T,
        lambda pre, k: topk_latents(pre, k).sum(-1),
        lambda pre, k: over_the_batch(pre, k).flatten(),
    ],
    "values_and_indices": [lambda pre, k: pre.topk(k), lambda pre, k: tuple(pre.relu().topk(k))],
    "values_only": [lambda pre, k: pre.topk(k).values.relu(), lambda pre, k: pre.topk(k)[0]],
    "indices": [lambda pre, k: pre.topk(k).indices, lambda pre, k: pre.argsort(-1, descending=True)[:, :k]],
    "misplaced": [
        lambda pre, k: F.pad(pre.topk(k).values.relu(), (0, pre.shape[1] - k)),
        lambda pre, k: topk_latents(pre, k).sort(-1, descending=True).values,
    ],
    "no_relu": [
        lambda pre, k: scatter(pre, pre.topk(k).indices),
        lambda pre, k: torch.where(pre >= kth(pre, k), pre, 0.0),
    ],
    "absolute": [
        lambda pre, k: scatter(pre, pre.abs().topk(k).indices),
        lambda pre, k: scatter(pre, pre.abs().topk(k).indices).relu(),
        lambda pre, k: topk_latents(pre.abs(), k),
        lambda pre, k: scatter(pre, pre.topk(k).indices).abs(),
    ],
    "relu_only": [lambda pre, k: pre.relu()],
    "over_batch": [
        over_the_batch,
        lambda pre, k: topk_latents(pre.flatten(), k).view_as(pre),
        lambda pre, k: torch.where(pre >= pre.flatten().topk(k * len(pre)).values[-1], pre, 0).relu(),
    ],
    "wrong_axis": [
        lambda pre, k: topk_latents(pre.T, k).T,
        lambda pre, k: torch.zeros_like(pre).scatter(
            0, pre.topk(k, dim=0).indices, pre.topk(k, dim=0).values
        ),
    ],
    "smallest": [
        lambda pre, k: scatter(pre, pre.topk(k, largest=False).indices),
        lambda pre, k: scatter(pre, pre.argsort(-1)[:, :k]).relu(),
    ],
    "dropped": [
        lambda pre, k: pre.scatter(-1, pre.topk(k).indices, 0.0).relu(),
        lambda pre, k: pre.scatter(-1, pre.topk(k).indices, 0.0),
    ],
    "yes_or_no": [
        lambda pre, k: topk_latents(pre, k) > 0,
        lambda pre, k: (pre >= kth(pre, k)).float(),
        lambda pre, k: scatter(pre, pre.topk(k).indices, torch.ones(len(pre), k)),
    ],
    "not_zero": [
        lambda pre, k: torch.where(pre >= kth(pre, k), pre, -torch.inf),
        lambda pre, k: pre.relu().masked_fill(pre < kth(pre, k), float("-inf")),
    ],
    "one_too_few": [
        lambda pre, k: torch.where(pre > kth(pre, k), pre, 0.0).relu(),
        lambda pre, k: pre.relu() * (pre.relu() > kth(pre.relu(), k)),
        lambda pre, k: topk_latents(pre, k - 1) if k > 1 else torch.zeros_like(pre),
    ],
    "one_too_many": [
        lambda pre, k: pre.relu() * (pre >= pre.sort(-1, descending=True).values[:, k, None]),
        lambda pre, k: topk_latents(pre, k + 1),
    ],
    "ignores_k": [lambda pre, k: topk_latents(pre, 3)],
    "ties": [
        lambda pre, k: torch.where(pre >= kth(pre, k), pre, 0.0).relu(),
        lambda pre, k: pre.relu() * (pre >= pre.kthvalue(pre.shape[1] - k + 1, keepdim=True).values),
    ],
    "ties_lost": [
        lambda pre, k: torch.where(
            (pre >= kth(pre, k)).sum(-1, keepdim=True) > k,
            pre * (pre > kth(pre, k)),
            pre * (pre >= kth(pre, k)),
        ).relu(),
        lambda pre, k: pre.relu() * (pre > pre.sort(-1, descending=True).values[:, k, None]),
    ],
    "in_place": [topk_in_place, relu_in_place],
    "something_else": [
        lambda pre, k: -topk_latents(pre, k),
        lambda pre, k: topk_latents(pre, k) / k,
        lambda pre, k: topk_latents(pre, k).softmax(-1),
        lambda pre, k: scatter(pre, pre.topk(k).indices, pre.topk(k).values.softmax(-1)),
        lambda pre, k: torch.zeros_like(pre),
        lambda pre, k: scatter(pre, pre.topk(k).indices, pre.topk(k).indices.float()),
        lambda pre, k: pre.relu() * (pre > 0.5),
    ],
    STOPPED: [
        lambda pre: pre,
        lambda pre, k: topk_latents(pre, 32),
        lambda pre, k: torch.zeros_like(pre).scatter(-1, pre.topk(k), 1.0),
    ],
}

# ------------------------------------------------------------------ 5: fraction of variance unexplained


def fvu(x, reconstruction):
    return (x - reconstruction).square().sum() / (x - x.mean(dim=0)).square().sum()


def fvu_by_loops(x, reconstruction):
    columns = list(zip(*x.tolist(), strict=True))
    means = [sum(column) / len(column) for column in columns]
    error = sum(
        (a - b) ** 2
        for row, its in zip(x.tolist(), reconstruction.tolist(), strict=True)
        for a, b in zip(row, its, strict=True)
    )
    return error / sum((a - m) ** 2 for row in x.tolist() for a, m in zip(row, means, strict=True))


FVU_RIGHT = {
    "sums": fvu,
    "loops": fvu_by_loops,
    "means": lambda x, r: F.mse_loss(r, x) / F.mse_loss(x.mean(0).expand_as(x), x),
    "variances": lambda x, r: ((x - r) ** 2).mean(0).sum() / x.var(dim=0, correction=0).sum(),
    "bessel": lambda x, r: (x - r).pow(2).sum() / ((len(x) - 1) * x.var(0).sum()),
    "norms": lambda x, r: ((x - r).norm() / (x - x.mean(0, keepdim=True)).norm()) ** 2,
    "per token": lambda x, r: (x - r).square().sum(-1).mean() / (x - x.mean(0)).square().sum(-1).mean(),
    "number": after(fvu, float),
    "numpy": lambda x, r: ((x - r).numpy() ** 2).sum() / (len(x) * x.numpy().var(axis=0).sum()),
    "double": lambda x, r: fvu(x.double(), r.double()),
    "array": after(fvu, torch.Tensor.numpy),
    "epsilon": lambda x, r: (x - r).square().sum() / ((x - x.mean(0)).square().sum() + 1e-8),
}


def fvu_in_place(x, r):
    r -= x
    return r.square().sum() / (x - x.mean(0)).square().sum()


def of(how):
    """Made from the squared error and the squared deviation [token width]."""
    return lambda x, r: how((x - r).square(), (x - x.mean(0)).square())


FVU_WRONG = {
    "shape": [
        after(fvu, lambda one: one[None]),
        after(fvu, lambda one: (one, one)),
        lambda x, r: (x - r).square() / (x - x.mean(0)).square(),
        after(fvu, lambda one: None),
    ],
    "per_token": [of(lambda e, v: e.sum(-1) / v.sum(-1)), of(lambda e, v: e.sum(-1, keepdim=True) / v.sum())],
    "per_dimension": [of(lambda e, v: e.sum(0) / v.sum(0)), lambda x, r: (x - r).var(0) / x.var(0)],
    "no_mean": [
        lambda x, r: (x - r).square().sum() / x.square().sum(),
        lambda x, r: (x - r).norm() ** 2 / x.norm() ** 2,
        lambda x, r: 1 - (x - r).square().mean() / x.square().mean(),
    ],
    "mean_over_width": [
        lambda x, r: (x - r).square().sum() / (x - x.mean(-1, keepdim=True)).square().sum(),
        lambda x, r: (x - r).square().sum(-1).mean() / x.var(-1, correction=0).mean() / x.shape[1],
    ],
    "one_mean": [
        lambda x, r: (x - r).square().sum() / (x - x.mean()).square().sum(),
        lambda x, r: F.mse_loss(x, r) / x.var(correction=0),
        lambda x, r: (x - r).square().mean() / x.var(),
    ],
    "mean_of_reconstruction": [lambda x, r: (x - r).square().sum() / (x - r.mean(0)).square().sum()],
    "of_reconstruction": [
        lambda x, r: fvu(r, x),
        lambda x, r: (x - r).square().sum() / (r - x.mean(0)).square().sum(),
    ],
    "ratio_of_variances": [
        lambda x, r: r.var(0).sum() / x.var(0).sum(),
        lambda x, r: 1 - r.var(0).mean() / x.var(0).mean(),
    ],
    "error_centred": [
        lambda x, r: (x - r).var(0).sum() / x.var(0).sum(),
        lambda x, r: (x - r).var() / x.var(),
        lambda x, r: 1 - (x - r).var(0).sum() / x.var(0).sum(),
    ],
    "explained": [after(fvu, lambda one: 1 - one)],
    "inverted": [of(lambda e, v: v.sum() / e.sum())],
    "mean_over_dimensions": [
        of(lambda e, v: (e.sum(0) / v.sum(0)).mean()),
        of(lambda e, v: 1 - (e.mean(0) / v.mean(0)).mean()),
        lambda x, r: ((x - r).square().sum(0) / x.square().sum(0)).mean(),
        lambda x, r: ((x - r).square().mean(0) / x.var(0, correction=0)).mean(),
    ],
    "mean_over_tokens": [
        of(lambda e, v: (e.sum(-1) / v.sum(-1)).mean()),
        of(lambda e, v: 1 - (e.sum(-1) / v.sum(-1)).mean()),
        lambda x, r: ((x - r).square().sum(-1) / x.square().sum(-1)).mean(),
    ],
    "root": [
        after(fvu, torch.sqrt),
        lambda x, r: (x - r).norm() / (x - x.mean(0)).norm(),
        lambda x, r: (x - r).norm(dim=-1).mean() / (x - x.mean(0)).norm(dim=-1).mean(),
        lambda x, r: (x - r).abs().sum() / (x - x.mean(0)).abs().sum(),
        lambda x, r: ((x - r).norm(dim=-1) / (x - x.mean(0)).norm(dim=-1)).mean(),
    ],
    "n_minus_one": [
        lambda x, r: (x - r).square().mean() / x.var(0).mean(),
        lambda x, r: (x - r).square().mean(0).sum() / x.var(0).sum(),
    ],
    "sums_and_means": [
        of(lambda e, v: e.mean() / v.sum(-1).mean()),
        of(lambda e, v: e.sum(-1).mean() / v.mean()),
        of(lambda e, v: e.sum() / v.mean()),
        of(lambda e, v: e.sum(-1).mean() / v.sum()),
        of(lambda e, v: e.sum() / v.sum(-1).mean()),
        of(lambda e, v: e.mean() / v.sum()),
        lambda x, r: (x - r).square().sum() / x.var(0).sum(),
        lambda x, r: (x - r).square().sum() / x.var(0).mean(),
        lambda x, r: (x - r).square().sum(-1).mean() / x.var(0).mean(),
        lambda x, r: F.mse_loss(r, x) / x.var(0).sum(),
    ],
    "error_alone": [
        of(lambda e, v: e.sum()),
        of(lambda e, v: e.mean()),
        lambda x, r: (x - r).square().sum(-1).mean(),
    ],
    "percent": [after(fvu, lambda one: 100 * one)],
    "clipped": [after(fvu, lambda one: one.clamp(0, 1)), lambda x, r: min(1.0, fvu(x, r).item())],
    "in_place": [fvu_in_place],
    "something_else": [
        after(fvu, torch.log),
        after(fvu, lambda one: -one),
        after(fvu, lambda one: one.clamp(min=1)),
        after(fvu, lambda one: one * one),
        lambda x, r: 1 - F.cosine_similarity(x, r).mean(),
        lambda x, r: float("nan"),
        lambda x, r: 0.0,
    ],
    STOPPED: [lambda x: x.var(), lambda x, r: x @ r],
}

# ------------------------------------------------------------------ 6: MMCS


def mmcs(dictionary, features):
    return (unit(dictionary) @ unit(features).T).amax(dim=0).mean()


def mmcs_by_loops(dictionary, features):
    best = [max(float(row @ one / row.norm() / one.norm()) for row in dictionary) for one in features]
    return sum(best) / len(best)


MMCS_RIGHT = {
    "matrix": mmcs,
    "loops": mmcs_by_loops,
    "package": sae.mmcs,
    "similarity": lambda d, f: F.cosine_similarity(f[:, None], d[None], dim=-1).max(dim=1).values.mean(),
    "einsum": lambda d, f: torch.einsum("sd,fd->sf", F.normalize(d), F.normalize(f)).max(0)[0].mean(),
    "numpy": lambda d, f: (unit(f) @ unit(d).T).numpy().max(axis=1).mean(),
    "double": lambda d, f: mmcs(d.double(), f.double()),
    "dots": lambda d, f: ((d @ f.T) / torch.outer(d.norm(dim=1), f.norm(dim=1))).amax(0).sum() / len(f),
    "distance": lambda d, f: (1 - torch.cdist(unit(f), unit(d)).amin(1) ** 2 / 2).mean(),
}


def cosine(how):
    return lambda d, f: how(unit(d) @ unit(f).T)


def mmcs_in_place(dictionary, features):
    dictionary /= dictionary.norm(dim=-1, keepdim=True)
    return mmcs(dictionary, features)


def greedy(cosines):
    left, total = cosines.clone(), 0.0
    for one in range(left.shape[1]):
        total += float(left[:, one].max())
        left[left[:, one].argmax()] = -2
    return total / left.shape[1]


def hungarian(cosines):
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return cosines[rows, columns].mean()


def best_from_zero(dictionary, features):
    total = 0.0
    for one in unit(features):
        best = 0.0
        for row in unit(dictionary):
            best = max(best, float(one @ row))
        total += best
    return total / len(features)


MMCS_WRONG = {
    "shape": [after(mmcs, lambda one: one[None]), after(mmcs, lambda one: None), cosine(lambda c: c.max(0))],
    "per_feature": [cosine(lambda c: c.amax(0)), cosine(lambda c: c.amax(0, keepdim=True))],
    "all_cosines": [cosine(lambda c: c), cosine(lambda c: c.T)],
    "other_axis": [
        cosine(lambda c: c.amax(1).mean()),
        cosine(lambda c: c.amax(-1)),
        lambda d, f: mmcs(f, d),
        lambda d, f: (d @ f.T).amax(1).mean(),
        cosine(lambda c: c.abs().amax(1).mean()),
    ],
    "not_normalised": [
        lambda d, f: (d @ f.T).amax(0).mean(),
        lambda d, f: (d @ f.T).abs().amax(0).mean(),
        lambda d, f: F.cosine_similarity(d[(d @ f.T).argmax(0)], f).mean(),
    ],
    "half_normalised": [
        lambda d, f: (unit(d) @ f.T).amax(0).mean(),
        lambda d, f: (d @ unit(f).T).amax(0).mean(),
    ],
    "other_norm": [
        lambda d, f: (unit(d, 0) @ unit(f, 0).T).amax(0).mean(),
        lambda d, f: (d / d.norm() @ (f / f.norm()).T).amax(0).mean(),
        lambda d, f: (d @ f.T / d.square().sum(1)[:, None] / f.square().sum(1)).amax(0).mean(),
    ],
    "absolute": [
        cosine(lambda c: c.abs().amax(0).mean()),
        cosine(lambda c: abs(c).max(0).values.mean().item()),
    ],
    "squared": [cosine(lambda c: c.square().amax(0).mean()), cosine(lambda c: c.amax(0).square().mean())],
    "mean_of_all": [
        cosine(torch.mean),
        cosine(lambda c: c.abs().mean()),
        lambda d, f: F.cosine_similarity(d[:, None], f[None], dim=-1).mean(),
    ],
    "max_of_all": [cosine(torch.max), cosine(lambda c: c.amax(0).max())],
    "worst_feature": [cosine(lambda c: c.amax(0).min())],
    "smallest": [cosine(lambda c: c.amin(0).mean()), cosine(lambda c: c.amin(1).mean())],
    "median": [cosine(lambda c: c.amax(0).median()), cosine(lambda c: float(np.median(c.amax(0).numpy())))],
    "summed": [cosine(lambda c: c.amax(0).sum()), cosine(lambda c: c.amax(0).sum() / len(c))],
    "one_to_one": [cosine(hungarian), cosine(greedy)],
    "starts_at_zero": [best_from_zero, cosine(lambda c: c.relu().amax(0).mean())],
    "both_ways": [cosine(lambda c: (c.amax(0).mean() + c.amax(1).mean()) / 2)],
    "which": [cosine(lambda c: c.argmax(0).float().mean()), cosine(lambda c: c.argmax(1).double().mean())],
    "distance": [
        lambda d, f: torch.cdist(f, d).amin(1).mean(),
        lambda d, f: torch.cdist(unit(f), unit(d)).amin(1).mean(),
        after(mmcs, lambda one: 1 - one),
    ],
    "in_place": [mmcs_in_place],
    "something_else": [
        after(mmcs, lambda one: -one),
        cosine(lambda c: c.norm()),
        cosine(lambda c: (c.amax(0) > 0.9).float().mean()),
        cosine(lambda c: c.softmax(0).amax(0).mean()),
        lambda d, f: 1.0,
        lambda d, f: d.new_tensor(float("nan")),
    ],
    STOPPED: [lambda d: d, lambda d, f: (d.T @ f).max(), lambda d, f: F.cosine_similarity(d, f).mean()],
}

# ------------------------------------------------------------------ 7: the loss recovered


def loss_recovered(clean, spliced, ablated):
    return (ablated - spliced) / (ablated - clean)


RECOVERED_RIGHT = {
    "fraction": loss_recovered,
    "from lost": lambda c, s, a: 1 - (s - c) / (a - c),
    "negated": lambda c, s, a: (s - a) / (c - a),
    "tensor": lambda c, s, a: loss_recovered(*map(torch.tensor, (c, s, a))),
    "numpy": lambda c, s, a: loss_recovered(*map(np.float32, (c, s, a))),
    "epsilon": lambda c, s, a: (a - s) / (a - c + 1e-8),
}
RECOVERED_WRONG = {
    "shape": [
        lambda c, s, a: [loss_recovered(c, s, a)],
        lambda c, s, a: torch.tensor([loss_recovered(c, s, a)]),
    ],
    "lost": [lambda c, s, a: (s - c) / (a - c), lambda c, s, a: loss_recovered(a, s, c)],
    "inverted": [lambda c, s, a: (a - c) / (a - s), lambda c, s, a: loss_recovered(s, c, a)],
    "sign": [lambda c, s, a: (s - a) / (a - c), lambda c, s, a: (c - s) / (a - c)],
    "other_whole": [
        lambda c, s, a: (a - s) / a,
        lambda c, s, a: 1 - s / a,
        lambda c, s, a: (a - s) / s,
        lambda c, s, a: (a - s) / c,
        lambda c, s, a: (s - c) / c,
        lambda c, s, a: (a - s) / (s - c),
        lambda c, s, a: 2 - s / c,
    ],
    "ratio_of_losses": [
        lambda c, s, a: c / s,
        lambda c, s, a: s / c,
        lambda c, s, a: s / a,
        lambda c, s, a: a / s,
    ],
    "difference": [lambda c, s, a: a - s, lambda c, s, a: s - c, lambda c, s, a: c - s],
    "percent": [lambda c, s, a: 100 * loss_recovered(c, s, a)],
    "perplexities": [lambda c, s, a: (math.exp(a) - math.exp(s)) / (math.exp(a) - math.exp(c))],
    "probabilities": [lambda c, s, a: loss_recovered(math.exp(-c), math.exp(-s), math.exp(-a))],
    "absolute": [lambda c, s, a: abs(a - s) / abs(a - c), lambda c, s, a: abs(loss_recovered(c, s, a))],
    "clipped": [
        lambda c, s, a: min(max(loss_recovered(c, s, a), 0), 1),
        lambda c, s, a: max(loss_recovered(c, s, a), 0.0),
        lambda c, s, a: min(loss_recovered(c, s, a), 1.0),
    ],
    "something_else": [
        lambda c, s, a: (a - s) // (a - c),
        lambda c, s, a: round(loss_recovered(c, s, a), 1),
        lambda c, s, a: a - s / a - c,
        lambda c, s, a: 0.9,
    ],
    STOPPED: [lambda c, s: s - c, lambda c, s, a: c.mean()],
}

# ------------------------------------------------------------------ 8: keep the error


def ablate_latent(x, sae, latent):
    return x - sae.encode(x)[..., latent, None] * sae.W_dec[latent]


def ablate_with_error(x, sae, latent):
    latents = sae.encode(x)
    error = x - sae.decode(latents)
    latents[..., latent] = 0
    return sae.decode(latents) + error


def ablate_by_difference(x, sae, latent):
    latents = sae.encode(x)
    without = latents.clone()
    without[:, :, latent] = 0.0
    return x + (sae.decode(without) - sae.decode(latents))


def ablate_by_loops(x, sae, latent):
    out = x.clone()
    for prompt in range(x.shape[0]):
        for pos in range(x.shape[1]):
            out[prompt, pos] -= float(sae.encode(x[prompt, pos])[latent]) * sae.W_dec[latent]
    return out


def ablate_by_mask(x, sae, latent):
    others = torch.arange(sae.d_sae) != latent
    latents = sae.encode(x)
    return x - sae.reconstruct(x) + sae.decode(latents * others)


ABLATE_RIGHT = {
    "share": ablate_latent,
    "error": ablate_with_error,
    "difference": ablate_by_difference,
    "loops": ablate_by_loops,
    "mask": ablate_by_mask,
    "einsum": lambda x, s, i: x - torch.einsum("bp,d->bpd", s.encode(x)[:, :, i], s.W_dec[i]),
    "outer": lambda x, s, i: x - s.encode(x)[..., [i]] @ s.W_dec[[i]],
    "double": lambda x, s, i: ablate_latent(x, s, i).double(),
    "one latent": lambda x, s, i: x - (s.decode(F.one_hot(torch.tensor(i), 10) * s.encode(x)) - s.b_dec),
    "flat": lambda x, s, i: ablate_latent(x.flatten(0, 1), s, i).view_as(x),
}


def without(x, s, i):
    latents = s.encode(x)
    latents[..., i] = 0
    return latents


def error_of_the_ablated(x, sae, latent):
    latents = sae.encode(x)
    latents[..., latent] = 0
    error = x - sae.decode(latents)
    return sae.decode(latents) + error


def loses_position(x, sae, latent):
    latents = sae.encode(x)
    latents[:, latent] = 0
    return sae.decode(latents)


def loses_prompt(x, sae, latent):
    latents = sae.encode(x)
    latents[latent] = 0
    return sae.decode(latents)


def keeps_the_error(how):
    return lambda x, sae, latent: how(x, sae, latent) + x - sae.reconstruct(x)


def ablate_in_place(x, sae, latent):
    x -= sae.encode(x)[..., latent, None] * sae.W_dec[latent]
    return x


def ablate_the_decoder(x, sae, latent):
    before = sae.reconstruct(x)
    sae.W_dec[latent] = 0
    return x - before + sae.reconstruct(x)


def share(x, s, i):
    return s.encode(x)[..., i, None] * s.W_dec[i]


def last_position_only(x, sae, latent):
    out = x.clone()
    out[:, -1] = ablate_latent(x, sae, latent)[:, -1]
    return out


ABLATE_WRONG = {
    "shape": [
        lambda x, s, i: ablate_latent(x, s, i)[0],
        lambda x, s, i: ablate_latent(x, s, i)[:, -1],
        lambda x, s, i: (ablate_latent(x, s, i), x),
        lambda x, s, i: ablate_latent(x, s, i).flatten(0, 1),
        lambda x, s, i: s.encode(x)[..., i],
        lambda x, s, i: None,
    ],
    "latents": [without, lambda x, s, i: s.encode(ablate_latent(x, s, i))],
    "error_dropped": [
        lambda x, s, i: s.decode(without(x, s, i)),
        lambda x, s, i: s.reconstruct(x) - share(x, s, i),
    ],
    "error_dropped_there": [
        lambda x, s, i: torch.where(s.encode(x)[..., i, None] > 0, s.decode(without(x, s, i)), x),
    ],
    "nothing_happens": [error_of_the_ablated, lambda x, s, i: x],
    "reconstruction": [lambda x, s, i: s.decode(s.encode(x)), lambda x, s, i: s.reconstruct(x)],
    "error_only": [lambda x, s, i: x - s.reconstruct(x)],
    "error_sign": [lambda x, s, i: s.decode(without(x, s, i)) + s.reconstruct(x) - x],
    "added": [lambda x, s, i: x + share(x, s, i), lambda x, s, i: s.reconstruct(x) + share(x, s, i)],
    "projection": [
        lambda x, s, i: x - (x @ s.W_dec[i])[..., None] * s.W_dec[i],
        lambda x, s, i: x - ((x - s.b_dec) @ s.W_dec[i])[..., None] * s.W_dec[i],
    ],
    "not_active": [
        lambda x, s, i: x - ((x - s.b_dec) @ s.W_enc + s.b_enc)[..., i, None] * s.W_dec[i],
        lambda x, s, i: x - ((x - s.b_dec) @ s.W_enc + s.b_enc).relu()[..., i, None] * s.W_dec[i],
    ],
    "all_latents": [
        lambda x, s, i: x - s.encode(x) @ s.W_dec,
        lambda x, s, i: x - s.reconstruct(x) + s.decode(torch.zeros_like(s.encode(x))),
        lambda x, s, i: s.decode(0 * s.encode(x)),
    ],
    "the_others": [
        lambda x, s, i: x - without(x, s, i) @ s.W_dec,
        lambda x, s, i: s.decode(s.encode(x) - without(x, s, i)),
    ],
    "bias_twice": [
        lambda x, s, i: x - s.encode(x) @ s.W_dec + s.decode(without(x, s, i)),
        lambda x, s, i: x - share(x, s, i) + s.b_dec,
    ],
    "bias_lost": [
        lambda x, s, i: x - s.decode(s.encode(x) - without(x, s, i)),
        lambda x, s, i: x - s.reconstruct(x) + without(x, s, i) @ s.W_dec,
        lambda x, s, i: without(x, s, i) @ s.W_dec,
    ],
    "direction_alone": [lambda x, s, i: x - s.W_dec[i]],
    "other_strength": [
        lambda x, s, i: x - s.encode(x)[..., i].mean() * s.W_dec[i],
        lambda x, s, i: x - 2 * share(x, s, i),
        lambda x, s, i: x - (s.encode(x)[..., i, None] > 0) * s.W_dec[i],
        lambda x, s, i: x - s.encode(x).amax(-1, keepdim=True) * s.W_dec[i],
        lambda x, s, i: x + (8.0 - s.encode(x)[..., i, None]) * s.W_dec[i],
        last_position_only,
    ],
    "encoder_direction": [lambda x, s, i: x - s.encode(x)[..., i, None] * s.W_enc[:, i]],
    "change_only": [share, lambda x, s, i: -share(x, s, i), lambda x, s, i: ablate_latent(x, s, i) - x],
    "wrong_axis": [
        loses_position,
        loses_prompt,
        keeps_the_error(loses_position),
        keeps_the_error(loses_prompt),
    ],
    "other_latent": [
        lambda x, s, i: ablate_latent(x, s, i + 1),
        lambda x, s, i: ablate_latent(x, s, i - 1),
        lambda x, s, i: ablate_latent(x, s, 0),
        lambda x, s, i: ablate_latent(x, s, 1),  # whatever is asked for
    ],
    "changes_sae": [ablate_the_decoder],
    "in_place": [ablate_in_place],
    "something_else": [
        lambda x, s, i: ablate_latent(x, s, i) * 2,
        lambda x, s, i: unit(ablate_latent(x, s, i)),
        lambda x, s, i: torch.zeros_like(x),
        lambda x, s, i: torch.full_like(x, float("nan")),
        lambda x, s, i: s.decode(s.encode(ablate_latent(x, s, i))) + x - s.reconstruct(x),
    ],
    STOPPED: [
        lambda x, s: x,
        lambda x, s, i: x - s.encode(x)[..., i] * s.W_dec[i],
        lambda x, s, i: x - s.encode(x)[..., i, None] * s.W_dec[:, i],
        lambda x, s, i: s(x),
    ],
}

# ------------------------------------------------------------------ 9: promoted tokens


def promoted_tokens(direction, W_U, n):
    return (direction @ W_U).topk(n).indices


PROMOTED_RIGHT = {
    "topk": promoted_tokens,
    "sorted": lambda d, u, n: torch.argsort(u.T @ d, descending=True)[:n],
    "list": after(promoted_tokens, torch.Tensor.tolist),
    "tuple": after(promoted_tokens, tuple),
    "numpy": lambda d, u, n: np.argsort(-(d @ u).numpy())[:n],
    "loop": lambda d, u, n: sorted(range(u.shape[1]), key=lambda i: -float(d @ u[:, i]))[:n],
    "centred": lambda d, u, n: (d @ (u - u.mean(dim=-1, keepdim=True))).topk(n).indices,
    "centred logits": lambda d, u, n: (d @ u - (d @ u).mean()).topk(n)[1],
    "softmax": lambda d, u, n: torch.einsum("d,dv->v", unit(d), u).softmax(-1).topk(n).indices.int(),
    "double": lambda d, u, n: promoted_tokens(d.double(), u.double(), n),
}


def scored(how):
    return lambda d, u, n: how(d, u).topk(n).indices


PROMOTED_WRONG = {
    "shape": [
        lambda d, u, n: (d[None] @ u).topk(n).indices,
        lambda d, u, n: (d @ u).argmax(),
        lambda d, u, n: promoted_tokens(d, u, n)[:, None],
    ],
    "count": [
        lambda d, u, n: (d @ u).argsort(descending=True),
        lambda d, u, n: promoted_tokens(d, u, 5),
        lambda d, u, n: promoted_tokens(d, u, 4),  # as many as in the check's first case
        lambda d, u, n: [int((d @ u).argmax())],
    ],
    "not_ids": [
        lambda d, u, n: [f"token {i}" for i in promoted_tokens(d, u, n)],
        lambda d, u, n: set(promoted_tokens(d, u, n).tolist()),
        lambda d, u, n: None,
    ],
    "values": [
        lambda d, u, n: (d @ u).topk(n).values,
        lambda d, u, n: (d @ u).softmax(0).topk(n)[0].tolist(),
    ],
    "values_and_ids": [lambda d, u, n: (d @ u).topk(n), lambda d, u, n: tuple((d @ u).topk(n))],
    "lowest": [
        lambda d, u, n: (d @ u).topk(n, largest=False).indices,
        lambda d, u, n: (d @ u).argsort()[:n],
        lambda d, u, n: promoted_tokens(-d, u, n).flip(0),
    ],
    "ascending": [
        lambda d, u, n: (d @ u).argsort()[-n:],
        lambda d, u, n: promoted_tokens(d, u, n).tolist()[::-1],
    ],
    "not_sorted": [lambda d, u, n: promoted_tokens(d, u, n).sort().values],
    "absolute": [
        scored(lambda d, u: (d @ u).abs()),
        scored(lambda d, u: (d @ (u - u.mean(1, keepdim=True))) ** 2),
    ],
    "cosine": [
        scored(lambda d, u: d @ unit(u, 0)),
        scored(lambda d, u: F.cosine_similarity(d[:, None], u, dim=0)),
        scored(lambda d, u: d @ unit(u - u.mean(1, keepdim=True), 0)),
    ],
    "centred_each_token": [
        scored(lambda d, u: d @ (u - u.mean(0))),
        scored(lambda d, u: (d - d.mean()) @ u),
    ],
    "distance": [
        scored(lambda d, u: -(u.T - d).norm(dim=1)),
        lambda d, u, n: torch.cdist(d[None], u.T)[0].argsort()[:n],
    ],
    "transposed": [scored(lambda d, u: u @ d if len(u) == len(d) == u.shape[1] else d @ u)],
    "ignores_direction": [scored(lambda d, u: u.norm(dim=0)), scored(lambda d, u: u.sum(0))],
    "something_else": [
        lambda d, u, n: torch.arange(n),
        lambda d, u, n: (d @ u).topk(n + 1).indices[1:],
        lambda d, u, n: (d @ u).argsort(descending=True).argsort()[:n],
        lambda d, u, n: list(range(n)),
    ],
    STOPPED: [
        lambda d: d,
        lambda d, u, n: (u @ d @ u).topk(n, dim=3),
        lambda d, u, n: (d @ u).topk(n)["ids"],
    ],
}

# ------------------------------------------------------------------ 10: detection


def detection_accuracy(scores, fires):
    if fires.all() or not fires.any():
        raise ValueError("fires should hold both contexts in which the latent fires and others")
    return (scores[fires].float().mean() + (~scores[~fires]).float().mean()) / 2


def detection_by_counting(scores, fires):
    pairs = list(zip(scores.tolist(), fires.tolist(), strict=True))
    rates = []
    for kind in (True, False):
        told = [said for said, fired in pairs if fired == kind]
        if not told:
            raise ValueError(f"no context in which fires is {kind}")
        rates.append(told.count(kind) / len(told))
    return sum(rates) / 2


def detection_by_sums(scores, fires):
    positive = fires.sum().item()
    negative = len(fires) - positive
    if min(positive, negative) == 0:
        raise ValueError
    return 0.5 * ((scores & fires).sum() / positive + (~scores & ~fires).sum() / negative)


class Detection:
    """An object that can be called is an answer too."""

    def __call__(self, scores, fires):
        return detection_accuracy(scores, fires)


DETECTION_RIGHT = {
    "means": detection_accuracy,
    "counting": detection_by_counting,
    "sums": detection_by_sums,
    "number": after(detection_accuracy, float),
    "numpy": lambda s, f: np.float64(detection_accuracy(s, f)),
    "j": lambda s, f: (1 + detection_by_sums(s, f) * 2 - 1) / 2,
    "double": lambda s, f: detection_accuracy(s, f).double(),
    "object": Detection(),
}


def checked(how):
    """Made from hits, misses, false alarms and rejections; a ValueError where a class is empty."""

    def answer(scores, fires):
        if fires.all() or not fires.any():
            raise ValueError("a class is empty")
        counts = (scores & fires, ~scores & fires, scores & ~fires, ~scores & ~fires)
        return how(*(one.sum().item() for one in counts))

    return answer


def unchecked(scores, fires):
    return (scores[fires].float().mean() + (~scores[~fires]).float().mean()) / 2


def where_empty(value):
    def answer(scores, fires):
        return value if fires.all() or not fires.any() else unchecked(scores, fires)

    return answer


def asserts(scores, fires):
    assert fires.any() and not fires.all()
    return unchecked(scores, fires)


def divides(scores, fires):
    return checked_rates(scores.tolist(), fires.tolist())


def checked_rates(scores, fires):
    found = sum(s and f for s, f in zip(scores, fires, strict=True)) / sum(fires)
    return (found + sum(not s and not f for s, f in zip(scores, fires, strict=True)) / fires.count(False)) / 2


def wants_both_verdicts(scores, fires):
    if len(set(scores.tolist())) < 2 or len(set(fires.tolist())) < 2:
        raise ValueError("a class is empty")
    return unchecked(scores, fires)


def nothing_for_constant(says):
    """A rule that says the same of every context scores 0."""
    return lambda scores, fires: 0.0 if (scores == says).all() else detection_accuracy(scores, fires)


DETECTION_WRONG = {
    "shape": [
        after(detection_accuracy, lambda one: one[None]),
        after(detection_accuracy, lambda one: (one, one)),
        after(detection_accuracy, lambda one: None),
    ],
    "both_rates": [
        lambda s, f: torch.stack([s[f].float().mean(), (~s[~f]).float().mean()]),
        after(checked(lambda h, m, a, r: [h / (h + m), r / (a + r)]), torch.tensor),
    ],
    "per_context": [lambda s, f: s == f, lambda s, f: (s & f).float()],
    "plain_accuracy": [
        lambda s, f: (s == f).float().mean(),
        checked(lambda h, m, a, r: (h + r) / (h + m + a + r)),
    ],
    "error_rate": [lambda s, f: (s != f).float().mean(), after(detection_accuracy, lambda one: 1 - one)],
    "recall": [lambda s, f: s[f].float().mean(), checked(lambda h, m, a, r: h / (h + m))],
    "specificity": [checked(lambda h, m, a, r: r / (a + r))],
    "precision": [lambda s, f: f[s].float().mean(), checked(lambda h, m, a, r: r / (m + r))],
    "f1": [
        checked(lambda h, m, a, r: 2 * h / (2 * h + a + m)),
        checked(lambda h, m, a, r: h / (h + a + m)),
        lambda s, f: (s & f).float().mean(),
    ],
    "swapped": [lambda s, f: detection_accuracy(f, s)],
    "precision_and_recall": [checked(lambda h, m, a, r: (h / (h + a) + h / (h + m)) / 2)],
    "not_halved": [checked(lambda h, m, a, r: h / (h + m) + r / (a + r))],
    "above_chance": [checked(lambda h, m, a, r: h / (h + m) + r / (a + r) - 1)],
    "geometric_mean": [
        checked(lambda h, m, a, r: math.sqrt(h / (h + m) * r / (a + r))),
        checked(lambda h, m, a, r: h / (h + m) * r / (a + r)),
    ],
    "of_all_contexts": [
        lambda s, f: ((s & f).float().mean() + (~s & ~f).float().mean()) / 2,
        lambda s, f: (s == f).double().mean() / 2,
    ],
    "counts": [
        checked(lambda h, m, a, r: h + r),
        lambda s, f: (s & f).sum(),
        checked(lambda h, m, a, r: (h + r) / 2),
    ],
    "percent": [after(detection_accuracy, lambda one: one * 100)],
    "false_alarms": [
        lambda s, f: (s[f].float().mean() + s[~f].float().mean()) / 2,
        checked(lambda h, m, a, r: (h / (h + m) + a / (a + r)) / 2),
    ],
    "refuses_a_rule": [
        wants_both_verdicts,
        checked(lambda h, m, a, r: h / (h + a) * 0 + (h / (h + m) + r / (a + r)) / 2),
    ],
    "constant_rule": [nothing_for_constant(False), nothing_for_constant(True)],
    "empty_class": [
        unchecked,
        where_empty(0.0),
        where_empty(0.5),
        where_empty(float("nan")),
        where_empty(None),
        where_empty(ValueError("returned, not raised")),
        lambda s, f: torch.nan_to_num(unchecked(s, f)),
        lambda s, f: ((s & f).sum() / f.sum().clamp(min=1) + (~s & ~f).sum() / (~f).sum().clamp(min=1)) / 2,
        lambda s, f: detection_accuracy(s, f) if f.any() else 0.0,
        lambda s, f: detection_accuracy(s, f) if not f.all() else 1.0,
    ],
    "other_exception": [asserts, divides],
    "something_else": [
        after(detection_accuracy, lambda one: one**2),
        lambda s, f: 0.5,
        lambda s, f: 1.0,
        lambda s, f: float("nan"),
        lambda s, f: torch.corrcoef(torch.stack([s.double(), f.double()]))[0, 1],
    ],
    STOPPED: [lambda s: s, lambda s, f: (s - f).abs(), lambda s, f: (s == f).mean()],
}

RIGHT = {
    "02.sae_forward": FORWARD_RIGHT,
    "02.sae_loss": LOSS_RIGHT,
    "02.project_gradient": PROJECT_RIGHT,
    "02.topk": TOPK_RIGHT,
    "02.fvu": FVU_RIGHT,
    "02.mmcs": MMCS_RIGHT,
    "02.loss_recovered": RECOVERED_RIGHT,
    "02.keep_the_error": ABLATE_RIGHT,
    "02.promoted": PROMOTED_RIGHT,
    "02.detection": DETECTION_RIGHT,
}
WRONG = {
    "02.sae_forward": FORWARD_WRONG,
    "02.sae_loss": LOSS_WRONG,
    "02.project_gradient": PROJECT_WRONG,
    "02.topk": TOPK_WRONG,
    "02.fvu": FVU_WRONG,
    "02.mmcs": MMCS_WRONG,
    "02.loss_recovered": RECOVERED_WRONG,
    "02.keep_the_error": ABLATE_WRONG,
    "02.promoted": PROMOTED_WRONG,
    "02.detection": DETECTION_WRONG,
}
