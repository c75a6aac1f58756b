"""What a gain on a few speakers lets one expect on others: shrunk towards that of other corpora."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError, UnknownNameError
from ensembling.speakers.variants import VARIANTS

__all__ = ["CONFIDENCE", "ExpectedGain", "expect_gain", "moderate", "read_priors"]

CONFIDENCE = 0.95
"""Share of the normal distribution that the intervals of the gate cover."""


_POOLED_DF = 2
"""How much the candidates' mean variance counts, in degrees of freedom."""


def moderate(variances: NDArray[np.float64], df: int) -> tuple[NDArray[np.float64], int]:
    """Draw variances of a family of candidates towards their mean.

    Where few speakers happen to gain the same from one candidate, that gain looks certain; what the
    others vary by says that it is not. With V the mean, a variance v of d degrees of freedom
    becomes (2 V + d v) / (2 + d), of d + 2.

    Source: the moderated t statistic of Smyth, "Linear models and empirical Bayes methods for
    assessing differential expression", 2004, with a prior of two degrees of freedom.

    Args:
        variances: of each candidate's gain; a single one stays as it is.
        df: degrees of freedom of each.

    Returns:
        The variances, and their degrees of freedom.

    Example:
        >>> moderate(np.array([1.0, 5.0]), 2)
        (array([2., 4.]), 4)
    """
    if len(variances) == 1:
        return variances, df
    total = _POOLED_DF + df
    return (_POOLED_DF * variances.mean() + df * variances) / total, total


class ExpectedGain(NamedTuple):
    """What a gain is expected to be on other speakers, and how certainly it is above zero."""

    gain: float
    certainty: float


def expect_gain(
    gain: float, interval: tuple[float, float], prior: tuple[float, float]
) -> ExpectedGain:
    """Combine a gain of the pseudo-tests with the mean and spread of gains on other corpora.

    Args:
        gain: of macro-F1.
        interval: around it, of `CONFIDENCE`.
        prior: mean and standard deviation of such gains over corpora.
    """
    from scipy.stats import norm

    mean, prior_sd = prior
    error = (interval[1] - interval[0]) / 2 / norm.ppf((1 + CONFIDENCE) / 2)
    if error == 0:  # the same gain in every resample, such as none
        return ExpectedGain(gain, float(gain > 0))
    weight = prior_sd**2 / (prior_sd**2 + error**2)
    expected = mean + weight * (gain - mean)
    return ExpectedGain(float(expected), float(norm.cdf(expected / (np.sqrt(weight) * error))))


def read_priors(text: str, prior_sd: float) -> dict[str, tuple[float, float]]:
    """Read the mean and spread of each variant's gain on other corpora.

    Args:
        text: NAME:GAIN:SD with commas between; variants left out have mean 0.
        prior_sd: spread of the variants left out.

    Raises:
        UnknownNameError: if there is no such adaptation.
        BadValueError: if an entry has another form, or a number is out of range.

    Example:
        >>> read_priors("standardise:0.02:0.03", 0.1)["standardise"]
        (0.02, 0.03)
    """
    priors = dict.fromkeys(VARIANTS, (0.0, prior_sd))
    for entry in text.split(",") if text else ():
        name, *numbers = (part.strip() for part in entry.split(":"))
        if name not in VARIANTS:
            raise UnknownNameError("adaptation", name, list(VARIANTS))
        try:
            gain, spread = map(float, numbers)
        except ValueError as err:
            raise BadValueError(
                f"The option prior of the rule 'adaptation' has {entry.strip()!r}, expected "
                "NAME:GAIN:SD, such as standardise:0.02:0.03: the mean gain of macro-F1 on other "
                "corpora, and its standard deviation over them."
            ) from err
        priors[name] = gain, spread
    for name, (gain, spread) in priors.items():
        if not (abs(gain) <= 1 and 0 < spread <= 1):
            raise BadValueError(
                f"The gain of {name!r} on other corpora is given as {gain:g} with a standard "
                f"deviation of {spread:g}, expected -1 to 1, and above 0 to 1. Correct the option "
                "prior or prior_sd."
            )
    return priors
