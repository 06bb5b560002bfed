"""Attaching SAELens' own SAEs to a model that is loaded already, and taking them off again.

Two faults of SAELens 6.54 are mended here, and nowhere else (``sae_lens.SAETransformerBridge``):

1. There is no way to make a ``SAETransformerBridge`` of a bridge at hand. ``boot_transformers`` loads a model
   and then changes the object's class; :func:`attachable` does the second half.
2. ``_reset_sae`` does not put the hook point back that stood where an SAE was. It makes a new one, under one
   of its names only: later hooks at that place fire twice, or not at all.

``tests/sae/test_attachable.py`` has a test for each that fails when SAELens mends it. What mends it here can
go then.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge


@contextmanager
def attachable(model: TransformerBridge) -> Iterator[TransformerBridge]:
    """While this lasts, SAELens can attach SAEs to ``model`` (``run_with_saes`` and its kin).

    A model from ``load_model``, folded and offline, need not be loaded twice. Afterwards the model is as it
    was, also after an error: of its own class, without SAEs, with its own hook points.
    """
    from sae_lens import SAETransformerBridge  # seconds to import, and only needed here

    own_class = model.__class__
    own_points = dict(model._hook_registry)
    model.__class__ = SAETransformerBridge
    model._acts_to_saes = {}
    model._transcoder_output_hooks = {}
    try:
        yield model
    finally:
        model.reset_saes()
        _put_back(model, own_points)
        model.__class__ = own_class


def _put_back(model: TransformerBridge, points: Mapping[str, HookPoint]) -> None:
    """Set the hook points that SAELens replaced to what they were, in the modules and in the registry."""
    from sae_lens.analysis.hooked_sae_transformer import set_deep_attr

    for place, point in points.items():
        if model._hook_registry.get(place) is not point:
            name = point.name
            set_deep_attr(model, place, point)
            point.name = name  # which being set again has cut short
    model._hook_registry.clear()
    model._hook_registry.update(points)
