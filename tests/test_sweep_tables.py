"""The table of a sweep, made of stored runs whose numbers were chosen here."""

import csv
import io
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import stats

from mirage_hf.benchmark_metrics import METRICS, set_metrics
from mirage_hf.prediction import Predictions
from mirage_hf.sweep_files import run_folder
from mirage_hf.sweep_grid import read_grid
from mirage_hf.sweep_scoring import describe_scores, write_scores
from mirage_hf.sweep_statistics import ScoredRun, bootstrap_settings, paired_interval, read_scores, student_interval
from mirage_hf.sweep_tables import build_results, write_tables

NAMES = ("a", "a", "a", "b", "b", "b", "b", "control")
LABELS = np.array([0, 1, 1, 0, 0, 1, 1, 0])
PATHS = ["real0", "a0", "a1", "real0", "real1", "b0", "b1", "c0"]


def make_predictions(seed) -> Predictions:
    scores = np.random.default_rng(seed).uniform(size=len(LABELS))
    scores[3] = scores[0]  # a shared image has one score
    return Predictions(scores, LABELS, list(NAMES), PATHS, [])


def store(grid, out, name, seed, draw, threshold=0.3, **changes):
    """A finished run with scores drawn for `draw`."""
    folder, predictions = run_folder(out, name, seed), make_predictions(draw)
    write_scores(folder / "scores" / "test.csv", predictions)
    run = {
        "recipe": grid.settings[name].arguments,
        "seed": seed,
        "parameters": 1234,
        "threshold": threshold,
        "sets": {"test": describe_scores(predictions, threshold)},
        "training": {
            "wall_seconds": 60.0 * (seed + 1),
            "cpu_seconds": 30.0,
            "images_per_second": 5.0,
            "peak_memory_mib": {"process": 100.0, "device": None},
        },
        "scoring": {"test": {"latency_ms_per_image": 2.5}},
        "environment": {"device": "cpu", "machine": "x"},
        "identity": {"test": {"test": {"checksum": "1"}}, "versions": {"torch": "2"}},
    }
    (folder / "run.json").write_text(json.dumps(run | changes))
    return predictions


def make_grid(tmp_path, **changes):
    content = {
        "title": "Some settings",
        "base": {"model_name_or_path": "m", "data": "d"},
        "seeds": [0, 1, 2],
        "settings": {"ours": {"title": "Ours | all"}, "less": {"arguments": {"memory_size": 0}}},
        "reference": "ours",
        "metrics": ["accuracy", "average_precision", "calibrated_accuracy"],
    }
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return read_grid(tmp_path / "g.yaml")


@pytest.fixture
def stored(tmp_path):
    grid = make_grid(tmp_path)
    found = {
        name: [store(grid, tmp_path, name, seed, 10 * place + seed) for seed in range(3)]
        for place, name in enumerate(grid.settings)
    }
    return grid, tmp_path, found


def plain_mean(predictions, key, threshold=0.3):
    """Mean over the two generators with both classes, row by row."""
    values = []
    for name in ("a", "b"):
        rows = [row for row, other in enumerate(NAMES) if other == name]
        values.append(set_metrics(predictions.scores[rows], LABELS[rows], 0.5, threshold)[key])
    return sum(values) / 2


def test_interval_is_students_t():
    values = [0.81, 0.84, 0.79, 0.9]
    cell = student_interval(values)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (cell["mean"], cell["low"], cell["high"]) == pytest.approx((np.mean(values), low, high))
    low, high = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (student_interval(values, 0.9)["low"], student_interval(values, 0.9)["high"]) == pytest.approx((low, high))
    assert student_interval([0.5]) == {"mean": 0.5, "low": None, "high": None, "values": [0.5]}
    assert student_interval([0.5, None]) is None and student_interval([]) is None


def test_differences_are_paired_by_seed():
    ours, others = {0: 0.5, 1: 0.7, 3: 0.9}, {3: 0.6, 1: 0.6, 2: 0.1}
    cell = paired_interval(ours, others)
    assert cell["seeds"] == [1, 3] and cell["values"] == pytest.approx([0.1, 0.3])
    # By hand: mean 0.2, standard deviation 0.1414, over √2 makes 0.1, t(0.975, 1) = 12.706.
    assert (cell["mean"], cell["high"] - cell["mean"]) == pytest.approx((0.2, 1.2706), abs=1e-4)
    assert paired_interval({0: 0.5}, {1: 0.5}) is None


def test_results_are_means_over_generators_then_seeds(stored):
    grid, out, found = stored
    results = build_results(grid, out)
    for key in ("accuracy", "real_accuracy", "average_precision", "calibrated_balanced_accuracy"):
        values = {name: [plain_mean(one, key) for one in runs] for name, runs in found.items()}
        for name, column in values.items():
            cell = results["settings"][name]["sets"]["test"]["mean"][key]
            assert cell["values"] == pytest.approx(column) and cell["mean"] == pytest.approx(np.mean(column))
        gaps = np.subtract(values["less"], values["ours"])
        cell = results["settings"]["less"]["differences"]["test"][key]
        low, high = stats.ttest_rel(values["less"], values["ours"]).confidence_interval(0.95)
        assert (cell["mean"], cell["low"], cell["high"]) == pytest.approx((gaps.mean(), low, high))
    control = results["settings"]["ours"]["sets"]["test"]["generators"]["control"]
    assert control["accuracy"] is None and control["real_accuracy"]["mean"] in (0, 1 / 3, 2 / 3, 1)
    assert results["sets"]["test"]["mean_over"] == ["a", "b"]
    assert results["sets"]["test"]["generators"]["b"] == {"n_real": 2, "n_fake": 2}
    assert results["settings"]["ours"]["differences"] == {} and results["missing"] == []
    assert results["settings"]["less"]["cost"]["training_minutes"]["values"] == [1, 2, 3]
    assert results["settings"]["less"]["cost"]["peak_device_mib"] is None


def test_files(stored):
    grid, out, found = stored
    text = write_tables(grid, out, out).read_text()
    results = json.loads((out / "results.json").read_text())
    assert results["schema_version"] == 1
    lines = text.splitlines()
    cell = results["settings"]["less"]["sets"]["test"]["mean"]["accuracy"]
    gap = results["settings"]["less"]["differences"]["test"]["accuracy"]
    half = cell["mean"] - cell["low"]
    start = f"| less | 3 | {100 * cell['mean']:.1f} ± {100 * half:.1f} | {100 * gap['mean']:+.1f} ± "
    head = "| setting | runs | accuracy | difference | AP | difference | accuracy, own thr. | difference |"
    assert lines[:4] == ["# Some settings", "", head, "| --- |" + " --: |" * 7]
    assert lines[4].startswith("| Ours \\| all | 3 |") and "| reference |" in lines[4]
    assert lines[5].startswith(start)
    assert "One class only, so outside the mean: control." in text
    assert "| setting | a | b | control | mean of 2 |" in text
    assert "1,234" in text and "| 2.0 |" in text and "GPU memory" not in text and "Published" not in text
    rows = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert len(rows) == 2 * 4 * len(METRICS)
    row = next(r for r in rows if (r["setting"], r["generator"], r["metric"]) == ("less", "mean", "accuracy"))
    assert [float(row[key]) for key in ("mean", "low", "high")] == [cell["mean"], cell["low"], cell["high"]]
    assert float(row["difference_high"]) == gap["high"]
    row = next(r for r in rows if (r["setting"], r["generator"], r["metric"]) == ("less", "control", "accuracy"))
    assert row["mean"] == row["difference"] == ""


def test_what_is_missing_is_said(tmp_path):
    grid = make_grid(tmp_path)
    with pytest.raises(ValueError, match="no run of g is finished in .* `train` first"):
        write_tables(grid, tmp_path, tmp_path)
    store(grid, tmp_path, "less", 1, 0)
    text = write_tables(grid, tmp_path, tmp_path).read_text()
    assert "Not finished: ours seed0, less seed0, ours seed1, ours seed2, less seed2." in text
    assert "| less | 1 |" in text and "difference" not in text


def test_stored_runs_must_fit(stored):
    grid, out, _ = stored
    changed = make_grid(out, settings={"ours": {}, "less": {"arguments": {"memory_size": 4}}})
    with pytest.raises(ValueError, match="less seed0 in .* was trained with another memory_size than the grid"):
        write_tables(changed, out, out)
    moved = make_grid(out, base={"model_name_or_path": "elsewhere/m", "data": "elsewhere/d"})
    write_tables(moved, out, out)
    store(grid, out, "less", 1, 0, identity={"test": {"test": {"checksum": "2"}}, "versions": {}})
    with pytest.raises(ValueError, match="different test sets"):
        write_tables(grid, out, out)


def test_other_machines_are_named(stored):
    grid, out, _ = stored
    store(grid, out, "less", 1, 0, environment={"device": "gpu"})
    assert "Runs come from 2 machines" in write_tables(grid, out, out).read_text()


def test_published_rows_stand_below_and_say_so(tmp_path):
    grid = make_grid(tmp_path, published="mapping")
    store(grid, tmp_path, "ours", 0, 0)
    above, marked, below = (
        write_tables(grid, tmp_path, tmp_path)
        .read_text()
        .partition("**Published (MiraGe, Table 12); other data, nothing of it was run here**")
    )
    assert marked and "| mapping | genimage_accuracy | chameleon_accuracy |" in below
    assert "| mlp | 92.8 | 68.5 |" in below and "92.8" not in above


def test_several_test_sets_have_tables_of_their_own(tmp_path):
    grid = make_grid(tmp_path, test={"one": {"data": "x"}, "two": {"data": "y"}})
    sets = {name: describe_scores(make_predictions(draw), None) for draw, name in enumerate(("one", "two"))}
    store(grid, tmp_path, "ours", 0, 0, sets=sets)
    text = write_tables(grid, tmp_path, tmp_path).read_text()
    assert text.index("## one") < text.index("## two")
    value = 100 * sets["two"]["mean"]["accuracy"]
    assert f"| Ours \\| all | 1 | {value:.1f} | reference |" in text.partition("## two")[2]
    assert "AP" in text and "own thr." not in text  # nothing was calibrated


@pytest.mark.parametrize("axes", [{"memory_size": [1, 4]}, {"memory_size": [1, 4], "mapping": ["mlp", "linear"]}])
def test_figures_of_varied_arguments(tmp_path, monkeypatch, axes):
    """What is drawn is the first metric's mean, at its place; a run that is missing leaves a gap."""
    drawn = []
    for name in ("heat_map", "sweep_curve"):
        function = getattr(__import__("mirage_hf.pictures", fromlist=[name]), name)
        monkeypatch.setattr(
            f"mirage_hf.pictures.{name}", lambda *args, f=function: drawn.append((f.__name__, args)) or f(*args)
        )
    grid = make_grid(tmp_path, settings={}, vary=axes, reference=None)
    *names, last = grid.settings
    expected = {}
    for draw, name in enumerate(names):
        runs = [store(grid, tmp_path, name, seed, 10 * draw + seed) for seed in (0, 1)]
        expected[name] = np.mean([plain_mean(one, "accuracy") for one in runs])
    text = write_tables(grid, tmp_path, tmp_path).read_text()
    assert "![figure.png](figure.png)" in text and Image.open(tmp_path / "figure.png").width > 100
    ((name, values),) = drawn
    if len(axes) == 1:
        assert name == "sweep_curve" and values[0] == [1, 4] and values[4] == ("memory_size", "accuracy")
        assert values[1] == [pytest.approx(expected["memory_size=1"]), None]
        assert values[2][0] < values[1][0] < values[3][0] and values[2][1] is None
    else:
        assert name == "heat_map" and last == "memory_size=4,mapping=linear"
        order = ["memory_size=1,mapping=mlp", "memory_size=1,mapping=linear", "memory_size=4,mapping=mlp"]
        assert [*values[0][0], values[0][1][0]] == pytest.approx([expected[name] for name in order])
        assert values[0][1][1] is None and values[2] == ["mlp", "linear"]


# ------------------------------------------------------------------------------------------- over images and seeds


def test_scores_are_read_as_they_were_written(stored):
    grid, out, found = stored
    run = read_scores(run_folder(out, "less", 2) / "scores" / "test.csv", 0.3)
    assert (run.scores == found["less"][2].scores).all()
    assert run.rows == list(zip(PATHS, NAMES, LABELS.tolist(), strict=True))


def make_runs(seed, seeds=3, images=40, gap=0.15):
    """Runs on two generators that share real images, better by `gap` on fakes."""
    random = np.random.default_rng(seed)
    rows = [(f"r{i}", name, 0) for name in "ab" for i in range(images)]
    rows += [(f"{name}{i}", name, 1) for name in "ab" for i in range(images)]
    base = random.uniform(0, 0.8, (seeds, len(rows)))
    base[:, images : 2 * images] = base[:, :images]
    labels = np.array([label for *_, label in rows])
    return {k: ScoredRun(rows, np.clip(base[k] + gap * labels, 0, 1), 0.4) for k in range(seeds)}


def test_bootstrap_equals_a_plain_loop():
    """The same sort of draws, images within strata and seeds, one replicate at a time."""
    runs, other = make_runs(0), make_runs(1, gap=0.3)
    found = bootstrap_settings({"x": runs, "y": other}, ["accuracy", "calibrated_accuracy"], "x", replicates=1500)
    random, rows = np.random.default_rng(9), next(iter(runs.values())).rows
    means = {(name, threshold): [] for name in "xy" for threshold in (0.5, 0.4)}
    reals = [f"r{i}" for i in range(40)]
    for _ in range(400):
        draws = {kind: random.choice(40, 40) for kind in ("r", "a", "b")}
        seeds = random.choice(3, 3)
        position = {(path, generator): row for row, (path, generator, _) in enumerate(rows)}
        for name, threshold in means:
            values = []
            for k in seeds:
                for generator in "ab":
                    picked = [position[reals[i], generator] for i in draws["r"]]
                    picked += [position[f"{generator}{i}", generator] for i in draws[generator]]
                    labels = np.array([rows[row][2] for row in picked])
                    values.append(np.mean(({"x": runs, "y": other}[name][k].scores[picked] > threshold) == labels))
            means[name, threshold].append(np.mean(values))
    for key, threshold in (("accuracy", 0.5), ("calibrated_accuracy", 0.4)):
        expected = np.quantile(means["y", threshold], [0.025, 0.975])
        assert found["y"]["mean"][key] == pytest.approx(expected, abs=0.015)
        expected = np.quantile(np.subtract(means["y", threshold], means["x", threshold]), [0.025, 0.975])
        assert found["y"]["difference"][key] == pytest.approx(expected, abs=0.015)
    assert found["x"]["difference"]["accuracy"] == [0, 0]  # the same draws


def test_bootstrap_knows_both_levels():
    """Wider than images alone when runs differ, and not zero when they don't."""
    runs = make_runs(0)
    same = {k: runs[0] for k in range(3)}
    towards = np.array([2 * label - 1 for *_, label in runs[0].rows])
    spread = {k: run._replace(scores=np.clip(run.scores + 0.2 * (k - 1) * towards, 0, 1)) for k, run in same.items()}
    found = bootstrap_settings({"same": same, "spread": spread}, ["accuracy"], replicates=500)
    widths = {name: np.diff(intervals["mean"]["accuracy"]).item() for name, intervals in found.items()}
    assert 0.03 < widths["same"] < widths["spread"] and "difference" not in found["same"]


def test_bootstrap_needs_the_same_images_and_seeds():
    runs, others = make_runs(0), make_runs(1)
    found = bootstrap_settings({"x": runs, "y": {0: others[0]}}, ["accuracy"], "x", replicates=20)
    assert "difference" in found["x"] and "difference" not in found["y"]
    others[1] = others[1]._replace(rows=others[1].rows[::-1])
    with pytest.raises(ValueError, match="y seed1 was scored on other images"):
        bootstrap_settings({"x": runs, "y": others}, ["accuracy"], replicates=20)


def test_bootstrap_in_the_table(stored):
    grid, out, _ = stored
    text = write_tables(grid, out, out, replicates=50).read_text()
    results = json.loads((out / "results.json").read_text())
    intervals = results["settings"]["less"]["bootstrap"]["test"]
    (low, high), (less, more) = intervals["mean"]["accuracy"], intervals["difference"]["accuracy"]
    assert f"[{100 * low:.1f}, {100 * high:.1f}] [{100 * less:.1f}, {100 * more:.1f}]" in text
    assert "over test images and seeds together (50 draws)" in text
