"""Centring and scaling of what MLPs read and write, and how trained weights are freed of it again."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

Activations = Float[Tensor, "layer token d_model"]


@dataclass(frozen=True)
class Scaling:
    """What is subtracted from the inputs ``x`` and outputs ``y`` of each layer, and what divides them."""

    mean_x: Float[Tensor, "layer 1 d_model"]
    mean_y: Float[Tensor, "layer 1 d_model"]
    size_x: Float[Tensor, "layer 1 1"]
    size_y: Float[Tensor, "layer 1 1"]

    def apply(self, x: Activations, y: Activations) -> tuple[Activations, Activations]:
        """Inputs and outputs as the trainer sees them."""
        return (x.float() - self.mean_x) / self.size_x, (y.float() - self.mean_y) / self.size_y

    def encoders(
        self, W_enc: Float[Tensor, "layer d_model feature"], b_enc: Float[Tensor, "layer feature"]
    ) -> tuple[Float[Tensor, "layer d_model feature"], Float[Tensor, "layer feature"]]:
        """Encoders that read inputs as they are, with the same pre-activations."""
        W_enc = W_enc / self.size_x
        return W_enc, b_enc - (self.mean_x @ W_enc)[:, 0]

    def skip(self, W_skip: Float[Tensor, "layer d_model d_model"]) -> Float[Tensor, "layer d_model d_model"]:
        """A skip that reads inputs and writes outputs as they are."""
        return W_skip * self.size_y / self.size_x

    def output_bias(
        self,
        b_dec: Float[Tensor, "layer d_model"],
        W_skip: Float[Tensor, "layer d_model d_model"] | None,
    ) -> Float[Tensor, "layer d_model"]:
        """The bias of outputs as they are; ``W_skip`` as ``skip`` gives it, for inputs with their mean."""
        b_dec = b_dec * self.size_y[:, 0] + self.mean_y[:, 0]
        if W_skip is None:
            return b_dec
        return b_dec - (self.mean_x @ W_skip)[:, 0]


def fit_scaling(x: Activations, y: Activations) -> Scaling:
    """Zero mean for each dimension and a mean square of 1 for each layer, over a sample of tokens."""
    mean_x, size_x = _mean_and_size(x)
    mean_y, size_y = _mean_and_size(y)
    return Scaling(mean_x, mean_y, size_x, size_y)


def no_scaling(x: Activations) -> Scaling:
    """Leaves inputs and outputs as they are."""
    nothing = x.new_zeros(len(x), 1, x.shape[-1])
    one = x.new_ones(len(x), 1, 1)
    return Scaling(nothing, nothing, one, one)


def _mean_and_size(v: Activations) -> tuple[Float[Tensor, "layer 1 d_model"], Float[Tensor, "layer 1 1"]]:
    mean = v.mean(dim=1, keepdim=True)
    size = (v - mean).square().mean(dim=(1, 2), keepdim=True).sqrt()
    return mean, size.clamp(min=1e-6)
