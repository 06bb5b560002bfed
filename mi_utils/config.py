"""Where things are kept and how large a run is: the environment variables of the workshop, read in one place.

=================  ====================================================================================
``MI_CACHE``       folder for models and progress (default: the user's cache folder)
``MI_MODEL``       model a notebook uses instead of its default
``MI_BUDGET``      ``quick`` (default: a laptop, and CI) or ``full`` (the paper's scale, on a GPU)
``MI_GRADING``     ``strict`` makes an exercise that is not solved an error
``MI_PROGRESS``    file that remembers solved exercises (default: ``progress.json`` in the cache)
``MI_NO_NETWORK``  ``1``: never fetch anything
``MI_CLAIMS_DIR``  folder into which each notebook writes its table of claims
=================  ====================================================================================
"""

import os
from pathlib import Path
from typing import TypeVar

import platformdirs

T = TypeVar("T")


def cache_dir() -> Path:
    """Folder for downloads and progress; not created here."""
    named = os.environ.get("MI_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("mi_utils")


def repository() -> Path:
    """The folder that holds ``notebooks/`` and ``data/``: the package is installed in place from it."""
    return Path(__file__).resolve().parent.parent


def budget(quick: T, full: T) -> T:
    """``quick`` or ``full``, as ``MI_BUDGET`` says.

    Raises:
        ValueError: ``MI_BUDGET`` is neither.
    """
    chosen = os.environ.get("MI_BUDGET") or "quick"
    if chosen not in ("quick", "full"):
        raise ValueError(f"MI_BUDGET is {chosen!r}; it should be 'quick' or 'full'")
    return full if chosen == "full" else quick


def model_name(default: str = "smollm2-135m") -> str:
    """The model a notebook runs on: ``MI_MODEL``, else ``default``."""
    return os.environ.get("MI_MODEL") or default


def no_network() -> bool:
    """Whether fetching is forbidden (``MI_NO_NETWORK=1``)."""
    return os.environ.get("MI_NO_NETWORK", "") not in ("", "0")


def strict_grading() -> bool:
    """Whether an exercise that is not solved is an error (``MI_GRADING=strict``).

    Raises:
        ValueError: ``MI_GRADING`` is set to anything else, which would pass for strict and check nothing.
    """
    chosen = os.environ.get("MI_GRADING", "")
    if chosen not in ("", "strict"):
        raise ValueError(f"MI_GRADING is {chosen!r}; it should be 'strict' or not set")
    return chosen == "strict"
