"""Checks of notebook 00, start here."""

from mi_utils.grading.nb00.hooks import EXERCISES

__all__ = ["EXERCISES"]
