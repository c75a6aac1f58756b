"""What costs nothing comes first: plans, and mistakes in what is named on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from source_tree import ROOT

HEAVY = {
    *("accelerate", "bitsandbytes", "numba", "peft", "safetensors", "scipy", "sklearn"),
    *("torch", "transformers", "whisper"),
}
"""Libraries that take seconds of CPU to import."""

REPORT = """
import json, sys
from abhinaya.cli import main
for line in json.loads(sys.argv[1]):
    try:
        main(line.split())
    except SystemExit as end:
        print("ENDED", end.code, *sys.modules, file=sys.stderr)
"""

WRONG_MANIFEST = [
    "predict run --manifest none.parquet --select test --out t.parquet",
    "train members/wavlm.yaml data.manifest=none.parquet",
    "train members/llama-8b-lora.yaml data.manifest=none.parquet",
    "transcribe none.parquet --model tiny",
    "cross-validate members/wavlm.yaml data.manifest=none.parquet --folds 5 --out t.parquet",
    "ablate-recipe members/wavlm.yaml data.manifest=none.parquet --switch loss --out t",
    "sweep members/wavlm.yaml data.manifest=none.parquet loss.gamma=0,1 --out t",
    "speakers none.parquet --model m --threshold 0.3 --out s.parquet",
    "soup a b --greedy --manifest none.parquet --select dev --out c",
    "score-asr none.parquet --source w",
    "prompts run --prompt hints-v1 --model members/llama-70b-zero-shot.yaml "
    "--manifest none.parquet --select test --out t",
    "prompts show hints-v1 --manifest none.parquet --utterance a",
    "prompts compare p.csv --manifest none.parquet",
    "smooth p.csv --manifest none.parquet --out t.parquet",
    "score p.csv --manifest none.parquet",
    "fit weights p.csv q.csv --manifest none.parquet --out r.json",
    "ablate p.csv q.csv --manifest none.parquet",
    "compare p.csv q.csv --manifest none.parquet",
]


def ends_of(lines, folder):
    """Run commands in one fresh process; return what each said, its code and what was loaded."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", REPORT, json.dumps(lines)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    said, found = "", []
    for line in done.stderr.splitlines():
        mark, _, rest = line.partition("ENDED ")
        if rest and not mark:
            code, *modules = rest.split()
            found.append((said, int(code), HEAVY & set(modules)))
            said = ""
        else:
            said += line
    assert len(found) == len(lines)
    return found


@pytest.fixture
def folder(tmp_path):
    for name in "pq":
        (tmp_path / f"{name}.csv").write_text("FileName,EmoClass\nu0,A\n")
    return tmp_path


def test_wrong_manifest_is_told_before_slow_libraries_load(folder):
    for line, (said, code, loaded) in zip(
        WRONG_MANIFEST, ends_of(WRONG_MANIFEST, folder), strict=True
    ):
        assert said.startswith("Error: There is no manifest 'none.parquet'."), line
        assert code == 1
        assert not loaded, f"{line} loads {loaded}: read the manifest before they are imported."


def test_plan_of_a_chain_with_all_kinds_of_members_is_light(folder):
    ((said, code, loaded),) = ends_of(["run demo/demo.yaml --plan --only prepare"], folder)
    assert code == 0
    assert "Note: prepare: corpus runs/demo/source/release: There is no" in said
    assert not loaded
