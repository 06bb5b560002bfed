"""Markers in a solution, triples of cells, and the learner edition made from them."""

import re
from pathlib import Path

import nbformat
import pytest
import samples
from nbconvert.filters.markdown_mistune import markdown2html_mistune
from nbformat import NotebookNode

from mi_workshop import exercises, sources

HINTS = {"00.double_1": ("Add.", "See [data](../data/file.json)."), "00.double_2": ("Add `x`.",)}


def hints(exercise_id: str) -> tuple[str, ...]:
    return HINTS.get(exercise_id, ())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``notebooks`` folder that stands in for the repository's."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    monkeypatch.setattr(sources, "folder", lambda: notebooks)
    monkeypatch.setattr(exercises, "_hints", hints)
    return notebooks


def stored(folder: Path, nb: NotebookNode | None = None, name: str = "00_open") -> Path:
    path = folder / f"{name}.ipynb"
    sources.write(nb or samples.notebook(), path)
    return path


# --- which notebooks there are --------------------------------------------------------------------------


def test_find_lists_and_selects(folder: Path) -> None:
    for name in ("10_later", "02_then", "00_open", "draft", "3_short", "00_open-Copy1"):
        stored(folder, name=name)

    def names(selection: str | None = None) -> list[str]:
        return [path.stem for path in sources.find(selection)]

    assert names() == names("") == names("  ") == ["00_open", "02_then", "10_later"]
    assert names("2") == names("02") == names("then") == names("02_then.ipynb") == ["02_then"]
    assert names("notebooks/02_then.ipynb") == ["02_then"]
    assert names("10 00") == names("10,0") == names("00_open, 10_later") == ["00_open", "10_later"]


@pytest.mark.parametrize("selection", ["03", "open_", "0_open", "00 nothing", "draft", "*"])
def test_find_refuses_what_is_not_there(folder: Path, selection: str) -> None:
    stored(folder), stored(folder, name="02_then")
    with pytest.raises(ValueError, match=r"selection is '.*'; .*: 00_open, 02_then$"):
        sources.find(selection)


def test_find_with_no_notebook_at_all(folder: Path) -> None:
    assert sources.find() == []
    with pytest.raises(ValueError, match="none"):
        sources.find("00")


def test_stored_text_is_stable_and_atomic(folder: Path) -> None:
    path = stored(folder)
    before = path.read_bytes()
    assert before.endswith(b"}\n") and not before.endswith(b"\n\n")
    sources.write(sources.read(path), path)
    assert path.read_bytes() == before
    spoilt = samples.notebook()
    spoilt.cells[0].cell_type = "odd"
    with pytest.raises(nbformat.ValidationError):
        sources.write(spoilt, path)
    assert path.read_bytes() == before
    assert [p.name for p in folder.iterdir()] == ["00_open.ipynb"]


@pytest.mark.parametrize(
    "text", ["", "{", "{}", '{"cells": 1, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}']
)
def test_what_is_no_notebook_is_refused_by_name(folder: Path, text: str) -> None:
    (folder / "00_open.ipynb").write_text(text)
    with pytest.raises(ValueError, match="00_open.ipynb"):
        sources.read(folder / "00_open.ipynb")


# --- markers --------------------------------------------------------------------------------------------


def test_a_block_becomes_an_ellipsis_at_its_indentation() -> None:
    expected = 'def double(x):\n    """Return twice x."""\n    ...  # your code here'
    assert sources.stubbed(samples.SOLUTION) == expected
    assert "#" not in sources.solved(samples.SOLUTION)
    assert "twice = x + x" in sources.solved(samples.SOLUTION)


def test_several_blocks_and_stubs() -> None:
    source = """\
# solution
# stub: guess = ...
# stub: for x in y:
# stub:     x = ...
guess = 3
# end
kept = guess
def f(x):
    if x:
        # solution
        return 1
        # end
    # solution
    # stub: return ...
    y = 2
    return y  # end of f
    # end"""
    assert (
        sources.stubbed(source)
        == """\
guess = ...
for x in y:
    x = ...
kept = guess
def f(x):
    if x:
        ...  # your code here
    return ..."""
    )
    assert (
        sources.solved(source)
        == """\
guess = 3
kept = guess
def f(x):
    if x:
        return 1
    y = 2
    return y  # end of f"""
    )
    assert [block.start for block in sources.blocks(source)] == [0, 9, 12]


def test_no_marker_no_change() -> None:
    for source in (
        "x = 1  # solution",
        "# the end",
        "s = 'x'\n# ending",
        "# solutions differ",
        "# stubborn",
        "",
    ):
        assert sources.blocks(source) == []
        assert sources.stubbed(source) == sources.solved(source) == source


MALFORMED = {
    "x = 1\n# end": r"line 2: '# end' without",
    "x = 1\n# solution\nx = 2": r"line 2: '# solution' without",
    "# solution\n# solution\n# end\n# end": r"line 2: '# solution' inside the block that line 1",
    "if x:\n    # solution\n    x = 2\n# end": (
        r"line 4: '# end' should be indented as '# solution' in line 2"
    ),
    "# stub: x = ...": r"line 1: '# stub:' outside",
    "# solution\n# stub:\n# end": r"line 2: '# stub:' should be followed by code",
    "if x:\n    # solution\n# stub: x\n    # end": r"line 3: '# stub:' is indented less",
    "# Solution\nx = 1\n# end": r"line 1: '# Solution' looks like a marker",
    "#solution\nx = 1\n# end": r"line 1: '#solution' looks like a marker",
    "# solution:\nx = 1\n# end": r"line 1: '# solution:' looks like a marker",
    "# solution\nx = 1\n# END": r"line 3: '# END' looks like a marker",
    "# solution\n# stub x = ...\n# end": r"line 2: '# stub x = ...' looks like a marker",
    "# solution\n# stub:x = ...\n# end": r"line 2: '# stub:x = ...' looks like a marker",
}


@pytest.mark.parametrize("source", MALFORMED, ids=[text.replace("\n", "|") for text in MALFORMED])
def test_malformed_markers_are_refused_by_place(source: str) -> None:
    for parse in (sources.blocks, sources.stubbed, sources.solved):
        with pytest.raises(ValueError, match=f"^00_open, cell 7, {MALFORMED[source]}"):
            parse(source, "00_open, cell 7")


# --- exercises ------------------------------------------------------------------------------------------


def test_exercises_are_found_in_order() -> None:
    nb = samples.notebook()
    found = sources.exercises(nb, "00_open")
    assert [item.id for item in found] == [f"00.double_{n}" for n in range(1, 6)]
    first = found[0]
    assert (first.markdown, first.solution, first.check) == (6, 7, 8)
    assert first.source == samples.SOLUTION and first.notebook == "00_open"


def without(place: int) -> NotebookNode:
    nb = samples.notebook()
    del nb.cells[place]
    return nb


def changed(place: int, source: str | None = None, *tags: str) -> NotebookNode:
    nb = samples.notebook()
    nb.cells[place].source = nb.cells[place].source if source is None else source
    if tags:
        nb.cells[place].metadata["tags"] = [tag for tag in tags if tag]
    return nb


BROKEN = {
    "no specification": (lambda: without(6), r"cell 6: 'solution' outside a triple"),
    "no solution": (
        lambda: without(7),
        r"cell 7: the exercise of cell 6 needs a code cell tagged 'solution'",
    ),
    "no check": (lambda: without(8), r"cell 8: the exercise of cell 6 needs a code cell tagged 'check'"),
    "no tag": (lambda: changed(7, None, ""), r"cell 7: the exercise of cell 6 needs"),
    "marks untagged": (lambda: changed(4, samples.SOLUTION), r"cell 4: marks a solution but is not tagged"),
    "marks nothing": (lambda: changed(7, "x = 1"), r"cell 7: no solution between"),
    "marks badly": (lambda: changed(7, "# solution"), r"cell 7, line 1: '# solution' without"),
    "stray check": (lambda: changed(4, None, "check"), r"cell 4: 'check' outside a triple"),
    "checks nothing": (lambda: changed(8, "x = 1"), r"cell 8: should call grading.check once"),
    "checks twice": (lambda: changed(8, "grading.check('a', 1)\ngrading.check('b', 1)"), r"cell 8: .* once"),
    "no literal id": (lambda: changed(8, "grading.check(name, double)"), r"cell 8: .* the exercise's id"),
    "no id": (lambda: changed(8, "grading.check()"), r"cell 8: should call grading.check once"),
    "not Python": (lambda: changed(8, "grading.check("), r"cell 8: not plain Python"),
    "checked before": (
        lambda: changed(11, "grading.check('00.double_1', 1)"),
        r"cell 11: '00.double_1' is already",
    ),
}


@pytest.mark.parametrize(("make", "said"), BROKEN.values(), ids=BROKEN)
def test_broken_triples_are_refused_by_place(make, said: str, folder: Path) -> None:
    nb = make()
    with pytest.raises(ValueError, match=f"^00_open, {said}"):
        sources.exercises(nb, "00_open")
    path = stored(folder, nb)
    with pytest.raises(ValueError, match=f"^00_open, {said}"):
        exercises.build(path)


# --- the learner edition --------------------------------------------------------------------------------


def test_cells_of_the_learner_edition(folder: Path) -> None:
    source, built = samples.notebook(), exercises.build(stored(folder))
    ids = [cell.id for cell in built.cells]
    assert ids[:7] == ["learner-edition", "title", "imports", "parameters", "look", "figure", "print"]
    assert ids[7:12] == ["task-1", "task-1-hints", "solve-1", "check-1", "solve-1-worked"]
    assert ids[12:17] == ["task-2", "task-2-hints", "solve-2", "check-2", "solve-2-worked"]
    assert ids[17:21] == ["task-3", "solve-3", "check-3", "solve-3-worked"]
    assert [i for i in ids if i in {c.id for c in source.cells}] == [c.id for c in source.cells]
    code = [cell for cell in built.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    note = built.cells[0].source
    assert "[00_open](../00_open.ipynb)" in note
    for word in ("Learner edition", "make exercises", "`my_`", "not yet", "mistake", "passed"):
        assert word in note


def ids_of(built: NotebookNode) -> list[str]:
    return [cell.id for cell in built.cells]


def test_the_learner_edition_says_where_the_core_ends_and_marks_extensions(folder: Path) -> None:
    built = exercises.build(stored(folder, samples.second_form()))
    by_id = {cell.id: cell for cell in built.cells}
    at = ids_of(built).index("further")
    assert ids_of(built)[at - 1] == "further-core-ends"
    assert "**The core ends here.**" in by_id["further-core-ends"].source
    assert "extensions of about 20 minutes" in by_id["further-core-ends"].source
    heading, mark, text = by_id["further"].source.split("\n\n")
    assert heading == "## Extension: more boxes" and text == "Open them."
    assert mark == "> *Extension: not part of the core. Skip it freely.*"
    assert sum("Skip it freely" in cell.source for cell in built.cells) == 1


def test_of_several_extensions_each_is_marked_and_the_core_ends_once(folder: Path) -> None:
    nb = samples.second_form()
    at = ids_of(nb).index("paper")
    nb.cells[at:at] = [
        samples.markdown("part", "### Extension: a part", "extension"),
        samples.markdown("second", "## Extension: again", "extension"),
        samples.markdown("its-part", "### In detail", "extension"),
    ]
    nb.cells[0].source = nb.cells[0].source.replace(" and 20 for the extensions", "")
    built = exercises.build(stored(folder, nb))
    assert [i for i in ids_of(built) if i.endswith("core-ends")] == ["further-core-ends"]
    assert "extensions: for those" in built.cells[ids_of(built).index("further-core-ends")].source
    marked = [cell.id for cell in built.cells if "Skip it freely" in cell.source]
    assert marked == ["further", "part", "second"]


def test_an_extension_in_the_middle_is_marked_and_ends_no_core(folder: Path) -> None:
    nb = samples.notebook(
        samples.markdown("further", "## Extension: x", "extension"), samples.markdown("on", "## On")
    )
    built = exercises.build(stored(folder, nb))
    assert not any("The core ends" in cell.source for cell in built.cells)
    assert built.cells[ids_of(built).index("further")].source.startswith(
        "## Extension: x\n\n> *Extension: not"
    )


def test_without_extensions_nothing_is_marked(folder: Path) -> None:
    built = exercises.build(stored(folder))
    assert not any("core" in cell.source for cell in built.cells)


# --- sections -------------------------------------------------------------------------------------------


def test_sections_go_to_the_next_heading_of_their_level() -> None:
    cells = [
        samples.markdown("a", "# Title\n\n## no section of its own"),
        samples.markdown("b", "\n## One  "),
        samples.code("c", "# no heading"),
        samples.markdown("d", "### Part"),
        samples.markdown("e", "text"),
        samples.markdown("f", "## Extension: Two"),
    ]
    found = sources.sections(nbformat.v4.new_notebook(cells=cells))
    assert [(s.level, s.title, s.start, s.stop) for s in found] == [
        (1, "Title", 0, 6),
        (2, "One", 1, 5),
        (3, "Part", 3, 5),
        (2, "Extension: Two", 5, 6),
    ]
    assert [s.is_extension for s in found] == [False, False, False, True]


@pytest.mark.parametrize(
    ("said", "minutes"),
    [
        ("**It takes** about 60 minutes for the core and 20 for the extensions. Running", (60, 20)),
        ("**It takes** about 45 minutes for the core and 9 minutes for the extensions", (45, 9)),
        ("**It takes** about 60 minutes for the core.", (60, 0)),
        ("**It takes** about 60 minutes to work through.", None),
    ],
)
def test_minutes_to_work_through(said: str, minutes: tuple[int, int] | None) -> None:
    assert sources.study_minutes(nbformat.v4.new_notebook(cells=[samples.markdown("a", said)])) == minutes
    assert sources.study_minutes(nbformat.v4.new_notebook()) is None


def test_solutions_are_nowhere_but_folded(folder: Path) -> None:
    built = exercises.build(stored(folder))
    by_id = {cell.id: cell for cell in built.cells}
    assert by_id["solve-1"].source == sources.stubbed(samples.SOLUTION)
    assert by_id["solve-1"].metadata["tags"] == ["stub"]
    assert not any("twice = x + x" in c.source for c in built.cells if not c.id.endswith("-worked"))
    assert "twice = x + x" in by_id["solve-1-worked"].source


def test_hints_and_solutions_render_folded(folder: Path) -> None:
    by_id = {cell.id: cell for cell in exercises.build(stored(folder)).cells}
    page = markdown2html_mistune(by_id["task-2-hints"].source)
    assert page.count("<details>") == page.count("</details>") == 1
    assert re.search(r"<summary>Hint</summary>\s*<p>Add <code>x</code>\.</p>\s*</details>", page)
    page = markdown2html_mistune(by_id["task-1-hints"].source)
    assert re.findall(r"<summary>(.*?)</summary>", page) == ["Hint 1", "Hint 2"]
    assert 'href="../../data/file.json"' in page
    page = markdown2html_mistune(by_id["solve-1-worked"].source)
    assert re.search(r'<summary>Solution</summary>\s*<div class="highlight">', page)
    assert "```" not in page and "# end" not in page


def test_a_solution_with_a_fence_in_it(folder: Path) -> None:
    nb = samples.notebook()
    nb.cells[7].source = 'text = ...\n# solution\ntext = "```"\n# end'
    by_id = {cell.id: cell for cell in exercises.build(stored(folder, nb)).cells}
    assert '````python\ntext = ...\ntext = "```"\n````' in by_id["solve-1-worked"].source


LINKS = {
    "[a](../data/x.json)": "[a](../../data/x.json)",
    "![a](img/x.png)": "![a](../img/x.png)",
    "[a](./img/x.png#part)": "[a](../img/x.png#part)",
    "[a](<../README.md>)": "[a](<../../README.md>)",
    '[a](../README.md "title")': '[a](../../README.md "title")',
    "[a](../data/)": "[a](../../data/)",
    "[a]: ../README.md": "[a]: ../../README.md",
    '<img alt="b" src="img/x.png">': '<img alt="b" src="../img/x.png">',
    "<a href='../README.md'>": "<a href='../../README.md'>",
    "[a](01_next.ipynb)": "[a](01_next.ipynb)",
    "[a](./01_next.ipynb#Part-2)": "[a](./01_next.ipynb#Part-2)",
    "[a](exercises/01_next.ipynb)": "[a](01_next.ipynb)",
    "[a](https://example.org/x)": "[a](https://example.org/x)",
    "[a](mailto:a@example.org)": "[a](mailto:a@example.org)",
    "[a](attachment:x.png)": "[a](attachment:x.png)",
    "[a](#heading)": "[a](#heading)",
    "`[a](../x)` [b](../y)": "`[a](../x)` [b](../../y)",
    "```\n[a](../x)\n```\n[b](../y)": "```\n[a](../x)\n```\n[b](../../y)",
    "$$\nf[i](x)\n$$\n[a](../y)": "$$\nf[i](x)\n$$\n[a](../../y)",
    "from $5 [a](../y) to $6": "from $5 [a](../../y) to $6",
    "$f[i](x)$ and [a](../y)": "$f[i](x)$ and [a](../../y)",
}


@pytest.mark.parametrize("text", LINKS)
def test_relative_links_lead_from_one_folder_further_down(text: str) -> None:
    assert exercises.deepened(text) == LINKS[text]


def test_links_are_listed() -> None:
    text = "[a](../x) `[no](../n)` ![b](y.png#z) [c](https://example.org) [d](#e) <img src='i.png'>"
    assert exercises.links(text) == ["../x", "y.png#z", "i.png"]


def test_kernel_is_kept_and_nothing_else_of_the_metadata(folder: Path) -> None:
    nb = samples.notebook()
    nb.metadata["widgets"] = {"state": {}}
    metadata = exercises.build(stored(folder, nb)).metadata
    assert metadata["kernelspec"] == nb.metadata["kernelspec"]
    assert metadata["language_info"] == {"name": "python"}
    assert metadata.keys() == {"kernelspec", "language_info", "mi_utils"}


def test_two_builds_are_the_same_bytes_and_outputs_do_not_count(folder: Path) -> None:
    path = stored(folder)
    first = sources.text(exercises.build(path))
    assert sources.text(exercises.build(path)) == first
    nb = samples.notebook()
    nb.cells[5].outputs[0].text = "differs\n"
    nb.metadata["language_info"]["version"] = "3.12.0"
    assert sources.text(exercises.build(stored(folder, nb))) == first


def test_long_cell_ids_stay_within_the_format(folder: Path) -> None:
    nb = samples.notebook()
    nb.cells[6].id, nb.cells[7].id = "t" * 64, "s" * 64
    ids = [cell.id for cell in exercises.build(stored(folder, nb)).cells]
    assert max(map(len, ids)) <= 64 and len(set(ids)) == len(ids)


def test_a_stub_that_is_not_python_is_refused(folder: Path) -> None:
    nb = samples.notebook()
    nb.cells[7].source = "# solution\n# stub: x =\nx = 1\n# end"
    path = stored(folder, nb)
    with pytest.raises(ValueError, match=r"^00_open, cell 7: with its stubs it is not valid Python .*'x ='"):
        exercises.build(path)


def test_hints_come_from_grading_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from mi_utils import grading

    monkeypatch.undo()
    asked = []
    monkeypatch.setattr(grading, "exercise", lambda i: asked.append(i) or SimpleNamespace(hints=(f"of {i}",)))
    built = exercises.build(stored(folder))
    assert set(asked) == {f"00.double_{n}" for n in range(1, 6)}
    assert "of 00.double_1" in {cell.id: cell for cell in built.cells}["task-1-hints"].source


def test_write_all_brings_up_to_date_and_check_only_tells(folder: Path) -> None:
    path = stored(folder)
    target = folder / "exercises" / path.name
    assert exercises.write_all(check=True) == [target] and not target.parent.exists()
    assert exercises.write_all() == [target] and target.exists()
    written = target.read_bytes()
    assert exercises.write_all(check=True) == exercises.write_all() == []
    target.write_text("{}")
    assert exercises.write_all(check=True) == [target] and target.read_text() == "{}"
    assert exercises.write_all() == [target] and target.read_bytes() == written


def test_what_a_source_left_behind_is_removed_and_a_learners_copy_is_not(folder: Path) -> None:
    first, second = stored(folder), stored(folder, name="01_next")
    exercises.write_all()
    orphan = folder / "exercises" / second.name
    copies = [orphan.with_name(name) for name in ("01_next-Copy1.ipynb", "01_mine.ipynb")]
    for copy in copies:
        copy.write_bytes(orphan.read_bytes())
    (orphan.parent / "broken.ipynb").write_text("{")
    second.unlink()
    assert exercises.write_all(check=True) == [orphan] and orphan.exists()
    assert exercises.write_all() == [orphan] and not orphan.exists()
    assert all(copy.exists() for copy in copies) and first.exists()
    assert exercises.write_all(check=True) == []
