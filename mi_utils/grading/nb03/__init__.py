"""Checks of notebook 03, the logit lens and the tuned lens."""

from mi_utils.grading.nb03.training import EXERCISES

__all__ = ["EXERCISES"]
