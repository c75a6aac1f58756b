from __future__ import annotations

import pytest

from abhinaya.errors import MissingFileError
from abhinaya.resources import configs_dir, find_config, prompts_dir


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder that stands for the shipped configs, and an empty working folder."""
    folder = tmp_path / "shipped"
    (folder / "members").mkdir(parents=True)
    (folder / "members" / "wavlm.yaml").write_text("kind: wavlm\n")
    (tmp_path / "work").mkdir()
    monkeypatch.setattr("abhinaya.resources.configs_dir", lambda: folder)
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_configs_and_prompts_are_folders():
    assert configs_dir().is_dir()
    assert prompts_dir().is_dir()


@pytest.mark.parametrize("name", ["members/wavlm.yaml", "configs/members/wavlm.yaml"])
def test_find_config_finds_a_shipped_one_from_anywhere(shipped, name):
    assert find_config(name) == shipped / "members" / "wavlm.yaml"


def test_find_config_prefers_a_file_as_given(shipped, tmp_path):
    own = tmp_path / "work" / "members" / "wavlm.yaml"
    own.parent.mkdir()
    own.write_text("kind: mine\n")
    assert find_config("members/wavlm.yaml").read_text() == "kind: mine\n"


def test_find_config_unknown_name_raises_with_a_near_match(shipped):
    with pytest.raises(
        MissingFileError,
        match=r"no config 'members/wavml.yaml'. Did you mean 'members/wavlm.yaml'.*shipped ones",
    ):
        find_config("members/wavml.yaml")


def test_find_config_absolute_path_is_not_looked_up_among_the_shipped(shipped):
    with pytest.raises(MissingFileError, match=r"There is no config '/members/wavlm.yaml'"):
        find_config("/members/wavlm.yaml")
