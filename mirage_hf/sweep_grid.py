"""The grid of a sweep, read from YAML: a base recipe, settings that change its arguments, seeds, and what to test on.

```yaml
title: Ablation
base: training/recipes/genimage_sdv14.yaml   # or the arguments themselves, as a mapping
overrides: {num_train_epochs: 5}             # of every setting
seeds: [0, 1, 2, 3, 4]
settings:
  mirage: {title: MiraGe}
  no_bank: {title: no memory bank, arguments: {memory_size: 0}}
  text: {title: text prompts, based_on: no_bank, arguments: {prompt_modality: text}}
vary: {discriminative_weight: [0.1, 0.5], memory_size: [256, 1024]}   # one more setting for each combination
reference: mirage                            # what the others are compared with
test: {split: test}                          # data: the recipe's, if left out; several sets are named
metrics: [accuracy, average_precision]       # the first one decides
published: ablation_genimage                 # a table of mirage_hf.published to print below
```

Names of arguments are those of `training/train.py`; `null` takes a value of the base back.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from .run_args import DataArguments, ModelArguments
from .training_args import MiraGeTrainingArguments

GRID_KEYS = tuple("title base overrides seeds settings vary reference test metrics published keep_checkpoints".split())
SETTING_KEYS = ("title", "based_on", "arguments")
# How the recipe reads its data holds for the test as well, if that names no data of its own.
READING = ("layout", "fake_id", "label_column", "real_root")
TEST_KEYS = ("data", "split", "generators", "max_per_class", *READING)
# The sweep's own business; a recipe's are passed over.
RESERVED = ("seed", "output_dir", "resume_from_checkpoint", "push_to_hub")


@dataclass
class Setting:
    """
    One row of the table.

    Args:
        name (`str`): Name of its folder.
        title (`str`): Name in tables.
        arguments (`dict`): All arguments of its runs, the base recipe's included; seed and folder are missing.
        changes (`dict`): Those that are the setting's own.
    """

    name: str
    title: str
    arguments: dict[str, Any]
    changes: dict[str, Any]


@dataclass
class Grid:
    """
    All settings and what they share.

    Args:
        name (`str`): Name of the file.
        title (`str`): Title of the table.
        seeds (`list[int]`): A run of each setting for each.
        settings (`dict[str, Setting]`): In the order of the table.
        axes (`dict[str, list]`): What `vary` says.
        reference (`str`, *optional*): Setting that the others are compared with.
        test (`dict[str, dict]`): Arguments of [`load_detection_dataset`] for each test set, its `data` among them.
        metrics (`list[str]`): Keys of `benchmark_metrics.METRICS`.
        published (`str`, *optional*): Key of `published.TABLES`.
        keep_checkpoints (`bool`): Whether weights stay after scoring.
    """

    name: str
    title: str
    seeds: list[int]
    settings: dict[str, Setting]
    axes: dict[str, list[Any]]
    reference: str | None
    test: dict[str, dict[str, Any]]
    metrics: list[str]
    published: str | None
    keep_checkpoints: bool

    def runs(self, only: Iterable[str] = ()) -> list[tuple[Setting, int]]:
        """
        Every (setting, seed); all settings of a seed before the next seed, so that a sweep cut short compares.

        Args:
            only (`Iterable[str]`, *optional*): Names of settings.

        Raises:
            ValueError: a name is unknown.
        """
        only = list(only)
        unknown = [name for name in only if name not in self.settings]
        if unknown:
            raise ValueError(f"`--only` names {', '.join(unknown)}; {self.name} has {', '.join(self.settings)}")
        chosen = [setting for name, setting in self.settings.items() if not only or name in only]
        return [(setting, seed) for seed in self.seeds for setting in chosen]


def read_grid(
    path: str | Path,
    *,
    base: str | None = None,
    data: str | None = None,
    test_data: str | None = None,
    flags: Mapping[str, Any] | None = None,
    seeds: int | None = None,
) -> Grid:
    """
    Read and check a grid.

    Args:
        path (`str` or `Path`):
            The YAML file.
        base (`str`, *optional*):
            Another base recipe.
        data (`str`, *optional*):
            Other training data; tested on as well, unless the grid or `test_data` says otherwise.
        test_data (`str`, *optional*):
            Other test data, for a grid with one test set.
        flags (`Mapping`, *optional*):
            More arguments, before those of the settings.
        seeds (`int`, *optional*):
            Only the first so many.

    Raises:
        OSError: the grid or its recipe cannot be read.
        ValueError: a key, setting, argument or metric is unknown or missing; the message names file and name.
    """
    path = Path(path)
    raw = _read_mapping(path)
    _refuse_unknown(f"{path}", "key", raw, GRID_KEYS)
    shared = _base_arguments(path, raw.get("base") if base is None else base)
    shared |= _arguments(f"{path}: `overrides`", raw.get("overrides"))
    shared |= _arguments("the command line", flags)
    if data is not None:
        shared["data"] = data
    if shared.get("data") is None:
        raise ValueError(f"{path}: no `data`; give it in the base recipe, in `overrides` or as --data")
    settings = _settings(path, raw.get("settings") or {}, shared)
    axes = _axes(path, raw.get("vary") or {})
    for values in product(*axes.values()) if axes else ():
        changes = dict(zip(axes, values, strict=True))
        name = varied_name(changes)
        if name in settings:
            raise ValueError(f"{path}: two settings are called {name}")
        title = ", ".join(f"{key} {value}" for key, value in changes.items())
        settings[name] = Setting(name, title, _set(shared | changes), changes)
    if not settings:
        raise ValueError(f"{path}: no `settings` and no `vary`: there is nothing to run")
    reference = raw.get("reference")
    if reference is not None and reference not in settings:
        raise ValueError(f"{path}: `reference` names {reference}; the settings are {', '.join(settings)}")
    numbers = raw.get("seeds", [0])
    if not numbers or not all(isinstance(seed, int) for seed in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(f"{path}: `seeds` must be a list of different integers, got {numbers!r}")
    if seeds is not None and seeds < 1:
        raise ValueError(f"`--seeds` must be at least 1, got {seeds}")
    return Grid(
        path.stem,
        raw.get("title", path.stem),
        numbers[:seeds],
        settings,
        axes,
        reference,
        _test_sets(path, raw.get("test") or {}, shared, test_data),
        _metrics(path, raw.get("metrics") or ["accuracy"]),
        raw.get("published"),
        bool(raw.get("keep_checkpoints", False)),
    )


def varied_name(changes: Mapping[str, Any]) -> str:
    """Name of a setting of `vary`, which is a folder's as well: `"memory_size=256,temperature=0.07"`."""
    return re.sub(r"[^\w.+=,-]+", "-", ",".join(f"{key}={value}" for key, value in changes.items()))


def parse_flags(flags: Sequence[str]) -> dict[str, Any]:
    """
    `["--max_steps", "2", "--fp16", "false"]` as a mapping.

    Raises:
        ValueError: a value has no flag before it.
    """
    found: dict[str, list[Any]] = {}
    for flag in flags:
        if re.match(r"--[A-Za-z]", flag):
            name, equals, value = flag[2:].partition("=")
            found[name] = [yaml.safe_load(value)] if equals else []
        elif found:
            found[list(found)[-1]].append(yaml.safe_load(flag))
        else:
            raise ValueError(f"{flag!r} belongs to no flag")
    return {name: True if not values else values[0] if len(values) == 1 else values for name, values in found.items()}


def argument_names() -> set[str]:
    """Names that a recipe may hold."""
    classes = (ModelArguments, DataArguments, MiraGeTrainingArguments)
    return {field.name for one in classes for field in fields(one) if field.init}


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold `name: value` lines.")
    return content


def _refuse_unknown(where: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(map(str, names)) - set(known))
    if unknown:
        raise ValueError(f"{where} holds names that are no {what}s: {', '.join(unknown)}.")


def _arguments(where: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments as they are, if each of them is one and none the sweep's own."""
    found = found or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} must be a mapping of arguments, got {found!r}.")
    _refuse_unknown(where, "argument", found, argument_names())
    taken = sorted(set(found) & set(RESERVED))
    if taken:
        raise ValueError(f"{where} sets {', '.join(taken)}, which the sweep sets itself; leave it out.")
    return dict(found)


def _set(arguments: dict[str, Any]) -> dict[str, Any]:
    """Without those that are `null`, which take the base's value back: the default holds."""
    return {name: value for name, value in arguments.items() if value is not None}


def _base_arguments(path: Path, base: Any) -> dict[str, Any]:
    if isinstance(base, str):
        recipe = Path(base) if Path(base).is_file() else path.parent / base
        if not recipe.is_file():
            raise ValueError(f"{path}: the base recipe {base} is neither here nor beside the grid; correct `base`")
        where, base = str(recipe), _read_mapping(recipe)
        base = {name: value for name, value in base.items() if name not in RESERVED}
    else:
        where = f"{path}: `base`"
    return _arguments(where, base)


def _settings(path: Path, found: Any, shared: dict[str, Any]) -> dict[str, Setting]:
    if not isinstance(found, dict):
        raise ValueError(f"{path}: `settings` must be a mapping of names to settings.")
    settings: dict[str, Setting] = {}
    for name, raw in found.items():
        where, raw = f"{path}: setting {name}", raw or {}
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+=,-]*", name):
            raise ValueError(f"{where} can't be a folder's name; use letters, digits and . _ - + = ,")
        if not isinstance(raw, dict):
            raise ValueError(f"{where} must be a mapping with {', '.join(SETTING_KEYS)}.")
        _refuse_unknown(where, "key", raw, SETTING_KEYS)
        parent = raw.get("based_on")
        if parent is not None and parent not in settings:
            raise ValueError(f"{where} is based on {parent}, which is no setting above it")
        changes = _arguments(where, raw.get("arguments"))
        if parent is not None:
            changes = settings[parent].changes | changes
        settings[name] = Setting(name, raw.get("title", name), _set(shared | changes), changes)
    return settings


def _axes(path: Path, found: Any) -> dict[str, list[Any]]:
    axes = _arguments(f"{path}: `vary`", found)
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{path}: `vary` must give {name} a list of values, got {values!r}")
    return axes


def _test_sets(path: Path, found: Any, shared: dict[str, Any], data: str | None) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict):
        raise ValueError(f"{path}: `test` must be a mapping with {', '.join(TEST_KEYS)}, or of names to such.")
    named = bool(found) and all(isinstance(options, dict) for options in found.values())
    if data is not None:
        if named and len(found) > 1:
            raise ValueError(f"{path} has several test sets; give each its `data` in the file instead of --test_data")
        place = {"data": data}
        found = {name: options | place for name, options in found.items()} if named else found | place
    sets = {}
    for name, options in found.items() if named else [("test", found)]:
        _refuse_unknown(f"{path}: `test`", "key", options, TEST_KEYS)
        inherited = {} if "data" in options else {key: shared[key] for key in ("data", *READING) if key in shared}
        sets[str(name)] = {"split": "test"} | inherited | options
    return sets


def _metrics(path: Path, names: Any) -> list[str]:
    from .benchmark_metrics import METRICS

    if not isinstance(names, list):
        raise ValueError(f"{path}: `metrics` must be a list, got {names!r}")
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"{path}: `metrics` names {', '.join(map(str, unknown))}; known are {', '.join(METRICS)}")
    return names


__all__ = ["Grid", "Setting", "argument_names", "parse_flags", "read_grid", "varied_name"]
