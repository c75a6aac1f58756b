"""`python -m abhinaya.demo`, which `make demo` runs: the whole chain on a corpus it makes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import typer

from abhinaya.cli import app, main
from abhinaya.cli.tables import show_table

__all__ = ["CHAIN", "FOLDER", "demo"]

CHAIN = "demo/demo.yaml"
"""The shipped config of the chain."""

FOLDER = Path("runs/demo")
"""Everything that the demo writes, below the working directory; `CHAIN` says the same."""

_START = f"""\
The whole chain, from a corpus to a submission, with tiny models: about two minutes.
The corpus is synthetic. It shows that the chain works and learns; its scores say nothing about
real speech. Everything goes to {FOLDER}. Stopped, or run again, it goes on where it was.
"""

_END = """
On the {n_utts} test clips, whose labels were kept aside, the vote has a macro-F1 of {macro_f1:.2f}
(95 % interval {low:.2f} to {high:.2f}). Guessing gives about 0.12. The corpus is synthetic, so
none of this says anything about real speech.

Where everything is, below {folder}:
  submission.csv          what a challenge would get; submissions.jsonl is its ledger
  report.html             all scores and figures, for a browser; as JSON in scores-test.json
  tables/test/            predictions of every member, and vote.parquet
  runs/                   trained members: best/ holds the weights, log.csv every epoch
  answers/                what the Llama answered, kept so that nothing is asked twice
  corpus/                 manifest.parquet, and problems.csv: what of the corpus cannot be used
  source/                 the synthetic corpus, test3_truth.csv, and recognised.csv with the words

What to try next:
  {abhinaya} score {folder}/tables/test/*.parquet \\
      --manifest {folder}/source/test3_truth.csv --per-class
  {abhinaya} vote {folder}/tables/test/w*.parquet --tiebreaker wavlm \\
      --out {folder}/other-vote.parquet
  {abhinaya} prompts run --prompt zero-shot-v1 --prompt few-shot-v1 \\
      --model demo/llama-zero-shot.yaml --manifest {folder}/corpus/manifest.parquet \\
      --select development --out {folder}/prompts
  {abhinaya} prompts compare {folder}/prompts \\
      --manifest {folder}/corpus/manifest.parquet
  {abhinaya} score-asr {folder}/corpus/manifest.parquet --source recogniser
  {abhinaya} train demo/wavlm.yaml seed=2 run_dir={folder}/runs/wavlm-2
  {abhinaya} run demo/demo.yaml --plan"""


def demo() -> None:
    """Make a synthetic corpus and tiny models, train seven members, ask one, vote, score, submit.

    It writes to runs/demo below the working directory.
    """
    typer.echo(_START)
    _write_corpus(FOLDER / "source")
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.config import load_pipeline
    from abhinaya.pipeline.run import run_pipeline
    from abhinaya.pipeline.steps import Report

    def show(report: Report) -> None:
        typer.echo("")
        show_table(report.columns, report.rows, title=report.title)

    quiet_libraries()
    _write_checkpoints(FOLDER / "checkpoints")
    _write_language_model(FOLDER / "checkpoints" / "llama")
    run_pipeline(load_pipeline(CHAIN), show)
    voted = json.loads((FOLDER / "scores-test.json").read_text(encoding="utf-8"))["vote"]
    typer.echo(
        _END.format(
            macro_f1=voted["macro_f1"],
            n_utts=voted["n_utts"],
            low=voted["interval"][0],
            high=voted["interval"][1],
            folder=FOLDER,
            abhinaya=_program(),
        )
    )


def _write_corpus(folder: Path) -> None:
    from abhinaya.demo.corpus.release import write_corpus

    # The release is written last and as a whole.
    if (folder / "release").is_dir():
        return
    typer.echo(f"Speaking a corpus in {folder}; this takes some ten seconds.")
    summary = write_corpus(folder)
    counts = ", ".join(f"{count} {split}" for split, count in summary.n_clips.items())
    typer.echo(
        f"{sum(summary.n_clips.values())} clips ({counts}) of {summary.n_speakers} synthetic "
        f"speakers, {summary.duration_s / 60:.0f} minutes in all."
    )


def _write_checkpoints(folder: Path) -> None:
    from abhinaya.demo.checkpoints.beats import write_beats
    from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper, write_whisper_openai
    from abhinaya.demo.checkpoints.llama import write_llama
    from abhinaya.demo.checkpoints.salmonn import write_salmonn
    from abhinaya.demo.checkpoints.text import write_roberta
    from abhinaya.files import atomic_folder

    if folder.is_dir():
        return
    typer.echo(f"Writing tiny models with random weights to {folder}.")
    with atomic_folder(folder) as temporary:
        # Group norm, as in WavLM-base: from random weights it learns faster than layer norm.
        write_wavlm(temporary / "wavlm", norm="group", n_layers=2)
        write_whisper(temporary / "whisper", chunk_s=3, n_layers=2, init_std=0.15)
        write_whisper_openai(temporary / "whisper.pt", chunk_s=3, n_layers=2, init_std=0.15)
        write_beats(temporary / "beats.pt")
        write_llama(temporary / "vicuna")
        write_roberta(temporary / "roberta")
        write_salmonn(
            temporary / "salmonn.pth", qformer_width=64, qformer_ffn_width=128, speech_std=0.3
        )


def _write_language_model(folder: Path) -> None:
    from abhinaya.corpora.transcript_csv import TEXT_COLUMN
    from abhinaya.data.label_csv import FILE_COLUMN, read_csv_rows
    from abhinaya.demo.checkpoints.trained_llama import write_trained_llama
    from abhinaya.files import atomic_folder

    if folder.is_dir():
        return
    typer.echo(
        f"Teaching a tiny Llama in {folder} one prompt, zero-shot-v1, on\n"
        "synthetic text of the corpus's grammar, but no sentence of the corpus; some ten seconds."
    )
    _, rows = read_csv_rows(FOLDER / "source" / "recognised.csv", (FILE_COLUMN, TEXT_COLUMN))
    with atomic_folder(folder) as temporary:
        write_trained_llama(temporary, keep_out=[row[TEXT_COLUMN] for row in rows])


def _program() -> str:
    """Return what to type for `abhinaya`: after `make demo` it is not on the path."""
    if shutil.which("abhinaya"):
        return "abhinaya"
    return f"{min(sys.executable, os.path.relpath(sys.executable), key=len)} -m abhinaya"


if __name__ == "__main__":
    # As a command of the program's own it answers errors as all of them do.
    app.command("demo")(demo)
    main(["demo", *sys.argv[1:]])
