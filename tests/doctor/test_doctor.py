from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from abhinaya.doctor import environment
from abhinaya.doctor.environment import (
    PACKAGES,
    Device,
    Package,
    check_environment,
    find_devices,
)
from abhinaya.doctor.findings import Finding, Findings, format_bytes
from abhinaya.doctor.memory import compare_with_device
from abhinaya.doctor.weights import check_base, find_model
from abhinaya.errors import BadValueError, MissingFileError

GIB = 2**30


def by_name(findings):
    return {finding.what: finding for finding in findings}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a package of one module with the given code."""

    def write(name: str, code: str) -> Package:
        info = tmp_path / f"{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (tmp_path / f"{name}.py").write_text(code)
        return Package(name, name)

    monkeypatch.syspath_prepend(str(tmp_path))
    return write


def test_environment_tells_versions_and_machine(install):
    findings = check_environment([install("heard_of", "x = 1")])
    found = by_name(findings)
    assert [finding.what for finding in findings][:3] == ["python", "abhinaya", "heard_of"]
    assert found["heard_of"] == Finding("heard_of", "", "ok", "1.5")
    assert {"cpu", "memory", "disk", "hub"} <= found.keys()
    assert re.fullmatch(r"\d+ of \d+ cores may be used", found["cpu"].details)
    assert found["memory"].details.endswith("iB")
    assert not [finding for finding in findings if finding.result == "problem"]


def test_environment_absent_packages(install):
    found = by_name(
        check_environment([Package("no-such-thing", "x"), Package("no-such-extra", "x", "quant")])
    )
    assert found["no-such-thing"].result == "problem"
    assert "not installed, but needed. Install it with: pip install abhinaya." in (
        found["no-such-thing"].details
    )
    assert found["no-such-extra"].result == "note"
    assert (
        found["no-such-extra"].details == "not installed; pip install 'abhinaya[quant]' brings it"
    )


def test_environment_broken_package_is_a_problem_not_a_traceback(install):
    package = install("half_broken", "raise OSError('libcudart.so.13 is missing\\nmore')")
    other = install("whole", "import warnings\nwarnings.warn('hm')")
    found = by_name(check_environment([package, other]))
    assert found["half_broken"].result == "problem"
    assert found["half_broken"].details.startswith(
        "1.5 is installed but cannot be imported: OSError: libcudart.so.13 is missing. Install it"
    )
    assert found["whole"].result == "ok"


def test_environment_broken_torch_is_a_problem_not_a_traceback(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = by_name(check_environment([]))
    assert found["devices"].result == "problem"
    assert "torch" in found["devices"].details
    assert "disk" in found


def test_environment_describes_devices(monkeypatch):
    devices = (
        Device("cuda:0", "NVIDIA A", 24 * GIB, True),
        Device("cuda:1", "NVIDIA T4", 15 * GIB, False),
        Device("mps:0", "mps"),
    )
    monkeypatch.setattr(environment, "find_devices", lambda: devices)
    found = by_name(check_environment([]))
    assert found["cuda:0"].details == "NVIDIA A, 24.0 GiB, with bfloat16"
    assert found["cuda:1"].details == "NVIDIA T4, 15.0 GiB, without bfloat16, use fp16"
    assert found["mps:0"].details == "mps"
    assert "devices" not in found


def test_find_devices_agrees_with_torch():
    import torch

    devices = find_devices()
    assert len(devices) == (
        torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    )
    if not devices:
        assert by_name(check_environment([]))["devices"].details.startswith("none; everything runs")


def test_packages_are_in_the_extras_that_are_named():
    content = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    project = content["project"]
    wrong, n_seen = [], 0
    for package in PACKAGES:
        listed = (
            project["dependencies"]
            if package.extra is None
            else project["optional-dependencies"].get(package.extra, [])
        )
        names = {re.split(r"[^\w-]", entry)[0] for entry in listed}
        n_seen += 1
        if package.name not in names:
            wrong.append(f"{package.name} is not in {package.extra or 'dependencies'}")
    # The extra comes with the first member that uses it.
    assert set(wrong) <= {"vllm is not in vllm"}, (
        f"{wrong}: correct PACKAGES in abhinaya/doctor/environment.py, or pyproject.toml"
    )
    assert n_seen >= 13


def test_attempt_adds_errors_and_goes_on():
    def fail(err):
        raise err

    findings = Findings()
    assert findings.attempt("a", "file", lambda: 3, "is whole") == 3
    assert findings.attempt("b", "", lambda: 4) == 4
    assert findings.attempt("c", Path("x"), lambda: fail(BadValueError("Ours, as it is."))) is None
    assert findings.attempt("d", "", lambda: fail(KeyError("k"))) is None
    assert findings.attempt("d", "", lambda: fail(KeyError("k"))) is None  # only once
    assert findings.attempt("e", "", lambda: fail(ValueError())) is None
    assert findings == [
        Finding("a", "file", "ok", "is whole"),
        Finding("c", "x", "problem", "Ours, as it is."),
        Finding("d", "", "problem", "KeyError: 'k'."),
        Finding("e", "", "problem", "ValueError."),
    ]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of an empty hub cache; nothing is fetched in tests."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def add_to_cache(hub: Path, name: str, *files: str) -> Path:
    """What huggingface_hub keeps of a model."""
    model = hub / f"models--{name.replace('/', '--')}"
    folder = model / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    for file in files:
        (folder / file).write_text("{}")
    return folder


def test_find_model_on_this_disk(hub, tmp_path):
    (tmp_path / "here").mkdir()
    assert find_model(str(tmp_path / "here")) == tmp_path / "here"
    folder = add_to_cache(hub, "some/model", "config.json", "model.safetensors")
    assert find_model("some/model") == folder
    # Only the config was fetched so far.
    add_to_cache(hub, "other/model", "config.json")
    assert find_model("other/model") is None
    assert find_model("never/fetched") is None


def test_find_model_nowhere_raises(hub, monkeypatch):
    from huggingface_hub import constants

    with pytest.raises(MissingFileError, match=r"There is no '/no/such/folder'\. Give the path"):
        find_model("/no/such/folder")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingFileError, match="not in the hub's cache, while HF_HUB_OFFLINE"):
        find_model("never/fetched")
    assert by_name(check_environment([]))["hub"].details.startswith("offline (HF_HUB_OFFLINE")


def test_check_base_of_members_without_their_own_check(hub, tmp_path):
    cases = {
        None: ("note", "names no weights"),
        str(tmp_path): ("ok", "it is there; nothing more is checked"),
        "never/fetched": ("note", "fetched when it is first used"),
        "/no/such/folder": ("problem", "There is no '/no/such/folder'"),
    }
    for base, (result, details) in cases.items():
        (finding,) = check_base(base)
        assert finding.result == result
        assert details in finding.details


def test_memory_is_a_problem_only_beyond_the_tolerance():
    device = Device("cuda:0", "NVIDIA A", 24 * GIB)
    savings = "whisper_weights: bf16, or llm_weights: nf4"
    results = {
        # 0.85 * 28 = 23.8 may still fit, 0.85 * 29 = 24.65 cannot.
        n_gib: compare_with_device("memory", n_gib * GIB, "a, b", device, savings).result
        for n_gib in (24, 25, 28, 29)
    }
    assert results == {24: "ok", 25: "note", 28: "note", 29: "problem"}
    finding = compare_with_device("memory", 35 * GIB, "a, b", device, savings)
    assert finding.where == "cuda:0"
    assert finding.details == (
        "about 35.0 GiB, computed, not measured: a, b. NVIDIA A has 24.0 GiB. Choose a smaller "
        "batch, training.activation_checkpointing: true, whisper_weights: bf16, or "
        "llm_weights: nf4."
    )
    for unknown in (None, Device("mps:0", "mps")):
        found = compare_with_device("memory", 35 * GIB, "a, b", unknown, savings)
        assert found.result == "note"


def test_format_bytes():
    assert format_bytes(24 * GIB) == "24.0 GiB"
    assert format_bytes(GIB - 1) == "1024.0 MiB"
