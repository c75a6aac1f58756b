"""Whatever the pages name, tiny: corpora, weights below the names of the hub, runs, tables."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from exported_runs import write_run, write_wavlm
from member_recipes import RECIPES
from tiny_whisper import EOT, write_tiny

from abhinaya.config import load_yaml, merge
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable, write_table
from abhinaya.data.transcripts import write_transcripts
from abhinaya.demo.checkpoints.encoders import write_xvector
from abhinaya.resources import configs_dir

__all__ = ["PREMADE", "write_pages_workplace"]

NAMES = {
    split: [f"MSP-PODCAST_{podcast}_{idx:04}.wav" for idx in range(n)]
    for split, podcast, n in (
        ("train", "0001", 16),
        ("development", "0002", 40),
        ("test3", "test3", 8),
    )
}
CODES = MSP_PODCAST.codes
TINY: dict[str, Any] = {
    "audio": {"max_audio_s": 0.4},
    "training": {
        "global_batch_size": 8,
        "num_train_epochs": 1,
        "dataloader_num_workers": 0,
        "use_cpu": True,
        "bf16": False,
    },
    "inference": {"num_workers": 0},
}
"""Over each shipped config that trains."""

_RUNS = ("RUN", "RUN1", "RUN2", "runs/wavlm", "runs/mine", "runs/s1", "runs/t2")
PREMADE = (*_RUNS, "A.parquet", "runs/msp/wavlm.parquet", "runs/msp/vote.parquet")
"""What is there from the beginning although some page has a command that makes it."""


def write_pages_workplace(folder: Path) -> None:
    """Write it all; a page's own commands write the rest, or write it anew."""
    _write_clips(folder)
    _write_release(folder / "release")
    _write_manifests(folder)
    _write_tables(folder)
    _write_members(folder)
    write_xvector(folder / "microsoft/wavlm-base-plus-sv", n_layers=1, n_features=16)
    whisper = write_tiny(folder / "models", _say_little, n_layers=1, n_features=16)
    whisper.openai.rename(folder / "models/large-v3.pt")
    base = folder / "openai/whisper-small"
    RECIPES["whisper-encoder"].write_base(base)
    run = write_run(folder / "untrained", "whisper-encoder", base, pointwise=[])
    for name in _RUNS:
        shutil.copytree(run, folder / name)
        config = folder / name / "best/config.yaml"
        config.write_text(config.read_text().replace("name: tiny", f"name: {Path(name).name}"))


def _say_little(decoder: dict[str, Any]) -> None:
    decoder["embed_tokens.weight"][EOT] *= 8


def _rows() -> list[tuple[str, str, str, str]]:
    """Name, split, label and speaker of each clip; a speaker has four clips, of four classes."""
    return [
        (name, split, CODES[idx % 8], f"{split}-{idx // 4}")
        for split, names in NAMES.items()
        for idx, name in enumerate(names)
    ]


def _write_clips(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in [row[0] for row in _rows()]:
        for place in (folder / "mine/clips", folder / "release/Audios"):
            place.mkdir(parents=True, exist_ok=True)
            soundfile.write(place / name, 0.1 * rng.standard_normal(6_400), 16_000)
    for name in ("interview.wav", "calls/one.wav", "A.wav", "B.wav", "CLIP.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, 0.1 * rng.standard_normal(6_400), 16_000)
    rows = [
        (f"clips/{name}", label, speaker, "test" if split == "test3" else split)
        for name, split, label, speaker in _rows()
    ]
    _write_csv(folder / "mine/labels.csv", ("file", "label", "speaker", "split"), rows)
    for name, _, label, _ in _rows()[:32]:
        (folder / "recordings" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "mine/clips" / name, folder / "recordings" / label)


def _write_release(folder: Path) -> None:
    labelled = [row for row in _rows() if row[1] != "test3"]
    header = "FileName EmoClass EmoAct EmoVal EmoDom SpkrID Gender Split_Set".split()
    rows = [
        (name, label, 4 + idx % 3, 3.5, 4.2 - idx % 2, speaker, "Male", split.capitalize())
        for idx, (name, split, label, speaker) in enumerate(labelled)
    ]
    _write_csv(folder / "Labels/labels_consensus.csv", header, rows)
    votes = [(name, f"WORKER{idx}", "Neutral") for idx, (name, *_) in enumerate(labelled)]
    _write_csv(
        folder / "Labels/labels_detailed.csv", ("FileName", "worker", "EmoClass_Major"), votes
    )
    (folder.parent / "names.txt").write_text("".join(f"{name}\n" for name in NAMES["test3"]))
    lines = [f"{split.capitalize()}; {name}\n" for name, split, *_ in labelled]
    (folder / "Partitions.txt").write_text("".join(lines))
    (folder / "Transcripts").mkdir()
    for name, *_ in labelled:
        (folder / "Transcripts" / name.replace(".wav", ".txt")).write_text("well, no")


def _write_manifests(folder: Path) -> None:
    """`corpus/`, and two corpora more with sessions."""
    cells: list[dict[str, Any]] = [
        {
            "utterance": name,
            "audio": f"../release/Audios/{name}",
            "label": label,
            "split": split,
            "speaker": None if split == "test3" else speaker,
            "session": str(int(speaker[-1]) % 3),
            "duration_s": 0.4,
        }
        for name, split, label, speaker in _rows()
    ]
    texts = [
        {"utterance": cell["utterance"], "source": source, "text": "oh no"}
        for cell in cells
        for source in ("human", "whisper-large-v3")
    ]
    manifest = make_manifest(cells, MSP_PODCAST, folder / "corpus")
    subsets = {"balanced": tuple(NAMES["development"]), "test": tuple(NAMES["test3"])}
    write_manifest(replace(manifest, subsets=subsets), folder / "corpus/manifest.parquet")
    write_transcripts(texts, folder / "corpus/transcripts.parquet")
    other = [cell | {"utterance": f"other-{cell['utterance']}"} for cell in cells[:8]]
    write_manifest(make_manifest(other, MSP_PODCAST, folder), folder / "other/manifest.parquet")


def _write_tables(folder: Path) -> None:
    rng = np.random.default_rng(1)
    for split, ending in (("development", ""), ("development", "-dev"), ("test3", "-test")):
        for name in "AC":
            probs = rng.dirichlet(np.ones(8), size=len(NAMES[split])).astype(np.float32)
            table = PredictionTable(
                name,
                MSP_PODCAST,
                tuple(NAMES[split]),
                probs.argmax(axis=1),
                probs=probs,
                embeddings=rng.standard_normal((len(probs), 4)).astype(np.float32),
                meta={"head": {"weight": np.eye(8, 4).tolist(), "bias": [0.0] * 8}},
            )
            write_table(table, folder / f"{name}{ending}.parquet")
    for name, split in (("wavlm", "development"), ("vote", "test3")):
        n_rows = len(NAMES[split])
        table = PredictionTable(
            name,
            MSP_PODCAST,
            tuple(NAMES[split]),
            np.arange(n_rows) % 8,
            attributes=rng.uniform(1, 7, (n_rows, 3)).astype(np.float32),
        )
        write_table(table, folder / f"runs/msp/{name}.parquet")
    header = ("FileName", "EmoClass")
    _write_csv(folder / "B.csv", header, [(name, "A") for name in NAMES["development"]])
    for name, label in (("other", "A"), ("third", "N")):
        _write_csv(folder / f"{name}.csv", header, [(name, label) for name in NAMES["test3"]])


def _write_members(folder: Path) -> None:
    """Write `members/NAME.yaml`, as shipped but for sizes: a config is first looked for here."""
    (folder / "members").mkdir()
    for name in ("wavlm", "whisper-encoder-frozen", "distilhubert", "fusion", "llama-8b-lora"):
        shipped = load_yaml(configs_dir() / f"members/{name}.yaml")
        base = folder / "weights" / name
        if name == "wavlm":  # of a kind that is quickly exported
            write_wavlm(base, norm="layer")
            tiny: dict[str, Any] = {"base": str(base)}
        else:
            tiny = RECIPES[shipped["member"]].write_base(base)
        content = merge(merge(merge(shipped, tiny), TINY), {"head": {"hidden": 8}})
        (folder / f"members/{name}.yaml").write_text(yaml.safe_dump(content))
    shipped = load_yaml(configs_dir() / "members/llama-70b-zero-shot.yaml")
    write: Callable[[Path], dict[str, Any]] = RECIPES["llama-70b-zero-shot"].write_base
    tiny = write(folder / "weights/chat")
    (folder / "members/llama-70b-zero-shot.yaml").write_text(yaml.safe_dump(merge(shipped, tiny)))
    experiment = {
        "prompts": ["zero-shot-v1"],
        "models": ["members/llama-70b-zero-shot.yaml"],
        "manifest": "corpus/manifest.parquet",
        "select": ["test"],
        "out": "runs/prompts",
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))


def _write_csv(path: Path, header: Any, rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
