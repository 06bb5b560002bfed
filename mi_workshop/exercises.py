"""The learner edition: each source notebook again, with its solutions to be written by the learner.

``notebooks/exercises/NN_name.ipynb`` is made from ``notebooks/NN_name.ipynb`` and never edited by hand.
It has no outputs; below each exercise stand its hints, folded; the solution cell holds a stub; below the
check stands the worked solution, folded. Where the core ends, a note says so, and each extension says that
it is one. The same source always gives the same bytes: what is added gets a
cell id made from the id of the cell it belongs to.
"""

import ast
import posixpath
import re
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mi_utils.plots import html
from mi_workshop import sources

# Metadata by which a generated file is told from a copy that a learner keeps beside it.
_MARK = "learner_edition_of"

_NOTE = """\
> **Learner edition** of [{name}](../{name}.ipynb), where every exercise is solved and every output stored.
>
> Write your code where a cell says `# your code here`, run it, then run the check below it. A check answers
> *not yet* (nothing to judge so far), names the *mistake* it recognises, or says *passed*; none of them stops
> the notebook. Later cells do not depend on your answer, so *Run All Cells* reaches the end at any time.
> Hints and solutions are folded: click to open one.
>
> `{name}.ipynb` is generated, and `make exercises` writes it anew: work in a copy whose name begins with
> `my_` (`make lab` makes `my_00_start_here.ipynb`), which is left alone."""

_CORE_END = """\
> **The core ends here.** What follows, up to *Paper and here*, are extensions{minutes}: for those who
> want more. Nothing outside them needs your answers to them, and *Run All Cells* runs them too."""

_EXTENSION = "> *Extension: not part of the core. Skip it freely.*"

# Code and formulas in markdown are passed over when links are looked for: f[i](x) is none.
_CODE = re.compile(
    r"""( ^(?:```|~~~).*?^(?:```|~~~)[ \t]*$ | `[^`\n]+`
        | \$\$.*?\$\$ | \$(?![\s$])[^$\n]*(?<!\s)\$(?!\d) )""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_LINK = re.compile(
    r"""(?P<before>\]\(\s*<?                        # [text](target), ![alt](target)
          | ^\[[^\]\n]+\]:[ \t]+<?                   # [name]: target
          | <[a-z]+\s[^>]*?\b(?:href|src)\s*=\s*["'])  # <a href="target">, <img src="target">
        (?P<target>[^\s<>"')]+)""",
    re.MULTILINE | re.VERBOSE,
)
_ELSEWHERE = re.compile(r"^(?:[A-Za-z][A-Za-z0-9+.-]*:|//|/|#)")


def folder() -> Path:
    """The folder of the learner edition."""
    return sources.folder() / "exercises"


def links(markdown: str) -> list[str]:
    """Targets of the relative links and images in a markdown cell, in order; code and formulas are passed
    over."""
    found = (match["target"] for part in _CODE.split(markdown)[::2] for match in _LINK.finditer(part))
    return [target for target in found if not _ELSEWHERE.match(target)]


def deepened(markdown: str) -> str:
    """``markdown`` with its relative links as they must read one folder further down.

    A link to a source notebook becomes one to that notebook's learner edition.
    """
    parts = _CODE.split(markdown)
    parts[::2] = [_LINK.sub(lambda m: m["before"] + _deeper(m["target"]), part) for part in parts[::2]]
    return "".join(parts)


def _deeper(target: str) -> str:
    path, mark, rest = target.partition("#")
    if _ELSEWHERE.match(target) or re.fullmatch(r"(?:\./)?[0-9]{2}_\w+\.ipynb", path):
        return target
    return posixpath.relpath(path, "exercises") + ("/" if path.endswith("/") else "") + mark + rest


def build(path: Path) -> NotebookNode:
    """The learner edition of the source notebook at ``path``, with the hints registered in
    ``mi_utils.grading``.

    Raises:
        ValueError: the notebook's exercises or markers are malformed, an exercise is not registered, or a
            stub is not valid Python.
    """
    nb = sources.read(path)
    found = sources.exercises(nb, path.stem)
    by_cell = {i: item for item in found for i in (item.markdown, item.solution, item.check)}
    extensions = {section.start for section in sources.sections(nb) if section.is_extension}
    core_end = sources.core_end(nb)
    cells = [_markdown("learner-edition", _NOTE.format(name=path.stem))]
    for i, cell in enumerate(nb.cells):
        item = by_cell.get(i)
        if i == core_end:
            cells.append(_markdown(_derived(cell.id, "core-ends"), _core_ends(nb)))
        cells.append(_learner_cell(cell, item is not None and i == item.solution, path.stem, i))
        if i in extensions:
            cells[-1].source = _marked(cells[-1].source)
        if item and i == item.markdown and (hints := _hints(item.id)):
            cells.append(_markdown(_derived(cell.id, "hints"), _folded_hints(hints)))
        if item and i == item.check:
            solution = nb.cells[item.solution]
            cells.append(_markdown(_derived(solution.id, "worked"), _folded_solution(item.source)))
    built = nbformat.v4.new_notebook(cells=cells, metadata=_metadata(nb, path.name))
    nbformat.validate(built)
    return built


def write_all(check: bool = False) -> list[Path]:
    """Bring ``notebooks/exercises/`` up to date with the source notebooks.

    Args:
        check: only tell; change nothing.

    Returns:
        The files that were stale, absent, or left over from a source that is gone, whether or not they were
        now written or removed. Copies that learners keep under other names are left alone.
    """
    changed = []
    if not check:
        folder().mkdir(exist_ok=True)
    for source in sources.available():
        target, built = folder() / source.name, build(source)
        if not target.exists() or target.read_bytes() != sources.text(built).encode():
            changed.append(target)
            if not check:
                sources.write(built, target)
    for orphan in _orphans():
        changed.append(orphan)
        if not check:
            orphan.unlink()
    return changed


def learners_copy(name: str) -> Path:
    """The learner's own copy of a notebook, ``my_<name>.ipynb`` beside it; made where there is none yet.

    Raises:
        ValueError: the learner edition has no notebook ``name``.
    """
    edition, own = (folder() / f"{start}{name}.ipynb" for start in ("", "my_"))
    if own.exists():  # it holds the learner's work
        return own
    if not edition.is_file():
        raise ValueError(f"notebooks/exercises/{edition.name} is missing; run `make exercises`")
    part = own.with_name(own.name + ".part")
    part.write_bytes(edition.read_bytes())
    part.replace(own)
    return own


def _orphans() -> list[Path]:
    present = {path.name for path in sources.available()}
    left = (path for path in sorted(folder().glob("*.ipynb")) if path.name not in present)
    return [path for path in left if _mark(path) == path.name]


def _mark(path: Path) -> str | None:
    try:
        return sources.read(path).metadata.get("mi_utils", {}).get(_MARK)
    except ValueError:
        return None  # not a notebook, so nothing that was written here


def _hints(exercise_id: str) -> tuple[str, ...]:
    from mi_utils import grading  # on use only: it brings torch with it

    return tuple(grading.exercise(exercise_id).hints)


def _learner_cell(cell: NotebookNode, is_solution: bool, name: str, i: int) -> NotebookNode:
    new = deepcopy(cell)
    if cell.cell_type == "markdown":
        new.source = deepened(cell.source)
    if cell.cell_type == "code":
        new.outputs, new.execution_count = [], None
    if is_solution:
        where = f"{name}, cell {i}"
        new.source = sources.stubbed(cell.source, where)
        new.metadata["tags"] = ["stub" if tag == "solution" else tag for tag in cell.metadata["tags"]]
        _require_python(new.source, where)
    return new


def _core_ends(nb: NotebookNode) -> str:
    stated = sources.study_minutes(nb)
    return _CORE_END.format(minutes=f" of about {stated[1]} minutes" if stated and stated[1] else "")


def _marked(markdown: str) -> str:
    """The first cell of an extension, with the mark below its heading."""
    heading, _, rest = markdown.lstrip().partition("\n")
    return "\n\n".join(filter(None, [heading, _EXTENSION, rest.strip()]))


def _require_python(code: str, where: str) -> None:
    try:
        ast.parse(code)
    except SyntaxError as error:
        text = (error.text or "").strip()
        raise ValueError(f"{where}: with its stubs it is not valid Python ({error.msg}: {text!r})") from error


def _markdown(cell_id: str, source: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(source, id=cell_id)


def _derived(cell_id: str, suffix: str) -> str:
    return f"{cell_id[: 63 - len(suffix)]}-{suffix}"  # nbformat allows 64 characters


def _folded_hints(hints: tuple[str, ...]) -> str:
    names = ["Hint"] if len(hints) == 1 else [f"Hint {n}" for n in range(1, len(hints) + 1)]
    return "\n\n".join(_folded(name, deepened(hint)) for name, hint in zip(names, hints, strict=True))


def _folded_solution(source: str) -> str:
    code = sources.solved(source)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", code)), default=0))
    return _folded("Solution", f"{fence}python\n{code}\n{fence}")


def _folded(summary: str, markdown: str) -> str:
    # Markdown inside HTML is rendered only with a blank line before and after it.
    folded = "<details>\n<summary>{{ summary }}</summary>\n\n{{ text }}\n\n</details>"
    return str(html.render(folded, summary=summary, text=html.Markup(markdown.strip())))


def _metadata(nb: NotebookNode, name: str) -> dict[str, dict[str, object]]:
    kept = {key: deepcopy(nb.metadata[key]) for key in ("kernelspec", "language_info") if key in nb.metadata}
    kept.get("language_info", {}).pop("version", None)  # changes with the machine that executed the source
    return kept | {"mi_utils": {_MARK: name}}
