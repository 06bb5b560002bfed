"""Per-layer transcoders in SAELens' format: a folder for each layer, with ``cfg.json`` and the weights.

Where the format and ours differ: there a skip is [output, input].
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils.sae.files import CONFIG, VERSION, WEIGHTS
from mi_utils.transcoders._layers import (
    READS,
    SAME_WRITES,
    WRITES,
    chosen,
    empty_but_for,
    joined,
    load_weights,
    save_weights,
)
from mi_utils.transcoders.transcoders import Transcoders

if TYPE_CHECKING:
    import sae_lens

_FOLDED_READS = "mlp.hook_in"
_KINDS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")


def to_saelens(transcoders: Transcoders, layer: int) -> "sae_lens.Transcoder":
    """One layer as SAELens' ``JumpReLUTranscoder``, or ``JumpReLUSkipTranscoder`` where there is a skip.

    Calling it applies the skip. Attached to a model (``run_with_saes``), SAELens 6.54 uses only ``encode``
    and ``decode``, which leave the skip out.

    Raises:
        ValueError: cross-layer transcoders, which SAELens has no class for, or no such layer.
    """
    import sae_lens  # seconds to import, and only needed here

    config, weights = _parts(transcoders, layer)
    kind = sae_lens.JumpReLUTranscoder if transcoders.W_skip is None else sae_lens.JumpReLUSkipTranscoder
    with torch.random.fork_rng(devices=[]):  # it draws weights, which are replaced
        found = kind.from_dict(config)
    found.load_state_dict(weights)
    return found.requires_grad_(False)


def save_saelens(transcoders: Transcoders, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write ``layer_0``, ``layer_1``... into a folder, each for SAELens' ``SAE.load_from_disk``; returns the
    folder.

    Args:
        transcoders: per-layer ones.
        folder: made if it is not there.
        dtype: of the weights in the files; float16 halves them.

    Raises:
        ValueError: cross-layer transcoders, or a folder that holds more layers than these.
    """
    parts = [_parts(transcoders, layer) for layer in range(transcoders.n_layers)]
    folder = empty_but_for(Path(folder), [f"layer_{layer}" for layer in range(len(parts))])
    for layer, (config, weights) in enumerate(parts):
        place = folder / f"layer_{layer}"
        place.mkdir(exist_ok=True)
        save_weights(weights, place / WEIGHTS, dtype)
        (place / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    return folder


def load_saelens(
    folders: Path | str | Sequence[Path | str],
    *,
    model: TransformerBridge | None = None,
    device: str | torch.device = "cpu",
) -> Transcoders:
    """Per-layer transcoders from SAELens' folders, in float32.

    Args:
        folders: one for each layer in any order, or one that holds them.
        model: what they should fit.
        device: where they are put.

    Raises:
        ValueError: files or parts that are missing, damaged or not finite; layers that are missing or don't
            agree; a kind, normalisation or hook point that has no equal here; another model's transcoders.
    """
    if isinstance(folders, (str, Path)):
        outer = Path(folders)
        folders = sorted(file.parent for file in outer.glob(f"*/{CONFIG}"))
        if not folders:
            raise ValueError(
                f"folders is {outer.name!r}; it should hold a folder for each layer, with {CONFIG} in it"
            )
    parts, names = {}, set()
    for folder in map(Path, folders):
        about = _config(folder)
        layer = _layer(about, folder.name)
        if layer in parts:
            raise ValueError(f"folders hold layer {layer} twice; each layer should be there once")
        parts[layer] = _weights(folder, about["architecture"])
        names.add(about.get("model_name") or "")
    if len(names) > 1:
        raise ValueError(
            f"folders hold transcoders of the models {', '.join(sorted(names))}; it should be one model"
        )
    return joined(parts, "plt", *names, model, device)


def _parts(transcoders: Transcoders, layer: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``cfg.json`` and the weights of one layer."""
    if transcoders.kind != "plt":
        raise ValueError(
            "transcoders are cross-layer, which SAELens has no class for; they should be per-layer"
        )
    transcoders.check_feature(layer, 0)
    weights = {name: getattr(transcoders, name)[layer] for name in ("W_enc", "b_enc", "threshold", "b_dec")}
    weights["W_dec"] = transcoders.W_dec[layer][0]
    if transcoders.W_skip is not None:
        weights["W_skip"] = transcoders.W_skip[layer].T  # there [output, input]
    config = {
        "architecture": f"jumprelu{'' if transcoders.W_skip is None else '_skip'}_transcoder",
        "d_in": transcoders.d_model,
        "d_out": transcoders.d_model,
        "d_sae": transcoders.n_features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": VERSION,
            "model_name": transcoders.model,
            "hook_name": f"blocks.{layer}.{READS}",
            "hook_name_out": f"blocks.{layer}.{WRITES}",
        },
    }
    return config, {name: value.detach().float().contiguous() for name, value in weights.items()}


def _config(folder: Path) -> dict[str, Any]:
    """``cfg.json`` with the metadata beside the rest, checked as far as one layer goes."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        config = config | (config.get("metadata") or {})
    except (OSError, ValueError, AttributeError, TypeError):
        raise ValueError(f"folder is {folder.name!r}; it should hold SAELens' {CONFIG}, as JSON") from None
    kind, normalised = config.get("architecture"), config.get("normalize_activations", "none")
    if kind not in _KINDS:
        raise ValueError(
            f"architecture of {folder.name!r} is {kind!r}; it should be one of {', '.join(_KINDS)}"
        )
    if normalised not in ("none", None):
        raise ValueError(f"normalize_activations of {folder.name!r} is {normalised!r}; it should be 'none'")
    return config


def _layer(about: Mapping[str, Any], folder: str) -> int:
    """The layer that an SAELens transcoder is about, from where it reads and writes."""
    reads, writes = about.get("hook_name"), about.get("hook_name_out")
    found = re.fullmatch(rf"blocks\.(\d+)\.({re.escape(READS)}|{re.escape(_FOLDED_READS)})", str(reads))
    if not found:
        raise ValueError(
            f"hook_name of {folder!r} is {reads!r}; it should be an MLP's input, blocks.L.{READS}"
        )
    layer = int(found[1])
    if writes not in [f"blocks.{layer}.{name}" for name in SAME_WRITES]:
        raise ValueError(f"hook_name_out of {folder!r} is {writes!r}; it should be blocks.{layer}.{WRITES}")
    loaded_with = about.get("model_from_pretrained_kwargs") or {}
    if found[2] == _FOLDED_READS and loaded_with.get("fold_ln") is False:
        raise ValueError(
            f"hook_name of {folder!r} is {reads!r} of a model with fold_ln=False, where a norm's scale comes "
            f"before it; it should be blocks.{layer}.{READS}"
        )
    return layer


def _weights(folder: Path, architecture: str) -> dict[str, Tensor]:
    """The weights of one layer, in our orientation."""
    stored = load_weights(folder / WEIGHTS)
    needed = ["W_enc", "b_enc", "W_dec", "b_dec"]
    needed += ["threshold"] * ("jumprelu" in architecture) + ["W_skip"] * ("skip" in architecture)
    part = chosen(stored, needed, folder / WEIGHTS)
    if "threshold" in part:
        part["threshold"] = part["threshold"].clamp(min=0)  # there a ReLU comes first
    if "W_skip" in part:
        part["W_skip"] = part["W_skip"].mT
    return part | {"W_dec": part["W_dec"][None]}
