"""The rules that `abhinaya fit` knows."""

from __future__ import annotations

from collections.abc import Mapping

from abhinaya.errors import UnknownNameError
from ensembling.learned.adaptation import ADAPTATION
from ensembling.learned.cma import CMA
from ensembling.learned.confusions import CONFUSIONS
from ensembling.learned.greedy import GREEDY
from ensembling.learned.log_odds import LOG_ODDS
from ensembling.learned.recipes import LearnedRule
from ensembling.learned.stacking import STACKING
from ensembling.learned.temperature import TEMPERATURE
from ensembling.learned.thresholds import THRESHOLDS
from ensembling.learned.weights import WEIGHTS

__all__ = ["LEARNED", "load_learned"]

_RULES: tuple[LearnedRule, ...] = (
    ADAPTATION,
    CMA,
    CONFUSIONS,
    GREEDY,
    LOG_ODDS,
    STACKING,
    TEMPERATURE,
    THRESHOLDS,
    WEIGHTS,
)

LEARNED: Mapping[str, LearnedRule] = {rule.name: rule for rule in _RULES}
"""All learned rules by name."""


def load_learned(name: str) -> LearnedRule:
    """Return the learned rule of that name.

    Raises:
        UnknownNameError: if there is none; the message gives near matches and all names.
    """
    if name not in LEARNED:
        raise UnknownNameError("learned rule", name, LEARNED)
    return LEARNED[name]
