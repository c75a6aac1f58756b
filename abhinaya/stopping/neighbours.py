"""The other processes of a launch: when one is gone, all stop, instead of waiting for it for a day.

Each process is connected with the main one. The kernel closes the connection when a process ends,
however that comes, and probes it when a machine is lost: nobody has to be awake for that, and who
is only busy is not taken for dead. A process that has done its work says goodbye first.
"""

from __future__ import annotations

import atexit
import os
import secrets
import selectors
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from abhinaya.errors import LostProcessError
from abhinaya.stopping.interruptions import EXIT_CODE, Interruption, is_asked_to_stop

__all__ = ["check_neighbours", "forsake_neighbours", "watch_neighbours"]

_KEY = "abhinaya/neighbours"
_NUMBER = struct.Struct("!i")
_TOKEN_BYTES = 16
# How long somebody who connects may take to say who it is.
_GREETING_S = 5.0
_GOODBYE = -1

# How long a process whose neighbour is gone may take to end by itself, with its own message.
_GRACE_S = 10.0
# A silent machine is given up after 10 + 3 * 5 s.
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))

_sockets: dict[socket.socket, int] = {}
"""Connections, and the rank at the other end."""
_lost: LostProcessError | None = None
_has_failed = False


def watch_neighbours(store: Any, rank: int, n_processes: int) -> None:
    """Start to watch, in a thread; every process of the launch calls this once.

    Args:
        store: torch's, of the launch.
        rank: of this process.
        n_processes: in the launch.
    """
    selector = selectors.DefaultSelector()
    server = None
    if rank == 0:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        server = socket.create_server(("", 0), family=family, dualstack_ipv6=dual)
        selector.register(server, selectors.EVENT_READ)
        token = secrets.token_bytes(_TOKEN_BYTES)
        store.set(_KEY, f"{server.getsockname()[1]} {token.hex()}")
    else:
        port, told = store.get(_KEY).decode().split()
        token = bytes.fromhex(told)
        try:
            link = socket.create_connection((os.environ["MASTER_ADDR"], int(port)))
        except OSError as err:  # as if there were nobody to watch; most launchers do so, too
            print(f"Process {rank} cannot watch its neighbours: {err}.", file=sys.stderr)
            return
        link.sendall(token + _NUMBER.pack(rank))
        _keep(link, 0, selector)
    args = (n_processes, server, token, selector)
    threading.Thread(target=_watch, args=args, daemon=True).start()


def check_neighbours(wait_s: float = 0.0) -> None:
    """Raise an error if a neighbour is gone.

    Args:
        wait_s: for the news, where something else has failed because of it.

    Raises:
        LostProcessError: if one is.
        Interruption: if one is, and this process was asked to stop as well.
    """
    until = time.monotonic() + (wait_s if _sockets else 0)
    while _lost is None and time.monotonic() < until:
        time.sleep(0.02)
    if _lost is not None:
        raise Interruption if is_asked_to_stop() else _lost


def forsake_neighbours() -> None:
    """Stop the others too when this process ends: its work is not done."""
    global _has_failed
    _has_failed = True


def _watch(
    n_processes: int,
    server: socket.socket | None,
    token: bytes,
    selector: selectors.BaseSelector,
) -> None:
    global _lost
    while (gone := _next_lost(selector, server, token)) is None:
        pass
    _lost = LostProcessError(gone, n_processes)
    for link in list(_sockets):
        _send(link, gone)
    time.sleep(_GRACE_S)
    if not is_asked_to_stop():
        print(f"Error: {_lost}", file=sys.stderr, flush=True)
    os._exit(EXIT_CODE if is_asked_to_stop() else 1)


def _next_lost(
    selector: selectors.BaseSelector, server: socket.socket | None, token: bytes
) -> int | None:
    """Wait for news and return the rank of a process that is gone, if that is what it was."""
    for key, _ in selector.select():
        link: Any = key.fileobj
        if server is not None and link is server:
            _welcome(server.accept()[0], token, selector)
            continue
        try:
            heard = link.recv(_NUMBER.size, socket.MSG_WAITALL)
        except OSError:  # a machine that no longer answers
            heard = b""
        number = _NUMBER.unpack(heard)[0] if heard else _sockets[link]
        if number != _GOODBYE:
            return int(number)
        selector.unregister(link)
    return None


def _welcome(link: socket.socket, token: bytes, selector: selectors.BaseSelector) -> None:
    """Keep the connection of a process of this launch; others that find the port are sent away."""
    link.settimeout(_GREETING_S)
    said, n_bytes = b"", _TOKEN_BYTES + _NUMBER.size
    with suppress(OSError):
        while len(said) < n_bytes and (more := link.recv(n_bytes - len(said))):
            said += more
    if said[: -_NUMBER.size] != token:
        link.close()
        return
    link.settimeout(None)
    _keep(link, _NUMBER.unpack(said[-_NUMBER.size :])[0], selector)


def _keep(link: socket.socket, rank: int, selector: selectors.BaseSelector) -> None:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    _sockets[link] = rank
    selector.register(link, selectors.EVENT_READ)


def _send(link: socket.socket, number: int) -> None:
    try:
        link.sendall(_NUMBER.pack(number))
    except OSError:  # it has left as well
        pass


@atexit.register
def _say_goodbye() -> None:
    # Python sets `last_value` where a script ends with an error.
    if not _has_failed and not hasattr(sys, "last_value"):
        for link in list(_sockets):
            _send(link, _GOODBYE)


def _leave_sockets() -> None:
    """Stop a forked child from holding connections open: they would outlast its parent."""
    while _sockets:
        _sockets.popitem()[0].close()


os.register_at_fork(after_in_child=_leave_sockets)
