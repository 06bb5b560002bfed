"""Figures in the house look: charts, attention, coloured text; ``style`` holds their colours and layout."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
