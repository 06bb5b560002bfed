"""Checks of notebook 04, activation patching.

==================  ============  ====================================
04.patch_position   patches.py    Patch one position
04.recovery         patches.py    How much came back?
04.mend_the_metric  effects.py    Find the bug in a metric
04.and_or           gates.py      Two directions, two kinds of circuit
04.gaussian         noise.py      Corrupt with noise
04.attribute        gradients.py  A patch without a run
04.integrated       gradients.py  Look at the slope along the way
04.direct_effect    effects.py    The direct effect of a head
==================  ============  ====================================
"""

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
