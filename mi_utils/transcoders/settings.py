"""How transcoders are trained: the choices of :mod:`mi_utils.transcoders.trainer`, checked."""

from dataclasses import dataclass
from typing import Literal

import torch

from mi_utils.transcoders.transcoders import TranscoderKind

_CHOICES = {
    "kind": ("clt", "plt"),
    "sparsity": ("batchtopk", "jumprelu"),
    "init": ("data", "random"),
    "rank_by": ("writes", "value"),
}
_POSITIVE = ("features", "k", "c", "steps", "lr", "bandwidth")


@dataclass(frozen=True)
class TranscoderSettings:
    """How to train transcoders.

    Attributes:
        features: in each layer.
        kind: ``clt`` or ``plt``.
        sparsity: ``batchtopk`` or ``jumprelu``.
        k: mean number of active features of a token in a layer (``batchtopk``). A CLT shares ``k`` times the
            number of layers among its layers as it likes; a PLT has a budget for each layer.
        penalty: λ of the loss in ``training``, reached over the first half (``jumprelu``); ``c`` is its
            sharpness.
        skip: add a linear map, fitted by ridge regression before the features see anything.
        steps: of Adam; ``lr`` its rate after ``warm_up`` steps, falling to zero over the last two fifths.
        rank_by: what BatchTopK ranks: how much a feature writes (its value times the length of its decoders),
            or its ``value`` alone, which favours features with short decoders.
        anneal: BatchTopK begins with this many times ``k`` and comes down over the first quarter.
        init: encoders that begin as inputs from the data, or as random directions.
        resample: give features that no longer fire the inputs with the largest errors, in the first half.
        normalise: centre and scale inputs and outputs by layer.
        bandwidth: of the rectangle that stands for the derivative of a step (``jumprelu``).
        precision: of the matrix products; bfloat16 is several times faster where the CPU knows it.
        seed: of all that is drawn.

    Raises:
        ValueError: a number out of range.
    """

    features: int
    kind: TranscoderKind = "clt"
    sparsity: Literal["batchtopk", "jumprelu"] = "batchtopk"
    k: float | int = 8
    penalty: float = 3e-3
    c: float | int = 4
    skip: bool = False
    steps: int = 1_500
    lr: float = 3e-3
    warm_up: int = 50
    rank_by: Literal["writes", "value"] = "writes"
    anneal: float | int = 4
    init: Literal["data", "random"] = "data"
    resample: bool = True
    normalise: bool = True
    bandwidth: float = 0.5
    precision: torch.dtype = torch.float32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} is {value!r}; it should be {' or '.join(known)}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} is {value}; it should be above 0")
        if self.k > self.features:
            raise ValueError(
                f"k is {self.k}; with {self.features} features in a layer it should be at most that"
            )
        if not (self.anneal >= 1 and self.penalty >= 0):
            raise ValueError(
                f"anneal is {self.anneal}, penalty {self.penalty}; they should be at least 1 and 0"
            )
