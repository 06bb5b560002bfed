"""Three-layer models for the tests of circuits, and one whose circuit was put in by hand."""

from pathlib import Path

import tiny_models
import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from mi_utils import models
from mi_utils.circuits.edges import edge_graph

VOCABULARY = 13
KINDS = {
    "LayerNorm": {"normalization_type": "LN", "act_fn": "gelu"},
    "grouped": {
        "normalization_type": "RMS",
        "act_fn": "silu",
        "gated_mlp": True,
        "n_key_value_heads": 2,
        "positional_embedding_type": "rotary",
    },
    "attention only": {"normalization_type": None, "attn_only": True},
}


def native(kind: str, *, seed: int = 0, spread: float = 0.3, **settings) -> TransformerBridge:
    """Three layers of four heads; weights and biases large enough for all of it to be nonlinear."""
    shape = {
        "d_model": 24,
        "d_head": 6,
        "n_layers": 3,
        "n_heads": 4,
        "n_ctx": 16,
        "d_vocab": VOCABULARY,
        "d_mlp": 32,
    }
    model = TransformerBridge.boot_native(
        TransformerBridgeConfig(**(shape | KINDS[kind] | settings), seed=seed)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(model.original_model.named_parameters()):
            if value.ndim == 2 or name.endswith("bias"):
                value.copy_(spread * torch.randn(value.shape, generator=generator))
            else:  # the scale of a norm
                value.copy_(1 + 0.3 * torch.randn(value.shape, generator=generator))
    return model.eval()


def pairs(*, seed: int = 0, count: int = 3, length: int = 6) -> tuple[Tensor, Tensor]:
    """Clean and corrupted prompts, which differ at positions 2 and 3."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(VOCABULARY, (count, length), generator=generator)
    corrupted = clean.clone()
    corrupted[:, 2:4] = (
        clean[:, 2:4] + torch.randint(1, VOCABULARY, (count, 2), generator=generator)
    ) % VOCABULARY
    return clean, corrupted


def metric(logits: Tensor) -> Tensor:
    return logits[..., 5] - logits[..., 9]


# What the model made by hand consists of.
CIRCUIT = [("embed", "0.0.v"), ("0.0", "1.1.v"), ("embed", "1.1.k"), ("1.1", "logits")]
_WORD, _KEY, _COPY, _ANSWER, _JUNK = (slice(4 * part, 4 * part + 4) for part in range(5))


def by_hand() -> tuple[TransformerBridge, Bool[Tensor, "sender receiver"]]:
    """Two layers of two heads, no norms: only the four edges of ``CIRCUIT`` lead from the tokens to the
    logits.

    Head 0.0 averages over positions what it reads in the words and writes it to a copy. Head 1.1 reads the
    copy as its values and writes the answer; where it attends depends on its keys, read from a flag of each
    token. Heads 0.1 and 1.0 are random, and write where nothing reads; queries of 1.1 are a constant.
    """
    model = native("attention only", n_layers=2, n_heads=2, d_head=4, d_model=20, spread=1.0)
    eye, first, second = torch.eye(4), _parts(model, 0), _parts(model, 1)
    with torch.no_grad():
        for name, value in model.original_model.named_parameters():
            if name.endswith("bias") or ".pos." in f".{name}":
                value.zero_()
        for parts in (
            first,
            second,
        ):  # rows of q, k and v, and columns of o: four a head; nothing reads the junk
            for kind in "qkv":
                parts[kind].weight[:, _JUNK] = 0
            parts["o"].weight[: _JUNK.start] = 0
        for parts, rows in (
            (first, slice(0, 4)),
            (second, slice(4, 8)),
        ):  # the two heads that matter start from zero
            for kind in "qkv":
                parts[kind].weight[rows] = 0
            parts["o"].weight[:, rows] = 0
        first["v"].weight[:4, _WORD] = eye
        first["o"].weight[_COPY, :4] = eye
        second["q"].bias[4:] = 1
        second["k"].weight[4:, _KEY] = eye
        second["v"].weight[4:, _COPY] = eye
        second["o"].weight[_ANSWER, 4:] = 3 * eye
        model.embed.original_component.weight[:, _COPY.start :] = (
            0  # [vocab, d_model], as is the unembedding's
        )
        unembed = model.unembed.original_component.weight
        unembed[:, : _ANSWER.start] = 0
        unembed[:, _JUNK] = 0
    return model, edge_graph(model).mask(CIRCUIT)


def _parts(model: TransformerBridge, layer: int) -> dict[str, torch.nn.Linear]:
    return {kind: getattr(model.blocks[layer].attn, kind).original_component for kind in "qkvo"}


def three_layers(kind: str, folder: Path, seed: int = 0) -> TransformerBridge:
    """A random model of Hugging Face's with three layers: Llama (grouped queries, rotary), GPT-2 or GPT-NeoX.

    In GPT-NeoX attention and MLP of a layer read the same stream, and positions are rotary on a part of each
    head.
    """
    sizes = {
        "vocab_size": tiny_models.bpe().get_vocab_size(),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "initializer_range": 0.2,
    }
    wide = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    makers = {
        "Llama": lambda: (
            LlamaForCausalLM,
            LlamaConfig(**sizes, **wide, num_key_value_heads=2, pad_token_id=0),
        ),
        "GPT-2": lambda: (
            GPT2LMHeadModel,
            GPT2Config(**sizes, n_positions=64, n_embd=32, n_layer=3, n_head=4),
        ),
        "GPT-NeoX": lambda: (GPTNeoXForCausalLM, GPTNeoXConfig(**sizes, **wide, use_parallel_residual=True)),
    }
    return models.load_model(str(tiny_models.save(tiny_models._random(*makers[kind](), seed), folder)))
