"""The frame of every exercise: description, check, verdict."""

import ast
import functools
import importlib
import inspect
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, Literal

import jinja2

from mi_utils import config
from mi_utils.grading import store

_VERDICT = jinja2.Template(
    '<div style="border-left:4px solid {{ colour }};padding:.3em .8em;white-space:pre-wrap">'
    "<b>{{ mark }} {{ verdict.title }}: {{ verdict.status }}</b>"
    "{% if verdict.text %}<br>{{ verdict.text }}{% endif %}</div>",
    autoescape=True,
)
STOPPED = "error"  # the mistake of every exercise: the learner's own code stopped with an exception


class ExerciseError(AssertionError):
    """Strict grading: an exercise that is not solved."""


class Mistake(Exception):
    """Raised by a check: the answer makes a mistake that has a name.

    ``name`` is one of the exercise's ``mistakes``; ``detail`` adds what was seen in this answer.
    """

    def __init__(self, name: str, detail: str = ""):
        super().__init__(name, detail)
        self.name, self.detail = name, detail


@dataclass(frozen=True)
class Exercise:
    """What is asked, and the check.

    ``id`` is notebook and name (``"00.zero_head"``); ``minutes`` a person needs; ``difficulty`` from 1 to 5;
    ``hints`` in the order in which they should be opened; ``mistakes`` maps a mistake's name to what is said
    about it; ``judge(answer, **context)`` returns quietly or raises ``Mistake``; ``asks_for`` is
    ``"function"`` where the judge calls the answer, ``"value"`` where it looks at it.

    Raises:
        ValueError: a difficulty out of range, no mistakes, or one called ``"error"``.
    """

    id: str
    title: str
    minutes: int
    difficulty: int
    hints: tuple[str, ...]
    mistakes: Mapping[str, str]
    judge: Callable[..., None]
    asks_for: Literal["function", "value"] = "function"

    def __post_init__(self) -> None:
        if not 1 <= self.difficulty <= 5:
            raise ValueError(f"difficulty of {self.id} is {self.difficulty}; it should be from 1 to 5")
        if not self.mistakes:
            raise ValueError(f"{self.id} names no mistakes; list the likely ones first")
        if STOPPED in self.mistakes:
            raise ValueError(f"{self.id} names a mistake {STOPPED!r}, which is kept for code that stops")


class _Registry(Mapping[str, Exercise]):
    """All exercises by id; those of notebook NN are in ``mi_utils.grading.nbNN``, loaded on first use."""

    def __init__(self) -> None:
        self._loaded: dict[str, dict[str, Exercise]] = {}

    def notebook(self, number: str) -> dict[str, Exercise]:
        if number not in self._loaded:
            try:
                module = importlib.import_module(f"mi_utils.grading.nb{number}")
            except ModuleNotFoundError as error:
                if error.name != f"mi_utils.grading.nb{number}":
                    raise
                return {}
            self._loaded[number] = {exercise.id: exercise for exercise in module.EXERCISES}
        return self._loaded[number]

    def __getitem__(self, exercise_id: str) -> Exercise:
        return self.notebook(exercise_id.partition(".")[0])[exercise_id]

    def __iter__(self) -> Iterator[str]:
        for number in range(100):
            yield from self.notebook(f"{number:02d}")

    def __len__(self) -> int:
        return sum(1 for _ in self)


EXERCISES = _Registry()


def exercise(exercise_id: str) -> Exercise:
    """The exercise of that id.

    Raises:
        ValueError: there is none; the message lists those of the same notebook.
    """
    try:
        return EXERCISES[exercise_id]
    except KeyError:
        number = exercise_id.partition(".")[0]
        there = ", ".join(EXERCISES.notebook(number)) or "none in that notebook (an id is like '06.abc')"
        raise ValueError(f"exercise_id is {exercise_id!r}; there are: {there}") from None


def where(exercise_id: str) -> str:
    """The file and the line in which the check of an exercise begins: ``".../grading/nb06/paths.py:17"``.

    Raises:
        ValueError: no such exercise.
    """
    judge = inspect.unwrap(exercise(exercise_id).judge)
    return f"{inspect.getsourcefile(judge)}:{inspect.getsourcelines(judge)[1]}"


@dataclass(frozen=True)
class Verdict:
    """What a check says. ``status`` is ``passed``, ``not yet`` or ``mistake``; ``mistake`` is its name."""

    title: str
    status: Literal["passed", "not yet", "mistake"]
    text: str
    mistake: str = ""

    def __repr__(self) -> str:
        return f"{self.title}: {self.status}" + (f". {self.text}" if self.text else "")

    def _repr_html_(self) -> str:
        marks = {"passed": ("✓", "#00795a"), "not yet": ("…", "#6b6b6b"), "mistake": ("✗", "#b34700")}
        mark, colour = marks[self.status]
        return _VERDICT.render(verdict=self, mark=mark, colour=colour)


def check(exercise_id: str, answer: Any, **context: Any) -> Verdict:
    """Judge an answer and remember it if it passed: in the file of progress, and for ``grading.answer``.

    Args:
        exercise_id: ``"NN.name"``.
        answer: the learner's function or value.
        context: what the check needs besides, by name (the model, tokens, ...).

    Raises:
        ValueError: no such exercise, or ``MI_GRADING`` is neither ``strict`` nor empty.
        ExerciseError: strict grading, and the verdict is not *passed*.
    """
    asked, strict = exercise(exercise_id), config.strict_grading()
    verdict = _judge(asked, answer, context)
    if verdict.status == "passed":
        _PASSED[exercise_id] = answer
        store.remember(exercise_id)
        return verdict
    if has_passed(exercise_id, answer):  # with another context, or before a helper of it was changed
        del _PASSED[exercise_id]
    if strict:
        raise ExerciseError(repr(verdict))
    return verdict


_PASSED: dict[str, Any] = {}  # in this process, by exercise id: the last answer that passed
_ANY = object()


def has_passed(exercise_id: str, answer: Any = _ANY) -> bool:
    """Whether this very answer (by default: any) passed the last check of it in this process."""
    if exercise_id not in _PASSED:
        return False
    return answer is _ANY or _PASSED[exercise_id] is answer


_NOT_YET = "Write your answer in the cell above and run both cells again."


class Stopped(Exception):
    """The learner's code raised ``__cause__``; a judge may catch this to say more about it."""


def _judge(asked: Exercise, answer: Any, context: dict[str, Any]) -> Verdict:
    if is_unsolved(answer):
        return Verdict(asked.title, "not yet", _NOT_YET)
    if asked.asks_for == "function" and not callable(answer):
        seen = f"The check needs your function itself, without calling it; it got a {type(answer).__name__}."
        return Verdict(asked.title, "mistake", seen, STOPPED)
    try:
        asked.judge(_guarded(answer), **context)
    except Mistake as mistake:
        text = asked.mistakes[mistake.name]
        return Verdict(asked.title, "mistake", f"{text} {mistake.detail}".strip(), mistake.name)
    except Stopped as stopped:
        return _stopped(asked, stopped.__cause__, answer)
    except Exception as error:
        if not _is_learners(error, answer):
            raise
        return _stopped(asked, error, answer)
    return Verdict(asked.title, "passed", "")


def _stopped(asked: Exercise, error: BaseException, answer: Any) -> Verdict:
    """What is said of an exception in the learner's code: a mistake, unless it says *not written yet*."""
    # Torch raises NotImplementedError too ("... not implemented for 'Bool'"), but never by a Python `raise`.
    line = traceback.extract_tb(error.__traceback__)[-1].line or ""
    if isinstance(error, NotImplementedError) and (not error.args or line.startswith("raise")):
        return Verdict(asked.title, "not yet", _NOT_YET)
    text = f"Your code stopped with {type(error).__name__}: {error}"
    if line := line_of_learner(error, answer):
        text = f"{text.rstrip(' .:')}. In the line: {line}"
    return Verdict(asked.title, "mistake", text, STOPPED)


def line_of_learner(error: BaseException, answer: Any) -> str:
    """The line of the learner's function, as deep as possible, in which the error arose; else ``""``."""
    own = set(_codes(answer))
    stack = zip(
        traceback.walk_tb(error.__traceback__), traceback.extract_tb(error.__traceback__), strict=True
    )
    lines = [told.line or "" for (frame, _), told in stack if frame.f_code in own]
    return lines[-1] if lines else ""


def _codes(answer: Any) -> Iterator[CodeType]:
    """The code of a function, however it is wrapped, or of an object that is called, and all code in it."""
    wraps = (getattr(answer, name, None) for name in ("func", "__func__", "__wrapped__"))
    inner = next(filter(callable, wraps), None)
    if inner is not None:
        yield from _codes(inner)
        return
    code = answer if isinstance(answer, CodeType) else getattr(answer, "__code__", None)
    code = code or getattr(type(answer).__call__, "__code__", None)
    if code is not None:
        yield code
        for one in code.co_consts:
            if isinstance(one, CodeType):
                yield from _codes(one)


def _guarded(answer: Any) -> Any:
    """A function whose exceptions, those of a call that doesn't fit its arguments too, are ``Stopped``."""
    if not (inspect.isroutine(answer) or isinstance(answer, functools.partial)):
        return answer

    @functools.wraps(answer)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return answer(*args, **kwargs)
        except (Mistake, Stopped):  # raised by what the check handed to the function
            raise
        except Exception as error:
            raise Stopped from error

    return call


def _is_learners(error: Exception, answer: Any) -> bool:
    """Whether the error went through the module where the answer's class was written.

    Else the check is at fault.
    """
    module = (answer if isinstance(answer, type) else type(answer)).__module__
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == module for frame in frames)


def is_unsolved(answer: Any) -> bool:
    """Whether it is still the stub: ``...``, ``None``, a container that holds ``...``, or a stub function."""
    return answer is None or _has_gap(answer) or (inspect.isfunction(answer) and _is_stub(answer))


def _has_gap(answer: Any) -> bool:
    if isinstance(answer, dict):
        return any(map(_has_gap, answer.values()))
    return answer is ... or (isinstance(answer, tuple | list) and any(map(_has_gap, answer)))


def _is_stub(function: Callable) -> bool:
    """Whether nothing but a docstring, ``pass`` and ``...`` is in it, or a value in it is still ``...``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False  # no source (typed at a prompt, say): judge it by what it does
    if not isinstance(tree.body[0], ast.FunctionDef):
        return False  # a lambda
    # `...  # your code here` left standing above an answer is no gap; `x = ...` and `return ...` are.
    return all(map(_is_blank, tree.body[0].body)) or any(map(_leaves_gap, ast.walk(tree.body[0])))


def _is_blank(node: ast.stmt) -> bool:
    if isinstance(node, ast.With):
        return all(map(_is_blank, node.body))
    literal = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Pass) or (
        literal and (node.value.value is ... or isinstance(node.value.value, str))
    )


def _leaves_gap(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign | ast.Return) else None
    return isinstance(value, ast.Constant) and value.value is ...
