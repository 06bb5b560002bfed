"""Checks of notebook 08, attribution graphs.

What a graph is made of is checked in ``nb08_local``, the graph as a whole in ``nb08_graph``, and what goes beyond it,
attention scores and swaps, in ``nb08_beyond``.
"""

from mi_utils.grading.nb08_beyond import QK, SWAP
from mi_utils.grading.nb08_graph import INFLUENCE, LOGIT_NODES, REPLACEMENT_SCORE
from mi_utils.grading.nb08_local import EDGE, ERROR, FROZEN_ATTENTION

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
