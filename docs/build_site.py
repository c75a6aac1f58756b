"""Hooks of mkdocs: what of the site is made from the code and from files beside docs/.

`mkdocs.yml` names this file. It adds the home page (README.md), the READMEs of members and folders,
the changelog, and two pages of reference that are read from the commands and the configs, so that
nothing generated is kept. It also lists the pages, so that a new one needs no entry.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic._internal._docs_extraction import extract_docstrings_from_cls
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
START = (
    "quick-start.md",
    "concepts.md",
    "tutorials/own-recordings.md",
    "tutorials/challenge-entry.md",
)
"""The tutorials that come first. What else lies in docs/ itself is a guide."""


def pages() -> dict[str, str]:
    """Return the pages that are files of the repository: path there -> path in the site."""
    found = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
    found |= {"CONTRIBUTING.md": "contributing.md", "prompts/README.md": "prompts.md"}
    found["benchmarks/README.md"] = "benchmarks.md"
    for file in sorted(ROOT.glob("members/*/README.md")):
        found[file.relative_to(ROOT).as_posix()] = f"members/{file.parent.name}.md"
    for file in sorted((ROOT / "docs").rglob("*.md")):
        path = file.relative_to(ROOT / "docs").as_posix()
        found[f"docs/{path}"] = path
    return found


def navigation() -> list[dict[str, Any]]:
    """Return the menu: what is in each folder, and the rest of docs/ by what it is for."""
    own = [path for source, path in pages().items() if source.startswith("docs/")]
    tutorials = [path for path in own if path.startswith("tutorials/")]
    results = [path for path in own if path.startswith("results/")]
    extend = [path for path in own if path.startswith("add-")]
    guides = [path for path in own if path not in (*tutorials, *results, *extend, *START)]
    return [
        {"Home": "index.md"},
        {"Tutorials": [*START, *(path for path in tutorials if path not in START)]},
        {"Guides": guides},
        {"Members": [path for path in pages().values() if path.startswith("members/")]},
        {"Results": results},
        {"Reference": ["commands.md", "configs.md", "prompts.md", "benchmarks.md", "changelog.md"]},
        {"Extend": [*extend, "contributing.md"]},
    ]


def on_config(config: Any) -> Any:
    """Set the menu."""
    config.nav = navigation()
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not lie in docs/."""
    from mkdocs.structure.files import File

    for source, path in pages().items():
        if not source.startswith("docs/"):
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, path, content=text))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    files.append(File.generated(config, "configs.md", content=configs_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links of the site."""
    places = pages()
    source = next((one for one, path in places.items() if path == page.file.src_uri), None)
    if source is None:
        return markdown

    def link(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups()
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if place not in places and place.startswith("docs/") and (ROOT / place).is_file():
            places[place] = place.removeprefix("docs/")  # a picture
        if place not in places:  # a file of the repository that is no page
            return text if "`" in text else f"`{place}`"
        if text.endswith(".md"):  # on the site a page is called by its title
            text = (ROOT / place).read_text("utf-8").partition("\n")[0].lstrip("# ")
        start = posixpath.dirname(page.file.src_uri) or "."
        return f"{mark}[{text}]({posixpath.relpath(places[place], start)}{anchor or ''})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)", link, markdown)


def commands_page() -> str:
    """Return every command with its help, arguments and options, as the program reads them."""
    import typer

    from abhinaya.cli import app

    root = typer.main.get_command(app)
    parts = ["# Commands", "`abhinaya COMMAND --help` says the same."]
    for name, command, context in _commands(
        root, root.make_context("abhinaya", [], resilient_parsing=True)
    ):
        parts += [f"## abhinaya {name}", _text(command.help or "")]
        usage = " ".join(command.collect_usage_pieces(context))
        usage = re.sub(r"\{(\w+)\}", lambda name: name[1].upper(), usage)
        parts.append(f"    abhinaya {name} {usage}")
        rows = [param.get_help_record(context) for param in command.get_params(context)]
        rows = [row for row in rows if row is not None and "--help" not in row[0]]
        if rows:
            lines = [f"| `{_plain(what)}` | {_text(said)} |" for what, said in rows]
            parts.append("\n".join(["| option | what |", "|---|---|", *lines]))
    return "\n\n".join(parts)


def _plain(option: str) -> str:
    """Return how an option is written, without the program's words for ranges."""
    return re.sub(r"<(int|float) range>", r"<\1>", option)


def _commands(group: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    for name, command in group.commands.items():
        below = command.make_context(name, [], parent=context, resilient_parsing=True)
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", *rest) for inner, *rest in _commands(command, below))
        else:
            yield name, command, below


def configs_page() -> str:
    """Return every key of the chain and of every registered member: type, default, meaning."""
    from abhinaya.pipeline.config import PipelineConfig
    from abhinaya.registry import load_member, member_names

    members = {name: load_member(name).config_class for name in member_names()}
    chains = {name: _own_bases(kind) for name, kind in members.items()}
    shared = list(dict.fromkeys(base for bases in chains.values() for base in reversed(bases[1:])))
    parts = [
        "# Configs",
        "A key is changed in the YAML, or on the command line as `key=value`. Keys with a dot are "
        "nested: `head.dropout=0.3` is `head: {dropout: 0.3}`.",
        "## The chain",
        "What `abhinaya run` reads.",
        _table(PipelineConfig, PipelineConfig.model_fields),
    ]
    for base in shared:
        parts += [f"## {base.__name__} {{ #{base.__name__.lower()} }}", _text(base.__doc__ or "")]
        parts.append(_table(base, _own_fields(base)))
    for name, kind in members.items():
        links = [
            f"[{base.__name__}](#{base.__name__.lower()})" for base in reversed(chains[name][1:])
        ]
        parts += [f"## {name} {{ #{name} }}", _text(kind.__doc__ or "")]
        parts.append(f"Keys of {', '.join(links)}{', and:' if _own_fields(kind) else '.'}")
        parts.append(_table(kind, _own_fields(kind)))
    return "\n\n".join(part for part in parts if part)


def _own_bases(kind: type[BaseModel]) -> list[type[BaseModel]]:
    """Return a class and those it inherits keys from."""
    return [base for base in kind.__mro__ if issubclass(base, BaseModel) and _own_fields(base)]


def _own_fields(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    own = vars(kind).get("__annotations__", {})
    return {name: field for name, field in kind.model_fields.items() if name in own}


def _table(kind: type[BaseModel], fields: dict[str, FieldInfo]) -> str:
    if not fields:
        return ""
    rows = [f"| {' | '.join(row)} |" for row in _rows(kind, fields, "", None)]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def _rows(
    kind: type[BaseModel], fields: dict[str, FieldInfo], prefix: str, given: BaseModel | None
) -> Iterator[tuple[str, ...]]:
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            meanings |= extract_docstrings_from_cls(base, use_inspect=True)
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        default = default if given is None else getattr(given, name)
        below = list(_models(field.annotation))
        if given is None and field.is_required():
            shown = "required"
        else:
            shown = "" if isinstance(default, BaseModel) else _code(default)
        meaning = field.description or meanings.get(name, "")
        if below and not meaning:
            meaning = (below[0].__doc__ or "").partition("\n\n")[0]
        yield f"`{prefix}{name}`", _kind(field, bool(below)), shown, _text(meaning)
        for model in below:
            inner = default if isinstance(default, model) else None
            dotted = f"{prefix}{name}{_between(field.annotation)}."
            yield from _rows(model, model.model_fields, dotted, inner)


def _kind(field: FieldInfo, has_keys: bool) -> str:
    if has_keys:
        return "keys below"
    kind = _type(field.annotation).removesuffix(" or none") + _bounds(field)
    return kind + (", or none" if type(None) in typing.get_args(field.annotation) else "")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Give the config classes in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


def _between(annotation: Any) -> str:
    """Say what stands between a key and those below it: a name of the reader's, or a number."""
    texts = str(annotation)
    return ".NAME" if "dict[" in texts or "Mapping[" in texts else "[]" if "tuple[" in texts else ""


def _type(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(args[0])
    if origin is typing.Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(arg) for arg in args)
    if args:
        what = "mapping" if origin in (dict, Mapping) else "list"
        return f"{what} of {', '.join(_type(arg) for arg in args if arg is not ...)}"
    names = {"NoneType": "none", "str": "text", "Path": "path", "float": "number"}
    names |= {"int": "whole number", "bool": "true, false", "Any": "anything"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name)


def _bounds(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [
        f"{sign} {getattr(mark, key)}"
        for mark in field.metadata
        for key, sign in signs.items()
        if getattr(mark, key, None) is not None
    ]
    return f" {', '.join(found)}" if found else ""


def _code(value: Any) -> str:
    if isinstance(value, BaseModel | Path):
        return _code_text(str(value))
    return _code_text(json.dumps(value, default=str, ensure_ascii=False))


def _code_text(text: str) -> str:
    return f"`{text}`" if text else ""


def _text(text: str) -> str:
    """Return prose of the code as Markdown: one paragraph stays one, code stays code."""
    text = re.sub(r"(?m)^( *Example: )(abhinaya .*)$", r"\1`\2`", text.replace("\b", ""))
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    pieces = re.split(r"(`[^`]*`)", "\n\n".join(paragraphs))
    return "".join(piece if piece.startswith("`") else _escaped(piece) for piece in pieces)


def _escaped(text: str) -> str:
    return re.sub(r"([*_|\[\]])", r"\\\1", html.escape(text, quote=False))
