"""The section on scaling: it runs, its watch over memory can be wrong, and what is stored of it keeps the bars."""

import json
import os
from types import SimpleNamespace

import pytest
from handmade_speed import BENCHMARKS, load_sections

STORED = BENCHMARKS / "results" / "speed" / "scaling-cpu.json"
MIB = 2**20
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture
def scaling(monkeypatch) -> SimpleNamespace:
    found = load_sections(monkeypatch, "scaling")
    import bulk_ways

    return SimpleNamespace(module=found.scaling, ways=bulk_ways, Settings=found.Settings)


@needs_two_cores
def test_section(scaling):
    usable = os.sched_getaffinity(0)
    section = scaling.module.run(scaling.Settings("cpu", dry=True, repeats=2))
    assert os.sched_getaffinity(0) == usable
    found = [(row.what, row.alternative, row.goal, row.bar, row.limit) for row in section.rows]
    alone = "network alone, "
    assert found == [
        ("640 images", "64 images", "at most", None, 1.0),
        ("two processes", "one process", "at least", 1.8, 2.0),
        (f"{alone}two processes", f"{alone}one process", "at least", None, 2.0),
    ]
    assert section.equality == {
        "p_fake of 640 images, links to the same file": 0,
        "p_fake, two processes against one": 0,
    }
    runs = section.details["runs"]
    assert [run["images"] for run in runs.values()] == [64, 640]
    assert runs["640 images"]["rss_mib_of_a_process"]["samples"] > 0


@needs_two_cores
def test_cores_are_given_back(scaling):
    usable, seen = os.sched_getaffinity(0), []
    scaling.module.OnCores(1, lambda: seen.append(len(os.sched_getaffinity(0))) or 0.0)()
    assert seen == [1] and os.sched_getaffinity(0) == usable

    def fails():
        raise OSError

    with pytest.raises(OSError):
        scaling.module.OnCores(1, fails)()
    assert os.sched_getaffinity(0) == usable


def test_what_it_refuses(scaling, monkeypatch):
    with pytest.raises(ValueError, match="`scaling` is about the CPU"):
        scaling.module.run(scaling.Settings("cuda", dry=True, repeats=1))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    with pytest.raises(ValueError, match="two processes need two cores"):
        scaling.module.run(scaling.Settings("cpu", dry=True, repeats=1))


def test_memory_of_quarters(scaling):
    samples = [{1: 90 * MIB}]  # the second process isn't there yet
    samples += [{1: 100 * MIB, 2: 120 * MIB}] * 2 + [{1: 400 * MIB, 2: 10 * MIB}] * 4
    samples += [{1: 130 * MIB, 2: 134 * MIB}] * 2 + [{2: 90 * MIB}]
    found = scaling.ways.memory_of(samples, 2)
    expected = {"first_quarter": 110.0, "last_quarter": 132.0, "largest": 400.0, "samples": 8}
    assert found == {"rss_mib_of_a_process": expected, "memory_growth": 0.2}
    with pytest.raises(ValueError, match="3 processes were never seen at once"):
        scaling.ways.memory_of(samples, 3)


def test_links_to_one_file_are_compared(scaling, tmp_path):
    originals = [tmp_path / name for name in "ab"]
    for file in originals:
        file.write_text(file.name)
    files = scaling.ways.link(tmp_path / "links", 4, originals)
    run = scaling.module.WatchedRun(tmp_path, tmp_path, "", files)
    run.scores = dict(zip(map(str, files), (0.25, 0.75, 0.5, 0.75), strict=True))
    assert scaling.module.spread_within_originals(run) == 0.25
    del run.scores[str(files[1])]
    with pytest.raises(ValueError, match="000001.jpg has no score"):
        scaling.module.spread_within_originals(run)


@pytest.mark.skipif(not STORED.is_file(), reason="not measured yet")
def test_memory_is_constant_in_what_is_stored():
    details = json.loads(STORED.read_text(encoding="utf-8"))["details"]
    run = details["runs"]["100,000 images"]
    assert run["images"] == 100_000 and run["rss_mib_of_a_process"]["samples"] > 100
    assert run["memory_growth"] < details["memory_bar"] == 0.05
