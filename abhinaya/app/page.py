"""The page: four tabs over one run, served on this machine."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from abhinaya.app.listening import Listener
from abhinaya.app.run import OpenedRun
from abhinaya.errors import BadValueError, require_package

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradio import Blocks

__all__ = ["build_page", "check_page", "launch_page", "serve"]

_N_AT_ONCE = 4


def check_page(host: str, port: int) -> None:
    """Say now what would otherwise be said after everything is loaded.

    Raises:
        MissingPackageError: if gradio or matplotlib is missing.
        BadValueError: if nothing can listen there.
    """
    for package in ("gradio", "matplotlib"):
        require_package(package, "The web page", "app")
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as err:
        raise BadValueError(
            f"The page cannot listen at {host}:{port}: {err.strerror or err}. Another program, "
            f"perhaps another page, may use the port; choose one with --port {port + 1}."
        ) from err


def build_page(listener: Listener) -> Blocks:
    """Return the page; nothing listens yet, and no model is loaded."""
    # Before gradio is imported, which else tells its makers of every start.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Uploads lie in a folder that goes with the page.
    os.environ["GRADIO_TEMP_DIR"] = str(listener.scratch / "uploads")
    import gradio as gr

    from abhinaya.app.tabs.browse import add_browser
    from abhinaya.app.tabs.compare import add_comparison
    from abhinaya.app.tabs.prompt import add_prompts
    from abhinaya.app.tabs.recording import add_recording

    name = listener.run.folder.resolve().name
    page: Blocks
    with gr.Blocks(title=f"abhinaya: {name}", analytics_enabled=False) as page:
        gr.Markdown(f"# {name}", elem_id="title")
        with gr.Tabs():
            with gr.Tab("Recording", id="recording"):
                add_recording(listener)
            with gr.Tab("Run", id="run"):
                add_browser(listener.run)
            with gr.Tab("Compare", id="compare"):
                add_comparison(listener.run)
            with gr.Tab("Prompt", id="prompt"):
                add_prompts(listener)
    page.queue(default_concurrency_limit=_N_AT_ONCE, max_size=100, api_open=False)
    return page


def launch_page(page: Blocks, *, host: str, port: int, max_megabytes: float) -> str:
    """Start a page, in threads of its own, and return its address."""
    import gradio as gr

    from abhinaya.app.texts import CSS

    local = ["system-ui", "sans-serif"]  # gradio's own theme fetches its fonts
    theme = gr.themes.Default(
        primary_hue="blue", font=local, font_mono=["ui-monospace", "monospace"]
    ).set(
        body_text_color_subdued="*neutral_600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        color_accent="*primary_700",
    )
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        max_file_size=int(max_megabytes * 1_000_000),
        theme=theme,
        css=CSS,
        show_error=True,
        quiet=True,
        share=False,
        inbrowser=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        prevent_thread_lock=True,
    )
    return address


def serve(
    run: OpenedRun,
    *,
    host: str,
    port: int,
    transcriber: str | None,
    max_seconds: float,
    max_megabytes: float,
    tell: Callable[[str], Any],
) -> None:
    """Show the page of a run until somebody stops it.

    Args:
        run: what is shown.
        host: address of this machine; 127.0.0.1 is heard by nobody else.
        port: of the page.
        transcriber: Whisper model that writes down recordings.
        max_seconds: longest recording.
        max_megabytes: largest upload.
        tell: is given the address.

    Raises:
        MissingPackageError: if gradio or matplotlib is missing.
        BadValueError: if nothing can listen there.
    """
    check_page(host, port)
    with Listener(run, transcriber, max_seconds) as listener:
        page = build_page(listener)
        try:
            tell(launch_page(page, host=host, port=port, max_megabytes=max_megabytes))
            while True:
                time.sleep(1)
        finally:
            page.close(verbose=False)
