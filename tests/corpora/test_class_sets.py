from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from abhinaya.corpora import prepare_corpus
from abhinaya.corpora.base import PrepareOptions
from abhinaya.corpora.class_sets import ClassSet, Placed, find_class_set, relabel, relabel_corpus
from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import Manifest, make_manifest, read_manifest, write_manifest
from abhinaya.data.transcripts import read_transcripts, transcripts_path, write_transcripts
from abhinaya.errors import BadValueError, ProblemsError, UnknownNameError


def manifest_of(labels: str, emotions: EmotionSet = MSP_PODCAST, **further: Any) -> Manifest:
    rows = [
        {"utterance": f"{n}.wav", "label": label, "split": "train"}
        for n, label in enumerate(labels.split(","))
    ]
    for column, cells in further.items():
        for row, cell in zip(rows, cells, strict=True):
            row[column] = cell
    return make_manifest(rows, emotions, Path())


def test_shipped_sets_are_parts_of_each_other() -> None:
    sets = {name: find_class_set(name) for name in ("4", "6", "7", "8")}
    for name, found in sets.items():
        assert len(found.codes) == int(name)
        assert list(found.codes) == [code for code in MSP_PODCAST.codes if code in found.codes]
    assert sets["8"].emotions == MSP_PODCAST
    assert find_class_set("poleval2025").codes[0] == "anger"


def test_eight_classes_become_four_and_the_rest_is_counted() -> None:
    changed, placed = relabel(manifest_of("A,C,C,H,N,S,X,"), find_class_set("4"))
    assert changed.emotions.codes == ("A", "H", "N", "S")
    # 1 and 2 are contempt, 6 has no agreement, 7 no label.
    assert changed.rows["utterance"].tolist() == ["0.wav", "3.wav", "4.wav", "5.wav", "7.wav"]
    assert placed[:2] == [Placed("A", 1, "A"), Placed("C", 2, None)]
    assert Placed("X", 1, None) in placed


def test_words_of_corpora_find_their_class() -> None:
    words = "anger,happiness,joy,fearful,surprised,neutrality,sadness,boredom"
    emotions = EmotionSet.from_codes(words.split(","))
    _, placed = relabel(manifest_of(words, emotions), find_class_set("8"))
    assert [entry.becomes for entry in placed] == ["A", "H", "H", "F", "U", "N", "S", None]


def test_letters_that_mean_something_else_do_not_match_by_their_letter() -> None:
    """CaFE calls surprise S and joy J; MSP-Podcast calls sad S."""
    emotions = EmotionSet.from_codes(("J", "S"), ("joy", "surprise"))
    _, placed = relabel(manifest_of("J,S", emotions), find_class_set("8"))
    assert [entry.becomes for entry in placed] == ["H", "U"]


def test_map_of_the_file_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "codes: [negative, positive]\nmap: {angry: negative, sad: negative, H: positive}"
    )
    _, placed = relabel(manifest_of("A,S,H,N"), find_class_set(str(path)))
    assert [(p.label, p.becomes) for p in placed] == [
        ("A", "negative"),
        ("H", "positive"),
        ("N", None),
        ("S", "negative"),
    ]


def test_votes_of_merged_classes_are_added() -> None:
    emotions = EmotionSet.from_codes(("exc", "hap", "dis"), ("excited", "happy", "disgust"))
    # Order exc, hap, dis, O.
    manifest = manifest_of("hap,exc", emotions, votes=[[1, 2, 1, 0], [3, 0, 0, 1]])
    changed, _ = relabel(manifest, find_class_set("4"), {"exc": "happy"})
    # Order A, H, N, S, O: disgust has no place.
    assert [cell.tolist() for cell in changed.rows["votes"]] == [[0, 3, 0, 0, 1], [0, 3, 0, 0, 1]]
    assert changed.rows["label"].tolist() == ["H", "H"]


def test_no_class_with_a_place_raises() -> None:
    with pytest.raises(BadValueError, match=r"None of the labels C has a place .* map: \{joy: H\}"):
        relabel(manifest_of("C,C"), find_class_set("4"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("codes: [a]", "codes"),
        ("codes: [a, a]", "must be unique"),
        ("codes: [a, b]\nnames: [x]", "one name per class"),
        ("codes: [a, b]\nmap: {joy: c}", r"map\.joy is 'c', expected one of a b"),
        ("codes: [a, b]\nmaps: {}", "maps is unknown, did you mean map"),
    ],
)
def test_file_of_a_class_set_that_is_wrong_raises(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ProblemsError, match=rf"mine\.yaml.*{expected}"):
        find_class_set(str(tmp_path / "mine.yaml"))


def test_unknown_class_set_raises() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown class set.*'5'.* Known: 4, 6, 7, 8, pol"):
        find_class_set("5")


def test_relabel_corpus_writes_subsets_transcripts_and_problems(tmp_path: Path) -> None:
    rows = manifest_of("A,C,H").rows
    manifest = Manifest(rows, MSP_PODCAST, tmp_path, {"few": ("0.wav", "1.wav"), "no": ("1.wav",)})
    write_manifest(manifest, tmp_path / "old" / "manifest.parquet")
    texts = [{"utterance": f"{n}.wav", "source": "human", "text": str(n)} for n in range(3)]
    write_transcripts(texts, transcripts_path(tmp_path / "old"))
    out = tmp_path / "new"
    relabel_corpus(tmp_path / "old" / "manifest.parquet", find_class_set("4"), name="4", out=out)
    found = read_manifest(out / "manifest.parquet")
    assert found.subsets == {"few": ("0.wav",)}
    assert read_transcripts(transcripts_path(out), "human") == {"0.wav": "0", "2.wav": "2"}
    expected = "C,1 rows: the class set 4 has no place for it; left out"
    assert expected in (out / "problems.csv").read_text()


def test_relabel_into_the_same_folder_raises(tmp_path: Path) -> None:
    write_manifest(manifest_of("A,H"), tmp_path / "manifest.parquet")
    with pytest.raises(BadValueError, match=r"the manifest's own folder\. Give another one"):
        relabel_corpus(tmp_path / "manifest.parquet", find_class_set("4"), name="4", out=tmp_path)


def test_prepare_restricts_and_says_so(tmp_path: Path) -> None:
    labels = "file,label,text\na.wav,joy,x\nb.wav,boredom,y\nc.wav,anger,z\n"
    (tmp_path / "labels.csv").write_text(labels)
    options = PrepareOptions(
        check_audio=False,
        classes=ClassSet(codes=("H", "A"), names=("happy", "angry")),
        class_set="m",
    )
    prepared = prepare_corpus("folder", tmp_path, tmp_path / "out", options)
    assert prepared.manifest.rows["label"].tolist() == ["H", "A"]
    assert [row["utterance"] for row in prepared.transcripts] == ["a.wav", "c.wav"]
    assert [p.utterance for p in prepared.problems] == ["boredom"]
