"""SALMONN's own file of prompts: JSON of tasks with lists of texts."""

from __future__ import annotations

import json

import pytest

from abhinaya.errors import MissingFileError, ProblemsError, UnknownNameError
from abhinaya.prompting.prompts import Prompt, Turn, read_prompt_pool


@pytest.fixture
def pool(tmp_path):
    path = tmp_path / "pool.json"
    tasks = {
        "emotion": ["<Speech><SpeechHere></Speech> Emotion?", "<SpeechHere> as {a}"],
        "one": "<SpeechHere>!",
        "none": [],
        "bad": ["no place", "<SpeechHere><SpeechHere>", 7, "<SpeechHere>"],
        "number": 3,
    }
    path.write_text(json.dumps(tasks))
    return path


def test_read_prompt_pool_gives_templates_that_keep_all_else(pool):
    texts = read_prompt_pool(pool, "emotion")
    assert texts == ("<Speech>{{ speech }}</Speech> Emotion?", "{{ speech }}{{ ' as {a}' }}")
    prompt = Prompt("own-v1", 1, (Turn("user", texts[1]),), ("speech",), "own-v1.md")
    assert prompt.around("speech") == ("", " as {a}")


def test_read_prompt_pool_takes_a_single_text(pool):
    assert read_prompt_pool(pool, "one") == ("{{ speech }}!",)


def test_read_prompt_pool_unknown_task_raises_with_the_list(pool):
    with pytest.raises(
        UnknownNameError,
        match=r"task of '.*pool.json': 'emotio'. Did you mean 'emotion'.*bad, emotion, none",
    ):
        read_prompt_pool(pool, "emotio")


def test_read_prompt_pool_texts_without_one_placeholder_raise_together(pool):
    with pytest.raises(ProblemsError, match="text 1 of the task 'bad' has the placeholder") as err:
        read_prompt_pool(pool, "bad")
    assert [text.split(": ")[0][-24:] for text in err.value.problems] == [
        "> 0 times, expected once",
        "> 2 times, expected once",
        "> 0 times, expected once",
    ]


@pytest.mark.parametrize("task", ["none", "number"])
def test_read_prompt_pool_task_without_texts_raises(pool, task):
    with pytest.raises(ProblemsError, match=rf"task '{task}' has .*, expected a list of one text"):
        read_prompt_pool(pool, task)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b"[]", "holds a list, expected tasks"),
    ],
)
def test_read_prompt_pool_other_content_raises(tmp_path, content, message):
    path = tmp_path / "pool.json"
    path.write_bytes(content)
    with pytest.raises(ProblemsError, match=message):
        read_prompt_pool(path, "emotion")


def test_read_prompt_pool_absent_file_raises(tmp_path):
    with pytest.raises(MissingFileError, match=r"no prompt file .*Give SALMONN's JSON"):
        read_prompt_pool(tmp_path / "pool.json", "emotion")
