"""The page itself: built, served on this machine only, and refused in words."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from source_tree import ROOT

from abhinaya.app.listening import Listener
from abhinaya.app.page import build_page, check_page, launch_page
from abhinaya.cli import main
from abhinaya.errors import BadValueError, MissingPackageError


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def refused(capsys, *args: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["app", *args])
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 1
    assert said.count("\n") == 0
    return said


@pytest.mark.slow
def test_page_answers_and_tells_its_own_address_alone(run):
    with Listener(run) as listener:
        page = build_page(listener)
        try:
            port = free_port()
            address = launch_page(page, host="127.0.0.1", port=port, max_megabytes=0.5)
            assert address == f"http://127.0.0.1:{port}/"
            html = urllib.request.urlopen(address, timeout=20).read().decode()
            config = json.load(urllib.request.urlopen(f"{address}config", timeout=20))
            assert "fonts.googleapis.com" not in html
            assert config["analytics_enabled"] is False
            assert config["max_file_size"] == 500_000
            labels = {part["props"].get("label") for part in config["components"]}
            assert {"Transcript", "Selection", "Speaker", "Agreement", "Model"} <= labels
            # No client calls a function past the page.
            assert {one["api_visibility"] for one in config["dependencies"]} == {"private"}
            # Files of the run are nobody's to fetch.
            with pytest.raises(urllib.error.HTTPError, match=r"403|404"):
                urllib.request.urlopen(
                    f"{address}gradio_api/file={run.folder}/configs/t1.yaml", timeout=20
                )
        finally:
            page.close(verbose=False)
        uploads = listener.scratch
    assert not uploads.exists()


def test_folder_that_is_no_run_is_one_line(capsys, tmp_path):
    assert "is no run" in refused(capsys, str(tmp_path), "--port", str(free_port()))


def test_run_without_checkpoints_is_one_line(capsys, tmp_path):
    (tmp_path / "runs/a").mkdir(parents=True)
    assert "no checkpoint and no table" in refused(
        capsys, str(tmp_path), "--port", str(free_port())
    )


def test_port_in_use_is_one_line_that_names_another(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, str(tmp_path), "--port", str(port))
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in said
    assert f"--port {port + 1}" in said
    with pytest.raises(BadValueError, match=r"cannot listen at 192\.0\.2\.1"):
        check_page("192.0.2.1", port)


@pytest.mark.parametrize("package", ["gradio", "matplotlib"])
def test_missing_package_names_its_extra(monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(MissingPackageError, match=rf"needs the package {package}.*abhinaya\[app\]"):
        check_page("127.0.0.1", free_port())


def test_help_of_the_command_loads_no_gradio():
    code = (
        "import sys, atexit, abhinaya.cli as c\n"
        "atexit.register(lambda: print('gradio' in sys.modules, file=sys.stderr))\n"
        "c.main(['app', '-h'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "False"
    assert "--max-megabytes" in done.stdout
