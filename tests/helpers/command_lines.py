"""Command lines as the pages print them: found, split into words, and held to the real commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from source_tree import ROOT

__all__ = ["CommandLine", "command_lines", "pages"]

_STARTS = re.compile(r"(?:^|[\s;|&('\"])(?:abhinaya|accelerate launch) ")
_OPERATORS = {";", "|", "||", "&", "&&", "(", ")", "do", "done", ">", "then"}


@dataclass(frozen=True)
class CommandLine:
    """One command of a page.

    Args:
        page: the file, relative to the repository.
        number: the line it begins on.
        words: from `abhinaya` on, as a shell would split them.
        launcher: the words of `accelerate launch` before it, if any.
        is_whole: false for what a sentence mentions (`abhinaya soup RUN`), and where `...` stands
            for the rest.
    """

    page: str
    number: int
    words: tuple[str, ...]
    launcher: tuple[str, ...] = ()
    is_whole: bool = True

    def __str__(self) -> str:
        return f"{self.page}:{self.number}: {shlex.join(self.words)}"


def pages() -> list[Path]:
    """Return all files that print commands: pages, READMEs beside code, comments of configs."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
    for folder in ("docs", "members", "abhinaya", "prompts", "configs"):
        found += sorted((ROOT / folder).rglob("*.md"))
    return [*found, *sorted((ROOT / "configs").rglob("*.yaml"))]


@cache
def command_lines(page: Path) -> tuple[CommandLine, ...]:
    """Return the commands of a page in their order, those in sentences last."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    if page.suffix == ".yaml":
        text = "".join(
            f"    {line[4:]}\n" if line.startswith("#   ") else "\n" for line in text.splitlines()
        )
    stands_for = {
        f"${match[1]}": tuple(_split(re.sub(r"\\\n", " ", match[2])))
        for match in re.finditer(r"`\$(\w+)` stands for\n\n((?:    .*\n)+)", text)
    }
    found = []
    for number, line in _lines_of_code(text):
        for words in _commands(re.sub(r"\[(--[^\]]*)\]", r"\1", line)):
            given = [part for word in words for part in stands_for.get(word, (word,))]
            found.append(_make(name, number, given))
    for match in re.finditer(r"(?<!`)`(abhinaya [a-z-]+(?: [^`]*)?)`", text):
        number = text[: match.start()].count("\n") + 1
        if not text.splitlines()[number - 1].startswith("    "):
            found.append(_make(name, number, _split(match[1]), is_whole=False))
    return tuple(found)


def _make(page: str, number: int, words: list[str], *, is_whole: bool = True) -> CommandLine:
    start = words.index("abhinaya")
    given = tuple(word for word in words[start:] if word != "...")
    is_whole = is_whole and not any(word.endswith("...") for word in words)
    return CommandLine(page, number, given, tuple(words[:start]), is_whole)


def _lines_of_code(text: str) -> Iterator[tuple[int, str]]:
    """Give each line of indented and fenced code, with what a backslash or a quote carries on."""
    fence, begun, start = "", "", 0
    is_code, is_after_blank = False, True
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if line.startswith("```"):
            fence = "" if fence else line
            continue
        is_indented = line.startswith("    ") and (is_code or is_after_blank)
        is_code = fence in ("```", "```bash") or (not fence and is_indented)
        is_after_blank = not line.strip()
        if begun and is_code:
            begun += f"\n{line.strip()}"
        elif is_code and (line.endswith("\\") or _STARTS.search(line)):
            begun, start = line.strip(), number
        if begun and not (is_code and (begun.endswith("\\") or not _is_closed(begun))):
            if _STARTS.search(begun):
                yield start, begun.replace("\\\n", " ")
            begun = ""


def _is_closed(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True


def _split(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    return list(lexer)


def _commands(line: str) -> Iterator[list[str]]:
    """Give the words of each command of ours in a line of shell."""
    words: list[str] = []
    for word in [*_split(line), ";"]:
        if word not in _OPERATORS:
            words.append(word)
            continue
        for inner in words:  # sbatch --wrap "abhinaya ..."
            if inner.startswith(("abhinaya ", "accelerate launch")):
                yield from _commands(inner)
        launch = words.index("accelerate") if "accelerate" in words else None
        if "abhinaya" in words:
            yield words[launch if launch is not None else words.index("abhinaya") :]
        words = []
