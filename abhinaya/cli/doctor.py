"""`abhinaya doctor`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abhinaya.cli.options import AsJson, Format, Overrides
from abhinaya.cli.shell.completion import complete_any
from abhinaya.cli.tables import Cell, TableFormat, show_table

if TYPE_CHECKING:
    from abhinaya.config import MemberConfig
    from abhinaya.doctor.findings import Finding

__all__ = ["doctor"]


def doctor(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG|RUN|CHAIN",
            help="YAML file of a member or a chain, a shipped one, a run directory, or a chain's "
            "folder; without it the environment.",
            autocompletion=complete_any,
        ),
    ] = None,
    overrides: Overrides = None,
    devices: Annotated[
        int | None,
        typer.Option(metavar="N", help="Show instead what each of N devices holds in training."),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", help="Memory of a device, to show whether it is enough."),
    ] = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Check the environment, or what a member or chain needs.

    Weights are looked at, not loaded: whether all files are there, belong together and fit into
    memory. Of a run its own weights are looked at too, of a chain every member's, with prompts and
    servers. Everything wrong is shown at once; the exit code is 1 if anything is.

    With --devices or --memory: what a training needs of each device, in GiB, for each way to start
    it.

    Example:
        abhinaya doctor members/wavlm.yaml base=/weights/wavlm-large
    """
    if devices is not None or memory is not None:
        columns, rows = _launches(config, overrides or [], devices, memory)
        show_table(columns, rows, as_json=as_json, table_format=table_format)
        return
    from abhinaya.doctor.environment import PACKAGES, check_environment

    if config is None:
        findings: Sequence[Finding] = check_environment(PACKAGES)
        columns = ["what", "result", "details"]
        rows = [[found.what, found.result, found.details] for found in findings]
    else:
        checked = _check(config, overrides or [])
        findings = [found for findings in checked.values() for found in findings]
        columns = ["what", "where", "result", "details"]
        rows = [[found.what, found.where, found.result, found.details] for found in findings]
        if "" not in checked:  # of a chain, by the names of its members
            columns = ["member", *columns]
            names = [name for name, findings in checked.items() for _ in findings]
            rows = [[name, *row] for name, row in zip(names, rows, strict=True)]
    show_table(columns, rows, as_json=as_json, table_format=table_format)
    n_problems = sum(found.result == "problem" for found in findings)
    if n_problems:
        count = "1 problem" if n_problems == 1 else f"{n_problems} problems"
        typer.echo(f"Error: {count} in {config or 'the environment'}; see above.", err=True)
        raise typer.Exit(1)


def _launches(
    config: str | None, overrides: Sequence[str], n_devices: int | None, memory_gib: float | None
) -> tuple[list[str], list[list[Cell]]]:
    """Return a table of the memory of each device: columns and rows."""
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.doctor.memory import compare_launches
    from abhinaya.errors import BadValueError

    if config is None:
        raise BadValueError("--devices and --memory are about a member; name its config too.")
    if memory_gib is not None and not 0 < memory_gib < math.inf:
        raise BadValueError(f"--memory is {memory_gib:g}, expected the GiB of a device, above 0.")
    quiet_libraries()
    shares = compare_launches(_load(config, overrides), 1 if n_devices is None else n_devices)
    parts = ["weights", "gradients", "optimizer", "activations", "context", "sum"]
    rows: list[list[Cell]] = [
        [launch, *(round(getattr(share, part) / 2**30, 2) for part in parts)]
        for launch, share in shares.items()
    ]
    if memory_gib is None:
        return ["launch", *parts], rows
    fits = ["yes" if share.sum <= memory_gib * 2**30 else "no" for share in shares.values()]
    return ["launch", *parts, "fits"], [[*row, fit] for row, fit in zip(rows, fits, strict=True)]


def _check(source: str, overrides: Sequence[str]) -> dict[str, Sequence[Finding]]:
    """Return findings by the member of a chain; under "" those of a single member or a run."""
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.config import TrainedConfig, load_yaml
    from abhinaya.doctor.runs import check_run
    from abhinaya.doctor.weights import check_member
    from abhinaya.pipeline.config import load_pipeline
    from abhinaya.pipeline.run import CHAIN
    from abhinaya.resources import find_config

    quiet_libraries()
    folder = Path(source) if Path(source).is_dir() else None
    chain = folder / CHAIN if folder else find_config(source)
    if (folder and not chain.is_file()) or (not folder and "members" not in load_yaml(chain)):
        own = check_run(folder) if folder else []
        return {"": [*own, *check_member(_load(source, overrides))]}
    found: dict[str, Sequence[Finding]] = {}
    for member in load_pipeline(chain, overrides).members:
        run = member.run_dir if isinstance(member, TrainedConfig) else None
        own = check_run(run) if run is not None and run.is_dir() else []
        found[member.name] = [*own, *check_member(member, memory=False)]
    return found


def _load(config: str, overrides: Sequence[str]) -> MemberConfig:
    """Return the config, without a manifest too: weights often come before the corpus."""
    from abhinaya.config import apply_overrides
    from abhinaya.doctor.runs import read_run_config
    from abhinaya.member_config import check_member_config, read_member_yaml
    from abhinaya.resources import find_config

    if Path(config).is_dir():
        content, path = read_run_config(Path(config))
    else:
        path = find_config(config)
        content = read_member_yaml(path)
    content = apply_overrides(content, overrides)
    data = content.get("data")
    if data is None or (isinstance(data, dict) and data.get("manifest") is None):
        content["data"] = {**(data or {}), "manifest": "(not given)"}
    return check_member_config(content, str(path))
