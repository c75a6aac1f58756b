"""Texts made harmless to chat templates.

A chat template writes special tokens such as <|eot_id|> around each turn, and what tokenizes the
chat takes the same letters for the same tokens wherever they stand. A transcript could so end its
own turn and begin an answer. Servers tokenize out of our reach; so a blank is put into everything
that looks like a special token, for all engines alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from abhinaya.prompting.prompts import Turn

__all__ = ["defuse", "defuse_turns"]

# The general form of Llama 3, Qwen, Phi, gpt-oss and DeepSeek, and what Llama 2, Mistral, Gemma and
# older models write in their own way. Tags of a prompt's own, such as <transcript>, are none.
_SPECIAL = re.compile(
    r"<[|\uff5c]|[|\uff5c]>"
    r"|</?(?:s|unk|pad|bos|eos|mask|cls|sep|start_of_turn|end_of_turn|end_of_utterance)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|PREFIX|SUFFIX|MIDDLE|IMG)\]"
    r"|<</?SYS>>",
    re.IGNORECASE,
)


def defuse(text: str, further: Iterable[str] = ()) -> str:
    """Put a blank behind the first letter of everything that looks like a special token.

    Args:
        text: any text.
        further: special tokens of the tokenizer that will read it, if it is known.

    Example:
        >>> defuse("fine.<|eot_id|></s> I <3 you <transcript>")
        'fine.< |eot_id| >< /s> I <3 you <transcript>'
    """
    text = _SPECIAL.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    # Longest first, so that what is left of one is not read as another.
    for token in sorted(further, key=len, reverse=True):
        if len(token.strip()) > 1:
            stripped = token.strip()
            text = text.replace(stripped, f"{stripped[0]} {stripped[1:]}")
    return text


def defuse_turns(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """Return all turns of a chat, defused."""
    return tuple(Turn(turn.role, defuse(turn.text)) for turn in turns)
