"""Checks of notebook 00, start here.

===================  ==============  =======================================
00.cache_activation  activations.py  Cache an activation
00.predict_shape     activations.py  Predict four shapes
00.zero_head         hooks.py        Write a hook that zeroes one head
00.no_op_control     hooks.py        The control that must give exactly zero
00.find_the_bug      attribution.py  Find the bug in an attribution
===================  ==============  =======================================
"""

from mi_utils.grading.nb00.activations import CACHE, SHAPES
from mi_utils.grading.nb00.attribution import FIND_THE_BUG
from mi_utils.grading.nb00.hooks import NO_OP, ZERO_HEAD

EXERCISES = (
    CACHE,
    SHAPES,
    ZERO_HEAD,
    NO_OP,
    FIND_THE_BUG,
)
