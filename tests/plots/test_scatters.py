"""mi_utils.plots.scatters.scatter: what a figure holds, what it escapes, and what it refuses."""

import json

import numpy as np
import plotly.io as pio
import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import plots
from mi_utils.plots.style import COLOURS

HOSTILE = "<b>A</b> &lt; $x$ %{y}"
SAFE = "&lt;b&gt;A&lt;/b&gt; &amp;lt; &#36;x&#36; %&#123;y}"


def three_groups(count: int = 4) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.rand(count, generator=generator), torch.rand(count, generator=generator))
        for name in "abc"
    }


def refused(groups, *said: str, **options) -> None:
    with pytest.raises(ValueError) as caught:
        plots.scatter(groups, **options)
    assert_one_sentence(caught.value, *said)


def test_each_group_keeps_its_places_and_its_order():
    groups = {"first": ([3, 1, 2], np.array([1.0, 5.0, 2.0])), "second": (torch.tensor([7]), [0.5])}
    fig = plots.scatter(groups)
    assert [trace.name for trace in fig.data] == ["first", "second"]
    assert [trace.x.tolist() for trace in fig.data] == [[3, 1, 2], [7]]
    assert [trace.y.tolist() for trace in fig.data] == [[1, 5, 2], [0.5]]
    assert all(trace.x.dtype == trace.y.dtype == np.float32 for trace in fig.data)


def test_points_are_joined_only_where_asked():
    assert {trace.mode for trace in plots.scatter(three_groups()).data} == {"markers"}
    assert {trace.mode for trace in plots.scatter(three_groups(), joined=True).data} == {"lines+markers"}


def test_groups_differ_without_colour():
    fig = plots.scatter({str(i): ([1.0], [2.0]) for i in range(20)}, joined=True)
    assert len({(trace.line.dash, trace.marker.symbol) for trace in fig.data}) == 20
    assert [trace.line.color for trace in fig.data[:7]] == list(COLOURS)
    assert len({trace.marker.symbol for trace in plots.scatter(three_groups()).data}) == 3


def test_many_points_are_small_and_see_through():
    few, many = (plots.scatter(three_groups(count)).data[0].marker for count in (99, 100))
    assert many.size < few.size and many.opacity < few.opacity == 1


def test_the_diagonal_spans_all_points_of_all_groups():
    groups = {"a": ([2.0, 3.0], [5.0, 9.0]), "b": ([4.0, -1.0], [0.0, 1.0])}
    line = plots.scatter(groups, diagonal=True).data[-1]
    assert list(line.x) == list(line.y) == [-1, 9]
    assert line.mode == "lines" and line.showlegend is False and line.hoverinfo == "skip"
    assert len(plots.scatter(groups).data) == 2


def test_reference_lines_have_their_names_and_room_for_them():
    plain, lined = plots.scatter(three_groups()), plots.scatter(three_groups(), hline={"<half>": 0.5})
    (line,), (name,) = lined.layout.shapes, lined.layout.annotations
    assert (line.y0, line.y1, name.text) == (0.5, 0.5, "&lt;half&gt;")
    assert lined.layout.margin.r > plain.layout.margin.r and lined.layout.legend.orientation == "h"
    refused({"a": ([1], [1])}, "hline['half']", hline={"half": float("nan")})


def test_logarithmic_axes():
    layout = plots.scatter(three_groups(), log_x=True).layout
    assert layout.xaxis.type == "log" and layout.yaxis.type is None
    layout = plots.scatter(three_groups(), log_y=True).layout
    assert layout.xaxis.type is None and layout.yaxis.type == "log"


def test_titles_and_names_are_escaped():
    fig = plots.scatter(
        {HOSTILE: ([1], [2]), "b": ([1], [2])}, title=HOSTILE, x_title=HOSTILE, y_title=HOSTILE
    )
    layout = fig.layout
    shown = (fig.data[0].name, layout.title.text, layout.xaxis.title.text, layout.yaxis.title.text)
    assert shown == (SAFE,) * 4 and "<b>" not in fig.to_json()


def test_axis_titles_are_on_their_axes():
    layout = plots.scatter(three_groups(), title="top", x_title="across", y_title="up").layout
    assert (layout.title.text, layout.xaxis.title.text, layout.yaxis.title.text) == ("top", "across", "up")


def test_one_group_needs_no_legend_and_several_get_room_for_it():
    one, several = plots.scatter({"a": ([1], [2])}).layout, plots.scatter(three_groups()).layout
    assert one.showlegend is False and several.showlegend is True
    longer = plots.scatter({"a": ([1], [2]), "a long name for a group": ([1], [2])}).layout
    assert one.width < several.width < longer.width <= 1100


def test_figures_survive_json_and_are_the_same_twice():
    first, second = (plots.scatter(three_groups(), diagonal=True, log_x=True).to_json() for _ in range(2))
    assert first == second and json.loads(pio.from_json(first).to_json()) == json.loads(first)
    assert json.loads(first)["layout"]["template"]["layout"]["paper_bgcolor"] == "#ffffff"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_any_number_type(dtype: torch.dtype):
    values = torch.arange(1, 4).to(dtype)
    trace = plots.scatter({"a": (values, values)}).data[0]
    assert trace.x.tolist() == trace.y.tolist() == [1, 2, 3]


def test_tensors_that_carry_gradients():
    values = torch.ones(3, requires_grad=True)
    assert plots.scatter({"a": (values, values)}).data[0].y.tolist() == [1, 1, 1]


# ------------------------------------------------------------------------------------------------------ bad
# input


def test_nothing_to_draw():
    refused({}, "groups is empty")
    refused({"a": ([], [])}, "groups['a'] on x is empty")
    refused({"fine": ([1], [1]), "b": ([1], [])}, "groups['b'] on y is empty")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(bad: float):
    refused({"a": ([1.0, bad], [1.0, 2.0])}, "groups['a'] on x", "1 NaN or infinite of 2")
    refused({"a": ([1.0, 2.0], [bad, bad])}, "groups['a'] on y", "2 NaN or infinite of 2")


def test_an_x_without_its_y(unchecked: None):
    refused({"a": ([1.0, 2.0], [1.0])}, "groups['a'] has 2 places on x and 1 on y")
    refused({"a": ([[1.0, 2.0]], [[1.0, 2.0]])}, "groups['a'] on x", "1 dimension")


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_numbers_that_a_logarithmic_axis_cannot_show(bad: float):
    on_x, on_y = {"a": ([bad, 2.0], [1.0, 2.0])}, {"a": ([1.0, 2.0], [1.0, bad])}
    refused(on_x, "groups['a']", "logarithmic", log_x=True)
    refused(on_y, "groups['a']", "logarithmic", log_y=True)
    plots.scatter(on_x, log_y=True)
    plots.scatter(on_y, log_x=True)
