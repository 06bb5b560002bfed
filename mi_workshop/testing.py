"""Everything CI checks: unit, parity, hygiene and exercise tests, then every notebook under nbval,
offline."""

import subprocess
import sys
import tempfile
from pathlib import Path

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
        suites = [pytest + [*NBVAL, *notebooks]]
        if selection is None:
            suites.insert(0, pytest + ["tests"])
        failed = [subprocess.call(suite, cwd=config.repository(), env=env) != 0 for suite in suites]
    return int(any(failed))
