"""What a lens reading looks like: a figure, and a browser in which prompt, layers and lens can be changed.

Both show layer by position with the likeliest next token in each cell, the model's own prediction on top.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ipywidgets as widgets
import plotly.graph_objects as go
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import lens, plots, prompts
from mi_utils.plots import html
from mi_utils.plots.style import INK, MONO, SANS, SEQUENTIAL, colour_at, ink_on, shorten, token_labels

Value = Literal["probability", "entropy", "kl"]
MEANING: dict[str, str] = {
    "probability": "probability of the top token",
    "entropy": "entropy (nats)",
    "kl": "KL to the model's prediction (nats)",
}
TITLE = "Likeliest next token at each layer"
LONGEST = 24  # tokens of a prompt that the browser shows: a screen has room for no more
_ROW = 22  # height of a row in pixels
_CELL = 14  # characters shown in a cell


def lens_figure(
    model: TransformerBridge, reading: lens.Reading, *, value: Value = "probability", title: str | None = None
) -> go.Figure:
    """A heat map of a reading, layer 0 at the bottom; hovering shows the whole token and the value.

    Args:
        model: the model that was read, for the text of its tokens.
        reading: as ``lens.read`` gives it.
        value: what the colour is: the top token's probability, the entropy of the prediction in nats, or its
            KL divergence to the model's own prediction in nats (colours end at the log of the vocabulary's
            size).
        title: by default says what the cells hold.

    Raises:
        ValueError: a value that is none of these, or a reading that is not finite.
    """
    shown = _shown(model, reading, value)
    fig = plots.heatmap(
        shown.values,
        x=shown.read,
        y=shown.layers,
        text=shown.top,
        zmin=0.0,
        zmax=shown.highest,
        title=TITLE if title is None else title,
        x_title="token read",
        y_title="layer",
        colour_title=shown.meaning,
    )
    cells = fig.data[0]
    cells.hovertemplate = cells.hovertemplate.replace("<br>text %{", "<br>top token %{")
    rows = len(shown.layers)
    drawn = max(480, 18 * rows)  # by the heatmap, whose rows are narrow where there are many
    fig.layout.height += max(0, _ROW * rows - drawn)
    return fig


class LensBrowser(widgets.VBox):
    """A prompt seen through a lens, to play with: prompt, layers, lens and colour can be changed.

    The start token is left out: what stands there is the same for every prompt, and no lens is trained on it.
    What can't be read (an empty prompt, one beyond the model's context) is said in its place, in one
    sentence. The parts are ``prompt``, ``layers``, ``lens``, ``colour`` and ``page``, each with a ``value``.

    Args:
        model: the model that reads.
        lenses: name -> lens; the first is shown at the start.
        prompt: the text at the start.

    Raises:
        ValueError: no lenses, or one that was made for another model.
    """

    def __init__(
        self,
        model: TransformerBridge,
        lenses: Mapping[str, lens.Lens],
        prompt: str = "The capital of France is",
    ) -> None:
        if not lenses:
            raise ValueError("lenses is empty; it should hold at least one lens, by its name")
        for one in lenses.values():
            lens.check_fits(model, one)
        self._model, self._lenses, depth = model, dict(lenses), model.cfg.n_layers
        done, plain = {"continuous_update": False}, {"style": {"description_width": "initial"}}
        fits = {"layout": widgets.Layout(width="auto", margin="2px 16px 2px 2px"), **plain}
        self.prompt = widgets.Text(prompt, description="prompt", **fits, **done)
        self.layers = widgets.IntRangeSlider(
            value=(0, depth), min=0, max=depth, description="layers", **plain, **done
        )
        self.lens = widgets.Dropdown(options=list(lenses), description="lens", **fits)
        self.colour = widgets.Dropdown(
            options=[(MEANING[key], key) for key in MEANING], description="colour", **fits
        )
        self.page = widgets.HTML(layout=widgets.Layout(width="auto", overflow="auto"))
        choices = widgets.HBox(
            [self.layers, self.lens, self.colour], layout=widgets.Layout(flex_flow="row wrap")
        )
        super().__init__([self.prompt, choices, self.page])
        for part in (self.prompt, self.layers, self.lens, self.colour):
            part.observe(self._show, names="value")
        self._show()

    def __repr__(self) -> str:
        low, high = self.layers.value
        return f"LensBrowser({self.prompt.value!r}, layers {low} to {high}, lens {self.lens.value!r})"

    def _show(self, _change: Any = None) -> None:
        try:
            body = self._body()
        except ValueError as error:
            body = html.sentence(" ".join(str(error).split()))
        self.page.value = str(html.frame(body))

    def _body(self) -> Markup:
        tokens, (low, high) = prompts.encode(self._model, self.prompt.value)[0], self.layers.value
        chosen = self._lenses[self.lens.value]
        shown, layers = slice(1, LONGEST + 1), range(low, high + 1)
        reading = lens.read(self._model, tokens[: shown.stop], chosen, layers=layers, positions=shown)
        body = _table(_shown(self._model, reading, self.colour.value)) + _next_tokens(self._model, reading)
        if len(tokens) > shown.stop:
            said = f"Of the {len(tokens) - 1} tokens, only the first {LONGEST} are read and shown."
            body += html.sentence(said)
        return body


@dataclass(frozen=True)
class _Shown:
    """What figure and browser have in common; ``values`` become colours, the darkest at ``highest``."""

    values: Float[Tensor, "row pos"]
    highest: float
    meaning: str
    layers: list[str]
    read: list[str]
    top: list[list[str]]


def _shown(model: TransformerBridge, reading: lens.Reading, value: str) -> _Shown:
    if value not in MEANING:
        raise ValueError(f"value is {value!r}; it should be one of {', '.join(MEANING)}")
    # Fixed ends, so that two readings compare. KL beyond the log of the vocabulary's size is worse than an
    # even guess; how much worse (at the embedding, tenfold) would drown all the rest.
    highest, meaning = math.log(reading.log_probs.shape[-1]), MEANING[value]
    if value == "probability":
        highest, values = 1.0, reading.log_probs.amax(dim=-1).exp()
    elif value == "entropy":
        values = reading.entropy()
    else:
        values, meaning = reading.kl_to_final(), f"{meaning[:-1]}, darkest from {highest:.3g} on)"
    top = [token_labels(prompts.token_strings(model, row), longest=200) for row in reading.top()]
    read = token_labels(prompts.token_strings(model, reading.tokens))
    layers = [*map(str, reading.layers[:-1]), "model"]
    return _Shown(values.clamp_min(0).float().cpu(), highest, meaning, layers, read, top)  # below 0: rounding


_TABLE = """\
<table style="border-spacing:1px;border-collapse:separate;font:12px/1.2 {{ mono }};color:{{ ink }}">
<caption style="text-align:left;font:12px {{ sans }};padding-bottom:6px">{{ caption }}</caption>
<tr style="height:{{ height }}px">
<th scope="col" style="{{ head }};text-align:right">layer</th>
{% for label in read %}
<th scope="col" style="{{ head }}">{{ label }}</th>
{% endfor %}
</tr>
{% for row in rows %}
<tr style="height:{{ height }}px">
<th scope="row" style="{{ head }};text-align:right">{{ row.layer }}</th>
{% for cell in row.cells %}
<td title="{{ cell.tip }}" style="{{ cell.paint }};{{ room }};text-align:center">{{ cell.label }}</td>
{% endfor %}
</tr>
{% endfor %}
</table>
"""


def _table(shown: _Shown) -> Markup:
    """Layer by position, the model itself on top."""
    by_layer = zip(shown.layers, shown.top, shown.values.tolist(), strict=True)
    rows = [
        {"layer": layer, "cells": [_cell(*one, shown.highest) for one in zip(labels, values, strict=True)]}
        for layer, labels, values in by_layer
    ]
    return html.render(
        _TABLE,
        caption=f"{TITLE}; the darker, the higher the {shown.meaning}",
        read=[shorten(label, _CELL) for label in shown.read],
        rows=rows[::-1],
        height=_ROW,
        head="padding:0 8px;font-weight:normal;white-space:pre",
        room="padding:0 6px;min-width:56px;white-space:pre",
        mono=MONO,
        sans=SANS,
        ink=INK,
    )


def _cell(label: str, value: float, highest: float) -> dict[str, str]:
    """What the template needs of a cell: the whole token in the tip, its beginning in the cell."""
    ground = colour_at(value / highest, SEQUENTIAL)
    return {
        "label": shorten(label, _CELL),
        "tip": f"{label}: {value:.3g}",
        "paint": f"background:#{bytes(ground).hex()};color:{ink_on(ground)}",
    }


_NEXT = """\
<div style="margin:8px 0 4px">The model's next token:&ensp;
{%- for token in tokens -%}
<span style="{{ style }}"><b>{{ token.label }}</b> {{ token.share }}</span>{{ " " }}
{%- endfor -%}
</div>
"""


def _next_tokens(model: TransformerBridge, reading: lens.Reading) -> Markup:
    """The model's five likeliest tokens after the last one read."""
    best = reading.log_probs[-1, -1].topk(min(5, reading.log_probs.shape[-1]))
    labels = token_labels(prompts.token_strings(model, best.indices))
    tokens = [
        {"label": label, "share": f"{share:.1%}"}
        for label, share in zip(labels, best.values.exp().tolist(), strict=True)
    ]
    return html.render(_NEXT, tokens=tokens, style=f"font:12px {MONO};white-space:pre;margin-right:16px")
