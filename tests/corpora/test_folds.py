from __future__ import annotations

import json
from pathlib import Path

import pytest

from abhinaya.corpora.folds import split_by_folds
from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import Manifest, make_manifest
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError

NAMES = ("08-P-2-1.wav", "01-N-1-6.wav", "02-C-1-1.wav")


def cafe() -> Manifest:
    rows = [{"utterance": name, "label": "fear", "split": "old"} for name in NAMES]
    emotions = EmotionSet.from_codes(("fear", "anger"))
    return make_manifest(rows, emotions, Path(), facts={"corpus": "cafe"})


def entry(name: str) -> dict[str, object]:
    wav = f"downloads/cafe/CaFE_48k/Peur/Fort/{name}"
    return {"key": f"cafe-{name[:-4]}", "dataset": "cafe", "wav": wav, "emo": "p", "channel": 1}


def write_fold(folder: Path, part: str, entries: list[dict[str, object]], fold: int = 1) -> None:
    place = folder / f"fold_{fold}"
    place.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(item) + "\n" for item in entries)
    (place / f"cafe_{part}_fold_{fold}.jsonl").write_text(lines)


def test_parts_become_splits_and_the_rest_is_listed(tmp_path: Path) -> None:
    write_fold(tmp_path, "train", [entry(NAMES[0]), entry("99-X-1-1.wav")])
    write_fold(tmp_path, "test", [entry(NAMES[1])])
    manifest, problems = split_by_folds(cafe(), tmp_path, 1)
    assert manifest.rows["split"].tolist()[:2] == ["train", "test"]
    assert manifest.rows["split"].isna().tolist() == [False, False, True]
    reasons = " ".join(problem.reason for problem in problems)
    assert "1 entries are no clips that are there: 'cafe-99-X-1-1'" in reasons
    assert "1 clips are in no part, and so in no split: '02-C-1-1.wav'" in reasons


def test_json_and_valid_are_read_too(tmp_path: Path) -> None:
    content = {str(item["key"]): item for item in map(entry, NAMES)}
    (tmp_path / "cafe_valid_fold_2.json").write_text(json.dumps(content))
    manifest, problems = split_by_folds(cafe(), tmp_path, 2)
    assert manifest.rows["split"].tolist() == ["development"] * 3
    assert problems == []


def test_sentences_of_one_recording_are_found_by_their_key(tmp_path: Path) -> None:
    rows = [{"utterance": f"pavoque-a000{n}-angry.flac", "label": "angry"} for n in (1, 2)]
    manifest = make_manifest(rows, EmotionSet.from_codes(("angry", "sad")), Path())
    entries = [{"key": "pavoque-a0001-Angry", "wav": "downloads/pavoque/pavoque-angry.flac"}]
    write_fold(tmp_path, "test", entries)
    found, _ = split_by_folds(manifest, tmp_path, 1)
    assert found.rows["split"].fillna("").tolist() == ["test", ""]


def test_clip_in_two_parts_raises(tmp_path: Path) -> None:
    write_fold(tmp_path, "train", [entry(NAMES[0])])
    write_fold(tmp_path, "test", [entry(NAMES[0]), {"key": "x"}])
    expected = r"2 problems.*08-P-2-1\.wav is in the parts train and test.*without wav: 'x'"
    with pytest.raises(ProblemsError, match=expected):
        split_by_folds(cafe(), tmp_path, 1)


def test_folds_of_another_corpus_raise(tmp_path: Path) -> None:
    write_fold(tmp_path, "train", [entry("zz.wav")])
    with pytest.raises(BadValueError, match=r"None of the 1 entries of fold 1 .* same corpus"):
        split_by_folds(cafe(), tmp_path, 1)


def test_fold_that_is_not_there_raises(tmp_path: Path) -> None:
    write_fold(tmp_path, "train", [entry(NAMES[0])])
    with pytest.raises(MissingFileError, match=r"no file like NAME_train_fold_9\.jsonl"):
        split_by_folds(cafe(), tmp_path, 9)


def test_folder_of_all_corpora_raises(tmp_path: Path) -> None:
    write_fold(tmp_path / "cafe", "train", [entry(NAMES[0])])
    write_fold(tmp_path / "cafe2", "train", [entry(NAMES[0])])
    with pytest.raises(BadValueError, match=r"several files of one part of fold 1: .* one corpus"):
        split_by_folds(cafe(), tmp_path, 1)
