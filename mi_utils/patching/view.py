"""What activation patching looks like: the map of a sweep as a figure, and that of one pair of prompts.

Maps show layer by position (or by head), layer 0 at the bottom; blue moves the edited run towards the other
one. ``patching.browser`` is for playing with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import patching, plots, prompts
from mi_utils.plots.style import token_labels

# The sites that the browser offers, with the axis of their map.
SITES: dict[str, tuple[str, str]] = {
    "resid_pre": ("position", "residual stream before each layer"),
    "attn_out": ("position", "attention output"),
    "mlp_out": ("position", "MLP output"),
    "z": ("head", "output of each head"),
    "q": ("head", "queries of each head"),
    "k": ("head", "keys of each head"),
    "v": ("head", "values of each head"),
    "pattern": ("head", "attention pattern of each head"),
}
METRICS = ("logit difference", "log-probability", "probability")
DIRECTIONS = {
    "denoising": "denoising: clean values into the corrupted run",
    "noising": "noising: corrupted values into the clean run",
}
LONGEST = 32  # tokens of a prompt: a map of more takes long, and a screen has no room for it


def patching_figure(
    values: Float[Tensor, "layer part"],
    parts: Sequence[object] | None = None,
    *,
    title: str | None = None,
    part_title: str = "position",
    colour_title: str = "recovery",
) -> go.Figure:
    """A heat map of a sweep, layer 0 at the bottom, colours centred on zero.

    Args:
        values: a number for each layer and position or head: ``patching.sweep`` averaged over prompts, or its
            recovery.
        parts: labels of the positions (``position_labels`` makes them) or heads; by default 0, 1, ...
        title: of the figure.
        part_title: what a column is.
        colour_title: what the values are, with their unit.

    Raises:
        ValueError: values that are empty or not finite, or another number of parts than of columns.
    """
    return plots.heatmap(
        values,
        x=parts,
        title=title,
        x_title=part_title,
        y_title="layer",
        colour_title=colour_title,
        diverging=True,
    )


def position_labels(
    model: TransformerBridge, clean: Int[Tensor, "pos"], corrupted: Int[Tensor, "pos"] | None = None
) -> list[str]:
    """The token at each position; where the corrupted prompt has another one, both: ``·Mary→·John``.

    Raises:
        ValueError: prompts of different token lengths, or ids outside the vocabulary.
    """
    labels = token_labels(prompts.token_strings(model, clean))
    others = labels if corrupted is None else token_labels(prompts.token_strings(model, corrupted))
    if len(labels) != len(others):
        raise ValueError(
            f"clean has {len(labels)} tokens and corrupted {len(others)}; they should be equally many"
        )
    return [one if one == other else f"{one}→{other}" for one, other in zip(labels, others, strict=True)]


@dataclass(frozen=True)
class PatchingMap:
    """The map of one pair of prompts.

    ``share`` is how far each patch moves the edited run's metric towards the other run: 0 not at all, 1 all
    the way (when denoising, this is ``patching.recovery``). ``changes`` says where the runs differ at all:
    elsewhere there is nothing to copy, and ``share`` is zero by construction.
    """

    share: Float[Tensor, "layer part"]
    patched: Float[Tensor, "layer part"]
    changes: Bool[Tensor, "layer part"]
    edited: float
    other: float
    by: str
    parts: tuple[str, ...]  # heads, or the tokens of the clean prompt
    others: tuple[str, ...]  # the same, or the tokens of the corrupted one

    def top(self, count: int) -> list[tuple[int, int]]:
        """Layers and parts whose patches move the metric most, up or down."""
        sizes = self.share.abs().masked_fill(~self.changes, -1)
        order = sizes.flatten().argsort(descending=True, stable=True)[: min(count, int(self.changes.sum()))]
        return [divmod(index, self.share.shape[1]) for index in order.tolist()]


def patching_map(
    model: TransformerBridge,
    clean: str,
    corrupted: str,
    answer: str,
    wrong: str,
    *,
    site: str = "resid_pre",
    metric: str = "logit difference",
    direction: str = "denoising",
) -> PatchingMap:
    """One sweep over a pair of prompts.

    Args:
        model: the model.
        clean, corrupted: prompts of equally many tokens.
        answer, wrong: the answers to the clean and to the corrupted prompt, one token each (mind the leading
            space).
        site, metric, direction: one of ``SITES``, ``METRICS``, ``DIRECTIONS``.

    Raises:
        ValueError: prompts that are the same, of different token lengths or longer than ``LONGEST``; an
            answer that is not one token, or twice the same one; a site, metric or direction that is not
            offered; or a metric that is the same in both runs.
    """
    check_offered(site, metric, direction)
    pair = patching.encode_pairs(model, clean, corrupted)
    if pair[0].shape[1] > LONGEST:
        raise ValueError(
            f"clean and corrupted have {pair[0].shape[1]} tokens; they should have at most {LONGEST}"
        )
    measure = _metric(model, metric, answer, wrong)
    runs = [patching.record(model, tokens, [site]) for tokens in pair]
    base, source = reversed(runs) if direction == "denoising" else runs
    edited, other = (measure(run.logits) for run in (base, source))
    if float((edited - other).abs()) < 1e-6:
        same = f"clean and corrupted give the same {metric}, {float(other):.3g}"
        raise ValueError(f"{same}; they should differ, or no patch can be measured")
    by = SITES[site][0]
    patched = edited + patching.sweep(model, base, source, site, measure, by=by)
    share = patching.recovery(patched, clean=other, corrupted=edited)[..., 0]
    heads = tuple(map(str, range(share.shape[1])))
    texts = [
        tuple(token_labels(prompts.token_strings(model, row[0]))) if by == "position" else heads
        for row in pair
    ]
    changes = patching.can_change(base, source, site, by=by)
    return PatchingMap(share, patched[..., 0], changes, float(edited), float(other), by, *texts)


def check_offered(site: str, metric: str, direction: str) -> None:
    """Raises ``ValueError`` for a site, metric or direction that is not among those of the browser."""
    choices = ("site", site, SITES), ("metric", metric, METRICS), ("direction", direction, DIRECTIONS)
    for name, value, offered in choices:
        if value not in offered:
            raise ValueError(f"{name} is {value!r}; it should be one of {', '.join(offered)}")


def _metric(model: TransformerBridge, name: str, answer: str, wrong: str) -> patching.engine.Metric:
    tokens = []
    for role, text in (("answer", answer), ("wrong", wrong)):
        try:
            tokens.append(prompts.single_token(model, text))
        except ValueError as error:
            raise ValueError(str(error).replace("text is", f"{role} is", 1)) from None
    right, other = (torch.tensor([token], device=model.cfg.device) for token in tokens)
    if name == "logit difference":
        return patching.logit_difference(right, other)
    return patching.log_probability(right) if name == "log-probability" else patching.probability(right)
