"""Figures in the pages of docs/ are those of stored results, or of the paper's tables."""

import csv
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PUBLISHED = ROOT / "mirage_hf" / "published_tables"


def page(name: str) -> str:
    """The text of a page, in one line."""
    return " ".join((ROOT / "docs" / "pages" / f"{name}.md").read_text(encoding="utf-8").split())


def rows(name: str) -> list[dict[str, str]]:
    """A table of the paper."""
    with open(PUBLISHED / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def result(name: str) -> dict:
    """A stored result."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_published_times_are_the_papers():
    lines = (ROOT / "docs" / "pages" / "reproduce.md").read_text(encoding="utf-8").splitlines()
    cells = [re.fullmatch(r"\| ([\d,]+)(?: \(the recipe\))? \| (\d+) \|", line) for line in lines]
    shown = {int(cell[1].replace(",", "")): cell[2] for cell in cells if cell is not None}
    assert shown == {int(row["images"]): row["minutes_l40"] for row in rows("train_size_ufd")}
    (mirage,) = (row for row in rows("cost_ufd_200k_l40") if row["method"] == "MiraGe")
    assert f"{mirage['latency_ms_per_image']} ms" in page("reproduce")


def test_published_means_are_the_papers():
    (genimage,) = (row for row in rows("genimage_sdv14") if row["method"] == "MiraGe")
    (headline,) = (row for row in rows("train_size_ufd") if row["images"] == "20000")
    assert f"the paper's {genimage['mean']} (Table 1)" in page("reproduce")
    assert f"accuracy {headline['accuracy']}, AP {headline['map']} (Table 6)" in page("reproduce")


def test_figures_of_the_cpu_are_the_stored_ones():
    figures, text = result("full_size_cpu.json"), page("reproduce")
    fp32, bf16 = (run["seconds_per_step"] for run in figures["training"])
    assert f"takes {fp32:.1f} s in float32 and {bf16:.1f} s in bfloat16" in text
    rates = [run["images_per_second"] for run in figures["inference"] if run["baked"]]
    assert f"runs at {rates[0]:.1f} and {rates[1]:.1f} images/s" in text
    assert f"the adapter is {figures['adapter']['mib']:.1f} MiB" in text
    assert f"peaks at {figures['peak_rss_mib'] / 1024:.1f} GiB" in text


def test_figures_of_exports_are_the_stored_ones():
    found = result("speed/backends-cpu.json")["details"]["mirage-tiny"]
    scores, text = found["scores"], page("export")
    for name in ("onnx float32", "onnx int8"):
        number = f"{scores[name]['max_difference_p_fake']:.1e}".replace("e-0", "e-")
        assert f"within {number}" in text, name
    assert f"AUROC {scores['onnx int8']['auroc']:.4f} for {scores['torch float32']['auroc']:.4f}" in text
    whole, small = (found["bytes"][kind] / 1e6 for kind in ("float32", "int8"))
    assert f"a file of {small:.1f} MB for {whole:.1f}" in text


def test_what_auto_chose_keeps_within_the_stated_difference():
    """On the photographs, though it measured on synthetic images."""
    details = result("speed/backends-cpu.json")["details"]
    for detector in ("mirage-tiny", "ViT-B/32, random weights"):
        choices, scores = details[detector]["auto"], details[detector]["scores"]
        assert choices.keys() == {"0.001", "0.05"}
        for limit, choice in choices.items():
            assert scores[choice["way"]]["max_difference_p_fake"] <= float(limit)


def test_figures_of_the_deletion_test_are_the_stored_ones():
    table = (
        (RESULTS / "deletion_test.md").read_text(encoding="utf-8").split("## The shipped map, on the test split")[1]
    )
    line = next(line for line in table.splitlines() if line.startswith("| hottest |"))
    intact, hottest, random = (cell.split() for cell in line.split(" | ")[1:4])
    shown = re.search(r"falls from (\S+) to (\S+) in the first case and to (\S+) in the second", page("explain"))
    assert shown is not None
    stored = [float(text) for text in (intact[0], hottest[1], random[1])]
    assert [float(text) for text in shown.groups()] == pytest.approx(stored, abs=0.0051)


def test_figures_of_calibration_are_the_stored_ones():
    shifted = result("calibration.json")["synthetic"]["shifted_reals"]
    share, promised = shifted["reals_judged_fake"]["mean"], shifted["alpha"]
    assert f"{share:.0%} of them were called fake where {promised:.0%} was promised" in page("calibrate")


@pytest.mark.parametrize(
    ("name", "title"), [("mirage", "multimodal prompts"), ("probe", "linear probe (UnivFD)")], ids=["parts", "probe"]
)
def test_figures_of_the_evidence_are_the_stored_ones(name, title):
    table = (RESULTS / "minibench" / "table.md").read_text(encoding="utf-8").split("## Paired differences")[1]
    line = next(line for line in table.splitlines() if line.startswith(f"| {title} |"))
    low, high = re.findall(r"[\d.]+", line.split(" | ")[3])[1:]
    value = re.findall(r"[\d.]+", line.split(" | ")[3])[0]
    shown = (
        f"(−{value} points against prompts alone, −{low} to {high})"
        if name == "mirage"
        else f"is {value} points better"
    )
    assert shown in page("method")
    if name == "probe":
        assert f"({high} to {low})" in page("method") and f"{value} points better" in page("limits")
