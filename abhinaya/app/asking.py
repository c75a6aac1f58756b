"""A prompt tried on one utterance: the chat as it is sent, and what a model answers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

from abhinaya.app.listening import Listener, harmless_overrides
from abhinaya.app.run import OpenedRun
from abhinaya.config import apply_overrides, load_yaml
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.data.transcripts import read_transcript_rows, transcripts_path
from abhinaya.errors import BadValueError
from abhinaya.files import write_text
from abhinaya.member import PredictRequest
from abhinaya.member_config import check_member_config, find_config_class, read_member_yaml
from abhinaya.prompting.experiments import PromptExperiment, plan_trials, read_texts
from abhinaya.prompting.prompts import Turn, load_prompt
from abhinaya.prompting.rendering import FillingConfig, PromptFiller
from abhinaya.resources import prompts_dir

__all__ = ["ask", "find_models", "find_sources", "save_prompt", "shipped_text", "show_chat"]

_ASKED = "asked"
_NAME = re.compile(r"^name:\s*['\"]?([\w.-]+)", re.MULTILINE)


def find_models(run: OpenedRun) -> dict[str, Path]:
    """Return the configs of the run's prompted members by name."""
    found = {}
    for member in run.members:
        if member.source is not None and member.source.is_file():
            content = load_yaml(member.source)
            if "prompt" in find_config_class(content, str(member.source)).model_fields:
                found[member.name] = member.source
    return found


def find_sources(run: OpenedRun) -> list[str]:
    """Return the sources of transcripts of the run's corpus, the one that its models read first."""
    if run.manifest is None:
        return []
    path = transcripts_path(run.manifest.root)
    sources = {row["source"] for row in read_transcript_rows(path)} if path.is_file() else set()
    read = [
        (load_yaml(config).get("data") or {}).get("transcripts") or {}
        for config in find_models(run).values()
    ]
    first = {texts.get("predict") for texts in read}
    return sorted(sources, key=lambda source: (source not in first, source == "human", source))


def shipped_text(name: str) -> str:
    """Return the file of a shipped prompt."""
    return (prompts_dir() / f"{name}.md").read_text(encoding="utf-8")


def save_prompt(text: str, folder: Path) -> Path:
    """Write the text of a prompt to a file of its own name in a new folder, and return its path.

    Raises:
        BadValueError: if it does not say its name.
    """
    name = _NAME.search(text)
    if name is None:
        raise BadValueError(
            "The prompt does not say its name. Begin it with the lines ---, name: own-v1, "
            "version: 1, slots: [transcript] and ---, as the shipped ones do."
        )
    path = Path(mkdtemp(dir=folder)) / f"{name[1]}.md"
    write_text(path, text)
    return path


def show_chat(
    run: OpenedRun, prompt: Path, utterance: str, source: str | None, model: str | None = None
) -> tuple[Turn, ...]:
    """Return the chat about an utterance, exactly as it is sent.

    Hints are measured on this clip alone.

    Args:
        run: its corpus has the utterance.
        prompt: a prompt file.
        utterance: what is asked about.
        source: of the transcript.
        model: name of a prompted member, for its `filling` and seed.

    Raises:
        BadValueError: if the run has no corpus, or no such utterance.
        ProblemsError: if the prompt is wrong, or needs what is not there.
    """
    manifest = _one_row(run, utterance)
    settings, seed = FillingConfig(), 0
    if model is not None:
        file = find_models(run)[model]
        config = check_member_config(read_member_yaml(file), str(file))
        settings, seed = getattr(config, "filling", settings), config.seed
    filler = PromptFiller(
        load_prompt(prompt),
        manifest,
        (_ASKED,),
        transcripts=read_texts(manifest, source),
        emotions=run.emotions,
        settings=settings,
        seed=seed,
        speech=f"[sound of {utterance}]",
    )
    return filler.turns(utterance)


def ask(
    listener: Listener, prompt: Path, utterance: str, source: str | None, model: str
) -> PredictionTable:
    """Return a table of one row: the answer of a prompted member to a prompt about an utterance.

    Args:
        listener: keeps the model loaded.
        prompt: a prompt file.
        utterance: what is asked about.
        source: of the transcript.
        model: name of a prompted member.

    Raises:
        AbhinayaError: if prompt and model do not go together, or the model is not there.
    """
    run = listener.run
    manifest, file = _one_row(run, utterance), find_models(run)[model]
    out = Path(mkdtemp(dir=listener.scratch))
    experiment = PromptExperiment(
        manifest=manifest.root / "manifest.parquet",
        audio_root=manifest.audio_root,
        select=(_ASKED,),
        transcripts=source,
        prompts=(str(prompt),),
        models=(f"{model}={file}",) if "/" not in model else (str(file),),
        decodings={"page": apply_overrides({}, harmless_overrides(file, listener.scratch))},
        out=out,
    )
    [trial] = plan_trials(experiment, manifest)
    request = PredictRequest(manifest, (_ASKED,), out / "answer.parquet")
    with listener.turn:
        return trial.member.predict(trial.config, request)


def _one_row(run: OpenedRun, utterance: str) -> Manifest:
    """Return the run's corpus with a subset of one utterance."""
    if run.manifest is None:
        raise BadValueError(
            f"The corpus of {str(run.folder)!r} is not there any more. Start the page with "
            "--manifest."
        )
    if utterance not in set(run.manifest.rows["utterance"]):
        raise BadValueError(f"The corpus has no utterance {utterance!r}. Choose one of its rows.")
    return replace(run.manifest, subsets={**run.manifest.subsets, _ASKED: (utterance,)})
