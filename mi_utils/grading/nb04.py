"""Checks of notebook 04, activation patching."""

from mi_utils.grading.nb04_effects import DIRECT_EFFECT, MEND_THE_METRIC
from mi_utils.grading.nb04_gates import AND_OR
from mi_utils.grading.nb04_gradients import ATTRIBUTE, INTEGRATED
from mi_utils.grading.nb04_noise import GAUSSIAN
from mi_utils.grading.nb04_patches import PATCH_POSITION, RECOVERY

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
