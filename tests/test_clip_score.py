"""CLIP score: against transformers' own cosines image by image, and its table against a sum by hand."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_clip_config
from PIL import Image
from scipy import stats
from test_pretrained_mirage import make_tokenizer
from transformers import CLIPModel
from trees import image_bytes, write_zip

from mirage_hf.clip_score import ImageFiles, ScoredImage, clip_scores, correlate, read_captions, to_markdown
from mirage_hf.image_processing import EvalTransform, build_image_processor

ROOT = Path(__file__).parent.parent
CAPTIONS = ["a photo of a real", "a photo of a fake", "real photo", "fake a a a a a a a a a a a a a a a a a", "a"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP with its tokenizer. What all images have in common is projected to 0, so that cosines have both signs."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(3)
    model = CLIPModel(make_clip_config()).eval()
    pixel_values = build_image_processor(32)(random_images(8), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        common = model.vision_model(pixel_values).pooler_output.mean(dim=0)
        weight = model.visual_projection.weight
        weight -= torch.outer(weight @ common, common) / common.square().sum()
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def random_images(count):
    random = np.random.default_rng(5)
    return [Image.fromarray(random.integers(0, 256, (40, 33 + i, 3), dtype=np.uint8)) for i in range(count)]


def naive_score(model, tokenizer, image, caption):
    """One pair alone, through the whole model; the caption cut by hand."""
    ids = tokenizer(caption).input_ids
    if len(ids) > 16:
        ids = [*ids[:15], ids[-1]]
    pixel_values = build_image_processor(32)(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids]), pixel_values=pixel_values)
    return 2.5 * max(torch.cosine_similarity(output.image_embeds, output.text_embeds).item(), 0.0)


def test_scores_are_those_of_each_pair_alone(clip):
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), make_tokenizer()
    images = random_images(5)
    transform = EvalTransform(build_image_processor(32))
    expected = [naive_score(model, tokenizer, *pair) for pair in zip(images, CAPTIONS, strict=True)]
    assert min(expected) == 0 < max(expected)  # the clamp matters
    for batch_size in (2, 64):  # longer captions in the batch change nothing
        found = clip_scores(model, tokenizer, transform, images, CAPTIONS, batch_size)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    prefixed = clip_scores(model, tokenizer, transform, images, CAPTIONS, prefix="a photo of ")
    expected = [naive_score(model, tokenizer, i, f"a photo of {c}") for i, c in zip(images, CAPTIONS, strict=True)]
    np.testing.assert_allclose(prefixed, expected, atol=1e-5)
    swapped = clip_scores(model, tokenizer, transform, images, CAPTIONS[::-1])
    assert not np.allclose(swapped, found, atol=1e-3)
    assert clip_scores(model, tokenizer, transform, [], []).shape == (0,)
    with pytest.raises(ValueError, match="`captions` has 5 entries and `images` has 4"):
        clip_scores(model, tokenizer, transform, images[:4], CAPTIONS)


def test_correlation_over_generators():
    """The published table's three generators: a rank correlation of -1 and a Pearson one by hand."""
    published = {"Infinity": (0.2624, 975), "FLUX.1-dev": (0.2647, 939), "SD 3.5": (0.2718, 935)}
    images = [
        ScoredImage(name, 2.5 * cosine, number < found)
        for name, (cosine, found) in published.items()
        for number in range(1000)
    ]
    results = correlate(images)
    assert results["generators"]["SD 3.5"] == {
        "n": 1000,
        "clip_score": pytest.approx(0.6795),
        "cosine": pytest.approx(0.2718),
        "accuracy": 0.935,
    }
    x, y = np.array([0.2624, 0.2647, 0.2718]), np.array([0.975, 0.939, 0.935])
    gaps = (x - x.mean(), y - y.mean())
    expected = (gaps[0] * gaps[1]).sum() / np.sqrt((gaps[0] ** 2).sum() * (gaps[1] ** 2).sum())
    assert results["pearson"]["value"] == pytest.approx(expected) and results["spearman"]["value"] == -1
    assert results["pearson"]["p_value"] == pytest.approx(stats.linregress(x, y).pvalue)
    table = to_markdown(results, "MiraGe").splitlines()
    assert table[2] == "| Infinity | 1000 | 0.6560 | 0.2624 | 97.5 |"
    assert table[-1].startswith("Spearman correlation over 3 generators: -1.00")
    assert correlate([image for image in images if image.generator != "SD 3.5"])["pearson"] is None
    assert correlate([ScoredImage(name, 1.0, True) for name in "abc"])["spearman"] is None
    with pytest.raises(ValueError, match="no generated image"):
        correlate([])


def test_captions(tmp_path):
    (tmp_path / "c.csv").write_text('path,caption\nx/1.png, a cat \n2.png,\nz.zip!3.png,"a dog, a cat"\n')
    found = {"x/1.png": "a cat", "z.zip!3.png": "a dog, a cat"}
    assert read_captions(tmp_path / "c.csv") == {str(tmp_path / name): text for name, text in found.items()}
    (tmp_path / "manifest.csv").write_text("path,label\n1.png,fake\n")
    with pytest.raises(ValueError, match="manifest.csv has no column `caption`"):
        read_captions(tmp_path)
    (tmp_path / "c.csv").write_text("path,caption\n1.png,a\n1.png,b\n")
    with pytest.raises(ValueError, match="gives 1.png two captions"):
        read_captions(tmp_path / "c.csv")


def test_images_of_folders_and_archives(tmp_path):
    (tmp_path / "1.png").write_bytes(image_bytes(colour=(1, 2, 3)))
    write_zip(tmp_path / "z.zip", ["in/2.png"])
    (tmp_path / "3.png").write_bytes(b"broken")
    files = ImageFiles([str(tmp_path / name) for name in ("1.png", "z.zip!in/2.png", "3.png")])
    assert len(files) == 3 and files[0].getpixel((0, 0)) == (1, 2, 3) and files[1].getpixel((0, 0)) == (200, 30, 30)
    with pytest.raises(ValueError, match="3.png: not an image"):
        files[2]


def load_script():
    spec = importlib.util.spec_from_file_location("clip_score_script", ROOT / "training" / "clip_score.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_script(clip, tmp_path, capsys):
    """Real images, and fakes without a caption, stay out."""
    images, rows, captions = random_images(8), [], []
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
        label, generator = (0, "a") if i == 7 else (1, "abc"[i % 3])
        rows.append([str(tmp_path / f"{i}.png"), generator, label, 0.1 * i])
        if i != 6:
            captions.append([f"{i}.png", CAPTIONS[i % 5]])
    for name, header, content in (
        ("scores.csv", ["path", "generator", "label", "p_fake"], rows),
        ("captions.csv", ["path", "caption"], captions),
    ):
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file).writerows([header, *content])
    flags = ["--clip", str(clip), "--device", "cpu", "--output_dir", str(tmp_path / "out"), "--threshold", "0.25"]
    flags += ["--scores", str(tmp_path / "scores.csv"), "--captions"]
    load_script().main([*flags, str(tmp_path / "captions.csv")])
    out = capsys.readouterr().out
    assert out == (tmp_path / "out" / "clip_score.md").read_text() and "1 of 7 generated images" in out
    results = json.loads((tmp_path / "out" / "clip_score.json").read_text())
    assert {name: row["n"] for name, row in results["generators"].items()} == {"a": 2, "b": 2, "c": 2}
    assert [row["accuracy"] for row in results["generators"].values()] == [0.5, 0.5, 0.5]
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), make_tokenizer()
    expected = [naive_score(model, tokenizer, images[i], CAPTIONS[i % 5]) for i in (1, 4)]
    assert results["generators"]["b"]["clip_score"] == pytest.approx(np.mean(expected), abs=1e-5)
    (tmp_path / "captions.csv").write_text("path,caption\nother.png,a\n")
    with pytest.raises(SystemExit, match="^clip_score.py: none of the 7 generated images in .* has a caption"):
        load_script().main([*flags, str(tmp_path / "captions.csv")])
