"""An attribution graph as a figure that a notebook keeps: token position by layer, links by sign and size."""

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import plotly.graph_objects as go

from mi_utils.graphs.file import GraphFile, Link, Node
from mi_utils.graphs.layout import Layout, kind, place
from mi_utils.plots.style import INK, MONO, escape, layout, shorten, token_labels

_LOOKS = {
    "token": ("square", 11, "#f0f0f0"),
    "feature": ("circle", 11, "#8fa8bd"),
    "error": ("diamond", 12, "#ffffff"),
    "logit": ("square", 12, INK),
}
_SIGNS = {"positive": ("#0072B2", "solid"), "negative": ("#C04A00", "5px,3px")}
_WIDTHS = ((0.6, 0.25), (1.2, 0.45), (2.4, 0.8))  # width and opacity of small, middling and large links
_UNIT = 16  # pixels of a node's room
_LONGEST = 22  # characters of a name


def figure(graph_file: GraphFile, *, links: int = 400, title: str | None = None) -> go.Figure:
    """The nodes and the largest links of a graph; pinned nodes and supernodes of its saved state carry their
    names.

    Circles are features, diamonds errors, squares tokens (below) and logits (on top). Positive links are
    solid and blue, negative ones dashed and red; the thickest are above 4/9 of the largest size, the thinnest
    below 1/9.

    Args:
        graph_file: what to show.
        links: how many at most, the largest by size. The title of the axis below says it when some are left
            out.
        title: above the figure.

    Raises:
        ValueError: fewer than no links.
    """
    if links < 0:
        raise ValueError(f"links is {links}; it should be 0 or more")
    places, nodes = place(graph_file), graph_file.nodes
    at = {node.node_id: (places.x[i], places.y[i]) for i, node in enumerate(nodes)}
    largest = sorted(graph_file.links, key=lambda link: -abs(link.weight))[:links]
    fig = go.Figure()
    _add_links(fig, largest, at)
    for name, (symbol, size, colour) in _LOOKS.items():
        chosen = [node for node in nodes if kind(node) == name]
        fig.add_scatter(
            x=[at[node.node_id][0] for node in chosen],
            y=[at[node.node_id][1] for node in chosen],
            name=name,
            mode="markers",
            marker=dict(symbol=symbol, size=size, color=colour, line=dict(color=INK, width=1)),
            text=[_hover(node, places) for node in chosen],
            hovertemplate="%{text}<extra></extra>",
        )
    _add_names(fig, graph_file, at)
    _draw_axes(fig, places)
    left_out = len(graph_file.links) - len(largest)
    said = f", the {len(largest)} largest of {len(graph_file.links)} links" if left_out else ""
    fig.update_xaxes(title_text=f"position{said}")
    fig.update_yaxes(title_text="layer")
    width = max(420, _UNIT * 1.4 * places.columns[-1]) + 170
    return layout(fig, title, width, max(260, _UNIT * places.rows[-1] + 70))


def _add_links(fig: go.Figure, links: Sequence[Link], at: dict[str, tuple[float, float]]) -> None:
    """One trace for each sign and width, with a gap after each link."""
    most = abs(links[0].weight) if links else 0.0
    for sign, (colour, dash) in _SIGNS.items():
        mine = [link for link in links if (link.weight < 0) == (sign == "negative")]
        for third in (2, 1, 0):  # the thickest first: the legend shows that
            (width, opacity) = _WIDTHS[third]
            chosen = [
                link for link in mine if min(2, int(3 * math.sqrt(abs(link.weight) / (most or 1.0)))) == third
            ]
            if not chosen:
                continue
            ends = [(at[link.source], at[link.target]) for link in chosen]
            fig.add_scatter(
                x=[x for (a, _), (b, _) in ends for x in (a, b, None)],
                y=[y for (_, a), (_, b) in ends for y in (a, b, None)],
                mode="lines",
                line=dict(color=colour, dash=dash, width=width),
                opacity=opacity,
                hoverinfo="skip",
                name=sign,
                legendgroup=sign,
                showlegend=not any(trace.name == sign for trace in fig.data),
            )


def _add_names(fig: go.Figure, graph_file: GraphFile, at: dict[str, tuple[float, float]]) -> None:
    """Logits by their text; what is pinned or in a supernode by its name."""
    state = graph_file.q_params
    groups = {one: group[0] for group in state.get("supernodes", []) for one in group[1:]}
    font = dict(size=10, color=INK, family=MONO)
    for node in graph_file.nodes:
        x, y = at[node.node_id]
        if kind(node) == "logit":
            text, turn = _answer(node), dict(textangle=45, xanchor="right", yshift=6)
        elif node.node_id in groups or node.node_id in state.get("pinnedIds", []):
            text, turn = (
                groups.get(node.node_id, node.clerp or node.node_id),
                dict(yshift=14, bgcolor="#ffffffcc"),
            )
        else:
            continue
        name = escape(shorten(text.strip(), _LONGEST))
        fig.add_annotation(x=x, y=y, text=name, showarrow=False, font=font, yanchor="bottom", **turn)


def _answer(node: Node) -> str:
    """A logit in short: its token and probability, if its label has the usual form."""
    found = re.fullmatch(r'Output "(.*)" \(p=([\d.]+)\)', node.clerp, re.DOTALL)
    return f"{token_labels([found[1]])[0]} {found[2]}" if found else node.clerp or node.node_id


def _hover(node: Node, places: Layout) -> str:
    lines = [node.clerp or node.node_id, f"{kind(node)} of layer {node.layer}", f"position {node.ctx_idx}"]
    lines[-1] += f" {places.tokens[node.ctx_idx]}"
    lines += [
        f"{name} {value:.3g}"
        for name in ("activation", "influence")
        if (value := node.more.get(name)) is not None
    ]
    return "<br>".join(escape(line) for line in lines)


def _draw_axes(fig: go.Figure, places: Layout) -> None:
    across, up = ([(a + b) / 2 for a, b in pairwise(edges)] for edges in (places.columns, places.rows))
    ticks = dict(tickmode="array", showgrid=False, tickfont=dict(family=MONO, size=11))
    tokens = [escape(shorten(token, 12)) for token in places.tokens]
    lean = -45 if any(len(token) * 7 > _UNIT * 1.4 * 3.6 for token in tokens) else 0
    fig.update_xaxes(tickvals=across, ticktext=tokens, tickangle=lean, range=[0, places.columns[-1]], **ticks)
    names = [escape(name) for name in places.row_names]
    head = 5 if "logit" in places.row_names else 0  # room for leaning names
    fig.update_yaxes(tickvals=up, ticktext=names, range=[0, places.rows[-1] + head], **ticks)
    shapes = [
        dict(
            type="line",
            xref="paper",
            yref="y",
            x0=0,
            x1=1,
            y0=edge,
            y1=edge,
            line=dict(color="#e4e4e4", width=1),
            layer="below",
        )
        for edge in places.rows[1:-1]
    ]
    fig.update_layout(shapes=shapes)
