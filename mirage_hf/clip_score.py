"""How well generated images fit their captions (CLIP score), by generator, beside how often they are detected.

CLIP score: [Hessel et al. 2021](https://arxiv.org/abs/2104.08718), 2.5 · max(cos, 0). MiraGe's Table 8 compares it
with accuracy; its values (0.26 to 0.27) look like plain cosines, which stand beside the score here.
"""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from .image_io import UnreadableImage, load_rgb
from .reading import member_source

WEIGHT = 2.5  # w of Eq. 1


@torch.inference_mode()
def clip_scores(
    model,
    tokenizer,
    transform: Callable[[Image.Image], torch.Tensor],
    images: Sequence[Image.Image],
    captions: Sequence[str],
    batch_size: int = 64,
    prefix: str = "",
) -> np.ndarray:
    """
    CLIP score of each image with its own caption.

    Args:
        model (`CLIPModel`):
            Any image-text model with `get_image_features` and `get_text_features`; used where it is, in its own mode.
        tokenizer (`PreTrainedTokenizerBase`):
            The model's own. Captions longer than the text encoder takes are cut off.
        transform (`Callable[[PIL.Image.Image], torch.Tensor]`):
            Such as [`EvalTransform`].
        images (`Sequence[PIL.Image.Image]` of length `N`):
            RGB images; read batch by batch, so a lazy sequence does.
        captions (`Sequence[str]` of length `N`):
            One for each.
        batch_size (`int`, *optional*, defaults to 64):
            Pairs for each forward pass.
        prefix (`str`, *optional*, defaults to `""`):
            Put before each caption; `"A photo depicts "` in the paper's experiments.

    Returns:
        `np.ndarray` of shape `(N,)`, float64: In [0, 2.5].

    Raises:
        ValueError: there are more or fewer captions than images.
    """
    if len(images) != len(captions):
        raise ValueError(f"`captions` has {len(captions)} entries and `images` has {len(images)}")
    device = next(model.parameters()).device
    length = model.config.text_config.max_position_embeddings
    found = [np.empty(0)]
    for first in range(0, len(captions), batch_size):
        rows = range(first, min(first + batch_size, len(captions)))
        pixel_values = torch.stack([transform(images[row]) for row in rows]).to(device)  # (B, 3, H, W)
        texts = tokenizer(
            [prefix + captions[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=length,
            return_tensors="pt",
        ).to(device)
        image_embeds = _features(model.get_image_features(pixel_values=pixel_values))  # (B, D)
        text_embeds = _features(
            model.get_text_features(input_ids=texts.input_ids, attention_mask=texts.attention_mask)
        )  # (B, D)
        found.append(WEIGHT * (image_embeds * text_embeds).sum(dim=-1).clamp(min=0).cpu().double().numpy())  # (B,)
    return np.concatenate(found)


def _features(output: Any) -> torch.Tensor:
    return F.normalize(output.pooler_output.float(), dim=-1)


class ImageFiles(Sequence):
    """Images read when they are asked for, `archive.zip!member` from inside the archive."""

    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        path = self.paths[index]
        archive, mark, member = path.partition(".zip!")
        try:
            return load_rgb(member_source(f"{archive}.zip", member) if mark else path)
        except UnreadableImage as error:
            raise ValueError(f"{path}: {error}") from error


def read_captions(path: str | Path) -> dict[str, str]:
    """
    Captions by the images' full paths.

    Args:
        path (`str` or `Path`):
            CSV with the columns `path` and `caption`, such as a manifest, or a folder with `manifest.csv`; paths are
            relative to its folder, `archive.zip!member` inside a zip. Rows without a caption are left out.

    Raises:
        OSError: there is no such file.
        ValueError: a column is missing, or a path has two captions.
    """
    file = Path(path, "manifest.csv") if Path(path).is_dir() else Path(path)
    folder = os.path.dirname(os.path.abspath(file))
    captions: dict[str, str] = {}
    with open(file, encoding="utf-8-sig", newline="") as content:
        reader = csv.DictReader(content)
        missing = [name for name in ("path", "caption") if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{file} has no column `{missing[0]}`: name a CSV with path and caption")
        for row in reader:
            caption = (row["caption"] or "").strip()
            if caption and captions.setdefault(os.path.join(folder, row["path"].strip()), caption) != caption:
                raise ValueError(f"{file} gives {row['path']} two captions: correct one of the rows")
    return captions


class ScoredImage(NamedTuple):
    """
    One generated image.

    Args:
        generator (`str`): What made it.
        clip_score (`float`): From [`clip_scores`].
        detected (`bool`): Whether a detector called it fake.
    """

    generator: str
    clip_score: float
    detected: bool


def correlate(images: Sequence[ScoredImage]) -> dict[str, Any]:
    """
    Mean CLIP score and detection accuracy of each generator, and how they go together over the generators.

    Returns:
        `dict`: `generators` (`n`, `clip_score`, `cosine`, `accuracy` of each; fractions), `pearson` and `spearman`:
        `value` and two-sided `p_value` of the means' correlation over generators, or `None` with fewer than three
        generators or equal means. Within generators nothing is claimed.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("no generated image has a caption and a detector's score: check the paths of both files")
    generators: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(image.generator for image in images):
        own = [image for image in images if image.generator == name]
        score = float(np.mean([image.clip_score for image in own]))
        accuracy = float(np.mean([image.detected for image in own]))
        generators[name] = {"n": len(own), "clip_score": score, "cosine": score / WEIGHT, "accuracy": accuracy}
    columns = [[row[key] for row in generators.values()] for key in ("clip_score", "accuracy")]
    results: dict[str, Any] = {"generators": generators, "pearson": None, "spearman": None}
    if len(generators) > 2 and all(len(set(column)) > 1 for column in columns):
        from scipy.stats import pearsonr, spearmanr

        for key, function in (("pearson", pearsonr), ("spearman", spearmanr)):
            found = function(*columns)
            results[key] = {"value": float(found.statistic), "p_value": float(found.pvalue)}
    return results


def to_markdown(results: Mapping[str, Any], detector: str) -> str:
    """The table of [`correlate`], generators from the lowest CLIP score up."""
    lines = ["| generator | images | CLIP score | cosine | detected |", "| --- | --: | --: | --: | --: |"]
    for name, row in sorted(results["generators"].items(), key=lambda item: item[1]["clip_score"]):
        shown = name.replace("|", "\\|")
        lines.append(
            f"| {shown} | {row['n']} | {row['clip_score']:.4f} | {row['cosine']:.4f} | {100 * row['accuracy']:.1f} |"
        )
    lines += ["", f"Detected: share of its images that {detector} calls fake, percent."]
    for key in ("pearson", "spearman"):
        found = results[key]
        text = "undefined" if found is None else f"{found['value']:+.2f} (p = {found['p_value']:.2g})"
        lines.append(f"{key.capitalize()} correlation over {len(results['generators'])} generators: {text}.")
    return "\n".join(lines) + "\n"


__all__ = ["ImageFiles", "ScoredImage", "clip_scores", "correlate", "read_captions", "to_markdown"]
