"""Check of an exercise of notebook 04: what patching one of two components can show."""

from itertools import product
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from mi_utils.grading.answers import kind
from mi_utils.grading.core import Exercise, Mistake

_CASES = set(product(("or", "and"), ("denoising", "noising")))


def _simulated(gate: str, direction: str) -> bool:
    """Whether patching A alone changes the outcome; the clean run carries both signals, the corrupted run none."""
    behaviour = {"or": any, "and": all}[gate]
    base = direction == "noising"  # what A and B carry in the run that is edited
    return behaviour([not base, base]) != behaviour([base, base])


def _judge_gates(answer: Any) -> None:
    if not isinstance(answer, dict):
        raise Mistake("not_a_dictionary", f"It is {kind(answer)}.")
    if set(answer) != _CASES:
        raise Mistake("keys", f"Yours are {', '.join(map(repr, answer)) or 'none'}.")
    given = {case: _as_bool(case, value) for case, value in answer.items()}
    wrong = {case for case, value in given.items() if value != _simulated(*case)}
    if wrong:
        raise _gate_mistake(given, wrong)


def _as_bool(case: tuple[str, str], value: Any) -> bool:
    value = value.item() if isinstance(value, Tensor | np.generic) and value.shape == () else value
    if not isinstance(value, Real) or value not in (0, 1):
        raise Mistake("not_true_or_false", f"For {case} you gave {value!r}.")
    return bool(value)


def _gate_mistake(given: dict[tuple[str, str], bool], wrong: set[tuple[str, str]]) -> Mistake:
    if len(wrong) == len(given):
        return Mistake("swapped")
    if len(set(given.values())) == 1:
        return Mistake("always" if all(given.values()) else "never")
    by_gate = {gate: (given[gate, "denoising"], given[gate, "noising"]) for gate in ("or", "and")}
    if by_gate["or"] == by_gate["and"]:
        return Mistake("gates_alike")
    if all(denoised == noised for denoised, noised in by_gate.values()):
        return Mistake("directions_agree")
    gates = {gate for gate, _ in wrong}
    if len(gates) == 1:
        return Mistake("or_wrong" if "or" in gates else "and_wrong")
    return Mistake("several_wrong")


AND_OR = Exercise(
    id="04.and_or",
    title="Two directions, two kinds of circuit",
    minutes=10,
    difficulty=3,
    hints=(
        "In the run that is edited, what does B carry: the clean signal or the corrupted one?",
        "Denoising edits the corrupted run: B is corrupted, A becomes clean. Noising edits the clean run: B is clean, A becomes corrupted. Ask the gate before and after.",
        "`before = gate([b, b])`, `after = gate([not b, b])` with `gate` either `any` or `all`, and `b` True in the clean run: does it change?",
    ),
    mistakes={
        "not_a_dictionary": "Give a dictionary with an answer for each of the four cases.",
        "keys": 'The keys should be exactly ("or", "denoising"), ("or", "noising"), ("and", "denoising") and ("and", "noising").',
        "not_true_or_false": "Each answer is True (patching A alone changes the outcome) or False (it doesn't).",
        "swapped": "All four are the wrong way round: denoising and noising are swapped, or OR and AND are (both give this). Denoising puts a *clean* activation into the *corrupted* run; OR needs at least one clean signal, AND both.",
        "always": "That says one patch always changes the outcome. Look for the other component: in two of the cases B decides whatever A does.",
        "never": "That says one patch never changes the outcome. In an OR one clean signal suffices, in an AND one corrupted signal does.",
        "directions_agree": "You let denoising and noising agree for each circuit. They never do here: denoising asks whether A is *sufficient*, noising whether it is *necessary*, and in an OR and an AND of two parts it is only one of the two.",
        "gates_alike": "You gave OR and AND the same answers. What differs is B: in the clean run B covers for A in an OR, but can't in an AND; in the corrupted run B is missing, which an AND doesn't forgive.",
        "or_wrong": "AND is right, OR isn't. In an OR *one* clean signal is enough: what happens to the corrupted run when A becomes clean, and to the clean run when A becomes corrupted while B stays clean?",
        "and_wrong": "OR is right, AND isn't. An AND needs *both*: what happens to the corrupted run when A becomes clean while B stays corrupted, and to the clean run when A becomes corrupted?",
        "several_wrong": "Only one of the four is right. Write the four truth tables: A and B before the patch, after it, and whether the behaviour is there.",
    },
    judge=_judge_gates,
    asks_for="value",
)
