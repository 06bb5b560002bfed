"""The checks of notebook 00: what passes, and which mistake each wrong answer is told to be."""

import functools
from collections.abc import Callable

import pytest
import torch
from frame import FromContext, answer_for

from mi_utils import grading, prompts
from mi_utils.grading.core import STOPPED

TEXTS = ["36 + 59 = 95", "59 + 36 = 95"]
LAYER, HEAD = 2, 2


def tokens(model):
    return prompts.encode(model, TEXTS)


CONTEXTS = {
    "00.cache_activation": [
        lambda tiny: {"model": tiny, "tokens": tokens(tiny), "layer": LAYER},
        lambda tiny: {"model": tiny, "tokens": tokens(tiny), "layer": 0},  # where the stream is the embedding
        lambda tiny: {"model": tiny, "tokens": tokens(tiny)[:1], "layer": 1},
    ],
    "00.predict_shape": [
        lambda tiny: {"model": tiny, "texts": TEXTS},
        lambda tiny: {"model": tiny, "texts": ["!?.", "abc"]},  # as many tokens as heads
    ],
    "00.zero_head": [
        lambda tiny: {"head": HEAD},
        lambda tiny: {"head": HEAD, "model": tiny},
    ],
    "00.no_op_control": [
        lambda tiny: {"model": tiny, "tokens": tokens(tiny), "name": "blocks.1.hook_resid_pre"},
        lambda tiny: {"model": tiny, "tokens": tokens(tiny)[:1], "name": "hook_embed"},
        lambda tiny: {"model": tiny, "tokens": tokens(tiny), "name": "blocks.0.attn.hook_z"},
    ],
    "00.find_the_bug": [lambda tiny: {}],
}

# ------------------------------------------------------------------ 1: cache an activation


def cache_by_site(model, tokens, layer):
    _, cache = model.run_with_cache(tokens)
    return cache["resid_pre", layer]


def cache_by_name(m, toks, which):
    return m.run_with_cache(toks, names_filter=f"blocks.{which}.hook_resid_pre")[1][
        f"blocks.{which}.hook_resid_pre"
    ]


def cache_by_hook(model, tokens, layer):
    kept = []
    model.run_with_hooks(
        tokens, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", lambda x, hook: kept.append(x.clone()))]
    )
    return kept[0]


def cache_with_gradients(model, tokens, layer=0, **unused):
    return cache_by_site(model, tokens, layer).requires_grad_()


def cache_in_double(model, tokens, layer):
    return cache_by_site(model, tokens, layer).double()


CACHE_RIGHT = {
    "site": cache_by_site,
    "name": cache_by_name,
    "hook": cache_by_hook,
    "gradients": cache_with_gradients,
    "double": cache_in_double,
    "decorated": torch.no_grad()(cache_by_site),
    "partial": functools.partial(cache_by_site),
}


def cached(pick: Callable) -> Callable:
    def answer(model, tokens, layer):
        logits, cache = model.run_with_cache(tokens)
        return pick(cache, layer, logits)

    return answer


def cache_made_earlier(context):
    _, cache = context["model"].run_with_cache(context["tokens"])
    return lambda model, tokens, layer: cache["resid_pre", layer]


def rms_normalised(x):
    return x / x.square().mean(-1, keepdim=True).sqrt()


def tuple_for_cache(model, tokens, layer):
    cache = model.run_with_cache(tokens)
    return cache["resid_pre", layer]


def tuple_for_cache_by_name(model, tokens, layer):
    cache = model.run_with_cache(tokens)
    return cache[f"blocks.{layer}.hook_resid_pre"]


def tuple_asked_politely(model, tokens, layer):
    return model.run_with_cache(tokens).get(f"blocks.{layer}.hook_resid_pre")


def logits_for_cache(model, tokens, layer):
    cache, _ = model.run_with_cache(tokens)
    return cache["resid_pre", layer]


def logits_for_cache_by_name(model, tokens, layer):
    cache, logits = model.run_with_cache(tokens)
    return cache[f"blocks.{layer}.hook_resid_pre"]


def logits_for_cache_of_a_plain_run(model, tokens, layer):
    cache = model(tokens)
    return cache["resid_pre", layer]


def tokens_before_model(tokens, model, layer):
    return cache_by_site(model, tokens, layer)


def layer_before_tokens(model, layer, tokens):
    _, cache = model.run_with_cache(tokens)
    return cache["resid_pre", layer]


def layer_first(layer, model, tokens):
    _, cache = model.run_with_cache(tokens)
    return cache["resid_pre", layer]


CACHE_WRONG = {
    "argument_order": [tokens_before_model, layer_before_tokens, layer_first, torch.no_grad()(layer_first)],
    "not_unpacked": [
        tuple_for_cache,
        tuple_for_cache_by_name,
        tuple_asked_politely,
        lambda model, tokens, layer: model.run_with_cache(tokens)["resid_pre", layer],
        lambda m, t, i: m.run_with_cache(t, names_filter=f"blocks.{i}.hook_resid_pre")[
            f"blocks.{i}.hook_resid_pre"
        ],
    ],
    "logits_for_cache": [
        logits_for_cache,
        logits_for_cache_by_name,
        logits_for_cache_of_a_plain_run,
        lambda model, tokens, layer: model.run_with_cache(tokens)[0]["resid_pre", layer],
    ],
    "cache_key": [
        cached(lambda cache, layer, _: cache[layer, "resid_pre"]),
        cached(lambda cache, layer, _: cache["resid_pre"]),
        cached(lambda cache, layer, _: cache["resid_pre"][layer]),
        cached(lambda cache, layer, _: cache[layer]),
        cached(lambda cache, layer, _: cache["resid_before", layer]),
        cached(lambda cache, layer, _: cache[f"blocks.{layer}.resid_pre"]),
        lambda m, t, i: m.run_with_cache(t, names_filter=f"blocks.{i}.hook_resid_pre")[1]["resid_post", i],
    ],
    "not_a_tensor": [
        cached(lambda cache, layer, _: cache),
        lambda model, tokens, layer: model.run_with_cache(tokens),
        cached(lambda cache, layer, _: cache["resid_pre", layer].tolist()),
        lambda model, tokens, layer: None,
        lambda model, tokens, layer: f"blocks.{layer}.hook_resid_pre",
    ],
    "no_batch": [cached(lambda cache, layer, _: cache["resid_pre", layer][0])],
    "after_the_layer": [
        cached(lambda cache, layer, _: cache["resid_post", layer]),
        lambda model, tokens, layer: model.run_with_cache(tokens)[1][f"blocks.{layer}.hook_out"],
    ],
    "between_attention_and_mlp": [cached(lambda cache, layer, _: cache["resid_mid", layer])],
    "off_by_one": [cached(lambda cache, layer, _: cache["resid_pre", layer - 1] * (layer > 0))],
    "embedding": [
        cached(lambda cache, layer, _: cache["embed"]),
        lambda model, tokens, layer: model.embed(tokens),
    ],
    "normalised": [
        cached(lambda cache, layer, _: cache[f"blocks.{layer}.ln1.hook_normalized"]),
        cached(lambda cache, layer, _: rms_normalised(cache["resid_pre", layer])),
        cached(lambda cache, layer, _: torch.nn.functional.layer_norm(cache["resid_pre", layer], (32,))),
    ],
    "something_else": [
        cached(lambda cache, layer, _: cache["z", layer]),
        cached(lambda cache, layer, _: cache["attn_out", layer]),
        cached(lambda cache, layer, _: cache["resid_pre", layer][:, -1]),
        cached(lambda cache, layer, logits: logits),
        cached(lambda cache, layer, _: torch.zeros_like(cache["resid_pre", layer])),
    ],
    "ignores_layer": [cached(lambda cache, layer, _: cache["resid_pre", LAYER])],
    "ignores_tokens": [FromContext(cache_made_earlier)],
    STOPPED: [
        lambda model, tokens: None,
        cached(lambda cache, layer, _: cache["resid_pre", layer][:, :, :, 0]),  # one index too many, no name
        max,
        torch.zeros(2, 8, 32),
        FromContext(lambda context: cache_by_site(**context)),
        # torch says NotImplementedError too; that is no unsolved exercise
        lambda model, tokens, layer: torch.zeros(2, dtype=torch.complex64).floor(),
    ],
}

# ------------------------------------------------------------------ 2: predict shapes


def shapes(*, as_type: Callable = tuple, **changed: Callable) -> FromContext:
    """The right shapes, with some changed by functions of batch, positions and the model's sizes."""

    def make(context):
        batch, pos = prompts.encode(context["model"], context["texts"]).shape
        cfg = context["model"].cfg
        sizes = {
            "resid_pre": (batch, pos, cfg.d_model),
            "q": (batch, pos, cfg.n_heads, cfg.d_head),
            "k": (batch, pos, cfg.n_key_value_heads, cfg.d_head),
            "pattern": (batch, cfg.n_heads, pos, pos),
        }
        return {
            site: as_type(changed[site](size) if site in changed else size) for site, size in sizes.items()
        }

    return FromContext(make)


def one_position_less(size):
    return size[0], size[1] - 1, *size[2:]


def without_batch(size):
    return size[1:]


def heads_before_positions(size):
    return size[0], size[2], size[1], size[3]


def measured_shapes(model, texts):
    _, cache = model.run_with_cache(prompts.encode(model, texts))
    return {site: cache[site, 0].shape for site in ("pattern", "resid_pre", "q", "k")}


SHAPES_RIGHT = {
    "tuples": shapes(),
    "lists": shapes(as_type=list),
    "torch.Size": shapes(as_type=torch.Size),
    "tensors": shapes(as_type=torch.tensor),
    "measured": FromContext(lambda context: measured_shapes(**context)),
}
SHAPES_WRONG = {
    "not_these_sites": [
        [(2, 8, 32)] * 4,
        {"q": (2, 8, 4, 8)},
        {"resid_pre": (2, 8, 32), "q": (2, 8, 4, 8), "k": (2, 8, 2, 8), "attn": (2, 4, 8, 8)},
        lambda: {"q": (2, 8, 4, 8)},
    ],
    "not_a_shape": [
        shapes(q=lambda size: "2 8 4 8", as_type=lambda x: x),
        shapes(k=lambda size: 1024, as_type=lambda x: x),
        shapes(k=lambda size: ["2", "8", "2", "8"]),
        shapes(pattern=lambda size: torch.zeros(size), as_type=lambda x: x),
        shapes(q=lambda size: None, as_type=lambda x: x),
    ],
    "one_prompt": [
        shapes(**dict.fromkeys(("resid_pre", "q", "k", "pattern"), lambda size: (1, *size[1:]))),
        shapes(resid_pre=lambda size: (1, *size[1:])),
        shapes(  # neither the second prompt nor the start token
            resid_pre=lambda size: (1, size[1] - 1, size[2]),
            q=lambda size: (1, size[1] - 1, *size[2:]),
            k=lambda size: (1, size[1] - 1, *size[2:]),
            pattern=lambda size: (1, size[1], size[2] - 1, size[3] - 1),
        ),
    ],
    "no_start_token": [
        shapes(
            resid_pre=one_position_less,
            q=one_position_less,
            k=one_position_less,
            pattern=lambda size: (*size[:2], size[2] - 1, size[3] - 1),
        ),
        shapes(resid_pre=one_position_less, q=one_position_less, k=one_position_less),
    ],
    "no_batch": [shapes(resid_pre=without_batch, q=without_batch, k=without_batch, pattern=without_batch)],
    "heads_first": [
        shapes(q=heads_before_positions, k=heads_before_positions),
        shapes(q=heads_before_positions),
        shapes(k=heads_before_positions),
        shapes(k=lambda size: (size[0], 4, size[1], 8)),
    ],
    "keys_not_shared": [shapes(k=lambda size: (*size[:2], 4, 8))],
    "pattern_axes": [
        shapes(pattern=lambda size: (size[0], size[2], size[1], size[3])),
        shapes(pattern=lambda size: (size[0], size[2], size[3], size[1])),
    ],
    "pattern_one_position": [shapes(pattern=lambda size: size[:3])],
    "heads_flat": [
        shapes(q=lambda size: (*size[:2], 32)),
        shapes(q=lambda s: (*s[:2], 32), k=lambda s: (*s[:2], 16)),
    ],
    "shape": [
        shapes(resid_pre=lambda size: (*size[:2], 8)),
        shapes(q=lambda size: (*size[:2], 2, 8)),
        shapes(q=lambda size: (size[0], size[3], *size[1:3])),
    ],
}

# ------------------------------------------------------------------ 3: a hook that zeroes one head


def zero_by_clone(z, hook):
    z = z.clone()
    z[:, :, HEAD] = 0.0
    return z


def zero_by_mask(act, hook):
    mask = torch.ones(act.shape[2])
    mask[HEAD] = 0
    return act * mask[None, None, :, None]


def zero_by_integers(z, hook=None):
    return z * (torch.arange(z.shape[-2]) != HEAD)[:, None].int()


def zero_by_where(z, **rest):
    return torch.where(torch.arange(z.shape[2])[:, None] == HEAD, torch.zeros_like(z), z)


def zero_by_stack(z, hook):
    return torch.stack(
        [torch.zeros_like(z[:, :, i]) if i == HEAD else z[:, :, i] for i in range(z.shape[2])], dim=2
    )


def zero_by_fill(z, hook):
    return z.index_fill(2, torch.tensor([HEAD]), 0.0)


def zero_and_ask_the_hook(z, hook):
    assert hook.name.endswith("hook_z")
    return zero_by_clone(z, hook)


def zero_with_gradients(z, hook):
    return zero_by_clone(z, hook).requires_grad_()


ZERO_RIGHT = {
    "clone": zero_by_clone,
    "mask": zero_by_mask,
    "integers": zero_by_integers,
    "where": zero_by_where,
    "stack": zero_by_stack,
    "fill": zero_by_fill,
    "hook": zero_and_ask_the_hook,
    "gradients": zero_with_gradients,
    "lambda": lambda z, hook: zero_by_clone(z, None),
    "partial": functools.partial(lambda head, z, hook: zero_by_clone(z, hook), HEAD),
}


def edited(edit: Callable) -> Callable:
    """A hook that clones, edits the clone with ``edit`` and returns it."""

    def answer(z, hook):
        z = z.clone()
        edit(z)
        return z

    return answer


def put(*where, value=0.0) -> Callable:
    return edited(lambda z: z.__setitem__(where, value))


def edit_in_place(z, hook):
    z[:, :, HEAD] = 0.0
    return z


def edit_in_place_and_return_nothing(z, hook):
    z[:, :, HEAD] = 0.0


def edit_a_clone_and_return_nothing(z, hook):
    z = z.clone()
    z[:, :, HEAD] = 0.0


ALL = slice(None)
ZERO_WRONG = {
    "no_return": [edit_a_clone_and_return_nothing, lambda z, hook: print(end="")],
    "shape": [
        lambda z, hook: z[:, :, HEAD] * 0,
        lambda z, hook: torch.cat([z[:, :, :HEAD], z[:, :, HEAD + 1 :]], dim=2),
        lambda z, hook: 0.0,
        lambda z, hook: (zero_by_clone(z, hook), hook),
    ],
    "dtype": [
        lambda z, hook: zero_by_clone(z, hook).double(),
        lambda z, hook: z * (torch.arange(z.shape[2], dtype=torch.float64) != HEAD).double()[:, None],
        lambda z, hook: zero_by_clone(z, hook).half(),
    ],
    "nothing_changed": [lambda z, hook: z, lambda z, hook: z.clone(), put(ALL, ALL, HEAD, slice(0))],
    "every_head": [lambda z, hook: torch.zeros_like(z), lambda z, hook: z * 0],
    "wrong_axis": [put(ALL, HEAD), put(..., HEAD)],
    "last_position_only": [put(ALL, -1, HEAD)],
    "first_prompt_only": [put(0, ALL, HEAD)],
    "not_zero": [
        put(ALL, 0, HEAD),
        put(ALL, ALL, HEAD, value=1e-9),
        edited(lambda z: z[:, :, HEAD].mul_(0.01)),
        edited(lambda z: z[:, :, HEAD].copy_(z[:, :, HEAD].mean(dim=(0, 1)).expand_as(z[:, :, HEAD]))),
        put(ALL, ALL, HEAD, 0),
        put(0, -1, HEAD),
    ],
    "other_head": [
        put(ALL, ALL, HEAD + 1),
        put(ALL, ALL, HEAD - 1),
        put(ALL, ALL, -1),
        put(ALL, ALL, HEAD - 2),
    ],
    "more_than_the_head": [
        put(ALL, ALL, slice(HEAD, None)),
        put(ALL, ALL, slice(None, HEAD + 1)),
        lambda z, hook: zero_by_clone(z, hook) * 2,
        lambda z, hook: zero_by_clone(z, hook) * (z > 0),
    ],
    "in_place": [edit_in_place, edit_in_place_and_return_nothing],
    STOPPED: [
        lambda z: zero_by_clone(z, None),
        lambda z, point: zero_by_clone(z, None),  # the model passes the hook point by its name
        put(HEAD),
        torch.zeros(2, 3, 4, 5),
    ],
}

# ------------------------------------------------------------------ 4: the no-op control


def same(value, hook):
    return value


def control(model, tokens, name):
    return (model.run_with_hooks(tokens, fwd_hooks=[(name, same)]) - model(tokens)).abs().max()


def control_as_float(m, t, n):
    plain = m.forward(t)
    hooked = m.run_with_hooks(t, [(n, lambda x, hook: x.clone())], return_type="logits")
    return torch.max(torch.abs(plain - hooked)).item()


def control_in_context(model, tokens, name):
    with model.hooks(fwd_hooks=[(name, same)]):
        hooked = model(tokens)
    return float((model(tokens, return_type="logits") - hooked).abs().amax(dim=(0, 1, 2)))


def control_by_add_hook(model, tokens, name):
    plain, _ = model.run_with_cache(tokens)
    model.add_hook(name, same)
    hooked = model(tokens)
    model.reset_hooks()
    return torch.linalg.vector_norm(plain - hooked, ord=float("inf"))


def control_with_empty_hooks(model, tokens, name):
    plain = model.run_with_hooks(tokens, fwd_hooks=[])
    hooked = model.run_with_hooks(
        tokens, fwd_hooks=[(lambda point: point == name, same)], reset_hooks_end=True
    )
    return (plain - hooked).abs().max().unsqueeze(0)


def control_prompt_by_prompt(model, tokens, name):
    return max(float(control(model, tokens[i : i + 1], name)) for i in range(len(tokens)))


def control_over_steps(model, tokens, name):
    change = model.run_with_hooks(tokens, fwd_hooks=[(name, same)]).double() - model(tokens).double()
    return max(change.max().item(), -change.min().item())


NO_OP_RIGHT = {
    "difference": control,
    "float": control_as_float,
    "context": control_in_context,
    "add_hook": control_by_add_hook,
    "empty": control_with_empty_hooks,
    "numpy": lambda m, t, n: (m(t) - m.run_with_hooks(t, fwd_hooks=[(n, same)])).abs().max().numpy(),
    "prompts": control_prompt_by_prompt,
    "signs": control_over_steps,
    "gradients": torch.enable_grad()(control),
}


def compared(how: Callable, edit: Callable = same) -> Callable:
    def answer(model, tokens, name):
        return how(model(tokens), model.run_with_hooks(tokens, fwd_hooks=[(name, edit)]))

    return answer


def both_hooked(model, tokens, name):
    runs = [model.run_with_hooks(tokens, fwd_hooks=[(name, same)]) for _ in range(2)]
    return (runs[0] - runs[1]).abs().max()


def hook_stays(model, tokens, name):
    plain = model(tokens)
    model.add_hook(name, same)
    return (model(tokens) - plain).abs().max()


def losses_compared(model, tokens, name):
    hooked = model.run_with_hooks(tokens, return_type="loss", fwd_hooks=[(name, same)], reset_hooks_end=True)
    return (model(tokens, return_type="loss") - hooked).abs()


def control_returning_nothing(model, tokens, name):
    return (
        (model.run_with_hooks(tokens, fwd_hooks=[(name, lambda x, hook: None)]) - model(tokens)).abs().max()
    )


def control_only_recording(model, tokens, name):
    seen = []
    hooked = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda x, hook: seen.append(x))])
    return (hooked - model(tokens)).abs().max().item()


def with_logits_of_earlier(context):
    logits = context["model"](context["tokens"])

    def answer(model, tokens, name):
        return (model.run_with_hooks(tokens, fwd_hooks=[(name, same)]) - logits).abs().max()

    return answer


def with_a_run_of_another_model(context):
    sound = context["model"]

    def answer(model, tokens, name):
        return (model.run_with_hooks(tokens, fwd_hooks=[(name, same)]) - sound(tokens)).abs().max()

    return answer


def edits_in_place(value, hook):
    value[:, -1] = 0


def largest(a, b):
    return (a - b).abs().max()


NO_OP_WRONG = {
    "never_hooked": [
        lambda model, tokens, name: 0.0,
        lambda model, tokens, name: (model(tokens) - model(tokens)).abs().max(),
    ],
    "no_hook_given": [lambda m, t, name: (m(t) - m.run_with_hooks(t, fwd_hooks=[])).abs().max()],
    "other_hook_point": [
        lambda m, t, name: largest(m(t), m.run_with_hooks(t, fwd_hooks=[("blocks.1.hook_resid_pre", same)])),
        lambda m, t, name: largest(m(t), m.run_with_hooks(t, fwd_hooks=[(f"{name}_", same)])),
    ],
    "edits_something": [
        compared(largest, lambda x, hook: x * 0),
        compared(largest, lambda x, hook: x + 1e-3),
        compared(largest, edits_in_place),
        compared(largest, lambda x, hook: x[:, -1]),
        compared(largest, lambda x, hook: x.double()),
    ],
    "returns_nothing": [
        control_returning_nothing,
        control_only_recording,
        compared(largest, lambda x, hook: print(end="")),
    ],
    "earlier_logits": [FromContext(with_logits_of_earlier), FromContext(with_a_run_of_another_model)],
    "no_plain_run": [both_hooked],
    "hook_left_behind": [hook_stays],
    "yes_or_no": [
        compared(torch.equal),
        compared(lambda a, b: torch.allclose(a, b, atol=1e-4)),
        compared(lambda a, b: (a == b).all()),
        compared(lambda a, b: (a == b).all().numpy()),
        compared(lambda a, b: (a == b).numpy().all()),
        compared(lambda a, b: float(not torch.allclose(a, b))),
    ],
    "not_one_number": [
        compared(lambda a, b: (a - b).abs()),
        compared(lambda a, b: (a - b).abs().amax(-1)),
        compared(lambda a, b: None),
        compared(lambda a, b: "0"),
        compared(lambda a, b: (a - b).numpy()),
    ],
    "signed_mean": [
        compared(lambda a, b: (a - b).mean()),
        compared(lambda a, b: (b - a).mean().abs().item()),
    ],
    "diluted": [
        compared(lambda a, b: (a - b).abs().mean()),
        compared(torch.nn.functional.l1_loss),
        compared(torch.nn.functional.mse_loss),
        compared(lambda a, b: (a - b).pow(2).mean().sqrt()),
        compared(lambda a, b: (a - b).abs().mean(-1).max()),
        compared(lambda a, b: (a - b).mean(-1).abs().max()),
        compared(lambda a, b: (a - b).abs().amax(-1).mean()),
    ],
    "signed_max": [
        compared(lambda a, b: (a - b).max()),
        compared(lambda a, b: (b - a).max()),
        compared(lambda a, b: (a - b).max().abs()),
        compared(lambda a, b: (b - a).min()),
    ],
    "one_prompt_only": [
        compared(lambda a, b: (a - b)[0].abs().max()),
        compared(lambda a, b: (a - b)[-1].abs().max()),
    ],
    "last_position_only": [
        compared(lambda a, b: (a - b)[:, -1].abs().max()),
        compared(lambda a, b: (a - b)[0, -1].abs().max()),
    ],
    "rounded": [
        *(
            compared(lambda a, b, digits=digits: round(largest(a, b).item(), digits))
            for digits in (0, 1, 2, 3, 4)
        ),
        compared(lambda a, b: round(largest(a, b).item())),
        compared(lambda a, b: int(largest(a, b))),
        compared(lambda a, b: max(largest(a, b).item() - 2e-3, 0.0)),
        compared(lambda a, b: largest(a, b).item() if largest(a, b) > 1e-3 else 0.0),
        compared(lambda a, b: largest(a.bfloat16(), b.bfloat16())),
        compared(lambda a, b: 0.0 if torch.allclose(a, b, atol=1e-3) else largest(a, b)),
        compared(lambda a, b: largest(a.round(decimals=3), b.round(decimals=3))),
    ],
    "saw_nothing": [
        compared(lambda a, b: (a.argmax(-1) - b.argmax(-1)).abs().max()),
        compared(lambda a, b: largest(a.softmax(-1), b.softmax(-1))),
        compared(lambda a, b: largest(a.log_softmax(-1), b.log_softmax(-1))),
        compared(lambda a, b: 0.0),
        compared(lambda a, b: (a - b)[..., 0].abs().max()),
        losses_compared,
    ],
    "not_the_largest": [
        compared(lambda a, b: float("nan")),
        compared(lambda a, b: (a - b)[:, :-1].abs().max()),
        compared(lambda a, b: (a - b).max() - (a - b).min()),
        compared(lambda a, b: 10 * largest(a, b)),
    ],
    "added_up": [
        compared(lambda a, b: (a - b).abs().sum()),
        compared(lambda a, b: (a - b).sum()),
        compared(lambda a, b: (a - b).pow(2).sum()),
        compared(lambda a, b: (a - b).norm(dim=-1).max()),
        compared(lambda a, b: (a - b).abs().sum(-1).max()),
        compared(lambda a, b: (a - b).norm()),
        compared(lambda a, b: (a != b).sum()),
    ],
    "not_zero": [
        compared(lambda a, b: largest(a, b) + 1e-6),
        compared(lambda a, b: max(largest(a, b), torch.tensor(1e-6))),
    ],
    STOPPED: [
        lambda model, tokens: 0.0,
        0.0,
        compared(largest, lambda x: x),
        compared(lambda a, b: (a - b).item()),
    ],
}

# ------------------------------------------------------------------ 5: find the bug


def rms(x, eps=1e-5):
    return (x.square().mean(-1, keepdim=True) + eps).sqrt()


def share_of_logit(parts, direction, eps):
    return parts @ direction / rms(parts.sum(0), eps)


def normalise_first(parts, direction, eps):
    return (parts / torch.sqrt(parts.sum(dim=0).pow(2).mean() + eps)) @ direction


def one_by_one(p, d, e=1e-5):
    scale = float(rms(sum(p), e))
    return torch.stack([torch.dot(part, d) / scale for part in p])


def in_place(parts, direction, eps):
    parts /= rms(parts.sum(0), eps)
    return parts @ direction


def in_double(parts, direction, eps):
    return share_of_logit(parts.double(), direction.double(), eps)


def centred(parts):
    return parts - parts.mean(-1, keepdim=True)


BUG_RIGHT = {
    "share": share_of_logit,
    "first": normalise_first,
    "loop": one_by_one,
    "in_place": in_place,
    "double": in_double,
    "einsum": lambda p, d, eps: torch.einsum("pd,d->p", p, d) * p.sum(0).square().mean().add(eps).rsqrt(),
    "gradients": lambda p, d, eps: share_of_logit(p.requires_grad_(), d, eps),
    "norm": lambda p, d, eps: p @ d / (p.sum(0).norm() ** 2 / p.shape[1] + eps) ** 0.5,
    "rms_norm": lambda p, d, eps: p * (torch.nn.functional.rms_norm(p.sum(0), (32,), eps=eps) / p.sum(0)) @ d,
}
BUG_WRONG = {
    "shape": [
        lambda p, d, eps: share_of_logit(p, d, eps).sum(),
        lambda p, d, eps: share_of_logit(p, d, eps).tolist(),
        lambda p, d, eps: share_of_logit(p, d, eps)[:, None],
        lambda p, d, eps: p / rms(p.sum(0)),
        lambda p, d, eps: None,
    ],
    "each_alone": [lambda p, d, eps: (p / rms(p, eps)) @ d],
    "no_norm": [lambda p, d, eps: p @ d],
    "euclidean": [lambda p, d, eps: p @ d / p.sum(0).norm()],
    "running_scale": [lambda p, d, eps: (p / rms(p.cumsum(0), eps)) @ d],
    "sum_of_scales": [lambda p, d, eps: p @ d / rms(p, eps).sum()],
    "scale_of_mean": [lambda p, d, eps: p @ d / rms(p.mean(0), eps)],
    "mean_square": [lambda p, d, eps: p @ d / (p.sum(0).square().mean() + eps)],
    "layer_norm": [
        lambda p, d, eps: centred(p) @ d / rms(centred(p.sum(0)), eps),
        lambda p, d, eps: p @ d / p.sum(0).var(correction=0).add(eps).sqrt(),
        lambda p, d, eps: p @ d / p.sum(0).std(),
    ],
    "eps_ignored": [
        lambda p, d, eps: p @ d / p.sum(0).square().mean().sqrt(),
        lambda p, d, eps: share_of_logit(p, d, 1e-5),
        lambda p, d, eps: share_of_logit(p, d, 1e-6),
        lambda p, d, eps: p @ d / rms(p.sum(0)),
        lambda p, d, eps: p @ d / p.sum(0).square().mean().sqrt().clamp(min=eps),
        lambda p, d, eps: p @ d * 32**0.5 / p.sum(0).norm(),
    ],
    "eps_outside": [
        lambda p, d, eps: p @ d / (p.sum(0).square().mean().sqrt() + eps),
        lambda p, d, eps: p @ d / (rms(p.sum(0), 0) + eps),
    ],
    "forced": [
        lambda p, d, eps: (p / rms(p)) @ d * share_of_logit(p, d, eps).sum() / ((p / rms(p)) @ d).sum(),
        lambda p, d, eps: share_of_logit(p, d, eps).mean().expand(7),
        lambda p, d, eps: share_of_logit(p, d, eps).flip(0),
    ],
    "does_not_add_up": [
        lambda p, d, eps: torch.zeros(7),
        lambda p, d, eps: share_of_logit(p, d, eps).abs(),
        lambda p, d, eps: p @ d / rms(p, eps).mean(),
        lambda p, d, eps: torch.full((7,), float("nan")),
        lambda p, d, eps: share_of_logit(p, d, eps**2),
    ],
    STOPPED: [lambda p, d: p @ d, lambda p, d, eps: p @ d / rms(p, eps)[:, None] @ d],
}

RIGHT = {
    "00.cache_activation": CACHE_RIGHT,
    "00.predict_shape": SHAPES_RIGHT,
    "00.zero_head": ZERO_RIGHT,
    "00.no_op_control": NO_OP_RIGHT,
    "00.find_the_bug": BUG_RIGHT,
}
WRONG = {
    "00.cache_activation": CACHE_WRONG,
    "00.predict_shape": SHAPES_WRONG,
    "00.zero_head": ZERO_WRONG,
    "00.no_op_control": NO_OP_WRONG,
    "00.find_the_bug": BUG_WRONG,
}


@pytest.mark.parametrize("exercise", ["00.cache_activation", "00.no_op_control"])
def test_right_answers_pass_on_gpt2_as_well(exercise, gpt2_model):
    for context in CONTEXTS[exercise]:
        given = context(gpt2_model)
        if "layer" in given:
            given["layer"] = min(given["layer"], gpt2_model.cfg.n_layers - 1)
        verdicts = {
            name: grading.check(exercise, answer, **given).status for name, answer in RIGHT[exercise].items()
        }
        assert set(verdicts.values()) == {"passed"}, verdicts


def test_a_model_without_shared_keys_has_as_many_keys_as_queries(gpt2_model):
    batch, pos = tokens(gpt2_model).shape
    heads = (batch, pos, 4, 8)
    answer = {"resid_pre": (batch, pos, 32), "q": heads, "k": heads, "pattern": (batch, 4, pos, pos)}
    assert grading.check("00.predict_shape", answer, model=gpt2_model, texts=TEXTS).status == "passed"


def test_keys_that_are_not_shared_are_told_where_there_are_as_many_positions_as_heads(tiny):
    given = CONTEXTS["00.predict_shape"][1](tiny)
    answer = answer_for(shapes(k=lambda size: (*size[:2], 4, 8)), given)
    assert answer["k"] == (2, 4, 4, 8)
    assert grading.check("00.predict_shape", answer, **given).mistake == "keys_not_shared"


def test_a_check_leaves_no_hook_on_the_model(tiny):
    context = CONTEXTS["00.no_op_control"][0](tiny)
    for answers in (NO_OP_RIGHT.values(), *NO_OP_WRONG.values()):
        for answer in answers:
            grading.check("00.no_op_control", answer, **context)
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


@pytest.mark.parametrize("name", ["hook_embed", "blocks.0.hook_resid_pre", "blocks.2.attn.hook_pattern"])
def test_a_control_that_hooks_one_fixed_place_is_seen_wherever_that_is(name, tiny):
    def fixed(model, tokens, _):
        return control(model, tokens, name)

    verdict = grading.check("00.no_op_control", fixed, model=tiny, tokens=tokens(tiny), name=name)
    assert verdict.mistake == "other_hook_point"


def test_shapes_are_told_where_they_differ_and_only_there(tiny):
    context = CONTEXTS["00.cache_activation"][0](tiny)
    batch, pos = context["tokens"].shape
    last = grading.check("00.cache_activation", cached(lambda cache, layer, _: cache["z", layer]), **context)
    assert f"Yours has shape {(batch, pos, 4, 8)}, the stream {(batch, pos, 32)}." in last.text
    other = grading.check(
        "00.cache_activation", cached(lambda cache, layer, _: cache["attn_out", layer]), **context
    )
    assert "shape" not in other.text


def test_what_stopped_is_told_with_the_line_where_the_cache_was_asked(tiny):
    context = CONTEXTS["00.cache_activation"][0](tiny)
    verdict = grading.check("00.cache_activation", misspelt_site, **context)
    assert verdict.text.endswith('In the line: return cache["resid_prae", layer]')


def misspelt_site(model, tokens, layer):
    _, cache = model.run_with_cache(tokens)
    return cache["resid_prae", layer]


def test_a_right_attribution_passes_with_every_eps():
    for eps in (1e-6, 1e-5, 1e-3):
        assert grading.check("00.find_the_bug", share_of_logit, eps=eps).status == "passed"
        assert grading.check("00.find_the_bug", normalise_first, eps=eps).status == "passed"


def test_a_control_is_judged_on_very_short_prompts_too(tiny):
    for length in (1, 2, 3):
        given = {"model": tiny, "tokens": tokens(tiny)[:1, :length], "name": "blocks.1.hook_resid_pre"}
        verdicts = {
            name: grading.check("00.no_op_control", answer, **given) for name, answer in NO_OP_RIGHT.items()
        }
        assert {verdict.status for verdict in verdicts.values()} == {"passed"}, verdicts
        diluted = grading.check("00.no_op_control", compared(lambda a, b: (a - b).abs().mean()), **given)
        assert diluted.mistake == "diluted"


def test_wrong_answers_are_told_apart_whatever_the_number_of_prompts_and_positions(tiny):
    """Those whose number depends on the sizes; the others are the same for all."""
    for prompts_, positions in ((1, 5), (1, 8), (3, 6), (5, 7)):
        given = tokens(tiny)[:1, :positions].repeat(prompts_, 1)
        for mistake in (
            "signed_mean",
            "diluted",
            "added_up",
            "signed_max",
            "one_prompt_only",
            "last_position_only",
        ):
            for answer in NO_OP_WRONG[mistake]:
                verdict = grading.check(
                    "00.no_op_control", answer, model=tiny, tokens=given, name="blocks.1.hook_resid_pre"
                )
                assert verdict.mistake == mistake, (prompts_, positions, verdict.text)
