"""Checks of notebook 00, Start here."""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import kind, same
from mi_utils.grading.core import Exercise, Mistake, Stopped, line_of_learner

# ------------------------------------------------------------------ 1: cache an activation


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
    if not same(answer(model, tokens[:, :-1], layer), model.run_with_cache(tokens[:, :-1])[1]["resid_pre", layer]):
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
        return Mistake("something_else", f"Yours has shape {tuple(got.shape)}, the stream {tuple(wanted.shape)}.")
    return Mistake("something_else")


def _cached(cache: Any, site: str, layer: int | None) -> Tensor | None:
    try:
        return cache[site] if layer is None else cache[site, layer]
    except KeyError:  # a model whose attention and MLP run side by side has no resid_mid
        return None


def _standardised(stream: Tensor) -> Tensor:
    """The direction of each position after centring: the same for a stream and for its RMSNorm or LayerNorm."""
    return torch.nn.functional.normalize((stream - stream.mean(-1, keepdim=True)).float(), dim=-1)


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

# ------------------------------------------------------------------ 2: predict shapes


def _judge_shapes(answer: Any, *, model: Any, texts: list[str]) -> None:
    from mi_utils import prompts

    batch, pos = prompts.encode(model, texts).shape
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

# ------------------------------------------------------------------ 3: a hook that zeroes one head


def _judge_zero_head(answer: Callable, *, head: int, model: Any = None) -> None:
    # With the model, z has its sizes, so that a mask made for the model fits. Else: all sizes different.
    heads, d_head = (model.cfg.n_heads, model.cfg.d_head) if model else (head + 3, head + 5)
    z = torch.randn(2, heads + 1, heads, d_head, generator=torch.Generator().manual_seed(0))
    z = z.to(model.cfg.device) if model else z
    before = z.clone()
    got = answer(z, hook=SimpleNamespace(name="blocks.0.attn.hook_z", ctx={}, layer=lambda: 0))  # as the model calls it
    if got is None and torch.equal(z, before):
        raise Mistake("no_return")
    got = z if got is None else got  # edited in place: that is what the model goes on with
    if not isinstance(got, Tensor) or got.shape != z.shape:
        raise Mistake("shape", f"It returned {kind(got)}.")
    if got.dtype != z.dtype:
        raise Mistake("dtype", f"It received {z.dtype} and returned {got.dtype}.")
    _compare_zeroed(got, before, head)
    if not torch.equal(z, before):
        raise Mistake("in_place")


def _compare_zeroed(got: Tensor, before: Tensor, head: int) -> None:
    """Which part of ``before`` [batch, pos, head, d_head] was zeroed, against what was asked for."""
    changed, zeroed = got != before, (got == 0) & (before != 0)
    asked = torch.zeros_like(changed)
    asked[:, :, head] = True
    if torch.equal(changed, asked) and torch.equal(zeroed, asked):
        return
    if not changed.any():
        raise Mistake("nothing_changed")
    if zeroed.all():
        raise Mistake("every_head")
    for seen, part in {
        "a position": zeroed[:, head],
        "a component of every head": zeroed[:, :, :, head : head + 1],
        "a prompt": zeroed[head : head + 1],
    }.items():
        if part.numel() and part.all():
            raise Mistake("wrong_axis", f"It zeroed {seen}.")
    if not (changed & ~asked).any():
        if zeroed[:, -1, head].all() and not zeroed[:, 0, head].any():
            raise Mistake("last_position_only")
        if zeroed[0, :, head].all() and not zeroed[1, :, head].any():
            raise Mistake("first_prompt_only")
        raise Mistake("not_zero")
    if not changed[:, :, head].any():
        raise Mistake("other_head", f"Asked for was head {head}.")
    raise Mistake("more_than_the_head")


ZERO_HEAD = Exercise(
    id="00.zero_head",
    title="Write a hook that zeroes one head",
    minutes=8,
    difficulty=2,
    hints=(
        "`z` has shape [batch, pos, head, d_head]; which index selects the head?",
        "Make a copy first (`z.clone()`), set the head's slice to 0, return the copy.",
    ),
    mistakes={
        "no_return": "The hook returned nothing, so the model goes on with the old value: a silent no-op. Return the edited tensor.",
        "shape": "A hook must return a tensor of the shape it received.",
        "dtype": "Right values perhaps, but in another dtype: the next layer multiplies them with its weights and needs theirs.",
        "nothing_changed": "The tensor that came back is the one that went in.",
        "every_head": "That removes every head of the layer; then you can't tell which one mattered.",
        "wrong_axis": "That is another axis: z is [batch, pos, head, d_head].",
        "last_position_only": "Only the last position was edited; the head also acts at the others.",
        "first_prompt_only": "Only the first prompt of the batch was edited.",
        "not_zero": "That head is still there in part: its z should be 0 at every position, in every component.",
        "other_head": "Another head was changed.",
        "more_than_the_head": "Something besides that head was changed as well.",
        "in_place": "Right values, but the tensor was edited in place: whoever else holds it (a cache, say) sees it change. Clone first, and return the clone.",
    },
    judge=_judge_zero_head,
)

# ------------------------------------------------------------------ 4: the no-op control


class _FaultyModel:
    """Stands in for the model, and for a defective hook mechanism: with hooks, ``defect`` is added to the logits.

    ``defect(shape, size)`` is what to add to logits of that shape. Hooks are watched, and never stay on the model
    itself.
    """

    def __init__(self, model: Any, defect: Callable[[tuple[int, ...], float], Tensor], size: float) -> None:
        self._model, self._defect, self._size = model, defect, size
        self.plain_runs = 0
        self.hooked_runs = 0
        self.through_hooks = 0  # calls of run_with_hooks, with hooks or without
        self.given: list[tuple[Any, Callable]] = []  # every hook there ever was
        self.active: list[tuple[Any, Callable]] = []  # those in force
        self.edits: list[bool] = []  # for each call of a hook: did it change the activation?
        self.silent: list[bool] = []  # and: did it return nothing?

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.active:
            self.plain_runs += 1
            return self._model(*args, **kwargs)
        self.hooked_runs += 1
        with self._model.hooks(fwd_hooks=[(name, self._watched(hook)) for name, hook in self.active]):
            return self._shifted(self._model(*args, **kwargs))

    forward = __call__

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any:
        _, cache = self._model.run_with_cache(*args, **kwargs)
        return self(args[0] if args else kwargs["input"]), cache

    def run_with_hooks(self, input: Any, fwd_hooks: Any = (), bwd_hooks: Any = (), **kwargs: Any) -> Any:
        self.through_hooks += 1
        for_context = ("reset_hooks_end", "clear_contexts")
        with self.hooks(fwd_hooks):
            return self(input, **{name: value for name, value in kwargs.items() if name not in for_context})

    @contextmanager
    def hooks(self, fwd_hooks: Any = (), bwd_hooks: Any = (), **kwargs: Any) -> Iterator["_FaultyModel"]:
        before = list(self.active)
        for name, hook in fwd_hooks:
            self.add_hook(name, hook)
        try:
            yield self
        finally:
            self.active = before

    def add_hook(self, name: Any, hook: Callable, *args: Any, **kwargs: Any) -> None:
        self.given.append((name, hook))
        self.active.append((name, hook))

    def reset_hooks(self, *args: Any, **kwargs: Any) -> None:
        self.active = []

    def _watched(self, edit: Callable) -> Callable:
        def watched(value: Tensor, hook: Any) -> Tensor | None:
            before = value.clone()
            out = edit(value, hook=hook)
            after = value if out is None else out
            sound = isinstance(after, Tensor) and after.dtype == before.dtype and torch.equal(after, before)
            self.edits.append(not sound)
            self.silent.append(out is None)
            return out if sound else None  # a broken activation would only stop the model with an error of its own

        return watched

    def _shifted(self, logits: Any) -> Any:
        if not isinstance(logits, Tensor) or logits.ndim != 3:  # a loss, say
            return logits
        precise = torch.promote_types(logits.dtype, torch.float32)
        return logits.to(precise) + self._defect(logits.shape, self._size).to(logits.device, precise)


LARGE, SMALL = 2.25, 2.0**-12  # SMALL is lost in rounding to 4 digits, and still far above what float32 loses


def _defect(shape: tuple[int, ...], size: float) -> Tensor:
    """Changes of logits [batch, pos, d_vocab], the largest of which is ``-size``, in the last prompt.

    All logits of a position change together, which leaves the probabilities as they are. The positions, prompts
    and signs differ so that a number computed from the changes tells how it was computed (``_summaries``).
    """
    added, at = torch.zeros(shape), shape[1] // 2
    added[-1, 0] = -4 * size / 5
    added[:, -1] = size / 4
    added[0, at] = size / 2
    added[-1, at - 1] = 3 * size / 4
    added[-1, at] = -size
    return added


def _defect_of_one_token(shape: tuple[int, ...], size: float) -> Tensor:
    """The same the other way round: largest is ``size``, in the first prompt, at the last position, for one token."""
    added = torch.zeros(shape)
    token = shape[2] // 3
    added[..., token] = -_defect(shape, size).flip(0).roll(shape[1] - 1 - shape[1] // 2, dims=1)[..., token]
    return added


@torch.no_grad()
def _judge_no_op(answer: Callable, *, model: Any, tokens: Tensor, name: str) -> None:
    batch = tokens if len(tokens) > 1 else torch.cat([tokens, tokens])
    elsewhere = "hook_embed" if name != "hook_embed" else "blocks.0.hook_resid_pre"
    shape = (*batch.shape, model.cfg.d_vocab)
    for defect, at in ((_defect, name), (_defect_of_one_token, elsewhere)):
        value = _on_faulty(answer, _FaultyModel(model, defect, LARGE), batch, at)
        if not abs(value - LARGE) < 1e-3:  # NaN too
            raise _no_op_mistake(value, defect(shape, LARGE))
    value = _on_faulty(answer, _FaultyModel(model, _defect, SMALL), batch, name)
    if not abs(value - SMALL) < SMALL / 10:
        raise Mistake("rounded", _saw(value, SMALL))
    value = _one_number(answer(model, tokens, name))
    if value != 0:
        raise Mistake("not_zero", f"It returned {value:.3g}.")


def _on_faulty(answer: Callable, faulty: _FaultyModel, tokens: Tensor, name: str) -> float:
    seen = answer(faulty, tokens, name)
    _check_runs(faulty, name)
    return _one_number(seen)


def _saw(value: float, largest: float) -> str:
    return f"On a model with defective hooks it returned {value:.3g}; the largest change there was {largest:.3g}."


def _no_op_mistake(value: float, added: Tensor) -> Mistake:
    """Why an answer's number is not the largest of the changes ``added``."""
    saw = _saw(value, LARGE)
    if value == 1:
        return Mistake("yes_or_no")
    if abs(value - LARGE) < 0.01:
        return Mistake("rounded", saw)
    for name, number in _summaries(added):
        if abs(abs(value) - number.abs()) <= 1e-3 * number.abs():
            return Mistake(name, saw)
    if abs(value) < 1e-3:
        return Mistake("saw_nothing", saw)
    return Mistake("rounded" if abs(value - LARGE) < 0.3 else "not_the_largest", saw)


def _summaries(added: Tensor) -> list[tuple[str, Tensor]]:
    """Numbers that changes [batch, pos, d_vocab] are wrongly summed up to, each with its mistake's name."""
    size = added.abs()
    return [
        ("signed_max", added.max()),
        ("signed_max", added.min()),
        ("signed_mean", added.mean()),
        ("diluted", size.mean()),
        ("diluted", size.square().mean()),
        ("diluted", size.square().mean().sqrt()),
        ("diluted", size.mean(-1).max()),
        ("added_up", added.sum()),
        ("added_up", size.sum()),
        ("added_up", size.square().sum()),
        ("added_up", size.norm()),
        ("added_up", size.sum(-1).max()),
        ("added_up", size.norm(dim=-1).max()),
        ("added_up", (size > 0).sum()),
        ("one_prompt_only", size[0].max()),
        ("one_prompt_only", size[-1].max()),
        ("last_position_only", size[:, -1].max()),
    ]


def _check_runs(faulty: _FaultyModel, at: str) -> None:
    """That there was one run with a hook that does nothing where it was asked for, and one without."""
    if not faulty.hooked_runs:
        raise Mistake("no_hook_given" if faulty.through_hooks or faulty.given else "never_hooked")
    if not any(name == at or (callable(name) and name(at)) for name, _ in faulty.given):
        raise Mistake("other_hook_point", f"Asked for was {at!r}.")
    if any(faulty.edits):
        raise Mistake("edits_something")
    if any(faulty.silent):
        raise Mistake("returns_nothing")
    if not faulty.plain_runs:
        raise Mistake("earlier_logits" if faulty.hooked_runs == 1 else "no_plain_run")
    if faulty.active:
        raise Mistake("hook_left_behind")


def _one_number(seen: Any) -> float:
    try:
        plain = seen.item() if hasattr(seen, "item") else seen
    except (ValueError, RuntimeError):  # more than one element
        plain = seen
    if isinstance(plain, bool):
        raise Mistake("yes_or_no")
    if not isinstance(plain, int | float):
        raise Mistake("not_one_number", f"It returned {kind(seen)}.")
    return float(plain)


NO_OP = Exercise(
    id="00.no_op_control",
    title="The control that must give exactly zero",
    minutes=10,
    difficulty=3,
    hints=(
        "Two runs: `model(tokens)` and `model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])`.",
        "The hook of a no-op returns what it was given.",
        "Compare *all* logits: the largest absolute difference over batch, position and vocabulary.",
    ),
    mistakes={
        "never_hooked": "The model it was given never ran with a hook, so the control can't fail. It must go through the same hook mechanism as the experiment.",
        "no_hook_given": "The model ran without any hook: the mechanism under test was not used.",
        "other_hook_point": "The hook sits at another place than the one asked for: use the argument `name`.",
        "edits_something": "Your hook changes the activation. For a no-op it should return what it was given.",
        "returns_nothing": "Your hook returns nothing, so the model keeps its own value and the replacing was never tried; return what it was given.",
        "earlier_logits": "You compared with logits computed earlier; run `model(tokens)` on the arguments.",
        "no_plain_run": "Both runs go through the hook, so they share any defect of it. Compare with a run without hooks.",
        "hook_left_behind": "The hook is still on the model when your function returns, so every later run goes through it. `run_with_hooks` takes it off again.",
        "yes_or_no": "Return how large the difference is, not whether there is one: a number can be looked at when it is not zero.",
        "not_one_number": "Return one number: the largest absolute difference.",
        "signed_mean": "In a mean with signs, plus and minus cancel: a defect can come out as 0.",
        "diluted": "A mean divides a change in one place by the number of all logits, so that a bad defect looks small.",
        "added_up": "A sum, a norm or a count grows with the number of logits, and then nobody can tell what is large.",
        "signed_max": "Without the absolute value you see changes of one sign only.",
        "one_prompt_only": "That looks at one prompt of the batch and says nothing about the others.",
        "last_position_only": "That looks at the last position and says nothing about the others.",
        "saw_nothing": "Logits changed and your function did not notice. Probabilities, a loss or the most likely token can stay the same when logits move: "
        "compare the logits themselves, all of them.",
        "rounded": "That is not exact: rounding, a tolerance or a coarser dtype hides small changes.",
        "not_the_largest": "That is not the largest absolute difference over all prompts, positions and tokens.",
        "not_zero": "On the sound model it should be exactly 0.",
    },
    judge=_judge_no_op,
)

# ------------------------------------------------------------------ 5: find the bug


def _judge_bug(answer: Callable, *, eps: float = 1e-5) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(7, 32, generator=generator) * torch.logspace(-1, 1, 7)[:, None] + 0.3
    direction = torch.randn(32, generator=generator)
    _compare_shares(answer, parts, direction, eps)
    # Parts so small that eps counts, and another eps than the usual one.
    larger = 1000 * eps
    _compare_shares(answer, parts * larger**0.5 / _rms(parts.sum(0), 0.0), direction, larger)


def _compare_shares(answer: Callable, parts: Tensor, direction: Tensor, eps: float) -> None:
    got = answer(parts.clone(), direction.clone(), eps)
    if not isinstance(got, Tensor) or got.shape != (7,):
        raise Mistake("shape", f"It returned {kind(got)}.")
    wanted = parts @ direction / _rms(parts.sum(0), eps)
    if same(got, wanted):
        return
    for name, wrong in _wrong_attributions(parts, direction, eps):
        if same(got, wrong):
            raise Mistake(name)
    if same(got.sum(), wanted.sum()):
        raise Mistake("forced")
    raise Mistake("does_not_add_up", f"They add up to {got.sum():.3f}; the logit is {wanted.sum():.3f}.")


def _rms(x: Tensor, eps: float) -> Tensor:
    return (x.square().mean(-1) + eps).sqrt()


def _wrong_attributions(parts: Tensor, direction: Tensor, eps: float) -> list[tuple[str, Tensor]]:
    """What each known mistake gives for parts [part, d_model] and a direction [d_model], by the mistake's name."""
    raw, total = parts @ direction, parts.sum(0)
    centred = parts - parts.mean(-1, keepdim=True)
    return [
        ("each_alone", raw / _rms(parts, eps)),
        ("no_norm", raw),
        ("euclidean", raw / total.norm()),
        ("running_scale", raw / _rms(parts.cumsum(0), eps)),
        ("sum_of_scales", raw / _rms(parts, eps).sum()),
        ("scale_of_mean", raw / _rms(parts.mean(0), eps)),
        ("mean_square", raw / _rms(total, eps).square()),
        ("layer_norm", centred @ direction / _rms(centred.sum(0), eps)),
        ("layer_norm", raw / _rms(centred.sum(0), eps)),
        ("layer_norm", raw / total.std()),
        ("eps_outside", raw / (_rms(total, 0.0) + eps)),
        ("eps_ignored", raw / _rms(total, 0.0)),
        ("eps_ignored", raw / _rms(total, 1e-6)),
        ("eps_ignored", raw / _rms(total, 1e-5)),
    ]


FIND_THE_BUG = Exercise(
    id="00.find_the_bug",
    title="Find the bug in an attribution",
    minutes=10,
    difficulty=3,
    hints=(
        "Add up what the function returns and compare with the logit. Should they agree?",
        "The model applies its final norm *once*, to the sum of all parts. What number does that norm divide by?",
        "Divide every part by the rms of the sum.",
    ),
    mistakes={
        "shape": "Return one number for each part: shape [part].",
        "each_alone": "The bug is still there: each part is divided by its own rms, so small parts are blown up and the parts no longer add up to the logit.",
        "no_norm": "Now there is no norm at all: these numbers add up, but not to the model's logit.",
        "euclidean": "Almost: that divides by the length of the sum. RMSNorm divides by the root *mean* square, which is smaller by a factor of sqrt(d_model).",
        "running_scale": "That divides by the rms of the stream as it was after each part. The model has one final norm, at the end, of the whole sum.",
        "sum_of_scales": "The rms of a sum is not the sum of the rms.",
        "scale_of_mean": "That is the rms of the mean of the parts; the norm sees their sum.",
        "mean_square": "A square root is missing: rms is the root of the mean square.",
        "layer_norm": "That subtracts the mean, as LayerNorm does. This model has RMSNorm, which does not centre.",
        "eps_outside": "Almost: eps stands under the root, sqrt(mean(x ** 2) + eps), not beside it. With a small stream that makes a difference.",
        "eps_ignored": "Almost: the eps that your function is given is not in it. It is added under the root, and with a small stream it makes a difference.",
        "forced": "The sum is right and each part is wrong: rescaling or shifting the buggy numbers until they add up does not tell what a part contributes.",
        "does_not_add_up": "The parts do not add up to the logit.",
    },
    judge=_judge_bug,
)

EXERCISES = (CACHE, SHAPES, ZERO_HEAD, NO_OP, FIND_THE_BUG)
