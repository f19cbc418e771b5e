"""Detectors without prompts: constants, the metadata null, logistic regressions on features, the residual network."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from mirage_hf.modeling_mirage import cut_tiles

from .images import Split, TrainingCrops
from .residuals import ResidualNetwork, spectral_features
from .thresholds import validation_metrics

INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of the logistic regressions, chosen on validation
SCORED_AT_ONCE = 16  # images of several tiles


class Detector(Protocol):
    """What the harness asks of a detector. Its state is all that training made, as arrays."""

    def fit(self, crops: TrainingCrops, validation: Split) -> None: ...

    def log_odds(self, split: Split) -> np.ndarray:
        """`np.ndarray` of shape `(N,)`: log-odds of fake of every image."""
        ...

    def state(self) -> dict[str, torch.Tensor]: ...

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None: ...


class ConstantDetector:
    """Says the same of every image."""

    def __init__(self, log_odds: float):
        self.value = log_odds

    def fit(self, crops: TrainingCrops, validation: Split) -> None:
        pass

    def log_odds(self, split: Split) -> np.ndarray:
        return np.full(len(split.paths), self.value)

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        pass


class LogisticDetector:
    """Logistic regression on standardised features; its penalty is the one that does best on validation."""

    weights: np.ndarray
    bias: float

    def training_features(self, crops: TrainingCrops) -> np.ndarray:
        """`np.ndarray` of shape `(len(crops), F)`."""
        raise NotImplementedError

    def features(self, split: Split) -> np.ndarray:
        """`np.ndarray` of shape `(N, F)`: those of an image are the means over its tiles."""
        raise NotImplementedError

    def fit(self, crops: TrainingCrops, validation: Split) -> None:
        features, judged = self.training_features(crops), self.features(validation)
        mean, scale = features.mean(axis=0), features.std(axis=0)
        scale[scale == 0] = 1.0
        best = -1.0
        for inverse_penalty in INVERSE_PENALTIES:
            model = LogisticRegression(C=inverse_penalty, max_iter=2000)
            model.fit((features - mean) / scale, crops.labels)
            weights = model.coef_[0] / scale
            bias = float(model.intercept_[0] - weights @ mean)
            found = validation_metrics(judged @ weights + bias, validation.labels, validation.kinds)["selection"]
            if found > best:
                best, self.weights, self.bias = found, weights, bias

    def log_odds(self, split: Split) -> np.ndarray:
        return self.features(split) @ self.weights + self.bias

    def state(self) -> dict[str, torch.Tensor]:
        return {"weights": torch.from_numpy(self.weights), "bias": torch.tensor([self.bias], dtype=torch.float64)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self.weights, self.bias = state["weights"].numpy(), state["bias"].item()


class MetadataDetector(LogisticDetector):
    """The null: what the file gives away without a look at its pixels, its size and its quantisation tables."""

    def training_features(self, crops: TrainingCrops) -> np.ndarray:
        return self.features(crops.split)[crops.order]

    def features(self, split: Split) -> np.ndarray:
        facts = []
        for path in split.paths:
            with Image.open(split.folder / path) as image:
                tables = image.quantization  # type: ignore[attr-defined]
            sums = [float(np.log(sum(tables[key]))) for key in (0, 1)]
            facts.append([float(np.log((split.folder / path).stat().st_size)), *sums])
        return np.array(facts)  # (N, 3)


class SpectraDetector(LogisticDetector):
    """Spectra of residuals."""

    def __init__(self, size: int):
        self.size = size

    def training_features(self, crops: TrainingCrops) -> np.ndarray:
        return np.concatenate([spectral_features(batch) for batch in crops.batches()])

    def features(self, split: Split) -> np.ndarray:
        rows = []
        for pixels in in_batches(split.pixels):
            tiles = cut_tiles(torch.from_numpy(pixels).permute(0, 3, 1, 2), self.size)  # (B, T, 3, S, S)
            found = spectral_features(tiles.flatten(0, 1).permute(0, 2, 3, 1).numpy())  # (B * T, F)
            rows.append(found.reshape(*tiles.shape[:2], -1).mean(axis=1))
        return np.concatenate(rows)


class ResidualNetworkDetector:
    """The small network on NPR residuals; the log-odds of an image are the means over its tiles."""

    def __init__(self, size: int, seed: int):
        torch.manual_seed(seed)
        self.size, self.network = size, ResidualNetwork()

    def fit(self, crops: TrainingCrops, validation: Split) -> None:
        optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=crops.steps)
        labels = torch.from_numpy(crops.labels).float().view(crops.steps, crops.batch_size)
        self.network.train()
        for target, batch in zip(labels, crops.batches(), strict=True):
            loss = F.binary_cross_entropy_with_logits(self.network(as_images(batch)), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    @torch.inference_mode()
    def log_odds(self, split: Split) -> np.ndarray:
        self.network.eval()
        scores = []
        for pixels in in_batches(split.pixels):
            tiles = cut_tiles(as_images(pixels), self.size)  # (B, T, 3, S, S)
            scores.append(self.network(tiles.flatten(0, 1)).view(tiles.shape[:2]).mean(dim=1))
        return torch.cat(scores).numpy()

    def state(self) -> dict[str, torch.Tensor]:
        return dict(self.network.state_dict())

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self.network.load_state_dict(dict(state))


def in_batches(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """`pixels`, `SCORED_AT_ONCE` images at a time."""
    return (pixels[start : start + SCORED_AT_ONCE] for start in range(0, len(pixels), SCORED_AT_ONCE))


def as_images(pixels: np.ndarray) -> torch.Tensor:
    """uint8 `(B, H, W, 3)` to float32 `(B, 3, H, W)` in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
