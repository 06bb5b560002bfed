"""What checks ask of any answer: is it the wanted tensor, and what is it in words."""

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_utils.grading.core import Mistake, Stopped


def same(got: Any, wanted: Tensor | None, *, rtol: float = 1e-4, atol: float = 1e-5) -> bool:
    """Whether an answer has the wanted shape and values; device and dtype are left to the learner.

    Where fractions must not pass for whole numbers, ``wanted`` has to be of a floating dtype.
    """
    if not isinstance(got, Tensor) or wanted is None or got.shape != wanted.shape:
        return False
    got = got.detach().to(wanted.device, wanted.dtype)
    return torch.allclose(got, wanted, rtol=rtol, atol=atol)


def kind(got: Any) -> str:
    """What an answer is, in a few words."""
    return f"a tensor of shape {tuple(got.shape)}" if isinstance(got, Tensor) else f"a {type(got).__name__}"


def number(got: Any) -> Any:
    """A number of any kind, NumPy's too, as a tensor of shape (); anything else as it is."""
    plain = isinstance(got, Real) or (not isinstance(got, Tensor) and getattr(got, "shape", None) == ())
    return torch.tensor(float(got), dtype=torch.float64) if plain else got


def compare(
    got: Any,
    wanted: Tensor,
    wrong: Iterable[tuple[str, Tensor | None]],
    shapes: Mapping[str, Iterable[tuple[int, ...]]] | None = None,
) -> None:
    """Quiet for the wanted tensor or number; else raises the first mistake that fits.

    Args:
        got: the answer.
        wanted: what is right, of a floating dtype.
        wrong: what each known mistake gives, by the mistake's name.
        shapes: what shapes each mistake about the shape gives, by its name.

    Raises:
        Mistake: one of ``wrong`` or ``shapes``, else ``"shape"`` or ``"something_else"``.
    """
    got = number(got)
    if same(got, wanted):
        return
    if not isinstance(got, Tensor) or got.shape != wanted.shape:
        names = (name for name, its in (shapes or {}).items() if isinstance(got, Tensor) and got.shape in its)
        asked = f"shape {tuple(wanted.shape)}" if wanted.ndim else "one number"
        raise Mistake(next(names, "shape"), f"It returned {kind(got)}; wanted is {asked}.")
    seen = "" if wanted.ndim else f"In the check's case it gives {got:.4g}, not {wanted:.4g}."
    raise named(got, wrong, Mistake("something_else", seen))


def expect(
    answer: Callable,
    given: Iterable[Any],
    wanted: Tensor,
    wrong: Iterable[tuple[str, Tensor | None]],
    shapes: Mapping[str, Iterable[tuple[int, ...]]] | None = None,
) -> None:
    """Quiet where a function returns the wanted tensor and leaves its arguments as they were.

    Raises:
        Mistake: as ``compare`` does; ``"in_place"`` where only the arguments were changed.
    """
    got, unchanged = ask(answer, *given)
    compare(got, wanted, wrong, shapes)
    if not unchanged:
        raise Mistake("in_place")


def named(got: Tensor, wrong: Iterable[tuple[str, Tensor | None]], otherwise: Mistake) -> Mistake:
    """The first of ``wrong``, pairs of a mistake's name and what it gives, that fits; else ``otherwise``."""
    return next((Mistake(name) for name, one in wrong if same(got, one)), otherwise)


def ask(answer: Callable, *given: Any) -> tuple[Any, bool]:
    """What a function returns for copies of the arguments, and whether it left those as they were.

    A NumPy array comes back as a tensor, which says the same.
    """
    copies = _copies(given)
    got = answer(*copies)
    if isinstance(got, np.ndarray) and got.dtype.kind in "fiub":
        got = torch.from_numpy(got.copy())  # torch takes no negative strides
    pairs = [(one, copy) for one, copy in zip(given, copies, strict=True) if isinstance(one, Tensor)]
    return got, all(torch.equal(one, copy) for one, copy in pairs)


def outcome(answer: Callable, *given: Any) -> tuple[Any, BaseException | None]:
    """What a function returns for copies of the arguments, and with which exception it stops; one is None."""
    try:
        return answer(*_copies(given)), None
    except Stopped as stopped:
        return None, stopped.__cause__
    except Exception as error:  # of an object that can be called: it isn't wrapped as functions are
        return None, error


def _copies(given: Iterable[Any]) -> list[Any]:
    return [one.clone() if isinstance(one, Tensor) else one for one in given]
