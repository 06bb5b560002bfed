"""Checks of notebook 08, attribution graphs.

What a graph is made of is checked in ``local``, the graph as a whole in ``graph``, and what goes beyond it,
attention scores and swaps, in ``beyond``.
"""

from mi_utils.grading.nb08.beyond import QK, SWAP
from mi_utils.grading.nb08.graph import INFLUENCE, LOGIT_NODES, REPLACEMENT_SCORE
from mi_utils.grading.nb08.local import EDGE, ERROR, FROZEN_ATTENTION

EXERCISES = (
    ERROR,
    FROZEN_ATTENTION,
    EDGE,
    LOGIT_NODES,
    INFLUENCE,
    REPLACEMENT_SCORE,
    SWAP,
    QK,
)
