"""Points and paths in the plane, each group with its own places on x."""

from collections.abc import Mapping, Sequence
from typing import SupportsFloat

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Real

from mi_utils.plots.style import COLOURS, DASHES, MARKERS, Array, escape, finite, layout, log_axis

Series = Real[Array, "n"] | Sequence[SupportsFloat]


def scatter(
    groups: Mapping[str, tuple[Series, Series]],
    *,
    joined: bool = False,
    diagonal: bool = False,
    hline: Mapping[str, SupportsFloat] | None = None,
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
        hline: name -> height of a horizontal reference line, whose name stands at its right end.

    Raises:
        ValueError: no groups, numbers that are not finite, an x without its y, or numbers that are not
            positive on a logarithmic axis.
    """
    if not groups:
        raise ValueError(
            "groups is empty; it should hold at least one group, as a mapping from name to (x, y)"
        )
    fig, all_x, all_y = go.Figure(), [], []
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
        all_x.append(across)
        all_y.append(up)
    x_values, y_values = np.concatenate(all_x), np.concatenate(all_y)
    if diagonal:
        ends = np.concatenate([x_values, y_values])
        fig.add_scatter(
            x=[ends.min(), ends.max()],
            y=[ends.min(), ends.max()],
            mode="lines",
            showlegend=False,
            line=dict(color="#555555", width=1, dash="dot"),
            hoverinfo="skip",
        )
    lines = {str(name): float(height) for name, height in (hline or {}).items()}
    for name, height in lines.items():
        level = float(finite([height], f"hline[{name!r}]", "n")[0])
        fig.add_hline(
            level,
            line=dict(color="#555555", width=1, dash="dot"),
            annotation_text=escape(name),
            annotation_position="right",
            annotation_font=dict(size=11, color="#333333"),
        )
    fig.update_xaxes(title_text=escape(x_title or ""), **(log_axis(x_values) if log_x else {}))
    fig.update_yaxes(title_text=escape(y_title or ""), **(log_axis(y_values) if log_y else {}))
    several = len(groups) > 1
    if not lines:
        legend = 60 + 7 * max(map(len, groups)) if several else 0
        return layout(fig, title, 520 + legend, 380, showlegend=several)
    # The names of lines stand at the right of the drawing, so the legend goes below.
    names = 30 + 7 * max(map(len, lines))
    fig = layout(fig, title, 600 + names, 460, showlegend=several)
    return fig.update_layout(margin_r=names, legend=dict(orientation="h", y=-0.2))
