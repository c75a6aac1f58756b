from __future__ import annotations

import json

import pytest
import salmonn_golden as G

from abhinaya.config import dump_yaml
from abhinaya.doctor import environment
from abhinaya.doctor.findings import Findings


@pytest.fixture
def wavlm(tmp_path):
    """A config of a member without its own check; its base is an empty folder."""
    (tmp_path / "base").mkdir()
    file = tmp_path / "wavlm.yaml"
    file.write_text(
        f"member: wavlm\nname: w\nrun_dir: {tmp_path}/run\nbase: {tmp_path}/base\n"
        "training: {global_batch_size: 4}\n"
    )
    return file


@pytest.fixture
def salmonn(tmp_path):
    """The config of the golden SALMONN."""
    file = tmp_path / "s2.yaml"
    file.write_text(dump_yaml(G.make_config("s2", tmp_path)))
    return file


def test_doctor_alone_shows_the_environment(run_cli, monkeypatch):
    few = tuple(package for package in environment.PACKAGES if package.name in ("torch", "wandb"))
    monkeypatch.setattr(environment, "PACKAGES", few)
    result = run_cli("doctor", "--json")
    found = {row["what"]: row for row in json.loads(result.out)}
    assert result.code == 0, result.out
    assert found["torch"]["result"] == "ok"
    assert set(found["torch"]) == {"what", "result", "details"}
    assert {"python", "abhinaya", "wandb", "cpu", "memory", "disk", "hub"} <= found.keys()


@pytest.mark.slow
def test_doctor_alone_imports_every_package(run_cli):
    result = run_cli("doctor")
    assert result.code == 0, result.out
    assert {package.name for package in environment.PACKAGES} <= set(result.out.split())


def test_doctor_exits_with_1_and_counts_problems(run_cli, monkeypatch):
    broken = Findings()
    broken.add("torch", "", "problem", "cannot be imported")
    monkeypatch.setattr(environment, "check_environment", lambda packages: broken)
    result = run_cli("doctor", "--format", "markdown")
    assert result.code == 1
    assert "| torch | problem | cannot be imported |" in result.out
    assert result.err == "Error: 1 problem in the environment; see above.\n"


def test_doctor_of_a_member_without_checks_looks_for_its_base(run_cli, wavlm):
    result = run_cli("doctor", wavlm)
    assert result.code == 0, result.err
    assert result.out.splitlines()[0].split() == ["what", "where", "result", "details"]
    assert "it is there; nothing more is checked for this member" in result.out
    result = run_cli("doctor", wavlm, "base=/no/such/folder")
    assert result.code == 1
    assert "There is no '/no/such/folder'." in result.out
    assert f"Error: 1 problem in {wavlm}; see above." in result.err


@pytest.mark.slow
def test_doctor_of_salmonn_shows_every_part(run_cli, salmonn):
    result = run_cli("doctor", salmonn, "--json")
    assert result.code == 0, result.out
    rows = json.loads(result.out)
    assert {"whisper", "beats", "base", "tokenizer", "salmonn", "qformer", "adapters"} <= {
        row["what"] for row in rows
    }
    assert not [row for row in rows if row["result"] == "problem"]


def test_doctor_of_salmonn_shows_all_problems_at_once(run_cli, salmonn):
    result = run_cli("doctor", salmonn, "beats=/no/beats.pt", "base=/no/vicuna", "--json")
    assert result.code == 1
    problems = {row["what"]: row for row in json.loads(result.out) if row["result"] == "problem"}
    assert problems.keys() == {"beats", "base"}
    assert problems["beats"]["where"] == "/no/beats.pt"
    assert "There is no file '/no/beats.pt'" in problems["beats"]["details"]
    assert "There is no '/no/vicuna'" in problems["base"]["details"]
    assert "Error: 2 problems in" in result.err


def test_doctor_needs_no_manifest_but_everything_else(run_cli, wavlm):
    wavlm.write_text(wavlm.read_text().replace("base:", "bsae:"))
    result = run_cli("doctor", wavlm)
    assert result.code == 1
    assert result.err.startswith(f"Error: 2 problems in {wavlm}: ")
    assert "base is missing" in result.err
    assert "bsae is unknown, did you mean base?" in result.err


def test_doctor_reads_shipped_configs_as_they_are(run_cli):
    result = run_cli("doctor", "members/salmonn-13b.yaml")
    assert result.code == 1  # nothing was downloaded
    assert "There is no file 'weights/salmonn_v1.pth'" in result.out
    assert "can be computed once the sizes of all parts are known" in result.out


@pytest.mark.slow
def test_doctor_shows_what_each_device_holds_and_whether_it_fits(run_cli, salmonn):
    settings = ["training.global_batch_size=2", "audio.max_audio_s=1", "llm_weights=bf16"]
    result = run_cli("doctor", salmonn, *settings, "--devices", 2, "--memory", 0.8, "--json")
    assert result.code == 0, result.err
    rows = {row["launch"]: row for row in json.loads(result.out)}
    assert list(rows) == ["ddp", "fsdp2", "zero2", "zero3", "ddp, llm_weights: nf4"]
    parts = ["weights", "gradients", "optimizer", "activations", "context", "sum", "fits"]
    assert list(rows["ddp"]) == ["launch", *parts]
    assert {row["fits"] for row in rows.values()} <= {"yes", "no"}
    assert rows["ddp"]["sum"] == pytest.approx(sum(rows["ddp"][p] for p in parts[:5]), abs=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "0"], "--devices is 0, expected 1 or more."),
        (["--memory", "-1"], "--memory is -1, expected the GiB of a device, above 0."),
        (["--memory", "nan"], "--memory is nan, expected the GiB of a device, above 0."),
    ],
)
def test_impossible_devices_are_one_line(options, message, run_cli, wavlm):
    result = run_cli("doctor", wavlm, *options)
    assert (result.code, result.err) == (1, f"Error: {message}\n")


def test_devices_without_a_config_and_for_a_member_that_is_asked(run_cli):
    result = run_cli("doctor", "--devices", "8")
    assert result.err == (
        "Error: --devices and --memory are about a member; name its config too.\n"
    )
    result = run_cli("doctor", "members/llama-70b-zero-shot.yaml", "--devices", "8")
    assert result.code == 1
    assert "'llama-70b-zero-shot' has nothing to train" in result.err
