from __future__ import annotations

import os
from pathlib import Path

import pytest

from abhinaya.errors import BadValueError, MissingFileError, UnknownNameError
from abhinaya.pipeline.config import load_pipeline
from abhinaya.pipeline.run import plan

STEPS = [
    "prepare",
    "train:wave",
    "train:mel",
    "predict:development:wave",
    "predict:development:mel",
    "vote:development",
    "predict:test:wave",
    "predict:test:mel",
    "vote:test",
    "score:development",
    "score:test",
    "submit",
]

WAVE_TABLE = Path("out/tables/test/wave.parquet")


def to_do(*overrides, **options):
    """Names of the steps that a run would do now."""
    planned = plan(load_pipeline("chain.yaml", overrides), **options)
    return [entry.step.name for entry in planned if entry.status == "to do"]


def modification_times():
    files = [file for file in Path("out").rglob("*") if file.is_file()]
    assert len(files) >= 30
    return {file: file.stat().st_mtime_ns for file in files}


def test_before_the_first_run_everything_is_to_do_and_planning_writes_nothing(fresh):
    before = sorted(fresh.rglob("*"))
    assert to_do() == STEPS
    assert sorted(fresh.rglob("*")) == before


def test_after_a_run_everything_is_done_and_stands_where_the_plan_says(finished):
    assert to_do() == []
    planned = plan(load_pipeline("chain.yaml"))
    made = [path for entry in planned for path in entry.step.makes]
    assert all(path.is_file() for path in made)
    assert {str(path) for path in made} == {
        "out/corpus/manifest.parquet",
        "out/runs/mel/best/model.safetensors",
        "out/runs/wave/best/model.safetensors",
        "out/scores-development.json",
        "out/scores-test.json",
        "out/submission.csv",
        *(
            f"out/tables/{selection}/{name}.parquet"
            for selection in ("development", "test")
            for name in ("mel", "vote", "wave")
        ),
    }


def test_second_run_does_nothing(finished, run_chain):
    before = modification_times()
    assert run_chain() == []
    assert modification_times() == before


def test_deleted_table_is_made_again_and_what_depends_on_it_is_planned(finished, run_chain):
    before = WAVE_TABLE.read_bytes()
    WAVE_TABLE.unlink()
    assert to_do() == ["predict:test:wave", "vote:test", "score:test", "submit"]
    # The new table has the old one's bytes, so what was made from it still holds.
    assert run_chain() == [f"predicted test with wave: {WAVE_TABLE}"]
    assert WAVE_TABLE.read_bytes() == before
    assert to_do() == []


def test_table_of_other_content_redoes_what_depends_on_it(finished, run_chain):
    WAVE_TABLE.write_bytes(Path("out/tables/test/mel.parquet").read_bytes())
    assert to_do() == ["vote:test", "score:test", "submit"]
    # The table says inside that it is mel's, and one member must not vote twice.
    with pytest.raises(BadValueError, match="mel"):
        run_chain()
    run_chain(only=["predict:test:wave"], start="predict:test:wave")
    assert run_chain() == ["voted on test: out/tables/test/vote.parquet"]


def test_changed_truth_redoes_its_score_alone(finished, run_chain):
    truth = Path("truth.csv")
    names = [f"MSP-PODCAST_test3_{number:04d}.wav" for number in range(1, 12)]
    truth.write_text("FileName,EmoClass\n" + "".join(f"{name},A\n" for name in names))
    chain = Path("chain.yaml")
    chain.write_text(chain.read_text().replace("source/test3_truth.csv", str(truth)))
    assert to_do() == ["score:test"]
    assert run_chain() == ["scores of test against truth.csv"]
    assert to_do() == []


def test_only_a_kind_or_a_name_is_planned_and_run(fresh, run_chain):
    assert to_do(only=["vote", "predict:test:mel"]) == [
        "vote:development",
        "predict:test:mel",
        "vote:test",
    ]
    (title,) = run_chain(only=["prepare"])
    assert title.startswith("msp-podcast: 64 utterances, 0 problems")
    assert to_do() == STEPS[1:]


def test_only_a_step_whose_input_is_yet_to_be_made_names_the_file(fresh, run_chain):
    with pytest.raises(BadValueError, match=r"'vote:test' needs 'out/tables/test/wave.parquet'"):
        run_chain(only=["vote:test"])


@pytest.mark.parametrize(
    ("start", "first"), [("vote:test", 8), ("vote", 5), ("predict", 3), ("submit", 11)]
)
def test_from_a_name_or_kind_is_to_do_to_the_end(finished, start, first):
    assert to_do(start=start) == STEPS[first:]


def test_from_predict_computes_the_tables_anew(finished, run_chain):
    before = {path: path.read_bytes() for path in Path("out/tables").rglob("*.parquet")}
    assert len(before) == 6
    old = dict.fromkeys(before, 1_000_000_000)
    for path in before:
        os.utime(path, (1, 1))
    assert len(run_chain(start="predict")) == len(STEPS) - 3
    assert all(path.stat().st_mtime_ns > old[path] for path in before)
    assert {path: path.read_bytes() for path in before} == before
    assert to_do() == []


def test_from_train_trains_again_and_not_merely_looks(finished, run_chain):
    """Training takes a finished run for done; so --from train once did nothing."""
    weights = Path("out/runs/mel/best/model.safetensors")
    other = Path("out/runs/wave/best/model.safetensors")
    before = weights.read_bytes()
    os.utime(weights, (1, 1))
    os.utime(other, (1, 1))
    assert run_chain(start="train:mel", only=["train"]) == [
        "trained mel: out/runs/mel/best",
    ]
    assert weights.stat().st_mtime > 1
    assert weights.read_bytes() == before
    assert other.stat().st_mtime == 1
    # The old weights are kept under another name; they may have cost days.
    kept = Path("out/runs/mel.old-1/best/model.safetensors")
    assert (kept.read_bytes(), kept.stat().st_mtime) == (before, 1)
    assert sorted(path.name for path in Path("out/runs").iterdir()) == ["mel", "mel.old-1", "wave"]


@pytest.mark.parametrize("options", [{"only": ["tran"]}, {"start": "tran"}])
def test_unknown_step_raises_with_the_nearest(fresh, options):
    with pytest.raises(UnknownNameError, match=r"Unknown step 'tran'\. Did you mean 'train'\?"):
        to_do(**options)


@pytest.mark.slow
def test_changed_member_is_to_do_and_refuses_its_old_run_directory(finished, run_chain):
    changed = "members.wave.set.seed=4"
    assert to_do(changed) == [
        "train:wave",
        "predict:development:wave",
        "vote:development",
        "predict:test:wave",
        "vote:test",
        "score:development",
        "score:test",
        "submit",
    ]
    with pytest.raises(BadValueError, match=r"'out/runs/wave' holds a run with another config"):
        run_chain(changed)
    titles = run_chain(changed, "members.wave.set.run_dir=out/runs/wave-4", only=["train"])
    assert titles == ["trained wave: out/runs/wave-4/best"]


def test_missing_inputs_stop_the_chain_before_anything_is_done(fresh, run_chain):
    chain = Path("chain.yaml")
    chain.write_text(chain.read_text().replace("source/test3_truth.csv", "no-truth.csv"))
    with pytest.raises(MissingFileError, match=r"'tiny' needs 'no-truth.csv', which is not there"):
        run_chain()
    with pytest.raises(MissingFileError, match=r"'no.parquet', 'no-truth.csv', which are not th"):
        run_chain("prepare=null", "manifest=no.parquet", "submit=null")
    assert not Path("out").exists()
    # What is not needed may be missing.
    assert len(run_chain(only=["prepare"])) == 1


def test_report_is_a_step_that_knows_the_truth_of_each_selection(finished, run_chain):
    block = "report={resamples: 20}"
    assert to_do(block) == ["report"]
    assert run_chain(block) == ["report: out/report.html"]
    assert to_do(block) == []
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "Report of tiny" in page
    for selection in ("development", "test"):
        assert f"Selection {selection}" in page
    assert "source/test3_truth.csv" in page
