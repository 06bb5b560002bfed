"""Checks of the exercises of notebook 06 about single heads: what they write, their roles, copy suppression."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_utils.grading.answers import ask, compare, expect, kind
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import centred, rms, seeded

# ------------------------------------------------------------------ 06.head_attribution: direct logit attribution of heads


def _judge_attribution(answer: Callable) -> None:
    # First with sizes that coincide, so that axes which are mixed up give numbers, then with four different ones,
    # which tell what a wrong shape is.
    for batch, heads, d_head, d_model in ((4, 4, 6, 6), (3, 5, 4, 7)):
        given = _attribution_case(batch, heads, d_head, d_model)
        got, unchanged = ask(answer, *given)
        if batch == heads and getattr(got, "shape", None) != (batch, heads):
            continue
        shapes = {
            "heads_summed": [(batch,), (batch, 1)],
            "prompts_averaged": [(heads,), (1, heads)],
            "transposed_result": [(heads, batch)],
            "not_projected": [(batch, heads, d_model)],
        }
        compare(got, _attribution(*given), _wrong_attributions(*given), shapes)
        if not unchanged:
            raise Mistake("in_place")


def _attribution_case(
    batch: int, heads: int, d_head: int, d_model: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = seeded()
    z = torch.randn(batch, heads, d_head, generator=generator)
    w_o = torch.randn(heads, d_head, d_model, generator=generator) + 0.3
    scale = 2 + 6 * torch.rand(batch, 1, generator=generator)
    direction = torch.randn(batch, d_model, generator=generator) + 0.3
    return z, w_o, scale, direction


def _attribution(z: Tensor, w_o: Tensor, scale: Tensor, direction: Tensor) -> Tensor:
    return torch.einsum("bhd,hdm,bm->bh", z, w_o, direction / scale)


def _wrong_attributions(z: Tensor, w_o: Tensor, scale: Tensor, direction: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name; some only where sizes coincide."""
    written = torch.einsum("bhd,hdm->bhm", z, w_o)
    right = _attribution(z, w_o, scale, direction)
    raw = right * scale
    alone, total = raw / rms(written), written.sum(1)
    wrong = [
        ("each_alone", alone),
        ("each_alone", alone / scale),
        ("each_alone", raw / written.norm(dim=-1)),
        ("no_scale", raw),
        ("multiplied", raw * scale),
        ("square_root", raw / scale.sqrt()),
        ("scale_of_heads", raw / rms(total, keepdim=True)),
        ("one_scale", raw / scale.mean()),
        ("one_scale", raw / scale[0]),
        ("unit_direction", torch.einsum("bhm,bm->bh", written, F.normalize(direction, dim=-1) / scale)),
        ("unit_direction", torch.einsum("bhm,bm->bh", written, F.normalize(direction, dim=-1))),
        ("cosine", torch.cosine_similarity(written, direction[:, None], dim=-1)),
        ("one_W_O", _attribution(z, w_o[:1].expand_as(w_o), scale, direction)),
        ("one_W_O", _attribution(z, w_o.mean(0, keepdim=True).expand_as(w_o), scale, direction)),
        ("one_direction", torch.einsum("bhm,m->bh", written, direction[0]) / scale),
        ("one_direction", torch.einsum("bhm,m->bh", written, direction.mean(0)) / scale),
        ("centred", torch.einsum("bhm,bm->bh", centred(written), direction / scale)),
        ("absolute", right.abs()),
        ("fractions", right / right.sum(-1, keepdim=True)),
        ("fractions", right.softmax(-1)),
        ("sign", -right),
    ]
    if len(z) == z.shape[1] and z.shape[-1] == w_o.shape[-1]:
        wrong += [
            ("transposed_W_O", _attribution(z, w_o.mT, scale, direction)),
            ("transposed_result", right.T),
            ("prompts_for_heads", (written * direction / scale).sum(-1)),
            ("prompts_for_heads", (written * direction).sum(-1) / scale),
            ("prompts_for_heads", (written * direction / scale[:, None]).sum(-1)),
            ("prompts_for_heads", (written / scale * direction[:, None]).sum(-1)),
            ("prompts_for_heads", torch.einsum("bhd,bdm,bm->bh", z, w_o, direction / scale)),
            ("prompts_for_heads", raw / scale.T),
        ]
    return wrong


HEAD_ATTRIBUTION = Exercise(
    id="06.head_attribution",
    title="What each head writes to the difference",
    minutes=10,
    difficulty=3,
    hints=(
        "Two steps: what does each head write into the stream, [batch, head, d_model]? And how much of that points along the direction?",
        "The norm divides everything that is in the stream by the same number. So each head's part is divided by `scale` of its prompt, whatever the head's own size.",
        '`torch.einsum("bhd,hdm,bm->bh", z, W_O, direction / scale)`',
    ),
    mistakes={
        "shape": "Return one number for each prompt and head: shape [batch, head].",
        "heads_summed": "That is one number for each prompt, all heads together. Keep the heads apart: shape [batch, head].",
        "prompts_averaged": "That is one number for each head. Keep the prompts apart: shape [batch, head]; one can average later, and see the spread.",
        "transposed_result": "The axes have changed places: prompts come first, [batch, head].",
        "not_projected": "That is what the heads write. Take its inner product with the prompt's direction: sum over d_model.",
        "each_alone": "Each head's output is normalised by itself, so that a head that writes next to nothing looks as strong as any. The model's norm sees the whole stream: divide by `scale`.",
        "no_scale": "The final norm is missing. The unembedding reads the stream divided by `scale`; without it the numbers don't add up to the logit difference, and prompts with a large stream count for more.",
        "multiplied": "The norm divides by its scale; yours multiplies.",
        "square_root": "`scale` is what the norm divides by, a root mean square already: no further root.",
        "scale_of_heads": "That is the scale of what these heads write together. The norm sees the whole stream; its scale is given.",
        "one_scale": "One scale is used for all prompts. Each prompt has its own.",
        "unit_direction": "The direction was brought to length 1. Its length belongs to the logit: without it the numbers don't add up to the logit difference.",
        "cosine": "That is a cosine, which says how well aligned a head is and forgets how much it writes.",
        "one_W_O": "One head's output matrix (or their mean) is used for all heads. Each has its own: `W_O[h]`.",
        "one_direction": "One direction is used for all prompts. Each prompt has its own names, so its own direction.",
        "transposed_W_O": "W_O is used transposed. It leads from d_head to d_model: sum over its first axis after the head.",
        "prompts_for_heads": "An axis of prompts met an axis of heads, which goes unseen where there are as many of the one as of the other. Name the axes with einsum, or put in `[:, None]`.",
        "centred": "The mean over d_model is subtracted. This norm is RMSNorm (or centring is in the weights already): it only divides.",
        "absolute": "The sign is lost. Negative attributions are a finding: some heads write against the answer.",
        "fractions": "Those are shares of a whole. Return the attributions in the unit of logits.",
        "sign": "The sign is the wrong way round: positive is what raises IO over S.",
        "in_place": "Right, but an argument was changed: work on a copy.",
        "something_else": "That is not z @ W_O, divided by the scale, along the direction.",
    },
    judge=_judge_attribution,
)

# ------------------------------------------------------------------ 06.roles: roles of heads

_MOVER, _NEGATIVE, _SUPPRESSOR, _NONE = ROLES_OF_HEADS = (
    "name mover",
    "negative name mover",
    "S suppressor",
    "none",
)
_NAMES = ("IO", "S1", "S2")


def _judge_roles(
    answer: Any, *, table: Mapping[str, Mapping[str, Any]], attends: float = 0.2, copies: float = 0.5
) -> None:
    if not isinstance(answer, Mapping):
        raise Mistake("not_a_dict", f"You gave {kind(answer)}.")
    if set(answer) != set(table):
        raise Mistake("labels", f"The table has {', '.join(table)}; yours are {', '.join(map(str, answer))}.")
    given = {label: _as_role(label, role) for label, role in answer.items()}
    for label, row in table.items():
        head = {name: float(value) for name, value in row.items()}
        role = _role(head, attends, copies)
        if given[label] != role:
            for name, made in _confusions(head, role, given[label], attends):
                if made:
                    raise Mistake(name, _seen(label, head))


def _as_role(label: str, given: Any) -> str:
    """The role as it is written here, however the learner spells it."""
    roles = {role.casefold(): role for role in ROLES_OF_HEADS}
    plain = (
        " ".join(given.casefold().replace("_", " ").replace("-", " ").split())
        if isinstance(given, str)
        else None
    )
    if plain not in roles:
        raise Mistake("not_a_role", f"For {label} you gave {given!r}.")
    return roles[plain]


def _looks_at(head: Mapping[str, float], attends: float) -> str | None:
    """The name that gets most attention, if it gets enough."""
    most = max(_NAMES, key=lambda name: head[name])
    return most if head[most] >= attends else None


def _role(head: Mapping[str, float], attends: float, copies: float) -> str:
    seen = _looks_at(head, attends)
    if seen == "IO" and head["IO logit"] > 0 and head["copies"] >= copies:
        return _MOVER
    if seen == "IO" and head["IO logit"] < 0:
        return _NEGATIVE
    return _SUPPRESSOR if seen in ("S1", "S2") and head["S logit"] < 0 else _NONE


def _confusions(head: Mapping[str, float], role: str, given: str, attends: float) -> list[tuple[str, bool]]:
    """Each mistake, the first that was made first: the role that it is and the one that was given."""
    both, seen = (role, given), _looks_at(head, attends)
    copies_not = seen == "IO" and given == _MOVER and head["IO logit"] > 0
    return [
        ("mover_as_negative", both == (_MOVER, _NEGATIVE)),
        ("mover_as_suppressor", both == (_MOVER, _SUPPRESSOR)),
        ("mover_overlooked", both == (_MOVER, _NONE)),
        ("negative_as_mover", both == (_NEGATIVE, _MOVER)),
        ("negative_as_suppressor", both == (_NEGATIVE, _SUPPRESSOR)),
        ("negative_overlooked", both == (_NEGATIVE, _NONE)),
        ("suppressor_as_mover", both == (_SUPPRESSOR, _MOVER)),
        ("suppressor_as_negative", both == (_SUPPRESSOR, _NEGATIVE)),
        ("suppressor_overlooked", both == (_SUPPRESSOR, _NONE)),
        ("looks_at_no_name", seen is None),
        ("does_not_copy", copies_not),
        ("condition_not_met", True),
    ]


def _seen(label: str, head: Mapping[str, float]) -> str:
    attention = ", ".join(f"{name} {head[name]:.2f}" for name in _NAMES)
    return (
        f"Look again at {label}: attention to {attention}; IO logit {head['IO logit']:+.2f}, "
        f"S logit {head['S logit']:+.2f}, copies {head['copies']:.2f}."
    )


ROLES = Exercise(
    id="06.roles",
    title="Which head does what?",
    minutes=10,
    difficulty=3,
    hints=(
        "Begin with the attention: of the three names, which gets most? And is it enough to speak of?",
        "Then look at the logit of the name it looks at, not at the other one: IO for heads that look at IO, S for heads that look at S.",
        "A head that lowers S raises the logit difference as well as one that raises IO. What it looks at tells the two apart.",
    ),
    mistakes={
        "not_a_dict": "Give a dictionary: the label of each head, and its role.",
        "labels": "Give a role for every head of the table, under its label.",
        "not_a_role": 'The roles are "name mover", "negative name mover", "S suppressor" and "none".',
        "mover_as_negative": "A name mover was taken for its negative: it raises the logit of IO. What it does to S is another matter.",
        "mover_as_suppressor": "A name mover was taken for an S suppressor: of the three names it looks most at IO. That it may lower S besides doesn't make it one.",
        "mover_overlooked": "A name mover was overlooked: it looks at IO enough, raises it, and copies what it sees.",
        "negative_as_mover": "A negative name mover was taken for a name mover. It looks at IO all the same, but *lowers* its logit: look at the sign.",
        "negative_as_suppressor": "A negative name mover was taken for an S suppressor: the name that it looks at and lowers is IO, so that it works against the answer.",
        "negative_overlooked": "A negative name mover was overlooked: it looks at IO enough, and lowers it. It need not copy for that.",
        "suppressor_as_mover": "An S suppressor was taken for a name mover. Both raise the logit difference, and the difference alone can't tell them apart: this one looks at S and lowers it, and brings no name to the end.",
        "suppressor_as_negative": "An S suppressor was taken for a negative name mover. It lowers the name that it looks at, but that is S: it works for the answer, not against it.",
        "suppressor_overlooked": "An S suppressor was overlooked: it looks at S enough, and lowers it. That it does little to IO, and copies nothing, is what one expects of it.",
        "looks_at_no_name": "That head hardly looks at any of the names. Whatever it does to the logits, it doesn't do by reading a name there: none.",
        "does_not_copy": "That head looks at IO and raises it, but given other names its OV circuit doesn't bring them out. So it isn't copying that raises IO: none.",
        "condition_not_met": "That head looks at a name, but doesn't do with it what the role says: none.",
    },
    judge=_judge_roles,
    asks_for="value",
)

# ------------------------------------------------------------------ 06.copy_suppression: copy suppression


def _judge_suppressed(answer: Callable) -> None:
    generator = seeded()
    for n, offset in ((32, -0.9), (40, 0.2)):
        ov = _ov(n, offset, generator)
        expect(
            answer,
            (ov,),
            _share(ov.argmin(-1)),
            _wrong_shares(ov),
            {"for_each_name": [(n,)], "all_pairs": [(n, n)]},
        )


# How many names are lowered more than the own one, for each of 16 names: so many that no two mistakes give the same.
_LOWERED_MORE = (0, 2, 7, 0, 25, 12, 0, 22, 7, 0, 99, 12, 22, 0, 25, 99)


def _ov(n: int, offset: float, generator: torch.Generator) -> Tensor:
    ov = torch.randn(n, n, generator=generator) + 0.8 * torch.randn(1, n, generator=generator) + offset
    for name, row in enumerate(ov):
        others = row[torch.arange(n) != name].sort().values
        rank = _LOWERED_MORE[name % 16]
        row[name] = (
            others[0] - 4
            if rank == 0
            else others[-1] + 9
            if rank >= n
            else others[rank - 1 : rank + 1].mean()
        )
    ov[10, 3] = -40.0  # the smallest of all stands off the diagonal
    return ov


def _share(chosen: Tensor) -> Tensor:
    """Of names [n], the share of which the one chosen is the name itself."""
    return (chosen == torch.arange(len(chosen))).double().mean()


def _wrong_shares(ov: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    own, right, n = ov.diagonal(), _share(ov.argmin(-1)), len(ov)
    among = (ov < own[:, None]).sum(-1)  # how many names are lowered more
    return [
        ("copying", _share(ov.argmax(-1))),
        ("axis", _share(ov.argmin(0))),
        ("axis", _share(ov.argmax(0))),
        ("lowered", (own < 0).double().mean()),
        ("lowered", (own > 0).double().mean()),
        ("absolute", _share(ov.abs().argmax(-1))),
        ("below_mean", (own < ov.mean(-1)).double().mean()),
        ("below_mean", (own < (ov.sum(-1) - own) / (n - 1)).double().mean()),
        ("below_mean", (own < ov.mean()).double().mean()),
        ("among_lowest", (among < 5).double().mean()),
        ("among_lowest", (among < 10).double().mean()),
        ("mean_effect", own.mean().double()),
        ("mean_effect", -own.mean().double()),
        ("count", right * n),
        ("percent", 100 * right),
        ("others", 1 - right),
        ("all_pairs", right / n),
        ("all_pairs", (ov < 0).double().mean()),
        ("minimum_of_all", (own <= ov.min()).double().mean()),
        ("lowest_of_diagonal", (own == own.min()).double().mean()),
    ]


COPY_SUPPRESSION = Exercise(
    id="06.copy_suppression",
    title="A head that takes back what it sees",
    minutes=10,
    difficulty=3,
    hints=(
        "Take one row: the head attends to name i. Which name does it lower most?",
        "`ov.argmin(dim=-1)` answers that for all names at once. For how many is it the name itself?",
        "`(ov.argmin(dim=-1) == torch.arange(len(ov))).double().mean()`",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "for_each_name": "That is one answer for each name. Return the share: the mean of them.",
        "all_pairs": "That counts pairs of names. Return one number, the share of the n names.",
        "copying": "That is how often the own logit is *raised* most, so a copying score. Suppression is the opposite: the smallest entry.",
        "axis": "You compare along a column: which attended name lowers this logit most? Asked is along a row: when the head attends to this name, which logit does it lower most?",
        "lowered": "That asks only whether the own entry has a sign. A head that lowers all names alike would get 1: the own one should be lowered more than any other.",
        "absolute": "That compares absolute values, and counts names that are raised strongly, or hardly touched, as well. The sign matters.",
        "below_mean": "That asks only whether the own name is lowered more than the average. It should be lowered more than *any* other.",
        "among_lowest": "That counts names that are *among* those lowered most. Asked is the very lowest.",
        "mean_effect": "That is the mean effect on the own logit. A few names with a large one can make it, so return the share of names instead.",
        "count": "That is how many. Return the share: divide by the number of names.",
        "percent": "That is in per cent. Return the fraction.",
        "others": "That is the share of names that are *not* lowered most. Return 1 less that.",
        "minimum_of_all": "That compares with the smallest entry of the whole matrix. Each name is compared within its own row.",
        "lowest_of_diagonal": "That compares names' own entries with one another. Each is compared with the others in its row.",
        "in_place": "Right, but `ov` was changed: work on a copy.",
        "something_else": "That is not the share of names whose own logit is the smallest in their row.",
    },
    judge=_judge_suppressed,
)
