"""The words of docstrings: verbs first, Python's None. Each failure says how to repair it."""

from __future__ import annotations

import ast
import io
import re
import tokenize

from source_tree import PACKAGES, parse, python_files, relative

VERBS = frozenset(
    """
    Adapt Add Answer Append Apply Ask Average Blend Bring Build Call Check Choose Collect
    Combine Compare Compile Complete Compute Copy Correct Count Cross Cut Deal Decode Delete
    Derive Describe Divide Do Draw Embed Encode Estimate Fill Filter Find Fit Fuse Give Group
    Hash Import Interpolate Keep Label Learn List Load Look Lower Make Mark Measure Merge Name
    Number Open Pad Parse Pick Plan Print Put Raise Rank Re-estimate Read Recompute Refuse
    Replace Return Run Say Scale Score Seed Set Settle Show Spell Split Start Stop Store
    Subtract Sum Swap Switch Synthesize Take Tell Trade Train Transcribe Turn Vote Wait Weight Write
    Yield
    """.split()
)
"""Verbs with which a function's docstring begins so far; a new one is added here."""

NULL_IS_RIGHT = {
    "abhinaya/data/manifest_cells.py",  # a spelling of "unknown" in other people's tables
    "abhinaya/pipeline/stages/cross_validate.py",  # tells the user what to write into YAML
    "abhinaya/pipeline/stages/train.py",  # the same
    "abhinaya/training/train.py",  # the same
    "members/llama_zero_shot/openai_engine.py",  # the same
    "members/whisper_encoder/config.py",  # the same
}
"""Files in which `null` is a word of a file format."""

NOT_A_SENTENCE = {"abhinaya/cli/__init__.py:_abhinaya"}  # shown as the help of the whole program
"""Functions whose docstring does not say what they do."""


def test_docstrings_of_functions_begin_with_a_verb():
    wrong, exempt, n_seen = [], set(), 0
    for file in python_files(*PACKAGES):
        for node in ast.walk(parse(file)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = ast.get_docstring(node)
            # A property is a thing, and is described like one.
            is_property = any("property" in ast.unparse(mark) for mark in node.decorator_list)
            if text is None or is_property:
                continue
            n_seen += 1
            name = f"{relative(file)}:{node.name}"
            if re.sub(r"\W+$", "", text.split()[0]) not in VERBS:
                if name in NOT_A_SENTENCE:
                    exempt.add(name)
                else:
                    wrong.append(f"{name}: {text.splitlines()[0]}")
    assert not wrong, f"{wrong}: begin with what the function does, such as Return or Read."
    assert exempt == NOT_A_SENTENCE, "an exemption is not needed: remove it."
    assert n_seen >= 700


def test_python_says_none():
    wrong, exempt, n_seen = [], set(), 0
    for file in python_files(*PACKAGES):
        n_seen += 1
        source = file.read_text(encoding="utf-8")
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in (tokenize.STRING, tokenize.COMMENT):
                continue
            if re.search(r"\bnull\b", token.string):
                if relative(file) in NULL_IS_RIGHT:
                    exempt.add(relative(file))
                else:
                    wrong.append(f"{relative(file)}:{token.start[0]}")
    assert not wrong, f"{wrong}: write None, or name the file as one that speaks of a format."
    assert exempt == NULL_IS_RIGHT, f"{NULL_IS_RIGHT - exempt} need no exemption: remove it."
    assert n_seen >= 190
