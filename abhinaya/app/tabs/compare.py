"""Tab "Compare": two ensembles of the run's members."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pandas as pd

from abhinaya.app.comparing import Ensemble, compare_ensembles
from abhinaya.app.run import OpenedRun
from abhinaya.app.tabs.words import in_words
from abhinaya.app.texts import show_comparison

__all__ = ["add_comparison"]

_NONE = "none"


def add_comparison(run: OpenedRun) -> None:
    """Put the tab's contents into the block that is open."""
    if not run.selections:
        gr.Markdown("This run has no prediction tables. A chain's folder of output has some.")
        return
    names = [member.name for member in run.members]
    tiebreakers = [name for name in run.vote.tiebreaker if name in names]
    with gr.Row():
        selection = gr.Dropdown(
            list(run.selections), value=next(iter(run.selections)), label="Selection"
        )
        fallback = gr.Dropdown(
            [(_NONE, _NONE), *((run.class_name(i), c) for i, c in enumerate(run.emotions.codes))],
            value=run.vote.fallback or _NONE,
            label="Class where all members abstain",
        )
    boxes = []
    with gr.Row():
        for letter, chosen in (("A", names), ("B", names[: max(1, len(names) // 2)])):
            with gr.Column(min_width=280):
                members = gr.CheckboxGroup(
                    names, value=chosen, label=f"Members of ensemble {letter}"
                )
                ties = gr.Dropdown(
                    names,
                    value=[name for name in tiebreakers if name in chosen],
                    multiselect=True,
                    label=f"Tiebreakers of ensemble {letter}, the first in line first",
                )
                boxes += [members, ties]
    button = gr.Button("Compare", variant="primary", elem_id="compare")
    scores = gr.HTML(elem_id="scores")
    rows = gr.Dataframe(
        label="Utterances on which they differ",
        show_label=True,
        interactive=False,
        max_height=400,
        buttons=[],
        elem_id="differing",
        visible=False,
    )

    def compare(
        name: str,
        all_abstain: str,
        a: list[str],
        ties_a: list[str],
        b: list[str],
        ties_b: list[str],
    ) -> tuple[str, Any]:
        last = None if all_abstain == _NONE else all_abstain
        with in_words():
            found = compare_ensembles(
                run,
                name,
                Ensemble(tuple(a), tuple(ties_a), last),
                Ensemble(tuple(b), tuple(ties_b), last),
            )
        cells: pd.DataFrame = found.differing.fillna("-")
        return show_comparison(run, found), gr.update(value=cells, visible=True)

    button.click(compare, [selection, fallback, *boxes], [scores, rows], api_visibility="private")
