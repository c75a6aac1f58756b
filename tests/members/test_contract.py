"""What every member keeps, run over the registry: a new one only adds a recipe to the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from kills import KilledError
from member_recipes import N_MEMBERS, RECIPES, Recipe, make_config

from abhinaya.config import MemberConfig, apply_overrides, dump_yaml, load_yaml
from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import Manifest, make_manifest
from abhinaya.data.predictions import PredictionTable, read_table
from abhinaya.data.transcripts import HUMAN, read_transcripts, write_transcripts
from abhinaya.errors import ClassOrderError
from abhinaya.inference import sharding
from abhinaya.member import PredictRequest
from abhinaya.member_config import check_member_config, load_member_config
from abhinaya.registry import load_member, member_names
from abhinaya.training.trainer import EmotionTrainer

UNHEARD = {1: "does not exist", 2: "is truncated"}
UNREAD = dict.fromkeys((4, 5), "there is no transcript of the source 'machine'")
"""Rows for validation that cannot be used, as the corpus has them, and why."""


@dataclass(frozen=True)
class Case:
    """A member, trained for two epochs if there is anything to train.

    Args:
        recipe: what it was made of.
        config: its config.
        manifest: what it was trained on.
        folder: where tables go.
    """

    recipe: Recipe
    config: MemberConfig
    manifest: Manifest
    folder: Path

    @property
    def run(self) -> Path:
        """Its run directory, if it was trained."""
        return self.folder / "run"

    @cached_property
    def table(self) -> PredictionTable:
        """The development rows, predicted in batches of the config's size."""
        return self.predict("table")

    @property
    def unusable(self) -> dict[int, str]:
        """Of `table` the rows without usable input, and what their reason says."""
        return (UNHEARD if self.recipe.hears else {}) | (UNREAD if self.recipe.reads else {})

    def predict(
        self,
        name: str,
        *overrides: str,
        manifest: Manifest | None = None,
        select: str = "development",
        with_embedding: bool | None = None,
    ) -> PredictionTable:
        """As `abhinaya predict` does, from the run or, where there is none, from the config."""
        source: Path | MemberConfig = self.run
        if not self.recipe.trains:
            content = apply_overrides(load_yaml(self.folder / "config.yaml"), overrides)
            source = check_member_config(content, "config.yaml")
        request = PredictRequest(
            manifest=manifest or self.manifest,
            selection=(select,),
            out=self.folder / name / "table.parquet",
            with_embedding=self.recipe.trains if with_embedding is None else with_embedding,
            overrides=overrides,
        )
        return load_member(self.config.member).predict(source, request)


@pytest.fixture(scope="module")
def make_case(
    manifest: Manifest, manifest_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Case]:
    """A function that makes the case of a recipe, once."""

    @cache
    def make(name: str) -> Case:
        folder, recipe = tmp_path_factory.mktemp(name), RECIPES[name]
        config = make_config(recipe, folder, manifest_file)
        (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
        if recipe.trains:
            assert load_member(recipe.member).train(config, manifest) == folder / "run"
        return Case(recipe, config, manifest, folder)

    return make


def _cases(names: Iterable[str]) -> list[Any]:
    """Return recipes to try: of each member the first one in plain pytest, the others are slow."""
    first: dict[str, str] = {}
    return [
        name
        if first.setdefault(RECIPES[name].member, name) == name
        else pytest.param(name, marks=pytest.mark.slow)
        for name in names
    ]


@pytest.fixture(params=_cases(RECIPES))
def case(request: pytest.FixtureRequest, make_case: Callable[[str], Case]) -> Case:
    return make_case(request.param)


@pytest.fixture(params=_cases(name for name, recipe in RECIPES.items() if recipe.trains))
def trained(request: pytest.FixtureRequest, make_case: Callable[[str], Case]) -> Case:
    """Every case with something to train."""
    return make_case(request.param)


def assert_same_rows(ours: PredictionTable, theirs: PredictionTable) -> None:
    """Every row of `ours` is as in `theirs`, whatever the order."""
    place = {utterance: idx for idx, utterance in enumerate(theirs.utterances)}
    there = theirs.take([place[utterance] for utterance in ours.utterances])
    assert ours.reasons == there.reasons
    np.testing.assert_array_equal(ours.labels, there.labels)
    assert ours.raw == there.raw
    for got, expected in ((ours.probs, there.probs), (ours.embeddings, there.embeddings)):
        assert (got is None) == (expected is None)
        if got is not None and expected is not None:
            np.testing.assert_allclose(got, expected, atol=1e-5)


def test_every_registered_member_has_a_recipe() -> None:
    lacking = sorted(set(member_names()) - {recipe.member for recipe in RECIPES.values()})
    assert not lacking, (
        f"{', '.join(lacking)}: registered, but not tried here. Add a Recipe to RECIPES of "
        "tests/helpers/member_recipes.py, and count the member in N_MEMBERS."
    )
    assert len(member_names()) == N_MEMBERS


def test_one_row_per_utterance_in_the_order_of_the_manifest(case: Case) -> None:
    rows, table = case.manifest.select("development"), case.table
    assert {"O", "X"} <= set(rows["label"])
    assert table.utterances == tuple(rows["utterance"])
    assert table.emotions.codes == case.manifest.emotions.codes
    assert table.name == "tiny"
    assert table.meta["member"] == case.config.member


def test_rows_abstain_where_their_input_cannot_be_used(case: Case) -> None:
    table, unusable = case.table, case.unusable
    for row, reason in unusable.items():
        assert reason in str(table.reasons[row])
    usable = np.array([row not in unusable for row in range(len(table))])
    assert not table.has_probs[~usable].any()
    abstains = [reason is not None for reason in table.reasons]
    np.testing.assert_array_equal(table.labels == ABSTAIN, abstains)
    # O and X are predicted like all others. What a model says in words may fit no class, though.
    if table.raw is None:
        np.testing.assert_array_equal(abstains, ~usable)
    else:
        assert all(table.raw[row] is not None for row in np.flatnonzero(usable))
        # A member that is deaf would pass every comparison below.
        assert len({table.raw[row] for row in np.flatnonzero(usable)}) > 1


def test_rows_that_are_used_have_probabilities_of_their_label(case: Case) -> None:
    table = case.table
    if case.recipe.trains:
        assert table.probs is not None
    if table.probs is not None:
        used = table.has_probs
        np.testing.assert_array_equal(used, table.labels != ABSTAIN)
        np.testing.assert_allclose(table.probs[used].sum(axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(table.labels[used], table.probs[used].argmax(axis=1))
        # As above: deaf it must not be.
        assert np.ptp(table.probs[used], axis=0).max() > 1e-3


def test_table_read_back_is_the_one_returned(case: Case) -> None:
    table = case.table
    read = read_table(case.folder / "table" / "table.parquet")
    assert_same_rows(read, table)
    assert read.meta == dict(table.meta)


def test_same_result_twice(case: Case) -> None:
    assert len(case.table) > 0  # predicted first
    case.predict("again")
    again = (case.folder / "again" / "table.parquet").read_bytes()
    assert again == (case.folder / "table" / "table.parquet").read_bytes()


@pytest.mark.slow
def test_killed_prediction_resumes_to_the_same_bytes(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "CHUNK_SIZE", 4)
    case.predict("shards")
    write, written = sharding.write_table, list[str]()

    def write_or_die(table: PredictionTable, path: Path) -> None:
        if written == ["part-00000.parquet"]:
            # What a kill in the middle of writing leaves behind.
            path.with_name(f".{path.name}.1.tmp").write_bytes(b"half")
            written.append("killed")
            raise KilledError
        write(table, path)
        written.append(path.name)

    monkeypatch.setattr(sharding, "write_table", write_or_die)
    out = case.folder / "killed" / "table.parquet"
    with pytest.raises(KilledError):
        case.predict("killed")
    assert not out.exists()
    case.predict("killed")
    parts = [name for name in written if name.startswith("part-")]
    assert parts == [f"part-{number:05d}.parquet" for number in range(len(parts))]
    assert len(parts) > 2
    undisturbed = case.folder / "shards"
    assert out.read_bytes() == (undisturbed / out.name).read_bytes()
    # No part is left.
    left, expected = ({path.name for path in at.iterdir()} for at in (out.parent, undisturbed))
    assert left == expected


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batch_size_changes_nothing(case: Case, batch_size: int) -> None:
    size = f"{case.recipe.batch_size_key}={batch_size}"
    assert_same_rows(case.predict(f"batch-{batch_size}", size), case.table)


def test_order_of_the_manifest_changes_nothing_but_the_order(case: Case) -> None:
    table = case.table
    shuffled = case.manifest.rows.sample(frac=1, random_state=1).reset_index(drop=True)
    # Without durations everything goes in the order of the names.
    shuffled["duration_s"] = np.nan
    ours = case.predict("shuffled", manifest=replace(case.manifest, rows=shuffled))
    assert ours.utterances != table.utterances
    assert sorted(ours.utterances) == sorted(table.utterances)
    assert_same_rows(ours, table)


def test_neighbours_change_nothing(case: Case, tmp_path: Path) -> None:
    """Alone, beside much shorter and much longer clips, loud ones, silent ones, empty ones."""
    table = case.table
    rows = case.manifest.select("development").iloc[[0, 3]].copy()
    audio = [case.manifest.audio_path(name) for name in rows["audio"]]
    rng = np.random.default_rng(0)
    sounds = {
        "loud-long.wav": rng.uniform(-1, 1, 80_000),
        "silent.wav": np.zeros(32_000),
        "shortest.wav": rng.uniform(-1, 1, 400),
    }
    spoken = {"loud-long.wav": "well, " * 60, "silent.wav": "", "shortest.wav": "No"}
    for name, samples in sounds.items():
        soundfile.write(tmp_path / name, samples, 16_000)
    clips = dict(zip(rows["utterance"], audio, strict=True))
    strangers = {name: tmp_path / name for name in sounds}
    human = read_transcripts(case.manifest.root / "transcripts.parquet", HUMAN)
    texts = {name: human[name] for name in clips} | spoken
    write_transcripts(
        [{"utterance": name, "source": "machine", "text": text} for name, text in texts.items()],
        tmp_path / "transcripts.parquet",
    )
    for number, chosen in enumerate(
        [
            *({name: path} for name, path in clips.items()),
            clips | strangers,
            {"shortest.wav": strangers["shortest.wav"], **clips},
        ]
    ):
        manifest = make_manifest(
            [{"utterance": name, "audio": str(path)} for name, path in chosen.items()],
            MSP_PODCAST,
            tmp_path,
        )
        ours = case.predict(f"neighbours-{number}", manifest=manifest, select="all")
        mine = [idx for idx, name in enumerate(ours.utterances) if name in clips]
        assert len(mine) == (1 if number < 2 else 2)
        assert_same_rows(ours.take(mine), table)


@pytest.mark.slow
def test_trained_twice_with_one_seed_gives_the_same_weights(trained: Case, tmp_path: Path) -> None:
    config = trained.config.model_copy(update={"run_dir": tmp_path / "again"})
    again = load_member(config.member).train(config, trained.manifest)
    ours, theirs = (run / "best" / "model.safetensors" for run in (again, trained.run))
    assert ours.read_bytes() == theirs.read_bytes()
    other = config.model_copy(update={"run_dir": tmp_path / "other", "seed": 8})
    other_run = load_member(config.member).train(other, trained.manifest)
    assert (other_run / "best" / "model.safetensors").read_bytes() != theirs.read_bytes()


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_bytes(
    trained: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = EmotionTrainer.training_step
    kill_in, steps = [5, 8], list[int]()

    def training_step(self: EmotionTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, *args, **kwargs)
        step = self.state.global_step + 1
        if step not in steps[-1:]:  # the second half of a batch belongs to the same step
            steps.append(step)
        if step in kill_in[:1]:
            kill_in.pop(0)
            raise KilledError
        return loss

    monkeypatch.setattr(EmotionTrainer, "training_step", training_step)
    config = trained.config.model_copy(update={"run_dir": tmp_path / "run"})
    member = load_member(config.member)
    for _ in range(2):
        with pytest.raises(KilledError):
            member.train(config, trained.manifest)
        assert not (tmp_path / "run" / "best").exists()
    run = member.train(config, trained.manifest)
    # It went on behind the checkpoints 3 and 6, each in the middle of an epoch.
    assert steps == [*range(1, 6), *range(4, 9), *range(7, 11)]
    ours, theirs = (
        {file.parent.name: file.read_bytes() for file in folder.glob("*/model.safetensors")}
        for folder in (run, trained.run)
    )
    assert sorted(ours) == sorted(["best", *(f"checkpoint-{step}" for step in (3, 6, 9, 10))])
    assert {name for name in ours if ours[name] != theirs[name]} == set()


def test_embedding_is_the_input_of_the_last_linear_layer(trained: Case) -> None:
    table = trained.table
    assert table.embeddings is not None
    assert table.probs is not None
    head = table.meta["head"]
    weight, bias = np.array(head["weight"]), np.array(head["bias"])
    assert weight.shape == (8, table.embeddings.shape[1])
    heard = table.has_probs
    logits = table.embeddings[heard].astype(np.float64) @ weight.T + bias
    # Softmax.
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = exponents / exponents.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probs, table.probs[heard], atol=1e-5)
    assert np.isnan(table.embeddings[~heard]).all()


def test_without_with_embedding_there_is_none(trained: Case) -> None:
    plain = trained.predict("plain", with_embedding=False)
    assert plain.embeddings is None
    assert "head" not in plain.meta
    assert_same_rows(plain, replace(trained.table, embeddings=None))


def test_classes_of_another_order_raise(trained: Case) -> None:
    codes = tuple(reversed(trained.manifest.emotions.codes))
    emotions = EmotionSet.from_codes(codes)
    manifest = replace(trained.manifest, emotions=emotions)
    message = (
        r"The manifest has the class order U S N H F D C A, but the checkpoint '.*best' has "
        r"A C D F H N S U\. Using both would permute the classes"
    )
    with pytest.raises(ClassOrderError, match=message):
        trained.predict("permuted", manifest=manifest)


def test_config_written_and_read_again_is_the_same(case: Case) -> None:
    places = [case.folder]
    if case.recipe.trains:
        places += [case.run, case.run / "best"]
    for place in places:
        read = load_member_config(place / "config.yaml")
        if place != case.folder and hasattr(read, "stored_prompts"):
            # A run also keeps what its prompts said.
            assert read.stored_prompts is not None
            read = read.model_copy(update={"stored_prompts": None})
        assert read == case.config


def test_trained_again_returns_at_once_with_the_same_run(trained: Case) -> None:
    best = trained.run / "best" / "model.safetensors"
    before = best.stat().st_mtime_ns
    assert load_member(trained.config.member).train(trained.config, trained.manifest) == trained.run
    assert best.stat().st_mtime_ns == before
