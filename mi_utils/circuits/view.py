"""A circuit as a figure: heads by layer and role, and the paths between roles."""

from collections.abc import Collection, Mapping, Sequence

import plotly.graph_objects as go

from mi_utils import plots
from mi_utils.circuits.heads import label
from mi_utils.models.run import Head


def figure(
    roles: Mapping[str, Sequence[Head]],
    n_layers: int,
    paths: Collection[tuple[str, str, str]] = (),
    *,
    title: str | None = None,
) -> go.Figure:
    """A circuit as layer by role: each head a box in its role's column, measured paths as arrows between
    roles.

    An arrow joins the *first* head of each role, so give the heads with the largest effect first.

    Args:
        roles: role -> heads, in the order of the columns; a role may be empty.
        n_layers: of the model.
        paths: (from role, to role, what is changed there), as path patching found them.
        title: above the figure.

    Raises:
        ValueError: no roles, or a path from or to a role that is not there.
    """
    if not roles:
        raise ValueError("roles is empty; it should hold at least one role")
    for start, end, _ in paths:
        for role in (start, end):
            if role not in roles:
                raise ValueError(
                    f"paths names {role!r}, which is no role; it should be one of {', '.join(roles)}"
                )
    places = {role: _beside(heads, i) for i, (role, heads) in enumerate(roles.items())}
    fig = go.Figure()
    for role, at in places.items():
        fig.add_scatter(
            x=[x for x, _ in at.values()],
            y=[y for _, y in at.values()],
            mode="markers",
            opacity=0,
            showlegend=False,
            name=plots.escape(role),
            text=[label(head) for head in at],
            marker=dict(size=20),
            hovertemplate=f"{plots.escape(role)}: %{{text}}<extra></extra>",
        )
    note = dict(
        showarrow=False, font=dict(size=10, color=plots.style.INK, family=plots.style.MONO), borderpad=2
    )
    for start, end, what in paths:
        if roles[start] and roles[end]:
            (x0, y0), (x1, y1) = (next(iter(places[role].values())) for role in (start, end))
            fig.add_annotation(
                x=x1,
                y=y1,
                ax=x0,
                ay=y0,
                xref="x",
                yref="y",
                axref="x",
                ayref="y",
                arrowhead=2,
                arrowwidth=1.5,
                arrowcolor="#555555",
                standoff=20,
                startstandoff=20,
            )
            words = dict(text=plots.escape(what), yshift=-14, bgcolor="rgba(255,255,255,0.8)")
            fig.add_annotation(x=(x0 + x1) / 2, y=(y0 + y1) / 2, **words, **note)
    for head, (x, y) in (item for at in places.values() for item in at.items()):
        fig.add_annotation(
            x=x, y=y, text=label(head), bgcolor="#e8eef5", bordercolor="#333333", borderwidth=1, **note
        )
    names = [plots.escape(role).replace(" ", "<br>", 1) for role in roles]
    fig.update_xaxes(
        tickvals=list(range(len(roles))), ticktext=names, range=[-0.6, len(roles) - 0.4], showgrid=False
    )
    fig.update_yaxes(title_text="layer", range=[-1.2, n_layers + 0.2])
    return plots.layout(fig, title, 110 * len(roles) + 120, 20 * n_layers + 100)


def _beside(heads: Collection[Head], column: int) -> dict[Head, tuple[float, float]]:
    """Where each head of a column stands: heads of one layer side by side."""
    found = {}
    for head in heads:
        row = sorted(other for other in heads if other[0] == head[0])
        found[head] = (column + 0.3 * (row.index(head) - (len(row) - 1) / 2), float(head[0]))
    return found
