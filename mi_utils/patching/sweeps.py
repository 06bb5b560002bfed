"""Activation patching: copy an activation from one run into another, and see what the answer does.

Two prompts that differ in what matters (*clean* and *corrupted*); a *metric* of the answer; and a sweep that
asks of every layer and position, or of every head, what copying its activation does. *Denoising* edits the
corrupted run (is this enough to restore the behaviour?), *noising* edits the clean one (is it needed?). They
need not agree.

After Vig et al. 2020 and Meng et al. 2022; practice after Zhang & Nanda 2023. ``mi_utils.patching.engine``
says how a sweep is computed.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import prompts
from mi_utils.patching.engine import Axis, Metric, Patch, axis_of, run_patched
from mi_utils.patching.recording import HEAD_SITES, Run


def encode_pairs(
    model: TransformerBridge, clean: str | Sequence[str], corrupted: str | Sequence[str]
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Token ids of clean prompts and of their corrupted partners, all of one length.

    Raises:
        ValueError: not as many of one as of the other, prompts of different token lengths (the first two that
            differ are named), or a pair that is twice the same prompt.
    """
    clean, corrupted = ([text] if isinstance(text, str) else list(text) for text in (clean, corrupted))
    if len(clean) != len(corrupted):
        raise ValueError(
            f"clean has {len(clean)} prompts and corrupted {len(corrupted)}; they should be pairs"
        )
    same = [one for one, other in zip(clean, corrupted, strict=True) if one == other]
    if same:
        raise ValueError(f"clean and corrupted are both {same[0]!r}; a corruption should change something")
    tokens = prompts.encode(model, [*clean, *corrupted])
    return tokens[: len(clean)], tokens[len(clean) :]


# -- metrics: from logits at the last position to a number for each prompt ------------------------------


def logit(answer: Int[Tensor, "batch"]) -> Metric:
    """The answer's logit. By itself it also moves when all logits do."""

    def metric(logits: Float[Tensor, "*rows batch vocab"]) -> Float[Tensor, "*rows batch"]:
        wanted = answer.to(logits.device).expand(logits.shape[:-1])
        return logits.gather(-1, wanted[..., None])[..., 0]

    return metric


def logit_difference(answer: Int[Tensor, "batch"], wrong: Int[Tensor, "batch"]) -> Metric:
    """The answer's logit minus that of a wrong answer: the log of how much likelier the model finds it.

    Raises:
        ValueError: not as many of one as of the other, or the same token as both.
    """
    if answer.shape != wrong.shape:
        raise ValueError(f"answer has {len(answer)} tokens and wrong {len(wrong)}; they should be pairs")
    if (answer == wrong).any():
        index = int((answer == wrong).nonzero()[0])
        raise ValueError(
            f"answer and wrong are both token {int(answer[index])} in prompt {index}; they should differ"
        )
    right, other = logit(answer), logit(wrong)
    return lambda logits: right(logits) - other(logits)


def log_probability(answer: Int[Tensor, "batch"]) -> Metric:
    """The answer's log-probability, in nats."""
    right = logit(answer)
    return lambda logits: right(logits.float().log_softmax(-1))


def probability(answer: Int[Tensor, "batch"]) -> Metric:
    """The answer's probability."""
    right = logit(answer)
    return lambda logits: right(logits.float().softmax(-1))


def recovery(
    patched: Float[Tensor, "*shape"], clean: Float[Tensor, "*#shape"], corrupted: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Where a patched run lies between the corrupted run (0) and the clean run (1); below 0 and above 1
    happen.

    Average over prompts before, not after: a pair that differs by little would drown the others.

    Raises:
        ValueError: the clean and the corrupted run give the same (within 1e-6), so there is nothing to
            recover.
    """
    gap = clean - corrupted
    if (gap.abs() < 1e-6).any():
        raise ValueError(
            "clean and corrupted give the same metric, so recovery is undefined (a division by zero)"
        )
    return (patched - corrupted) / gap


# -- sweeps --------------------------------------------------------------------------------------------


def sweep(
    model: TransformerBridge,
    base: Run,
    source: Run,
    site: str,
    metric: Metric,
    *,
    by: Axis = "position",
) -> Float[Tensor, "layer part batch"]:
    """By how much each patch of a sweep changes the metric: one layer and one position (or one head at all
    positions) at a time.

    Args:
        model: the model that was recorded.
        base: the run that is edited: the corrupted one for denoising, the clean one for noising.
        source: the run that activations are copied from. Both must have recorded the site.
        site: one of ``STREAM_SITES`` or ``HEAD_SITES`` of ``patching.recording``.
        metric: as in ``run_patched``.
        by: ``"position"``, all heads together; or ``"head"``, all positions together.

    Returns:
        The change of the metric from ``base`` for each layer, position or head, and prompt; positive where
        the metric rises. Where both runs hold the same activation (before the first token that differs, say)
        nothing is run and it is 0; see ``can_change``.

    Raises:
        ValueError: runs of different shapes or models, a site that was not recorded, or one that has no
            heads.
    """
    changes = can_change(base, source, site, by=by)
    cells = changes.nonzero().tolist()
    unchanged = metric(base.logits[None])[0]
    result = torch.zeros_like(unchanged).repeat(*changes.shape, 1)
    if cells:
        part = "head" if by == "head" else "position"
        patches = [[Patch(site, layer, source[site, layer], **{part: i})] for layer, i in cells]
        start = first_difference(base.tokens, source.tokens)
        result[changes] = run_patched(model, base, patches, metric, start=start) - unchanged
    return result


def can_change(base: Run, source: Run, site: str, *, by: Axis = "position") -> Bool[Tensor, "layer part"]:
    """Which cells of a sweep copy something new; the others are zero by construction, and say nothing.

    Raises:
        ValueError: as in ``sweep``.
    """
    if by not in ("position", "head"):
        raise ValueError(f"by is {by!r}; it should be 'position' or 'head'")
    if by == "head" and site not in HEAD_SITES:
        raise ValueError(
            f"site is {site!r}, which has no heads; by='head' wants one of {', '.join(HEAD_SITES)}"
        )
    if base.tokens.shape != source.tokens.shape:
        shapes = f"{tuple(base.tokens.shape)} and {tuple(source.tokens.shape)}"
        raise ValueError(
            f"base and source have prompts x positions {shapes}; they should be pairs of equal length"
        )
    if base.model != source.model:
        raise ValueError(
            f"base was recorded with {base.model!r} and source with {source.model!r}; they should be one"
        )
    axis = axis_of(site, by)
    rows = []
    for layer in sorted(layer for kept, layer in base.activations if kept == site) or [0]:
        differs = base[site, layer] != source[site, layer]
        rows.append(differs.movedim(axis, 0).flatten(1).any(1))
    return torch.stack(rows)


def first_difference(tokens: Int[Tensor, "batch pos"], other: Int[Tensor, "batch pos"]) -> int:
    """The first position at which any prompt differs from its partner; the last position if none does."""
    differs = (tokens != other).any(0).nonzero()
    return int(differs[0]) if len(differs) else tokens.shape[1] - 1
