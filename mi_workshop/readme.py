"""The table of notebooks in the README, and the measured minutes and memory that stand in it."""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from mi_utils import config
from mi_workshop import results, sources
from mi_workshop.pages import title

BEGIN, END = "<!-- notebooks: begin -->", "<!-- notebooks: end -->"

FIGURE = ("00_start_here", "sweep-figure", "one-head.png")
"""Notebook, cell and file in ``docs/`` of the README's figure."""

PLANNED = {
    "00_start_here": "Start here: look inside a language model",
    "01_toy_models_of_superposition": "Toy models of superposition",
    "02_sparse_autoencoders": "Sparse autoencoders",
    "03_logit_and_tuned_lens": "Logit lens and tuned lens",
    "04_activation_patching": "Activation patching",
    "05_induction_circuits": "Induction circuits",
    "06_ioi_circuit": "Indirect object identification",
    "07_cross_layer_transcoders": "Cross-layer transcoders",
    "08_attribution_graphs": "Attribution graphs",
    "09_probing": "Probing",
    "10_steering_and_monitoring": "Steering and monitoring",
    "11_geometry_and_model_diffing": "Geometry and model diffing",
    "12_what_can_mislead": "What can mislead",
    "13_recipes": "Recipes",
}
"""Names and titles of the series; the title of a notebook that exists is its own."""

_COSTS = ["minutes", "memory"]
_COST = re.compile(r"\*\*It takes\*\*.*?\babout ([\d.]+) minutes? and ([\d.]+) GiB\b")


def measurements_file() -> Path:
    """The committed minutes and memory of each notebook, as ``make run --record`` measured them."""
    return sources.folder() / "measurements.json"


def measurements() -> dict[str, dict[str, Any]]:
    """By notebook: ``minutes``, ``peak_gib``, ``when`` and ``machine``; empty where nothing was recorded.

    Raises:
        ValueError: the file is not what ``record`` writes.
    """
    path = measurements_file()
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for entry in found.values():
            float(entry["minutes"]), float(entry["peak_gib"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is damaged: {error!r}; write it again with 'run --record'") from error
    return found


def record(ran: Iterable[results.Result]) -> None:
    """Write the minutes and memory of ``ran`` to the measurements; those of other notebooks stay."""
    known = measurements()
    for found in ran:
        minutes, peak = round(found.minutes, 1), round(found.peak_gib, 1)
        cost = {"minutes": minutes, "peak_gib": peak, "when": found.when, "machine": results.machine()}
        known[found.name] = cost
    results.write_text(measurements_file(), json.dumps(known, indent=1, sort_keys=True) + "\n")


def stated_cost(nb: NotebookNode) -> tuple[float, float]:
    """Minutes and GiB that the first cell of a notebook states after ``**It takes**``.

    Raises:
        ValueError: the line is missing or reads otherwise than ``about X minutes and Y GiB``.
    """
    text = nb.cells[0].source if nb.cells else ""
    found = _COST.search(text)
    if not found:
        raise ValueError("the first cell should say '**It takes** about X minutes and Y GiB'")
    return float(found[1]), float(found[2])


def cost_agrees(stated: tuple[float, float], measured: Mapping[str, Any]) -> bool:
    """Whether a stated cost is the measured one, rounded: within half a minute and a quarter of a GiB."""
    minutes, gib = stated
    return abs(minutes - measured["minutes"]) <= 0.5 and abs(gib - measured["peak_gib"]) <= 0.25


def promise(nb: NotebookNode) -> str:
    """The text of the first cell between the title and ``**You will**``, up to the first empty line."""
    text = nb.cells[0].source if nb.cells else ""
    lines: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("**You will**") or (lines and not line):
            break
        if line and not line.startswith("# "):
            lines.append(line)
    return " ".join(lines)


def table() -> list[str]:
    """The lines of the README's table: notebooks that exist, with link and cost, and planned ones.

    A column with the minutes to work through, of the core and of the extensions, is there as soon as a
    notebook states them.
    """
    known = measurements()
    existing = {path.stem: sources.read(path) for path in sources.available()}
    names = sorted(PLANNED.keys() | existing.keys())
    study = any(sources.study_minutes(nb) for nb in existing.values())
    head = ["", "notebook", "what you do", *(["to work through", "to run", "memory"] if study else _COSTS)]
    lines = [_cells(name, existing.get(name), known.get(name), study) for name in names]
    return [_row(head), f"|{'---|' * len(head)}", *map(_row, lines)]


def _row(cells: Iterable[str]) -> str:
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def _cells(name: str, nb: NotebookNode | None, cost: Mapping[str, Any] | None, study: bool) -> list[str]:
    """A notebook's cells of the table; with ``study`` one more, for the minutes to work through."""
    number = name[:2]
    if nb is None:
        return [number, PLANNED[name], "*planned*", *[""] * (len(_COSTS) + study)]
    minutes, memory = (f"{cost['minutes']:g}", f"{cost['peak_gib']:g} GiB") if cost else ("", "")
    # Title and promise are Markdown of ours, and stay so; only a pipe would end the cell.
    heading, sentence = (text.replace("|", "\\|") for text in (title(nb), promise(nb)))
    costs = [_study(nb), f"{minutes} min" if minutes else "", memory] if study else [minutes, memory]
    return [number, f"[{heading}](notebooks/{name}.ipynb)", sentence, *costs]


def _study(nb: NotebookNode) -> str:
    """Minutes to work through a notebook, as the README shows them."""
    core, extensions = sources.study_minutes(nb) or (0, 0)
    words = [f"{core} min"] * bool(core) + [f"extensions {extensions} min"] * bool(extensions)
    return ", ".join(words)


def update(check: bool = False) -> bool:
    """Write the table of notebooks between its markers in ``README.md``.

    Args:
        check: only look.

    Returns:
        Whether the table was stale.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    path = config.repository() / "README.md"
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after + before:
        raise ValueError(f"README.md should hold {BEGIN!r} and {END!r}, once each and in this order")
    new = "\n".join([before + BEGIN, *table(), END + after])
    if new != text and not check:
        results.write_text(path, new)
    return new != text


def update_figure(check: bool = False) -> bool:
    """Copy the README's figure, the picture stored in a notebook's cell, to ``docs/``.

    Args:
        check: only look.

    Returns:
        Whether the copy was stale.

    Raises:
        ValueError: the cell holds no picture.
    """
    notebook, cell_id, name = FIGURE
    path = config.repository() / "docs" / name
    cells = sources.read(sources.folder() / f"{notebook}.ipynb").cells
    outputs = [cell.outputs for cell in cells if cell.id == cell_id]
    stored = [
        output.data["image/png"] for output in sum(outputs, []) if "image/png" in output.get("data", {})
    ]
    if len(stored) != 1:
        raise ValueError(
            f"cell {cell_id} of {notebook} should hold one picture, for docs/{name}; run `make execute`"
        )
    picture = base64.b64decode(stored[0])
    stale = not path.is_file() or path.read_bytes() != picture
    if stale and not check:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture)
    return stale
