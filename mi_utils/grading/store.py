"""The file that remembers which exercises were solved."""

import contextlib
import json
import os
from pathlib import Path

from filelock import FileLock

from mi_utils import config, data_files

PATIENCE = 5  # seconds to wait for another notebook that writes the file


def path() -> Path:
    """``MI_PROGRESS``, else ``progress.json`` in the cache."""
    named = os.environ.get("MI_PROGRESS")
    return Path(named).expanduser() if named else config.cache_dir() / "progress.json"


def solved() -> set[str]:
    """Ids of the exercises solved so far; a damaged or missing file counts as none."""
    try:
        ids = json.loads(path().read_text())["solved"]
        return {one for one in ids if isinstance(one, str)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def remember(exercise_id: str) -> None:
    """Add a solved exercise. A file that can't be written never stands in a learner's way."""
    file = path()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock", timeout=PATIENCE):  # its Timeout is an OSError
            done = solved()
            if exercise_id in done:
                return
            data_files.write(json.dumps({"solved": sorted(done | {exercise_id})}, indent=1), file)
