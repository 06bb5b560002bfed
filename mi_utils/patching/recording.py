"""One forward pass over prompts, with what patching needs of it.

``record`` keeps the residual stream, the sites that were asked for, attention's keys and values, and what
each block was called with, so that ``mi_utils.patching.engine`` can begin in the middle of it.
"""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from mi_utils import models

STREAM_SITES = ("resid_pre", "attn_out", "resid_mid", "mlp_pre", "mlp_post", "mlp_out", "resid_post")
HEAD_SITES = ("q", "k", "v", "z", "pattern", "scores", "result")


@dataclass(frozen=True)
class Run:
    """What one forward pass over prompts of one length leaves behind.

    ``run["z", 5]`` is the activation at a site that was recorded; ``resid_pre`` always is.
    """

    model: str
    tokens: Int[Tensor, "batch pos"]
    logits: Float[Tensor, "batch vocab"]  # at the last position, float32 whatever the model's dtype
    activations: dict[tuple[str, int], Tensor] = field(repr=False)
    inputs: tuple[Tensor, ...] = field(repr=False)  # of each block: resid_pre before any hook
    # [batch head pos d_head] of each layer; empty where the model's attention doesn't keep them
    keys_values: tuple[tuple[Tensor, Tensor], ...] = field(repr=False)
    arguments: tuple[dict[str, Any], ...] = field(repr=False)  # what each block got besides its input

    def __getitem__(self, key: tuple[str, int]) -> Tensor:
        if key not in self.activations:
            sites = ", ".join(dict.fromkeys(site for site, _ in self.activations))
            raise ValueError(f"{key!r} was not recorded; this run holds {sites} (record takes more sites)")
        return self.activations[key]


@torch.no_grad()
def record(model: TransformerBridge, tokens: Int[Tensor, "batch pos"], sites: Iterable[str] = ()) -> Run:
    """Run the prompts once and keep what patching needs.

    Args:
        model: a causal model.
        tokens: prompts of one length, as ``prompts.encode`` gives them.
        sites: names in ``STREAM_SITES`` or ``HEAD_SITES`` (of ``patching.recording``) to keep in every layer,
            besides ``resid_pre``.

    Raises:
        ValueError: no prompts, or an unknown site.
    """
    if isinstance(sites, str):
        raise ValueError(f"sites is {sites!r}; it should be several names, such as ({sites!r},)")
    if not tokens.numel():
        raise ValueError(
            f"tokens has shape {tuple(tokens.shape)}; it should hold at least one prompt and position"
        )
    kept: dict[tuple[str, int], Tensor] = {}
    last = model.cfg.n_layers - 1
    names = dict.fromkeys(("resid_pre", *sites))
    places = [(site, layer) for site in names for layer in range(last + 1)]
    if "resid_post" not in names:
        places.append(("resid_post", last))
    hooks = [models.keeper(check_site(model, *place), place, kept) for place in places]
    calls: list[dict[str, Any]] = []

    def note(block: nn.Module, args: tuple, named: dict[str, Any]) -> None:
        calls.append(_by_name(block, args, named))

    memory = DynamicCache()
    with (
        models.attached(model, hooks),
        models.before_each(model.blocks, note),
        remembering(model, memory),
    ):
        models.run_body(model, tokens)
    inputs = tuple(call.pop("input").detach() for call in calls)
    logits = models.unembed(model, kept["resid_post", last][:, -1]).float()
    if "resid_post" not in names:
        del kept["resid_post", last]
    return Run(
        model.cfg.model_name, tokens, logits, kept, inputs, _keys_values(memory, last + 1), tuple(calls)
    )


def check_site(model: TransformerBridge, site: str, layer: int) -> str:
    """The hook point of a site that can be patched.

    Raises:
        ValueError: one that can't, or an unknown site or layer.
    """
    name = models.hook_name(model, site, layer)
    if site not in STREAM_SITES + HEAD_SITES:
        raise ValueError(
            f"site is {site!r}, which can't be patched; {', '.join(STREAM_SITES + HEAD_SITES)} can"
        )
    return name


def _by_name(block: nn.Module, args: tuple, named: dict[str, Any]) -> dict[str, Any]:
    """What a block is called with: its input as ``input``, all else under the names in its signature."""
    names = list(inspect.signature(block.original_component.forward).parameters)
    named = {**dict(zip(names, args, strict=False)), **named}
    return {"input": named.pop(names[0]), **named}


@contextmanager
def remembering(model: TransformerBridge, memory: Any) -> Iterator[None]:
    """While this lasts, attention keeps its keys and values in ``memory``, and reads from there what is kept.

    Hugging Face's models make such a cache themselves, and hand it down under names that change with the
    version (``past_key_values`` became ``cache``); TransformerLens' attention looks for ``past_key_values``
    alone. So it is handed to each attention directly. Models of TransformerLens' own have none.
    """

    def give(attention: nn.Module, args: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, named | {"past_key_values": memory}

    remember = [] if models.body(model) is None else [block.attn for block in model.blocks]
    with models.before_each(remember, give):
        yield


def _keys_values(memory: DynamicCache, n_layers: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """What attention kept, layer by layer; nothing at all unless it was kept in every layer."""
    found = tuple((layer.keys, layer.values) for layer in memory.layers if layer.keys is not None)
    return found if len(found) == n_layers else ()


def check_run(model: TransformerBridge, run: Run) -> None:
    """Raises ``ValueError`` where the run was recorded with another model."""
    if run.model != model.cfg.model_name:
        raise ValueError(f"the run was recorded with {run.model!r}; it should be of {model.cfg.model_name!r}")
