"""The metadata-only null: what a detector could score on a test set without looking at a single pixel.

Test sets of generated images often give their labels away: the fakes are PNG files of a few fixed sizes, the
photographs JPEG files of every size. [`read_metadata`] reads what a file's header tells; [`metadata_null`] is the
accuracy of a small classifier on that alone. A detector's score on a set says little where the null's is near it.
"""

import io
import math
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling
from PIL.PngImagePlugin import PngImageFile

from .image_io import guarded, open_image
from .reading import open_value

FORMATS = ("JPEG", "PNG", "WEBP")
MODES = ("RGB", "RGBA", "L", "P", "CMYK")
SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")  # in the order of Pillow's codes 0, 1, 2
_TABLE_FEATURES = ("quality", "deviation", "mean_log2", "lowest_log2", "highest_log2")

# Names of the features of `read_metadata`, in order.
FEATURES = (
    *(f"format_{name}" for name in (*FORMATS, "other")),
    *(f"mode_{name}" for name in (*MODES, "other")),
    *("log_width", "log_height", "log_aspect", "log_bytes", "log_bytes_per_pixel"),
    *(f"{table}_{name}" for table in ("luma", "chroma") for name in _TABLE_FEATURES),
    *(f"sampling_{name}" for name in (*SAMPLINGS, "other")),
    *("progressive", "jfif", "adobe", "exif", "icc_profile", "xmp", "dpi", "text"),
)

MIN_IMAGES = 10
FOLDS = 5
_Z_95 = 1.959963984540054

# Tables K.1 and K.2 of ITU-T T.81, row by row; libjpeg scales them to a quality from 1 to 100.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""


def _libjpeg_tables(base: str) -> np.ndarray:
    qualities = np.arange(1, 101)
    scales = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    return np.clip((np.array(base.split(), dtype=np.int64) * scales[:, None] + 50) // 100, 1, 255)  # (100, 64)


_STANDARD_TABLES = {"luma": _libjpeg_tables(_LUMA), "chroma": _libjpeg_tables(_CHROMA)}


def read_metadata(value: Any) -> np.ndarray:
    """
    What the header of an image file tells, as numbers; no pixel is decoded.

    File format and mode (one-hot), size and byte count (natural logarithms), JPEG quantisation tables (nearest libjpeg
    quality, mean absolute difference from that quality's table, mean, first and last step), chroma sampling (one-hot,
    nothing for grayscale), and which optional records there are. Where a file has no such thing, the value is 0. The
    file's name is no feature.

    Args:
        value (`dict`, `bytes`, `str` or `Path`):
            As in [`decode_rgb`]: bytes, a path, `zip://<member>::<archive>`, or a dict with `bytes` or `path`.

    Returns:
        `np.ndarray` of shape `(len(FEATURES),)`, float64, finite; in the order of `FEATURES`.

    Raises:
        UnreadableImage: as [`load_rgb`], for what the header shows; a file cut off behind its header passes.
    """
    with open_value(value) as file:
        image = guarded(lambda: open_image(file))
        return _read_features(image, n_bytes=file.seek(0, io.SEEK_END))


def _read_features(image: Image.Image, n_bytes: int) -> np.ndarray:
    width, height = image.size
    info = image.info
    jpeg = image if isinstance(image, JpegImageFile) else None  # MPO, the JPEG of some telephones, is one too
    image_format = "JPEG" if jpeg else image.format
    features = [
        *_one_hot(image_format, FORMATS),
        *_one_hot(image.mode, MODES),
        *(math.log(width), math.log(height), math.log(width / height)),
        *(math.log(n_bytes), math.log(n_bytes / (width * height))),
        *_table_features(jpeg, 0, "luma"),
        *_table_features(jpeg, 1, "chroma"),
        *_sampling_features(jpeg),
        "progressive" in info,
        "jfif" in info,
        "adobe" in info,
        "exif" in info,
        "icc_profile" in info,
        "xmp" in info,
        "dpi" in info,
        # Text of a PNG stands in `info` under keywords of its own. `image.text` would decode the pixels.
        "comment" in info or (isinstance(image, PngImageFile) and any(isinstance(v, str) for v in info.values())),
    ]
    return np.array(features, dtype=np.float64)  # (F,)


def _one_hot(value: str | None, known: tuple[str, ...]) -> list[bool]:
    return [*(value == name for name in known), value not in known]


def _table_features(jpeg: JpegImageFile | None, component: int, kind: str) -> list[float]:
    if jpeg is None or component >= len(jpeg.layer):
        return [0.0] * len(_TABLE_FEATURES)
    table = jpeg.quantization.get(jpeg.layer[component][3])
    if table is None:
        return [0.0] * len(_TABLE_FEATURES)
    steps = np.array(table, dtype=np.float64)  # (64,)
    distances = np.abs(_STANDARD_TABLES[kind] - steps).mean(axis=1)  # (100,)
    log_steps = np.log2(np.maximum(steps, 1))
    return [distances.argmin() + 1, distances.min(), log_steps.mean(), log_steps[0], log_steps[-1]]


def _sampling_features(jpeg: JpegImageFile | None) -> list[bool]:
    if jpeg is None or len(jpeg.layer) < 3:
        return [False] * (len(SAMPLINGS) + 1)
    code = get_sampling(jpeg)  # -1 where it is none of the three
    return _one_hot(SAMPLINGS[code] if code >= 0 else None, SAMPLINGS)


def metadata_null(features, labels, seed: int = 0) -> dict[str, Any]:
    """
    Cross-validated accuracy of telling fakes from reals by metadata alone.

    Gradient-boosted trees, which see thresholds and combinations ("PNG and 512 wide"), with classes weighted equally,
    in 5-fold stratified cross-validation: each image is judged by trees that were grown without it. One thread, so the
    same rows give the same numbers everywhere. A few seconds for 12,000 images.

    The same image must not be given twice (such as reals shared by several test sets): its twin in another fold would
    tell its label.

    Args:
        features (array-like of shape `(N, F)`):
            From [`read_metadata`].
        labels (array-like of shape `(N,)`):
            0 for real and 1 for fake.
        seed (`int`, *optional*, defaults to 0):
            Draws the folds.

    Returns:
        `dict`: `balanced_accuracy`, `interval` (95%, `[low, high]`), `roc_auc` of the pooled out-of-fold predictions,
        and `n`, the number of images. With fewer than `MIN_IMAGES` of a class all but `n` are `None`.

    Raises:
        ValueError: `features` is not a finite matrix, `labels` has another length or a value other than 0 and 1.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    features, labels = _checked_rows(features, labels)
    counts = np.bincount(labels, minlength=2)  # real, fake
    if counts.min() < MIN_IMAGES:
        return {"balanced_accuracy": None, "interval": None, "roc_auc": None, "n": len(labels)}
    scores = np.empty(len(labels))  # (N,)
    with threadpool_limits(1):
        for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, labels):
            trees = HistGradientBoostingClassifier(
                max_iter=50,
                learning_rate=0.2,
                max_leaf_nodes=15,
                min_samples_leaf=5,  # the default of 20 never splits a set of ten and ten
                early_stopping=False,
                class_weight="balanced",
                random_state=seed,
            )
            trees.fit(features[train], labels[train])
            scores[test] = trees.predict_proba(features[test])[:, 1]
    called_fake = scores > 0.5
    hits = np.array([(~called_fake[labels == 0]).sum(), called_fake[labels == 1].sum()])
    return {
        "balanced_accuracy": float((hits / counts).mean()),
        "interval": _balanced_accuracy_interval(hits, counts),
        "roc_auc": float(roc_auc_score(labels, scores)),
        "n": len(labels),
    }


def _balanced_accuracy_interval(hits: np.ndarray, counts: np.ndarray) -> list[float]:
    # Newcombe (1998), "square and add": each class's Wilson limits, their distances added as squares. Unlike a normal
    # approximation it keeps a width at 100%. It takes the rows as independent, which those of one fold nearly are.
    rates = hits / counts
    z2 = _Z_95**2
    centres = (hits + z2 / 2) / (counts + z2)
    halves = _Z_95 / (counts + z2) * np.sqrt(hits * (counts - hits) / counts + z2 / 4)
    middle = rates.mean()
    low = middle - np.sqrt(((rates - (centres - halves)) ** 2).sum()) / 2
    high = middle + np.sqrt(((centres + halves - rates) ** 2).sum()) / 2
    return [float(max(low, 0.0)), float(min(high, 1.0))]


def _checked_rows(features, labels) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if features.ndim != 2:
        raise ValueError(f"`features` must have shape (N, F), got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"`features` is not finite in row {np.flatnonzero(~np.isfinite(features).all(axis=1))[0]}")
    if labels.shape != (len(features),):
        raise ValueError(f"`labels` must have shape ({len(features)},) as `features` has rows, got {labels.shape}")
    bad = np.flatnonzero((labels != 0) & (labels != 1))
    if len(bad):
        raise ValueError(f"`labels` must be 0 (real) or 1 (fake), got {labels[bad[0]]} in row {bad[0]}")
    return features, labels.astype(np.int64)
