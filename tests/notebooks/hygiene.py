"""What every source notebook is held to: each function takes a notebook and returns its complaints.

An empty list means that there is nothing to complain about. Cells are named by their place in ``nb.cells``,
counted from 0. A *compared* cell is a code cell whose stored outputs nbval compares with fresh ones, that is
one without the tag ``nbval-ignore-output``.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import unquote

from nbformat import NotebookNode

from mi_workshop import exercises, outputs, sources
from mi_workshop.skeleton import PLOTLY_MIME

TAGS = {"parameters", "exercise", "solution", "check", "nbval-ignore-output", "extension"}
HEADER = ("**You will**", "**You need**", "**It takes**")
MAX_CODE_RUN = 3
MAX_BYTES = 2_000_000
FIVE_EXERCISES = {"00"}  # the others have six to ten


@dataclass(frozen=True)
class Form:
    """What differs between the forms: the first of notebooks as they were, the second of DESIGN's section 3.

    Attributes:
        longest: lines of a cell, at most.
        medians: least and most lines that the cells of a notebook have in the median.
        ignored: one cell in so many may be ignored by nbval.
        closing: the last headings, in order; those with ``###`` stand within the section before.
    """

    longest: int
    medians: tuple[int, int]
    ignored: int
    closing: tuple[str, ...]


FORMS = {
    1: Form(
        # Written with many arguments on a line, before ruff gave each a line of its own.
        longest=65,
        medians=(0, 10),
        ignored=3,
        closing=(
            "## Paper and here",
            "## What this does not show",
            "## Takeaways",
            "## References",
            "## Next",
        ),
    ),
    2: Form(
        longest=20,
        medians=(3, 5),
        ignored=10,
        closing=(
            "## Paper and here",
            "### Checks",
            "## The method's own trial",
            "## What this does not show",
            "## Takeaways",
            "## References",
            "## Next",
        ),
    ),
}


def form(nb: NotebookNode) -> Form:
    """What a notebook is held to; ``metadata_is_bare`` complains of a form that is none."""
    return FORMS.get(sources.form(nb), FORMS[1])


_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_PATH = re.compile(
    r"(?<![\w./~:<-])/(?:work|home|root|Users|tmp|opt|mnt)(?:/|\b)"
    r"|\b[A-Za-z]:\\{1,2}(?:Users|Windows|Program)"
)
_NBVAL_MARK = re.compile(r"#\s*(?:NBVAL_|PYTEST_VALIDATE)\w*")
_URL = re.compile(r"\b[a-z]{2,6}://|\bwww\.")
_MAGIC = re.compile(r"^\s*(?:[!%]\S|\?\w|\w+\?+\s*$)")
_MINUTES = re.compile(r"\b(\d+)\s*min", re.IGNORECASE)
_DIFFICULTY = re.compile(r"\bdifficulty\W{0,4}(\d+)", re.IGNORECASE)
# A front end that captures output is not there when nbval runs, so what they print is compared, and differs.
_CAPTURES = {"interact", "interactive", "interact_manual", "interactive_output", "Output"}
_REDRAWS = {"clear_output", "update_display", "FigureWidget"}
_WORLD = {"sys.path", "os.chdir", "os.system", "os.popen", "get_ipython"}

Check = Callable[[NotebookNode], list[str]]


def code_trees(nb: NotebookNode) -> Iterator[tuple[int, NotebookNode, ast.Module]]:
    """Place, cell and syntax tree of each code cell; ``plain_python`` complains of those without a tree."""
    for i, cell in sources.code_cells(nb):
        try:
            yield i, cell, ast.parse(cell.source)
        except SyntaxError:
            yield i, cell, ast.Module([], [])


def _compared(cell: NotebookNode) -> bool:
    return "nbval-ignore-output" not in sources.tags(cell)


def _names(tree: ast.AST) -> set[str]:
    """Every name and dotted name that the code refers to, and the last part of each."""
    found = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Name | ast.Attribute)}
    return found | {name.rpartition(".")[2] for name in found}


def imported(tree: ast.AST) -> list[str]:
    """The full name of everything that the code imports, such as ``mi_utils.plots``."""
    plain = [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    drawn = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    return plain + [f"{node.module}.{alias.name}" for node in drawn for alias in node.names]


def _strings(value: Any) -> Iterator[str]:
    """All text in an output's data, but neither arrays nor pictures."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != "bdata" and not key.startswith("image/"):
                yield from _strings(item)


def outputs_of(nb: NotebookNode) -> Iterator[tuple[int, NotebookNode, NotebookNode]]:
    for i, cell in enumerate(nb.cells):
        for output in cell.get("outputs", []):
            yield i, cell, output


def _texts(nb: NotebookNode) -> Iterator[tuple[int, str, str]]:
    """Place, kind (``source`` or ``output``) and text of everything stored."""
    for i, cell in enumerate(nb.cells):
        yield i, "source", cell.source
    for i, _, output in outputs_of(nb):
        for text in _strings({k: output[k] for k in ("text", "data", "evalue", "traceback") if k in output}):
            yield i, "output", text


# --- what was stored -----------------------------------------------------------------------------------


def executed_in_order(nb: NotebookNode) -> list[str]:
    """nbval compares nothing in a cell without a count: all cells are executed, 1..n from a fresh kernel."""
    counts = [cell.execution_count for _, cell in sources.code_cells(nb)]
    complaints = (
        [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts are {counts}, not 1..n"]
    )
    for i, cell, output in outputs_of(nb):
        if output.output_type == "execute_result" and output.execution_count != cell.execution_count:
            complaints.append(f"cell {i}: an output of another run ({output.execution_count})")
    blank = [i for i, cell in enumerate(nb.cells) if not cell.source.strip()]
    return complaints + [f"cell {i}: blank" for i in blank]


def nothing_went_wrong(nb: NotebookNode) -> list[str]:
    """No error and no stderr is stored."""
    wrong = [(i, o) for i, _, o in outputs_of(nb) if o.output_type == "error" or o.get("name") == "stderr"]
    return [f"cell {i}: stores {o.get('ename', 'stderr')}: {o.get('text', '')[:60]}" for i, o in wrong]


def metadata_is_bare(nb: NotebookNode) -> list[str]:
    """Neither widget state (megabytes) nor timings (a difference at every run), known tags, unique ids.

    What is stated is known: the notebook's form, and a tolerance where something is compared.
    """
    complaints = [
        f"notebook metadata: {key}" for key in ("widgets", "papermill", "execution") if key in nb.metadata
    ]
    if sources.form(nb) not in FORMS:
        complaints.append(
            f"notebook metadata: form is {sources.form(nb)!r}; it should be one of {list(FORMS)}"
        )
    for i, cell in enumerate(nb.cells):
        complaints += [f"cell {i}: metadata {k}" for k in ("execution", "papermill") if k in cell.metadata]
        complaints += [f"cell {i}: unknown tag {tag!r}" for tag in sorted(sources.tags(cell) - TAGS)]
        complaints += [f"cell {i}: {what}" for what in _tolerance_complaints(cell)]
    ids = [cell.get("id") for cell in nb.cells]
    if None in ids or len(set(ids)) < len(ids):
        complaints.append("cell ids are missing or repeated (nbformat 4.5 has one for each cell)")
    return complaints


def _tolerance_complaints(cell: NotebookNode) -> list[str]:
    if "tolerance" not in cell.metadata:
        return []
    if cell.cell_type != "code" or not _compared(cell):
        return ["a tolerance where nothing is compared"]
    try:
        outputs.tolerance_of(cell.metadata)
    except ValueError as error:
        return [str(error)]
    return []


def no_machine_paths(nb: NotebookNode) -> list[str]:
    found = ((i, kind, _PATH.search(text)) for i, kind, text in _texts(nb))
    return [f"cell {i}: absolute path in its {kind}: {m[0]!r}" for i, kind, m in found if m]


def figures_have_pictures(nb: NotebookNode) -> list[str]:
    """A code host shows the PNG beside the plotly data, and nothing without it."""
    data = ((i, output.get("data", {})) for i, _, output in outputs_of(nb))
    return [f"cell {i}: a figure without a PNG" for i, d in data if PLOTLY_MIME in d and "image/png" not in d]


# --- code ----------------------------------------------------------------------------------------------


def plain_python(nb: NotebookNode) -> list[str]:
    """No magics, no shell, no star import, no URL, no path upwards, nothing that changes the world."""
    complaints = []
    for i, cell, tree in code_trees(nb):
        magic = [line for line in cell.source.splitlines() if _MAGIC.match(line)]
        if not tree.body:
            complaints.append(
                f"cell {i}: {'magic ' + repr(magic[0]) if magic else 'not Python, or only comments'}"
            )
        if any(isinstance(n, ast.ImportFrom) and n.names[0].name == "*" for n in ast.walk(tree)):
            complaints.append(f"cell {i}: star import")
        if url := _URL.search(cell.source):
            complaints.append(f"cell {i}: URL in code: {url[0]!r}")
        if re.search(r"""["']\.\./""", cell.source):
            complaints.append(f"cell {i}: a path upwards; the learner edition lies one folder deeper")
        complaints += [f"cell {i}: {name} changes the world" for name in sorted(_names(tree) & _WORLD)]
        if any(name.split(".")[0] == "mi_workshop" for name in imported(tree)):
            complaints.append(f"cell {i}: imports mi_workshop, the author's side")
    return complaints


def no_nbval_marks(nb: NotebookNode) -> list[str]:
    """nbval obeys comments too, which no check of tags would see."""
    found = ((i, _NBVAL_MARK.search(cell.source)) for i, cell in sources.code_cells(nb))
    return [f"cell {i}: nbval comment {mark[0]!r}" for i, mark in found if mark]


def few_ignored_cells(nb: NotebookNode) -> list[str]:
    cells = [cell for _, cell in sources.code_cells(nb)]
    ignored = sum(not _compared(cell) for cell in cells)
    part = form(nb).ignored
    if part * ignored <= len(cells):
        return []
    return [f"{ignored} of {len(cells)} cells are ignored, over one in {part}"]


def compared_cells_can_pass(nb: NotebookNode) -> list[str]:
    """nbval can't compare what is redrawn, captured by a widget, or different in every process."""
    complaints = []
    for i, cell, tree in code_trees(nb):
        if not _compared(cell):
            continue
        if _ends_with_semicolon(cell.source):
            complaints.append(f"cell {i}: trailing ';' (nbval shows the output all the same)")
        complaints += [
            f"cell {i}: {name} in a compared cell" for name in sorted(_names(tree) & (_CAPTURES | _REDRAWS))
        ]
        if any(_updates_display(node) for node in ast.walk(tree)):
            complaints.append(f"cell {i}: display to be updated, in a compared cell")
        told = [text for output in cell.outputs for text in _strings(output)]
        complaints += [
            f"cell {i}: memory address {m[0]} in its output" for t in told if (m := _ADDRESS.search(t))
        ]
        complaints += [f"cell {i}: a FigureWidget in its output" for t in told if "FigureWidget(" in t]
    return complaints


def _ends_with_semicolon(source: str) -> bool:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return False
    skipped = (tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT, tokenize.DEDENT, tokenize.ENDMARKER)
    said = [token.string for token in tokens if token.type not in skipped]
    return bool(said) and said[-1] == ";"


def _updates_display(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] == "display"
        and any(keyword.arg in ("display_id", "update") for keyword in node.keywords)
    )


# --- form ----------------------------------------------------------------------------------------------


def opens_and_closes_as_agreed(nb: NotebookNode) -> list[str]:
    first = nb.cells[0] if nb.cells else None
    lines = first.source.splitlines() if first is not None and first.cell_type == "markdown" else []
    starts = [next((n for n, line in enumerate(lines) if line.startswith(mark)), None) for mark in HEADER]
    complaints = []
    if not lines or not re.match(r"# \w+\W+\w+", lines[0]):
        complaints.append("the first cell should begin with '# ' and a title of several words")
    if None in starts or starts != sorted(starts):
        complaints.append(f"the first cell should have lines beginning {', '.join(HEADER)}, in this order")
    elif not any(line.strip() for line in lines[1 : starts[0]]):
        complaints.append("the first cell should say what it promises between its title and **You will**")
    return complaints + _closing_complaints(nb)


def _closing_complaints(nb: NotebookNode) -> list[str]:
    agreed = list(form(nb).closing)
    # Of several methods it is "The methods' own trial".
    headings = [heading.replace("methods'", "method's") for heading in _headings(nb)]
    closing = [heading for heading in headings if heading in agreed]
    if closing != agreed:
        return [f"closing headings are {closing}; they should be {agreed}"]
    end = [heading for heading in headings[headings.index(agreed[0]) :] if heading.startswith("## ")]
    sections = [heading for heading in agreed if heading.startswith("## ")]
    return [] if end == sections else ["a section stands between or after the closing ones"]


def _headings(nb: NotebookNode) -> list[str]:
    """The headings of sections and of their parts, with their marks; what stands in a fence is none."""
    markdown = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    unfenced = re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^(##|###) +(.+?)\s*$", unfenced, re.MULTILINE)
    return [f"{marks} {title}" for marks, title in found]


def one_import_cell_and_one_parameters_cell(nb: NotebookNode) -> list[str]:
    complaints = []
    importing = [
        i
        for i, _, tree in code_trees(nb)
        if any(isinstance(n, ast.Import | ast.ImportFrom) for n in ast.walk(tree))
    ]
    code = [i for i, _ in sources.code_cells(nb)]
    if importing != code[:1]:
        complaints.append(f"imports stand in cells {importing}; only the first code cell should have them")
    parameters = [i for i, cell in enumerate(nb.cells) if "parameters" in sources.tags(cell)]
    if parameters != code[1:2]:
        complaints.append(f"'parameters' is on cells {parameters}; it should be on the second code cell only")
    return complaints


def cells_are_short(nb: NotebookNode) -> list[str]:
    longest, (least, most) = form(nb).longest, form(nb).medians
    lengths = {i: len(cell.source.strip().splitlines()) for i, cell in sources.code_cells(nb)}
    complaints = [f"cell {i}: {n} lines, over {longest}" for i, n in lengths.items() if n > longest]
    usual = median(lengths.values()) if lengths else least
    if not least <= usual <= most:
        complaints.append(f"code cells have a median of {usual} lines; it should be {least} to {most}")
    return complaints


def prose_between(nb: NotebookNode) -> list[str]:
    """At most three code cells without a word between them; a solution and its check count as one."""
    complaints, run, before = [], 0, None
    for i, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            run = 0
        elif not (
            "check" in sources.tags(cell) and before is not None and "solution" in sources.tags(before)
        ):
            run += 1
            if run == MAX_CODE_RUN + 1:
                complaints.append(f"cell {i}: the {run}th code cell in a row; say something before it")
        before = cell
    return complaints


# What notebooks of both forms are held to; hygiene_second_form.py has what is asked of the second besides.
CHECKS: tuple[Check, ...] = (
    executed_in_order,
    nothing_went_wrong,
    metadata_is_bare,
    no_machine_paths,
    figures_have_pictures,
    plain_python,
    no_nbval_marks,
    few_ignored_cells,
    compared_cells_can_pass,
    opens_and_closes_as_agreed,
    one_import_cell_and_one_parameters_cell,
    cells_are_short,
    prose_between,
)


# --- what needs more than the notebook -----------------------------------------------------------------


def exercises_are_right(nb: NotebookNode, name: str, registry: Mapping[str, Any]) -> list[str]:
    """Proper triples, as many as agreed, and the same ids, minutes and difficulties as in the registry.

    ``registry`` maps the ids of this notebook's exercises to objects with ``minutes`` and ``difficulty``.
    """
    try:
        found = sources.exercises(nb, name)
    except ValueError as error:
        return [str(error)]
    least, most = (5, 5) if name[:2] in FIVE_EXERCISES else (6, 10)
    complaints = (
        [] if least <= len(found) <= most else [f"{len(found)} exercises; {least} to {most} were agreed"]
    )
    ids = {item.id for item in found}
    complaints += [
        f"{i!r} is checked here and not registered in grading" for i in sorted(ids - registry.keys())
    ]
    complaints += [
        f"{i!r} is registered in grading and not checked here" for i in sorted(registry.keys() - ids)
    ]
    complaints += [
        f"{i!r} belongs to another notebook" for i in sorted(ids) if not i.startswith(f"{name[:2]}.")
    ]
    for item in found:
        if item.id in registry:
            complaints += _effort_complaints(nb.cells[item.markdown].source, item.id, registry[item.id])
    return complaints


def _effort_complaints(markdown: str, exercise_id: str, registered: Any) -> list[str]:
    complaints = []
    for word, pattern in (("minutes", _MINUTES), ("difficulty", _DIFFICULTY)):
        said, meant = pattern.search(markdown), getattr(registered, word)
        if said is None:
            complaints.append(f"{exercise_id!r} states no {word} (such as '10 minutes, difficulty 2')")
        elif int(said[1]) != meant:
            complaints.append(f"{exercise_id!r} says {word} {said[1]}; grading has {meant}")
    return complaints


def links_lead_somewhere(nb: NotebookNode, folder: Path) -> list[str]:
    """Every relative link names a file beside the notebook; one that is only planned is plain text."""
    complaints = []
    for i, cell in enumerate(nb.cells):
        for target in exercises.links(cell.source) if cell.cell_type == "markdown" else []:
            if not (folder / unquote(re.split(r"[#?]", target)[0])).exists():
                complaints.append(f"cell {i}: link to {target!r}, which is not there")
    return complaints


def stored_well(path: Path) -> list[str]:
    """At most 2 MB, and byte for byte as ``make execute`` writes."""
    size = path.stat().st_size
    complaints = [f"{size / 1e6:.1f} MB, over {MAX_BYTES / 1e6:.0f}"] if size > MAX_BYTES else []
    if path.read_text(encoding="utf-8") != sources.text(sources.read(path)):
        complaints.append("not stored as `make execute` stores it")
    return complaints
