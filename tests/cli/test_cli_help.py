"""Help: commands by task, whole summaries, examples that work; completion and --quiet."""

from __future__ import annotations

import logging
import re
import shlex

import pytest
import typer.main

import abhinaya.cli as cli
from abhinaya.progress import progress

WIDTH = 80


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def find_commands():
    """Return every command by its words, such as ("prompts", "run")."""
    app = typer.main.get_command(cli.app)
    found = {}
    for name, command in app.commands.items():
        inner = getattr(command, "commands", {})
        found |= {(name, one): child for one, child in inner.items()} or {(name,): command}
    return found


COMMANDS = find_commands()


def summaries(out: str) -> list[str]:
    """Return the lines of a help text that name a command."""
    return re.findall(r"(?m)^  [a-z-]+ {2,}\S.*$", out.split("-h, --help")[1])


def test_help_has_a_heading_for_each_task(run_cli):
    out = run_cli("--help").out
    places = [out.index(f"\n{task}:\n") for task in cli.TASKS]
    assert places == sorted(places)
    assert len(places) >= 10
    assert set(cli.COMMANDS) == {words[0] for words in COMMANDS}


@pytest.mark.parametrize(("args", "n_commands"), [(["--help"], 24), (["prompts", "--help"], 4)])
def test_no_summary_is_cut(run_cli, args, n_commands):
    found = summaries(run_cli(*args).out)
    assert len(found) >= n_commands
    wrong = [line for line in found if len(line) > WIDTH or not line.endswith(".")]
    wrong += [line for line in found if line.endswith("...")]
    assert not wrong, f"{wrong}: shorten the first line of the docstring."


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_ends_with_an_example_that_is_a_right_command_line(run_cli, words):
    """Files need not be there, but names, values and how many there are must be right."""
    out = run_cli(*words, "--help").out
    examples = re.findall(r"(?m)^  Example:\n      (abhinaya .*)$", out)
    assert len(examples) == 1, "End the docstring with `Example:` and one line, indented."
    assert len(examples[0]) < 90
    given = shlex.split(examples[0])[1:]
    assert tuple(given[: len(words)]) == words
    with COMMANDS[words].make_context(" ".join(words), given[len(words) :]) as context:
        assert context.params["quiet"] is False


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("abhinaya train members/wav", ["members/wavlm.yaml", "members/wavlm-published.yaml"]),
        ("abhinaya run ensemble/ab", ["ensemble/abhinaya.yaml"]),
        ("abhinaya train min", ["mine/", "mine.yaml"]),
        ("abhinaya fit st", ["stacking"]),
        ("abhinaya vote --rule daw", ["dawid-skene"]),
        ("abhinaya cross", ["cross-validate"]),
        ("abhinaya predict --man", ["--manifest"]),
    ],
)
def test_shell_is_given_what_may_follow(run_cli, monkeypatch, tmp_path, line, proposed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "minutes.txt").touch()
    monkeypatch.setenv("_ABHINAYA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    result = run_cli()
    assert result.code == 0
    assert sorted(result.out.split()) == sorted(proposed)


def test_install_completion_writes_what_the_shell_reads(run_cli, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    cli._build.cache_clear()  # the variable is read when commands are made
    result = run_cli("--install-completion", "bash")
    assert result.code == 0
    assert "bash completion installed" in result.out
    assert "_ABHINAYA_COMPLETE=complete_bash" in (
        tmp_path / ".bash_completions" / "abhinaya.sh"
    ).read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "said"), [([], "reading: 1 of 2\nreading: 2 of 2\nbegun\n"), (["--quiet"], "")]
)
def test_quiet_leaves_errors_and_warnings_only(run_cli, monkeypatch, options, said):
    def read(*_args, **_options):
        logger = logging.getLogger("abhinaya.data")
        with progress("reading", 2) as advance:
            advance(1)
            advance(1)
        logger.info("begun")
        logger.warning("odd")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("abhinaya.data.predictions.read_tables", read)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    result = run_cli("vote", "a.parquet", "--out", "b.parquet", *options)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"{said}odd\nError: No space left on device.\n"
    assert logging.getLogger("abhinaya").level == logging.INFO


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_that_prints_results_can_print_json(words):
    if words == ("app",):
        pytest.skip("it serves a page until it is stopped")
    assert "as_json" in {parameter.name for parameter in COMMANDS[words].params}
