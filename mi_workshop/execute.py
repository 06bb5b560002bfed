"""Run notebooks and store their outputs in them: the only way in which stored outputs change."""

import asyncio
import base64
import io
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from mi_utils import config
from mi_workshop import alt_text, kernels, sources

MAX_BYTES = 2_000_000
"""Size at which a notebook is too large to store."""
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"

# A figure's PNG, in CSS pixels and device pixels to one of these. The scale is what fits: true colour at 1.5
# brings notebook 05, with its 21 figures, to 2.1 MB, at 1.25 to 1.8 MB and all others below 1.25 MB.
_WIDTH, _HEIGHT, _SCALE = 700, 450, 1.25
_ADDRESS = re.compile(r"\b0x[0-9a-f]{8,}\b")
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(selection: str | None = None, *, say: Callable[[str], None]) -> int:
    """Run the selected notebooks and store their outputs in place.

    A notebook that fails, or whose outputs may not be stored (see ``storable``), is left as it was.

    Args:
        selection: as in ``sources.find``.
        say: takes each line of the report.

    Returns:
        0, or 1 if any notebook was not stored.

    Raises:
        ValueError: ``selection`` names no notebook; or ``MI_MODEL`` or ``MI_BUDGET`` is set, and what is
            stored comes from the defaults.
    """
    for name in ("MI_MODEL", "MI_BUDGET"):
        if os.environ.get(name):
            raise ValueError(f"{name} is {os.environ[name]!r}; it should be unset when outputs are stored")
    failed = 0
    for path in sources.find(selection):
        say(f"{path.stem} ...")
        try:
            changed = store(path)
        except ValueError as error:
            failed += 1
            say(f"{path.stem}: NOT stored\n{error}")
        else:
            say(f"{path.stem}: {'stored' if changed else 'unchanged'}")
    return int(failed > 0)


def store(path: Path, *, env: dict[str, str] | None = None) -> bool:
    """Run the notebook at ``path`` and store its outputs in it, all or nothing.

    Args:
        path: the notebook.
        env: variables of the kernel; by default ``kernels.environment()``.

    Returns:
        Whether the file changed.

    Raises:
        ValueError: a cell failed, an output may not be stored, the notebook would be too large, or the
            file was edited while it ran.
    """
    before = path.read_bytes()
    run = kernels.run_notebook(path, env=env)
    if run.error:
        raise ValueError(run.error)
    nb = storable(run.executed, path.name)
    size = len(sources.text(nb).encode())
    if size > MAX_BYTES:
        raise ValueError(f"{path.name} would take {size:,} bytes of at most {MAX_BYTES:,}: {_largest(nb)}")
    if path.read_bytes() != before:
        raise ValueError(f"{path.name} was edited while it ran; run it again")
    sources.write(nb, path)
    return path.read_bytes() != before


def storable(nb: NotebookNode, name: str) -> NotebookNode:
    """An executed notebook as it is stored: each plotly figure with a PNG and a text, no widgets, no timing.

    Views of widgets go, because they name a model by a random id and nothing can show them without its
    state; the text beside them stays.

    Args:
        nb: the executed notebook; changed in place and returned.
        name: used in messages.

    Raises:
        ValueError: the counts are not 1..n; or an output is on stderr, or shows a memory address or the
            path of the repository. The message names every such cell.
    """
    problems = [f"{name}, cell {i}: {what}" for i, cell in sources.code_cells(nb) for what in _problems(cell)]
    counts = [cell.execution_count for _, cell in sources.code_cells(nb)]
    if counts != list(range(1, len(counts) + 1)):
        problems.append(f"{name}: the cells' counts should be 1 to {len(counts)}, and are {counts}")
    if problems:
        raise ValueError("\n".join(problems))
    nb.metadata.pop("widgets", None)
    nb.metadata |= {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    for cell in nb.cells:
        for key in ("execution", "ExecuteTime"):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    _add_pictures(nb)
    return nb


def _problems(cell: NotebookNode) -> Iterator[str]:
    """What forbids storing the outputs of a cell, in words."""
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            yield f"writes on stderr: {kernels.plain(output.text).strip()[:300]!r}"
    shown = "\n".join(text for output in cell.outputs for text in _texts(output))
    if str(config.repository()) in shown:
        yield "an output shows the path of the repository"
    if found := _ADDRESS.search(shown):
        yield f"an output shows a memory address ({found[0]})"


def _texts(value: Any, key: str = "") -> Iterator[str]:
    """Every string in an output, binary data (PNGs, plotly's packed arrays) aside."""
    if isinstance(value, str) and not key.startswith("image/") and key != "bdata":
        yield value
    elif isinstance(value, dict):
        for inner, item in value.items():
            yield from _texts(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)


def _add_pictures(nb: NotebookNode) -> None:
    """Put beside each plotly figure its PNG, and its alternative text where nbconvert looks for one."""
    outputs = [output for cell in nb.cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if PLOTLY in output.get("data", {})]
    if not figures:
        return
    drawn = pictures([output.data[PLOTLY] for output in figures])
    for output, png in zip(figures, drawn, strict=True):
        output.data["image/png"] = base64.b64encode(png).decode("ascii")
        output.metadata["image/png"] = {"alt": alt_text.of(output.data[PLOTLY])}


def pictures(figures: list[dict[str, Any]]) -> list[bytes]:
    """PNGs of plotly figures given as dictionaries, all drawn by one Chromium.

    They are drawn here, from the data that are stored, and not by the kernel's renderer
    ("plotly_mimetype+png"): that one takes no size from outside, starts a browser inside the measured
    kernel for each figure, and has the page ask the network for MathJax. ``MI_CHROMIUM`` may name the
    browser.

    Raises:
        ValueError: kaleido or Chromium is missing, or a figure cannot be drawn.
    """
    try:
        import kaleido
        import PIL  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "a figure needs kaleido and Pillow to be stored: install the extra 'author'"
        ) from error

    async def draw() -> list[bytes]:
        # Not kaleido's server for synchronous code: that one waits for ever where there is no browser.
        options = {"path": os.environ["MI_CHROMIUM"]} if os.environ.get("MI_CHROMIUM") else {}
        plain = kaleido.PageGenerator(mathjax=False)
        async with kaleido.Kaleido(page_generator=plain, **options) as browser:
            return [_small(await browser.calc_fig(_figure(figure), opts=_size(figure))) for figure in figures]

    try:
        with ThreadPoolExecutor(1) as thread:  # a thread of its own: this one may have an event loop already
            return thread.submit(asyncio.run, draw()).result()
    except Exception as error:  # kaleido, choreographer and the system each have their own
        raise ValueError(f"no PNG (is there a Chromium?): {type(error).__name__}: {error}") from error


def _small(png: bytes) -> bytes:
    """The same picture in fewer bytes: true colours without transparency, packed as tightly as PNG can.

    A palette of 256 colours would halve the bytes again; it turns the smooth scale of a heat map into steps.
    """
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(out, "PNG", optimize=True)
    return out.getvalue()


def _figure(bundle: dict[str, Any]) -> dict[str, Any]:
    return {key: bundle[key] for key in ("data", "layout", "frames") if key in bundle}


def _size(bundle: dict[str, Any]) -> dict[str, Any]:
    layout = bundle.get("layout", {})
    width, height = layout.get("width") or _WIDTH, layout.get("height") or _HEIGHT
    return {"format": "png", "width": width, "height": height, "scale": _SCALE}


def _largest(nb: NotebookNode) -> str:
    sizes = {i: len(str(cell.outputs)) for i, cell in sources.code_cells(nb)}
    worst = sorted(sizes, key=lambda i: -sizes[i])[:3]
    return ", ".join(f"cell {i} ({sizes[i]:,} bytes)" for i in worst)
