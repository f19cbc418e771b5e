"""The demo's answers as HTML. Everything that came from a file or a checkpoint goes through [`safe`]."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from .calibration import Calibration
from .demo_answers import Map, printable
from .detection import Detection
from .explain_picture import CAPTION

VERDICTS = {
    "fake": "The detector takes this picture for AI-generated.",
    "real": "The detector takes this picture for a real photograph.",
    "unsure": "Too close to call: the detector gives no verdict.",
}
SHAPES = {"fake": "▲", "real": "●", "unsure": "◆"}  # told apart without colours
STATUSES = {
    "corrupt": "The file is damaged.",
    "unsupported": "This is no picture that can be read here.",
    "too_large": "The picture is too large.",
    "too_small": "The picture is too small to judge.",
    "too_elongated": "The picture is too long and narrow to judge.",
    "not_found": "The file is no longer here: choose it again.",
}
CREDENTIALS = {
    "trusted": "They are intact, and the signer is on the list of those to trust.",
    "untrusted": "They are intact; who signed them was not checked against any list.",
    "invalid": "They do not hold: the picture or the credentials were changed afterwards.",
    "remote": "They are kept elsewhere on the web and were not fetched.",
    "unreadable": "They can't be read.",
}
LIMITS = (
    "A score is no proof of where a picture comes from, and must not be used to accuse anyone.",
    "Expect wrong answers on screenshots, recompressed, resized or edited pictures, on drawings, and on generators "
    "that the detector was not trained on.",
    "Detectors can learn the file format or size of their training pictures instead of how they were made.",
)


# How a program asks; ADDRESS stands for the server's.
PYTHON_EXAMPLE = """\
from gradio_client import Client, handle_file

client = Client("ADDRESS")
rows = client.predict([handle_file("photo.jpg")], api_name="/score")
"""
SHELL_EXAMPLE = """\
FILE=$(curl -sF files=@photo.jpg ADDRESS/gradio_api/upload | jq -r '.[0]')
SENT='{"data": [[{"path": "'$FILE'", "orig_name": "photo.jpg", "meta": {"_type": "gradio.FileData"}}]]}'
EVENT=$(curl -s ADDRESS/gradio_api/call/score -H 'content-type: application/json' -d "$SENT" | jq -r .event_id)
curl -sN ADDRESS/gradio_api/call/score/$EVENT
"""


def safe(text: Any) -> str:
    """A text that means nothing to HTML, nor to the templates in which Gradio evaluates `${...}` and `{{...}}`."""
    escaped = html.escape(printable(str(text)))
    return "".join(f"&#{ord(letter)};" if letter in "{}$`\\" else letter for letter in escaped)


def results_html(detections: Sequence[Detection], calibration: Calibration | None) -> str:
    """A card for each picture, in order."""
    cards = "".join(_card(number, found, calibration) for number, found in enumerate(detections, 1))
    return f'<ol class="cards">{cards}</ol>'


def _card(number: int, found: Detection, calibration: Calibration | None) -> str:
    name = f'<p class="name"><bdi>{safe(found.path or f"picture {number}")}</bdi></p>'
    if found.p_fake is None or found.verdict is None:
        reason = STATUSES.get(found.status, "The file could not be read.")
        return (
            f'<li class="card"><span class="verdict none">not scored</span>{name}<p>{reason}</p>'
            f'<p class="detail">{safe(found.status)}: {safe(found.error)}</p></li>'
        )
    kind = "score of fake, not calibrated" if calibration is None else "calibrated probability of fake"
    return (
        f'<li class="card">{verdict_html(found.verdict)}{name}<p>{VERDICTS[found.verdict]}</p>'
        f'<p class="score"><strong>{found.p_fake:.3f}</strong> {kind}</p>{scale_html(found, calibration)}</li>'
    )


def verdict_html(verdict: str) -> str:
    """A verdict as a coloured word with a shape."""
    return f'<span class="verdict {verdict}"><span aria-hidden="true">{SHAPES[verdict]}</span> {verdict}</span>'


def scale_html(found: Detection, calibration: Calibration | None, before: float | None = None) -> str:
    """
    The score on a line from 0 to 1, with the threshold and, where there is one, the band of "unsure".

    Args:
        found ([`Detection`]): with a score.
        calibration ([`Calibration`], *optional*): the detector's.
        before (`float`, *optional*): another score to mark.
    """
    assert found.p_fake is not None
    told, band, was = f"threshold {found.threshold:.3f}", "", ""
    if calibration is not None:
        low = min(calibration.unsure_low, found.threshold)
        high = max(calibration.unsure_high, found.threshold)
        told += f", unsure from {low:.3f} to {high:.3f}"
        band = f'<span class="band" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></span>'
    spoken = f"{found.p_fake:.3f} on a scale from 0, real, to 1, fake; {told}"
    if before is not None:
        spoken += f"; as it came {before:.3f}"
        was = f'<span class="mark" style="left:{100 * before:.2f}%">▽</span>'
    return (
        f'<div class="scale" role="img" aria-label="{spoken}">{band}'
        f'<span class="threshold" style="left:{100 * found.threshold:.2f}%"></span>{was}'
        f'<span class="mark" style="left:{100 * found.p_fake:.2f}%">▼</span></div>'
        f'<p class="ends" aria-hidden="true"><span>0 real</span><span>{told}</span><span>1 fake</span></p>'
    )


def map_html(shown: Map, width: int | None, height: int | None) -> str:
    """The map and what must be said beside it."""
    whole = "" if shown.shown_whole else ", shown here with what surrounds them"
    return (
        f'<figure><img src="{shown.picture}" width="{shown.width}" height="{shown.height}" '
        'alt="The picture in gray; patches that spoke for fake are orange and those that spoke for real are blue.">'
        f"<figcaption>{CAPTION.capitalize()}. Orange patches spoke for fake, the strongest outlined; blue ones for "
        f"real. The model saw {shown.looked_at[0]} × {shown.looked_at[1]} of {width} × {height} pixels{whole}."
        "</figcaption></figure>"
    )


def changes_html(before: Detection, after: Detection | None, words: str, calibration: Calibration | None) -> str:
    """The score as the picture came, and behind the sliders: two rows and a line with both."""
    rows, shown = [_change_row("▽ as it came" if after else "▼ as it came", before)], before
    if after is not None:
        rows, shown = [*rows, _change_row(f"▼ {words}", after)], after
    drawn = "" if shown.p_fake is None else scale_html(shown, calibration, before.p_fake if after else None)
    return (
        '<table class="changes"><thead><tr><th scope="col">picture</th><th scope="col">p(fake)</th>'
        f'<th scope="col">verdict</th></tr></thead><tbody>{"".join(rows)}</tbody></table>{drawn}'
    )


def _change_row(words: str, found: Detection) -> str:
    if found.p_fake is None or found.verdict is None:
        return f'<tr><th scope="row">{safe(words)}</th><td colspan="2">{safe(found.error)}</td></tr>'
    return (
        f'<tr><th scope="row">{safe(words)}</th><td>{found.p_fake:.3f}</td><td>{verdict_html(found.verdict)}</td></tr>'
    )


def facts_html(found: Detection, facts: Mapping[str, str], thumbnail: str | None) -> str:
    """What a file says of itself, beside its picture, small, where there is one."""
    known = {
        "Format": found.format,
        "Size": None if found.width is None else f"{found.width} × {found.height} pixels",
        "Frames": found.n_frames if found.n_frames != 1 else None,
        "Transparency": "laid on white" if found.had_alpha else None,
        "SHA-256": found.sha256,
    }
    listed = {name: value for name, value in known.items() if value is not None} | dict(facts)
    note = "" if facts else "<p>The file says nothing else of itself: no EXIF, no texts.</p>"
    image = "" if thumbnail is None else f'<img class="thumbnail" src="{thumbnail}" alt="The picture as it came.">'
    return f"{image}{_table(listed)}{note}"


def credentials_html(found: Mapping[str, Any] | None) -> str:
    """Content credentials in words."""
    end = "<p>They never change the score.</p>"
    if found is None:
        return "<p>None. Most pictures carry none, and anyone can take them off.</p>"
    if found["state"] == "unavailable":
        return f"<p>Not read here: {safe(found['note'])}</p>"
    listed = {"Why": found["note"], "Written by": found["claim_generator"], "Signed by": found["signer"]}
    if found["ai_generated"] is not None:
        listed["They say"] = "made by a model" if found["ai_generated"] else "nothing of a model"
    if found["digital_source_types"]:
        listed["Source types"] = ", ".join(found["digital_source_types"])
    return f"<p>{CREDENTIALS[found['state']]}</p>{_table(listed)}{end}"


def about_html(facts: Mapping[str, Any]) -> str:
    """The model in facts, as [`~mirage_hf.description.describe_detector`] gives them."""
    calibration = facts["calibration"]
    listed = {
        "Model": facts["model"],
        "Revision": facts["revision"],
        "Method": facts["method"],
        "Weights": f"{facts['parameters']:,}",
        "Base model": facts["base_model"],
        "Threshold": f"{facts['threshold']:.3f}, before calibration" if calibration else f"{facts['threshold']:.3f}",
        "Calibration": "none: scores order pictures, but are no probabilities",
    }
    if calibration:
        listed["Calibration"] = (
            f"threshold {calibration['threshold']:.3f}, unsure from {calibration['unsure_low']:.3f} to "
            f"{calibration['unsure_high']:.3f}; on {calibration['n_real']} real and {calibration['n_fake']} fake "
            f"pictures ({calibration['data']}). It holds for pictures like those, of which it supposes a share of "
            f"{calibration['prior']:g} to be fake."
        )
    return _table(listed)


def intro_html(model: str, max_files: int, max_file_mb: int) -> str:
    """The head of the page."""
    return (
        "<h1>Is this picture AI-generated?</h1>"
        f"<p>The detector <strong>{safe(model)}</strong> gives its opinion: a score, not proof. Pictures are looked "
        "at on the computer that serves this page, passed on to nobody, and deleted within minutes.</p>"
        f"<p>Choose up to {max_files} pictures of at most {max_file_mb} MB each, drop them here, or paste one.</p>"
    )


def api_template() -> str:
    """How a program asks, as a template of [`~gradio.HTML`]: the visitor's browser knows the server's address."""
    names = ", ".join(f"<code>{field.name}</code>" for field in fields(Detection))
    examples = "".join(
        f"<p>{title}</p><pre><code>{_example(code)}</code></pre>"
        for title, code in (("Python, with gradio_client:", PYTHON_EXAMPLE), ("Shell, with jq:", SHELL_EXAMPLE))
    )
    return (
        "<p>The answer holds an object for each picture, in order, with the fields that "
        f"<code>mirage-hf predict --json</code> writes: {names}. <code>path</code> is null.</p>{examples}"
    )


def _example(code: str) -> str:
    return "\n".join(map(safe, code.splitlines())).replace("ADDRESS", "${window.location.origin}")


def limits_html() -> str:
    """What a detector can't do."""
    return f"<h2>Before you believe it</h2><ul>{''.join(f'<li>{line}</li>' for line in LIMITS)}</ul>"


def _table(listed: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{safe(name)}</th><td>{safe(value)}</td></tr>'
        for name, value in listed.items()
        if value not in (None, "")
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


__all__ = [
    "LIMITS",
    "about_html",
    "api_template",
    "changes_html",
    "credentials_html",
    "facts_html",
    "intro_html",
    "limits_html",
    "map_html",
    "results_html",
    "safe",
    "scale_html",
    "verdict_html",
]
