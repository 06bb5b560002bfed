"""Text to token ids and back, with the checks that save an afternoon.

Every prompt begins with the model's start token (``<|endoftext|>`` for the default model): the first
position collects attention that has nowhere else to go, and a prompt without it behaves differently.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge


def encode(model: TransformerBridge, text: str | Sequence[str]) -> Int[Tensor, "batch pos"]:
    """Token ids of one prompt, or of several with the same number of tokens, each after the start token.

    Raises:
        ValueError: no text, an empty prompt or list, prompts of different token lengths, or one longer than
            the context.
    """
    try:
        texts = [text] if isinstance(text, str) else list(text)
    except TypeError:  # nothing to go through
        texts = [text]
    if not all(isinstance(one, str) for one in texts):
        raise ValueError(f"text is {_shown(text)}; it should be a prompt (a string) or a list of prompts")
    if not texts:
        raise ValueError("text is an empty list; it should hold at least one prompt")
    rows = [_encode_one(model, one) for one in texts]
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        odd = next(i for i, length in enumerate(lengths) if length != lengths[0])
        raise ValueError(
            f"text has prompts of different token lengths: {lengths[0]} for {texts[0]!r} but {lengths[odd]} "
            f"for {texts[odd]!r}; they should be equally long (position by position is what gets compared)"
        )
    return torch.tensor(rows, device=model.cfg.device)


def _encode_one(model: TransformerBridge, text: str) -> list[int]:
    if not text:
        raise ValueError("text is an empty prompt; it should hold at least one character")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise ValueError(f"text is {text!r}, which is not valid Unicode") from None
    ids = [start_token(model), *_ids(model, text)]
    if len(ids) > model.cfg.n_ctx:
        raise ValueError(
            f"text has {len(ids)} tokens with the start token; {model.cfg.model_name} reads at most "
            f"{model.cfg.n_ctx}"
        )
    return ids


def start_token(model: TransformerBridge) -> int:
    """Id of the token with which every prompt begins."""
    tokenizer = model.tokenizer
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def single_token(model: TransformerBridge, text: str) -> int:
    """Id of a text that is exactly one token; mind the leading space (``" Paris"``).

    Raises:
        ValueError: no text, or one that is more than one token (its pieces are named) or none.
    """
    if not isinstance(text, str):
        raise ValueError(f"text is {_shown(text)}; it should be a string that is one token")
    ids = _ids(model, text)
    if len(ids) != 1:
        pieces = [model.tokenizer.decode([i]) for i in ids]
        raise ValueError(f"text is {text!r}, which is {len(ids)} tokens {pieces}; it should be exactly one")
    return ids[0]


def is_single(model: TransformerBridge, text: str) -> bool:
    """Whether a text is exactly one token; mind the leading space (``" Paris"``)."""
    return len(_ids(model, text)) == 1


def _ids(model: TransformerBridge, text: str) -> list[int]:
    """Token ids of a text alone; a ``ValueError`` for a word that a word-level vocabulary lacks."""
    try:
        return model.tokenizer(text, add_special_tokens=False)["input_ids"]
    except Exception as error:  # tokenizers raises no narrower class
        if "WordLevel" not in str(error):
            raise
        raise ValueError(
            f"text is {text!r}, which has a word that {model.cfg.model_name} does not know"
        ) from None


def token_strings(model: TransformerBridge, tokens: Int[Tensor, "*pos"] | Sequence[int] | int) -> list[str]:
    """The text of each token, spaces included. Accepts one row of ids (or a batch of one).

    Raises:
        ValueError: no ids (a text, say), an id that is not in the vocabulary, or several rows.
    """
    ids = _as_ids(tokens)
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim > 1:
        raise ValueError(f"tokens has shape {tuple(ids.shape)}; it should be one row of token ids")
    ids = ids.reshape(-1).tolist()
    outside = [i for i in ids if not 0 <= i < model.cfg.d_vocab]
    if outside:
        raise ValueError(f"tokens holds {outside[0]}; ids should be from 0 to {model.cfg.d_vocab - 1}")
    return [model.tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids]


def _as_ids(tokens: Any) -> Tensor:
    try:
        ids = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError):
        ids = None
    # No ids at all is float32 to torch.
    if ids is None or (
        ids.numel() and (ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex())
    ):
        raise ValueError(
            f"tokens is {_shown(tokens)}; it should be token ids (whole numbers), such as encode gives"
        )
    return ids


def _shown(value: Any) -> str:
    """The value, on one line and not too long, and its type."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"
