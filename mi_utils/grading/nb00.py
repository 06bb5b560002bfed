"""Checks of notebook 00, Start here."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.core import Exercise, Mistake

# ------------------------------------------------------------------ 1: cache an activation


@torch.no_grad()
def _judge_cache(answer: Callable, *, model: Any, tokens: Tensor, layer: int) -> None:
    got = answer(model, tokens, layer)
    _, cache = model.run_with_cache(tokens)
    wanted = cache["resid_pre", layer]
    if not _same(got, wanted):
        raise _cache_mistake(got, wanted, cache, layer)
    elsewhere = layer + 1 if layer + 1 < model.cfg.n_layers else layer - 1
    if not _same(answer(model, tokens, elsewhere), cache["resid_pre", elsewhere]):
        raise Mistake("ignores_layer", f"Asked for layer {elsewhere} it returned something else.")
    if not _same(answer(model, tokens[:, :-1], layer), model.run_with_cache(tokens[:, :-1])[1]["resid_pre", layer]):
        raise Mistake("ignores_tokens")


def _cache_mistake(got: Any, wanted: Tensor, cache: Any, layer: int) -> Mistake:
    if not isinstance(got, Tensor):
        return Mistake("not_a_tensor", f"It returned {_kind(got)}.")
    if got.shape == wanted.shape[1:]:
        return Mistake("no_batch", f"Yours has shape {tuple(got.shape)}.")
    others = {"after_the_layer": ("resid_post", layer), "between_attention_and_mlp": ("resid_mid", layer)}
    others |= {"off_by_one": ("resid_pre", layer - 1)} if layer > 0 else {}
    for name, site in (others | {"embedding": ("embed", None)}).items():
        if _same(got, _cached(cache, *site)):
            return Mistake(name)
    if got.shape == wanted.shape and _same(_standardised(got), _standardised(wanted)):
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
    if all(got[site] == _shapes(model.cfg, batch, pos - 1)[site] for site in ("resid_pre", "q")):
        raise Mistake("no_start_token", f"Count them with prompts.encode: there are {pos}.")
    if all(got[site] == wanted[site][1:] for site in ("resid_pre", "q")):
        raise Mistake("no_batch")
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


def _as_shape(site: str, given: Any) -> tuple:
    """A tuple, list, ``torch.Size`` or one-dimensional array of sizes, as a tuple."""
    sizes = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(sizes, tuple | list) or not all(isinstance(size, Real) for size in sizes):
        raise Mistake("not_a_shape", f"For {site} you gave {_kind(given)}.")
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
        "no_start_token": "You counted the words' tokens but not the start token in front of them.",
        "no_batch": "Every activation has a batch axis in front, even when you look at one prompt only.",
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
        raise Mistake("shape", f"It returned {_kind(got)}.")
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
    """Stands in for the model, and for a defective hook mechanism: with hooks, the logits come out shifted.

    All logits of the last prompt move down by ``SHIFT`` at one position, those of the first prompt up by half
    as much at two (``sign=-1``: the other way round). So the signed mean is 0, as are all differences of
    probabilities, of the most likely token and at the last position. Hooks are watched, and never stay on the
    model itself.
    """

    SHIFT = 0.5

    def __init__(self, model: Any, sign: int) -> None:
        self._model, self._sign = model, sign
        self.plain_runs = 0
        self.hooked_runs = 0
        self.through_hooks = 0  # calls of run_with_hooks, with hooks or without
        self.given: list[tuple[Any, Callable]] = []  # every hook there ever was
        self.active: list[tuple[Any, Callable]] = []  # those in force
        self.edits: list[bool] = []  # for each call of a hook: did it change the activation?

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
            return out if sound else None  # a broken activation would only stop the model with an error of its own

        return watched

    def _shifted(self, logits: Any) -> Any:
        if not isinstance(logits, Tensor) or logits.ndim != 3:  # a loss, say
            return logits
        logits, shift, at = logits.clone(), self._sign * self.SHIFT, logits.shape[1] // 2
        logits[-1, at] -= shift
        logits[0, at] += shift / 2
        logits[0, 0] += shift / 2
        return logits


@torch.no_grad()
def _judge_no_op(answer: Callable, *, model: Any, tokens: Tensor, name: str) -> None:
    two = torch.cat([tokens, tokens])
    elsewhere = "hook_embed" if name != "hook_embed" else "blocks.0.hook_resid_pre"
    for sign, at in ((1, name), (-1, elsewhere)):
        faulty = _FaultyModel(model, sign)
        seen = answer(faulty, two, at)
        _check_runs(faulty, at)
        value = _one_number(seen)
        saw = f"On the defective model it returned {value:.3g}; the largest change there is {faulty.SHIFT}."
        if value > faulty.SHIFT + 1e-3:
            raise Mistake("added_up", saw)
        if not abs(value - faulty.SHIFT) < 1e-3:  # NaN too
            raise Mistake("blind", saw)
    value = _one_number(answer(model, tokens, name))
    if value != 0:
        raise Mistake("not_zero", f"It returned {value:.3g}.")


def _check_runs(faulty: _FaultyModel, at: str) -> None:
    """That there was one run with a hook that does nothing where it was asked for, and one without."""
    if not faulty.hooked_runs:
        raise Mistake("no_hook_given" if faulty.through_hooks or faulty.given else "never_hooked")
    if not any(name == at or (callable(name) and name(at)) for name, _ in faulty.given):
        raise Mistake("other_hook_point", f"Asked for was {at!r}.")
    if any(faulty.edits):
        raise Mistake("edits_something")
    if not faulty.plain_runs:
        raise Mistake("no_plain_run")
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
        raise Mistake("not_one_number", f"It returned {_kind(seen)}.")
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
        "no_plain_run": "Both runs go through the hook, so they share any defect of it. Compare with a run without hooks.",
        "hook_left_behind": "The hook is still on the model when your function returns, so every later run goes through it. `run_with_hooks` takes it off again.",
        "yes_or_no": "Return how large the difference is, not whether there is one: a number can be looked at when it is not zero.",
        "not_one_number": "Return one number: the largest absolute difference.",
        "blind": "The check ran it on a model whose hook mechanism is defective, and it did not see the whole defect. "
        "A mean lets plus and minus cancel, a maximum without the absolute value sees one sign, probabilities do not move when all logits do, "
        "and one position says nothing about the others: take the largest absolute difference of the logits over everything.",
        "added_up": "A sum or a norm grows with the number of logits, and then nobody can tell what is large: take the largest absolute difference.",
        "not_zero": "On the sound model it should be exactly 0.",
    },
    judge=_judge_no_op,
)

# ------------------------------------------------------------------ 5: find the bug


def _judge_bug(answer: Callable, *, eps: float = 1e-5) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(7, 32, generator=generator) * torch.logspace(-1, 1, 7)[:, None] + 0.3
    direction = torch.randn(32, generator=generator)
    got = answer(parts.clone(), direction.clone(), eps)
    if not isinstance(got, Tensor) or got.shape != (7,):
        raise Mistake("shape", f"It returned {_kind(got)}.")
    wanted = parts @ direction / _rms(parts.sum(0), eps)
    if _same(got, wanted):
        return
    for name, wrong in _wrong_attributions(parts, direction, eps):
        if _same(got, wrong):
            raise Mistake(name)
    if _same(got.sum(), wanted.sum()):
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
        "forced": "The sum is right and each part is wrong: rescaling or shifting the buggy numbers until they add up does not tell what a part contributes.",
        "does_not_add_up": "The parts do not add up to the logit.",
    },
    judge=_judge_bug,
)


def _same(got: Any, wanted: Tensor | None) -> bool:
    """Whether an answer has the wanted shape and values; on which device and in which dtype is left to the learner."""
    if not isinstance(got, Tensor) or wanted is None or got.shape != wanted.shape:
        return False
    got = got.detach().to(wanted.device, wanted.dtype)
    return torch.allclose(got, wanted, rtol=1e-4, atol=1e-5)


def _kind(got: Any) -> str:
    return f"a tensor of shape {tuple(got.shape)}" if isinstance(got, Tensor) else f"a {type(got).__name__}"


EXERCISES = (CACHE, SHAPES, ZERO_HEAD, NO_OP, FIND_THE_BUG)
