"""A Python that has imported the heavy libraries already, to start processes in a moment.

`warm_python()` is a program that takes what `sys.executable` takes. What it runs is forked from a
server that has imported torch, transformers and abhinaya, but has done nothing with them. Signals
and the exit code are passed on. Command lines with options of the interpreter get a real one.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

__all__ = ["warm_python"]

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = (
    "torch.distributed.run",
    "accelerate.commands.launch",
    "transformers.trainer",
    "transformers.models.wavlm.modeling_wavlm",
    "transformers.models.whisper.modeling_whisper",
    "transformers.models.llama.modeling_llama",
    "sklearn.metrics",
    "abhinaya.training.train",
    "abhinaya.pipeline.run",
    "members.wavlm.member",
    "members.whisper_encoder.member",
)

# What the program does: send what it was told, pass signals on, and end as the other one ends.
_CLIENT = """#!{python} -ISu
import os, signal, socket, sys
if "submitit.local._local" in sys.argv:  # its own number names the files of a job
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
told = [sys.argv[1:], os.getcwd(), dict(os.environ)]
import array, json
text = json.dumps(told).encode("utf-8", "surrogateescape")
fds = array.array("i", [0, 1, 2])
link.sendmsg([len(text).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
    signal.signal(number, lambda number, _: link.send(bytes([number])))
link.sendall(text)
code = int(link.recv(16) or b"-9")
if code >= 0:
    os._exit(code)
signal.signal(-code, signal.SIG_DFL) if -code not in (9, 19) else None
os.kill(os.getpid(), -code)
signal.pause()
"""


@cache
def warm_python() -> str:
    """Return the path of the program; the server behind it ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, program = folder / "socket", folder / "python"
    program.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, str(address), str(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.PIPE,  # closed when this process ends, however it ends
        stdout=subprocess.PIPE,
    )
    assert server.stdout
    assert server.stdout.readline() == b"ready\n"
    return str(program)


def _serve(address: str, program: str) -> None:
    """Fork for each request, and do in the fork what was asked for."""
    with contextlib.suppress(ImportError):
        for name in IMPORTED:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ, "new")
    selector.register(0, selectors.EVENT_READ, "end")
    print("ready", flush=True)
    children: dict[socket.socket, int] = {}
    while True:
        for key, _ in selector.select():
            if key.data == "end":
                for pid in children.values():
                    os.kill(pid, signal.SIGKILL)
                return
            if key.data == "new":
                link = listener.accept()[0]
                head, fds, _, _ = socket.recv_fds(link, 8, 3)
                told = json.loads(_receive(link, int.from_bytes(head, "big")))
                pid = os.fork()
                if not pid:
                    for each in (listener, link, *children):
                        each.close()
                    selector.close()
                    for number, fd in enumerate(fds):
                        os.dup2(fd, number)
                        os.close(fd)
                    return _run(*told, program)
                for fd in fds:
                    os.close(fd)
                children[link] = pid
                selector.register(link, selectors.EVENT_READ, "signal")
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, link)
            elif key.data == "signal":
                link = key.fileobj
                numbers = link.recv(16)
                for number in numbers or [signal.SIGKILL]:  # it was killed itself
                    with contextlib.suppress(KeyError, ProcessLookupError):
                        os.kill(children[link], number)
                if not numbers:
                    selector.unregister(link)
            else:
                link = key.data
                selector.unregister(key.fileobj)
                os.close(key.fileobj)
                _, status = os.waitpid(children.pop(link), 0)
                with contextlib.suppress(KeyError):
                    selector.unregister(link)
                with contextlib.suppress(OSError):
                    link.sendall(str(os.waitstatus_to_exitcode(status)).encode())
                link.close()


def _receive(link: socket.socket, n_bytes: int) -> bytes:
    parts = bytearray()
    while len(parts) < n_bytes:
        parts += link.recv(n_bytes - len(parts))
    return bytes(parts)


def _run(args: list[str], cwd: str, env: dict[str, str], program: str) -> None:
    """Do what an interpreter does with these arguments."""
    real = sys.executable
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if args[:1] == ["-u"]:
        args = args[1:]
    if not args or (args[0].startswith("-") and args[0] not in ("-m", "-c")):
        os.execv(real, [real, *args])
    sys.executable = program  # what it starts is warm as well
    sys.path[:] = [path for path in sys.path[1:] if path != str(ROOT)]
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    random.seed()
    if args[0] == "-m":
        sys.path.insert(0, cwd)
        sys.argv = args[1:]
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    elif args[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *args[2:]]
        exec(compile(args[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(args[0]).resolve().parent))
        sys.argv = args
        runpy.run_path(args[0], run_name="__main__")


def _end(run: Callable[[], None]) -> NoReturn:
    """End as an interpreter does, but leave its modules alone: to tidy them up takes seconds."""
    code: object = 0
    try:
        run()
    except SystemExit as err:
        code = err.code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as err:
        code = 1
        sys.excepthook(type(err), err, err.__traceback__)
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((code or 0) & 255)


if __name__ == "__main__":
    _end(lambda: _serve(*sys.argv[1:]))
