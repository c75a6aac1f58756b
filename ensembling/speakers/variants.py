"""The ways to adapt to speakers that the gate can choose from, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from abhinaya.errors import UnknownNameError
from ensembling.speakers.prior import reestimate_rows
from ensembling.speakers.rows import ADAPTED, Adapted, SpeakerRows
from ensembling.speakers.smoothing import ClusterSettings, smooth_rows
from ensembling.speakers.standardize import standardize_rows

__all__ = ["NONE", "VARIANTS", "Variant", "adapt", "lacking_for", "usable_variants"]

NONE = "none"
"""Name of the choice to leave the table as it is."""


@dataclass(frozen=True)
class Variant:
    """One way to adapt.

    Args:
        method: `cluster`, `standardise` or `prior`.
        settings: arguments of the method.
        is_default: whether the gate tries it unless told which to try. Every further candidate
            widens the intervals of all.
    """

    method: Literal["cluster", "standardise", "prior"]
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_default: bool = True


VARIANTS: Mapping[str, Variant] = {
    "cluster-embedding": Variant("cluster", {"space": "embedding"}),
    "cluster-logits": Variant("cluster", {"space": "logits"}),
    "cluster-probabilities": Variant("cluster", {"space": "probabilities"}),
    "cluster-standardised-probabilities": Variant(
        "cluster", {"space": "probabilities", "standardised": "always"}, False
    ),
    "soft-embedding": Variant("cluster", {"space": "embedding", "assignment": "soft"}, False),
    "soft-logits": Variant("cluster", {"space": "logits", "assignment": "soft"}, False),
    "soft-probabilities": Variant("cluster", {"space": "probabilities", "assignment": "soft"}),
    "standardise": Variant("standardise"),
    # At strength 0, as published, a dozen clips drive most classes to zero.
    "prior": Variant("prior", {"strength": 20.0}),
}
"""What the gate can choose from, by name."""


def adapt(rows: SpeakerRows, name: str, *, seed: int = 0, n_jobs: int = 1) -> Adapted:
    """Adapt the rows in one way, or leave them as they are for `none`.

    Args:
        rows: the table.
        name: `none`, or one of `VARIANTS`.
        seed: of the clustering.
        n_jobs: processes; -1 for one per core.

    Raises:
        UnknownNameError: if there is no such adaptation.
        BadValueError: if no speaker is known or the table lacks what it needs.
    """
    if name == NONE:
        return Adapted(rows.labels, rows.probs, (ADAPTED,) * len(rows))
    variant = _variant(name)
    if variant.method == "cluster":
        return smooth_rows(rows, ClusterSettings(**variant.settings, seed=seed), n_jobs=n_jobs)
    if variant.method == "standardise":
        return standardize_rows(rows, **variant.settings)
    return reestimate_rows(rows, **variant.settings)


def lacking_for(name: str, rows: SpeakerRows) -> str:
    """Say what a table lacks for an adaptation, as the end of a sentence; empty if nothing.

    Raises:
        UnknownNameError: if there is no such adaptation.
    """
    if name == NONE:
        return ""
    variant = _variant(name)
    space = variant.settings.get("space")
    has_evidence_of_head = rows.has_own_embeddings and rows.head is not None
    needs_embeddings = variant.method == "standardise" or space in ("embedding", "logits")
    needs_head = variant.method == "standardise" or space == "logits"
    needs_probs = (
        variant.method == "prior"
        or space == "probabilities"
        or variant.settings.get("assignment") == "soft"
        or (variant.method == "cluster" and not has_evidence_of_head)
    )
    if needs_embeddings and not rows.has_embedding.any():
        return f"table {rows.name!r} has no embeddings"
    if needs_head and rows.head is None:
        return f"table {rows.name!r} comes without the last layer of a head"
    if variant.method == "standardise" and not rows.has_own_embeddings:
        return f"the embeddings of table {rows.name!r} are another's"
    if needs_probs and not rows.has_probs.any():
        return f"table {rows.name!r} has no probabilities"
    return ""


def usable_variants(rows: SpeakerRows) -> list[str]:
    """List the gate's own candidates that a table has the numbers for."""
    return [
        name
        for name, variant in VARIANTS.items()
        if variant.is_default and not lacking_for(name, rows)
    ]


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise UnknownNameError("adaptation", name, [NONE, *VARIANTS])
    return VARIANTS[name]
