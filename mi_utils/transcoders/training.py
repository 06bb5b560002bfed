"""The loop that trains transcoders; what a step does is told in :mod:`mi_utils.transcoders.trainer`."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from mi_utils.transcoders.scaling import Activations
from mi_utils.transcoders.settings import TranscoderSettings
from mi_utils.transcoders.trainer import Trainer, TranscoderStep
from mi_utils.transcoders.transcoders import Transcoders


@dataclass(frozen=True)
class TrainedTranscoders:
    """Transcoders and the steps that led to them."""

    transcoders: Transcoders
    history: list[TranscoderStep] = field(repr=False)


def train(
    settings: TranscoderSettings,
    sample: tuple[Activations, Activations],
    batches: Iterable[tuple[Float[Tensor, "layer _ d_model"], Float[Tensor, "layer _ d_model"]]],
    *,
    model: str = "",
) -> TrainedTranscoders:
    """Train transcoders on batches of what MLPs read and write.

    Args:
        settings: how; ``settings.steps`` batches are used.
        sample: inputs and outputs for a first sample of tokens, from which scales and starting points come.
        batches: inputs and outputs, a batch a step.
        model: name of the model.

    Raises:
        ValueError: as ``Trainer``; fewer batches than steps.
        FloatingPointError: as ``Trainer.step``.
    """
    trainer = Trainer(settings, *sample, model=model)
    history = [trainer.step(x, y) for _, (x, y) in zip(range(settings.steps), batches, strict=False)]
    if len(history) < settings.steps:
        raise ValueError(f"batches ended after {len(history)} steps; settings asks for {settings.steps}")
    return TrainedTranscoders(trainer.result(), history)
