"""Publishing a detector on the Hub: what goes up, checked before anything does, and sent so that it can be resumed.

    mirage-hf push outputs/mine OWNER/NAME --results outputs/mine/test --dry-run

Nothing goes up that isn't on the list of what belongs in such a repository: no pickle, no optimizer state, no older
checkpoint, no log. A card goes up only if every figure in it stands in a results file that goes up with it, and only
if those results are of these weights, this preprocessing and this threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .detector_loading import load_detector
from .model_card import CARD_FILE, HUB_ID, build_card, check_structure, index_blocks, is_sealed
from .model_card_facts import NOTES_FILE, CardFacts, Results, find_results, read_facts, results_within
from .model_card_figures import check_figures
from .publishing_files import RESULTS, PushFile, stage_export, stage_model, stage_results
from .publishing_paths import find_local_path

TEXTS = (".json", ".md", ".csv", ".py", ".yaml")


@dataclass
class PushArguments:
    """
    What to publish, where.

    Args:
        folder (`str`):
            A MiraGe checkpoint.
        repo_id (`str`):
            `owner/name` on the Hub; it is made if it isn't there.
        private (`bool`, *optional*, defaults to `False`):
            Make a new repository private.
        revision (`str`, *optional*):
            Branch to write to; it is made if it isn't there. The main branch by default.
        results (`Sequence[str]`, *optional*):
            Files of `evaluate` and `benchmark`, or folders that hold them. By default those in the checkpoint's folder
            and right below it.
        kind, base (*optional*):
            See [`~publishing_files.stage_model`].
        export (`str`, *optional*):
            A folder that `mirage-hf export` wrote.
    """

    folder: str
    repo_id: str
    private: bool = False
    revision: str | None = None
    results: Sequence[str] = ()
    kind: str | None = None
    base: str | None = None
    export: str | None = None


@dataclass(frozen=True)
class PushPlan:
    """
    What goes up and what doesn't.

    Args:
        arguments ([`PushArguments`]):
            What was asked for.
        kind (`str`):
            `"adapter"` or `"full"`.
        files (`list[PushFile]`):
            What goes up.
        left (`list[tuple[str, str]]`):
            What of the folder doesn't, and why.
        notes (`list[str]`):
            What there is to say.
        facts ([`CardFacts`]):
            What the card was made of, or held against.
    """

    arguments: PushArguments
    kind: str
    files: list[PushFile]
    left: list[tuple[str, str]]
    notes: list[str]
    facts: CardFacts


def plan_push(args: PushArguments, staging: Path) -> PushPlan:
    """
    Puts everything that goes up into a folder and checks it. Nothing is sent.

    Args:
        args ([`PushArguments`]):
            What to publish.
        staging (`Path`):
            An empty folder, which must stay until the files are sent.

    Raises:
        OSError, ValueError: it can't be published so; the message says why in a line.
    """
    if HUB_ID.fullmatch(args.repo_id) is None:
        raise ValueError(f"the repository must be of the form owner/name, got {args.repo_id!r}")
    folder = Path(args.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder here")
    given = find_results([Path(name) for name in args.results]) if args.results else results_within(folder)
    kind, files, notes = stage_model(folder, staging, args.kind, args.base)
    measured = stage_results(folder, given, staging, notes)
    files += measured
    facts = read_facts(
        staging,
        [file.source for file in measured if file.what == RESULTS],
        is_adapter=kind == "adapter",
        name=args.repo_id.rpartition("/")[2],
        beside=[staging / "results" / "training"],
    )
    fingerprint = load_detector(str(staging)).fingerprint
    if not (staging / "model.safetensors").is_symlink() and load_detector(str(folder)).fingerprint != fingerprint:
        raise ValueError(
            f"as {kind} the weights would be others than those of {folder}: the encoders aren't the base's, or "
            "`base_model_dtype` rounds them; publish what the folder holds"
        )
    check_results(facts, fingerprint)
    if args.export is not None:
        exported = stage_export(Path(args.export), staging)
        check_export(Path(args.export), facts, fingerprint)
        files += exported
    files.append(stage_card(folder, staging, facts, args.repo_id, notes))
    check_paths(files, [folder, staging])
    files.sort(key=lambda file: (file.path != CARD_FILE, "/" in file.path, file.path))
    return PushPlan(args, kind, files, left_behind(folder, files, given), notes, facts)


def check_results(facts: CardFacts, fingerprint: str) -> None:
    """
    Checks that results are of the detector that goes up.

    Raises:
        ValueError: they are of other weights, another preprocessing or another threshold, or don't say; a figure of
            theirs is named.
    """
    threshold = facts.config.get("threshold", 0.5)
    for found in facts.results:
        of = f"{found.shown} ({first_figure(found)})"
        if found.fingerprint is None:
            raise ValueError(f"{of} doesn't say which weights it is of: evaluate again with this version")
        if found.fingerprint != fingerprint:
            raise ValueError(f"{of} is of other weights or another preprocessing than what goes up: evaluate again")
        own = found.own_threshold
        if own is not None and abs(own - threshold) > 1e-9:
            raise ValueError(
                f"{of} is of threshold {own:.6g}, and the checkpoint's is {threshold:.6g}, which was changed since: "
                "evaluate again"
            )


def first_figure(found: Results) -> str:
    """A figure of a results file, for messages."""
    for generator, metrics in index_blocks(found)[1].items():
        for name, value in metrics.items():
            if isinstance(value, float):
                return f"{name} {value:.4f} of {generator}"
    return "no figures"


def check_export(export: Path, facts: CardFacts, fingerprint: str) -> None:
    """
    Checks that an exported model is the checkpoint's.

    Raises:
        ImportError: ONNX Runtime is missing.
        ValueError: it is another's, or its threshold or calibration is.
    """
    from .backends import load_backend

    exported = load_backend(export)
    if exported.fingerprint.removesuffix("-int8") != fingerprint:
        raise ValueError(f"{export} is an export of another model or preprocessing: export again")
    stated = (exported.metadata["threshold"], exported.metadata["calibration"])
    if stated != (facts.config.get("threshold", 0.5), facts.config.get("calibration")):
        raise ValueError(f"{export} has another threshold or calibration than the checkpoint: export again")


def stage_card(folder: Path, staging: Path, facts: CardFacts, repo_id: str, notes: list[str]) -> PushFile:
    """
    The card: made from the results; or the folder's, where somebody wrote or changed it.

    Raises:
        ValueError: it lacks something, or has a figure that no file behind it holds; the figure is named.
    """
    file = folder / CARD_FILE
    text = file.read_text(encoding="utf-8") if file.is_file() else None
    if text is None or is_sealed(text):
        text = str(build_card(facts, repo_id))
        if facts.notes.license is None:
            notes.append(f"no licence is stated: put `license: ...` into {folder / NOTES_FILE}, if you chose one")
    else:
        notes.append(f"{file} was written or changed by hand, so it goes up as it is; without it a card is made")
        try:
            check_structure(text)
        except ValueError as error:
            raise ValueError(f"{file}: {error}; without the file a card is made") from error
    check_figures(text, facts)
    (staging / CARD_FILE).write_text(text, encoding="utf-8")
    return PushFile(CARD_FILE, staging / CARD_FILE, "model card")


def check_paths(files: Sequence[PushFile], secrets: Sequence[Path]) -> None:
    """
    Checks that no text that goes up names a folder of this machine.

    Raises:
        ValueError: one does; file and path are named.
    """
    folders = {path for secret in secrets for path in (secret.absolute(), secret.resolve())}
    for file in files:
        if file.source.suffix in TEXTS:
            text = file.source.read_text(encoding="utf-8")
            found = find_local_path(text, sorted(map(str, folders)), is_code=file.source.suffix == ".py")
            if found is not None:
                raise ValueError(
                    f"{file.path} names a path of this machine, {found}: take it out of the file behind it"
                )


def left_behind(folder: Path, files: Sequence[PushFile], results: Sequence[Path]) -> list[tuple[str, str]]:
    """What lies in the folder and doesn't go up, and why."""
    taken = {file.path for file in files} | {
        Path(file.path).name for file in files if file.path.startswith("results/")
    }
    taken |= {path.parent.name for path in results}
    reasons = {
        "checkpoint-": "an older checkpoint",
        "optimizer": "state of the optimizer",
        "scheduler": "state of the schedule",
        "rng_state": "state of the random numbers",
        "trainer_state.json": "log of the training",
        "memory_bank": "state of the training",
        "runs": "log of the training",
        NOTES_FILE: "its words are in the card",
    }
    left = []
    for path in sorted(folder.iterdir()):
        if path.name not in taken:
            found = [reason for start, reason in reasons.items() if path.name.startswith(start)]
            pickled = path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")
            left.append((path.name, "a pickle" if pickled else found[0] if found else "not part of a detector"))
    return left


__all__ = ["PushArguments", "PushPlan", "plan_push"]
