"""The checks of the second form: each complains of what it is for, and of nothing in a good notebook."""

from collections.abc import Callable
from types import SimpleNamespace

import hygiene
import hygiene_second_form
import pytest
import samples
from nbformat import NotebookNode
from nbformat.v4 import new_output

CHECKS = {check.__name__: check for check in hygiene_second_form.checks_of(samples.second_form())}
CLAIMS = "claims_stand_in_their_parts"
CLOSES = "opens_and_closes_as_agreed"
EXTENSIONS = "extensions_are_marked"
KINDS = "some_exercises_are_no_formula"
MINUTES = "minutes_are_stated"
NAMES = "few_names_from_mi_utils"
PICTURES = "pictures_are_told"
VERDICTS = "results_not_verdicts"


def of(nb: NotebookNode, cell_id: str) -> NotebookNode:
    return next(cell for cell in nb.cells if cell.id == cell_id)


def code(source: str, *outputs: NotebookNode, tags: tuple[str, ...] = ()) -> NotebookNode:
    return samples.second_form(samples.code("extra", source, *tags, outputs=outputs))


def prose(source: str, *tags: str) -> NotebookNode:
    return samples.second_form(samples.markdown("extra", source, *tags))


def replaced(cell_id: str, old: str, new: str) -> NotebookNode:
    nb = samples.second_form()
    assert old in of(nb, cell_id).source
    of(nb, cell_id).source = of(nb, cell_id).source.replace(old, new)
    return nb


def retagged(cell_id: str, *tags: str) -> NotebookNode:
    nb = samples.second_form()
    of(nb, cell_id).metadata["tags"] = list(tags)
    return nb


def printed(text: str) -> NotebookNode:
    return new_output("stream", name="stdout", text=text)


def result(text: str) -> NotebookNode:
    return new_output("execute_result", {"text/plain": text}, execution_count=6)


def cells(count: int, source: str, *tags: str) -> NotebookNode:
    return samples.second_form(*(samples.code(f"c{n}", source, *tags) for n in range(count)))


LONG = "\n".join(["x = 1"] * 21)
IMPORTS = "\n".join(
    f"from mi_utils.{package} import one, two, three" for package in ("lens", "sae", "graphs")
)
ALTERNATIVE = "**It takes** about 60 minutes to work through."

BAD: dict[str, tuple[str, Callable[[], NotebookNode], str]] = {
    "long cell": ("cells_are_short", lambda: code(LONG), "21 lines, over 20"),
    "long cells": ("cells_are_short", lambda: cells(30, "\n".join(["x"] * 6)), "median of 6"),
    "short cells": ("cells_are_short", lambda: cells(30, "x = 1"), "median of 1"),
    "long line": ("lines_are_short", lambda: code(f"x = '{'a' * 95}'"), "cell 6, line 1: 101 characters"),
    "semicolon": ("lines_are_short", lambda: code("x = 1\nx = 1; y = 2"), "line 2: two statements"),
    "behind a colon": ("lines_are_short", lambda: code("if x: y = 2"), "line 1: two statements"),
    "a verdict": (
        VERDICTS,
        lambda: code("x", result("{'sparse: above 1.5': True}")),
        "'sparse: above 1.5': True",
    ),
    "a verdict among numbers": (
        VERDICTS,
        lambda: code("x", result('{"n": 3,\n "holds": False}')),
        '"holds": False',
    ),
    "a verdict that is printed": (VERDICTS, lambda: code("x", printed("{'a': 1, 'b': True}\n")), "'b': True"),
    "a verdict, ignored": (
        VERDICTS,
        lambda: code("x", result("{'a': True}"), tags=("nbval-ignore-output",)),
        "shows a verdict",
    ),
    "nothing but True": (VERDICTS, lambda: code("x", result("True")), "nothing but 'True'"),
    "nothing but bools": (VERDICTS, lambda: code("x", result("(True,\n False)")), "nothing but"),
    "nothing but a tensor": (VERDICTS, lambda: code("x", result("tensor([True, False])")), "nothing but"),
    "two ignored": ("few_ignored_cells", lambda: cells(3, "x", "nbval-ignore-output"), "over one in 10"),
    "skipped": ("metadata_is_bare", lambda: code("x", tags=("nbval-skip",)), "nbval-skip"),
    "no alternative text": (PICTURES, lambda: code("x", samples.figure()), "without alternative text"),
    "a blank one": (PICTURES, lambda: code("x", samples.told_figure(" ")), "without alternative text"),
    "a drawing without one": (
        PICTURES,
        lambda: code("x", new_output("display_data", {"image/svg+xml": "<svg/>"})),
        "metadata 'image/svg+xml'",
    ),
    "a palette": (
        PICTURES,
        lambda: code("x", samples.told_figure("A.", samples.png(3))),
        "not in true colour",
    ),
    "a broken PNG": (
        PICTURES,
        lambda: code("x", samples.told_figure("A.", "iVBORw0KGgo=")),
        "not in true colour",
    ),
    "no Checks": (CLOSES, lambda: replaced("checks", "### Checks", "### More"), "closing headings"),
    "Checks as a section": (
        CLOSES,
        lambda: replaced("checks", "### Checks", "## Checks"),
        "closing headings",
    ),
    "no trial": (CLOSES, lambda: replaced("trial", "own trial", "trial"), "closing headings"),
    "no Takeaways": (CLOSES, lambda: replaced("end", "## Takeaways", ""), "closing headings"),
    "a section more": (CLOSES, lambda: replaced("trial", "trial", "trial\n\n## More"), "between or after"),
    "a claim of the first form": (
        CLAIMS,
        lambda: code("table.add('x', source='s', ours=1, at_least=0)"),
        "cell 6: a claim by 'add'",
    ),
    "few published figures": (CLAIMS, lambda: replaced("rows-2", "paper(", "other("), "3 published figures"),
    "many published figures": (CLAIMS, lambda: cells(4, samples.PAPER_ROW), "9 published figures"),
    "checks that are not shown": (
        CLAIMS,
        lambda: replaced("folded", "checks_table", "lines"),
        "no call of 'checks_table'",
    ),
    "no table of the trial": (
        CLAIMS,
        lambda: replaced("tried", "trial_table", "lines"),
        "no call of 'trial_table'",
    ),
    "one kind too few": (
        KINDS,
        lambda: replaced("task-4", "; find the silent bug", ""),
        "1 exercises are no",
    ),
    "a kind elsewhere": (
        KINDS,
        lambda: replaced("task-4", "; find the silent bug.*", ".* Then: find the silent bug"),
        "1 exercises are no formula",
    ),
    "ten names": (NAMES, lambda: replaced("imports", "import torch", IMPORTS), "11 names from mi_utils"),
    "an untagged cell": (
        EXTENSIONS,
        lambda: retagged("boxes"),
        "cell 22: in an extension, and not tagged so",
    ),
    "an untagged heading": (EXTENSIONS, lambda: retagged("further"), "cell 21: in an extension"),
    "a tag without a section": (
        EXTENSIONS,
        lambda: retagged("figure", "extension"),
        "cell 4: tagged 'extension'",
    ),
    "an unmarked heading": (
        EXTENSIONS,
        lambda: replaced("further", "Extension: more", "More"),
        "whose heading begins with 'Extension:'",
    ),
    "an extension in the middle": (
        EXTENSIONS,
        lambda: samples.second_form(
            samples.markdown("early", "## Extension: early", "extension"),
            samples.markdown("back", "## Back to the core"),
        ),
        "cell 6: an extension before the end of the core",
    ),
    "only one in the middle": (
        EXTENSIONS,
        lambda: replaced("paper", "## Paper", "## On\n\n## Paper"),
        "cell 21: an extension before the end of the core",
    ),
    "a heading within a cell": (
        EXTENSIONS,
        lambda: prose("Then.\n\n### Extension: x"),
        "should begin a cell",
    ),
    "no minutes of the core": (MINUTES, lambda: replaced("title", samples.STUDY, ALTERNATIVE), "should say"),
    "a short core": (
        MINUTES,
        lambda: replaced("title", "about 60", "about 40"),
        "core takes 40 minutes, not 45",
    ),
    "a long core": (MINUTES, lambda: replaced("title", "about 60", "about 90"), "core takes 90 minutes"),
    "no minutes of extensions": (
        MINUTES,
        lambda: replaced("title", " and 20 for the extensions", ""),
        "0 minutes are stated for extensions, and there are some",
    ),
    "minutes of no extensions": (
        MINUTES,
        lambda: replaced("further", "Extension: more", "More"),
        "20 minutes are stated for extensions, and there are none",
    ),
}


@pytest.mark.parametrize(("check", "make", "said"), BAD.values(), ids=BAD)
def test_a_bad_notebook_gets_the_complaint(check: str, make: Callable[[], NotebookNode], said: str) -> None:
    complaints = CHECKS[check](make())
    assert any(said in line for line in complaints), complaints


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_good_notebook_gives_no_complaint(check: hygiene.Check) -> None:
    assert check(samples.second_form()) == []


GOOD: dict[str, tuple[str, Callable[[], NotebookNode]]] = {
    "a hundred characters": ("lines_are_short", lambda: code(f"x = '{'a' * 94}'")),
    "a semicolon in a string": ("lines_are_short", lambda: code("x = 'a; b'")),
    "numbers": (VERDICTS, lambda: code("x", result("{'loss': 0.5, 'heads': ['L5H3']}"))),
    "a table with bools": (VERDICTS, lambda: code("x", result("  head  induction\n0  L5H3  True"))),
    "a sentence": (VERDICTS, lambda: code("x", printed("It is True.\n"))),
    "one ignored": ("few_ignored_cells", lambda: cells(1, "x = 1", "nbval-ignore-output")),
    "twenty lines": ("cells_are_short", lambda: code(LONG.removesuffix("\nx = 1"))),
    "transparency": (PICTURES, lambda: code("x", samples.told_figure("A.", samples.png(6)))),
    "several methods": (CLOSES, lambda: replaced("trial", "method's", "methods'")),
    "a part of the trial": (CLOSES, lambda: replaced("trial", "trial", "trial\n\n### In detail")),
    "nine names": (
        NAMES,
        lambda: replaced("imports", "grading, models", "a, b, c, d, e, f, g, h, i\nfrom torch import nn"),
    ),
    "a part of an extension": (
        EXTENSIONS,
        lambda: replaced("boxes", "x = 1", "# ## Extension: no heading, but a comment\nx = 1"),
    ),
    "no extensions": (
        EXTENSIONS,
        lambda: samples.notebook(),
    ),
}


@pytest.mark.parametrize(("check", "make"), GOOD.values(), ids=GOOD)
def test_what_only_looks_bad_gets_none(check: str, make: Callable[[], NotebookNode]) -> None:
    assert CHECKS[check](make()) == []


@pytest.mark.parametrize("kind", hygiene_second_form.KINDS)
def test_kinds_of_exercises(kind: str) -> None:
    for said in (f"*5 minutes, difficulty 2; {kind}.* Go.", f"*Difficulty 2 of 5: {kind.capitalize()}*"):
        assert hygiene_second_form.kind_of(said) == kind
    for other in (
        f"{kind}: 5 minutes, difficulty 2.",
        f"*difficulty 2.* Now {kind}",
        "*difficulty 2; guess*",
    ):
        assert hygiene_second_form.kind_of(other) is None


def test_the_kind_leaves_minutes_and_difficulty_readable() -> None:
    registry = {f"00.double_{n}": SimpleNamespace(minutes=10 * n, difficulty=n) for n in range(1, 6)}
    assert hygiene.exercises_are_right(samples.second_form(), "00_open", registry) == []


def test_the_first_form_is_held_to_its_own_rules_only() -> None:
    first = hygiene_second_form.checks_of(samples.notebook())
    assert first == hygiene.CHECKS
    assert set(hygiene_second_form.CHECKS) == set(CHECKS.values()) - set(first)
    assert all(check(samples.notebook()) == [] for check in first)


def test_every_check_of_the_second_form_is_tried_here() -> None:
    assert {check.__name__ for check in hygiene_second_form.CHECKS} <= {check for check, _, _ in BAD.values()}
