"""The page's layout, in Gradio: a tab for masks, which is plain JavaScript inside one component, and one for runs."""

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import pandas as pd

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import training_settings
from persam_dreambooth.review import runs
from persam_dreambooth.review.api import Api
from persam_dreambooth.review.runs import Generator
from persam_dreambooth.review.workspace import Workspace

QUESTIONS = ("overview", "look", "draw", "judge", "refer", "undo", "search", "stop", "training")
"""Methods of the API that the masks' tab calls."""
SCRIPTS = ("state.js", "list.js", "photo.js", "gestures.js", "facts.js", "album.js")
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


NO_RUN = '<p class="quiet">No run is open. Start with <code>--run OUTPUT_DIR</code> to view a training run.</p>'


def add_runs_tab(page: gr.Blocks, workspace: Workspace, generator: Generator) -> None:
    """Lay out the tab inside the Blocks `page`."""
    if not workspace.runs:
        gr.HTML(NO_RUN, elem_id="no-run")
        return
    alike = len({run.name for run in workspace.runs}) < len(workspace.runs)
    names = [(str(run) if alike else run.name, number) for number, run in enumerate(workspace.runs)]
    choice = gr.Dropdown(names, value=0, label="Run", elem_id="run-choice", interactive=True)
    with gr.Row():
        with gr.Column(scale=3):
            curve = gr.LinePlot(x="step", y="loss", title="Loss", height=280, elem_id="loss")
            pictures = gr.HTML(elem_id="run-pictures")
        with gr.Column(scale=1, min_width=280):
            prompt, *numbers = _order()
            button = gr.Button("Generate", variant="primary", elem_id="run-generate")
            said = gr.HTML(elem_id="run-said")
    timer = gr.Timer(1.5, active=False)

    def show(number: int) -> tuple[pd.DataFrame, str, Any]:
        run = workspace.runs[number]
        return _curve(run), _pictures(workspace, run), _usual_prompt(run)

    def draw(number: int, text: str, images: int, first: int, many: int, scale: float) -> tuple[str, gr.Timer]:
        try:
            options = {"num_inference_steps": int(many), "guidance_scale": float(scale)}
            generator.start(workspace.runs[number], text, int(images), int(first), **options)
        except (UserError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            words = str(error) if isinstance(error, UserError) else "fill in all numbers"
            return _said(words), gr.Timer(active=False)
        return "generating …", gr.Timer(active=True)

    def look(number: int) -> tuple[str, str, gr.Timer]:
        if generator.running:
            words = f"{generator.done} of {generator.wanted} pictures generated"
        else:
            words = _said(generator.error) if generator.error else f"{generator.done} pictures generated"
        return words, _pictures(workspace, workspace.runs[number]), gr.Timer(active=generator.running)

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    shown = [curve, pictures, prompt]
    choice.change(show, choice, shown, **private)
    page.load(show, choice, shown, **private)
    button.click(draw, [choice, prompt, *numbers], [said, timer], **private)
    timer.tick(look, choice, [said, pictures, timer], **private)


def _order() -> tuple[gr.Textbox, gr.Number, gr.Number, gr.Number, gr.Number]:
    """Create the fields of the form: prompt, pictures, first seed, steps, guidance."""
    prompt = gr.Textbox(label="Prompt", lines=2, elem_id="run-prompt")
    with gr.Row():
        count = gr.Number(4, label="Pictures", precision=0, minimum=1, maximum=runs.MOST_PICTURES)
        seed = gr.Number(0, label="Seed", precision=0)
    with gr.Row():
        steps = gr.Number(30, label="Steps", precision=0, minimum=1, maximum=1000, elem_id="run-steps")
        guidance = gr.Number(7.5, label="Guidance")
    return prompt, count, seed, steps, guidance


def _curve(run: Path) -> pd.DataFrame:
    try:
        points = runs.losses(run)
    except UserError as error:
        gr.Warning(str(error))
        points = []
    return pd.DataFrame(points, columns=["step", "loss"])


def _usual_prompt(run: Path) -> str:
    settings = training_settings(run)
    return str(settings.get("validation_prompt") or settings.get("instance_prompt") or "")


def _pictures(workspace: Workspace, run: Path) -> str:
    """Return HTML of the validation pictures by step, then the generated ones with prompt and seed, all escaped."""
    parts = []
    for step, paths in runs.validation_pictures(run).items():
        parts.append(_figures(f"Step {step}", [(_address(workspace, path), "") for path in paths]))
    if parts:
        words = str(training_settings(run).get("validation_prompt") or "")
        parts = [f"<h3>Validation</h3><p class='quiet'>{escape(words)}</p><div class='steps'>", *parts, "</div>"]
    for folder, drawn in runs.generated_pictures(run).items():
        captions = [
            (_address(workspace, picture.path), f"{picture.prompt} · seed {picture.seed}") for picture in drawn
        ]
        parts.append(_figures(f"Generated: {folder.relative_to(run).as_posix()}", captions))
    return "".join(parts) or "<p class='quiet'>This run has no pictures yet.</p>"


def _figures(title: str, pictures: list[tuple[str, str]]) -> str:
    figures = "".join(
        f"<figure><img loading='lazy' src='{escape(address)}' alt=''><figcaption>{escape(words)}</figcaption></figure>"
        for address, words in pictures
    )
    return f"<section><h4>{escape(title)}</h4><div class='figures'>{figures}</div></section>"


def _address(workspace: Workspace, path: Path) -> str:
    return f"picture/{quote(workspace.address(path), safe='/')}?side=512"


def _said(words: str) -> str:
    return f"<span class='refused'>{escape(words)}</span>"
