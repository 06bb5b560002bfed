"""How the checks of a notebook are tested: right answers pass, and each wrong one is told by its name.

A module ``test_exercises_nbNN.py`` defines, with ``tiny`` a small model:

* ``CONTEXTS``: exercise id -> functions ``tiny -> context``, one or more, with which its check is called;
* ``RIGHT``: exercise id -> name -> an answer that must pass with every context;
* ``WRONG``: exercise id -> mistake -> answers, as learners write them, that make this mistake with the first;
* ``MODEL_OF_WRONG_ANSWERS``: the fixture of the model for wrong answers; without it, ``tiny``.

``test_all_notebooks.py`` tries them all, and lists every answer that is told something else.
The module itself holds only what is particular to its notebook.

An answer that depends on the context (the model, say) is wrapped in ``FromContext``.
"""

import ast
import importlib
import linecache
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from nbformat import NotebookNode

from mi_utils import grading
from mi_utils.grading.core import STOPPED
from mi_workshop import sources


@dataclass(frozen=True)
class FromContext:
    """An answer that is made from the context with which it is tested."""

    make: Callable[[Mapping[str, Any]], Any]


def answer_for(answer: Any, context: Mapping[str, Any]) -> Any:
    return answer.make(context) if isinstance(answer, FromContext) else answer


def cases(exercise: str) -> ModuleType:
    """The module with the answers to the exercises of that notebook."""
    return importlib.import_module(f"test_exercises_nb{exercise.partition('.')[0]}")


def told(exercise: str, answer: Any, context: Mapping[str, Any]) -> tuple[str, str]:
    """What a check says of an answer: the mistake's name, or else the status, and the text."""
    try:
        verdict = grading.check(exercise, answer_for(answer, context), **context)
    except Exception as error:  # the check itself is at fault; the other answers are tried all the same
        return "the check stopped", f"{type(error).__name__}: {error}"
    return verdict.mistake or verdict.status, verdict.text


def right_but_not_passed(exercise: str, model: Any) -> dict[str, tuple[str, str]]:
    """Right answers of which anything is said: name and number of the context -> what."""
    tested = cases(exercise)
    said = {
        f"{name}, context {i}": told(exercise, answer, context(model))
        for name, answer in tested.RIGHT[exercise].items()
        for i, context in enumerate(tested.CONTEXTS[exercise])
    }
    return {where: what for where, what in said.items() if what != ("passed", "")}


def wrong_but_not_told(exercise: str, model: Any) -> dict[str, tuple[str, str]]:
    """Wrong answers that aren't told their mistake, or not in words: mistake and number -> what is told."""
    tested, found = cases(exercise), {}
    for mistake, answers in tested.WRONG[exercise].items():
        for i, answer in enumerate(answers):
            name, text = told(exercise, answer, tested.CONTEXTS[exercise][0](model))
            if name != mistake or not text:
                found[f"{mistake}, answer {i}"] = name, text
    return found


def notebooks_with_exercises() -> list[str]:
    return sorted({name.partition(".")[0] for name in grading.EXERCISES})


def uncovered(number: str) -> Iterator[str]:
    """What a notebook's tests lack, in words."""
    try:
        tested = importlib.import_module(f"test_exercises_nb{number}")
    except ModuleNotFoundError:
        yield f"tests/exercises/test_exercises_nb{number}.py is missing"
        return
    asked = grading.EXERCISES.notebook(number)
    answered = {**tested.CONTEXTS, **tested.RIGHT, **tested.WRONG}
    yield from (f"{name}: there is no such exercise" for name in answered if name not in asked)
    for name, exercise in asked.items():
        if len(tested.RIGHT.get(name, ())) < 2:
            yield f"{name}: fewer than two right answers"
        wrong = tested.WRONG.get(name, {})
        yield from (
            f"{name}: no answer makes the mistake {one!r}" for one in exercise.mistakes if not wrong.get(one)
        )
        strays = wrong.keys() - exercise.mistakes.keys() - {STOPPED}
        yield from (f"{name}: the mistake {one!r} is not declared" for one in sorted(strays))


def worked_verdicts(nb: NotebookNode, name: str, model: Any) -> dict[str, grading.Verdict]:
    """Exercise id -> what its check says of the worked solution in the notebook, run on ``model``.

    Before a solution run the imports, definitions and constants above it and the cell of parameters, nothing
    else: no sweep, no figure. The check gets what the notebook's own hands it as far as that is known by then
    (a constant, the model); what was computed in between comes from ``CONTEXTS``.
    """
    contexts = importlib.import_module(f"test_exercises_nb{name[:2]}").CONTEXTS
    found = {}
    for exercise in sources.exercises(nb, name):
        context = contexts[exercise.id][0](model)
        names = context | {"model": model}
        exec(compile(_setup(nb.cells[: exercise.solution]), f"<{name}, setup>", "exec"), names)
        code = sources.solved(exercise.source)
        cell = f"<{name}, {exercise.id}>"
        # The source of a function is looked up by its file's name: so that a stub would be seen to be one.
        linecache.cache[cell] = (len(code), None, code.splitlines(keepends=True), cell)
        exec(compile(code, cell, "exec"), names)
        call = next(node for node in ast.walk(ast.parse(nb.cells[exercise.check].source)) if _is_check(node))
        context |= dict(_known(call.keywords, names))
        found[exercise.id] = grading.check(exercise.id, eval(ast.unparse(call.args[1]), names), **context)
    return found


def _is_check(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "grading.check"


def _known(keywords: list[ast.keyword], names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword in keywords:
        with suppress(NameError):
            yield keyword.arg, eval(ast.unparse(keyword.value), names)


def _setup(cells: list[NotebookNode]) -> ast.Module:
    lines = []
    for cell in cells:
        if cell.cell_type == "code":
            body = ast.parse(cell.source).body
            lines += body if "parameters" in sources.tags(cell) else filter(_is_harmless, body)
    return ast.Module(lines, type_ignores=[])


def _is_harmless(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
        return True
    if not isinstance(node, ast.Assign) or any(
        isinstance(one, ast.Subscript | ast.Attribute) for one in node.targets
    ):
        return False  # an item of something that was computed
    try:
        return ast.literal_eval(node.value) is not ...
    except ValueError:
        return False
