"""A real vLLM server, out of an environment of its own, that can be killed and started again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

__all__ = ["VLLM_ENVIRONMENT", "VllmServer"]

VLLM_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0-1"}
"""Without the first, vLLM takes 9 GiB on a CPU."""

_START_S = 300


class VllmServer:
    """`vllm serve` for one folder, under the name `tiny`, on a free port of this machine.

    Args:
        python: of the environment that has vLLM.
        model: folder of the weights.
        log: file for what the server says.
    """

    def __init__(self, python: Path, model: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._log = log
        # The command `vllm` looks for a package of that name, which vllm-cpu is not.
        self._command = [str(python), "-m", "vllm.entrypoints.openai.api_server"]
        self._command += ["--model", str(model), "--served-model-name", "tiny"]
        self._command += ["--host", "127.0.0.1", "--port", str(self._port)]
        self._command += ["--dtype", "float32", "--enforce-eager"]
        self._command += ["--max-model-len", "1024", "--max-num-seqs", "64"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What a config names."""
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self, *, wait: bool = True) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **VLLM_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{self.url}/models", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        tail = self._log.read_text(errors="replace")[-3000:]
        raise AssertionError(f"vLLM does not answer: {tail}")

    def kill(self) -> None:
        """At once, with all its processes."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
            self._process = None

    def n_answered(self) -> int:
        """Requests that this life of the server has answered in full."""
        with urllib.request.urlopen(self.url.replace("/v1", "/metrics"), timeout=10) as response:
            text = response.read().decode()
        counts = re.findall(r"^vllm:request_success_total\{.*\} ([\d.e+]+)$", text, re.MULTILINE)
        return int(sum(map(float, counts)))
