"""Alternative texts of figures: the author's own, or what the figure says of itself."""

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from mi_utils import plots
from mi_workshop import alt_text


def text(figure: go.Figure) -> str:
    return alt_text.of(figure.to_plotly_json())


def test_the_authors_text_comes_first() -> None:
    figure = go.Figure(go.Bar(y=[1]), {"title": {"text": "Loss"}, "meta": {"alt": " One bar,\n at 1 < 2. "}})
    assert text(figure) == "One bar, at 1 < 2."


@pytest.mark.parametrize("meta", [None, {}, {"alt": ""}, {"alt": None}, "words", ["words"], {"other": 1}])
def test_other_metadata_are_no_text(meta: object) -> None:
    assert text(go.Figure(go.Bar(y=[1]), {"title": {"text": "Loss"}, "meta": meta})) == "Loss. Bars."


def test_a_heat_map_of_ours() -> None:
    figure = plots.heatmap(
        np.eye(3), title="Which head?", x_title="head", y_title="layer", colour_title="change & sign, logits"
    )
    expected = "Which head? Heat map. Across: head. Up: layer. Colour: change & sign, logits."
    assert text(figure) == expected


def test_curves_are_named() -> None:
    figure = plots.line({"two layers": [1.0, 2.0], "one layer, cut": [2.0, 1.0]}, x_title="step")
    assert text(figure) == "Lines (2 traces): two layers; one layer, cut. Across: step."


def test_many_names_are_counted() -> None:
    figure = go.Figure([go.Scatter(y=[1], mode="markers", name=f"n{i}") for i in range(10)])
    assert text(figure) == "Points (10 traces): n0; n1; n2; n3; n4; n5; n6; n7; and 2 more."


def test_panels_and_kinds() -> None:
    figure = make_subplots(1, 2, subplot_titles=["left", "<b>right</b>"])
    figure.add_bar(y=[1], row=1, col=1)
    figure.add_histogram(x=[1], row=1, col=2)
    figure.update_xaxes(title="value")
    figure.add_annotation(text="an arrow's text", x=1, y=1)
    assert text(figure) == "Bars and histogram. Panels: left; right. Across: value."


def test_a_kind_without_a_word_of_ours_keeps_its_own() -> None:
    assert text(go.Figure(go.Sankey(node={"label": ["a"]}))) == "Sankey."


def test_an_empty_figure_has_a_text_too() -> None:
    assert text(go.Figure()) == "An empty figure."
