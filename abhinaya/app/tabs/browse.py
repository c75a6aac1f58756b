"""Tab "Run": the utterances of a prediction table, what was said of each, and its sound."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abhinaya.app.browsing import AGREEMENTS, ANY, Filters, filter_rows, list_rows, votes_on
from abhinaya.app.pictures import draw_sound
from abhinaya.app.run import OpenedRun, find_texts
from abhinaya.app.tabs.words import in_words
from abhinaya.app.texts import show_picture, show_sentence, show_votes
from abhinaya.data.audio import SAMPLE_RATE_HZ, read_audio
from abhinaya.errors import AudioError

__all__ = ["add_browser"]

_N_SHOWN = 500


def add_browser(run: OpenedRun) -> None:
    """Put the tab's contents into the block that is open."""
    if not run.selections:
        gr.Markdown("This run has no prediction tables. A chain's folder of output has some.")
        return
    codes = run.emotions.codes
    classes = [(ANY, ANY), *((run.class_name(idx), code) for idx, code in enumerate(codes))]
    first = next(iter(run.selections))
    with gr.Row():
        selection = gr.Dropdown(list(run.selections), value=first, label="Selection")
        table = gr.Dropdown(_names(run, first), value=_names(run, first)[0], label="Table")
        true = gr.Dropdown(classes, value=ANY, label="True class")
        predicted = gr.Dropdown(classes, value=ANY, label="Predicted class")
    with gr.Row():
        agreement = gr.Dropdown(
            [(text, key) for key, text in AGREEMENTS.items()], value=ANY, label="Agreement"
        )
        speaker = gr.Dropdown(_speakers(run, first), value=ANY, label="Speaker")
        low = gr.Slider(0, 1, 0, step=0.01, label="Confidence from", buttons=[])
        high = gr.Slider(0, 1, 1, step=0.01, label="Confidence to", buttons=[])
    filters: list[gr.Dropdown | gr.Slider] = [
        selection,
        table,
        true,
        predicted,
        agreement,
        speaker,
        low,
        high,
    ]
    text, cells, names = _list(run, *(box.value for box in filters))
    count = gr.HTML(text, elem_id="count")
    rows = gr.Dataframe(
        cells,
        interactive=False,
        max_height=320,
        label="Utterances; choose a row",
        show_label=True,
        buttons=[],
        elem_id="rows",
    )
    chosen = gr.Dropdown(names, value=None, label="Utterance", elem_id="utterance")
    head = gr.HTML(elem_id="decided")
    # An empty player is hidden: screen readers stumble over it.
    sound = gr.Audio(label="Clip", interactive=False, buttons=[], elem_id="clip", visible=False)
    picture = gr.HTML(elem_id="picture")
    votes = gr.HTML(elem_id="votes")

    def choose_selection(name: str) -> tuple[Any, Any]:
        with in_words():
            names, people = _names(run, name), _speakers(run, name)
        return gr.update(choices=names, value=names[0]), gr.update(choices=people, value=ANY)

    def show(*given: Any) -> tuple[str, pd.DataFrame, Any]:
        with in_words():
            text, cells, names = _list(run, *given)
        return text, cells, gr.update(choices=names, value=None)

    def pick(event: gr.SelectData) -> str:
        return str(event.row_value[0])

    def look(name: str, of: str, utterance: str | None) -> tuple[str, Any, str, str]:
        if utterance is None:
            return "", gr.update(value=None, visible=False), "", ""
        with in_words():
            texts = {} if run.manifest is None else find_texts(run.manifest, utterance)
            said, cards = show_votes(run, votes_on(run, name, of, utterance), texts)
            waveform = _hear(run, utterance)
        if isinstance(waveform, str):
            return said + show_sentence(waveform), gr.update(value=None, visible=False), "", cards
        drawn = draw_sound(waveform, utterance)
        shown = show_picture(drawn, f"Waveform and spectrogram of {utterance}")
        pcm = (np.clip(waveform, -1, 1) * 32767).astype(np.int16)
        return said, gr.update(value=(SAMPLE_RATE_HZ, pcm), visible=True), shown, cards

    shown = [count, rows, chosen]
    selection.change(choose_selection, selection, [table, speaker], api_visibility="private").then(
        show, filters, shown, api_visibility="private"
    )
    gr.on(
        [box.change for box in filters if box is not selection],
        show,
        filters,
        shown,
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
    )
    rows.select(pick, None, chosen, api_visibility="private")
    chosen.change(
        look, [selection, table, chosen], [head, sound, picture, votes], api_visibility="private"
    )


def _names(run: OpenedRun, selection: str) -> list[str]:
    return [table.name for table in run.tables(selection)]


def _speakers(run: OpenedRun, selection: str) -> list[str]:
    found = list_rows(run, selection, _names(run, selection)[0])["speaker"].dropna().unique()
    return [ANY, *sorted(found)]


def _list(run: OpenedRun, *given: Any) -> tuple[str, pd.DataFrame, list[str]]:
    """Return how many rows pass the filters, the first of them as cells, and their names."""
    selection, table, true, predicted, agreement, speaker, low, high = given
    every = list_rows(run, selection, table)
    found = filter_rows(every, Filters(true, predicted, agreement, speaker, (low, high)))
    text = f"<p>{len(found)} of {len(every)} utterances"
    text += f"; the first {_N_SHOWN} are shown.</p>" if len(found) > _N_SHOWN else ".</p>"
    found = found.head(_N_SHOWN)
    cells = pd.DataFrame(
        {
            "utterance": found["utterance"],
            "true": found["true"].fillna("-"),
            "predicted": found["predicted"].fillna("-"),
            "confidence": found["confidence"].map("{:.2f}".format).replace("nan", "-"),
            "votes": [
                f"{agree} of {voted}"
                for agree, voted in zip(found["agree"], found["voted"], strict=True)
            ],
            "decided by": found["decided_by"].fillna("-"),
            "speaker": found["speaker"].fillna("-"),
        }
    )
    return text, cells, found["utterance"].tolist()


def _hear(run: OpenedRun, utterance: str) -> NDArray[np.float32] | str:
    """Return the clip of an utterance, or why there is none."""
    if run.manifest is None:
        return "The corpus is not there any more; start the page with --manifest to hear clips."
    cells = run.manifest.rows.loc[run.manifest.rows["utterance"] == utterance, "audio"].dropna()
    if cells.empty:
        return "The corpus names no audio file for this utterance."
    try:
        return read_audio(run.manifest.audio_path(cells.iloc[0]))
    except AudioError as err:
        return f"{err} Where the audio has moved, start the page with --audio-root."
