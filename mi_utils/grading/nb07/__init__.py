"""Checks of notebook 07, cross-layer transcoders.

What transcoders compute is checked in ``transcoders``, what makes them sparse in ``sparsity``, how far off
they are in ``measures``, and which feature tells a label in ``match``.
"""

from mi_utils.grading.nb07.match import MATCH
from mi_utils.grading.nb07.measures import LIFT, NMSE
from mi_utils.grading.nb07.sparsity import BATCH_TOPK, TANH_PENALTY
from mi_utils.grading.nb07.transcoders import CLT_OUTPUT, JUMPRELU, UNSCALE

EXERCISES = (
    JUMPRELU,
    CLT_OUTPUT,
    TANH_PENALTY,
    NMSE,
    BATCH_TOPK,
    UNSCALE,
    LIFT,
    MATCH,
)
