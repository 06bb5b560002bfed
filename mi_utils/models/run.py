"""What every analysis of a model begins with: names of hook points, hooks, running parts, norms, weights.

Arguments are checked. A hook that names a head which does not exist edits nothing in some libraries and
something else in others (``-1`` is the last head); here it is an error.
"""

import difflib
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, SupportsIndex

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_act_name

Head = tuple[int, int]  # layer, head
Hook = tuple[str, Callable]  # name of a hook point, what is called there
Act = Callable[[nn.Module, tuple, dict[str, Any]], tuple[tuple, dict[str, Any]] | None]

# TransformerLens' short names of the sites used in this series, but for ``mlp_in``: here it is what the MLP
# reads, after its norm (theirs comes before the norm).
SITES = (
    "embed",
    "resid_pre",
    "attn_in",
    "q",
    "k",
    "v",
    "scores",
    "pattern",
    "z",
    "result",
    "attn_out",
    "resid_mid",
    "mlp_in",
    "mlp_pre",
    "mlp_post",
    "mlp_out",
    "resid_post",
    "final_scale",
)
_ONCE = {"embed": "hook_embed", "final_scale": "ln_final.hook_scale"}
_SWITCHES = {"attn_in": "use_attn_in", "result": "use_attn_result"}  # costly, so off until set_use_...(True)
_ALIASES = {"scores": "attn_scores", "mlp_pre": "pre", "mlp_post": "post"}


def hook_name(model: TransformerBridge, site: str, layer: SupportsIndex | None = None) -> str:
    """Full name of a hook point, for instance ``blocks.3.attn.hook_z`` for ``("z", 3)``.

    Args:
        model: the model whose hook points are meant.
        site: one of ``SITES``.
        layer: 0 to ``n_layers - 1``; ``None`` for ``embed`` and ``final_scale``.

    Raises:
        ValueError: an unknown site (the nearest is suggested), one that is switched off (it would never
            fire), or a layer out of range, missing or not wanted.
    """
    if site not in SITES:
        near = difflib.get_close_matches(site, SITES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it should be one of {', '.join(SITES)}"
        raise ValueError(f"site is {site!r}; {hint}")
    if site in _ONCE:
        if layer is not None:
            raise ValueError(f"layer is {layer}; {site!r} exists once in a model, so it should be None")
        return _ONCE[site]
    switch = _SWITCHES.get(site)
    if switch and not getattr(model.cfg, switch, False):
        raise ValueError(f"site is {site!r}, which is switched off; call model.set_{switch}(True) first")
    layer = check_layer(model, layer)
    if site == "mlp_in":
        return f"blocks.{layer}.mlp.hook_in"
    return get_act_name(_ALIASES.get(site, site), layer)


def check_layer(model: TransformerBridge, layer: SupportsIndex | None) -> int:
    """The layer, if the model has it.

    Raises:
        ValueError: anything but a whole number from 0 to ``n_layers - 1`` (negative numbers included).
    """
    return _check_index("layer", layer, model.cfg.n_layers, model)


def check_head(model: TransformerBridge, head: SupportsIndex | None, site: str = "z") -> int:
    """The head, if the model has it at that site (keys and values may have fewer heads than queries).

    Raises:
        ValueError: anything but a whole number from 0 to the number of heads minus 1.
    """
    return _check_index("head", head, n_heads(model, site), model)


def n_heads(model: TransformerBridge, site: str = "z") -> int:
    """How many heads a site has: with grouped queries, ``k`` and ``v`` have fewer than the rest."""
    shared = getattr(model.cfg, "n_key_value_heads", None)
    return shared if site in ("k", "v") and shared else model.cfg.n_heads


def all_heads(model: TransformerBridge) -> list[Head]:
    """Every head of a model, layer by layer."""
    return [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]


def check_heads(model: TransformerBridge, heads: Collection[Head], name: str = "heads") -> frozenset[Head]:
    """The heads as a set, if the model has them all.

    Raises:
        ValueError: something that is no (layer, head), or a layer or head out of range.
    """
    for one in heads:
        if not (isinstance(one, tuple) and len(one) == 2):
            raise ValueError(f"{name} holds {one!r}; it should hold pairs (layer, head)")
        check_layer(model, one[0])
        check_head(model, one[1])
    return frozenset(heads)


def check_length(model: TransformerBridge, tokens: Int[Tensor, "batch pos"]) -> None:
    """Raises ``ValueError`` where sequences are longer than the model's context."""
    if tokens.shape[1] > model.cfg.n_ctx:
        raise ValueError(
            f"tokens has {tokens.shape[1]} positions; for {model.cfg.model_name} it should have at most "
            f"{model.cfg.n_ctx}"
        )


def _check_index(what: str, index: SupportsIndex | None, count: int, model: TransformerBridge) -> int:
    try:
        whole = operator.index(index)  # numpy's and torch's integers too
    except TypeError:
        whole = -1
    if isinstance(index, bool) or not 0 <= whole < count:
        wanted = f"a whole number from 0 to {count - 1}"
        raise ValueError(f"{what} is {index!r}; in {model.cfg.model_name} it should be {wanted}")
    return whole


# -- hooks ---------------------------------------------------------------------------------------------


def zero_head(model: TransformerBridge, layer: SupportsIndex, head: SupportsIndex) -> Hook:
    """A forward hook that removes what one attention head writes, by zeroing its ``z`` at every position.

    Use: ``model.run_with_hooks(tokens, fwd_hooks=[zero_head(model, 3, 5)])``.
    """
    head = check_head(model, head)

    def zero(z: Float[Tensor, "batch pos head d_head"], hook) -> Float[Tensor, "batch pos head d_head"]:
        z = z.clone()
        z[:, :, head] = 0
        return z

    return hook_name(model, "z", layer), zero


def keeper(name: str, key: Any, kept: dict[Any, Tensor]) -> Hook:
    """A forward hook that keeps what passes at a hook point, under ``key``, still joined to its gradient.

    The value is handed back: a head's activation is seen in another shape than the model has it, and only
    what the model goes on with has a gradient.
    """

    def keep(value: Tensor, hook: Any) -> Tensor:
        kept[key] = value
        return value

    return name, keep


def look_only(act: Callable[[Tensor], Any]) -> Callable:
    """A hook that looks and changes nothing."""

    def look(value: Tensor, hook: Any) -> None:
        act(value)

    return look


@contextmanager
def attached(model: TransformerBridge, hooks: Iterable[Hook]) -> Iterator[None]:
    """While this lasts, the forward hooks are in place.

    TransformerLens' ``model.hooks`` and ``run_with_hooks`` look up every name anew (10 ms each in the
    default model), and version 3 ignores a name it doesn't know.

    Raises:
        ValueError: a hook point that the model doesn't have.
    """
    points, level = model.hook_dict, model.context_level + 1
    hooked = []
    try:
        model.context_level = level
        for name, hook in hooks:
            if name not in points:
                raise ValueError(f"hook point {name!r} does not exist in {model.cfg.model_name}")
            points[name].add_hook(hook, level=level)
            hooked.append(points[name])
        yield
    finally:
        for point in hooked:
            point.remove_hooks(level=level)
        model.context_level = level - 1


@contextmanager
def before_each(modules: Iterable[nn.Module], act: Act) -> Iterator[None]:
    """While this lasts, ``act(module, args, kwargs)`` comes before every call of each of the modules.

    It may return other ``(args, kwargs)``, which are used instead. Hook points show what is computed in a
    block; this shows what the block is called with: masks, positions, memory of keys and values.
    """
    handles = [module.register_forward_pre_hook(act, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# -- running parts of a model --------------------------------------------------------------------------


def body(model: TransformerBridge) -> nn.Module | None:
    """Hugging Face's model without its unembedding; ``None`` for a model of TransformerLens' own."""
    whole = model.original_model
    inner = getattr(whole, "base_model", whole)
    return None if inner is whole else inner


def run_body(model: TransformerBridge, tokens: Int[Tensor, "batch pos"]) -> None:
    """Run the model for the sake of hooks: where that can be without its unembedding, a fifth of the work."""
    inner = body(model)
    if inner is None:
        model(tokens, return_type=None)
    else:
        inner(tokens, use_cache=False)


class _Enough(Exception):
    """Every hook was called: the rest of the forward pass is not needed."""


def run_for_hooks(model: TransformerBridge, tokens: Int[Tensor, "batch pos"], hooks: Sequence[Hook]) -> None:
    """Run the model for the sake of these hooks, and no further than until each of them was called.

    The unembedding is not run (``run_body``): a hook in it is not called.

    Raises:
        ValueError: a hook point that the model doesn't have.
    """
    waiting = set(range(len(hooks)))

    def counted(number: int, name: str, act: Callable) -> Hook:
        def act_and_count(value: Tensor, hook: Any) -> Tensor | None:
            result = act(value, hook=hook)
            waiting.discard(number)
            if not waiting:
                raise _Enough
            return result

        return name, act_and_count

    with attached(model, [counted(number, *hook) for number, hook in enumerate(hooks)]), suppress(_Enough):
        run_body(model, tokens)


def unembed(
    model: TransformerBridge, stream: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """The model's own way out: its final norm, then its unembedding."""
    rows = stream.reshape(1, -1, stream.shape[-1])
    return model.unembed(model.ln_final(rows)).reshape(*stream.shape[:-1], -1)


def kl(
    believed: Float[Tensor, "*#batch d_vocab"], other: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(believed || other) in nats, of log-probabilities: what is lost by going by the second.

    Both come from ``log_softmax``; logits have to be normalised first.
    """
    return F.kl_div(other, believed, log_target=True, reduction="none").sum(dim=-1)


def rows_at_once(model: TransformerBridge) -> int:
    """So many that logits over the vocabulary stay small."""
    return max(1, 200_000 // model.cfg.d_vocab)


# -- norms ---------------------------------------------------------------------------------------------

# What a norm does besides its learned scale, which ``load_model`` folds into the weights that read it.
# RMSNorm divides by the root of the mean square; LayerNorm subtracts the mean first. Held fixed in one run,
# both are linear in the stream, which is what direct logit attribution and path patching rest on.


def centred(model: TransformerBridge, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """``x`` as the model's norms see it before they divide: less its mean where they are LayerNorms."""
    return x if "RMS" in model.cfg.normalization_type.upper() else x - x.mean(dim=-1, keepdim=True)


def norm_before_mlp(block: nn.Module) -> nn.Module:
    """The norm that a block's MLP reads through: its own, or the one it shares with attention (GPT-J)."""
    return getattr(block, "ln2", block.ln1)


def norm_scale(model: TransformerBridge, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
    """What the model's norms divide ``x`` by."""
    return (centred(model, x).square().mean(dim=-1, keepdim=True) + model.cfg.eps).sqrt()


# -- weights of heads ----------------------------------------------------------------------------------


def key_weights(model: TransformerBridge, layer: int) -> Float[Tensor, "head d_model d_head"]:
    """``W_K`` for each query head: with grouped queries, several heads have the same."""
    return _for_each_head(model, model.blocks[layer].attn.W_K)


def value_weights(model: TransformerBridge, layer: int) -> Float[Tensor, "head d_model d_head"]:
    """``W_V`` for each query head: with grouped queries, several heads have the same."""
    return _for_each_head(model, model.blocks[layer].attn.W_V)


def _for_each_head(model: TransformerBridge, weights: Tensor) -> Tensor:
    return weights.repeat_interleave(model.cfg.n_heads // weights.shape[0], dim=0)
