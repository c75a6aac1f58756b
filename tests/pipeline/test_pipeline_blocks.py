"""The optional blocks of a chain: transcribe, apply, speakers and smooth, alone and together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tiny_whisper import end_early, write_tiny

from abhinaya.data.manifest import read_manifest
from abhinaya.data.predictions import read_table
from abhinaya.data.transcripts import read_transcript_rows, read_transcripts, write_transcripts
from abhinaya.demo.checkpoints.encoders import write_xvector
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError
from abhinaya.pipeline.config import load_pipeline
from abhinaya.pipeline.run import plan, run_pipeline
from abhinaya.pipeline.stages.fit import FitSettings, run_fit

TRANSCRIBE = "transcribe={model: source/tiny/hub, source: mine, select: test3, temperature: 0}"
EVERYWHERE = TRANSCRIBE.replace("test3", "all")
TEXT = "members.text={config: text.yaml}"
SPEAKERS = "speakers={model: source/xvector, select: test3, n_speakers: 2}"
SMOOTH = "smooth={space: probabilities, k: 2}"
GATE = (
    "smooth={embeddings: mel, gate: {selection: development, folds: 2, resamples: 20, "
    "option: {pseudo_tests: 1, clips_per_speaker: 8, resamples: 20, jobs: 1}}}"
)
VOTE = Path("out/tables/test/vote.parquet")
SMOOTHED = Path("out/tables/test/vote-smooth.parquet")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A Whisper, a Llama and an x-vector model, all tiny and random."""
    folder = tmp_path_factory.mktemp("weights")
    write_tiny(folder / "tiny", end_early, n_layers=1)
    write_llama(
        folder / "llama", layout="llama3", n_layers=1, n_features=16, n_heads=2, chat_template=True
    )
    write_xvector(folder / "xvector")
    return folder


@pytest.fixture
def chain(finished, weights):
    """The finished chain of two speech members, with weights and a file for more."""
    for folder in weights.iterdir():
        Path("source", folder.name).symlink_to(folder)
    text = {
        "member": "llama-70b-zero-shot",
        "engine": "transformers",
        "base": "source/llama",
        "prompt": "zero-shot-v1",
        "answers": "out/answers",
        "data": {"transcripts": {"predict": "mine"}},
        "transformers": {"weights": "float32"},
    }
    Path("text.yaml").write_text(yaml.safe_dump(text))


def to_do(*overrides, **options):
    planned = plan(load_pipeline("chain.yaml", overrides), **options)
    return [entry.step.name for entry in planned if entry.status == "to do"]


def letters(path):
    table = read_table(path)
    return "".join(letter or "-" for letter in table.emotions.decode(table.labels))


def problems(*overrides):
    with pytest.raises(ProblemsError) as caught:
        load_pipeline("chain.yaml", overrides)
    return " ".join(caught.value.problems)


def test_every_block_is_a_step_that_says_what_it_needs_and_makes(chain):
    pipeline = load_pipeline("chain.yaml", [TRANSCRIBE, TEXT, SPEAKERS, GATE])
    steps = {entry.step.name: entry.step for entry in plan(pipeline)}
    assert list(steps) == [
        "prepare",
        "transcribe",
        "train:wave",
        "train:mel",
        *(f"predict:development:{name}" for name in ("wave", "mel", "text")),
        "vote:development",
        *(f"predict:test:{name}" for name in ("wave", "mel", "text")),
        "vote:test",
        "speakers",
        "gate:development",
        "smooth:test",
        "score:development",
        "score:test",
        "submit",
    ]
    texts, manifest = Path("out/corpus/transcripts.parquet"), Path("out/speakers/manifest.parquet")
    assert steps["transcribe"].makes == (texts,)
    assert texts in steps["predict:test:text"].needs
    assert not [
        name for name in steps if name.endswith(("wave", "mel")) if texts in steps[name].needs
    ]
    assert steps["speakers"].makes == (manifest,)
    tables = Path("out/tables/development")
    assert steps["gate:development"].needs == (
        tables / "vote.parquet",
        tables / "mel.parquet",
        manifest,
    )
    recipe = Path("out/adaptation.json")
    assert steps["gate:development"].makes == (recipe, tables / "vote-smooth.parquet")
    assert steps["smooth:test"].needs[-1] == recipe
    assert steps["submit"].needs[0] == SMOOTHED


@pytest.mark.slow
def test_whole_chain_from_release_to_submission(chain, run_chain):
    # The gate needs more than the two speakers of the development split.
    blocks = (EVERYWHERE, TEXT, SPEAKERS, GATE, "predict.development=[train, development, test1]")
    titles = run_chain(*blocks)
    assert to_do(*blocks) == []
    # What was there is kept, where neither the selection nor the embeddings are new.
    assert [title.partition(":")[0] for title in titles] == [
        "transcribed",
        *(f"predicted development with {name}" for name in ("wave", "mel", "text")),
        "voted on development",
        "predicted test with mel",
        "predicted test with text",
        "voted on test",
        "estimated speakers",
        "chose the adaptation on development",
        "smoothed test",
        "scores of development against out/speakers/manifest.parquet",
        "scores of test against source/test3_truth.csv",
        "submission",
    ]
    rows = read_manifest(Path("out/speakers/manifest.parquet")).select("test3")
    assert set(rows["speaker_source"]) == {"estimated"}
    assert read_table(Path("out/tables/test/mel.parquet")).embeddings is not None
    assert read_table(Path("out/tables/test/wave.parquet")).embeddings is None
    recipe = json.loads(Path("out/adaptation.json").read_text())
    assert recipe["rule"] == "adaptation"
    assert read_table(SMOOTHED).name == "vote-smooth"
    for selection in ("development", "test"):
        stored = json.loads(Path(f"out/scores-{selection}.json").read_text())
        assert list(stored) == ["wave", "mel", "text", "vote", "vote-smooth"]
    submitted = Path("out/submission.csv").read_text().splitlines()[1:]
    assert "".join(line[-1] for line in submitted) == letters(SMOOTHED)


def test_clips_that_are_transcribed_later_are_predicted_again(chain, run_chain):
    """The table of texts was no input of the step, so abstentions would have stayed."""
    test_alone = "predict={test: test3}", "score=[]"
    run_chain(TRANSCRIBE, only=["transcribe"])
    file, table = Path("out/corpus/transcripts.parquet"), Path("out/tables/test/text.parquet")
    rows = read_transcript_rows(file)
    kept = [row for row in rows if row["source"] != "mine" or "test3_0003" not in row["utterance"]]
    assert len(kept) == len(rows) - 1
    write_transcripts(kept, file)
    reason = "there is no transcript of the source 'mine'"
    run_chain(TRANSCRIBE, TEXT, *test_alone, only=["predict"])
    assert read_table(table).reasons.count(reason) == 1

    run_chain(TRANSCRIBE, only=["transcribe"], start="transcribe")
    assert to_do(TRANSCRIBE, TEXT, *test_alone, only=["train", "predict"]) == ["predict:test:text"]
    assert len(run_chain(TRANSCRIBE, TEXT, *test_alone, only=["predict"])) == 1
    assert reason not in read_table(table).reasons
    assert to_do(TRANSCRIBE, TEXT, *test_alone, only=["transcribe", "predict"]) == []


def test_other_transcripts_change_no_step_that_does_not_read_them(chain, run_chain):
    test_alone = "predict={test: test3}", "score=[]"
    run_chain(TRANSCRIBE, TEXT, *test_alone, only=["transcribe", "predict"])
    other = TRANSCRIBE.replace("mine", "other")
    run_chain(other, only=["transcribe"])
    assert to_do(other, TEXT, *test_alone, only=["train", "predict"]) == []


def test_transcripts_that_are_lost_are_made_again(chain, run_chain):
    run_chain(TRANSCRIBE, only=["transcribe"])
    file = Path("out/corpus/transcripts.parquet")
    assert len(read_transcripts(file, "mine")) == 8
    file.unlink()
    run_chain(start="prepare", only=["prepare"])
    assert to_do(TRANSCRIBE, only=["transcribe"]) == ["transcribe"]


def test_from_transcribe_transcribes_anew(chain, run_chain):
    run_chain(TRANSCRIBE, only=["transcribe"])
    assert run_chain(TRANSCRIBE, only=["transcribe"]) == []
    pipeline = load_pipeline("chain.yaml", [TRANSCRIBE])
    reports = []
    run_pipeline(pipeline, reports.append, only=["transcribe"], start="transcribe")
    ((source, rows, new, *_),) = reports[0].rows
    assert (source, rows, new) == ("mine", 8, 8)


def test_transcripts_that_no_step_makes_stop_the_chain_before_it_begins(chain, run_chain):
    with pytest.raises(BadValueError, match=r"'predict:\w+:text' reads the transcripts 'mine'"):
        run_chain(TEXT)
    Path("out/corpus/transcripts.parquet").unlink()
    with pytest.raises(MissingFileError, match=r"out/corpus/transcripts\.parquet"):
        run_chain(TEXT, "prepare=null", "manifest=out/corpus/manifest.parquet")


def test_two_devices_launch_transcribe_with_all_settings(chain, run_chain, monkeypatch):
    commands = []
    run_chain(TRANSCRIBE, only=["transcribe"])
    Path("out/.steps/transcribe.json").unlink()

    def launch(command):
        commands.append(command)
        return 0

    monkeypatch.setattr("abhinaya.pipeline.launching.launch.run_and_pass_on", launch)
    settings = ("transcribe.timestamps=false", "transcribe.fp16=false", "transcribe.batch_size=2")
    run_chain(TRANSCRIBE, *settings, "gpus=2", only=["transcribe"])
    (command,) = commands
    assert command[command.index("abhinaya") :] == [
        "abhinaya",
        "transcribe",
        "out/corpus/manifest.parquet",
        "--model",
        "source/tiny/hub",
        "--select",
        "test3",
        "--source",
        "mine",
        "--batch-size",
        "2",
        "--temperature",
        "0.0",
        "--no-timestamps",
        "--fp32",
    ]


def test_fixed_smoothing_adapts_the_vote_and_is_submitted(chain, run_chain):
    run_chain(SPEAKERS, SMOOTH)
    table = read_table(SMOOTHED)
    assert table.meta["method"] == "cluster"
    assert table.meta["settings"]["n_clusters"] == 2
    assert table.meta["tables"] == ["vote"]
    stored = json.loads(Path("out/scores-test.json").read_text())
    assert list(stored) == ["wave", "mel", "vote", "vote-smooth"]
    assert to_do(SPEAKERS, SMOOTH) == []
    # Another setting adapts again and predicts nothing.
    assert to_do(SPEAKERS, SMOOTH, "smooth.k=3") == [
        "smooth:development",
        "smooth:test",
        "score:development",
        "score:test",
        "submit",
    ]


def test_smoothing_with_a_members_embeddings_predicts_that_member_again(chain):
    names = to_do("smooth={embeddings: mel}")
    assert [name for name in names if name.startswith("predict")] == [
        "predict:development:mel",
        "predict:test:mel",
    ]


def test_recipe_is_applied_instead_of_a_vote(chain, run_chain):
    tables = [f"out/tables/development/{name}.parquet" for name in ("wave", "mel")]
    settings = FitSettings(rule="weights", folds=2, resamples=10)
    run_fit(tables, Path("out/corpus/manifest.parquet"), Path("w.json"), settings)
    run_chain("vote=null", "apply={recipe: w.json}", only=["apply:test"])
    table = read_table(Path("out/tables/test/apply.parquet"))
    assert (table.name, table.meta["rule"]) == ("apply", "weights")
    with pytest.raises(MissingFileError, match=r"'none.json', which is not there"):
        run_chain("vote=null", "apply={recipe: none.json}")


def test_weighted_vote_by_config(chain, run_chain):
    run_chain("vote={rule: weighted, weights: {wave: 2, mel: 1}}", only=["vote:test"])
    assert read_table(VOTE).meta["weights"] == {"wave": 2.0, "mel": 1.0}
    # The heavier of two members always wins.
    assert letters(VOTE) == letters("out/tables/test/wave.parquet")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["apply={recipe: w.json}"], "give either vote or apply, not both"),
        (
            ["smooth={gate: tests}"],
            "smooth.gate uses the selection tests, but predict has only development, test",
        ),
        (["smooth={}"], "smooth.space is 'embedding', but a fused table has no embeddings"),
        (["smooth={space: logits}"], "smooth.space is 'logits', but a fused table has no emb"),
        (["smooth={method: standardise}"], "smooth.method is 'standardise', which needs a table"),
        (["smooth={embeddings: wav}"], "smooth.embeddings names 'wav', but the members are wave"),
        (["smooth={gate: development, k: 3}"], "smooth.k has no effect beside smooth.gate"),
        (["smooth={gate: test}"], "submit takes the selection 'test', on which smooth.gate is fit"),
        (
            ["smooth={gate: {selection: development, option: {embeddings: mel}}}"],
            "smooth.gate.option.embeddings is said by smooth.embeddings",
        ),
        (
            ["smooth={gate: {selection: development, speakers: other}}"],
            "smooth.gate.speakers is said by smooth.speakers",
        ),
        (["smooth={gate: {selection: development, rule: stacking}}"], "smooth.gate.rule is"),
        (["smooth={space: probabilities, name: mel}"], "smooth.name is 'mel', which is a member"),
        (["smooth={space: probabilities, name: vote}"], "smooth.name is 'vote', as the fused"),
        (["vote.weights={wav: 1}"], "vote.weights names 'wav', but the members are wave, mel"),
        (["speakers={model: m}"], "give exactly one of them"),
        (["speakers={n_speakers: 2}"], "model, embeddings: give one of them, or both"),
        (["transcribe={beam_size: 1}"], "transcribe.beam_size is 1, "),
        (
            ["transcribe={modle: x}"],
            "modle is unknown, did you mean transcribe.model?",
        ),
    ],
)
def test_wrong_blocks_are_refused_before_anything_is_done(fresh, overrides, message):
    assert message in problems(*overrides)
