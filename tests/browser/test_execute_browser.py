"""Stored figures: plotly's data and a PNG of them, drawn by a headless Chromium."""

import base64
import io
import struct

import nbformat
import nbformat.v4 as v4
import pytest
from PIL import Image

from mi_utils import config
from mi_workshop import execute, sources

pytestmark = pytest.mark.browser

CODE = """import plotly.graph_objects as go
fig = go.Figure(go.Heatmap(z=[[1, 2], [3, 4]]), layout=dict(title="$x$ and more"))
fig.show()
fig.update_layout(width=400, height=300)"""


@pytest.fixture
def stored(tmp_path, monkeypatch, chromium):
    monkeypatch.setattr(config, "repository", lambda: tmp_path)
    path = tmp_path / "notebooks" / "00_here.ipynb"
    path.parent.mkdir()
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(CODE, id="a")]), path)
    assert execute.store(path)
    return path


def test_a_figure_is_stored_as_data_and_as_a_picture_and_the_same_twice(stored):
    shown, last = sources.read(stored).cells[0].outputs
    for output, size in ((shown, (875, 562)), (last, (500, 375))):
        assert set(output.data) == {execute.PLOTLY, "image/png"}
        png = base64.b64decode(output.data["image/png"])
        assert png.startswith(b"\x89PNG") and struct.unpack(">II", png[16:24]) == size
        assert len(set(png)) > 100, "the picture is blank"
    before = stored.read_bytes()
    assert not execute.store(stored) and stored.read_bytes() == before
    assert len(before) < 200_000


def test_a_colour_scale_stays_smooth_and_the_picture_has_a_text(tmp_path, chromium):
    values = [[row + column for column in range(40)] for row in range(40)]
    figure = {"data": [{"type": "heatmap", "z": values}], "layout": {"title": {"text": "Rising"}}}
    output = v4.new_output("display_data", {execute.PLOTLY: figure})
    nb = v4.new_notebook(cells=[v4.new_code_cell("figure", outputs=[output], execution_count=1)])
    (stored,) = execute.storable(nb, "00_here.ipynb").cells[0].outputs
    picture = Image.open(io.BytesIO(base64.b64decode(stored.data["image/png"])))
    assert picture.mode == "RGB"
    assert len(picture.getcolors(maxcolors=2**24)) > 500, "a palette has 256 colours at most"
    assert stored.metadata["image/png"]["alt"] == "Rising. Heat map."


def test_without_a_browser_nothing_is_stored(stored, monkeypatch):
    before = stored.read_bytes()
    monkeypatch.setenv("MI_CHROMIUM", "/nowhere/chromium")
    with pytest.raises(ValueError, match="is there a Chromium"):
        execute.store(stored)
    assert stored.read_bytes() == before
