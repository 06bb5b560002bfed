"""Exercises: their descriptions, and checks that say *which* mistake was made.

``check("00.zero_head", answer)`` gives a verdict: passed, not yet, or a mistake by name. With
``MI_GRADING=strict`` anything but passed is an error. Solved exercises are remembered in the file
``MI_PROGRESS``; ``progress()`` shows them. ``answer("00.zero_head", zero_head, otherwise=...)`` is the
learner's own function once it passed, so that the notebook goes on with it.

The checks of notebook NN are in the package ``nbNN``, in files by topic: its docstring says which exercise is
in which file, ``where("00.zero_head")`` names file and line. They import nothing of ``mi_utils`` outside
``grading``.
"""

from mi_utils.grading.core import (
    EXERCISES,
    Exercise,
    ExerciseError,
    Mistake,
    Verdict,
    check,
    exercise,
    where,
)
from mi_utils.grading.own import answer
from mi_utils.grading.progress import Progress, progress

__all__ = [
    "EXERCISES",
    "Exercise",
    "ExerciseError",
    "Mistake",
    "Progress",
    "Verdict",
    "answer",
    "check",
    "exercise",
    "progress",
    "where",
]
