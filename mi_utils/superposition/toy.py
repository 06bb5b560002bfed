"""Toy models of superposition: sparse features squeezed through fewer dimensions, many models trained as one.

The ReLU output model of Elhage et al. (2022), "Toy Models of Superposition": ``x' = ReLU(W^T W x + b)``,
trained to give back features that are mostly zero. *Instances* are models of one shape that are trained side
by side in batched tensors: other sparsities, other seeds. What their weights look like is in
:mod:`mi_utils.superposition.geometry`, figures in :mod:`mi_utils.superposition.view`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Number = float | int  # beartype takes no int for a float
Batch = Callable[[], Float[Tensor, "batch instance n"]]


@dataclass(frozen=True)
class ToySettings:
    """How to train: Adam, its rate falling to nothing along half a cosine.

    ``batch`` examples are drawn anew at each step for each instance. ``frames`` is the number of moments kept
    for an animation, start and end included (0: none).
    """

    steps: int = 2000
    batch: int = 512
    lr: Number = 0.01
    seed: int = 0
    frames: int = 0


@dataclass(frozen=True)
class TrainedToys:
    """Trained instances.

    ``W`` [instance, m, n] and ``b`` [instance, n] are the weights; ``history_W`` and ``history_b`` have a
    leading axis of frames and ``steps`` says after which steps they were taken (all empty where no frames
    were asked for).
    """

    W: Float[Tensor, "instance m n"]
    b: Float[Tensor, "instance n"]
    history_W: Float[Tensor, "frame instance m n"]
    history_b: Float[Tensor, "frame instance n"]
    steps: tuple[int, ...]


def sparse_batch(
    batch: int, sparsity: Float[Tensor, "instance"], n: int, generator: torch.Generator
) -> Float[Tensor, "batch instance n"]:
    """Independent features: each is 0 with probability ``sparsity``, else uniform on [0, 1].

    Args:
        batch: examples for each instance.
        sparsity: of each instance, in [0, 1).
        n: features.
        generator: the only source of randomness.

    Raises:
        ValueError: a sparsity outside [0, 1), or no examples or features.
    """
    sparsity = _sparsities(sparsity)
    _positive(batch=batch, n=n)
    shape = (batch, len(sparsity), n)
    values, lots = (torch.rand(shape, generator=generator, device=generator.device) for _ in range(2))
    return values * (lots >= sparsity[:, None])


def paired_batch(
    batch: int, sparsity: Float[Tensor, "instance"], n: int, together: bool, generator: torch.Generator
) -> Float[Tensor, "batch instance n"]:
    """Features in pairs (0 and 1, 2 and 3, ...) that occur only together, or never together.

    Each feature alone is distributed as in :func:`sparse_batch`, so that only the dependence differs. Never
    together is possible only where a feature is present at most half of the time.

    Raises:
        ValueError: a sparsity outside [0, 1), or below 1/2 for features that exclude each other; an odd
            ``n``.
    """
    sparsity = _sparsities(sparsity)
    _positive(batch=batch, n=n)
    if n % 2:
        raise ValueError(f"n is {n}; it should be even, for features in pairs")
    if not together and (sparsity < 0.5).any():
        raise ValueError(
            f"sparsity is {sparsity.min().item():g} at least; it should be 0.5 or more for features that "
            "exclude each other"
        )
    lots = torch.rand(batch, len(sparsity), n // 2, generator=generator, device=generator.device)
    values = torch.rand(batch, len(sparsity), n, generator=generator, device=generator.device)
    present = (1 - sparsity)[:, None]
    first = lots < present
    second = first if together else (lots >= present) & (lots < 2 * present)
    return values * torch.stack([first, second], dim=-1).flatten(-2)


def reconstruct(
    W: Float[Tensor, "instance m n"],
    b: Float[Tensor, "instance n"],
    x: Float[Tensor, "batch instance n"],
    relu: bool = True,
) -> Float[Tensor, "batch instance n"]:
    """``ReLU(W^T W x + b)`` for each instance; without the ReLU the linear model."""
    hidden = torch.einsum("imn,bin->bim", W, x)
    out = torch.einsum("imn,bim->bin", W, hidden) + b
    return out.relu() if relu else out


def importance_loss(
    x: Float[Tensor, "batch instance n"],
    out: Float[Tensor, "batch instance n"],
    importance: Float[Tensor, "*instance n"],
) -> Float[Tensor, "instance"]:
    """Mean over the batch of the sum over features of ``importance * (x - out)^2``."""
    return (importance * (x - out) ** 2).sum(dim=-1).mean(dim=0)


def expected_loss(
    W: Float[Tensor, "instance m n"],
    b: Float[Tensor, "instance n"],
    sparsity: Float[Tensor, "instance"],
    importance: Float[Tensor, "*instance n"],
    *,
    relu: bool = True,
    batch: int = 20_000,
    seed: int = 10_000,
) -> Float[Tensor, "instance"]:
    """The loss on fresh examples, the same for every instance but for how sparse they are.

    So instances can be compared with each other far more exactly than the losses themselves are known: their
    standard error falls with the root of ``batch``.
    """
    sparsity = _sparsities(sparsity)
    generator, total = torch.Generator().manual_seed(seed), torch.zeros(len(sparsity))
    for begin in range(0, batch, 1000):
        shape = (min(1000, batch - begin), 1, W.shape[-1])
        values, lots = (torch.rand(shape, generator=generator) for _ in range(2))
        x = values * (lots >= sparsity[:, None])
        total += importance_loss(x, reconstruct(W, b, x, relu), importance) * len(x)
    return total / batch


def start(
    instances: int, m: int, n: int, seed: int
) -> tuple[Float[Tensor, "instance m n"], Float[Tensor, "instance n"]]:
    """Weights to begin from: Xavier's normal distribution for ``W``, zeros for ``b`` [instance, n].

    Raises:
        ValueError: no instances, dimensions or features.
    """
    _positive(instances=instances, m=m, n=n)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(instances, m, n, generator=generator) * (2 / (n + m)) ** 0.5, torch.zeros(instances, n)


def train(
    n: int,
    m: int,
    sparsity: Float[Tensor, "instance"],
    importance: Float[Tensor, "*instance n"],
    settings: ToySettings = ToySettings(),  # noqa: B008 (frozen)
    *,
    relu: bool = True,
    batches: Batch | None = None,
) -> TrainedToys:
    """Train one instance for each entry of ``sparsity``; instances share nothing but the clock.

    Args:
        n, m: features and hidden dimensions.
        sparsity: probability that a feature is zero, for each instance.
        importance: of each feature, for all instances or each its own; positive.
        settings: how.
        relu: False trains the linear model.
        batches: draws examples for a step where they are not independent features.

    Raises:
        ValueError: a sparsity outside [0, 1), an importance that is not positive and finite or of another
            number.
    """
    sparsity = _sparsities(sparsity)
    if importance.shape[-1] != n or importance.shape[:-1] not in ((), (len(sparsity),)):
        raise ValueError(
            f"importance has shape {tuple(importance.shape)}; it should be ({n},) or ({len(sparsity)}, {n})"
        )
    if not (torch.isfinite(importance) & (importance > 0)).all():
        raise ValueError(
            f"importance goes down to {importance.min().item():g}; all should be positive and finite"
        )
    W, b = start(len(sparsity), m, n, 2 * settings.seed)
    generator = torch.Generator().manual_seed(2 * settings.seed + 1)

    def loss() -> Tensor:
        x = batches() if batches else sparse_batch(settings.batch, sparsity, n, generator)
        return importance_loss(x, reconstruct(W, b, x, relu), importance)

    steps, history = descend([W, b], loss, settings)
    kept_W, kept_b = history or [torch.empty(0, *W.shape), torch.empty(0, *b.shape)]
    return TrainedToys(W, b, kept_W, kept_b, steps)


def descend(
    parameters: Sequence[Tensor], loss: Callable[[], Float[Tensor, "*instance"]], settings: ToySettings
) -> tuple[tuple[int, ...], list[Tensor]]:
    """Make ``loss`` small, changing ``parameters`` in place; the losses of instances are summed.

    Args:
        parameters: tensors that ``loss`` uses.
        loss: called once a step; draws its own examples.
        settings: ``steps``, ``lr`` and ``frames`` are used.

    Returns:
        Steps after which frames were kept, and for each parameter its frames stacked (no list without
        frames).

    Raises:
        ValueError: no steps, or a loss that is no longer finite.
    """
    _positive(steps=settings.steps)
    wanted = _moments(settings)
    kept: list[list[Tensor]] = []
    with torch.enable_grad():
        for one in parameters:
            one.requires_grad_(True)
        adam = torch.optim.Adam(parameters, lr=settings.lr)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.steps)
        for step in range(settings.steps + 1):
            if step in wanted:
                kept.append([one.detach().clone() for one in parameters])
            if step == settings.steps:
                break
            adam.zero_grad()
            total = loss().sum()
            total.backward()
            adam.step()
            fall.step()
    for one in parameters:
        one.requires_grad_(False)
    if not torch.isfinite(total):
        raise ValueError(f"lr is {settings.lr}; it should be smaller, for the loss is no longer finite")
    return tuple(sorted(wanted)), [torch.stack(frames) for frames in zip(*kept, strict=True)]


def _moments(settings: ToySettings) -> set[int]:
    """Steps to keep, closer together at the beginning, where most happens."""
    last = settings.frames - 1
    return {round(settings.steps * (i / max(last, 1)) ** 2) for i in range(settings.frames)}


def _sparsities(sparsity: Tensor) -> Tensor:
    if not sparsity.numel():
        raise ValueError("sparsity is empty; it should hold at least one instance's")
    if not ((sparsity >= 0) & (sparsity < 1)).all():  # NaN is neither
        raise ValueError(
            f"sparsity is {sparsity.tolist()}; each should be in [0, 1), the probability of a zero"
        )
    return sparsity


def _positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it should be at least 1")
