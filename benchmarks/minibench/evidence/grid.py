"""The grid of detectors, read from `grid.yaml`: which settings, with which seeds, on which budget."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

GRID_FILE = Path(__file__).with_name("grid.yaml")
KINDS = ("constant", "metadata", "spectra", "npr_cnn", "clip", "linear_probe", "prompts")


@dataclass
class Setting:
    """
    One row of the grid.

    Args:
        name (`str`): Name of its files.
        title (`str`): Name in tables.
        kind (`str`): One of `KINDS`: which detector it is.
        seeds (`list[int]`): One run for each.
        config (`dict`): Fields of the detector; those of `MiraGeConfig` for `prompts`.
        args (`dict`): Fields of `MiraGeTrainingArguments`, for what is trained by gradient.
        base (`str`, *optional*): For a sweep, the setting it varies; such a setting is never scored on test.
    """

    name: str
    title: str
    kind: str
    seeds: list[int]
    config: dict[str, Any] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)
    base: str | None = None


@dataclass
class Grid:
    """
    All settings and what they share.

    Args:
        reference (`str`): Setting that the others are compared with.
        apart (`list[str]`): Generators that are never averaged in.
        steps (`int`): Training steps.
        batch (`dict[str, int]`): Images of each kind in a batch; `fake` stands for all generators.
        augmentation (`dict`): Fields of `AugmentationConfig`.
        settings, sweeps (`dict[str, Setting]`): Rows of the table; variations judged on validation only.
    """

    reference: str
    apart: list[str]
    steps: int
    batch: dict[str, int]
    augmentation: dict[str, Any]
    settings: dict[str, Setting]
    sweeps: dict[str, Setting]

    def fields(self, setting: Setting, seed: int) -> dict[str, Any]:
        """All that decides how a run comes out, beside data and backbone; a finished run with the same is kept."""
        chosen = {key: value for key, value in asdict(setting).items() if key in ("kind", "config", "args")}
        shared = {"steps": self.steps, "batch": self.batch, "augmentation": self.augmentation}
        return chosen | shared | {"seed": seed}

    def limit_seeds(self, count: int) -> None:
        """Keeps the first `count` seeds of every setting."""
        for setting in (self.settings | self.sweeps).values():
            setting.seeds = setting.seeds[:count]

    def runs(self, names: Iterable[str] = ()) -> list[tuple[Setting, int]]:
        """
        Every (setting, seed), the table's first, then the sweeps'.

        Args:
            names (`Iterable[str]`, *optional*): Only these settings.

        Raises:
            ValueError: a name is unknown.
        """
        known = self.settings | self.sweeps
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise ValueError(f"the grid has no {', '.join(unknown)}; it has {', '.join(known)}")
        chosen = [known[name] for name in names] if names else known.values()
        return [(setting, seed) for setting in chosen for seed in setting.seeds]


def read_grid(path: Path = GRID_FILE) -> Grid:
    """
    Raises:
        ValueError: a setting has an unknown kind or base, or the reference is missing; the message names it.
    """
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings: dict[str, Setting] = {}
    for name, fields in raw["settings"].items():
        settings[name] = _make_setting(name, fields, settings, raw["seeds"], raw["schedule"])
    if raw["reference"] not in settings:
        raise ValueError(f"`reference` names {raw['reference']}, which is no setting")
    sweeps: dict[str, Setting] = {}
    for sweep in raw["sweeps"]["vary"]:
        for setting in _vary(settings, raw["sweeps"]["seeds"], **sweep):
            sweeps[setting.name] = setting
    budget = raw["budget"]
    return Grid(
        raw["reference"], raw["apart"], budget["steps"], budget["batch"], raw["augmentation"], settings, sweeps
    )


def _make_setting(
    name: str, fields: dict[str, Any], known: dict[str, Setting], seeds: list[int], schedule: dict[str, Any]
) -> Setting:
    """A setting; with a `base`, that one's kind and fields come first. What has `args` gets the schedule as well."""
    fields = dict(fields)
    base = fields.pop("base", None)
    if base is not None:
        if base not in known:
            raise ValueError(f"{name} is based on {base}, which is no earlier setting")
        fields["kind"] = known[base].kind
        fields["config"] = known[base].config | fields.get("config", {})
        fields["args"] = known[base].args | fields.get("args", {})
    if fields["kind"] not in KINDS:
        raise ValueError(f"{name} is of kind {fields['kind']}, which is none of {', '.join(KINDS)}")
    if "args" in fields:
        fields["args"] = schedule | fields["args"]
    return Setting(name, **{"seeds": seeds} | fields)


def _vary(settings: dict[str, Setting], seeds: list[int], base: str, field: str, values: list) -> list[Setting]:
    """One setting for each value that differs from the base's own."""
    part, _, key = field.partition(".")
    origin = settings[base]
    made = []
    for value in values:
        if getattr(origin, part).get(key) == value:
            continue
        changed = {part: getattr(origin, part) | {key: value}}
        fields = {"config": origin.config, "args": origin.args} | changed
        made.append(
            Setting(f"{base}.{key}={value}", f"{origin.title}, {key} {value}", origin.kind, seeds, base=base, **fields)
        )
    return made
