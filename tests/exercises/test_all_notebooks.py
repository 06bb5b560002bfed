"""What holds for the exercises of every notebook, present and future."""

import dataclasses

import nbformat
import pytest
from frame import notebooks_with_exercises, uncovered, worked_verdicts

from mi_utils import grading
from mi_workshop import sources


@pytest.mark.parametrize("number", notebooks_with_exercises())
def test_every_declared_mistake_has_a_wrong_answer_and_every_exercise_two_right_ones(number):
    assert list(uncovered(number)) == []


@pytest.mark.parametrize("number", notebooks_with_exercises())
def test_a_module_of_checks_holds_the_exercises_of_its_notebook(number):
    assert all(name.startswith(f"{number}.") for name in grading.EXERCISES.notebook(number))


@pytest.mark.parametrize("path", sources.available(), ids=lambda path: path.stem)
def test_a_notebook_asks_its_exercises_in_the_order_of_the_module(path):
    asked = [exercise.id for exercise in sources.exercises(sources.read(path), path.stem)]
    assert asked == list(grading.EXERCISES.notebook(path.stem[:2]))


def test_each_exercise_says_what_a_learner_needs():
    for exercise in grading.EXERCISES.values():
        assert exercise.title and exercise.minutes > 0 and exercise.hints
        unfinished = [text for text in exercise.mistakes.values() if text.strip() != text or text[-1] not in ".?"]
        assert unfinished == []


@pytest.mark.parametrize("path", sources.available(), ids=lambda path: path.stem)
def test_the_worked_solutions_of_a_notebook_pass(path, real_model):
    verdicts = worked_verdicts(sources.read(path), path.stem, real_model)
    assert {name: repr(verdict) for name, verdict in verdicts.items() if verdict.status != "passed"} == {}


def _notebook(solution: str) -> nbformat.NotebookNode:
    def code(source, *tags):
        return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})

    return nbformat.v4.new_notebook(
        cells=[
            code("import torch\n\nfrom mi_utils import config, grading"),
            code("HEAD = int('1')  # a parameter", "parameters"),
            code("AXIS = 2\nraise RuntimeError('a cell that the exercise does not need')"),
            nbformat.v4.new_markdown_cell("Zero it.", metadata={"tags": ["exercise"]}),
            code(solution, "solution"),
            code('grading.check("00.zero_head", zero_head, head=HEAD, model=computed_elsewhere)', "check"),
        ]
    )


SOLUTION = """def zero_head(z, hook):
    # solution
    return z.index_fill(AXIS, torch.tensor([HEAD]), 0)
    # end
"""


def test_the_frame_judges_the_solution_in_the_notebook(tiny):
    assert worked_verdicts(_notebook(SOLUTION), "00_sample", tiny)["00.zero_head"].status == "passed"
    wrong = _notebook(SOLUTION.replace("[HEAD]", "[HEAD + 1]"))
    assert worked_verdicts(wrong, "00_sample", tiny)["00.zero_head"].mistake == "other_head"
    empty = _notebook(SOLUTION.replace("return z.index_fill(AXIS, torch.tensor([HEAD]), 0)", "..."))
    assert worked_verdicts(empty, "00_sample", tiny)["00.zero_head"].status == "not yet"


def test_a_mistake_or_an_exercise_without_an_answer_is_noticed(monkeypatch):
    registered = grading.EXERCISES.notebook("00")
    first = next(iter(registered.values()))
    bolder = dataclasses.replace(first, mistakes={**first.mistakes, "new": "Another one."})
    later = dataclasses.replace(first, id="00.later", mistakes={"only": "The only one."})
    monkeypatch.setitem(grading.EXERCISES._loaded, "00", registered | {first.id: bolder, later.id: later})
    monkeypatch.setitem(grading.EXERCISES._loaded, "95", {})
    assert list(uncovered("00")) == [
        f"{first.id}: no answer makes the mistake 'new'",
        "00.later: fewer than two right answers",
        "00.later: no answer makes the mistake 'only'",
    ]
    assert list(uncovered("95")) == ["tests/exercises/test_exercises_nb95.py is missing"]
