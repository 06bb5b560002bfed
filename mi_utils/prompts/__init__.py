"""Prompts as token ids (``tokens``), and the prompts of indirect object identification (``ioi``)."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
