"""What is installed, cached and wrong, in one page."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata

import psutil

from mi_utils import config
from mi_workshop import environment_file

_SHOWN = (
    "torch",
    "transformer-lens",
    "sae-lens",
    "transformers",
    "tokenizers",
    "plotly",
    "jupyterlab",
    "nbval",
)
_MEMORY_GIB = 5


def report(say: Callable[[str], None]) -> int:
    """Say what there is and what is wrong; returns 1 if something is."""
    from mi_utils import models

    say(f"Python     {platform.python_version()} ({sys.executable})")
    say("packages   " + ", ".join(f"{name} {_version(name) or '(missing)'}" for name in _SHOWN))
    say(f"device     {models.describe_device()}; {os.cpu_count()} cores")
    free = psutil.virtual_memory().available / 2**30
    say(f"memory     {free:.1f} GiB free; a notebook needs at most {_MEMORY_GIB}")
    say(f"cache      {config.cache_dir()}")
    for spec in models.load.REGISTRY.values():
        say(f"model      {spec.name}: {models.state(spec)}")
    flags = [
        f"{name}={os.environ[name]}"
        for name in sorted(os.environ)
        if name.startswith(("MI_", "HF_HUB_OFFLINE"))
    ]
    say(f"settings   {', '.join(flags) or 'defaults'}")
    found = list(problems())
    for problem in found:
        say(f"WRONG      {problem}")
    say("nothing is wrong" if not found else f"{len(found)} to mend")
    return int(bool(found))


def problems() -> Iterator[str]:
    """What would get in the way, each with its cure."""
    from mi_utils import models

    pins = environment_file.pinned(config.repository() / "constraints.txt")
    for name in _SHOWN:
        version = _version(name)
        if version is None:
            yield f"{name} is not installed; run `make setup`"
        elif version.split("+")[0] != pins.get(name):
            yield f"{name} is {version}, tested with {pins.get(name)}; run `make setup`"
    source = models.load.REGISTRY[models.load.DEFAULT].source
    if not models.is_intact(source.folder(), thorough=True):
        there = "damaged" if source.folder().exists() else "not in the cache"
        yield f"{models.load.DEFAULT} is {there}; run `python -m mi_utils fetch`"
        if (free := _free_disk()) < source.disk_bytes:
            needed = source.disk_bytes / 1e9
            yield f"the cache's disk has {free / 1e9:.1f} GB free; the model needs {needed:.1f}"
    if psutil.virtual_memory().available < _MEMORY_GIB * 2**30:
        yield f"less than {_MEMORY_GIB} GiB of memory is free; close something"
    yield from _settings()


def _settings() -> Iterator[str]:
    """The environment variables that a notebook would refuse."""
    from mi_utils import models

    for prefix, check in (
        ("MI_MODEL: ", lambda: models.check_name(config.model_name())),
        ("", lambda: config.budget(None, None)),
        ("", config.strict_grading),
    ):
        try:
            check()
        except ValueError as error:
            yield f"{prefix}{error}"


def _free_disk() -> int:
    folder = config.cache_dir()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
