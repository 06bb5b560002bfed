"""Checks of notebook 00 about activations: one that is cached, and the shapes of several."""

import inspect
import traceback
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import kind, same
from mi_utils.grading.core import Exercise, Mistake, Stopped, line_of_learner
from mi_utils.grading.tensors import centred

# ------------------------------------------------------------------ 00.cache_activation: cache an activation


@torch.no_grad()
def _judge_cache(answer: Callable, *, model: Any, tokens: Tensor, layer: int) -> None:
    try:
        _compare_cached(answer, model, tokens, layer)
    except Stopped as stopped:
        _name_the_stop(stopped.__cause__, answer)
        raise


def _compare_cached(answer: Callable, model: Any, tokens: Tensor, layer: int) -> None:
    got = answer(model, tokens, layer)
    _, cache = model.run_with_cache(tokens)
    wanted = cache["resid_pre", layer]
    if not same(got, wanted):
        raise _cache_mistake(got, wanted, cache, layer)
    elsewhere = layer + 1 if layer + 1 < model.cfg.n_layers else layer - 1
    if not same(answer(model, tokens, elsewhere), cache["resid_pre", elsewhere]):
        raise Mistake("ignores_layer", f"Asked for layer {elsewhere} it returned something else.")
    if not same(
        answer(model, tokens[:, :-1], layer), model.run_with_cache(tokens[:, :-1])[1]["resid_pre", layer]
    ):
        raise Mistake("ignores_tokens")


def _name_the_stop(error: BaseException, answer: Callable) -> None:
    """A mistake by name for what goes wrong between a function's arguments and the cache; else nothing."""
    given = _parameters(answer)
    if sorted(given) == ["layer", "model", "tokens"] and given != ["model", "tokens", "layer"]:
        raise Mistake("argument_order", f"Yours takes ({', '.join(given)}).")
    said, line = str(error), line_of_learner(error, answer)
    if said.startswith(("tuple indices must be", "'tuple' object")):
        raise Mistake("not_unpacked")
    # What torch says of a tensor indexed by a name: the second has other causes too, and then no quotes in the line.
    quotes = "'" in line or '"' in line
    if said.startswith("new(): invalid data type 'str'") or (said.startswith("too many indices") and quotes):
        raise Mistake("logits_for_cache")
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    if any(type(frame.f_locals.get("self")).__name__ == "ActivationCache" for frame in frames):
        raise Mistake("cache_key", f"In the line: {line}" if line else "")


def _parameters(answer: Callable) -> list[str]:
    try:
        return list(inspect.signature(answer).parameters)
    except ValueError:  # some functions written in C have no signature
        return []


def _cache_mistake(got: Any, wanted: Tensor, cache: Any, layer: int) -> Mistake:
    if not isinstance(got, Tensor):
        return Mistake("not_a_tensor", f"It returned {kind(got)}.")
    if got.shape == wanted.shape[1:]:
        return Mistake("no_batch", f"Yours has shape {tuple(got.shape)}.")
    others = {"after_the_layer": ("resid_post", layer), "between_attention_and_mlp": ("resid_mid", layer)}
    others |= {"off_by_one": ("resid_pre", layer - 1)} if layer > 0 else {}
    for name, site in (others | {"embedding": ("embed", None)}).items():
        if same(got, _cached(cache, *site)):
            return Mistake(name)
    if got.shape == wanted.shape and same(_standardised(got), _standardised(wanted)):
        return Mistake("normalised")
    if got.shape != wanted.shape:
        return Mistake(
            "something_else", f"Yours has shape {tuple(got.shape)}, the stream {tuple(wanted.shape)}."
        )
    return Mistake("something_else")


def _cached(cache: Any, site: str, layer: int | None) -> Tensor | None:
    try:
        return cache[site] if layer is None else cache[site, layer]
    except KeyError:  # a model whose attention and MLP run side by side has no resid_mid
        return None


def _standardised(stream: Tensor) -> Tensor:
    """The direction of each position after centring: the same for a stream and for its RMSNorm or LayerNorm."""
    return torch.nn.functional.normalize(centred(stream).float(), dim=-1)


CACHE = Exercise(
    id="00.cache_activation",
    title="Cache an activation",
    minutes=5,
    difficulty=1,
    hints=(
        "`model.run_with_cache(tokens)` returns two things; the second can be indexed by the name of a hook point.",
        'The stream on its way *into* a block is called `resid_pre`: `cache["resid_pre", layer]`.',
    ),
    mistakes={
        "argument_order": "The check calls your function with the model, the tokens and the layer, in this order.",
        "not_unpacked": "run_with_cache returns two things, the logits and the cache: `_, cache = model.run_with_cache(tokens)`.",
        "logits_for_cache": "You asked the logits for an activation. run_with_cache returns the logits first and the cache second: "
        "`_, cache = model.run_with_cache(tokens)`.",
        "cache_key": "The cache has nothing under that key. It is asked by the name of a site and the layer, in this order, "
        'such as `cache["z", layer]`, or by the full name of a hook point.',
        "not_a_tensor": "Return one activation, as a tensor: a cache is indexed by name and layer.",
        "no_batch": "The batch axis is gone. Keep the shape [batch, pos, d_model]: other code counts on it.",
        "after_the_layer": "That is the stream *after* the block (resid_post); the question is what the block reads.",
        "between_attention_and_mlp": "That is resid_mid, after attention and before the MLP of the same block.",
        "off_by_one": "That is what the block before reads: blocks are counted from 0.",
        "embedding": "That is the embedding, which only block 0 reads; use the layer that was asked for.",
        "normalised": "That has gone through a norm. The stream itself is the sum of everything written so far, unnormalised.",
        "something_else": "That is another activation.",
        "ignores_layer": "Right for one layer, but not for another: use the argument `layer`.",
        "ignores_tokens": "Right for these tokens, but not for others: use the arguments `model` and `tokens`, not a cache made earlier.",
    },
    judge=_judge_cache,
)

# ------------------------------------------------------------------ 00.predict_shape: predict shapes


def _judge_shapes(answer: Any, *, model: Any, texts: list[str]) -> None:
    batch, pos = len(texts), _positions(model, texts[0])
    heads = model.cfg.n_heads
    wanted = _shapes(model.cfg, batch, pos)
    if not isinstance(answer, Mapping) or set(answer) != set(wanted):
        raise Mistake("not_these_sites", f"Wanted are {', '.join(wanted)}.")
    got = {site: _as_shape(site, answer[site]) for site in wanted}
    wrong = [site for site in wanted if got[site] != wanted[site]]
    if not wrong:
        return
    if batch > 1 and any(got[site][:1] == (1,) for site in wrong):
        raise Mistake("one_prompt", f"There are {batch} prompts.")
    if all(got[site] == _shapes(model.cfg, batch, pos - 1)[site] for site in ("resid_pre", "q")):
        raise Mistake("no_start_token", f"Count them with prompts.encode: there are {pos}.")
    if all(got[site] == wanted[site][1:] for site in ("resid_pre", "q")):
        raise Mistake("no_batch")
    # As many positions as heads: then this may as well be `keys_not_shared`.
    heads_first = {_heads_first(wanted[site]) for site in ("q", "k")} - {wanted["q"]}
    if any(got[site] in heads_first for site in ("q", "k") if site in wrong):
        raise Mistake("heads_first")
    if "k" in wrong and got["k"] == wanted["q"]:
        raise Mistake("keys_not_shared")
    if "pattern" in wrong and got["pattern"] in ((batch, pos, heads, pos), (batch, pos, pos, heads)):
        raise Mistake("pattern_axes")
    if got["pattern"] == (batch, heads, pos):
        raise Mistake("pattern_one_position")
    if got["q"] == (batch, pos, model.cfg.d_model):
        raise Mistake("heads_flat")
    raise Mistake("shape", f"Look again at: {', '.join(wrong)}.")


def _positions(model: Any, text: str) -> int:
    """The number of tokens with the start token, counted as ``prompts.encode`` does, but without it."""
    return 1 + len(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def _shapes(cfg: Any, batch: int, pos: int) -> dict[str, tuple[int, ...]]:
    shared = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    return {
        "resid_pre": (batch, pos, cfg.d_model),
        "q": (batch, pos, cfg.n_heads, cfg.d_head),
        "k": (batch, pos, shared, cfg.d_head),
        "pattern": (batch, cfg.n_heads, pos, pos),
    }


def _heads_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    batch, pos, heads, d_head = shape
    return batch, heads, pos, d_head


def _as_shape(site: str, given: Any) -> tuple:
    """A tuple, list, ``torch.Size`` or one-dimensional array of sizes, as a tuple."""
    sizes = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(sizes, tuple | list) or not all(isinstance(size, Real) for size in sizes):
        raise Mistake("not_a_shape", f"For {site} you gave {kind(given)}.")
    return tuple(sizes)


SHAPES = Exercise(
    id="00.predict_shape",
    title="Predict four shapes",
    minutes=8,
    difficulty=2,
    hints=(
        "How many tokens has each prompt once the start token is there? `prompts.encode` tells, and so would your fingers.",
        "`model.cfg.n_heads` and `model.cfg.n_key_value_heads` differ in this model: which sites have the smaller number?",
        "An attention pattern says, for every head, how much each query position takes from each key position.",
    ),
    mistakes={
        "not_these_sites": "Give a dictionary with exactly the sites asked for.",
        "not_a_shape": "Each answer is a shape: a tuple of whole numbers, such as (2, 5, 64).",
        "one_prompt": "The batch axis has one entry for each prompt.",
        "no_start_token": "You counted the words' tokens but not the start token in front of them.",
        "no_batch": "Every activation has a batch axis in front, even when you look at one prompt only.",
        "heads_first": "For q and k the position comes before the head: [batch, pos, head, d_head]. In a pattern it is the other way round.",
        "keys_not_shared": "Queries have one head each, but here several query heads share one key head (grouped-query attention).",
        "pattern_axes": "The sizes are right but the order is not: heads come before the two positions, [batch, head, query, key].",
        "pattern_one_position": "A pattern has a row for every query position: two position axes, not one.",
        "heads_flat": "Queries are stored per head: the last axis is d_head, with the heads in an axis of their own.",
        "shape": "Not all four are right.",
    },
    judge=_judge_shapes,
    asks_for="value",
)
