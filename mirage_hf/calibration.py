"""What a detector's log-odds mean: probabilities, a threshold and when to say "unsure"; kept in its configuration."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

POINT_KEYS = {"max_fpr", "threshold", "fpr", "fpr_interval", "tpr", "tpr_interval", "supported"}


@dataclass(frozen=True)
class Calibration:
    r"""
    What a detector's log-odds mean, learned from images that it wasn't trained on;
    [`~calibration_fit.fit_calibration`] makes it.

    `p_fake = sigmoid(margin / temperature + bias)`, with margin = logit of fake - logit of real, is the probability of
    fake if a share `prior` of the images are fake and they are otherwise like the calibration images. For another
    share q, add log(q / (1 - q)) - log(prior / (1 - prior)) to its log-odds. No prior moves a calibration image across
    the threshold or an end of the band.

    The band, verdict "fake" above `unsure_high`, "real" below `unsure_low`, "unsure" from one to the other, promises:
    of real images at most a share `unsure_alpha` get the verdict "fake", and of fakes at most that share "real", on
    average over calibration sets drawn like this one, if the images are exchangeable with the calibration images of
    their class. Neither the distribution of scores nor the share of fakes matters. New generators, recompression,
    screenshots or another kind of photographs break it, and several crops of one photograph count for less than
    as many photographs.

    Args:
        temperature (`float`):
            Above 0; above 1 the detector was too sure of itself.
        bias (`float`):
            Log-odds added.
        prior (`float`):
            Share of fakes that `p_fake` supposes, in (0, 1).
        threshold (`float`):
            Label "fake" means a `p_fake` above it.
        max_fpr (`float`):
            Largest share of the real calibration images above the threshold, in every group of them.
        unsure_alpha (`float`):
            As above, in (0, 1).
        unsure_low, unsure_high (`float`):
            Ends of the band, which holds the threshold: no verdict contradicts its label.
        operating_points (`list[dict]`):
            For false-positive rates of 5, 1 and 0.1% (`max_fpr`): the `threshold`, the share `fpr` of the real
            calibration images above it, in the group where it is highest, the share `tpr` of the fakes, and their
            exact 95% intervals `fpr_interval` and `tpr_interval`. Where there is one group, the first interval also
            holds for the rate to expect of other images like these, though the threshold was chosen on these.
            `supported` is false where a group has fewer than 1 / max_fpr reals, too few to tell such a rate: its
            highest real image is then the limit.
        n_real, n_fake (`int`):
            Calibration images of each class.
        data (`str`):
            What they were, in words.

    Raises:
        ValueError: a value is out of range; the field is named.
    """

    temperature: float
    bias: float
    prior: float
    threshold: float
    max_fpr: float
    unsure_alpha: float
    unsure_low: float
    unsure_high: float
    operating_points: list[dict[str, Any]]
    n_real: int
    n_fake: int
    data: str = ""

    def __post_init__(self):
        for name in ("temperature", "bias", "prior", "threshold", "max_fpr", "unsure_alpha"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        for name in ("unsure_low", "unsure_high"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if not self.temperature > 0:
            raise ValueError(f"`calibration.temperature` must be positive, got {self.temperature}")
        for name in ("prior", "unsure_alpha"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"`calibration.{name}` must lie in (0, 1), got {getattr(self, name)}")
        if not 0 <= self.max_fpr < 1:
            raise ValueError(f"`calibration.max_fpr` must lie in [0, 1), got {self.max_fpr}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"`calibration.threshold` must lie in [0, 1], got {self.threshold}")
        if not 0 <= self.unsure_low <= self.threshold:
            raise ValueError(f"`calibration.unsure_low` must lie in [0, threshold], got {self.unsure_low}")
        if not self.threshold <= self.unsure_high <= 1:
            raise ValueError(f"`calibration.unsure_high` must lie in [threshold, 1], got {self.unsure_high}")
        for name in ("n_real", "n_fake"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`calibration.{name}` must be a whole number of at least 1, got {value!r}")
        if not isinstance(self.data, str):
            raise ValueError(f"`calibration.data` must be a string, got {self.data!r}")
        if not isinstance(self.operating_points, list):
            raise ValueError(f"`calibration.operating_points` must be a list, got {self.operating_points!r}")
        for point in self.operating_points:
            _check_point(point)

    @property
    def id(self) -> str:
        """`str`: Short hash of the numbers; two calibrations that answer differently have different ones."""
        numbers = {name: value for name, value in asdict(self).items() if name != "data"}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def raw_threshold(self) -> float:
        """`float`: The threshold for probabilities without calibration, sigmoid(margin); it gives the same labels."""
        if self.threshold in (0, 1):
            return self.threshold
        return float(sigmoid(self.temperature * (logit(self.threshold) - self.bias)))

    def probability(self, margins) -> np.ndarray:
        """
        Args:
            margins (array-like of any shape): Logit of fake - logit of real.

        Returns:
            `np.ndarray` of that shape, float64: `p_fake`. It rises with the margin, so ranks stay.
        """
        return sigmoid(np.asarray(margins, dtype=np.float64) / self.temperature + self.bias)

    def verdicts(self, p_fake) -> list[str]:
        """
        Args:
            p_fake (array-like of shape `(N,)`): From [`probability`].

        Returns:
            `list[str]`: `"real"`, `"fake"` or `"unsure"` for each.

        Raises:
            ValueError: a probability is NaN or out of range.
        """
        p_fake = np.asarray(p_fake, dtype=np.float64)
        if not ((p_fake >= 0) & (p_fake <= 1)).all():  # NaN fails both comparisons
            raise ValueError("`p_fake` must lie in [0, 1]")
        # Both strict: an image that ties with an end of the band is unsure, so ties can only help the promise.
        names = np.where(p_fake > self.unsure_high, "fake", np.where(p_fake < self.unsure_low, "real", "unsure"))
        return names.tolist()

    def to_dict(self) -> dict[str, Any]:
        """All fields and the `id`, JSON-serialisable."""
        return asdict(self) | {"id": self.id}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """
        The calibration that [`to_dict`] wrote.

        Raises:
            ValueError: a field is missing, unknown or out of range, or the `id` isn't that of the numbers; the message
                names the field.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"`calibration` must be a mapping of names to values, got {values!r}")
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        unknown = sorted(map(str, values.keys() - {*names, "id"}))
        if missing or unknown:
            wrong = f"lacks {', '.join(missing)}" if missing else f"has unknown fields: {', '.join(unknown)}"
            raise ValueError(f"`calibration` {wrong}; calibrate the detector again")
        found = cls(**{name: values[name] for name in names})
        if values.get("id", found.id) != found.id:
            raise ValueError(
                f"`calibration.id` is {values['id']}, that of the numbers beside it is {found.id}: they were changed; "
                "calibrate the detector again"
            )
        return found


def sigmoid(values) -> np.ndarray:
    """1 / (1 + exp(-x)) in float64, without overflow and with the small probabilities kept apart."""
    values = np.asarray(values, dtype=np.float64)
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1, small) / (1 + small)


def logit(p: float) -> float:
    """log(p / (1 - p)), for p in (0, 1)."""
    return math.log(p) - math.log1p(-p)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"`calibration.{name}` must be a finite number, got {value!r}")
    return float(value)


def _check_point(point: Any) -> None:
    if not isinstance(point, dict) or set(point) != POINT_KEYS or not isinstance(point["supported"], bool):
        raise ValueError(
            f"`calibration.operating_points` must hold {', '.join(sorted(POINT_KEYS))} of each, got {point!r}"
        )
    for name in ("fpr", "tpr"):
        interval = point[f"{name}_interval"]
        if not isinstance(interval, list) or len(interval) != 2:
            raise ValueError(f"`calibration.operating_points` has a `{name}_interval` of {interval!r}")
        for value in (*interval, point[name], point["max_fpr"], point["threshold"]):
            if not 0 <= _number("operating_points", value) <= 1:
                raise ValueError(f"`calibration.operating_points` must hold shares in [0, 1], got {value!r}")


__all__ = ["Calibration", "logit", "sigmoid"]
