"""Everything CI checks: unit, parity, hygiene and exercise tests, then every notebook under nbval,
offline."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from mi_utils import config, models
from mi_workshop import kernels, sources

NBVAL = (
    "--nbval",
    "--nbval-current-env",
    "--nbval-cell-timeout=600",
    "--nbval-kernel-startup-timeout=180",
    "--nbval-sanitize-with",
    "tests/nbval_sanitize.cfg",
)

GIB_EACH = 6  # memory that one process and its notebook may take
MOST = 8  # processes


def workers() -> int:
    """How many processes share the tests: one a core, as far as the memory goes.

    Torch gains less from a second thread than the tests do from a second process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    room = int(psutil.virtual_memory().total / 2**30 / GIB_EACH)
    return max(1, min(cores, room, MOST))


def test(selection: str | None = None) -> int:
    """Fetch the model, then run all tests without a network.

    Args:
        selection: one notebook (as in ``sources.find``): only that notebook under nbval, and no other tests.

    Returns:
        0 if everything passed, else 1.
    """
    models.fetch(models.load.REGISTRY[models.load.DEFAULT].source)
    notebooks = [str(path) for path in sources.find(selection)]
    with tempfile.TemporaryDirectory() as scratch:
        env = kernels.environment(offline=True) | {"MI_PROGRESS": str(Path(scratch) / "progress.json")}
        pytest = [sys.executable, "-m", "pytest", "-q"]
        count = workers()
        if selection is None and count > 1:
            pytest += ["-n", str(count), "--dist", "loadfile"]  # a notebook's cells share one kernel
            env["OMP_NUM_THREADS"] = "1"
        suites = [pytest + [*NBVAL, *notebooks]]
        if selection is None:
            suites.insert(0, pytest + ["tests"])
        failed = [subprocess.call(suite, cwd=config.repository(), env=env) != 0 for suite in suites]
    return int(any(failed))
