"""What holds for the exercises of every notebook, present and future."""

import dataclasses

import nbformat
import pytest
from frame import (
    cases,
    notebooks_with_exercises,
    right_but_not_passed,
    uncovered,
    worked_verdicts,
    wrong_but_not_told,
)

from mi_utils import grading
from mi_workshop import sources


@pytest.mark.parametrize("number", notebooks_with_exercises())
def test_every_declared_mistake_has_a_wrong_answer_and_every_exercise_two_right_ones(number):
    assert list(uncovered(number)) == []


@pytest.mark.parametrize("exercise", grading.EXERCISES)
def test_right_answers_pass_in_every_form(exercise, tiny):
    assert right_but_not_passed(exercise, tiny) == {}


# What torch says of logits indexed by a name, and of a default of F.kl_div that a learner may use.
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore:reduction")
@pytest.mark.parametrize("exercise", grading.EXERCISES)
def test_wrong_answers_are_told_which_mistake_they_make(exercise, request):
    model = request.getfixturevalue(getattr(cases(exercise), "MODEL_OF_WRONG_ANSWERS", "tiny"))
    assert wrong_but_not_told(exercise, model) == {}


def test_an_answer_that_is_told_something_else_is_noticed(monkeypatch, tiny):
    """Whatever it is that is told, and whichever of several answers it is told of."""
    tested, exercise = cases("00.zero_head"), "00.zero_head"
    [right, *_], wrong = tested.RIGHT[exercise].values(), tested.WRONG[exercise]["other_head"][0]
    assert right_but_not_passed(exercise, tiny) == wrong_but_not_told(exercise, tiny) == {}
    monkeypatch.setitem(tested.RIGHT, exercise, {"fine": right, "not fine": wrong})
    monkeypatch.setitem(tested.WRONG, exercise, {"shape": [wrong], "other_head": [wrong, right, ...]})
    said = {where: what for where, (what, _) in right_but_not_passed(exercise, tiny).items()}
    assert said == {"not fine, context 0": "other_head", "not fine, context 1": "other_head"}
    said = {where: what for where, (what, _) in wrong_but_not_told(exercise, tiny).items()}
    expected = {
        "shape, answer 0": "other_head",
        "other_head, answer 1": "passed",
        "other_head, answer 2": "not yet",
    }
    assert said == expected
    monkeypatch.setitem(tested.CONTEXTS, exercise, [lambda model: {"head": "no number"}])
    assert wrong_but_not_told(exercise, tiny)["other_head, answer 0"][0] == "the check stopped"


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
        unfinished = [
            text for text in exercise.mistakes.values() if text.strip() != text or text[-1] not in ".?"
        ]
        assert unfinished == []


# Where hints are otherwise: fewer; the first tells, or asks and then tells; the last is without code.
FEWER_HINTS = {"00.cache_activation", "00.zero_head"}
TELLS_FIRST = {
    "00.cache_activation",
    "00.no_op_control",
    "03.rank",
    "03.ridge",
    "03.marginal_bias",
    "05.offsets",
    "05.in_context_score",
    "05.random_control",
}
ASKS_AND_TELLS = {"00.predict_shape", "02.mmcs", "02.fvu", "03.lens_by_hand", "03.never_worse"}
NO_CODE_LAST = {"00.predict_shape", "00.no_op_control", "00.find_the_bug", "06.roles"}


def test_an_exercise_has_three_hints_the_first_a_question_and_the_last_with_code():
    hints = {name: exercise.hints for name, exercise in grading.EXERCISES.items()}
    assert {name for name, given in hints.items() if len(given) != 3} == FEWER_HINTS
    assert {name for name, given in hints.items() if "?" not in given[0]} == TELLS_FIRST
    assert {
        name for name, given in hints.items() if not given[0].endswith("?")
    } == TELLS_FIRST | ASKS_AND_TELLS
    assert {name for name, given in hints.items() if "`" not in given[-1]} == NO_CODE_LAST


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
    monkeypatch.setitem(cases("00").RIGHT, "00.earlier", {})
    assert list(uncovered("00")) == [
        "00.earlier: there is no such exercise",
        f"{first.id}: no answer makes the mistake 'new'",
        "00.later: fewer than two right answers",
        "00.later: no answer makes the mistake 'only'",
    ]
    assert list(uncovered("95")) == ["tests/exercises/test_exercises_nb95.py is missing"]
