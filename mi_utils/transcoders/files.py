"""Transcoders in the formats of other libraries: SAELens' (per-layer ones) and circuit-tracer's (both kinds).

In both, what a transcoder reads is a named hook point, and ours is ``blocks.L.ln2.hook_normalized``: what the
norm before the MLP gives *before* its learned scale. That is our ``x`` in any model. ``mlp.hook_in`` is the
same where the scale is folded into the weights, as ``models.load_model`` does; circuit-tracer doesn't fold,
so there it is not.

circuit-tracer's layout was read from its sources, ``transcoder/single_layer_transcoder.py`` (commit 196e2ce),
``transcoder/cross_layer_transcoder.py`` and ``utils/caching.py`` (b00048e). A file for each layer of a PLT,
two for a CLT, and a ``config.yaml``:

    layer_L.safetensors    W_enc [feature, d_model], b_enc, W_dec [feature, d_model], b_dec,
                           activation_function.threshold [feature], W_skip [output, input]
    W_enc_L.safetensors    W_enc_L [feature, d_model], b_enc_L, b_dec_L, threshold_L
    W_dec_L.safetensors    W_dec_L [feature, target, d_model], the first target being layer L itself

Thresholds may be missing (ReLU), and so may ``W_skip``, for which a CLT has no place.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils.sae.files import CONFIG, VERSION, WEIGHTS
from mi_utils.transcoders.transcoders import Kind, Transcoders, check_fits

if TYPE_CHECKING:
    import sae_lens

_READS, _WRITES = "ln2.hook_normalized", "hook_mlp_out"
_FOLDED_READS = "mlp.hook_in"
_SAME_WRITES = (_WRITES, "mlp.hook_out")
_MODEL_KINDS: dict[str, Kind] = {
    "transcoder_set": "plt",
    "cross_layer_transcoder": "clt",
}  # circuit-tracer's names
_SAELENS_KINDS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")

# ------------------------------------------------------------------ SAELens


def to_saelens(transcoders: Transcoders, layer: int) -> "sae_lens.Transcoder":
    """One layer as SAELens' ``JumpReLUTranscoder``, or ``JumpReLUSkipTranscoder`` where there is a skip.

    Calling it applies the skip. Attached to a model (``run_with_saes``), SAELens 6.54 uses only ``encode``
    and ``decode``, which leave the skip out.

    Raises:
        ValueError: cross-layer transcoders, which SAELens has no class for, or no such layer.
    """
    import sae_lens  # seconds to import, and only needed here

    config, weights = _saelens_parts(transcoders, layer)
    kind = sae_lens.JumpReLUTranscoder if transcoders.W_skip is None else sae_lens.JumpReLUSkipTranscoder
    with torch.random.fork_rng(devices=[]):  # it draws weights, which are replaced
        found = kind.from_dict(config)
    found.load_state_dict(weights)
    return found.requires_grad_(False)


def write_saelens(
    transcoders: Transcoders, folder: Path | str, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write ``layer_0``, ``layer_1``... into a folder, each for SAELens' ``SAE.load_from_disk``; returns the
    folder.

    Args:
        transcoders: per-layer ones.
        folder: made if it is not there.
        dtype: of the weights in the files; float16 halves them.

    Raises:
        ValueError: cross-layer transcoders, or a folder that holds more layers than these.
    """
    parts = [_saelens_parts(transcoders, layer) for layer in range(transcoders.n_layers)]
    folder = _empty_but_for(Path(folder), [f"layer_{layer}" for layer in range(len(parts))])
    for layer, (config, weights) in enumerate(parts):
        place = folder / f"layer_{layer}"
        place.mkdir(exist_ok=True)
        _save(weights, place / WEIGHTS, dtype)
        (place / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    return folder


def read_saelens(
    folders: Path | str | Sequence[Path | str], *, model: TransformerBridge | None = None
) -> Transcoders:
    """Per-layer transcoders from SAELens' folders, in float32.

    Args:
        folders: one for each layer in any order, or one that holds them.
        model: what they should fit.

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
        about = _saelens_config(folder)
        layer = _saelens_layer(about, folder.name)
        if layer in parts:
            raise ValueError(f"folders hold layer {layer} twice; each layer should be there once")
        parts[layer] = _saelens_weights(folder, about["architecture"])
        names.add(about.get("model_name") or "")
    if len(names) > 1:
        raise ValueError(
            f"folders hold transcoders of the models {', '.join(sorted(names))}; it should be one model"
        )
    return _joined(parts, "plt", *names, model)


def _saelens_parts(transcoders: Transcoders, layer: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
            "hook_name": f"blocks.{layer}.{_READS}",
            "hook_name_out": f"blocks.{layer}.{_WRITES}",
        },
    }
    return config, {name: value.detach().float().contiguous() for name, value in weights.items()}


def _saelens_config(folder: Path) -> dict[str, Any]:
    """``cfg.json`` with the metadata beside the rest, checked as far as one layer goes."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        config = config | (config.get("metadata") or {})
    except (OSError, ValueError, AttributeError, TypeError):
        raise ValueError(f"folder is {folder.name!r}; it should hold SAELens' {CONFIG}, as JSON") from None
    kind, normalised = config.get("architecture"), config.get("normalize_activations", "none")
    if kind not in _SAELENS_KINDS:
        raise ValueError(
            f"architecture of {folder.name!r} is {kind!r}; it should be one of {', '.join(_SAELENS_KINDS)}"
        )
    if normalised not in ("none", None):
        raise ValueError(f"normalize_activations of {folder.name!r} is {normalised!r}; it should be 'none'")
    return config


def _saelens_layer(about: Mapping[str, Any], folder: str) -> int:
    """The layer that an SAELens transcoder is about, from where it reads and writes."""
    reads, writes = about.get("hook_name"), about.get("hook_name_out")
    found = re.fullmatch(rf"blocks\.(\d+)\.({re.escape(_READS)}|{re.escape(_FOLDED_READS)})", str(reads))
    if not found:
        raise ValueError(
            f"hook_name of {folder!r} is {reads!r}; it should be an MLP's input, blocks.L.{_READS}"
        )
    layer = int(found[1])
    if writes not in [f"blocks.{layer}.{name}" for name in _SAME_WRITES]:
        raise ValueError(f"hook_name_out of {folder!r} is {writes!r}; it should be blocks.{layer}.{_WRITES}")
    if (
        found[2] == _FOLDED_READS
        and (about.get("model_from_pretrained_kwargs") or {}).get("fold_ln") is False
    ):
        raise ValueError(
            f"hook_name of {folder!r} is {reads!r} of a model with fold_ln=False, where a norm's scale comes "
            "before "
            f"it; it should be blocks.{layer}.{_READS}"
        )
    return layer


def _saelens_weights(folder: Path, architecture: str) -> dict[str, Tensor]:
    stored = _load(folder / WEIGHTS)
    needed = ["W_enc", "b_enc", "W_dec", "b_dec"]
    needed += ["threshold"] * ("jumprelu" in architecture) + ["W_skip"] * ("skip" in architecture)
    part = _chosen(stored, needed, folder / WEIGHTS)
    if "threshold" in part:
        part["threshold"] = part["threshold"].clamp(min=0)  # there a ReLU comes first
    if "W_skip" in part:
        part["W_skip"] = part["W_skip"].mT
    return part | {"W_dec": part["W_dec"][None]}


# ------------------------------------------------------------------ circuit-tracer


def write_circuit_tracer(
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
    files = {}
    for layer in range(transcoders.n_layers):
        files |= (_plt_file if transcoders.kind == "plt" else _clt_files)(transcoders, layer)
    folder = _empty_but_for(Path(folder), files)
    for name, weights in files.items():
        _save(weights, folder / name, dtype)
    (kind,) = [name for name, ours in _MODEL_KINDS.items() if ours == transcoders.kind]
    about = {
        "model_name": transcoders.model,
        "model_kind": kind,
        "feature_input_hook": _READS,
        "feature_output_hook": _WRITES,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    return folder


def read_circuit_tracer(folder: Path | str, *, model: TransformerBridge | None = None) -> Transcoders:
    """Transcoders from a folder in circuit-tracer's layout, in float32.

    Args:
        folder: with a ``config.yaml`` and the safetensors files.
        model: what they should fit.

    Raises:
        ValueError: files or parts that are missing, damaged or not finite; layers that are missing or don't
            agree; a TopK activation or a hook point that has no equal here; another model's transcoders.
    """
    folder = Path(folder)
    about = _circuit_tracer_config(folder)
    kind = _MODEL_KINDS[about["model_kind"]]
    start, read = ("layer_", _read_plt) if kind == "plt" else ("W_enc_", _read_clt)
    layers = [re.fullmatch(rf"{start}(\d+)\.safetensors", file.name) for file in folder.iterdir()]
    parts = {int(found[1]): read(folder, int(found[1])) for found in layers if found}
    if not parts:
        raise ValueError(f"folder is {folder.name!r}; it should hold {start}0.safetensors and so on")
    return _joined(parts, kind, str(about.get("model_name") or ""), model)


def _circuit_tracer_config(folder: Path) -> dict[str, Any]:
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
    if reads != _READS or writes not in _SAME_WRITES:
        raise ValueError(
            f"hooks of {folder.name!r} are {reads!r} and {writes!r}; they should be {_READS!r} and "
            f"{_WRITES!r}, what "
            "an MLP reads before its norm's scale, and writes"
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
    stored = _load(file)
    if "k" in stored:
        raise ValueError(
            f"{file.name} of {folder.name!r} holds k, of a TopK activation; it should be JumpReLU or ReLU"
        )
    stored = {name.removeprefix("activation_function."): value for name, value in stored.items()}
    optional = [name for name in ("threshold", "W_skip") if name in stored]
    part = _chosen(stored, ["W_enc", "b_enc", "W_dec", "b_dec", *optional], file)
    if "W_skip" in part:
        part["W_skip"] = part["W_skip"].mT
    return part | {"W_enc": part["W_enc"].mT, "W_dec": part["W_dec"][None]}


def _read_clt(folder: Path, layer: int) -> dict[str, Tensor]:
    encoders, decoders = (folder / f"{name}_{layer}.safetensors" for name in ("W_enc", "W_dec"))
    stored = {name.removesuffix(f"_{layer}"): value for name, value in _load(encoders).items()}
    part = _chosen(stored, ["W_enc", "b_enc", "b_dec"] + ["threshold"] * ("threshold" in stored), encoders)
    decoder = _chosen(_load(decoders), [f"W_dec_{layer}"], decoders, dimensions=3)[f"W_dec_{layer}"]
    return part | {"W_enc": part["W_enc"].mT, "W_dec": decoder.transpose(0, 1)}


# ------------------------------------------------------------------ both


def _joined(
    parts: Mapping[int, dict[str, Tensor]], kind: Kind, name: str, model: TransformerBridge | None
) -> Transcoders:
    """Transcoders from the parts of each layer, in our orientation; without thresholds they are ReLUs."""
    if sorted(parts) != list(range(len(parts))):
        raise ValueError(f"layers {sorted(parts)} are there; it should be each from 0 to {max(parts)}")
    if not any(
        "threshold" in part for part in parts.values()
    ):  # in one layer only, it would have been lost there
        parts = {
            layer: part | {"threshold": torch.zeros_like(part["b_enc"])} for layer, part in parts.items()
        }
    first = {part: tuple(value.shape) for part, value in parts[0].items() if part != "W_dec"}
    for layer in range(1, len(parts)):
        found = {part: tuple(value.shape) for part, value in parts[layer].items() if part != "W_dec"}
        if found != first:
            raise ValueError(
                f"layer {layer} holds parts of shapes {found}; it should be as in layer 0, {first}"
            )
    stacked = {part: torch.stack([parts[layer][part] for layer in range(len(parts))]) for part in first}
    decoders = tuple(parts[layer]["W_dec"].contiguous() for layer in range(len(parts)))
    transcoders = Transcoders(W_dec=decoders, kind=kind, model=name, **stacked)
    if model is not None:
        check_fits(model, transcoders)
    return transcoders


def _chosen(
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


def _load(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError):
        fault = "is damaged" if file.exists() else "is missing"
        raise ValueError(
            f"{file.name} of {file.parent.name!r} {fault}; it should hold weights, as safetensors"
        ) from None


def _save(weights: Mapping[str, Tensor], file: Path, dtype: torch.dtype) -> None:
    save_file({name: value.detach().to("cpu", dtype).contiguous() for name, value in weights.items()}, file)


def _empty_but_for(folder: Path, names: Iterable[str]) -> Path:
    """The folder, made where needed; readers take every layer that they find, so there must be no others."""
    names = set(names)
    others = [
        file.name for start in ("layer_", "W_enc_", "W_dec_") for file in sorted(folder.glob(f"{start}*"))
    ]
    for name in others:
        if name not in names:
            raise ValueError(
                f"folder is {folder.name!r}, which holds {name} of other transcoders; it should be empty"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
