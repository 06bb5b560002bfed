"""How the larger files of ``data/`` were made, on tiny inputs and without a network."""

import hashlib
import importlib.metadata
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from sentences import assert_one_sentence
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from mi_utils import config, corpus, data_files, harvest, lens, models
from mi_workshop.makers import corpus as corpus_recipe
from mi_workshop.makers import samples, tuned_lens


@pytest.fixture(autouse=True)
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that would call npm fails here."""
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a recipe started a program"))


@pytest.fixture(scope="module")
def writer() -> PreTrainedModel:
    model = tiny_models.llama()
    with torch.no_grad():  # the padding token, which is the start token here, has a vector of zeros
        model.get_input_embeddings().weight[0] = torch.linspace(-1, 1, 32)
    return model


def draw(model: PreTrainedModel, **settings) -> torch.Tensor:
    settings = {"documents": 6, "length": 12, "min_p": 0.1, "stop": (), "seed": 0} | settings
    generator = torch.Generator().manual_seed(settings.pop("seed"))
    return samples.sample_documents(model, **settings, generator=generator)


@torch.no_grad()
def chances_of(model: PreTrainedModel, texts: torch.Tensor) -> torch.Tensor:
    """From a direct forward pass: row, position of the token predicted from, vocabulary."""
    return model(texts).logits.float().softmax(dim=-1)


# --------------------------------------------------------------------------------------------------------
# samples


def test_min_p_of_one_is_greedy(writer: PreTrainedModel):
    texts = draw(writer, min_p=1.0, stop=())
    assert texts.shape == (6, 12) and (texts == texts[0]).all()
    ids = [0]
    for _ in range(11):
        ids.append(int(chances_of(writer, torch.tensor([ids]))[0, -1].argmax()))
    assert texts[0].tolist() == ids


@pytest.mark.parametrize("min_p", [0.02, 0.1])
def test_nothing_below_min_p_is_drawn(min_p: float, writer: PreTrainedModel):
    texts = draw(writer, min_p=min_p, documents=64)
    chances = chances_of(writer, texts)[:, :-1]
    share = chances.gather(-1, texts[:, 1:, None])[..., 0] / chances.amax(dim=-1)
    assert share.min() > min_p * 0.999
    assert share.min() < 2 * min_p  # and it is not far above it either
    assert len({tuple(row) for row in texts.tolist()}) > 32


def test_frequencies_are_the_chances(writer: PreTrainedModel):
    texts = draw(writer, documents=20_000, length=2, min_p=0.02)
    assert (texts[:, 0] == 0).all()
    chances = chances_of(writer, torch.tensor([[0]]))[0, 0]
    chances = torch.where(chances < 0.02 * chances.max(), 0, chances)
    chances /= chances.sum()
    found = torch.bincount(texts[:, 1], minlength=len(chances)) / len(texts)
    assert (found - chances).abs().max() < 4 * (chances * (1 - chances) / len(texts)).sqrt().max()
    assert (found[chances == 0] == 0).all()


@pytest.mark.parametrize(("height", "expected"), [(0.0, 2), (0.39, 2), (0.41, 5), (1 - 2**-24, 6)])
def test_draw_never_takes_a_token_of_no_chance(height: float, expected: int, monkeypatch: pytest.MonkeyPatch):
    """Chances 0.4, 0.4 and 0.2 at tokens 2, 5 and 6, the others below ``min_p``."""
    logits = torch.tensor([1e-9, 1e-9, 0.4, 1e-9, 1e-9, 0.4, 0.2, 1e-9]).log()[None]
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.full(shape, height))
    assert samples._draw(logits, 0.1, torch.Generator()).tolist() == [[expected]]


def test_texts_stop_and_are_filled_up(writer: PreTrainedModel):
    stop = tuple(range(100, 130))
    texts, free = draw(writer, documents=32, stop=stop), draw(writer, documents=32)
    stopped = 0
    for row, other in zip(texts.tolist(), free.tolist(), strict=True):
        end = next((i for i, token in enumerate(row) if i and token in stop), None)
        if end is not None:
            stopped += 1
            assert set(row[end:]) == {row[end]}
            assert row[: end + 1] == other[: end + 1]  # nothing else changed
        else:
            assert row == other
    assert 0 < stopped < 32 and texts.shape == (32, 12)


def test_start_token_does_not_stop(writer: PreTrainedModel):
    assert draw(writer, stop=(0,), length=5)[:, 1].any()
    assert (draw(writer, start=7)[:, 0] == 7).all()


@pytest.mark.parametrize("length", [2, 3, 12])
def test_all_texts_at_an_end(length: int, writer: PreTrainedModel):
    texts = draw(writer, stop=tuple(range(316)), length=length)
    assert texts.shape == (6, length) and (texts[:, 1:] == texts[:, 1:2]).all()


def test_generator_decides(writer: PreTrainedModel):
    one, again, other = (draw(writer, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"documents": 0}, "documents is 0"),
        ({"length": 1}, "length 1"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"min_p": 1.01}, "min_p is 1.01"),
        ({"min_p": float("nan")}, "min_p is nan"),
    ],
)
def test_bad_arguments(wrong: dict, said: str, writer: PreTrainedModel):
    with pytest.raises(ValueError) as caught:
        draw(writer, **wrong)
    assert_one_sentence(caught.value, said)


def test_read_cuts_at_the_end(tmp_path: Path):
    rows = [[0, 5, 6, 7], [0, 5, 0, 0], [0, 2, 2, 2], [0, 9, 8, 2]]
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    save_file({"tokens": torch.tensor(rows, dtype=torch.int32)}, files[0])
    save_file({"tokens": torch.tensor([[0, 4, 2, 2]], dtype=torch.int32)}, files[1])
    assert samples.read(files) == [[5, 6, 7], [5], [], [9, 8], [4]]


TINY = samples.Recipe(batches=3, documents=2, length=6, min_p=0.1)


@pytest.fixture
def cache(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the default model is the tiny one."""
    monkeypatch.setenv("MI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models.wheel, "fetch", lambda source, **settings: tiny_llama)
    return tmp_path / "cache"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_batches_are_drawn_once(cache: Path, monkeypatch: pytest.MonkeyPatch):
    files = samples.draw_missing(TINY)
    assert [file.parent for file in files] == [cache / "samples"] * 3
    assert contents(cache / "samples").keys() == {file.name for file in files}
    tokens = [load_file(file)["tokens"] for file in files]
    assert all(
        rows.shape == (2, 6) and rows.dtype == torch.int32 and (rows[:, 0] == 0).all() for rows in tokens
    )
    assert not torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[1], tokens[2])
    assert len(samples.read(files)) == 6

    before = contents(cache / "samples")
    monkeypatch.setattr(models.wheel, "fetch", lambda *a, **k: pytest.fail("the model isn't needed"))
    assert samples.draw_missing(TINY) == files and contents(cache / "samples") == before


def test_missing_batch_is_drawn_again_and_no_other(cache: Path):
    files = samples.draw_missing(TINY)
    before = contents(cache / "samples")
    drawn = load_file(files[1])["tokens"]
    files[1].unlink()
    for other in (files[0], files[2]):
        other.write_bytes(b"kept as it is")
    samples.draw_missing(TINY)
    after = contents(cache / "samples")
    assert after[files[0].name] == after[files[2].name] == b"kept as it is"
    assert after.keys() == before.keys() and torch.equal(load_file(files[1])["tokens"], drawn)


@pytest.mark.parametrize("when", ["drawing", "writing"])
def test_interruption_leaves_nothing_half_made(when: str, cache: Path, monkeypatch: pytest.MonkeyPatch):
    calls, name = [], {"drawing": "sample_documents", "writing": "save_file"}[when]
    whole = getattr(samples, name)

    def interrupted(*given, **settings):
        calls.append(given)
        if len(calls) == 2:
            if when == "writing":
                Path(given[1]).write_bytes(b"half")
            raise KeyboardInterrupt
        return whole(*given, **settings)

    monkeypatch.setattr(samples, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        samples.draw_missing(TINY)
    files = [samples.batch_file(TINY, number) for number in range(3)]
    assert [file.is_file() for file in files] == [True, False, False]
    first = files[0].read_bytes()
    samples.draw_missing(TINY)
    assert len(calls) == 4 and files[0].read_bytes() == first
    assert contents(cache / "samples").keys() == {file.name for file in files}


def test_batches_are_drawn_as_the_recipe_says(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Its sizes and its ``min_p``; each batch of each recipe with a seed of its own."""
    asked, seeds = [], []

    def drawn(
        model, *, documents: int, length: int, min_p: float, generator: torch.Generator
    ) -> torch.Tensor:
        asked.append((documents, length, min_p))
        seeds.append(generator.initial_seed())
        return torch.zeros(documents, length, dtype=torch.int64)

    monkeypatch.setattr(samples, "sample_documents", drawn)
    for seed in (0, 1):
        samples.draw_missing(replace(TINY, batches=2, min_p=0.17, seed=seed))
    assert asked == [(TINY.documents, TINY.length, 0.17)] * 4
    assert len(set(seeds)) == 4


def test_recipes_do_not_mix():
    others = [{"documents": 3}, {"length": 7}, {"min_p": 0.2}, {"seed": 1}]
    names = {samples.batch_file(replace(TINY, **other), 0) for other in others}
    assert len(names | {samples.batch_file(TINY, 0), samples.batch_file(TINY, 1)}) == 6
    assert samples.batch_file(replace(TINY, batches=9), 0) == samples.batch_file(TINY, 0)  # more of the same


# ---------------------------------------------------------------------------------------------------------
# corpus


def degenerate(ids: Sequence[int]) -> bool:
    return corpus_recipe.is_degenerate(list(ids))


def test_is_degenerate():
    assert degenerate([1, 2, 3] * 20) and degenerate([7] * 19)
    assert not degenerate(range(60)) and not degenerate([]) and not degenerate([1, 2, 3])
    assert not degenerate([7] * 18)  # 15 runs: too short to say
    once = list(range(20))
    assert not degenerate(once * 2)  # 37 runs, 20 of them different
    assert degenerate(once * 3)  # 57 runs, 20 different
    assert not degenerate([*range(7), *[9] * 12])  # 16 runs, 8 different
    assert degenerate([*range(6), *[9] * 13])  # 7
    # Runs count, not tokens: the same tokens in other orders are other text.
    shuffled = [
        token for i in range(8) for token in torch.randperm(8, generator=torch.Generator().manual_seed(i))
    ]
    assert not degenerate(map(int, shuffled))


def packed(texts: dict[str, str]) -> bytes:
    """An npm archive with those files in it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in texts.items():
            content = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch) -> corpus_recipe.NpmPackage:
    """A package that a registry of our own gives."""
    chapters = {f"package/data/chapter_{i}.json": json.dumps({"text": f" chapter {i}\n"}) for i in (2, 0, 1)}
    archive = packed(chapters | {"package/package.json": "{}", "package/data/meta.json": "[]"})

    def run(command, *, cwd, **settings):
        assert command[:2] == ["npm", "pack"] and command[-1] == "@some/novel@1.2.3" and settings["check"]
        (Path(cwd) / "some-novel-1.2.3.tgz").write_bytes(archive)
        return SimpleNamespace(stdout=b"some-novel-1.2.3.tgz\n")

    monkeypatch.setattr(subprocess, "run", run)
    digest = hashlib.sha256(archive).hexdigest()
    return corpus_recipe.NpmPackage("@some/novel", "1.2.3", digest, "package/data/chapter_*.json")


def test_prose_of_a_package(npm: corpus_recipe.NpmPackage):
    assert corpus_recipe.prose(npm) == ["chapter 0", "chapter 1", "chapter 2"]


def test_prose_of_another_archive(npm: corpus_recipe.NpmPackage):
    with pytest.raises(ValueError) as caught:
        corpus_recipe.prose(replace(npm, sha256="0" * 64))
    assert_one_sentence(caught.value, "@some/novel@1.2.3", "not the archive")


def test_code_leaves_tests_out(monkeypatch: pytest.MonkeyPatch):
    version = importlib.metadata.version("networkx")
    monkeypatch.setattr(corpus_recipe, "CODE", {"networkx": version})
    files = {
        file: file.locate().read_text(encoding="utf-8").strip()
        for file in importlib.metadata.files("networkx")
        if file.suffix == ".py" and str(file).startswith("networkx/")
    }
    tests = [file for file in files if "/tests/" in str(file)]
    assert tests
    texts = corpus_recipe.code()
    assert texts == [files[file] for file in sorted(files, key=str) if file not in tests]
    assert "BSD" in corpus_recipe.licence_of("networkx") or "Redistribution" in corpus_recipe.licence_of(
        "networkx"
    )


def test_code_of_another_version(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus_recipe, "CODE", {"networkx": "0.1"})
    with pytest.raises(ValueError) as caught:
        corpus_recipe.code()
    assert_one_sentence(caught.value, "networkx", "0.1", importlib.metadata.version("networkx"))


def test_package_without_a_licence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.metadata, "files", lambda package: [])
    with pytest.raises(ValueError) as caught:
        corpus_recipe.licence_of("networkx")
    assert_one_sentence(caught.value, "networkx", "no licence")


@pytest.mark.parametrize(("count", "expected"), [(10, 1), (100, 10), (135, 14), (4, 0)])
def test_held_out(count: int, expected: int):
    flags = corpus_recipe.held_out(count)
    assert flags.shape == (count,) and flags.dtype == torch.uint8 and flags.sum() == expected
    assert torch.equal(flags, corpus_recipe.held_out(count))
    if count == 100:
        assert not flags[:10].all() and not flags[-10:].all()  # spread over the documents


def test_text_that_occurs_twice_is_never_held_out():
    texts = [[i % 37, 1, 2] for i in range(100)] + [[i + 100] for i in range(100)]
    flags = corpus_recipe.set_aside(texts)
    assert flags.dtype == torch.uint8 and not flags[:100].any() and 0 < flags.sum() <= 20
    assert torch.equal(flags[100:], corpus_recipe.held_out(200)[100:])


@pytest.fixture
def tiny_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``data/`` of its own, made from ten short texts a part."""
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(config, "repository", lambda: tmp_path)
    monkeypatch.setattr(samples, "draw_missing", lambda recipe: [])
    drawn = [[i + 10] * 20 for i in range(10)] + [[9] * 15]  # the last is too short
    monkeypatch.setattr(samples, "read", lambda files: drawn)
    prose = [f"{i} " + "so on " * (20 + i) for i in range(10)]
    monkeypatch.setattr(
        corpus_recipe, "prose", lambda package: [f"{package.version} {text}" for text in prose]
    )
    monkeypatch.setattr(corpus_recipe, "code", lambda: [f"x = {i}\n" * 30 for i in range(10)])
    monkeypatch.setattr(corpus_recipe, "licence_of", lambda package: f"licence of {package}")
    monkeypatch.setattr(corpus_recipe, "LONGEST", 40)
    monkeypatch.setattr(corpus_recipe, "CODE_TOKENS", 150)
    corpus_recipe.main()
    return tmp_path / "data"


def test_corpus_is_put_together(tiny_corpus: Path):
    names = {"corpus.safetensors", "CORPUS.md", "licences/networkx.txt", "licences/sympy.txt"}
    assert set(data_files.manifest()) == names and data_files.trouble() == []
    assert all(entry["command"] == corpus_recipe.COMMAND for entry in data_files.manifest().values())
    assert (tiny_corpus / "CORPUS.md").read_text() == corpus_recipe.card()
    assert (tiny_corpus / "licences" / "sympy.txt").read_text() == "licence of sympy"
    found = {part: [corpus.documents(part, split=split) for split in corpus.SPLITS] for part in corpus.PARTS}
    counts = {part: [len(documents) for documents in splits] for part, splits in found.items()}
    assert counts == {"samples": [9, 1], "speeches": [9, 1], "novel": [9, 1], "code": [4, 0]}
    assert sorted(int(text[0]) for split in found["samples"] for text in split) == list(range(10, 20))
    assert max(len(text) for splits in found.values() for split in splits for text in split) == 40
    default = corpus.default_tokenizer()
    assert default.decode(found["novel"][0][0].tolist())[7:].startswith(" so on so on")


def test_card_counts_what_is_there(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch):
    rows = {line.split("`")[1]: line for line in corpus_recipe.card().splitlines() if line.startswith("| `")}
    assert list(rows) == list(corpus.PARTS)
    assert "| 9 + 1 | 200 | 100.0% |" in rows["samples"] and "| 4 + 0 | 160 |" in rows["code"]


# ----------------------------------------------------------------------------------------------------- tuned
# lens


def weighted_error(full: torch.Tensor, other: torch.Tensor, covariance: torch.Tensor) -> float:
    """Mean squared difference of the outputs on inputs of that covariance."""
    difference = (full - other).double()
    return torch.trace(difference.T @ covariance.double() @ difference).item()


def test_reduce_rank_is_the_best_of_its_rank():
    generator = torch.Generator().manual_seed(0)
    full, mixed = torch.randn(5, 4, generator=generator), torch.randn(5, 5, generator=generator)
    covariance = mixed @ torch.diag(torch.tensor([25.0, 9.0, 1.0, 0.3, 0.1])) @ mixed.T
    for rank in (1, 2, 3):
        reduced = tuned_lens.reduce_rank(full, covariance, rank)
        assert reduced.shape == full.shape and torch.linalg.matrix_rank(reduced, rtol=1e-4) == rank
        error = weighted_error(full, reduced, covariance)
        u, s, v = torch.linalg.svd(full)
        assert error < 0.999 * weighted_error(full, u[:, :rank] * s[:rank] @ v[:rank], covariance)
        for _ in range(5):  # brute force: alternate least squares from a random start
            up = torch.randn(rank, 4, generator=generator, dtype=torch.float64)
            for _ in range(300):
                down = full.double() @ torch.linalg.pinv(up)
                weighted = down.T @ covariance.double()
                up = torch.linalg.solve(weighted @ down, weighted @ full.double())
            best = weighted_error(full, down @ up, covariance)
            assert error <= best * (1 + 1e-4) and best < error * 1.05
    torch.testing.assert_close(tuned_lens.reduce_rank(full, covariance, 4), full, atol=1e-4, rtol=1e-4)


def test_reduce_rank_where_some_inputs_never_vary():
    covariance = torch.diag(torch.tensor([4.0, 1.0, 0.0, 0.0]))
    reduced = tuned_lens.reduce_rank(torch.eye(4), covariance, 2)
    assert reduced.isfinite().all() and weighted_error(torch.eye(4), reduced, covariance) < 1e-6


def test_streams_without_massive_activations(llama_model: TransformerBridge, monkeypatch: pytest.MonkeyPatch):
    tokens = torch.randint(2, 316, (3, 10), generator=torch.Generator().manual_seed(0))
    streams = harvest.residual_streams(llama_model, tokens)
    monkeypatch.setattr(harvest, "ordinary", lambda given, factor: torch.arange(given.shape[1]) % 2 == 0)
    assert torch.equal(tuned_lens.streams_of(llama_model, tokens), streams[:, ::2])


def test_kept_tensors(cache: Path):
    assert tuned_lens.made_once("one", lambda: {"x": torch.ones(3)})["x"].tolist() == [1, 1, 1]
    assert tuned_lens.made_once("one", lambda: pytest.fail("it is there"))["x"].tolist() == [1, 1, 1]

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned_lens.made_once("two", interrupted)
    assert os.listdir(tuned_lens.folder()) == ["one.safetensors"]


@pytest.fixture
def tiny_recipe(
    cache: Path, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> TransformerBridge:
    """The recipe of the lens for the tiny model, on random tokens."""
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(config, "repository", lambda: tmp_path)
    load = models.load_model
    monkeypatch.setattr(models.load, "load_model", lambda **settings: load(str(tiny_llama), **settings))
    tokens = torch.randint(2, 316, (24, 16), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    monkeypatch.setattr(corpus, "contexts", lambda model, *, length: tokens)
    settings = lens.LensSettings(steps=10, batch=16, kept=64, drawn=64, held_back=32, warm_up=2, lr=3e-3)
    scale = {"LENGTH": 16, "RIDGE_CONTEXTS": 16, "ROUNDS": 2, "ROUND_CONTEXTS": 4, "DESCENT": settings}
    for name, value in (scale | {"EMBEDDING_RANK": 8}).items():
        monkeypatch.setattr(tuned_lens, name, value)
    return load(str(tiny_llama))


def test_lens_recipe_from_end_to_end(tiny_recipe: TransformerBridge, cache: Path, tmp_path: Path):
    tuned_lens.main()
    made = contents(tuned_lens.folder())
    assert made.keys() == {"ridge.safetensors", "round00.safetensors", "round01.safetensors"}
    assert (
        data_files.trouble() == [] and data_files.manifest()[tuned_lens.FILE]["command"] == tuned_lens.COMMAND
    )
    final = lens.load(data_files.path(tuned_lens.FILE))
    lens.check_fits(tiny_recipe, final)
    assert torch.linalg.matrix_rank(final.matrices[0], rtol=1e-2) == 8
    last = load_file(tuned_lens.folder() / "round01.safetensors")
    torch.testing.assert_close(final.matrices[1], last["matrices"][1], atol=0.02, rtol=0.02)
    # What the cut takes away from the matrix, the bias gives back on average.
    mean = load_file(tuned_lens.folder() / "ridge.safetensors")["mean"]
    before = mean @ last["matrices"][0] + last["biases"][0]
    torch.testing.assert_close(final.translate(mean, 0), before, atol=0.01, rtol=0.01)
    tuned_lens.main()  # all from the cache
    assert contents(tuned_lens.folder()) == made


def test_rounds_of_the_lens_recipe_have_their_own_text_rate_and_seed(
    tiny_recipe: TransformerBridge, monkeypatch: pytest.MonkeyPatch
):
    rounds, train = [], tuned_lens.train

    def watched(model, streams, start, settings):
        rounds.append((streams, settings))
        return train(model, streams, start, settings)

    monkeypatch.setattr(tuned_lens, "train", watched)
    tuned_lens.main()
    (one, first), (other, second) = rounds
    assert (first.seed, second.seed) == (0, 1) and not torch.equal(one, other)
    assert (first.lr, second.lr) == (pytest.approx(3e-3), pytest.approx(1.5e-3))
    assert replace(first, seed=1, lr=second.lr) == second


def test_lens_recipe_on_too_small_a_corpus(tiny_recipe: TransformerBridge, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tuned_lens, "ROUNDS", 3)
    with pytest.raises(ValueError) as caught:
        tuned_lens.main()
    assert_one_sentence(caught.value, "24 contexts of 16 tokens", "28")
