"""What was trained beforehand: a tuned lens for the default model, and notebook 03's with twenty seeds."""

import json

import torch

from mi_utils import data_files
from mi_utils.lens.lens import Lens, load

LENS = "tuned_lens_smollm2-135m.safetensors"
SEEDS = "lens_seeds.json"


def shipped_lens(*, device: str | torch.device = "cpu") -> Lens:
    """The tuned lens of the default model, trained by ``python -m mi_workshop.makers.tuned_lens``.

    Raises:
        ValueError: a file of ``data/`` that is missing or was changed (the message gives the command for it).
    """
    return load(data_files.path(LENS), device=device)


def recorded_seeds() -> list[dict]:
    """What became of notebook 03's lens with each of twenty seeds: name of a figure -> its value.

    KL divergences are in nats; ``tuned KL`` has one for each layer.

    Raises:
        ValueError: a file of ``data/`` that is missing or was changed (the message gives the command for it).
    """
    return json.loads(data_files.path(SEEDS).read_text(encoding="utf-8"))
