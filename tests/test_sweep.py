"""Sweeps: what a run leaves behind, and that runs are done once, go on after a kill, and are never mixed up."""

import csv
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import make_clip_config
from PIL import Image
from test_pretrained_mirage import make_tokenizer
from transformers import CLIPModel

from mirage_hf import sweep, sweep_scoring
from mirage_hf.detector_loading import load_detector
from mirage_hf.evaluation import evaluate_by_generator
from mirage_hf.metrics import detection_metrics
from mirage_hf.run_args import parse_run_args
from mirage_hf.sweep import run_sweep
from mirage_hf.sweep_files import read_run, run_folder
from mirage_hf.sweep_grid import read_grid
from mirage_hf.sweep_identity import checkpoint_checksum, listing_checksum
from mirage_hf.sweep_tables import write_tables

ROOT = Path(__file__).parent.parent


def load_script():
    spec = importlib.util.spec_from_file_location("sweep_script", ROOT / "training" / "sweep.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """
    A tiny CLIP with its tokenizer, and a manifest: two generators, of which one is trained on; they share their real
    test images; resampled real ones stand apart.
    """
    root = tmp_path_factory.mktemp("sweep")
    torch.manual_seed(0)
    CLIPModel(make_clip_config()).save_pretrained(root / "base")
    make_tokenizer().save_pretrained(root / "base")
    random, rows = np.random.default_rng(0), []

    def add(name, label, split, *generators):
        pixels = random.integers(60, 120, (36, 36, 3))
        pixels[::4] += 90 * (label == "fake")
        Image.fromarray(pixels.astype(np.uint8)).save(root / name)
        rows.extend([name, label, generator, split] for generator in generators)

    for split, count in (("train", 6), ("validation", 4), ("test", 5)):
        for i in range(count):
            add(f"{split}_real{i}.png", "real", split, "a", *(["b"] if split == "test" else []))
            add(f"{split}_a{i}.png", "fake", split, "a")
    for i in range(5):
        add(f"test_b{i}.png", "fake", "test", "b")
    for i in range(2):
        add(f"test_control{i}.png", "real", "test", "control")
    with open(root / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "generator", "split"], *rows])
    return root


def make_grid(place, folder, **changes) -> Path:
    """Two settings and two seeds of one step, on `place`."""
    content = {
        "title": "Two settings",
        "base": {
            "model_name_or_path": str(place / "base"),
            "data": str(place),
            "eval_split": "validation",
            "threshold_fpr": 0.25,
            "save_base_model": True,
            "max_steps": 1,
            "warmup_epochs": 0,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
            "learning_rate": 0.05,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
        },
        "seeds": [0, 1],
        "settings": {
            "mirage": {"title": "MiraGe", "arguments": {"memory_size": 16}},
            "plain": {"title": "no contrast", "arguments": {"discriminative_weight": 0.0}},
        },
        "reference": "mirage",
        "metrics": ["accuracy", "average_precision"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grid.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return folder / "grid.yaml"


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    """A sweep that ran through."""
    folder = tmp_path_factory.mktemp("finished")
    grid = read_grid(make_grid(place, folder))
    assert run_sweep(grid, grid.runs(), folder / "out") == {}
    return grid, folder / "out"


# -------------------------------------------------------------------------------------------------------------- a run


def test_a_run_leaves_scores_and_facts_but_no_weights(finished, place):
    grid, out = finished
    for setting, seed in grid.runs():
        folder = run_folder(out, setting.name, seed)
        run = read_run(folder)
        assert not list(folder.rglob("*.safetensors")) and (folder / "checkpoint" / "trainer_state.json").is_file()
        assert (run["setting"], run["seed"]) == (setting.name, seed)
        with open(folder / "scores" / "test.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 22 and run["scoring"]["test"]["images"] == 17  # five real images are shared
        assert run["training"]["wall_seconds"] > 0 and run["training"]["peak_memory_mib"]["process"] > 100
        assert 0 < run["scoring"]["test"]["latency_ms_per_image"] < 1e4
        scores, labels = [float(row["p_fake"]) for row in rows], [int(row["label"]) for row in rows]
        report = evaluate_by_generator(scores, labels, [row["generator"] for row in rows])
        facts = run["sets"]["test"]
        assert facts["mean_over"] == report.mean_over == ["a", "b"]
        for name, metrics in report.generators.items():
            assert facts["generators"][name]["metrics"]["average_precision"] == metrics["average_precision"]
            assert facts["generators"][name]["metrics"]["accuracy"] == metrics["accuracy"]
        assert facts["mean"]["accuracy"] == pytest.approx(report.mean["accuracy"])
        # The detector's own threshold, fixed on validation, is another one, and it is used.
        assert run["threshold"] == run["training"]["metrics"]["threshold"] != 0.5
        chosen = [i for i, row in enumerate(rows) if row["generator"] == "b"]
        expected = detection_metrics([scores[i] for i in chosen], [labels[i] for i in chosen], run["threshold"])
        found = facts["generators"]["b"]["metrics"]
        assert found["calibrated_balanced_accuracy"] == expected["balanced_accuracy"]
        assert found["calibrated_fake_accuracy"] == expected["fake_accuracy"]
    columns = [
        (run_folder(out, setting.name, seed) / "scores" / "test.csv").read_text() for setting, seed in grid.runs()
    ]
    assert len(set(columns)) == 4  # seeds and settings reach the run


@pytest.fixture(scope="module")
def kept(place, tmp_path_factory):
    """One of the runs again, its weights kept."""
    folder = tmp_path_factory.mktemp("kept")
    grid = read_grid(make_grid(place, folder, seeds=[0], keep_checkpoints=True))
    assert run_sweep(grid, grid.runs(["plain"]), folder / "out") == {}
    return run_folder(folder / "out", "plain", 0)


def test_kept_weights_are_those_that_were_scored(finished, kept):
    grid, out = finished
    _, data_args, args = parse_run_args([str(kept / "recipe.yaml")])
    assert (args.output_dir, args.seed, data_args.threshold_fpr) == (str(kept / "checkpoint"), 0, 0.25)
    detector = load_detector(str(kept / "checkpoint"))
    assert detector.threshold == read_run(kept)["threshold"] == read_run(run_folder(out, "plain", 0))["threshold"]
    found, _ = sweep_scoring.score_set(detector, grid.test["test"], args)
    with open(run_folder(out, "plain", 0) / "scores" / "test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == found.paths and [row["generator"] for row in rows] == found.generators
    np.testing.assert_allclose([float(row["p_fake"]) for row in rows], found.scores, atol=1e-6)


def test_unreadable_test_images_are_left_out_and_listed(finished, kept, place, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(place, copy)
    (copy / "test_b1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    # What the header check lets pass and decoding finds out.
    content = (copy / "test_real2.png").read_bytes()
    middle = len(content) // 2
    (copy / "test_real2.png").write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    args = parse_run_args([str(kept / "recipe.yaml")])[2]
    options = finished[0].test["test"] | {"data": str(copy)}
    found, seconds = sweep_scoring.score_set(load_detector(str(kept / "checkpoint")), options, args)
    assert len(found.paths) == 22 - 1 - 2 and seconds["images"] == 16
    assert sorted(Path(item["path"]).name for item in found.skipped) == ["test_b1.png", "test_real2.png"]
    facts = sweep_scoring.describe_scores(found, None)
    assert facts["generators"]["b"]["n_real"] == facts["generators"]["b"]["n_fake"] == 4
    assert facts["generators"]["b"]["metrics"]["calibrated_accuracy"] is None
    assert len(facts["skipped"]) == 2


# --------------------------------------------------------------------------------------------- once, and never mixed


def results_of(out):
    return json.loads((out / "results.json").read_text())


def test_a_finished_sweep_trains_nothing(finished, monkeypatch):
    grid, out = finished
    monkeypatch.setattr(sweep, "run_training", lambda *args: pytest.fail("trained again"))
    assert run_sweep(grid, grid.runs(), out) == {}


def test_a_killed_sweep_goes_on(place, finished, tmp_path, monkeypatch):
    """SIGKILL in its third run, in the middle of it: the first two stay as they are, the third starts anew."""
    whole, out = finished
    grid = read_grid(make_grid(place, tmp_path))
    train, done = sweep.run_training, []

    def die_in_the_third(*args):
        done.append(args[2].output_dir)
        metrics = train(*args)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return metrics

    def run():
        torch.set_num_threads(1)  # the threads of this process are not those of its parent
        sweep.run_training = die_in_the_third
        run_sweep(grid, grid.runs(), tmp_path / "out")

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(timeout=300)
    assert child.exitcode == -signal.SIGKILL
    third = run_folder(tmp_path / "out", "mirage", 1)
    assert (third / "checkpoint" / "model.safetensors").is_file() and read_run(third) is None
    (third / "checkpoint" / "stale").write_text("of the run that was cut off")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("run.json")}
    assert len(times) == 2
    monkeypatch.setattr(sweep, "run_training", lambda *args: done.append(args[2].output_dir) or train(*args))
    assert run_sweep(grid, grid.runs(), tmp_path / "out") == {}
    assert done == [str(run_folder(tmp_path / "out", name, 1) / "checkpoint") for name in ("mirage", "plain")]
    assert all(path.stat().st_mtime_ns == when for path, when in times.items())
    assert not (third / "checkpoint" / "stale").exists()
    for target, one in ((out, whole), (tmp_path / "out", grid)):
        write_tables(one, target, target)
    found, expected = results_of(tmp_path / "out"), results_of(out)
    assert found["missing"] == expected["missing"] == []
    for name, setting in expected["settings"].items():
        assert found["settings"][name]["seeds"] == [0, 1]
        again = found["settings"][name]["sets"]["test"]["mean"]
        for key, cell in setting["sets"]["test"]["mean"].items():
            assert again[key]["values"] == pytest.approx(cell["values"], abs=1e-6)


def test_what_changed_is_refused_and_redone_if_asked_for(place, finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(finished[1], out)
    settings = yaml.safe_load((finished[1].parent / "grid.yaml").read_text())["settings"]
    settings["plain"]["arguments"]["temperature"] = 0.3
    grid = read_grid(make_grid(place, tmp_path, settings=settings))
    trained, train = [], sweep.run_training
    monkeypatch.setattr(sweep, "run_training", lambda *args: trained.append(args[2].output_dir) or train(*args))
    with pytest.raises(
        ValueError, match=r"plain seed0 \(temperature 0.07, now 0.3\) and 1 more in .* --redo"
    ) as error:
        run_sweep(grid, grid.runs(), out)
    assert not trained and "\n" not in str(error.value)
    assert run_sweep(grid, grid.runs(), out, redo=True) == {}
    assert trained == [str(run_folder(out, "plain", seed) / "checkpoint") for seed in (0, 1)]
    assert run_sweep(grid, grid.runs(), out) == {} and len(trained) == 2


@pytest.mark.parametrize("change", ["image", "manifest", "weights", "version", "test"])
def test_other_data_weights_and_versions_are_another_run(place, finished, tmp_path, monkeypatch, change):
    out, copy = tmp_path / "out", tmp_path / "place"
    shutil.copytree(finished[1], out)
    shutil.copytree(place, copy)
    changes = {}
    if change == "image":
        (copy / "train_a0.png").write_bytes((copy / "train_a0.png").read_bytes() + b"\0")
    elif change == "manifest":
        lines = (copy / "manifest.csv").read_text().splitlines()
        (copy / "manifest.csv").write_text("\n".join(line for line in lines if "test_b4" not in line))
    elif change == "weights":
        (copy / "base" / "config.json").write_text((copy / "base" / "config.json").read_text() + "\n")
    elif change == "version":
        monkeypatch.setattr("mirage_hf.environment.__version__", "0.0.1")
    else:
        changes = {"test": {"generators": ["a"]}}
    grid = read_grid(make_grid(copy, tmp_path, **changes))
    monkeypatch.setattr(sweep, "run_training", lambda *args: pytest.fail("trained"))
    with pytest.raises(ValueError, match="was made of something else"):
        run_sweep(grid, grid.runs(), out)


def test_a_moved_copy_is_the_same_run(place, finished, tmp_path, monkeypatch):
    shutil.copytree(place, tmp_path / "place")
    grid = read_grid(make_grid(tmp_path / "place", tmp_path))
    monkeypatch.setattr(sweep, "run_training", lambda *args: pytest.fail("trained again"))
    shutil.copytree(finished[1], tmp_path / "out")
    assert run_sweep(grid, grid.runs(), tmp_path / "out") == {}


def test_checksums(place, tmp_path):
    assert checkpoint_checksum(None) is None
    assert checkpoint_checksum(str(place / "base")) != checkpoint_checksum(str(place))
    train, both = (listing_checksum(str(place), splits) for splits in (("train",), ("train", "test")))
    assert train != both and len(train) == 64


def test_one_failing_setting_stops_no_other(place, tmp_path, capsys):
    settings = {
        "bad": {"arguments": {"num_prompt_tokens": 900}},
        "gone": {"arguments": {"data": str(tmp_path / "nowhere")}},
        "good": {"title": "good one"},
    }
    path = make_grid(place, tmp_path, settings=settings, reference="good", seeds=[0], test={"data": str(place)})
    script, flags = load_script(), [str(path), "--output_dir", str(tmp_path / "out")]
    assert script.main(flags) == 1
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("sweep.py: ")]
    assert len(lines) == 2
    assert lines[0].startswith("sweep.py: gone seed0 failed:") and "does not exist" in lines[0]
    assert lines[1].startswith("sweep.py: bad seed0 failed: ValueError: ") and "num_prompt_tokens" in lines[1]
    assert "| good one | 1 |" in captured.out and "Not finished: bad seed0, gone seed0." in captured.out
    assert "Traceback" in (run_folder(tmp_path / "out" / "runs", "bad", 0) / "error.txt").read_text()
    assert script.main([*flags, "--only", "good"]) == 0
    capsys.readouterr()
    assert script.main([str(path), "list", "--output_dir", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == "bad\t0\tto do\ngone\t0\tto do\ngood\t0\tdone\n"


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"geometry": 3, "num_prompt_tokens": "many"}, "setting s: argument --num_prompt_tokens.*: invalid"),
        ({"temperature": 0.0}, "setting s: `temperature`"),
        ({"augmentation": {"jpeg": 1}}, "setting s: `augmentation`"),
    ],
)
def test_bad_values_are_refused_before_anything_runs(place, tmp_path, monkeypatch, arguments, match):
    settings = {"fine": None, "s": {"arguments": arguments}}
    grid = read_grid(make_grid(place, tmp_path, settings=settings, reference=None))
    monkeypatch.setattr(sweep, "run_training", lambda *args: pytest.fail("trained"))
    with pytest.raises(ValueError, match=match) as error:
        run_sweep(grid, grid.runs(), tmp_path / "out")
    assert "\n" not in str(error.value)


def test_several_processes_are_refused(finished, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--shard"):
        run_sweep(finished[0], [], finished[1])


def test_shards_share_the_runs(place, tmp_path, capsys):
    path, script = str(make_grid(place, tmp_path, seeds=[0, 1, 2])), load_script()
    shards = []
    for i in range(2):
        assert script.main([path, "list", "--output_dir", str(tmp_path), "--shard", f"{i}/2"]) == 0
        shards.append(capsys.readouterr().out.splitlines())
    assert len(shards[0]) == len(shards[1]) == 3 and len({*shards[0], *shards[1]}) == 6
    with pytest.raises(SystemExit):
        script.main([path, "--shard", "2/2"])


def test_grids_share_a_folder_of_runs(place, finished, tmp_path, monkeypatch, capsys):
    runs = tmp_path / "runs"
    shutil.copytree(finished[1], runs)
    settings = {"mirage": {"arguments": {"memory_size": 16}}, "warm": {"arguments": {"temperature": 0.5}}}
    path = make_grid(place, tmp_path / "other", settings=settings)
    trained, train = [], sweep.run_training
    monkeypatch.setattr(sweep, "run_training", lambda *args: trained.append(args[2].output_dir) or train(*args))
    assert load_script().main([str(path), "--runs_dir", str(runs), "--output_dir", str(tmp_path / "tables")]) == 0
    assert trained == [str(run_folder(runs, "warm", seed) / "checkpoint") for seed in (0, 1)]
    assert (tmp_path / "tables" / "table.md").read_text() == capsys.readouterr().out
    assert not (tmp_path / "tables" / "runs").exists()


def test_the_script_ends_with_one_line_on_a_bad_grid(place, tmp_path):
    path = make_grid(place, tmp_path, settings={"s": {"arguments": {"lerning_rate": 1}}}, reference=None)
    with pytest.raises(SystemExit, match=r"^sweep.py: .*setting s holds names that are no arguments: lerning_rate.$"):
        load_script().main([str(path)])
    with pytest.raises(SystemExit, match="the command line holds names that are no arguments: max_step"):
        load_script().main([str(make_grid(place, tmp_path)), "--max_step", "1"])
