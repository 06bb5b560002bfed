"""What the formats of SAELens and circuit-tracer share: hook points, and files with the weights of one layer.

In both, what a transcoder reads is a named hook point, and ours is ``blocks.L.ln2.hook_normalized``: what the
norm before the MLP gives *before* its learned scale. That is our ``x`` in any model. ``mlp.hook_in`` is the
same where the scale is folded into the weights, as ``models.load_model`` does; circuit-tracer doesn't fold,
so there it is not.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils.transcoders.transcoders import TranscoderKind, Transcoders, check_fits

READS, WRITES = "ln2.hook_normalized", "hook_mlp_out"
SAME_WRITES = (WRITES, "mlp.hook_out")


def joined(
    parts: Mapping[int, dict[str, Tensor]],
    kind: TranscoderKind,
    name: str,
    model: TransformerBridge | None,
    device: str | torch.device,
) -> Transcoders:
    """Transcoders from the parts of each layer, in our orientation; without thresholds they are ReLUs."""
    if sorted(parts) != list(range(len(parts))):
        raise ValueError(f"layers {sorted(parts)} are there; it should be each from 0 to {max(parts)}")
    # where only some layers have thresholds, those of the others were lost: that is refused below
    if not any("threshold" in part for part in parts.values()):
        parts = {
            layer: part | {"threshold": torch.zeros_like(part["b_enc"])} for layer, part in parts.items()
        }
    first = _shapes(parts[0])
    for layer in range(1, len(parts)):
        found = _shapes(parts[layer])
        if found != first:
            raise ValueError(
                f"layer {layer} holds parts of shapes {found}; it should be as in layer 0, {first}"
            )
    stacked = {part: torch.stack([parts[layer][part] for layer in range(len(parts))]) for part in first}
    decoders = tuple(parts[layer]["W_dec"].contiguous() for layer in range(len(parts)))
    transcoders = Transcoders(W_dec=decoders, kind=kind, model=name, **stacked)
    if model is not None:
        check_fits(model, transcoders)
    return transcoders.to(device)


def _shapes(part: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Of all that has the same shape in every layer: all but the decoders."""
    return {name: tuple(value.shape) for name, value in part.items() if name != "W_dec"}


def chosen(
    stored: Mapping[str, Tensor], names: Iterable[str], file: Path, *, dimensions: int = 2
) -> dict[str, Tensor]:
    """Parts of a file in float32, its matrices being matrices and its biases vectors."""
    for name in names:
        if name not in stored:
            raise ValueError(f"{file.name} of {file.parent.name!r} lacks {name}")
        wanted = dimensions if name.startswith("W") else 1
        if stored[name].ndim != wanted:
            shape = tuple(stored[name].shape)
            raise ValueError(f"{name} of {file.name} has shape {shape}; it should have {wanted} dimensions")
    return {name: stored[name].float() for name in names}


def load_weights(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; a ``ValueError`` where it is missing or damaged."""
    try:
        return load_file(file)
    except (OSError, SafetensorError):
        fault = "is damaged" if file.exists() else "is missing"
        raise ValueError(
            f"{file.name} of {file.parent.name!r} {fault}; it should hold weights, as safetensors"
        ) from None


def save_weights(weights: Mapping[str, Tensor], file: Path, dtype: torch.dtype) -> None:
    """Write tensors in a number format."""
    save_file({name: value.detach().to("cpu", dtype).contiguous() for name, value in weights.items()}, file)


def empty_but_for(folder: Path, names: Iterable[str]) -> Path:
    """The folder, made where needed; readers take every layer that they find, so there must be no others."""
    names = set(names)
    for start in ("layer_", "W_enc_", "W_dec_"):
        for file in sorted(folder.glob(f"{start}*")):
            if file.name in names:
                continue
            name = file.name
            raise ValueError(
                f"folder is {folder.name!r}, which holds {name} of other transcoders; it should be empty"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
