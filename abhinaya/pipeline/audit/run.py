"""The audit as a whole: what is done already, what is to do, and where the results stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from abhinaya import __version__
from abhinaya.config import dump_yaml
from abhinaya.data.parquet import read_parquet
from abhinaya.errors import AbhinayaError, require_package
from abhinaya.files import (
    atomic_folder,
    atomic_path,
    digest_of,
    hash_file,
    read_json_object,
    sole_writer,
    write_json,
    write_text,
)
from abhinaya.pipeline.audit.bundle import Bundle, open_bundle
from abhinaya.pipeline.audit.config import AuditConfig
from abhinaya.pipeline.audit.parts import (
    Frames,
    compare_languages,
    probe_corpus,
    project_speakers,
    sweep_point,
    transfer,
)
from abhinaya.pipeline.audit.tables import make_reports
from abhinaya.pipeline.report import Report
from abhinaya.progress import progress

__all__ = ["run_audit"]

_DIGEST = "digest.json"
_VERSION = 1
"""Of the computation; a change of results counts it up."""

_Unit = tuple[str, str, Callable[[], Frames]]
"""Name, digest of all that decides the result, and what computes it."""


def run_audit(config: AuditConfig) -> dict[str, Report]:
    """Do the parts of an audit that are not done, and write all results.

    Args:
        config: what to look at.

    Returns:
        The tables, by the names of their files.

    Raises:
        MissingPackageError: if figures are wanted and matplotlib is not there.
        AbhinayaError: as the parts do, for a corpus or an encoder that cannot be audited.
    """
    if config.figures:
        require_package("matplotlib", "The pictures of an audit (or set figures=false)", "audit")
    with sole_writer(config.out, "out"):
        bundle = open_bundle(config)
        units = list(_units(config, bundle))
        with progress("auditing", len(units)) as advance:
            for name, digest, compute in units:
                _complete(config.out / "parts" / name, digest, compute)
                advance(1)
        frames = _collect(config.out, [name for name, _, _ in units])
        write_text(config.out / "config.yaml", dump_yaml(config))
        reports = make_reports(config, frames)
        if config.figures:
            from abhinaya.pipeline.audit.pictures import draw_all

            draw_all(config, frames, config.out / "figures")
        files = sorted(config.out.glob("*.parquet"))
        write_json(
            config.out / "audit.json",
            {
                "version": __version__,
                "parts": {name: digest for name, digest, _ in units},
                "features": dict(bundle.hashes),
                "files": {file.name: hash_file(file) for file in files},
            },
        )
    return reports


def _units(config: AuditConfig, bundle: Bundle) -> Iterator[_Unit]:
    """Yield the pieces of work, each finished for itself."""

    def unit(
        name: str,
        part: str,
        encoders: list[str],
        corpora: list[str],
        compute: Callable[..., Frames],
    ) -> _Unit:
        keys = {"classes", "seeds"} if part == "sweep" else {"classes", "seeds", "probe", part}
        decides: list[Any] = [config.model_dump(mode="json", include=keys)]
        decides += [bundle.digest(encoders=encoders, corpora=corpora), name, _VERSION]
        decides.append([bundle.own_classes[corpus] for corpus in corpora])
        if part in ("transfer", "rsa"):
            decides.append(config.languages)
        if part == "sweep" and config.sweep is not None:
            split, settings = config.sweep.points[int(name.rpartition(".")[2])]
            decides += [split, settings.model_dump(mode="json")]
        return name, digest_of(decides), partial(compute, config, bundle)

    every = list(config.corpora)
    for encoder in config.encoders:
        for corpus in every:
            for part, compute in (("probes", probe_corpus), ("inlp", project_speakers)):
                if getattr(config, part) is not None:
                    name = f"{part}.{encoder}.{corpus}"
                    work = partial(compute, encoder=encoder, corpus=corpus)
                    yield unit(name, part, [encoder], [corpus], work)
        for part, compare in (("transfer", transfer), ("rsa", compare_languages)):
            if getattr(config, part) is not None:
                work = partial(compare, encoder=encoder)
                yield unit(f"{part}.{encoder}", part, [encoder], every, work)
    if config.sweep is not None:
        both, where = [config.sweep.first, config.sweep.second], [config.sweep.corpus]
        for number in range(len(config.sweep.points)):
            work = partial(sweep_point, point=number)
            yield unit(f"sweep.{number:04}", "sweep", both, where, work)


def _complete(folder: Path, digest: str, compute: Callable[[], Frames]) -> None:
    """Compute a piece that is not there, or was computed otherwise."""
    try:
        done = read_json_object(folder / _DIGEST)
        files = {name: hash_file(folder / name) for name in done["files"]}
        if done == {"digest": digest, "files": files}:
            return
    except (OSError, AbhinayaError, KeyError, TypeError):
        pass  # not there, or damaged: it is made anew
    frames = compute()
    with atomic_folder(folder) as temporary:
        for table, frame in frames.items():
            frame.to_parquet(temporary / f"{table}.parquet", index=False)
        files = {file.name: hash_file(file) for file in sorted(temporary.glob("*.parquet"))}
        write_json(temporary / _DIGEST, {"digest": digest, "files": files})


def _collect(out: Path, units: list[str]) -> Frames:
    """Write each kind of table as one file, and return them."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for name in units:
        for file in sorted((out / "parts" / name).glob("*.parquet")):
            parts.setdefault(file.stem, []).append(read_parquet(file).to_pandas())
    frames = {
        table: pd.concat(own, ignore_index=True).drop_duplicates(ignore_index=True)
        for table, own in parts.items()
    }
    for file in out.glob("*.parquet"):
        if file.stem not in frames:
            file.unlink()  # of a part that the config no longer has
    for table, frame in frames.items():
        with atomic_path(out / f"{table}.parquet") as temporary:
            frame.to_parquet(temporary, index=False)
    return frames
