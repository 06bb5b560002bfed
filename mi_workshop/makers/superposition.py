"""What notebook 01 says of many seeds, and its sweep at the paper's size: ``python -m
mi_workshop.makers.superposition``.

``data/superposition_seeds.json``: the notebook itself is run with twenty seeds, up to its table of claims;
kept are the claims, and what each compared cell concludes. ``data/superposition_sweep.json``: n = 400, m = 30
over sixteen sparsities. Every seed is kept in the cache, so an interrupted run goes on; all of it takes
twenty minutes on one core.
"""

import ast
import json
from pathlib import Path
from typing import Any

import torch
from nbformat import NotebookNode

from mi_utils import config, data_files, superposition
from mi_utils.superposition.toy import ToySettings, train
from mi_workshop import sources
from mi_workshop.cli import say

COMMAND = "python -m mi_workshop.makers.superposition"
SEEDS_FILE, SWEEP_FILE = "superposition_seeds.json", "superposition_sweep.json"
SEEDS = 20
LAST = "claims-table"  # what stands after it reads the file that is made here


def folder() -> Path:
    """Where finished seeds are kept."""
    return config.cache_dir() / "superposition_seeds"


def one_seed(notebook: NotebookNode, seed: int) -> dict[str, Any]:
    """Run the notebook's cells with another seed, and keep its claims and what its compared cells
    conclude."""
    scope: dict[str, Any] = {}
    facts: dict[str, dict] = {}
    for _, cell in sources.code_cells(notebook):
        if cell.id == LAST:
            break
        if "check" in sources.tags(cell):
            continue
        value = _run(cell.source, scope)
        if "parameters" in sources.tags(cell):
            scope["SEED"] = seed
        elif isinstance(value, dict) and "nbval-ignore-output" not in sources.tags(cell):
            facts[cell.id] = value
    claims = {
        line.statement: {"ours": line.ours, "as expected": line.as_expected} for line in scope["table"].lines
    }
    return {"seed": seed, "claims": claims, "facts": facts}


def _run(source: str, scope: dict[str, Any]) -> Any:
    """Execute a cell; the value of its last line where that is an expression."""
    tree = ast.parse(source)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), scope)
    return eval(compile(last, "<cell>", "eval"), scope) if last else None


def sweep(
    n: int = 400,
    m: int = 30,
    worlds: int = 16,
    settings: ToySettings = ToySettings(4000, batch=128),  # noqa: B008 (frozen)
) -> dict[str, list[float]]:
    """Dimensions per feature from dense to sparse; shares are 0 where no feature is kept."""
    inverse = torch.logspace(0, torch.tensor(20.0).log10().item(), worlds)
    W = train(n, m, 1 - 1 / inverse, torch.ones(n), settings).W
    control = superposition.matched_control(W, torch.Generator().manual_seed(settings.seed))
    kept = superposition.represented(W)
    shares = [_shares(superposition.dimensionality(one), kept) for one in (W, control)]
    found = {
        "1/p": inverse.tolist(),
        "D*": superposition.dimensions_per_feature(W).tolist(),
        "kept": kept.sum(dim=1).tolist(),
        "share near a line": shares[0],
        "share near a line, control": shares[1],
    }
    return {name: [round(value, 4) for value in values] for name, values in found.items()}


def _shares(D: torch.Tensor, kept: torch.Tensor) -> list[float]:
    return [
        superposition.share_near(one[mask]) if mask.any() else 0.0 for one, mask in zip(D, kept, strict=True)
    ]


def _ship(name: str, text: str, source: str) -> None:
    data_files.write(text, data_files.folder() / name)
    data_files.record(name, licence="MIT", source=source, command=COMMAND)


def main() -> None:
    torch.set_grad_enabled(False)
    folder().mkdir(parents=True, exist_ok=True)
    swept = folder() / "sweep.json"
    if not swept.is_file():
        swept.write_text(json.dumps(sweep(), indent=1) + "\n")
        say("sweep done")
    _ship(SWEEP_FILE, swept.read_text(), "trained by mi_utils.superposition.toy")
    notebook = sources.read(sources.find("01")[0])
    files = [folder() / f"seed{seed:02d}.json" for seed in range(SEEDS)]
    for seed, file in enumerate(files):
        if not file.is_file():
            file.write_text(json.dumps(one_seed(notebook, seed)))
            say(f"seed {seed} done")
    rows = ",\n".join(file.read_text() for file in files)
    _ship(SEEDS_FILE, f"[\n{rows}\n]\n", "the claims of notebook 01, run with twenty seeds")


if __name__ == "__main__":
    main()
