"""The learner's own answer where it passed its check, so that a later cell can run it on the real model."""

from dataclasses import dataclass
from typing import Any

import jinja2

from mi_utils import config
from mi_utils.grading import core

_LINE = jinja2.Template('<div style="color:#6b6b6b">{{ text }}</div>', autoescape=True)


@dataclass(frozen=True)
class Instead:
    """What is shown where something else is used than the learner's own answer: one line."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return _LINE.render(text=self.text)


def answer(exercise_id: str, own: Any, *, otherwise: Any) -> Any:
    """The learner's own answer if it passed, else something that takes its place, so that *Run All* goes on.

    Own is used if the last check of this very object in this kernel said *passed*. One that was written anew
    since then has to be checked again. That a value, such as a dict, was changed in place is not noticed.
    Where own is used nothing is shown, else one line that says so, and why.

        path_patched = grading.answer("06.path_patch", path_patch, otherwise=patching.path_patch)

    Args:
        exercise_id: ``"NN.name"``.
        own: the learner's function or value, as it was given to the check.
        otherwise: what to use instead: for a function one that is called alike.

    Raises:
        ValueError: no such exercise; ``otherwise`` can't be called where the exercise asks for a function;
            or ``MI_GRADING`` is neither ``strict`` nor empty.
        ExerciseError: strict grading, and own has not passed. Else a run that is to test the worked solutions
            would test ``otherwise`` and say nothing.
    """
    asked, strict = core.exercise(exercise_id), config.strict_grading()
    if asked.asks_for == "function" and not callable(otherwise):
        raise ValueError(
            f"otherwise is {otherwise!r}; it should be a function, as {exercise_id} asks for one"
        )
    if core.has_passed(exercise_id, own):
        return own
    why = _why(exercise_id, own)
    if strict:
        raise core.ExerciseError(f"{asked.title}: {why}")
    _show(Instead(f"{exercise_id}: {why} {_named(otherwise)} is used instead."))
    return otherwise


def _why(exercise_id: str, own: Any) -> str:
    if core.is_unsolved(own):
        return "Not solved yet."
    if core.has_passed(exercise_id):
        return "Your answer is not the one that passed; run its check again."
    return "Your answer has not passed its check in this session."


def _named(otherwise: Any) -> str:
    """``circuits.path_patch`` of a function in ``mi_utils.circuits``: as a learner would write it."""
    name = getattr(otherwise, "__qualname__", None)
    if name is None or "<" in name:  # a value, a lambda, or a function within another
        return "What the notebook has ready"
    package, *inner = (getattr(otherwise, "__module__", None) or "").split(".")
    topic = f"{inner[0]}." if package == "mi_utils" and inner else ""
    return f"{topic}{name}"


def _show(note: Instead) -> None:
    from IPython.display import display  # here: `import mi_utils` loads no library

    display(note)
