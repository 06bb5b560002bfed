"""What ``make test`` runs: on one process or on several, with a network that is refused."""

import os
import subprocess
from types import SimpleNamespace

import psutil
import pytest

from mi_utils import models
from mi_workshop import sources, testing


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Sets the cores and the memory that are found."""

    def set_to(cores: int, gib: float) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=gib * 2**30))

    return set_to


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """The commands that are called, with their variables; each succeeds."""
    commands: list[tuple[list[str], dict[str, str]]] = []

    def call(command: list[str], *, cwd: object, env: dict[str, str]) -> int:
        commands.append((command, env))
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setattr(models, "fetch", lambda source: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    return commands


@pytest.mark.parametrize(
    ("cores", "gib", "count"), [(1, 24, 1), (2, 23.4, 2), (2, 8, 1), (2, 3, 1), (16, 24, 4), (64, 512, 8)]
)
def test_processes_by_cores_and_memory(machine, cores: int, gib: float, count: int):
    machine(cores, gib)
    assert testing.workers() == count


def test_several_processes_share_all_tests_with_a_thread_each(machine, called):
    machine(2, 24)
    assert testing.test() == 0
    (tests, env), (notebooks, _) = called
    for command in (tests, notebooks):
        assert command[command.index("-n") + 1] == "2" and "loadfile" in command
    assert tests[-1] == "tests" and "--nbval" not in tests
    assert "--nbval" in notebooks and notebooks[-1] == str(sources.available()[-1])
    assert env["OMP_NUM_THREADS"] == "1" and env["MI_NO_NETWORK"] == "1" and env["MI_GRADING"] == "strict"


@pytest.mark.parametrize(("selection", "cores"), [("00", 2), ("00", 16), (None, 1)])
def test_one_notebook_or_one_core_is_one_process(machine, called, selection, cores):
    machine(cores, 64)
    testing.test(selection)
    assert len(called) == (1 if selection else 2)
    for command, env in called:
        assert "-n" not in command and env["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_of_either_is_one(machine, called, monkeypatch, failing: int):
    codes = iter([int(i == failing) for i in range(2)])
    monkeypatch.setattr(subprocess, "call", lambda *args, **kwargs: next(codes))
    assert testing.test() == 1
