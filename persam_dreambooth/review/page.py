"""The page's layout, in Gradio: a tab for masks, which is plain JavaScript inside one component, and one for runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from persam_dreambooth.review.api import Api
from persam_dreambooth.review.generator import Generator
from persam_dreambooth.review.runs_tab import add_runs_tab
from persam_dreambooth.review.workspace import Workspace

QUESTIONS = (
    "overview",
    "look",
    "draw",
    "alternatives",
    "take",
    "judge",
    "refer",
    "undo",
    "search",
    "stop",
    "training",
)
"""Methods of the API that the masks' tab calls."""
SCRIPTS = ("state.js", "list.js", "photo.js", "gestures.js", "alternatives.js", "facts.js", "album.js")
"""Scripts of the masks' tab, joined in this order."""
STATIC = Path(__file__).parent / "static"
SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
SYSTEM_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def build_page(api: Api, workspace: Workspace, generator: Generator) -> tuple[gr.Blocks, dict[str, Any]]:
    """Build the page; return it with its theme and CSS as arguments for `gradio.mount_gradio_app`.

    Args:
        api: answers the masks' tab.
        workspace: the albums and runs.
        generator: generates pictures for the runs' tab.
    """
    with gr.Blocks(title="persam-dreambooth review", analytics_enabled=False, fill_width=True) as page, gr.Tabs():
        with gr.Tab("Masks"):
            gr.HTML(
                list(workspace.albums()),
                html_template=(STATIC / "masks.html").read_text(encoding="utf-8"),
                js_on_load="\n".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS),
                apply_default_css=False,
                elem_id="masks",
                server_functions=[_function(api, name) for name in QUESTIONS],
            )
        with gr.Tab("Training runs"):
            add_runs_tab(page, workspace, generator)
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        font=[_SystemFont(name) for name in SYSTEM_FONTS],
        font_mono=[_SystemFont(name) for name in SYSTEM_MONO],
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        block_radius="12px",
        button_large_radius="8px",
    )
    return page, {"theme": theme, "css": (STATIC / "review.css").read_text(encoding="utf-8")}


def _function(api: Api, name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Wrap a method in a function, on which Gradio can set attributes."""
    ask: Callable[[dict[str, Any]], dict[str, Any]] = getattr(api, name)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        return ask(question)

    answer.__name__ = name
    return answer


class _SystemFont(gr.themes.utils.fonts.Font):
    """A font that may be installed on the viewer's machine; nothing is downloaded."""
