"""Attention heads: scores, effects of ablation, composition, and attention-only models to watch them form
in."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
