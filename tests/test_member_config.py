from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import members
from abhinaya.cli import main
from abhinaya.config import dump_yaml, load_yaml
from abhinaya.errors import MissingFileError, ProblemsError, UnknownNameError
from abhinaya.member_config import check_member_config, find_predictor, load_member_config
from abhinaya.pipeline.config import load_pipeline
from abhinaya.registry import find_config_class, load_member
from members.wavlm.config import WavLMConfig

CONTENT: dict[str, Any] = {
    "member": "wavlm",
    "name": "wavlm-1",
    "run_dir": "runs/wavlm-1",
    "data": {"manifest": "corpus/manifest.parquet"},
    "base": "weights/wavlm",
    "training": {"global_batch_size": 16},
}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "wavlm.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    return path


def test_load_member_config_is_of_the_class_of_its_member(config_file: Path) -> None:
    config = load_member_config(config_file, ["seed=5", "head.dropout=0.1", "freeze=nothing"])
    assert isinstance(config, WavLMConfig)
    assert (config.seed, config.head.dropout, config.freeze) == (5, 0.1, "nothing")
    assert config.data.validation == ("development",)


def test_load_member_config_finds_shipped_ones() -> None:
    assert load_member_config("demo/wavlm.yaml").name == "wavlm"


def test_load_member_config_absent_file_raises() -> None:
    with pytest.raises(MissingFileError, match=r"Did you mean 'demo/wavlm\.yaml'"):
        load_member_config("demo/wavlmm.yaml")


def test_load_member_config_all_mistakes_name_the_file(config_file: Path) -> None:
    with pytest.raises(ProblemsError) as caught:
        load_member_config(config_file, ["head.dropuot=0.1", "name=a b", "data.manifest=null"])
    assert str(caught.value).startswith(f"3 problems in {config_file}: ")
    assert "head.dropuot is unknown, did you mean head.dropout?" in caught.value.problems
    assert any(p.startswith("name is 'a b', string should match") for p in caught.value.problems)
    assert any(p.startswith("data.manifest is None, ") for p in caught.value.problems)


def test_check_member_config_without_member_raises_with_the_list() -> None:
    with pytest.raises(ProblemsError, match=r"member is missing, expected one of .*wavlm"):
        check_member_config({}, "x.yaml")
    with pytest.raises(ProblemsError, match="member is 3, expected one of"):
        check_member_config({"member": 3}, "x.yaml")


def test_check_member_config_unknown_member_raises() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown member 'wavml'\. Did you mean 'wavlm'\?"):
        check_member_config(CONTENT | {"member": "wavml"}, "x.yaml")


def test_dumped_member_config_read_again_is_the_same(tmp_path: Path) -> None:
    loss = {"name": "vector-scaling", "class_weights": [1, 2.5]}
    training = {
        "global_batch_size": 16,
        "learning_rate": 1e-5,
        "report_to": ["tensorboard"],
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 0.5},
    }
    content = CONTENT | {"loss": loss, "training": training, "seed": 7}
    config = check_member_config(content, "x.yaml")
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    again = load_member_config(path)
    assert again == config
    assert dump_yaml(again) == dump_yaml(config)
    # A default that changes in a later version must not change an old run.
    assert load_yaml(path)["head"]["hidden"] == 1024


def test_find_predictor_of_a_run_is_its_member(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "config.yaml").write_text("member: whisper-encoder\n")
    member, source = find_predictor(tmp_path)
    assert type(member).__name__ == "WhisperEncoderMember"
    assert source == tmp_path
    member, source = find_predictor(tmp_path / "best")
    assert type(member).__name__ == "WhisperEncoderMember"
    assert source == tmp_path / "best"


def test_find_predictor_of_a_config_is_its_member_and_config(config_file: Path) -> None:
    member, source = find_predictor(config_file, ["seed=9"])
    assert type(member).__name__ == "WavLM"
    assert isinstance(source, WavLMConfig)
    assert source.seed == 9


def test_find_predictor_other_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no run directory: it has no config\.yaml with a"):
        find_predictor(tmp_path)
    (tmp_path / "config.yaml").write_text("title: the config of something else\n")
    with pytest.raises(MissingFileError, match="Name the folder that abhinaya train wrote"):
        find_predictor(tmp_path)


def test_relative_base_is_looked_up_from_the_configs_folder_first(
    tmp_path: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def base_of(path: Path | str) -> Any:
        return getattr(load_member_config(path), "base", None)

    here, beside = tmp_path / "here", tmp_path / "weights" / "wavlm"
    (here / "weights" / "wavlm").mkdir(parents=True)
    monkeypatch.chdir(here)
    # Nothing is beside the config: as ever, that of the working directory.
    assert base_of(config_file) == "weights/wavlm"
    beside.mkdir(parents=True)
    assert base_of(config_file) == str(beside)
    # From its own folder it is what the file says, so that digests stay.
    monkeypatch.chdir(tmp_path)
    assert base_of("wavlm.yaml") == "weights/wavlm"


@pytest.mark.parametrize("base", ["microsoft/wavlm-large", "gpt2", "/absent/weights", "weights/no"])
def test_hub_id_or_absent_base_stays_what_it_is(config_file: Path, base: str) -> None:
    config_file.write_text(yaml.safe_dump(CONTENT | {"base": base}))
    assert getattr(load_member_config(config_file), "base", None) == base


def test_doctor_and_chain_find_weights_beside_the_members_config(
    tmp_path: Path,
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    beside = tmp_path / "weights" / "wavlm"
    beside.mkdir(parents=True)
    chain = {"name": "c", "out": "out", "manifest": "m", "predict": {"test": "test"}}
    chain["members"] = {"one": {"config": str(config_file)}}
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(chain))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (member,) = load_pipeline(tmp_path / "chain.yaml").members
    assert getattr(member, "base", None) == str(beside)
    with pytest.raises(SystemExit):
        main(["doctor", str(config_file), "--json"])
    assert f'"{beside}"' in capsys.readouterr().out


def test_config_classes_are_known_without_the_models():
    for name, target in members.CONFIGS.items():
        found = find_config_class(name)
        assert found is load_member(name).config_class, f"correct CONFIGS[{name!r}] in members"
        assert target.rpartition(":")[2] == found.__name__
    assert set(members.CONFIGS) == set(members.MEMBERS)
