"""Attaching SAELens' own SAEs to a model that is loaded already, and taking them off again.

Two faults of SAELens 6.54 are mended here, and nowhere else (``sae_lens.SAETransformerBridge``):

1. There is no way to make a ``SAETransformerBridge`` of a bridge at hand. ``boot_transformers`` loads a model
   and then changes the object's class; :func:`attachable` makes another object of what the bridge holds.
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
    """While this lasts, SAELens can attach SAEs to what it gives (``run_with_saes`` and its kin).

    It gives another object around the modules of ``model``, so that a model from ``load_model``, folded and
    offline, need not be loaded twice. Afterwards the model is as it was, also after an error: without SAEs,
    with its own hook points. While an SAE is attached, runs of ``model`` pass it too.
    """
    from sae_lens import SAETransformerBridge  # seconds to import, and only needed here

    # Another object around the same modules: the model keeps its class and its own list of hook points.
    able = SAETransformerBridge.__new__(SAETransformerBridge)
    vars(able).update(vars(model))
    able._hook_registry = dict(model._hook_registry)
    able._acts_to_saes = {}
    able._transcoder_output_hooks = {}
    try:
        yield able
    finally:
        able.reset_saes()
        _put_back(model, able._hook_registry)


def _put_back(model: TransformerBridge, registry: Mapping[str, HookPoint]) -> None:
    """Set the hook points that SAELens replaced, by its registry, to those of the model."""
    from sae_lens.analysis.hooked_sae_transformer import set_deep_attr

    for place, point in model._hook_registry.items():
        if registry.get(place) is not point:
            name = point.name
            set_deep_attr(model, place, point)
            point.name = name  # which being set again has cut short
