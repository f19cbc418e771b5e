"""What a detector would score without looking at a pixel: image size, chroma sampling, file size and tables."""

import bisect
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from listing import Row
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

Facts = dict[str, "Metadata"]


@dataclass(frozen=True)
class Metadata:
    """All that a JPEG file tells without its pixels."""

    size: tuple[int, int]
    sampling: tuple[tuple[int, int], ...]  # of each component, horizontally and vertically
    length: int  # of the file, in bytes
    tables: tuple[tuple[int, ...], ...]  # JPEG quantisation tables: luminance, chrominance

    @classmethod
    def of(cls, data: bytes) -> "Metadata":
        """From a file's bytes. Raises `ValueError` for another format than JPEG, which would give the label away."""
        with Image.open(io.BytesIO(data)) as image:
            if not isinstance(image, JpegImageFile):
                raise ValueError(f"an image is saved as {image.format} instead of JPEG")
            tables = tuple(tuple(table) for _, table in sorted(image.quantization.items()))
            sampling = tuple((horizontal, vertical) for _, horizontal, vertical, _ in image.layer)
            return cls(image.size, sampling, len(data), tables)

    def features(self) -> np.ndarray:
        """(137,) numbers; logarithms, so that bytes at a given quality are a linear matter."""
        tables = np.log2([value for table in self.tables for value in table])
        return np.concatenate([*self.sampling, self.size, [np.log2(self.length)], tables])


def as_saved(folder: Path, rows: Iterable[Row]) -> Facts:
    """The metadata of every file, by path."""
    return {path: Metadata.of((folder / path).read_bytes()) for path in {row.path for row in rows}}


def aligned(folder: Path, rows: Iterable[Row]) -> Facts:
    """The same, each version of a crop encoded again at the quality that brings it nearest to its photograph's bytes.

    Plain photographs stay as they are. Nothing is written. Bytes become alike, but quantisation tables no longer are.
    """
    rows = list(rows)
    photo = {row.crop: (folder / row.path).read_bytes() for row in rows if row.version == "photo"}
    facts = {}
    for row in rows:
        if row.version == "photo":
            facts[row.path] = Metadata.of(photo[row.crop])
        elif row.path not in facts:
            with Image.open(folder / row.path) as image:
                facts[row.path] = Metadata.of(_nearest_in_bytes(image, len(photo[row.crop])))
    return facts


def _nearest_in_bytes(image: Image.Image, target: int) -> bytes:
    def encoded(quality: int) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        return buffer.getvalue()

    qualities = range(5, 101)
    above = bisect.bisect_left(qualities, target, key=lambda quality: len(encoded(quality)))
    around = (encoded(quality) for quality in qualities[max(above - 1, 0) : above + 1])
    return min(around, key=lambda data: abs(len(data) - target))


def auc(positive: Iterable[float], negative: Iterable[float]) -> float:
    """Probability that a positive outranks a negative, ties counted half."""
    a, b = np.asarray(list(positive))[:, None], np.asarray(list(negative))[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def single_numbers(rows: list[Row], facts: Facts) -> dict[str, dict[str, dict[str, float]]]:
    """{split: {generator: AUC of one number, fakes against what they stand against}}."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for split, generator, fake, real in _pairs(rows):
        result.setdefault(split, {})[generator] = {
            "file size": auc((facts[path].length for path in fake), (facts[path].length for path in real)),
            "quantisation tables": auc((_coarseness(facts[p]) for p in fake), (_coarseness(facts[p]) for p in real)),
        }
    return result


def _coarseness(metadata: Metadata) -> int:
    return sum(map(sum, metadata.tables))


def classifier(rows: list[Row], facts: Facts, controls: bool) -> dict[str, dict[str, dict[str, float]]]:
    """What logistic regression on the metadata scores, trained like a detector on the training split.

    `controls` says whether the controls of that split are among its reals. Returns, for each split and generator, the
    AUC and balanced accuracy against what its fakes stand against; of a control, the share called fake.
    """
    training = [row for row in rows if row.split == "train" and (controls or row.family != "control")]
    score = _trained(training, facts)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for split, generator, fake_paths, real_paths in _pairs(rows):
        fake, real = score(fake_paths), score(real_paths)
        accuracy = float(((fake > 0).mean() + (real <= 0).mean()) / 2)
        result.setdefault(split, {})[generator] = {"AUC": auc(fake, real), "balanced accuracy": accuracy}
    for split, control in {(row.split, row.generator) for row in rows if row.family == "control"}:
        paths = [row.path for row in rows if (row.split, row.generator) == (split, control)]
        result[split][control] = {"called fake": float((score(paths) > 0).mean())}
    return result


def _trained(rows: list[Row], facts: Facts) -> Callable[[list[str]], np.ndarray]:
    """A function from paths to scores, positive for fake."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = {row.path: row.label == "fake" for row in rows}  # each file once
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=5000))
    model.fit(np.stack([facts[path].features() for path in labels]), list(labels.values()))
    return lambda paths: model.decision_function(np.stack([facts[path].features() for path in paths]))


def _pairs(rows: list[Row]) -> Iterable[tuple[str, str, list[str], list[str]]]:
    """(split, generator, paths of fakes, paths of the reals they stand against)."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        groups.setdefault((row.split, row.generator), {}).setdefault(row.label, []).append(row.path)
    for (split, generator), paths in groups.items():
        if "fake" in paths:
            yield split, generator, paths["fake"], paths["real"]
