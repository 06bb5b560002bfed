"""The checks of notebook 01: what passes, and which mistake each wrong answer is told to be."""

import cmath
import functools
import math
import random
import sys
from collections.abc import Callable
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mi_utils import grading, superposition
from mi_utils.grading import tensors
from mi_utils.grading.core import STOPPED

# ------------------------------------------------------------------ 1: sparse features


def sparse_batch(batch, sparsity, n, generator):
    shape = (batch, len(sparsity), n)
    values = torch.rand(shape, generator=generator)
    lots = torch.rand(shape, generator=generator)
    return values * (lots >= sparsity[:, None])


def batch_with(
    *,
    values: Callable = torch.rand,
    lots: Callable = torch.rand,
    of_values: tuple = (1, 1, 1),
    of_lots: tuple = (1, 1, 1),
    sparsity_from: Callable = lambda sparsity: sparsity[:, None],
    then: Callable = lambda x: x,
) -> Callable:
    """Like the solution, with what is drawn in another way; an axis marked 0 is drawn once and shared."""

    def answer(batch, sparsity, n, generator):
        sizes = (batch, len(sparsity), n)
        drawn = [
            draw([size if own else 1 for size, own in zip(sizes, axes, strict=True)], generator=generator)
            for draw, axes in ((values, of_values), (lots, of_lots))
        ]
        return then((drawn[0] * (drawn[1] >= sparsity_from(sparsity))).expand(sizes))

    return answer


def batch_by_bernoulli(batch, sparsity, n, generator):
    p = (1 - sparsity).view(1, -1, 1).expand(batch, -1, n)
    return torch.where(
        torch.bernoulli(p, generator=generator).bool(), torch.rand(p.shape, generator=generator), 0.0
    )


def batch_by_instance(batch, sparsity, n, generator):
    each = []
    for s in sparsity.tolist():
        x = torch.empty(batch, n).uniform_(generator=generator)
        x[torch.rand(batch, n, generator=generator) < s] = 0
        each.append(x)
    return torch.stack(each, dim=1)


def batch_entry_by_entry(batch, sparsity, n, generator):
    lots = iter(torch.rand(2 * batch * len(sparsity) * n, generator=generator).tolist())
    rows = [
        [[next(lots) if next(lots) < 1 - s else 0.0 for _ in range(n)] for s in sparsity]
        for _ in range(batch)
    ]
    return torch.tensor(rows)


def batch_from_one_number(batch, sparsity, n, generator):
    """One number for both, stretched: what lies above the sparsity is uniform again."""
    lots = torch.rand(batch, len(sparsity), n, generator=generator, dtype=torch.float64)
    s = sparsity.double()[:, None]
    return ((lots - s) / (1 - s)).relu()


def batch_by_numpy(batch, sparsity, n, generator):
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    shape = (batch, len(sparsity), n)
    return np.where(rng.random(shape) < sparsity.numpy()[:, None], 0, rng.random(shape))


def exactly_so_many(batch, sparsity, n, generator):
    x, places = torch.rand(batch, len(sparsity), n, generator=generator), torch.arange(n)
    order = torch.rand(x.shape, generator=generator).argsort(-1)
    share = (1 - sparsity) * n  # rounded up or down by lot, so that the mean is right
    extra = torch.rand(batch, len(sparsity), generator=generator) < share % 1
    return x * (places.expand_as(order).gather(-1, order) < (share.floor() + extra)[..., None])


def two_by_two(batch, sparsity, n, generator):
    shape = (batch, len(sparsity), n // 2)
    lots = torch.rand(shape, generator=generator).repeat_interleave(2, dim=-1)
    return torch.rand(lots.shape, generator=generator) * (lots >= sparsity[:, None])


def global_batch(batch, sparsity, n, generator):
    return torch.rand(batch, len(sparsity), n) * (torch.rand(batch, len(sparsity), n) >= sparsity[:, None])


def half_global_batch(batch, sparsity, n, generator):
    lots = torch.rand(batch, len(sparsity), n, generator=generator)
    return torch.rand_like(lots) * (lots >= sparsity[:, None])


def seeded_global_batch(batch, sparsity, n, generator):
    torch.manual_seed(int(torch.randint(1000, (1,), generator=generator)))
    return global_batch(batch, sparsity, n, generator)


def with_own_generator(answer, seed=0):
    return lambda *given: answer(*given[:-1], torch.Generator().manual_seed(seed))


def reseeded(answer):
    return lambda *given: answer(*given[:-1], given[-1].manual_seed(0))


def with_entropy(answer):
    return lambda *given: answer(
        *given[:-1], torch.Generator().manual_seed(random.SystemRandom().getrandbits(40))
    )


def rows_twice(batch, sparsity, n, generator):
    return sparse_batch((batch + 1) // 2, sparsity, n, generator).repeat(2, 1, 1)[:batch]


def zeros_twice(batch, sparsity, n, generator):
    x = torch.rand(batch, len(sparsity), n, generator=generator)
    lots = torch.rand(batch // 2 + 1, len(sparsity), n, generator=generator).repeat(2, 1, 1)[:batch]
    return x * (lots >= sparsity[:, None])


def lots_of_neighbours(batch, sparsity, n, generator):
    x = torch.rand(batch, len(sparsity), n, generator=generator)
    return x * (x.roll(1, dims=-1) >= sparsity[:, None])


def own_values(batch, sparsity, n, generator):
    x = torch.rand(batch, len(sparsity), n, generator=torch.Generator().manual_seed(3))
    return x * (torch.rand(x.shape, generator=generator) >= sparsity[:, None])


def own_lots(batch, sparsity, n, generator):
    lots = torch.rand(batch, len(sparsity), n, generator=torch.Generator().manual_seed(3))
    return torch.rand(lots.shape, generator=generator) * (lots >= sparsity[:, None])


def dropout_batch(batch, sparsity, n, generator):
    return sparse_batch(batch, sparsity, n, generator) / (1 - sparsity[:, None])


def normal(shape, generator):
    return torch.randn(shape, generator=generator)


def both_signs(shape, generator):
    return torch.rand(shape, generator=generator) * 2 - 1


BATCH_RIGHT = {
    "two draws": sparse_batch,
    "package": superposition.sparse_batch,
    "bernoulli": batch_by_bernoulli,
    "instances": batch_by_instance,
    "entries": batch_entry_by_entry,
    "one number": batch_from_one_number,
    "numpy": batch_by_numpy,
    "doubles": lambda b, s, n, g: sparse_batch(b, s, n, g).double(),
    "gradients": lambda b, s, n, g: sparse_batch(b, s, n, g).requires_grad_(),
    "names": lambda batch, sparsity, n, generator: sparse_batch(batch, sparsity, n, generator=generator),
}
BATCH_WRONG = {
    "shape": [
        lambda b, s, n, g: sparse_batch(b, s, n, g)[:, 0],
        lambda b, s, n, g: sparse_batch(b, s, n, g).flatten(0, 1),
        lambda b, s, n, g: sparse_batch(b, s, n, g).tolist(),
        lambda b, s, n, g: (sparse_batch(b, s, n, g), s),
    ],
    "axes": [
        lambda b, s, n, g: sparse_batch(b, s, n, g).transpose(0, 1),
        lambda b, s, n, g: sparse_batch(b, s, n, g).mT,
    ],
    "one_for_batch": [
        batch_with(of_lots=(0, 1, 1)),
        batch_with(of_values=(0, 1, 1)),
        batch_with(of_lots=(0, 1, 1), of_values=(0, 1, 1)),
        rows_twice,
        zeros_twice,
        lambda b, s, n, g: (x := torch.rand(b, len(s), n, generator=g)) * (x.roll(1, dims=0) >= s[:, None]),
    ],
    "one_for_row": [
        batch_with(of_lots=(1, 1, 0)),
        batch_with(of_values=(1, 1, 0)),
        batch_with(of_lots=(1, 0, 0)),
        batch_with(of_lots=(1, 1, 0), of_values=(1, 1, 0)),
    ],
    "one_for_instances": [
        batch_with(of_lots=(1, 0, 1)),
        batch_with(of_values=(1, 0, 1)),
        batch_with(of_lots=(1, 0, 1), of_values=(1, 0, 1)),
        batch_with(of_lots=(1, 0, 1), sparsity_from=lambda s: s.mean()),
    ],
    "by_position": [batch_with(then=lambda x: x.sort(dim=-1).values)],
    "not_independent": [exactly_so_many, two_by_two, lots_of_neighbours],
    "present_for_sparse": [
        batch_with(sparsity_from=lambda s: 1 - s[:, None]),
        lambda b, s, n, g: batch_by_bernoulli(b, 1 - s, n, g),
    ],
    "one_sparsity": [
        batch_with(sparsity_from=lambda s: s.mean()),
        batch_with(sparsity_from=lambda s: s[0]),
        batch_with(sparsity_from=lambda s: s[1]),
        batch_with(sparsity_from=lambda s: s[4]),
        batch_with(sparsity_from=lambda s: torch.tensor(0.5)),
    ],
    "all_zero": [lambda b, s, n, g: torch.zeros(b, len(s), n)],
    "other_share": [
        batch_with(sparsity_from=lambda s: s[:, None] ** 2),
        batch_with(sparsity_from=lambda s: s.flip(0)[:, None]),
        batch_with(lots=normal),
        lambda b, s, n, g: sparse_batch(b, s, n, g) * (torch.rand(b, len(s), n, generator=g) >= s[:, None]),
    ],
    "only_ones": [
        batch_with(then=torch.sign),
        lambda b, s, n, g: torch.rand(b, len(s), n, generator=g) >= s[:, None],
    ],
    "signed": [batch_with(values=both_signs), batch_with(then=lambda x: x - 0.5 * (x != 0))],
    "normal": [batch_with(values=normal), batch_with(then=lambda x: 3 * x - x.sign())],
    "rescaled": [dropout_batch],
    "one_random_number": [
        lambda b, s, n, g: (u := torch.rand(b, len(s), n, generator=g)) * (u >= s[:, None]),
        lambda b, s, n, g: (u := torch.rand(b, len(s), n, generator=g)) * (u < 1 - s[:, None]),
        lambda b, s, n, g: (torch.rand(b, len(s), n, generator=g) - s[:, None]).relu(),
        lambda b, s, n, g: (1 - (u := torch.rand(b, len(s), n, generator=g))) * (u < 1 - s[:, None]),
    ],
    "not_uniform": [
        batch_with(then=torch.square),
        batch_with(then=torch.sqrt),
        batch_with(then=lambda x: 2 * x),
        batch_with(values=lambda shape, generator: normal(shape, generator).abs()),
        batch_with(then=lambda x: x / 0),
    ],
    "global_generator": [global_batch, half_global_batch, seeded_global_batch],
    "same_again": [with_own_generator(sparse_batch), reseeded(sparse_batch), own_values, own_lots],
    "not_reproducible": [with_entropy(sparse_batch), with_entropy(batch_by_numpy)],
    STOPPED: [
        lambda b, s: s,
        batch_with(sparsity_from=lambda s: s),
        lambda b, s, n, g: sparse_batch(b, s, n, g, device="cpu"),
    ],
}

# ------------------------------------------------------------------ 2: the model


def reconstruct(W, b, x):
    hidden = torch.einsum("imn,bin->bim", W, x)
    return (torch.einsum("imn,bim->bin", W, hidden) + b).relu()


def out_of_hidden(W, hidden):
    return torch.einsum("imn,bim->bin", W, hidden)


def into_hidden(W, x):
    return torch.einsum("imn,bin->bim", W, x)


def linear(W, x):
    return out_of_hidden(W, into_hidden(W, x))


def reconstruct_by_loops(W, b, x):
    out = torch.zeros_like(x)
    for i in range(len(W)):
        for k in range(len(x)):
            out[k, i] = torch.clamp(W[i].T @ (W[i] @ x[k, i]) + b[i], min=0)
    return out


def writes_into_x(W, b, x):
    x[:] = reconstruct(W, b, x)
    return x


RECONSTRUCT_RIGHT = {
    "einsum": reconstruct,
    "package": superposition.reconstruct,
    "one einsum": lambda W, b, x: F.relu(torch.einsum("ihf,ihg,big->bif", W, W, x) + b),
    "matmul": lambda W, b, x: (W.mT @ (W @ x[..., None])).squeeze(-1).add(b).clamp_min(0),
    "bmm": lambda W, b, x: torch.relu(torch.bmm(torch.bmm(x.transpose(0, 1), W.mT), W).transpose(0, 1) + b),
    "loops": reconstruct_by_loops,
    "doubles": lambda W, b, x: reconstruct(W.double(), b.double(), x.double()),
    "numpy": lambda W, b, x: np.maximum(np.einsum("imn,imk,bik->bin", W, W, x) + b.numpy(), 0),
    "gram": lambda W, b, x: torch.einsum("inj,bij->bin", W.mT @ W, x).add(b).relu(),
    "where": lambda W, b, x: torch.where((y := linear(W, x) + b) > 0, y, torch.zeros(())),
    "own names": lambda weights, bias, features: reconstruct(weights, bias, features),
}
RECONSTRUCT_WRONG = {
    "shape": [
        lambda W, b, x: reconstruct(W, b, x).sum(),
        lambda W, b, x: reconstruct(W, b, x).flatten(0, 1),
        lambda W, b, x: (reconstruct(W, b, x), x),
        lambda W, b, x: reconstruct(W, b, x).tolist(),
    ],
    "instance_first": [lambda W, b, x: reconstruct(W, b, x).transpose(0, 1)],
    "hidden": [lambda W, b, x: into_hidden(W, x), lambda W, b, x: into_hidden(W, x).relu()],
    "only_weights": [lambda W, b, x: W.mT @ W, lambda W, b, x: W @ W.mT],
    "no_relu": [lambda W, b, x: linear(W, x) + b, lambda W, b, x: (linear(W, x) + b).clamp(max=1e9)],
    "relu_on_hidden": [
        lambda W, b, x: out_of_hidden(W, into_hidden(W, x).relu()) + b,
        lambda W, b, x: (out_of_hidden(W, into_hidden(W, x).relu()) + b).relu(),
        lambda W, b, x: out_of_hidden(W, into_hidden(W, x).relu()),
    ],
    "no_bias": [lambda W, b, x: linear(W, x).relu(), lambda W, b, x: linear(W, x)],
    "bias_after_relu": [lambda W, b, x: linear(W, x).relu() + b],
    "bias_first": [
        lambda W, b, x: out_of_hidden(W, into_hidden(W, x) + b).relu(),
        lambda W, b, x: out_of_hidden(W, (into_hidden(W, x) + b).relu()),
        lambda W, b, x: linear(W, x + b).relu(),
        lambda W, b, x: linear(W, x - b).relu(),
        lambda W, b, x: linear(W, x - b) + b,
    ],
    "bias_subtracted": [lambda W, b, x: (linear(W, x) - b).relu()],
    "other_activation": [
        lambda W, b, x: (linear(W, x) + b).sigmoid(),
        lambda W, b, x: F.gelu(linear(W, x) + b),
        lambda W, b, x: F.leaky_relu(linear(W, x) + b),
        lambda W, b, x: (linear(W, x) + b).clamp(0, 1),
        lambda W, b, x: abs(linear(W, x) + b),
    ],
    "transposed": [
        lambda W, b, x: (torch.einsum("imn,bin->bim", W, torch.einsum("imn,bim->bin", W, x)) + b).relu(),
        lambda W, b, x: ((W @ W.mT @ x[..., None])[..., 0] + b).relu(),
        lambda W, b, x: (W @ W.mT @ x[..., None])[..., 0] + b,
    ],
    "not_transposed": [
        lambda W, b, x: ((W @ W @ x[..., None])[..., 0] + b).relu(),
        lambda W, b, x: ((W.mT @ W.mT @ x[..., None])[..., 0] + b).relu(),
        lambda W, b, x: (torch.einsum("imn,bin->bim", W, into_hidden(W, x)) + b).relu(),
    ],
    "instances_mixed": [
        lambda W, b, x: reconstruct(W[:1].expand_as(W), b, x),
        lambda W, b, x: reconstruct(W, b[:1].expand_as(b), x),
        lambda W, b, x: (torch.einsum("imn,bm->bin", W, into_hidden(W, x).sum(1)) + b).relu(),
        lambda W, b, x: reconstruct(W.mean(0, keepdim=True).expand_as(W), b, x),
        lambda W, b, x: (linear(W, x) + b.sum(0)).relu(),
        lambda W, b, x: (torch.einsum("imn,imk,bjk->bin", W, W, x) + b).relu(),
        lambda W, b, x: reconstruct(W, b, x[:, :1].expand_as(x)),
        lambda W, b, x: (torch.einsum("imn,imk,bik->bn", W, W, x) + b[0]).relu(),
    ],
    "in_place": [
        writes_into_x,
        lambda W, b, x: (reconstruct(W, b, x), b.zero_())[0],
    ],
    "something_else": [
        lambda W, b, x: (x + b).relu(),
        lambda W, b, x: reconstruct(F.normalize(W, dim=1), b, x),
        lambda W, b, x: -reconstruct(W, b, x),
        lambda W, b, x: x,
    ],
    STOPPED: [
        lambda W, b: W,
        lambda W, b, x: (W @ x).relu(),
        lambda W, b, x: reconstruct(W, b, x) if W.shape[1] == W.shape[2] else W + b,
    ],
}

# ------------------------------------------------------------------ 3: the loss


def importance_loss(x, out, importance):
    return (importance * (x - out) ** 2).sum(dim=-1).mean(dim=0)


def loss_by_loops(x, out, importance):
    batch, instances, n = x.shape
    losses = torch.zeros(instances)
    for k in range(batch):
        for i in range(instances):
            for f in range(n):
                losses[i] += float(importance[f]) * float(x[k, i, f] - out[k, i, f]) ** 2 / batch
    return losses


def subtracts_in_place(x, out, importance):
    out -= x
    return (importance * out**2).sum(-1).mean(0)


LOSS_RIGHT = {
    "sum": importance_loss,
    "package": superposition.importance_loss,
    "einsum": lambda x, out, w: torch.einsum("bin,n->i", (x - out).square(), w) / x.size(0),
    "matmul": lambda x, out, w: ((out - x).pow(2) @ w).mean(0),
    "roots": lambda x, out, w: (w.sqrt() * (x - out)).norm(dim=-1).square().mean(dim=0),
    "loops": loss_by_loops,
    "mse": lambda x, out, w: (F.mse_loss(out, x, reduction="none") * w).mean(dim=(0, 2)) * x.shape[-1],
    "numpy": lambda x, out, w: (w.numpy() * (x - out).numpy() ** 2).sum(2).mean(0),
    "doubles": lambda x, out, w: importance_loss(x.double(), out.double(), w.double()),
    "instances": lambda x, out, w: torch.stack(
        [importance_loss(x[:, i], out[:, i], w) for i in range(x.shape[1])]
    ),
}
LOSS_WRONG = {
    "shape": [
        lambda x, out, w: importance_loss(x, out, w)[:, None],
        lambda x, out, w: importance_loss(x, out, w).tolist(),
        lambda x, out, w: list(importance_loss(x, out, w)),
        lambda x, out, w: importance_loss(x, out, w)[:1],
    ],
    "one_number": [
        lambda x, out, w: importance_loss(x, out, w).mean(),
        lambda x, out, w: float(importance_loss(x, out, w).sum()),
        lambda x, out, w: F.mse_loss(out, x),
    ],
    "per_example": [
        lambda x, out, w: (w * (x - out) ** 2).sum(-1),
        lambda x, out, w: (w * (x - out) ** 2).sum(-1).T,
    ],
    "per_feature": [
        lambda x, out, w: (w * (x - out) ** 2).mean(0),
        lambda x, out, w: (w * (x - out) ** 2).mean((0, 1)),
    ],
    "instances_mixed": [
        lambda x, out, w: (w * (x - out) ** 2).sum(-1).mean(1),
        lambda x, out, w: (w * (x - out) ** 2).sum(1),
    ],
    "not_reduced": [lambda x, out, w: w * (x - out) ** 2],
    "features_averaged": [
        lambda x, out, w: (w * (x - out) ** 2).mean((0, 2)),
        lambda x, out, w: (w * (x - out) ** 2).mean(-1).sum(0),
    ],
    "batch_summed": [lambda x, out, w: (w * (x - out) ** 2).sum((0, 2))],
    "unweighted": [
        lambda x, out, w: ((x - out) ** 2).sum(-1).mean(0),
        lambda x, out, w: F.mse_loss(out, x, reduction="none").mean((0, 2)),
    ],
    "importance_squared": [
        lambda x, out, w: (w * (x - out)).square().sum(-1).mean(0),
        lambda x, out, w: ((x * w - out * w) ** 2).mean((0, 2)),
    ],
    "importance_on_one": [
        lambda x, out, w: ((w * x - out) ** 2).sum(-1).mean(0),
        lambda x, out, w: (x - w * out).square().sum(-1).mean(0),
    ],
    "not_squared": [
        lambda x, out, w: (w * (x - out).abs()).sum(-1).mean(0),
        lambda x, out, w: (w * (x - out)).sum(-1).mean(0),
        lambda x, out, w: (w * (out - x)).sum(-1).mean(0),
        lambda x, out, w: F.l1_loss(out, x, reduction="none").sum(-1).mean(0),
    ],
    "rooted": [
        lambda x, out, w: importance_loss(x, out, w).sqrt(),
        lambda x, out, w: (w * (x - out) ** 2).sum(-1).sqrt().mean(0),
    ],
    "weights_normalised": [lambda x, out, w: importance_loss(x, out, w / w.sum())],
    "squared_late": [
        lambda x, out, w: (w * (x - out)).sum(-1).square().mean(0),
        lambda x, out, w: (w * (x - out).mean(0) ** 2).sum(-1),
    ],
    "in_place": [subtracts_in_place],
    "something_else": [
        lambda x, out, w: importance_loss(x, out, w) / 2,
        lambda x, out, w: importance_loss(x, out, w.flip(0)),
        lambda x, out, w: torch.zeros(x.shape[1]),
        lambda x, out, w: importance_loss(x, out, w) * float("nan"),
    ],
    STOPPED: [lambda x, out: x, lambda x, out, w: (w[:, None] * (x - out) ** 2).sum(-1).mean(0)],
}

# ------------------------------------------------------------------ 4: three candidates


def candidate_losses(p, importance):
    variance = p / 3 - p**2 / 4
    return torch.tensor([importance * variance, variance, (1 + importance) * p**2 / 6])


def candidates_by_numbers(p, importance):
    """Means over a fine grid of the square, for features that are there or not."""
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    x1, x2 = grid[:, None], grid[None, :]
    dropped = p * (grid - p / 2).square().mean() + (1 - p) * (p / 2) ** 2
    collision = ((x1 - (x1 - x2).relu()) ** 2).mean() + importance * ((x2 - (x2 - x1).relu()) ** 2).mean()
    return [importance * dropped, dropped, p**2 * collision]


def candidates_for_tensors(p, importance):
    variance = p * (1 / 3 - p / 4)
    return torch.stack([importance * variance, variance, (1 + importance) * p.square() / 6])


CANDIDATES_RIGHT = {
    "formula": candidate_losses,
    "package": superposition.candidate_losses,
    "numbers": candidates_by_numbers,
    "tensors": candidates_for_tensors,
    "tuple": lambda p, i: tuple(candidate_losses(p, i).tolist()),
    "numpy": lambda p, i: np.array([i, 1, 0]) * (p / 3 - p * p / 4) + np.array([0, 0, p * p * (1 + i) / 6]),
    "variances": lambda p, i: (
        v := p * (1 - p) / 4 + p / 12,
        torch.tensor([i * v, v, p**2 / 6 + i * p**2 / 6]),
    )[1],
}


def candidates_with(*, variance=None, first=None, second=None, antipodal=None):
    """The right losses but for what is given as functions of p, or of p and importance."""

    def answer(p, importance):
        right = candidate_losses(p, importance).tolist()
        if variance is not None:
            right[:2] = [importance * variance(p), variance(p)]
        changed = [
            loss(p, importance) if loss else old
            for loss, old in zip((first, second, antipodal), right, strict=True)
        ]
        return torch.tensor(changed)

    return answer


def one_variance(p):
    return p / 3 - p**2 / 4


CANDIDATES_WRONG = {
    "shape": [
        lambda p, i: candidate_losses(p, i)[:2],
        lambda p, i: float(candidate_losses(p, i).min()),
        lambda p, i: candidate_losses(p, i)[None],
        lambda p, i: {"[1, 0]": candidate_losses(p, i)},
        lambda p, i: int(candidate_losses(p, i).argmin()),
        lambda p, i: ["1", "2", "3"],
    ],
    "order": [lambda p, i: candidate_losses(p, i).flip(0), lambda p, i: candidate_losses(p, i).roll(1)],
    "negative": [
        candidates_with(variance=lambda p: p / 3 - p / 2),
        candidates_with(variance=lambda p: p**2 / 4 - p / 3),
        lambda p, i: torch.full((3,), float("nan")),
    ],
    "sparsity_for_p": [
        lambda p, i: candidate_losses(1 - p, i),
        candidates_with(variance=lambda p: one_variance(1 - p)),
        candidates_with(antipodal=lambda p, i: (1 + i) * (1 - p) ** 2 / 6),
    ],
    "features_averaged": [lambda p, i: candidate_losses(p, i) / 2],
    "dropped_for_kept": [
        lambda p, i: candidate_losses(p, i)[[1, 0, 2]],
        candidates_with(first=lambda p, i: one_variance(p), second=lambda p, i: i * one_variance(p)),
        lambda p, i: torch.tensor([one_variance(p), i * one_variance(p), p**2]),
    ],
    "no_bias": [
        candidates_with(variance=lambda p: p / 3),
        candidates_with(variance=lambda p: 1 / 3),
        lambda p, i: torch.tensor([p / 3, i * p / 3, p**2]),
    ],
    "only_where_present": [
        candidates_with(variance=lambda p: p / 12),
        candidates_with(variance=lambda p: 1 / 12),
    ],
    "bias_of_present": [candidates_with(variance=lambda p: p / 12 + (1 - p) / 4)],
    "only_the_lot": [
        candidates_with(variance=lambda p: p * (1 - p) / 4),
        candidates_with(variance=lambda p: p * (1 - p)),
    ],
    "whole_feature": [candidates_with(variance=lambda p: p)],
    "unweighted": [
        candidates_with(first=lambda p, i: one_variance(p)),
        candidates_with(antipodal=lambda p, i: p**2 / 3),
    ],
    "importance_squared": [
        candidates_with(first=lambda p, i: i**2 * one_variance(p)),
        candidates_with(antipodal=lambda p, i: (1 + i**2) * p**2 / 6),
    ],
    "other_importance": [
        candidates_with(
            first=lambda p, i: (1 + i) * one_variance(p), second=lambda p, i: (1 + i) * one_variance(p)
        ),
        candidates_with(second=lambda p, i: i * one_variance(p)),
    ],
    "dedicated": [
        candidates_with(first=lambda p, i: 0.0),
        candidates_with(variance=lambda p: p / 3 - p**2 / 2 + p**3),
        candidates_with(second=lambda p, i: p),
    ],
    "no_collision_probability": [
        candidates_with(antipodal=lambda p, i: (1 + i) / 6),
        candidates_with(antipodal=lambda p, i: (1 + i) / 3),
    ],
    "collision_p": [
        candidates_with(antipodal=lambda p, i: (1 + i) * p / 6),
        candidates_with(antipodal=lambda p, i: (1 + i) * p * (1 - p) / 6),
        candidates_with(antipodal=lambda p, i: (1 + i) * 2 * p * (1 - p) / 6),
    ],
    "no_relu": [candidates_with(antipodal=lambda p, i: (1 + i) * p / 3)],
    "not_the_smaller": [
        candidates_with(antipodal=lambda p, i: (1 + i) * p**2 / 3),
        candidates_with(antipodal=lambda p, i: (1 + i) * p**2 / 4),
        candidates_with(antipodal=lambda p, i: (1 + i) * p**2 / 2),
    ],
    "one_of_two": [candidates_with(antipodal=lambda p, i: (1 + i) * p**2 / 12)],
    "one_side": [
        candidates_with(antipodal=lambda p, i: p**2 / 6),
        candidates_with(antipodal=lambda p, i: i * p**2 / 6),
    ],
    "square_of_mean": [candidates_with(antipodal=lambda p, i: (1 + i) * p**2 / 9)],
    "antipodal": [
        candidates_with(antipodal=lambda p, i: 0.0),
        candidates_with(antipodal=lambda p, i: (1 + i) * (p**2 / 6 - p**4 / 9)),
    ],
    STOPPED: [lambda p: p, lambda p, i: torch.tensor([i * p.variance(), 1, 2])],
}

# ------------------------------------------------------------------ 5: the best linear model


def best_linear_loss(sparsity, importance, m):
    p = 1 - sparsity
    left_out = importance.sort().values[: len(importance) - m].sum()
    return left_out * (p / 3 - p**2 / 4)


def linear_by_eigenvalues(sparsity, importance, m):
    """What weighted PCA leaves out: the smallest eigenvalues of the covariance of sqrt(I) x."""
    losses = []
    for s in sparsity.double():
        p = 1 - s
        covariance = torch.diag(importance.double() * (p / 3 - p**2 / 4))
        losses.append(torch.linalg.eigvalsh(covariance)[: len(importance) - m].sum())
    return torch.stack(losses)


def linear_by_lists(sparsity, importance, m):
    kept_first = sorted(importance.tolist(), reverse=True)
    return torch.tensor([sum(kept_first[m:]) * one_variance(1 - s) for s in sparsity.tolist()])


def linear_with(*, weight=None, variance=None):
    """The right loss but for the sum of importances, or for the variance as a function of p."""

    def answer(sparsity, importance, m):
        rising, p = importance.sort().values, 1 - sparsity
        total = weight(rising, m) if weight else rising[: len(rising) - m].sum()
        return total * (variance or one_variance)(p)

    return answer


LINEAR_RIGHT = {
    "sorted": best_linear_loss,
    "package": superposition.best_linear_loss,
    "eigenvalues": linear_by_eigenvalues,
    "lists": linear_by_lists,
    "topk": lambda s, w, m: w.topk(len(w) - m, largest=False).values.sum() * one_variance(1 - s),
    "the rest": lambda s, w, m: (w.sum() - w.topk(m).values.sum()) * one_variance(1 - s),
    "outer": lambda s, w, m: (
        (one_variance(1 - s)[:, None] * w).sort(dim=-1, descending=True).values[:, m:].sum(1)
    ),
    "numpy": lambda s, w, m: np.sort(w.numpy())[: len(w) - m].sum() * one_variance(1 - s.numpy()),
}
LINEAR_WRONG = {
    "shape": [
        lambda s, w, m: one_variance(1 - s)[:, None] * w,
        lambda s, w, m: best_linear_loss(s, w, m).tolist(),
        lambda s, w, m: 0.0,
    ],
    "one_sparsity_only": [
        lambda s, w, m: best_linear_loss(s, w, m).sum(),
        lambda s, w, m: (one_variance(1 - s) * w).sort().values[: len(w) - m].sum(),
        lambda s, w, m: sum(sorted(w.tolist())[: len(w) - m]) * one_variance(1 - float(s)),
        lambda s, w, m: (one_variance(1 - s) * w).topk(len(w) - m, largest=False).values.sum().item(),
    ],
    "unweighted": [lambda s, w, m: (len(w) - m) * one_variance(1 - s)],
    "largest": [linear_with(weight=lambda w, m: w[m:].sum())],
    "kept": [
        linear_with(weight=lambda w, m: w[-m:].sum()),
        lambda s, w, m: w.topk(m).values.sum() * one_variance(1 - s),
    ],
    "m_for_rest": [linear_with(weight=lambda w, m: w[:m].sum())],
    "not_sorted": [
        lambda s, w, m: w[m:].sum() * one_variance(1 - s),
        lambda s, w, m: w[:-m].sum() * one_variance(1 - s),
        lambda s, w, m: w[-m:].sum() * one_variance(1 - s),
        lambda s, w, m: w[:m].sum() * one_variance(1 - s),
    ],
    "all_features": [linear_with(weight=lambda w, m: w.sum())],
    "one_feature": [
        linear_with(weight=lambda w, m: w[0]),
        linear_with(weight=lambda w, m: w[len(w) - m - 1]),
    ],
    "importance_squared": [linear_with(weight=lambda w, m: w[: len(w) - m].square().sum())],
    "features_averaged": [
        linear_with(weight=lambda w, m: w[: len(w) - m].mean()),
        linear_with(weight=lambda w, m: w[: len(w) - m].sum() / len(w)),
    ],
    "sparsity_for_p": [
        lambda s, w, m: best_linear_loss(1 - s, w, m),
        lambda s, w, m: w.sort().values[: len(w) - m].sum() * s / 3,
    ],
    "no_bias": [linear_with(variance=lambda p: p / 3)],
    "only_where_present": [
        linear_with(variance=lambda p: p / 12),
        linear_with(variance=lambda p: 0 * p + 1 / 12),
    ],
    "bias_of_present": [linear_with(variance=lambda p: p / 12 + (1 - p) / 4)],
    "only_the_lot": [
        linear_with(variance=lambda p: p * (1 - p)),
        linear_with(variance=lambda p: p * (1 - p) / 4),
    ],
    "whole_feature": [linear_with(variance=lambda p: p)],
    "nothing_left_out": [
        lambda s, w, m: w.sort(descending=True).values[-(len(w) - m) :].sum() * one_variance(1 - s),
        lambda s, w, m: torch.stack(sorted(w)[: len(w) - m]).sum() * one_variance(1 - s),
    ],
    "in_place": [
        lambda s, w, m: (w.copy_(w.sort().values), best_linear_loss(s, w, m))[1],
        lambda s, w, m: best_linear_loss(s.neg_().add_(1).neg().add(1), w, m),
    ],
    "something_else": [
        lambda s, w, m: best_linear_loss(s, w, m) / 2,
        linear_with(variance=lambda p: p / 3 + p**2 / 4),
        lambda s, w, m: best_linear_loss(s, w, m).flip(0),
    ],
    STOPPED: [lambda s, w: s, lambda s, w, m: w.sort()[: len(w) - m].sum() * one_variance(1 - s)],
}

# ------------------------------------------------------------------ 6: the dimensionality of a feature


def directions(W):
    return W / W.norm(dim=1, keepdim=True).clamp_min(1e-12)


def dimensionality(W):
    crowd = (directions(W).mT @ W).pow(2).sum(dim=-1)
    return W.pow(2).sum(dim=1) / crowd.clamp_min(1e-12)


def dimensionality_by_loops(W):
    result = torch.zeros(W.shape[0], W.shape[2])
    for k, weights in enumerate(W):
        columns = weights.T.tolist()
        for i, one in enumerate(columns):
            length = math.hypot(*one)
            if length == 0:
                continue
            crowd = sum(
                (sum(a * b for a, b in zip(one, other, strict=True)) / length) ** 2 for other in columns
            )
            result[k, i] = length**2 / crowd
    return result


def dimensionality_of_gram(W):
    gram = W.mT @ W
    square = gram.diagonal(dim1=1, dim2=2)
    return torch.nan_to_num(square**2 / gram.square().sum(-1))


def dimensionality_in_place(W):
    lengths = W.norm(dim=1, keepdim=True).clamp_min(1e-12)
    W /= lengths
    crowd = (W.mT @ (W * lengths)).pow(2).sum(-1)
    return lengths[:, 0] ** 2 / crowd.clamp_min(1e-12)


def crowded_by(top: Callable, overlaps: Callable) -> Callable:
    """A numerator over the sum of squared overlaps."""
    return lambda W: top(W) / overlaps(W).square().sum(-1).clamp_min(1e-12)


def squares(W):
    return W.pow(2).sum(1)


def hat_dot(W):
    return directions(W).mT @ W


def off_diagonal(x):
    return x * (1 - torch.eye(x.shape[-1]))


DIMENSIONALITY_RIGHT = {
    "directions": dimensionality,
    "package": superposition.dimensionality,
    "loops": dimensionality_by_loops,
    "gram": dimensionality_of_gram,
    "einsum": lambda W: (
        squares(W) / torch.einsum("imj,imk->ijk", directions(W), W).square().sum(2)
    ).nan_to_num(0),
    "small eps": lambda W: (
        squares(W) / ((W / (W.norm(dim=1, keepdim=True) + 1e-6)).mT @ W).square().sum(-1).add(1e-8)
    ),
    "norms": lambda W: W.norm(dim=-2) ** 2 / torch.linalg.norm(hat_dot(W), dim=-1).clamp_min(1e-9) ** 2,
    "doubles": lambda W: dimensionality(W.double()),
    "numpy": lambda W: dimensionality(W).numpy(),
    "normalize": lambda W: crowded_by(squares, lambda W: F.normalize(W, dim=1).mT @ W)(W),
    "where": lambda W: torch.where(squares(W) > 0, squares(W) / hat_dot(W).square().sum(-1), 0.0),
}
DIMENSIONALITY_WRONG = {
    "shape": [
        lambda W: dimensionality(W)[..., None],
        lambda W: dimensionality(W).tolist(),
        lambda W: dimensionality(W).T,
        lambda W: float(dimensionality(W).mean()),
    ],
    "rows": [lambda W: dimensionality(W.mT)],
    "per_instance": [lambda W: dimensionality(W).mean(-1), lambda W: W.shape[1] / W.pow(2).sum((1, 2))],
    "pairs": [hat_dot, lambda W: squares(W)[..., None] / hat_dot(W).square()],
    "instances_mixed": [
        lambda W: dimensionality(W).mean(0),
        lambda W: squares(W) / torch.einsum("imj,kml->ijkl", directions(W), W).square().sum((2, 3)),
    ],
    "both_unit": [
        crowded_by(squares, lambda W: directions(W).mT @ directions(W)),
        crowded_by(lambda W: W.norm(dim=1), lambda W: directions(W).mT @ directions(W)),
    ],
    "not_unit": [
        crowded_by(squares, lambda W: W.mT @ W),
        crowded_by(lambda W: 1, lambda W: W.mT @ W),
        crowded_by(lambda W: 1, hat_dot),
    ],
    "other_unit": [
        crowded_by(squares, lambda W: W.mT @ directions(W)),
        lambda W: squares(W) / hat_dot(W).square().sum(1),
        lambda W: dimensionality(directions(W)),
        crowded_by(lambda W: 1, lambda W: directions(W).mT @ directions(W)),
    ],
    "length_not_squared": [crowded_by(lambda W: W.norm(dim=1), hat_dot)],
    "length_to_the_fourth": [crowded_by(lambda W: squares(W) ** 2, hat_dot)],
    "overlap_not_squared": [
        lambda W: squares(W) / hat_dot(W).sum(-1),
        lambda W: squares(W) / hat_dot(W).abs().sum(-1),
        lambda W: W.norm(dim=1) / hat_dot(W).sum(-1),
    ],
    "squared_late": [lambda W: squares(W) / hat_dot(W).sum(-1).square()],
    "without_itself": [crowded_by(squares, lambda W: off_diagonal(hat_dot(W)))],
    "upside_down": [lambda W: 1 / dimensionality(W), lambda W: hat_dot(W).square().sum(-1) / squares(W)],
    "averaged": [lambda W: squares(W) / hat_dot(W).square().mean(-1)],
    "wrong_axis": [
        crowded_by(squares, lambda W: (W / W.norm(dim=2, keepdim=True)).mT @ W),
        crowded_by(squares, lambda W: (W / W.norm(dim=0)).mT @ W),
        crowded_by(squares, lambda W: (W / W.norm()).mT @ W),
        crowded_by(squares, lambda W: (W / W.norm(dim=(1, 2), keepdim=True)).mT @ W),
    ],
    "as_a_share": [lambda W: F.normalize(dimensionality(W), p=1, dim=-1)],
    "average_dimensions": [lambda W: (W.shape[1] / W.pow(2).sum((1, 2)))[:, None].expand(-1, W.shape[2])],
    "in_place": [dimensionality_in_place],
    "not_a_number": [
        lambda W: squares(W) / ((W / W.norm(dim=1, keepdim=True)).mT @ W).square().sum(-1),
        lambda W: squares(W) / hat_dot(W).square().sum(-1),
    ],
    "not_zero": [
        lambda W: (squares(W) / hat_dot(W).square().sum(-1)).nan_to_num(1.0),
        lambda W: (squares(W) + 1e-9) / (hat_dot(W).square().sum(-1) + 1e-9),
    ],
    "something_else": [
        lambda W: dimensionality(W) * 2,
        lambda W: dimensionality(W).flip(-1),
        lambda W: torch.full_like(squares(W), W.shape[1] / W.shape[2]),
        lambda W: dimensionality(W) * float("nan"),
    ],
    STOPPED: [lambda: 1, lambda W: squares(W) / (W @ W).square().sum(-1)],
}

# ------------------------------------------------------------------ 7: the matched control


def matched_control(W, generator):
    drawn = torch.randn(W.shape, generator=generator)
    return drawn / drawn.norm(dim=1, keepdim=True) * W.norm(dim=1, keepdim=True)


def lengths(W):
    return W.norm(dim=1, keepdim=True)


def with_lengths_of(W, drawn):
    return F.normalize(drawn, dim=1) * lengths(W)


def control_column_by_column(W, generator):
    control = torch.empty_like(W)
    for i in range(W.shape[0]):
        for j in range(W.shape[2]):
            v = torch.randn(W.shape[1], generator=generator)
            control[i, :, j] = v / v.norm() * W[i, :, j].norm()
    return control


def control_by_rejection(W, generator):
    """Points of a cube that lie in the ball."""
    count, m = W.shape[0] * W.shape[2], W.shape[1]
    points = torch.rand(8 * count, m, generator=generator) * 2 - 1
    inside = points[points.norm(dim=1) <= 1][:count]
    return with_lengths_of(W, inside.view(W.shape[0], W.shape[2], m).mT)


def control_by_reflection(W, generator):
    """Each column is mirrored at a plane of its own that takes it to a random direction."""
    target = with_lengths_of(W, torch.randn(W.shape, generator=generator))
    normal_of = F.normalize(W - target, dim=1)
    return W - 2 * normal_of * (normal_of * W).sum(1, keepdim=True)


def control_by_numpy(W, generator):
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    drawn = rng.normal(size=tuple(W.shape))
    return drawn * (np.linalg.norm(W.numpy(), axis=1) / np.linalg.norm(drawn, axis=1))[:, None]


def rotated(W, generator, instances=None):
    q, _ = torch.linalg.qr(torch.randn(instances or len(W), W.shape[1], W.shape[1], generator=generator))
    return q @ W


def draw(W, generator):
    return torch.randn(W.shape, generator=generator)


def shuffled(values, generator, dim):
    return values.gather(dim, torch.rand(values.shape, generator=generator).argsort(dim))


def flipped(W, generator, shape):
    return W * (torch.randint(2, shape, generator=generator) * 2 - 1)


def from_orthogonal_bases(W, generator):
    bases = [
        torch.linalg.qr(torch.randn(len(W), 3, 3, generator=generator))[0] for _ in range(W.shape[2] // 3 + 1)
    ]
    signs = torch.randint(2, (len(W), 1, W.shape[2]), generator=generator) * 2 - 1
    return torch.cat(bases, dim=2)[..., : W.shape[2]] * lengths(W) * signs


def across_from(W, generator):
    """At right angles to W's own columns."""
    own, drawn = F.normalize(W, dim=1), torch.randn(W.shape, generator=generator)
    return with_lengths_of(W, drawn - own * (own * drawn).sum(1, keepdim=True))


def normalised_by_itself(W, generator):
    return draw(W, generator) / draw(W, generator).norm(dim=1, keepdim=True) * lengths(W)


def with_directions_permuted(W, generator):
    order = torch.randperm(W.shape[2], generator=generator)
    order = order[order != 5]  # the column of zeros has no direction to hand on
    control = torch.zeros_like(W)
    control[:, :, sorted(order.tolist())] = F.normalize(W[:, :, order], dim=1)
    return control * lengths(W)


CONTROL_RIGHT = {
    "normal draws": matched_control,
    "package": superposition.matched_control,
    "columns": control_column_by_column,
    "rejection": control_by_rejection,
    "reflection": control_by_reflection,
    "numpy": control_by_numpy,
    "normalize": lambda W, g: with_lengths_of(W, draw(W, g)),
    "other scale": lambda W, g: with_lengths_of(W, draw(W, g) * W.std()),
    "doubles": lambda W, g: with_lengths_of(W, torch.randn(W.shape, generator=g, dtype=torch.float64)),
    "columns first": lambda W, g: F.normalize(torch.randn(W.mT.shape, generator=g), dim=-1).mT * lengths(W),
    "turned each": lambda W, g: with_lengths_of(W, W * 1e-12 + draw(W, g)),
}
CONTROL_WRONG = {
    "shape": [
        lambda W, g: matched_control(W, g)[0],
        lambda W, g: matched_control(W, g).mT,
        lambda W, g: (matched_control(W, g), g),
    ],
    "in_place": [
        lambda W, g: W.copy_(matched_control(W, g)),
        lambda W, g: (matched_control(W, g), W.div_(2))[0],
    ],
    "not_a_number": [
        lambda W, g: draw(W, g) * W / W,
        lambda W, g: matched_control(W, g) / lengths(W) * lengths(W),
    ],
    "lengths_shuffled": [
        lambda W, g: W[:, :, torch.randperm(W.shape[2], generator=g)],
        lambda W, g: with_lengths_of(W, draw(W, g)).flip(-1),
        lambda W, g: F.normalize(draw(W, g), dim=1) * shuffled(lengths(W), g, 2),
    ],
    "rows": [lambda W, g: F.normalize(draw(W, g), dim=2) * W.norm(dim=2, keepdim=True)],
    "unit_length": [lambda W, g: F.normalize(draw(W, g), dim=1)],
    "squared": [
        lambda W, g: F.normalize(draw(W, g), dim=1) * W.pow(2).sum(1, keepdim=True),
        lambda W, g: F.normalize(draw(W, g), dim=1) * lengths(W).sqrt(),
    ],
    "total_length": [
        lambda W, g: (R := draw(W, g)) / R.norm() * W.norm(),
        lambda W, g: (R := draw(W, g)) * W.norm(dim=(1, 2), keepdim=True) / R.norm(dim=(1, 2), keepdim=True),
        lambda W, g: W.flatten()[torch.randperm(W.numel(), generator=g)].view_as(W),
    ],
    "lengths": [
        draw,
        lambda W, g: draw(W, g) * lengths(W),
        lambda W, g: draw(W, g) * lengths(W) / W.shape[1] ** 0.5,
        lambda W, g: draw(W, g) * W.std(),
        normalised_by_itself,
        lambda W, g: torch.zeros_like(W),
        lambda W, g: F.normalize(draw(W, g), dim=2) * lengths(W),
    ],
    "unchanged": [lambda W, g: W, lambda W, g: F.normalize(W, dim=1) * lengths(W)],
    "rotated": [
        rotated,
        functools.partial(rotated, instances=1),
        lambda W, g: W[:, torch.tensor([2, 0, 1])],
        lambda W, g: -W,
    ],
    "signs": [
        lambda W, g: flipped(W, g, (len(W), 1, W.shape[2])),
        lambda W, g: flipped(rotated(W, g), g, (1, 1, W.shape[2])),
    ],
    "permuted": [
        with_directions_permuted,
        lambda W, g: flipped(with_directions_permuted(W, g), g, (1, 1, W.shape[2])),
    ],
    "entries_reordered": [
        lambda W, g: shuffled(W, g, 1),
        lambda W, g: flipped(W, g, W.shape),
        lambda W, g: flipped(shuffled(W, g, 1), g, W.shape),
    ],
    "one_for_instances": [
        lambda W, g: with_lengths_of(W, torch.randn(W.shape[1:], generator=g).expand_as(W)),
        lambda W, g: with_lengths_of(W, torch.rand(W.shape[1:], generator=g).expand_as(W)),
    ],
    "repeated": [
        lambda W, g: with_lengths_of(W, torch.randn(*W.shape[:2], 1, generator=g).expand_as(W)),
        lambda W, g: with_lengths_of(W, torch.randn(*W.shape[:2], 20, generator=g).repeat(1, 1, 2)),
        lambda W, g: with_lengths_of(
            W, F.one_hot(torch.randint(3, W[:, 0].shape, generator=g), 3).mT.float()
        ),
    ],
    "leans_on_W": [
        lambda W, g: with_lengths_of(W, W + draw(W, g)),
        lambda W, g: with_lengths_of(W, W + 0.3 * draw(W, g)),
        lambda W, g: with_lengths_of(W, draw(W, g) - 0.5 * W),
        across_from,
    ],
    "one_sided": [
        lambda W, g: with_lengths_of(W, torch.rand(W.shape, generator=g)),
        lambda W, g: with_lengths_of(W, draw(W, g).abs()),
        lambda W, g: with_lengths_of(W, draw(W, g) + torch.tensor([0.5, 0, 0])[:, None]),
        lambda W, g: with_lengths_of(W, draw(W, g) * torch.tensor([2.0, 1, 1])[:, None]),
    ],
    "from_a_cube": [
        lambda W, g: with_lengths_of(W, torch.rand(W.shape, generator=g) - 0.5),
        lambda W, g: with_lengths_of(W, torch.empty_like(W).uniform_(-1, 1, generator=g)),
    ],
    "near_axes": [lambda W, g: with_lengths_of(W, draw(W, g) ** 3)],
    "not_independent": [from_orthogonal_bases],
    "global_generator": [
        lambda W, g: with_lengths_of(W, torch.randn_like(W)),
        lambda W, g: (torch.manual_seed(1), with_lengths_of(W, torch.randn_like(W)))[1],
    ],
    "same_again": [with_own_generator(matched_control), reseeded(matched_control)],
    "not_reproducible": [with_entropy(matched_control)],
    STOPPED: [
        lambda W: W,
        lambda W, g: torch.randn(W, generator=g),
        lambda W, g: draw(W, g) / W.norm(dim=2) * W.norm(dim=1),
    ],
}


# ------------------------------------------------------------------ 8: find the bug


def interference_with_bug(W):
    """As it stands in the notebook."""
    overlaps = directions(W).mT @ W
    return overlaps.pow(2).sum(dim=-1)


def interference(W):
    overlaps = directions(W).mT @ W
    overlaps = overlaps * (1 - torch.eye(W.shape[-1]))
    return overlaps.pow(2).sum(dim=-1)


def interference_by_loops(W):
    return torch.tensor(
        [
            [
                sum(
                    float(w[:, i] @ w[:, j]) ** 2 / float(w[:, i] @ w[:, i])
                    for j in range(w.shape[1])
                    if j != i and w[:, i].any()
                )
                for i in range(w.shape[1])
            ]
            for w in W
        ]
    )


def interference_masked(W):
    squared = hat_dot(W).square()
    squared[:, torch.arange(W.shape[2]), torch.arange(W.shape[2])] = 0
    return squared.sum(-1)


def interference_in_place(W):
    scale = lengths(W).clamp_min(1e-12)
    W /= scale
    return off_diagonal(W.mT @ (W * scale)).square().sum(-1)


INTERFERENCE_RIGHT = {
    "mask": interference,
    "package": superposition.interference,
    "subtracted": lambda W: hat_dot(W).square().sum(-1) - W.pow(2).sum(1),
    "loops": interference_by_loops,
    "indexed": interference_masked,
    "fill": lambda W: hat_dot(W).masked_fill(torch.eye(W.shape[2], dtype=torch.bool), 0).norm(dim=-1) ** 2,
    "diagonal": lambda W: (o := hat_dot(W).square()).sum(-1) - o.diagonal(dim1=-2, dim2=-1),
    "triangles": lambda W: hat_dot(W).triu(1).square().sum(-1) + hat_dot(W).tril(-1).square().sum(-1),
    "doubles": lambda W: interference(W.double().float()).double(),
    "gram": lambda W: (off_diagonal(W.mT @ W).square().sum(-1) / W.pow(2).sum(1)).nan_to_num(),
}
INTERFERENCE_WRONG = {
    "shape": [
        lambda W: interference(W)[..., None],
        lambda W: interference(W).tolist(),
        lambda W: float(interference(W).sum()),
    ],
    "rows": [lambda W: interference(W.mT)],
    "per_instance": [lambda W: interference(W).sum(-1)],
    "pairs": [lambda W: off_diagonal(hat_dot(W)).square()],
    "instances_mixed": [
        lambda W: interference(W).sum(0),
        lambda W: torch.einsum("imj,kml->ijkl", directions(W), W).square().sum((2, 3)) - squares(W),
    ],
    "still_itself": [interference_with_bug, lambda W: hat_dot(W).square().mean(-1)],
    "wrong_itself": [
        lambda W: interference_with_bug(W) - 1,
        lambda W: interference_with_bug(W) - W.norm(dim=1),
        lambda W: interference_with_bug(W) - squares(W) ** 2,
    ],
    "both_unit": [
        lambda W: off_diagonal(directions(W).mT @ directions(W)).square().sum(-1),
        lambda W: (directions(W).mT @ directions(W)).square().sum(-1) - 1,
        lambda W: interference(directions(W)),
        lambda W: (directions(W).mT @ directions(W)).square().sum(-1),
    ],
    "not_unit": [lambda W: off_diagonal(W.mT @ W).square().sum(-1), lambda W: (W.mT @ W).square().sum(-1)],
    "other_unit": [
        lambda W: off_diagonal(W.mT @ directions(W)).square().sum(-1),
        lambda W: off_diagonal(hat_dot(W)).square().sum(1),
    ],
    "not_squared": [
        lambda W: off_diagonal(hat_dot(W)).sum(-1),
        lambda W: off_diagonal(hat_dot(W)).abs().sum(-1),
        lambda W: hat_dot(W).sum(-1),
        lambda W: off_diagonal(hat_dot(W)).sum(-1) / (W.shape[-1] - 1),
    ],
    "squared_late": [lambda W: off_diagonal(hat_dot(W)).sum(-1) ** 2],
    "averaged": [
        lambda W: off_diagonal(hat_dot(W)).square().mean(-1),
        lambda W: interference(W) / (W.shape[-1] - 1),
    ],
    "rooted": [lambda W: interference(W).sqrt(), lambda W: off_diagonal(hat_dot(W)).norm(dim=-1)],
    "largest_only": [
        lambda W: off_diagonal(hat_dot(W)).square().amax(-1),
        lambda W: off_diagonal(hat_dot(W)).abs().max(dim=-1).values,
    ],
    "each_pair_once": [
        lambda W: hat_dot(W).triu(1).square().sum(-1),
        lambda W: hat_dot(W).tril(-1).square().sum(-1),
    ],
    "relative": [
        lambda W: interference(W) / squares(W),
        lambda W: interference(W) / interference_with_bug(W),
    ],
    "no_interference": [lambda W: torch.zeros_like(squares(W)), lambda W: interference_with_bug(W) * 0],
    "only_itself": [squares],
    "in_place": [interference_in_place],
    "not_a_number": [lambda W: off_diagonal((W / lengths(W)).mT @ W).square().sum(-1)],
    "not_zero": [lambda W: (off_diagonal((W / lengths(W)).mT @ W).square().sum(-1)).nan_to_num(1.0)],
    "something_else": [
        lambda W: interference(W) / 2,
        lambda W: -interference(W),
        lambda W: interference(W).flip(-1),
        lambda W: interference(W) * float("nan"),
    ],
    STOPPED: [lambda: 1, lambda W: hat_dot(W).fill_diagonal_(0).square().sum(-1)],
}

# ------------------------------------------------------------------ 9: the Welch bound


def welch_bound(N, m):
    return math.sqrt((N - m) / (m * (N - 1))) if m < N else 0.0


def unless_few(bound: Callable) -> Callable:
    return lambda N, m: bound(N, m) if m < N else 0.0


WELCH_RIGHT = {
    "formula": welch_bound,
    "package": superposition.welch_bound,
    "tensor": lambda N, m: torch.tensor((N - m) / (m * max(N - 1, 1))).clamp_min(0).sqrt(),
    "numpy": unless_few(lambda N, m: np.sqrt((N - m) / (m * (N - 1)))),
    "array": unless_few(lambda N, m: np.asarray((N / m - 1) / (N - 1)) ** 0.5),
    "whole zero": lambda N, m: 0 if m >= N else ((N - m) / m / (N - 1)) ** 0.5,
    "max": lambda N, m: max((N - m) / (m * max(N - 1, 1)), 0) ** 0.5,
    "nan": lambda N, m: torch.nan_to_num(((torch.tensor(float(N)) - m) / (m * (N - 1) or 1)).sqrt()),
}
WELCH_WRONG = {
    "shape": [
        lambda N, m: [welch_bound(N, m)],
        lambda N, m: torch.tensor([welch_bound(N, m)]),
        lambda N, m: str(welch_bound(N, m)),
    ],
    "squared": [unless_few(lambda N, m: (N - m) / (m * (N - 1)))],
    "swapped": [
        lambda m, N: welch_bound(N, m),
        lambda m, N: math.sqrt((N - m) / (m * (N - 1))),
        unless_few(lambda N, m: math.sqrt((N - m) / (N * (m - 1))) if m > 1 else math.inf),
    ],
    "one_over_root_m": [unless_few(lambda N, m: m**-0.5), unless_few(lambda N, m: 1 / m)],
    "no_minus_one": [unless_few(lambda N, m: math.sqrt((N - m) / (m * N)))],
    "parentheses": [
        unless_few(lambda N, m: math.sqrt((N - m) / m * (N - 1))),
        unless_few(lambda N, m: math.sqrt((N - m) / (m * N - 1))),
        unless_few(lambda N, m: math.sqrt(N - m) / (m * (N - 1))),
        unless_few(lambda N, m: (N - m) / math.sqrt(m * (N - 1))),
        unless_few(lambda N, m: math.sqrt(N - m / (m * (N - 1)))),
    ],
    "m_missing": [unless_few(lambda N, m: math.sqrt((N - m) / (N - 1)))],
    "inverse": [
        unless_few(lambda N, m: math.sqrt(m * (N - 1) / (N - m))),
        unless_few(lambda N, m: m * (N - 1) / (N - m)),
    ],
    "angle": [
        unless_few(lambda N, m: math.acos(welch_bound(N, m))),
        unless_few(lambda N, m: math.degrees(math.acos(welch_bound(N, m)))),
    ],
    "root_of_negative": [
        lambda N, m: ((m - N) / (m * (N - 1))) ** 0.5,
        lambda N, m: cmath.sqrt((m - N) / (m * N)),
    ],
    "not_zero": [
        lambda N, m: math.sqrt((N - m) / (m * (N - 1))),
        lambda N, m: ((N - m) / (m * (N - 1))) ** 0.5 if m != N else 0.0,
        lambda N, m: torch.tensor((N - m) / (m * max(N - 1, 1))).sqrt(),
        lambda N, m: math.sqrt(abs(N - m) / (m * (N - 1))),
        lambda N, m: welch_bound(N, m) if m < N else None,
        lambda N, m: welch_bound(N, m) if m < N else 1.0,
    ],
    "single": [
        lambda N, m: math.sqrt(max(N - m, 0) / (m * (N - 1))),
        lambda N, m: torch.tensor(max(N - m, 0.0)).div(m * (N - 1)).sqrt(),
    ],
    "something_else": [
        lambda N, m: 0.0,
        lambda N, m: 2 * welch_bound(N, m),
        lambda N, m: float("nan"),
        lambda N, m: -welch_bound(N, m),
    ],
    STOPPED: [lambda N: N, lambda N, m: torch.sqrt((N - m) / (m * (N - 1)))],
}

RIGHT = {
    "01.sparse_batch": BATCH_RIGHT,
    "01.reconstruct": RECONSTRUCT_RIGHT,
    "01.loss": LOSS_RIGHT,
    "01.candidates": CANDIDATES_RIGHT,
    "01.pca": LINEAR_RIGHT,
    "01.dimensionality": DIMENSIONALITY_RIGHT,
    "01.matched_control": CONTROL_RIGHT,
    "01.find_the_bug": INTERFERENCE_RIGHT,
    "01.welch": WELCH_RIGHT,
}
WRONG = {
    "01.sparse_batch": BATCH_WRONG,
    "01.reconstruct": RECONSTRUCT_WRONG,
    "01.loss": LOSS_WRONG,
    "01.candidates": CANDIDATES_WRONG,
    "01.pca": LINEAR_WRONG,
    "01.dimensionality": DIMENSIONALITY_WRONG,
    "01.matched_control": CONTROL_WRONG,
    "01.find_the_bug": INTERFERENCE_WRONG,
    "01.welch": WELCH_WRONG,
}
CONTEXTS = {exercise: [lambda tiny: {}] for exercise in RIGHT}  # the checks build their own cases
OF_CHANCE = ("01.sparse_batch", "01.matched_control")


@pytest.mark.parametrize("exercise", OF_CHANCE)
def test_chance_decides_nothing(exercise, monkeypatch):
    """Other draws, same verdict: a handful of seeds here, and bounds that hold with probability 1 - 1e-11."""
    one_of_each = [(mistake, answers[0]) for mistake, answers in WRONG[exercise].items()]
    answers = [("", next(iter(RIGHT[exercise].values()))), *one_of_each]
    module = sys.modules[grading.exercise(exercise).judge.__module__]
    for seed in range(1, 6):
        other_draws = Mock(side_effect=lambda k=0, seed=seed: tensors.seeded(1000 * seed + k))
        monkeypatch.setattr(module, "seeded", other_draws)
        told = [(mistake, grading.check(exercise, answer).mistake) for mistake, answer in answers]
        assert [pair for pair in told if pair[0] != pair[1]] == []
        assert other_draws.called  # else the check makes its generators elsewhere, and nothing was tried


@pytest.mark.parametrize("exercise", OF_CHANCE)
def test_a_check_leaves_the_global_generator_as_it_was(exercise):
    before = torch.get_rng_state()
    for answer in (next(iter(RIGHT[exercise].values())), *WRONG[exercise]["global_generator"]):
        grading.check(exercise, answer)
        assert torch.equal(torch.get_rng_state(), before)


def test_the_losses_expected_are_those_of_a_simulation():
    """Of the three candidates, and of a linear model that keeps the most important features."""
    p, importance = 0.3, 0.6
    W = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, -1.0]]])
    b = torch.tensor([[0.0, p / 2], [p / 2, 0.0], [0.0, 0.0]])
    weights, sparsity = torch.tensor([1.0, importance]), torch.full((3,), 1 - p)
    simulated = superposition.expected_loss(W, b, sparsity, weights, batch=400_000)
    torch.testing.assert_close(simulated, candidate_losses(p, importance), rtol=0.02, atol=0)
    assert grading.check("01.candidates", candidate_losses).status == "passed"
    kept = superposition.expected_loss(W[:1], b[:1], sparsity[:1], weights, relu=False, batch=400_000)
    torch.testing.assert_close(kept, best_linear_loss(sparsity[:1], weights, 1), rtol=0.02, atol=0)


def test_an_orthogonal_model_shows_the_bug():
    W = torch.eye(3)[None] * 2
    assert interference_with_bug(W).tolist() == [[4.0, 4.0, 4.0]]
    assert interference(W).tolist() == [[0.0, 0.0, 0.0]]


def test_what_was_seen_is_told_with_its_numbers():
    seen = grading.check("01.sparse_batch", batch_with(sparsity_from=lambda s: s[:, None] ** 2)).text
    assert "9% where 30% were asked for, 0% where 0% were asked for, 56% where 75% were asked for" in seen
    seen = grading.check("01.candidates", candidates_with(antipodal=lambda p, i: 0.0)).text
    assert "yours are 0.0465, 0.0775, 0.0000; they should be 0.0465, 0.0775, 0.0240." in seen
    seen = grading.check("01.welch", lambda N, m: math.sqrt((N - m) / (m * (N - 1)))).text
    assert "For N = 2 and m = 7 it stops with ValueError." in seen
