"""Every shipped config is read by the code that a user's command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from abhinaya.config import TrainedConfig, load_yaml, merge
from abhinaya.member_config import check_member_config, find_config_class
from abhinaya.pipeline.config import load_pipeline
from abhinaya.resources import configs_dir

FILES = sorted(configs_dir().rglob("*.yaml"))
CONTENTS = {file: load_yaml(file) for file in FILES}
CHAINS = [file for file, content in CONTENTS.items() if "members" in content]
MEMBERS = [file for file, content in CONTENTS.items() if "member" in content]

# What a user has to add, because it is a place on the user's disk.
PLACES: dict[str, Any] = {"data": {"manifest": "corpus/manifest.parquet"}}
IN_A_CHAIN: dict[str, Any] = {"name": "probe", "base": "weights"}


def relative(file: Path) -> str:
    return file.relative_to(configs_dir()).as_posix()


def test_every_config_is_of_a_known_kind():
    launchers = [file for file in FILES if file.parent.name == "accelerate"]
    named = [file for file in FILES if "combinations" in CONTENTS[file]]
    assert len(FILES) >= 13
    assert sorted([*CHAINS, *MEMBERS, *launchers, *named]) == FILES


@pytest.mark.parametrize("file", MEMBERS, ids=relative)
def test_member_config_is_valid(file):
    content = merge(merge(IN_A_CHAIN, CONTENTS[file]), PLACES)
    if issubclass(find_config_class(content, relative(file)), TrainedConfig):
        content.setdefault("run_dir", "runs/probe")
    assert check_member_config(content, relative(file)).member == CONTENTS[file]["member"]


@pytest.mark.parametrize(
    "file", [file for file in MEMBERS if file.parent.name in ("demo", "members")], ids=relative
)
def test_member_config_needs_at_most_the_manifest(file):
    content = merge(CONTENTS[file], PLACES)
    assert check_member_config(content, relative(file)).name == file.stem


@pytest.mark.parametrize("file", CHAINS, ids=relative)
def test_chain_is_valid_once_the_source_is_given(file):
    overrides = ["prepare.source=corpus", "set.base=weights"]
    pipeline = load_pipeline(relative(file), overrides)
    assert [member.name for member in pipeline.members] == list(CONTENTS[file]["members"])
