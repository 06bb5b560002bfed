"""What checks ask of any answer: is it the wanted tensor, and what is it in words."""

from typing import Any

import torch
from torch import Tensor


def same(got: Any, wanted: Tensor | None, *, rtol: float = 1e-4, atol: float = 1e-5) -> bool:
    """Whether an answer has the wanted shape and values; on which device and in which dtype is left to the learner.

    Where fractions must not pass for whole numbers, ``wanted`` has to be of a floating dtype.
    """
    if not isinstance(got, Tensor) or wanted is None or got.shape != wanted.shape:
        return False
    got = got.detach().to(wanted.device, wanted.dtype)
    return torch.allclose(got, wanted, rtol=rtol, atol=atol)


def kind(got: Any) -> str:
    """What an answer is, in a few words."""
    return f"a tensor of shape {tuple(got.shape)}" if isinstance(got, Tensor) else f"a {type(got).__name__}"
