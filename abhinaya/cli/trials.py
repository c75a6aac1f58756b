"""`abhinaya ablate-recipe` and `abhinaya sweep`; `abhinaya.pipeline.trials` does their work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abhinaya.cli.options import AsJson, Format, MemberConfigFile, Overrides, takes_settings
from abhinaya.cli.tables import TableFormat, show_report, write_markdown
from abhinaya.pipeline.trials.ablate_recipe import AblateRecipeSettings
from abhinaya.pipeline.trials.sweep import SweepSettings

__all__ = ["ablate_recipe", "sweep"]

_Out = Annotated[Path, typer.Option(help="Folder for the runs, their tables and the result.")]


@takes_settings
def ablate_recipe(
    config: MemberConfigFile,
    settings: AblateRecipeSettings,
    out: _Out,
    overrides: Overrides = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Train a member with and without each switch of its config, and say what each brings.

    Every recipe is checked first, then trained with every seed; a killed command goes on where it
    was. Written are recipes.csv, seeds.csv and recipes.md. Such as: abhinaya ablate-recipe
    members/wavlm.yaml data.manifest=M --switch loss,head.dropout=0 --seeds 1,2,3 --out DIR
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.trials.ablate_recipe import run_ablate_recipe

    quiet_libraries()
    report = run_ablate_recipe(config, overrides or [], out, settings)
    write_markdown(report, out / "recipes.md")
    show_report(report, as_json=as_json, table_format=table_format)


@takes_settings
def sweep(
    config: MemberConfigFile,
    settings: SweepSettings,
    out: _Out,
    values: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUES",
            help="What to try: loss.gamma=0,1,2; for a search also training.learning_rate="
            "log:1e-6..1e-4. One value is a change of the config.",
        ),
    ],
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Train a member with many values of some keys, and say which are best.

    Scores are means over the values of seed. The same command in several shells or jobs with the
    same --out shares the trials; killed, it goes on where it was. Written are points.csv,
    classes.csv, sweep.md and pictures. Such as: abhinaya sweep members/wavlm.yaml data.manifest=M
    loss.gamma=0,1,2 seed=1,2,3 --out DIR
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.trials.sweep import run_sweep

    quiet_libraries()
    report = run_sweep(
        config, values, out, settings, lambda found: write_markdown(found, out / "sweep.md")
    )
    show_report(report, as_json=as_json, table_format=table_format)
