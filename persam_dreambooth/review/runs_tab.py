"""The tab of training runs: curves and pictures that follow a run while it trains, and a form that generates more."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from persam_dreambooth.errors import UserError
from persam_dreambooth.metrics_file import read_warnings
from persam_dreambooth.model_folder import training_settings
from persam_dreambooth.review import curves, gallery, runs
from persam_dreambooth.review.generator import MOST_PICTURES, Generator
from persam_dreambooth.review.workspace import Workspace

NO_RUN = '<p class="quiet">No run is open. Start with <code>--run OUTPUT_DIR</code> to view a training run.</p>'
SECONDS = 2.0
"""Seconds between two checks of the runs' files."""
NOBODY = -1
"""Value of the dropdown for no second run."""


def add_runs_tab(page: gr.Blocks, workspace: Workspace, generator: Generator) -> None:
    """Lay out the tab inside the Blocks `page`."""
    if not workspace.runs:
        gr.HTML(NO_RUN, elem_id="no-run")
        return
    names = _names(workspace)
    with gr.Row():
        choice = gr.Dropdown(_numbered(names), value=0, label="Run", elem_id="run-choice", interactive=True)
        others = [("none", NOBODY), *_numbered(names)]
        second = gr.Dropdown(
            others, value=NOBODY, label="Compare with", elem_id="run-other", visible=len(names) > 1, interactive=True
        )
    with gr.Row():
        with gr.Column(scale=3):
            said = gr.HTML(elem_id="run-progress")
            curve = gr.HTML(elem_id="loss")
            measures = gr.HTML(elem_id="measures")
            scores = gr.HTML(elem_id="scores")
            pictures = gr.HTML(elem_id="run-pictures")
            generated = gr.HTML(elem_id="run-generated")
        with gr.Column(scale=1, min_width=280):
            form = add_form(workspace, generator, choice, generated)
    seen, timer = gr.State(None), gr.Timer(SECONDS)

    def follow(number: int, other: int, before: object) -> tuple[Any, ...]:
        """Update the tab if the runs' files have changed since the last call; otherwise send nothing."""
        chosen = [(names[index], workspace.runs[index]) for index in dict.fromkeys((number, other)) if index >= 0]
        now = [(name, repr(runs.state(run))) for name, run in chosen]
        if now == before:
            return tuple(gr.skip() for _ in range(6))
        points = {name: _points(run) for name, run in chosen}
        shown = gallery.validation_gallery(workspace, chosen)
        loss = curves.chart(f"Loss, mean of the last {runs.WINDOW} steps", _smoothed(points))
        measured = _measured(chosen)
        return _progress(chosen, points), loss, measured, _evaluated(chosen), shown, now

    def show(number: int, other: int) -> tuple[Any, ...]:
        run = workspace.runs[number]
        return *follow(number, other, None), gallery.generated_gallery(workspace, run), _usual_prompt(run)

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    live = [said, curve, measures, scores, pictures, seen]
    for event in (choice.change, second.change, page.load):
        event(show, [choice, second], [*live, generated, form], **private)
    timer.tick(follow, [choice, second, seen], live, **private)


def add_form(workspace: Workspace, generator: Generator, choice: gr.Dropdown, generated: gr.HTML) -> gr.Textbox:
    """Lay out the form that generates pictures with the chosen run, and return its prompt."""
    prompt, *numbers = _order()
    button = gr.Button("Generate", variant="primary", elem_id="run-generate")
    said = gr.HTML(elem_id="run-said")
    timer = gr.Timer(1.5, active=False)

    def draw(number: int, text: str, images: int, first: int, many: int, scale: float) -> tuple[str, gr.Timer]:
        try:
            options = {"num_inference_steps": int(many), "guidance_scale": float(scale)}
            generator.start(workspace.runs[number], text, int(images), int(first), **options)
        except (UserError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            words = str(error) if isinstance(error, UserError) else "fill in all numbers"
            return _refused(words), gr.Timer(active=False)
        return "generating …", gr.Timer(active=True)

    def look(number: int) -> tuple[str, str, gr.Timer]:
        if generator.running:
            words = f"{generator.done} of {generator.wanted} images generated"
        else:
            words = _refused(generator.error) if generator.error else f"{generator.done} images generated"
        shown = gallery.generated_gallery(workspace, workspace.runs[number])
        return words, shown, gr.Timer(active=generator.running)

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    button.click(draw, [choice, prompt, *numbers], [said, timer], **private)
    timer.tick(look, choice, [said, generated, timer], **private)
    return prompt


def _order() -> tuple[gr.Textbox, gr.Number, gr.Number, gr.Number, gr.Number]:
    """Create the fields of the form: prompt, pictures, first seed, steps, guidance."""
    prompt = gr.Textbox(label="Prompt", lines=2, elem_id="run-prompt")
    with gr.Row():
        count = gr.Number(4, label="Images", precision=0, minimum=1, maximum=MOST_PICTURES)
        seed = gr.Number(0, label="Seed", precision=0)
    with gr.Row():
        steps = gr.Number(30, label="Steps", precision=0, minimum=1, maximum=1000, elem_id="run-steps")
        guidance = gr.Number(7.5, label="Guidance")
    return prompt, count, seed, steps, guidance


def _names(workspace: Workspace) -> list[str]:
    """Return the runs' names, each once: as many last parts of the paths as tell them apart."""
    parts = [run.parts for run in workspace.runs]
    longest = max(map(len, parts))
    for count in range(1, longest):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {run}" for number, run in enumerate(workspace.runs, start=1)]


def _numbered(names: list[str]) -> list[tuple[str, int]]:
    return [(name, number) for number, name in enumerate(names)]


def _points(run: Path) -> list[tuple[int, float]]:
    try:
        return runs.losses(run)
    except UserError as error:
        gr.Warning(str(error))
        return []


def _smoothed(points: dict[str, list[tuple[int, float]]]) -> dict[str, list[tuple[float, float]]]:
    return {name: [(float(step), loss) for step, loss in runs.smoothed(of_run)] for name, of_run in points.items()}


def _progress(chosen: list[tuple[str, Path]], points: dict[str, list[tuple[int, float]]]) -> str:
    """Return a line for each run, and for two the settings in which they differ."""
    lines = ""
    for name, run in chosen:
        lines += f"<p><b>{escape(name)}</b>: {escape(runs.progress_words(run, points[name]))}</p>"
        for step, words in read_warnings(run):
            lines += f"<p class='refused'>step {step}: {escape(words)}</p>"
    if len(chosen) < 2:
        return lines
    (first, first_run), (second, second_run) = chosen
    return lines + gallery.differences((first, second), first_run, second_run)


def _evaluated(chosen: list[tuple[str, Path]]) -> str:
    """Return the best checkpoint of each evaluated run, and the curves of its measures; empty without any."""
    found = {name: of_run for name, run in chosen if (of_run := runs.checkpoint_curves(run))}
    words = "".join(f"<p><b>{escape(name)}</b>: {escape(of_run.reason)}</p>" for name, of_run in found.items())
    title = "Checkpoints, from the base model (0) to the photos (1)"
    drawn = _by_measure({name: of_run.points for name, of_run in found.items()}, len(chosen) > 1)
    return curves.chart(title, drawn) + words if found else ""


def _measured(chosen: list[tuple[str, Path]]) -> str:
    """Return the curves of the measures of validation pictures; empty without any."""
    drawn = _by_measure({name: runs.measured_points(run) for name, run in chosen}, len(chosen) > 1)
    return curves.chart("Validation images, from the start (0) to the photos (1)", drawn) if drawn else ""


def _by_measure(
    points: dict[str, list[tuple[int, float, str]]], several: bool
) -> dict[str, list[tuple[float, float]]]:
    """Return a curve for each measure of each run, by its title."""
    drawn: dict[str, list[tuple[float, float]]] = {}
    for name, of_run in points.items():
        for step, value, measure in of_run:
            drawn.setdefault(f"{name}: {measure}" if several else measure, []).append((step, value))
    return drawn


def _usual_prompt(run: Path) -> str:
    settings = training_settings(run)
    return str(settings.get("validation_prompt") or settings.get("instance_prompt") or "")


def _refused(words: str) -> str:
    return f"<span class='refused'>{escape(words)}</span>"
