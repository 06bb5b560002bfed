"""Bounds by which checks judge what an answer draws at random.

What a function draws is compared with what it should be by bounds that a right answer leaves with a probability
below 1e-11 for each comparison, whatever it does with the generator; a given answer gets the same verdict each time.
"""

import math

import torch
from torch import Tensor

_SURE = math.log(2 / 1e-12)


def mean_bound(variance: Tensor | float, count: int) -> Tensor:
    """How far the mean of ``count`` independent numbers in [-1, 1] may be off (Bernstein's inequality)."""
    variance, linear = torch.as_tensor(variance, dtype=torch.float64), _SURE / (3 * count)
    return linear + (linear**2 + 2 * variance * _SURE / count).sqrt()


def uniform_bound(count: int) -> float:
    """How far an empirical distribution of ``count`` numbers may be off anywhere (Dvoretzky, Kiefer and Wolfowitz)."""
    return math.sqrt(_SURE / (2 * count))


GENERATOR_MISTAKES = {
    "global_generator": "That draws from torch's global generator. Hand the one you got to every call that draws, `generator=generator`; what takes none (dropout, for instance) can't be used, and nothing is to be seeded.",
    "same_again": "Called again with the same generator, it returns the same once more. A generator moves on as it is used: use the one you got, and don't seed it or make one of your own.",
    "not_reproducible": "With two generators of the same seed it returns two different things, so that something is drawn elsewhere (NumPy's or Python's random numbers, a generator of your own). Use `generator` only.",
}
