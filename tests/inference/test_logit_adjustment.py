from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from abhinaya.errors import CheckpointError, ProblemsError
from abhinaya.inference.logit_adjustment import adjust_logits
from abhinaya.nn.head import EmotionHead
from ensembling.aligned import align_predictions
from ensembling.learned.log_odds import remaining_log_priors
from ensembling.speakers.rows import speaker_rows

COUNTS = [8, 2, 2, 2, 16, 32, 1, 1]
SHARES = np.array(COUNTS) / 64


def set_facts(run: Path, **facts: Any) -> None:
    file = run / "best" / "facts.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = EmotionHead(2, 2, hidden=0)
        torch.nn.init.zeros_(self.head.out.bias)


@pytest.mark.parametrize(
    ("tau", "absorbed", "bias", "left"),
    [
        # Shares 3/4 and 1/4: log odds log 3, of which the loss has absorbed nothing, a half, all.
        (1.0, None, -np.log(3), [0.75, 0.25]),
        (2.0, None, -np.log(9), [0.9, 0.1]),
        (1.0, [np.sqrt(3) / (1 + np.sqrt(3)), 1 / (1 + np.sqrt(3))], -np.log(3) / 2, [0.75, 0.25]),
        (1.0, [0.75, 0.25], 0.0, [0.75, 0.25]),
        (0.0, [0.75, 0.25], np.log(3), None),
        (None, [0.75, 0.25], 0.0, [0.75, 0.25]),
    ],
)
def test_adjustment_takes_out_what_the_loss_has_left(
    tau: float | None, absorbed: Any, bias: float, left: Any
) -> None:
    model: Any = _Model()
    found = adjust_logits(
        model, tau, {"class_counts": [30, 10], "absorbed_prior": absorbed}, Path("best")
    )
    first, second = model.head.out.bias.tolist()
    assert first - second == pytest.approx(bias, abs=1e-6)
    assert found == (None if left is None else pytest.approx(left))


def test_predict_divides_probabilities_by_the_prior(
    make_run: Any, predict: Any, tmp_path: Path
) -> None:
    run = make_run()
    set_facts(run, class_counts=COUNTS, absorbed_prior=None)
    plain = predict(run, with_embedding=True)
    out = tmp_path / "adjusted.parquet"
    ours = predict(run, "inference.logit_adjustment=1.5", with_embedding=True, out=out)
    expected = softmax(np.log(plain.probs) - 1.5 * np.log(SHARES), axis=1)
    np.testing.assert_allclose(ours.probs, expected, atol=1e-6)
    np.testing.assert_array_equal(ours.labels, expected.argmax(axis=1))
    assert (ours.labels != plain.labels).any()
    np.testing.assert_array_equal(ours.embeddings, plain.embeddings)
    assert plain.meta["absorbed_prior"] is None
    powers = SHARES**1.5
    assert ours.meta["absorbed_prior"] == pytest.approx(powers / powers.sum())


def test_what_comes_after_neither_corrects_twice_nor_uses_the_old_head(
    make_run: Any, predict: Any
) -> None:
    run = make_run()
    set_facts(run, class_counts=COUNTS, absorbed_prior=None)
    table = predict(run, "inference.logit_adjustment=1", with_embedding=True)
    aligned = align_predictions([table])
    # log-odds, told of the training prior, finds nothing of it left; EM takes the prior for even.
    assert np.abs(remaining_log_priors(aligned, SHARES, SHARES)).max() < 1e-9
    rows = speaker_rows(aligned, ["s"] * len(table))
    assert rows.absorbed_prior
    # Smoothing applies the head that the table brings to the means of embeddings.
    assert rows.head is not None
    logits = rows.head.logits(table.embeddings)
    np.testing.assert_allclose(softmax(logits, axis=1), table.probs, atol=1e-6)


def test_adjustment_of_what_the_loss_absorbed_changes_nothing(
    make_run: Any, predict: Any, tmp_path: Path
) -> None:
    run = make_run()
    set_facts(run, class_counts=COUNTS, absorbed_prior=SHARES.tolist())
    plain = predict(run)
    ours = predict(run, "inference.logit_adjustment=1", out=tmp_path / "adjusted.parquet")
    np.testing.assert_allclose(ours.probs, plain.probs, atol=1e-6)
    assert ours.meta["absorbed_prior"] == pytest.approx(SHARES.tolist())


def test_predict_again_with_other_counts_is_computed_anew(make_run: Any, predict: Any) -> None:
    run = make_run()
    set_facts(run, class_counts=COUNTS, absorbed_prior=None)
    before = predict(run, "inference.logit_adjustment=1")
    set_facts(run, class_counts=[1] * 8)
    after = predict(run, "inference.logit_adjustment=1")
    assert np.abs(before.probs - after.probs).max() > 0.01
    np.testing.assert_array_equal(predict(run).labels, after.labels)


@pytest.mark.parametrize("counts", [None, [1] * 7, [1] * 7 + [0]])
def test_run_whose_facts_lack_counts_raises(make_run: Any, predict: Any, counts: Any) -> None:
    run = make_run()
    set_facts(run, class_counts=counts)
    with pytest.raises(
        CheckpointError, match=r"logit_adjustment is 1, but class_counts in .*facts\.json' is .*"
    ):
        predict(run, "inference.logit_adjustment=1")
    assert predict(run).meta["absorbed_prior"] == [0.125] * 8  # without it, nothing is missed


def test_negative_adjustment_raises(make_run: Any, predict: Any) -> None:
    with pytest.raises(ProblemsError, match=r"logit_adjustment.*greater than or equal to 0"):
        predict(make_run(), "inference.logit_adjustment=-1")
