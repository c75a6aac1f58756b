"""`abhinaya report`: what the page says, and what it refuses."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.data.predictions import PredictionTable, read_table, write_table
from abhinaya.errors import (
    BadValueError,
    ClassOrderError,
    MissingFileError,
    MissingPackageError,
    UnknownNameError,
)
from abhinaya.pipeline.stages.report import ReportSettings, run_report

QUICK = ReportSettings(resamples=20)


@pytest.fixture
def tables(tmp_path):
    """Four utterances, A A H H, and one more that is O: three CSVs of labels, and the truth."""
    columns = {"truth": "AAHHO", "p": "AHH-A", "q": "AAHHA", "r": "HAAHA"}
    for name, letters in columns.items():
        rows = [f"u{idx},{letter.strip('-')}" for idx, letter in enumerate(letters)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["FileName,EmoClass", *rows]) + "\n")
    return [str(tmp_path / f"{name}.csv") for name in "pqr"], tmp_path / "truth.csv"


def report_on(tables, out, settings=QUICK):
    sources, truth = tables
    return run_report(sources, settings, manifest=truth, out=out)


def test_tables_without_a_vote_are_voted_on_and_scored(tables, tmp_path, read_page):
    out = tmp_path / "page.html"
    done = report_on(tables, out, ReportSettings(resamples=20, tiebreaker=("q",)))
    # u0 A A H, u1 H A A, u2 H H A, u3 - H H: the vote is right everywhere: F1 of A and H is 1.
    assert [row[:4] for row in done.rows] == [["tables", "vote", 4, pytest.approx(2 / 8)]]
    page = read_page(out)
    scores = {row["table"]: row for row in page.table("scores")}
    # p: A has precision 1 and recall 1/2, H both 1/2; r: 1/2 throughout.
    expected = {"p": (2 / 3 + 1 / 2) / 8, "q": 2 / 8, "r": 1 / 8, "vote": 2 / 8}
    assert {name: float(row["macro-F1"]) for name, row in scores.items()} == pytest.approx(expected)
    assert {name: row["accuracy"] for name, row in scores.items()} == {
        **{"p": "0.5", "q": "1.0", "r": "0.5", "vote": "1.0"}
    }
    assert [row["abstained"] for row in scores.values()] == ["1", "0", "0", "0"]
    f1 = {row["table"]: row for row in page.table("f1-by-class")}
    assert (float(f1["p"]["A"]), float(f1["p"]["H"])) == pytest.approx((2 / 3, 1 / 2))
    pairs = {
        (row["table"], row["and"]): float(row["agreement"])
        for row in page.table("pairs-of-members")
    }
    # p and q agree on u0 and u2 of the three that p labels.
    assert pairs == pytest.approx({("p", "q"): 2 / 3, ("p", "r"): 0, ("q", "r"): 1 / 2})
    (decided,) = page.table("who-decided")
    assert decided == {"decided by": "majority", "rows": "4", "share": "1.0", "right": "1.0"}
    best = page.table("best-combination-of-each-size")
    assert [row["size"] for row in best] == ["1", "2", "3"]
    assert best[0]["members"] == "q"
    assert "1 utterances without a true label inside the set dropped." in page.words
    assert "q, has a macro-F1 of 0.2500; the difference is +0.0000." in page.words


def test_what_a_run_has_not_is_said_in_a_sentence(tables, tmp_path, read_page):
    sources, truth = tables
    report_on((sources[:1], truth), tmp_path / "page.html")
    page = read_page(tmp_path / "page.html")
    for sentence in (
        "There is no ensemble, so nothing gains on the best member.",
        "There is one member only, so there is nothing to leave out or to compare.",
        "No table has probabilities, so there is no calibration to show.",
        "No table was adapted to speakers.",
        "No run's log was found, so there are no curves.",
        "There is a list of labels, but no manifest, so nothing is known of the corpus.",
    ):
        assert sentence in page.words
    assert len(page.sections()) == 12


def test_latex_of_a_table_is_escaped(tables, tmp_path, read_page):
    sources, truth = tables
    report_on(([f"p_%={sources[0]}", sources[1]], truth), tmp_path / "page.html")
    latex = read_page(tmp_path / "page.html").download("scores.tex")
    assert r"p\_\% & 0.1458" in latex
    assert r"95 \% interval" in latex
    assert r"\toprule" in latex


def test_report_of_a_chain_has_every_section_and_every_figure(report_chain, report_file, read_page):
    page = read_page(report_file)
    assert page.sections() == [
        *("Headline", "Members and ensemble", "Confusions", "Gain by class", "Ablation"),
        *("Agreement", "Ties", "Calibration", "Adaptation to speakers"),
        *("Training", "Corpus", "Provenance"),
    ]
    assert {row["table"] for row in page.table("scores")} == {
        "m0",
        "m1",
        "m2",
        "vote",
        "vote-smooth",
    }
    figures = page.figures()
    assert len([name for name in figures if name.startswith("confusions-of")]) == 2 * 5
    # m2 has no probabilities; a vote's are its shares.
    assert len([name for name in figures if name.startswith("reliability-of")]) == 4
    assert "Without probabilities: m2." in page.words
    for name in ("macro-f1-by-the-size-of-the-vote", "agreement-of-members", "clips-of-speaker-s0"):
        assert name in figures
    for name in ("training-loss", "validation-macro-f1", "classes-of-each-split", "durations"):
        assert name in figures
    before, after = (
        read_table(report_chain / "tables" / "development" / f"{name}.parquet")
        for name in ("vote", "vote-smooth")
    )
    assert f"{(before.labels != after.labels).sum()} of 64 labels changed" in page.words
    assert page.table("best-epochs")[0] == {
        **{"run": "m0", "best epoch": "2", "of": "3", "its macro-F1": "0.3"}
    }
    splits = page.table("splits")
    assert [(row["split"], row["utterances"]) for row in splits] == [
        *(("train", "16"), ("development", "48"))
    ]
    tables = page.table("tables")
    assert [row["digest"] for row in tables[:3]] == [f"{number:016x}" for number in range(3)]
    assert page.table("finished-steps") == [
        {"step": "vote.development", "digest": "0123456789abcdef"}
    ]
    assert "<svg" in page.text
    assert "http-equiv" in page.text
    assert "currentColor" in page.text


def test_same_inputs_give_the_same_bytes(chain, report_file):
    # By default the page lies in the chain's folder, where it may replace an earlier one.
    shutil.copy(report_file, chain / "report.html")
    with (chain / "report.html").open("a") as file:
        file.write("of before")
    run_report([str(chain)], QUICK)
    assert (chain / "report.html").read_bytes() == report_file.read_bytes()


def keep_only(chain, name):
    for table in (chain / "tables" / "development").iterdir():
        if table.stem != name:
            table.unlink()


def test_chain_of_two_selections_of_which_one_has_labels(chain, tmp_path, read_page):
    (tmp_path / "truth.csv").write_text(
        "FileName,EmoClass\n" + "".join(f"u{idx:05}.wav,\n" for idx in range(64))
    )
    keep_only(chain, "m2")
    shutil.copytree(chain / "tables" / "development", chain / "tables" / "test")
    settings = ReportSettings(resamples=20, truth={"test": str(tmp_path / "truth.csv")})
    done = run_report([str(chain)], settings)
    assert [row[0] for row in done.rows] == ["development"]
    assert (
        "No utterance of this selection has a true label in"
        in read_page(chain / "report.html").words
    )
    only = ReportSettings(resamples=20, select=("test",), truth=settings.truth)
    with pytest.raises(BadValueError, match=r"None of the selections 'test' has true labels in"):
        run_report([str(chain)], only)
    for settings in (ReportSettings(select=("tset",)), ReportSettings(truth={"tset": "x.csv"})):
        with pytest.raises(UnknownNameError, match=r"Unknown selection 'tset'\. Did you mean"):
            run_report([str(chain)], settings)


def test_unfinished_chain_says_what_is_missing(chain, read_page):
    keep_only(chain, "m2")
    done = run_report([str(chain)], QUICK)
    assert done.notes == (
        "The chain has yet to make tables of development: m0, m1, vote, vote-smooth.",
    )
    words = read_page(chain / "report.html").words
    assert "development that the chain has yet to make: m0, m1, vote, vote-smooth." in words


def test_folder_without_config_needs_the_manifest(chain, report_chain):
    (chain / ".steps" / "config.json").unlink()
    keep_only(chain, "m2")
    with pytest.raises(BadValueError, match=r"does not say where its true labels are"):
        run_report([str(chain)], QUICK)
    manifest = report_chain.parent / "manifest.parquet"
    done = run_report([str(chain)], QUICK, manifest=manifest)
    assert done.rows[0][:2] == ["development", "m2"]


def test_folder_without_tables_or_no_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        BadValueError, match="holds no prediction tables, expected tables/SELECTION"
    ):
        run_report([str(tmp_path / "empty")], QUICK)
    with pytest.raises(MissingFileError, match="There is no folder"):
        run_report([str(tmp_path / "nowhere")], QUICK)


def test_tables_need_truth_and_a_place_to_write(tables, tmp_path):
    sources, truth = tables
    with pytest.raises(BadValueError, match="Give --manifest FILE"):
        run_report(sources, QUICK, out=tmp_path / "page.html")
    with pytest.raises(BadValueError, match=r"--out FILE\.html"):
        run_report(sources, QUICK, manifest=truth)
    with pytest.raises(BadValueError, match="--select and --truth choose among the selections"):
        report_on(tables, tmp_path / "page.html", ReportSettings(select=("test",)))
    with pytest.raises(BadValueError, match="is a folder, and a report is about one chain"):
        run_report([str(tmp_path), *sources], QUICK)


def test_truth_that_does_not_know_the_utterances(tables, tmp_path):
    sources, truth = tables
    truth.write_text("FileName,EmoClass\nother,A\n")
    with pytest.raises(BadValueError, match="5 of 5 utterances of table 'p' are not in"):
        report_on((sources, truth), tmp_path / "page.html")
    truth.write_text("FileName,EmoClass\n" + "".join(f"u{idx},O\n" for idx in range(5)))
    with pytest.raises(BadValueError, match="None of the selections 'tables' has true labels"):
        report_on((sources, truth), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_tables_of_other_classes_are_refused(tables, tmp_path):
    _, truth = tables
    other = EmotionSet(("H", "A"), ("happy", "angry"))
    paths = []
    for name, emotions in (("ours", MSP_PODCAST), ("theirs", other)):
        path = tmp_path / f"{name}.parquet"
        labels = emotions.encode("AAHHA")
        write_table(PredictionTable(name, emotions, [f"u{i}" for i in range(5)], labels), path)
        paths.append(str(path))
    with pytest.raises(ClassOrderError, match="has the class order H A, but"):
        report_on((paths, truth), tmp_path / "page.html")


def test_foreign_file_is_not_replaced_and_the_ending_counts(tables, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("<!doctype html><title>mine</title>")
    with pytest.raises(BadValueError, match="is no report of abhinaya, so it is not overwritten"):
        report_on(tables, out)
    assert "mine" in out.read_text()
    with pytest.raises(BadValueError, match=r"must end in \.html"):
        report_on(tables, tmp_path / "page.pdf")


def test_without_matplotlib_the_extra_is_named(tables, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    with pytest.raises(MissingPackageError, match=r"pip install 'abhinaya\[report\]'"):
        report_on(tables, tmp_path / "page.html")
