"""The site: its menu has every page, its reference every command and key, its links an end."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest
from source_tree import ROOT

from abhinaya.cli import COMMANDS
from abhinaya.config import load_yaml
from abhinaya.resources import configs_dir

_SPEC = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
assert _SPEC is not None
assert _SPEC.loader is not None
build_site = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(build_site)


def test_menu_has_every_page_once():
    listed = [
        path
        for section in build_site.navigation()
        for entry in section.values()
        for path in ([entry] if isinstance(entry, str) else entry)
    ]
    assert sorted(listed) == sorted([*build_site.pages().values(), "commands.md", "configs.md"])
    assert len(listed) >= 25


def test_reference_has_every_command_and_option():
    page = build_site.commands_page()
    assert [name for name in COMMANDS if f"\n## abhinaya {name}" not in page] == []
    assert "## abhinaya prompts compare" in page
    vote = page.split("## abhinaya vote\n")[1].split("\n## ")[0]
    assert "| `--tiebreaker NAME` |" in vote
    assert "Fuse tables by a vote." in vote


def dotted(content, prefix=""):
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")


@pytest.mark.slow  # all members are imported
def test_reference_has_every_member_and_every_key():
    from abhinaya.pipeline.config import PipelineConfig
    from abhinaya.registry import load_member, member_names

    page = build_site.configs_page()
    assert [name for name in member_names() if f"\n## {name} {{" not in page] == []
    keys = set(re.findall(r"(?m)^\| `([\w.\[\]]+)` \|", page))
    for kind in [PipelineConfig, *(load_member(name).config_class for name in member_names())]:
        assert set(kind.model_fields) <= keys
    for file in sorted((configs_dir() / "members").glob("*.yaml")):
        free = r"encoders\.\w+\.|(training|filling|decoding|set)\."
        used = {key for key in dotted(load_yaml(file)) if not re.match(free, f"{key}.")}
        assert used <= keys, f"{file.name}: {used - keys}"
    silent = re.findall(r"(?m)^\| `([\w.\[\]]+)` \| [^|]* \| [^|]* \| *\|$", page)
    assert not silent, f"{silent}: write a docstring below the field."
    assert len(keys) >= 350


def slug(heading):
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_every_anchor_of_a_link_is_a_heading():
    wrong, n_anchors = [], 0
    for source in build_site.pages():
        page = ROOT / source
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([\w-]+)\)", page.read_text("utf-8")):
            n_anchors += 1
            text = (page.parent / target if target else page).read_text("utf-8")
            if anchor not in map(slug, re.findall(r"(?m)^#+ (.*)$", text)):
                wrong.append(f"{source}: {target}#{anchor}")
    assert not wrong, f"{wrong}: name a heading of that page."
    assert n_anchors >= 2


def test_results_say_when_they_were_measured():
    pages = sorted((ROOT / "docs" / "results").glob("*.md"))
    silent = [page.name for page in pages if not re.search(r"\d{1,2} \w+ 20\d\d", page.read_text())]
    assert not silent, f"{silent}: say on which day the figures were taken, as in 3 May 2026."
    assert len(pages) >= 9


@pytest.mark.slow
def test_site_is_built_offline_and_without_a_warning(tmp_path):
    pytest.importorskip("material", reason="needs pip install 'abhinaya[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)],
        **{"cwd": ROOT, "capture_output": True, "text": True, "check": False},
    )
    assert done.returncode == 0, done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    for page in pages:
        text = page.read_text("utf-8")
        asked = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(https?:[^"]+)', text)
        assert not asked, f"{page.name} asks {asked}"
    assert len(pages) >= 25
