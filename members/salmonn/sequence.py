"""The text around the speech as token ids: what stands before it, behind it, and the text after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from abhinaya.data.audio import utterance_rng
from abhinaya.data.labels import EmotionSet
from abhinaya.errors import BadValueError
from abhinaya.member import Utterance
from abhinaya.prompting.answers import class_words
from abhinaya.prompting.prompt_files import slots_in
from abhinaya.prompting.prompts import Prompt, Turn, load_prompt, read_prompt_pool
from members.salmonn.config import SalmonnSources, StoredPrompts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = ["PARTS", "PromptTokens", "collate_tokens", "load_prompts", "store_prompts"]

_SourcesT = TypeVar("_SourcesT", bound=SalmonnSources)

PARTS = ("before", "after", "text")
"""Parts of the sequence beside the speech, in their order."""


def load_prompts(
    parts: SalmonnSources, *, needs_text: bool, lists_classes: bool = False
) -> tuple[Prompt, ...]:
    """Return the prompts that a config names, those of its pool in their place.

    Texts that a run stored are taken instead of the files, for as long as it names the same ones.

    Args:
        parts: the config.
        needs_text: whether the member is one that reads transcripts.
        lists_classes: whether the member can tell the classes.

    Raises:
        BadValueError: if a prompt has no speech or needs what a clip does not bring, or reads a
            transcript that the member does not have, or the reverse.
    """
    prompts = _read_prompts(parts)
    for prompt in prompts:
        _check(prompt, needs_text=needs_text, lists_classes=lists_classes)
    return prompts


def store_prompts(parts: _SourcesT) -> _SourcesT:
    """Return a config that holds the texts of its prompts, so that its digest and its run do."""
    prompts = _read_prompts(parts)
    stored = StoredPrompts(
        prompt=parts.prompt,
        prompt_pool=parts.prompt_pool,
        turns=tuple(tuple((turn.role, turn.text) for turn in prompt.turns) for prompt in prompts),
        names=tuple(prompt.name for prompt in prompts),
    )
    return parts.model_copy(update={"stored_prompts": stored})


def _read_prompts(parts: SalmonnSources) -> tuple[Prompt, ...]:
    stored = parts.stored_prompts
    if stored is not None and (stored.prompt, stored.prompt_pool) == (
        parts.prompt,
        parts.prompt_pool,
    ):
        return tuple(
            Prompt(
                name=name,
                version=1,  # it counts in a file only
                turns=tuple(Turn(role, text) for role, text in turns),
                slots=tuple(slots_in(text for _, text in turns)),
                source="the run's config",
            )
            for name, turns in zip(stored.names, stored.turns, strict=True)
        )
    prompts = tuple(load_prompt(name) for name in parts.prompt)
    if parts.prompt_pool is None:
        return prompts
    texts = read_prompt_pool(parts.prompt_pool.file, parts.prompt_pool.task)
    return tuple(_with_user_turn(prompts[0], text) for text in texts)


def _with_user_turn(prompt: Prompt, text: str) -> Prompt:
    turns = tuple(Turn("user", text) if turn.role == "user" else turn for turn in prompt.turns)
    return replace(prompt, turns=turns, slots=tuple(slots_in(turn.text for turn in turns)))


def _check(prompt: Prompt, *, needs_text: bool, lists_classes: bool) -> None:
    roles = [turn.role for turn in prompt.turns]
    if "speech" not in prompt.slots or roles not in (["user"], ["user", "assistant"]):
        raise BadValueError(
            f"The prompt {prompt.name!r} has the slots {', '.join(prompt.slots) or 'none'} and the "
            f"turns {', '.join(roles)}. SALMONN takes a user turn with {{{{ speech }}}} in it, and "
            "an assistant turn behind it for the text after the prompt."
        )
    known = {"speech"}
    known |= {"transcript"} if needs_text else set()
    known |= {"classes"} if lists_classes else set()
    foreign = sorted(set(prompt.slots) - known - {"transcript"})
    if foreign:
        raise BadValueError(
            f"The prompt {prompt.name!r} has the slots {', '.join(foreign)}, which this member "
            f"cannot fill; it fills {', '.join(sorted(known))}. Choose another prompt."
        )
    if needs_text and "transcript" not in prompt.slots:
        raise BadValueError(
            f"The prompt {prompt.name!r} has no transcript in it. Choose one with "
            "{{ transcript }}, or the member salmonn-13b, which only listens."
        )
    if not needs_text and "transcript" in prompt.slots:
        raise BadValueError(
            f"The prompt {prompt.name!r} has a transcript in it. Choose one without, or the member "
            "salmonn-7b-speech-text, which reads as well."
        )
    # Filled once, so that a slot in the wrong turn is told before anything is loaded.
    values = dict.fromkeys(known - {"speech"}, "")
    prompt.around("speech", **values)
    prompt.assistant_text(**values)


@dataclass(frozen=True)
class PromptTokens:
    """Token ids of the prompt and the text of each utterance.

    All text is plain: a transcript or prompt that contains `</s>` does not end the sequence.

    Args:
        tokenizer: the language model's.
        prompts: one or several; beside training the first one is used.
        template: what stands around the user's turn, `{}` in its place.
        max_text_tokens: longer texts are cut; the end sign goes first.
        emotions: classes that a prompt may list.
        seed: of the draw of a prompt for each utterance and epoch; None for no draw.
        published: put a blank before every text, as the public code's tokenizer does; transformers
            5 leaves it out before one that begins with a blank.
    """

    tokenizer: PreTrainedTokenizerBase
    prompts: tuple[Prompt, ...]
    template: str
    max_text_tokens: int
    emotions: EmotionSet | None = None
    seed: int | None = None
    published: bool = False

    def encode(self, utterance: Utterance) -> dict[str, list[int]]:
        """Return ids of `before` (with BOS), `after` and `text` (with the end sign, if any)."""
        prompt = self.prompts[self._draw(utterance)]
        values = {"transcript": utterance.text or ""}
        if self.emotions is not None:
            values["classes"] = ", ".join(class_words(self.emotions))
        before, after = prompt.around("speech", **values)
        start, end = self.template.split("{}")
        text_ids: list[int] = []
        if prompt.turns[-1].role == "assistant":
            text_ids = self._ids(prompt.assistant_text(**values))
            text_ids.append(int(self.tokenizer.eos_token_id))
        return {
            "before": [int(self.tokenizer.bos_token_id), *self._ids(start + before)],
            "after": self._ids(after + end),
            "text": text_ids[: self.max_text_tokens],
        }

    def _draw(self, utterance: Utterance) -> int:
        if self.seed is None or utterance.epoch is None:
            return 0
        # Another name than that of the crop's draw, so that the two are independent.
        rng = utterance_rng(self.seed, utterance.epoch, f"prompt of {utterance.name}")
        return int(rng.integers(len(self.prompts)))

    def _ids(self, text: str) -> list[int]:
        if self.published and text[:1] == " " and self._plain_ids(" a") == self._plain_ids("a"):
            text = f" {text}"
        return self._plain_ids(text)

    def _plain_ids(self, text: str) -> list[int]:
        ids: Any = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(ids["input_ids"])


def collate_tokens(encoded: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return ids and masks of each part, shape (B, its longest), padded on the right with zeros."""
    import torch

    batch: dict[str, Tensor] = {}
    for part in PARTS:
        longest = max(len(row[part]) for row in encoded)
        ids = np.zeros((len(encoded), longest), dtype=np.int64)
        mask = np.zeros((len(encoded), longest), dtype=bool)
        for idx, row in enumerate(encoded):
            ids[idx, : len(row[part])] = row[part]
            mask[idx, : len(row[part])] = True
        batch[part] = torch.from_numpy(ids)
        batch[f"{part}_mask"] = torch.from_numpy(mask)
    return batch
