"""Small models with random weights, saved as Hugging Face folders: made in a second, by code, without a
network."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

START = "<|endoftext|>"
TURN = "<|im_start|>"
SENTENCES = (
    "When Mary and John went to the store, John gave a drink to Mary.",
    "The capital of France is Paris, and 36 + 59 = 95.",
)
PROMPTS = ("The capital of France is", "When Mary and John went to the store, John", "36 + 59 = 95 <b>", "a")
CONTEXT = 128


def bpe() -> Tokenizer:
    """Byte-level BPE learned from two sentences: ``START``, ``TURN``, 256 bytes, some dozens of merges."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        min_frequency=1,
        special_tokens=[START, TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def save(model: PreTrainedModel, folder: Path) -> Path:
    """Weights as safetensors, with the tokenizer of ``bpe``."""
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=bpe(), bos_token=START, eos_token=START, unk_token=START, pad_token=START
    ).save_pretrained(folder)
    return folder


def llama(*, context: int = CONTEXT, tied: bool = True, seed: int = 0) -> LlamaForCausalLM:
    """Two layers, four heads on two key-value heads, rotary positions."""
    return _random(
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=bpe().get_vocab_size(),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=context,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=tied,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        ),
        seed,
    )


def gpt2(*, seed: int = 0) -> GPT2LMHeadModel:
    """Two layers, four heads, LayerNorm, learned positions, biases everywhere."""
    return _random(
        GPT2LMHeadModel,
        GPT2Config(
            vocab_size=bpe().get_vocab_size(),
            n_positions=CONTEXT,
            n_embd=32,
            n_layer=2,
            n_head=4,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        ),
        seed,
    )


def _random(kind: type, config, seed: int) -> PreTrainedModel:
    """A model whose norms and biases are random too: with ones and zeros, folding them would change
    nothing."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = kind(config).eval()
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_(0, 0.3)
            elif value.ndim == 1:  # the scale of a norm
                value.uniform_(0.3, 1.7)
    return model
