"""`abhinaya doctor` of a fusion; of the encoders only configs, names and shapes are read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from abhinaya.doctor.findings import Findings
from abhinaya.doctor.weights import check_tokenizer, check_transcripts, find_model
from members.fusion.config import TEXT, FusionConfig

if TYPE_CHECKING:
    from members.fusion.model import Leg

__all__ = ["check_fusion"]


def check_fusion(
    config: FusionConfig,
    build_leg: Callable[[FusionConfig, str], Leg],
    build_inputs: Callable[[FusionConfig], object],
) -> Findings:
    """Find all that can be known of a config's encoders and texts before they are loaded.

    Args:
        config: of the member.
        build_leg: gives the leg of a name.
        build_inputs: gives the inputs of all.
    """
    findings = Findings()
    bases = {f"encoders.{name}": config.base_of(name) for name in config.encoders}
    if config.text is not None:
        bases[TEXT] = config.text.base
    legs = {}
    for key, base in bases.items():
        build = partial(build_leg, config, key.removeprefix("encoders."))
        legs[key] = _check_leg(key, base, build, findings)
    if all(legs.values()):
        findings.attempt("inputs", "", partial(build_inputs, config))
    if config.text is not None:
        text: Any = legs[TEXT]
        n_rows = None if text is None else text.encoder.config.vocab_size
        check_tokenizer(config.text.base, findings, n_rows)
        check_transcripts(config.data, findings)
    return findings


def _check_leg(key: str, base: str, build: Callable[[], Leg], findings: Findings) -> Leg | None:
    """Return a leg without memory for its weights; None if it cannot be used or is not here."""
    from abhinaya.nn.weight_files import read_shapes, skeletons

    # In a tuple, because None is that it is on the hub.
    found = findings.attempt(key, base, lambda: (find_model(base),))
    if found is None:
        return None
    path = found[0]
    if path is None:
        details = "not on this disk; it is fetched when it is first used, unchecked"
        findings.add(key, base, "note", details)
        return None
    with skeletons():
        leg = findings.attempt(key, base, build)
    # The one file of openai-whisper was read with its config.
    shapes = findings.attempt(key, base, lambda: read_shapes(path) if path.is_dir() else {})
    if leg is None or shapes is None:
        return None
    encoder: Any = leg.encoder.config
    details = (
        f"{encoder.model_type} with all its files: {encoder.num_hidden_layers} blocks of "
        f"{leg.n_features} features"
    )
    findings.add(key, base, "ok", details)
    return leg
