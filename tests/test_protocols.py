"""The table of protocols, and the published numbers that stand beside it."""

import pytest

from mirage_hf.layouts import find_layout
from mirage_hf.protocols import PROTOCOLS, find_protocol
from mirage_hf.published import TABLES, published_results, read_rows

COLUMNLESS = ("openfake", "communityforensics", "auto")  # read by columns, or recognised


def test_names_are_unique_and_layouts_exist():
    assert len({protocol.name for protocol in PROTOCOLS}) == len(PROTOCOLS)
    for protocol in PROTOCOLS:
        if protocol.layout not in COLUMNLESS:
            assert find_layout(protocol.layout).name == protocol.layout


def test_no_generator_belongs_to_two_sets():
    for protocol in PROTOCOLS:
        for test_set in protocol.sets:
            names = (test_set.name, *test_set.aliases)
            assert [sum(other.matches(name) for other in protocol.sets) for name in names] == [1] * len(names)


@pytest.mark.parametrize(
    ("protocol", "generator", "name"),
    [
        ("genimage", "stable_diffusion_v_1_4", "SDv1.4"),
        ("genimage", "glide", "GLIDE"),
        ("genimage", "wukong", "Wukong"),
        ("GenImage", "sdxl", None),
        ("ufd", "seeingdark", "SITD"),
        ("ufd", "dalle", "DALL-E"),
        ("ufd", "ldm_200_cfg", "LDM_200_cfg"),
        ("ufd", "stylegan2", None),  # in ForenSynths, not among the nineteen
        ("cross-dataset", "sd3.5", "SD 3.5"),
        ("cifake", "unknown", "CIFAKE"),
        ("folder", "anything", "anything"),
    ],
)
def test_generators_are_found_by_the_names_of_their_folders(protocol, generator, name):
    assert find_protocol(protocol).set_of(generator) == name


def test_numbers_of_sets():
    counts = {protocol.name: len(protocol.sets) for protocol in PROTOCOLS if len(protocol.sets) > 1}
    assert counts == {"genimage": 8, "ufd": 19, "crossdataset": 5, "aigcdetectbenchmark": 16}


def test_unknown_protocol():
    with pytest.raises(ValueError, match="unknown protocol 'imagenet': choose one of genimage, ufd"):
        find_protocol("imagenet")


def test_published_sets_are_those_of_the_protocol():
    for protocol in PROTOCOLS:
        names = {test_set.name for test_set in protocol.sets} | {"mean"}
        for row in published_results(protocol.published):
            assert set(row["values"]) <= names and row["metric"] in protocol.metrics
            assert all(0 <= value <= 1 for value in row["values"].values())


def test_published_rows_by_hand():
    rows = {row["method"]: row for row in published_results(find_protocol("genimage").published)}
    assert len(rows) == 18
    assert rows["MiraGe"]["values"]["BigGAN"] == 0.965 and rows["MiraGe"]["values"]["mean"] == 0.926
    assert rows["MiraGe"]["source"] == "MiraGe, Tables 1 and 11"
    cross = [row for row in published_results(find_protocol("crossdataset").published) if row["method"] == "UnivFD"]
    assert {row["metric"]: row["values"]["Sora"] for row in cross} == {"accuracy": 0.498, "average_precision": 0.442}
    chameleon = published_results(find_protocol("chameleon").published)
    fake = {row["note"]: row for row in chameleon if (row["method"], row["metric"]) == ("MiraGe", "fake_accuracy")}
    assert fake["trained on SDv1.4"]["values"] == {"Chameleon": 0.2973}
    assert len(fake) == 3


def test_printed_means_are_the_means_of_the_printed_rows_or_it_is_said():
    """A typing error of ours would show here; three means are printed so in the paper."""
    rows = [row for protocol in PROTOCOLS for row in published_results(protocol.published)]
    notes = {row["method"]: row["note"] for row in rows if row["note"].startswith("printed mean")}
    assert notes == {
        "F3Net": "printed mean 68.7, the row's is 68.4",
        "DIRE": "printed mean 71.2, the row's is 66.7",
        "De-fake": "printed mean 84.7, the row's is 82.1",
    }
    for row in read_rows("ablation_genimage"):
        numbers = [
            float(row[name]) for name in ("Midjourney", "SDv1.4", "SDv1.5", "ADM", "GLIDE", "Wukong", "VQDM", "BigGAN")
        ]
        assert abs(sum(numbers) / 8 - float(row["mean"])) < 0.1


def test_every_table_is_there():
    for name in TABLES:
        assert read_rows(name)
    with pytest.raises(ValueError, match="no published table 'genimage'"):
        read_rows("genimage")
