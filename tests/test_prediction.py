import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_model
from PIL import Image

from mirage_hf.image_processing import EvalTransform, build_image_processor
from mirage_hf.prediction import predict_scores

SIZE = 16
TRANSFORM = EvalTransform(build_image_processor(SIZE, image_mean=(0, 0, 0), image_std=(1, 1, 1)))


class Brightness(torch.nn.Module):
    """P(fake) is a known function of the image: sigmoid of its mean level, centred."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(8.0))
        self.batches = []

    def forward(self, pixel_values):
        self.batches.append((len(pixel_values), self.training))
        level = self.scale * (pixel_values.mean(dim=(1, 2, 3)) - 0.5)
        return SimpleNamespace(logits=torch.stack([-level / 2, level / 2], dim=1))


class Rows:
    """A map-style dataset of flat images, some of them damaged."""

    def __init__(self, levels, damaged=(), raising=()):
        self.levels, self.damaged, self.raising, self.read = levels, damaged, raising, []

    def __len__(self):
        return len(self.levels)

    def __getitem__(self, index):
        self.read.append(index)
        if index in self.raising:
            raise OSError("cannot read the archive")
        buffer = io.BytesIO()
        Image.new("RGB", (20, 20), (self.levels[index],) * 3).save(buffer, "PNG")
        data = b"damaged" if index in self.damaged else buffer.getvalue()
        return {"image": {"bytes": data}, "label": index % 2, "generator": f"g{index % 3}", "path": f"{index}.png"}


def wanted_scores(levels):
    return [1 / (1 + np.exp(-8 * (level / 255 - 0.5))) for level in levels]


LEVELS = [0, 255, 10, 200, 128, 90, 33, 254, 60, 140, 7]


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_row_is_scored_once_and_in_order(batch_size, num_workers):
    model, rows = Brightness(), Rows(LEVELS)
    result = predict_scores(model, rows, TRANSFORM, batch_size=batch_size, num_workers=num_workers)
    scores, labels, generators, paths, skipped, *embeds, margins = result
    assert embeds == [None, None]
    assert margins.dtype == np.float64 and scores == pytest.approx(1 / (1 + np.exp(-margins)), abs=1e-7)
    assert scores == pytest.approx(wanted_scores(LEVELS), abs=1e-5)
    assert scores.dtype == np.float64 and labels.dtype == np.int64
    assert labels.tolist() == [index % 2 for index in range(11)]
    assert generators == [f"g{index % 3}" for index in range(11)]
    assert paths == [f"{index}.png" for index in range(11)] and skipped == []
    assert sum(count for count, _ in model.batches) == 11  # no padding with repeated rows
    assert num_workers or rows.read == list(range(11))


def test_margins_tell_apart_what_a_softmax_in_float32_does_not():
    model = Brightness()
    model.scale.data *= 100
    result = predict_scores(model, Rows([200, 220, 240]), TRANSFORM)
    assert result.scores.tolist() == [1, 1, 1]
    assert result.margins == pytest.approx([800 * (level / 255 - 0.5) for level in (200, 220, 240)], rel=1e-5)


def test_workers_started_by_spawn(monkeypatch):
    import mirage_hf.prediction as prediction

    loader = prediction.DataLoader
    monkeypatch.setattr(prediction, "DataLoader", lambda *a, **k: loader(*a, multiprocessing_context="spawn", **k))
    scores = predict_scores(Brightness(), Rows(LEVELS), TRANSFORM, batch_size=4, num_workers=1).scores
    assert scores == pytest.approx(wanted_scores(LEVELS), abs=1e-5)


def test_damaged_rows_are_skipped_and_listed():
    rows = Rows(LEVELS, damaged=(0, 5, 6, 7), raising=(10,))
    result = predict_scores(Brightness(), rows, TRANSFORM, batch_size=3)
    kept = [1, 2, 3, 4, 8, 9]
    assert result.scores == pytest.approx([wanted_scores(LEVELS)[index] for index in kept], abs=1e-5)
    assert result.paths == [f"{index}.png" for index in kept]
    assert [(item["index"], item["path"]) for item in result.skipped] == [
        (0, "0.png"),
        (5, "5.png"),
        (6, "6.png"),
        (7, "7.png"),
        (10, None),
    ]
    assert "not an image" in result.skipped[0]["error"] and "archive" in result.skipped[4]["error"]


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no row of `dataset` could be scored; the first error: OSError"):
        predict_scores(Brightness(), Rows([1, 2], raising=(0, 1)), TRANSFORM)
    with pytest.raises(ValueError, match="it is empty"):
        predict_scores(Brightness(), Rows([]), TRANSFORM)


def test_an_error_of_the_transform_is_not_hidden():
    def broken(image):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        predict_scores(Brightness(), Rows(LEVELS), broken)


def test_bad_logits_are_errors():
    class Broken(Brightness):
        def __init__(self, logits):
            super().__init__()
            self.logits = logits

        def forward(self, pixel_values):
            return SimpleNamespace(logits=self.logits.expand(len(pixel_values), -1))

    with pytest.raises(ValueError, match="`logits` must have shape \\(2, 2\\), got \\(2, 3\\)"):
        predict_scores(Broken(torch.zeros(1, 3)), Rows([1, 2]), TRANSFORM)
    with pytest.raises(ValueError, match="not finite for 0.png"):
        predict_scores(Broken(torch.tensor([[float("nan"), 0.0]])), Rows([1, 2]), TRANSFORM)


@pytest.mark.parametrize("training", [True, False])
def test_model_mode_gradients_and_random_state_are_untouched(training):
    model = Brightness().train(training)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    predict_scores(model, Rows(LEVELS), TRANSFORM, num_workers=1)
    assert model.training is training and model.scale.grad is None
    assert not any(was_training for _, was_training in model.batches)
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_dtype_reaches_the_model():
    class Linear(Brightness):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3 * SIZE * SIZE, 2)

        def forward(self, pixel_values):
            logits = self.head(pixel_values.flatten(1))
            self.batches.append(logits.dtype)
            return SimpleNamespace(logits=logits)

    model = Linear()
    exact = predict_scores(model, Rows(LEVELS), TRANSFORM, batch_size=4).scores
    half = predict_scores(model, Rows(LEVELS), TRANSFORM, batch_size=4, dtype=torch.bfloat16).scores
    assert model.batches == [torch.float32] * 3 + [torch.bfloat16] * 3
    assert np.abs(exact - half).max() < 0.02


def test_no_bar_without_a_terminal(capsys):
    predict_scores(Brightness(), Rows(LEVELS), TRANSFORM)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_rows_of_pil_images_without_generator_or_path():
    rows = [{"image": Image.new("L", (8, 9), level), "label": 0} for level in LEVELS]
    result = predict_scores(Brightness(), rows, TRANSFORM)
    assert result.scores == pytest.approx(wanted_scores(LEVELS), abs=1e-5)
    assert result.generators == [""] * 11 and result.paths == [None] * 11


def test_embeddings_give_the_scores_again(images):
    model = make_model()
    rows = [{"image": image, "label": 0} for image in images]
    transform = EvalTransform(build_image_processor(32))
    result = predict_scores(model, rows, transform, batch_size=4, return_embeds=True)
    assert result.image_embeds.shape == (len(images), 24) and result.text_embeds.shape == (2, 24)
    scale = model.clip.logit_scale.exp().item()
    logits = scale * result.image_embeds @ result.text_embeds.T  # (N, 2)
    assert result.scores == pytest.approx(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), abs=1e-5)
    assert predict_scores(model, rows, transform).image_embeds is None
