"""What `benchmarks/speed.py` rests on: turns, ratios, records that contradict themselves, pages."""

import json
import time
from dataclasses import replace

import pytest
import torch
from handmade_speed import facts, load_harness, make_section


@pytest.fixture
def harness(monkeypatch):
    return load_harness(monkeypatch)


def stored(harness):
    """The section as its file holds it."""
    return json.loads(json.dumps(harness.records.section_to_dict(make_section(harness), **facts())))


# ------------------------------------------------------------------------------------------------------- turns


def test_every_other_round_runs_backwards(harness):
    order = []
    ways = {name: lambda name=name: order.append(name) for name in "abc"}
    turns = harness.turns.take_turns(ways, harness.turns.Settings("cpu", True, 3), warm_up=2)
    assert "".join(order) == "abc" * 2 + "abc" + "cba" + "abc"
    assert list(turns.seconds) == ["a", "b", "c"] and len(turns.others) == 3
    assert all(len(seconds) == 3 and min(seconds) > 0 for seconds in turns.seconds.values())


def test_a_way_may_state_its_own_seconds(harness):
    given = iter([9.0, 0.125, 0.25])
    ways = {"stated": lambda: next(given), "slept": lambda: time.sleep(0.02), "counted": lambda: 7}
    turns = harness.turns.take_turns(ways, harness.turns.Settings("cpu", True, 2))
    assert turns.seconds["stated"] == [0.125, 0.25]  # the first was the warm-up
    assert min(turns.seconds["slept"]) >= 0.02
    assert max(turns.seconds["counted"]) < 1  # an integer is a result, not a time


def test_the_share_of_other_programs_is_the_largest_of_a_round(harness, monkeypatch):
    shares = iter([0.01, 0.2, 0.03, 0.0])

    class Programs:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.share = next(shares)

    monkeypatch.setattr(harness.turns, "OtherPrograms", Programs)
    ways = {"a": lambda: 1.0, "b": lambda: 2.0}
    turns = harness.turns.take_turns(ways, harness.turns.Settings("cpu", True, 2))
    assert turns.others == [0.2, 0.03] and turns.counted == [1]


@pytest.mark.parametrize(
    ("others", "counted"),
    [([0.0, 0.05, 0.051], [0, 1]), ([0.3, 0.0, 0.2], [1]), ([0.3, 0.4], [0, 1]), ([], [])],
)
def test_quiet_rounds_count_and_all_if_none_was(harness, others, counted):
    seconds = [float(number + 1) for number in range(len(others))]
    turns = harness.turns.Turns({"a": seconds}, others)
    assert turns.counted == counted
    if counted:
        assert turns.each("a", 2).most == (counted[-1] + 1) / 2


def test_ratios_are_taken_within_rounds(harness):
    turns = make_section(harness).turns["small"]
    assert turns.ratio("fast", "slow") == harness.turns.Spread(0.4, 0.25, 0.5)
    assert turns.each("slow", 10) == harness.turns.Spread(0.4, 0.2, 0.5)
    # Medians of the two apart would give 1 / 4: the control that pairing matters.
    assert turns.each("fast").median / turns.each("slow").median == pytest.approx(0.25)


def test_matrix_peak_and_profile(harness):
    left = torch.randn(64, 64)
    assert 1e6 < harness.turns.matrix_peak("cpu", torch.float32, size=64) < 1e15
    shares = harness.kernels.profile_shares(lambda: [left @ left for _ in range(20)], "cpu", most=2)
    assert len(shares) == 3 and "aten::mm" in shares and sum(shares.values()) == pytest.approx(1, abs=0.01)


# ------------------------------------------------------------------------------------------------------- records


def test_compare_by_hand(harness):
    most, least, plain = make_section(harness).rows
    assert most.ratio.median == 0.4 and most.met is False and most.reached == pytest.approx(0.5)
    assert least.ratio == harness.turns.Spread(2.5, 2.0, 4.0)
    assert least.met is True and least.reached == pytest.approx(0.5)
    assert plain.bar is plain.met is plain.reached is None and plain.ratio.median == 2.5
    assert most.each == harness.turns.Spread(0.1, 0.1, 0.2)
    assert replace(most, bar=0.4).met is True  # a bar that is just reached is met
    with pytest.raises(ValueError, match="`goal`"):
        replace(most, goal="about")


def test_a_section_comes_back_from_its_file(harness, tmp_path):
    file = tmp_path / "small-cpu.json"
    file.write_text(json.dumps(stored(harness)), encoding="utf-8")
    section, whole = harness.records.read_section(file)
    assert section == make_section(harness) and whole["environment"] == facts()["environment"]


def change_ratio(written):
    written["rows"][0]["ratio"]["median"] = 0.29


def change_met(written):
    written["rows"][0]["met"] = True


def change_seconds(written):
    written["turns"]["small"]["seconds"]["slow"][0] = 2.5


def change_each(written):
    written["rows"][1]["each"]["least"] = 0.05


def change_items(written):
    written["items"]["small"] = 11


def change_quiet(written):
    written["turns"]["small"]["others"][0] = 0.9


@pytest.mark.parametrize("change", [change_ratio, change_met, change_seconds, change_each, change_items, change_quiet])
def test_a_row_that_contradicts_its_turns_is_refused(harness, change):
    written = stored(harness)
    change(written)
    with pytest.raises(ValueError, match="doesn't follow from its turns"):
        harness.records.section_from_dict(written)


def test_another_version_is_refused(harness):
    with pytest.raises(ValueError, match="schema_version is 2"):
        harness.records.section_from_dict(stored(harness) | {"schema_version": 2})


# ------------------------------------------------------------------------------------------------------- pages


def test_table(harness):
    lines = harness.records.table(make_section(harness)).splitlines()
    assert len(lines) == 5
    assert lines[2] == "| fast | slow | small | 100 | 0.4 × the time (0.25–0.5) | ≤ 0.3, **missed** | 0.2 | 50% |"
    assert lines[3] == "| fast | slow | small | 100 | 2.5 × as fast (2–4) | ≥ 2.5, met | 5 | 50% |"
    assert lines[4] == "| slow | fast | small | 400 | 2.5 × the time (2–4) |  |  |  |"


def test_page_and_the_readmes_part(harness, tmp_path):
    (tmp_path / "small-cpu.json").write_text(json.dumps(stored(harness)), encoding="utf-8")
    page = harness.page.make_page(tmp_path)
    for part in (
        "## A section",
        "`python benchmarks/speed.py small` on 2 cores, a processor, 1 threads; torch 2.13.0",
        "no such round: 3 of 4 (small).",
        "- *fast, small*: 2 against 5 products. Products take 90%.",
        "- Profile of *fast*: mm 90%, all others 10%.",
        "- Largest differences: output 1.0e-07.",
        "A note.",
    ):
        assert part in page
    assert harness.page.readme_part(tmp_path).splitlines()[2:] == [
        "| fast, small | slow | 0.4 × the time | ≤ 0.3 (missed) | 0.2 |",
        "| fast, small | slow | 2.5 × as fast | ≥ 2.5 | 5 |",
    ]


def test_rows_of_a_busy_machine_are_marked(harness, tmp_path):
    section = make_section(harness)
    section.turns["small"].others[:] = [0.4] * 4
    section.rows = [
        harness.records.compare(
            section.turns["small"], "fast", "slow", case="small", items=10, bar=0.3, count="", held_by=""
        )
    ]
    written = harness.records.section_to_dict(section, **facts())
    (tmp_path / "small-cpu.json").write_text(json.dumps(written), encoding="utf-8")
    assert "no such round: none of 4 (small)." in harness.page.make_page(tmp_path)
    *_, row, _, note = harness.page.readme_part(tmp_path).splitlines()
    assert row == r"| fast, small | slow | 0.45 × the time | ≤ 0.3 (missed) \* |  |"
    assert note.startswith(r"\* Other programs")


def test_put_between(harness):
    marks = ("<a>", "<b>")
    text = "x\n<a>\nold\n<b>\ny\n"
    changed = harness.page.put_between(text, marks, "new")
    assert changed == "x\n<a>\nnew\n<b>\ny\n"
    assert harness.page.put_between(changed, marks, "new") == changed
    for missing in marks:
        with pytest.raises(ValueError, match=f"no {missing}"):
            harness.page.put_between(text.replace(missing, ""), marks, "new")
