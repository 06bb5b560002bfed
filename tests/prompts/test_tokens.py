"""Text to ids and back, and each thing that can be wrong with a text."""

import inspect
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from sentences import assert_one_sentence
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import prompts
from mi_utils.models.load import load_model

FRANCE = "The capital of France is"


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def short_model(tmp_path_factory: pytest.TempPathFactory) -> TransformerBridge:
    """Reads 16 tokens."""
    folder = tmp_path_factory.mktemp("short") / "short-llama"
    return load_model(str(tiny_models.save(tiny_models.llama(context=16), folder)))


def test_one_prompt_is_a_batch_of_one(model: TransformerBridge):
    tokens = prompts.encode(model, FRANCE)
    assert tokens.shape[0] == 1 and tokens.dtype == torch.int64
    assert tokens[0, 0] == 0
    assert tokens.tolist() == model.to_tokens(FRANCE).tolist() == prompts.encode(model, [FRANCE]).tolist()
    assert model.tokenizer.decode(tokens[0, 1:]) == FRANCE


def test_several_prompts_are_rows(model: TransformerBridge):
    texts = ("abc", "abd", "xyz")
    tokens = prompts.encode(model, texts)
    assert [model.tokenizer.decode(row[1:]) for row in tokens] == list(texts)


def test_start_token_of_a_model_without_one():
    """Then it is the end token."""
    tokenizer = SimpleNamespace(bos_token_id=None, eos_token_id=7)
    assert inspect.unwrap(prompts.start_token)(SimpleNamespace(tokenizer=tokenizer)) == 7


def test_empty_prompt_and_empty_list(model: TransformerBridge):
    for text, said in (
        ("", "empty prompt"),
        (["abc", ""], "empty prompt"),
        ([], "empty list"),
        ((), "empty list"),
    ):
        with pytest.raises(ValueError) as caught:
            prompts.encode(model, text)
        assert_one_sentence(caught.value, "text", said, "at least one")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (5, "5 (int)"),
        (None, "None (NoneType)"),
        (b"abc", "b'abc' (bytes)"),
        (["abc", 5], "['abc', 5] (list)"),
        (torch.tensor(5), "tensor(5) (Tensor)"),
        (torch.zeros(9, 9), "tensor([[0., 0., 0."),
    ],
)
def test_what_is_no_text(text: object, shown: str, unchecked: None, llama_model: TransformerBridge):
    with pytest.raises(ValueError) as caught:
        prompts.encode(llama_model, text)
    assert_one_sentence(caught.value, f"text is {shown}", "a prompt (a string) or a list of prompts")
    with pytest.raises(ValueError) as caught:
        prompts.single_token(llama_model, text)
    assert_one_sentence(caught.value, f"text is {shown}", "a string that is one token")
    assert len(str(caught.value)) < 150


def test_different_lengths_name_the_odd_one(model: TransformerBridge):
    with pytest.raises(ValueError) as caught:
        prompts.encode(model, ["abc", "xyz", "abcxyz", "abcxyzz"])
    assert_one_sentence(caught.value, "4 for 'abc'", "7 for 'abcxyz'", "equally long")


def test_longer_than_the_context(short_model: TransformerBridge):
    fits = "x" * 15
    assert prompts.encode(short_model, fits).shape == (1, 16)
    with pytest.raises(ValueError) as caught:
        prompts.encode(short_model, fits + "x")
    assert_one_sentence(caught.value, "17 tokens", "short-llama", "at most 16")


def test_single_token(model: TransformerBridge):
    for index in (5, 100, 300):
        text = model.tokenizer.decode([index])
        if "\ufffd" not in text:
            assert prompts.single_token(model, text) == index


def test_single_token_that_is_two_names_the_pieces(real_model: TransformerBridge):
    assert prompts.token_strings(real_model, prompts.single_token(real_model, " Paris")) == [" Paris"]
    with pytest.raises(ValueError) as caught:
        prompts.single_token(real_model, " 42")
    assert_one_sentence(caught.value, "' 42'", "3 tokens", "[' ', '4', '2']", "exactly one")


def test_single_token_that_is_none(model: TransformerBridge):
    with pytest.raises(ValueError) as caught:
        prompts.single_token(model, "")
    assert_one_sentence(caught.value, "''", "0 tokens", "exactly one")


@pytest.mark.parametrize(
    "form", [lambda t: t, lambda t: t[0], lambda t: t[0].tolist(), lambda t: tuple(t[0].tolist())]
)
def test_token_strings_join_to_the_text(form, model: TransformerBridge):
    text = f" {FRANCE} , don't\n\t007"
    strings = prompts.token_strings(model, form(prompts.encode(model, text)))
    assert strings[0] == tiny_models.START
    assert "".join(strings[1:]) == text


def test_token_strings_of_one_id_and_of_none(model: TransformerBridge):
    assert (
        prompts.token_strings(model, 0)
        == prompts.token_strings(model, torch.tensor(0))
        == [tiny_models.START]
    )
    assert prompts.token_strings(model, []) == []


@pytest.mark.parametrize("unknown", [-1, 10**6])
def test_unknown_id(unknown: int, model: TransformerBridge):
    with pytest.raises(ValueError) as caught:
        prompts.token_strings(model, [0, unknown])
    assert_one_sentence(caught.value, "tokens", str(unknown), f"from 0 to {model.cfg.d_vocab - 1}")


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        ("hi", "'hi' (str)"),
        (["hi", "there"], "['hi', 'there'] (list)"),
        (None, "None (NoneType)"),
        (1.0, "1.0 (float)"),
        ([[1], [1, 2]], "[[1], [1, 2]] (list)"),
        (torch.tensor([True]), "tensor([True]) (Tensor)"),
        (torch.zeros(9, 9), "tensor([[0., 0., 0."),
    ],
)
def test_what_are_no_ids(tokens: object, shown: str, unchecked: None, llama_model: TransformerBridge):
    with pytest.raises(ValueError) as caught:
        prompts.token_strings(llama_model, tokens)
    assert_one_sentence(caught.value, f"tokens is {shown}", "token ids (whole numbers)")
    assert len(str(caught.value)) < 150


def test_ids_and_texts_of_numpy(unchecked: None, llama_model: TransformerBridge):
    tokens = prompts.encode(llama_model, np.array(["abc", "abd"]))
    assert tokens.tolist() == prompts.encode(llama_model, ["abc", "abd"]).tolist()
    assert prompts.token_strings(llama_model, tokens[0].numpy()) == prompts.token_strings(
        llama_model, tokens[0]
    )


def test_first_id_too_many(model: TransformerBridge):
    assert prompts.token_strings(model, model.cfg.d_vocab - 1)
    with pytest.raises(ValueError):
        prompts.token_strings(model, model.cfg.d_vocab)


def test_several_rows_are_refused(model: TransformerBridge):
    for rows in (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(1, 1, 3, dtype=torch.int64)):
        with pytest.raises(ValueError) as caught:
            prompts.token_strings(model, rows)
        assert_one_sentence(caught.value, "tokens", str(tuple(rows.shape)), "one row")


def test_tokens_lie_where_the_model_is(tiny_llama: Path, tmp_path: Path):
    model = load_model(str(shutil.copytree(tiny_llama, tmp_path / "m")))
    model.cfg.device = "meta"
    assert prompts.encode(model, "abc").device.type == "meta"
