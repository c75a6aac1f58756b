from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, PositiveInt, model_validator

from abhinaya.config import (
    Config,
    DataConfig,
    apply_overrides,
    check_config,
    config_digest,
    dump_yaml,
    load_yaml,
    merge,
)
from abhinaya.errors import MissingFileError, ProblemsError
from abhinaya.member_config import check_member_config
from abhinaya.resources import configs_dir


class Engine(Config):
    power_w: PositiveInt = 40
    fuel: Literal["air", "water"] = "air"
    gears: tuple[float, ...] = ()


class Machine(Config):
    title: str
    engine: Engine = Engine()
    spare: Engine | None = None
    crop: Literal["first", "full"] | PositiveInt = "first"
    share: float = Field(default=0.5, ge=0, lt=1)
    folder: Path | None = None

    @model_validator(mode="after")
    def _check_spare(self) -> Machine:
        if self.spare is not None and self.spare == self.engine:
            raise ValueError("spare equals engine; set another one, or null")
        return self


def problems_of(content: dict[Any, Any]) -> tuple[str, ...]:
    with pytest.raises(ProblemsError) as caught:
        check_config(content, Machine, "machine.yaml")
    assert "in machine.yaml: (1) " in str(caught.value)
    return caught.value.problems


def save(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# Reading YAML


def test_load_yaml_1e_minus_5_is_a_number(tmp_path: Path) -> None:
    # YAML 1.1 wants a dot in it.
    path = save(tmp_path, "a: 1e-5\nb: -2E+3\nc: 1.5e3\nd: '1e-5'\ne: 1e\nf: .5e1\ng: e5\n")
    assert load_yaml(path) == {
        "a": 0.00001,
        "b": -2000.0,
        "c": 1500.0,
        "d": "1e-5",
        "e": "1e",
        "f": 5.0,
        "g": "e5",
    }


def test_load_yaml_no_is_a_word(tmp_path: Path) -> None:
    # transformers has `save_strategy: no`; YAML 1.1 reads that as false.
    path = save(tmp_path, "a: no\nb: [yes, on, Off]\nc: true\nd: False\ne: ~\nf: 0x10\n")
    assert load_yaml(path) == {
        "a": "no",
        "b": ["yes", "on", "Off"],
        "c": True,
        "d": False,
        "e": None,
        "f": 16,
    }


def test_load_yaml_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no config '.*absent\.yaml'\. Give the path"):
        load_yaml(tmp_path / "absent.yaml")


@pytest.mark.parametrize("text", ["a: [1, 2", "a: 1\n b: 2", "\t- x", "a: !!python/object:os.x 1"])
def test_load_yaml_broken_file_raises_with_the_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProblemsError, match=r"config\.yaml: \(1\) it is not YAML: .*line \d"):
        load_yaml(save(tmp_path, text))


def test_load_yaml_repeated_key_raises_with_its_place(tmp_path: Path) -> None:
    """Readers that keep the last of two equal keys lose a member of a chain without a word."""
    text = "members:\n  a: {config: x}\n  b: {config: y}\n  a: {config: z}\n"
    with pytest.raises(ProblemsError, match=r"\(1\) duplicate key 'a' \(line 4\)"):
        load_yaml(save(tmp_path, text))


def test_load_yaml_binary_file_raises(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ProblemsError, match="it is not YAML"):
        load_yaml(path)


@pytest.mark.parametrize(
    ("text", "kind"), [("- 1\n- 2", "a list"), ("", "nothing"), ("a", "a str")]
)
def test_load_yaml_without_keys_raises(tmp_path: Path, text: str, kind: str) -> None:
    with pytest.raises(ProblemsError, match=f"it holds {kind}, expected keys with values"):
        load_yaml(save(tmp_path, text))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e400])
def test_check_config_number_without_value_raises(value: float) -> None:
    assert problems_of({"title": "x", "engine": {"gears": [1, value]}}) == (
        f"engine.gears.1 is {value}, expected a finite number",
    )


# Overrides


def test_apply_overrides_sets_leaves_and_reads_values_as_yaml() -> None:
    content = {"a": {"b": 1, "c": 2}, "d": "x"}
    changes = ["a.b=1e-3", "a.e.f=[A, 2]", "d=null", "g=true", "h=a=b", "i="]
    assert apply_overrides(content, changes) == {
        "a": {"b": 0.001, "c": 2, "e": {"f": ["A", 2]}},
        "d": None,
        "g": True,
        "h": "a=b",
        "i": None,
    }
    assert content == {"a": {"b": 1, "c": 2}, "d": "x"}


def test_apply_overrides_the_last_one_counts() -> None:
    assert apply_overrides({}, ["a=1", "a=2"]) == {"a": 2}


def test_apply_overrides_null_section_gets_keys() -> None:
    assert apply_overrides({"cache": None}, ["cache.dir=x"]) == {"cache": {"dir": "x"}}


def test_apply_overrides_all_mistakes_are_reported_together() -> None:
    with pytest.raises(ProblemsError) as caught:
        apply_overrides(
            {"a": {"b": 1}, "c": [1]},
            ["verbose", "=1", "a..b=1", "a.b.x=2", "c.0=2", "a.b=[1", "a.b=3"],
        )
    assert str(caught.value).startswith("6 problems in the command line: (1) ")
    assert caught.value.problems == (
        "the override 'verbose' is not of the form some.key=value",
        "the override '=1' is not of the form some.key=value",
        "the override 'a..b=1' is not of the form some.key=value",
        "the override 'a.b.x=2' goes through a.b, which is 1 and has no keys",
        "the override 'c.0=2' goes through c, which is [1] and has no keys",
        "the value of the override 'a.b=[1' is not YAML",
    )


# Checking


def test_check_config_gives_typed_values() -> None:
    content = {"title": "m", "engine": {"gears": [1, 2.5]}, "crop": 3, "folder": "x/y"}
    machine = check_config(content, Machine, "machine.yaml")
    assert machine.engine.gears == (1.0, 2.5)
    assert machine.crop == 3
    assert machine.folder == Path("x/y")
    assert machine.spare is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"titel": "m", "title": "m"}, "titel is unknown, did you mean title?"),
        ({"title": "m", "qqq": 1}, "qqq is unknown"),
        ({"title": "m", "dry-run": 1}, "dry-run is unknown"),
        (
            {"title": "m", "engine": {"power_kw": 1}},
            "engine.power_kw is unknown, did you mean engine.power_w?",
        ),
        (
            {"title": "m", "spare": {"fule": "air"}},
            "spare.fule is unknown, did you mean spare.fuel?",
        ),
        ({}, "title is missing"),
        (
            {"title": "m", "engine": {"power_w": "much"}},
            "engine.power_w is 'much', expected a valid integer, unable to parse string as an "
            "integer",
        ),
        (
            {"title": "m", "engine": {"power_w": 0}},
            "engine.power_w is 0, expected greater than 0",
        ),
        (
            {"title": "m", "engine": {"fuel": "wind"}},
            "engine.fuel is 'wind', expected 'air' or 'water'",
        ),
        (
            {"title": "m", "engine": {"gears": [1, "x"]}},
            "engine.gears.1 is 'x', expected a valid number, unable to parse string as a number",
        ),
        ({"title": 3}, "title is 3, expected a valid string"),
        ({"title": "m", "share": 1}, "share is 1, expected less than 1"),
        (
            {"title": "m", "engine": [1]},
            "engine is [1], expected a valid dictionary or instance of Engine",
        ),
        ({"title": "m", "spare": {}}, "spare equals engine; set another one, or null"),
    ],
)
def test_check_config_one_mistake_is_one_sentence(content: dict[str, Any], problem: str) -> None:
    assert problems_of(content) == (problem,)


def test_check_config_a_key_that_is_no_text_raises() -> None:
    assert problems_of({"title": "m", 1: 2})[0].startswith("1 is ")


def test_check_config_each_form_of_a_union_is_explained() -> None:
    problems = problems_of({"title": "m", "crop": "middle"})
    assert problems[0] == "crop is 'middle', expected 'first' or 'full'"
    assert problems[1].startswith("crop is 'middle', expected a valid integer")


def test_check_config_all_mistakes_are_reported_together() -> None:
    problems = problems_of({"engine": {"power_w": -1, "fuel": "x", "color": "red"}, "size": 3})
    assert {problem.split()[0] for problem in problems} == {
        "title",
        "engine.power_w",
        "engine.fuel",
        "engine.color",
        "size",
    }
    assert len(problems) == 5


def test_configs_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Machine(title="m").title = "n"  # type: ignore[misc]  # that it is refused is the point


def test_data_config_one_selection_is_a_list_of_one() -> None:
    content = {"manifest": "m.parquet", "train": "all", "validation": None}
    data = check_config(content, DataConfig, "data.yaml")
    assert data.train == ("all",)
    assert data.validation is None


@pytest.mark.parametrize(
    ("given", "train", "validation", "predict"),
    [
        ("human", "human", "human", "human"),
        ({"predict": "whisper"}, "human", "human", "whisper"),
        ({"train": "mine", "predict": "whisper"}, "mine", "mine", "whisper"),
        (
            {"train": "human", "validation": "whisper", "predict": "other"},
            "human",
            "whisper",
            "other",
        ),
    ],
)
def test_data_config_transcripts_are_one_source_or_one_per_use(
    given: Any, train: str, validation: str, predict: str, tmp_path: Path
) -> None:
    data = check_config({"manifest": "m.parquet", "transcripts": given}, DataConfig, "data.yaml")
    found = data.transcripts
    assert found is not None
    assert (found.train, found.validation, found.predict) == (train, validation, predict)
    assert check_config(load_yaml(save(tmp_path, dump_yaml(data))), DataConfig, "again") == data
    # Runs of earlier versions, which had two sources, keep their digest.
    assert (config_digest(data) == config_digest(data, without=["transcripts.validation"])) == (
        train == validation
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"predict": "w", "validate": "h"},
            "transcripts.validate is unknown, did you mean transcripts.validation?",
        ),
        ({"predict": "w", "test": "h"}, "transcripts.test is unknown"),
        ({"train": "h"}, "transcripts.predict is missing"),
        ({"train": None, "predict": "w"}, "transcripts.train is None, expected a valid string"),
    ],
)
def test_data_config_transcripts_mistake_is_one_sentence(given: Any, problem: str) -> None:
    with pytest.raises(ProblemsError) as caught:
        check_config({"manifest": "m.parquet", "transcripts": given}, DataConfig, "data.yaml")
    assert caught.value.problems == (problem,)


# Writing


def test_dump_yaml_read_again_is_the_same_config(tmp_path: Path) -> None:
    engine = Engine(power_w=7, fuel="water", gears=(1e-5, 2.0))
    machine = Machine(title="ä: 'b' # 1e5", spare=engine, crop=4, folder=Path("x y/z"))
    path = save(tmp_path, dump_yaml(machine))
    assert check_config(load_yaml(path), Machine, "again") == machine


def test_dump_yaml_quotes_words_that_look_like_something_else(tmp_path: Path) -> None:
    gears = (1e-5, 0.5, 1e20)
    for title in (
        "no",
        "true",
        "null",
        "~",
        "1e-5",
        ".5e1",
        "007",
        "0x10",
        "1:30",
        "2020-01-01",
        "",
    ):
        machine = Machine(title=title, engine=Engine(gears=gears))
        path = save(tmp_path, dump_yaml(machine))
        assert check_config(load_yaml(path), Machine, "again") == machine


def test_load_yaml_date_that_does_not_exist_raises(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="it is not YAML: month must be in"):
        load_yaml(save(tmp_path, "a: 2001-13-45"))


def test_config_digest_of_shipped_configs_is_what_it_was() -> None:
    """Runs of earlier versions go on: they are known by these digests."""
    digests = {}
    weights = [1.25, 3.125, 6.25, 6.25, 0.5, 0.28, 1.38, 3.125]
    counts = [6728, 2495, 1432, 1120, 16712, 29239, 6303, 2948]
    losses = {
        "wavlm": {"class_weights": weights},
        "llama-8b-lora": {"class_weights": weights, "class_counts": counts},
    }
    for name, loss in losses.items():
        content = load_yaml(configs_dir() / "members" / f"{name}.yaml")
        given = {"run_dir": "runs/probe", "data": {"manifest": "m.parquet"}, "loss": loss}
        digests[name] = config_digest(check_member_config(merge(content, given), name))
    assert digests == {"wavlm": "631767409e16dc0e", "llama-8b-lora": "b302e884d24b21fc"}


def test_config_digest_of_equal_configs_is_equal() -> None:
    digest = config_digest(Machine(title="m"))
    assert digest == config_digest(Machine(title="m", share=0.5, engine=Engine(power_w=40)))
    assert len(digest) == 16


def test_config_digest_changes_with_any_value() -> None:
    digests = {
        config_digest(machine)
        for machine in (
            Machine(title="m"),
            Machine(title="n"),
            Machine(title="m", share=0.4),
            Machine(title="m", engine=Engine(gears=(1.0,))),
            Machine(title="m", folder=Path("x")),
        )
    }
    assert len(digests) == 5


def test_config_digest_ignores_what_is_left_out() -> None:
    without = ("folder", "engine.power_w", "spare.fuel")
    digest = config_digest(Machine(title="m"), without=without)
    same = Machine(title="m", folder=Path("x"), engine=Engine(power_w=3))
    assert config_digest(same, without=without) == digest
    other = Machine(title="m", engine=Engine(fuel="water"))
    assert config_digest(other, without=without) != digest
