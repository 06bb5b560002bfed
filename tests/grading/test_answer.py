"""Which of two is used after a check: the learner's own answer, or what the notebook has ready."""

import functools
import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mi_utils import grading
from mi_utils.grading import core, own
from mi_utils.grading.core import Exercise, ExerciseError, Mistake


def judge_double(answer, *, of=3):
    if answer(of) != 2 * of:
        raise Mistake("wrong")


def judge_six(answer):
    if answer != 6 and answer != [6]:
        raise Mistake("wrong")


def an_exercise(name: str, judge, asks_for: str) -> Exercise:
    return Exercise(
        f"99.{name}",
        name.title(),
        3,
        1,
        ("Add?",),
        {"wrong": "Not twice the number."},
        judge,
        asks_for=asks_for,
    )


@pytest.fixture(autouse=True)
def exercises(monkeypatch, tmp_path) -> None:
    """``99.double`` asks for a function and ``99.six`` for a value; nothing has passed, nothing is strict."""
    asked = [an_exercise("double", judge_double, "function"), an_exercise("six", judge_six, "value")]
    monkeypatch.setitem(core.EXERCISES._loaded, "99", {one.id: one for one in asked})
    monkeypatch.setattr(core, "_PASSED", {})
    monkeypatch.delenv("MI_GRADING", raising=False)
    monkeypatch.setenv("MI_PROGRESS", str(tmp_path / "progress.json"))


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """The lines that are shown."""
    lines = []
    monkeypatch.setattr(own, "_show", lambda note: lines.append(repr(note)))
    return lines


def double(x):
    return 2 * x


def written_anew(x):
    return x + x


def wrong(x):
    return x * x


def stub(x):
    """Twice x."""
    ...  # your code here


def of_the_package(x):
    return x * 2


NEVER = "99.double: Your answer has not passed its check in this session. of_the_package is used instead."
OPEN = "99.double: Not solved yet. of_the_package is used instead."
ANOTHER = (
    "99.double: Your answer is not the one that passed; run its check again. of_the_package is used instead."
)


def which(answer):
    return grading.answer("99.double", answer, otherwise=of_the_package)


def test_an_answer_that_passed_is_used_and_nothing_is_shown(shown):
    assert grading.check("99.double", double).status == "passed"
    assert which(double) is double
    assert which(double) is double  # a cell that is run again
    assert shown == []


@pytest.mark.parametrize("answer", [stub, ..., None], ids=["a stub", "an ellipsis", "nothing"])
def test_an_open_exercise_gives_what_is_ready_whether_it_was_checked_or_not(answer, shown):
    assert which(answer) is of_the_package
    grading.check("99.double", answer)
    assert which(answer) is of_the_package
    assert shown == [OPEN, OPEN]


@pytest.mark.parametrize("answer", [wrong, lambda x: x / 0, lambda: 6, 6])
def test_a_wrong_answer_is_not_used(answer, shown):
    grading.check("99.double", answer)
    assert which(answer) is of_the_package
    assert shown == [NEVER]


def test_a_right_answer_that_nobody_checked_is_not_used(shown):
    assert which(double) is of_the_package
    assert shown == [NEVER]


def test_one_that_passed_in_an_earlier_session_has_to_be_checked_again(shown, tmp_path):
    (tmp_path / "progress.json").write_text(json.dumps({"solved": ["99.double"]}))
    assert which(double) is of_the_package
    assert shown == [NEVER]


@pytest.mark.parametrize("later", [written_anew, wrong, functools.partial(double), lambda x: 2 * x])
def test_one_that_was_written_anew_since_has_to_be_checked_again(later, shown):
    grading.check("99.double", double)
    assert which(later) is of_the_package
    assert shown == [ANOTHER]
    if grading.check("99.double", later).status == "passed":
        assert which(later) is later
        assert which(double) is of_the_package  # no longer the one that the check saw last
    else:
        assert which(later) is of_the_package
        assert which(double) is double


def test_a_definition_that_is_run_again_is_another_function(shown):
    made = []
    for _ in range(2):
        names = {}
        exec("def double(x):\n    return 2 * x", names)
        made.append(names["double"])
    grading.check("99.double", made[0])
    assert which(made[0]) is made[0]
    assert which(made[1]) is of_the_package


def test_one_that_was_emptied_again_is_open(shown):
    grading.check("99.double", double)
    assert which(stub) is of_the_package
    assert shown == [OPEN]


def test_the_last_check_of_the_same_answer_counts(shown):
    factor = [2]

    def by_a_global(x):
        return factor[0] * x

    for value, right in ((2, True), (3, False), (2, True)):
        factor[0] = value
        assert (grading.check("99.double", by_a_global).status == "passed") == right
        assert (which(by_a_global) is by_a_global) == right


def test_a_wrong_check_of_another_answer_leaves_the_one_that_passed(shown):
    grading.check("99.double", double)
    grading.check("99.double", wrong)
    assert which(double) is double


def test_what_passed_in_one_exercise_has_not_passed_in_another(shown):
    six = [6]
    grading.check("99.six", six)
    assert grading.answer("99.six", six, otherwise=6) is six
    grading.check("99.double", double)
    assert grading.answer("99.six", double, otherwise=6) == 6


def test_a_value_counts_by_identity(shown):
    mine, alike = [6], [6]
    grading.check("99.six", mine)
    assert grading.answer("99.six", mine, otherwise=6) is mine
    assert grading.answer("99.six", alike, otherwise=6) == 6
    assert grading.answer("99.six", ..., otherwise=6) == 6
    assert grading.answer("99.six", {"a": ...}, otherwise=6) == 6
    again = "99.six: Your answer is not the one that passed; run its check again."
    assert shown[0] == f"{again} What the notebook has ready is used instead."
    assert len(shown) == 3 and all(line.startswith("99.six: Not solved yet.") for line in shown[1:])


class Uncomparable:
    def __eq__(self, other):
        raise AssertionError("compared")


def test_answers_are_not_compared_by_value(monkeypatch, shown):
    asked = an_exercise("any", lambda answer: None, "value")
    monkeypatch.setitem(core.EXERCISES._loaded, "99", {"99.any": asked})
    one, other = Uncomparable(), Uncomparable()
    grading.check("99.any", one)
    assert grading.answer("99.any", one, otherwise=None) is one
    assert grading.answer("99.any", other, otherwise=None) is None


# ------------------------------------------------------------------ strict grading


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (stub, "Not solved yet"),
        (..., "Not solved yet"),
        (wrong, "has not passed"),
        (double, "has not passed"),
    ],
)
def test_strict_grading_makes_anything_but_the_own_answer_an_error(answer, said, monkeypatch, shown):
    monkeypatch.setenv("MI_GRADING", "strict")
    with pytest.raises(ExerciseError, match=f"^Double: .*{said}"):
        which(answer)
    assert shown == []


def test_strict_grading_uses_what_passed_and_nothing_that_was_written_anew(monkeypatch, shown):
    monkeypatch.setenv("MI_GRADING", "strict")
    grading.check("99.double", double)
    assert which(double) is double
    with pytest.raises(ExerciseError, match="not the one that passed; run its check again"):
        which(written_anew)
    with pytest.raises(ExerciseError):
        grading.check("99.double", wrong)
    with pytest.raises(ExerciseError):
        which(wrong)
    assert which(double) is double


def test_an_answer_that_fails_strictly_later_has_not_passed_any_more(monkeypatch, shown):
    monkeypatch.setenv("MI_GRADING", "strict")
    grading.check("99.double", lambda_of_six := (lambda x: 6))
    with pytest.raises(ExerciseError):
        grading.check("99.double", lambda_of_six, of=4)
    with pytest.raises(ExerciseError, match="has not passed"):
        which(lambda_of_six)


# ------------------------------------------------------------------ what is asked for wrongly


def test_an_unknown_exercise_names_those_there_are():
    with pytest.raises(ValueError, match=r"exercise_id is '99\.dobule'; there are: 99\.double, 99\.six$"):
        grading.answer("99.dobule", double, otherwise=of_the_package)


def test_what_is_ready_has_to_be_a_function_where_one_is_asked_for():
    grading.check("99.double", double)
    with pytest.raises(
        ValueError, match=r"otherwise is 3; it should be a function, as 99\.double asks for one"
    ):
        grading.answer("99.double", double, otherwise=3)


def test_what_is_ready_has_to_be_named():
    with pytest.raises(TypeError, match="otherwise"):
        grading.answer("99.double", double)
    with pytest.raises(TypeError, match="positional"):
        grading.answer("99.double", double, of_the_package)


def test_a_misspelt_strictness_is_an_error(monkeypatch):
    grading.check("99.double", double)
    monkeypatch.setenv("MI_GRADING", "Strict")
    with pytest.raises(ValueError, match="MI_GRADING is 'Strict'"):
        which(double)


# ------------------------------------------------------------------ what is shown


@pytest.mark.parametrize(
    ("otherwise", "name"),
    [
        (grading.check, "grading.check"),
        (of_the_package, "of_the_package"),
        (lambda x: 2 * x, "What the notebook has ready"),
        (functools.partial(double), "What the notebook has ready"),
        (str.upper, "str.upper"),
    ],
)
def test_what_is_used_is_named_as_a_learner_would_write_it(otherwise, name, shown):
    grading.answer("99.double", ..., otherwise=otherwise)
    assert shown == [f"99.double: Not solved yet. {name} is used instead."]


def test_what_is_shown_is_one_line_escaped_in_a_page(capsys):
    which(stub)
    assert capsys.readouterr().out == f"{OPEN}\n"
    assert own.Instead("<b> & co")._repr_html_().count("&lt;b&gt; &amp; co") == 1


SOLVED, OPEN_CELL = (
    "def zero_head(z, hook):\n    z = z.clone()\n    z[:, :, 2] = 0\n    return z",
    "def zero_head(z, hook):\n    ...",
)


@pytest.mark.parametrize(("cell", "used"), [(SOLVED, "own"), (OPEN_CELL, "the package's")])
def test_run_all_reaches_the_end_in_a_kernel_and_says_what_is_used_if_not_the_own(cell, used, monkeypatch):
    """With a real kernel, where a function's source is that of its cell."""
    monkeypatch.setenv("PYTHONPATH", str(Path(grading.__file__).parents[2]))
    cells = [
        "from mi_utils import grading\ndef ready(z, hook):\n    return z",
        cell,
        "grading.check('00.zero_head', zero_head, head=2)",
        "chosen = grading.answer('00.zero_head', zero_head, otherwise=ready)",
        'print("own" if chosen is zero_head else "the package\'s")',
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(nb, timeout=120).execute()
    assert nb.cells[-1].outputs[0].text == f"{used}\n"
    notes = [output.data["text/plain"] for output in nb.cells[-2].outputs]
    assert notes == ([] if used == "own" else ["00.zero_head: Not solved yet. ready is used instead."])
