"""The logit lens and the tuned lens: reading, training, the causal check, figures."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
