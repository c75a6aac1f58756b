from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.demo.checkpoints import trained_llama as language_model
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.demo.checkpoints.trained_llama import PROMPT, write_trained_llama
from abhinaya.demo.corpus.sentences import make_sentence
from abhinaya.errors import BadValueError
from abhinaya.prompting.answers import class_words
from abhinaya.prompting.prompts import load_prompt

# `make demo` and the tests of other rooms stand on it every time.
pytestmark = pytest.mark.slow


def fresh_sentences(n_per_class: int) -> list[tuple[str, str]]:
    """Sentences that the default seed does not draw in this order, and the word of their class."""
    rng = np.random.default_rng(77)
    words = class_words(MSP_PODCAST)
    return [
        (make_sentence(code, rng), word)
        for code, word in zip(MSP_PODCAST.codes, words, strict=True)
        for _ in range(n_per_class)
    ]


Learnt = Callable[[list[str]], set[str]]

FRESH = fresh_sentences(12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt none of the fresh sentences; fewer steps than in the demo."""
    folder = tmp_path_factory.mktemp("llama")
    write_trained_llama(folder, n_steps=80, keep_out=[sentence for sentence, _ in FRESH])
    return folder


def answers(folder: Path) -> list[str]:
    """What the model says to the fresh sentences, as transformers alone generates it."""
    loader: Any = AutoModelForCausalLM
    model, report = loader.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    classes = ", ".join(class_words(MSP_PODCAST))
    chats = [
        [
            {"role": turn.role, "content": turn.text}
            for turn in load_prompt(PROMPT).render(transcript=sentence, classes=classes)
        ]
        for sentence, _ in FRESH
    ]
    asked = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**asked, max_new_tokens=6, do_sample=False)
    return tokenizer.batch_decode(ids[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)


def test_answers_are_class_words_and_mostly_right(folder: Path) -> None:
    said = answers(folder)
    right = [word == answer for (_, word), answer in zip(FRESH, said, strict=True)]
    assert set(said) == set(class_words(MSP_PODCAST))
    # Of 96; chance is 12, and some three of ten sentences have no or other wording.
    assert sum(right) > 45


def test_random_weights_answer_no_class_words(tmp_path: Path) -> None:
    """What the training is for."""
    write_llama(tmp_path, layout="llama3", chat_template=True)
    assert not set(answers(tmp_path)) & set(class_words(MSP_PODCAST))


def test_files_are_those_of_the_untrained_layout(folder: Path, tmp_path: Path) -> None:
    write_llama(tmp_path, layout="llama3", chat_template=True)
    ours = {file.name for file in folder.iterdir()}
    assert ours == {file.name for file in tmp_path.iterdir()}
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        trained, untrained = load_file(folder / name), load_file(tmp_path / name)
        assert list(trained) == list(untrained)
        assert {tensor.dtype for tensor in trained.values()} == {torch.bfloat16}
        moved = [key for key in trained if not torch.equal(trained[key], untrained[key])]
        assert moved == list(trained)


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        write_trained_llama(tmp_path / name, seed=seed, n_steps=2)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
    weights = "model-00001-of-00002.safetensors"
    one, other = (tmp_path / name / weights for name in ("one", "other"))
    assert one.read_bytes() != other.read_bytes()


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> Learnt:
    """Gives the sentences that would be learnt; nothing is written or trained."""

    def sentences(keep_out: list[str]) -> set[str]:
        texts: list[str] = []

        def stop(_: Path, **options: Any) -> None:
            texts.extend(options["texts"])
            raise StopIteration

        monkeypatch.setattr(language_model, "write_llama", stop)
        with pytest.raises(StopIteration):
            write_trained_llama(Path("nowhere"), keep_out=keep_out)
        return {text for text in texts if len(text) < 100 and text[0].isupper()}

    return sentences


def test_kept_out_sentences_are_not_learnt_even_where_words_of_them_were_lost(
    learnt: Learnt,
) -> None:
    every = learnt([])
    whole = "Enough, this is your fault today."
    assert whole in every
    assert every - learnt([whole]) == {whole}
    # The recogniser lost two of six words, so it may have heard any of five times.
    heard = "Enough, is your fault"
    times = ("today", "last night", "this week", "on Monday", "again")
    possible = {f"Enough, this is your fault {time}." for time in times}
    assert every - learnt([heard]) == every & possible != set()


def test_empty_text_keeps_nothing_out(learnt: Learnt) -> None:
    assert learnt(["", " "]) == learnt([])


def test_nothing_left_to_learn_raises(learnt: Learnt) -> None:
    every = sorted(learnt([]))
    with pytest.raises(BadValueError, match=rf"with {len(every)} texts, leaves .* for angry, cont"):
        write_trained_llama(Path("nowhere"), keep_out=every)
