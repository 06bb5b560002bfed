"""Checks of notebook 04 about gradients: attribution patching and integrated gradients."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mi_utils.grading.answers import ask, compare
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded


def _shapes(batch: int, pos: int, d_model: int) -> dict[str, list[tuple[int, ...]]]:
    """What shapes each mistake about the shape gives."""
    return {
        "over_positions": [(batch,), ()],
        "over_batch": [(pos,), (1, pos), (pos, d_model), (d_model,)],
        "not_summed": [(batch, pos, d_model)],
        "over_wrong_axis": [(batch, d_model)],
    }


# ------------------------------------------------------------------ 04.attribute: attribution patching


def _judge_attribute(answer: Callable) -> None:
    generator = seeded()
    for shape in ((3, 4, 5), (2, 6, 8)):
        clean, corrupted, *slopes = (torch.randn(shape, generator=generator) for _ in range(4))
        gradients = dict(zip(("clean", "corrupted"), slopes, strict=True))
        given = {name: slope.clone() for name, slope in gradients.items()}
        got, unchanged = ask(lambda *two, given=given: answer(given, *two), clean, corrupted)
        right = ((clean - corrupted) * gradients["corrupted"]).sum(-1)
        compare(got, right, _wrong_attributions(gradients, clean, corrupted), _shapes(*shape))
        if not unchanged or any(not torch.equal(given[name], slope) for name, slope in gradients.items()):
            raise Mistake("in_place")


def _wrong_attributions(gradients: dict[str, Tensor], clean: Tensor, corrupted: Tensor) -> Iterator:
    """What each known mistake gives, by its name."""
    step, slope, other = clean - corrupted, gradients["corrupted"], gradients["clean"]
    right, noising = (step * slope).sum(-1), (-step * other).sum(-1)
    both = (step * (slope + other)).sum(-1)
    yield "other_gradient", -noising
    yield "reversed", -right
    yield "noising", noising
    yield from (("both_gradients", sign * one) for sign in (1, -1) for one in (both / 2, both))
    for product in (step * slope, step * other):
        yield from (
            ("absolute", one)
            for one in (product.sum(-1).abs(), product.abs().sum(-1), product.abs().mean(-1))
        )
        yield from (("mean_over_d_model", sign * product.mean(-1)) for sign in (1, -1))
        yield from (("squared", one) for one in (product.square().sum(-1), product.norm(dim=-1)))
    for one in (slope, other):
        yield from (("no_difference", (one * activation).sum(-1)) for activation in (clean, corrupted))
        yield from (("gradient_alone", alone) for alone in (one.sum(-1), one.norm(dim=-1), one.mean(-1)))
        yield "direction_only", cosine_similarity(step, one, dim=-1)
        yield from (("direction_only", (step * one).sum(-1) / by.norm(dim=-1)) for by in (step, one))
        yield "lengths", step.norm(dim=-1) * one.norm(dim=-1)
    yield "slopes_subtracted", (step * (other - slope)).sum(-1)
    yield "slopes_subtracted", (other * clean - slope * corrupted).sum(-1)
    yield from (("no_gradient", alone) for alone in (step.sum(-1), step.norm(dim=-1)))


ATTRIBUTE = Exercise(
    id="04.attribute",
    title="A patch without a run",
    minutes=10,
    difficulty=3,
    hints=(
        "The patch starts somewhere and ends somewhere. Which run is edited, and where does the step lead?",
        "Denoising edits the *corrupted* run and moves its activation to the clean one: the step is clean - corrupted, and the slope is the one where the step begins. The change of a metric is the dot product of the two, at each position.",
        '`((clean - corrupted) * gradients["corrupted"]).sum(dim=-1)`',
    ),
    mistakes={
        "shape": "Return one number for each row and position: [batch, pos].",
        "over_positions": "You summed over the positions too. That estimates patching all of them at once; the sweep wants an estimate for each position by itself: [batch, pos].",
        "over_batch": "You summed over the rows of the batch. Each row is a pair of prompts with an estimate of its own: [batch, pos].",
        "not_summed": "Those are the terms of each component. A patch replaces the whole vector at a position: sum over d_model, the last axis.",
        "over_wrong_axis": "The sum went over positions. It goes over d_model, the last axis: [batch, pos] is left.",
        "other_gradient": "That is the gradient of the clean run. Denoising edits the *corrupted* run, so the slope is needed there; where the metric saturates in the clean run, its slope is near 0 and hides what the patch would do.",
        "reversed": "The step goes the wrong way (corrupted - clean), so every sign is flipped. Denoising moves the activation *to* the clean one.",
        "noising": "That estimates the *noising* patch: the gradient of the clean run, and the step from clean to corrupted. Asked for is denoising.",
        "both_gradients": "That takes both gradients together. It is a coarse integrated gradient and often a better guess; attribution patching takes one slope, that of the run which is edited.",
        "absolute": "The sign is gone. Some patches move the metric down; those should come out negative, and components of both signs cancel within a position.",
        "mean_over_d_model": "That is a mean over d_model. The change of the metric is the *sum* of gradient times step over all components: a mean is too small by a factor of d_model.",
        "squared": "Gradient times step is squared there. The first-order change is their dot product, without squares or roots.",
        "no_difference": "That is gradient times activation: the effect of setting the activation to *zero*, with its sign turned. A patch moves it to the other run's activation; multiply by the difference.",
        "gradient_alone": "That is the gradient alone: how sensitive the metric is, whatever the patch would change. Multiply by the step.",
        "no_gradient": "That says how far apart the two activations are, not what the metric makes of it. Multiply by the gradient.",
        "direction_only": "You divide by a length. A longer step changes the metric more, and so does a steeper slope: the plain dot product.",
        "lengths": "That multiplies two lengths. A step across the slope changes nothing: take the dot product, component by component.",
        "slopes_subtracted": "You subtract one gradient (or one product) from the other. One slope belongs here, times the difference of the *activations*.",
        "in_place": "Right, but your function changed what it was given. The activations and gradients serve for every site: compute new tensors.",
        "something_else": "That is not the sum over d_model of the step to the clean activation times the gradient in the corrupted run.",
    },
    judge=_judge_attribute,
)

# ------------------------------------------------------------------ 04.integrated: integrated gradients


class _Slope:
    """The gradient of a metric that curves, in which positions and components meet; it remembers where it was asked."""

    def __init__(self, pos: int, d_model: int):
        generator = seeded()
        self.weights = torch.randn(pos, d_model, generator=generator)
        self.shift = torch.randn(pos, d_model, generator=generator)
        self.asked: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return self.value(x.detach())

    def value(self, x: Tensor) -> Tensor:
        """Of w sin(1.5 x + shift), summed, and of half the square of the mean over the positions of tanh(x)."""
        saturated = x.tanh()
        together = saturated.mean(-2, keepdim=True) * (1 - saturated.square()) / x.shape[-2]
        return 1.5 * self.weights * (1.5 * x + self.shift).cos() + 5 * together


def _judge_integrated(answer: Callable) -> None:
    generator = seeded()
    for shape, steps in (((3, 4, 5), 4), ((2, 6, 3), 1), ((2, 3, 7), 9)):
        clean, corrupted = (1.5 * torch.randn(shape, generator=generator) + mean for mean in (0.6, -0.4))
        slope = _Slope(*shape[1:])
        got, unchanged = ask(lambda *two, slope=slope, n=steps: answer(slope, *two, n), clean, corrupted)
        _compare_integrated(got, slope, clean, corrupted, steps, unchanged)
        if not unchanged:
            raise Mistake("in_place")


def _compare_integrated(
    got: Any, slope: _Slope, clean: Tensor, corrupted: Tensor, steps: int, unchanged: bool
) -> None:
    step = clean - corrupted
    right = (step * _mean_slope(slope, corrupted, step, _middles(steps))).sum(-1)
    try:
        compare(got, right, _wrong_integrals(slope, clean, corrupted, steps), _shapes(*clean.shape))
    except Mistake as mistake:
        if mistake.name != "something_else":
            raise
        raise (
            _from_where_it_asked(slope, corrupted, step, steps) if unchanged else Mistake("in_place")
        ) from None


def _middles(steps: int) -> Tensor:
    return (torch.arange(steps) + 0.5) / steps


def _mean_slope(slope: _Slope, start: Tensor, step: Tensor, fractions: Tensor) -> Tensor:
    """Mean of the gradient at fractions of the way from ``start`` to ``start + step``."""
    return torch.stack([slope.value(start + fraction * step) for fraction in fractions]).mean(0)


def _wrong_integrals(
    slope: _Slope, clean: Tensor, corrupted: Tensor, steps: int
) -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    step, count = clean - corrupted, torch.arange(steps)
    points = {
        "left_ends": count / steps,
        "right_ends": (count + 1) / steps,
        "one_gradient": torch.tensor([0.0]),
        "clean_gradient": torch.tensor([1.0]),
        "only_ends": torch.tensor([0.0, 1.0]),
        "middle_only": torch.tensor([0.5]),
        "both_ends": torch.linspace(0, 1, steps),
        "more_points": torch.linspace(0, 1, steps + 1),
    }
    average = _mean_slope(slope, corrupted, step, _middles(steps))
    terms = step * average
    yield "summed", steps * terms.sum(-1)
    yield "reversed", -terms.sum(-1)
    yield "mean_over_d_model", terms.mean(-1)
    yield from (("absolute", one) for one in (terms.sum(-1).abs(), terms.abs().sum(-1)))
    yield from (("times_activation", (by * average).sum(-1)) for by in (clean, corrupted))
    yield from (("no_step", by * average.sum(-1)) for by in (1, steps))
    yield "step_each_time", terms.sum(-1) / steps
    zero = torch.zeros_like(clean)
    for fractions in (_middles(steps), points["right_ends"], points["left_ends"]):
        for factor in (clean, step, clean + corrupted):
            for by in (1, steps):
                yield "from_zero", by * (factor * _mean_slope(slope, zero, clean, fractions)).sum(-1)
        yield "start_left_out", (step * _mean_slope(slope, zero, step, fractions)).sum(-1)
        yield "walks_away", (step * _mean_slope(slope, corrupted, -step, fractions)).sum(-1)
        yield "walks_away", (step * _mean_slope(slope, clean, step, fractions)).sum(-1)
    for name, fractions in points.items():
        total = (step * _mean_slope(slope, corrupted, step, fractions)).sum(-1)
        yield name, total
        yield from (("points_and_sign", -total), ("points_and_sum", len(fractions) * total))
        yield "points_and_sum", len(fractions) / steps * total
    ends = (slope.value(corrupted) + slope.value(clean)) / 2
    inner = [slope.value(corrupted + k / steps * step) for k in range(1, steps)]
    yield "trapezoid", (step * (sum(inner, ends) / steps)).sum(-1)


def _near(got: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(got, wanted, atol=1e-3)


def _from_where_it_asked(slope: _Slope, corrupted: Tensor, step: Tensor, steps: int) -> Mistake:
    """What the places tell at which the gradient was taken."""
    if any(x.shape[-3:] != step.shape for x in slope.asked):
        return Mistake("something_else")
    places = [x for asked in slope.asked for x in asked.float().reshape(-1, *step.shape)]
    fractions = [float(((x - corrupted) * step).sum() / step.square().sum()) for x in places]
    strays = [x for x, part in zip(places, fractions, strict=True) if not _near(x, corrupted + part * step)]
    if not places:
        return Mistake("never_asked")
    if strays:
        return Mistake("off_the_line")
    listed = ", ".join(f"{fraction:.3g}" for fraction in fractions[:6]) + (
        ", ..." if len(fractions) > 6 else ""
    )
    if len(places) != steps:
        return Mistake("other_count", f"With steps = {steps} it took {len(places)}: at {listed} of the way.")
    if not _near(torch.tensor(sorted(fractions)), _middles(steps)):
        return Mistake("other_points", f"With steps = {steps} it took the gradient at {listed} of the way.")
    return Mistake("something_else")


INTEGRATED = Exercise(
    id="04.integrated",
    title="Look at the slope along the way",
    minutes=15,
    difficulty=4,
    hints=(
        "With steps = 1 there is a single piece. Where is its middle, and what does your function return for it?",
        "For k = 0, 1, ..., steps - 1 take `gradient(corrupted + (k + 0.5) / steps * (clean - corrupted))`. Add these gradients up and divide by steps; then comes the dot product with the whole step.",
        "`total = sum(gradient(corrupted + (k + 0.5) / steps * step) for k in range(steps))`, and `(step * total / steps).sum(dim=-1)` with `step = clean - corrupted`.",
    ),
    mistakes={
        "shape": "Return one number for each row and position: [batch, pos].",
        "over_positions": "You summed over the positions too. Return one number for each row and position: [batch, pos].",
        "over_batch": "You summed or averaged over the rows of the batch. Each row has its own: [batch, pos].",
        "not_summed": "Those are the terms of each component. Sum over d_model, the last axis.",
        "over_wrong_axis": "The sum went over positions. It goes over d_model, the last axis.",
        "summed": "You *sum* the gradients over the steps. Take their average: more steps make the estimate finer, not larger.",
        "reversed": "Every sign is flipped: the step is clean - corrupted, from where the patch begins to where it ends. Walking the line the other way is fine, if this factor keeps its sign.",
        "from_zero": "Your line starts at zero. That is a baseline nobody asked for, and a model has never seen it: the way goes from the corrupted activation to the clean one.",
        "start_left_out": "Your points are fractions of the step alone. The line starts at the corrupted activation: `corrupted + fraction * (clean - corrupted)`.",
        "walks_away": "Your line walks away from the other run: it starts at the right place and goes the wrong way. From corrupted the way is *plus* a fraction of clean - corrupted.",
        "left_ends": "Those are the left ends k / steps of the pieces. The first is the corrupted run itself, and the clean end is never looked at. Take the middles, (k + 1/2) / steps.",
        "right_ends": "Those are the right ends (k + 1) / steps of the pieces. Take the middles, (k + 1/2) / steps.",
        "both_ends": "`linspace(0, 1, steps)` puts points on both ends. Take the middles of the pieces, (k + 1/2) / steps.",
        "more_points": "`linspace(0, 1, steps + 1)` gives the borders of the pieces, one more than there are pieces. Take their middles, (k + 1/2) / steps.",
        "trapezoid": "That is the trapezoidal rule: a good one, with one gradient more. Asked for are the middles of the pieces, (k + 1/2) / steps.",
        "one_gradient": "That is the gradient at the corrupted end only: plain attribution patching, which is what we want to mend.",
        "clean_gradient": "That is the gradient at the clean end only. Average along the line.",
        "only_ends": "That averages the gradients of the two runs only. What happens between them is what is missing: take `steps` points on the line.",
        "middle_only": "That is one gradient, half-way. Take one in the middle of *each* of the `steps` pieces.",
        "times_activation": "The average is right, but you multiply by an activation. What changes is clean - corrupted: multiply by this difference.",
        "no_step": "The gradients are not multiplied by the step, clean - corrupted. An average slope says little without how far the activation moves.",
        "step_each_time": "You divide by `steps` twice: the average of the gradients times the *whole* step, or the sum of the gradients times a piece of it.",
        "mean_over_d_model": "That is a mean over d_model. The change of the metric is a sum over all components.",
        "absolute": "The sign is gone. Attributions may be negative, and the sum over positions should be the change of the metric.",
        "points_and_sign": "Two things: the points are not the middles of the pieces, and every sign is flipped (the step is clean - corrupted).",
        "points_and_sum": "Two things: the points are not the middles of the pieces, (k + 1/2) / steps, and the sum of the gradients isn't divided by their number.",
        "never_asked": "Your function never calls `gradient`. It gives the slope at any activation: call it on points of the line.",
        "off_the_line": "Some points at which you take the gradient are not on the straight line between the two activations. All positions and components move together: `corrupted + fraction * (clean - corrupted)`.",
        "other_count": "Take one gradient for each of the `steps` pieces.",
        "other_points": "The points are on the line, but they aren't the middles of the pieces, (k + 1/2) / steps for k = 0, 1, ...",
        "in_place": "Your function changed the activations it was given (`x += ...` on a tensor that isn't a copy does). Compute new tensors.",
        "something_else": "The average gradient over the middles of the pieces, times (clean - corrupted), summed over d_model, is something else.",
    },
    judge=_judge_integrated,
)
