"""What a model card can say of a checkpoint, read from the files that say it, each with the name that the card cites.

The files are those that `train`, `calibrate`, `evaluate` and `benchmark` write. `card.yaml`, a file of one's own
beside the weights, adds what no program knows: licence, data sets, and words.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from .calibration import Calibration

NOTES_FILE = "card.yaml"
RESULTS_FILES = ("evaluation.json", "results.json")  # of `evaluate` and of `benchmark`
# What the Trainer and `train` leave: what it is -> names of the file, of which the first that is there counts.
TRAINING_FILES = {
    "run": ("training_run.json",),
    "arguments": ("training_args.json",),
    "metrics": ("all_results.json", "training_results.json"),
}


@dataclass(frozen=True)
class Results:
    """
    A file that `evaluate` or `benchmark` wrote.

    Args:
        path (`Path`):
            The file.
        shown (`str`):
            What a card calls it.
        content (`dict`):
            What is in it.
        fingerprint (`str`, *optional*):
            Of the detector that was measured, see [`LoadedDetector`]; `None` where neither the file nor
            `identity.json` beside it says so.
    """

    path: Path
    shown: str
    content: dict[str, Any]
    fingerprint: str | None

    @property
    def is_benchmark(self) -> bool:
        """`bool`: Whether `benchmark` wrote it, not `evaluate`."""
        return "views" in self.content

    @property
    def own_threshold(self) -> float | None:
        """`float`, *optional*: The checkpoint's own threshold, where the figures hang on it."""
        arguments = self.content["arguments"]
        if self.is_benchmark:
            return None if arguments["calibrate_on"] is not None else self.content["model"]["threshold"]
        return self.content["threshold"] if arguments["threshold"] is None else None


@dataclass(frozen=True)
class CardNotes:
    """
    Content of `card.yaml`: what no program knows. Texts are Markdown, and Jinja templates: `evaluation` is the first
    `evaluation.json`, `metrics` what training measured, and `|percent` prints a share.

    Args:
        name (`str`, *optional*):
            Title of the card; the folder's or repository's name by default.
        license (`str`, *optional*):
            Licence of the weights, such as `apache-2.0`. A card doesn't state one that nobody chose.
        base_model (`str`, *optional*):
            Hub id of the base, where the checkpoint doesn't name it.
        datasets, tags (`list[str]`, *optional*):
            Hub ids of the data sets trained on; tags beside those of every card.
        summary, training, evaluation (`str`, *optional*):
            What it is; more on how it was made; more on the results.
        limits (`list[str]`, *optional*):
            What it can't do, before what no detector can.
        model_id, example (`str`, *optional*):
            The checkpoint, and an image, in the example of a card that isn't on the Hub.
        commands (`str`, *optional*):
            Of a checkpoint that isn't trained yet: what has to be run.
    """

    name: str | None = None
    license: str | None = None
    base_model: str | None = None
    datasets: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    summary: str | None = None
    training: str | None = None
    evaluation: str | None = None
    limits: list[str] = field(default_factory=list)
    model_id: str | None = None
    example: str | None = None
    commands: str | None = None


@dataclass(frozen=True)
class CardFacts:
    """
    All that a card is made of.

    Args:
        name (`str`):
            Title.
        config (`dict`):
            Content of `config.json`.
        is_adapter (`bool`):
            Whether the weights are prompts and mappings only.
        notes ([`CardNotes`]):
            Words of people.
        calibration ([`Calibration`], *optional*):
            The checkpoint's.
        training (`dict[str, dict]`):
            Contents of the `TRAINING_FILES` that are there, by what they are.
        results (`list[Results]`):
            What was measured.
        shown (`dict[str, str]`):
            What the card calls `"config"` and each of the `training` files.
    """

    name: str
    config: dict[str, Any]
    is_adapter: bool
    notes: CardNotes
    calibration: Calibration | None
    training: dict[str, dict[str, Any]]
    results: list[Results]
    shown: dict[str, str]

    @property
    def sources(self) -> dict[str, Any]:
        """`dict[str, Any]`: Content of every file that a figure may stand in, by what the card calls it."""
        contents = {"config": self.config, **self.training}
        return {self.shown[key]: content for key, content in contents.items()} | {
            found.shown: found.content for found in self.results
        }


def read_facts(
    folder: Path,
    results: Sequence[Path],
    *,
    is_adapter: bool,
    name: str | None = None,
    beside: Sequence[Path] = (),
    shown_as: Callable[[Path], str] | None = None,
    stated: Mapping[str, Any] | None = None,
) -> CardFacts:
    """
    Reads what there is of a checkpoint's files.

    Args:
        folder (`Path`):
            The checkpoint.
        results (`Sequence[Path]`):
            Files of `evaluate` and `benchmark`, in the card's order.
        is_adapter (`bool`):
            Whether the weights are prompts and mappings only.
        name (`str`, *optional*):
            The folder's by default.
        beside (`Sequence[Path]`, *optional*):
            More folders in which the training's files may lie.
        shown_as (`Callable[[Path], str]`, *optional*):
            What the card calls a file; its path from `folder` by default.
        stated (`Mapping[str, Any]`, *optional*):
            Fields of [`CardNotes`] that come before those of `card.yaml`.

    Raises:
        OSError, ValueError: a file can't be read or is something else; it is named.
    """
    shown_as = shown_as or (lambda path: path.relative_to(folder).as_posix())
    config = read_json(folder / "config.json")
    notes = replace(read_notes(folder / NOTES_FILE), **(stated or {}))
    files = training_files([folder, *beside])
    return CardFacts(
        name=notes.name or name or folder.resolve().name,
        config=config,
        is_adapter=is_adapter,
        notes=notes,
        calibration=None if config.get("calibration") is None else Calibration.from_dict(config["calibration"]),
        training={key: read_json(path) for key, path in files.items()},
        results=[read_results(path, shown_as(path)) for path in results],
        shown={"config": shown_as(folder / "config.json")} | {key: shown_as(path) for key, path in files.items()},
    )


def training_files(folders: Iterable[Path]) -> dict[str, Path]:
    """The training's files, by what they are, from the first folder that has them."""
    found: dict[str, Path] = {}
    for folder in folders:
        for key, names in TRAINING_FILES.items():
            for name in names:
                if (folder / name).is_file():
                    found.setdefault(key, folder / name)
    return found


def find_results(paths: Sequence[Path]) -> list[Path]:
    """
    The results files among `paths`, and in those of them that are folders.

    Raises:
        FileNotFoundError: one isn't there, or holds none.
    """
    found: list[Path] = []
    for path in paths:
        inside = [path / name for name in RESULTS_FILES] if path.is_dir() else [path]
        inside = [file for file in inside if file.is_file()]
        if not inside:
            raise FileNotFoundError(f"{path} holds no evaluation.json and no results.json: give what a test wrote")
        found += [file for file in inside if file not in found]
    return found


def results_within(folder: Path) -> list[Path]:
    """The results files in a checkpoint's folder and the folders right below it, where tests usually go."""
    folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    files = [folder / name for folder in folders for name in RESULTS_FILES]
    return [file for file in files if file.is_file()]


def read_results(path: Path, shown: str) -> Results:
    """
    Reads a results file.

    Raises:
        OSError, ValueError: it can't be read, or neither `evaluate` nor `benchmark` wrote it.
    """
    content = read_json(path)
    if {"views", "protocol", "model", "arguments"} <= content.keys():
        identity = path.with_name("identity.json")
        fingerprint = read_json(identity).get("detector") if identity.is_file() else None
    elif {"generators", "mean", "threshold", "arguments"} <= content.keys():
        fingerprint = content.get("model", {}).get("fingerprint")
    else:
        raise ValueError(f"{path} is no results file of `evaluate` or `benchmark`")
    return Results(path, shown, content, fingerprint)


def read_notes(path: Path) -> CardNotes:
    """
    Reads a `card.yaml`; empty notes where there is none.

    Raises:
        ValueError: it holds a name that means nothing; the message names it.
    """
    if not path.is_file():
        return CardNotes()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    known = {item.name for item in fields(CardNotes)}
    if not isinstance(content, dict) or not content.keys() <= known:
        unknown = sorted(map(str, set(content) - known)) if isinstance(content, dict) else [repr(content)]
        raise ValueError(f"{path} holds {', '.join(unknown)}: it takes {', '.join(sorted(known))}")
    for key, value in content.items():
        wanted = list if key in ("datasets", "limits", "tags") else str
        if not isinstance(value, wanted) or (wanted is list and not all(isinstance(item, str) for item in value)):
            raise ValueError(f"{path}: `{key}` must be {'a list of texts' if wanted is list else 'a text'}")
    return CardNotes(**content)


def read_json(path: Path) -> dict[str, Any]:
    """
    Content of a JSON file that holds names and values.

    Raises:
        OSError, ValueError: it can't be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold names and values")
    return content


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = ["CardFacts", "CardNotes", "Results", "find_results", "read_facts", "read_notes", "results_within"]
