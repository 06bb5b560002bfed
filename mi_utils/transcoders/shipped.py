"""Transcoders at hand for a model: those of ``data/`` where they exist, else tiny ones, trained at once."""

import torch
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import corpus, data_files, harvest
from mi_utils.transcoders.files import load
from mi_utils.transcoders.settings import TranscoderSettings
from mi_utils.transcoders.training import train
from mi_utils.transcoders.transcoders import Transcoders, mlp_names

FILES = {
    "atlas": "transcoders_atlas.safetensors",
    "atlas-lookup": "transcoders_atlas-lookup.safetensors",
    "smollm2-135m": "transcoders_smollm2-135m.safetensors",
}
_QUICK = TranscoderSettings(features=128, kind="plt", k=8, skip=True, steps=120, lr=3e-3)


def load_shipped(model: TransformerBridge, *, device: str | torch.device | None = None) -> Transcoders:
    """Transcoders for all MLPs of a model.

    ``atlas`` and ``atlas-lookup`` have cross-layer ones, ``smollm2-135m`` has per-layer ones with a skip. For
    any other model a few per-layer features with a skip are trained on 64 short contexts, in seconds for a
    small model: enough for every cell of a notebook to run, and nothing to draw conclusions from.

    Args:
        model: whose MLPs they stand in for.
        device: where they are put; by default where the model is.

    Raises:
        ValueError: a file of ``data/`` that is missing or was changed (the message gives the command for it).
    """
    name = model.cfg.model_name
    if device is None:
        device = model.cfg.device
    if name in FILES:
        return load(data_files.path(FILES[name]), device=device)
    return _quick(model).to(device)


def _quick(model: TransformerBridge) -> Transcoders:
    """Tiny ones, trained on the CPU."""
    contexts = corpus.contexts(model, length=min(64, model.cfg.n_ctx), count=64)
    both = harvest.drop_massive(harvest.activations(model, contexts, mlp_names(model)).float().cpu())
    x, y = both[: model.cfg.n_layers], both[model.cfg.n_layers :]
    generator = torch.Generator().manual_seed(0)
    chosen = (torch.randint(x.shape[1], (256,), generator=generator) for _ in range(_QUICK.steps))
    batches = ((x[:, at], y[:, at]) for at in chosen)
    return train(_QUICK, (x, y), batches, model=model.cfg.model_name).transcoders
