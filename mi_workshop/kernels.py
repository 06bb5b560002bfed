"""Run one notebook in a fresh kernel of this interpreter, and measure what it takes."""

import copy
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from mi_utils import config
from mi_workshop import sources

TIMEOUT = 600
"""Seconds a single cell may take."""

_SAMPLE = 0.2  # seconds between two looks at the memory of the kernel's processes
_SHOWN = 6  # first lines of a failing cell in its report
_TRACEBACK = 40  # last lines of its traceback
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class Run:
    """One execution of one notebook.

    Attributes:
        notebook: the source.
        executed: a copy of it with the outputs of this run, after a failure up to the failing cell.
        seconds: wall-clock time, the kernel's start included.
        peak_bytes: the larger of two figures, both resident memory: the largest sum over the kernel
            and all its descendants, sampled five times a second (a page they share counts once for
            each), and the kernel's own high-water mark as Linux keeps it (``VmHWM``), which no sample
            can miss. The process that runs the notebook is not counted.
        error: what failed, in words without colour codes, or None.
        claims: the file of claims the notebook wrote, or None.
    """

    notebook: Path
    executed: NotebookNode
    seconds: float
    peak_bytes: int
    error: str | None
    claims: Path | None


def environment(*, offline: bool = False) -> dict[str, str]:
    """The variables a kernel of ``run``, ``test`` or ``execute`` gets: ``os.environ``, and ours on top.

    ``OMP_NUM_THREADS``, ``OMP_WAIT_POLICY`` and ``HF_HUB_OFFLINE`` stay as the user has set them. Where the
    last is not set, the hub is left alone unless ``MI_MODEL`` asks for another model than the default.

    Args:
        offline: also refuse the network: ``MI_NO_NETWORK``, ``HF_HUB_OFFLINE`` and, first on
            ``PYTHONPATH``, the ``sitecustomize.py`` of ``tests/offline``.
    """
    usual = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    usual |= {} if os.environ.get("MI_MODEL") else {"HF_HUB_OFFLINE": "1"}
    always = {
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MI_GRADING": "strict",
        "PLOTLY_RENDERER": "plotly_mimetype",
    }
    env = {**usual, **os.environ, **always}
    if offline:
        blocker = str(config.repository() / "tests" / "offline")
        paths = [blocker, *filter(None, [env.get("PYTHONPATH")])]
        env |= {"MI_NO_NETWORK": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return env


def run_notebook(
    path: Path,
    *,
    env: Mapping[str, str] | None = None,
    claims_dir: Path | None = None,
    on_cell: Callable[[int, int], None] | None = None,
    timeout: int = TIMEOUT,
) -> Run:
    """Execute the notebook at ``path`` in a fresh kernel, in the notebook's folder; the file is left alone.

    The kernel is this interpreter, whatever kernel is registered under whatever name; it sees neither
    the user's IPython profile nor the record of solved exercises.

    Args:
        path: the notebook.
        env: variables of the kernel; by default ``environment()``.
        claims_dir: existing folder for the notebook's table of claims (``MI_CLAIMS_DIR``).
        on_cell: called before each cell with its position, counted from 0, and the number of cells.
        timeout: seconds a cell may take.

    Returns:
        The run. A cell that fails, takes too long or kills the kernel is reported in ``error``, not raised.

    Raises:
        ValueError: the file is not a valid notebook.
    """
    nb = _without_outputs(sources.read(path))
    before = set(claims_dir.glob("*.json")) if claims_dir else set()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mi-kernel-") as scratch, _Memory() as memory:
        env = _private(environment() if env is None else env, Path(scratch), claims_dir)
        error = _execute(nb, path, env, Path(scratch), memory, on_cell, timeout)
    for cell in nb.cells:
        _join_streams(cell)
    written = sorted(set(claims_dir.glob("*.json")) - before) if claims_dir else []
    return Run(path, nb, time.monotonic() - start, memory.peak, error, written[0] if written else None)


def plain(text: str) -> str:
    """``text`` without the escape codes of a terminal's colours."""
    return _ANSI.sub("", text)


def _without_outputs(nb: NotebookNode) -> NotebookNode:
    nb = copy.deepcopy(nb)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb


def _private(env: Mapping[str, str], scratch: Path, claims_dir: Path | None) -> dict[str, str]:
    """``env`` without what lets the user's set-up change a run, or a run change the user's progress."""
    env = {**env, "IPYTHONDIR": str(scratch / "ipython"), "MI_PROGRESS": str(scratch / "progress.json")}
    env.pop("PYTHONSTARTUP", None)
    env.pop("MI_CLAIMS_DIR", None)
    return env | ({"MI_CLAIMS_DIR": str(claims_dir.resolve())} if claims_dir else {})


def _execute(
    nb: NotebookNode,
    path: Path,
    env: Mapping[str, str],
    scratch: Path,
    memory: "_Memory",
    on_cell: Callable[[int, int], None] | None,
    timeout: int,
) -> str | None:
    """Execute ``nb`` in place; return the report of what failed."""
    client = _Client(nb, scratch=scratch, timeout=timeout)
    log = scratch / "kernel.log"
    position = None
    where = {"env": env, "cwd": str(path.parent)}
    try:
        with log.open("wb") as sink, client.setup_kernel(**where, stdout=sink, stderr=sink):
            memory.watch(client.km.provisioner.pid)
            try:
                for position, cell in enumerate(nb.cells):
                    if on_cell:
                        on_cell(position, len(nb.cells))
                    client.execute_cell(cell, position)
            finally:
                memory.high_water()
    except CellExecutionError as error:
        return _report(nb, path, position, _traceback(nb.cells[position]) or str(error))
    except CellTimeoutError:
        return _report(nb, path, position, f"The cell took longer than {timeout} seconds.")
    except (DeadKernelError, RuntimeError) as error:
        said = log.read_text(errors="replace").strip().splitlines()[-_TRACEBACK:]
        return _report(nb, path, position, "\n".join([f"The kernel died ({error}). Out of memory?", *said]))
    return None


def _join_streams(cell: NotebookNode) -> None:
    """Join neighbouring pieces of one stream: where a kernel cuts them depends on time alone."""
    joined: list[NotebookNode] = []
    for output in cell.get("outputs", []):
        last = joined[-1] if joined else None
        if output.output_type == "stream" and last and last.get("name") == output.name:
            last.text += output.text
        else:
            joined.append(output)
    if joined:
        cell.outputs = joined


def _traceback(cell: NotebookNode) -> str:
    errors = ["\n".join(output.traceback) for output in cell.outputs if output.output_type == "error"]
    return "\n".join("\n".join(errors).splitlines()[-_TRACEBACK:])


def _report(nb: NotebookNode, path: Path, position: int | None, what: str) -> str:
    if position is None:
        return f"{path.name}: the kernel did not start.\n{plain(what)}"
    cell = nb.cells[position]
    count = sum(1 for i, _ in sources.code_cells(nb) if i <= position)
    lines = cell.source.splitlines()
    shown = [f"    {line}" for line in lines[:_SHOWN]] + (["    ..."] if len(lines) > _SHOWN else [])
    return "\n".join([f"{path.name}, cell {position}, In [{count}]:", *shown, plain(what)])


class _ThisInterpreter(KernelSpecManager):
    """Answers every name with this interpreter: what a user has registered as "python3" may be another."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class _Client(NotebookClient):
    """nbclient's client with a kernel of this interpreter, no timing and no widget state."""

    def __init__(self, nb: NotebookNode, *, scratch: Path, timeout: int) -> None:
        options: dict[str, Any] = {"record_timing": False, "store_widget_state": False}
        super().__init__(nb, timeout=timeout, shutdown_kernel="immediate", **options)
        self._scratch = scratch

    def create_kernel_manager(self) -> AsyncKernelManager:
        # The connection file lies in the scratch folder: nothing is left in the user's Jupyter folder.
        self.km = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=_ThisInterpreter(),
            connection_file=str(self._scratch / "connection.json"),
        )
        return self.km


class _Memory:
    """Peak resident memory of a process and its descendants, sampled by a thread while the block runs."""

    def __init__(self) -> None:
        self.peak = 0
        self._process: psutil.Process | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def watch(self, pid: int) -> None:
        """Count ``pid`` and its descendants from now on."""
        self._process = psutil.Process(pid)

    def high_water(self) -> None:
        """Take the kernel's own high-water mark into account; to be called while it lives. Linux only."""
        if self._process:
            self.peak = max(self.peak, _high_water(self._process.pid))

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE):
            if self._process:
                self.peak = max(self.peak, _resident(self._process))


def _resident(process: psutil.Process) -> int:
    """Bytes of resident memory of ``process`` and its descendants; 0 once it is gone."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.Error:  # ended in between
            continue
    return total


def _high_water(pid: int) -> int:
    """``VmHWM`` of a process in bytes; 0 where the system keeps none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
