"""The evidence table: its grid, and what is committed of its results."""

import copy
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.minibench.evidence import run, storage, tables, thresholds
from benchmarks.minibench.evidence.grid import read_grid

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "minibench"


# ----------------------------------------------------------------------------------------------------------- the grid


def test_a_setting_starts_from_its_base():
    grid = read_grid()
    assert grid.settings["mirage"].args == grid.settings["contrastive"].args | {
        "memory_size": grid.settings["mirage"].args["memory_size"]
    }
    assert grid.settings["per_class"].args["text_anchors"] == "per_class"
    assert grid.settings["multimodal"].args["discriminative_weight"] == 0.0


def test_every_learned_setting_has_five_seeds_and_every_sweep_leaves_its_base_out():
    grid = read_grid()
    for setting in grid.settings.values():
        assert len(setting.seeds) >= 5 or setting.kind == "constant" or setting.config == {"trainable": "none"}
    for setting in grid.sweeps.values():
        origin = grid.settings[setting.base]
        assert (setting.config, setting.args) != (origin.config, origin.args)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("base: contrastive", "base: contrast", "mirage is based on contrast"),
        ("kind: spectra", "kind: spectrum", "spectra is of kind spectrum"),
        ("reference: mirage", "reference: miracle", "`reference` names miracle"),
    ],
)
def test_a_grid_with_an_unknown_name_is_refused(tmp_path, old, new, message):
    text = (ROOT / "benchmarks" / "minibench" / "evidence" / "grid.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "grid.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_grid(tmp_path / "grid.yaml")


def test_shards_share_out_every_run_once():
    runs = read_grid().runs()
    parts = [runs[index::count] for index, count in map(run.parse_shard, ("0/3", "1/3", "2/3"))]
    assert sorted(sum(([(s.name, seed) for s, seed in part] for part in parts), [])) == sorted(
        (setting.name, seed) for setting, seed in runs
    )


# --------------------------------------------------------------------------------------------------- what is committed


def test_committed_results_are_complete_and_of_this_grid():
    grid = read_grid()
    assert [name for name in grid.settings if not storage.has_results(RESULTS, name)] == []
    index = storage.read_index(RESULTS)
    assert set(index.columns["split"]) == {"validation", "test"}
    for name, setting in grid.settings.items():
        facts, scores = storage.read_scores(RESULTS, name, index)
        assert [run["seed"] for run in facts["runs"]] == setting.seeds
        for seed, found in zip(setting.seeds, facts["runs"], strict=True):
            assert found["identity"].items() >= grid.fields(setting, seed).items(), f"{name} ran with other fields"
        rows, columns = index.select("validation")
        for found, run_scores in zip(facts["runs"], scores[:, rows], strict=True):
            if setting.kind != "constant":
                chosen = thresholds.choose_threshold(run_scores, columns["label"], columns["kind"])
                assert found["threshold"] == pytest.approx(chosen, abs=1e-9)


def test_the_committed_table_has_the_estimates_of_the_committed_scores():
    committed = json.loads((RESULTS / "table.json").read_text(encoding="utf-8"))
    made = tables.build_table(read_grid(), RESULTS, replicates=2)
    assert list(made["settings"]) == list(committed["settings"])
    for name, found in made["settings"].items():
        for part in ("metrics", "differences"):
            estimates = {key: cell[0] for key, cell in found[part].items()}
            stored = {key: cell[0] for key, cell in committed["settings"][name][part].items()}
            assert estimates == pytest.approx(stored, abs=2e-5)


@pytest.mark.slow
def test_the_committed_table_is_the_one_made_from_the_committed_scores(tmp_path):
    for path in [RESULTS / "images.csv.gz", RESULTS / "sweeps.json", *(RESULTS / "detectors").iterdir()]:
        target = tmp_path / path.relative_to(RESULTS)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    tables.write_tables(read_grid(), tmp_path)
    for name in ("table.md", "table.json"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (RESULTS / name).read_text(encoding="utf-8")


def test_a_changed_setting_has_another_identity():
    grid = read_grid()
    changed = copy.deepcopy(grid.settings["mirage"])
    changed.args["temperature"] = 0.5
    assert grid.fields(changed, 0) != grid.fields(grid.settings["mirage"], 0)
    assert grid.fields(grid.settings["mirage"], 0) != grid.fields(grid.settings["mirage"], 1)
