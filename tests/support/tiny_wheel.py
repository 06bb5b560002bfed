"""A package of the package index with a language model in it, in miniature."""

import base64
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import tiny_models
from gguf import GGUFWriter, TokenType
from transformers import LlamaForCausalLM

from mi_utils.data_files import sha256
from mi_utils.models.wheel import WheelSpec

PACKAGE, VERSION, MEMBER = "mi-tiny", "1.0", "mi_tiny/tiny.gguf"
WHEEL = f"mi_tiny-{VERSION}-py3-none-any.whl"
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """The order of rotary dimensions in a GGUF file, as llama.cpp's ``convert_hf_to_gguf.py`` writes it."""
    rows = weight.shape[0]
    return (
        weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def write_gguf(model: LlamaForCausalLM, target: Path, *, architecture: str = "llama") -> Path:
    """The model in float32, with the tokenizer of ``tiny_models.bpe``; the file calls ``TURN`` its start
    token."""
    config = model.config
    writer = GGUFWriter(str(target), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    _write_tokenizer(writer)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value, stem = value.numpy().astype(np.float32), name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, layer, rest = stem.split(".", 3)
            kind = _NAMES[rest]
            value = permute(value, heads[kind]) if kind in heads else value
            stem = f"blk.{layer}.{kind}"
        else:
            stem = _NAMES[stem]
        writer.add_tensor(f"{stem}.weight", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _write_tokenizer(writer: GGUFWriter) -> None:
    bpe = json.loads(tiny_models.bpe().to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    special = {tiny_models.START, tiny_models.TURN}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(tokens.index(tiny_models.TURN))
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def write_wheel(gguf: Path, folder: Path) -> Path:
    """A wheel that pip accepts, with the model as its only content."""
    info = f"mi_tiny-{VERSION}.dist-info"
    files = {
        MEMBER: gguf.read_bytes(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return folder / WHEEL


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def spec(gguf: Path, wheel: Path) -> WheelSpec:
    return WheelSpec(
        name="tiny",
        package=PACKAGE,
        version=VERSION,
        wheel_sha256=sha256(wheel),
        wheel_bytes=wheel.stat().st_size,
        member=MEMBER,
        gguf_sha256=sha256(gguf),
        bos=tiny_models.START,
        disk_bytes=10_000_000,
    )
