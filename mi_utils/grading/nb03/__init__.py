"""Checks of notebook 03, the logit lens and the tuned lens.

=================  =============  ========================================
03.lens_by_hand    lens.py        Look through the logit lens
03.rank            ranks.py       Rank of an answer by layer
03.kl              divergence.py  How far is the lens from the model?
03.ridge           training.py    A translator in closed form
03.never_worse     training.py    A descent that never makes a layer worse
03.marginal_bias   divergence.py  What is wrong everywhere
03.decision_layer  ranks.py       When does the model make up its mind?
03.find_the_bug    shares.py      Find the bug in a popular recipe
=================  =============  ========================================
"""

from mi_utils.grading.nb03.divergence import KL, MARGINAL_BIAS
from mi_utils.grading.nb03.lens import LENS_BY_HAND
from mi_utils.grading.nb03.ranks import DECISION_LAYER, RANK
from mi_utils.grading.nb03.shares import FIND_THE_BUG
from mi_utils.grading.nb03.training import KEEP_BEST, RIDGE

EXERCISES = (
    LENS_BY_HAND,
    RANK,
    KL,
    RIDGE,
    KEEP_BEST,
    MARGINAL_BIAS,
    DECISION_LAYER,
    FIND_THE_BUG,
)
