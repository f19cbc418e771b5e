"""How long a fresh process takes to `import mirage_hf`, to answer `mirage-hf --help` and to score its first image.

Every turn is an interpreter started for it, its files in the kernel's cache. What an import costs is measured inside,
without the interpreter; commands and scores from the start of the process to its end.
"""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mirage_hf.calibration import Calibration

from .records import Row, Section, compare
from .turns import Settings, Spread, Turns, take_turns

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "benchmarks" / "minibench" / "mirage-tiny"
IMAGE = ROOT / "benchmarks/minibench/carried/images/test/gcompris-erase-calf_0_realcugan.jpg"
BAR, HELP_BAR_SECONDS = 1.1, 0.5
IN_A_DRY_RUN = "import json"  # in place of what takes seconds

IMPORT = """
import sys, time
before, begin = set(sys.modules), time.perf_counter()
{statement}
print(time.perf_counter() - begin, len(set(sys.modules) - before))
"""
COMMAND = "import sys; sys.argv = ['mirage-hf', *{arguments!r}]; from mirage_hf_cli.main import app; app()"
HELP = COMMAND.format(arguments=["--help"])
PREDICT = COMMAND.format(arguments=["predict", str(IMAGE), "--model", str(MODEL), "--device", "cpu", "--json"])
# The clock is the same for all processes, so the parent's reading tells what the interpreter took.
FIRST_SCORE = f"""
import time
marks = [time.perf_counter()]
def mark(): marks.append(time.perf_counter())
import torch; mark()
from transformers import CLIPModel; mark()
from mirage_hf import Detector; mark()
detector = Detector.from_pretrained({str(MODEL)!r}, device="cpu"); mark()
answer = detector.score({str(IMAGE)!r}); mark()
import json; print(json.dumps([answer.p_fake, marks]))
"""
PARTS = (
    "interpreter",
    "import torch",
    "import transformers' CLIPModel",
    "import mirage_hf's own modules",
    "loading weights",
    "first image",
    "exit",
)
GIVEN = PARTS[:3]  # what any detector on transformers' CLIP waits for
FIRST_PIPELINE = f"""
import json, mirage_hf
from transformers import pipeline
answers = pipeline("image-classification", model={str(MODEL)!r}, device="cpu")({str(IMAGE)!r})
print(json.dumps({{answer["label"]: answer["score"] for answer in answers}}))
"""


def weights() -> int:
    """Bytes that are loaded."""
    return (MODEL / "model.safetensors").stat().st_size


def fresh(code: str) -> str:
    """What a Python process started for it prints."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout


@dataclass
class Import:
    """Seconds of a statement within a fresh interpreter."""

    statement: str
    modules: int = 0

    def __call__(self) -> float:
        seconds, modules = fresh(IMPORT.format(statement=self.statement)).split()
        self.modules = int(modules)
        return float(seconds)


@dataclass
class FirstScore:
    """A process that scores one image; keeps the seconds of its parts."""

    parts: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    p_fake: float = math.nan

    def __call__(self) -> None:
        begin = time.perf_counter()
        self.p_fake, marks = json.loads(fresh(FIRST_SCORE))
        times = [begin, *marks, time.perf_counter()]
        for part, start, end in zip(PARTS, times[:-1], times[1:], strict=True):
            self.parts[part].append(end - start)


@dataclass
class FirstPrediction:
    """The same by the command line."""

    p_fake: float = math.nan

    def __call__(self) -> None:
        self.p_fake = json.loads(fresh(PREDICT))["p_fake"]


@dataclass
class FirstPipeline:
    """The same by transformers' pipeline, calibrated afterwards, which it doesn't do itself."""

    p_fake: float = math.nan

    def __call__(self) -> None:
        scores = json.loads(fresh(FIRST_PIPELINE))
        calibration = Calibration.from_dict(json.loads((MODEL / "config.json").read_text())["calibration"])
        self.p_fake = float(calibration.probability(math.log(scores["fake"] / scores["real"])))


def import_row(what: str, alternative: str, case: str, bar: float | None, settings: Settings) -> tuple[Row, Turns]:
    """Two statements against each other. A row without a bar has the alternative among what it imports."""
    within = bar is None
    ways = {name: Import(IN_A_DRY_RUN if within and settings.dry else name) for name in (what, alternative)}
    turns = take_turns(ways, settings)
    mine, theirs = ways[what].modules, ways[alternative].modules
    limit = 1.0 if within else mine / theirs
    held_by = (
        f"All but {mine - theirs} of the modules are transformers' and PyTorch's."
        if within
        else "Classes are imported when they are used, so what is left is Python's own modules."
    )
    count = f"{mine} modules imported against {theirs}."
    row = compare(turns, what, alternative, case=case, bar=bar, count=count, limit=limit, held_by=held_by)
    return row, turns


def run(settings: Settings) -> Section:
    """The section."""
    rows: list[Row] = []
    turns: dict[str, Turns] = {}
    automatic = "from transformers import AutoModelForImageClassification"
    for what, alternative, case, bar in (
        ("import mirage_hf", "import transformers", "the package", BAR),
        (f"import mirage_hf; {automatic}", automatic, "an auto class", None),
        ("from mirage_hf import MiraGeForImageDetection", "from transformers import CLIPModel", "a model", None),
    ):
        row, turns[case] = import_row(what, alternative, case, bar, settings)
        rows.append(row)

    turns["a command"] = take_turns(
        {"mirage-hf --help": lambda: fresh(HELP), "python -c pass": lambda: fresh("pass")}, settings
    )
    help_seconds = turns["a command"].each("mirage-hf --help")
    rows.append(
        compare(
            turns["a command"],
            "mirage-hf --help",
            "python -c pass",
            case="a command",
            count="Both start and end an interpreter.",
            limit=1.0,
            held_by=f"{help_seconds.median:.3f} s, of which the interpreter is "
            f"{turns['a command'].each('python -c pass').median:.3f}; the rest imports typer and rich, and renders.",
        )
    )

    once = Settings(settings.device, settings.dry, 1) if settings.dry else settings
    score, command, stock = FirstScore(), FirstPrediction(), FirstPipeline()
    ways = {"Detector": score, "mirage-hf predict": command, "pipeline()": stock}
    first = turns["first score"] = take_turns(ways, once, warm_up=0 if settings.dry else 1)
    # Of the last rounds: the one before them was for warming up.
    parts = {
        part: Spread.of([seconds[-once.repeats :][number] for number in first.counted])
        for part, seconds in score.parts.items()
    }
    whole, given = (sum(parts[part].median for part in names) for names in (PARTS, GIVEN))
    saved = first.each("Detector").median - first.each("mirage-hf predict").median
    held_by = f"{given / whole:.0%} of Detector's time is the interpreter, PyTorch and transformers' CLIPModel."
    for what, more in (
        ("Detector", f" {parts['exit'].median / whole:.0%} is Python tidying up at its end."),
        ("mirage-hf predict", f" The command pauses the garbage collector meanwhile: {saved:.2f} s less."),
    ):
        rows.append(
            compare(
                first,
                what,
                "pipeline()",
                case="first score",
                count=f"One process, one image, {weights():,} bytes of weights.",
                limit=given / first.each("pipeline()").median,
                held_by=held_by + more,
            )
        )
    return Section(
        title="Start-up",
        rows=rows,
        turns=turns,
        items=dict.fromkeys(turns, 1),
        profiles={
            "first score by Detector": {part: round(spread.median / whole, 3) for part, spread in parts.items()}
        },
        equality={
            "p_fake of the first score, Detector against pipeline()": abs(score.p_fake - stock.p_fake),
            "p_fake of the first score, mirage-hf predict against Detector": abs(command.p_fake - score.p_fake),
        },
        details={
            "first_score_seconds": {part: asdict(spread) for part, spread in parts.items()},
            "help_seconds": asdict(help_seconds),
            "help_bar_seconds": HELP_BAR_SECONDS,
        },
        notes=[
            f"`mirage-hf --help` takes {help_seconds.median:.3f} s; the bar is {HELP_BAR_SECONDS} s. A first score is "
            + ", ".join(f"{part} {spread.median:.3f} s" for part, spread in parts.items())
            + "."
        ],
    )
