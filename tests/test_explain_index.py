"""Nearest neighbours: exact search against a loop, files without pickle, and indexes of other detectors refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from mirage_hf import Detector
from mirage_hf.data import load_detection_dataset
from mirage_hf.explain import explain
from mirage_hf.explain_index import Index, build_index, load_index, nearest, save_index


@pytest.fixture(scope="module")
def detector(folders):
    return Detector.from_pretrained(folders["full"], device="cpu", batch_size=5)


@pytest.fixture
def tree(tmp_path):
    """Two generators with 6 real and 6 fake images each, large enough for a verdict."""
    random = np.random.default_rng(0)
    for name in [f"{g}/{c}/{n}.png" for g in ("a", "b") for c in ("real", "fake") for n in range(6)]:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(tmp_path / "tree" / name)
    return tmp_path / "tree"


def random_index(count: int = 40, width: int = 6) -> Index:
    embeds = torch.nn.functional.normalize(
        torch.randn(count, width, generator=torch.Generator().manual_seed(0)), dim=1
    )
    labels = torch.arange(count, dtype=torch.uint8) % 2
    names = [f"{number}.png" for number in range(count)]
    return Index(embeds.half(), labels, [f"g{number % 3}" for number in range(count)], names, "model", "1")


def test_search_against_a_loop():
    index, queries = random_index(), torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    found = nearest(index, queries, k=4)
    for query, neighbours in zip(queries.double().numpy(), found, strict=True):
        cosines = []
        for embed in index.embeds.double().numpy():
            cosines.append(query @ embed / np.linalg.norm(query) / np.linalg.norm(embed))
        best = sorted(range(len(cosines)), key=lambda number: -cosines[number])[:4]
        assert [one.path for one in neighbours] == [f"{number}.png" for number in best]
        assert [one.similarity for one in neighbours] == pytest.approx([cosines[number] for number in best], abs=1e-6)
        assert [one.label for one in neighbours] == [("real", "fake")[number % 2] for number in best]
        assert [one.generator for one in neighbours] == [f"g{number % 3}" for number in best]
    assert found[0] != found[1]


def test_more_neighbours_than_images_and_none():
    index = random_index(count=3)
    assert len(nearest(index, torch.randn(1, 6), k=10)[0]) == 3
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        nearest(index, torch.randn(1, 6), k=0)


def test_an_image_is_its_own_nearest_neighbour(detector, tree, tmp_path, cache_of_its_own):
    dataset = load_detection_dataset(tree)
    index, skipped = build_index(detector, dataset)
    assert skipped == [] and len(index.paths) == len(set(dataset["path"])) == 24
    save_index(index, tmp_path / "deep" / "index.safetensors")
    loaded = load_index(tmp_path / "deep" / "index.safetensors", detector)
    assert torch.equal(loaded.embeds, index.embeds) and loaded.paths == index.paths
    for row in list(dataset.select_columns(["path", "label", "generator"]))[::5]:
        first, second = nearest(loaded, explain(detector, row["path"]).image_embeds[None], k=2)[0]
        assert first.to_dict() == {**row, "label": ("real", "fake")[row["label"]], "similarity": first.similarity}
        assert first.similarity == pytest.approx(1, abs=1e-5) and second.similarity < first.similarity
    numbers = [index.paths.index(path) for path in dataset["path"]]
    assert index.labels[numbers].tolist() == dataset["label"]
    assert [index.generators[number] for number in numbers] == dataset["generator"]


def test_damaged_images_are_told_of(detector, tree, cache_of_its_own):
    (tree / "a/fake/3.png").write_bytes(b"no image")
    index, skipped = build_index(detector, load_detection_dataset(tree, check_images=False))
    assert len(index.paths) == 23 and [path.endswith("a/fake/3.png") for path, _ in skipped] == [True]
    assert all(reason for _, reason in skipped)


def test_shared_reals_are_embedded_once(detector, tree, cache_of_its_own):
    dataset = load_detection_dataset(tree)
    doubled = dataset.select([*range(len(dataset)), 0, 1, 2])
    assert len(build_index(detector, doubled)[0].paths) == 24


def test_files_hold_tensors_and_text_alone(tmp_path):
    index = random_index()
    index.paths[0] = "zebra é \udcff.png"
    path = tmp_path / "index.safetensors"
    save_index(index, path)
    assert list(tmp_path.iterdir()) == [path]
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("embeds").dtype == torch.float16
        assert json.loads(file.get_tensor("texts").numpy().tobytes())["paths"][1] == "1.png"
    assert load_index(path).paths == index.paths


def test_what_is_no_index_of_this_detector_is_refused(detector, tmp_path):
    path = tmp_path / "index.safetensors"
    save_index(random_index(), path)
    assert load_index(path).revision == "1"
    with pytest.raises(ValueError, match=r"was made with another detector, model \(1\)"):
        load_index(path, detector)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no index of neighbours"):
        load_index(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors at all")
    with pytest.raises(ValueError, match="no safetensors file"):
        load_index(tmp_path / "text.safetensors")
    with pytest.raises(OSError):
        load_index(tmp_path / "nothing.safetensors")
