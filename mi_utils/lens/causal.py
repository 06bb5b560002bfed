"""Does the model use what its lens reads? The causal check of Belrose et al. 2023 (arXiv 2303.08112, section
4).

A lens is a probe, and a probe can find what the model ignores. So: find the directions that matter most to
the *lens*, remove each from the residual stream, and see whether the *model's* own output changes in
proportion. The directions here have a closed form: principal components of the lens's logits. The paper finds
its own by optimisation ("causal basis extraction"), and resamples where we put the mean.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models
from mi_utils.lens.lens import Lens, log_probs


@dataclass(frozen=True)
class Directions:
    """Directions of the stream before block ``layer``: ``(h - mean) @ read[i]`` measures number ``i``, in
    standard deviations, and ``write[i]`` is what one standard deviation of it adds to the stream.
    """

    layer: int
    mean: Float[Tensor, "d_model"]
    read: Float[Tensor, "direction d_model"]
    write: Float[Tensor, "direction d_model"]

    def remove(self, stream: Float[Tensor, "*batch d_model"], number: int) -> Float[Tensor, "*batch d_model"]:
        """The stream with one direction set to its mean."""
        amount = (stream - self.mean) @ self.read[number]
        return stream - amount[..., None] * self.write[number]


@torch.no_grad()
def principal_directions(
    model: TransformerBridge, lens: Lens, layer: int, stream: Float[Tensor, "token d_model"]
) -> Directions:
    """All directions at a layer, the one that moves the lens's logits most first, each with the same
    variance.

    Args:
        model: whose stream it is.
        lens: the lens to ask.
        layer: before which block.
        stream: the stream there for many tokens, without massive activations.

    Raises:
        ValueError: a layer out of range, or fewer tokens than the stream has components.
    """
    models.check_layer(model, layer)
    if len(stream) <= stream.shape[-1]:
        raise ValueError(f"stream has {len(stream)} tokens; a covariance needs more than {stream.shape[-1]}")
    mean, root, inverse = _whitening(stream.float())
    columns = model.W_U - model.W_U.mean(dim=1, keepdim=True)  # what moves all logits alike moves nothing
    through = root @ lens.matrices[layer]
    _, vectors = torch.linalg.eigh(through @ (columns @ columns.T) @ through.T)
    vectors = vectors.flip(1).T
    return Directions(layer, mean, vectors @ inverse, vectors @ root)


@torch.no_grad()
def random_directions(
    layer: int, stream: Float[Tensor, "token d_model"], *, count: int, seed: int = 0
) -> Directions:
    """The control: directions of the same variance that nobody chose."""
    mean, root, inverse = _whitening(stream.float())
    drawn = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed)).to(mean.device)
    drawn = drawn / drawn.norm(dim=1, keepdim=True)
    return Directions(layer, mean, drawn @ inverse, drawn @ root)


@torch.no_grad()
def removal_effects(
    model: TransformerBridge,
    lens: Lens,
    directions: Directions,
    tokens: Int[Tensor, "batch pos"],
    numbers: list[int],
) -> tuple[Float[Tensor, "number"], Float[Tensor, "number"]]:
    """What the removal of single directions does to the lens's prediction, and to the model's.

    Returns:
        Mean KL(before || after) in nats over all positions but the first, of the lens and of the model.
    """
    name, layer = models.hook_name(model, "resid_pre", directions.layer), directions.layer
    kept: dict[str, Tensor] = {}
    with models.attached(model, [models.keeper(name, "stream", kept)]):
        before = model(tokens)[:, 1:].log_softmax(-1)
    stream = kept["stream"]
    seen = log_probs(model, lens, stream[:, 1:], layer)
    of_lens, of_model = [], []
    for number in numbers:
        edited = torch.cat([stream[:, :1], directions.remove(stream[:, 1:], number)], dim=1)
        with models.attached(model, [(name, lambda value, hook, edited=edited: edited)]):
            after = model(tokens)
        of_model.append(models.kl(before, after[:, 1:].log_softmax(-1)).mean())
        of_lens.append(models.kl(seen, log_probs(model, lens, edited[:, 1:], layer)).mean())
    return torch.stack(of_lens), torch.stack(of_model)


def _whitening(stream: Float[Tensor, "token d_model"]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, and the symmetric root of the covariance with its inverse."""
    mean = stream.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(stream.T).double())
    values = values.clamp_min(1e-6 * values.max())
    root = (vectors * values.sqrt()) @ vectors.T
    inverse = (vectors / values.sqrt()) @ vectors.T
    return mean, root.float(), inverse.float()
