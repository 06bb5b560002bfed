"""Checks of notebook 04, activation patching."""

from mi_utils.grading.nb04.effects import DIRECT_EFFECT, MEND_THE_METRIC
from mi_utils.grading.nb04.gates import AND_OR
from mi_utils.grading.nb04.gradients import ATTRIBUTE, INTEGRATED
from mi_utils.grading.nb04.noise import GAUSSIAN
from mi_utils.grading.nb04.patches import PATCH_POSITION, RECOVERY

EXERCISES = (
    PATCH_POSITION,
    RECOVERY,
    MEND_THE_METRIC,
    AND_OR,
    GAUSSIAN,
    ATTRIBUTE,
    INTEGRATED,
    DIRECT_EFFECT,
)
