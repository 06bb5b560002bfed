"""Which names of ``mi_utils`` a piece of code uses that are not there, read off its source."""

import ast
import importlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any


def missing(sources: Iterable[str]) -> list[str]:
    """Names that some sources, read one after another, import from ``mi_utils`` or use of it, and that don't
    exist.

    A name that the sources give to something of their own (an argument called ``sae``) is not looked at.
    """
    trees = [ast.parse(source) for source in sources]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    found, imported = [], {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "mi_utils":
            module = importlib.import_module(node.module)
            for alias in node.names:
                if hasattr(module, alias.name):
                    imported[alias.asname or alias.name] = getattr(module, alias.name)
                else:
                    found.append(f"{node.module}.{alias.name}")
    own = {node.arg for node in nodes if isinstance(node, ast.arg)}
    for node in nodes:
        if isinstance(node, ast.Attribute):
            first, names = _chain(node)
            if first in imported and first not in own and not _exists(imported[first], names):
                found.append(".".join([first, *names]))
    return sorted(set(found))


def hidden(sources: Iterable[str]) -> list[str]:
    """Names imported from ``mi_utils`` to which code gives another value, read one source after another.

    Names inside functions and comprehensions are their own.
    """
    found, imported = [], set()
    for source in sources:
        for node in _outer(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "mi_utils":
                imported |= {alias.asname or alias.name for alias in node.names}
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in imported:
                found.append(node.id)
    return sorted(set(found))


def _outer(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a source without what functions and comprehensions hold."""
    inner = ast.FunctionDef | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, inner):
            yield node
            yield from _outer(node)


def _chain(node: ast.Attribute) -> tuple[str, list[str]]:
    """``"models", ["run", "SITES"]`` for ``models.run.SITES``; an empty first name for other beginnings."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else ""), names


def _exists(thing: Any, names: list[str]) -> bool:
    """Whether the first names lead from module to module to something that is there."""
    for name in names:
        if not isinstance(thing, ModuleType):
            return True  # fields of classes are set when they are made
        if not hasattr(thing, name):
            return False
        thing = getattr(thing, name)
    return True
