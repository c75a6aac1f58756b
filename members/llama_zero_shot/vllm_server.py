"""Engine `vllm` as a server of our own: started to ask it, stopped afterwards, never left behind.

vLLM is not loaded into this process, which may have trained and holds memory of the devices, and
whose environment need not have it. The server is asked by the client of the engine `openai`.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
import weakref
from collections.abc import Sequence
from pathlib import Path

from abhinaya.errors import MissingFileError, MissingPackageError
from abhinaya.files import digest_of
from abhinaya.inference.loaded import load_once
from members.llama_zero_shot import guard
from members.llama_zero_shot.config import Decoding, OpenAIConfig, VllmConfig
from members.llama_zero_shot.engine import EngineError, Keep, Question
from members.llama_zero_shot.openai_engine import OpenAIEngine
from members.llama_zero_shot.vllm_engine import (
    count_gpus,
    count_logprobs,
    identify,
    refuse_launch,
)

__all__ = ["OwnServer", "VllmServerEngine", "find_vllm_python", "server_command"]

_GRACE_S = 30.0
_POLL_S = 0.2
_PATIENCE_S = 60.0
_TAIL_CHARS = 2_000


class OwnServer:
    """A server with OpenAI's interface that ends with this process, or with `stop`.

    It listens on a free port of this machine, and to nobody who lacks a key made for it. It is also
    stopped when nothing refers to it any more.

    Args:
        command: starts it; `--host` and `--port` are added.
        log: file for what it says; it is made anew.
        timeout_s: longest wait until it answers.

    Raises:
        EngineError: if it ends, or does not answer in time; with the end of its log.
    """

    def __init__(self, command: Sequence[str], log: Path, timeout_s: float) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        self.key = secrets.token_hex(16)
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        guarded = [sys.executable, guard.__file__, str(_GRACE_S), *command]
        with log.open("wb") as output:
            # In a session of its own: the terminal's Ctrl-C is for us, and we stop it.
            self._process = subprocess.Popen(
                [*guarded, "--host", "127.0.0.1", "--port", str(port)],
                # Not among the arguments, which every user of the machine can read.
                env={**os.environ, "VLLM_API_KEY": self.key},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._stop = weakref.finalize(self, _stop, self._process)
        try:
            self._wait(timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Wait for the end of it and all its processes, once they are told; does nothing again."""
        self._stop()

    def check(self) -> None:
        """Raise if it has ended.

        Raises:
            EngineError: with the end of its log.
        """
        code = self._process.poll()
        if code is not None:
            raise EngineError(f"The server ended with exit code {code}. {self._tell_log()}")

    def _wait(self, timeout_s: float) -> None:
        health = self.url.removesuffix("/v1") + "/health"
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.check()
            try:
                urllib.request.urlopen(health, timeout=2).close()
                return
            except OSError:  # not there yet, or not ready
                time.sleep(_POLL_S)
        raise EngineError(
            f"The server did not answer within {timeout_s:g} s (vllm.start_timeout_s). "
            f"{self._tell_log()}"
        )

    def _tell_log(self) -> str:
        said = self._log.read_text(encoding="utf-8", errors="replace").strip()
        tail = said[-_TAIL_CHARS:] or "nothing"
        return (
            f"Its log is {str(self._log)!r}; correct what its end names, mostly base or a key of "
            f"vllm: {tail}"
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


class VllmServerEngine:
    """Answers with a vLLM server that runs as long as there are questions.

    Args:
        base: folder or hub id.
        words: one word per class, in class order.
        decoding: how answers come about.
        settings: of vLLM.
        client: how the server is asked; its address and key are not used.
        log: file for what the server says.
        seed: of drawn answers.

    Raises:
        BadValueError: in one of several processes of a launch; vLLM starts its own.
        MissingPackageError: if vLLM or openai is missing.
    """

    batch_size = 1  # the server makes its own, which nobody can have again

    def __init__(
        self,
        base: str,
        words: Sequence[str],
        decoding: Decoding,
        settings: VllmConfig,
        client: OpenAIConfig,
        log: Path,
        *,
        seed: int = 0,
    ) -> None:
        refuse_launch()
        find_vllm_python(settings)
        self._base = base
        self._settings = settings
        self._log = log
        self._command = server_command(base, decoding, settings)
        # Nobody restarts this server, so a dead one is not waited for as long as another's.
        patience_s = min(client.patience_s, _PATIENCE_S)
        changes = {"api_key_env": None, "patience_s": patience_s}
        client = client.model_copy(update=changes)

        def connect(server: OwnServer) -> OpenAIEngine:
            place = client.model_copy(update={"url": server.url})
            return OpenAIEngine(base, words, decoding, place, seed=seed, key=server.key)

        OpenAIEngine(base, words, decoding, client)  # its package is looked for before hours pass
        self._connect = connect

    @property
    def identity(self) -> str:
        """Model and number type, as in this process, and further arguments: any may matter."""
        more = digest_of(self._settings.arguments) if self._settings.arguments else ""
        return identify(self._base, self._settings) + more

    def ask(self, questions: Sequence[Question], keep: Keep) -> None:
        """Answer all questions; see `Engine.ask`.

        Raises:
            EngineError: if the server does not start, ends, or refuses what it is asked.
        """
        if not questions:
            return
        server = load_once(" ".join([self.identity, *self._command]), self._start)
        try:
            self._connect(server).ask(questions, keep)
        except BaseException as err:
            try:
                if isinstance(err, EngineError):
                    server.check()  # what it said at its end tells more than that it is silent
            finally:
                server.stop()
            raise

    def _start(self) -> OwnServer:
        return OwnServer(self._command, self._log, self._settings.start_timeout_s)


def find_vllm_python(settings: VllmConfig) -> Path:
    """Return the Python that has vLLM.

    Raises:
        MissingFileError: if it is not there.
        MissingPackageError: if it has no vLLM.
    """
    python = settings.python or Path(sys.executable)
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        found = subprocess.run([str(python), "-c", look], capture_output=True, check=False)
    except OSError as err:
        raise MissingFileError(
            f"vllm.python is {str(python)!r}, which cannot be run ({err.strerror}). Name the "
            "Python of the environment that has vLLM, such as /envs/vllm/bin/python."
        ) from err
    if found.returncode:
        where = f"engine: vllm with the Python {str(python)!r}"
        raise MissingPackageError("vllm", f"{where}, or another vllm.python,", "vllm")
    return python


def server_command(base: str, decoding: Decoding, settings: VllmConfig) -> list[str]:
    """Return what starts a server that answers as vLLM in this process would."""
    command = [str(settings.python or sys.executable)]
    # The command `vllm` looks for a package of that name, which builds for CPUs are not.
    command += ["-m", "vllm.entrypoints.openai.api_server"]
    options = {
        "model": base,
        "served-model-name": base,
        "dtype": settings.dtype,
        "quantization": settings.quantization,
        "tensor-parallel-size": count_gpus(settings),
        "pipeline-parallel-size": settings.pipeline_parallel,
        "max-model-len": settings.max_model_len,
        "gpu-memory-utilization": settings.gpu_memory,
        "max-logprobs": count_logprobs(decoding),
        # A model's own defaults of sampling would fill in what a request leaves out.
        "generation-config": "vllm",
    }
    for name, value in options.items():
        command += [] if value is None else [f"--{name}", str(value)]
    return [*command, *(["--enforce-eager"] * settings.enforce_eager), *settings.arguments]
