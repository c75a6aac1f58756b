"""Every command that a page prints is one that the program takes; nothing is run here."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator

import pytest
import typer
from command_lines import CommandLine, command_lines, pages
from source_tree import ROOT
from typer._click.exceptions import BadOptionUsage, ClickException, MissingParameter

from abhinaya.cli import app, options
from abhinaya.config import apply_overrides, load_yaml, merge
from abhinaya.errors import AbhinayaError
from abhinaya.member_config import check_member_config
from abhinaya.pipeline.audit.config import load_audit
from abhinaya.pipeline.config import load_pipeline
from abhinaya.prompting.prompts import load_prompt
from abhinaya.resources import configs_dir, find_config

LINES = [line for page in pages() for line in command_lines(page)]
HOW_TO_MEND = (
    "correct the line. A word that stands for the reader's own file, run or name is written in "
    "capitals, or lies below runs/; `...` stands for what is left out."
)
DEFINED_ON_THE_PAGE = {"ravdess", "best-member", "gru.yaml"}
"""Names that a page tells the reader to make first."""

MADE = {
    line.words[idx + 1]
    for line in LINES
    for idx, word in enumerate(line.words[:-1])
    if word == "--out"
}
"""What some command of the pages writes."""

ROOT_COMMAND = typer.main.get_command(app)
WITHOUT_A_PLACE = {"data": {"manifest": "M"}}


class _OnlyCheckedError(Exception):
    """The settings of a command are checked; the command itself is not to run."""


@pytest.fixture(autouse=True)
def only_check(monkeypatch):
    read = options._read_settings

    def check(kind, values):
        read(kind, values)
        raise _OnlyCheckedError

    monkeypatch.setattr(options, "_read_settings", check)


def parsed(line: CommandLine) -> tuple[str, dict]:
    """Return the name of a command and its parameters, as the program reads them."""
    name, command, words = "", ROOT_COMMAND, list(line.words[1:])
    context = ROOT_COMMAND.make_context("abhinaya", [], resilient_parsing=True)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        part = words.pop(0)
        assert part in command.commands, f"there is no command {part!r}"
        name, command = f"{name} {part}".strip(), command.commands[part]
    if words[:1] in (["--help"], ["--install-completion"]):
        return name, {}
    try:
        context = command.make_context(name, words, parent=context)
        if inspect.unwrap(command.callback).__qualname__.startswith("takes_settings."):
            with pytest.raises(_OnlyCheckedError):
                command.invoke(context)
    except (MissingParameter, BadOptionUsage):  # of the latter kind: a value is missing
        if line.is_whole:
            raise
    return name, context.params if context.command is command else {}


def is_own(word: str) -> bool:
    """Tell if a word stands for something of the reader's own, or was made by another command."""
    return (
        re.fullmatch(r"[A-Z][A-Z0-9]*(\.\w+)?|chain\.yaml", word) is not None
        or word.startswith(("runs/", "$"))
        or word in DEFINED_ON_THE_PAGE | MADE
    )


def check_configs(name: str, given: dict) -> Iterator[str]:
    """Give what is wrong with the configs and prompts that a command names."""
    config = given.get("config") or (given.get("source") if name == "predict" else None)
    keys = ("overrides", "others", "clips", "values")
    others = [one for key in keys for one in given.get(key) or ()]
    overrides = [one.split(",")[0] if name == "sweep" else one for one in others if "=" in one]
    overrides = [re.sub(r"=(log:)?(\S+)\.\.\S+$", r"=\2", one) for one in overrides]
    for place in [given.get("combinations"), given.get("experiment")]:
        if place is not None and not is_own(str(place)):
            find_config(place)
    for one in given.get("model") or [] if name == "prompts run" else []:
        yield from check_member(one.rpartition("=")[2], [])
    for one in given.get("prompt") or [] if name == "prompts run" else []:
        load_prompt(one)
    if name == "prompts show":
        load_prompt(given["prompt"])
    if config is None:
        return
    if name == "audit":
        load_audit(config, [re.sub(r"=([A-Z]+)$", r"=runs/\1", one) for one in overrides])
        return
    if name == "run":
        if not is_own(config):
            load_pipeline(config, [one.replace("=GPUS", "=2") for one in overrides])
        return
    switches = ",".join(given.get("switch") or ()).split(",")
    overrides += [one for one in switches if "=" in one]
    if name in ("ablate-recipe", "sweep"):  # each run has a folder below --out
        overrides = ["run_dir=own", *overrides]
    yield from check_member(config, [re.sub(r"\$(\w+)", r"\1", one) for one in overrides])


def check_member(config: str, overrides: list[str]) -> Iterator[str]:
    """Give what is wrong with a member's config; of a run, with overrides that no member takes."""
    contents = [load_yaml(find_config(config))] if not is_own(config) else MEMBERS
    problems = []
    for content in contents:
        defaults = {"name": "own", "run_dir": "own", "base": "own"} if is_own(config) else {}
        has_source = any(one.startswith("data.source=") for one in overrides)
        places = {} if has_source else WITHOUT_A_PLACE
        changed = apply_overrides(merge(merge(defaults, content), places), overrides)
        try:
            check_member_config(changed, config)
            return
        except AbhinayaError as err:
            problems.append(str(err))
    yield problems[0]


MEMBERS = [load_yaml(file) for file in sorted((configs_dir() / "members").glob("*.yaml"))]


@pytest.mark.parametrize("line", LINES, ids=str)
def test_printed_command_is_one_that_the_program_takes(line):
    if DEFINED_ON_THE_PAGE & set(line.words):
        pytest.skip("the page makes it first; tests/house/test_docs.py follows it to the end")
    try:
        name, given = parsed(line)
        problems = list(check_configs(name, given))
    except ClickException as err:
        problems = [err.format_message()]
    except (AbhinayaError, AssertionError) as err:
        problems = [str(err)]
    assert not problems, f"{line}\n{problems}: {HOW_TO_MEND}"


@pytest.mark.parametrize("line", [line for line in LINES if line.launcher], ids=str)
def test_launcher_of_a_printed_command_is_one_that_accelerate_takes(line):
    from accelerate.commands.launch import launch_command_parser

    given = launch_command_parser().parse_args([*line.launcher[2:], *line.words])
    assert given.module
    assert given.training_script == "abhinaya"
    assert given.config_file is None or (ROOT / given.config_file).is_file(), given.config_file


def test_printed_targets_extras_and_scripts_are_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"))
    wrong, n_seen = [], 0
    for page in pages():
        text = page.read_text(encoding="utf-8")
        found = [(name, targets) for name in re.findall(r"(?m)(?:^    |`)make ([a-z-]+)", text)]
        found += [(name, extras) for name in re.findall(r"abhinaya\[([a-z]+)\]", text)]
        wrong += [f"{page}: {name}" for name, known in found if name not in known]
        scripts = re.findall(r"python (benchmarks/[a-z_]+\.py)", text)
        wrong += [f"{page}: {name}" for name in scripts if not (ROOT / name).is_file()]
        n_seen += len(found) + len(scripts)
    assert not wrong, f"{wrong}: correct the page, or make what it promises."
    assert n_seen >= 35


def test_how_many_commands_are_held_to_the_program():
    assert len(LINES) >= 200
    assert len({line.page for line in LINES}) >= 45
