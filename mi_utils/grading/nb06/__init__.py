"""Checks of notebook 06, the IOI circuit."""

from mi_utils.grading.nb06.circuits import FAITHFULNESS, MINIMALITY
from mi_utils.grading.nb06.heads import COPY_SUPPRESSION, HEAD_ATTRIBUTION, ROLES
from mi_utils.grading.nb06.paths import PATH_PATCH
from mi_utils.grading.nb06.prompts import ABC, GREATER_THAN

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
