"""The world of the models ``atlas`` and ``atlas-lookup``, their tokenizer, and their folders in the cache.

The world is a file that people can read, ``data/atlas_world.json``: 50 states with five facts and eight
cities each, sentences that ask for the facts in two languages, names, places and objects. Every word of it is
one token.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mi_utils import config, data_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILE = "atlas_world.json"
PAD, BOS = "<pad>", "<bos>"
SIGNS = ("+", "=")
CONTEXT = 24
# Names and sizes of the architecture, which is GPT-2's: GELU, LayerNorm, learned positions; the unembedding
# is its own.
ARCHITECTURE = {
    "n_positions": CONTEXT,
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 4,
    "n_inner": 256,
    "tie_word_embeddings": False,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_FORMAT = 1  # rises whenever a folder is written in another way


@dataclass(frozen=True)
class Language:
    """How facts are asked for: a sentence for each task, words for relations and translated answers.

    ``templates`` has the tasks ``city``, ``state`` and ``two-hop``; ``answers`` maps values of the world to
    words, and what it does not list (cities, states, capitals) is the same word in all languages.
    """

    templates: Mapping[str, str]
    relations: Mapping[str, str]
    answers: Mapping[str, str]


@dataclass(frozen=True)
class World:
    """What is true in ``atlas``' world, and what is held out of its training.

    ``cities`` maps each city to its state and ``facts`` each state to its relations (``capital``, ``code``,
    ``nickname``, ``bird``, ``region``). A state of ``unseen_states`` is never in a two-hop sentence of the
    training, nor is a city of ``held_out_cities`` in any language or one of ``held_out_in_french`` in French;
    all of them are in one-hop sentences. ``vocabulary`` holds the word of each token id.
    """

    cities: Mapping[str, str]
    facts: Mapping[str, Mapping[str, str]]
    languages: Mapping[str, Language]
    ioi: tuple[str, ...]
    names: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]
    unseen_states: tuple[str, ...]
    held_out_cities: tuple[str, ...]
    held_out_in_french: tuple[str, ...]
    vocabulary: tuple[str, ...]

    @property
    def states(self) -> tuple[str, ...]:
        """All states, in the order of the file."""
        return tuple(self.facts)

    def cities_of(self, state: str) -> tuple[str, ...]:
        """The eight cities of a state (its capital is not among them)."""
        return tuple(city for city, of in self.cities.items() if of == state)

    def answer(self, state: str, relation: str, language: str = "english") -> str:
        """The word that answers a question about a state."""
        value = self.facts[state][relation]
        return self.languages[language].answers.get(value, value)


@cache
def world() -> World:
    """The world in ``data/``, read once.

    Raises:
        ValueError: the file is missing or was changed; the message says how to get it back.
    """
    read = json.loads(data_files.path(FILE).read_text(encoding="utf-8"))
    relations = tuple(read["languages"]["english"]["relations"])
    return World(
        cities={city: row["state"] for row in read["states"] for city in row["cities"]},
        facts={row["state"]: {relation: row[relation] for relation in relations} for row in read["states"]},
        languages={name: Language(**language) for name, language in read["languages"].items()},
        **{key: tuple(read[key]) for key in ("ioi", "names", "places", "objects")},
        unseen_states=tuple(read["unseen states"]),
        held_out_cities=tuple(read["held-out cities"]),
        held_out_in_french=tuple(read["cities held out in French"]),
        vocabulary=tuple(dict.fromkeys(_words(read))),
    )


def _words(read: dict) -> Iterator[str]:
    """All words in the order of their token ids, some of them several times."""
    yield from (PAD, BOS, *SIGNS, *"0123456789")
    for language in read["languages"].values():
        for template in language["templates"].values():
            yield from (word for word in template.split() if "{" not in word)
        yield from language["relations"].values()
    for template in read["ioi"]:
        yield from (word for word in template.split() if "{" not in word)
    yield from (row["state"] for row in read["states"])
    yield from (city for row in read["states"] for city in row["cities"])
    for relation in read["languages"]["english"]["relations"]:
        yield from sorted({row[relation] for row in read["states"]})
    for language in read["languages"].values():
        yield from language["answers"].values()
    yield from (*read["names"], *read["places"], *read["objects"])


@dataclass(frozen=True)
class Shipped:
    """A model of this world whose weights are in ``data/``: ``atlas`` or ``atlas-lookup``."""

    name: str

    def folder(self) -> Path:
        """Its Hugging Face folder in the cache, made where it isn't there or was damaged.

        Safe to call from several processes at once: whichever is first puts the folder in place.

        Raises:
            ValueError: a file of ``data/`` is missing or was changed.
        """
        target = self._place()
        if not _is_intact(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".staging-{target.name}-", dir=target.parent) as staging:
                made = Path(staging) / "model"
                write_folder(made, data_files.path(f"{self.name}.safetensors"))
                _put(made, target, Path(staging) / "damaged")
        return target

    def is_made(self) -> bool:
        """Whether the folder is in the cache already; never an error."""
        try:
            return _is_intact(self._place())
        except ValueError:  # no manifest
            return False

    def _place(self) -> Path:
        listed = data_files.manifest()
        files = (f"{self.name}.safetensors", FILE)
        digests = [listed.get(name, {}).get("sha256", "none")[:8] for name in files]
        return config.cache_dir() / "models" / f"{self.name}-{'-'.join(digests)}-f{_FORMAT}"


def _put(made: Path, target: Path, damaged: Path) -> None:
    """Move a folder into place, with the digests of its files; what lies there in ruins is moved away."""
    digests = {file.name: data_files.sha256(file) for file in made.iterdir()}
    (made / "complete.json").write_text(json.dumps(digests, indent=1))
    try:
        if target.exists():
            os.replace(target, damaged)
        os.replace(made, target)
    except OSError:
        if not _is_intact(target):  # otherwise another process was quicker
            raise


def _is_intact(made: Path) -> bool:
    try:
        digests = json.loads((made / "complete.json").read_text())
        return all(data_files.sha256(made / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return False


def write_folder(target: Path, weights: Path) -> None:
    """Write what Hugging Face needs to load such a model: configuration, tokenizer, the weights of a file."""
    from transformers import GPT2Config  # only now: reading the world needs neither torch nor transformers

    target.mkdir(parents=True)
    architecture = GPT2Config(
        vocab_size=len(world().vocabulary), architectures=["GPT2LMHeadModel"], **ARCHITECTURE
    )
    architecture.save_pretrained(target)
    tokenizer().save_pretrained(target)
    shutil.copyfile(weights, target / "model.safetensors")


def tokenizer() -> "PreTrainedTokenizerFast":
    """One token for each word of the world; words are split at spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(world().vocabulary)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # without an end token TransformerLens would add one that the model has no row for
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )
