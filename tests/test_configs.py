"""Every shipped config is read by the code that a user's command runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from abhinaya.config import TrainedConfig, load_yaml, merge
from abhinaya.member_config import check_member_config, find_config_class
from abhinaya.pipeline.audit.config import load_audit
from abhinaya.pipeline.config import load_pipeline
from abhinaya.resources import configs_dir

FILES = sorted(configs_dir().rglob("*.yaml"))
CONTENTS = {file: load_yaml(file) for file in FILES}
CHAINS = [file for file, content in CONTENTS.items() if "members" in content]
MEMBERS = [file for file, content in CONTENTS.items() if "member" in content]
AUDITS = [file for file, content in CONTENTS.items() if "corpora" in content]

# What a user has to add, because it is a place on the user's disk.
PLACES: dict[str, Any] = {"data": {"manifest": "corpus/manifest.parquet"}}
IN_A_CHAIN: dict[str, Any] = {"name": "probe", "base": "weights"}


def relative(file: Path) -> str:
    return file.relative_to(configs_dir()).as_posix()


def test_every_config_is_of_a_known_kind():
    launchers = [file for file in FILES if file.parent.name == "accelerate"]
    named = [file for file in FILES if "combinations" in CONTENTS[file]]
    named += [file for file in FILES if file.parent.name in ("classes", "challenges")]
    assert len(FILES) >= 13
    assert sorted([*CHAINS, *MEMBERS, *AUDITS, *launchers, *named]) == FILES


@pytest.mark.parametrize("file", AUDITS, ids=relative)
def test_audit_config_is_valid(file):
    assert load_audit(file).name == file.stem


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


PUBLISHED = [file for file in MEMBERS if file.stem.endswith("-published")]


def leaves(content, prefix=""):
    """Values by dotted key; a list is one value."""
    found = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def header_of(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    return lines[: next(n for n, line in enumerate(lines) if not line.startswith("#"))]


@pytest.mark.parametrize("file", PUBLISHED, ids=relative)
def test_published_config_differs_in_what_its_header_lists(file):
    plain = file.with_stem(file.stem.removesuffix("-published"))
    theirs, ours = leaves(CONTENTS[file]), leaves(CONTENTS[plain])
    differing = {key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)}
    # `#   key, key: why`; the commands below them have a blank behind their first word.
    found = [re.match(r"#   ([\w.]+(?:, [\w.]+)*)(?=:|$)", line) for line in header_of(file)]
    listed = [key for match in found if match for key in match[1].split(", ")]
    assert sorted(listed) == sorted(differing)


def test_members_of_the_published_system_have_their_numbers_in_a_file_of_their_own():
    assert [file.stem.removesuffix("-published") for file in PUBLISHED] == [
        "llama-70b-zero-shot",
        "llama-8b-lora",
        "salmonn-13b",
        "salmonn-7b-speech-text",
        "wavlm",
    ]
    for file in PUBLISHED:
        plain = file.with_stem(file.stem.removesuffix("-published"))
        assert file.name in " ".join(header_of(plain)), plain


@pytest.mark.parametrize("file", PUBLISHED, ids=relative)
def test_numbers_of_the_challenge_stand_in_published_configs_only(file):
    """Its class counts are wrong for any other release; left out, they are the manifest's."""
    if "loss" not in CONTENTS[file]:
        return
    # 12.5 / rounded percentage, order A C D F H N S U
    weights = [1.25, 3.125, 6.25, 6.25, 0.5, 0.28, 1.38, 3.125]
    assert CONTENTS[file]["loss"]["class_weights"] == weights
    assert CONTENTS[file]["training"]["max_grad_norm"] == 0
    others = [content["loss"] for content in map(CONTENTS.get, MEMBERS) if "loss" in content]
    stated = [loss for loss in others if isinstance(loss.get("class_weights"), list)]
    assert len(stated) == 4
    for loss in stated:
        assert loss.get("class_counts") in (
            None,
            [6728, 2495, 1432, 1120, 16712, 29239, 6303, 2948],
        )
    assert sum("class_counts" in loss for loss in others) == 2


DEVIATIONS = {
    "wavlm": ("clip", "centre", "grouped by length", "statistics", "class weights"),
    "salmonn-13b": ("clip", "centre", "grouped by length", "BEATs", "bfloat16", "wording"),
    "salmonn-7b-speech-text": ("clip", "centre", "grouped by length", "BEATs", "bfloat16"),
    "llama-8b-lora": ("clip", "grouped by length", "bfloat16", "class weights"),
    "salmonn-zero-shot": ("wording", "10 tokens", "[PAD]"),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_header_names_what_is_not_as_published(name):
    header = " ".join(header_of(configs_dir() / "members" / f"{name}.yaml"))
    assert [words for words in DEVIATIONS[name] if words not in header] == []
