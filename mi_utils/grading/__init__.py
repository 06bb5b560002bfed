"""Exercises: their descriptions, and checks that say *which* mistake was made.

``check("00.zero_head", answer)`` gives a verdict: passed, not yet, or a mistake by name. With
``MI_GRADING=strict`` anything but passed is an error. Solved exercises are remembered in the file
``MI_PROGRESS``; ``progress()`` shows them.
"""

from mi_utils.grading.core import (
    EXERCISES,
    Exercise,
    ExerciseError,
    Mistake,
    Verdict,
    check,
    exercise,
)
from mi_utils.grading.progress import Progress, progress

__all__ = [
    "EXERCISES",
    "Exercise",
    "ExerciseError",
    "Mistake",
    "Progress",
    "Verdict",
    "check",
    "exercise",
    "progress",
]
