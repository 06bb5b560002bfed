"""The corpus that ships, and how it is cut into contexts."""

import shutil
from pathlib import Path

import pytest
import torch
from sentences import assert_one_sentence
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import corpus, data_files, prompts
from mi_workshop.makers import corpus as recipe

LENGTH = 128


@pytest.fixture
def reader(llama_model: TransformerBridge, monkeypatch: pytest.MonkeyPatch) -> TransformerBridge:
    """A tiny model with the default model's tokenizer, so that nothing is encoded again."""
    monkeypatch.setattr(llama_model, "tokenizer", corpus.default_tokenizer())
    return llama_model


def words(*ids: int) -> torch.Tensor:
    return torch.tensor(ids, dtype=torch.int64)


@pytest.fixture
def three_parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[torch.Tensor]]:
    """Instead of the corpus: parts with 12, 6 and 3 contexts of 5 tokens; every token of theirs occurs
    once."""
    parts = {
        "samples": [torch.arange(100, 123), torch.arange(200, 228)],  # 5 contexts and 3 tokens, 7 contexts
        "novel": [torch.arange(300 + 10 * i, 304 + 10 * i) for i in range(6)],
        "code": [words(1, 2, 3), torch.arange(400, 414)],  # too short, 3 contexts and 2 tokens
    }
    monkeypatch.setattr(corpus, "documents", lambda part, *, split="train": parts[part])
    return parts


def refused(call, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said)


def part_of(row: torch.Tensor) -> str:
    return {1: "samples", 2: "samples", 3: "novel", 4: "code"}[int(row[1]) // 100]


# ------------------------------------------------------------------------------------------------------- the
# file


def test_enough_of_everything():
    assert len(corpus.PARTS) >= 4
    total = 0
    for part in corpus.PARTS:
        train, test = (corpus.documents(part, split=split) for split in corpus.SPLITS)
        assert train and test and 0.05 < len(test) / (len(train) + len(test)) < 0.2
        assert min(map(len, train + test)) >= 16
        total += sum(map(len, train + test))
    assert total >= 1_500_000


def test_tokens_are_those_of_the_default_model(reader: TransformerBridge):
    size = len(reader.tokenizer)
    for part in corpus.PARTS:
        for split in corpus.SPLITS:
            together = torch.cat(corpus.documents(part, split=split))
            assert (
                together.dtype == torch.int64 and together.min() > 0 and together.max() < size
            )  # 0 would start one
    assert "Fellow" in reader.tokenizer.decode(torch.cat(corpus.documents("speeches")).tolist())
    assert "whale" in reader.tokenizer.decode(torch.cat(corpus.documents("novel")).tolist())
    assert "def " in reader.tokenizer.decode(torch.cat(corpus.documents("code")).tolist())


def test_no_document_is_in_both_splits():
    seen: dict[tuple[int, ...], tuple[str, str]] = {}
    for part in corpus.PARTS:
        for split in corpus.SPLITS:
            for document in corpus.documents(part, split=split):
                content = tuple(document.tolist())
                assert seen.setdefault(content, (part, split)) == (part, split)


def test_card_is_up_to_date():
    assert recipe.card() == (data_files.folder() / recipe.CARD).read_text(encoding="utf-8")


def test_licences_of_the_code():
    for package in recipe.CODE:
        name = f"licences/{package}.txt"
        assert "Redistribution and use in source and binary forms" in data_files.path(name).read_text(
            encoding="utf-8"
        )
        assert data_files.manifest()[name]["licence"] == "BSD-3-Clause"


@pytest.mark.parametrize("part", ["nonsense", "", "Novel"])
def test_unknown_part(part: str, llama_model: TransformerBridge):
    refused(lambda: corpus.documents(part), f"part is {part!r}", *corpus.PARTS)
    refused(lambda: corpus.contexts(llama_model, parts=[part]), f"part is {part!r}", *corpus.PARTS)


def test_unknown_split(llama_model: TransformerBridge):
    refused(lambda: corpus.documents("novel", split="dev"), "split is 'dev'", "'train' or 'test'")
    refused(lambda: corpus.contexts(llama_model, split="dev"), "split is 'dev'", "'train' or 'test'")


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_changed_file(
    damage: str, reader: TransformerBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in (corpus.FILE, data_files.MANIFEST):
        shutil.copy(data_files.folder() / name, tmp_path / name)
    monkeypatch.setattr(data_files, "folder", lambda: tmp_path)
    assert corpus.documents("novel")
    if damage == "missing":
        (tmp_path / corpus.FILE).unlink()
    else:
        content = bytearray((tmp_path / corpus.FILE).read_bytes())
        content[-1] ^= 1
        (tmp_path / corpus.FILE).write_bytes(content)
    for call in (lambda: corpus.documents("novel"), lambda: corpus.contexts(reader)):
        refused(call, f"data/{corpus.FILE}", f"`{recipe.COMMAND}` makes it again")


# -------------------------------------------------------------------------------------------------------
# contexts


@pytest.mark.parametrize("split", corpus.SPLITS)
def test_context_is_start_token_and_unbroken_text_of_one_document(split: str, reader: TransformerBridge):
    start = prompts.start_token(reader)
    possible = [
        tuple(document[i : i + LENGTH - 1].tolist())
        for part in corpus.PARTS
        for document in corpus.documents(part, split=split)
        for i in range(0, len(document) - LENGTH + 2, LENGTH - 1)
    ]
    contexts = corpus.contexts(reader, split=split, length=LENGTH)
    assert contexts.shape == (len(possible), LENGTH) and (contexts[:, 0] == start).all()
    assert sorted(tuple(row) for row in contexts[:, 1:].tolist()) == sorted(possible)


def test_no_context_is_in_both_splits(reader: TransformerBridge):
    """Save one that a model writes when it repeats itself without an end."""
    train, test = (
        {tuple(row) for row in corpus.contexts(reader, split=split).tolist()} for split in corpus.SPLITS
    )
    assert train and test
    assert all(recipe.is_degenerate(list(row)) for row in train & test)


def test_seed_decides_the_order(reader: TransformerBridge):
    one, again, other = (corpus.contexts(reader, parts="novel", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert sorted(one.tolist()) == sorted(other.tolist())
    few, others = (corpus.contexts(reader, parts="novel", count=20, seed=seed) for seed in (0, 1))
    assert sorted(few.tolist()) != sorted(others.tolist())  # other rows, not only another order


def test_order_is_random_over_parts_and_documents(three_parts: dict, reader: TransformerBridge):
    rows = corpus.contexts(reader, parts=list(three_parts), length=5)
    names = [part_of(row) for row in rows]
    assert len(rows) == 21 and names != sorted(names) and len(set(names[:12])) > 1
    within = [int(row[1]) for row in rows if part_of(row) == "samples"]
    assert within != sorted(within)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (9, (3, 3, 3)),
        (8, (3, 3, 2)),
        (7, (3, 2, 2)),
        (3, (1, 1, 1)),
        (2, (1, 1, 0)),
        (1, (1, 0, 0)),
        (None, (12, 6, 3)),
    ],
)
def test_count_is_spread_evenly(count: int | None, expected, three_parts: dict, reader: TransformerBridge):
    rows = corpus.contexts(reader, parts=list(three_parts), length=5, count=count)
    names = [part_of(row) for row in rows]
    assert tuple(names.count(part) for part in three_parts) == expected
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


def test_one_part_and_an_iterator_of_parts(three_parts: dict, reader: TransformerBridge):
    assert len(corpus.contexts(reader, parts="novel", length=5)) == 6
    assert len(corpus.contexts(reader, parts=iter(["novel", "code"]), length=5)) == 9
    assert len(corpus.contexts(reader, parts=("novel",), length=5, count=6)) == 6


@pytest.mark.parametrize("count", [0, -1, -7])
def test_count_below_one(count: int, three_parts: dict, reader: TransformerBridge):
    refused(
        lambda: corpus.contexts(reader, parts=list(three_parts), length=5, count=count), f"count is {count}"
    )


def test_more_than_there_is(three_parts: dict, reader: TransformerBridge):
    refused(
        lambda: corpus.contexts(reader, parts="novel", length=5, count=7),
        "count is 7",
        "novel",
        "train",
        "has 6",
    )
    two = ["samples", "code"]
    refused(
        lambda: corpus.contexts(reader, parts=two, length=5, count=8), "count is 8", "4 from code", "has 3"
    )


def test_no_parts(reader: TransformerBridge):
    for parts in ([], ()):
        refused(lambda: corpus.contexts(reader, parts=parts), "parts is empty", *corpus.PARTS)  # noqa: B023


def test_part_named_twice(three_parts: dict, reader: TransformerBridge):
    refused(
        lambda: corpus.contexts(reader, parts=["novel", "code", "novel"], length=5),
        "parts",
        "'novel'",
        "twice",
    )


# ------------------------------------------------------------------------------------------------- another
# tokenizer


@pytest.mark.parametrize("name", ["llama_model", "gpt2_model"])
def test_other_tokenizers_encode_the_text_again(name: str, request, monkeypatch: pytest.MonkeyPatch):
    model, default = request.getfixturevalue(name), corpus.default_tokenizer()
    texts = [
        "When Mary and John went to the store, John gave Mary a drink. " * 3,
        "The capital \u00e9 \n" * 4,
    ]
    stored = [words(*default(text, add_special_tokens=False)["input_ids"]) for text in texts]
    monkeypatch.setattr(corpus, "documents", lambda part, *, split="train": stored)
    rows = corpus.contexts(model, parts="novel", length=9)
    encoded = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    expected = [[0, *ids[i : i + 8]] for ids in encoded for i in range(0, len(ids) - 7, 8)]
    assert sorted(rows.tolist()) == sorted(expected)


def test_same_vocabulary_is_not_encoded_again(reader: TransformerBridge, monkeypatch: pytest.MonkeyPatch):
    """Whatever the model is called."""
    monkeypatch.setattr(corpus, "default_tokenizer", lambda: pytest.fail("encoded again"))
    assert len(corpus.contexts(reader, parts="novel", count=3)) == 3


def test_vocabulary_digest(llama_model: TransformerBridge, gpt2_model: TransformerBridge):
    own = corpus.vocabulary_digest(llama_model.tokenizer)
    assert own == corpus.vocabulary_digest(gpt2_model.tokenizer) and len(own) == 64
    assert own != corpus.vocabulary_digest(corpus.default_tokenizer())


# -------------------------------------------------------------------------------------------------- texts of
# one's own


def test_cut_documents(llama_model: TransformerBridge):
    documents = [torch.arange(10, 20), torch.arange(30, 33), torch.arange(40, 44)]
    rows = corpus.cut_documents(llama_model, documents, length=5)
    assert rows.tolist() == [[0, 10, 11, 12, 13], [0, 14, 15, 16, 17], [0, 40, 41, 42, 43]]


def test_cut_texts(llama_model: TransformerBridge):
    text = "When Mary and John went to the store, John gave a drink to Mary."
    ids = llama_model.tokenizer(text, add_special_tokens=False)["input_ids"]
    for texts in (text, [text], (text,)):
        rows = corpus.cut_documents(llama_model, texts, length=6)
        assert rows.tolist() == [[0, *ids[i : i + 5]] for i in range(0, len(ids) - 4, 5)]
    assert corpus.cut_documents(llama_model, torch.arange(10, 20), length=11).tolist() == [
        [0, *range(10, 20)]
    ]
    mixed = corpus.cut_documents(llama_model, [text, torch.arange(10, 20)], length=6)
    assert mixed.tolist()[-2:] == [[0, *range(10, 15)], [0, *range(15, 20)]]


@pytest.mark.parametrize("length", [1, 0, -3, 129])
def test_length_the_model_cannot_read(length: int, reader: TransformerBridge):
    refused(
        lambda: corpus.cut_documents(reader, ["abc" * 100], length=length), f"length is {length}", "2 to 128"
    )
    refused(lambda: corpus.contexts(reader, length=length), f"length is {length}", "2 to 128")


def test_lengths_at_the_edge(llama_model: TransformerBridge):
    assert corpus.cut_documents(llama_model, [words(7, 8)], length=2).tolist() == [[0, 7], [0, 8]]
    assert corpus.cut_documents(llama_model, [torch.arange(10, 137)], length=128).shape == (1, 128)


def test_texts_shorter_than_a_context(llama_model: TransformerBridge, monkeypatch: pytest.MonkeyPatch):
    short = [words(5, 6, 7), words(8, 9)]
    said = ("texts", "4 tokens in a row", "longest text has 3")
    refused(lambda: corpus.cut_documents(llama_model, short, length=5), *said)
    refused(lambda: corpus.cut_documents(llama_model, []), "texts", "longest text has 0")
    refused(lambda: corpus.cut_documents(llama_model, ""), "texts", "longest text has 0")
    monkeypatch.setattr(corpus, "documents", lambda part, *, split="train": short)
    refused(lambda: corpus.contexts(llama_model, parts="novel", length=50), "texts", "smaller length")
