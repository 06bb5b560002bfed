"""``environment.yml`` for conda users, generated from ``constraints.txt`` and the direct dependencies."""

import re
import tomllib
from pathlib import Path

from mi_utils import config

HEAD = """\
# Generated from pyproject.toml and constraints.txt by `python -m mi_utils readme`; do not edit.
# conda env create -f environment.yml && conda activate mi-workshop
name: mi-workshop
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
      - -c constraints.txt
"""


def text() -> str:
    """What the file should hold: every direct dependency at the version that CI uses, then the package in
    place."""
    root = config.repository()
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    pins = pinned(root / "constraints.txt")
    # torch stands first: an installer that meets it as somebody's dependency may choose another build
    names = [_name(requirement) for requirement in wanted]
    lines = [f"      - {name}=={pins[name]}\n" for name in names if name in pins]
    return HEAD + "".join(lines) + "      - -e .[test]\n"


def pinned(constraints: Path) -> dict[str, str]:
    """Normalised name -> version, of a file of ``name==version`` lines."""
    rows = (line.split("#")[0].strip() for line in constraints.read_text().splitlines())
    return {_name(row): row.split("==")[1] for row in rows if "==" in row}


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement.strip())[0]).lower()


def update(check: bool = False) -> bool:
    """Write the file unless ``check``; returns whether it was stale."""
    file = config.repository() / "environment.yml"
    stale = not file.is_file() or file.read_text() != text()
    if stale and not check:
        file.write_text(text())
    return stale
