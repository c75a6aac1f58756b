"""Prompt experiments: prompts x models x decodings, a prediction table each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from abhinaya.config import (
    Config,
    MemberConfig,
    Selection,
    TrainedConfig,
    dump_yaml,
    merge,
)
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.data.transcripts import (
    HUMAN,
    read_transcript_rows,
    read_transcripts,
    transcripts_path,
)
from abhinaya.errors import (
    AbhinayaError,
    BadValueError,
    ProblemsError,
)
from abhinaya.files import sole_writer, write_text
from abhinaya.member import Member, PredictRequest
from abhinaya.member_config import check_member_config, find_config_class, read_member_yaml
from abhinaya.prompting.prompts import Prompt, load_prompt
from abhinaya.prompting.rendering import FillingConfig, PromptFiller, find_lacks
from abhinaya.registry import load_member
from abhinaya.resources import find_config

__all__ = [
    "PromptExperiment",
    "Trial",
    "choose_source",
    "plan_trials",
    "read_texts",
    "run_trials",
]

_logger = logging.getLogger(__name__)


class PromptExperiment(Config):
    """What is crossed, and on which rows."""

    manifest: Path
    """Manifest of the corpus."""
    audio_root: Path | None = None
    """Where the audio lies now, if not where the manifest was made."""
    select: Selection = Field(min_length=1)
    """Rows to ask about."""
    transcripts: str | None = None
    """Source of the text; `None` for the only one that is not by people."""
    prompts: tuple[str, ...] = Field(min_length=1)
    """Names of shipped prompts, or .md files."""
    models: tuple[str, ...] = Field(min_length=1)
    """Configs of prompted members, or NAME=CONFIG; otherwise the config's `name` counts."""
    decodings: dict[str, dict[str, Any]] = Field(default={"default": {}}, min_length=1)
    """Changes of the config by name, such as `warm: {decoding: {temperature: 0.7}}`."""
    out: Path
    """Folder for the tables."""

    @field_validator("select", "prompts", "models", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class Trial:
    """One prompt to one model with one decoding.

    Args:
        name: of the table: prompt, model and decoding with `__` between them.
        prompt: what is asked.
        model: name of the model.
        decoding: name of the decoding.
        member: what predicts.
        config: its config with everything set.
    """

    name: str
    prompt: Prompt
    model: str
    decoding: str
    member: Member
    config: MemberConfig


def choose_source(manifest: Manifest, *, people: bool = False) -> str:
    """Return the only source of transcripts that is not by people.

    Args:
        manifest: the corpus.
        people: True takes theirs where there is no other; a score on them would promise too much.

    Raises:
        AbhinayaError: if there are no transcripts, or they cannot be read.
        BadValueError: if there is no such source, or several.
    """
    path = transcripts_path(manifest.root)
    sources: list[str] = sorted({row["source"] for row in read_transcript_rows(path)})
    machines = [source for source in sources if source != HUMAN]
    if people and len(sources) == 1:
        return sources[0]
    if len(machines) == 1:
        return machines[0]
    raise BadValueError(
        f"{str(path)!r} has text from {', '.join(sources) or 'nobody'}, so it is open which text "
        "is meant. Choose with --transcripts SOURCE, or in an experiment with transcripts."
    )


def read_texts(manifest: Manifest, source: str | None) -> dict[str, str | None]:
    """Return text by utterance of one source; nothing for none.

    Raises:
        AbhinayaError: as `read_transcripts` does.
    """
    if source is None:
        return {}
    return read_transcripts(transcripts_path(manifest.root), source)


def plan_trials(experiment: PromptExperiment, manifest: Manifest) -> list[Trial]:
    """Return every trial, checked: by model, then by decoding, then by prompt.

    Args:
        experiment: what is crossed.
        manifest: the corpus, read.

    Raises:
        ProblemsError: with everything that would stop a trial later, as far as it can be told
            without a model: members that are not prompted, prompts that need what the selection
            lacks, names that are there twice.
        AbhinayaError: if a file is missing or wrong.
    """
    prompts = [(given, load_prompt(given)) for given in experiment.prompts]
    source = experiment.transcripts
    if source is None and any("text" in prompt.needs for _, prompt in prompts):
        source = choose_source(manifest)
    texts = read_texts(manifest, source)
    problems = [
        f"the decoding name {name!r} may hold letters, digits, '_', '.' and '-' only"
        for name in experiment.decodings
        if not _is_name(name)
    ]
    lacking = {}
    for given, prompt in prompts:
        lacks = find_lacks(prompt, manifest, experiment.select, texts)
        lacking[given] = bool(lacks)
        problems += [f"the prompt {prompt.name!r}: {lack}" for lack in lacks]
    trials: list[Trial] = []
    for model in experiment.models:
        name, content, where = _read_model(model)
        kind = find_config_class(content, where)
        if "prompt" not in kind.model_fields or issubclass(kind, TrainedConfig):
            problems.append(
                f"the model {name!r}: the member {content['member']!r} is not asked with a prompt "
                "in prediction; choose one that is, such as salmonn-zero-shot"
            )
            continue
        if not _is_name(name):
            problems.append(f"the model name {name!r} may hold letters, digits, '_', '.' and '-'")
            continue
        member = load_member(content["member"])
        for decoding, changes in experiment.decodings.items():
            for given, prompt in prompts:
                trial_name = f"{prompt.name}__{name}__{decoding}"
                change = _trial_content(trial_name, given, prompt, experiment, source, kind)
                try:
                    config = check_member_config(merge(merge(content, changes), change), where)
                except ProblemsError as err:
                    # The same for every prompt, so it is told once.
                    problems += [f"{name}, {decoding}: {problem}" for problem in err.problems]
                    continue
                if not lacking[given]:
                    problems += _misfits(trial_name, prompt, config, manifest, experiment, texts)
                trials.append(Trial(trial_name, prompt, name, decoding, member, config))
    names = Counter(trial.name for trial in trials)
    problems += [
        f"{count} trials are named {name!r}; rename a prompt's file, or a model with NAME=CONFIG"
        for name, count in names.items()
        if count > 1
    ]
    if problems:
        raise ProblemsError("the prompt experiment", list(dict.fromkeys(problems)))
    return trials


def run_trials(
    trials: Sequence[Trial], experiment: PromptExperiment, manifest: Manifest
) -> Iterator[PredictionTable]:
    """Return the table of each trial, written to `NAME.parquet` in the experiment's folder.

    The resolved experiment is written beside them. A trial whose very table is there already costs
    nothing: the members see to it, as in any prediction; a killed trial goes on where it was.

    Args:
        trials: from `plan_trials`.
        experiment: what is crossed.
        manifest: the corpus, read.

    Raises:
        BadValueError: if another process writes into the same folder now.
    """
    with ExitStack() as stack:
        stack.enter_context(sole_writer(experiment.out, "--out"))
        for member in {id(trial.member): trial.member for trial in trials}.values():
            # A member with a large model of its own loads it once for all trials.
            if hasattr(member, "keep_loaded"):
                stack.enter_context(member.keep_loaded())
        for number, trial in enumerate(trials, start=1):
            _logger.info("%s (%d of %d)", trial.name, number, len(trials))
            out = experiment.out / f"{trial.name}.parquet"
            table = trial.member.predict(
                trial.config, PredictRequest(manifest, experiment.select, out)
            )
            if number == 1:  # models that cannot be loaded leave no folder behind
                write_text(experiment.out / "experiment.yaml", dump_yaml(experiment))
            yield table


def _read_model(model: str) -> tuple[str, dict[str, Any], str]:
    """Name, content and file of a model given as CONFIG or NAME=CONFIG."""
    name, separator, given = model.partition("=")
    if not separator or "/" in name:
        name, given = "", model
    path = find_config(given)
    content = read_member_yaml(path)
    return name or str(content.get("name", path.stem)), content, str(path)


def _trial_content(
    name: str,
    given: str,
    prompt: Prompt,
    experiment: PromptExperiment,
    source: str | None,
    kind: type[MemberConfig],
) -> dict[str, Any]:
    """Return what a trial lays over its model's config."""
    data: dict[str, Any] = {"manifest": str(experiment.manifest)}
    if experiment.audio_root is not None:
        data["audio_root"] = str(experiment.audio_root)
    data["transcripts"] = {"predict": source} if "text" in prompt.needs else None
    content: dict[str, Any] = {"name": name, "prompt": given, "data": data}
    if "prompt_pool" in kind.model_fields:
        content["prompt_pool"] = None  # it would put other questions in place of the prompt's
    return content


def _misfits(
    name: str,
    prompt: Prompt,
    config: MemberConfig,
    manifest: Manifest,
    experiment: PromptExperiment,
    texts: Mapping[str, str | None],
) -> list[str]:
    """Return why a prompt and a model do not go together."""
    filling = getattr(config, "filling", None)
    if not isinstance(filling, FillingConfig):
        if "speech" in prompt.slots:
            return []
        return [
            f"{name}: the prompt has no slot {{{{ speech }}}}, but the member {config.member!r} "
            "hears; use a prompt such as salmonn-zero-shot-v1"
        ]
    try:
        PromptFiller(
            prompt,
            manifest,
            experiment.select,
            transcripts=texts,
            emotions=manifest.emotions,
            settings=filling,
            seed=config.seed,
        )
    except ProblemsError as err:
        return [f"{name}: {problem}" for problem in err.problems]
    except AbhinayaError as err:
        return [f"{name}: {str(err).rstrip('.')}"]
    return []


def _is_name(name: str) -> bool:
    return bool(name) and all(char.isalnum() or char in "_.-" for char in name)
