"""Models of other architectures: LayerNorm, learned positions, attention beside the MLP, few layers."""

import json
from pathlib import Path

import torch
from nbformat import NotebookNode
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from mi_utils import models


def gpt2() -> torch.nn.Module:
    size = dict(n_layer=4, n_head=4, n_embd=64, n_positions=128)
    return GPT2LMHeadModel(GPT2Config(vocab_size=49152, bos_token_id=0, eos_token_id=0, **size))


def pythia() -> torch.nn.Module:
    size = dict(num_hidden_layers=4, num_attention_heads=4, hidden_size=64, intermediate_size=256)
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=49152, bos_token_id=0, eos_token_id=0, **size))


def save(model: torch.nn.Module, folder: Path) -> Path:
    """A Hugging Face folder with the default model's tokenizer, the weights drawn anew.

    They are larger than usual, and the norms are not the identity: else half of the architecture would go
    untested.
    """
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.3 * noise if "ln" in name or "norm" in name or "bias" in name else 0.06 * noise
    AutoTokenizer.from_pretrained(models.load.REGISTRY[models.load.DEFAULT].source.folder()).save_pretrained(
        folder
    )
    model.save_pretrained(folder)
    return folder


def is_needed(nb: NotebookNode) -> bool:
    """Whether a notebook loads a model at all."""
    return any("load_model(" in cell.source for cell in nb.cells)


def assert_claims(file: Path) -> None:
    """Identities hold; what is about our model is not asserted of others; toys stay what they are."""
    claims = json.loads(file.read_text())["claims"]
    identities = [claim["verdict"] for claim in claims if claim["source"].startswith("identity")]
    assert identities.count("holds") >= 3 and set(identities) <= {"holds", "not asserted"}
    for claim in claims:
        assert (claim["verdict"] == "not asserted") == bool(claim["models"]), claim["statement"]
