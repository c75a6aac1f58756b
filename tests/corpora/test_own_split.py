from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from abhinaya.corpora import prepare_corpus
from abhinaya.corpora.base import PrepareOptions
from abhinaya.corpora.own_split import draw_split
from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import Manifest, make_manifest
from abhinaya.errors import BadValueError, MissingFileError

CLASSES = EmotionSet.from_codes(["angry", "sad"])


def corpus(speakers: list[str | None], labels: list[str | None] | None = None) -> Manifest:
    labels = labels or [CLASSES.codes[idx % 2] for idx in range(len(speakers))]
    rows = [
        {"utterance": f"{idx}.wav", "label": label, "speaker": speaker}
        for idx, (label, speaker) in enumerate(zip(labels, speakers, strict=True))
    ]
    return make_manifest(rows, CLASSES, Path())


def test_speakers_are_on_one_side_and_classes_on_all():
    manifest = corpus([f"s{idx // 4}" for idx in range(40)])
    split, by = draw_split(manifest, 0, "mine")
    assert by == "by speaker, 10 of them"
    rows = manifest.rows.assign(split=split)
    assert (rows.groupby("speaker")["split"].nunique() == 1).all()
    # A fifth of ten speakers with four clips each.
    assert split.value_counts().to_dict() == {"train": 24, "test": 8, "development": 8}
    assert (rows.groupby("split")["label"].nunique() == 2).all()
    assert split.equals(draw_split(manifest, 0, "mine")[0])
    assert not split.equals(draw_split(manifest, 1, "mine")[0])


@pytest.mark.parametrize(
    ("speakers", "because"),
    [([None] * 10, "no speaker is known"), (["a", "b"] * 5, "only 2 speakers are known")],
)
def test_without_speakers_files_are_shared_out(speakers, because):
    split, by = draw_split(corpus(speakers), 0, "mine")
    assert by.startswith(f"by file, because {because}: scores flatter")
    assert split.value_counts().to_dict() == {"train": 6, "test": 2, "development": 2}


def test_rows_without_a_label_are_in_no_split():
    split, _ = draw_split(corpus([None] * 5, ["angry", "sad", None, "angry", "sad"]), 0, "mine")
    assert pd.isna(split[2])
    # Two of each class make two folds: there is nothing left to test on.
    assert split.value_counts().to_dict() == {"train": 2, "development": 2}


def test_too_few_rows_are_refused():
    with pytest.raises(BadValueError, match="'mine' has 2 labelled recordings, too few"):
        draw_split(corpus([None, None]), 0, "mine")


@pytest.fixture
def folders(tmp_path):
    source = tmp_path / "mine"
    for name in ("angry/1.wav", "angry/deep/2.WAV", "sad/1.wav", "loose.wav", "sad/notes.txt"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    return source


def test_a_folder_per_class_is_a_corpus(folders, tmp_path):
    options = PrepareOptions(check_audio=False)
    rows = prepare_corpus("folder", folders, tmp_path / "out", options).manifest.rows
    assert dict(zip(rows["utterance"], rows["label"].fillna("none"), strict=True)) == {
        "2.WAV": "angry",
        "angry/1.wav": "angry",
        "sad/1.wav": "sad",
        "loose.wav": "none",
    }
    assert rows["split"].isna().all()
    assert "content" not in rows


def test_content_of_files_decides_the_digest_of_a_corpus_with_a_split_of_its_own(folders, tmp_path):
    def digest(out):
        options = PrepareOptions(check_audio=False, own_split=0)
        manifest = prepare_corpus("folder", folders, tmp_path / out, options).manifest
        assert "train" in manifest.splits
        return manifest.digest

    (folders / "sad" / "3.wav").write_bytes(b"3")
    first = digest("a")
    assert digest("b") == first
    (folders / "sad" / "3.wav").write_bytes(b"other")
    assert digest("c") != first


def test_neither_table_nor_folders_is_explained(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.wav").write_bytes(b"")
    with pytest.raises(MissingFileError, match="or put the audio into a sub-folder for each class"):
        prepare_corpus("folder", tmp_path / "mine", tmp_path / "out")


def test_own_split_of_another_corpus_is_refused(tmp_path):
    with pytest.raises(BadValueError, match="own_split is for the corpus folder"):
        prepare_corpus("emodb", tmp_path, tmp_path / "out", PrepareOptions(own_split=1))
