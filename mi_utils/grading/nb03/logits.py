"""What the checks of notebook 03 share that call a model: streams, norms, and when logits are the same."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import same
from mi_utils.grading.tensors import seeded


def like_logits(got: Any, wanted: Tensor | None) -> bool:
    """Up to a thousandth of the largest: however a learner writes the norm, float32 and eps move logits less."""
    if wanted is None:
        return False
    return same(got, wanted, rtol=0.0, atol=1e-3 * float(wanted.abs().nan_to_num().max()))


def random_stream(model: Any, *shape: int) -> Tensor:
    """Like a residual stream whose mean is not 0, so that centring shows; each row has another scale."""
    generator = seeded()
    scales = torch.linspace(0.5, 3.0, math.prod(shape)).reshape(*shape, 1)
    stream = scales * (torch.randn(*shape, model.cfg.d_model, generator=generator) + 0.6)
    return stream.to(model.W_U.device, model.W_U.dtype)


@contextmanager
def other_bias(model: Any) -> Iterator[None]:
    """While this lasts, the model's unembedding has a bias: in a model with RMSNorm there is none to forget."""
    bias = model.unembed.b_U.data
    before = bias.clone()
    bias.copy_(torch.randn(bias.shape, generator=seeded()) * 2)
    try:
        yield
    finally:
        bias.copy_(before)


def centres(model: Any) -> bool:
    """Whether the model's norms subtract the mean (LayerNorm) or not (RMSNorm)."""
    return "RMS" not in model.cfg.normalization_type.upper()
