"""What of a figure is compared: a changed type, title, name or shape is noticed, a changed number is not."""

import json
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from plotly.subplots import make_subplots

from mi_workshop.skeleton import PLOTLY_MIME, skeleton


def figure(seed: int = 0, rows: int = 3) -> go.Figure:
    """One of everything: a heatmap with text, lines, a bar chart of tokens, subplots, a slider, frames."""
    rng = np.random.default_rng(seed)
    fig = make_subplots(1, 3, subplot_titles=["left", "middle", "right"])
    text = [[f"{v:.3f}" for v in row] for row in rng.random((rows, 4))]
    fig.add_heatmap(z=rng.random((rows, 4)), x=list("abcd"), text=text, name="effect", row=1, col=1)
    fig.add_scatter(x=np.arange(5), y=rng.random(5), name="loss", row=1, col=2)
    fig.add_scatter(y=list(rng.random(6)), marker={"color": ["#0ff"] * 6}, row=1, col=2)
    fig.add_bar(x=[" Mary", " John"], y=rng.random(2).astype("float32"), row=1, col=3)
    fig.update_xaxes(title="position", tickvals=[0, 1], ticktext=["first", "second"], row=1, col=2)
    fig.update_layout(title="Effects", width=int(rng.integers(300, 400)))
    fig.add_hline(y=rng.random(), row=1, col=2)
    fig.update_layout(sliders=[{"steps": [{"label": "step 1", "method": "skip"}]}])
    fig.update_layout(updatemenus=[{"buttons": [{"label": "Play", "method": "skip"}]}])
    fig.frames = [go.Frame(name="f1", data=[go.Scatter(y=rng.random(5))])]
    return fig


def reduced(fig: go.Figure) -> str:
    bundle = pio.renderers["plotly_mimetype"].to_mimebundle(fig.to_dict())
    return skeleton(json.loads(json.dumps(bundle[PLOTLY_MIME])))


def test_other_numbers_and_cell_texts_are_the_same_skeleton() -> None:
    assert reduced(figure(seed=1)) == reduced(figure(seed=2))


NOTICED: dict[str, Callable[[go.Figure], object]] = {
    "title": lambda f: f.update_layout(title="Causes"),
    "axis title": lambda f: f.layout.xaxis2.title.update(text="depth"),
    "tick text": lambda f: f.layout.xaxis2.update(ticktext=["first", "last"]),
    "tick count": lambda f: f.layout.xaxis2.update(tickvals=[0, 1, 2]),
    "subplot title": lambda f: f.layout.annotations[1].update(text="centre"),
    "trace name": lambda f: f.data[0].update(name="cause"),
    "category": lambda f: f.data[0].update(x=list("abce")),
    "token on an axis": lambda f: f.data[3].update(x=[" Mary", " Tom"]),
    "categories for numbers": lambda f: f.data[0].update(x=[1, 2, 3, 4]),
    "2d shape": lambda f: f.data[0].update(z=np.zeros((4, 3))),
    "2d text shape": lambda f: f.data[0].update(text=[["a"] * 4] * 2),
    "1d length": lambda f: f.data[1].update(y=np.zeros(6)),
    "list length": lambda f: f.data[2].update(y=[0.5] * 7),
    "float width": lambda f: f.data[3].update(y=np.zeros(2)),
    "int for float": lambda f: f.data[1].update(y=np.arange(5)),
    "array for list": lambda f: f.data[2].update(y=np.zeros(6)),
    "trace mode": lambda f: f.data[1].update(mode="markers"),
    "slider label": lambda f: f.layout.sliders[0].steps[0].update(label="step 2"),
    "slider steps": lambda f: f.update_layout(sliders=[{"steps": [{"label": "step 1"}] * 2}]),
    "no slider": lambda f: setattr(f.layout, "sliders", ()),
    "button": lambda f: f.layout.updatemenus[0].buttons[0].update(label="Stop"),
    "frame name": lambda f: f.frames[0].update(name="f2"),
    "frame trace": lambda f: f.frames[0].update(data=[go.Bar(y=[1.0])]),
    "trace less": lambda f: setattr(f, "data", f.data[:-1]),
    "trace more": lambda f: f.add_bar(y=[1]),
}


@pytest.mark.parametrize("change", NOTICED.values(), ids=NOTICED)
def test_what_a_reader_would_name_is_compared(change: Callable[[go.Figure], object]) -> None:
    changed = figure()
    change(changed)
    assert reduced(changed) != reduced(figure())


def test_a_changed_trace_type_is_noticed() -> None:
    line, bar = go.Figure(go.Scatter(y=[1.0, 2.0])), go.Figure(go.Bar(y=[1.0, 2.0]))
    assert reduced(line) != reduced(bar)


NAMED = {
    "y": lambda names: go.Bar(x=[1.0, 2.0], y=names),
    "labels": lambda names: go.Pie(values=[1.0, 2.0], labels=names),
    "parents": lambda names: go.Sunburst(labels=["a", "b"], parents=names),
    "label": lambda names: go.Sankey(node={"label": names}),
    "ticktext": lambda names: go.Heatmap(z=[[1.0]], colorbar={"tickvals": [0, 1], "ticktext": names}),
}


@pytest.mark.parametrize("trace", NAMED.values(), ids=NAMED)
def test_names_within_a_trace_are_compared(trace: Callable[[list[str]], go.Figure]) -> None:
    assert reduced(go.Figure(trace(["one", "two"]))) != reduced(go.Figure(trace(["one", "too"])))


UNNOTICED: dict[str, Callable[[go.Figure], object]] = {
    "float": lambda f: f.data[1].update(y=np.nextafter(f.data[1].y, 2)),
    "wider integers": lambda f: f.data[1].update(x=np.arange(5) * 100_000),
    "number in a list": lambda f: f.data[2].update(y=[0.25] * 6),
    "no number in a list": lambda f: f.data[2].update(y=[0.25] * 5 + [None]),
    "colours in a list": lambda f: f.data[2].marker.update(color=["#fff"] * 6),
    "size": lambda f: f.update_layout(height=777 if f.layout.height else None, width=777),
    "a line's place": lambda f: f.layout.shapes[0].update(y0=9.0, y1=9.0),
    "alternative text": lambda f: f.update_layout(meta={"alt": "The loss falls to 0.1."}),
    "template": lambda f: f.update_layout(template="plotly_dark"),
    "what a button does": lambda f: f.layout.updatemenus[0].buttons[0].update(args=[{"y": [[0.1]]}]),
    "what a slider does": lambda f: f.layout.sliders[0].steps[0].update(args=[{"title": "0.1"}]),
    "data of a frame": lambda f: f.frames[0].data[0].update(y=np.ones(9)),
}


@pytest.mark.parametrize("change", UNNOTICED.values(), ids=UNNOTICED)
def test_what_may_drift_is_not_compared(change: Callable[[go.Figure], object]) -> None:
    changed = figure()
    change(changed)
    assert reduced(changed) == reduced(figure())


def test_written_ticks_of_a_logarithmic_axis_are_numbers_and_its_kind_is_compared() -> None:
    def axis(kind: str, *texts: str) -> str:
        fig = go.Figure(go.Scatter(y=[1.0, 9.0]))
        fig.update_yaxes(type=kind, tickvals=list(range(1, 1 + len(texts))), ticktext=texts)
        return reduced(fig)

    assert axis("log", "1", "2") == axis("log", "1", "2", "5")
    assert axis("linear", "1", "2") != axis("linear", "1", "5")
    assert axis("log", "1", "2") != axis("linear", "1", "2")


@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "i2", "i4", "u1", "u2", "u4"])
def test_the_length_comes_from_the_bytes_where_no_shape_is_given(dtype: str) -> None:
    array = np.full(7, np.iinfo(dtype).max if dtype[0] in "iu" else 0.5, dtype=dtype)
    told = reduced(go.Figure(go.Scatter(y=array)))
    assert f'"y": "{dtype if dtype[0] == "f" else "int"}[7]"' in told


def test_no_number_and_no_base64_is_left() -> None:
    told = json.loads(reduced(figure()))
    assert told["traces"][0]["z"] == "f8[3, 4]"
    assert told["traces"][0]["text"] == "text[3, 4]"
    assert not any(
        isinstance(leaf, int | float) for leaf in leaves(told) if not isinstance(leaf, bool | None)
    )
    assert "bdata" not in json.dumps(told)


def leaves(value: object) -> list[object]:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if below is None else [leaf for item in below for leaf in leaves(item)]


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="dtype is 'complex'"):
        skeleton({"data": [{"y": {"dtype": "complex", "bdata": "AAAA"}}]})
