"""Run the series without a screen, and write what it gives to ``build/``."""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mi_utils import config
from mi_utils.plots import html
from mi_workshop import kernels, pages, readme, results, sources
from mi_workshop.results import Result

STATE = "measurements.json"


def run(
    selection: str | None = None,
    *,
    say: Callable[[str], None],
    out: Path | None = None,
    record: bool = False,
) -> int:
    """Run the selected notebooks one after another; a failure does not stop the others.

    Writes to ``out``, after each notebook: its page ``NN_name.html``, ``index.html``, ``RESULTS.md`` and
    ``measurements.json``. What earlier runs found of other notebooks stays, as long as there are these. The
    source notebooks are left alone.

    Args:
        selection: as in ``sources.find``.
        say: takes each line of the report.
        out: folder of the pages; by default ``build/`` of the repository.
        record: also write minutes and peak memory of what passed to ``notebooks/measurements.json``, from
            which the README's table is made.

    Returns:
        0, or 1 if any notebook failed.

    Raises:
        ValueError: ``selection`` names no notebook, there are none, or ``record`` under ``MI_MODEL`` or
            ``MI_BUDGET``.
    """
    if record and (changed := [name for name in ("MI_MODEL", "MI_BUDGET") if os.environ.get(name)]):
        raise ValueError(f"{changed[0]} is {os.environ[changed[0]]!r}; it should be unset to record")
    paths = sources.find(selection)
    if not paths:
        raise ValueError(f"there are no notebooks to run in {sources.folder().name}/")
    out = config.repository() / "build" if out is None else out
    out.mkdir(parents=True, exist_ok=True)
    found = _earlier(out)
    built = {path.stem for path in paths} | set(found)
    for path in paths:
        found[path.stem] = _one(path, out, built, say)
        _write_all(out, [found[name] for name in sorted(found)])
    ran = [found[path.stem] for path in paths]
    if record:
        readme.record([result for result in ran if not result.error])
    failed = [result.name for result in ran if result.error]
    minutes = sum(result.minutes for result in ran)
    verdict = f"failed: {', '.join(failed)}" if failed else "all passed"
    say(f"{len(ran)} notebook{'s' * (len(ran) != 1)}, {minutes:.1f} minutes, {verdict}")
    return int(bool(failed))


def _one(path: Path, out: Path, built: set[str], say: Callable[[str], None]) -> Result:
    """Run one notebook and write its page."""
    say(f"{path.stem} ...")
    with tempfile.TemporaryDirectory(prefix=".claims-", dir=out) as folder:
        ran = kernels.run_notebook(path, claims_dir=Path(folder), on_cell=_counter())
        result = results.result(ran)
    try:
        page = pages.page(ran.executed, path, out=out, built=built, error=result.error)
    except ValueError as refused:
        result = replace(result, error="\n".join(filter(None, [result.error, str(refused)])))
        said = html.render("<pre>{{ error }}</pre>", error=result.error)
        page = pages.document(result.title, said, crumb=path.stem)
    results.write_text(out / f"{path.stem}.html", page)
    say(f"{path.stem}: {result.minutes:.1f} minutes, {result.peak_gib:.1f} GiB, {result.verdict}")
    if result.error:
        say(result.error)
    if formulas := pages.unconverted(ran.executed):
        say(f"{path.stem}: shown as TeX on its page: {'; '.join(formulas)}")
    return result


def _counter() -> Callable[[int, int], None] | None:
    """Shows on a terminal which cell is running; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(position: int, cells: int) -> None:
        last = position + 1 == cells
        sys.stderr.write("\r\x1b[K" + ("" if last else f"  cell {position + 1} of {cells}"))
        sys.stderr.flush()

    return show


def _earlier(out: Path) -> dict[str, Result]:
    """What earlier runs found of the notebooks there still are; the pages of the others go."""
    try:
        before = results.from_json((out / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the first run, or a file of another version
        return {}
    existing = {path.stem for path in sources.available()}
    kept = {result.name: result for result in before if result.name in existing}
    for result in before:
        if result.name not in kept:
            (out / f"{result.name}.html").unlink(missing_ok=True)
    return kept


def _write_all(out: Path, found: list[Result]) -> None:
    results.write_text(out / "index.html", results.to_html(found))
    results.write_text(out / "RESULTS.md", results.to_markdown(found))
    results.write_text(out / STATE, results.to_json(found))
