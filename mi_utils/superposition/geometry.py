"""What the weights of toy models look like: losses that theory knows, dimensions per feature, crowded
directions.

``W`` is [instance, m, n]; column ``i`` of an instance is the direction ``W_i`` in which it keeps feature
``i``. Sources: Elhage et al. (2022) for dimensions and dimensionality, Welch (1974) for the bound.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mi_utils.superposition.toy import ToySettings, descend

Number = float | int
LINES = {
    "tetrahedron": 3 / 4,
    "triangle": 2 / 3,
    "digon": 1 / 2,
    "pentagon": 2 / 5,
    "square antiprism": 3 / 8,
}


def candidate_losses(
    p: Float[Tensor, "*#grid"] | Number, importance: Float[Tensor, "*#grid"] | Number
) -> Tensor:
    """Expected losses of ``[1, 0]``, ``[0, 1]`` and ``[1, -1]`` for two features in one dimension.

    The first two dedicate the dimension to one feature, and give the other its mean by a bias; the third
    keeps both as an antipodal pair, without a bias.

    Args:
        p: probability that a feature is present, 1 - S.
        importance: of feature 2; feature 1 has importance 1.

    Returns:
        [..., 3], in this order.
    """
    p, importance = (torch.as_tensor(value, dtype=torch.float32) for value in (p, importance))
    variance = feature_variance(p)
    return torch.stack(
        torch.broadcast_tensors(importance * variance, variance, (1 + importance) * p**2 / 6), dim=-1
    )


def kinds(W: Float[Tensor, "instance 1 2"], both: Number = 0.5) -> Int[Tensor, "instance"]:
    """Which of the three candidates for two features in one dimension each instance is most like.

    0: the dimension belongs to feature 1, 1: to feature 2, 2: an antipodal pair, of which the shorter has at
        least
    ``both`` of the length of the longer.
    """
    w = W[:, 0]
    pair = (w[:, 0] * w[:, 1] < 0) & (w.abs().amin(dim=1) >= both * w.abs().amax(dim=1))
    return torch.where(pair, 2, w.abs().argmax(dim=1))


def feature_variance(p: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
    """Variance of a feature that is present with probability ``p`` and then uniform on [0, 1]."""
    return p / 3 - p**2 / 4


def best_linear_loss(
    sparsity: Float[Tensor, "instance"], importance: Float[Tensor, "n"], m: int
) -> Float[Tensor, "instance"]:
    """Loss of the best linear model with a bias: what importance-weighted PCA leaves out, for independent
    features.

    Raises:
        ValueError: ``m`` outside 0 to n.
    """
    if not 0 <= m <= len(importance):
        raise ValueError(f"m is {m}; it should be between 0 and the {len(importance)} features")
    left_out = importance.sort().values[: len(importance) - m].sum()
    return left_out * feature_variance(1 - sparsity)


def dimensions_per_feature(W: Float[Tensor, "instance m n"]) -> Float[Tensor, "instance"]:
    """D* = m / ||W||_F^2: hidden dimensions for each feature that is kept (infinite where nothing is)."""
    return W.shape[-2] / W.pow(2).sum(dim=(-2, -1))


def overlaps(W: Float[Tensor, "instance m n"]) -> Float[Tensor, "instance n n"]:
    """``What_i . W_j``, with the first direction of unit length; 0 where ``W_i`` is 0."""
    lengths = W.norm(dim=-2, keepdim=True)
    return (W / lengths.where(lengths > 0, 1.0)).transpose(-2, -1) @ W


def dimensionality(W: Float[Tensor, "instance m n"]) -> Float[Tensor, "instance n"]:
    """D_i = ||W_i||^2 / sum_j (What_i . W_j)^2, the share of a dimension that a feature has; 0 where ``W_i``
    is 0."""
    crowd = overlaps(W).pow(2).sum(dim=-1)
    return W.pow(2).sum(dim=-2) / crowd.where(crowd > 0, 1.0)


def interference(W: Float[Tensor, "instance m n"]) -> Float[Tensor, "instance n"]:
    """Sum over the *other* features of (What_i . W_j)^2: what they do to the place where a feature is
    read."""
    return (overlaps(W).pow(2) * (1 - torch.eye(W.shape[-1], device=W.device))).sum(dim=-1)


def represented(W: Float[Tensor, "instance m n"], least: Number = 0.5) -> Bool[Tensor, "instance n"]:
    """Which features are kept: ``||W_i||`` of at least ``least``."""
    return W.norm(dim=-2) >= least


def matched_control(
    W: Float[Tensor, "instance m n"], generator: torch.Generator
) -> Float[Tensor, "instance m n"]:
    """The lengths of W's columns with directions at random: as many features, as strongly kept, without
    geometry."""
    directions = torch.randn(W.shape, generator=generator, device=W.device, dtype=W.dtype)
    return directions / directions.norm(dim=-2, keepdim=True) * W.norm(dim=-2, keepdim=True)


def share_near(
    values: Float[Tensor, "value"], lines: Sequence[Number] = tuple(LINES.values()), within: Number = 0.01
) -> float:
    """Share of ``values`` that lie within ``within`` of one of ``lines``.

    Raises:
        ValueError: no values or no lines.
    """
    if not len(values) or not len(lines):
        raise ValueError(
            f"there are {len(values)} values and {len(lines)} lines; there should be one of each at least"
        )
    gaps = (values[:, None] - torch.tensor(lines, dtype=values.dtype, device=values.device)).abs()
    return (gaps.amin(dim=1) <= within).float().mean().item()


def best_of(
    losses: Float[Tensor, "seed instance"], values: Shaped[Tensor, "run *rest"]
) -> Shaped[Tensor, "instance *rest"]:
    """What belongs to the seed with the lowest loss, for each instance.

    ``values``, weights or anything else, has seeds and instances in one axis, seeds outermost.
    """
    lowest = losses.argmin(dim=0)
    return values.unflatten(0, losses.shape)[lowest, torch.arange(losses.shape[1])]


def spread_out(
    N: int,
    m: int,
    settings: ToySettings = ToySettings(steps=800, lr=0.05),  # noqa: B008 (frozen)
    tries: int = 8,
) -> Float[Tensor, "tries m N"]:
    """Directions pushed apart: descent on a soft maximum of the squared cosines, harder with every step.

    Raises:
        ValueError: fewer than two directions, or no dimensions.
    """
    if N < 2 or m < 1:
        raise ValueError(f"N is {N} and m is {m}; they should be at least 2 and 1")
    W = torch.randn(tries, m, N, generator=torch.Generator().manual_seed(settings.seed))
    sharpness = iter(10 + 1500 * (i / settings.steps) ** 2 for i in range(settings.steps))

    def loss() -> Tensor:
        unit = W / W.norm(dim=-2, keepdim=True)
        squared = (unit.transpose(-2, -1) @ unit) ** 2 - 2 * torch.eye(N)
        beta = next(sharpness)
        return (beta * squared).flatten(1).logsumexp(dim=-1) / beta

    descend([W], loss, settings)
    return W / W.norm(dim=-2, keepdim=True)


def coherence(W: Float[Tensor, "*instance m n"]) -> Float[Tensor, "*instance"]:
    """Largest |cosine| between two columns of each instance."""
    unit = W / W.norm(dim=-2, keepdim=True)
    cosines = (unit.transpose(-2, -1) @ unit).abs()
    return (cosines - 2 * torch.eye(W.shape[-1], device=W.device)).amax(dim=(-2, -1))


def welch_bound(N: int, m: int) -> float:
    """The largest |cosine| among N directions in m dimensions is at least sqrt((N - m) / (m (N - 1))).

    Raises:
        ValueError: fewer than one direction or dimension.
    """
    if N < 1 or m < 1:
        raise ValueError(f"N is {N} and m is {m}; both should be at least 1")
    return ((N - m) / (m * (N - 1))) ** 0.5 if m < N else 0.0
