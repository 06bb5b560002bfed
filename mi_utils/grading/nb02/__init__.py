"""Checks of notebook 02, sparse autoencoders."""

from mi_utils.grading.nb02.training import EXERCISES

__all__ = ["EXERCISES"]
