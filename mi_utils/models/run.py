"""Names of hook points, and the smallest hooks, with their arguments checked.

A hook that names a head which does not exist edits nothing in some libraries and something else in others
(``-1`` is the last head); here it is an error.
"""

import difflib
import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, SupportsIndex

from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_act_name

Hook = tuple[str, Callable]

# TransformerLens' short names of the sites used in this series.
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
    return get_act_name(_ALIASES.get(site, site), check_layer(model, layer))


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


def _check_index(what: str, index: SupportsIndex | None, count: int, model: TransformerBridge) -> int:
    try:
        whole = (
            operator.index(index) if not isinstance(index, bool) else -1
        )  # numpy's and torch's integers too
    except TypeError:
        whole = -1
    if not 0 <= whole < count:
        wanted = f"a whole number from 0 to {count - 1}"
        raise ValueError(f"{what} is {index!r}; in {model.cfg.model_name} it should be {wanted}")
    return whole


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


@contextmanager
def attached(model: TransformerBridge, hooks: Iterable[Hook]) -> Iterator[None]:
    """While this lasts, the forward hooks are in place: ``model.hooks`` for when there are hundreds of them.

    ``model.hooks`` looks up every name anew (10 ms each in the default model) and ignores a name it doesn't
    know.

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
