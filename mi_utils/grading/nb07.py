"""Checks of notebook 07, cross-layer transcoders.

What transcoders compute is checked in ``nb07_transcoders``, what makes them sparse in ``nb07_sparsity``, how far off
they are in ``nb07_measures``, and which feature tells a label in ``nb07_match``.
"""

from mi_utils.grading.nb07_match import MATCH
from mi_utils.grading.nb07_measures import LIFT, NMSE
from mi_utils.grading.nb07_sparsity import BATCH_TOPK, TANH_PENALTY
from mi_utils.grading.nb07_transcoders import CLT_OUTPUT, JUMPRELU, UNSCALE

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
