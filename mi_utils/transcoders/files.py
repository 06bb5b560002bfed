"""Transcoders in files of this project: safetensors, in 16 bits or 8."""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_utils import data_files, int8
from mi_utils.transcoders.transcoders import Transcoders

_FORMAT = "mi_utils transcoders 1"


def save(transcoders: Transcoders, path: str | Path, *, bits: Literal[8, 16] = 16) -> Path:
    """Write transcoders as safetensors.

    Args:
        transcoders: what to write.
        path: where.
        bits: 16 for fp16; 8 for whole numbers with an fp16 scale for each feature (in the skip: each output).

    Raises:
        ValueError: another number of bits, or values too large for fp16 (above 65,504).
    """
    if bits not in (8, 16):
        raise ValueError(f"bits is {bits}; it should be 8 or 16")
    tensors = {name: getattr(transcoders, name).half() for name in ("b_enc", "threshold", "b_dec")}
    for name, (matrix, summed) in _matrices(transcoders).items():
        if bits == 16:
            tensors[name] = matrix.half()
        else:
            tensors[name], tensors[f"{name}.scale"] = int8.pack(matrix, summed)
    for name, stored in tensors.items():
        if stored.is_floating_point() and not torch.isfinite(stored).all():
            raise ValueError(
                f"{name} holds values above 65,504, which fp16 can't hold; they should be smaller"
            )
    about = {"format": _FORMAT, "kind": transcoders.kind, "model": transcoders.model}
    with data_files.staged(path) as new:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, new, about)
    return Path(path)


def _matrices(transcoders: Transcoders) -> dict[str, tuple[Tensor, int]]:
    """Each matrix by its name in the file, and the axis whose values share a scale."""
    found = {"W_enc": (transcoders.W_enc, -2)}
    found |= {f"W_dec.{layer}": (decoder, -1) for layer, decoder in enumerate(transcoders.W_dec)}
    if transcoders.W_skip is not None:
        found["W_skip"] = (transcoders.W_skip, -2)
    return found


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Transcoders:
    """Read transcoders that ``save`` wrote, in float32.

    Raises:
        ValueError: no such file, or one that does not hold transcoders.
    """
    try:
        with safe_open(path, "pt", device=str(device)) as stored:
            about = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"path is {str(path)!r}; there is no such file") from None
    except (SafetensorError, OSError):
        raise ValueError(f"path is {str(path)!r}, which does not hold transcoders") from None
    if about.get("format") != _FORMAT:
        raise ValueError(f"path is {str(path)!r}, which does not hold transcoders of this project's format")
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith(".scale")}
    parts = {
        name: int8.unpack(tensor, scales[f"{name}.scale"]) if f"{name}.scale" in scales else tensor.float()
        for name, tensor in tensors.items()
    }
    try:
        return Transcoders(
            W_dec=tuple(parts.pop(f"W_dec.{layer}") for layer in range(len(parts["W_enc"]))),
            kind=about["kind"],
            model=about["model"],
            **parts,
        )
    except (KeyError, TypeError):
        raise ValueError(f"path is {str(path)!r}, whose transcoders lack a part") from None
