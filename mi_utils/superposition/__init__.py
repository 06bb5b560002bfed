"""Toy models of superposition: training them, the geometry of what they learn, figures of it."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
