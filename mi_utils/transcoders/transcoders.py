"""Transcoders: sparse features that read what an MLP reads and write what it writes.

A *per-layer transcoder* (PLT; Dunefsky et al. 2024, arXiv 2406.11944) stands in for one MLP. A *cross-layer
transcoder* (CLT; Ameisen et al. 2025) reads at one layer and writes to the MLP outputs of that layer and all
later ones, so that a feature which many MLPs pass on need not be there many times. With a *skip* (Paulo et
al. 2025) a linear map of the MLP's input is added, and the features have only the rest to explain.

    a^l = JumpReLU(x^l @ W_enc^l + b_enc^l)
    y^l ≈ sum over l' <= l of a^l' @ W_dec^(l'->l) + b_dec^l (+ x^l @ W_skip^l)

``x^l`` is what the MLP of layer ``l`` reads, after its norm; ``y^l`` what it writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models

TranscoderKind = Literal["clt", "plt"]


@dataclass(frozen=True)
class Transcoders:
    """Transcoders for every MLP of a model.

    ``W_dec[l]`` holds what the features of layer ``l`` write, one block for each layer they write to: ``l``
    alone (``kind`` is ``plt``) or ``l`` to the last (``clt``). A feature is active where its pre-activation
    is above its ``threshold``. ``model`` is the name of the model they were trained on.

    Raises:
        ValueError: shapes that don't fit together, negative thresholds, or weights that are not finite.
    """

    W_enc: Float[Tensor, "layer d_model feature"] = field(repr=False)
    b_enc: Float[Tensor, "layer feature"] = field(repr=False)
    threshold: Float[Tensor, "layer feature"] = field(repr=False)
    W_dec: tuple[Float[Tensor, "_ feature d_model"], ...] = field(repr=False)
    b_dec: Float[Tensor, "layer d_model"] = field(repr=False)
    W_skip: Float[Tensor, "layer d_model d_model"] | None = field(default=None, repr=False)
    kind: TranscoderKind = "clt"
    model: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("clt", "plt"):
            raise ValueError(f"kind is {self.kind!r}; it should be 'clt' or 'plt'")
        n, d, f = self.W_enc.shape
        if len(self.W_dec) != n:
            raise ValueError(f"W_dec holds decoders of {len(self.W_dec)} layers; W_enc has {n}")
        wanted = {"b_enc": (n, f), "threshold": (n, f), "b_dec": (n, d), "W_skip": (n, d, d)}
        given = {name: getattr(self, name) for name in ("W_enc", *wanted)}
        for layer, decoder in enumerate(self.W_dec):
            wanted[f"W_dec[{layer}]"] = (n - layer if self.kind == "clt" else 1, f, d)
            given[f"W_dec[{layer}]"] = decoder
        for name, value in given.items():
            if value is None:
                continue
            if name in wanted and tuple(value.shape) != wanted[name]:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}; beside W_enc it should be {wanted[name]}"
                )
            if not torch.isfinite(value).all():
                raise ValueError(f"{name} holds values that are not finite (NaN or infinity)")
        if (self.threshold < 0).any():
            raise ValueError("threshold holds negative values; an active feature is positive")

    def __repr__(self) -> str:
        skip = " + skip" if self.W_skip is not None else ""
        name = {"clt": "cross-layer", "plt": "per-layer"}[self.kind]
        size = f"{self.n_layers} layers x {self.n_features} features"
        return f"Transcoders({name}{skip}, {size}, {self.model or 'no model'})"

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.W_enc.shape[0]

    @property
    def d_model(self) -> int:
        """Width of what they read and write."""
        return self.W_enc.shape[1]

    @property
    def n_features(self) -> int:
        """Features in each layer."""
        return self.W_enc.shape[2]

    @property
    def n_parameters(self) -> int:
        """All numbers that were trained."""
        tensors = [self.W_enc, self.b_enc, self.threshold, self.b_dec, *self.W_dec]
        return sum(t.numel() for t in tensors) + (0 if self.W_skip is None else self.W_skip.numel())

    def targets(self, layer: int) -> range:
        """Layers that the features of ``layer`` write to."""
        return range(layer, self.n_layers if self.kind == "clt" else layer + 1)

    def decoder(self, source: int, target: int) -> Float[Tensor, "feature d_model"]:
        """What the features of layer ``source`` write to the MLP output of layer ``target``.

        Raises:
            ValueError: they do not write there.
        """
        self.check_feature(source, 0)
        if target not in self.targets(source):
            raise ValueError(
                f"target is {target}; features of layer {source} write to {list(self.targets(source))}"
            )
        return self.W_dec[source][target - source]

    def decoder_norms(self) -> Float[Tensor, "layer feature"]:
        """Length of each feature's decoders taken together: the size of what it writes at a value of 1."""
        return torch.stack([decoder.square().sum(dim=(0, 2)).sqrt() for decoder in self.W_dec])

    def pre_activations(
        self, x: Float[Tensor, "*batch d_model"], layer: int
    ) -> Float[Tensor, "*batch feature"]:
        """Encoders of one layer, before the threshold."""
        return x @ self.W_enc[layer] + self.b_enc[layer]

    def encode(self, x: Float[Tensor, "*batch d_model"], layer: int) -> Float[Tensor, "*batch feature"]:
        """Features of one layer: the pre-activation where it is above the threshold, else 0.

        Raises:
            ValueError: inputs of another width.
        """
        if x.shape[-1] != self.d_model:
            raise ValueError(f"x has width {x.shape[-1]}; these transcoders read width {self.d_model}")
        pre = self.pre_activations(x, layer)
        return pre * (pre > self.threshold[layer])

    def output(
        self,
        features: Sequence[Float[Tensor, "*batch feature"]],
        layer: int,
        x: Float[Tensor, "*batch d_model"] | None = None,
    ) -> Float[Tensor, "*batch d_model"]:
        """What stands in for the MLP output of ``layer``.

        Args:
            features: of layers 0 to ``layer``, as ``encode`` gives them (only the last is used by a PLT).
            layer: whose MLP is replaced.
            x: what that MLP reads; needed where there is a skip.

        Raises:
            ValueError: too few layers of features, or ``x`` missing.
        """
        if len(features) <= layer:
            raise ValueError(
                f"features holds {len(features)} layers; for layer {layer} it should hold {layer + 1}"
            )
        total = self.b_dec[layer]
        for source in range(0 if self.kind == "clt" else layer, layer + 1):
            total = total + features[source] @ self.W_dec[source][layer - source]
        if self.W_skip is None:
            return total
        if x is None:
            raise ValueError("x is missing; transcoders with a skip need what the MLP reads")
        return total + x @ self.W_skip[layer]

    def to(self, device: str | torch.device) -> "Transcoders":
        """The same on another device."""
        names = ("W_enc", "b_enc", "threshold", "b_dec", "W_skip")
        given = {name: getattr(self, name) for name in names}
        moved = {name: value.to(device) for name, value in given.items() if value is not None}
        return replace(self, W_dec=tuple(decoder.to(device) for decoder in self.W_dec), **moved)

    def check_feature(self, layer: int, index: int) -> None:
        """Raises ``ValueError`` unless there is such a feature."""
        if isinstance(layer, bool) or not 0 <= layer < self.n_layers:
            raise ValueError(f"layer is {layer}; these transcoders have layers 0 to {self.n_layers - 1}")
        if isinstance(index, bool) or not 0 <= index < self.n_features:
            raise ValueError(
                f"feature is {index}; these transcoders have features 0 to {self.n_features - 1} a layer"
            )


def mlp_names(model: TransformerBridge) -> list[str]:
    """Hook points of what each MLP reads, after its norm, and then of what each writes."""
    layers = range(model.cfg.n_layers)
    reads = [models.hook_name(model, "mlp_in", layer) for layer in layers]
    writes = [models.hook_name(model, "mlp_out", layer) for layer in layers]
    return reads + writes


def check_fits(model: TransformerBridge, transcoders: Transcoders) -> None:
    """Raises ``ValueError`` unless the transcoders were made for this model."""
    name, cfg = model.cfg.model_name, model.cfg
    if transcoders.model and transcoders.model != name:
        raise ValueError(f"transcoders were trained on {transcoders.model}; the model is {name}")
    if transcoders.n_layers != cfg.n_layers:
        raise ValueError(f"transcoders have {transcoders.n_layers} layers; {name} has {cfg.n_layers}")
    if transcoders.d_model != cfg.d_model:
        raise ValueError(f"transcoders read width {transcoders.d_model}; {name} has {cfg.d_model}")


def skip_alone(transcoders: Transcoders) -> Transcoders:
    """The same with every feature switched off: what the skip and the biases do by themselves."""
    never = torch.full_like(transcoders.threshold, torch.finfo(torch.float32).max)
    return replace(transcoders, threshold=never)


# ------------------------------------------------------------------ how well they do


@dataclass(frozen=True)
class TranscoderFit:
    """How transcoders do on inputs and outputs of the model's own MLPs.

    ``fvu`` [layer] is the fraction of variance unexplained, |y - ŷ|² over |y - mean|², each summed over
    tokens (0: all is explained; 1: no better than the mean output; papers on transcoders call it normalised
    MSE).
    ``l0`` [layer] is the mean number of active features of a token; ``density`` [layer, feature] the share of
    tokens on which each is active.
    """

    fvu: Float[Tensor, "layer"]
    l0: Float[Tensor, "layer"]
    density: Float[Tensor, "layer feature"]

    @property
    def dead(self) -> float:
        """Share of features that were active on none of the tokens."""
        return (self.density == 0).float().mean().item()


@torch.no_grad()
def evaluate(
    transcoders: Transcoders, x: Float[Tensor, "layer token d_model"], y: Float[Tensor, "layer token d_model"]
) -> TranscoderFit:
    """Reconstruction and sparsity on what the model's own MLPs read (``x``) and write (``y``).

    Raises:
        ValueError: ``x`` and ``y`` of other shapes than the transcoders want, fewer than two tokens, or a
            layer whose outputs are all the same.
    """
    if x.shape != y.shape or len(x) != transcoders.n_layers or x.shape[1] < 2:
        raise ValueError(
            f"x and y have shapes {tuple(x.shape)} and {tuple(y.shape)}; both should be "
            f"[{transcoders.n_layers}, at least 2 tokens, {transcoders.d_model}]"
        )
    features, fvu = [], []
    for layer in range(transcoders.n_layers):
        inputs, wanted = x[layer].float(), y[layer].float()
        features.append(transcoders.encode(inputs, layer))
        error = wanted - transcoders.output(features, layer, inputs)
        total = (wanted - wanted.mean(dim=0)).square().sum()
        if total == 0:
            raise ValueError(
                f"y is the same for all tokens in layer {layer}; there is no variance to explain"
            )
        fvu.append(error.square().sum() / total)
    density = torch.stack([(a > 0).float().mean(dim=0) for a in features])
    return TranscoderFit(torch.stack(fvu), density.sum(dim=1), density)
