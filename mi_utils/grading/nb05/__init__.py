"""Checks of notebook 05, induction circuits.

===================  ===========  =========================================
05.offsets           scores.py    How far back?
05.prefix_matching   scores.py    The prefix-matching score
05.in_context_score  scores.py    The in-context score
05.copying           circuits.py  Does a head copy?
05.k_composition     circuits.py  K-composition
05.random_control    control.py   Heads to compare with
05.composed_input    circuits.py  Take one head out of the keys
05.mend_the_classes  classes.py   Find the bug in a classification of heads
===================  ===========  =========================================
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
