"""The checks of notebook 04: what passes, and which mistake each wrong answer is told to be."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mi_utils import grading
from mi_utils.grading.core import STOPPED

NAMES = [
    "patch_position",
    "recovery",
    "and_or",
    "attribute",
    "integrated",
    "gaussian",
    "mend_the_metric",
    "direct_effect",
]
CONTEXTS = {f"04.{name}": [lambda tiny: {}] for name in NAMES}  # each check makes its own cases


def after(function, change):
    """A function whose result is changed."""
    return lambda *args: change(function(*args))


# ------------------------------------------------------------------ 1: patch one position


def patch_position(corrupted, clean, position):
    patched = corrupted.clone()
    patched[:, position] = clean[:, position]
    return patched


def patch_by_cat(corrupted, clean, position):
    return torch.cat(
        [corrupted[:, :position], clean[:, position : position + 1], corrupted[:, position + 1 :]], dim=1
    )


def patch_by_where(corrupted, clean, position):
    here = (torch.arange(corrupted.shape[1]) == position)[None, :, None]
    return torch.where(here, clean, corrupted)


def patch_by_loops(corrupted, clean, position):
    rows = []
    for dirty, sound in zip(corrupted, clean, strict=True):
        rows.append(torch.stack([sound[i] if i == position else dirty[i] for i in range(len(dirty))]))
    return torch.stack(rows)


def patch_by_numpy(corrupted, clean, position):
    patched = corrupted.numpy().copy()
    patched[:, position] = clean[:, position]
    return patched


PATCH_RIGHT = {
    "clone": patch_position,
    "cat": patch_by_cat,
    "where": patch_by_where,
    "loops": patch_by_loops,
    "numpy": patch_by_numpy,
    "index_copy": lambda x, c, p: x.index_copy(1, torch.tensor([p]), c[:, [p]]),
    "select_scatter": lambda x, c, p: x.select_scatter(c[:, p], dim=1, index=p),
    "difference": lambda x, c, p: x + (c - x) * F.one_hot(torch.tensor(p), x.shape[1])[:, None],
    "double": lambda x, c, p: patch_position(x.double(), c.double(), p),
    "gradients": lambda x, c, p: patch_position(x.requires_grad_(), c, p),
}


def patch_slice(where):
    """Patches what ``where(position)`` says, on any axes."""

    def answer(corrupted, clean, position):
        patched = corrupted.clone()
        patched[where(position)] = clean[where(position)]
        return patched

    return answer


def patch_with(value):
    """Puts ``value(corrupted, clean, position)`` at the position."""

    def answer(corrupted, clean, position):
        patched = corrupted.clone()
        patched[:, position] = value(corrupted, clean, position)
        return patched

    return answer


def patch_in_place(corrupted, clean, position):
    corrupted[:, position] = clean[:, position]
    return corrupted


def patch_in_place_for_nothing(corrupted, clean, position):
    corrupted[:, position] = clean[:, position]


def patch_into_clean(corrupted, clean, position):
    patched = patch_position(corrupted, clean, position)
    clean[:, position] = corrupted[:, position]
    return patched


def patch_a_copy_of_the_slice(corrupted, clean, position):
    corrupted[:, position].clone().copy_(clean[:, position])
    return corrupted


ALL = slice(None)
PATCH_WRONG = {
    "shape": [
        lambda x, c, p: patch_position(x, c, p).tolist(),
        lambda x, c, p: patch_position(x, c, p)[0],
        lambda x, c, p: patch_position(x, c, p).mT,
        lambda x, c, p: (patch_position(x, c, p), c),
        lambda x, c, p: None,
    ],
    "position_only": [lambda x, c, p: c[:, p], lambda x, c, p: c[:, p : p + 1]],
    "whole_sequence": [patch_slice(lambda p: ALL), lambda x, c, p: c.clone(), lambda x, c, p: x + (c - x)],
    "returns_clean": [lambda x, c, p: c],
    "nothing_patched": [lambda x, c, p: x, lambda x, c, p: x.clone(), patch_a_copy_of_the_slice],
    "all_but_the_position": [
        lambda x, c, p: patch_position(c, x, p),
        lambda x, c, p: torch.where((torch.arange(x.shape[1]) == p)[:, None], x, c),
    ],
    "neighbour": [
        patch_slice(lambda p: (ALL, p - 1)),
        patch_slice(lambda p: (ALL, p + 1)),
        patch_with(lambda x, c, p: c[:, p - 1]),
    ],
    "other_position": [
        patch_slice(lambda p: (ALL, 0)),
        patch_slice(lambda p: (ALL, -1)),
        patch_with(lambda x, c, p: c[:, -1]),
        patch_slice(lambda p: (ALL, 2)),  # right in the first case
    ],
    "several_positions": [
        patch_slice(lambda p: (ALL, slice(p))),
        patch_slice(lambda p: (ALL, slice(p + 1))),
        patch_slice(lambda p: (ALL, slice(p, None))),
        lambda x, c, p: torch.cat([x[:, :p], c[:, p:]], dim=1),
    ],
    "one_row": [patch_slice(lambda p: (0, p)), patch_slice(lambda p: (-1, p))],
    "one_row_for_all": [patch_with(lambda x, c, p: c[0, p]), patch_with(lambda x, c, p: c[:, p].mean(0))],
    "wrong_axis": [patch_slice(lambda p: p), patch_slice(lambda p: (..., p))],
    "mixed": [
        patch_with(lambda x, c, p: x[:, p] + c[:, p]),
        patch_with(lambda x, c, p: (x[:, p] + c[:, p]) / 2),
        patch_with(lambda x, c, p: c[:, p] - x[:, p]),
        patch_with(lambda x, c, p: 0.0),
    ],
    "in_place": [patch_in_place, patch_in_place_for_nothing],
    "changes_clean": [patch_into_clean],
    "something_else": [lambda x, c, p: -patch_position(x, c, p), patch_with(lambda x, c, p: 1.0)],
    STOPPED: [lambda x, c: c, lambda x, c, p: x.clone().copy_(c[:, p])],
}

# ------------------------------------------------------------------ 2: the recovered share


def recovery(patched, clean, corrupted):
    gap = torch.as_tensor(clean - corrupted)
    if (gap.abs() < 1e-6).any():
        raise ValueError("nothing to recover")
    return (patched - corrupted) / gap


def recovery_builtin(patched, clean, corrupted):
    gap = clean - corrupted
    if torch.any(torch.as_tensor(abs(gap) < 1e-6)):
        raise ValueError(f"clean is {clean} and so is corrupted")
    return (patched - corrupted) / gap


def recovery_by_lists(patched, clean, corrupted):
    patched, clean, corrupted = torch.broadcast_tensors(*map(torch.as_tensor, (patched, clean, corrupted)))
    shares = []
    for p, c, x in zip(
        patched.flatten().tolist(), clean.flatten().tolist(), corrupted.flatten().tolist(), strict=True
    ):
        if abs(c - x) < 1e-6:
            raise ValueError("no difference")
        shares.append((p - x) / (c - x))
    return torch.tensor(shares).reshape(patched.shape)


def recovery_isclose(patched, clean, corrupted):
    patched, clean, corrupted = (torch.as_tensor(x, dtype=torch.float64) for x in (patched, clean, corrupted))
    if torch.isclose(clean, corrupted, rtol=0, atol=1e-6).any():
        raise ValueError("no difference")
    return ((patched - corrupted) / (clean - corrupted)).float()


def recovery_numpy(patched, clean, corrupted):
    patched, clean, corrupted = map(np.asarray, (patched, clean, corrupted))
    if np.any(np.abs(clean - corrupted) < 1e-6):
        raise ValueError("no difference")
    return (patched - corrupted) / (clean - corrupted)


RECOVERY_RIGHT = {
    "tensor": recovery,
    "builtin abs": recovery_builtin,
    "lists": recovery_by_lists,
    "isclose": recovery_isclose,
    "numpy": recovery_numpy,
    "one minus": lambda p, c, x: 1 - recovery(p, x, c),
    "item": lambda p, c, x: r.item() if (r := recovery(p, c, x)).ndim == 0 else r,
}


def guarded(share, error=ValueError):
    """``share(patched, clean, corrupted)`` behind the right test."""

    def answer(patched, clean, corrupted):
        if (torch.as_tensor(clean - corrupted).abs() < 1e-6).any():
            raise error("no difference")
        return share(patched, clean, corrupted)

    return answer


def behind(test, share=lambda p, c, x: (p - x) / (c - x)):
    """The right share behind another ``test(clean, corrupted)``."""

    def answer(patched, clean, corrupted):
        if test(clean, corrupted):
            raise ValueError("no difference")
        return share(patched, clean, corrupted)

    return answer


def recovery_in_place(patched, clean, corrupted):
    gap = recovery(patched, clean, corrupted)
    patched = torch.as_tensor(patched)
    patched -= corrupted
    return gap


def recovery_asserts(patched, clean, corrupted):
    assert (torch.as_tensor(clean - corrupted).abs() > 1e-6).all(), "no difference"
    return (patched - corrupted) / (clean - corrupted)


def gap_of(c, x):
    return torch.as_tensor(c - x)


def tensor_of(p):
    return torch.as_tensor(p)


RECOVERY_WRONG = {
    "shape": [
        guarded(lambda p, c, x: ((p - x) / (c - x)).tolist()),
        guarded(lambda p, c, x: ((p - x) / (c - x))[None]),
        guarded(lambda p, c, x: str(p)),
        guarded(lambda p, c, x: ((p - x) / (c - x), p)),
    ],
    "averaged": [after(recovery, torch.mean), after(recovery, lambda r: r.mean(-1) if r.ndim else r)],
    "swapped": [
        lambda p, c, x: recovery(p, x, c),
        guarded(lambda p, c, x: (p - c) / (x - c)),
        guarded(lambda p, c, x: (c - p) / (c - x)),
    ],
    "negative": [guarded(lambda p, c, x: (x - p) / (c - x)), guarded(lambda p, c, x: (p - x) / (x - c))],
    "other_denominator": [
        guarded(lambda p, c, x: p / c),
        guarded(lambda p, c, x: (p - x) / c),
        guarded(lambda p, c, x: (p - x) / x),
        guarded(lambda p, c, x: p / (c - x)),
        guarded(lambda p, c, x: (p - c) / c),
    ],
    "not_divided": [
        guarded(lambda p, c, x: p - x),
        guarded(lambda p, c, x: c - p),
        guarded(lambda p, c, x: p),
    ],
    "absolute": [
        after(recovery, abs),
        guarded(lambda p, c, x: abs(p - x) / abs(c - x)),
        guarded(lambda p, c, x: abs(p - x) / (c - x)),
    ],
    "absolute_gap": [
        guarded(lambda p, c, x: (p - x) / abs(c - x)),
        lambda p, c, x: (p - x) / abs(c - x),
        lambda p, c, x: (p - x) / (abs(c - x) + 1e-6),
    ],
    "clamped": [
        after(recovery, lambda r: r.clamp(0, 1)),
        after(recovery, lambda r: r.clamp(min=0)),
        after(recovery, F.relu),
        after(recovery, lambda r: r.clamp(max=1)),
        after(recovery, torch.sigmoid),
    ],
    "upside_down": [guarded(lambda p, c, x: (c - x) / (p - x))],
    "percent": [guarded(lambda p, c, x: 100 * (p - x) / (c - x))],
    "numbers_only": [
        behind(lambda c, x: abs(c - x) < 1e-6),
        behind(lambda c, x: math.isclose(c, x, abs_tol=1e-6)),
        lambda p, c, x: float(recovery(p, c, x)),
        lambda p, c, x: round(recovery(p, c, x).item(), 6),
    ],
    "tensors_only": [
        behind(lambda c, x: ((c - x).abs() < 1e-6).any()),
        behind(lambda c, x: torch.isclose(c, x, atol=1e-6).any()),
        behind(lambda c, x: (abs(c - x) < 1e-6).any()),
    ],
    "refuses_sound": [
        behind(lambda c, x: (gap_of(c, x) < 1e-6).any()),
        behind(lambda c, x: (gap_of(c, x).abs() < 0.1).any()),
        behind(lambda c, x: (gap_of(c, x) <= 0).any()),
        behind(lambda c, x: torch.as_tensor(c).ndim and not (gap_of(c, x) > 1e-6).all()),
    ],
    "no_error": [
        lambda p, c, x: (tensor_of(p) - x) / (c - x),
        lambda p, c, x: torch.nan_to_num((tensor_of(p) - x) / (c - x)),
        lambda p, c, x: torch.nan_to_num((tensor_of(p) - x) / (c - x), posinf=0.0, neginf=0.0),
        lambda p, c, x: (p - x) / (c - x) if torch.as_tensor(c != x).all() else float("nan"),
        behind(lambda c, x: torch.as_tensor(c).ndim and c is x, lambda p, c, x: (tensor_of(p) - x) / (c - x)),
    ],
    "epsilon": [
        lambda p, c, x: (p - x) / (c - x + 1e-6),
        lambda p, c, x: (p - x) / (c - x + 1e-8),
        lambda p, c, x: (p - x) / (c - x + 5e-6),
        lambda p, c, x: (p - x) / (c - x + 1e-3),
        lambda p, c, x: (p - x) / (c - x + torch.finfo(torch.float32).eps),
        lambda p, c, x: (p - x) / (gap_of(c, x) + 1e-6 * gap_of(c, x).sign() + 1e-12),
        lambda p, c, x: (p - x) / gap_of(c, x).clamp(min=1e-6),
        lambda p, c, x: (p - x) / torch.where(gap_of(c, x).abs() < 1e-6, 1e-6, gap_of(c, x)),
        guarded(lambda p, c, x: (p - x) / (c - x + 1e-6)),
    ],
    "only_if_all": [
        behind(lambda c, x: (gap_of(c, x).abs() < 1e-6).all()),
        behind(lambda c, x: torch.allclose(torch.as_tensor(c), torch.as_tensor(x), atol=1e-6)),
        behind(lambda c, x: abs(gap_of(c, x).mean()) < 1e-6),
    ],
    "exact_only": [
        behind(lambda c, x: torch.as_tensor(c == x).any()),
        behind(lambda c, x: (gap_of(c, x) == 0).any()),
        behind(lambda c, x: (gap_of(c, x).abs() < 1e-12).any()),
    ],
    "other_error": [
        lambda p, c, x: (p - x) / (c - x),  # numbers: ZeroDivisionError
        recovery_asserts,
        guarded(lambda p, c, x: (p - x) / (c - x), error=RuntimeError),
    ],
    "in_place": [recovery_in_place],
    "something_else": [
        guarded(lambda p, c, x: ((p - x) / (c - x)) ** 2),
        guarded(lambda p, c, x: 0 * (p + c + x)),
    ],
    STOPPED: [lambda p, c: p - c, lambda p, c, x: torch.div(p - x, c - x, rounding="none")],
}

# ------------------------------------------------------------------ 3: AND and OR

CASES = list(itertools.product(("or", "and"), ("denoising", "noising")))


def gates(*answers):
    return dict(zip(CASES, answers, strict=True))


AND_OR_RIGHT = {
    "bools": gates(True, False, False, True),
    "numbers": gates(1, 0, 0, 1),
    "numpy": gates(*np.array([True, False, False, True])),
    "tensors": gates(*torch.tensor([True, False, False, True])),
    "another order": dict(reversed(gates(True, False, False, True).items())),
}
AND_OR_WRONG = {
    "not_a_dictionary": [(True, False, False, True), [True, False, False, True], "or", True],
    "keys": [
        {},
        {("or", "denoising"): True, ("or", "noising"): False},
        {("OR", "denoising"): True, **gates(True, False, False, True)},
        {"or": True, "and": False},
    ],
    "not_true_or_false": [
        gates("True", "False", "False", "True"),
        gates(True, False, False, 0.5),
        gates(True, False, False, [True]),
        gates(True, False, False, torch.tensor([True, False])),
    ],
    "swapped": [gates(False, True, True, False)],
    "always": [gates(True, True, True, True)],
    "never": [gates(False, False, False, False)],
    "directions_agree": [gates(True, True, False, False), gates(False, False, True, True)],
    "gates_alike": [gates(True, False, True, False), gates(False, True, False, True)],
    "or_wrong": [gates(True, True, False, True), gates(False, False, False, True)],
    "and_wrong": [gates(True, False, True, True), gates(True, False, False, False)],
    "several_wrong": [
        gates(False, True, True, True),
        gates(False, True, False, False),
        gates(True, True, True, False),
        gates(False, False, True, False),
    ],
}

# ------------------------------------------------------------------ 4: attribution patching


def attribute(gradients, clean, corrupted):
    return ((clean - corrupted) * gradients["corrupted"]).sum(dim=-1)


def attribute_by_loops(gradients, clean, corrupted):
    slope = gradients["corrupted"]
    batch, pos, _ = slope.shape
    rows = [[float((clean[b, p] - corrupted[b, p]) @ slope[b, p]) for p in range(pos)] for b in range(batch)]
    return torch.tensor(rows)


ATTRIBUTE_RIGHT = {
    "product": attribute,
    "einsum": lambda g, c, x: torch.einsum("bpd,bpd->bp", c - x, g["corrupted"]),
    "vecdot": lambda g, c, x: torch.linalg.vecdot(c - x, g["corrupted"]),
    "matmul": lambda g, c, x: ((c - x)[..., None, :] @ g["corrupted"][..., None])[..., 0, 0],
    "two terms": lambda g, c, x: (c * g["corrupted"]).sum(-1) - (x * g["corrupted"]).sum(-1),
    "loops": attribute_by_loops,
    "double": lambda g, c, x: attribute({k: v.double() for k, v in g.items()}, c.double(), x.double()),
    "numpy": lambda g, c, x: ((c - x) * g["corrupted"]).sum(-1).numpy(),
}


def sloped(combine):
    """From the step and the two gradients."""
    return lambda g, c, x: combine(c - x, g["corrupted"], g["clean"])


def attribute_in_place(gradients, clean, corrupted):
    clean -= corrupted
    return (clean * gradients["corrupted"]).sum(-1)


def attribute_into_the_gradient(gradients, clean, corrupted):
    gradients["corrupted"] *= clean - corrupted
    return gradients["corrupted"].sum(-1)


ATTRIBUTE_WRONG = {
    "shape": [
        after(attribute, lambda a: a.mT),
        after(attribute, lambda a: a[..., None]),
        after(attribute, lambda a: a.tolist()),
        sloped(lambda step, g, _: step @ g.mT),
        lambda g, c, x: g,
    ],
    "over_positions": [
        after(attribute, lambda a: a.sum(-1)),
        after(attribute, torch.sum),
        sloped(lambda s, g, _: (s * g).sum((1, 2))),
        sloped(lambda s, g, _: (s * g).mean().item()),
    ],
    "over_batch": [
        after(attribute, lambda a: a.sum(0)),
        after(attribute, lambda a: a.mean(0)),
        sloped(lambda s, g, _: (s * g).sum(0)),
        sloped(lambda s, g, _: (s * g).mean((0, 1))),
    ],
    "not_summed": [sloped(lambda s, g, _: s * g)],
    "over_wrong_axis": [sloped(lambda s, g, _: (s * g).sum(1))],
    "other_gradient": [sloped(lambda s, _, g: (s * g).sum(-1))],
    "reversed": [sloped(lambda s, g, _: (-s * g).sum(-1)), lambda g, c, x: attribute(g, x, c)],
    "noising": [lambda g, c, x: ((x - c) * g["clean"]).sum(-1)],
    "both_gradients": [
        sloped(lambda s, g, o: (s * (g + o) / 2).sum(-1)),
        sloped(lambda s, g, o: (s * (g + o)).sum(-1)),
        sloped(lambda s, g, o: (-s * (g + o) / 2).sum(-1)),
    ],
    "absolute": [
        after(attribute, abs),
        sloped(lambda s, g, _: (s * g).abs().sum(-1)),
        sloped(lambda s, g, _: (s.abs() * g.abs()).sum(-1)),
        sloped(lambda s, _, g: (s * g).sum(-1).abs()),
    ],
    "mean_over_d_model": [sloped(lambda s, g, _: (s * g).mean(-1)), sloped(lambda s, _, g: (s * g).mean(-1))],
    "squared": [
        sloped(lambda s, g, _: (s * g).square().sum(-1)),
        sloped(lambda s, g, _: (s * g).norm(dim=-1)),
    ],
    "no_difference": [
        lambda g, c, x: (c * g["corrupted"]).sum(-1),
        lambda g, c, x: (c * g["clean"]).sum(-1),
        lambda g, c, x: (x * g["corrupted"]).sum(-1),
        lambda g, c, x: (x * g["clean"]).sum(-1),
    ],
    "gradient_alone": [
        sloped(lambda s, g, _: g.sum(-1)),
        sloped(lambda s, g, _: g.norm(dim=-1)),
        sloped(lambda s, _, g: g.norm(dim=-1)),
    ],
    "no_gradient": [sloped(lambda s, g, _: s.sum(-1)), sloped(lambda s, g, _: s.norm(dim=-1))],
    "direction_only": [
        sloped(lambda s, g, _: F.cosine_similarity(s, g, dim=-1)),
        sloped(lambda s, g, _: (F.normalize(s, dim=-1) * g).sum(-1)),
        sloped(lambda s, g, _: (s * F.normalize(g, dim=-1)).sum(-1)),
    ],
    "lengths": [sloped(lambda s, g, _: s.norm(dim=-1) * g.norm(dim=-1))],
    "slopes_subtracted": [
        sloped(lambda s, g, o: (s * (o - g)).sum(-1)),
        lambda g, c, x: (c * g["clean"] - x * g["corrupted"]).sum(-1),
    ],
    "in_place": [attribute_in_place, attribute_into_the_gradient],
    "something_else": [
        after(attribute, lambda a: 2 * a),
        after(attribute, lambda a: a - a.mean()),
        after(attribute, lambda a: a.roll(1, -1)),
    ],
    STOPPED: [lambda g, c, x: g * (c - x), lambda g, c, x: g["dirty"], lambda c, x: c],
}

# ------------------------------------------------------------------ 5: integrated gradients


def integrated(gradient, clean, corrupted, steps):
    step = clean - corrupted
    total = torch.zeros_like(step)
    for k in range(steps):
        total = total + gradient(corrupted + (k + 0.5) / steps * step)
    return (step * total / steps).sum(dim=-1)


def integrated_from_clean(gradient, clean, corrupted, steps):
    """Down the line from the clean end: the same points."""
    slopes = [gradient(clean + (k + 0.5) / steps * (corrupted - clean)) for k in range(steps)]
    return ((clean - corrupted) * torch.stack(slopes).mean(0)).sum(-1)


def integrated_at_once(gradient, clean, corrupted, steps):
    """All points in one call."""
    fractions = ((torch.arange(steps) + 0.5) / steps)[:, None, None, None]
    slopes = gradient(corrupted + fractions * (clean - corrupted))
    return torch.einsum("sbpd,bpd->bp", slopes, clean - corrupted) / steps


def integrated_blend(gradient, clean, corrupted, steps):
    result = 0.0
    for alpha in np.linspace(0.5 / steps, 1 - 0.5 / steps, steps):
        result = result + (
            (clean - corrupted) / steps * gradient((1 - alpha) * corrupted + alpha * clean)
        ).sum(-1)
    return result


INTEGRATED_RIGHT = {
    "loop": integrated,
    "from clean": integrated_from_clean,
    "at once": integrated_at_once,
    "blend": integrated_blend,
    "lerp": lambda g, c, x, n: sum(
        torch.linalg.vecdot(c - x, g(torch.lerp(x, c, (k + 0.5) / n))) / n for k in reversed(range(n))
    ),
    "gradients": lambda g, c, x, n: integrated(g, c.requires_grad_(), x.requires_grad_(), n),
    "double": lambda g, c, x, n: integrated(g, c.double(), x.double(), n),
}


def along(points, *, start=lambda c, x: x, step=lambda c, x: c - x, by=lambda c, x: c - x, divide=len):
    """Gradients at ``points(steps)`` of the way along ``start + fraction * step``, averaged, times ``by``."""

    def answer(gradient, clean, corrupted, steps):
        fractions = points(steps)
        slopes = [gradient(start(clean, corrupted) + a * step(clean, corrupted)) for a in fractions]
        return (by(clean, corrupted) * sum(slopes) / divide(fractions)).sum(-1)

    return answer


def middles(n):
    return [(k + 0.5) / n for k in range(n)]


def left(n):
    return [k / n for k in range(n)]


def right_ends(n):
    return [(k + 1) / n for k in range(n)]


def linspace(n):
    return torch.linspace(0, 1, n).tolist()


def trapezoid(gradient, clean, corrupted, steps):
    slopes = torch.stack([gradient(corrupted + k / steps * (clean - corrupted)) for k in range(steps + 1)])
    return ((clean - corrupted) * torch.trapezoid(slopes, dx=1 / steps, dim=0)).sum(-1)


def walks_in_place(gradient, clean, corrupted, steps):
    total, x, step = 0, corrupted, (clean - corrupted) / steps
    x += step / 2
    for _ in range(steps):
        total = total + gradient(x)
        x += step
    return ((clean - corrupted) * total / steps).sum(-1)


def subtracts_in_place(gradient, clean, corrupted, steps):
    result = integrated(gradient, clean, corrupted, steps)
    clean -= corrupted
    return result


def one_position_at_a_time(gradient, clean, corrupted, steps):
    columns = []
    for p in range(clean.shape[1]):
        moved = patch_position(corrupted, clean, p)
        columns.append(integrated(gradient, moved, corrupted, steps)[:, p])
    return torch.stack(columns, dim=1)


def random_points(n):
    return torch.rand(n, generator=torch.Generator().manual_seed(0)).tolist()


def minus(c, x):
    return x - c


def zero(c, x):
    return torch.zeros_like(c)


INTEGRATED_WRONG = {
    "shape": [
        after(integrated, lambda a: a.mT),
        after(integrated, lambda a: a.tolist()),
        lambda g, c, x, n: None,
    ],
    "over_positions": [after(integrated, lambda a: a.sum(-1)), after(integrated, lambda a: a.sum().item())],
    "over_batch": [after(integrated, lambda a: a.mean(0))],
    "not_summed": [lambda g, c, x, n: (c - x) * sum(g(x + a * (c - x)) for a in middles(n)) / n],
    "over_wrong_axis": [
        lambda g, c, x, n: ((c - x) * sum(g(x + a * (c - x)) for a in middles(n)) / n).sum(1)
    ],
    "summed": [along(middles, divide=lambda a: 1)],
    "reversed": [
        along(middles, by=minus),
        along(middles, start=lambda c, x: c, step=minus, by=minus),
        lambda g, c, x, n: integrated(g, x, c, n),
    ],
    "from_zero": [
        along(middles, start=zero, step=lambda c, x: c, by=lambda c, x: c),
        along(middles, start=zero, step=lambda c, x: c),
        along(right_ends, start=zero, step=lambda c, x: c, by=lambda c, x: c),
        along(right_ends, start=zero, step=lambda c, x: c),
        along(left, start=zero, step=lambda c, x: c, by=lambda c, x: c),
        along(middles, start=zero, step=lambda c, x: c, divide=lambda a: 1),
    ],
    "start_left_out": [along(middles, start=zero), along(right_ends, start=zero), along(left, start=zero)],
    "walks_away": [
        along(middles, step=minus),
        along(middles, start=lambda c, x: c),
        along(left, start=lambda c, x: c),
    ],
    "left_ends": [along(left)],
    "right_ends": [along(right_ends), along(left, start=lambda c, x: c, step=minus)],
    "both_ends": [along(linspace)],
    "more_points": [along(lambda n: linspace(n + 1))],
    "trapezoid": [trapezoid],
    "one_gradient": [lambda g, c, x, n: ((c - x) * g(x)).sum(-1)],
    "clean_gradient": [lambda g, c, x, n: ((c - x) * g(c)).sum(-1)],
    "only_ends": [lambda g, c, x, n: ((c - x) * (g(c) + g(x)) / 2).sum(-1)],
    "middle_only": [
        lambda g, c, x, n: ((c - x) * g((c + x) / 2)).sum(-1),
        lambda g, c, x, n: integrated(g, c, x, 1),
    ],
    "times_activation": [along(middles, by=lambda c, x: c), along(middles, by=lambda c, x: x)],
    "no_step": [along(middles, by=lambda c, x: 1.0), along(middles, by=lambda c, x: 1.0, divide=lambda a: 1)],
    "step_each_time": [along(middles, by=lambda c, x: c - x, divide=lambda a: len(a) ** 2)],
    "mean_over_d_model": [
        lambda g, c, x, n: ((c - x) * sum(g(x + a * (c - x)) for a in middles(n)) / n).mean(-1)
    ],
    "absolute": [
        after(integrated, abs),
        lambda g, c, x, n: ((c - x) * sum(g(x + a * (c - x)) for a in middles(n)) / n).abs().sum(-1),
    ],
    "points_and_sign": [along(left, by=minus), along(right_ends, by=minus), along(linspace, by=minus)],
    "points_and_sum": [
        along(left, divide=lambda a: 1),
        along(right_ends, divide=lambda a: 1),
        along(linspace, divide=lambda a: 1),
        along(lambda n: linspace(n + 1), divide=lambda a: len(a) - 1),
    ],
    "never_asked": [lambda g, c, x, n: (c - x).sum(-1), lambda g, c, x, n: torch.zeros(c.shape[:2])],
    "off_the_line": [
        one_position_at_a_time,
        lambda g, c, x, n: ((c - x) * sum(g(x + a * (c - x) ** 2) for a in middles(n)) / n).sum(-1),
    ],
    "other_count": [
        lambda g, c, x, n: integrated(g, c, x, 10),
        lambda g, c, x, n: integrated(g, c, x, 2 * n),
    ],
    "other_points": [
        along(random_points),
        along(lambda n: [(k + 0.5) / (n + 1) for k in range(n)]),
        along(lambda n: [(k + 1) / (n + 1) for k in range(n)]),
        along(lambda n: [k + 0.5 for k in range(n)]),
    ],
    "in_place": [walks_in_place, subtracts_in_place],
    "something_else": [
        along(middles, by=lambda c, x: (c - x) ** 2),
        after(integrated, lambda a: a / 2),
        after(integrated, lambda a: a - a.mean()),
    ],
    STOPPED: [
        lambda c, x, n: c,
        lambda g, c, x, n: (g * (c - x)).sum(-1),
        lambda g, c, x, n: ((c - x) * g(0.5)).sum(-1),
    ],
}

# ------------------------------------------------------------------ 6: noise


def gaussian_corruption(embedding, positions, scale, generator):
    noisy = embedding.clone()
    noisy[:, positions] += scale * torch.randn(noisy[:, positions].shape, generator=generator)
    return noisy


def gaussian_by_mask(embedding, positions, scale, generator):
    mask = torch.zeros(embedding.shape[1])
    mask[positions] = 1
    return embedding + torch.randn(embedding.shape, generator=generator) * scale * mask[:, None]


def gaussian_by_loops(embedding, positions, scale, generator):
    noisy = embedding.clone()
    for row in noisy:
        for position in positions:
            row[position] += torch.normal(0.0, scale, (noisy.shape[-1],), generator=generator)
    return noisy


def gaussian_by_index_add(embedding, positions, scale, generator):
    batch, _, d_model = embedding.shape
    noise = torch.empty(batch, len(positions), d_model).normal_(0, scale, generator=generator)
    return embedding.index_add(1, torch.tensor(positions), noise)


def gaussian_by_normal(embedding, positions, scale, generator):
    noisy = embedding.double()
    noisy[:, positions] = torch.normal(noisy[:, positions], scale, generator=generator)
    return noisy


GAUSSIAN_RIGHT = {
    "randn": gaussian_corruption,
    "mask": gaussian_by_mask,
    "loops": gaussian_by_loops,
    "index_add": gaussian_by_index_add,
    "normal, double": gaussian_by_normal,
    "numpy": lambda e, p, s, g: gaussian_corruption(e, p, s, g).numpy(),
}


def noise_at(where=lambda p, e: (ALL, p), *, draw=None, put=lambda old, noise: old + noise):
    """Noise ``draw(shape, scale, generator)`` put at ``where(positions, embedding)``."""
    draw = draw or (lambda shape, scale, generator: scale * torch.randn(shape, generator=generator))

    def answer(embedding, positions, scale, generator):
        noisy = embedding.clone()
        index = where(positions, embedding)
        noisy[index] = put(noisy[index], draw(noisy[index].shape, scale, generator))
        return noisy

    return answer


def drawn(draw):
    return noise_at(draw=draw)


def normal(shape, g):
    return torch.randn(shape, generator=g)


def gaussian_in_place(embedding, positions, scale, generator):
    embedding[:, positions] += scale * torch.randn(embedding[:, positions].shape, generator=generator)
    return embedding


def gaussian_in_place_for_nothing(embedding, positions, scale, generator):
    gaussian_in_place(embedding, positions, scale, generator)


def gaussian_lost(embedding, positions, scale, generator):
    noisy = embedding.clone()
    noisy[:, positions].add_(torch.randn(noisy[:, positions].shape, generator=generator))
    return noisy


def reseeds(embedding, positions, scale, generator):
    torch.manual_seed(0)
    noisy = embedding.clone()
    noisy[:, positions] += scale * torch.randn_like(noisy[:, positions])
    return noisy


def own_generator(embedding, positions, scale, generator):
    return gaussian_corruption(embedding, positions, scale, torch.Generator().manual_seed(3))


def one_at_a_time(embedding, positions, scale, generator):
    """Starts again from the clean embedding: only the last position is left."""
    for position in positions:
        noisy = embedding.clone()
        noisy[:, position] += scale * torch.randn(noisy[:, position].shape, generator=generator)
    return noisy


def scaled(size):
    return noise_at(draw=lambda shape, s, g: size(s) * normal(shape, g))


def laplace(shape, s, g):
    u = torch.rand(shape, generator=g) - 0.5
    return -s / math.sqrt(2) * u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.4999999))


GAUSSIAN_WRONG = {
    "shape": [
        lambda e, p, s, g: gaussian_corruption(e, p, s, g)[:, p],
        lambda e, p, s, g: gaussian_corruption(e, p, s, g).tolist()[:1],
        lambda e, p, s, g: (gaussian_corruption(e, p, s, g), p),
        lambda e, p, s, g: None,
    ],
    "not_finite": [lambda e, p, s, g: gaussian_corruption(e, p, s, g) / 0],
    "no_noise": [lambda e, p, s, g: e, gaussian_lost, scaled(lambda s: 0.0)],
    "everywhere": [
        lambda e, p, s, g: e + s * normal(e.shape, g),
        lambda e, p, s, g: gaussian_by_mask(e, list(range(e.shape[1])), s, g),
        lambda e, p, s, g: s * normal(e.shape, g),
    ],
    "wrong_axis": [noise_at(lambda p, e: p), noise_at(lambda p, e: (..., p))],
    "other_positions": [
        noise_at(lambda p, e: (ALL, [i + 1 for i in p])),
        noise_at(lambda p, e: (ALL, [i - 1 for i in p])),
        noise_at(lambda p, e: (ALL, [-1])),
        noise_at(lambda p, e: (ALL, [i for i in range(e.shape[1]) if i not in p])),
        noise_at(lambda p, e: (ALL, [1, 4] if e.shape[1] == 6 else [1])),  # right in the first case
        noise_at(lambda p, e: (ALL, slice(p[0], p[-1] + 1))),
    ],
    "some_left_out": [
        noise_at(lambda p, e: (0, p)),
        noise_at(lambda p, e: (ALL, p[0])),
        one_at_a_time,
    ],
    "replaced": [
        noise_at(put=lambda old, noise: noise),
        noise_at(put=lambda old, noise: 0 * old + 3 * noise),
        lambda e, p, s, g: torch.where(
            torch.isin(torch.arange(e.shape[1]), torch.tensor(p))[:, None], 0.0, e
        ),
    ],
    "multiplied": [
        noise_at(put=lambda old, noise: old * (1 + noise)),
        noise_at(put=lambda o, n: o + o.abs() * n),
    ],
    "shared": [
        drawn(lambda shape, s, g: s * normal(shape[-1:], g)),
        drawn(lambda shape, s, g: s * normal((1, *shape[1:]), g)),
        drawn(lambda shape, s, g: s * normal((shape[0], 1, shape[2]), g)),
        drawn(lambda shape, s, g: s * normal((*shape[:2], 1), g)),
        drawn(lambda shape, s, g: s * normal((), g)),
    ],
    "not_centred": [
        drawn(lambda shape, s, g: s * torch.rand(shape, generator=g)),
        drawn(lambda shape, s, g: s * normal(shape, g).abs()),
        drawn(lambda shape, s, g: torch.normal(s, 1.0, shape, generator=g)),
    ],
    "uniform": [
        drawn(lambda shape, s, g: s * (2 * torch.rand(shape, generator=g) - 1)),
        drawn(lambda shape, s, g: s * math.sqrt(12) * (torch.rand(shape, generator=g) - 0.5)),
        drawn(lambda shape, s, g: s * normal(shape, g).sign()),
    ],
    "not_normal": [
        drawn(laplace),
        drawn(lambda shape, s, g: s * normal(shape, g) ** 3),
        drawn(lambda shape, s, g: s * normal(shape, g) * normal(shape, g)),
    ],
    "variance": [scaled(math.sqrt)],
    "squared": [scaled(lambda s: s**2)],
    "ignores_scale": [scaled(lambda s: 1.0)],
    "relative": [
        lambda e, p, s, g: gaussian_corruption(e, p, s * e.std().item(), g),
        lambda e, p, s, g: gaussian_corruption(e, p, s * e[:, p].std().item(), g),
        lambda e, p, s, g: gaussian_corruption(e, p, s * e.square().mean().sqrt().item(), g),
    ],
    "other_scale": [scaled(lambda s: 3 * s), scaled(lambda s: 0.1), scaled(lambda s: s / 2000**0.5)],
    "global_generator": [
        drawn(lambda shape, s, g: s * torch.randn(shape)),
        reseeds,
        drawn(lambda shape, s, g: s * torch.from_numpy(np.random.default_rng().normal(size=shape)).float()),
    ],
    "own_seed": [own_generator, lambda e, p, s, g: gaussian_corruption(e, p, s, g.manual_seed(0))],
    "in_place": [gaussian_in_place, gaussian_in_place_for_nothing],
    STOPPED: [
        lambda e, p, s: e,
        lambda e, p, s, g: e[:, p] + s * normal(e.shape, g),
        lambda e, p, s, g: e + torch.randn(e.shape, seed=g),
    ],
}

# ------------------------------------------------------------------ 7: find the bug


def effect(patched, corrupted, answer, wrong):
    rows = torch.arange(len(answer))
    change = patched - corrupted
    return change[rows, answer] - change[rows, wrong]


def effect_by_gather(patched, corrupted, answer, wrong):
    def ahead(logits):
        return (logits.gather(-1, answer[:, None]) - logits.gather(-1, wrong[:, None])).squeeze(-1)

    return ahead(patched) - ahead(corrupted)


def effect_by_loops(patched, corrupted, answer, wrong):
    rows = zip(patched, corrupted, answer, wrong, strict=True)
    return torch.tensor([float(p[a] - p[w] - (c[a] - c[w])) for p, c, a, w in rows])


EFFECT_RIGHT = {
    "rows": effect,
    "gather": effect_by_gather,
    "loops": effect_by_loops,
    "log odds": lambda p, c, a, w: effect(p.log_softmax(-1), c.log_softmax(-1), a, w),
    "diagonal": lambda p, c, a, w: ((p - c)[:, a] - (p - c)[:, w]).diagonal(),
    "one hot": lambda p, c, a, w: ((p - c) * (F.one_hot(a, p.shape[1]) - F.one_hot(w, p.shape[1]))).sum(-1),
    "double": lambda p, c, a, w: effect(p.double(), c.double(), a, w),
    "numpy": lambda p, c, a, w: effect(p, c, a, w).numpy(),
}


def pick(logits, token):
    return logits[torch.arange(len(token)), token]


def ahead(logits, answer, wrong):
    return pick(logits, answer) - pick(logits, wrong)


def effect_in_place(patched, corrupted, answer, wrong):
    patched -= corrupted
    return ahead(patched, answer, wrong)


EFFECT_WRONG = {
    "shape": [
        after(effect, lambda x: x[:, None]),
        after(effect, lambda x: x.tolist()),
        after(effect, lambda x: x[0][None]),
    ],
    "one_number": [
        lambda p, c, a, w: (p - c).abs().mean(),  # the bug itself
        after(effect, torch.mean),
        after(effect, lambda x: x.sum().item()),
        lambda p, c, a, w: (p - c).norm(),
        lambda p, c, a, w: F.mse_loss(p, c),
    ],
    "all_pairs": [lambda p, c, a, w: (p - c)[:, a] - (p - c)[:, w]],
    "all_tokens": [lambda p, c, a, w: p - c, lambda p, c, a, w: (p - c)[a] - (p - c)[w]],
    "all_logits": [
        lambda p, c, a, w: (p - c).abs().mean(-1),
        lambda p, c, a, w: (p - c).mean(-1),
        lambda p, c, a, w: (p - c).norm(dim=-1),
        lambda p, c, a, w: (p - c).square().mean(-1),
        lambda p, c, a, w: (p - c).abs().amax(-1),
        lambda p, c, a, w: pick(p - c, a) - (p - c).mean(-1),
    ],
    "unsigned": [
        after(effect, abs),
        after(effect, torch.square),
        lambda p, c, a, w: ahead(p, a, w).abs() - ahead(c, a, w).abs(),
        lambda p, c, a, w: ahead((p - c).abs(), a, w),
    ],
    "sign": [
        lambda p, c, a, w: effect(p, c, w, a),
        lambda p, c, a, w: effect(c, p, a, w),
    ],
    "one_run": [lambda p, c, a, w: ahead(p, a, w), lambda p, c, a, w: ahead(c, a, w)],
    "answer_only": [lambda p, c, a, w: pick(p - c, a)],
    "wrong_only": [lambda p, c, a, w: pick(p - c, w), lambda p, c, a, w: pick(c - p, w)],
    "added": [lambda p, c, a, w: pick(p - c, w) + pick(p - c, a)],
    "probabilities": [
        lambda p, c, a, w: effect(p.softmax(-1), c.softmax(-1), a, w),
        lambda p, c, a, w: pick(p.softmax(-1) - c.softmax(-1), a),
        lambda p, c, a, w: effect(c.softmax(-1), p.softmax(-1), a, w),
    ],
    "log_probability": [lambda p, c, a, w: pick(p.log_softmax(-1) - c.log_softmax(-1), a)],
    "relative": [
        lambda p, c, a, w: effect(p, c, a, w) / ahead(c, a, w),
        lambda p, c, a, w: effect(p, c, a, w) / ahead(c, a, w).abs(),
        lambda p, c, a, w: 1 - ahead(c, a, w) / ahead(p, a, w),
    ],
    "halved": [after(effect, lambda x: x / 2)],
    "one_row_for_all": [lambda p, c, a, w: (p - c)[:, a[0]] - (p - c)[:, w[0]]],
    "wrong_axis": [lambda p, c, a, w: (p - c)[a, torch.arange(len(a))] - (p - c)[w, torch.arange(len(w))]],
    "in_place": [effect_in_place],
    "something_else": [
        after(effect, lambda x: 3 * x),
        after(effect, lambda x: x - x.mean()),
        lambda p, c, a, w: (p.argmax(-1) == a).float() - (c.argmax(-1) == a).float(),
    ],
    STOPPED: [lambda p, c: (p - c).abs().mean(), lambda p, c, a, w: (p - c).gather(-1, a)],
}

# ------------------------------------------------------------------ 8: the direct effect of a head


def rms(x):
    return x.square().mean(-1).sqrt()


def direct_effect(head_out, final, direction):
    return (head_out * direction).sum(-1) / rms(final)


DIRECT_RIGHT = {
    "product": direct_effect,
    "normed first": lambda h, f, d: torch.linalg.vecdot(h / rms(f)[:, None], d),
    "eps": lambda h, f, d: (h * d).sum(-1) * torch.rsqrt(f.pow(2).mean(-1) + 1e-5),
    "length": lambda h, f, d: torch.einsum("bd,bd->b", h, d) * f.shape[-1] ** 0.5 / f.norm(dim=-1),
    "diagonal": lambda h, f, d: (h @ d.T).diagonal() / rms(f),
    "with and without": lambda h, f, d: (f * d).sum(-1) / rms(f) - ((f - h) * d).sum(-1) / rms(f),
    "loops": lambda h, f, d: torch.stack([a @ c / rms(b) for a, b, c in zip(h, f, d, strict=True)]),
    "double": lambda h, f, d: direct_effect(h.double(), f.double(), d.double()),
    "numpy": lambda h, f, d: direct_effect(h, f, d).numpy(),
}


def dot(x, y):
    return (x * y).sum(-1)


def off_mean(x):
    return x - x.mean(-1, keepdim=True)


def direct_in_place(head_out, final, direction):
    head_out /= rms(final)[:, None]
    return dot(head_out, direction)


DIRECT_WRONG = {
    "shape": [
        after(direct_effect, lambda x: x[:, None]),
        after(direct_effect, lambda x: x.tolist()),
        after(direct_effect, lambda x: x[:1]),
    ],
    "all_pairs": [
        lambda h, f, d: h @ d.T / rms(f),
        lambda h, f, d: h / rms(f)[:, None] @ d.T,
        lambda h, f, d: h @ d.T,
    ],
    "broadcast": [
        lambda h, f, d: dot(h, d) / f.square().mean(-1, keepdim=True).sqrt(),
        lambda h, f, d: (h * d).sum(-1, keepdim=True) / rms(f),
        lambda h, f, d: dot(h, d) / f.square().mean(-1, keepdim=True),
        lambda h, f, d: dot(f, d) / rms(f) - dot(f - h, d) / rms(f)[:, None],
        lambda h, f, d: dot(h, d).numpy() / rms(f)[:, None].numpy(),
    ],
    "not_summed": [lambda h, f, d: h * d / rms(f)[:, None]],
    "over_batch": [
        after(direct_effect, torch.sum),
        after(direct_effect, lambda x: x.mean().item()),
        lambda h, f, d: (h * d / rms(f)[:, None]).sum(0),
        after(direct_effect, lambda x: x.mean().expand(len(x))),
    ],
    "own_norm": [
        lambda h, f, d: dot(h, d) / rms(h),
        lambda h, f, d: dot(F.rms_norm(h, h.shape[-1:]), d),
        lambda h, f, d: dot(F.normalize(h, dim=-1), d),
    ],
    "no_norm": [lambda h, f, d: dot(h, d)],
    "euclidean": [lambda h, f, d: dot(h, d) / f.norm(dim=-1)],
    "mean_square": [lambda h, f, d: dot(h, d) / f.square().mean(-1)],
    "whole_batch": [
        lambda h, f, d: dot(h, d) / f.square().mean().sqrt(),
        lambda h, f, d: dot(h, d) / f.std(),
    ],
    "centred": [
        lambda h, f, d: dot(h, d) / f.std(-1),
        lambda h, f, d: dot(h, d) / f.std(-1, correction=0),
        lambda h, f, d: dot(off_mean(h), d) / rms(off_mean(f)),
        lambda h, f, d: dot(off_mean(h), d) / rms(f),
    ],
    "unit_direction": [
        lambda h, f, d: direct_effect(h, f, F.normalize(d, dim=-1)),
        lambda h, f, d: F.cosine_similarity(h, d, dim=-1),
        lambda h, f, d: dot(h, F.normalize(d, dim=-1)),
    ],
    "mean_over_d_model": [lambda h, f, d: (h * d).mean(-1) / rms(f)],
    "whole_stream": [lambda h, f, d: dot(f, d) / rms(f), lambda h, f, d: dot(F.rms_norm(f, f.shape[-1:]), d)],
    "the_rest": [lambda h, f, d: dot(f - h, d) / rms(f)],
    "share": [lambda h, f, d: dot(h, d) / dot(f, d)],
    "norm_again": [lambda h, f, d: dot(f, d) / rms(f) - dot(f - h, d) / rms(f - h)],
    "other_stream": [lambda h, f, d: dot(h, d) / rms(f + h), lambda h, f, d: dot(h, d) / rms(f - h)],
    "absolute": [after(direct_effect, abs)],
    "reversed": [after(direct_effect, lambda x: -x)],
    "multiplied": [lambda h, f, d: dot(h, d) * rms(f)],
    "in_place": [direct_in_place],
    "something_else": [after(direct_effect, lambda x: 2 * x), lambda h, f, d: dot(h, f) / rms(f)],
    STOPPED: [lambda h, f: h, lambda h, f, d: h @ d, lambda h, f, d: h / rms(f) * d],
}

# ------------------------------------------------------------------

RIGHT = {
    "04.patch_position": PATCH_RIGHT,
    "04.recovery": RECOVERY_RIGHT,
    "04.and_or": AND_OR_RIGHT,
    "04.attribute": ATTRIBUTE_RIGHT,
    "04.integrated": INTEGRATED_RIGHT,
    "04.gaussian": GAUSSIAN_RIGHT,
    "04.mend_the_metric": EFFECT_RIGHT,
    "04.direct_effect": DIRECT_RIGHT,
}
WRONG = {
    "04.patch_position": PATCH_WRONG,
    "04.recovery": RECOVERY_WRONG,
    "04.and_or": AND_OR_WRONG,
    "04.attribute": ATTRIBUTE_WRONG,
    "04.integrated": INTEGRATED_WRONG,
    "04.gaussian": GAUSSIAN_WRONG,
    "04.mend_the_metric": EFFECT_WRONG,
    "04.direct_effect": DIRECT_WRONG,
}


@pytest.mark.parametrize("answers", list(itertools.product((True, False), repeat=4)))
def test_only_one_of_the_sixteen_tables_is_right(answers):
    assert (grading.check("04.and_or", gates(*answers)).status == "passed") == (
        answers == (True, False, False, True)
    )


def test_an_answer_that_is_not_written_is_not_yet_one():
    def recovery(patched, clean, corrupted):
        """Stub."""
        ...  # your code here

    def says_so(patched, clean, corrupted):
        raise NotImplementedError

    assert grading.check("04.recovery", recovery).status == "not yet"
    assert grading.check("04.recovery", says_so).status == "not yet"
    assert grading.check("04.and_or", gates(True, ..., False, True)).status == "not yet"


def test_the_noise_of_a_learner_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    assert grading.check("04.gaussian", reseeds).mistake == "global_generator"
    assert torch.equal(torch.get_rng_state(), before)


def test_a_verdict_tells_what_was_seen():
    def said(exercise, answer):
        return grading.check(f"04.{exercise}", answer).text

    assert "With steps = 4 it took 2: at 0.25, 0.75 of the way." in said(
        "integrated", lambda g, c, x, n: integrated(g, c, x, 2)
    )
    assert "With clean = 2.0 and corrupted = 2.0 it stopped with ZeroDivisionError" in said(
        "recovery", lambda p, c, x: (p - x) / (c - x)
    )
    assert "noise is at [2, 5]" in said("gaussian", noise_at(lambda p, e: (ALL, [i + 1 for i in p])))
    assert "With scale = 0.5 its standard deviation is 1.5" in said("gaussian", scaled(lambda s: 3 * s))
