"""Every connection but loopback is refused: in Python, in pytest, in a kernel and in a kernel's child."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

OFFLINE = Path(__file__).resolve().parents[1] / "offline"

# An address of RFC 5737 and a name of RFC 6761: neither exists anywhere, so that without our refusal these
# attempts fail too, but with another error.
ATTEMPTS = {
    "connect": "tcp().connect(('192.0.2.1', 80))",
    "connect as bytes": "tcp().connect((b'192.0.2.1', 80))",
    "connect_ex": "tcp().connect_ex(('192.0.2.1', 80))",
    "connect by C type": "_socket.socket().connect(('192.0.2.1', 80))",
    "connect v6": "tcp(socket.AF_INET6).connect(('2001:db8::1', 80))",
    "lookalike": "socket.getaddrinfo('127.0.0.invalid', 80)",
    "create_connection": "socket.create_connection(('192.0.2.1', 80), timeout=0.2)",
    "getaddrinfo": "socket.getaddrinfo('host.invalid', 80)",
    "gethostbyname": "socket.gethostbyname('host.invalid')",
    "gethostbyname_ex": "socket.gethostbyname_ex('host.invalid')",
    "gethostbyaddr": "socket.gethostbyaddr('192.0.2.1')",
    "getnameinfo": "socket.getnameinfo(('192.0.2.1', 80), 0)",
    "sendto": "udp().sendto(b'x', ('192.0.2.1', 80))",
    "sendmsg": "udp().sendmsg([b'x'], [], 0, ('192.0.2.1', 80))",
}
PROBE = """
import _socket, socket
def tcp(family=socket.AF_INET):
    s = socket.socket(family)
    s.settimeout(0.2)
    return s
def udp():
    return socket.socket(type=socket.SOCK_DGRAM)
def outcome(attempt):
    try:
        return type(attempt()).__name__
    except OSError as error:
        return type(error).__name__ + ": " + str(error)
"""
LOOPBACK = """
import os, tempfile
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(("localhost", server.getsockname()[1]), timeout=5)
client.sendmsg([b"over "])
client.send(b"loopback")
peer = server.accept()[0]
left, right = socket.socketpair()
left.send(b", unix")
path = os.path.join(tempfile.mkdtemp(), "socket")
named = socket.socket(socket.AF_UNIX)
named.bind(path)
named.listen()
socket.socket(socket.AF_UNIX).connect(path)
udp().sendto(b"x", ("127.0.0.1", 9))
socket.getaddrinfo(None, 80), socket.getaddrinfo("::1", 80)
print(peer.recv(20).decode() + right.recv(20).decode())
"""
REFUSED = "NetworkRefusedError: socket."


def environment(offline: bool, *more: Path) -> dict[str, str]:
    """This process's environment with or without the refusal, whichever ``make test`` has set."""
    path = ([str(OFFLINE)] if offline else []) + [str(p) for p in more]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


def python(code: str, env: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, *(arguments or ("-c", code))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def in_kernel(code: str, env: dict[str, str]) -> str:
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(nb, kernel_name="python3", timeout=60).execute(env=env)
    return "".join(out.text for out in nb.cells[0].outputs if out.output_type == "stream")


def tell(attempt: str) -> str:
    return PROBE + f"print(outcome(lambda: {attempt}))"


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_an_attempt_to_leave_is_refused_by_us(attempt: str) -> None:
    told = python(tell(attempt), environment(True))
    assert told.startswith(REFUSED)
    assert "the tests run without network" in told


def test_without_it_no_attempt_is_refused_by_us() -> None:
    code = PROBE + "".join(f"print(outcome(lambda: {attempt}))\n" for attempt in ATTEMPTS.values())
    told = python(code, environment(False)).splitlines()
    assert len(told) == len(ATTEMPTS)
    assert not any("NetworkRefused" in line for line in told)


def test_loopback_and_unix_sockets_work() -> None:
    assert python(PROBE + LOOPBACK, environment(True)) == "over loopback, unix\n"


def test_refused_inside_pytest(tmp_path: Path) -> None:
    body = PROBE + f"def test(): assert outcome(lambda: {ATTEMPTS['connect']}).startswith({REFUSED!r})"
    (tmp_path / "test_inside.py").write_text(body)
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path), "--rootdir", str(tmp_path))
    assert "1 passed" in python("", environment(True), *arguments)
    assert "1 failed" in python("", environment(False), *arguments)


def test_refused_inside_a_kernel_that_itself_works() -> None:
    code = "\n".join([tell(ATTEMPTS["connect"]), tell(ATTEMPTS["getaddrinfo"]), LOOPBACK])
    connect, lookup, loopback = in_kernel(code, environment(True)).splitlines()
    assert connect.startswith(f"{REFUSED}connect to ('192.0.2.1', 80) refused")
    assert lookup.startswith(f"{REFUSED}getaddrinfo to 'host.invalid' refused")
    assert loopback == "over loopback, unix"


def test_refused_inside_a_child_of_a_kernel() -> None:
    child = f"[sys.executable, '-c', {tell(ATTEMPTS['connect'])!r}]"
    code = f"import subprocess, sys\nprint(subprocess.run({child}, capture_output=True, text=True).stdout)"
    assert in_kernel(code, environment(True)).startswith(REFUSED)
    assert not in_kernel(code, environment(False)).startswith(REFUSED)


def test_the_environments_own_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.own_was_run = True")
    code = tell(ATTEMPTS["connect"]) + "\nimport sys; print(sys.own_was_run)"
    refused, own = python(code, environment(True, tmp_path)).splitlines()
    assert refused.startswith(REFUSED)
    assert own == "True"
