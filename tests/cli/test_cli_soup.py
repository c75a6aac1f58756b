from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from abhinaya.config import dump_yaml
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, read_manifest, write_manifest
from abhinaya.demo.checkpoints.encoders import write_wavlm
from abhinaya.evaluation.scoring import read_truth, score_table
from abhinaya.member import PredictRequest
from abhinaya.member_config import check_member_config
from abhinaya.nn.build import build_classifier
from abhinaya.nn.checkpoint import read_info, save_checkpoint
from abhinaya.registry import load_member


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve noises in three classes, and the runs r0, r1, r2: one encoder, heads near each other.

    The head of r2 points the other way, so no average with it is good.
    """
    folder = tmp_path_factory.mktemp("soup")
    rng = np.random.default_rng(0)
    rows = []
    for idx in range(12):
        noise = rng.standard_normal(8_000)
        dark = np.convolve(noise, np.ones(4 * (idx % 3) + 1), mode="same")
        soundfile.write(folder / f"u{idx}.wav", 0.03 * dark, 16_000)
        rows.append(
            {
                "utterance": f"u{idx}.wav",
                "audio": f"u{idx}.wav",
                "label": "AHN"[idx % 3],
                "split": "development",
                "duration_s": 0.5,
            }
        )
    write_manifest(make_manifest(rows, MSP_PODCAST, folder), folder / "manifest.parquet")
    write_wavlm(folder / "base", n_layers=1, n_features=16, n_conv_features=8)
    for idx in range(3):
        content = {
            "member": "wavlm",
            "name": f"r{idx}",
            "run_dir": str(folder / f"r{idx}"),
            "data": {"manifest": str(folder / "manifest.parquet")},
            "pooling": "mean",
            "base": str(folder / "base"),
            "head": {"hidden": 0},
            "freeze": "encoder",
            "audio": {"max_audio_s": 0.5},
            "training": {"global_batch_size": 4},
        }
        config: Any = check_member_config(content, "x")
        kind: Any = load_member("wavlm")
        torch.manual_seed(0)
        model = build_classifier(kind, config, len(MSP_PODCAST))
        weight = model.head.last_linear.weight.data
        torch.manual_seed(idx)
        weight += 0.3 * weight.std() * torch.randn_like(weight)
        if idx == 2:
            weight *= -3
        best = folder / f"r{idx}" / "best"
        best.mkdir(parents=True)
        save_checkpoint(
            best,
            model,
            config_yaml=dump_yaml(config),
            emotions=MSP_PODCAST,
            metrics={"macro_f1": None, "step": 0, "n_steps": 0},
            facts={"digest": f"d{idx}", "absorbed_prior": None, "class_counts": [1] * 8},
        )
    return folder


def score_on(run: Path, folder: Path, work: Path) -> float:
    manifest = folder / "manifest.parquet"
    request = PredictRequest(read_manifest(manifest), ("development",), work / "scored.parquet")
    table = load_member("wavlm").predict(run, request)
    return score_table(table, read_truth(manifest), n_resamples=1).scores.macro_f1


def test_soup_uniform_writes_a_run_that_predicts(
    run_cli: Any, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mix"
    result = run_cli("soup", folder / "r0", folder / "r1", "--out", out)
    assert result.code == 0, result.err
    assert result.out.startswith("soup of 2 of 2 runs\nrun")
    cells = [line.split() for line in result.out.splitlines()[2:]]
    assert cells == [
        [str(folder / "r0"), "0.5000"],
        [str(folder / "r1"), "0.5000"],
        [str(out), "1.0000"],
    ]
    ours, *parts = (
        load_file(run / "best" / "model.safetensors")["head.out.weight"]
        for run in (out, folder / "r0", folder / "r1")
    )
    torch.testing.assert_close(ours, (parts[0] + parts[1]) / 2)
    table = tmp_path / "t.parquet"
    predicted = run_cli(
        "predict",
        out,
        "--manifest",
        folder / "manifest.parquet",
        "--select",
        "development",
        "--out",
        table,
    )
    assert predicted.code == 0, predicted.err
    assert "mix  development    12" in predicted.out


def test_soup_greedy_leaves_out_what_makes_it_worse(
    run_cli: Any, folder: Path, tmp_path: Path
) -> None:
    out, runs = tmp_path / "mix", [folder / f"r{idx}" for idx in range(3)]
    args = ("soup", *runs, "inference.batch_size=3", "--greedy", "--out", out)
    scored = ("--manifest", folder / "manifest.parquet", "--select", "development", "--json")
    result = run_cli(*args, *scored)
    assert result.code == 0, result.err
    rows = json.loads(result.out)
    singly = [score_on(run, folder, tmp_path) for run in runs]
    assert [row["macro-F1"] for row in rows[:3]] == singly
    # The paper's recipe once more, with the command's own averages of given runs.
    order = sorted(range(3), key=lambda idx: -singly[idx])
    chosen, best = order[:1], singly[order[0]]
    for step, idx in enumerate(order[1:]):
        candidate = tmp_path / f"c{step}"
        assert run_cli("soup", *(runs[i] for i in [*chosen, idx]), "--out", candidate).code == 0
        macro_f1 = score_on(candidate, folder, tmp_path)
        if macro_f1 >= best:
            chosen, best = [*chosen, idx], macro_f1
    assert 1 <= len(chosen) < 3
    assert [row["weight"] for row in rows[:3]] == [
        pytest.approx(1 / len(chosen)) if idx in chosen else 0 for idx in range(3)
    ]
    assert rows[3]["macro-F1"] == best
    info = read_info(out / "best")
    assert info.metrics["macro_f1"] == best
    assert [part["run"] for part in info.facts["soup"]] == [str(runs[i]) for i in chosen]
    assert not (tmp_path / ".mix.soup").exists()
    again = run_cli(*args, *scored)
    assert (again.code, again.out) == (0, "")
    assert f"{out} is there already." in again.err


def test_soup_killed_choice_goes_on(
    run_cli: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables of a choice that broke off are not predicted again."""
    import abhinaya.inference.predict as predict_module

    out = tmp_path / "mix"
    args = ("soup", folder / "r0", folder / "r1", "--greedy", "--out", out)
    scored = ("--manifest", folder / "manifest.parquet", "--select", "development")
    predict_chunk, calls = predict_module._predict_chunk, []

    def counted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict_chunk(*given)

    monkeypatch.setattr(predict_module, "_predict_chunk", counted)
    assert run_cli(*args, *scored).code == 130
    assert not (out / "best").exists()
    assert run_cli(*args, *scored).code == 0
    # Two runs, the candidate that broke off, and the candidate again.
    assert len(calls) == 4


def test_soup_wrong_input_exits_1_with_a_message(
    run_cli: Any, folder: Path, tmp_path: Path
) -> None:
    first, second, out = folder / "r0", folder / "r1", tmp_path / "mix"
    other = tmp_path / "other"
    shutil.copytree(second, other)
    weights = other / "best" / "model.safetensors"
    save_file({**load_file(weights), "more": torch.zeros(1)}, weights)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    scored = ("--manifest", folder / "manifest.parquet", "--select", "nothing")
    cases = [
        ([first, "--out", out], "at least two runs, got 1"),
        ([first, first, "--out", out], "is named more than once"),
        ([first, tmp_path / "none", "--out", out], "is no checkpoint"),
        (
            [first, other, "--out", out],
            "cannot be averaged: 'more' of model.safetensors is absent",
        ),
        ([first, second, "--out", taken], "holds files but no run of abhinaya: notes.txt"),
        ([first, second, "--out", tmp_path / "a b"], "name is 'a b'"),
        ([first, second, "--out", out, "--greedy", *scored], "Unknown split or subset 'nothing'"),
    ]
    for args, message in cases:
        result = run_cli("soup", *args)
        assert (result.code, result.out) == (1, ""), args
        assert message in result.err, args
    assert not out.exists()


def test_soup_wrong_command_line_exits_2(run_cli: Any, folder: Path, tmp_path: Path) -> None:
    runs, out = (folder / "r0", folder / "r1"), ("--out", tmp_path / "mix")
    manifest = ("--manifest", folder / "manifest.parquet")
    cases = [
        ([*runs], "--out"),
        ([*runs, *out, "--greedy"], "give all three or none"),
        ([*runs, *out, *manifest], "give all three or none"),
        ([*runs, *out, "--greedy", "--select", "all"], "give all three or none"),
    ]
    for args, message in cases:
        result = run_cli("soup", *args)
        assert (result.code, result.out) == (2, ""), args
        assert message in result.err, args


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("r0", "--checkpoints", "1"), "give 2 or more, or all"),
        (("r0", "--checkpoints", "few"), "give 2 or more, or all"),
        (("r0", "r1", "--checkpoints", "2"), "give one run"),
    ],
)
def test_soup_of_checkpoints_wants_a_number_and_one_run(
    run_cli: Any, folder: Path, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    given = [folder / arg if arg.startswith("r") else arg for arg in args]
    result = run_cli("soup", *given, "--out", tmp_path / "mix")
    assert (result.code, message in result.err) == (2, True)


def test_soup_of_checkpoints_that_are_not_there_exits_1(
    run_cli: Any, folder: Path, tmp_path: Path
) -> None:
    result = run_cli("soup", folder / "r0", "--checkpoints", "all", "--out", tmp_path / "mix")
    assert result.code == 1
    assert "holds 0 checkpoints, and 2 or more are to be averaged" in result.err
