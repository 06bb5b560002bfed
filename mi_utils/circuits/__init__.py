"""Circuits of heads and of edges: direct effects, faithfulness, EAP, edge ablation and ACDC, scores,
tasks."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
