"""Report: what a chain found out becomes one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from abhinaya.errors import BadValueError, MissingFileError, UnknownNameError, require_package
from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import Report, interval_text
from abhinaya.pipeline.stages.settings import Settings

if TYPE_CHECKING:
    from abhinaya.pipeline.config import PipelineConfig
    from abhinaya.pipeline.page.runs import Sources

__all__ = ["PAGE", "ReportSettings", "run_report"]

PAGE = "report.html"
"""The page of a chain, in its folder."""

_GIVEN = "tables"


class ReportSettings(Settings):
    """What to report on, and how."""

    select: tuple[str, ...] = Field(default=(), json_schema_extra={"metavar": "SELECTION"})
    """Selection of a chain to report on, repeatable; all by default."""
    truth: dict[str, str] = Field(
        default_factory=dict, json_schema_extra={"metavar": "SELECTION=FILE"}
    )
    """True labels of a selection, where the manifest does not have them; repeatable."""
    tiebreaker: tuple[str, ...] = Field(default=(), json_schema_extra={"metavar": "NAME"})
    """Table that settles ties, where no table given is a vote; repeat for the next in line."""
    fallback: str | None = Field(default=None, json_schema_extra={"metavar": "CLASS"})
    """Class where every member abstains, where no table given is a vote."""
    by_speaker: bool = False
    """Take intervals over speakers, not utterances."""
    resamples: int = Field(default=10_000, ge=1)
    """Bootstrap resamples behind each interval."""
    seed: int = Field(default=0, ge=0)
    """Seed of all draws."""


def run_report(
    sources: Sequence[str],
    settings: ReportSettings,
    *,
    manifest: Path | None = None,
    out: Path | None = None,
) -> Report:
    """Write a page about a chain, or about tables.

    Args:
        sources: the folder of a chain, or tables, files or NAME=FILE.
        settings: what to report on, and how.
        manifest: a manifest, or a CSV `FileName,EmoClass`; a chain's own by default.
        out: the page to write; `report.html` in the folder of a chain by default.

    Raises:
        MissingPackageError: if matplotlib is not installed.
        MissingFileError: if there is no such folder or table.
        BadValueError: if a folder holds no tables, or no selection has true labels.
    """
    require_package("matplotlib", "A report", "report")
    folder = Path(sources[0])
    is_chain = folder.is_dir() or (len(sources) == 1 and not folder.suffix)
    if is_chain:
        if len(sources) > 1:
            raise BadValueError(
                f"{sources[0]!r} is a folder, and a report is about one chain or about tables. "
                "Give only the folder, or only tables."
            )
        return _write(_find_chain(folder, manifest, settings), settings, out or folder / PAGE)
    if manifest is None:
        raise BadValueError("Tables are held against true labels. Give --manifest FILE.")
    if out is None:
        raise BadValueError("Say where to write the page of these tables: --out FILE.html.")
    if settings.select or settings.truth:
        raise BadValueError(
            "--select and --truth choose among the selections of a chain, but tables were given. "
            "Leave them out, or give the chain's folder."
        )
    from abhinaya.pipeline.page.runs import Sources

    of = Sources(
        title=f"{len(sources)} tables" if len(sources) > 1 else folder.stem,
        tables={_GIVEN: list(sources)},
        truths={_GIVEN: manifest},
        manifest=_as_manifest(manifest),
    )
    return _write(of, settings, out)


def _as_manifest(path: Path) -> Path | None:
    """Return the path if it is a manifest's, not that of a CSV `FileName,EmoClass`."""
    from abhinaya.data.label_csv import csv_header

    return path if path.suffix != ".csv" or "utterance" in csv_header(path) else None


def _find_chain(folder: Path, manifest: Path | None, settings: ReportSettings) -> Sources:
    from abhinaya.pipeline.page.runs import Sources, read_chain

    if not folder.is_dir():
        raise MissingFileError(
            f"There is no folder {str(folder)!r}. Give the one that abhinaya run wrote, `out` of "
            "its config."
        )
    config = read_chain(folder)
    tables = {
        path.name: found
        for path in sorted((folder / "tables").glob("*"))
        if path.is_dir() and (found := _tables_in(path, config))
    }
    if not tables:
        raise BadValueError(
            f"{str(folder)!r} holds no prediction tables, expected tables/SELECTION/NAME.parquet. "
            "Give the folder that abhinaya run wrote, `out` of its config."
        )
    for name in (*settings.select, *settings.truth):
        if name not in tables:
            raise UnknownNameError("selection", name, tables)
    chosen = settings.select or [*(config.predict if config else ()), *tables]
    known: dict[str, Path] = {}
    if config is not None:
        manifest = manifest or config.manifest_with_speakers
        known = {entry.selection: entry.truth for entry in config.score if entry.truth}
    known |= {name: Path(file) for name, file in settings.truth.items()}
    truths = {name: known.get(name, manifest) for name in chosen if name in tables}
    if manifest is None and None in truths.values():
        raise BadValueError(
            f"{str(folder)!r} does not say where its true labels are. Give --manifest FILE, or run "
            "the chain again: abhinaya run CONFIG repeats nothing that is finished."
        )
    return Sources(
        title=config.name if config else folder.resolve().name,
        tables={name: tables[name] for name in truths},
        truths={name: path for name, path in truths.items() if path is not None},
        manifest=None if manifest is None else _as_manifest(manifest),
        folder=folder,
        missing=_missing_tables(config, folder, settings),
    )


def _missing_tables(
    config: PipelineConfig | None, folder: Path, settings: ReportSettings
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if config is None:
        return found
    names = dict.fromkeys([*config.members, config.fused_name, config.final_name])
    for selection in settings.select or config.predict:
        own = folder / "tables" / selection
        absent = [name for name in names if not (own / f"{name}.parquet").is_file()]
        found |= {selection: absent} if absent else {}
    return found


def _tables_in(folder: Path, config: PipelineConfig | None) -> list[str]:
    found = {path.stem: str(path) for path in sorted(folder.glob("*.parquet"))}
    if config is None:
        return list(found.values())
    names = [*config.members, config.fused_name, config.final_name]
    return [found[name] for name in dict.fromkeys(names) if name in found]


@sole_outputs("out")
def _write(sources: Sources, settings: ReportSettings, out: Path) -> Report:
    from abhinaya.pipeline.page.build import build_page
    from abhinaya.report.page import check_overwritable, write_page

    check_overwritable(out)
    page, scored = build_page(sources, settings)
    write_page(page, out)
    return Report(
        str(out),
        ["selection", "table", "rows", "macro-F1", "95 % interval"],
        [
            [
                name,
                found.final.name,
                (one := found.scores[found.final.name]).scores.n_utts,
                one.scores.macro_f1,
                interval_text(one.interval),
            ]
            for name, found in scored.items()
        ],
        files=(out,),
        notes=tuple(
            f"The chain has yet to make tables of {name}: {', '.join(absent)}."
            for name, absent in sources.missing.items()
        ),
        remark=f"{out.stat().st_size / 1e6:.2f} MB, needs no network.",
    )
