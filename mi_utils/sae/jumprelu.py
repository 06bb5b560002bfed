"""JumpReLU and the step it is made of, with the derivatives that let thresholds be learned.

Neither has a useful derivative by its threshold; a rectangle of a given width around it stands in
(Rajamanoharan et al. 2024).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx


class Jump(torch.autograd.Function):
    """``pre`` where it is above the threshold, else 0 (Rajamanoharan et al. 2024, with their derivatives)."""

    @staticmethod
    def forward(ctx: FunctionCtx, pre: Tensor, threshold: Tensor, bandwidth: float | int) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = _near(pre, threshold, ctx.bandwidth)
        of_pre = gradient * (pre > threshold)
        of_threshold = -(threshold / ctx.bandwidth * near * gradient).sum(dim=0)
        return of_pre, of_threshold, None


class Step(torch.autograd.Function):
    """1 where ``pre`` is above the threshold, else 0; only the threshold gets a derivative."""

    @staticmethod
    def forward(ctx: FunctionCtx, pre: Tensor, threshold: Tensor, bandwidth: float | int) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = _near(pre, threshold, ctx.bandwidth)
        of_threshold = -(near * gradient / ctx.bandwidth).sum(dim=0)
        return None, of_threshold, None


def _near(
    pre: Float[Tensor, "batch d_sae"], threshold: Float[Tensor, "d_sae"], bandwidth: float | int
) -> Float[Tensor, "batch d_sae"]:
    """The rectangle: 1 where ``pre`` is within half a bandwidth of the threshold, else 0."""
    return ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype)
