"""Measurements behind what the README says about speed: ``make bench``. Nothing here is asserted in CI.

Each figure is the median of several fresh processes, so that nothing is warm but the disk.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable

from mi_workshop import bench_cases, bench_patching, bench_transcoders, kernels, readme, results
from mi_workshop.bench_cases import Case

CASES = (*bench_cases.CASES, *bench_patching.CASES, *bench_transcoders.CASES)


def report(say: Callable[[str], None]) -> int:
    """Measure, and say the tables in Markdown; returns 0."""
    say(f"Measured on {results.machine()}; each the median of fresh processes (smallest to largest).\n")
    rows = [(case.what, _measured(case), str(case.runs)) for case in CASES]
    say("\n".join(results.table(("what", "median", "processes"), rows)))
    measured = readme.measurements()
    say("\n`make run --record` measured:\n")
    costs = [(name, f"{cost['minutes']:g}", f"{cost['peak_gib']:g} GiB") for name, cost in measured.items()]
    costs.append(("all", f"{sum(cost['minutes'] for cost in measured.values()):g}", ""))
    say("\n".join(results.table(("notebook", "minutes", "peak memory"), costs)))
    return 0


def _measured(case: Case) -> str:
    numbers = [_number(case.code) for _ in range(case.runs)]
    low, middle, high = (_shown(x) for x in (min(numbers), statistics.median(numbers), max(numbers)))
    return f"{middle} {case.unit} ({low} to {high})"


def _shown(number: float) -> str:
    """Three digits that count, without an exponent: 0.0123, 4.56, 12,300."""
    rounded = float(f"{number:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def _number(code: str) -> float:
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=kernels.environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a measurement failed: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.strip().splitlines()[-1])
