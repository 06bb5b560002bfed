"""Which source notebooks there are, and what stands in them: cells, tags, sections, exercises and solutions.

A *source* is ``notebooks/NN_name.ipynb``. In it an exercise is three consecutive cells: the
specification (markdown, tagged ``exercise``), the worked solution (code, tagged ``solution``) and its
check (code, tagged ``check``). What the learner is to write stands in the solution between a line
``# solution`` and a line ``# end`` of the same indentation; a comment ``# stub: <code>`` inside gives what
the learner edition has there instead of the ellipsis.

An *extension* is a section that is no part of the core: its heading begins with ``Extension:``, and each of
its cells is tagged ``extension``. The extensions stand together before the section *Paper and here*.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mi_utils import config, data_files

ELLIPSIS = "...  # your code here"

CLOSING = "Paper and here"
"""The section with which the end of every notebook begins."""

_EXTENSION = "Extension:"
_HEADING = re.compile(r"(#{1,6})[ \t]+(.+?)[ \t]*(?:\n|$)")
_STUDY = re.compile(
    r"\*\*It takes\*\* about (\d+) minutes for the core(?: and (\d+)(?: minutes)? for the extensions)?\b"
)
_TRIPLE = (("exercise", "markdown"), ("solution", "code"), ("check", "code"))
_NAME = re.compile(r"^[0-9]{2}_\w+$")
_START = re.compile(r"^(\s*)# solution\s*$")
_END = re.compile(r"^(\s*)# end\s*$")
_STUB = re.compile(r"^(\s*)# stub:(?: (.*))?$")
_ALMOST = re.compile(r"^\s*#+\s*(?:solution|end|stub)\b\s*:?\s*$|^\s*#+\s*stub\b", re.IGNORECASE)


@dataclass(frozen=True)
class Exercise:
    """Three consecutive cells of a source notebook.

    Attributes:
        id: the first argument of ``grading.check`` in the check cell, such as ``00.zero_head``.
        notebook: the notebook's name, such as ``00_start_here``.
        markdown, solution, check: positions of the three cells in ``nb.cells``.
        source: the text of the solution cell, markers included.
    """

    id: str
    notebook: str
    markdown: int
    solution: int
    check: int
    source: str


def folder() -> Path:
    """The folder of the source notebooks."""
    return config.repository() / "notebooks"


def available() -> list[Path]:
    """Every source notebook, in order of its number and then of its name."""
    found = folder().glob("[0-9][0-9]_*.ipynb")
    return sorted((path for path in found if _NAME.match(path.stem)), key=lambda path: path.name)


def find(selection: str | None = None) -> list[Path]:
    """The source notebooks that ``selection`` names, in order.

    Args:
        selection: nothing for all of them; else a number (``"00"``, ``"6"``), a name with or without its
            number and ``.ipynb`` (``"00_start_here"``, ``"start_here"``), a path to one, or several of
            these with spaces or commas between them.

    Raises:
        ValueError: a selection names no notebook; the message lists those that there are.
    """
    paths = available()
    wanted = re.split(r"[\s,]+", selection.strip(", \n\t")) if selection else []
    chosen = {path for word in wanted if word for path in _matching(word, paths)}
    return [path for path in paths if path in chosen] if chosen else paths


def _matching(word: str, paths: list[Path]) -> list[Path]:
    name = Path(word).name.removesuffix(".ipynb")
    number = name.zfill(2) if name.isdecimal() else None
    found = [path for path in paths if path.stem == name or path.stem[:2] == number or path.stem[3:] == name]
    if not found:
        names = ", ".join(path.stem for path in paths) or "none"
        raise ValueError(f"selection is {word!r}; it should name one of the source notebooks: {names}")
    return found


def read(path: Path) -> NotebookNode:
    """The notebook stored at ``path``, in nbformat 4.

    Raises:
        ValueError: the file is not a valid notebook.
    """
    try:
        nb = nbformat.read(path, as_version=4)
        nbformat.validate(nb)
    except (nbformat.ValidationError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]  # nbformat lets any of these through
        raise ValueError(f"notebook {path.name} is not valid nbformat 4: {reason}") from error
    return nb


def text(nb: NotebookNode) -> str:
    """``nb`` as it is stored: keys sorted, one space of indentation, one newline at the end."""
    return nbformat.writes(nb, version=4).rstrip("\n") + "\n"


def write(nb: NotebookNode, path: Path) -> None:
    """Store ``nb`` at ``path``; the same notebook always gives the same bytes.

    The text goes to a temporary name beside ``path`` and is moved into place, so that an interruption leaves
    the former file whole.
    """
    nbformat.validate(nb)
    data_files.write(text(nb), path)


def tags(cell: NotebookNode) -> set[str]:
    """The tags of a cell; none gives an empty set."""
    return set(cell.get("metadata", {}).get("tags", []))


def code_cells(nb: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Position and cell of every code cell that is not blank, in order."""
    return [(i, cell) for i, cell in enumerate(nb.cells) if cell.cell_type == "code" and cell.source.strip()]


def form(nb: NotebookNode) -> object:
    """The form that a notebook declares in its metadata; 1 where it declares none."""
    return nb.metadata.get("form", 1)


@dataclass(frozen=True)
class Section:
    """A part of a notebook, from a cell that begins with a heading to the next one of its level or above.

    Attributes:
        level: 1 for the title, 2 for a section, 3 for a part of a section.
        title: text of the heading.
        start, stop: its cells are ``nb.cells[start:stop]``.
    """

    level: int
    title: str
    start: int
    stop: int

    @property
    def is_extension(self) -> bool:
        return self.title.startswith(_EXTENSION)


def sections(nb: NotebookNode) -> list[Section]:
    """The sections of a notebook, in order; a part of a section comes after it, and is one of its own too."""
    heads = [
        (i, len(found[1]), found[2])
        for i, cell in enumerate(nb.cells)
        if cell.cell_type == "markdown" and (found := _HEADING.match(cell.source.lstrip()))
    ]
    found = []
    for n, (start, level, title) in enumerate(heads):
        later = (i for i, other, _ in heads[n + 1 :] if other <= level)
        found.append(Section(level, title, start, next(later, len(nb.cells))))
    return found


def core_end(nb: NotebookNode) -> int | None:
    """Place of the first of the extensions' cells, with which the core ends; None where there are none.

    Only extensions that reach to *Paper and here* end the core: after others it goes on.
    """
    found = sections(nb)
    end = next((section.start for section in found if section.title == CLOSING), len(nb.cells))
    # Of a section and its last part, which end together, the section counts: it comes first.
    extensions = {section.stop: section.start for section in reversed(found) if section.is_extension}
    start = end
    while start in extensions:
        start = extensions[start]
    return start if start < end else None


def study_minutes(nb: NotebookNode) -> tuple[int, int] | None:
    """Minutes of the core and of the extensions that the first cell states; None where it states none.

    It does so after ``**It takes**``, as ``about 60 minutes for the core and 20 for the extensions``.
    """
    found = _STUDY.search(nb.cells[0].source) if nb.cells else None
    return (int(found[1]), int(found[2] or 0)) if found else None


def exercises(nb: NotebookNode, name: str) -> list[Exercise]:
    """The exercises of a source notebook, in order.

    Args:
        nb: the source notebook.
        name: its name without ``.ipynb``, used in messages and in the result.

    Raises:
        ValueError: a tagged cell is not part of a proper triple, a check names no exercise, two exercises
            share an id, a solution marks nothing, or its markers are malformed; the message names notebook
            and cell.
    """
    found = []
    for first, cell in enumerate(nb.cells):
        if "exercise" in tags(cell):
            found.append(_exercise(nb, name, first))
    _refuse_strays(nb, name, found)
    seen: dict[str, int] = {}
    for item in found:
        if item.id in seen:
            earlier = seen[item.id]
            raise ValueError(f"{name}, cell {item.check}: {item.id!r} is already checked in cell {earlier}")
        seen[item.id] = item.check
    return found


def _exercise(nb: NotebookNode, name: str, first: int) -> Exercise:
    for i, (tag, kind) in enumerate(_TRIPLE, start=first):
        if i >= len(nb.cells) or tag not in tags(nb.cells[i]) or nb.cells[i].cell_type != kind:
            needed = f"a {kind} cell tagged {tag!r}"
            raise ValueError(f"{name}, cell {i}: the exercise of cell {first} needs {needed} here")
    source, check = nb.cells[first + 1].source, nb.cells[first + 2].source
    if not blocks(source, f"{name}, cell {first + 1}"):
        raise ValueError(f"{name}, cell {first + 1}: no solution between '# solution' and '# end'")
    id_ = checked_id(check, f"{name}, cell {first + 2}")
    return Exercise(id_, name, first, first + 1, first + 2, source)


def _refuse_strays(nb: NotebookNode, name: str, found: list[Exercise]) -> None:
    proper = {"exercise": {e.markdown for e in found}, "solution": {e.solution for e in found}}
    proper["check"] = {e.check for e in found}
    for i, cell in enumerate(nb.cells):
        where = f"{name}, cell {i}"
        for tag in sorted(proper.keys() & tags(cell)):
            if i not in proper[tag]:
                raise ValueError(f"{where}: {tag!r} outside a triple of exercise, solution and check")
        if cell.cell_type == "code" and "solution" not in tags(cell) and blocks(cell.source, where):
            raise ValueError(f"{where}: marks a solution but is not tagged 'solution'")


def checked_id(code: str, where: str = "check cell") -> str:
    """The exercise id: the first argument, a string, of the one call of ``grading.check`` in ``code``.

    Raises:
        ValueError: there is no such call, there are several, or its first argument is not a string.
    """
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        raise ValueError(f"{where}: not plain Python ({error.msg})") from error
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "grading.check"]
    first = calls[0].args[0] if len(calls) == 1 and calls[0].args else None
    if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
        raise ValueError(f"{where}: should call grading.check once, its first argument the exercise's id")
    return first.value


@dataclass(frozen=True)
class Block:
    """A marked solution: lines ``start`` (``# solution``) to ``end`` (``# end``), counted from 0."""

    start: int
    end: int
    indent: str
    stubs: tuple[str, ...]


def blocks(source: str, where: str = "cell") -> list[Block]:
    """The marked solutions of a cell, in order.

    Args:
        source: text of a code cell.
        where: named in messages; the line, counted from 1, is added.

    Raises:
        ValueError: a marker is misspelt, nested, unclosed, indented otherwise than its ``# solution``, or a
            stub stands outside a block.
    """
    return list(_blocks(source.splitlines(), where))


def _blocks(lines: list[str], where: str) -> Iterator[Block]:
    start, indent, stubs = None, "", []
    for i, line in enumerate(lines):
        at = f"{where}, line {i + 1}"
        if opened := _START.match(line):
            if start is not None:
                raise ValueError(f"{at}: '# solution' inside the block that line {start + 1} opens")
            start, indent, stubs = i, opened[1], []
        elif closed := _END.match(line):
            if start is None:
                raise ValueError(f"{at}: '# end' without a '# solution' above it")
            if closed[1] != indent:
                raise ValueError(f"{at}: '# end' should be indented as '# solution' in line {start + 1}")
            yield Block(start, i, indent, tuple(stubs))
            start = None
        elif stub := _STUB.match(line):
            if start is None:
                raise ValueError(f"{at}: '# stub:' outside a '# solution' ... '# end' block")
            if not (stub[2] or "").strip():
                raise ValueError(f"{at}: '# stub:' should be followed by code")
            if not stub[1].startswith(indent):
                raise ValueError(f"{at}: '# stub:' is indented less than '# solution' in line {start + 1}")
            stubs.append(stub[1].removeprefix(indent) + stub[2].rstrip())
        elif _ALMOST.match(line):
            shown = "'# solution', '# stub: <code>' and '# end'"
            raise ValueError(f"{at}: {line.strip()!r} looks like a marker; those are {shown}")
    if start is not None:
        raise ValueError(f"{where}, line {start + 1}: '# solution' without an '# end'")


def stubbed(source: str, where: str = "cell") -> str:
    """``source`` as the learner first sees it: each marked block replaced by its stubs, or by an ellipsis.

    Raises:
        ValueError: malformed markers, as in ``blocks``.
    """
    lines = source.splitlines()
    for block in reversed(blocks(source, where)):
        stubs = block.stubs or (ELLIPSIS,)
        lines[block.start : block.end + 1] = [block.indent + stub for stub in stubs]
    return "\n".join(lines)


def solved(source: str, where: str = "cell") -> str:
    """``source`` without the lines of its markers: the worked solution as a reader wants it.

    Raises:
        ValueError: malformed markers, as in ``blocks``.
    """
    marked = {i for block in blocks(source, where) for i in (block.start, block.end)}
    lines = source.splitlines()
    return "\n".join(line for i, line in enumerate(lines) if i not in marked and not _STUB.match(line))
