"""Transcoders, cross-layer and per-layer: training, files, the replacement model, those that ship."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
