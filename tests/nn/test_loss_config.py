import subprocess
import sys
from typing import get_args

import pytest
from pydantic import ValidationError

from abhinaya.errors import BadValueError
from abhinaya.nn.losses.config import LossConfig, LossName, absorbed_prior

NAMES = get_args(LossName)


def test_loss_config_import_does_not_load_torch():
    code = "import sys, abhinaya.nn.losses.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_defaults_of_every_loss_are_those_of_its_paper():
    expected = {
        "class-balanced": {"class_weights": "class-balanced", "reduction": "mean", "beta": 0.999},
        "adaptive-focal": {
            "class_weights": "none",
            "reduction": "mean",
            "gamma": 1.0,
            "rate": 1.0,
            "bins": 15,
        },
        "cross-entropy": {"class_weights": "none", "reduction": "weight-normalised"},
        "focal": {
            "class_weights": "none",
            "reduction": "mean",
            "gamma": 2.0,
            "broadcast_compat": False,
        },
        "kl-divergence": {"class_weights": "none", "reduction": "mean", "reweight_targets": False},
        "ldam": {
            "class_weights": "none",
            "reduction": "weight-normalised",
            "max_margin": 0.5,
            "scale": 30.0,
        },
        "logit-adjustment": {
            "class_weights": "none",
            "reduction": "weight-normalised",
            "tau": 1.0,
        },
        "soft-cross-entropy": {
            "class_weights": "none",
            "reduction": "mean",
            "reweight_targets": False,
        },
        "vector-scaling": {
            "class_weights": "none",
            "reduction": "weight-normalised",
            "gamma": 0.3,
            "tau": 1.0,
        },
    }
    ours = {name: LossConfig(name=name).model_dump(exclude_none=True) for name in NAMES}
    assert ours == {name: {"name": name, **options} for name, options in expected.items()}
    assert len(ours) == 9


@pytest.mark.parametrize("name", NAMES)
def test_resolved_config_reads_back_as_itself(name):
    config = LossConfig(name=name, class_counts=(3, 4))
    assert LossConfig(**config.model_dump()) == config


def test_yaml_lists_and_nulls_are_understood():
    config = LossConfig(
        **{"name": "focal", "class_weights": [1, 2.5], "gamma": None, "class_counts": None}
    )
    assert config.class_weights == (1.0, 2.5)
    assert config.gamma == 2.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "cross-entropy", "gamma": 2}, r"'cross-entropy' has no option 'gamma'.*Remove"),
        ({"tau": 1}, r"'cross-entropy' has no option 'tau'"),
        ({"name": "ldam", "beta": 0.9}, r"no option 'beta' \(beta goes with class_weights: class-"),
        ({"name": "class-balanced", "class_weights": "none"}, r"class_weights is 'none'.*its own"),
        (
            {"name": "focal", "broadcast_compat": True, "reduction": "weight-normalised"},
            r"plain mean; reduction is 'weight-normalised'.*Set reduction: mean",
        ),
        ({"name": "focall"}, r"'focal'"),
        ({"name": "focal", "gamma": -1}, r"greater than or equal to 0"),
        ({"name": "focal", "gamma": float("inf")}, r"finite"),
        ({"class_weights": "class-balanced", "beta": 1.0}, r"less than 1"),
        ({"class_weights": [1.0, 0.0]}, r"greater than 0"),
        ({"class_counts": [5, 0]}, r"greater than 0"),
        ({"reduction": "sum"}, r"'weight-normalised'"),
        ({"weights": "inverse"}, r"Extra inputs are not permitted"),
    ],
)
def test_config_that_does_not_fit_together_raises(given, message):
    with pytest.raises(ValidationError, match=message):
        LossConfig(**given)


def test_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        LossConfig().name = "focal"


def test_only_losses_on_votes_use_soft_targets():
    assert [name for name in NAMES if LossConfig(name=name).uses_soft_targets] == [
        "kl-divergence",
        "soft-cross-entropy",
    ]


@pytest.mark.parametrize("name", ["logit-adjustment", "vector-scaling"])
def test_absorbed_prior_is_the_share_of_each_class(name):
    assert absorbed_prior(LossConfig(name=name), [6, 3, 1]) == pytest.approx([0.6, 0.3, 0.1])


def test_absorbed_prior_follows_tau():
    # Shares .75 and .25 squared: 9/16 and 1/16.
    config = LossConfig(name="logit-adjustment", tau=2)
    assert absorbed_prior(config, [30, 10]) == pytest.approx([0.9, 0.1])


def test_absorbed_prior_takes_the_counts_of_the_config_first():
    config = LossConfig(name="vector-scaling", class_counts=(1, 3))
    assert absorbed_prior(config, [10, 10]) == pytest.approx([0.25, 0.75])


def test_absorbed_prior_is_null_where_the_loss_has_none():
    others = [name for name in NAMES if name not in ("logit-adjustment", "vector-scaling")]
    assert [absorbed_prior(LossConfig(name=name), [3, 1]) for name in others] == [None] * 7
    assert absorbed_prior(LossConfig(name="vector-scaling", tau=0), [3, 1]) is None
    assert absorbed_prior(LossConfig(class_weights="inverse"), [3, 1]) is None


def test_absorbed_prior_class_without_rows_raises():
    with pytest.raises(BadValueError, match=r"without a row of class index 1"):
        absorbed_prior(LossConfig(name="logit-adjustment"), [3, 0])
