from __future__ import annotations

import hashlib
import json

import pytest

from abhinaya.files import (
    atomic_folder,
    atomic_path,
    digest_of,
    write_csv,
    write_json,
    write_text,
)


def test_atomic_path_error_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with atomic_path(path) as temporary:
            temporary.write_text(text)
            assert temporary.parent == path.parent
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_folder_replaces_the_whole_folder(tmp_path):
    path = tmp_path / "best"
    for name in ("one", "two"):
        with atomic_folder(path) as temporary:
            (temporary / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_folder_error_leaves_the_old_folder(tmp_path):
    path = tmp_path / "best"
    path.mkdir()
    (path / "old").touch()

    def fail():
        with atomic_folder(path) as temporary:
            (temporary / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_write_text_is_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "Überraschung")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\x9cberraschung"


def test_write_json_is_readable_and_ends_in_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"text": "ü", "n": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "text": "ü",\n  "n": 1\n}\n'


def test_write_csv_quotes_and_leaves_null_empty(tmp_path):
    write_csv(tmp_path / "a.csv", ["x", "y"], [("a,b", None), (1, 'say "no"')])
    assert (tmp_path / "a.csv").read_bytes() == b'x,y\n"a,b",\n1,"say ""no"""\n'


def test_digest_of_ignores_key_order_but_not_values():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    # 16 of the 64 hexadecimal digits of the SHA-256 of the JSON text "x"
    assert digest_of("x") == hashlib.sha256(json.dumps("x").encode()).hexdigest()[:16]
