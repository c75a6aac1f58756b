"""What every member keeps, run over the registry: a new one only adds a recipe to the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from abhinaya.config import MemberConfig, dump_yaml
from abhinaya.demo.checkpoints import write_wavlm, write_whisper
from abhinaya.errors import ClassOrderError
from abhinaya.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.manifest import Manifest, make_manifest
from abhinaya.member import PredictRequest
from abhinaya.member_config import check_member_config, load_member_config
from abhinaya.predictions import PredictionTable, read_table
from abhinaya.registry import load_member, member_names

N_MEMBERS = 2
"""How many are registered; count a new one here."""


@dataclass(frozen=True)
class Recipe:
    """How to make a member tiny.

    Args:
        member: its name in the registry.
        write_base: writes tiny base weights into a folder.
        settings: keys of its config beside those of all.
    """

    member: str
    write_base: Callable[[Path], None]
    settings: dict[str, Any] = field(default_factory=dict)


def tiny_wavlm(folder: Path, **options: Any) -> None:
    write_wavlm(folder, n_layers=2, n_features=16, n_conv_features=8, **options)


def tiny_whisper(folder: Path) -> None:
    # Of a width of 16, weights this large are needed for the sound to matter.
    write_whisper(folder, chunk_s=2, n_layers=2, n_features=16, init_std=0.1)


RECIPES = {
    "wavlm": Recipe("wavlm", tiny_wavlm),
    # Its normalisation runs over the clip, so padding would show.
    "wavlm-group-norm": Recipe("wavlm", lambda folder: tiny_wavlm(folder, norm="group")),
    "wavlm-frozen": Recipe(
        "wavlm",
        tiny_wavlm,
        {
            **{"freeze": "encoder", "layer_weights": True, "standardize": True},
            **{"average_frames": True, "audio": {"max_audio_s": 2.0, "eval_crop": 2}},
        },
    ),
    "whisper-encoder": Recipe("whisper-encoder", tiny_whisper, {"pointwise": [8]}),
    "whisper-encoder-lora": Recipe(
        "whisper-encoder",
        tiny_whisper,
        {"pointwise": [], "lora": {"rank": 2}, "layer_weights": True},
    ),
}
"""Cases by name: at least one for every registered member."""


@dataclass(frozen=True)
class Case:
    """A member trained for one epoch.

    Args:
        config: its config.
        run: its run directory.
        manifest: what it was trained on.
        out: folder for tables.
    """

    config: MemberConfig
    run: Path
    manifest: Manifest
    out: Path

    def predict(
        self,
        name: str,
        *overrides: str,
        manifest: Manifest | None = None,
        select: str = "development",
        with_embedding: bool = True,
    ) -> PredictionTable:
        request = PredictRequest(
            manifest=manifest or self.manifest,
            selection=(select,),
            out=self.out / f"{name}.parquet",
            with_embedding=with_embedding,
            overrides=overrides,
        )
        return load_member(self.config.member).predict(self.run, request)


def make_config(recipe: Recipe, base: Path, run_dir: Path, manifest_file: Path) -> MemberConfig:
    content: dict[str, Any] = {
        "member": recipe.member,
        "name": "tiny",
        "run_dir": str(run_dir),
        "seed": 7,
        "data": {"manifest": str(manifest_file)},
        "base": str(base),
        "audio": {"max_audio_s": 2.0},
        "head": {"hidden": 8},
        # So fast that a single epoch moves the weights apart.
        "training": {
            **{"global_batch_size": 8, "num_train_epochs": 1},
            **{"learning_rate": 0.01, "use_cpu": True},
        },
    }
    return check_member_config(content | recipe.settings, "the recipe")


@pytest.fixture(scope="module", params=list(RECIPES))
def case(
    request: pytest.FixtureRequest,
    manifest: Manifest,
    manifest_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    recipe = RECIPES[request.param]
    recipe.write_base(folder / "base")
    config = make_config(recipe, folder / "base", folder / "run", manifest_file)
    run = load_member(recipe.member).train(config, manifest)
    return Case(config, run, manifest, folder)


@pytest.fixture(scope="module")
def table(case: Case) -> PredictionTable:
    """The development rows, predicted in batches of the config's size."""
    return case.predict("table")


def assert_same_rows(ours: PredictionTable, theirs: PredictionTable) -> None:
    """Every row of `ours` is as in `theirs`, whatever the order."""
    place = {utterance: idx for idx, utterance in enumerate(theirs.utterances)}
    there = theirs.take([place[utterance] for utterance in ours.utterances])
    assert ours.reasons == there.reasons
    for got, expected in ((ours.probs, there.probs), (ours.embeddings, there.embeddings)):
        assert got is not None
        assert expected is not None
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_every_registered_member_has_a_recipe() -> None:
    lacking = sorted(set(member_names()) - {recipe.member for recipe in RECIPES.values()})
    assert not lacking, (
        f"{', '.join(lacking)}: registered, but not tried here. Add a Recipe to RECIPES that "
        "writes tiny base weights, and count the member in N_MEMBERS."
    )
    assert len(member_names()) == N_MEMBERS


def test_one_row_per_utterance_in_the_order_of_the_manifest(
    case: Case, table: PredictionTable
) -> None:
    rows = case.manifest.select("development")
    assert {"O", "X"} <= set(rows["label"])
    assert table.utterances == tuple(rows["utterance"])
    assert table.emotions.codes == case.manifest.emotions.codes
    assert table.name == "tiny"
    assert table.meta["member"] == case.config.member


def test_rows_have_probabilities_or_abstain_with_a_reason(table: PredictionTable) -> None:
    assert table.probs is not None
    np.testing.assert_allclose(table.probs[table.has_probs].sum(axis=1), 1, atol=1e-6)
    # The second and third clip are damaged; O and X are predicted like all others.
    damaged = np.isin(np.arange(len(table)), (1, 2))
    np.testing.assert_array_equal(table.labels == ABSTAIN, damaged)
    np.testing.assert_array_equal(~table.has_probs, damaged)
    assert [reason is not None for reason in table.reasons] == damaged.tolist()
    assert "does not exist" in str(table.reasons[1])
    assert "is truncated" in str(table.reasons[2])
    heard = table.has_probs
    np.testing.assert_array_equal(table.labels[heard], table.probs[heard].argmax(axis=1))
    # A member that is deaf would pass every comparison below.
    assert np.ptp(table.probs[heard], axis=0).max() > 1e-3


def test_table_read_back_is_the_one_returned(case: Case, table: PredictionTable) -> None:
    read = read_table(case.out / "table.parquet")
    assert_same_rows(read, table)
    np.testing.assert_array_equal(read.labels, table.labels)
    assert read.meta == dict(table.meta)


def test_same_result_twice(case: Case, table: PredictionTable) -> None:
    assert len(table) > 0  # predicted first
    case.predict("again")
    again = (case.out / "again.parquet").read_bytes()
    assert again == (case.out / "table.parquet").read_bytes()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batch_size_changes_nothing(case: Case, table: PredictionTable, batch_size: int) -> None:
    size = f"inference.batch_size={batch_size}"
    assert_same_rows(case.predict(f"batch-{batch_size}", size), table)


def test_order_of_the_manifest_changes_nothing_but_the_order(
    case: Case, table: PredictionTable
) -> None:
    shuffled = case.manifest.rows.sample(frac=1, random_state=1).reset_index(drop=True)
    # Without durations everything goes in the order of the names.
    shuffled["duration_s"] = np.nan
    ours = case.predict("shuffled", manifest=replace(case.manifest, rows=shuffled))
    assert ours.utterances != table.utterances
    assert sorted(ours.utterances) == sorted(table.utterances)
    assert_same_rows(ours, table)


def test_neighbours_change_nothing(case: Case, table: PredictionTable, tmp_path: Path) -> None:
    """Alone, beside much shorter and much longer clips, loud ones and silent ones."""
    rows = case.manifest.select("development").iloc[[0, 3]].copy()
    audio = [case.manifest.audio_path(name) for name in rows["audio"]]
    rng = np.random.default_rng(0)
    sounds = {
        "loud-long.wav": rng.uniform(-1, 1, 80_000),
        "silent.wav": np.zeros(32_000),
        "shortest.wav": rng.uniform(-1, 1, 400),
    }
    for name, samples in sounds.items():
        soundfile.write(tmp_path / name, samples, 16_000)
    clips = dict(zip(rows["utterance"], audio, strict=True))
    strangers = {name: tmp_path / name for name in sounds}
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


def test_trained_twice_with_one_seed_gives_the_same_weights(
    case: Case, manifest_file: Path, tmp_path: Path
) -> None:
    config = case.config.model_copy(update={"run_dir": tmp_path / "again"})
    again = load_member(config.member).train(config, case.manifest)
    ours, theirs = (run / "best" / "model.safetensors" for run in (again, case.run))
    assert ours.read_bytes() == theirs.read_bytes()
    other = config.model_copy(update={"run_dir": tmp_path / "other", "seed": 8})
    other_run = load_member(config.member).train(other, case.manifest)
    assert (other_run / "best" / "model.safetensors").read_bytes() != theirs.read_bytes()


def test_embedding_is_the_input_of_the_last_linear_layer(table: PredictionTable) -> None:
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


def test_without_with_embedding_there_is_none(case: Case, table: PredictionTable) -> None:
    plain = case.predict("plain", with_embedding=False)
    assert plain.embeddings is None
    assert "head" not in plain.meta
    np.testing.assert_array_equal(plain.probs, table.probs)


def test_classes_of_another_order_raise(case: Case) -> None:
    codes = tuple(reversed(case.manifest.emotions.codes))
    emotions = EmotionSet.from_codes(codes)
    manifest = replace(case.manifest, emotions=emotions)
    message = (
        r"The manifest has the class order U S N H F D C A, but the checkpoint '.*best' has "
        r"A C D F H N S U\. Using both would permute the classes"
    )
    with pytest.raises(ClassOrderError, match=message):
        case.predict("permuted", manifest=manifest)


def test_config_written_and_read_again_is_the_same(case: Case, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_yaml(case.config), encoding="utf-8")
    for path in (tmp_path, case.run, case.run / "best"):
        assert load_member_config(path / "config.yaml") == case.config


def test_trained_again_returns_at_once_with_the_same_run(case: Case) -> None:
    best = case.run / "best" / "model.safetensors"
    before = best.stat().st_mtime_ns
    assert load_member(case.config.member).train(case.config, case.manifest) == case.run
    assert best.stat().st_mtime_ns == before
