from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from abhinaya.errors import MissingFileError, ProblemsError
from abhinaya.pipeline.config import load_pipeline
from abhinaya.pipeline.steps import build_steps
from abhinaya.resources import configs_dir


@pytest.fixture
def change(fresh):
    """A function that rewrites a file of the chain and loads the chain."""

    def rewrite(file, edit):
        path = Path(file)
        content = yaml.safe_load(path.read_text())
        edit(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    return rewrite


def problems():
    with pytest.raises(ProblemsError) as caught:
        load_pipeline("chain.yaml")
    assert str(caught.value).startswith(f"{len(caught.value.problems)} problem")
    return caught.value.problems


def test_members_get_name_manifest_and_run_directory_of_the_chain(fresh):
    wave, mel = load_pipeline("chain.yaml").members
    assert (wave.name, mel.name) == ("wave", "mel")
    assert wave.data.manifest == Path("out/corpus/manifest.parquet")
    assert (wave.run_dir, mel.run_dir) == (Path("out/runs/wave"), Path("out/runs/mel"))


def test_set_changes_every_member_and_a_members_own_comes_later(fresh, change):
    def edit(chain):
        chain["set"] = {"seed": 7, "training": {"num_train_epochs": 5}}
        chain["members"]["mel"]["set"] = {"seed": 8, "run_dir": "elsewhere"}

    change("chain.yaml", edit)
    wave, mel = load_pipeline("chain.yaml").members
    assert (wave.seed, mel.seed) == (7, 8)
    assert wave.training.arguments["num_train_epochs"] == 5
    assert wave.training.global_batch_size == 8
    assert mel.run_dir == Path("elsewhere")


def test_training_reads_the_transcripts_of_its_rows_and_those_of_validation():
    sources = "members.llama-lora.set.data.transcripts={train: human, validation: w, predict: p}"
    without = "members.llama-lora.set.data.validation=null"
    for more, read in (([], ("human", "w")), ([without], ("human",))):
        steps = build_steps(load_pipeline("demo/demo.yaml", [sources, *more]))
        found = {step.name: step.sources for step in steps}
        assert found["train:llama-lora"] == read
        assert found["predict:test:llama-lora"] == ("p",)


def test_one_file_may_serve_two_members(fresh, change):
    change(
        "chain.yaml",
        lambda chain: chain["members"].update({"wave-2": {"config": "wave.yaml"}}),
    )
    assert [m.name for m in load_pipeline("chain.yaml").members] == ["wave", "mel", "wave-2"]


def test_exported_member_is_predicted_again_when_its_export_is_another(fresh, change):
    Path("phone.yaml").write_text("{member: onnx, base: phone}")
    change(
        "chain.yaml",
        lambda chain: chain["members"].update({"phone": {"config": "phone.yaml"}}),
    )
    steps = {step.name: step for step in build_steps(load_pipeline("chain.yaml"))}
    assert "train:phone" not in steps
    assert Path("phone/export.json") in steps["predict:test:phone"].needs


def test_all_mistakes_of_members_and_vote_are_reported_together(fresh, change):
    change("wave.yaml", lambda member: member["head"].update(hiden=3))
    change("mel.yaml", lambda member: member.update(freeze="all", seed=-1))

    def edit(chain):
        chain["members"]["third"] = {"config": "third.yaml"}
        chain["vote"]["tiebreaker"] = ["mel", "whisper"]

    change("chain.yaml", edit)
    found = problems()
    assert len(found) == 5
    assert "members.wave: head.hiden is unknown, did you mean head.hidden?" in found
    assert any(text.startswith("members.mel: freeze is 'all', expected") for text in found)
    assert any(text.startswith("members.mel: seed is -1") for text in found)
    assert any("members.third: There is no config 'third.yaml'" in text for text in found)
    assert found[-1] == "vote.tiebreaker names 'whisper', but the members are wave, mel, third"


def test_all_mistakes_of_the_chain_are_reported_together(fresh, change):
    def edit(chain):
        chain["gpu"] = chain.pop("name")
        chain["vote"]["fallbak"] = "N"
        chain["members"] = {}

    change("chain.yaml", edit)
    text = " ".join(problems())
    for part in (
        "gpu is unknown, did you mean gpus?",
        "name is missing",
        "vote.fallbak is unknown, did you mean vote.fallback?",
        "members is {}",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda chain: chain["predict"].update({"a/b": "test3"}),
            "predict: the name 'a/b' cannot name a folder",
        ),
        (
            lambda chain: chain["score"].append({"selection": "tests"}),
            "score and submit use the selection tests, but predict has only development, test",
        ),
        (
            lambda chain: chain["submit"].update(selection="test3"),
            "score and submit use the selection test3, but predict has only development, test",
        ),
        (
            lambda chain: chain["submit"].pop("names"),
            "submit needs a challenge, or names",
        ),
        (
            lambda chain: chain.update(manifest="m.parquet"),
            "give either prepare or manifest, not both and not neither",
        ),
        (
            lambda chain: chain.pop("prepare"),
            "give either prepare or manifest, not both and not neither",
        ),
        (
            lambda chain: chain["vote"].update(name="wave"),
            "vote.name is 'wave', which is a member too; the vote would replace that member's "
            "tables",
        ),
        (
            lambda chain: chain.update(set={"run_dir": "runs/one"}),
            "2 members have the run_dir 'runs/one'; remove it, and each gets its own",
        ),
    ],
)
def test_mistake_that_only_the_whole_shows_raises(fresh, change, edit, message):
    change("chain.yaml", edit)
    assert problems() == (message,)


def test_member_that_is_not_registered_raises_with_the_known_ones(fresh, change):
    change("wave.yaml", lambda member: member.update(member="wavlmm"))
    (text,) = problems()
    assert text.startswith("members.wave: Unknown member 'wavlmm'. Did you mean 'wavlm'?")


def test_missing_chain_names_the_shipped_ones(fresh):
    with pytest.raises(MissingFileError, match=r"no config 'demo/demoo.yaml'.*'demo/demo.yaml'"):
        load_pipeline("demo/demoo.yaml")


def test_shipped_demo_keeps_its_runs_where_its_members_files_say():
    """So that `abhinaya train demo/NAME.yaml` after the demo finds them trained."""
    pipeline = load_pipeline("demo/demo.yaml")
    assert len(pipeline.members) == 8
    for member in pipeline.members:
        content = yaml.safe_load((configs_dir() / "demo" / f"{member.name}.yaml").read_text())
        # A member with nothing to train has none.
        assert str(getattr(member, "run_dir", None)) == str(content.get("run_dir"))
        assert str(member.data.manifest) == content["data"]["manifest"]


def test_student_is_trained_again_when_its_teachers_table_is_another():
    student = "members.wavlm.set={loss: {name: kl-divergence}, targets: {table: t.parquet}}"
    steps = build_steps(load_pipeline("demo/demo.yaml", [student]))
    needs = {step.name: step.needs for step in steps}
    assert [name for name, files in needs.items() if Path("t.parquet") in files] == ["train:wavlm"]
