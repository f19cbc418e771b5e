"""`pipeline` scores images as the model does, under the model's names of the classes."""

import pytest
from conftest import make_model
from saved import assert_frozen
from scores import assert_same_scores, expected_scores
from transformers import AutoConfig, pipeline

from mirage_hf.image_processing import build_image_processor


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_pipeline_equals_manual_scores(kind, batch_size, folders, models, images):
    classify = pipeline("image-classification", model=folders[kind])
    assert_frozen(classify.model)
    results = list(classify(images, batch_size=batch_size))
    expected = expected_scores(models[kind], images)
    assert max(scores["fake"] for scores in expected) - min(scores["fake"] for scores in expected) > 1e-3
    assert_same_scores(results, expected)


def test_id2label_survives(tmp_path, images):
    model = make_model(id2label={0: "camera", 1: "generated"})
    model.save_pretrained(tmp_path)
    build_image_processor(image_size=32).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == {0: "camera", 1: "generated"}
    assert config.label2id == {"camera": 0, "generated": 1}
    scores = pipeline("image-classification", model=str(tmp_path))(images[0])
    assert {score["label"] for score in scores} == {"camera", "generated"}
