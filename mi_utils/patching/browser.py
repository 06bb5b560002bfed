"""A browser to play with activation patching: prompts, answers, site, metric and direction can be changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
from markupsafe import Markup
from transformer_lens.model_bridge import TransformerBridge

from mi_utils.patching.view import DIRECTIONS, METRICS, SITES, PatchingMap, check_offered, patching_map
from mi_utils.plots import html
from mi_utils.plots.style import DIVERGING, INK, MONO, SANS, colour_at, ink_on, shorten

_TOP = 8  # sites in the table
_ROW = 18  # height of a row in pixels
_CELL = 9  # characters of a label
# Of the largest: from there on a cell shows its number, and with it the sign, also in grey print.
_SHOWN = 0.2
_HEAD = "padding:0 6px;font-weight:normal;white-space:pre;text-align:right"
_SAME = "background:repeating-linear-gradient(45deg,#ffffff 0 5px,#cccccc 5px 6px)"
_BODY = """
{{ lead }}
<div style="display:flex;flex-wrap:wrap;gap:8px 32px;align-items:flex-start">
{% for table in tables %}{{ table }}{% endfor %}
</div>
"""
_TABLE = """
<table style="border-spacing:1px;border-collapse:separate;font:11px/1.2 {{ mono }};color:{{ ink }}">
<caption style="text-align:left;font:12px {{ sans }};padding-bottom:6px">{{ caption }}</caption>
{% for first, labels in heads %}
<tr style="height:{{ height }}px"><th scope="col" style="{{ head }}">{{ first }}</th>
{% for label in labels %}<th scope="col" style="{{ head }}">{{ label }}</th>{% endfor %}</tr>
{% endfor %}
{% for first, cells in rows %}
<tr style="height:{{ height }}px"><th scope="row" style="{{ head }}">{{ first }}</th>
{% for cell in cells %}
<td{% if cell.tip %} title="{{ cell.tip }}"{% endif %} style="{{ cell.style }}">{{ cell.text }}</td>
{% endfor %}</tr>
{% endfor %}
</table>
"""


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
        check_offered(site, metric, direction)
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
                self.page.value = html.frame(html.sentence("Patching, one site at a time..."))
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
            self.page.value = html.frame(self._body(self._maps[state]))
        except ValueError as error:
            self.page.value = html.frame(html.sentence(" ".join(str(error).split())))

    def _body(self, found: PatchingMap) -> Markup:
        edited, other = (
            ("corrupted", "clean") if self.direction.value == "denoising" else ("clean", "corrupted")
        )
        answers = f"{self.answer.value!r} against {self.wrong.value!r}"
        of = answers if self.metric.value == "logit difference" else f"of {self.answer.value!r}"
        ends = f"{_number(found.edited)} in the {edited} run, {_number(found.other)} in the {other} run"
        said = f"{self.metric.value}, {of}: {ends}. One patch a cell, from the {other} into the {edited} run."
        share = f"share of the way from the {edited} run to the {other} run"
        tables = [_map_table(found, share), _top_table(found, self.metric.value)]
        return html.render(_BODY, lead=html.sentence(said), tables=tables)


@dataclass(frozen=True)
class _Cell:
    """A cell of a table: its text, how it looks, and what is said when it is pointed at."""

    text: str
    style: str = _HEAD
    tip: str = ""


def _map_table(found: PatchingMap, share: str) -> Markup:
    """Layer by position or head, the last layer on top."""
    bound = float(found.share.abs().max()) or 1.0
    heads = [("clean" if found.by == "position" else "head", found.parts)]
    if found.by == "position":
        pairs = zip(found.parts, found.others, strict=True)
        heads.append(("corrupted", [other if one != other else "" for one, other in pairs]))
    columns = [_part(found, i) for i in range(len(found.parts))]
    rows = []
    for layer in reversed(range(len(found.share))):
        numbers = (found.share[layer].tolist(), found.patched[layer].tolist(), found.changes[layer].tolist())
        places = [f"layer {layer}, {column}" for column in columns]
        rows.append((f"layer {layer}", [_cell(*cell, bound) for cell in zip(places, *numbers, strict=True)]))
    caption = f"{share}; blue is towards it, red with a minus away from it, darkest at {_share(bound)}"
    if not found.changes.all():
        caption += "; hatched: the same in both runs, so nothing to patch"
    return _table(caption[0].upper() + caption[1:], heads, rows)


def _top_table(found: PatchingMap, metric: str) -> Markup:
    """The patches that move the metric most."""
    rows = []
    for layer, part in found.top(_TOP):
        patched, share = float(found.patched[layer, part]), float(found.share[layer, part])
        texts = _part(found, part), _number(patched), _share(share)
        rows.append((str(layer), [_Cell(text) for text in texts]))
    heads = [("layer", ["where", metric, "share"])]
    return _table("Where a patch moves the metric most, up or down", heads, rows, longest=30)


def _table(
    caption: str,
    heads: Sequence[tuple[str, Sequence[str]]],
    rows: Sequence[tuple[str, Sequence[_Cell]]],
    *,
    longest: int = _CELL,
) -> Markup:
    short = [(first, [shorten(label, longest) for label in labels]) for first, labels in heads]
    look = {"mono": MONO, "sans": SANS, "ink": INK, "height": _ROW, "head": _HEAD}
    return html.render(_TABLE, caption=caption, heads=short, rows=rows, **look)


def _part(found: PatchingMap, part: int) -> str:
    """A head, or a position with its tokens."""
    one, other = found.parts[part], found.others[part]
    if found.by == "head":
        return f"head {one}"
    return f"position {part} {one}" if one == other else f"position {part} {one} / {other}"


def _cell(place: str, share: float, patched: float, changes: bool, bound: float) -> _Cell:
    if not changes:
        return _Cell("", _SAME, f"{place}: the same in both runs")
    ground = colour_at((share / bound + 1) / 2, DIVERGING)
    colours = f"background:#{bytes(ground).hex()};color:{ink_on(ground)}"
    text = _share(share) if abs(share) >= _SHOWN * bound else ""
    tip = f"{place}: share {_share(share)}, metric {_number(patched)}"
    return _Cell(text, f"{colours};padding:0 4px;min-width:34px;text-align:center", tip)


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _share(value: float) -> str:
    return (f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}").replace("-", "−")
