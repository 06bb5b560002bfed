"""JumpReLU and the step it is made of, with the derivatives that let thresholds be learned.

Neither has a useful derivative by its threshold; a rectangle of a given width around it stands in
(Rajamanoharan et al. 2024).
"""

import torch


class Jump(torch.autograd.Function):
    """``pre`` where it is above the threshold, else 0 (Rajamanoharan et al. 2024, with their derivatives)."""

    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx, gradient):
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2).to(pre.dtype)
        return gradient * (pre > threshold), -(threshold / ctx.bandwidth * near * gradient).sum(dim=0), None


class Step(torch.autograd.Function):
    """1 where ``pre`` is above the threshold, else 0; only the threshold gets a derivative."""

    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx, gradient):
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2).to(pre.dtype)
        return None, -(near * gradient / ctx.bandwidth).sum(dim=0), None
