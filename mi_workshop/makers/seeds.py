"""What recipes that record many seeds share: each seed is kept in the cache, so an interrupted run goes
on."""

import json
from collections.abc import Callable

from mi_utils import config, data_files
from mi_workshop.cli import say


def record(file: str, count: int, one_seed: Callable[[int], dict], *, source: str, command: str) -> None:
    """Measure seeds 0 to ``count - 1``, save for those in the cache, and write them into ``data/``, a line
    each."""
    folder = config.cache_dir() / file.removesuffix(".json")
    folder.mkdir(parents=True, exist_ok=True)
    kept = [folder / f"seed{seed:02d}.json" for seed in range(count)]
    for seed, one in enumerate(kept):
        if not one.is_file():
            one.write_text(json.dumps(one_seed(seed)))
            say(f"seed {seed} done")
    rows = ",\n".join(one.read_text() for one in kept)
    data_files.write(f"[\n{rows}\n]\n", data_files.folder() / file)
    data_files.record(file, licence="MIT", source=source, command=command)
