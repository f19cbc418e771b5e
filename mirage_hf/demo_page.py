"""The demo's page: Gradio's components, and what happens between them."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from .demo_answers import (
    HIGHEST_SIGMA,
    LEAST_FACTOR,
    LEAST_QUALITY,
    UNCHANGED_QUALITY,
    Answers,
    Change,
    file_facts,
    printable,
)
from .demo_html import (
    about_html,
    api_template,
    changes_html,
    credentials_html,
    facts_html,
    intro_html,
    limits_html,
    map_html,
    results_html,
    safe,
)
from .detection import Detection, NamedImage
from .image_io import UnreadableImage
from .provenance import read_c2pa

# Visitors who wait; the next one is told to come back.
QUEUE = 32


class Scored(NamedTuple):
    """A picture of a visitor, and its answer."""

    picture: NamedImage
    detection: Detection


@dataclass(frozen=True)
class DemoEvents:
    """
    What the page and the API call.

    Args:
        answers ([`Answers`]): the detector.
        folder (`Path`): where uploads lie; nothing outside is read.
        max_files (`int`): pictures at once.
    """

    answers: Answers
    folder: Path
    max_files: int

    def uploaded(self, sent: Any) -> list[NamedImage]:
        """
        Files that were uploaded here, under the names that they had there.

        Args:
            sent: what a client sent for a list of files, which may be anything.

        Raises:
            gr.Error: it is no such list, or too long.
        """
        sent = sent or []
        if not isinstance(sent, list) or not all(isinstance(item, dict) for item in sent):
            raise gr.Error("files: a list of uploaded files is needed", print_exception=False)
        if len(sent) > self.max_files:
            raise gr.Error(f"{len(sent)} files are more than {self.max_files} at once", print_exception=False)
        found = []
        for item in sent:
            path, name = str(item.get("path")), item.get("orig_name")
            if "\0" in path or not Path(path).resolve().is_relative_to(self.folder):
                raise gr.Error("files: each must be uploaded here first", print_exception=False)
            name = name if isinstance(name, str) and name else Path(path).name
            found.append(NamedImage(name.encode("utf-8", "backslashreplace").decode(), path))
        return found

    def score(self, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        Score pictures.

        Args:
            files: uploaded pictures.

        Returns:
            One object for each, in order: path (null), status, error, p_fake, label, verdict, threshold, width,
            height, format, n_frames, had_alpha, sha256, model, revision, calibration_id.
        """
        # gradio_client takes whatever has a text as `path` for a file, and tries to download it.
        return [found.to_dict() | {"path": None} for found in self.answers.score(self.uploaded(files))]

    def score_on_page(self, sent: Any) -> tuple[Any, ...]:
        """Verdicts; the rest of the page is filled afterwards, by [`show`]."""
        problem = ""
        try:
            pictures = self.uploaded(sent)
        except gr.Error as error:
            pictures, problem = [], f'<p class="problem">{safe(error.message)}: choose again.</p>'
        detections = self.answers.score(pictures)
        scored = [Scored(*pair) for pair in zip(pictures, detections, strict=True)]
        choices = [
            (printable(f"{number}: {found.path} ({found.verdict or 'not scored'})"), number - 1)
            for number, found in enumerate(detections, 1)
        ]
        return (
            None,  # the field for files is free for the next ones
            scored,
            problem or results_html(detections, self.answers.detector.calibration),
            gr.Radio(choices=choices, value=0 if choices else None, visible=len(choices) > 1),
            gr.Column(visible=bool(scored)),
            UNCHANGED_QUALITY,
            1.0,
            0.0,
        )

    def show(
        self, scored: list[Scored], chosen: int | None, quality: int, factor: float, sigma: float
    ) -> tuple[str, ...]:
        """Map, scores behind the sliders, metadata and credentials of the chosen picture."""
        if chosen is None:
            return "", "", "", ""
        picture, found = scored[chosen]
        return (
            self._map(picture, found),
            self.change(scored, chosen, quality, factor, sigma),
            facts_html(found, file_facts(picture.source, self.answers.limits), self.answers.thumbnail(picture)),
            credentials_html(read_c2pa(picture.source)),
        )

    def _map(self, picture: NamedImage, found: Detection) -> str:
        problem = self.answers.why_no_map()
        if found.status != "ok":
            problem = "a picture that was not scored has no map"
        if problem is None:
            try:
                return map_html(self.answers.map(picture), found.width, found.height)
            except (UnreadableImage, ValueError, FloatingPointError) as error:
                problem = str(error)
        return f"<p>No map: {safe(problem)}.</p>"

    def change(self, scored: list[Scored], chosen: int | None, quality: int, factor: float, sigma: float) -> str:
        """Scores of the chosen picture as it came and behind the sliders."""
        if chosen is None:
            return ""
        picture, found = scored[chosen]
        if found.status != "ok":
            return "<p>A picture that was not scored can't be degraded.</p>"
        calibration = self.answers.detector.calibration
        change = Change(round(quality), factor, sigma)
        if not change.words:
            return changes_html(found, None, "", calibration) + "<p>Move a slider and watch the score.</p>"
        try:
            after = self.answers.score_changed(picture, change)
        except UnreadableImage as error:
            return f"<p>{safe(error)}</p>"
        return changes_html(found, after, change.words, calibration)


def build_page(events: DemoEvents, facts: dict[str, Any], max_file_mb: int) -> gr.Blocks:
    """
    The page, ready to be launched.

    Args:
        events ([`DemoEvents`]): what it calls.
        facts (`dict`): from [`~mirage_hf.description.describe_detector`].
        max_file_mb (`int`): for the page's text; Gradio enforces it.
    """
    detector: dict[str, Any] = {"concurrency_id": "detector", "concurrency_limit": 1}
    private: dict[str, Any] = {"api_visibility": "private"}
    title = f"mirage_hf: {printable(facts['model'])}"
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        _html(intro_html(facts["model"], events.max_files, max_file_mb), elem_id="title")
        upload = gr.File(
            label="Pictures",
            file_count="multiple",
            elem_id="upload",
            height=160,
        )
        results = _html(elem_id="results")
        scored = gr.State([])
        with gr.Column(visible=False, elem_id="details") as details:
            chosen = gr.Radio([], label="Picture shown below", type="value", visible=False, elem_id="picture")
            with gr.Row():
                with gr.Column(min_width=320):
                    _html("<h2>Where the model looked</h2>")
                    heatmap = _html(elem_id="map")
                with gr.Column(min_width=320):
                    _html("<h2>If the picture had been degraded</h2>")
                    quality = gr.Slider(
                        LEAST_QUALITY,
                        UNCHANGED_QUALITY,
                        UNCHANGED_QUALITY,
                        step=1,
                        label="JPEG quality",
                        info="100: not saved as JPEG",
                        buttons=[],
                        elem_id="quality",
                    )
                    factor = gr.Slider(
                        LEAST_FACTOR,
                        1.0,
                        1.0,
                        step=0.05,
                        label="Size factor",
                        info="made smaller and brought back; 1: left as it is",
                        buttons=[],
                        elem_id="factor",
                    )
                    sigma = gr.Slider(
                        0.0,
                        HIGHEST_SIGMA,
                        0.0,
                        step=0.1,
                        label="Blur",
                        info="standard deviation in pixels; 0: none",
                        buttons=[],
                        elem_id="sigma",
                    )
                    reset = gr.Button("Undo all three", size="sm", elem_id="reset")
                    changes = _html(elem_id="changes")
            with gr.Row():
                with gr.Column(min_width=320):
                    _html("<h2>What the file says</h2>")
                    metadata = _html(elem_id="metadata")
                with gr.Column(min_width=320):
                    _html("<h2>Content credentials (C2PA)</h2>")
                    credentials = _html(elem_id="credentials")
        _html(limits_html(), elem_id="limits")
        with gr.Accordion("About the model", open=False):
            _html(about_html(facts), elem_id="about")
        with gr.Accordion("For programs: a JSON API", open=False):
            _html(html_template=api_template(), elem_id="api")

        sliders = [quality, factor, sigma]
        shown = [heatmap, changes, metadata, credentials]
        # Gradio's preprocessing drops the names, and leaves an empty file behind for each upload.
        upload.upload(
            events.score_on_page,
            [upload],
            [upload, scored, results, chosen, details, *sliders],
            preprocess=False,
            **detector,
            **private,
        ).success(events.show, [scored, chosen, *sliders], shown, **detector, **private)
        chosen.input(events.show, [scored, chosen, *sliders], shown, **detector, **private)
        for slider in sliders:
            slider.change(
                events.change,
                [scored, chosen, *sliders],
                changes,
                trigger_mode="always_last",
                show_progress="hidden",
                **detector,
                **private,
            )
        reset.click(lambda: (UNCHANGED_QUALITY, 1.0, 0.0), None, sliders, **private)

        sent, answer = gr.File(file_count="multiple", visible=False), gr.JSON(visible=False)
        gr.Button(visible=False).click(events.score, sent, answer, preprocess=False, api_name="score", **detector)
        page.load(js=files("mirage_hf").joinpath("demo.js").read_text(encoding="utf-8"))
    return page.queue(max_size=QUEUE, default_concurrency_limit=1)


def _html(value: str = "", **kwargs: Any) -> gr.HTML:
    """HTML that is ours alone: without Gradio's styles for texts, and without its reaction to clicks."""
    return gr.HTML(value, apply_default_css=False, js_on_load=None, **kwargs)


__all__ = ["DemoEvents", "Scored", "build_page"]
