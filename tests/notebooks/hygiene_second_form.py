"""What notebooks that declare the second form (``metadata.form = 2``) are held to, besides all of hygiene.py.

Each function takes a notebook and returns its complaints, as there.
"""

import ast
import base64
import re

import hygiene
from nbformat import NotebookNode

from mi_workshop import sources

LONGEST_LINE = 100
MOST_NAMES = 9  # imported from mi_utils
CORE_MINUTES = (45, 75)
LEAST_OF_OTHER_KINDS = 2
ROWS_OF_PAPER = (5, 8)
TABLES = ("paper_table", "checks_table", "trial_table")
KINDS = ("predict before you run", "find the silent bug", "design the control", "read the figure")
"""What an exercise that is no formula says of itself: "difficulty 3; read the figure"."""

_KIND = re.compile(rf"\bdifficulty[^.\n]*[;:,] *({'|'.join(KINDS)})", re.IGNORECASE)
_VERDICT = re.compile(r"[{,]\s*(?:'[^']*'|\"[^\"]*\")\s*:\s*(?:True|False)\b")
_BARE_VERDICT = re.compile(r"(?:tensor|array)?[\s\[(]*(?:True|False)(?:[\s\[\](),]|True|False)*")
_TRUE_COLOUR = {2, 6}  # colour types of a PNG: red, green and blue, without and with transparency
_COLOUR_TYPE = 25  # its place in a PNG


def lines_are_short(nb: NotebookNode) -> list[str]:
    """No line over 100 characters, and one thing a line."""
    complaints = []
    for i, cell in sources.code_cells(nb):
        for number, line in enumerate(cell.source.splitlines(), start=1):
            if len(line) > LONGEST_LINE:
                complaints.append(f"cell {i}, line {number}: {len(line)} characters, over {LONGEST_LINE}")
        complaints += [f"cell {i}, line {n}: two statements" for n in _shared_lines(cell.source)]
    return complaints


def _shared_lines(source: str) -> list[int]:
    """Lines on which a second statement begins, as after a semicolon or behind ``if x:``."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    starts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    return sorted({line for line in starts if starts.count(line) > 1})


def results_not_verdicts(nb: NotebookNode) -> list[str]:
    """A reader sees the number: never ``{"above 1.5": True}``, and never ``True`` alone."""
    complaints = []
    for i, cell in sources.code_cells(nb):
        for text in filter(None, map(_plain_text, cell.outputs)):
            if found := _VERDICT.search(text):
                complaints.append(f"cell {i}: shows a verdict ({found[0].strip('{, ')}); show the number")
            elif _BARE_VERDICT.fullmatch(text.strip()):
                complaints.append(f"cell {i}: shows nothing but {text.strip()!r}; show the number")
    return complaints


def _plain_text(output: NotebookNode) -> str:
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def pictures_are_told(nb: NotebookNode) -> list[str]:
    """Every picture has an alternative text, and every PNG is in true colour."""
    complaints = []
    for i, _, output in hygiene.outputs_of(nb):
        for kind in sorted(key for key in output.get("data", {}) if key.startswith("image/")):
            alt = output.get("metadata", {}).get(kind, {}).get("alt", "")
            if not str(alt).strip():
                complaints.append(f"cell {i}: a picture without alternative text (metadata {kind!r}, 'alt')")
        png = output.get("data", {}).get("image/png")
        if png and _colour_type(png) not in _TRUE_COLOUR:
            complaints.append(f"cell {i}: a PNG that is not in true colour")
    return complaints


def _colour_type(png: str) -> int | None:
    beginning = base64.b64decode(png[:48])
    return beginning[_COLOUR_TYPE] if len(beginning) > _COLOUR_TYPE else None


def few_names_from_mi_utils(nb: NotebookNode) -> list[str]:
    trees = [tree for _, _, tree in hygiene.code_trees(nb)]
    names = {name for tree in trees for name in hygiene.imported(tree) if name.split(".")[0] == "mi_utils"}
    return [f"{len(names)} names from mi_utils, over {MOST_NAMES}"] if len(names) > MOST_NAMES else []


def some_exercises_are_no_formula(nb: NotebookNode) -> list[str]:
    """At least two exercises say after their difficulty that they are of one of the other kinds."""
    tasks = [cell.source for cell in nb.cells if "exercise" in sources.tags(cell)]
    found = sum(kind_of(task) is not None for task in tasks)
    if found >= LEAST_OF_OTHER_KINDS:
        return []
    needed = f"at least {LEAST_OF_OTHER_KINDS} should say after their difficulty one of {list(KINDS)}"
    return [f"{found} exercises are no formula; {needed}"]


def kind_of(task: str) -> str | None:
    """The kind of an exercise that is no formula, one of ``KINDS``, or None.

    Args:
        task: the text of the exercise's cell.
    """
    found = _KIND.search(task)
    return found[1].lower() if found else None


def extensions_are_marked(nb: NotebookNode) -> list[str]:
    """An extension is a section whose heading says so; all of its cells are tagged, and no others.

    The extensions stand together right before *Paper and here*, so that the core ends at one place.
    """
    extensions = [section for section in sources.sections(nb) if section.is_extension]
    inside = {i for section in extensions for i in range(section.start, section.stop)}
    tagged = {i for i, cell in enumerate(nb.cells) if "extension" in sources.tags(cell)}
    complaints = [f"cell {i}: in an extension, and not tagged so" for i in sorted(inside - tagged)]
    complaints += [
        f"cell {i}: tagged 'extension', in no section whose heading begins with 'Extension:'"
        for i in sorted(tagged - inside)
    ]
    end = sources.core_end(nb)
    complaints += [
        f"cell {section.start}: an extension before the end of the core; "
        f"extensions stand together right before {sources.CLOSING!r}"
        for section in extensions
        if end is None or section.start < end
    ]
    titles = [cell.source.lstrip().partition("\n")[2] for cell in nb.cells if cell.cell_type == "markdown"]
    if any(re.search(r"^#+ +Extension:", below, re.MULTILINE) for below in titles):
        complaints.append("the heading of an extension should begin a cell")
    return complaints


def minutes_are_stated(nb: NotebookNode) -> list[str]:
    """The first cell says how long the core takes, and the extensions where there are any."""
    stated = sources.study_minutes(nb)
    if stated is None:
        return [
            "the first cell should say '**It takes** about X minutes for the core and Y for the extensions'"
        ]
    (core, extensions), (least, most) = stated, CORE_MINUTES
    complaints = [] if least <= core <= most else [f"the core takes {core} minutes, not {least} to {most}"]
    if bool(extensions) != any(section.is_extension for section in sources.sections(nb)):
        there = "some" if not extensions else "none"
        complaints.append(f"{extensions} minutes are stated for extensions, and there are {there}")
    return complaints


def claims_stand_in_their_parts(nb: NotebookNode) -> list[str]:
    """Five to eight published figures beside ours, then checks, then the trial of the methods."""
    complaints, called = [], []
    for i, _, tree in hygiene.code_trees(nb):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called.append(node.func.attr)
                if node.func.attr == "add" and {"source", "ours"} <= {one.arg for one in node.keywords}:
                    complaints.append(f"cell {i}: a claim by 'add'; here it is 'paper' or 'check'")
    complaints += [f"no call of {name!r}" for name in TABLES if name not in called]
    rows = called.count("paper")
    least, most = ROWS_OF_PAPER
    if not least <= rows <= most:
        complaints.append(f"{rows} published figures stand beside ours, not {least} to {most}")
    return complaints


CHECKS: tuple[hygiene.Check, ...] = (
    claims_stand_in_their_parts,
    lines_are_short,
    results_not_verdicts,
    pictures_are_told,
    few_names_from_mi_utils,
    some_exercises_are_no_formula,
    extensions_are_marked,
    minutes_are_stated,
)


def checks_of(nb: NotebookNode) -> tuple[hygiene.Check, ...]:
    """All that a notebook is held to, by the form that it declares."""
    return hygiene.CHECKS + (CHECKS if sources.form(nb) == 2 else ())
