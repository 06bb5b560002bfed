"""The frame of the exercises: what is open, what is said, what is remembered, whose fault an error is."""

import ast
import functools
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

import mi_utils.grading
from mi_utils import config, grading
from mi_utils.grading import core, store
from mi_utils.grading.core import STOPPED, Exercise, ExerciseError, Mistake, Verdict, is_unsolved


@pytest.fixture(autouse=True)
def progress_file(monkeypatch, tmp_path) -> Path:
    monkeypatch.delenv("MI_GRADING", raising=False)
    monkeypatch.setenv("MI_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


def judge_double(answer, *, of=3):
    """Fails with an error of its own where it is given a string."""
    got = answer(of)
    if got == of:
        raise Mistake("unchanged")
    if got != of + of:
        raise Mistake("wrong", f"Twice {of} is {2 * of}, not {got}.")
    if isinstance(of, str):
        len(1)


def an_exercise(**changed) -> Exercise:
    told = {"unchanged": "That is <the> number itself.", "wrong": "Not twice the number."}
    return Exercise(
        **{
            "id": "99.double",
            "title": "Double <it>",
            "minutes": 3,
            "difficulty": 1,
            "hints": ("Add.",),
            "mistakes": told,
            "judge": judge_double,
        }
        | changed
    )


@pytest.fixture
def double(monkeypatch) -> Exercise:
    """An exercise ``99.double`` beside the real ones."""
    monkeypatch.setitem(core.EXERCISES._loaded, "99", {"99.double": an_exercise()})
    return core.EXERCISES["99.double"]


# ------------------------------------------------------------------ solved or not


def only_dots(x): ...


def docstring_only(x):
    """Twice x."""


def docstring_and_dots(x):
    """Twice x."""
    ...  # your code here


def docstring_and_pass(x):
    """Twice x."""
    # your code here
    pass


def dots_in_a_context(x):
    with open(os.devnull):
        ...  # your code here


def a_value_is_missing(x):
    twice = ...  # your code here
    return twice


def returns_dots(x: int) -> int:
    x: int = x + 0
    return ...


@functools.lru_cache
def not_a_function_type(x):
    return 2 * x


def plain(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args)

    return call


STUBS = [
    only_dots,
    docstring_only,
    docstring_and_dots,
    docstring_and_pass,
    dots_in_a_context,
    a_value_is_missing,
]
STUBS += [returns_dots, plain(docstring_and_dots)]
GAPS = [
    ...,
    None,
    {"q": ...},
    {"q": (2, ...), "k": (1,)},
    (..., 1),
    [1, ...],
    [[1], [...]],
    {"a": {"b": ...}},
]


@pytest.mark.parametrize("answer", GAPS + STUBS, ids=lambda answer: getattr(answer, "__name__", repr(answer)))
def test_what_is_still_a_stub_is_not_solved(answer):
    assert is_unsolved(answer)


def one_line(x):
    return 2 * x


def dots_left_above_an_answer(x):
    """Twice x."""
    ...  # your code here
    return 2 * x


def uses_dots(x):
    x = x if isinstance(x, int) else x[..., 0]
    return x + x


def returns_nothing(x):
    return


class Answer:
    def __call__(self, x): ...


class Uncomparable:
    def __eq__(self, other):
        raise AssertionError("compared")


SOLVED = [
    one_line,
    dots_left_above_an_answer,
    uses_dots,
    returns_nothing,
    lambda x: x,
    lambda x: ...,
    len,
    Answer,
]
SOLVED += [
    Answer(),
    Uncomparable(),
    not_a_function_type,
    functools.partial(one_line),
    0,
    "",
    "...",
    (),
    [],
    {},
    False,
]


@pytest.mark.parametrize(
    "answer", SOLVED, ids=lambda answer: getattr(answer, "__name__", type(answer).__name__)
)
def test_anything_else_is_an_answer(answer):
    assert not is_unsolved(answer)


def test_a_function_without_source_is_judged_by_what_it_does():
    names = {}
    exec("def typed(x):\n    ...", names)
    with pytest.raises(OSError, match="source"):
        inspect.getsource(names["typed"])
    assert not is_unsolved(names["typed"])


@pytest.mark.parametrize("answer", [..., docstring_and_dots])
def test_an_open_exercise_is_not_yet(double, answer, progress_file):
    verdict = grading.check("99.double", answer)
    assert (verdict.status, verdict.mistake) == ("not yet", "")
    assert (
        repr(verdict) == "Double <it>: not yet. Write your answer in the cell above and run both cells again."
    )
    assert not progress_file.exists()


def bare_not_implemented(x):
    raise NotImplementedError


def says_not_implemented(x):
    raise NotImplementedError("your code here")


def helped_by_an_open_function(x):
    return says_not_implemented(x)


@pytest.mark.parametrize("answer", [bare_not_implemented, says_not_implemented, helped_by_an_open_function])
def test_not_implemented_is_not_yet(double, answer):
    assert grading.check("99.double", answer).status == "not yet"


def test_an_operation_that_torch_has_not_implemented_is_no_open_exercise(double):
    import torch

    verdict = grading.check("99.double", lambda x: torch.zeros(2, dtype=torch.complex64).floor())
    assert (verdict.status, verdict.mistake) == ("mistake", STOPPED)
    assert "NotImplementedError" in verdict.text


# ------------------------------------------------------------------ verdicts


def test_a_right_answer_passes(double):
    verdict = grading.check("99.double", one_line)
    assert verdict == Verdict("Double <it>", "passed", "")
    assert repr(verdict) == "Double <it>: passed"


def test_context_reaches_the_check(double):
    assert grading.check("99.double", lambda x: 6).status == "passed"
    assert grading.check("99.double", lambda x: 6, of=4).mistake == "wrong"


def test_a_mistake_says_what_it_is_and_what_was_seen(double):
    verdict = grading.check("99.double", lambda x: x * x)
    assert (verdict.status, verdict.mistake) == ("mistake", "wrong")
    assert repr(verdict) == "Double <it>: mistake. Not twice the number. Twice 3 is 6, not 9."
    assert grading.check("99.double", lambda x: x).text == "That is <the> number itself."


@pytest.mark.parametrize(
    ("answer", "mark", "text"),
    [
        (one_line, "✓ Double &lt;it&gt;: passed", None),
        (..., "… Double &lt;it&gt;: not yet", "Write your answer"),
        (lambda x: x, "✗ Double &lt;it&gt;: mistake", "That is &lt;the&gt; number itself."),
        (lambda x: "<b>&", "✗ Double &lt;it&gt;: mistake", "not &lt;b&gt;&amp;."),
        (lambda x: {}["<b>"], "✗ Double &lt;it&gt;: mistake", "KeyError: &#39;&lt;b&gt;&#39;"),
    ],
)
def test_a_verdict_in_a_page_is_escaped(double, answer, mark, text):
    shown = grading.check("99.double", answer)._repr_html_()
    assert mark in shown
    assert text is None or text in shown
    assert not any(bad in shown for bad in ("<it>", "<the>", "<b>&", "'<b>'"))
    assert ("<br>" in shown) == (text is not None)


@pytest.mark.parametrize("answer", [..., lambda x: x, lambda x: x / 0, 6])
def test_strict_grading_makes_anything_but_passed_an_error(double, answer, monkeypatch, progress_file):
    said = repr(grading.check("99.double", answer))
    monkeypatch.setenv("MI_GRADING", "strict")
    with pytest.raises(ExerciseError) as caught:
        grading.check("99.double", answer)
    assert str(caught.value) == said
    assert not progress_file.exists()


def test_strict_grading_lets_a_right_answer_pass(double, monkeypatch):
    monkeypatch.setenv("MI_GRADING", "strict")
    assert grading.check("99.double", one_line).status == "passed"


def test_a_misspelt_strictness_is_an_error_even_for_a_right_answer(double, monkeypatch):
    monkeypatch.setenv("MI_GRADING", "Strict")
    with pytest.raises(ValueError, match="MI_GRADING is 'Strict'; it should be 'strict' or not set"):
        grading.check("99.double", one_line)


@pytest.mark.parametrize(("set_to", "strict"), [(None, False), ("", False), ("strict", True)])
def test_strictness_is_off_unless_asked_for(monkeypatch, set_to, strict):
    if set_to is not None:
        monkeypatch.setenv("MI_GRADING", set_to)
    assert config.strict_grading() is strict


# ------------------------------------------------------------------ whose fault an error is


LEARNERS = {"__name__": "a_notebook"}  # a class knows its module: not this one, where the check is
exec(
    """
class Doubler:
    factor = 2
    def __call__(self, x):
        return self.factor * x
    def misspelt(self, x):
        return self.factro * x
class Misspelt(Doubler):
    __call__ = Doubler.misspelt
""",
    LEARNERS,
)
Doubler, Misspelt = LEARNERS["Doubler"], LEARNERS["Misspelt"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: undefined * x,  # noqa: F821
        lambda: 6,
        lambda x, y: 6,
        lambda *, x: 6,
        lambda x: one_line(x, 2),
        functools.partial(one_line, 1),
        functools.partial(lambda y, x: x / 0, 1),
        plain(lambda x: x / 0),
        Misspelt(),
        Doubler().misspelt,
    ],
)
def test_an_error_in_the_learners_code_is_a_mistake(double, answer):
    verdict = grading.check("99.double", answer)
    assert (verdict.status, verdict.mistake) == ("mistake", STOPPED)
    assert verdict.text.startswith("Your code stopped with ")
    assert "Error: " in verdict.text


def divides(x):
    """Twice x."""
    half = x / 0
    return 4 * half


def divides_in_a_helper(x):
    return 4 * divides(x)


def divides_inside(x):
    def inner(y):
        return y / 0

    return sum(inner(y) for y in [x, x])


def divides_in_a_long_line(x):
    return sum(
        [
            x,
            x / 0,
        ]
    )


class Divider:
    def __call__(self, x):
        return x / 0

    def method(self, x):
        return 2 * (x / 0)


BY_ZERO = "Your code stopped with ZeroDivisionError: division by zero. In the line: "


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (divides, "half = x / 0"),
        (plain(divides), "half = x / 0"),
        (plain(functools.partial(plain(divides))), "half = x / 0"),
        (functools.partial(lambda y, x: x / 0, 1), "(functools.partial(lambda y, x: x / 0, 1),"),
        (divides_in_a_helper, "return 4 * divides(x)"),
        (divides_inside, "return y / 0"),
        (divides_in_a_long_line, "x / 0,"),
        (Divider().method, "return 2 * (x / 0)"),
    ],
)
def test_an_error_of_the_learner_is_told_with_its_message_and_line(double, answer, line):
    assert grading.check("99.double", answer).text.startswith(BY_ZERO + line)


def test_an_error_without_a_line_of_the_learner_is_told_with_its_message_alone(double):
    assert grading.check("99.double", lambda: 6).text.endswith("takes 0 positional arguments but 1 was given")
    assert "the line" not in grading.check("99.double", Misspelt()).text  # its source is nowhere
    assert (
        grading.check("99.double", len).text
        == "Your code stopped with TypeError: object of type 'int' has no len()"
    )


def test_the_line_of_an_object_that_is_called():
    with pytest.raises(ZeroDivisionError) as raised:
        Divider()(1)
    assert core.line_of_learner(raised.value, Divider()) == "return x / 0"
    assert core.line_of_learner(raised.value, divides) == ""


def test_an_error_without_a_message_and_one_with_a_full_stop_read_well(double):
    text = grading.check("99.double", raises_plainly).text
    assert text == "Your code stopped with ValueError. In the line: raise ValueError"
    text = grading.check("99.double", raises_a_sentence).text
    assert text.startswith("Your code stopped with ValueError: Too small. In the line: raise")


def raises_plainly(x):
    raise ValueError


def raises_a_sentence(x):
    raise ValueError("Too small.")


def test_an_error_of_the_check_itself_is_not_put_on_the_learner(double, progress_file):
    for answer in (lambda x: 2 * x, Doubler(), functools.partial(lambda y, x: 2 * x, 0)):
        with pytest.raises(TypeError, match="has no len"):
            grading.check("99.double", answer, of="ab")
    assert not progress_file.exists()


def test_a_check_that_says_not_implemented_is_at_fault_itself(monkeypatch):
    def judge(answer):
        raise NotImplementedError

    monkeypatch.setitem(core.EXERCISES._loaded, "99", {"99.double": an_exercise(judge=judge)})
    with pytest.raises(NotImplementedError):
        grading.check("99.double", one_line)


def test_a_check_that_names_an_undeclared_mistake_is_at_fault_itself(monkeypatch):
    monkeypatch.setitem(core.EXERCISES._loaded, "99", {"99.double": an_exercise(mistakes={"wrong": "No."})})
    with pytest.raises(KeyError, match="unchanged"):
        grading.check("99.double", lambda x: x)


def test_a_mistake_seen_while_the_learners_code_runs_is_told_by_its_name(monkeypatch):
    def handed_over():
        raise Mistake("wrong", "Do not call this.")

    monkeypatch.setitem(
        core.EXERCISES._loaded, "99", {"99.double": an_exercise(judge=lambda answer: answer(handed_over))}
    )
    assert grading.check("99.double", lambda x: x()).mistake == "wrong"


@pytest.mark.parametrize("answer", [6, "x -> 2x", {"x": 6}])
def test_a_value_where_a_function_is_asked_for_is_a_mistake(double, answer):
    verdict = grading.check("99.double", answer)
    assert (verdict.status, verdict.mistake) == ("mistake", STOPPED)
    assert (
        verdict.text
        == f"The check needs your function itself, without calling it; it got a {type(answer).__name__}."
    )


def test_a_value_is_looked_at_where_one_is_asked_for(monkeypatch):
    def judge(answer):
        if answer != 6:
            raise Mistake("wrong")

    asked = an_exercise(judge=judge, asks_for="value")
    monkeypatch.setitem(core.EXERCISES._loaded, "99", {"99.double": asked})
    assert [grading.check("99.double", answer).status for answer in (6, 7)] == ["passed", "mistake"]


# ------------------------------------------------------------------ the registry


def test_an_unknown_exercise_names_those_there_are(double):
    with pytest.raises(ValueError, match=r"exercise_id is '99\.dobule'; there are: 99\.double$"):
        grading.exercise("99.dobule")
    with pytest.raises(
        ValueError, match=r"exercise_id is '98\.double'; there are: none in that notebook \(an id is like"
    ):
        grading.check("98.double", one_line)
    with pytest.raises(ValueError, match="none in that notebook"):
        grading.exercise("double")


def test_the_registry_is_a_mapping_of_all_exercises(double):
    assert grading.exercise("99.double") is double
    assert "99.double" in grading.EXERCISES and "99.other" not in grading.EXERCISES
    assert list(grading.EXERCISES)[-1] == "99.double"
    assert len(grading.EXERCISES) == len(list(grading.EXERCISES)) > 1
    assert all(name == one.id for name, one in grading.EXERCISES.items())


def test_a_notebooks_checks_are_loaded_when_they_are_first_asked_for():
    code = """
import sys
from mi_utils import grading
assert not [name for name in sys.modules if name.startswith(("mi_utils.grading.nb", "torch"))]
grading.exercise("00.zero_head")
loaded = {name.split(".")[2] for name in sys.modules if name.startswith("mi_utils.grading.nb")}
assert loaded == {"nb00"}, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_of_checks_that_lacks_a_library_is_an_error_of_its_own(monkeypatch, tmp_path):
    (tmp_path / "nb97.py").write_text("import a_library_nobody_has")
    monkeypatch.setattr(mi_utils.grading, "__path__", [*mi_utils.grading.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="a_library_nobody_has"):
        grading.exercise("97.anything")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"difficulty": 0}, "difficulty of 99.double is 0; it should be from 1 to 5"),
        ({"difficulty": 6}, "difficulty of 99.double is 6"),
        ({"mistakes": {}}, "99.double names no mistakes"),
        ({"mistakes": {STOPPED: "It stopped."}}, "99.double names a mistake 'error'"),
    ],
)
def test_a_bad_description_is_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        an_exercise(**changed)


@pytest.mark.parametrize("difficulty", [1, 5])
def test_the_ends_of_the_scale_of_difficulty_belong_to_it(difficulty):
    assert an_exercise(difficulty=difficulty).difficulty == difficulty


# ------------------------------------------------------------------ every mistake a check raises is declared


class Source:
    """A module of checks as it is written: which mistakes can be raised from a judge, by their names."""

    def __init__(self, file: Path) -> None:
        kinds = ast.FunctionDef | ast.ClassDef
        self.defined = {
            node.name: node for node in ast.parse(file.read_text()).body if isinstance(node, kinds)
        }

    def mistakes(self, judge: str) -> set[str]:
        return {name for one in self._reached(judge) for name in self._made_in(self.defined[one])}

    def _reached(self, start: str) -> set[str]:
        reached, open_ = set(), {start}
        while open_:
            one = open_.pop()
            reached.add(one)
            named = {node.id for node in ast.walk(self.defined[one]) if isinstance(node, ast.Name)}
            open_ |= (named & self.defined.keys()) - reached
        return reached

    def _made_in(self, scope: ast.AST) -> Iterator[str]:
        for call in ast.walk(scope):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "Mistake":
                name = call.args[0]
                loops = (one for one in ast.walk(scope) if isinstance(one, ast.For | ast.comprehension))
                looped = [loop.iter for loop in loops if _first(loop) == _id(name)]
                yield from (one for values in looped for one in self._values(values, scope))
                yield from [] if looped else _literals(name)
            elif isinstance(call, ast.Call) and ast.unparse(call.func) == "compare":
                yield from ("shape", "something_else")  # what `answers.compare` says where nothing fits
                yield from (one for values in call.args[2:] for one in self._values(values, scope))
            elif isinstance(call, ast.Call) and ast.unparse(call.func) == "expect":
                yield from ("shape", "something_else", "in_place")
                yield from (one for values in call.args[3:] for one in self._values(values, scope))
            elif isinstance(call, ast.Call) and ast.unparse(call.func) == "judge_randomness":
                yield from ("global_generator", "same_again", "not_reproducible")

    def _values(self, node: ast.AST, scope: ast.AST) -> Iterator[str]:
        """The first of each pair that a loop runs over."""
        match node:
            case ast.Dict(keys=keys):
                yield from (name for key in keys for name in _literals(key))
            case ast.List(elts=pairs) | ast.Tuple(elts=pairs):
                more = [pair.value for pair in pairs if isinstance(pair, ast.Starred)]
                yield from (name for values in more for name in self._values(values, scope))
                yield from (
                    name for pair in pairs if isinstance(pair, ast.Tuple) for name in _literals(pair.elts[0])
                )
            case ast.ListComp(elt=pair, generators=loops) | ast.GeneratorExp(elt=pair, generators=loops):
                handed_on = [loop.iter for loop in loops if _id(pair.elts[0]) == _first(loop)]
                yield from (name for values in handed_on for name in self._values(values, scope))
                yield from [] if handed_on else _literals(pair.elts[0])
            case ast.BinOp(left=one, right=other) | ast.IfExp(body=one, orelse=other):
                yield from (name for part in (one, other) for name in self._values(part, scope))
            case ast.Call(func=ast.Attribute(value=inner, attr="items")):
                yield from self._values(inner, scope)
            case ast.Call(func=ast.Name(id=helper)) if helper in self.defined:
                returns = [one for one in ast.walk(self.defined[helper]) if isinstance(one, ast.Return)]
                yield from (name for one in returns for name in self._values(one.value, self.defined[helper]))
                yielded = [one for one in ast.walk(self.defined[helper]) if isinstance(one, ast.Yield)]
                yield from (name for one in yielded for name in _constants(one.value.elts[0]))
                passed = [one for one in ast.walk(self.defined[helper]) if isinstance(one, ast.YieldFrom)]
                yield from (name for one in passed for name in self._values(one.value, self.defined[helper]))
            case ast.Name(id=wanted):
                set_here = [one for one in ast.walk(scope) if isinstance(one, ast.Assign | ast.AugAssign)]
                values = [
                    one.value
                    for one in set_here
                    if wanted in map(_id, getattr(one, "targets", [_target(one)]))
                ]
                yield from (name for value in values for name in self._values(value, scope))
            case _:
                raise AssertionError(f"line {node.lineno}: mistakes should be named where they are raised")


def _target(node: ast.AST) -> ast.AST | None:
    return getattr(node, "target", None)


def _id(node: ast.AST | None) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def _first(loop: ast.For | ast.comprehension) -> str:
    return _id(loop.target.elts[0] if isinstance(loop.target, ast.Tuple) else loop.target) or "no name"


def _literals(node: ast.AST) -> list[str]:
    if isinstance(node, ast.IfExp):
        return _literals(node.body) + _literals(node.orelse)
    assert isinstance(node, ast.Constant), f"line {node.lineno}: a mistake should be named where it is raised"
    return [node.value]


def _constants(node: ast.AST) -> list[str]:
    """Names in what a generator yields, which may also hand on one that it got."""
    return [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]


# Without 01, whose checks hand names from function to function: for it only tests/exercises, with each.
FOLDERS = sorted(Path(mi_utils.grading.__file__).parent.glob("nb[0-9][0-9]"))
NUMBERS = [folder.name[2:] for folder in FOLDERS if folder.name != "nb01"]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_check_raises_the_mistakes_that_its_exercise_declares(number):
    for name, exercise in core.EXERCISES.notebook(number).items():
        # That every declared mistake is raised is shown with wrong answers, in tests/exercises.
        # Here, that none is raised that was never declared.
        source = Source(Path(sys.modules[exercise.judge.__module__].__file__))
        found = source.mistakes(exercise.judge.__name__)
        assert found and found <= set(exercise.mistakes), name


def test_the_mistakes_of_a_check_are_found_however_they_are_raised(tmp_path):
    file = tmp_path / "nb96.py"
    file.write_text(
        "def _judge(answer):\n"
        "    named = {'a': 1}\n"
        "    named |= {'b': 2} if answer else {}\n"
        "    for name, _ in (named | {'c': 3}).items():\n"
        "        raise Mistake(name)\n"
        "    for name, _ in _more():\n"
        "        raise Mistake(name)\n"
        "    _Helper()\n"
        "def _more():\n"
        "    return [('d', 1), ('e', 2)]\n"
        "class _Helper:\n"
        "    def check(self):\n"
        "        raise Mistake('f' if self else 'g', 'detail')\n"
        "def _of_another_exercise():\n"
        "    raise Mistake('h')\n"
    )
    assert Source(file).mistakes("_judge") == set("abcdefg")
    file.write_text("def _judge(answer):\n    raise Mistake(answer.name)\n")
    with pytest.raises(AssertionError, match="line 2: a mistake should be named"):
        Source(file).mistakes("_judge")


# ------------------------------------------------------------------ progress


def test_a_solved_exercise_is_remembered_once(double, progress_file):
    for _ in range(2):
        grading.check("99.double", one_line)
    assert json.loads(progress_file.read_text()) == {"solved": ["99.double"]}
    assert sorted(path.name for path in progress_file.parent.iterdir() if path.suffix != ".lock") == [
        "progress.json"
    ]


def test_what_was_solved_stays_solved(double):
    store.remember("00.zero_head")
    grading.check("99.double", one_line)
    grading.check("99.double", lambda x: x)
    assert store.solved() == {"00.zero_head", "99.double"}


def test_progress_shows_solved_and_open_exercises(double):
    store.remember("99.double")
    store.remember("98.of_an_older_edition")
    assert repr(grading.progress("99")) == "1 of 1 exercises solved\n✓ 99.double  Double <it> (3 min)"
    assert "<pre>1 of 1" in grading.progress("99")._repr_html_()
    assert "Double &lt;it&gt;" in grading.progress("99")._repr_html_()
    lines = repr(grading.progress()).splitlines()
    assert lines[0] == f"1 of {len(grading.EXERCISES)} exercises solved"
    assert sum(line.startswith("·") for line in lines) == len(grading.EXERCISES) - 1


@pytest.mark.parametrize("notebook", ["98", "0", "00.zero_head", ""])
def test_progress_of_a_notebook_without_exercises_names_those_that_have_some(double, notebook):
    with pytest.raises(
        ValueError, match=rf"^notebook is {notebook!r}; notebooks with exercises are: 00, .*99$"
    ):
        grading.progress(notebook)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"solved": 3}', b'{"done": []}', b"null", b"\xff\xfe", b'"solved"']
)
def test_a_damaged_file_counts_as_none_and_is_replaced(double, progress_file, content):
    progress_file.write_bytes(content)
    assert store.solved() == set()
    grading.check("99.double", one_line)
    assert store.solved() == {"99.double"}


def test_strangers_in_the_file_are_left_out(progress_file):
    progress_file.write_text('{"solved": ["00.zero_head", 3, null]}')
    assert store.solved() == {"00.zero_head"}


@pytest.mark.parametrize("blocked_by", ["a file for a folder", "a folder for the file"])
def test_a_file_that_cannot_be_written_does_not_stand_in_the_way(double, monkeypatch, tmp_path, blocked_by):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    place = (
        tmp_path / "file" / "progress.json" if blocked_by == "a file for a folder" else tmp_path / "folder"
    )
    monkeypatch.setenv("MI_PROGRESS", str(place))
    assert grading.check("99.double", one_line).status == "passed"
    assert store.solved() == set()
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == ["file", "folder"]


def test_a_lock_that_somebody_holds_does_not_stand_in_the_way(double, monkeypatch, progress_file):
    monkeypatch.setattr(store, "PATIENCE", 0.1)
    started = time.monotonic()
    with FileLock(f"{progress_file}.lock"):
        assert grading.check("99.double", one_line).status == "passed"
    assert time.monotonic() - started < 5
    assert store.solved() == set()


def test_the_file_is_where_the_variable_says_else_in_the_cache(monkeypatch, tmp_path):
    assert store.path() == tmp_path / "progress.json"
    monkeypatch.setenv("MI_PROGRESS", "~/p.json")
    assert store.path() == Path.home() / "p.json"
    monkeypatch.delenv("MI_PROGRESS")
    monkeypatch.setenv("MI_CACHE", str(tmp_path / "cache"))
    assert store.path() == tmp_path / "cache" / "progress.json"
    store.remember("00.zero_head")
    assert store.solved() == {"00.zero_head"}


def test_two_processes_lose_nothing_of_each_other():
    code = """
import sys
from mi_utils.grading import store
for i in range(40):
    store.remember(f"{sys.argv[1]}.{i}")
"""
    runs = [subprocess.Popen([sys.executable, "-c", code, number]) for number in ("01", "02")]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert store.solved() == {f"{number}.{i}" for number in ("01", "02") for i in range(40)}
