"""A tiny Llama that has read: the demo's language model, taught to answer one prompt.

Random weights know no words, so what they answer is chance. Here they are trained for a few seconds
on synthetic sentences of the same grammar as the demo's corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.demo.corpus.sentences import make_sentence
from abhinaya.errors import BadValueError
from abhinaya.prompting.answers import class_words
from abhinaya.prompting.prompts import load_prompt

__all__ = ["PROMPT", "write_trained_llama"]

PROMPT = "zero-shot-v1"
"""The prompt that the model is taught. Others, which it has never seen, it answers less well."""

_N_SENTENCES_PER_CLASS = 250
_BATCH_SIZE = 16
_LEARNING_RATE = 3e-3
_LARGEST_GRADIENT = 1.0
_VOCAB_SIZE = 768
# So often do the words of the prompt come among the tokenizer's texts. Most become one token each,
# and the chats shorter by half.
_N_PROMPT_COPIES = 50
_NO_LABEL = -100  # what torch's cross-entropy leaves out

Chat = list[dict[str, str]]


def write_trained_llama(
    folder: Path, *, seed: int = 0, n_steps: int = 160, keep_out: Iterable[str] = ()
) -> None:
    """Write a tiny Llama in the layout of Llama 3 Instruct that labels the demo's sentences.

    The files are those of `write_llama(layout="llama3", chat_template=True)`. All weights are
    trained, on chats: the question is `PROMPT` as it is sent, with a sentence of the demo's grammar
    and the classes of MSP-Podcast in it; the answer is the word of the class that the sentence was
    made for. Only the answer and the end of its turn count in the loss. On one core the default
    takes about ten seconds. The same arguments give the same bytes on one machine.

    Args:
        folder: gets config.json, generation_config.json, weights and tokenizer.
        seed: of weights and sentences; not negative.
        n_steps: optimizer steps of 16 chats each.
        keep_out: texts of clips that the model shall be tested on. A sentence is not learnt if it
            has all words of one of them in their order: a recogniser may have lost the others.

    Raises:
        BadValueError: if `keep_out` leaves a class without sentences.
    """
    pairs = _make_sentences(np.random.default_rng([seed, 0]), keep_out)
    prompt = load_prompt(PROMPT)
    words = class_words(MSP_PODCAST)
    chats: list[Chat] = []
    for sentence, idx in pairs:
        turns = prompt.render(transcript=sentence, classes=", ".join(words))
        question = [{"role": turn.role, "content": turn.text} for turn in turns]
        chats.append([*question, {"role": "assistant", "content": words[idx]}])
    # One chat per class has all words of the prompt and the answers.
    prompt_texts = [f"{t['role']} {t['content']}" for chat in chats[: len(words)] for t in chat]
    write_llama(
        folder,
        seed=seed,
        layout="llama3",
        vocab_size=_VOCAB_SIZE,
        texts=[sentence for sentence, _ in pairs] + _N_PROMPT_COPIES * prompt_texts,
        chat_template=True,
    )
    _train(folder, chats, n_steps, np.random.default_rng([seed, 1]))


def _make_sentences(rng: np.random.Generator, keep_out: Iterable[str]) -> list[tuple[str, int]]:
    """Make sentences and the indices of their classes, the classes in turns."""
    known = [words for words in (text.split() for text in keep_out) if words]

    @cache
    def is_kept_out(sentence: str) -> bool:
        words = sentence.split()
        return any(_comes_in(text, words) for text in known)

    drawn = [
        (make_sentence(code, rng), idx)
        for _ in range(_N_SENTENCES_PER_CLASS)
        for idx, code in enumerate(MSP_PODCAST.codes)
    ]
    kept = [(sentence, idx) for sentence, idx in drawn if not is_kept_out(sentence)]
    missing = set(range(len(MSP_PODCAST))) - {idx for _, idx in kept}
    if missing:
        names = ", ".join(MSP_PODCAST.names[idx] for idx in sorted(missing))
        raise BadValueError(
            f"keep_out, with {len(known)} texts, leaves no sentence to learn for {names}. "
            "Leave out texts of a word or two: most sentences have those."
        )
    return kept


def _comes_in(text: Sequence[str], words: Sequence[str]) -> bool:
    """Return whether all words of a text come in their order, whatever stands between them."""
    rest = iter(words)
    return all(word in rest for word in text)


def _train(folder: Path, chats: Sequence[Chat], n_steps: int, rng: np.random.Generator) -> None:
    """Train the model of a folder, and write its weights back."""
    import torch
    from torch.nn.functional import cross_entropy

    from abhinaya.nn.language_model import load_language_model, load_tokenizer

    model: Any = load_language_model(str(folder), head=True).requires_grad_(True).train()
    tokenizer: Any = load_tokenizer(str(folder))

    @cache
    def encode(idx: int) -> tuple[list[int], int]:
        """Return token ids of a chat, and how many of them are the question."""
        ids: list[int] = tokenizer.apply_chat_template(chats[idx], return_dict=False)
        question = tokenizer.apply_chat_template(
            chats[idx][:-1], add_generation_prompt=True, return_dict=False
        )
        return ids, len(question)

    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0)
    for _ in range(n_steps):
        batch = [encode(int(idx)) for idx in rng.choice(len(chats), _BATCH_SIZE, replace=False)]
        ids = torch.zeros(_BATCH_SIZE, max(len(row) for row, _ in batch), dtype=torch.long)
        targets = torch.full_like(ids, _NO_LABEL)
        for row_idx, (row, n_asked) in enumerate(batch):
            # On the right, so that causal attention never sees the padding.
            ids[row_idx, : len(row)] = torch.tensor(row)
            targets[row_idx, n_asked - 1 : len(row) - 1] = torch.tensor(row[n_asked:])
        counts = targets != _NO_LABEL
        states = model.model(ids, use_cache=False).last_hidden_state  # (B, L, D)
        loss: Any = cross_entropy(model.lm_head(states[counts]), targets[counts])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
    _write_weights(folder, model.state_dict())


def _write_weights(folder: Path, weights: dict[str, Any]) -> None:
    """Replace what the files of a folder hold, each tensor where and as it was stored."""
    from safetensors.torch import load_file, save_file

    for file in sorted(folder.glob("model-*.safetensors")):
        content = {
            name: weights[name].to(tensor.dtype).contiguous()
            for name, tensor in load_file(file).items()
        }
        save_file(content, file, metadata={"format": "pt"})
