"""The local replacement model: one prompt, transcoders in place of MLPs, and everything else held still.

Attention patterns and the norms' denominators are taken from the model's own run and frozen; what the
transcoders miss is added back as an *error*, also frozen. For that prompt the local model gives exactly the
model's logits, and between active features it is linear, which is what makes direct effects well defined
(Ameisen et al. 2025).

The first position is left to the model (its MLP output is all error): it holds the same massive vector
whatever the text is, and no transcoder here is trained on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models
from mi_utils.transcoders.transcoders import Transcoders, check_fits

Site = tuple[int, int, int]  # layer, position, feature


@dataclass(frozen=True)
class LocalModel:
    """A prompt's local replacement model; ``local_model`` makes one.

    ``stream`` is what each block reads; ``mlp_in`` (after the norm) and ``mlp_out`` what its MLP reads and
    writes; ``features`` the transcoders' features, ``errors`` what they miss. ``logits`` are those of the
    last position.
    """

    model: TransformerBridge = field(repr=False)
    transcoders: Transcoders
    tokens: Int[Tensor, "pos"] = field(repr=False)
    stream: Float[Tensor, "layer pos d_model"] = field(repr=False)
    patterns: Float[Tensor, "layer head pos pos"] = field(repr=False)
    attn_scale: Float[Tensor, "layer pos 1"] = field(repr=False)
    mlp_scale: Float[Tensor, "layer pos 1"] = field(repr=False)
    final_scale: Float[Tensor, "pos 1"] = field(repr=False)
    mlp_in: Float[Tensor, "layer pos d_model"] = field(repr=False)
    mlp_out: Float[Tensor, "layer pos d_model"] = field(repr=False)
    features: Float[Tensor, "layer pos feature"] = field(repr=False)
    errors: Float[Tensor, "layer pos d_model"] = field(repr=False)
    logits: Float[Tensor, "vocab"] = field(repr=False)

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return len(self.stream)

    @property
    def n_pos(self) -> int:
        """Positions of the prompt, the start token included."""
        return len(self.tokens)

    @property
    def parallel(self) -> bool:
        """Whether attention and MLP of a layer read the same stream (GPT-NeoX)."""
        return bool(getattr(self.model.cfg, "parallel_attn_mlp", False))

    @cached_property
    def replaced(self) -> Bool[Tensor, "pos"]:
        """Positions where transcoders stand in for MLPs: all but the first."""
        return torch.arange(self.n_pos) > 0

    @cached_property
    def value_weights(self) -> tuple[Tensor, Tensor]:
        """W_V [layer, head, d_model, d_head], one for each query head, and W_O [layer, head, d_head,
        d_model]."""
        layers = range(self.n_layers)
        return torch.stack(
            [models.value_weights(self.model, layer) for layer in layers]
        ), self.model.W_O.detach()

    @cached_property
    def attn_bias(self) -> Float[Tensor, "layer d_model"]:
        """What attention adds whatever it attends to: rows of a pattern sum to one, so value biases pass
        through."""
        total = torch.zeros(self.n_layers, self.model.cfg.d_model)
        for layer, block in enumerate(self.model.blocks):
            b_V, b_O = getattr(block.attn, "b_V", None), getattr(block.attn, "b_O", None)
            if b_V is not None:
                b_V = b_V.detach().reshape(-1, self.value_weights[1].shape[2])
                b_V = b_V.repeat_interleave(self.model.cfg.n_heads // len(b_V), dim=0)
                total[layer] += torch.einsum("he,hed->d", b_V, self.value_weights[1][layer])
            if b_O is not None:
                total[layer] += b_O.detach()
        return total

    @cached_property
    def active(self) -> Int[Tensor, "active 3"]:
        """Layer, position and index of every active feature, in that order."""
        return self.features.nonzero()

    def attention(
        self, stream: Float[Tensor, "*batch pos d_model"], layer: int
    ) -> Float[Tensor, "*batch pos d_model"]:
        """What frozen attention writes when it reads ``stream``."""
        read = models.centred(self.model, stream) / self.attn_scale[layer]
        return attend(self, read, self.patterns[layer], layer) + self.attn_bias[layer]

    def check_site(self, layer: int, position: int, index: int) -> Site:
        """The feature as it was named.

        Raises:
            ValueError: no such layer, position or feature, or the first position, which transcoders leave
                alone.
        """
        self.transcoders.check_feature(layer, index)
        if isinstance(position, bool) or not 0 < position < self.n_pos:
            raise ValueError(
                f"position is {position}; features of this prompt are at positions 1 to {self.n_pos - 1} "
                f"(the first is left to the model)"
            )
        return int(layer), int(position), int(index)


@torch.no_grad()
def local_model(model: TransformerBridge, transcoders: Transcoders, tokens: Int[Tensor, "pos"]) -> LocalModel:
    """Run a prompt once and freeze it.

    Args:
        model: a model with folded norms, as ``load_model`` gives it.
        transcoders: made for it.
        tokens: the prompt as token ids, start token first (one row of ``prompts.encode``).

    Raises:
        ValueError: transcoders of another model, a prompt of one token or longer than the model's context, or
            token ids that it does not have.
    """
    check_fits(model, transcoders)
    _check_tokens(model, tokens)
    n_layers, parallel = model.cfg.n_layers, bool(getattr(model.cfg, "parallel_attn_mlp", False))
    kept = _run(model, tokens, n_layers)
    stream = torch.stack([kept["resid_pre", layer] for layer in range(n_layers)])
    read = stream if parallel else torch.stack([kept["resid_mid", layer] for layer in range(n_layers)])
    mlp_in = torch.stack([kept["mlp_in", layer] for layer in range(n_layers)])
    mlp_out = torch.stack([kept["mlp_out", layer] for layer in range(n_layers)])
    features = torch.stack([transcoders.encode(mlp_in[layer], layer) for layer in range(n_layers)])
    features[:, 0] = 0
    replaced = torch.stack(
        [transcoders.output(features.unbind(), layer, mlp_in[layer]) for layer in range(n_layers)]
    )
    replaced[:, 0] = 0
    last = kept["resid_post", n_layers - 1]
    return LocalModel(
        model,
        transcoders,
        tokens,
        stream,
        patterns=torch.stack([kept["pattern", layer] for layer in range(n_layers)]),
        attn_scale=models.norm_scale(model, stream),
        mlp_scale=models.norm_scale(model, read),
        final_scale=models.norm_scale(model, last),
        mlp_in=mlp_in,
        mlp_out=mlp_out,
        features=features,
        errors=mlp_out - replaced,
        logits=models.unembed(model, last[-1:])[0],
    )


def _check_tokens(model: TransformerBridge, tokens: Tensor) -> None:
    name, longest = model.cfg.model_name, model.cfg.n_ctx
    if not 2 <= len(tokens) <= longest:
        raise ValueError(f"tokens has {len(tokens)} positions; for {name} it should have from 2 to {longest}")
    if tokens.min() < 0 or tokens.max() >= model.cfg.d_vocab:
        raise ValueError(
            f"tokens holds ids from {int(tokens.min())} to {int(tokens.max())}; {name} has "
            f"0 to {model.cfg.d_vocab - 1}"
        )


def _run(model: TransformerBridge, tokens: Tensor, n_layers: int) -> dict[tuple[str, int], Tensor]:
    """What passes at every site of a run of one prompt, without the batch's axis."""
    kept: dict[tuple[str, int], Tensor] = {}
    sites = ["resid_pre", "pattern", "mlp_in", "mlp_out"]
    if not getattr(model.cfg, "parallel_attn_mlp", False):
        sites.append("resid_mid")
    names = {
        (site, layer): models.hook_name(model, site, layer) for site in sites for layer in range(n_layers)
    }
    names["resid_post", n_layers - 1] = models.hook_name(model, "resid_post", n_layers - 1)
    with models.attached(model, [models.keeper(name, key, kept) for key, name in names.items()]):
        models.run_body(model, tokens[None])
    return {key: value[0].clone() for key, value in kept.items()}


@dataclass(frozen=True)
class LocalRun:
    """What the local model does: features [layer, pos, feature], their pre-activations, and logits
    [vocab]."""

    features: Float[Tensor, "layer pos feature"] = field(repr=False)
    pre_activations: Float[Tensor, "layer pos feature"] = field(repr=False)
    logits: Float[Tensor, "vocab"] = field(repr=False)


@torch.no_grad()
def run_local(
    local: LocalModel,
    clamp: Mapping[Site, float | int] | None = None,
    *,
    linear: bool = False,
    attention: str = "frozen",
) -> LocalRun:
    """Run the local replacement model, with some features held at values of one's choice.

    Args:
        local: the frozen prompt.
        clamp: (layer, position, feature) -> value; 0 suppresses a feature.
        linear: features that were active on the prompt stay linear in their input, others stay off: what a
            graph, which has only direct effects, amounts to. Otherwise thresholds apply anew.
        attention: ``frozen``, or ``live`` to compute patterns anew from the changed stream (norms stay
            frozen).

    Raises:
        ValueError: a feature, layer or position that does not exist, a value that is not finite, or an
            unknown ``attention``.
    """
    if attention not in ("frozen", "live"):
        raise ValueError(f"attention is {attention!r}; it should be 'frozen' or 'live'")
    clamp = {local.check_site(*site): float(value) for site, value in (clamp or {}).items()}
    for site, value in clamp.items():
        if not torch.isfinite(torch.tensor(value)):
            raise ValueError(f"clamp holds {value} for feature {site}; it should be finite")
    stream, features, pre = local.stream[0], [], []
    for layer in range(local.n_layers):
        moved = stream + (_live_attention if attention == "live" else LocalModel.attention)(
            local, stream, layer
        )
        read = models.centred(local.model, stream if local.parallel else moved) / local.mlp_scale[layer]
        pre.append(local.transcoders.pre_activations(read, layer))
        on = local.features[layer] > 0 if linear else pre[-1] > local.transcoders.threshold[layer]
        values = pre[-1] * on * local.replaced[:, None]
        for (at, position, index), value in clamp.items():
            if at == layer:
                values[position, index] = value
        features.append(values)
        written = local.transcoders.output(features, layer, read) * local.replaced[:, None]
        stream = moved + written + local.errors[layer]
    final = models.centred(local.model, stream) / local.final_scale
    return LocalRun(torch.stack(features), torch.stack(pre), _unembed_scaled(local, final[-1]))


def _unembed_scaled(local: LocalModel, scaled: Float[Tensor, "d_model"]) -> Float[Tensor, "vocab"]:
    logits, b_U = scaled @ local.model.W_U.detach(), local.model.b_U
    return logits if b_U is None else logits + b_U.detach()


def _live_attention(local: LocalModel, stream: Tensor, layer: int) -> Tensor:
    """What attention writes with a pattern computed anew; the norm's denominator stays frozen."""
    model, kept = local.model, {}
    read = models.centred(model, stream) / local.attn_scale[layer]
    instead = (f"blocks.{layer}.attn.hook_in", lambda value, hook: read[None])
    pattern = models.keeper(models.hook_name(model, "pattern", layer), "pattern", kept)
    models.run_for_hooks(model, local.tokens[None], [instead, pattern])
    return attend(local, read, kept["pattern"][0], layer) + local.attn_bias[layer]


def attend(
    local: LocalModel,
    read: Float[Tensor, "*batch pos d_model"],
    pattern: Float[Tensor, "head pos pos"],
    layer: int,
) -> Float[Tensor, "*batch pos d_model"]:
    """What a block's heads write with a pattern when they read ``read`` (already normed), without their
    biases."""
    W_V, W_O = (w[layer] for w in local.value_weights)
    values = torch.einsum("...pd,hde->...hpe", read, W_V)
    return torch.einsum("hqp,...hpe,hed->...qd", pattern, values, W_O)
