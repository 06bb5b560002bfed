"""Claims that a notebook makes: *Paper and here*, its checks, and the trial of its methods."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
