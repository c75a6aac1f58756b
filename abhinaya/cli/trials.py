"""What a member's config makes of clips and of scores: `preview`, `ablate-recipe`, `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abhinaya.cli.options import AsJson, Format, MemberConfigFile, Overrides, takes_settings
from abhinaya.cli.tables import TableFormat, show_report, write_markdown
from abhinaya.pipeline.trials.ablate_recipe import AblateRecipeSettings
from abhinaya.pipeline.trials.sweep import SweepSettings

__all__ = ["ablate_recipe", "preview", "sweep"]

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
    """Train with and without each switch of a config.

    Every recipe is checked first, then trained with every seed; a killed command goes on where it
    was. Written are recipes.csv, seeds.csv and recipes.md.

    Example:
        abhinaya ablate-recipe members/wavlm.yaml data.manifest=M --switch loss --out DIR
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
    """Train with many values of some keys, and name the best.

    Scores are means over the values of seed. The same command in several shells or jobs with the
    same --out shares the trials; killed, it goes on where it was. Written are points.csv,
    classes.csv, sweep.md and pictures.

    Example:
        abhinaya sweep members/wavlm.yaml data.manifest=M loss.gamma=0,1,2 seed=1,2 --out DIR
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.trials.sweep import run_sweep

    quiet_libraries()
    report = run_sweep(
        config, values, out, settings, lambda found: write_markdown(found, out / "sweep.md")
    )
    show_report(report, as_json=as_json, table_format=table_format)


def preview(
    config: MemberConfigFile,
    clips: Annotated[
        list[str],
        typer.Argument(metavar="CLIP|KEY=VALUE", help="Sound files; changes of the config."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    epoch: Annotated[int, typer.Option(min=0, help="Of training; each draws anew.")] = 0,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Write clips before and after each transform of a config.

    Their spectrograms stand beside them. Where mixing.clips is set the first two clips are also
    joined.

    Example:
        abhinaya preview members/wavlm.yaml a.wav b.wav mixing.clips=0.5 --out heard
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.errors import BadValueError
    from abhinaya.member_config import load_member_config
    from abhinaya.pipeline.preview import run_preview

    quiet_libraries()
    files = [one for one in clips if Path(one).exists() or "=" not in one]
    if not files:
        raise BadValueError(f"There is no clip among {clips!r}. Name a sound file.")
    checked = load_member_config(config, [one for one in clips if one not in files])
    report = run_preview(checked, [Path(file) for file in files], out, epoch=epoch)
    show_report(report, as_json=as_json, table_format=table_format)
