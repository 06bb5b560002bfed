"""A Llama-architecture GGUF file as an ordinary Hugging Face folder, in float32.

Only what dequantisation adds is here: the weights are exactly those of the quantised file. The route in
``transformers`` takes several times as long and drops a rule of the tokenizer.
"""

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

_WEIGHTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_TOP = {
    "token_embd": "model.embed_tokens.weight",
    "output_norm": "model.norm.weight",
    "output": "lm_head.weight",
}
_CONTROL = 3  # gguf's token type of special tokens such as <|endoftext|>


def convert(source: Path, folder: Path, *, bos: str) -> None:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer's files into ``folder``.

    Args:
        source: the GGUF file; architecture ``llama``, byte-level BPE tokenizer.
        folder: an existing folder.
        bos: text of the token that the tokenizer shall call its beginning-of-sequence token.

    Raises:
        ValueError: another architecture, or a ``bos`` that is not a token.
    """
    reader = GGUFReader(str(source))
    meta = {name: field.contents() for name, field in reader.fields.items()}
    if meta["general.architecture"] != "llama":
        raise ValueError(f"source has architecture {meta['general.architecture']!r}; it should be 'llama'")
    if bos not in meta["tokenizer.ggml.tokens"]:
        raise ValueError(f"bos is {bos!r}; it should be a token of the model")
    weights = read_weights(reader, meta)
    read_config(meta, tied="lm_head.weight" not in weights, bos=bos).save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    read_tokenizer(meta, bos=bos).save_pretrained(folder)


def read_weights(reader: GGUFReader, meta: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All weights in float32 under Hugging Face's names."""
    heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
    weights = {}
    for tensor in reader.tensors:
        value = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if not tensor.name.startswith("blk."):
            weights[_TOP[tensor.name.removesuffix(".weight")]] = value
            continue
        _, layer, kind, _ = tensor.name.split(".")
        if kind in heads:
            value = _rotate_half_layout(value, heads[kind])
        weights[f"model.layers.{layer}.{_WEIGHTS[kind]}.weight"] = value
    return weights


def _rotate_half_layout(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo GGUF's order of the rotary dimensions (pairs side by side) in a query or key projection."""
    rows, columns = weight.shape
    pairs = rows // heads // 2
    return weight.reshape(heads, pairs, 2, columns).transpose(1, 2).reshape(rows, columns).contiguous()


def read_config(meta: dict[str, Any], *, tied: bool, bos: str) -> LlamaConfig:
    """The Llama configuration that the file's header describes."""
    tokens = meta["tokenizer.ggml.tokens"]
    heads, width = meta["llama.attention.head_count"], meta["llama.embedding_length"]
    return LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=meta["llama.feed_forward_length"],
        num_hidden_layers=meta["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=meta["llama.attention.head_count_kv"],
        head_dim=width // heads,
        max_position_embeddings=meta["llama.context_length"],
        # the file holds a float32; 1e-5 is what was meant
        rms_norm_eps=float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
        tie_word_embeddings=tied,
        bos_token_id=tokens.index(bos),
        eos_token_id=meta["tokenizer.ggml.eos_token_id"],
        pad_token_id=meta["tokenizer.ggml.padding_token_id"],
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )


def read_tokenizer(meta: dict[str, Any], *, bos: str) -> PreTrainedTokenizerFast:
    """The byte-level BPE tokenizer of the file, digits split one by one.

    The digit rule is not in the file's token list but in its name for the pre-tokenizer (``smollm``). Without
    it, numerals such as ½ or ① are merged otherwise; of 0 to 9 the vocabulary holds single digits only.
    """
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in meta["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    bpe.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        add_bos_token=True,
        eos_token=tokens[meta["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[meta["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[meta["tokenizer.ggml.unknown_token_id"]],
        model_max_length=meta["llama.context_length"],
        chat_template=meta.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )
