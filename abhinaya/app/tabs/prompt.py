"""Tab "Prompt": a prompt on one utterance, as it is sent, and what a model answers."""

from __future__ import annotations

from typing import Any

import gradio as gr

from abhinaya.app.asking import ask, find_models, find_sources, save_prompt, shipped_text, show_chat
from abhinaya.app.listening import Listener
from abhinaya.app.tabs.words import in_words
from abhinaya.app.texts import show_answer, show_turns
from abhinaya.errors import BadValueError
from abhinaya.prompting.prompts import prompt_names

__all__ = ["add_prompts"]


def add_prompts(listener: Listener) -> None:
    """Put the tab's contents into the block that is open."""
    run = listener.run
    if run.manifest is None:
        gr.Markdown("The run's corpus is not there any more. Start the page with `--manifest`.")
        return
    models, sources = list(find_models(run)), find_sources(run)
    start = "zero-shot-v1"
    with gr.Row():
        with gr.Column():
            utterance = gr.Textbox(
                label="Utterance of the corpus",
                value=str(run.manifest.rows["utterance"].iloc[0]),
                elem_id="asked-utterance",
            )
            source = gr.Dropdown(
                sources, value=sources[0] if sources else None, label="Transcripts of"
            )
            model = gr.Dropdown(models, value=models[0] if models else None, label="Model")
            shipped = gr.Dropdown(list(prompt_names()), value=start, label="Begin with the prompt")
        text = gr.Textbox(
            shipped_text(start),
            label="Prompt, changed as you like",
            lines=14,
            max_lines=24,
            scale=2,
            elem_id="prompt-text",
            max_length=50_000,
        )
    with gr.Row():
        show_button = gr.Button("Show it as it is sent", elem_id="show-prompt")
        ask_button = gr.Button(
            "Ask the model", variant="primary", elem_id="ask-model", interactive=bool(models)
        )
    if not models:
        gr.Markdown("No member of this run is asked with a prompt, so there is nobody to answer.")
    answer = gr.HTML(elem_id="answer")
    chat = gr.HTML(elem_id="chat")

    def show(name: str, of: str | None, by: str | None, written: str) -> str:
        with in_words():
            prompt = save_prompt(written, listener.scratch)
            return show_turns(show_chat(run, prompt, name.strip(), of, by))

    def put(name: str, of: str | None, by: str | None, written: str) -> tuple[str, str]:
        with in_words():
            if by is None:
                raise BadValueError("No member of this run is asked with a prompt.")
            prompt = save_prompt(written, listener.scratch)
            turns = show_turns(show_chat(run, prompt, name.strip(), of, by))
            return show_answer(run, by, ask(listener, prompt, name.strip(), of, by)), turns

    given: list[Any] = [utterance, source, model, text]
    shipped.change(shipped_text, shipped, text, api_visibility="private")
    show_button.click(show, given, chat, api_visibility="private")
    ask_button.click(put, given, [answer, chat], api_visibility="private")
