"""One row of a detection data set before it becomes one, and how rows are selected: by split, generator and number."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .layouts import LABELS, split_of


class Record(NamedTuple):
    """
    One image with one label.

    Args:
        key (`str`):
            Name inside the collection: the same wherever the collection lies.
        path (`str`):
            Path for people.
        source (`str` or `int`):
            What to open (see `mirage_hf.reading`), or the row of `Collection.base`.
        split (`str`, *optional*):
            The collection's own name of the split; `None` where it has no splits.
        generator (`str`):
            The generator, or what a real image is compared with.
        label (`int`):
            0 real, 1 fake.
        shared_by (`tuple[str, ...]`, *optional*):
            Generators that use this real image, `("*",)` for all.
    """

    key: str
    path: str
    source: str | int
    split: str | None
    generator: str
    label: int
    shared_by: tuple[str, ...] = ()


@dataclass
class Collection:
    """
    Everything found at one place.

    Args:
        layout (`str`):
            Name of the layout.
        records (`list[Record]`):
            All splits.
        skipped (`list[tuple[str, str]]`):
            Path and reason of what cannot be read.
        ignored (`int`):
            Number of files that are no images.
        notes (`list[str]`):
            What else the user should know.
        validation_is_test (`bool`):
            See [`~mirage_hf.layouts.Layout`].
        free_reals (`bool`):
            Real images may name no generator; they then go with any.
        base (`datasets.Dataset`, *optional*):
            What the records are rows of, with a column `image` that is not decoded.
    """

    layout: str
    records: list[Record]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored: int = 0
    notes: list[str] = field(default_factory=list)
    validation_is_test: bool = False
    free_reals: bool = False
    base: object = None


def match_split(requested: str, available: Iterable[str], validation_is_test: bool = False) -> str:
    """
    The collection's own name for a split.

    Raises:
        ValueError: it has no such split.
    """
    names = sorted(available)
    if requested in names:
        return requested
    by_meaning = {split_of(name) or name: name for name in reversed(names)}
    meaning = split_of(requested) or requested
    if meaning == "test" and meaning not in by_meaning and validation_is_test:
        meaning = "validation"
    if meaning not in by_meaning:
        raise ValueError(f"there is no split '{requested}': pass `split=` one of {', '.join(names)}")
    return by_meaning[meaning]


def select_split(collection: Collection, split: str) -> list[Record]:
    """
    The records of one split; all of them where the collection names no splits.

    Raises:
        ValueError: there is no such split.
    """
    names = {record.split for record in collection.records if record.split is not None}
    if not names:
        collection.notes.append(f"it names no splits: all of it answers for '{split}'")
        return collection.records
    name = match_split(split, names, collection.validation_is_test)
    return [record for record in collection.records if record.split == name]


def expand_shared(records: Sequence[Record]) -> list[Record]:
    """Give each real image that several generators share one row for each of them."""
    present = sorted({record.generator for record in records if record.label == 1})
    rows: list[Record] = []
    for record in records:
        users = [name for name in present if "*" in record.shared_by or name.lower() in record.shared_by]
        rows.extend([record._replace(generator=name, shared_by=()) for name in users] or [record])
    return rows


def select_generators(records: Sequence[Record], generators: Sequence[str], free_reals: bool) -> list[Record]:
    """
    The records of some generators, whatever the case of their names. With `free_reals`, real images whose generator
    has no fakes stay, for they belong to no generator in particular.

    Raises:
        ValueError: a name is unknown.
    """
    found = {record.generator for record in records}
    wanted = {name.lower() for name in generators}
    unknown = sorted(wanted - {name.lower() for name in found})
    if unknown or not wanted:
        raise ValueError(
            f"`generators` names {', '.join(unknown) or 'nothing'}, found are: "
            f"{', '.join(sorted(found, key=str.lower))}"
        )
    faked = {record.generator for record in records if record.label == 1}
    return [
        record
        for record in records
        if record.generator.lower() in wanted or (free_reals and record.label == 0 and record.generator not in faked)
    ]


def subset_order(records: Sequence[Record], seed: int) -> list[Record]:
    """
    The order in which records of one class are drawn, from names only, so that it is the same on every machine.

    Within a generator the order is random; generators take turns, so each start of the order holds as many images of
    each (while they last). Another row of an image that was drawn before comes after all first rows.
    """
    by_generator: dict[str, list[tuple[bytes, Record]]] = defaultdict(list)
    for record in records:
        text = f"{seed}\0{record.generator}\0{record.label}\0{record.key}"
        by_generator[record.generator].append((hashlib.blake2b(text.encode(), digest_size=8).digest(), record))
    turns = []
    for generator, ranked in by_generator.items():
        ranked.sort(key=lambda pair: (pair[0], pair[1].key))
        turns += [(turn, generator, record) for turn, (_, record) in enumerate(ranked)]
    turns.sort(key=lambda item: item[:2])
    seen: set[str] = set()
    first: list[Record] = []
    again: list[Record] = []
    for _, _, record in turns:
        (again if record.key in seen else first).append(record)
        seen.add(record.key)
    return first + again


def draw_balanced(
    records: Sequence[Record],
    count: int,
    seed: int,
    find_unreadable: Callable[[Sequence[Record]], set[str | int]],
) -> list[Record]:
    """
    Draw as many real as fake images, `count` of each, fewer where a class has fewer.

    A smaller draw is part of a larger one with the same seed. Unreadable images are passed over; only as many images
    are looked at as are needed.

    Args:
        records (`Sequence[Record]`):
            What to draw from.
        count (`int`):
            Images of each class.
        seed (`int`):
            Another seed draws other images.
        find_unreadable (`Callable`):
            Takes records, gives the sources of those that cannot be read.
    """
    drawn: list[list[Record]] = []
    for label in range(len(LABELS)):
        order = subset_order([record for record in records if record.label == label], seed)
        kept: list[Record] = []
        position = 0
        while len(kept) < count and position < len(order):
            batch = order[position : position + count - len(kept)]
            position += len(batch)
            unreadable = find_unreadable(batch)
            kept += [record for record in batch if record.source not in unreadable]
        drawn.append(kept)
    smaller = min((len(kept) for kept in drawn if kept), default=0)
    return [record for kept in drawn for record in kept[:smaller]]
