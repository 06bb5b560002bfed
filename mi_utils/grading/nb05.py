"""Checks of notebook 05, induction circuits.

Where heads look is checked in ``nb05_scores``, what they read and write in ``nb05_circuits``, random heads to compare
with in ``nb05_control``, and classes of heads in ``nb05_classes``.
"""

from mi_utils.grading.nb05_circuits import COMPOSED_INPUT, COPYING, K_COMPOSITION
from mi_utils.grading.nb05_classes import MEND_THE_CLASSES
from mi_utils.grading.nb05_control import RANDOM_CONTROL
from mi_utils.grading.nb05_scores import IN_CONTEXT_SCORE, OFFSETS, PREFIX_MATCHING

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
