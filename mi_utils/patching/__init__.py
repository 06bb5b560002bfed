"""Activation patching: sweeps, the engine below them, estimates by gradients, path patching, figures."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
