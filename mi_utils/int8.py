"""Matrices in whole numbers of 8 bits: half of fp16, for weights that ship in ``data/``."""

import torch
from jaxtyping import Float, Int8
from torch import Tensor

_LEAST = 6e-8  # the smallest scale that fp16 holds: a column of zeros has it


def pack(matrix: Float[Tensor, "..."], dim: int) -> tuple[Int8[Tensor, "..."], Float[Tensor, "..."]]:
    """Whole numbers from -127 to 127, and the fp16 scale that brings them back, one for each slice along
    ``dim``.

    Args:
        matrix: what to pack, in fp32.
        dim: the axis that shares a scale; the scale has length 1 there.
    """
    largest = matrix.abs().amax(dim=dim, keepdim=True)
    scale = (largest / 127).half().float().clamp_min(_LEAST)
    return (matrix / scale).round().clamp(-127, 127).to(torch.int8), scale.half()


def unpack(numbers: Int8[Tensor, "..."], scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """What ``pack`` was given, in fp32; off by half of a 127th of the largest value of its slice at most."""
    return numbers.float() * scale.float()
