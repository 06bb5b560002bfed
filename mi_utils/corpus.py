"""Text to work on: the parts of ``data/corpus.safetensors``, cut into contexts for a model.

Four parts, so that in-domain and out-of-domain can be told apart; ``data/CORPUS.md`` is their card. Documents
are stored as token ids of the default model, and a tenth of them is held out as the test split: never a piece
of a document whose other piece was trained on. For a model with another tokenizer they are decoded and
encoded again.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Int
from safetensors import safe_open
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mi_utils import data_files, models, prompts

FILE = "corpus.safetensors"
PARTS = {
    "samples": (
        "written by smollm2-135m itself: articles, answers, code and mathematics as the model knows them"
    ),
    "speeches": "State of the Union addresses, 1790 to 2018, the beginning of each",
    "novel": "Moby-Dick, by Herman Melville, chapter by chapter",
    "code": "Python modules of networkx and sympy",
}
SPLITS = ("train", "test")


def documents(part: str, *, split: str = "train") -> list[Int[Tensor, "_"]]:
    """The documents of a part as token ids of the default model, without start tokens.

    Raises:
        ValueError: a part or split that does not exist, or a file that is missing or was changed (the message
            gives the command that makes it again).
    """
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; it should be one of {', '.join(PARTS)}")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it should be 'train' or 'test'")
    file = data_files.path(FILE)
    with safe_open(file, "pt") as stored:
        tokens = stored.get_tensor(f"{part}/tokens").to(torch.int64)
        lengths = stored.get_tensor(f"{part}/lengths").tolist()
        in_test = stored.get_tensor(f"{part}/test").tolist()
    pieces = tokens.split(lengths)
    wanted = split == "test"
    return [piece for piece, test in zip(pieces, in_test, strict=True) if bool(test) == wanted]


def contexts(
    model: TransformerBridge,
    *,
    parts: str | Iterable[str] = tuple(PARTS),
    split: str = "train",
    length: int = 128,
    count: int | None = None,
    seed: int = 0,
) -> Int[Tensor, "count length"]:
    """Rows of ``length`` tokens, each the start token and then unbroken text of one document, in random
    order.

    Args:
        model: the model that is to read them.
        parts: the parts to draw from.
        split: ``"train"`` or ``"test"``.
        length: tokens in a row, the start token included.
        count: how many rows, as evenly from the parts as it goes; ``None``: all there are.
        seed: of the order.

    Raises:
        ValueError: as ``documents``; a count below one or more than there is; parts without one whole
            context.
    """
    names = [parts] if isinstance(parts, str) else list(parts)
    if not names:
        raise ValueError(f"parts is empty; it should name some of {', '.join(PARTS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"parts is {names}; it should not name a part twice")
    if count is not None and count < 1:
        raise ValueError(f"count is {count}; it should be at least 1")
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i, name in enumerate(names):
        cut = cut_documents(model, _in_tokens_of(model, documents(name, split=split)), length=length)
        wanted = None if count is None else (count + len(names) - 1 - i) // len(names)
        if wanted is not None and wanted > len(cut):
            raise ValueError(
                f"count is {count}, of which {wanted} from {name}; "
                f"its {split} split has {len(cut)} contexts of {length} tokens"
            )
        rows.append(cut[torch.randperm(len(cut), generator=generator)[:wanted]])
    together = torch.cat(rows)
    return together[torch.randperm(len(together), generator=generator)].to(model.cfg.device)


def cut_documents(
    model: TransformerBridge, texts: str | Tensor | Sequence[str | Int[Tensor, "_"]], *, length: int = 128
) -> Int[Tensor, "count length"]:
    """Texts of your own (or token ids without a start token) cut into contexts; what is left at an end is
    dropped.

    Raises:
        ValueError: a length the model can't read, no text, or none as long as one context.
    """
    if not 2 <= length <= model.cfg.n_ctx:
        raise ValueError(
            f"length is {length}; for {model.cfg.model_name} it should be from 2 to {model.cfg.n_ctx}"
        )
    if isinstance(texts, str | Tensor):  # one text is a list of one
        texts = [texts]
    ids = [_ids(model, text) if isinstance(text, str) else text for text in texts]
    pieces = [piece for one in ids for piece in one.split(length - 1) if len(piece) == length - 1]
    if not pieces:
        longest = max((len(one) for one in ids), default=0)
        raise ValueError(
            f"texts has no {length - 1} tokens in a row for a context of {length} "
            f"(the longest text has {longest}); take longer texts or a smaller length"
        )
    body = torch.stack(pieces)
    return torch.cat([torch.full((len(body), 1), prompts.start_token(model)), body], dim=1)


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a tokenizer's vocabulary: two tokenizers with the same one give the same ids for their
    tokens."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


@lru_cache(maxsize=1)
def default_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of the default model, in whose tokens the documents are stored."""
    source = models.load.REGISTRY[models.load.DEFAULT].source
    return AutoTokenizer.from_pretrained(str(models.fetch(source)))


def _ids(model: TransformerBridge, text: str) -> Int[Tensor, "tokens"]:
    return torch.tensor(model.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64)


def _in_tokens_of(model: TransformerBridge, texts: list[Int[Tensor, "_"]]) -> list[Int[Tensor, "_"]]:
    with safe_open(data_files.path(FILE), "pt") as stored:
        own = stored.metadata()["vocabulary"]
    if vocabulary_digest(model.tokenizer) == own:
        return texts
    tokenizer = default_tokenizer()
    return [_ids(model, tokenizer.decode(text.tolist())) for text in texts]
