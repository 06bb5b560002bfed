"""Checks of notebook 08, attribution graphs.

====================  =========  ================================
08.error              local.py   What the transcoders miss
08.frozen_attention   local.py   Attention that no longer decides
08.edge               local.py   One edge
08.logit_nodes        graph.py   Which answers get a node?
08.influence          graph.py   Influence over all paths
08.replacement_score  graph.py   How much starts where it should?
08.swap               beyond.py  Swap one thought for another
08.qk                 beyond.py  Take an attention score apart
====================  =========  ================================
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
