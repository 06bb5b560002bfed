"""The checks of hygiene.py themselves: each complains of what it is for, and of nothing in a good
notebook."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import hygiene
import pytest
import samples
from nbformat import NotebookNode
from nbformat.v4 import new_output

from mi_workshop import sources

REGISTRY = {f"00.double_{n}": SimpleNamespace(minutes=10 * n, difficulty=n) for n in range(1, 6)}
CHECKS = {check.__name__: check for check in hygiene.CHECKS}
OPENS = "opens_and_closes_as_agreed"
CELLS = "one_import_cell_and_one_parameters_cell"
COMPARED = "compared_cells_can_pass"
PLOTLY = "application/vnd.plotly.v1+json"


@pytest.mark.parametrize("check", hygiene.CHECKS, ids=CHECKS)
def test_a_good_notebook_gives_no_complaint(check: hygiene.Check) -> None:
    assert check(samples.notebook()) == []


def code(source: str, *outputs: NotebookNode, tags: tuple[str, ...] = ()) -> NotebookNode:
    return samples.notebook(samples.code("extra", source, *tags, outputs=outputs))


def ignored(source: str, *outputs: NotebookNode) -> NotebookNode:
    return code(source, *outputs, tags=("nbval-ignore-output",))


def prose(source: str) -> NotebookNode:
    return samples.notebook(samples.markdown("extra", source))


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def result(text: str) -> NotebookNode:
    return new_output("execute_result", {"text/plain": text}, execution_count=6)


def edited(edit: Callable[[NotebookNode], object]) -> Callable[[], NotebookNode]:
    def make() -> NotebookNode:
        nb = samples.notebook()
        edit(nb)
        return nb

    return make


def of(nb: NotebookNode, cell_id: str) -> NotebookNode:
    return next(cell for cell in nb.cells if cell.id == cell_id)


def sourced(cell_id: str, old: str, new: str) -> Callable[[], NotebookNode]:
    def edit(nb: NotebookNode) -> None:
        assert old in of(nb, cell_id).source
        of(nb, cell_id).source = of(nb, cell_id).source.replace(old, new)

    return edited(edit)


def moved(cell_id: str, to: int) -> Callable[[], NotebookNode]:
    def edit(nb: NotebookNode) -> None:
        cell = of(nb, cell_id)
        nb.cells.remove(cell)
        nb.cells.insert(to, cell)
        samples.counted(nb)

    return edited(edit)


def many(count: int, source: str, *tags: str) -> NotebookNode:
    cells = [(samples.markdown(f"m{n}", "Then"), samples.code(f"c{n}", source, *tags)) for n in range(count)]
    return samples.notebook(*(cell for pair in cells for cell in pair))


def run_of_code(count: int, last_tags: tuple[str, ...] = ()) -> NotebookNode:
    return samples.notebook(
        samples.markdown("stop", "Now"),
        *(samples.code(f"c{n}", "x = 1", *(last_tags if n == count - 1 else ())) for n in range(count)),
    )


LONG = "\n".join(["x = 1"] * 66)
HOME = "/" + "home"  # in two parts, so that no search of this repository for machine paths finds it

BAD: dict[str, tuple[str, Callable[[], NotebookNode], str]] = {
    "not executed": (
        "executed_in_order",
        edited(lambda nb: of(nb, "print").update(execution_count=None)),
        "not 1",
    ),
    "executed again": (
        "executed_in_order",
        edited(lambda nb: of(nb, "claims").update(execution_count=99)),
        "not 1",
    ),
    "output of another run": (
        "executed_in_order",
        edited(
            lambda nb: of(nb, "print").outputs.append(new_output("execute_result", {}, execution_count=1))
        ),
        "another run",
    ),
    "blank cell": ("executed_in_order", lambda: code("  \n"), "blank"),
    "error": (
        "nothing_went_wrong",
        lambda: code("1 / 0", new_output("error", ename="Bad", evalue="", traceback=[])),
        "Bad",
    ),
    "stderr": ("nothing_went_wrong", lambda: code("warn()", stream("warning", "stderr")), "stderr"),
    "stderr, ignored": (
        "nothing_went_wrong",
        lambda: ignored("warn()", stream("warning", "stderr")),
        "stderr",
    ),
    "widget state": ("metadata_is_bare", edited(lambda nb: nb.metadata.update(widgets={})), "widgets"),
    "timing": (
        "metadata_is_bare",
        edited(lambda nb: of(nb, "print").metadata.update(execution={})),
        "execution",
    ),
    "skipped": ("metadata_is_bare", lambda: code("x", tags=("nbval-skip",)), "nbval-skip"),
    "misspelt tag": ("metadata_is_bare", lambda: code("x", tags=("nbval-ignore-ouput",)), "unknown tag"),
    "a tolerance that is none": (
        "metadata_is_bare",
        edited(lambda nb: of(nb, "print").metadata.update(tolerance=2)),
        "tolerance is 2; it should be",
    ),
    "a tolerance of text": (
        "metadata_is_bare",
        edited(lambda nb: of(nb, "look").metadata.update(tolerance=0.1)),
        "where nothing is compared",
    ),
    "a tolerance of what is ignored": (
        "metadata_is_bare",
        edited(lambda nb: of(nb, "claims").metadata.update(tolerance=0.1)),
        "where nothing is compared",
    ),
    "a form that is none": (
        "metadata_is_bare",
        edited(lambda nb: nb.metadata.update(form="2")),
        "form is '2'; it should be one of [1, 2]",
    ),
    "repeated id": ("metadata_is_bare", edited(lambda nb: of(nb, "print").update(id="title")), "ids"),
    "path in code": ("no_machine_paths", lambda: code(f"open('{HOME}/me/x')"), "source"),
    "path in prose": ("no_machine_paths", lambda: prose(f"See {HOME}/me/x."), "source"),
    "path in text": ("no_machine_paths", lambda: code("x", stream("/home/me/x.py:3: holds")), "output"),
    "path in a result": ("no_machine_paths", lambda: code("x", result("Path('/Users/me/.cache')")), "output"),
    "path in a figure": (
        "no_machine_paths",
        lambda: code(
            "x",
            new_output(
                "display_data", {PLOTLY: {"layout": {"title": {"text": "/Users/me"}}}, "image/png": ""}
            ),
        ),
        "output",
    ),
    "Windows path": ("no_machine_paths", lambda: code(r"open('C:\\Users\\me')"), "source"),
    "no picture": (
        "figures_have_pictures",
        lambda: code("fig", new_output("display_data", {PLOTLY: {}})),
        "PNG",
    ),
    "shell": ("plain_python", lambda: code("!ls"), "magic"),
    "pip": ("plain_python", lambda: code("%pip install x"), "magic"),
    "bash": ("plain_python", lambda: code("%%bash\nls"), "magic"),
    "help": ("plain_python", lambda: code("len?"), "magic"),
    "syntax": ("plain_python", lambda: code("def f("), "not Python"),
    "star": ("plain_python", lambda: code("from math import *"), "star import"),
    "URL": ("plain_python", lambda: code("u = 'https://example.org'"), "URL"),
    "URL in a comment": ("plain_python", lambda: code("x = 1  # www.example.org"), "URL"),
    "path upwards": ("plain_python", lambda: code("open('../data/x')"), "upwards"),
    "the author's side": (
        "plain_python",
        sourced("imports", "mi_utils import grading", "mi_workshop import sources"),
        "imports mi_workshop",
    ),
    "sys.path": ("plain_python", lambda: code("sys.path.insert(0, 'x')"), "changes the world"),
    "chdir": ("plain_python", lambda: code("os.chdir('x')"), "changes the world"),
    "nbval comment": ("no_nbval_marks", lambda: code("# NBVAL_IGNORE_OUTPUT\nx"), "NBVAL_IGNORE_OUTPUT"),
    "nbval comment, old": (
        "no_nbval_marks",
        lambda: code("x\n  ## PYTEST_VALIDATE_IGNORE_OUTPUT"),
        "PYTEST_VALIDATE",
    ),
    "many ignored": ("few_ignored_cells", lambda: many(7, "x", "nbval-ignore-output"), "over one in 3"),
    "semicolon": (COMPARED, lambda: code("x = 1\nfig.show();  # quiet\n"), "trailing ';'"),
    "clear_output": (COMPARED, lambda: code("clear_output(wait=True)"), "clear_output"),
    "clear_output by module": (COMPARED, lambda: code("display.clear_output()"), "clear_output"),
    "update_display": (COMPARED, lambda: code("update_display(x, display_id=i)"), "update_display"),
    "display with an id": (COMPARED, lambda: code("display(x, display_id='a')"), "to be updated"),
    "display, updating": (COMPARED, lambda: code("IPython.display.display(x, update=True)"), "to be up"),
    "interact": (COMPARED, lambda: code("interact(f, x=3)"), "interact"),
    "interact, decorating": (COMPARED, lambda: code("@interact\ndef f(x=1):\n    g(x)"), "interact"),
    "Output": (COMPARED, lambda: code("out = widgets.Output()"), "Output"),
    "FigureWidget": (COMPARED, lambda: code("go.FigureWidget(fig)"), "FigureWidget"),
    "FigureWidget shown": (COMPARED, lambda: code("x", result("FigureWidget({})")), "FigureWidget"),
    "address": (COMPARED, lambda: code("x", result("<object at 0x7f01a2b3c4d5>")), "0x7f01a2b3c4d5"),
    "no title": (OPENS, sourced("title", "# Open the box", "Open the box"), "title"),
    "title of a word": (OPENS, sourced("title", "# Open the box", "# Box"), "title"),
    "no promise": (OPENS, sourced("title", "A promise.", ""), "promises"),
    "no You need": (OPENS, sourced("title", "**You need**", "You need"), "lines beginning"),
    "another order": (OPENS, sourced("title", "**You will** see", "**It takes** x"), "lines begin"),
    "code first": (OPENS, moved("imports", 0), "first cell"),
    "no Takeaways": (OPENS, sourced("end", "## Takeaways", "### Takeaways"), "closing"),
    "closing twice": (OPENS, lambda: prose("## References"), "closing"),
    "closing disordered": (OPENS, moved("paper", 99), "closing"),
    "a section after": (OPENS, sourced("end", "## Next", "## Next\n## More"), "between or after"),
    "only in a fence": (
        OPENS,
        sourced("paper", "## Paper and here", "```\n## Paper and here\n```"),
        "closing",
    ),
    "late import": (CELLS, lambda: code("import math"), "imports stand in cells"),
    "import inside": (CELLS, lambda: code("def f():\n    import os"), "imports stand"),
    "no import": (CELLS, sourced("imports", "from mi_utils import grading", "x"), "imp"),
    "two parameters": (CELLS, lambda: code("x", tags=("parameters",)), "parameters"),
    "no parameters": (CELLS, edited(lambda nb: of(nb, "parameters").metadata.update(tags=[])), "parameters"),
    "late parameters": (CELLS, moved("parameters", 6), "parameters"),
    "long cell": ("cells_are_short", lambda: code(LONG), "66 lines"),
    "long cells": ("cells_are_short", lambda: many(20, "\n".join(["x"] * 11)), "median"),
    "code, code, code, code": ("prose_between", lambda: run_of_code(4), "in a row"),
    "a check that follows no solution": ("prose_between", lambda: run_of_code(4, ("check",)), "in a row"),
}


@pytest.mark.parametrize(("check", "make", "said"), BAD.values(), ids=BAD)
def test_a_bad_notebook_gets_the_complaint(check: str, make: Callable[[], NotebookNode], said: str) -> None:
    complaints = CHECKS[check](make())
    assert any(said in line for line in complaints), complaints


GOOD: dict[str, tuple[str, Callable[[], NotebookNode]]] = {
    "a result with its count": (
        "executed_in_order",
        lambda: samples.notebook(
            samples.code("r", "1", outputs=(new_output("execute_result", {"text/plain": "1"}),))
        ),
    ),
    "paths of the web": (
        "no_machine_paths",
        lambda: prose("[a](https://example.org/home/x) ./tmp/x and/or ~/work"),
    ),
    "an HTML end": (
        "no_machine_paths",
        lambda: code("x", new_output("display_data", {"text/html": "<x></root>"})),
    ),
    "bytes": (
        "no_machine_paths",
        lambda: code(
            "x",
            new_output(
                "display_data", {PLOTLY: {"data": [{"x": {"bdata": "a+/home/x"}}]}, "image/png": "a+/home/x"}
            ),
        ),
    ),
    "URL in prose": ("plain_python", lambda: prose("https://example.org")),
    "modulo": ("plain_python", lambda: code("x = (7\n     % 3)")),
    "a third ignored": ("few_ignored_cells", lambda: many(2, "x", "nbval-ignore-output")),
    "semicolon in a string": (COMPARED, lambda: code("print('a;')  # b;")),
    "an output that is ignored": (
        COMPARED,
        lambda: ignored("go.FigureWidget(fig);", result("<object at 0x7f01a2b3c4d5>")),
    ),
    "a short hexadecimal": (COMPARED, lambda: code("hex(255)", result("'0xff'"))),
    "display": (COMPARED, lambda: code("display(table)")),
    "a tolerance": ("metadata_is_bare", edited(lambda nb: of(nb, "print").metadata.update(tolerance=0.1))),
    "a part within the closing": (OPENS, sourced("paper", "here", "here\n\n### Row by row")),
    "three in a row": ("prose_between", lambda: run_of_code(3)),
    "twenty-five lines": ("cells_are_short", lambda: code(LONG.removesuffix("\nx = 1") + "\n\n")),
    "solution and check count as one": (
        "prose_between",
        lambda: samples.notebook(
            samples.markdown("stop", "Now"),
            *samples.exercise(9)[1:],
            samples.code("a", "x"),
            samples.code("b", "x"),
        ),
    ),
}


@pytest.mark.parametrize(("check", "make"), GOOD.values(), ids=GOOD)
def test_what_only_looks_bad_gets_none(check: str, make: Callable[[], NotebookNode]) -> None:
    assert CHECKS[check](make()) == []


@pytest.mark.parametrize("name", ["interactive", "interact_manual", "interactive_output"])
def test_every_widget_that_captures_output(name: str) -> None:
    assert any(name in line for line in CHECKS[COMPARED](code(f"widgets.{name}(f, x=3)")))


@pytest.mark.parametrize("name", ["os.system", "os.popen", "get_ipython"])
def test_every_way_to_the_shell(name: str) -> None:
    assert any(name in line for line in CHECKS["plain_python"](code(f"{name}('ls')")))


# --- what needs more than the notebook -----------------------------------------------------------------


def complaints(nb: NotebookNode, registry: dict | None = None, name: str = "00_open") -> list[str]:
    return hygiene.exercises_are_right(nb, name, REGISTRY if registry is None else registry)


def test_exercises_that_agree_with_grading() -> None:
    assert complaints(samples.notebook()) == []


def test_exercises_that_do_not_agree_with_grading() -> None:
    nb = samples.notebook()
    missing = {name: entry for name, entry in REGISTRY.items() if name != "00.double_3"}
    assert complaints(nb, missing) == ["'00.double_3' is checked here and not registered in grading"]
    extra = REGISTRY | {"00.more": SimpleNamespace(minutes=1, difficulty=1)}
    assert complaints(nb, extra) == ["'00.more' is registered in grading and not checked here"]
    other = REGISTRY | {"00.double_1": SimpleNamespace(minutes=12, difficulty=4)}
    assert complaints(nb, other) == [
        "'00.double_1' says minutes 10; grading has 12",
        "'00.double_1' says difficulty 1; grading has 4",
    ]


def test_exercises_that_state_nothing() -> None:
    nb = sourced("task-2", "*20 minutes, difficulty 2.* ", "")()
    assert [line.partition(" (")[0] for line in complaints(nb)] == [
        "'00.double_2' states no minutes",
        "'00.double_2' states no difficulty",
    ]


@pytest.mark.parametrize(
    "said", ["20 min, difficulty 2", "Difficulty: 2 of 5, 20 minutes", "**Difficulty** 2/5 (about 20 min)"]
)
def test_ways_to_state_minutes_and_difficulty(said: str) -> None:
    assert complaints(sourced("task-2", "*20 minutes, difficulty 2.* ", said)()) == []


def test_number_of_exercises() -> None:
    more = samples.notebook(*samples.exercise(6))
    registry = REGISTRY | {"00.double_6": SimpleNamespace(minutes=60, difficulty=6)}
    assert complaints(more, registry) == ["6 exercises; 5 to 5 were agreed"]
    told = complaints(samples.notebook(), name="01_next")
    assert told[0] == "5 exercises; 6 to 10 were agreed"
    assert sum("belongs to another notebook" in line for line in told) == 5


def test_a_broken_triple_is_told() -> None:
    nb = samples.notebook()
    nb.cells.remove(of(nb, "check-2"))
    assert complaints(nb) == [
        "00_open, cell 11: the exercise of cell 9 needs a code cell tagged 'check' here"
    ]


def test_links(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "a b.md").touch()
    there = "[x](../a%20b.md) [y](../a%20b.md#part) [z](https://example.org) `[w](gone.md)`"
    nb = prose(there + " [v](gone.md)")
    told = hygiene.links_lead_somewhere(nb, tmp_path / "notebooks")
    assert [line.partition("link to ")[2].partition(",")[0] for line in told] == [
        "'../data/file.json'",
        "'01_next.ipynb'",
        "'gone.md'",
    ]


def test_stored_well(tmp_path: Path) -> None:
    path = tmp_path / "00_open.ipynb"
    sources.write(samples.notebook(), path)
    assert hygiene.stored_well(path) == []
    path.write_text(path.read_text().rstrip("\n"))
    assert hygiene.stored_well(path) == ["not stored as `make execute` stores it"]
    sources.write(code("x", stream("x" * 2_000_000)), path)
    assert hygiene.stored_well(path) == ["2.0 MB, over 2"]


def test_every_check_is_tried_here() -> None:
    assert {check for check, _, _ in BAD.values()} == set(CHECKS)
