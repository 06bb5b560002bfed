"""Lazy tables of contents: what a package offers, read off its modules' source and loaded on first use.

``from mi_utils import patching`` imports nothing else. ``patching.<Tab>`` lists the package's modules and the
public functions and classes that stand in them; ``patching.path_patch`` then imports the module ``paths``.
Nothing is listed by hand: a function is offered because it stands in a module. A module that declares
``__all__`` offers only what is in it.

``mi_utils`` itself offers its packages and modules only: a function is found in its topic.

Constants stay with their module (``patching.recording.HEAD_SITES``), and so does a name that stands in two
modules of a package: asking the package for it is an error that names both.
"""

import ast
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

# Names of each package -> the modules in which they stand.
Table = dict[str, tuple[str, ...]]


def lazy(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for the ``__init__`` of a package.

    Use: ``__getattr__, __dir__ = lazy(__name__)``.
    """

    def getattribute(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if name in modules(package):
            return importlib.import_module(f"{package}.{name}")
        places = table(package).get(name, ())
        if len(places) == 1:
            return getattr(importlib.import_module(f"{package}.{places[0]}"), name)
        if places:
            full = " or ".join(f"{package.rpartition('.')[2]}.{place}.{name}" for place in places)
            raise AttributeError(f"{name!r} stands in several modules of {package!r}: write {full}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def listing() -> list[str]:
        alone = {name for name, places in table(package).items() if len(places) == 1}
        return sorted(alone | set(modules(package)))

    return getattribute, listing


@cache
def modules(package: str) -> tuple[str, ...]:
    """The public modules and packages that stand in a package."""
    found = pkgutil.iter_modules([str(_folder(package))])
    return tuple(module.name for module in found if not module.name.startswith("_"))


@cache
def table(package: str) -> Table:
    """Each public function and class of a package's modules, with the modules that define it."""
    if "." not in package:  # mi_utils itself
        return {}
    found: dict[str, list[str]] = {}
    for module in modules(package):
        source = _folder(package) / f"{module}.py"
        if source.is_file():
            for name in offered(source.read_text(encoding="utf-8")):
                found.setdefault(name, []).append(module)
    return {name: tuple(places) for name, places in found.items()}


def offered(source: str) -> list[str]:
    """The public functions and classes that a module defines; where it declares ``__all__``, those in it."""
    body = ast.parse(source).body
    defined = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            chosen = ast.literal_eval(node.value)
            return [name for name in defined if name in chosen]
    return [name for name in defined if not name.startswith("_")]


def _folder(package: str) -> Path:
    return Path(__file__).parent.parent.joinpath(*package.split("."))
