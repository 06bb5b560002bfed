"""What is installed and what is promised: constraints.txt, pyproject.toml, environment.yml, README."""

import re
import tomllib
from importlib import metadata

import pytest
import yaml

from mi_utils import config
from mi_workshop import environment_file

ROOT = config.repository()
PINS = environment_file.pinned(ROOT / "constraints.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


@pytest.mark.parametrize("requirement", [*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["author"]])
def test_every_direct_dependency_is_pinned_and_installed_at_that_version(requirement):
    name = name_of(requirement)
    if name == "pip":  # pip pins no pip: it is whatever made the environment
        return
    assert metadata.version(name).split("+")[0] == PINS[name]


def test_constraints_are_exact_and_name_no_local_build():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(lines) > 100
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line)] == []


def test_transformer_lens_is_3_and_torch_is_the_one_of_ci():
    assert PINS["transformer-lens"].startswith("3.")
    assert PINS["torch"] == "2.13.0"


def test_environment_yml_is_generated_and_current():
    assert not environment_file.update(check=True), "run `python -m mi_utils readme`"


def test_environment_yml_pins_what_pyproject_wants():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    pinned = dict(entry.split("==") for entry in pip if "==" in entry)
    wanted = {name_of(one) for one in PROJECT["dependencies"] + EXTRAS["test"]} - {"pip"}
    assert set(pinned) == wanted
    assert pinned == {name: PINS[name] for name in wanted}
    assert pip[0] == "-c constraints.txt" and pip[-1] == "-e .[test]" and "pip" in entries


def test_a_changed_pin_makes_environment_yml_stale(tmp_path, monkeypatch):
    for name in ("pyproject.toml", "constraints.txt", "environment.yml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(config, "repository", lambda: tmp_path)
    assert not environment_file.update(check=True)
    (tmp_path / "constraints.txt").write_text(
        (ROOT / "constraints.txt").read_text().replace("plotly==", "plotly==9")
    )
    assert environment_file.update(check=True)
    assert environment_file.update() and not environment_file.update(check=True)


def test_make_targets_and_commands_agree():
    """Every command of the Makefile is one of ``python -m mi_utils``, and every promised target is there."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.M))
    assert {"setup", "lab", "run", "test", "execute", "exercises", "data", "bench", "check"} <= targets
    cli = (ROOT / "mi_workshop" / "cli.py").read_text()
    commands = set(re.findall(r"-m mi_utils (\w+)", makefile))
    assert commands and all(f"add({command}," in cli for command in commands)
