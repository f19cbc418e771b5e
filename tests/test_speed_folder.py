"""The section on folders: it runs, its ways score the same, and its stages are parts of the same work."""

from types import SimpleNamespace

import pytest
from handmade_speed import load_sections


@pytest.fixture
def folder(monkeypatch) -> SimpleNamespace:
    found = load_sections(monkeypatch, "folder")
    import bulk_ways

    return SimpleNamespace(module=found.folder, ways=bulk_ways, Settings=found.Settings)


def test_section(folder):
    section = folder.module.run(folder.Settings("cpu", dry=True, repeats=2))
    case, score = "ViT-B/32, random weights", "mirage_hf.scoring"
    found = [(row.what, row.alternative, row.case, row.goal, row.bar) for row in section.rows]
    assert found == [
        (score, "better of the two pipelines", case, "at least", 1.8),
        (score, "pipeline(), model baked", case, "at least", None),
        (score, "network alone", case, "at most", 1.05),
    ]
    seconds = section.turns[case].seconds
    pipelines = zip(seconds["pipeline()"], seconds["pipeline(batch_size=16)"], strict=True)
    assert seconds["better of the two pipelines"] == [min(pair) for pair in pipelines]
    assert len(section.equality) == 2 and max(section.equality.values()) < 5e-6
    stages, network = section.details[case]["cpu_ms_of_an_image"], section.details[case]["network"]
    assert list(stages) == ["reading", "transform", "network", "verdict"]
    assert section.rows[2].limit == pytest.approx(sum(stages.values()) / stages["network"], rel=1e-3)
    assert network["gflop_per_second"] == pytest.approx(1000 * network["gflop"] / stages["network"], abs=0.06)
    assert section.items == {case: 16}


def test_no_gpu(folder):
    with pytest.raises(ValueError, match="`folder` is about the CPU"):
        folder.module.run(folder.Settings("cuda", dry=True, repeats=1))


def test_differences_are_those_of_the_same_files(folder):
    difference = folder.ways.largest_difference
    assert difference({"a": 0.5, "b": 0.25}, {"a": 0.5, "b": 0.75}) == 0.5
    with pytest.raises(ValueError, match="1 files have one score only"):
        difference({"a": 0.5}, {"a": 0.5, "b": 0.75})


def test_share_of_the_images_is_taken_for_all(folder, tmp_path):
    files = [tmp_path / str(number) for number in range(8)]
    way = folder.module.Kept(lambda files: (0.5 * len(files), {str(file): 0.5 for file in files}), files, 4)
    assert way() == 4.0 and list(way.scores) == [str(file) for file in files[:2]]
    assert folder.module.Kept(way.way, files)() == 4.0


def test_links_take_groups_by_turns(folder, tmp_path):
    groups = [[tmp_path / f"{group}{number}" for number in range(size)] for group, size in (("a", 2), ("b", 1))]
    for file in (file for group in groups for file in group):
        file.write_text(file.name)
    files = folder.ways.link(tmp_path / "links", 6, *groups)
    assert [file.read_text() for file in files] == ["a0", "b0", "a1", "b0", "a0", "b0"]
    assert len(set(files)) == 6 and all(file.stat().st_nlink > 1 for file in files)
