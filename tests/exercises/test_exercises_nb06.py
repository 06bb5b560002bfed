"""The checks of notebook 06: what passes, and which mistake each wrong answer is told to be."""

import random
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from mi_utils import grading
from mi_utils.grading.core import STOPPED

COLUMNS = ("IO", "S1", "S2", "IO logit", "S logit", "copies")


def heads(**rows):
    return {label: dict(zip(COLUMNS, row, strict=True)) for label, row in rows.items()}


TABLE = heads(
    A=(0.62, 0.05, 0.11, 1.30, -0.20, 0.95),  # name mover
    B=(0.02, 0.03, 0.64, -0.26, -2.33, 0.04),  # S suppressor
    C=(0.48, 0.09, 0.08, -0.85, 0.10, 0.61),  # negative name mover, though it copies by the score
    D=(0.03, 0.02, 0.05, 1.02, -0.30, 0.88),  # looks at no name
    E=(0.41, 0.06, 0.07, 0.40, -0.50, 0.10),  # looks at IO and raises it, but does not copy
    F=(0.10, 0.35, 0.20, 0.60, 0.90, 0.90),  # copies S
)
ROLES = {
    "A": "name mover",
    "B": "S suppressor",
    "C": "negative name mover",
    "D": "none",
    "E": "none",
    "F": "none",
}
TENSORS = {label: {name: torch.tensor(value) for name, value in row.items()} for label, row in TABLE.items()}

CONTEXTS = {
    "06.abc": [lambda tiny: {}],
    "06.head_attribution": [lambda tiny: {}],
    "06.roles": [
        lambda tiny: {"table": TABLE},
        lambda tiny: {"table": TENSORS},
        lambda tiny: {"table": TABLE, "attends": 0.3, "copies": 0.9},
    ],
    "06.path_patch": [lambda tiny: {}],
    "06.faithfulness": [lambda tiny: {}],
    "06.minimality": [lambda tiny: {}],
    "06.greater_than": [lambda tiny: {}],
    "06.copy_suppression": [lambda tiny: {}],
}

# ------------------------------------------------------------------ 1: three unrelated names


def abc(tokens, io, s1, s2, pool, generator):
    changed = tokens.clone()
    for row in range(len(tokens)):
        where = torch.stack([io[row], s1[row], s2[row]])
        free = pool[~torch.isin(pool, tokens[row, where])]
        changed[row, where] = free[torch.randperm(len(free), generator=generator)[:3]]
    return changed


def abc_at_once(tokens, io, s1, s2, pool, generator):
    where = torch.stack([io, s1, s2], dim=1)
    own = (pool[None, :, None] == tokens.gather(1, where)[:, None]).any(-1)
    score = torch.rand(len(tokens), len(pool), generator=generator).masked_fill(own, -1)
    return tokens.scatter(1, where, pool[score.topk(3).indices])


def abc_by_multinomial(tokens, io, s1, s2, pool, generator):
    rows = torch.arange(len(tokens))
    own = (pool == tokens[rows, io, None]) | (pool == tokens[rows, s1, None])
    a, b, c = pool[torch.multinomial((~own).float(), 3, generator=generator)].T
    out = tokens.clone()
    out[rows, io], out[rows, s1], out[rows, s2] = a, b, c
    return out


def abc_by_trial(tokens, io, s1, s2, pool, generator):
    out = tokens.tolist()
    for row, places in enumerate(zip(io.tolist(), s1.tolist(), s2.tolist(), strict=True)):
        used = {out[row][places[0]], out[row][places[1]]}
        for place in places:
            while (name := int(pool[torch.randint(len(pool), (1,), generator=generator)])) in used:
                pass
            used.add(name)
            out[row][place] = name
    return torch.tensor(out)


def draws(choose: Callable) -> Callable:
    """An answer in which ``choose(old, pool, generator)`` gives the three new names of a row, old [3]."""

    def answer(tokens, io, s1, s2, pool, generator):
        changed = tokens.clone()
        for row in range(len(tokens)):
            where = torch.stack([io[row], s1[row], s2[row]])
            changed[row, where] = torch.as_tensor(choose(tokens[row, where], pool, generator))
        return changed

    return answer


def free(old, pool):
    return pool[~torch.isin(pool, old)]


def three(old, pool, generator):
    names = free(old, pool)
    return names[torch.randperm(len(names), generator=generator)[:3]]


def some(of, count, generator):
    return of[torch.randperm(len(of), generator=generator)[:count]]


def two_names(old, pool, generator):
    a, b = three(old, pool, generator)[:2]
    return torch.stack([a, b, b])


def at(tokens, places, names):
    return tokens.index_put((torch.arange(len(tokens)), places), names)


def abc_in_place(tokens, io, s1, s2, pool, generator):
    tokens.copy_(abc(tokens, io, s1, s2, pool, generator))
    return tokens


def same_for_all(tokens, io, s1, s2, pool, generator):
    a, b, c = some(pool, 3, generator)
    return at(at(at(tokens, io, a), s1, b), s2, c)


def places_of_first_row(tokens, io, s1, s2, pool, generator):
    changed = tokens.clone()
    for row in range(len(tokens)):
        where = torch.stack([io[0], s1[0], s2[0]])
        changed[row, where] = three(tokens[row, where], pool, generator)
    return changed


def columns_of_all(tokens, io, s1, s2, pool, generator):
    changed = tokens.clone()
    a, b, c = some(pool, 3, generator)
    changed[:, io], changed[:, s1], changed[:, s2] = a, b, c
    return changed


def neighbours(tokens, io, s1, s2, pool, generator):
    return abc(tokens, io - 1, s1 - 1, s2 - 1, pool, generator)


def first_row_only(tokens, io, s1, s2, pool, generator):
    changed = tokens.clone()
    where = torch.stack([io[0], s1[0], s2[0]])
    changed[0, where] = three(tokens[0, where], pool, generator)
    return changed


def own_seed(tokens, io, s1, s2, pool, generator):
    return abc(tokens, io, s1, s2, pool, torch.Generator().manual_seed(7))


def by_numpy(old, pool, generator):
    return np.random.default_rng().choice(free(old, pool).numpy(), 3, replace=False)


def first_two_differ(old, pool, generator):
    a, b = some(free(old, pool), 2, generator)
    return torch.stack([a, b, some(free(old, pool), 1, generator)[0]])


ABC_RIGHT = {
    "rows": abc,
    "at once": abc_at_once,
    "multinomial": abc_by_multinomial,
    "trial": abc_by_trial,
    "int32": lambda *given: abc(*given).int(),
    "numpy": lambda *given: abc(*given).numpy(),
    "in the order of the pool": draws(lambda old, pool, g: pool[torch.isin(pool, three(old, pool, g))]),
}
ABC_WRONG = {
    "shape": [
        lambda *given: abc(*given).tolist(),
        lambda *given: abc(*given).T,
        lambda *given: abc(*given)[0],
        lambda tokens, io, s1, s2, pool, g: torch.stack([three(row, pool, g) for row in tokens]),
        lambda *given: "Then, Anna and Bob went to the park",
    ],
    "not_ids": [lambda *given: abc(*given).float(), lambda tokens, *given: abc(tokens, *given) != tokens],
    "nothing_changed": [
        lambda tokens, *given: tokens,
        lambda tokens, *given: (abc(tokens, *given), tokens)[1],
    ],
    "first_row_only": [first_row_only],
    "places_of_first_row": [places_of_first_row],
    "every_place_in_every_row": [columns_of_all],
    "other_positions": [
        neighbours,
        lambda tokens, io, s1, s2, pool, g: pool[torch.randint(len(pool), tokens.shape, generator=g)],
        lambda *given: abc(*given).roll(1, dims=0),
        lambda *given: abc(*given).roll(1, dims=1),
        lambda tokens, io, s1, s2, pool, g: at(abc(tokens, io, s1, s2, pool, g), s2 + 1, pool[0]),
    ],
    "io_kept": [
        draws(lambda old, pool, g: torch.stack([old[0], *some(free(old, pool), 2, g)])),
        draws(lambda old, pool, g: torch.stack([old[0], *some(free(old, pool), 1, g).expand(2)])),
        draws(lambda old, pool, g: [old[0], old[1], some(free(old, pool), 1, g)[0]]),
    ],
    "s_kept": [
        draws(lambda old, pool, g: [some(free(old, pool), 1, g)[0], old[1], old[2]]),
        draws(lambda old, pool, g: [*some(free(old, pool), 2, g), old[2]]),
        draws(lambda old, pool, g: [some(free(old, pool), 2, g)[0], old[1], some(free(old, pool), 1, g)[0]]),
    ],
    "swapped": [draws(lambda old, pool, g: old[[1, 0, 0]])],
    "index_not_id": [
        draws(lambda old, pool, g: torch.randperm(len(pool), generator=g)[:3]),
        draws(lambda old, pool, g: torch.randint(len(pool), (3,), generator=g)),
    ],
    "not_from_pool": [
        draws(lambda old, pool, g: torch.randint(int(pool.min()), int(pool.max()), (3,), generator=g)),
        draws(lambda old, pool, g: three(old, pool, g) + 1),
    ],
    "repetition_kept": [
        draws(two_names),
        draws(lambda old, pool, g: some(pool, 3, g)[[0, 1, 1]]),
        draws(lambda old, pool, g: some(free(old, pool), 1, g).expand(3)),
        lambda tokens, io, s1, s2, pool, g: at(
            at(at(tokens, io, pool[0]), s1, pool[1]),
            s2,
            pool[1],  # two names, the same in all rows
        ),
    ],
    "same_names": [
        same_for_all,
        draws(lambda old, pool, g: pool[:3]),
    ],
    "names_repeat": [
        draws(lambda old, pool, g: free(old, pool)[torch.randint(len(pool) - 2, (3,), generator=g)]),
        draws(lambda old, pool, g: pool[torch.randint(len(pool), (3,), generator=g)]),
        draws(first_two_differ),
        draws(lambda old, pool, g: free(old, pool)[torch.multinomial(torch.ones(10), 3, True, generator=g)]),
    ],
    "own_names": [
        draws(lambda old, pool, g: some(pool, 3, g)),
        draws(lambda old, pool, g: three(old[:1], pool, g)),
        draws(lambda old, pool, g: three(old[1:], pool, g)),
    ],
    "part_of_pool": [
        draws(lambda old, pool, g: free(old, pool)[:3]),
        draws(lambda old, pool, g: free(old, pool)[-3:]),
        draws(lambda old, pool, g: some(free(old, pool[:6]), 3, g)),
    ],
    "global_generator": [
        draws(lambda old, pool, g: some(free(old, pool), 3, None)),
        lambda tokens, io, s1, s2, pool, g: abc(tokens, io, s1, s2, pool, torch.manual_seed(0)),
    ],
    "same_again": [own_seed, lambda *given: abc(*given[:-1], given[-1].manual_seed(3))],
    "not_reproducible": [
        draws(by_numpy),
        draws(lambda old, pool, g: random.sample(free(old, pool).tolist(), 3)),
    ],
    "in_place": [abc_in_place],
    STOPPED: [
        lambda tokens: tokens,
        draws(lambda old, pool, g: torch.randperm(100, generator=g)[:5]),
        draws(lambda old, pool, g: pool[10 + torch.randperm(len(pool), generator=g)[:3]]),
    ],
}

# ------------------------------------------------------------------ 2: direct logit attribution of heads


def head_attribution(z, W_O, scale, direction):
    written = torch.einsum("bhd,hdm->bhm", z, W_O)
    return torch.einsum("bhm,bm->bh", written, direction / scale)


def written(z, W_O):
    return torch.einsum("bhd,hdm->bhm", z, W_O)


def along(out, direction):
    return torch.einsum("bhm,bm->bh", out, direction)


def by_loops(z, W_O, scale, direction):
    out = torch.empty(z.shape[:2])
    for row in range(len(z)):
        for head in range(z.shape[1]):
            out[row, head] = (z[row, head] @ W_O[head]) @ direction[row] / scale[row, 0]
    return out


def rms(x):
    return x.square().mean(-1, keepdim=True).sqrt()


ATTRIBUTION_RIGHT = {
    "einsum": head_attribution,
    "loops": by_loops,
    "at once": lambda z, w, s, d: torch.einsum("bhd,hdm,bm,b->bh", z, w, d, 1 / s[:, 0]),
    "matmul": lambda z, w, s, d: ((z[:, :, None] @ w)[:, :, 0] / s[:, None] * d[:, None]).sum(-1),
    "batched": lambda z, w, s, d: (
        torch.bmm(z.transpose(0, 1), w).transpose(0, 1).mul(d[:, None]).sum(-1).div(s)
    ),
    "direction first": lambda z, w, s, d: (z * torch.einsum("hdm,bm->bhd", w, d)).sum(-1) / s,
    "double": lambda z, w, s, d: head_attribution(z.double(), w.double(), s.double(), d.double()),
    "numpy": lambda z, w, s, d: np.einsum("bhd,hdm,bm->bh", z.numpy(), w.numpy(), (d / s).numpy()),
}
ATTRIBUTION_WRONG = {
    "shape": [
        lambda *given: head_attribution(*given).tolist(),
        lambda *given: head_attribution(*given)[..., None],
        lambda *given: head_attribution(*given).sum(),
    ],
    "heads_summed": [
        lambda *given: head_attribution(*given).sum(1),
        lambda z, w, s, d: (torch.einsum("bhd,hdm->bm", z, w) * d / s).sum(-1),
        lambda *given: head_attribution(*given).sum(1, keepdim=True),
    ],
    "prompts_averaged": [
        lambda *given: head_attribution(*given).mean(0),
        lambda z, w, s, d: torch.einsum("bhd,hdm,bm->h", z, w, d / s),
    ],
    "transposed_result": [
        lambda *given: head_attribution(*given).T,
        lambda z, w, s, d: torch.einsum("bhd,hdm,bm->hb", z, w, d / s),
    ],
    "not_projected": [
        lambda z, w, s, d: written(z, w) / s[:, None],
        lambda z, w, s, d: written(z, w) * (d / s)[:, None],
    ],
    "each_alone": [
        lambda z, w, s, d: along(written(z, w) / rms(written(z, w)), d),
        lambda z, w, s, d: along(F.normalize(written(z, w), dim=-1), d),
        lambda z, w, s, d: along(F.rms_norm(written(z, w), d.shape[-1:]), d / s),
    ],
    "no_scale": [lambda z, w, s, d: along(written(z, w), d)],
    "multiplied": [lambda z, w, s, d: along(written(z, w), d) * s],
    "square_root": [lambda z, w, s, d: along(written(z, w), d) / s.sqrt()],
    "scale_of_heads": [lambda z, w, s, d: along(written(z, w), d) / rms(written(z, w).sum(1))],
    "one_scale": [
        lambda z, w, s, d: along(written(z, w), d) / s.mean(),
        lambda z, w, s, d: along(written(z, w), d) / s[0, 0],
    ],
    "unit_direction": [
        lambda z, w, s, d: head_attribution(z, w, s, d / d.norm(dim=-1, keepdim=True)),
        lambda z, w, s, d: along(written(z, w), F.normalize(d, dim=-1)),
    ],
    "cosine": [lambda z, w, s, d: F.cosine_similarity(written(z, w), d[:, None], dim=-1)],
    "one_W_O": [
        lambda z, w, s, d: ((z @ w[0]) * (d / s)[:, None]).sum(-1),
        lambda z, w, s, d: ((z @ w.mean(0)) * (d / s)[:, None]).sum(-1),
    ],
    "one_direction": [
        lambda z, w, s, d: written(z, w) @ d[0] / s,
        lambda z, w, s, d: written(z, w) @ d.mean(0) / s,
    ],
    "transposed_W_O": [
        lambda z, w, s, d: along(torch.einsum("bhd,hmd->bhm", z, w), d / s),
        lambda z, w, s, d: along((z[:, :, None] @ w.mT)[:, :, 0], d / s),
    ],
    "prompts_for_heads": [
        lambda z, w, s, d: (written(z, w) * d).sum(-1) / s,
        lambda z, w, s, d: (written(z, w) * d / s).sum(-1),
        lambda z, w, s, d: (written(z, w) * d[:, None] / s).sum(-1),
        lambda z, w, s, d: along((z @ w), d / s),
        lambda z, w, s, d: along(written(z, w), d) / s[:, 0],
    ],
    "centred": [lambda z, w, s, d: along(written(z, w) - written(z, w).mean(-1, keepdim=True), d / s)],
    "absolute": [lambda *given: head_attribution(*given).abs()],
    "fractions": [
        lambda *given: head_attribution(*given).softmax(-1),
        lambda *given: head_attribution(*given) / head_attribution(*given).sum(1, keepdim=True),
    ],
    "sign": [lambda *given: -head_attribution(*given)],
    "in_place": [
        lambda z, w, s, d: along(written(z, w), d.div_(s)),
        lambda z, w, s, d: (head_attribution(z, w, s, d), z.zero_())[0],
    ],
    "something_else": [
        lambda *given: 2 * head_attribution(*given),
        lambda *given: head_attribution(*given) ** 2,
        lambda z, w, s, d: along(z, (d / s)),  # where d_head equals d_model
    ],
    STOPPED: [lambda z: z, lambda z, w, s, d: z @ w @ d],
}

# ------------------------------------------------------------------ 3: roles of heads


def but(**others):
    return {**ROLES, **others}


ROLES_RIGHT = {
    "as asked": ROLES,
    "capitals": {label: role.upper() for label, role in ROLES.items()},
    "underscores": {label: f" {role.replace(' ', '_')}" for label, role in ROLES.items()},
    "hyphens": {label: role.replace(" ", "-") for label, role in reversed(ROLES.items())},
}
BY_DIFFERENCE = {
    label: "name mover" if row["IO logit"] > row["S logit"] else "negative name mover"
    for label, row in TABLE.items()
}
ROLES_WRONG = {
    "not_a_dict": [list(ROLES.values()), "name mover", set(ROLES.values())],
    "labels": [
        {},
        {label: role for label, role in ROLES.items() if label != "C"},
        but(G="none"),
        {label.lower(): role for label, role in ROLES.items()},
        {role: label for label, role in ROLES.items()},
    ],
    "not_a_role": [but(B="s-inhibition"), but(A="mover"), but(D=""), but(D=0), but(D=["none"])],
    "mover_as_negative": [but(A="negative name mover")],
    "mover_as_suppressor": [but(A="S suppressor")],
    "mover_overlooked": [but(A="none"), dict.fromkeys(ROLES, "none")],
    "negative_as_mover": [but(C="name mover")],
    "negative_as_suppressor": [but(C="S suppressor")],
    "negative_overlooked": [but(C="none")],
    "suppressor_as_mover": [but(B="name mover"), BY_DIFFERENCE],
    "suppressor_as_negative": [but(B="negative name mover")],
    "suppressor_overlooked": [but(B="none")],
    "looks_at_no_name": [but(D="name mover"), but(D="S suppressor"), but(D="negative name mover")],
    "does_not_copy": [but(E="name mover")],
    "condition_not_met": [
        but(E="negative name mover"),
        but(E="S suppressor"),
        but(F="S suppressor"),
        but(F="name mover"),
        but(F="negative name mover"),
    ],
}

# ------------------------------------------------------------------ 4: path patching


def path_patch(x, sender_base, sender_source, blocks, reader):
    x = x - sender_base + sender_source
    for attention, mlp in blocks:
        x = x + attention
        x = x + mlp(x)
    return reader(x)


def middle_first(x, base, source, blocks, reader):
    """The sender exchanged where it stands: in the first layer's attention output."""
    (attention, mlp), *rest = blocks
    blocks = [(attention - base + source, mlp), *rest]
    for attention, mlp in blocks:
        middle = x + attention
        x = middle + mlp(middle)
    return reader(x)


def walk(x, blocks):
    for attention, mlp in blocks:
        x = x + attention
        x = x + mlp(x)
    return x


def own_steps(step: Callable) -> Callable:
    """An answer in which ``step(x, attention, mlp, change)`` is made in each block."""

    def answer(x, base, source, blocks, reader):
        x = x - base + source
        for attention, mlp in blocks:
            x = step(x, attention, mlp, source - base)
        return reader(x)

    return answer


def frozen_mlps(x, base, source, blocks, reader):
    new = x - base + source
    for attention, mlp in blocks:
        x, new = x + attention, new + attention
        x, new = x + mlp(x), new + mlp(x)
    return reader(new)


def after_own_mlp(x, base, source, blocks, reader):
    for i, (attention, mlp) in enumerate(blocks):
        x = x + attention
        x = x + mlp(x)
        if i == 0:
            x = x - base + source
    return reader(x)


def each_block(x, base, source, blocks, reader):
    for attention, mlp in blocks:
        x = x + attention - base + source
        x = x + mlp(x)
    return reader(x)


def path_in_place(x, base, source, blocks, reader):
    x -= base
    x += source
    return reader(walk(x, blocks))


def attention_in_place(x, base, source, blocks, reader):
    x = x - base + source
    for attention, mlp in blocks:
        attention += x
        x = attention + mlp(attention)
    return reader(x)


def emptied(x, base, source, blocks, reader):
    x = x - base + source
    while blocks:
        x = walk(x, [blocks.pop(0)])
    return reader(x)


PATH_RIGHT = {
    "loop": path_patch,
    "in attention": middle_first,
    "walk": lambda x, b, s, blocks, r: r(walk(x + (s - b), blocks)),
    "on copies": lambda x, b, s, blocks, r: path_in_place(x.clone(), b, s, blocks, r),
    "double": lambda x, b, s, blocks, r: path_patch(x.double(), b, s, blocks, r),
    "numpy": lambda *given: path_patch(*given).numpy(),
    "tuple": lambda x, b, s, blocks, r: path_patch(x, b, s, tuple(blocks), r),
}
PATH_WRONG = {
    "shape": [
        lambda *given: path_patch(*given).tolist(),
        lambda *given: path_patch(*given).mean(),
        lambda *given: path_patch(*given)[0],
    ],
    "not_read": [lambda x, b, s, blocks, r: walk(x - b + s, blocks)],
    "base_kept": [lambda x, b, s, blocks, r: path_patch(x, 0, s, blocks, r)],
    "removed_only": [lambda x, b, s, blocks, r: path_patch(x, b, 0, blocks, r)],
    "reversed": [lambda x, b, s, blocks, r: path_patch(x, s, b, blocks, r)],
    "unpatched": [lambda x, b, s, blocks, r: r(walk(x, blocks))],
    "sender_only": [
        lambda x, b, s, blocks, r: r(walk(s, blocks)),
        lambda x, b, s, blocks, r: r(walk(s - b, blocks)),
    ],
    "mlps_frozen": [
        frozen_mlps,
        lambda x, b, s, blocks, r: r(walk(x, blocks) - b + s),
    ],
    "too_late": [after_own_mlp],
    "no_mlps": [own_steps(lambda x, attention, mlp, change: x + attention)],
    "no_attention": [own_steps(lambda x, attention, mlp, change: x + mlp(x))],
    "mlp_first": [
        own_steps(lambda x, attention, mlp, change: x + mlp(x) + attention),
        own_steps(lambda x, attention, mlp, change: x + attention + mlp(x)),
    ],
    "not_added": [
        own_steps(lambda x, attention, mlp, change: mlp(x + attention)),
        own_steps(lambda x, attention, mlp, change: x + mlp(x + attention)),
    ],
    "mlp_of_part": [
        own_steps(lambda x, attention, mlp, change: x + attention + mlp(attention)),
        own_steps(lambda x, attention, mlp, change: x + attention + mlp(change)),
        own_steps(lambda x, attention, mlp, change: x + attention + mlp(attention + change)),
    ],
    "every_block": [each_block],
    "block_missing": [
        lambda x, b, s, blocks, r: path_patch(x, b, s, blocks[1:], r),
        lambda x, b, s, blocks, r: path_patch(x, b, s, blocks[:-1], r),
        lambda x, b, s, blocks, r: path_patch(x + blocks[0][0], b, s, blocks[1:], r),
    ],
    "block_order": [lambda x, b, s, blocks, r: path_patch(x, b, s, reversed(blocks), r)],
    "difference": [
        lambda x, b, s, blocks, r: path_patch(x, b, s, blocks, r) - r(walk(x, blocks)),
        lambda x, b, s, blocks, r: r(walk(x, blocks)) - path_patch(x, b, s, blocks, r),
    ],
    "parts_read": [
        lambda x, b, s, blocks, r: r(walk(x, blocks)) + r(s - b),
        lambda x, b, s, blocks, r: r(x) + r(s - b),
    ],
    "in_place": [path_in_place, attention_in_place, emptied],
    "something_else": [
        lambda x, b, s, blocks, r: path_patch(x, b, s, blocks, r) * 2,
        lambda x, b, s, blocks, r: path_patch(x, 0.5 * b, 0.5 * s, blocks, r),
        lambda x, b, s, blocks, r: path_patch(x[[0]].expand_as(x), b, s, blocks, r),
    ],
    STOPPED: [
        lambda x: x,
        own_steps(
            lambda x, attention, mlp, change: x + attention(x) + mlp(x)
        ),  # attention is frozen: a tensor
        lambda x, b, s, blocks, r: path_patch(x, b, s, blocks[0], r),
    ],
}

# ------------------------------------------------------------------ 5: faithfulness


def faithfulness(circuit, full, empty):
    if full == empty:
        raise ValueError(f"full and empty are both {full}; they should differ")
    return (circuit - empty) / (full - empty)


def guarded(how: Callable) -> Callable:
    """An answer that refuses as it should."""

    def answer(circuit, full, empty):
        if full == empty:
            raise ValueError("full is empty")
        return how(circuit, full, empty)

    return answer


def nearly(circuit, full, empty):
    if abs(full - empty) < 1e-6:
        raise ValueError("nothing to explain")
    return 1 - (full - circuit) / (full - empty)


def refused_on_the_way(circuit, full, empty):
    try:
        return (circuit - empty) / (full - empty)
    except ZeroDivisionError as error:
        raise ValueError("full equals empty") from error


FAITHFULNESS_RIGHT = {
    "plain": faithfulness,
    "nearly": nearly,
    "on the way": refused_on_the_way,
    "tensor": guarded(lambda c, f, e: torch.tensor(faithfulness(c, f, e))),
    "numpy": guarded(lambda c, f, e: np.float64(faithfulness(c, f, e))),
    "double": guarded(lambda c, f, e: torch.tensor(faithfulness(c, f, e), dtype=torch.float64)),
}
FAITHFULNESS_WRONG = {
    "shape": [
        guarded(lambda c, f, e: [faithfulness(c, f, e)]),
        guarded(lambda c, f, e: torch.ones(2)),
        lambda *_: None,
    ],
    "share_of_full": [lambda c, f, e: c / f, guarded(lambda c, f, e: c / f)],
    "share_kept": [
        lambda c, f, e: 1 - abs(f - c) / f,
        guarded(lambda c, f, e: 1 - abs(f - c) / abs(f)),
        guarded(lambda c, f, e: 1 - abs(f - c) / abs(f - e)),
        guarded(lambda c, f, e: 1 - abs(faithfulness(c, f, e) - 1)),
    ],
    "missing": [
        lambda c, f, e: faithfulness(c, e, f),
        guarded(lambda c, f, e: (f - c) / (f - e)),
        guarded(lambda c, f, e: abs(f - c) / abs(f)),
    ],
    "inverted": [guarded(lambda c, f, e: (f - e) / (c - e)), lambda c, f, e: f / c],
    "sign": [guarded(lambda c, f, e: (c - e) / (e - f))],
    "difference": [
        lambda c, f, e: f - c,
        lambda c, f, e: abs(f - c),
        lambda c, f, e: c - e,
    ],
    "other_whole": [
        guarded(lambda c, f, e: (c - e) / f),
        guarded(lambda c, f, e: c / (f - e)),
        guarded(lambda c, f, e: (c - e) / (f + e)),
    ],
    "percent": [guarded(lambda c, f, e: 100 * faithfulness(c, f, e))],
    "squared": [guarded(lambda c, f, e: faithfulness(c, f, e) ** 2)],
    "arguments": [
        lambda full, empty, circuit: (circuit - empty) / (full - empty),
        lambda empty, full, circuit: (circuit - empty) / (full - empty),
        lambda empty, circuit, full: (circuit - empty) / (full - empty),
    ],
    "absolute": [guarded(lambda c, f, e: abs(faithfulness(c, f, e)))],
    "clipped": [
        guarded(lambda c, f, e: min(1.0, faithfulness(c, f, e))),
        guarded(lambda c, f, e: max(0.0, faithfulness(c, f, e))),
        guarded(lambda c, f, e: min(1.0, max(0.0, faithfulness(c, f, e)))),
    ],
    "no_refusal": [
        lambda c, f, e: float("nan") if f == e else faithfulness(c, f, e),
        lambda c, f, e: 0.0 if f == e else faithfulness(c, f, e),
        lambda c, f, e: None if f == e else faithfulness(c, f, e),
        lambda c, f, e: (c - e) / (f - e + 1e-9),
        lambda c, f, e: torch.tensor(c - e) / torch.tensor(f - e),
    ],
    "other_exception": [lambda c, f, e: (c - e) / (f - e)],
    "refuses_too_much": [
        lambda c, f, e: faithfulness(c, f, e) if f > e else faithfulness(c, 0, 0),
        lambda c, f, e: faithfulness(c, f, e) if e <= c <= f else faithfulness(c, 0, 0),
        lambda c, f, e: faithfulness(c, f, e) if f else faithfulness(c, 0, 0),
        lambda c, f, e: faithfulness(c, f, e) if c != f else faithfulness(c, 0, 0),
    ],
    "something_else": [
        guarded(lambda c, f, e: faithfulness(c, f, e) / 2),
        guarded(lambda c, f, e: (c + e) / (f + e)),
    ],
    STOPPED: [lambda c: c, guarded(lambda c, f, e: (c - e) / (f - f))],
}

# ------------------------------------------------------------------ 6: minimality


def minimality(metric, circuit, head, group):
    without_group = circuit - (group - {head})
    return abs(metric(without_group) - metric(without_group - {head}))


def by_lists(metric, circuit, head, group):
    without = [one for one in circuit if one not in group and one != head]
    return abs(metric([*without, head]) - metric(without))


def put_back(metric, circuit, head, group):
    gone = (circuit - group) - {head}
    return abs(metric(gone | {head}) - metric(gone))


def taken_out(how: Callable) -> Callable:
    """An answer from ``how(metric, circuit, head, others)``, others being the group without the head."""
    return lambda metric, circuit, head, group: how(metric, circuit, {head}, group - {head})


MINIMALITY_RIGHT = {
    "sets": minimality,
    "lists": by_lists,
    "put back": put_back,
    "difference": lambda m, c, v, k: abs(m(c.difference(k) - {v}) - m(c.difference(k).union([v]))),
    "tensor": lambda *given: torch.tensor(minimality(*given)),
    "numpy": lambda *given: np.float64(minimality(*given)),
    "root": lambda *given: (minimality(*given) ** 2) ** 0.5,
}
MINIMALITY_WRONG = {
    "shape": [
        lambda m, c, v, k: (m(c - k), m(c - k - {v})),
        lambda m, c, v, k: [minimality(m, c, v, k)],
        lambda m, c, v, k: c - k,
    ],
    "not_heads": [
        lambda m, c, v, k: abs(m(v) - m(k)),
        lambda m, c, v, k: m(len(c)),
        lambda m, c, v, k: abs(m([c - k]) - m([c - k - {v}])),
        lambda m, c, v, k: abs(m((c - k) | set(v)) - m(c - k)),
    ],
    "head_not_removed": [
        lambda m, c, v, k: abs(m(c - k) - m(c - k - set(v))),
        lambda m, c, v, k: abs(m(c - k) - m((c - k) | {v})),
        lambda m, c, v, k: abs(m(c - k - {v}) - m(c - (k | {v}))),
        lambda m, c, v, k: abs(m(c - k) - m(c - (k | set(v)))),
        lambda m, c, v, k: 0.0,
    ],
    "head_in_group": [
        lambda m, c, v, k: abs(m(c - k) - m(c - k - {v})),
        lambda m, c, v, k: abs(m(c - k) - m(c - (k | {v}))),
    ],
    "group_forgotten": [
        lambda m, c, v, k: abs(m(c) - m(c - {v})),
        lambda m, c, v, k: m(c) - m(c - {v}),
        lambda m, c, v, k: abs(m(c | k) - m((c | k) - {v})),
    ],
    "signed": [
        taken_out(lambda m, c, v, k: m(c - k) - m(c - k - v)),
        taken_out(lambda m, c, v, k: m(c - k - v) - m(c - k)),
    ],
    "group_counted": [
        lambda m, c, v, k: abs(m(c) - m(c - k - {v})),
        lambda m, c, v, k: m(c) - m(c - (k | {v})),
    ],
    "group_effect": [
        lambda m, c, v, k: abs(m(c) - m(c - k)),
        taken_out(lambda m, c, v, k: m(c) - m(c - k)),
    ],
    "adds": [
        taken_out(lambda m, c, v, k: abs(m(k | v) - m(k))),
        taken_out(lambda m, c, v, k: m(v)),
        taken_out(lambda m, c, v, k: abs(m(c & (k | v)) - m(c & k))),
    ],
    "not_a_difference": [
        taken_out(lambda m, c, v, k: m(c - k)),
        taken_out(lambda m, c, v, k: m(c - k - v)),
    ],
    "relative": [
        lambda m, c, v, k: minimality(m, c, v, k) / abs(m(c)),
        taken_out(lambda m, c, v, k: abs(1 - m(c - k - v) / m(c - k))),
    ],
    "difference_of_effects": [
        taken_out(lambda m, c, v, k: abs(m(c) - m(c - v) - m(c - k) + m(c - k - v))),
        taken_out(lambda m, c, v, k: abs(m(c - k) - m(c - k - v)) - abs(m(c) - m(c - v))),
    ],
    "squared": [lambda m, c, v, k: minimality(m, c, v, k) ** 2],
    "something_else": [
        lambda m, c, v, k: 2 * minimality(m, c, v, k),
        taken_out(lambda m, c, v, k: m(c - k) + m(c - k - v)),
    ],
    STOPPED: [
        lambda m: m,
        lambda m, c, v, k: abs(m(c - k) - m(c - k - v)),
        lambda m, c, v, k: abs(m(c - k) - m((c - k).remove(v))),
    ],
}

# ------------------------------------------------------------------ 7: greater than


def greater_than(probs, digit, ids):
    of_digits = probs[:, ids]
    greater = torch.arange(10) > digit[:, None]
    return torch.where(greater, of_digits, -of_digits).sum(dim=-1)


def by_rows(probs, digit, ids):
    rows = []
    for row, d in zip(probs, digit.tolist(), strict=True):
        rows.append(row[ids[d + 1 :]].sum() - row[ids[: d + 1]].sum())
    return torch.stack(rows)


def metric_of(plus: Callable, minus: Callable | None = None) -> Callable:
    """An answer that adds digits where ``plus(value, digit)`` is true, and takes off those of ``minus``."""

    def answer(probs, digit, ids):
        value, own = torch.arange(10), digit[:, None]
        add = plus(value, own)
        take = ~add if minus is None else minus(value, own)
        return (probs[:, ids] * add).sum(-1) - (probs[:, ids] * take).sum(-1)

    return answer


def means_of_sides(probs, digit, ids):
    above = torch.arange(10) > digit[:, None]
    sides = [(probs[:, ids] * side).sum(-1) / side.sum(-1).clamp_min(1) for side in (above, ~above)]
    return sides[0] - sides[1]


def sides(how: Callable) -> Callable:
    """From the sum over greater digits and that over the others."""

    def answer(probs, digit, ids):
        above = torch.arange(10) > digit[:, None]
        return how((probs[:, ids] * above).sum(-1), (probs[:, ids] * ~above).sum(-1))

    return answer


GREATER_RIGHT = {
    "where": greater_than,
    "rows": by_rows,
    "signs": lambda p, d, ids: (p[:, ids] * (2 * (torch.arange(10) > d[:, None]).float() - 1)).sum(-1),
    "masks": metric_of(lambda value, own: value > own, lambda value, own: value <= own),
    "gathered": lambda p, d, ids: greater_than(p.index_select(1, ids), d, torch.arange(10)),
    "cumulative": lambda p, d, ids: p[:, ids].sum(-1) - 2 * p[:, ids].cumsum(-1).gather(1, d[:, None])[:, 0],
    "double": lambda p, d, ids: greater_than(p.double(), d, ids),
    "numpy": lambda p, d, ids: greater_than(p, d, ids).numpy(),
}
GREATER_WRONG = {
    "shape": [
        lambda *given: greater_than(*given).tolist(),
        lambda *given: greater_than(*given)[:, None],
    ],
    "over_prompts": [
        lambda *given: greater_than(*given).mean(),
        lambda *given: greater_than(*given).mean().item(),
    ],
    "not_summed": [lambda p, d, ids: torch.where(torch.arange(10) > d[:, None], p[:, ids], -p[:, ids])],
    "sign": [lambda *given: -greater_than(*given), metric_of(lambda value, own: value <= own)],
    "digit_counts_as_greater": [metric_of(lambda value, own: value >= own)],
    "digit_left_out": [metric_of(lambda value, own: value > own, lambda value, own: value < own)],
    "greater_only": [
        sides(lambda greater, others: greater),
        metric_of(lambda v, o: v > o, lambda v, o: v > 99),
    ],
    "others_only": [sides(lambda greater, others: others)],
    "normalised": [
        sides(lambda greater, others: (greater - others) / (greater + others)),
        lambda p, d, ids: greater_than(p[:, ids] / p[:, ids].sum(-1, keepdim=True), d, torch.arange(10)),
        lambda p, d, ids: greater_than(p[:, ids].softmax(-1), d, torch.arange(10)),
    ],
    "ratio": [sides(lambda greater, others: greater / others)],
    "all_tokens": [sides(lambda greater, others: greater - (1 - greater))],
    "ids_compared": [
        lambda p, d, ids: torch.where(ids > d[:, None], p[:, ids], -p[:, ids]).sum(-1),
        lambda p, d, ids: torch.where(ids > ids[d][:, None], p[:, ids], -p[:, ids]).sum(-1),
        lambda p, d, ids: torch.where(torch.arange(10) > ids[d][:, None], p[:, ids], -p[:, ids]).sum(-1),
    ],
    "digits_as_ids": [lambda p, d, ids: greater_than(p, d, torch.arange(10))],
    "first_prompt": [lambda p, d, ids: greater_than(p, d[:1].expand_as(d), ids)],
    "averaged": [
        lambda p, d, ids: torch.where(torch.arange(10) > d[:, None], p[:, ids], -p[:, ids]).mean(-1),
        means_of_sides,
    ],
    "softmax_again": [lambda p, d, ids: greater_than(p.softmax(-1), d, ids)],
    "logarithms": [
        lambda p, d, ids: torch.where(torch.arange(10) > d[:, None], p[:, ids].log(), -p[:, ids].log()).sum(
            -1
        ),
        lambda p, d, ids: greater_than(p.log(), d, ids),
    ],
    "next_digit": [
        lambda p, d, ids: p[range(len(d)), ids[(d + 1).clamp(max=9)]] - p[range(len(d)), ids[d]],
        lambda p, d, ids: p[range(len(d)), ids[(d + 1).clamp(max=9)]],
    ],
    "yes_or_no": [sides(lambda greater, others: (greater > others).float())],
    "not_a_number": [
        sides(lambda greater, others: greater.log() - others.log()),
        sides(lambda greater, others: (greater / others).log()),
        lambda p, d, ids: torch.stack(
            [
                row[ids[n + 1 :]].mean() - row[ids[: n + 1]].mean()
                for row, n in zip(p, d.tolist(), strict=True)
            ]
        ),
    ],
    "in_place": [lambda p, d, ids: (greater_than(p, d, ids), p.zero_())[0]],
    "something_else": [
        lambda *given: 2 * greater_than(*given),
        lambda p, d, ids: greater_than(p, d, ids.flip(0)),
        lambda p, d, ids: greater_than(p, d + 1, ids),
    ],
    STOPPED: [lambda p: p, lambda p, d, ids: p[:, ids][:, torch.arange(10) > d]],
}

# ------------------------------------------------------------------ 8: copy suppression


def suppressed(ov):
    return (ov.argmin(dim=-1) == torch.arange(len(ov))).double().mean()


def one_by_one(ov):
    return sum(all(row[i] <= one for one in row) for i, row in enumerate(ov.tolist())) / len(ov)


SUPPRESSED_RIGHT = {
    "argmin": suppressed,
    "loops": one_by_one,
    "float": lambda ov: suppressed(ov).item(),
    "minimum": lambda ov: (ov.diagonal() == ov.amin(dim=1)).float().mean(),
    "rank": lambda ov: ((ov < ov.diag()[:, None]).sum(-1) == 0).float().mean(),
    "sorted": lambda ov: (ov.argsort(-1)[:, 0] == torch.arange(len(ov))).float().mean(),
    "numpy": lambda ov: (ov.numpy().argmin(1) == np.arange(len(ov))).mean(),
    "double": lambda ov: suppressed(ov.double()),
    "softmax": lambda ov: suppressed(ov.softmax(-1)),
}
SUPPRESSED_WRONG = {
    "shape": [
        lambda ov: [suppressed(ov)],
        lambda ov: suppressed(ov)[None],
        lambda ov: torch.tensor([1, 2]),
        lambda ov: None,
    ],
    "for_each_name": [
        lambda ov: ov.argmin(dim=-1) == torch.arange(len(ov)),
        lambda ov: ov.diagonal(),
        lambda ov: ov.argmin(-1),
    ],
    "all_pairs": [
        lambda ov: ov < 0,
        lambda ov: (ov < 0).float().mean(),
        lambda ov: (ov == ov.amin(-1, keepdim=True)).mul(torch.eye(len(ov))).mean(),
    ],
    "copying": [
        lambda ov: (ov.argmax(-1) == torch.arange(len(ov))).float().mean(),
        lambda ov: suppressed(-ov),
    ],
    "axis": [
        lambda ov: (ov.argmin(dim=0) == torch.arange(len(ov))).float().mean(),
        lambda ov: suppressed(ov.T),
        lambda ov: (
            suppressed(ov.softmax(0)) if suppressed(ov.softmax(0)) == suppressed(ov.T) else suppressed(ov.T)
        ),
    ],
    "lowered": [lambda ov: (ov.diagonal() < 0).float().mean(), lambda ov: (ov.diag() > 0).float().mean()],
    "absolute": [lambda ov: (ov.abs().argmax(-1) == torch.arange(len(ov))).float().mean()],
    "below_mean": [
        lambda ov: (ov.diag() < ov.mean(-1)).float().mean(),
        lambda ov: (ov.diag() < ov.mean()).float().mean(),
        lambda ov: (ov.diag() < (ov - torch.diag(ov.diag())).sum(-1) / (len(ov) - 1)).float().mean(),
    ],
    "among_lowest": [
        lambda ov: (
            (ov.topk(5, largest=False).indices == torch.arange(len(ov))[:, None]).any(-1).float().mean()
        ),
        lambda ov: (ov.argsort(-1)[:, :10] == torch.arange(len(ov))[:, None]).any(-1).float().mean(),
    ],
    "mean_effect": [lambda ov: ov.diagonal().mean(), lambda ov: -torch.trace(ov) / len(ov)],
    "count": [
        lambda ov: (ov.argmin(-1) == torch.arange(len(ov))).sum(),
        lambda ov: int(one_by_one(ov) * len(ov) + 0.5),
    ],
    "percent": [lambda ov: 100 * suppressed(ov)],
    "others": [lambda ov: (ov.argmin(-1) != torch.arange(len(ov))).float().mean()],
    "minimum_of_all": [lambda ov: (ov.diagonal() == ov.min()).float().mean()],
    "lowest_of_diagonal": [lambda ov: (ov.diag() == ov.diag().min()).float().mean()],
    "in_place": [lambda ov: (suppressed(ov), ov.neg_())[0]],
    "something_else": [lambda ov: suppressed(ov) / 2, lambda ov: -suppressed(ov)],
    STOPPED: [lambda: 0, lambda ov: ov.argmin(-1).mean()],
}

RIGHT = {
    "06.abc": ABC_RIGHT,
    "06.head_attribution": ATTRIBUTION_RIGHT,
    "06.roles": ROLES_RIGHT,
    "06.path_patch": PATH_RIGHT,
    "06.faithfulness": FAITHFULNESS_RIGHT,
    "06.minimality": MINIMALITY_RIGHT,
    "06.greater_than": GREATER_RIGHT,
    "06.copy_suppression": SUPPRESSED_RIGHT,
}
WRONG = {
    "06.abc": ABC_WRONG,
    "06.head_attribution": ATTRIBUTION_WRONG,
    "06.roles": ROLES_WRONG,
    "06.path_patch": PATH_WRONG,
    "06.faithfulness": FAITHFULNESS_WRONG,
    "06.minimality": MINIMALITY_WRONG,
    "06.greater_than": GREATER_WRONG,
    "06.copy_suppression": SUPPRESSED_WRONG,
}


def test_drawing_three_names_leaves_the_notebooks_own_chance_where_it_was():
    before = torch.get_rng_state()
    for answer in (ABC_RIGHT["rows"], *ABC_WRONG["global_generator"], *ABC_WRONG["own_names"]):
        grading.check("06.abc", answer)
        assert torch.equal(torch.get_rng_state(), before)


def test_the_role_that_is_wrong_is_told_with_its_row_of_the_table():
    verdict = grading.check("06.roles", but(B="name mover"), table=TABLE)
    assert (
        "Look again at B: attention to IO 0.02, S1 0.03, S2 0.64; IO logit -0.26, S logit -2.33"
        in verdict.text
    )


def test_the_first_wrong_role_in_the_order_of_the_table_is_told():
    verdict = grading.check("06.roles", but(C="none", B="none"), table=TABLE)
    assert verdict.mistake == "suppressor_overlooked"


def test_roles_follow_the_thresholds_that_are_handed_over():
    table = {"A": TABLE["A"], "B": TABLE["E"]}
    assert (
        grading.check("06.roles", {"A": "name mover", "B": "name mover"}, table=table, copies=0.1).status
        == "passed"
    )
    assert (
        grading.check("06.roles", {"A": "name mover", "B": "none"}, table=table, attends=0.62).status
        == "passed"
    )
    assert grading.check("06.roles", {"A": "none", "B": "none"}, table=table, attends=0.63).status == "passed"


def test_a_refusal_without_need_is_told_with_its_numbers():
    verdict = grading.check("06.faithfulness", FAITHFULNESS_WRONG["refuses_too_much"][0])
    assert "It refuses circuit = 0.7, full = -2.5, empty = 1.5." in verdict.text


def test_stubs_are_not_yet_solved():
    assert grading.check("06.roles", dict.fromkeys("ABCDEF", ...), table=TABLE).status == "not yet"
