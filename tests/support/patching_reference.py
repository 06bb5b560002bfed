"""The slow way to patch, which the engine is measured against: one forward pass with hooks for each set of
patches."""

from pathlib import Path

import circuit_models
import tiny_models
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from mi_utils import models
from mi_utils.patching.engine import HEAD_AXIS, POSITION_AXIS, Metric, Patch

SITES = (
    "resid_pre",
    "attn_out",
    "resid_mid",
    "mlp_pre",
    "mlp_post",
    "mlp_out",
    "resid_post",
    "q",
    "k",
    "v",
    "z",
    "pattern",
    "scores",
)
MISSING = {
    "native": (
        "resid_mid",
        "mlp_pre",
        "mlp_post",
        "mlp_out",
        "pattern",
        "scores",
    ),  # attention alone, of its own way
    "neox": ("resid_mid",),  # attention and MLP side by side
}


def load(kind: str, folder: Path) -> TransformerBridge:
    """Llama with grouped queries, GPT-2, NeoX with parallel blocks, or three layers of attention without a
    cache."""
    if kind == "native":
        return circuit_models.native("attention only", normalization_type="LN")
    made = {"llama": tiny_models.llama, "gpt2": tiny_models.gpt2, "neox": neox}[kind]()
    return models.load_model(str(tiny_models.save(made, folder / f"tiny-{kind}")))


def neox() -> GPTNeoXForCausalLM:
    """Two layers whose attention and MLP read the same stream; rotary positions on a quarter of each head."""
    sizes = {
        "vocab_size": tiny_models.bpe().get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    config = GPTNeoXConfig(
        **sizes, use_parallel_residual=True, bos_token_id=0, eos_token_id=0, initializer_range=0.2
    )
    return tiny_models._random(GPTNeoXForCausalLM, config, 0)


def pairs(model: TransformerBridge, *, count: int = 3, length: int = 9) -> tuple[Tensor, Tensor]:
    """Random prompts and their partners: prompt i differs at position 3 + i, and the first at position 7
    too."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, model.cfg.d_vocab, (count, length), generator=generator)
    other = tokens.clone()
    for i in range(count):
        other[i, 3 + i] = (tokens[i, 3 + i] + 3) % model.cfg.d_vocab
    other[0, 7] = (tokens[0, 7] + 5) % model.cfg.d_vocab
    return tokens, other


@torch.no_grad()
def patched_logits(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], patches: list[Patch]
) -> Tensor:
    """Logits at the last position of a whole run with a hook for each patch."""

    def hook(patch: Patch):
        def put(value: Tensor, hook: object) -> Tensor:
            if patch.site != "resid_mid":  # its hook is where the MLP reads; the stream is this very tensor
                value = value.clone()
            where = [slice(None)] * value.ndim
            if patch.position is not None:
                where[POSITION_AXIS.get(patch.site, 1)] = patch.position
            if patch.head is not None:
                where[HEAD_AXIS[patch.site]] = patch.head
            value[tuple(where)] = patch.value.expand(value.shape)[tuple(where)]
            return value

        return models.hook_name(model, patch.site, patch.layer), put

    return model.run_with_hooks(tokens, fwd_hooks=[hook(patch) for patch in patches])[:, -1]


def swept(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], source, site: str, metric: Metric, by: str
) -> Float[Tensor, "layer part batch"]:
    """A sweep, patch by patch."""
    count = tokens.shape[1] if by == "position" else models.n_heads(model, site)
    rows = []
    for layer in range(model.cfg.n_layers):
        sets = [[Patch(site, layer, source[site, layer], **{by: i})] for i in range(count)]
        rows.append(torch.stack([metric(patched_logits(model, tokens, patches)) for patches in sets]))
    return torch.stack(rows)
