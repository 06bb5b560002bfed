"""Attribution graphs: local replacement model, graph, influence and pruning, interventions, files and a
browser."""

from mi_utils._contents import lazy

__getattr__, __dir__ = lazy(__name__)
