"""Checks of notebook 06, the IOI circuit.

===================  ===========  =======================================
06.abc               prompts.py   Three unrelated names
06.head_attribution  heads.py     What each head writes to the difference
06.roles             roles.py     Which head does what?
06.path_patch        paths.py     One path, and nothing else
06.faithfulness      circuits.py  Faithfulness
06.minimality        circuits.py  Is this head needed?
06.greater_than      prompts.py   A metric for greater than
06.copy_suppression  heads.py     A head that takes back what it sees
===================  ===========  =======================================
"""

from mi_utils.grading.nb06.circuits import FAITHFULNESS, MINIMALITY
from mi_utils.grading.nb06.heads import COPY_SUPPRESSION, HEAD_ATTRIBUTION
from mi_utils.grading.nb06.paths import PATH_PATCH
from mi_utils.grading.nb06.prompts import ABC, GREATER_THAN
from mi_utils.grading.nb06.roles import ROLES

EXERCISES = (
    ABC,
    HEAD_ATTRIBUTION,
    ROLES,
    PATH_PATCH,
    FAITHFULNESS,
    MINIMALITY,
    GREATER_THAN,
    COPY_SUPPRESSION,
)
