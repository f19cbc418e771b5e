"""Loads any data set of this field as a [`~datasets.Dataset`] of real (0) and fake (1) images.

```python
from mirage_hf.data import load_detection_dataset

train = load_detection_dataset("GenImage", generators=["stable_diffusion_v_1_4"], split="train")
test, report = load_detection_dataset("GenImage", split="test", return_report=True)
print(report)
```

What was understood (layout, labels, counts, files left out) is in the report and is logged at INFO level.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets

from .collect import collect, read_reals
from .image_io import decode_rgb, find_problem
from .layouts import LABELS
from .records import Collection, Record, draw_balanced, expand_shared, select_generators, select_split
from .report import DatasetReport

logger = logging.getLogger(__name__)

FEATURES = datasets.Features(
    {
        "image": datasets.Image(decode=False),
        "label": datasets.ClassLabel(names=list(LABELS)),
        "generator": datasets.Value("string"),
        "path": datasets.Value("string"),
    }
)
CHECK_MODES = (True, False, "full", "header")


def load_detection_dataset(
    root: str | Path | datasets.Dataset,
    *,
    layout: str = "auto",
    split: str = "train",
    generators: Sequence[str] | None = None,
    max_per_class: int | None = None,
    seed: int = 0,
    fake_id: int | None = None,
    label_column: str | None = None,
    config_name: str | None = None,
    real_root: str | Path | None = None,
    check_images: bool | str = "header",
    num_proc: int | None = None,
    allow_one_class: bool = False,
    return_report: bool = False,
) -> Any:
    r"""
    Load real and generated images with their labels, whatever the layout.

    Understood are the layouts in `mirage_hf.layouts.LAYOUTS` (with their sources), in folders or inside zip archives,
    which are read without unpacking; manifests; and data sets with columns. Folder names are mapped to labels
    explicitly, never by sorted order.

    Args:
        root (`str`, `Path` or `datasets.Dataset`):
            A folder; a zip archive; a `.csv` or `.parquet` manifest, or a folder with `manifest.csv` or
            `manifest.parquet` (see [`~mirage_hf.manifests.read_manifest`]), which goes before the folder's layout; a
            folder that `load_dataset` or `load_from_disk` reads; a Hub id `owner/name`; a loaded data set.
        layout (`str`, *optional*, defaults to `"auto"`):
            `"auto"`, the name of a layout, `"manifest"` or `"hub"`.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"`, `"validation"` or `"test"`, mapped onto the set's own names. `val` of GenImage and `val2017` of
            DRCT-2M answer for both `"validation"` and `"test"`. A tree that names no splits answers for any.
        generators (`Sequence[str]`, *optional*):
            Only these, whatever the case. In manifests and data sets with columns, real images whose generator has no
            fakes stay.
        max_per_class (`int`, *optional*):
            Draw this many real and as many fake images in total, spread evenly over the generators; fewer of both
            where one class has fewer. A smaller draw is part of a larger one with the same `seed`, on every machine.
        seed (`int`, *optional*, defaults to 0):
            For `max_per_class`.
        fake_id (`int`, *optional*):
            The number that means fake where labels are numbers without clear names.
        label_column (`str`, *optional*):
            Name of the label column of a manifest or data set, if it is not `label`.
        config_name (`str`, *optional*):
            Configuration of a Hub data set.
        real_root (`str` or `Path`, *optional*):
            Folder of real images that every generator shares, for sets of fakes only such as Synthbuster. If its
            folders name splits, only those of `split` are used.
        check_images (`bool` or `str`, *optional*, defaults to `"header"`):
            `"header"` reads each header and checks that the file is complete; `True` or `"full"` decodes every pixel,
            which takes about as long as an epoch's decoding; `False` opens nothing. What cannot be read is left out
            and listed in the report. Of a subset, only what is drawn is checked.
        num_proc (`int`, *optional*):
            Number of threads for the check (decoders run in parallel); by default one for each CPU, 8 at most.
        allow_one_class (`bool`, *optional*, defaults to `False`):
            Accept a set that is all real or all fake.
        return_report (`bool`, *optional*, defaults to `False`):
            Return `(dataset, report)`.

    Returns:
        `datasets.Dataset`, or a tuple with a [`DatasetReport`]: map-style, in memory, ordered by generator, label and
        name (so shuffle it for training), with the columns

        - `image`: stored as `{"path", "bytes"}`, where a path may be `zip://<member>::<archive>`. On access the
          transform [`decode_images`] makes it an RGB `PIL.Image.Image`, or `None` where it cannot be decoded after
          all. A transform of your own replaces that one: call [`~mirage_hf.image_io.decode_rgb`] in it.
        - `label`: `ClassLabel(names=["real", "fake"])`.
        - `generator`: of a real image, the generator it is compared with. A real image that several generators share
          has one row for each.
        - `path`: the file, `archive.zip!member` inside a zip, `name#row` of a data set with columns.

    Raises:
        ValueError: nothing is there or is recognised, two layouts disagree, a split, generator or column does not
            exist, integer labels come without `fake_id`, no image is left, or all are of one class.
    """
    if check_images not in CHECK_MODES:
        raise ValueError(f"`check_images` is {check_images!r}: pass 'header', True, 'full' or False")
    if max_per_class is not None and max_per_class < 1:
        raise ValueError(f"`max_per_class` is {max_per_class}: pass a positive number or None")
    if isinstance(generators, str):
        raise ValueError(f"`generators` is the string {generators!r}: pass a list of names")
    name = "dataset" if isinstance(root, datasets.Dataset) else os.fspath(root)
    collection = collect(root, name, layout, split, fake_id, label_column, config_name)
    if collection.layout not in ("manifest", "hub") and (fake_id is not None or label_column is not None):
        logger.warning("`fake_id` and `label_column` are not used: folder names give the labels here")
    records = select_split(collection, split)
    if real_root is not None:
        records = records + read_reals(collection, os.fspath(real_root), split)
    records = expand_shared(records)
    if generators is not None:
        records = select_generators(records, generators, collection.free_reals)

    def find_unreadable(batch: Sequence[Record]) -> set[str | int]:
        if not check_images:
            return set()
        return _find_unreadable(collection, batch, "full" if check_images is True else str(check_images), num_proc)

    if max_per_class is None:
        unreadable = find_unreadable(records)
        records = [record for record in records if record.source not in unreadable]
    else:
        records = draw_balanced(records, max_per_class, seed, find_unreadable)
        if len(records) < 2 * max_per_class:
            collection.notes.append(f"`max_per_class={max_per_class}` asks for more images than the smaller class has")
    report = DatasetReport(
        name, collection.layout, split, _count(records), collection.skipped, collection.ignored, collection.notes
    )
    _refuse_unusable(report, allow_one_class)
    logger.info("%s", report)
    if report.skipped:
        logger.warning("%d unreadable images of %s were left out", len(report.skipped), name)
    dataset = _build(sorted(records, key=lambda r: (r.generator.lower(), r.label, r.key)), collection.base)
    return (dataset, report) if return_report else dataset


def decode_images(batch: dict[str, list]) -> dict[str, list]:
    """The transform of loaded data sets: decodes the column `image` by [`~mirage_hf.image_io.decode_rgb`]."""
    # After `select_columns` there may be no image.
    return {name: [decode_rgb(v) for v in values] if name == "image" else values for name, values in batch.items()}


def _find_unreadable(
    collection: Collection, records: Sequence[Record], mode: str, num_proc: int | None
) -> set[str | int]:
    """Sources of the records that cannot be read; each is also listed in the collection."""
    paths = {record.source: record.path for record in records}
    base: Any = collection.base

    def problem_of(source: str | int) -> str | None:
        return find_problem(base[source]["image"] if base is not None and isinstance(source, int) else source, mode)

    workers = num_proc or min(8, os.cpu_count() or 1)
    problems: Iterable[str | None]
    if workers == 1:
        problems = map(problem_of, paths)
    else:
        with ThreadPoolExecutor(workers) as pool:
            problems = list(pool.map(problem_of, paths))
    found = {source: problem for source, problem in zip(paths, problems, strict=True) if problem}
    collection.skipped += [(paths[source], problem) for source, problem in found.items()]
    return set(found)


def _count(records: Iterable[Record]) -> dict[str, tuple[int, int]]:
    counts = Counter((record.generator, record.label) for record in records)
    names = sorted({generator for generator, _ in counts}, key=lambda name: (name.lower(), name))
    return {name: (counts[name, 0], counts[name, 1]) for name in names}


def _refuse_unusable(report: DatasetReport, allow_one_class: bool) -> None:
    real, fake = (sum(pair[label] for pair in report.counts.values()) for label in (0, 1))
    if not real and not fake:
        why = f"; {len(report.skipped)} unreadable, first {': '.join(report.skipped[0])}" if report.skipped else ""
        raise ValueError(f"no image is left in split '{report.split}' of '{report.root}'{why}")
    if real and fake:
        lonely = [name for name, pair in report.counts.items() if not all(pair)]
        if lonely:
            report.notes.append(f"only one class for {', '.join(lonely)}: no AP or AUC for these alone")
    elif not allow_one_class:
        remedy = "add fakes" if real else "pass `real_root=` a folder of real images"
        raise ValueError(
            f"all {real + fake} images of '{report.root}' are {LABELS[fake > 0]} (layout {report.layout}): "
            f"{remedy}, or `allow_one_class=True`"
        )


def _build(records: Sequence[Record], base: Any) -> datasets.Dataset:
    if base is None:
        sources = {"image": [record.source for record in records]}
        dataset = datasets.Dataset.from_dict({**sources, **_describe(records)}, FEATURES)
    else:
        # Columns are added to all rows before any is selected: `datasets` copies every image the other way round.
        by_row = {record.source: record for record in records}
        described = _describe([by_row.get(row, _ABSENT) for row in range(len(base))])
        features = datasets.Features({name: FEATURES[name] for name in described})
        dataset = datasets.concatenate_datasets([base, datasets.Dataset.from_dict(described, features)], axis=1)
        dataset = dataset.select([record.source for record in records])
    # The other columns stay readable without decoding any image.
    dataset.set_transform(decode_images, columns=["image"], output_all_columns=True)
    return dataset


_ABSENT = Record("", "", "", None, "", 0)


def _describe(records: Sequence[Record]) -> dict[str, list]:
    return {
        "label": [record.label for record in records],
        "generator": [record.generator for record in records],
        "path": [record.path for record in records],
    }
