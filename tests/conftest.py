"""Fixtures of the tests: tiny CLIP models made in process, nothing from the network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported; a test with a stub Hub turns it off
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel
from trees import write_tree

from mirage_hf import MiraGeConfig, MiraGeForImageDetection
from mirage_hf.image_processing import build_image_processor

# A shell that starts the tests in the background has Ctrl-C ignored, and processes that tests start inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("answers", "saved", "scores")  # helper modules with assertions

START, END, VOCAB_SIZE = 97, 98, 99
CLASS_INPUT_IDS = [[START, 1, 2, 3, 1, 4, END], [START, 1, 2, 3, 1, 5, END]]


def make_clip_config(text_layers: int = 3, vision_layers: int = 4, eos_token_id: int = END) -> CLIPConfig:
    """A CLIP of two unequal encoders: width 32 and 48, joint dimension 24, images of 32 pixels in 16 patches."""
    text = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": text_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "bos_token_id": START,
        "eos_token_id": eos_token_id,
        "pad_token_id": END,
        "projection_dim": 24,
    }
    vision = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": vision_layers,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 24,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)


def make_config(text_layers: int = 3, vision_layers: int = 4, eos_token_id: int = END, **kwargs) -> MiraGeConfig:
    """A `MiraGeConfig` on `make_clip_config`."""
    clip_config = make_clip_config(text_layers, vision_layers, eos_token_id)
    return MiraGeConfig(**{"clip_config": clip_config, "class_input_ids": CLASS_INPUT_IDS} | kwargs)


def make_model(seed: int = 0, **kwargs) -> MiraGeForImageDetection:
    """A detector with random weights, none of them at a neutral value: prompts, biases and norms all matter."""
    torch.manual_seed(seed)
    model = MiraGeForImageDetection(make_config(**kwargs)).eval()
    with torch.no_grad():
        for parameter in model.clip.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for parameter in model.prompt_learner.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory) -> str:
    """A CLIP checkpoint on disk, without a tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(make_clip_config()).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pixel_values() -> torch.Tensor:
    """Four random images, (4, 3, 32, 32)."""
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def models(clip_dir) -> dict[str, MiraGeForImageDetection]:
    """A detector of its own, and one on a CLIP checkpoint that adapter-sized saving refers to."""
    adapter = MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=CLASS_INPUT_IDS)
    generator = torch.Generator().manual_seed(5)
    for parameter in adapter.prompt_learner.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    return {"full": make_model(), "adapter": adapter.eval()}


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory) -> dict[str, str]:
    """Both `models` saved, each with its image processor."""
    folders = {}
    for kind, model in models.items():
        folders[kind] = str(tmp_path_factory.mktemp(kind))
        model.save_pretrained(folders[kind])
        build_image_processor(image_size=32).save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Images of several sizes and modes."""
    random = np.random.default_rng(2)
    sizes = [(40, 50), (64, 32), (32, 32), (33, 90), (50, 40), (100, 100), (31, 47), (60, 60), (45, 45)]
    images = [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    return [*images[:-1], images[-1].convert("L")]


@pytest.fixture
def pair(tmp_path) -> Path:
    """Two generators with 6 real and 6 fake images each."""
    return write_tree(tmp_path / "pair", [f"{g}/{c}/{{0..5}}.png" for g in ("a", "b") for c in ("real", "fake")])


@pytest.fixture
def cache_of_its_own(tmp_path, monkeypatch):
    """`load_dataset` writes to a cache; the one of the person who runs the tests stays as it is."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")
