"""The default model's tokenizer, against the ids that llama.cpp gives (``data/tokenizer_reference.json``)."""

import json

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import data_files, prompts
from mi_utils.models.load import REGISTRY


@pytest.fixture(scope="module")
def reference() -> list[dict]:
    return json.loads(data_files.path("tokenizer_reference.json").read_text(encoding="utf-8"))


def test_reference_is_large_and_varied(reference: list[dict]):
    texts = [row["text"] for row in reference]
    assert len(set(texts)) == len(texts) >= 300
    assert sum(any(c.isdigit() for c in text) for text in texts) >= 30
    assert sum(not text.isascii() for text in texts) >= 20


def test_every_id_equals_llama_cpps(real_model: TransformerBridge, reference: list[dict]):
    wrong = []
    for row in reference:
        ids = real_model.tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        if ids != row["ids"]:
            wrong.append((row["text"], ids, row["ids"]))
    assert not wrong, f"{len(wrong)} of {len(reference)} differ, first {wrong[0]}"


def test_digit_rule_is_needed(reference: list[dict]):
    """The reference has a text that only the rule gets right.

    No token of this vocabulary holds two ASCII digits, so it is numerals of several bytes that tell.
    """
    tokenizer = Tokenizer.from_file(str(REGISTRY["smollm2-135m"].source.folder() / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    wrong = [
        row["text"]
        for row in reference
        if tokenizer.encode(row["text"], add_special_tokens=False).ids != row["ids"]
    ]
    assert wrong
    assert all(any(c.isnumeric() and not c.isascii() for c in text) for text in wrong)


def test_text_survives_the_round_trip(real_model: TransformerBridge, reference: list[dict]):
    for row in reference:
        assert real_model.tokenizer.decode(row["ids"], clean_up_tokenization_spaces=False) == row["text"]


def test_prompts_begin_with_the_start_token(real_model: TransformerBridge, reference: list[dict]):
    assert prompts.start_token(real_model) == 0
    assert real_model.tokenizer.decode([0]) == "<|endoftext|>"
    for row in reference:
        tokens = prompts.encode(real_model, row["text"])
        assert tokens.tolist() == [[0, *row["ids"]]]
        # TransformerLens' own route; a text that begins with the start token is not given a second one there
        if not row["text"].startswith("<|endoftext|>"):
            assert real_model.to_tokens(row["text"]).tolist() == tokens.tolist(), row["text"]
