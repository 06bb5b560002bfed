"""Transcoders of both kinds in circuit-tracer's layout.

It was read from circuit-tracer's sources, ``transcoder/single_layer_transcoder.py`` (commit 196e2ce),
``transcoder/cross_layer_transcoder.py`` and ``utils/caching.py`` (b00048e). A file for each layer of a PLT,
two for a CLT, and a ``config.yaml``:

    layer_L.safetensors    W_enc [feature, d_model], b_enc, W_dec [feature, d_model], b_dec,
                           activation_function.threshold [feature], W_skip [output, input]
    W_enc_L.safetensors    W_enc_L [feature, d_model], b_enc_L, b_dec_L, threshold_L
    W_dec_L.safetensors    W_dec_L [feature, target, d_model], the first target being layer L itself

Thresholds may be missing (ReLU), and so may ``W_skip``, for which a CLT has no place.
"""

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

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
from mi_utils.transcoders.transcoders import TranscoderKind, Transcoders

# circuit-tracer's names of the kinds
_MODEL_KINDS: dict[str, TranscoderKind] = {"transcoder_set": "plt", "cross_layer_transcoder": "clt"}


def save_circuit_tracer(
    transcoders: Transcoders, folder: Path | str, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a folder that circuit-tracer reads by its full path; returns it.

    Args:
        transcoders: of either kind.
        folder: made if it is not there.
        dtype: of the weights in the files; in float32 nothing is lost.

    Raises:
        ValueError: a CLT with a skip, for which there is no place; a folder that holds other transcoders.
    """
    if transcoders.kind == "clt" and transcoders.W_skip is not None:
        raise ValueError(
            "transcoders are cross-layer with a skip, for which circuit-tracer's files have no place"
        )
    files_of = _plt_file if transcoders.kind == "plt" else _clt_files
    files = {}
    for layer in range(transcoders.n_layers):
        files |= files_of(transcoders, layer)
    folder = empty_but_for(Path(folder), files)
    for name, weights in files.items():
        save_weights(weights, folder / name, dtype)
    kind = next(name for name, ours in _MODEL_KINDS.items() if ours == transcoders.kind)
    about = {
        "model_name": transcoders.model,
        "model_kind": kind,
        "feature_input_hook": READS,
        "feature_output_hook": WRITES,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    return folder


def load_circuit_tracer(
    folder: Path | str,
    *,
    model: TransformerBridge | None = None,
    device: str | torch.device = "cpu",
) -> Transcoders:
    """Transcoders from a folder in circuit-tracer's layout, in float32.

    Args:
        folder: with a ``config.yaml`` and the safetensors files.
        model: what they should fit.
        device: where they are put.

    Raises:
        ValueError: files or parts that are missing, damaged or not finite; layers that are missing or don't
            agree; a TopK activation or a hook point that has no equal here; another model's transcoders.
    """
    folder = Path(folder)
    about = _config(folder)
    kind = _MODEL_KINDS[about["model_kind"]]
    start, read = ("layer_", _read_plt) if kind == "plt" else ("W_enc_", _read_clt)
    layers = [re.fullmatch(rf"{start}(\d+)\.safetensors", file.name) for file in folder.iterdir()]
    parts = {int(found[1]): read(folder, int(found[1])) for found in layers if found}
    if not parts:
        raise ValueError(f"folder is {folder.name!r}; it should hold {start}0.safetensors and so on")
    return joined(parts, kind, str(about.get("model_name") or ""), model, device)


def _config(folder: Path) -> dict[str, Any]:
    """``config.yaml``, checked."""
    try:
        about = yaml.safe_load((folder / "config.yaml").read_text())
        kind = about["model_kind"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        raise ValueError(f"folder is {folder.name!r}; it should hold config.yaml with a model_kind") from None
    if kind not in _MODEL_KINDS:
        raise ValueError(
            f"model_kind of {folder.name!r} is {kind!r}; it should be one of {', '.join(_MODEL_KINDS)}"
        )
    reads, writes = about.get("feature_input_hook"), about.get("feature_output_hook")
    if reads != READS or writes not in SAME_WRITES:
        raise ValueError(
            f"hooks of {folder.name!r} are {reads!r} and {writes!r}; they should be {READS!r} and "
            f"{WRITES!r}, what an MLP reads before its norm's scale, and writes"
        )
    if about.get("activation") == "topk":
        raise ValueError(f"activation of {folder.name!r} is 'topk'; it should be JumpReLU or ReLU")
    return about


def _plt_file(transcoders: Transcoders, layer: int) -> dict[str, dict[str, Tensor]]:
    weights = {
        "W_enc": transcoders.W_enc[layer].T,
        "b_enc": transcoders.b_enc[layer],
        "W_dec": transcoders.W_dec[layer][0],
        "b_dec": transcoders.b_dec[layer],
        "activation_function.threshold": transcoders.threshold[layer],
    }
    if transcoders.W_skip is not None:
        weights["W_skip"] = transcoders.W_skip[layer].T
    return {f"layer_{layer}.safetensors": weights}


def _clt_files(transcoders: Transcoders, layer: int) -> dict[str, dict[str, Tensor]]:
    encoder = {
        f"W_enc_{layer}": transcoders.W_enc[layer].T,
        f"b_enc_{layer}": transcoders.b_enc[layer],
        f"b_dec_{layer}": transcoders.b_dec[layer],
        f"threshold_{layer}": transcoders.threshold[layer],
    }
    decoder = {f"W_dec_{layer}": transcoders.W_dec[layer].transpose(0, 1)}
    return {f"W_enc_{layer}.safetensors": encoder, f"W_dec_{layer}.safetensors": decoder}


def _read_plt(folder: Path, layer: int) -> dict[str, Tensor]:
    file = folder / f"layer_{layer}.safetensors"
    stored = load_weights(file)
    if "k" in stored:
        raise ValueError(
            f"{file.name} of {folder.name!r} holds k, of a TopK activation; it should be JumpReLU or ReLU"
        )
    stored = {name.removeprefix("activation_function."): value for name, value in stored.items()}
    optional = [name for name in ("threshold", "W_skip") if name in stored]
    part = chosen(stored, ["W_enc", "b_enc", "W_dec", "b_dec", *optional], file)
    if "W_skip" in part:
        part["W_skip"] = part["W_skip"].mT
    return part | {"W_enc": part["W_enc"].mT, "W_dec": part["W_dec"][None]}


def _read_clt(folder: Path, layer: int) -> dict[str, Tensor]:
    encoders, decoders = (folder / f"{name}_{layer}.safetensors" for name in ("W_enc", "W_dec"))
    stored = {name.removesuffix(f"_{layer}"): value for name, value in load_weights(encoders).items()}
    part = chosen(stored, ["W_enc", "b_enc", "b_dec"] + ["threshold"] * ("threshold" in stored), encoders)
    decoder = chosen(load_weights(decoders), [f"W_dec_{layer}"], decoders, dimensions=3)[f"W_dec_{layer}"]
    return part | {"W_enc": part["W_enc"].mT, "W_dec": decoder.transpose(0, 1)}
