"""The files in ``data/``, and how this project writes any file.

Each file of ``data/`` is listed in ``MANIFEST.json`` with its digest, size, licence, source and command.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mi_utils import config

MANIFEST = "MANIFEST.json"


def folder() -> Path:
    """``data/`` of the repository."""
    return config.repository() / "data"


def manifest() -> dict[str, dict]:
    """Name -> ``{sha256, bytes, licence, source, command}``.

    Raises:
        ValueError: the manifest is missing or damaged.
    """
    file = folder() / MANIFEST
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error  # without the path
        raise ValueError(
            f"data/{MANIFEST} can't be read ({reason}); take it from the repository again"
        ) from None


def path(name: str) -> Path:
    """An intact file of ``data/``.

    Raises:
        ValueError: a name the manifest does not list, or a file that is missing or was changed; the message
            gives the command that makes it again.
    """
    file, entry = folder() / name, _entry(name)
    trouble = None
    if not file.is_file():
        trouble = "is missing"
    elif sha256(file) != entry["sha256"]:
        trouble = "is not the file that the manifest describes"
    if trouble:
        raise ValueError(f"data/{name} {trouble}; `{entry['command']}` makes it again")
    return file


def command(name: str) -> str:
    """The shell command that makes a file of ``data/`` again.

    Raises:
        ValueError: a name the manifest does not list.
    """
    return _entry(name)["command"]


def _entry(name: str) -> dict:
    """What the manifest says of a file; raises ``ValueError`` for a name it does not list."""
    listed = manifest()
    if name not in listed:
        raise ValueError(f"name is {name!r}; data/ holds {', '.join(sorted(listed)) or 'nothing'}")
    return listed[name]


def trouble() -> list[str]:
    """A sentence for each listed file that is not intact and each file that is not listed."""
    found = []
    for name in manifest():
        try:
            path(name)
        except ValueError as error:
            found.append(str(error))
    there = {file.relative_to(folder()).as_posix() for file in folder().rglob("*") if file.is_file()}
    return found + [
        f"data/{name} is not in the manifest" for name in sorted(there - set(manifest()) - {MANIFEST})
    ]


def record(name: str, *, licence: str, source: str, command: str) -> None:
    """Enter a file that was just written into the manifest (author's side)."""
    file = folder() / name
    listed = manifest() if (folder() / MANIFEST).exists() else {}
    listed[name] = {
        "sha256": sha256(file),
        "bytes": file.stat().st_size,
        "licence": licence,
        "source": source,
        "command": command,
    }
    write(json.dumps(dict(sorted(listed.items())), indent=1) + "\n", folder() / MANIFEST)


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write(content: str | bytes, target: str | Path) -> Path:
    """Write a file whole or not at all; text as UTF-8, its lines ending as they do in ``content``.

    Raises:
        OSError: the file can't be written.
    """
    with staged(target) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(target)


@contextmanager
def staged(target: str | Path) -> Iterator[Path]:
    """A name beside ``target`` to write to, which is moved into its place when the ``with`` block ends.

    Whoever reads ``target`` meanwhile finds the former file or the new one, never half of one. Where the
    block fails, the former file stays and what was written is removed.
    """
    target = Path(target)
    new = target.with_name(f"{target.name}.{os.getpid()}.new")  # two processes may write the same file
    try:
        yield new
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)
