"""What all three engines do: answer chats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from abhinaya.errors import AbhinayaError
from abhinaya.files import digest_of
from abhinaya.prompting.prompts import Turn

__all__ = ["Answer", "Engine", "EngineError", "Keep", "Question", "seed_of"]


class EngineError(AbhinayaError, RuntimeError):
    """A model or server that cannot be asked; answers that came before are kept."""


@dataclass(frozen=True)
class Question:
    """One chat to be answered once.

    Args:
        turns: the chat as it is sent. An assistant turn at the end is the beginning of the answer.
        sample: number of the answer, from 0, where several are drawn.
    """

    turns: tuple[Turn, ...]
    sample: int = 0

    @property
    def n_chars(self) -> int:
        """Characters of all turns."""
        return sum(len(turn.text) for turn in self.turns)

    @property
    def is_begun(self) -> bool:
        """Whether the answer's beginning is given."""
        return self.turns[-1].role == "assistant"

    def messages(self) -> list[dict[str, str]]:
        """Return the chat in the form that chat templates and servers take."""
        return [{"role": turn.role, "content": turn.text} for turn in self.turns]


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Args:
        text: the answer, without what was given of it.
        probs: class probabilities in class order, K numbers; `None` where they are unknown.
        n_prompt_tokens: tokens of the chat; `None` where the server does not tell.
        n_answer_tokens: tokens of the answer; `None` where the server does not tell.
        failure: why there is no answer; `None` where there is one.
    """

    text: str
    probs: tuple[float, ...] | None = None
    n_prompt_tokens: int | None = 0
    n_answer_tokens: int | None = 0
    failure: str | None = None


Keep = Callable[[int, Answer], None]
"""Takes the index of a question and its answer, as soon as that is there."""


class Engine(Protocol):
    """Answers chats. An answer does not depend on what is asked beside it, rounding aside."""

    @property
    def identity(self) -> str:
        """Which model answers, in which number type; answers of another are not comparable."""

    @property
    def batch_size(self) -> int:
        """Up to how many questions, in the order asked, share the rounding of their numbers."""

    def ask(self, questions: Sequence[Question], keep: Keep) -> None:
        """Answer all questions, in any order.

        Raises:
            EngineError: if the model or server cannot be asked.
        """


def seed_of(seed: int, sample: int) -> int:
    """Seed of one drawn answer, in [0, 2^28), out of the run's and the answer's number."""
    return int(digest_of([seed, sample])[:7], 16)
