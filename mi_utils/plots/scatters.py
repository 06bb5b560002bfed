"""Points and paths in the plane, each group with its own places on x."""

from collections.abc import Mapping, Sequence
from typing import SupportsFloat

import plotly.graph_objects as go
from jaxtyping import Real

from mi_utils.plots.style import COLOURS, DASHES, MARKERS, Array, escape, finite, layout

Series = Real[Array, "n"] | Sequence[SupportsFloat]


def scatter(
    groups: Mapping[str, tuple[Series, Series]],
    *,
    joined: bool = False,
    diagonal: bool = False,
    title: str | None = None,
    x_title: str | None = None,
    y_title: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> go.Figure:
    """Points told apart by colour and marker, joined in the order given where ``joined``.

    Args:
        groups: name in the legend -> its places on x and on y.
        diagonal: draw the line on which y equals x.

    Raises:
        ValueError: no groups, numbers that are not finite, an x without its y, or numbers that are not
            positive on a logarithmic axis.
    """
    if not groups:
        raise ValueError(
            "groups is empty; it should hold at least one group, as a mapping from name to (x, y)"
        )
    fig, ends = go.Figure(), []
    for i, (name, (x, y)) in enumerate(groups.items()):
        across, up = finite(x, f"groups[{name!r}] on x", "n"), finite(y, f"groups[{name!r}] on y", "n")
        if len(across) != len(up):
            raise ValueError(
                f"groups[{name!r}] has {len(across)} places on x and {len(up)} on y; they should match"
            )
        if (log_x and (across <= 0).any()) or (log_y and (up <= 0).any()):
            raise ValueError(
                f"groups[{name!r}] has numbers that a logarithmic axis can't show; all should be above 0"
            )
        fig.add_scatter(
            x=across,
            y=up,
            name=escape(name),
            mode="lines+markers" if joined else "markers",
            line=dict(color=COLOURS[i % len(COLOURS)], dash=DASHES[i % len(DASHES)], width=2),
            marker=dict(
                symbol=MARKERS[i % len(MARKERS)],
                size=8 if len(across) < 100 else 5,
                opacity=1 if len(across) < 100 else 0.5,
            ),
            hovertemplate="%{x:.4g}, %{y:.4g}",
        )
        ends += [across.min(), across.max(), up.min(), up.max()]
    if diagonal:
        fig.add_scatter(
            x=[min(ends), max(ends)],
            y=[min(ends), max(ends)],
            mode="lines",
            showlegend=False,
            line=dict(color="#555555", width=1, dash="dot"),
            hoverinfo="skip",
        )
    ticks = dict(type="log", dtick="D2")
    fig.update_xaxes(title_text=escape(x_title or ""), **(ticks if log_x else {}))
    fig.update_yaxes(title_text=escape(y_title or ""), **(ticks if log_y else {}))
    legend = 60 + 7 * max(map(len, groups)) if len(groups) > 1 else 0
    return layout(fig, title, 520 + legend, 380, showlegend=len(groups) > 1)
