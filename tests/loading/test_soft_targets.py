"""What votes, labels and a table of predictions become as targets of training rows."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from abhinaya.data.labels import EmotionSet
from abhinaya.data.predictions import PredictionTable, write_table
from abhinaya.errors import BadValueError, ClassOrderError, MissingFileError, UnknownNameError
from abhinaya.loading.clips import Clip
from abhinaya.loading.dataset import ClipDataset, Collator
from abhinaya.loading.targets import SoftTargets, make_targets, soft_targets, soften

MakeConfig = Callable[..., Any]
Make = Callable[..., SoftTargets]
Row = tuple[str | None, list[int] | None]

EMOTIONS = EmotionSet(codes=("A", "H", "N"), names=("angry", "happy", "neutral"), outside=("O",))
# Three votes for A and one for N; a label alone; no label, but votes; nothing (two votes for O).
ROWS: tuple[Row, ...] = (
    ("A", [3, 0, 1, 0]),
    ("H", None),
    ("O", [0, 1, 1, 2]),
    ("O", [0, 0, 0, 2]),
)


def make_rows(rows: tuple[Row, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "utterance": [f"u{idx}" for idx in range(len(rows))],
            "label": [label for label, _ in rows],
            "votes": [None if votes is None else np.array(votes) for _, votes in rows],
        }
    )


@pytest.fixture
def make(make_config: MakeConfig) -> Make:
    """A function that makes the targets of rows under overrides of `targets`."""

    def run(*overrides: str, rows: tuple[Row, ...] = ROWS, seed: int = 0) -> SoftTargets:
        settings = (f"targets.{override}" for override in overrides)
        config = make_config(Path("run"), "loss.name=kl-divergence", f"seed={seed}", *settings)
        return make_targets(config, make_rows(rows), EMOTIONS)

    return run


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a table: name -> label and, unless None, probabilities."""

    def write(
        rows: dict[str, tuple[str | None, list[float] | None]],
        emotions: EmotionSet = EMOTIONS,
        **columns: Any,
    ) -> Path:
        probs = [values or [np.nan] * len(emotions) for _, values in rows.values()]
        has_probs = any(values for _, values in rows.values())
        table = PredictionTable(
            "teacher",
            emotions,
            list(rows),
            emotions.encode(label for label, _ in rows.values()),
            probs=np.array(probs, dtype=np.float32) if has_probs else None,
            **columns,
        )
        write_table(table, tmp_path / "teacher.parquet")
        return tmp_path / "teacher.parquet"

    return write


def listed(targets: SoftTargets, epoch: int | None = 0) -> list[list[float] | None]:
    """The target of each row, rounded; None where there is none."""
    return [
        None if np.isnan(row).any() else [round(float(value), 4) for value in row]
        for row in (targets(idx, epoch) for idx in range(len(targets.utterances)))
    ]


# Votes and labels


def test_targets_without_a_recipe_are_the_votes_as_they_are(make: Make) -> None:
    targets = make()
    ours = np.stack([targets(idx, 3) for idx in range(len(ROWS))])
    assert ours.dtype == np.float32
    assert ours.tobytes() == soft_targets(make_rows(ROWS), EMOTIONS).tobytes()
    assert targets.is_known.tolist() == [True, True, True, False]


def test_label_smoothing_spreads_a_share_of_votes_and_labels(make: Make) -> None:
    # .7 * 3/4 + .3/3 = .625, .7 * 0 + .1, .7 / 4 + .1 = .275; of the label .7 + .1.
    assert listed(make("label_smoothing=0.3"))[:3] == [
        [0.625, 0.1, 0.275],
        [0.1, 0.8, 0.1],
        [0.1, 0.45, 0.45],
    ]


def test_rows_outside_the_set_train_through_their_votes_unless_left_out(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="abhinaya"):
        assert listed(make())[2] == [0, 0.5, 0.5]
    assert "1 of 4 rows of train have no label of the emotion set, and train on" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="abhinaya"):
        targets = make("outside=leave-out")
    assert caplog.text == ""
    assert targets.is_known.tolist() == [True, True, False, False]
    assert listed(targets)[:2] == [[0.75, 0, 0.25], [0, 1, 0]]


def test_votes_that_sum_to_zero_leave_the_label_or_nothing(make: Make) -> None:
    targets = make(rows=(("N", [0, 0, 0, 0]), ("O", [0, 0, 0, 0]), (None, [0, 0, 0, 0])))
    assert listed(targets) == [[0, 0, 1], None, None]
    assert targets.is_known.tolist() == [True, False, False]


# Annotation dropout


def test_annotation_dropout_drops_single_votes_of_its_classes_only(make: Make) -> None:
    targets = make(
        "annotation_dropout={share: 0.5, classes: [A]}",
        rows=(("A", [2, 0, 1, 0]), ("A", [3, 0, 0, 1]), ("A", None), ("N", [0, 1, 2, 0])),
    )
    epochs = 2000
    # Of two votes for A, none, one or both are left: with probability 1/4, 1/2, 1/4.
    seen = Counter(tuple(listed(targets[:1], epoch)[0] or ()) for epoch in range(epochs))
    assert seen.keys() == {(0, 0, 1), (0.5, 0, 0.5), (0.6667, 0, 0.3333)}
    for values, share in zip(sorted(seen), (0.25, 0.5, 0.25), strict=True):
        # Four standard deviations of a binomial count.
        assert abs(seen[values] - share * epochs) < 4 * (epochs * share * (1 - share)) ** 0.5
    for epoch in range(20):
        # One that would lose all votes keeps them, a label is no vote, other classes stay.
        assert listed(targets, epoch)[1:] == [[1, 0, 0], [1, 0, 0], [0, 0.3333, 0.6667]]
    assert listed(targets, None)[0] == [0.6667, 0, 0.3333]  # outside training


def test_annotation_dropout_is_drawn_by_seed_epoch_and_utterance(make: Make) -> None:
    settings, rows = "annotation_dropout={share: 0.3, classes: [A, H, N]}", 8 * (("A", [6, 5, 4]),)
    targets = make(settings, rows=rows)
    first = listed(targets, 1)
    assert len({tuple(row or ()) for row in first}) > 3  # another draw for each utterance
    assert listed(make(settings, rows=rows), 1) == first
    assert listed(targets, 2) != first
    assert listed(make(settings, rows=rows, seed=1), 1) != first
    order = [5, 0, 3]  # which row it is depends on its name, not on its place
    assert listed(targets[order], 1) == [first[idx] for idx in order]


def test_annotation_dropout_finds_the_majority_classes(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    # Labels: three of A, two of N, two of H; the median class has two.
    rows: tuple[Row, ...] = tuple((label, [1, 1, 1, 1]) for label in "AAANNHHO")
    with caplog.at_level(logging.INFO, logger="abhinaya"):
        targets = make("annotation_dropout={}", rows=rows)
    assert targets.may_drop.tolist() == [True, False, False]
    assert "a share of 0.2 of the votes for A is dropped" in caplog.text


def test_annotation_dropout_majority_of_the_challenge_is_n_h_a_s(make_config: MakeConfig) -> None:
    """The published recipe drops votes of N, A, S and H."""
    codes = tuple("ACDFHNSU")
    emotions = EmotionSet(codes, codes)
    # Rounded percentages of the challenge's training set.
    shares = dict(zip(codes, (10, 4, 2, 2, 25, 44, 9, 4), strict=True))
    rows = tuple((code, [1] * 9) for code, n_rows in shares.items() for _ in range(n_rows))
    config = make_config(
        Path("run"), "loss.name=kl-divergence", "targets.annotation_dropout={share: 0.2}"
    )
    targets = make_targets(config, make_rows(rows), emotions)
    assert [code for code, is_it in zip(codes, targets.may_drop, strict=True) if is_it] == [*"AHNS"]


@pytest.mark.parametrize(
    ("rows", "setting", "error", "message"),
    [
        (ROWS, "{classes: [A, Q]}", UnknownNameError, r"annotation_dropout\.classes 'Q'.*A, H, N"),
        ((("A", None), ("N", [0, 0, 0, 3])), "{}", BadValueError, r"No row .* has votes .*nothing"),
        (
            (("A", [1, 0, 0, 0]), ("N", [0, 0, 1, 0]), ("H", None)),
            "{}",
            BadValueError,
            r"none of data\.train has more .*: \[1, 1, 1\]\. Set classes .* out of A H N",
        ),
    ],
)
def test_annotation_dropout_without_effect_raises(
    make: Make, rows: tuple[Row, ...], setting: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(f"annotation_dropout={setting}", rows=rows)


def test_targets_of_an_epoch_do_not_depend_on_workers(make: Make) -> None:
    rows = 9 * (("A", [6, 5, 4, 0]),)
    targets = make("annotation_dropout={share: 0.4, classes: [A, H]}", rows=rows)
    clips = [Clip(str(name)) for name in targets.utterances]
    dataset = ClipDataset(clips, lambda clip, epoch: [{}], targets)

    def batches(n_workers: int) -> list[Any]:
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=2,
            sampler=[(idx, epoch) for epoch in (0, 1) for idx in range(9)],
            collate_fn=Collator(lambda encoded: {}),
            num_workers=n_workers,
        )
        return [batch["labels"].tolist() for batch in loader]

    alone = batches(0)
    assert alone[0] != alone[4]
    assert batches(2) == alone


# Distillation


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        # Roots .8 and .6, then divided by 1.4; squares .4096 and .1296, by .5392.
        (1, [0.64, 0.36, 0]),
        (2, [0.5714, 0.4286, 0]),
        (0.5, [0.7596, 0.2404, 0]),
        (1e-4, [1, 0, 0]),
    ],
)
def test_temperature_softens_and_sharpens_the_table(
    make: Make, save: Callable[..., Path], temperature: float, expected: list[float]
) -> None:
    table = save({"u0": ("A", [0.64, 0.36, 0])})
    assert listed(make(f"table={table}", f"temperature={temperature}"))[0] == expected


def test_soften_is_a_softmax_of_divided_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4))

    def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
        powers = np.exp(values)
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    ours = soften(softmax(logits).astype(np.float32), 3.0)
    np.testing.assert_allclose(ours, softmax(logits / 3), rtol=1e-5)


def test_table_is_mixed_with_smoothed_votes_by_its_weight(
    make: Make, save: Callable[..., Path]
) -> None:
    table = save({"u0": ("A", [0.5, 0.5, 0]), "u3": ("N", [0, 0.2, 0.8])})
    # Half of (.5, .5, 0) and half of (.625, .1, .275); without votes or label, the table alone.
    settings = (f"table={table}", "weight=0.5", "label_smoothing=0.3")
    assert listed(make(*settings)) == [
        [0.5625, 0.3, 0.1375],
        [0.1, 0.8, 0.1],
        [0.1, 0.45, 0.45],
        [0, 0.2, 0.8],
    ]


def test_rows_the_table_does_not_label_keep_their_own_target_or_are_left_out(
    make: Make, save: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    # An abstention counts as no row, whatever its probabilities; u2 and u3 are not in it.
    table = save(
        {"u0": ("H", [0, 0.9, 0.1]), "u1": (None, [0.5, 0.5, 0]), "other": ("A", [1, 0, 0])},
        trained_on=np.array([True, False, True]),
    )
    with caplog.at_level(logging.INFO, logger="abhinaya"):
        targets = make(f"table={table}", "outside=leave-out")
    assert listed(targets) == [[0, 0.9, 0.1], [0, 1, 0], None, None]
    assert targets.is_known.tolist() == [True, True, False, False]
    assert targets.teacher_rows == {"u0", "other"}
    assert (
        "targets.table predicts 1 of 4 rows of train (its own model was trained on 1 of them); "
        "1 more have votes or a label, 2 neither" in caplog.text
    )


def test_table_teaches_rows_without_any_label(make: Make, save: Callable[..., Path]) -> None:
    table = save({"u0": ("A", [0.6, 0.2, 0.2]), "u1": ("N", [0, 0, 1])})
    targets = make(f"table={table}", "weight=0.5", rows=((None, None), (None, None)))
    assert listed(targets) == [[0.6, 0.2, 0.2], [0, 0, 1]]


def test_table_of_labels_gives_one_hot_targets(
    make: Make, save: Callable[..., Path], tmp_path: Path
) -> None:
    expected = [[0, 0, 1], [0, 1, 0], [1, 0, 0], None]
    assert listed(make(f"table={save({'u0': ('N', None), 'u2': ('A', None)})}")) == expected
    csv = tmp_path / "labels.csv"
    csv.write_text("FileName,EmoClass\nu0,N\nu1,\nu2,A\n")
    assert listed(make(f"table={csv}")) == expected


def test_rows_decided_against_their_probabilities_are_one_hot(
    make: Make, save: Callable[..., Path]
) -> None:
    table = save({"u0": ("N", None), "u2": ("A", [0.6, 0.4, 0])})
    assert listed(make(f"table={table}"))[::2] == [[0, 0, 1], [0.6, 0.4, 0]]


def test_table_of_other_classes_raises(
    make: Make, save: Callable[..., Path], tmp_path: Path
) -> None:
    permuted = EmotionSet(codes=("H", "A", "N"), names=("happy", "angry", "neutral"))
    with pytest.raises(ClassOrderError, match=r"teacher\.parquet' has the class order H A N"):
        make(f"table={save({'u0': ('A', [0, 1, 0])}, permuted)}")
    csv = tmp_path / "other.csv"
    csv.write_text("FileName,EmoClass,prob_A,prob_Q,prob_N\nu0,A,1,0,0\n")
    with pytest.raises(BadValueError, match=r"A Q N, expected one each for A H N"):
        make(f"table={csv}")


def test_table_that_knows_no_training_row_raises(make: Make, save: Callable[..., Path]) -> None:
    for table in (
        save({"v0": ("A", [1, 0, 0])}),
        save({"u0": (None, None), "u1": (None, None)}),
    ):
        with pytest.raises(
            BadValueError, match=r"predicts none of the 4 rows of 'train', such as 'u0', .*Predict"
        ):
            make(f"table={table}")


def test_table_that_is_not_there_raises(make: Make, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"absent\.parquet', which targets\.table names"):
        make(f"table={tmp_path / 'absent.parquet'}")
