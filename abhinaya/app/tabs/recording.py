"""Tab "Recording": one's own voice to the members of the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from abhinaya.app.listening import Listener
from abhinaya.app.tabs.words import in_words
from abhinaya.app.texts import show_hearing
from abhinaya.errors import BadValueError

__all__ = ["add_recording"]


def add_recording(listener: Listener) -> None:
    """Put the tab's contents into the block that is open."""
    run = listener.run
    reads = [member.name for member in run.members if member.reads_text]
    about = "What is said. "
    if listener.transcriber is not None:
        about += f"Left empty, {listener.transcriber} writes it down. "
    elif reads:
        about += "Left empty, members that read abstain. "
    about += f"Read by {', '.join(reads)}." if reads else "No member of this run reads it."

    def hear(recording: str | None, transcript: str) -> Iterator[tuple[str, str, str]]:
        with in_words():
            if recording is None:
                raise BadValueError("There is no recording yet. Record one, or upload a file.")
            for hearing in listener.hear(Path(recording), transcript):
                yield show_hearing(run, hearing)

    with gr.Row():
        recording = gr.Audio(
            label=f"Speech, at most {listener.max_seconds:g} s",
            sources=["upload", "microphone"],
            type="filepath",
            editable=False,
            buttons=[],
            elem_id="recording",
        )
        with gr.Column():
            transcript = gr.Textbox(
                label="Transcript", info=about, lines=2, elem_id="transcript", max_length=5000
            )
            button = gr.Button("Ask the members", variant="primary", elem_id="ask-members")
    decision = gr.HTML(elem_id="decision")
    cards = gr.HTML(elem_id="cards")
    with gr.Accordion("Time per stage", open=False):
        times = gr.HTML(elem_id="times")
    button.click(
        hear,
        [recording, transcript],
        [decision, cards, times],
        api_visibility="private",
        scroll_to_output=True,
    )
