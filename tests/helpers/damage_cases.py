"""Every command of the app, and the files that it reads; a new command gets a line here."""

from __future__ import annotations

from dataclasses import dataclass

from workplace import NAMES

__all__ = ["CASES", "EXEMPT", "Case"]


@dataclass(frozen=True)
class Case:
    """A command line that works, and the files whose damage it has to survive.

    Args:
        line: what follows `abhinaya`; all it writes goes to `out` or `out.*`.
        reads: the files, in the folder of `workplace`.
        needs_models: tiny models are written first; such cases are slow.
        begin: a file or folder that is copied to where the output goes before each run.
    """

    line: str
    reads: tuple[str, ...]
    needs_models: bool = False
    begin: tuple[str, str] | None = None

    def id(self) -> str:
        return self.line.replace("/", "-").replace("--", "")[:60]


WAV = f"clips/{NAMES[0]}"
LEARN = "--manifest manifest.csv --resamples 10"
CASES: tuple[Case, ...] = (
    Case("prepare folder clips --out out", ("clips/labels.csv", WAV, "clips/other.flac")),
    Case("prepare folder clips --transcripts heard=heard.csv --out out", ("heard.csv",)),
    Case(
        "prepare msp-podcast release --out out",
        (
            "release/Labels/labels_consensus.csv",
            "release/Labels/labels_detailed.csv",
            "release/Partitions.txt",
            f"release/Transcripts/{NAMES[0][:-4]}.txt",
        ),
    ),
    Case(  # What is there already.
        "prepare folder clips --out out",
        ("corpus/manifest.parquet", "corpus/transcripts.parquet"),
        begin=("corpus", "out"),
    ),
    Case("prepare msp-podcast-lists lists --no-audio --out out", ("lists/train.json",)),
    Case("prepare emodb emodb --out out", ("emodb/wav/03a01Wa.wav", "emodb/metadata.csv")),
    Case("prepare meld meld --out out", ("meld/dev_sent_emo.csv",)),
    Case(
        "prepare ravdess ravdess --folds emobox --out out",
        ("emobox/fold_1/ravdess_test_fold_1.jsonl", "ravdess/Actor_12/03-01-01-01-01-01-12.wav"),
    ),
    Case("prepare dataset hub/one.parquet --out out", ("hub/one.parquet",)),
    Case("prepare folder clips --classes classes.yaml --out out", ("classes.yaml",)),
    Case(
        "relabel corpus/manifest.parquet --classes classes.yaml --out out",
        ("corpus/manifest.parquet", "corpus/transcripts.parquet", "classes.yaml"),
    ),
    Case(
        "export-dataset corpus/manifest.parquet --predictions p.parquet --transcripts heard "
        "--out out",
        ("corpus/manifest.parquet", "corpus/transcripts.parquet", "p.parquet"),
    ),
    Case("vote p.parquet q.parquet --rule soft --out out.parquet", ("p.parquet",)),
    Case("vote p.parquet q.parquet r.csv --out out.csv", ("q.parquet", "r.csv")),
    Case(
        f"ablate p.parquet q.parquet r.csv {LEARN} --combinations combinations.yaml "
        "--out out.parquet",
        ("p.parquet", "r.csv", "manifest.csv", "combinations.yaml"),
    ),
    Case(
        "fit weights p.parquet q.parquet --manifest corpus/manifest.parquet --resamples 10 "
        "--folds 2 --out out.json",
        ("p.parquet", "corpus/manifest.parquet"),
    ),
    Case(
        "apply recipe.json p.parquet q.parquet --allow-fitted-rows --out out.parquet",
        ("recipe.json", "q.parquet"),
    ),
    Case(
        "smooth p.parquet --manifest corpus/manifest.parquet --jobs 1 --out out.parquet",
        ("p.parquet", "corpus/manifest.parquet"),
    ),
    Case(
        "score p.parquet r.csv --manifest corpus/manifest.parquet --by-speaker --resamples 10",
        ("p.parquet", "corpus/manifest.parquet"),
    ),
    Case("score p.parquet --manifest truth.csv --resamples 10", ("truth.csv",)),
    Case(
        f"compare p.parquet r.csv {LEARN}",
        ("p.parquet", "r.csv", "manifest.csv"),
    ),
    Case(
        "score-asr corpus/manifest.parquet --source heard --resamples 10",
        ("corpus/manifest.parquet", "corpus/transcripts.parquet"),
    ),
    Case(
        "convert theirs.csv --columns file=path,label=emotion --separator ; --ending .wav --words "
        "--out out.csv",
        ("theirs.csv",),
    ),
    Case("submit p.parquet --names names.txt --out out.csv", ("p.parquet", "names.txt")),
    Case(
        "submit p.parquet --names corpus/manifest.parquet --out out.csv",
        ("corpus/manifest.parquet",),
    ),
    Case("submit p.parquet --challenge ours.yaml --names names.txt --out out.csv", ("ours.yaml",)),
    Case("submit p.parquet --names names.txt --out ledger/out.csv", ("ledger/submissions.jsonl",)),
    Case("submit --score 0.4 --out ledger/submitted.csv", ("ledger/submissions.jsonl",)),
    Case("report r.csv --manifest truth.csv --resamples 10 --out out.html", ("truth.csv",)),
    Case(f"prompts compare answered {LEARN}", ("answered/p.parquet", "manifest.csv")),
)
CASES += (
    Case(
        "prompts show own-v1.md --manifest corpus/manifest.parquet --model chat.yaml "
        f"--transcripts heard --utterance {NAMES[0]}",
        ("own-v1.md", "corpus/manifest.parquet", "corpus/transcripts.parquet", "chat.yaml"),
        True,
    ),
    Case(
        "prompts run trials.yaml",
        (
            "trials.yaml",
            "chat.yaml",
            "llm/config.json",
            "llm/tokenizer.json",
            "llm/tokenizer_config.json",
            "llm/model.safetensors.index.json",
            "llm/model-00002-of-00002.safetensors",
        ),
        True,
    ),
    Case(
        "train wavlm.yaml",
        (
            "wavlm.yaml",
            "corpus/manifest.parquet",
            WAV,
            "base/config.json",
            "base/preprocessor_config.json",
            "base/model.safetensors",
        ),
        True,
    ),
    Case(
        "predict run --manifest corpus/manifest.parquet --select development --out out.parquet",
        (
            "run/best/config.yaml",
            "run/best/classes.json",
            "run/best/metrics.json",
            "run/best/facts.json",
            "run/best/model.safetensors",
            "corpus/manifest.parquet",
            f"clips/{NAMES[-1]}",
        ),
        True,
    ),
    Case(
        "cross-validate wavlm.yaml run_dir=out --by speaker --folds 3 --out out.parquet",
        ("wavlm.yaml", "corpus/manifest.parquet"),
        True,
    ),
    Case(
        f"preview wavlm.yaml {WAV} cache=null audio.augment.background.probability=1 "
        "audio.augment.background.range=[9,9] audio.augment.background.folder=clips --out out",
        ("wavlm.yaml", WAV, f"clips/{NAMES[1]}"),
        True,
    ),
    Case(
        "ablate-recipe wavlm.yaml --switch head.hidden=0 --seeds 1 --resamples 10 --out out",
        ("wavlm.yaml",),
        True,
    ),
    Case(
        "sweep wavlm.yaml head.dropout=0,0.5 --resamples 10 --out out",
        ("wavlm.yaml",),
        True,
    ),
    Case("export run --out out", ("run/best/config.yaml", "run/best/model.safetensors"), True),
    Case(
        "predict exported --manifest corpus/manifest.parquet --select development "
        "--out out.parquet",
        (
            "exported/config.yaml",
            "exported/export.json",
            "exported/model.onnx",
            "exported/training_rows.json",
        ),
        True,
    ),
    Case(
        "soup run run2 --out out",
        ("run/best/config.yaml", "run/best/facts.json", "run2/best/model.safetensors"),
        True,
    ),
    Case(
        "speakers corpus/manifest.parquet --replace --model voices --n-speakers 2 "
        "--embeddings out.npz --out out.parquet",
        ("corpus/manifest.parquet", WAV, "voices/config.json", "voices/model.safetensors"),
        True,
    ),
    Case(
        "speakers corpus/manifest.parquet --replace --n-speakers 2 --embeddings voices.npz "
        "--out out.parquet",
        ("voices.npz",),
        True,
    ),
    Case(
        "transcribe heard/manifest.parquet --model whisper/hub --source tiny --temperature 0",
        (
            "whisper/hub/config.json",
            "whisper/hub/model.safetensors",
            "whisper/hub/generation_config.json",
            "whisper/hub/preprocessor_config.json",
        ),
        True,
    ),
    Case(  # A killed training goes on.
        "train wavlm.yaml run_dir=out/run",
        (
            "half/digest.json",
            "half/checkpoint-2/trainer_state.json",
            "half/checkpoint-2/optimizer.pt",
            "half/checkpoint-2/scheduler.pt",
            "half/checkpoint-2/rng_state.pth",
            "half/checkpoint-2/model.safetensors",
            "features/**/*.npy",
        ),
        True,
        ("half", "out/run"),
    ),
    Case(  # What is there already.
        "predict run --manifest corpus/manifest.parquet --select development --out out.parquet",
        ("made.parquet",),
        True,
        ("made.parquet", "out.parquet"),
    ),
    Case(
        "predict chat.yaml --manifest corpus/manifest.parquet --select development "
        "--out out.parquet",
        ("answers/**/*.jsonl", "own-v1.md", "llm/tokenizer.json"),
        True,
    ),
    Case(
        "run chain.yaml",
        ("ran/.steps/train.tiny.json", "ran/tables/dev/tiny.parquet", "ran/runs/tiny/digest.json"),
        True,
        ("ran", "out"),
    ),
    Case(
        "report ran --resamples 10 --out out.html",
        ("ran/.steps/config.json", "ran/.steps/train.tiny.json", "ran/runs/tiny/log.csv"),
        True,
    ),
    Case(
        "audit audit.yaml",
        (
            "audit.yaml",
            "corpus/manifest.parquet",
            WAV,
            "base/config.json",
            "base/model.safetensors",
        ),
        True,
    ),
    Case("train wavlm.yaml base=pickled", ("pickled/pytorch_model.bin",), True),
    Case("train salmonn.yaml", ("pool.json",), True),
    Case("doctor salmonn.yaml", ("pool.json", "salmonn/salmonn.pth", "salmonn/beats.pt"), True),
    Case(  # On a CPU nothing is scaled: the whole file is empty, and the training starts anew.
        "train wavlm.yaml run_dir=out/run",
        ("scaled/checkpoint-2/scaler.pt",),
        True,
        ("scaled", "out/run"),
    ),
    Case("doctor wavlm.yaml", ("wavlm.yaml", "base/config.json", "base/model.safetensors"), True),
    Case("run chain.yaml", ("chain.yaml", "wavlm.yaml", "base/model.safetensors"), True),
    Case("run chain.yaml --plan", ("chain.yaml", "wavlm.yaml", "base/model.safetensors"), True),
)
EXEMPT = {
    "app": "it serves until it is stopped; tests/app damages what it reads",
    "prompts list": "it reads shipped prompts alone",
}
