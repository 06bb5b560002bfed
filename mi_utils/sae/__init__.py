"""Sparse autoencoders: the dictionaries, their training, files, and what they do to a model that runs through
them."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
