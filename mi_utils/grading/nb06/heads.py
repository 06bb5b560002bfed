"""Checks of the exercises of notebook 06 about single heads: what they write, and copy suppression."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_utils.grading.answers import ask, compare, expect
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
