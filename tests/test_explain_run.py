"""`mirage-hf explain`: a row and an overlay for each image, whatever the files hold."""

import json

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from mirage_hf import Detector
from mirage_hf.explain import explain
from mirage_hf.explain_run import ExplainArguments, delete_patches, explain_files
from mirage_hf_cli.explain import explain as command

app = typer.Typer()
app.command()(command)


@pytest.fixture
def files(tmp_path):
    """Two images of one name, and a file that is none."""
    random = np.random.default_rng(0)
    paths = [tmp_path / "in" / name for name in ("one/a.png", "two/a.jpg", "bad.png")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    paths[2].write_bytes(b"no image")
    return paths


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_rows_and_files(folders, files, tmp_path):
    detector = Detector.from_pretrained(folders["full"], device="cpu")
    rows = list(explain_files(detector, files, ExplainArguments(tmp_path / "out", deletion=True, c2pa=True)))
    for row, path in zip(rows, files, strict=True):
        scored = detector.score(path).to_dict()
        assert {key: row[key] for key in scored} == scored | {"p_fake": row["p_fake"]}
        assert row["p_fake"] == pytest.approx(scored["p_fake"], abs=1e-6)
    assert [row["status"] for row in rows] == ["ok", "ok", "unsupported"]
    assert rows[0]["overlay"] != rows[1]["overlay"] and rows[2]["overlay"] is rows[2]["deletion"] is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.2.evidence.png", "a.evidence.png"]
    assert all(row["c2pa"] is None and "neighbors" not in row for row in rows)
    for row, path in list(zip(rows, files, strict=True))[:2]:
        with Image.open(row["overlay"]) as saved, Image.open(path) as image:
            expected = explain(detector, image).overlay(image)
            np.testing.assert_array_equal(np.asarray(saved), np.asarray(expected))


def test_deletion_of_a_fifth(folders, files):
    detector = Detector.from_pretrained(folders["full"], device="cpu")
    explanation = explain(detector, files[0])
    found = delete_patches(detector, explanation)
    order = np.argsort(-explanation.patch_evidence.ravel(), kind="stable")
    pixel_values = explanation.pixel_values.clone()
    for place in order[:3]:  # a fifth of 16
        row, column = divmod(int(place), 4)
        square = (slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
        pixel_values[square] = explanation.pixel_values.mean(dim=(1, 2))[:, None, None]
    expected = detector.probability(float(detector.margins(pixel_values[None])[0]))
    assert found["p_fake_without_hottest"] == pytest.approx(expected, abs=1e-6)
    assert found == delete_patches(detector, explanation) and found["fraction"] == 0.2
    assert abs(found["p_fake_without_random"] - found["p_fake_without_hottest"]) > 1e-6


def test_command_with_everything(folders, files, tmp_path, cache_of_its_own):
    for label in ("real", "fake"):
        for number in range(3):
            path = tmp_path / "data" / "gan" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(files[number % 2]).save(path)
    index = tmp_path / "index.safetensors"
    arguments = ("--model", folders["full"], "--device", "cpu", "--output-dir", tmp_path / "out", "--index", index)
    found = invoke(*arguments, "--build-index", tmp_path / "data")
    assert found.exit_code == 0 and found.stdout == "", found.output
    assert "explain: 6 images in" in found.stderr
    found = invoke(*files, *arguments, "--neighbors", 2, "--deletion", "--c2pa", "--json", "--quiet")
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert found.exit_code == 3 and [row["status"] for row in rows] == ["ok", "ok", "unsupported"]
    for row in rows[:2]:
        assert len(row["neighbors"]) == 2 and row["neighbors"][0]["generator"] == "gan"
    assert rows[0]["neighbors"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    text = invoke(*files[:2], *arguments, "--neighbors", 1, "--deletion", "--c2pa")
    assert text.exit_code == 0
    lines = text.stdout.splitlines()
    assert lines[0].startswith(f"{files[0]}: p(fake) {rows[0]['p_fake']:.3f}, {rows[0]['label']}, verdict")
    assert lines[1].strip() == f"overlay: {rows[0]['overlay']}" and lines[4].strip() == "content credentials: none"
    assert lines[2].strip().startswith("without the hottest 20% of the patches: p(fake)") and "gan" in lines[3]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "name at least one image"),
        (("--build-index", "data"), 2, "needs --index"),
        (("{image}", "--index", "{nothing}"), 1, "explain: "),
        (("{image}", "--model", "{nothing}"), 1, "explain: "),
        (("{bad}",), 3, ""),
        (("{nothing}",), 3, ""),
    ],
)
def test_exit_codes(folders, files, tmp_path, arguments, code, message):
    names = {"image": files[0], "bad": files[2], "nothing": tmp_path / "nothing"}
    filled = [argument.format(**names) for argument in arguments]
    if "--model" not in filled:
        filled += ["--model", folders["full"]]
    found = invoke(*filled, "--output-dir", tmp_path / "out", "--quiet", "--device", "cpu")
    assert found.exit_code == code, found.output
    assert message in found.stderr
    if code == 1:
        assert len(found.stderr.strip().splitlines()) == 1
