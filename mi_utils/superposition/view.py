"""Figures of toy models: W^T W of many instances, arrows in the plane, an animation of training, a phase
diagram.

All carry what colour says by a second sign too (a minus, a letter, a marker), so that they read in grey.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots
from torch import Tensor

from mi_utils.plots.style import (
    COLOURS,
    DIVERGING,
    INK,
    MONO,
    SEQUENTIAL,
    colour_at,
    colour_bar,
    escape,
    finite,
    ink_on,
    layout,
)

Number = float | int
_PANEL, _SPAN = 170, 1.45  # pixels of a small panel; half the side of the plane that arrows are drawn in


def gram_figure(
    W: Float[Tensor, "instance m n"],
    b: Float[Tensor, "instance n"],
    names: Sequence[str],
    *,
    title: str | None = None,
) -> go.Figure:
    """``W^T W`` of each instance, feature by feature, with ``b`` as a column of its own at the right.

    Raises:
        ValueError: weights that are not finite, or another number of names than of instances.
    """
    fig, rows = _panels(names, len(W), per_row=4)
    for i, (gram, bias) in enumerate(zip(W.transpose(1, 2) @ W, b, strict=True)):
        for trace in _gram_traces(gram, bias):
            fig.add_trace(trace, row=i // 4 + 1, col=i % 4 + 1)
    n = W.shape[-1]
    fig.update_xaxes(
        tickvals=[*range(n), n + 1], ticktext=[*map(str, range(1, n + 1)), "b"], showgrid=False, ticks=""
    )
    fig.update_yaxes(
        tickvals=list(range(n)), ticktext=[str(i + 1) for i in range(n)], showgrid=False, ticks=""
    )
    fig.update_yaxes(autorange="reversed")
    fig.update_layout(coloraxis=_signed_colours("W^T W, and b"))
    return layout(fig, title, 4 * (_PANEL + 30) + 110, rows * (_PANEL + 40), above=24)


def arrows_figure(
    W: Float[Tensor, "instance 2 n"], names: Sequence[str], *, title: str | None = None
) -> go.Figure:
    """The directions of features in the plane, one panel an instance; the numbers are those of the features.

    Raises:
        ValueError: weights that are not finite, or another number of names than of instances.
    """
    per_row = min(len(W), 4)
    fig, rows = _panels(names, len(W), per_row=per_row)
    for i, one in enumerate(W):
        fig.add_trace(_arrows(one), row=i // per_row + 1, col=i % per_row + 1)
    _plane(fig)
    return layout(fig, title, per_row * (_PANEL + 40) + 40, rows * (_PANEL + 20), above=24)


def training_animation(
    history: Float[Tensor, "frame 2 n"], steps: Sequence[int], *, title: str | None = None
) -> go.Figure:
    """How the directions of one instance move during training: a button to play, and a slider over its
    frames.

    What is seen before anyone plays, and in a still picture, is the last frame.

    Raises:
        ValueError: a history that is empty or not finite, or another number of steps than of frames.
    """
    _one_each(steps, len(history), "steps", "frame")
    finite(history, "history", "frame", "m", "n")
    labels = [str(step) for step in steps]
    fig = go.Figure(_arrows(history[-1]))
    fig.frames = [
        go.Frame(data=[_arrows(one)], name=label) for one, label in zip(history, labels, strict=True)
    ]
    _plane(fig)
    at_once = dict(mode="immediate", transition=dict(duration=0))
    moves = [
        dict(args=[[label], at_once | dict(frame=dict(duration=0))], label=label, method="animate")
        for label in labels
    ]
    play = dict(label="Play", method="animate", args=[None, at_once | dict(frame=dict(duration=120))])
    buttons = dict(
        type="buttons", buttons=[play], x=0, y=-0.16, xanchor="left", yanchor="top", showactive=False
    )
    slider = dict(
        steps=moves, active=len(labels) - 1, x=0.2, len=0.8, y=-0.08, currentvalue=dict(prefix="after step ")
    )
    fig.update_layout(updatemenus=[buttons], sliders=[slider])
    fig = layout(fig, title, 460, 470)
    return fig.update_layout(margin_b=120)


def instance_slider(
    W: Float[Tensor, "instance 2 n"],
    b: Float[Tensor, "instance n"],
    names: Sequence[str],
    *,
    title: str | None = None,
) -> go.Figure:
    """One instance at a time, chosen by a slider: its arrows at the left, ``W^T W`` and ``b`` at the right.

    Raises:
        ValueError: weights that are not finite, or another number of names than of instances.
    """
    _one_each(names, len(W), "names", "instance")
    finite(W, "W", "instance", "m", "n")
    shown = [[_arrows(one), *_gram_traces(one.T @ one, bias)] for one, bias in zip(W, b, strict=True)]
    fig = make_subplots(rows=1, cols=2)
    last = len(shown) - 1
    for i, traces in enumerate(shown):
        for trace, col in zip(traces, (1, 2, 2), strict=True):
            fig.add_trace(trace.update(visible=i == last), row=1, col=col)
    n, each = W.shape[-1], 3
    visible = [[k // each == i for k in range(each * len(shown))] for i in range(len(shown))]
    steps = [
        dict(label=escape(name), method="restyle", args=["visible", flags])
        for name, flags in zip(names, visible, strict=True)
    ]
    _plane(fig, row=1, col=1)
    fig.update_xaxes(
        tickvals=[*range(n), n + 1], ticktext=[*map(str, range(1, n + 1)), "b"], showgrid=False, row=1, col=2
    )
    fig.update_yaxes(
        tickvals=list(range(n)),
        ticktext=[str(i + 1) for i in range(n)],
        showgrid=False,
        autorange="reversed",
        row=1,
        col=2,
    )
    fig.update_layout(
        coloraxis=_signed_colours("W^T W, and b"), sliders=[dict(steps=steps, active=last, y=-0.12)]
    )
    return layout(fig, title, 760, 330).update_layout(margin_b=110)


def phase_figure(
    maps: Mapping[str, Int[Tensor, "row col"]],
    p: Float[Tensor, "p"],
    importance: Float[Tensor, "importance"],
    names: Sequence[str],
    *,
    title: str | None = None,
) -> go.Figure:
    """Maps of kinds side by side: which of ``names`` each cell is, written in it by its first letter.

    Raises:
        ValueError: a map of another shape than the axes, or a kind without a name.
    """
    fig = make_subplots(
        rows=1, cols=len(maps), subplot_titles=[escape(name) for name in maps], horizontal_spacing=0.08
    )
    shades = [colour_at(0.9 - 0.75 * k / max(len(names) - 1, 1), SEQUENTIAL) for k in range(len(names))]
    scale = [
        [edge, f"rgb{shades[k]}"]
        for k in range(len(names))
        for edge in (k / len(names), (k + 1) / len(names))
    ]
    for col, (name, kinds) in enumerate(maps.items(), start=1):
        if kinds.shape != (len(p), len(importance)) or not ((kinds >= 0) & (kinds < len(names))).all():
            raise ValueError(
                f"maps[{name!r}] has shape {tuple(kinds.shape)} and kinds up to {kinds.max().item()}; it "
                f"should be {(len(p), len(importance))} and name kinds below {len(names)}"
            )
        rows, cols = np.indices(kinds.shape, dtype=np.float32)
        fig.add_heatmap(
            z=kinds.numpy(), coloraxis="coloraxis", xgap=1, ygap=1, row=1, col=col, hoverinfo="skip"
        )
        fig.add_scatter(
            x=cols.ravel(),
            y=rows.ravel(),
            mode="text",
            text=[names[k][:1] for k in kinds.flatten().tolist()],
            textfont=dict(family=MONO, size=11, color=[ink_on(shades[k]) for k in kinds.flatten().tolist()]),
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=col,
        )
    every = range(0, len(importance), 2)
    fig.update_xaxes(
        tickvals=list(every),
        ticktext=[f"{importance[i]:.2g}" for i in every],
        showgrid=False,
        title_text="importance of feature 2",
    )
    fig.update_yaxes(
        tickvals=list(range(0, len(p), 2)), ticktext=[f"{value:.2g}" for value in p[::2]], showgrid=False
    )
    fig.update_yaxes(title_text="p, probability of presence", row=1, col=1)
    ticks = dict(
        tickvals=list(range(len(names))), ticktext=[escape(name) for name in names], thickness=14, title=None
    )
    fig.update_layout(coloraxis=dict(colorscale=scale, cmin=-0.5, cmax=len(names) - 0.5, colorbar=ticks))
    return layout(fig, title, 390 * len(maps) + 180, 350, above=24)


def _panels(names: Sequence[str], count: int, per_row: int) -> tuple[go.Figure, int]:
    _one_each(names, count, "names", "instance")
    rows = -(-count // per_row)
    fig = make_subplots(
        rows=rows,
        cols=per_row,
        subplot_titles=[escape(name) for name in names],
        horizontal_spacing=0.05,
        vertical_spacing=0.16 if rows > 1 else 0,
    )
    fig.update_annotations(font=dict(size=12, color=INK))
    return fig, rows


def _one_each(labels: Sequence[object], count: int, name: str, what: str) -> None:
    if not count or len(labels) != count:
        raise ValueError(
            f"{name} has {len(labels)} entries for {count} of them; it should have one for each {what}"
        )


def _arrows(W: Float[Tensor, "2 n"]) -> go.Scatter:
    """Lines from the origin to each column, whose number stands at its end."""
    ends = finite(W, "W", "m", "n")
    if len(ends) != 2:
        raise ValueError(f"W has {len(ends)} hidden dimensions; arrows can be drawn in 2")
    nowhere = np.full(ends.shape[1], np.nan, dtype=np.float32)
    x, y = (np.stack([0 * nowhere.astype(bool), end, nowhere], axis=1).ravel() for end in ends)
    text = [label for i in range(ends.shape[1]) for label in ("", str(i + 1), "")]
    sizes = [size for _ in range(ends.shape[1]) for size in (0, 8, 0)]
    return go.Scatter(
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        text=text,
        mode="lines+markers+text",
        showlegend=False,
        textposition=["bottom center" if end < 0 else "top center" for end in y],
        textfont=dict(size=11, color=INK),
        line=dict(color=COLOURS[0], width=2.5),
        marker=dict(size=sizes, color=COLOURS[0]),
        hovertemplate="feature %{text}: %{x:.2f}, %{y:.2f}<extra></extra>",
    )


def _plane(fig: go.Figure, **where: int) -> None:
    axis = dict(
        range=[-_SPAN, _SPAN], tickvals=[-1, 0, 1], zeroline=True, zerolinecolor="#bbbbbb", zerolinewidth=1
    )
    fig.update_xaxes(**axis, constrain="domain", **where)
    fig.update_yaxes(**axis, constrain="domain", **where)
    fig.for_each_yaxis(
        lambda one: one.update(scaleanchor=one.anchor or "x"), **where
    )  # a right angle looks like one


def _gram_traces(gram: Float[Tensor, "n n"], bias: Float[Tensor, "n"]) -> tuple[go.Heatmap, go.Scatter]:
    """Cells of W^T W, a blank column, b; and a minus in those that are clearly negative."""
    n = len(bias)
    z = np.full((n, n + 2), np.nan, dtype=np.float32)
    z[:, :n], z[:, n + 1] = finite(gram, "W^T W", "n", "n"), finite(bias, "b", "n")
    rows, cols = np.indices(z.shape, dtype=np.float32)
    signs = ["−" if value < -0.15 else "" for value in z.ravel()]
    inks = [
        ink_on(colour_at(float(np.clip(np.nan_to_num(value) / 2.4 + 0.5, 0, 1)), DIVERGING))
        for value in z.ravel()
    ]
    cells = go.Heatmap(
        z=z,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate="%{y}, %{x}: %{z:.2f}<extra></extra>",
    )
    marks = go.Scatter(
        x=cols.ravel(),
        y=rows.ravel(),
        text=signs,
        mode="text",
        hoverinfo="skip",
        showlegend=False,
        textfont=dict(family=MONO, size=14, color=inks),
    )
    return cells, marks


def _signed_colours(title: str) -> dict:
    return dict(cmin=-1.2, cmax=1.2, colorscale=list(DIVERGING), colorbar=colour_bar(title))
