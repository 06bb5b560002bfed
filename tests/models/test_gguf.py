"""A GGUF file becomes the Hugging Face folder that it was made from."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_models
import tiny_wheel
import torch
from safetensors.torch import load_file
from sentences import assert_one_sentence
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from mi_utils import models


@dataclass
class Converted:
    original: LlamaForCausalLM
    source: Path
    folder: Path


@pytest.fixture(scope="module", params=["tied", "untied"])
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp(request.param)
    original = tiny_models.llama(tied=request.param == "tied")
    source = tiny_wheel.write_gguf(original, folder / "source.gguf")
    models.convert(source, folder, bos=tiny_models.START)
    return Converted(original, source, folder)


def test_weights_are_those_of_the_original(converted: Converted):
    weights, expected = load_file(converted.folder / "model.safetensors"), converted.original.state_dict()
    if converted.original.config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    assert set(weights) == set(expected)
    for name, value in expected.items():
        assert weights[name].dtype == torch.float32
        assert torch.equal(weights[name], value), name


def test_queries_and_keys_are_reordered_in_the_file(converted: Converted):
    """Otherwise the test above would also pass without undoing anything."""
    for kind, heads in (("q", 4), ("k", 2)):
        weight = converted.original.state_dict()[f"model.layers.0.self_attn.{kind}_proj.weight"].numpy()
        assert not (tiny_wheel.permute(weight, heads) == weight).all()


def test_transformers_own_reader_agrees(converted: Converted):
    """An independent witness for the order of rotary dimensions."""
    theirs = AutoModelForCausalLM.from_pretrained(converted.folder, gguf_file="source.gguf").state_dict()
    for name, value in load_file(converted.folder / "model.safetensors").items():
        assert torch.allclose(theirs[name], value, atol=1e-6), name


def test_logits_are_those_of_the_original(converted: Converted):
    loaded = AutoModelForCausalLM.from_pretrained(converted.folder).eval()
    ids = torch.tensor([[0, *range(20, 60)]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, converted.original(ids).logits)


def test_configuration_is_that_of_the_original(converted: Converted):
    ours, theirs = (
        json.loads((converted.folder / "config.json").read_text()),
        converted.original.config.to_dict(),
    )
    for key in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_parameters",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    ):
        assert ours[key] == theirs[key], key


def test_tokenizer_is_that_of_the_original(converted: Converted):
    tokenizer, original = AutoTokenizer.from_pretrained(converted.folder), tiny_models.bpe()
    for text in (
        *tiny_models.SENTENCES,
        "In 1984, 007",
        f"a{tiny_models.TURN}b{tiny_models.START}",
        "naïve 你好 \n\t",
    ):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == original.encode(text).ids, text
        assert tokenizer.decode(ids) == text
    # The file says <|im_start|>, the caller has the last word.
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == (tiny_models.START, 0)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0)
    assert tokenizer.chat_template == "{{ messages[0]['content'] }}"
    assert tokenizer.model_max_length == tiny_models.CONTEXT


def test_digits_are_split_one_by_one(converted: Converted):
    """A vocabulary without tokens of several digits would hide it if they were not."""
    splits = AutoTokenizer.from_pretrained(converted.folder).backend_tokenizer.pre_tokenizer.pre_tokenize_str(
        "a 42½"
    )
    assert [piece for piece, _ in splits] == ["a", "Ġ", "4", "2", "Â½"]


def test_start_token_must_be_a_token(converted: Converted, tmp_path: Path):
    with pytest.raises(ValueError) as caught:
        models.convert(converted.source, tmp_path, bos="<|nothing|>")
    assert_one_sentence(caught.value, "<|nothing|>", "token")


def test_other_architectures_are_refused(tmp_path: Path):
    source = tiny_wheel.write_gguf(tiny_models.llama(), tmp_path / "source.gguf", architecture="gemma")
    with pytest.raises(ValueError) as caught:
        models.convert(source, tmp_path, bos=tiny_models.START)
    assert_one_sentence(caught.value, "'gemma'", "'llama'")
    assert not (tmp_path / "model.safetensors").exists()
