"""A folder with one small file of every kind that the commands read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable, write_table
from abhinaya.data.transcripts import write_transcripts

__all__ = ["write_corpora", "write_models", "write_tables"]

NAMES = [f"MSP-PODCAST_0001_{idx:04}.wav" for idx in range(12)]
LABELS = "ACDFHNSUANHS"
_PROMPT = "---\nname: own-v1\nversion: 1\nslots: [transcript]\n---\n## user\n{{ transcript }}\n"


def write_corpora(folder: Path) -> None:
    """`clips/`, a corpus of each layout around them, and manifests in both formats."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        file = folder / "clips" / name
        file.parent.mkdir(exist_ok=True)
        soundfile.write(file, 0.1 * rng.standard_normal(6_400), 16_000)
    soundfile.write(folder / "clips" / "other.flac", 0.1 * rng.standard_normal(6_400), 16_000)
    splits = ["train"] * 8 + ["development"] * 4
    rows = list(zip(NAMES, LABELS, splits, strict=True))
    _write(
        folder / "clips/labels.csv",
        "file,label,split,speaker",
        *(f"{name},{label},{split},{idx % 4}" for idx, (name, label, split) in enumerate(rows)),
        "other.flac,A,train,3",
    )
    _write(folder / "heard.csv", "FileName,Transcript", *(f"{name},oh no" for name in NAMES))
    _write(folder / "truth.csv", "FileName,EmoClass", *(f"{n},{label}" for n, label, _ in rows))
    _write(folder / "names.txt", *NAMES)
    _write(
        folder / "release/Labels/labels_consensus.csv",
        "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set",
        *(f"{n},{label},4.0,3.5,4.2,127,Male,{s.capitalize()}" for n, label, s in rows),
    )
    _write(
        folder / "release/Labels/labels_detailed.csv",
        "FileName,worker,EmoClass_Major",
        *(f"{name},WORKER1,Neutral" for name in NAMES),
    )
    _write(folder / "release/Partitions.txt", *(f"{s.capitalize()}; {n}" for n, _, s in rows))
    _write(folder / "release/Transcripts" / f"{NAMES[0][:-4]}.txt", "well")
    (folder / "release/Audios").symlink_to(folder / "clips")
    (folder / "lists").mkdir()
    lists = {"path": NAMES, "label": list(LABELS), "text": ["oh"] * 12, "valence": [2.5] * 12}
    (folder / "lists/train.json").write_text(json.dumps(lists))
    (folder / "emodb/wav").mkdir(parents=True)
    for idx, name in enumerate(("03a01Wa", "08a02La", "11a04Ac", "14a04Fc", "16a07Ta", "12b01Fa")):
        shutil.copy(folder / "clips" / NAMES[idx], folder / "emodb/wav" / f"{name}.wav")
    _write(
        folder / "emodb/metadata.csv",
        "file,human_naturalness_pct",
        *(f"wav/{file.name},95.5" for file in sorted((folder / "emodb/wav").iterdir())),
    )
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode"
    line = '1,Hooray!,Joey,joy,positive,0,0,8,21,"00:16:21,940","00:16:23,442"'
    for name in ("train", "dev", "test"):
        _write(folder / f"meld/{name}_sent_emo.csv", f"{header},StartTime,EndTime", line)
    _write_data_set(folder)
    _write(folder / "classes.yaml", "codes: [bad, good]", "map: {A: bad, S: bad, H: good}")
    challenge = "classes: {codes: [A, C, D, F, H, N, S, U]}\nquota: {count: 3, per: week}"
    _write(folder / "ours.yaml", "n_rows: 12", challenge)
    actors = folder / "ravdess/Actor_12"
    actors.mkdir(parents=True)
    for idx, emotion in enumerate((1, 3, 6)):
        shutil.copy(folder / "clips" / NAMES[idx], actors / f"03-01-0{emotion}-01-01-01-12.wav")
    wavs = [{"key": f"k{n}", "wav": str(path)} for n, path in enumerate(sorted(actors.iterdir()))]
    for part, entries in (("train", wavs[:2]), ("test", wavs[2:])):
        lines = map(json.dumps, entries)
        _write(folder / f"emobox/fold_1/ravdess_{part}_fold_1.jsonl", *lines)
    cells: list[dict[str, Any]] = [
        {
            "utterance": name,
            "audio": f"../clips/{name}",
            "label": label,
            "split": split,
            "speaker": str(idx % 4),
            "duration_s": 0.4,
            "votes": [*(int(code == label) for code in MSP_PODCAST.codes), 1],
        }
        for idx, (name, label, split) in enumerate(rows)
    ]
    manifest = make_manifest(cells, MSP_PODCAST, folder / "corpus")
    write_manifest(manifest, folder / "corpus/manifest.parquet")
    texts = [
        {"utterance": name, "source": source, "text": "oh no"}
        for name in NAMES
        for source in ("human", "heard")
    ]
    write_transcripts(texts, folder / "corpus/transcripts.parquet")
    _write(folder / "manifest.csv", "utterance,label,split", *(",".join(row) for row in rows))


def _write_data_set(folder: Path) -> None:
    """`hub/one.parquet`, as the library `datasets` stores sound in a table."""
    import datasets

    clips = [{"path": name, "bytes": (folder / "clips" / name).read_bytes()} for name in NAMES]
    table = datasets.Dataset.from_dict({"audio": clips, "label": list(LABELS)})
    (folder / "hub").mkdir()
    table.cast_column("audio", datasets.Audio()).to_parquet(folder / "hub/one.parquet")


def write_tables(folder: Path) -> None:
    """`p.parquet` and `q.parquet` with all that tables can hold, `r.csv`, and what fuses them."""
    rng = np.random.default_rng(1)
    for name in "pq":
        probs = rng.dirichlet(np.ones(8), size=12).astype(np.float32)
        table = PredictionTable(
            name,
            MSP_PODCAST,
            tuple(NAMES),
            probs.argmax(axis=1),
            probs=probs,
            embeddings=rng.standard_normal((12, 4)).astype(np.float32),
            meta={"member": "wavlm", "head": {"weight": np.eye(8, 4).tolist(), "bias": [0.0] * 8}},
        )
        write_table(table, folder / f"{name}.parquet")
    _write(folder / "r.csv", "FileName,EmoClass", *(f"{name},A" for name in NAMES))
    _write(folder / "theirs.csv", "path;emotion", *(f"{name[:-4]}; angry" for name in NAMES))
    (folder / "combinations.yaml").write_text("combinations:\n  two: [p, q]\n  three: [p, q, r]\n")
    shutil.copytree(folder, folder / "answered", ignore=lambda _, names: {*names} - {"p.parquet"})


def write_models(folder: Path) -> None:
    """Tiny weights and the configs of members that use them."""
    import torch
    from member_recipes import tiny_salmonn
    from safetensors.torch import load_file
    from tiny_whisper import write_tiny

    from abhinaya.demo.checkpoints.encoders import write_wavlm, write_xvector
    from abhinaya.demo.checkpoints.llama import write_llama

    write_wavlm(folder / "base", n_layers=1, n_features=16, n_conv_features=8)
    write_xvector(folder / "voices", n_layers=1, n_features=16, n_conv_features=8)
    write_tiny(folder / "whisper", n_layers=1, n_features=16)
    write_llama(folder / "llm", layout="llama3", n_layers=1, vocab_size=384, chat_template=True)
    shutil.copytree(folder / "base", folder / "pickled")
    (folder / "pickled/model.safetensors").unlink()
    torch.save(load_file(folder / "base/model.safetensors"), folder / "pickled/pytorch_model.bin")
    manifest = {"manifest": "corpus/manifest.parquet"}
    training: dict[str, Any] = {
        "run_dir": "out/run",
        "data": manifest,
        "audio": {"max_audio_s": 0.2, "train_crop": "first"},
        "head": {"hidden": 4},
        "training": {"global_batch_size": 4, "num_train_epochs": 1, "use_cpu": True},
    }
    _write_yaml(
        folder / "audit.yaml",
        name="audit",
        out="out",
        encoders={"tiny": {"base": "base"}},
        corpora={"mine": {"manifest": "corpus/manifest.parquet"}},
        classes=["H", "S"],
        seeds=[1],
        cache={"dir": "out/cache"},
        figures=False,
        probe={"epochs": 1},
        probes={"taxonomies": ["common"], "splits": ["leave-one-out"]},
    )
    _write_yaml(
        folder / "wavlm.yaml",
        member="wavlm",
        name="tiny",
        base="base",
        pooling="mean",
        freeze="encoder",
        cache={"dir": "features"},
        **training,
    )
    pool = {"emotion_recognition": [f"<Speech><SpeechHere></Speech> {text}" for text in "abc"]}
    (folder / "pool.json").write_text(json.dumps(pool))
    (folder / "salmonn").mkdir()
    _write_yaml(
        folder / "salmonn.yaml",
        member="salmonn-13b",
        name="salmonn",
        prompt="salmonn-speech-v1",
        prompt_pool={"file": "pool.json"},
        prompt_sampling="random",
        **tiny_salmonn(folder / "salmonn"),
        **training,
    )
    _write_yaml(
        folder / "chat.yaml",
        member="llama-70b-zero-shot",
        name="chat",
        engine="transformers",
        transformers={"weights": "float32"},
        base="llm",
        prompt="own-v1.md",
        answers="answers",
        data={**manifest, "transcripts": {"predict": "heard"}},
    )
    (folder / "own-v1.md").write_text(_PROMPT)
    shutil.copytree(folder / "corpus", folder / "heard")
    _write_yaml(
        folder / "trials.yaml",
        prompts=["own-v1.md"],
        models=["chat.yaml"],
        **manifest,
        select=["development"],
        transcripts="heard",
        out="out",
    )
    _write_yaml(
        folder / "chain.yaml",
        name="chain",
        out="out",
        **manifest,
        members={"tiny": {"config": "wavlm.yaml", "set": {"seed": 1}}},
        predict={"dev": "development"},
        score=[{"selection": "dev", "resamples": 10}],
    )


def _write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _write_yaml(path: Path, **content: Any) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
