"""Checks of notebook 07, cross-layer transcoders.

===============  ==============  ===============================
07.jumprelu      transcoders.py  All or nothing
07.clt_output    transcoders.py  One MLP, written by many layers
07.tanh_penalty  sparsity.py     A price that stops rising
07.nmse          measures.py     An error without a unit
07.batch_topk    sparsity.py     A budget for the whole batch
07.unscale       transcoders.py  Fold the scaling in
07.lift          measures.py     What do the latents add?
07.match         match.py        Which feature knows it?
===============  ==============  ===============================
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
