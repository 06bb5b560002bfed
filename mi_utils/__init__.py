"""Shared code of the mechanistic-interpretability notebooks: a package for each topic.

Importing it costs next to nothing. A topic is loaded on first use, because it brings torch and
TransformerLens with it. Tab completion lists the topics, and for each topic what it offers.
"""

from mi_utils._contents import lazy

__version__ = "0.1.0"

__getattr__, __dir__ = lazy(__name__)
