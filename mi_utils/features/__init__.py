"""Dashboards of latents: where each fires, rules that say when, cards and a browser to read them."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
