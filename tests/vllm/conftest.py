"""A tiny random LLaMA, and vLLM to serve it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm_server import VllmServer

from abhinaya.demo.checkpoints.llama import write_llama


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    python = os.environ.get("ABHINAYA_VLLM_PYTHON")
    if not python:
        pytest.skip("needs vLLM in an environment of its own; run make test-vllm")
    return Path(python)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    # vLLM's attention on CPUs wants heads of 32 features.
    write_llama(folder, layout="llama3", n_features=128, init_std=0.2, chat_template=True)
    return folder


@pytest.fixture(scope="module")
def server(
    vllm_python: Path, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    server = VllmServer(vllm_python, base, tmp_path_factory.mktemp("vllm") / "server.log")
    try:
        yield server.start()
    finally:
        server.kill()
