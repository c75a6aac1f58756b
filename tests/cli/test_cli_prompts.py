from __future__ import annotations

import json

import pytest
import yaml

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable, write_table
from abhinaya.data.transcripts import write_transcripts
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.prompting.prompts import prompt_names

CURT = (
    "---\nname: curt-v1\nversion: 1\nslots: [{slot}]\n---\n"
    "## system\nA.\n## user\n{{{{ {slot} }}}}\n"
)


@pytest.fixture
def corpus(tmp_path):
    """A conversation of three turns in `dev`, clips for examples in `train`, a bare `test3`."""
    rows = [
        {"utterance": f"d{turn}", "split": "dev", "label": label, "recording": "r", "turn": turn}
        for turn, label in ((1, "A"), (2, "H"), (3, "O"))
    ]
    rows += [
        {"utterance": f"t{code}", "split": "train", "label": code} for code in MSP_PODCAST.codes
    ]
    rows += [{"utterance": "bare", "split": "test3"}, {"utterance": "loose"}]
    write_manifest(make_manifest(rows, MSP_PODCAST, tmp_path), tmp_path / "manifest.parquet")
    write_transcripts(
        [
            {
                "utterance": row["utterance"],
                "source": source,
                "text": f"{source} {row['utterance']}",
            }
            for row in rows
            for source in ("human", "asr")
        ],
        tmp_path / "transcripts.parquet",
    )
    return tmp_path / "manifest.parquet"


@pytest.fixture
def curt(tmp_path):
    """A function that writes a prompt of one slot and returns its path."""

    def write(slot):
        path = tmp_path / "curt-v1.md"
        path.write_text(CURT.format(slot=slot))
        return path

    return write


@pytest.fixture
def model(tmp_path):
    """The config of a tiny chat model that shows one turn of context."""
    write_llama(tmp_path / "llm", layout="llama3", n_layers=1, vocab_size=384, chat_template=True)
    config = {
        "member": "llama-70b-zero-shot",
        "name": "tiny",
        "engine": "transformers",
        "transformers": {"weights": "float32"},
        "base": str(tmp_path / "llm"),
        "prompt": "zero-shot-v1",
        "filling": {"n_context": 1},
        "price": {"input": 1.0, "output": 2.0, "currency": "EUR"},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


# list and show


def test_list_names_every_prompt_with_what_it_needs(run_cli):
    result = run_cli("prompts", "list")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].split() == ["prompt", "version", "needs", "slots", "description"]
    assert [line.split()[0] for line in lines[1:]] == list(prompt_names())
    (hints,) = [line for line in lines if line.startswith("hints-gender-v1")]
    assert "audio, gender, text  transcript, classes, hints, gender  As hints-v1, and" in hints
    assert run_cli("prompts", "list", "--format", "markdown").out.startswith("| prompt | version")


def test_list_json_has_every_key(run_cli):
    found = {entry["name"]: entry for entry in json.loads(run_cli("prompts", "list", "--json").out)}
    assert list(found) == list(prompt_names())
    assert found["context-v1"]["needs"] == ["context", "text"]
    assert found["definitions-v1"]["classes"] == list(MSP_PODCAST.names)
    assert (found["few-shot-v1"]["version"], found["few-shot-v1"]["slots"]) == (
        1,
        ["transcript", "classes", "examples"],
    )


def test_show_prints_the_chat_and_json_gives_it_as_sent(run_cli, corpus, curt):
    args = ("prompts", "show", curt("transcript"), "--manifest", corpus, "--utterance", "d2")
    assert run_cli(*args).out == "## system\n\nA.\n\n## user\n\nasr d2\n"
    assert json.loads(run_cli(*args, "--json", "--transcripts", "human").out) == [
        {"role": "system", "content": "A."},
        {"role": "user", "content": "human d2"},
    ]


def test_show_takes_the_settings_of_a_model(run_cli, corpus, curt, model):
    args = ("prompts", "show", curt("context"), "--manifest", corpus, "--utterance", "d3")
    assert run_cli(*args).out.endswith("somebody: asr d1\nsomebody: asr d2\n")
    assert run_cli(*args, "--model", model).out.endswith("## user\n\nsomebody: asr d2\n")
    # One that fills no chats has no settings for them.
    assert run_cli(*args, "--model", "members/wavlm.yaml").out.count("somebody") == 2


def test_show_stands_a_text_for_the_sound(run_cli, corpus, curt, tmp_path):
    manifest = tmp_path / "sounds.csv"
    manifest.write_text("utterance,audio,split\na.wav,a.wav,dev\n")
    args = ("prompts", "show", curt("speech"), "--manifest", manifest, "--utterance", "a.wav")
    assert run_cli(*args).out.endswith("## user\n\n[sound of a.wav]\n")


def test_show_asks_of_a_row_without_split_as_one_of_all(run_cli, corpus, curt):
    args = ("prompts", "show", curt("context"), "--manifest", corpus)
    loose = run_cli(*args, "--utterance", "loose")
    assert (loose.code, loose.out.splitlines()[-1]) == (0, "(nothing before it)")
    result = run_cli(*args, "--utterance", "bare")
    assert result.code == 1
    assert "it needs the turns before, but no utterance of 'test3' has a transcribed" in result.err
    assert run_cli(*args, "--utterance", "bare", "--select", "all").code == 0


def test_show_wrong_input_exits_1_with_a_message(run_cli, corpus, curt):
    curt("transcript")
    cases = [
        (["zero-shot", "--utterance", "d1"], "Unknown prompt 'zero-shot'. Did you mean 'zero-sh"),
        (
            ["zero-shot-v1", "--utterance", "d9"],
            "no utterance 'd9'; it has 'd1', 'd2', 'd3' and 10 m",
        ),
        (["zero-shot-v1", "--utterance", "d1", "--transcripts", "hum"], "Did you mean 'human'"),
        (["zero-shot-v1", "--utterance", "d1", "--model", "no.yaml"], "There is no config 'no.y"),
        (["zero-shot-v1", "--utterance", "d1", "--model", corpus.parent], "There is no config"),
        (["zero-shot-v1", "--utterance", "d1", "--select", "train"], "'d1' is not in the selec"),
        (["hints-gender-v1", "--utterance", "d1"], "2 problems in the prompt 'hints-gender-v1'"),
    ]
    for args, message in cases:
        result = run_cli("prompts", "show", *args, "--manifest", corpus)
        assert (result.code, result.out) == (1, ""), args
        assert message in result.err, args


# run


def test_run_crosses_and_goes_on_and_compare_prints_what_came_out(
    run_cli, corpus, curt, model, tmp_path
):
    # The options are those of the file, but for one that stands over it.
    experiment = tmp_path / "experiment.yaml"
    content = {"manifest": str(corpus), "select": "dev", "models": [str(model)], "out": "nowhere"}
    content["prompts"] = ["zero-shot-v1", str(curt("transcript"))]
    experiment.write_text(yaml.safe_dump(content))
    out = tmp_path / "out"
    result = run_cli("prompts", "run", experiment, "--out", out, "--json")
    assert result.code == 0, result.err
    cells = [entry["run"] for entry in json.loads(result.out)]
    assert cells == ["zero-shot-v1__tiny__default", "curt-v1__tiny__default"]
    files = sorted(path.name for path in out.glob("*.parquet"))
    assert files == sorted(f"{cell}.parquet" for cell in cells)

    # By options alone: the same two, which are there, and two of another decoding.
    result = run_cli(
        "prompts",
        "run",
        "--manifest",
        corpus,
        "--select",
        "dev",
        "--model",
        model,
        "--prompt",
        "zero-shot-v1",
        "--prompt",
        tmp_path / "curt-v1.md",
        "--out",
        out,
        "--decoding",
        "default:",
        "--decoding",
        "free:decoding.constrained=false decoding.max_tokens=2",
    )
    assert result.code == 0, result.err
    title, heading, *rows = result.out.splitlines()
    assert title == str(out)
    assert heading.split() == ["run", "prompt", "model", "decoding", "rows", "abstained"]
    assert [row.split()[:5] for row in rows[2:]] == [
        ["zero-shot-v1__tiny__free", "zero-shot-v1", "tiny", "free", "3"],
        ["curt-v1__tiny__free", "curt-v1", "tiny", "free", "3"],
    ]
    assert len(list(out.glob("*.parquet"))) == 4

    found = json.loads(
        run_cli("prompts", "compare", out, "--manifest", corpus, "--resamples", 9, "--json").out
    )
    assert sorted(entry["table"] for entry in found) == sorted(
        f"{prompt}__tiny__{decoding}"
        for prompt in ("curt-v1", "zero-shot-v1")
        for decoding in ("default", "free")
    )
    assert found[0]["macro_f1"] == max(entry["macro_f1"] for entry in found)
    for entry in found:
        # A million tokens in cost 1, out 2; O is not scored.
        assert entry["cost_per_1000"] == pytest.approx(
            (entry["prompt_tokens_per_1000"] + 2 * entry["answer_tokens_per_1000"]) / 1e6
        )
        assert (entry["currency"], entry["n_utts"], entry["n_dropped"]) == ("EUR", 2, 1)


def test_run_wrong_input_exits_1_before_anything_is_computed(run_cli, corpus, model, tmp_path):
    out = tmp_path / "out"
    given = ("--manifest", corpus, "--model", model, "--out", out)
    cases = [
        (
            [*given, "--select", "test3", "--prompt", "zero-shot-v1", "--prompt", "context-v1"],
            "1 problem in the prompt experiment: (1) the prompt 'context-v1': it needs the turns",
        ),
        ([*given, "--select", "dev"], "1 problem in the command line: (1) prompts is missing."),
        (
            [*given, "--select", "dev", "--prompt", "zero-shot-v1", "--decoding", "a:decoding.x=1"],
            "tiny, a: decoding.x is unknown",
        ),
        (
            [*given, "--select", "dev", "--prompt", "zero-shot-v1", "--decoding", "a:decoding"],
            "the override 'decoding' is not of the form some.key=value",
        ),
        (["no.yaml"], "There is no config 'no.yaml'"),
        ([model], "member is unknown"),
    ]
    for args, message in cases:
        result = run_cli("prompts", "run", *args)
        assert (result.code, result.out) == (1, ""), args
        assert message in result.err, args
    assert not out.exists()


# compare


@pytest.fixture
def save(tmp_path):
    """A function that writes the labels of d1, d2 and d3 as a table."""

    def write(name, letters, **meta):
        labels = MSP_PODCAST.encode(None if letter == "-" else letter for letter in letters)
        table = PredictionTable(name, MSP_PODCAST, ("d1", "d2", "d3"), labels, meta=meta)
        write_table(table, tmp_path / "tables" / f"{name}.parquet")
        return tmp_path / "tables" / f"{name}.parquet"

    return write


def test_compare_prints_a_line_for_each(run_cli, corpus, save, tmp_path):
    save("a", "SS-", n_prompt_tokens=None)
    price = {"input": 1.5, "output": 3.0, "currency": "EUR"}
    save("b", "AHH", n_prompt_tokens=300, n_answer_tokens=3, price=price)
    args = ("prompts", "compare", tmp_path / "tables", "--manifest", corpus, "--resamples", 20)
    result = run_cli(*args)
    assert result.code == 0, result.err
    heading, best, other = result.out.splitlines()
    assert heading.split("  ")[0] == "run"
    # b: A and H right, two of eight classes: 2/8; 100,000 tokens in and 1,000 out per thousand
    # clips are 0.15 + 0.003. None of two rows with both labels is the same.
    cells = best.split()
    assert cells[:3] == ["b", "2", "0.2500*"]
    assert cells[4:] == ["0", "0.0000", "100000", "1000", "0.1530", "EUR"]
    # a: nothing right; McNemar on two rows: 2 / 2^2.
    assert other.split() == ["a", "2", "0.0000", "0.0000-0.0000", "1", "0.0000", "0.5000"]
    assert result.err == (
        f"Note: 1 rows have no label of the emotion set in {corpus} and were left out.\n"
    )
    assert run_cli(*args, "--format", "latex").out.startswith("\\begin{tabular}")


def test_compare_one_table_has_nobody_to_agree_with(run_cli, corpus, save):
    args = ("prompts", "compare", save("a", "AH-"), "--manifest", corpus, "--resamples", 20)
    assert run_cli(*args).code == 0
    (found,) = json.loads(run_cli(*args, "--json").out)
    assert found["agreement"] is found["p"] is found["p_holm"] is found["cost_per_1000"] is None


def test_compare_wrong_input_exits_1_with_a_message(run_cli, corpus, save, tmp_path):
    (tmp_path / "empty").mkdir()
    cases = [
        ([tmp_path / "empty"], "There are no tables in"),
        ([tmp_path / "no.parquet"], "There is no table"),
        ([save("a", "AH-"), save("b", "AH-", price=1)], "has the price 1 in its metadata"),
        ([save("a", "AH-"), save("a", "AH-")], "2 tables are named 'a'"),
    ]
    for args, message in cases:
        result = run_cli("prompts", "compare", *args, "--manifest", corpus, "--resamples", 5)
        assert (result.code, result.out) == (1, ""), args
        assert message in result.err, args


# The command line


def test_wrong_command_line_exits_2(run_cli, corpus):
    run = ("prompts", "run", "--manifest", corpus, "--decoding")
    cases = [
        (("prompts",), "Usage: abhinaya prompts"),
        (("prompts", "sow"), "No such command 'sow'"),
        (("prompts", "show", "zero-shot-v1"), "Missing option '--manifest'"),
        ((*run, "warm"), "'warm' is not NAME: with changes KEY=VALUE behind it"),
        ((*run, "a:", "--decoding", "a:x=1"), "'a:x=1' is not NAME: with changes KEY=VALUE beh"),
        (("prompts", "compare", "--manifest", corpus), "Missing argument"),
    ]
    for args, message in cases:
        result = run_cli(*args)
        assert result.code == 2, args
        # Long messages are broken at the width of the screen.
        assert message in " ".join((result.out + result.err).split()), args
