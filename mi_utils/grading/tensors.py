"""What checks share that make tensors and draw at random: generators, norms, and whose chance it was."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from mi_utils.grading.core import Mistake


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of a check's own: the notebook's random numbers stay where they are."""
    return torch.Generator().manual_seed(seed)


def centred(x: Tensor) -> Tensor:
    """``x`` [... d] with its mean over the last axis taken off."""
    return x - x.mean(-1, keepdim=True)


def rms(x: Tensor, eps: float = 0.0, *, keepdim: bool = False) -> Tensor:
    """The root mean square over the last axis of ``x`` [... d]: shape [...], or [... 1] with ``keepdim``."""
    return (x.square().mean(-1, keepdim=keepdim) + eps).sqrt()


def global_chance() -> tuple[bytes, tuple, bytes, int]:
    """Where torch's, Python's and NumPy's global generators stand, to be compared with ``==``."""
    _, key, position, *_ = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), key.tobytes(), position


@contextmanager
def chance_kept() -> Iterator[None]:
    """While this lasts an answer may do what it likes to the global generators; then they are put back."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


def judge_randomness(
    draw: Callable[[torch.Generator], Tensor], parts: Callable[[Tensor], Iterable[Tensor]] = lambda got: [got]
) -> None:
    """Whether all chance comes from the generator that is handed over, which is used as it is and moves on.

    The global generators are put back in the end to where they were.

    Args:
        draw: what the answer draws with a generator.
        parts: what no two draws have in common.

    Raises:
        Mistake: ``"global_generator"``, ``"same_again"`` or ``"not_reproducible"``.
    """
    one, same_seed = seeded(1), seeded(1)
    with chance_kept():
        before = torch.get_rng_state()
        first, second = draw(one), draw(one)
        if not torch.equal(torch.get_rng_state(), before):
            raise Mistake("global_generator")
        if any(map(torch.equal, parts(first), parts(second))):
            raise Mistake("same_again")
        if not torch.equal(draw(same_seed), first):
            raise Mistake("not_reproducible")
