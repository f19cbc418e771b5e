"""Detection data described by columns: CSV or Parquet manifests, and data sets of the Hub or in memory.

Labels written as names ("real", "fake", "AI-generated") are understood. Numbers are not: half of the copies of CIFAKE
call fake 0, the other half 1. They need `fake_id`.
"""

import csv
import math
import os
from collections.abc import Sequence
from typing import Any

import datasets
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .layouts import UNKNOWN, label_of
from .reading import member_source
from .records import Collection, Record, match_split

MANIFEST_NAMES = ("manifest.csv", "manifest.parquet")
IMAGE_COLUMNS = ("image", "image_data", "img", "jpg", "png")
LABEL_COLUMNS = ("label", "labels")
GENERATOR_COLUMNS = ("generator", "model", "model_name")


def labels_from_values(
    values: Sequence[Any], fake_id: int | None, names: Sequence[str] | None = None
) -> list[int | None]:
    """
    Turn the values of a label column into 0 (real), 1 (fake) and `None` (empty).

    Args:
        values (`Sequence`):
            Names, or integers (also written as text).
        fake_id (`int`, *optional*):
            The integer that means fake. Needed for integers without `names`.
        names (`Sequence[str]`, *optional*):
            Class names of the integers, from a [`~datasets.ClassLabel`].

    Raises:
        ValueError: the meaning of a value is not certain, or `fake_id` contradicts the names.
    """
    plain = [_as_integer(value) for value in values]
    found = sorted({value for value in plain if value is not None}, key=str)
    if names is not None and all(label_of(name) is not None for name in names):
        meaning: dict[Any, int | None] = {index: label_of(name) for index, name in enumerate(names)}
        if fake_id is not None and meaning.get(fake_id) != 1:
            raise ValueError(f"`fake_id={fake_id}` contradicts the class names {list(names)}: leave it out")
    elif all(isinstance(value, int) for value in found):
        shown = f" (class names {list(names)})" if names is not None else ""
        if fake_id is None:
            raise ValueError(
                f"labels are the numbers {found}{shown}, which do not say what is fake: "
                "pass `fake_id=` the number that means fake"
            )
        if len(found) > 2 or (len(found) == 2 and fake_id not in found):
            raise ValueError(f"`fake_id={fake_id}` does not split the labels {found}{shown} into real and fake")
        meaning = {value: int(value == fake_id) for value in found}
    else:
        meaning = {value: label_of(str(value)) for value in found}
        unknown = [value for value in found if meaning[value] is None]
        if unknown:
            raise ValueError(f"labels {unknown[:5]} say neither real nor fake: write 'real' and 'fake'")
    return [meaning.get(value) for value in plain]


def find_manifest(folder: str) -> str | None:
    """
    Path of the manifest in a folder, if there is one.

    Raises:
        ValueError: there are two.
    """
    found = [name for name in MANIFEST_NAMES if os.path.isfile(os.path.join(folder, name))]
    if len(found) == 2:
        raise ValueError(f"ambiguous: '{folder}' holds both {' and '.join(found)}: pass the path of one of them")
    return os.path.join(folder, found[0]) if found else None


def read_manifest(path: str, fake_id: int | None = None, label_column: str | None = None) -> Collection:
    """
    Read a manifest with the columns `path`, `label` and, optionally, `generator` and `split`.

    Paths are relative to the manifest's folder; `archive.zip!member` is an image inside a zip. The same path in
    several rows with different generators is a real image that they share.

    Args:
        path (`str`):
            A `.csv` (comma separated, UTF-8, with a header) or `.parquet` file.
        fake_id (`int`, *optional*):
            See [`labels_from_values`].
        label_column (`str`, *optional*):
            Name of the label column, if it is another.

    Raises:
        ValueError: a column is missing, a label is not understood, or one path has both labels.
    """
    columns = _read_columns(path)
    label_name = (label_column or "label").lower()
    for name in ("path", label_name):
        if name not in columns:
            raise ValueError(f"manifest '{path}' has no column `{name}` but {', '.join(columns)}")
    paths = columns["path"]
    generators = columns.get("generator", [None] * len(paths))
    splits = columns.get("split", [None] * len(paths))
    labels = labels_from_values(columns[label_name], fake_id)
    folder = os.path.dirname(os.path.abspath(path))
    collection = Collection("manifest", [], free_reals=True)
    label_of_key: dict[str, int] = {}
    seen: set[Record] = set()
    repeated = 0
    for row, (key, label, generator, split) in enumerate(zip(paths, labels, generators, splits, strict=True)):
        if not key or label is None:
            collection.skipped.append((f"{path} row {row + 1}", "no label" if key else "no path"))
            continue
        if label_of_key.setdefault(key, label) != label:
            raise ValueError(f"manifest '{path}' calls '{key}' both real and fake: correct one of the rows")
        source, opened = _locate(folder, key)
        shown = os.path.join(folder, key)
        record = Record(key, shown, source, split or None, str(generator or UNKNOWN), label)
        if record in seen:
            repeated += 1
            continue
        seen.add(record)
        if os.path.exists(opened):
            collection.records.append(record)
        else:
            collection.skipped.append((shown, "missing"))
    if repeated:
        collection.notes.append(f"{repeated} rows that repeat another were left out")
    return collection


def open_hub(name: str, split: str, config_name: str | None = None) -> datasets.Dataset:
    """
    Load one split of a data set of the Hub, of a local folder that `load_dataset` reads, or of `save_to_disk`.

    Raises:
        ValueError: there is no such data set or split.
    """
    try:
        if any(os.path.isfile(os.path.join(name, mark)) for mark in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(name)
            return loaded if isinstance(loaded, datasets.Dataset) else loaded[match_split(split, loaded)]
        if os.path.isfile(name):
            return datasets.load_dataset("parquet", data_files=name, split="train")
        splits = datasets.get_dataset_split_names(name, config_name)
    except (datasets.exceptions.DatasetNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"'{name}' is neither a folder nor a data set that could be read: {reason}") from error
    return datasets.load_dataset(name, config_name, split=match_split(split, splits))


def read_columns(
    dataset: datasets.Dataset, name: str, fake_id: int | None = None, label_column: str | None = None
) -> Collection:
    """
    Describe a data set with an image column, a label column and, optionally, a generator column. Nothing is decoded.

    Args:
        dataset (`datasets.Dataset`):
            Columns are found by the names in `IMAGE_COLUMNS`, `LABEL_COLUMNS` and `GENERATOR_COLUMNS`.
        name (`str`):
            Name of the data set, for the column `path`.
        fake_id (`int`, *optional*):
            See [`labels_from_values`].
        label_column (`str`, *optional*):
            Name of the label column, if it is another.

    Raises:
        ValueError: a column is missing or a label is not understood.
    """
    image_column = _pick(dataset, "image", IMAGE_COLUMNS, name)
    label_column = _pick(dataset, "label", (label_column,) if label_column else LABEL_COLUMNS, name)
    generator_column = next((column for column in GENERATOR_COLUMNS if column in dataset.column_names), None)
    feature = dataset.features[label_column]
    table = dataset.select_columns([c for c in (label_column, generator_column) if c]).with_format("arrow")[:]
    class_names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    labels = labels_from_values(table[label_column].to_pylist(), fake_id, class_names)
    generators: list[Any] = [None] * len(labels)
    if generator_column:
        generators = table[generator_column].to_pylist()
        if isinstance(dataset.features[generator_column], datasets.ClassLabel):
            generators = [dataset.features[generator_column].int2str(value) for value in generators]
    base = dataset.cast_column(image_column, datasets.Image(decode=False)).select_columns([image_column])
    base = base.rename_column(image_column, "image") if image_column != "image" else base
    paths: list[str | None] = []
    for batch in base.with_format("arrow").iter(1000):
        paths += pc.struct_field(batch["image"], "path").to_pylist()
    collection = Collection("hub", [], free_reals=True, base=base)
    for row, (label, generator, path) in enumerate(zip(labels, generators, paths, strict=True)):
        shown = path if path and os.path.isabs(path) else f"{name}#{row}"
        if label is None:
            collection.skipped.append((shown, "no label"))
        else:
            collection.records.append(Record(str(row), shown, row, None, str(generator or UNKNOWN), label))
    return collection


def has_column(path: str, name: str) -> bool:
    """Whether a Parquet file has a column."""
    return name in pq.read_schema(path).names


def _pick(dataset: datasets.Dataset, what: str, candidates: Sequence[str], name: str) -> str:
    for column in candidates:
        if column in dataset.column_names:
            return column
    hint = "pass `label_column=`" if what == "label" else "rename the column that holds images to `image`"
    raise ValueError(f"'{name}' has no {what} column among {', '.join(dataset.column_names)}: {hint}")


def _as_integer(value: Any) -> Any:
    """The value as an integer if it is one, `None` if it is empty."""
    if isinstance(value, str):
        value = value.strip()
        return int(value) if value.removeprefix("-").isdecimal() else value or None
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return int(value) if isinstance(value, bool) else value


def _read_columns(path: str) -> dict[str, list[Any]]:
    if path.lower().endswith(".parquet"):
        table = pq.read_table(path)
        return {name.strip().lower(): table[name].to_pylist() for name in table.column_names}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file) if row]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"manifest '{path}' is not a UTF-8 CSV file with a header: {error}") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(f"manifest '{path}' row {number} has {len(row)} fields, the header {len(header)}")
    return {name.strip().lower(): [row[i].strip() for row in rows] for i, name in enumerate(header)}


def _locate(folder: str, key: str) -> tuple[str, str]:
    """What to open for a path of a manifest, and the file that must exist for it."""
    archive, mark, member = key.partition(".zip!")
    if mark:
        archive = os.path.join(folder, archive + ".zip")
        return member_source(archive, member), archive
    path = os.path.join(folder, key)
    return path, path
