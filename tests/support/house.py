"""The project's sources, read without importing them: who imports whom, what each package offers."""

import ast
import io
import json
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from mi_utils import _contents

ROOT = Path(__file__).parents[2]
CODE = ("mi_utils", "mi_workshop")
Functions = ast.FunctionDef | ast.AsyncFunctionDef


class House:
    """Sources by the full names of their modules; those of tests under ``tests.``"""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = dict(sources)

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """Of the project's modules, without the tests."""
        return {
            module: ast.parse(source)
            for module, source in self.sources.items()
            if module.split(".")[0] in CODE
        }

    @cached_property
    def packages(self) -> set[str]:
        return {module.rpartition(".")[0] for module in self.trees} & set(self.trees)

    @cached_property
    def offers(self) -> dict[str, dict[str, list[str]]]:
        """Of each package: public functions and classes -> the modules in which they stand."""
        found: dict[str, dict[str, list[str]]] = {package: defaultdict(list) for package in self.packages}
        for module in set(self.trees) - self.packages:
            package, _, last = module.rpartition(".")
            if package in found and not last.startswith("_"):
                for name in _contents.offered(self.sources[module]):
                    found[package][name].append(last)
        return found

    def place(self, name: str) -> str:
        """The module of ours in which a full name stands; empty for what is not ours."""
        if name in self.trees:
            return name
        package, _, last = name.rpartition(".")
        if package in self.packages:
            modules = self.offers[package].get(last, ())
            return f"{package}.{modules[0]}" if len(modules) == 1 else package
        return package if package in self.trees else ""

    @cached_property
    def loaded_at_import(self) -> dict[str, set[str]]:
        """Of each module: those of ours that are loaded while it is imported."""
        return {
            module: self._loads(module, list(evaluated_at_import(self.trees[module])))
            for module in self.trees
        }

    @cached_property
    def loaded(self) -> dict[str, set[str]]:
        """Of each module: those of ours that it ever loads, in functions too."""
        return {module: self._loads(module, list(ast.walk(self.trees[module]))) for module in self.trees}

    def _loads(self, module: str, nodes: list[ast.AST]) -> set[str]:
        """What a module loads by these nodes of its source.

        ``from mi_utils import models`` alone loads the table of contents; ``models.Shipped`` loads the module
        in which that class stands.
        """
        names = [name for node in nodes for name in imported_by(node)]
        bound = {
            name.rpartition(".")[2]: name for name in imported(self.trees[module]) if name in self.packages
        }
        for node in nodes:
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in bound
            ):
                names.append(f"{bound[node.value.id]}.{node.attr}")
        return {place for name in names if (place := self.place(name))} - {module}

    @cached_property
    def parts(self) -> dict[str, set[str]]:
        """Each part of ``mi_utils`` (a package, a single module) -> the parts that it needs."""
        found: dict[str, set[str]] = defaultdict(set)
        for module, others in self.loaded.items():
            if name := part(module):
                found[name] |= {part(other) for other in others} - {name, ""}
        return found


def read_house() -> House:
    """The project as it is."""
    files = [file for folder in (*CODE, "tests") for file in sorted((ROOT / folder).rglob("*.py"))]
    return House({module_name(file): file.read_text(encoding="utf-8") for file in files})


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(module: str) -> str:
    """``models`` for ``mi_utils.models.run``; empty for the workshop's and for the table of contents."""
    names = module.split(".")
    inside = names[0] == "mi_utils" and len(names) > 1
    return names[1] if inside and not names[1].startswith("_") else ""


def notebook_code(file: Path) -> str:
    """All code of a notebook, without the lines that are IPython's."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return "\n".join(line for line in code.splitlines() if not line.startswith(("%", "!")))


def comments(source: str, word: str) -> list[str]:
    """Those that hold a word."""
    if word not in source:
        return []
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT and word in token.string]


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all that is imported somewhere in a source: modules, or names in modules."""
    for node in ast.walk(tree):
        yield from imported_by(node)


def imported_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)


def evaluated_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a source that are evaluated when it is imported: not the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        yield node
        only_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, Functions):
            for inner in _of_signature(node):
                yield inner
                yield from evaluated_at_import(inner)
        elif not (only_for_types or isinstance(node, ast.Lambda)):
            yield from evaluated_at_import(node)


def _of_signature(function: Functions) -> list[ast.expr]:
    """Decorators, defaults and annotations."""
    arguments = [node for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    annotations = [argument.annotation for argument in arguments] + [function.returns]
    defaults = function.args.defaults + function.args.kw_defaults
    return [node for node in (*function.decorator_list, *defaults, *annotations) if node is not None]


def circles(graph: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Groups of nodes of a graph each of which reaches all others of its group."""
    reached = {node: _reachable(graph, node) for node in graph}
    groups = {
        tuple(sorted(other for other in reached[node] if node in reached.get(other, ()))) for node in graph
    }
    return sorted(group for group in groups if group)


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(graph.get(node, ()))
    return found
