"""Check of an exercise of notebook 04: a prompt corrupted with Gaussian noise."""

from collections.abc import Callable

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, kind
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import chance_kept, seeded

# With some 20,000 draws in each case, standard deviations come out within 1 %, the kurtosis within 0.1.
_NEAR = 0.04
_KURTOSIS = (2.6, 3.4)  # a normal distribution has 3, a uniform one 1.8


def _judge_gaussian(answer: Callable) -> None:
    with chance_kept():  # whatever the answer does to torch's own random numbers
        _compare_noise(answer, shape=(5, 6, 2000), positions=[1, 4], scale=0.5)
        _compare_noise(answer, shape=(3, 4, 6000), positions=[0], scale=2.0)


def _compare_noise(answer: Callable, shape: tuple[int, int, int], positions: list[int], scale: float) -> None:
    # A mean and a scale of its own, by which noise that replaces or multiplies is told.
    embedding = 0.4 + 1.7 * torch.randn(shape, generator=seeded(3))
    state = torch.get_rng_state()
    got, unchanged = ask(answer, embedding, list(positions), scale, seeded(0))
    if got is None and not unchanged:
        raise Mistake("in_place", "It returned nothing, besides.")
    if not isinstance(got, Tensor) or got.shape != shape:
        raise Mistake("shape", f"It returned {kind(got)}; wanted is {shape}.")
    if not got.isfinite().all():
        raise Mistake("not_finite")
    got = got.detach().to(embedding)
    _compare_places(got - embedding, positions)
    _compare_kind(got, embedding, positions)
    _compare_distribution((got - embedding)[:, positions], embedding, scale)
    if not unchanged:
        raise Mistake("in_place")
    _compare_source(answer, got, embedding, positions, scale, state)


def _compare_places(change: Tensor, positions: list[int]) -> None:
    """Where something changed, [batch pos d_model], against where it should have."""
    changed = (change != 0).float().mean(-1) > 0.5  # [batch, pos]; a tiny draw may round to no change
    asked = torch.zeros_like(changed)
    asked[:, positions] = True
    if torch.equal(changed, asked) and not change[~asked].any():
        return
    if not change.any():
        raise Mistake("no_noise")
    if changed.all():
        raise Mistake("everywhere")
    if not changed.any() or torch.equal(
        changed.all(1), torch.isin(torch.arange(len(change)), torch.tensor(positions))
    ):
        raise Mistake("wrong_axis")
    where = sorted(set(changed.nonzero()[:, 1].tolist()))
    detail = f"Asked for were positions {positions}; noise is at {where}."
    if not (changed & ~asked).any():
        raise Mistake("some_left_out", detail if where != positions else "Some rows of the batch have none.")
    raise Mistake("other_positions", detail)


def _compare_kind(got: Tensor, embedding: Tensor, positions: list[int]) -> None:
    """Whether the noise was added, and is each number's own."""
    before, noise = embedding[:, positions], (got - embedding)[:, positions]
    if _correlation(noise, before) < -0.3:
        raise Mistake("replaced")
    if _correlation(noise.abs(), before.abs()) > 0.2:
        raise Mistake("multiplied")
    vectors = noise.flatten(0, 1)
    alike = torch.corrcoef(vectors).nan_to_num().fill_diagonal_(0)
    if (vectors.std(-1) < 1e-3 * vectors.abs().mean()).all() or alike.max() > 0.9:
        raise Mistake("shared")


def _correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()])).nan_to_num()[0, 1])


def _compare_distribution(noise: Tensor, embedding: Tensor, scale: float) -> None:
    deviation, mean = noise.std(), noise.mean()
    if abs(mean) > 0.1 * deviation:
        raise Mistake("not_centred", f"Its mean is {mean:.2f}.")
    kurtosis = ((noise - mean) / deviation).pow(4).mean()
    if not _KURTOSIS[0] < kurtosis < _KURTOSIS[1]:
        raise Mistake("uniform" if kurtosis < _KURTOSIS[0] else "not_normal")
    if abs(deviation / scale - 1) < _NEAR:
        return
    of_embedding = embedding.std()
    named = {
        "variance": [scale**0.5],
        "squared": [scale**2],
        "ignores_scale": [1.0],
        "relative": [scale * of_embedding, scale * embedding.square().mean().sqrt(), scale / of_embedding],
    }
    detail = f"With scale = {scale} its standard deviation is {deviation:.3g}."
    for name, values in named.items():
        if any(abs(deviation / value - 1) < _NEAR for value in values):
            raise Mistake(name, detail)
    raise Mistake("other_scale", detail)


def _compare_source(
    answer: Callable, got: Tensor, embedding: Tensor, positions: list[int], scale: float, state: Tensor
) -> None:
    """Whether the noise came from the generator, and from nowhere else."""
    again, other = (
        ask(answer, embedding, list(positions), scale, seeded(seed))[0].detach().to(embedding)
        for seed in (0, 1)
    )
    if not torch.equal(torch.get_rng_state(), state) or not torch.allclose(again, got):
        raise Mistake("global_generator")
    if torch.allclose(other, got):
        raise Mistake("own_seed")


_IN_PLACE = "Your function writes into the embedding that it was given, so that the clean run is gone. Edit a `.clone()`."

GAUSSIAN = Exercise(
    id="04.gaussian",
    title="Corrupt with noise",
    minutes=10,
    difficulty=2,
    hints=(
        "How many numbers do you have to draw, and what shape do they have?",
        "Work on `embedding.clone()`. `noisy[:, positions]` has shape [batch, len(positions), d_model]: draw a standard normal number for each entry, `torch.randn(..., generator=generator)`, and multiply by `scale`.",
        "`noisy = embedding.clone()`, `noisy[:, positions] += scale * torch.randn(noisy[:, positions].shape, generator=generator)`, and return `noisy`.",
    ),
    mistakes={
        "shape": "Return the whole embedding with its noise: [batch, pos, d_model], as it came.",
        "not_finite": "There is NaN or infinity in it.",
        "no_noise": "Nothing changed. `noisy[:, positions].add_(...)` and the like write into a copy that is lost: assign to `noisy[:, positions]` itself.",
        "everywhere": "There is noise at every position. Then all of the prompt is corrupted, and a patch can't show where the words in question matter.",
        "wrong_axis": "The positions went to another axis: rows of the batch, or components of the vectors, got the noise. Positions are dim 1: `noisy[:, positions]`.",
        "other_positions": "The noise is at other positions than those listed. They count from 0, and the start token is position 0.",
        "some_left_out": "Some of what should get noise has none. Every listed position, in every row.",
        "replaced": "The embedding is gone: noise *replaced* it. Add the noise to what stands there.",
        "multiplied": "The noise grows with the number it is added to. Its size is `scale` everywhere: add it, don't multiply.",
        "shared": "Numbers share their noise: one number for a whole vector, or one vector for several rows or positions. Then two words are moved by the same amount and keep their difference. Draw a number for every entry.",
        "not_centred": "The noise pushes to one side. Gaussian noise has mean 0: `torch.randn`, not `torch.rand` and no absolute value.",
        "uniform": "The noise isn't normal but flat, as from `torch.rand` (or of one size throughout). Use `torch.randn`, or `normal_`.",
        "not_normal": "The noise isn't normal: there are too many large draws in it, or too many small ones.",
        "variance": "`scale` was taken for the variance, so that the noise has standard deviation sqrt(scale). Multiply standard normal numbers by `scale` itself.",
        "squared": "The noise has standard deviation scale squared. Multiply standard normal numbers by `scale`, once.",
        "ignores_scale": "The noise has standard deviation 1. Use the argument `scale`.",
        "relative": "You measure the noise in standard deviations of the embedding. That is a common choice of `scale`, but the caller makes it: here `scale` is the standard deviation itself.",
        "other_scale": "The standard deviation of the noise should be `scale`.",
        "global_generator": "The noise isn't drawn from `generator` alone: other random numbers were used or reseeded, torch's global ones for instance. Then the result changes with whatever ran before, or others' results change. Pass `generator=generator` (`torch.randn_like` doesn't take one in every version, `torch.randn` does).",
        "own_seed": "Whichever generator is passed, the same noise comes: a seed is set inside. Then ten repetitions are one. Draw from the argument, without seeding it.",
        "in_place": _IN_PLACE,
    },
    judge=_judge_gaussian,
)
