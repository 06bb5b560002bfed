"""SAEs on disk, in SAELens' format: what is trained here loads there, and the reverse."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mi_utils.sae.sae import SAE

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"  # SAELens' names
VERSION = (
    "6.0.0"  # of the format; without it SAELens takes a file for an older one and forgets where the SAE reads
)
READ = ("standard", "topk", "jumprelu")


def save(sae: SAE, folder: Path | str, *, dtype: torch.dtype = torch.float32, **metadata: Any) -> Path:
    """Write a folder that SAELens' ``SAE.load_from_disk`` reads; returns it.

    Args:
        sae: what to write.
        folder: made if it is not there.
        dtype: of the weights in the file; float16 halves it.
        metadata: what else should be said in ``cfg.json``, as JSON allows.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    stored = {name: value.to(dtype).contiguous() for name, value in weights.items() if value is not None}
    config = {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": VERSION, "model_name": sae.model, "hook_name": sae.hook, **metadata},
    }
    if sae.architecture == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    save_file(stored, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    return folder


def load(folder: Path | str, *, device: str | torch.device = "cpu") -> SAE:
    """An SAE from a folder in SAELens' format, in float32.

    Args:
        folder: that :func:`save` or SAELens wrote; ``data/sae_smollm2-135m``, which ships, is made by
            ``mi_workshop/makers/sae.py``.
        device: where it is put.

    Raises:
        ValueError: files that are missing or damaged, or an SAE of a kind that is not read here.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text())
        weights = load_file(folder / WEIGHTS)
        return from_parts(config, {name: value.to(device) for name, value in weights.items()})
    except (OSError, KeyError, json.JSONDecodeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"  # without the path
        raise ValueError(
            f"folder is {folder.name!r}; it should hold an SAE's {CONFIG} and {WEIGHTS} ({reason})"
        ) from None


def from_parts(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> SAE:
    """An SAE from SAELens' parts: ``cfg.to_dict()`` and ``state_dict()`` of an inference SAE.

    Raises:
        ValueError: an architecture other than standard, topk and jumprelu, or a normalisation that is not
            folded in.
        KeyError: a part is missing.
    """
    architecture, metadata = config["architecture"], config.get("metadata") or {}
    if architecture not in READ:
        raise ValueError(f"the SAE's architecture is {architecture!r}; it should be one of {', '.join(READ)}")
    for name in ("normalize_activations", "reshape_activations"):
        if config.get(name, "none") not in ("none", None):
            raise ValueError(
                f"the SAE's {name} is {config[name]!r}; it should be 'none' (fold it in before saving)"
            )
    W_enc, b_enc, W_dec, b_dec = (
        weights[name].detach().float() for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    )
    if not config.get("apply_b_dec_to_input", True):
        b_enc = b_enc + b_dec @ W_enc
    if config.get(
        "rescale_acts_by_decoder_norm"
    ):  # there the latents are those of a decoder with rows of length 1
        lengths = W_dec.norm(dim=-1)
        W_enc, b_enc, W_dec = W_enc * lengths, b_enc * lengths, W_dec / lengths[:, None]
    threshold = weights.get("threshold")
    return SAE(
        W_enc,
        b_enc,
        W_dec,
        b_dec,
        architecture,
        config.get("k"),
        None if threshold is None else threshold.float(),
        metadata.get("model_name") or "",
        metadata.get("hook_name") or "",
    )
