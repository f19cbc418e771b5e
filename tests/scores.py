"""Scores by hand, for `pipeline` to agree with."""

import pytest
import torch

from mirage_hf.image_processing import build_image_processor


@torch.inference_mode()
def expected_scores(model, images) -> list[dict[str, float]]:
    """Preprocessing and softmax by hand."""
    processor = build_image_processor(image_size=32)
    scores = []
    for image in images:
        pixel_values = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
        real, fake = model(pixel_values=pixel_values).logits[0].softmax(dim=-1).tolist()
        scores.append({"real": real, "fake": fake})
    return scores


def assert_same_scores(results, expected) -> None:
    assert len(results) == len(expected)
    for result, scores in zip(results, expected, strict=True):
        assert {entry["label"]: entry["score"] for entry in result} == pytest.approx(scores, abs=1e-6)
        assert [entry["label"] for entry in result] == sorted(scores, key=scores.get, reverse=True)
