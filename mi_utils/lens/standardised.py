"""A lens in the making, in units in which one learning rate suits all components and layers."""

import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils.lens.lens import Lens


class Standardised:
    """A lens in the making: it reads standardised inputs and writes in units of the final stream's scale.

    Components of the stream differ in scale by orders of magnitude; so would the gradients of a lens that
    reads them as they are. ``matrices`` and ``biases`` are what is learned.

    Args:
        start: the lens that it is at first.
        sample: streams at each layer, from which mean and spread of the inputs and the scale of what
            ``start`` makes of them are taken.
    """

    def __init__(self, start: Lens, sample: Float[Tensor, "layer token d_model"]) -> None:
        self.model = start.model
        self.mean = sample.mean(dim=1, keepdim=True)
        spread = sample.std(dim=1, keepdim=True)
        # Components that hardly vary would be blown up.
        self.spread = spread.clamp_min(1e-3 * spread.mean(dim=-1, keepdim=True).clamp_min(1e-6))
        with torch.no_grad():
            self.scale = start.translate_all(sample).square().mean(dim=(1, 2), keepdim=True).sqrt()
            matrices = self.spread.transpose(1, 2) * start.matrices / self.scale
            biases = start.translate_all(self.mean) / self.scale
        self.matrices, self.biases = matrices.requires_grad_(), biases.requires_grad_()

    def translate_all(
        self, streams: Float[Tensor, "layer token d_model"]
    ) -> Float[Tensor, "layer token d_model"]:
        """The streams before all blocks, each in the terms of the final one; it has a gradient."""
        standardised = (streams - self.mean) / self.spread
        return self.scale * (torch.bmm(standardised, self.matrices) + self.biases)

    @torch.no_grad()
    def lens(self) -> Lens:
        """What it is now, as an ordinary lens."""
        matrices = self.scale * self.matrices / self.spread.transpose(1, 2)
        biases = self.scale * self.biases - torch.bmm(self.mean, matrices)
        return Lens(matrices, biases[:, 0], self.model)
