"""Checks of notebook 05, induction circuits.

Where heads look is checked in ``scores``, what they read and write in ``circuits``, random heads to compare
with in ``control``, and classes of heads in ``classes``.
"""

from mi_utils.grading.nb05.circuits import COMPOSED_INPUT, COPYING, K_COMPOSITION
from mi_utils.grading.nb05.classes import MEND_THE_CLASSES
from mi_utils.grading.nb05.control import RANDOM_CONTROL
from mi_utils.grading.nb05.scores import IN_CONTEXT_SCORE, OFFSETS, PREFIX_MATCHING

EXERCISES = (
    OFFSETS,
    PREFIX_MATCHING,
    IN_CONTEXT_SCORE,
    COPYING,
    K_COMPOSITION,
    RANDOM_CONTROL,
    COMPOSED_INPUT,
    MEND_THE_CLASSES,
)
