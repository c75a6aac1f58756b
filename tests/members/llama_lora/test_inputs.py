"""Transcripts as token ids: the ordinary ones, and those that nobody expects."""

from __future__ import annotations

import json
import shutil

import llama_golden as G
import pytest
from golden_set import LLAMA, LLAMA3, read_json

from abhinaya.errors import BadValueError
from abhinaya.member import Utterance
from abhinaya.nn.language_model import load_tokenizer
from members.llama_lora.inputs import TranscriptInputs
from members.llama_lora.member import MEMBER

T2 = read_json("t2", "llama", "config.json")
BOS, EOS = T2["bos_token_id"], T2["eos_token_id"]
SUFFIX = min(G.TOKENS["ids"], key=len)[-3:]
"""`</s>` as text: tests/golden/t2_tokens.json ends with it wherever nothing was cut."""


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(LLAMA3))


def ids_of(tokenizer, text, **settings):
    inputs = TranscriptInputs(tokenizer, **settings)
    return inputs.encode(Utterance("a.wav", None, text))["input_ids"]


def test_empty_transcript_is_the_suffix(tokenizer):
    assert ids_of(tokenizer, "") == SUFFIX


def test_empty_transcript_without_suffix_is_one_token(tokenizer):
    assert ids_of(tokenizer, "", suffix="") == [BOS]
    assert ids_of(tokenizer, "", suffix="", special_tokens=True) == [BOS]


def test_empty_transcript_without_suffix_or_special_tokens_is_one_token(tokenizer, tmp_path):
    shutil.copytree(LLAMA3, tmp_path / "llama")
    file = tmp_path / "llama" / "tokenizer_config.json"
    content = json.loads(file.read_text())
    del content["bos_token"]
    file.write_text(json.dumps(content))
    no_bos = load_tokenizer(str(tmp_path / "llama"))
    assert no_bos.bos_token_id is None
    assert ids_of(no_bos, "", suffix="") == [EOS]
    del content["eos_token"]
    file.write_text(json.dumps(content))
    neither = load_tokenizer(str(tmp_path / "llama"))
    assert ids_of(neither, "", suffix="") == [0]
    inputs = TranscriptInputs(neither)
    assert inputs.collate([{"input_ids": [7, 8]}, {"input_ids": [9]}])["input_ids"].tolist() == [
        [7, 8],
        [9, 0],
    ]


def test_no_transcript_raises(tokenizer):
    with pytest.raises(BadValueError, match=r"'a\.wav' comes without a transcript, .*Set data\.tr"):
        ids_of(tokenizer, None)


def test_special_tokens_are_added_on_request_and_count(tokenizer):
    plain = ids_of(tokenizer, "Why?")
    assert ids_of(tokenizer, "Why?", special_tokens=True) == [BOS, *plain]
    assert ids_of(tokenizer, "Why?", special_tokens=True, max_tokens=3) == [BOS, *plain[:2]]


def test_text_that_looks_like_special_tokens_is_read_as_text(tokenizer):
    text = "<|begin_of_text|>happy<|end_of_text|>"
    ids = ids_of(tokenizer, text)
    assert tokenizer.decode(ids) == text + "</s>"
    assert max(ids) < BOS  # the special ones are the last four of the vocabulary
    # To Vicuna's tokenizer `</s>` is the end of the text; here it is text in both.
    vicuna = load_tokenizer(str(LLAMA))
    assert vicuna.eos_token_id == 2
    assert 2 not in ids_of(vicuna, "Why?")


@pytest.mark.parametrize(
    "text",
    [
        "😀😡 ¿qué? 你好",
        "أنا سعيد جداً اليوم",  # right to left
        "שלום \u202eolleh\u202c",  # with marks that turn the direction around
        "e\u0301 \u00e9 \ufeff\u200b\u0000\ud7ff",
        "  two  spaces\n\tand lines\r\n ",
    ],
)
def test_any_letters_are_kept(tokenizer, text):
    ids = ids_of(tokenizer, text)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text + "</s>"


def test_ten_thousand_words_are_cut_and_lose_the_suffix(tokenizer):
    ids = ids_of(tokenizer, "well, " * 10_000)
    assert len(ids) == 128
    assert ids == ids_of(tokenizer, "well, " * 100, max_tokens=128)
    assert ids[-3:] != SUFFIX


def test_batch_is_padded_on_the_right_with_the_sign_of_the_end(tokenizer):
    batch = TranscriptInputs(tokenizer).collate([{"input_ids": [5]}, {"input_ids": [6, 7, 8]}])
    assert batch["input_ids"].tolist() == [[5, EOS, EOS], [6, 7, 8]]
    assert batch["mask"].tolist() == [[True, False, False], [True, True, True]]


def test_more_tokens_than_the_model_reads_raises(tmp_path):
    config = G.make_config(tmp_path, max_tokens=200_000)
    with pytest.raises(BadValueError, match=r"max_tokens is 200000, but '.*' reads 131072 tokens"):
        MEMBER.build_inputs(config)
