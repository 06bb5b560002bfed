"""Checks of notebook 01, toy models of superposition."""

from mi_utils.grading.nb01.control import MATCHED_CONTROL, SPARSE_BATCH
from mi_utils.grading.nb01.geometry import DIMENSIONALITY, FIND_THE_BUG
from mi_utils.grading.nb01.model import LOSS, RECONSTRUCT
from mi_utils.grading.nb01.losses import BEST_LINEAR, CANDIDATES, WELCH

EXERCISES = (
    SPARSE_BATCH,
    RECONSTRUCT,
    LOSS,
    BEST_LINEAR,
    FIND_THE_BUG,
    CANDIDATES,
    DIMENSIONALITY,
    MATCHED_CONTROL,
    WELCH,
)
