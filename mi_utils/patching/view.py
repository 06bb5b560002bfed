"""What activation patching looks like: the map of a sweep as a figure, and a browser to play with.

Both show layer by position (or by head), layer 0 at the bottom; blue moves the edited run towards the other
one.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import patching, plots, prompts
from mi_utils.plots.style import (
    DIVERGING,
    INK,
    MONO,
    SANS,
    card,
    colour_at,
    ink_on,
    sentence,
    shorten,
    token_labels,
)

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
_TOP = 8  # sites in the table
_ROW = 18  # height of a row in pixels
_CELL = 9  # characters of a label
_SHOWN = (
    0.2  # of the largest: from there on a cell shows its number, and with it the sign, also in grey print
)
_HEAD = "padding:0 6px;font-weight:normal;white-space:pre;text-align:right"
_SAME = "repeating-linear-gradient(45deg,#ffffff 0 5px,#cccccc 5px 6px)"


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
    _check_offered(site, metric, direction)
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


def _check_offered(site: str, metric: str, direction: str) -> None:
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


class PatchingBrowser(widgets.VBox):
    """A pair of prompts to patch, to play with: prompts, answers, site, metric and direction can be changed.

    What can't be patched (prompts of different token lengths, an answer of two tokens) is said in its place,
    in one sentence. The parts are ``clean``, ``corrupted``, ``answer``, ``wrong``, ``site``, ``metric``,
    ``direction`` and ``page``, each with a ``value``.

    Args:
        model: the model that is patched.
        clean, corrupted, answer, wrong, site, metric, direction: what is shown at the start, as
            ``patching_map`` takes them.

    Raises:
        ValueError: a site, metric or direction that is not offered.
    """

    def __init__(
        self,
        model: TransformerBridge,
        clean: str = "When Mary and John went to the store, John gave a drink to",
        corrupted: str = "When Mary and John went to the store, Mary gave a drink to",
        answer: str = " Mary",
        wrong: str = " John",
        *,
        site: str = "resid_pre",
        metric: str = "logit difference",
        direction: str = "denoising",
    ):
        _check_offered(site, metric, direction)
        self._model, self._maps = model, {}
        style = {"description_width": "initial"}
        fits = {"layout": widgets.Layout(width="auto", margin="2px 16px 2px 2px"), "style": style}
        text = {"continuous_update": False, **fits}
        self.clean = widgets.Text(clean, description="clean", **text)
        self.corrupted = widgets.Text(corrupted, description="corrupted", **text)
        self.answer = widgets.Text(answer, description="answer to clean", **text)
        self.wrong = widgets.Text(wrong, description="answer to corrupted", **text)
        sites = [(f"{name}: {meaning}", name) for name, (_, meaning) in SITES.items()]
        self.site = widgets.Dropdown(options=sites, value=site, description="site", **fits)
        self.metric = widgets.Dropdown(options=METRICS, value=metric, description="metric", **fits)
        directions = [(text, name) for name, text in DIRECTIONS.items()]
        self.direction = widgets.Dropdown(
            options=directions, value=direction, description="direction", **fits
        )
        self.page = widgets.HTML(layout=widgets.Layout(width="auto", overflow="auto"))
        rows = ([self.answer, self.wrong], [self.site, self.metric, self.direction])
        boxes = [widgets.HBox(row, layout=widgets.Layout(flex_flow="row wrap")) for row in rows]
        super().__init__([self.clean, self.corrupted, *boxes, self.page])
        self._choices = (
            self.clean,
            self.corrupted,
            self.answer,
            self.wrong,
            self.site,
            self.metric,
            self.direction,
        )
        for part in self._choices:
            part.observe(self._show, names="value")
        self._show()

    def __repr__(self) -> str:
        chosen = f"{self.site.value}, {self.metric.value}, {self.direction.value}"
        return f"PatchingBrowser({shorten(self.clean.value, 40)!r}, {chosen})"  # ipywidgets cuts it at 110

    def _show(self, _change: Any = None) -> None:
        state = tuple(part.value for part in self._choices)
        try:
            if state not in self._maps:
                self.page.value = card(sentence("Patching, one site at a time..."))
                clean, corrupted, answer, wrong, site, metric, direction = state
                self._maps[state] = patching_map(
                    self._model,
                    clean,
                    corrupted,
                    answer,
                    wrong,
                    site=site,
                    metric=metric,
                    direction=direction,
                )
            self.page.value = card(self._body(self._maps[state]))
        except ValueError as error:
            self.page.value = card(sentence(" ".join(str(error).split())))

    def _body(self, found: PatchingMap) -> str:
        edited, other = (
            ("corrupted", "clean") if self.direction.value == "denoising" else ("clean", "corrupted")
        )
        answers = f"{self.answer.value!r} against {self.wrong.value!r}"
        of = answers if self.metric.value == "logit difference" else f"of {self.answer.value!r}"
        said = f"{self.metric.value}, {of}: {_number(found.edited)} in the {edited} run, {_number(found.other)} in the"
        lead = sentence(f"{said} {other} run. One patch a cell, from the {other} into the {edited} run.")
        share = f"share of the way from the {edited} run to the {other} run"
        tables = _map_table(found, share) + _top_table(found, self.metric.value)
        return f'{lead}<div style="display:flex;flex-wrap:wrap;gap:8px 32px;align-items:flex-start">{tables}</div>'


def _map_table(found: PatchingMap, share: str) -> str:
    bound = float(found.share.abs().max()) or 1.0
    rows = [_heads("clean" if found.by == "position" else "head", found.parts)]
    if found.by == "position":
        pairs = zip(found.parts, found.others, strict=True)
        rows.append(_heads("corrupted", [other if one != other else "" for one, other in pairs]))
    columns = [_part(found, i) for i in range(len(found.parts))]
    for layer in reversed(range(len(found.share))):
        numbers = (found.share[layer].tolist(), found.patched[layer].tolist(), found.changes[layer].tolist())
        places = [f"layer {layer}, {column}" for column in columns]
        cells = "".join(_cell(*cell, bound) for cell in zip(places, *numbers, strict=True))
        rows.append(
            f'<tr style="height:{_ROW}px"><th scope="row" style="{_HEAD}">layer {layer}</th>{cells}</tr>'
        )
    caption = f"{share}; blue is towards it, red with a minus away from it, darkest at {_share(bound)}"
    if not found.changes.all():
        caption += "; hatched: the same in both runs, so nothing to patch"
    return _table(caption[0].upper() + caption[1:], rows)


def _top_table(found: PatchingMap, metric: str) -> str:
    """The patches that move the metric most."""
    rows = [_heads("layer", ["where", metric, "share"], longest=30)]
    for layer, part in found.top(_TOP):
        numbers = float(found.patched[layer, part]), float(found.share[layer, part])
        texts = _part(found, part), _number(numbers[0]), _share(numbers[1])
        cells = "".join(f'<td style="{_HEAD}">{html.escape(text)}</td>' for text in texts)
        rows.append(f'<tr style="height:{_ROW}px"><th scope="row" style="{_HEAD}">{layer}</th>{cells}</tr>')
    return _table("Where a patch moves the metric most, up or down", rows)


def _part(found: PatchingMap, part: int) -> str:
    """A head, or a position with its tokens."""
    one, other = found.parts[part], found.others[part]
    if found.by == "head":
        return f"head {one}"
    return f"position {part} {one}" if one == other else f"position {part} {one} / {other}"


def _heads(first: str, labels: Sequence[str], longest: int = _CELL) -> str:
    cells = "".join(
        f'<th scope="col" style="{_HEAD}">{html.escape(shorten(one, longest))}</th>' for one in labels
    )
    return (
        f'<tr style="height:{_ROW}px"><th scope="col" style="{_HEAD}">{html.escape(first)}</th>{cells}</tr>'
    )


def _cell(place: str, share: float, patched: float, changes: bool, bound: float) -> str:
    if not changes:
        return f'<td title="{html.escape(place)}: the same in both runs" style="background:{_SAME}"></td>'
    ground = colour_at((share / bound + 1) / 2, DIVERGING)
    style = f"background:#{bytes(ground).hex()};color:{ink_on(ground)};padding:0 4px;min-width:34px;text-align:center"
    tip = html.escape(f"{place}: share {_share(share)}, metric {_number(patched)}")
    return f'<td title="{tip}" style="{style}">{_share(share) if abs(share) >= _SHOWN * bound else ""}</td>'


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _share(value: float) -> str:
    return (f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}").replace("-", "−")


def _table(caption: str, rows: Sequence[str]) -> str:
    return (
        f'<table style="border-spacing:1px;border-collapse:separate;font:11px/1.2 {MONO};color:{INK}">'
        '<caption style="text-align:left;font:12px '
        f'{SANS};padding-bottom:6px">{html.escape(caption)}</caption>'
        f"{''.join(rows)}</table>"
    )
