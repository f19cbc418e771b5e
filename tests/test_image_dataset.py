"""Rows to model inputs: augmentations that depend on seed, epoch and row alone, and damaged files that do no harm."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from mirage_hf.image_dataset import DetectionImages, SetEpoch


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def noisy(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image)).permute(2, 0, 1).float() + torch.randn(3, 4, 4)


def plain(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def rows(damaged=()):
    return [
        {"image": {"bytes": b"broken" if i in damaged else png(i), "path": None}, "label": i % 2} for i in range(8)
    ]


def draw(images, workers=0):
    loader = DataLoader(images, batch_size=4, num_workers=workers)
    return torch.cat([batch["pixel_values"] for batch in loader])


def test_draws_depend_on_seed_epoch_and_row_alone():
    images = DetectionImages(rows(), noisy, seed=1)
    first = draw(images)
    torch.manual_seed(99)
    assert torch.equal(draw(images), first)
    assert torch.equal(draw(images, workers=2), first)
    assert torch.equal(images[5]["pixel_values"], first[5])
    assert not torch.equal(draw(DetectionImages(rows(), noisy, seed=2)), first)
    images.set_epoch(1)
    second = draw(images)
    assert (second != first).all()
    noise = first - torch.arange(8.0)[:, None, None, None]
    assert len({row.sum().item() for row in noise}) == 8  # every row draws its own


def test_the_global_generator_is_left_as_it_was():
    images = DetectionImages(rows(), noisy)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    images[0]
    assert torch.equal(torch.rand(2), expected)
    noisy(Image.new("RGB", (4, 4)))  # control: outside the data set the transform does advance it
    torch.manual_seed(3)
    noisy(Image.new("RGB", (4, 4)))
    assert not torch.equal(torch.rand(2), expected)


def test_a_damaged_image_is_replaced_by_one_of_its_class(caplog):
    images = DetectionImages(rows(damaged=(2, 3, 5)), plain)
    with caplog.at_level("WARNING"):
        batch = [images[i] for i in range(8)]
    assert [int(item["pixel_values"][0, 0, 0]) for item in batch] == [0, 1, 4, 7, 4, 7, 6, 7]
    assert [item["labels"] for item in batch] == [0, 1] * 4
    assert "not an image" in caplog.text
    with pytest.raises(ValueError, match="no image of class 1"):
        DetectionImages(rows(damaged=(1, 3, 5, 7)), plain)[1]


def test_decodes_a_hugging_face_data_set_itself():
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    dataset = datasets.Dataset.from_list(rows(damaged=(0,)), features=features)
    dataset.set_transform(lambda batch: pytest.fail("the data set's own transform must not run"))
    images = DetectionImages(dataset, plain)
    assert int(images[0]["pixel_values"][0, 0, 0]) == 2 and len(images) == 8


def test_set_epoch_follows_the_trainer(tmp_path):
    images = DetectionImages(rows(), noisy)
    callback = SetEpoch(images)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    for epoch, expected in ((None, 0), (0, 0), (1.0, 1), (2.5, 2)):
        callback.on_epoch_begin(args, type("State", (), {"epoch": epoch}), None)
        assert images.epoch == expected
    callback.on_train_begin(args, None, None)
    args.dataloader_num_workers, args.dataloader_persistent_workers = 1, True
    with pytest.raises(ValueError, match="persistent_workers"):
        callback.on_train_begin(args, None, None)
