"""Checks of notebook 00 about hooks: one that zeroes a head, and one that changes nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import kind
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 00.zero_head: a hook that zeroes one head


def _judge_zero_head(answer: Callable, *, head: int, model: Any = None) -> None:
    # With the model, z has its sizes, so that a mask made for the model fits. Else: all sizes different.
    heads, d_head = (model.cfg.n_heads, model.cfg.d_head) if model else (head + 3, head + 5)
    z = torch.randn(2, heads + 1, heads, d_head, generator=seeded())
    z = z.to(model.cfg.device) if model else z
    before = z.clone()
    got = answer(
        z, hook=SimpleNamespace(name="blocks.0.attn.hook_z", ctx={}, layer=lambda: 0)
    )  # as the model calls it
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

# ------------------------------------------------------------------ 00.no_op_control: the no-op control


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
            return (
                out if sound else None
            )  # a broken activation would only stop the model with an error of its own

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
