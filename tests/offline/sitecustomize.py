"""No network but loopback, in this process and in every Python process that it starts.

Python imports a module of this name as it starts; ``make test`` puts this folder on PYTHONPATH, which Jupyter
kernels and Python children inherit. The refusal is an audit hook, which sees what C code of the socket module
does, whoever calls it, and cannot be taken off again. It does not see libraries that bring sockets of their
own (zmq, which kernels need, and Rust clients such as hf_xet): HF_HUB_OFFLINE and MI_NO_NETWORK stop those.
A name given to connect() itself is looked up before the hook is told; the connection is refused all the same.
"""

import importlib.machinery
import importlib.util
import os
import sys

_ADDRESS = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getnameinfo": 0}
_HOST = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.gethostbyaddr": 0}
_NETLINK = 16  # conversation with this machine's own kernel


class NetworkRefusedError(OSError):
    """Something tried to leave this machine while the tests run."""


def _is_loopback(host):
    if isinstance(host, bytes | bytearray):
        host = bytes(host).decode("ascii", "replace")
    if host is None or not isinstance(host, str):  # getaddrinfo(None, ...): this machine
        return host is None
    host = host.partition("%")[0].lower().removeprefix("::ffff:")
    parts = host.split(".")
    in_127 = len(parts) == 4 and parts[0] == "127" and all(p.isdecimal() for p in parts)
    return in_127 or host in ("localhost", "::1")


def _is_local(socket, address):
    if address is None or isinstance(address, str | bytes):  # a connected socket; a Unix socket
        return True
    if socket is not None and int(socket.family) == _NETLINK:
        return True
    return isinstance(address, tuple) and bool(address) and _is_loopback(address[0] or "")


def _refuse(event, args):
    if event in _ADDRESS:
        target = args[_ADDRESS[event]]
        allowed = _is_local(args[0] if _ADDRESS[event] else None, target)
    elif event in _HOST:
        target = args[_HOST[event]]
        allowed = _is_loopback(target)
    else:
        return
    if not allowed:
        raise NetworkRefusedError(
            f"{event} to {target!r} refused: the tests run without network (tests/offline/sitecustomize.py)"
        )


def _run_next():
    """Run the environment's own sitecustomize, which this one hides."""
    here = os.path.dirname(os.path.abspath(__file__))
    path = [entry for entry in sys.path if os.path.abspath(entry) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec and spec.loader:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


sys.addaudithook(_refuse)
_run_next()
