"""Model cards: what they say stands in files, what no file says is refused, and the committed ones are current."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from handmade_results import make_results
from huggingface_hub import ModelCard
from noise_images import make_noise
from pushing import ROOT, make_measured, read, write

from mirage_hf import model_card
from mirage_hf.model_card import build_card, check_structure, is_sealed, seal, write_card
from mirage_hf.model_card_facts import CardFacts, find_results, read_facts, read_notes, results_within
from mirage_hf.model_card_figures import check_figures, pool, stands_in

sys.path.insert(0, str(ROOT / "benchmarks"))
from model_cards import TINY, make_cards, tiny_facts, vitl14_facts  # noqa: E402

LIMITS = (
    "GenImage's fakes and reals differ in file format and size",
    "No open detector is the best on every generator",
    "no proof of origin",
    "must not be used to accuse anyone",
    "screenshots",
    "recompressed",
    "edited",
    "generators that are newer",
    "photographs differ lightly",
)


@pytest.fixture(scope="module")
def measured(folders, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("measured")
    return make_measured(folders["full"], make_noise(folders["full"], root), root / "mine")


@pytest.fixture
def folder(measured, tmp_path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "mine"))


@pytest.fixture
def benchmark(folder) -> Path:
    """Results of a benchmark in the folder's `bench/`, made by hand, with names that are hard to print."""
    (folder / "bench").mkdir()
    results = make_results()
    results["arguments"] |= {"calibrate_on": None, "split": "test"}
    write(folder / "bench", "results.json", results)
    write(folder / "bench", "identity.json", {"detector": "a hash"})
    return folder / "bench" / "results.json"


def facts_of(folder: Path, *results: str, **options) -> CardFacts:
    return read_facts(folder, [folder / name for name in results], **{"is_adapter": False} | options)


def test_metadata_is_what_the_files_say(folder):
    (folder / "card.yaml").write_text("license: mit\ndatasets: [org/pictures]\ntags: [demo]\nbase_model: org/clip\n")
    card = ModelCard(str(build_card(facts_of(folder, "test/evaluation.json"), "org/named")))
    data, stored = card.data, read(folder, "test/evaluation.json")
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-classification", "mit")
    assert (data.base_model, data.base_model_relation) == ("org/clip", "finetune")
    assert data.datasets == ["org/pictures"] and data.metrics == ["accuracy", "average_precision", "roc_auc"]
    assert {"mirage", "demo", "ai-generated-image-detection"} <= set(data.tags) and data.model_name == "mine"
    for result in data.eval_results:
        metrics = stored["generators"][result.dataset_config]
        assert result.metric_value == round(metrics[result.metric_type], 4)
        assert result.metric_args["source"] == "test/evaluation.json" and result.dataset_split == "test"
        threshold = result.metric_args.get("threshold")
        assert threshold == (stored["threshold"] if result.metric_type == "balanced_accuracy" else None)
    assert len(data.eval_results) == 3


def test_what_is_not_known_is_left_out(folder, folders):
    data = ModelCard(str(build_card(facts_of(folder)))).data.to_dict()
    assert not {"license", "base_model", "base_model_relation", "datasets", "metrics", "model-index"} & set(data)
    config = read(Path(folders["adapter"]), "config.json")
    write(folder, "config.json", config)  # its base is a folder of this machine
    assert "base_model" not in build_card(facts_of(folder, is_adapter=True)).data.to_dict()
    write(folder, "config.json", config | {"base_model_name_or_path": "org/clip"})
    data = build_card(facts_of(folder, is_adapter=True)).data
    assert (data.base_model, data.base_model_relation) == ("org/clip", "adapter")


def test_limits_calibration_and_operating_points(folder):
    text = " ".join(str(build_card(facts_of(folder, "test/evaluation.json"))).split())
    assert not [limit for limit in LIMITS if limit not in text]
    found = read(folder, "config.json")["calibration"]
    assert f"Calibration `{found['id']}`, learned from 29 real and 19 fake images: {found['data']}." in text
    assert f"is `unsure` from {found['unsure_low']:.4g} to {found['unsure_high']:.4g}" in text
    assert f"at most {100 * found['unsure_alpha']:.4g}% are called fake" in text
    for point in found["operating_points"]:
        low, high = (f"{100 * end:.1f}" for end in point["tpr_interval"])
        assert f"[{low}, {high}]" in text and f"| {point['threshold']:.4g} |" in text
    assert "isn't calibrated" not in text and "@inproceedings{mirage2025" in text
    write(folder, "config.json", read(folder, "config.json") | {"calibration": None})
    text = " ".join(str(build_card(facts_of(folder))).split())
    assert "It isn't calibrated" in text and "Calibration `" not in text


def test_a_benchmark_in_the_card(folder, benchmark):
    facts = facts_of(folder, "bench/results.json", "test/evaluation.json")
    card = build_card(facts)
    text = str(card)
    assert "`bench/results.json`" in text and "cropped, JPEG 96" in text and facts.results[0].fingerprint == "a hash"
    index = {(r.dataset_config, r.metric_type): r for r in card.data.eval_results if r.dataset_type == "a & b"}
    sets = read(benchmark.parent, "results.json")["views"]["raw"]["sets"]
    assert {name for name, _ in index} == {name for name, block in sets.items() if block["n_fake"]}
    for (name, metric), result in index.items():
        key = "calibrated_balanced_accuracy" if metric == "balanced_accuracy" else metric
        assert result.metric_value == round(sets[name]["metrics"][key], 4)
    check_figures(text, facts)
    assert facts.results[0].own_threshold == 0.6712


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"value: 0\.\d+", "value: 0.9871", "model-index gives .* 0.9871"),
        (r"\| a \| 29 \| 19 \| \d+\.\d", "| a | 29 | 19 | 12.3", "says 12.3, and the results of that generator"),
        (r"\*\*all rows\*\*( \| \d+){2} \| \d+\.\d", "**all rows** | 29 | 19 | 12.34", "says 12.34"),
        ("## Training", "Finds 99.13% of them.\n\n## Training", "says 99.13"),
        (r"threshold: 0\.\d+", "threshold: 0.5", r"model-index gives balanced_accuracy 0\.\d+ threshold 0\.5"),
        ("dataset_name|config: a", "config: b", "/ b, and no results file says so"),
    ],
)
def test_every_figure_is_held_against_its_file(old, new, message, folder):
    facts = facts_of(folder, "test/evaluation.json")
    text = str(build_card(facts))
    check_figures(text, facts)
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    with pytest.raises(ValueError, match=message):
        check_figures(changed, facts)


def test_figures_of_one_generator_are_not_anothers(folder):
    """Two rows of the table that change their names are found, though every number in them stands in the file."""
    stored = read(folder, "test/evaluation.json")
    other = {name: 0.25 if isinstance(value, float) else value for name, value in stored["generators"]["a"].items()}
    write(folder / "test", "evaluation.json", stored | {"generators": stored["generators"] | {"b": other}})
    facts = facts_of(folder, "test/evaluation.json")
    text = str(build_card(facts))
    check_figures(text, facts)
    swapped = text.replace("| a | 29 |", "| x | 29 |").replace("| b | 29 |", "| a | 29 |").replace("| x |", "| b |")
    with pytest.raises(ValueError, match="the results of that generator"):
        check_figures(swapped, facts)


def test_what_counts_as_a_figure():
    numbers = pool([{"a": [0.12345, {"b": 1200}], "c": True, "d": "0.9", "e": -3.5}])
    assert numbers == {0.12345, 1200.0, 3.5}
    for token in ("12.3", "12", "0.12", "0.1235", "0.1234", "3.5", "1,200.0"):
        assert stands_in(token, numbers) == (token != "0.1234"), token  # 0.12345 is a little above, as it is stored
    assert not stands_in("0.9", numbers)


@pytest.mark.parametrize(
    "words", ["torch 2.13.0", "`0.77`", "[0.77 of a link](x/0.99)", "https://a.org/1.5", "in 2025"]
)
def test_what_is_no_figure(words, folder):
    facts = facts_of(folder)
    text = str(build_card(facts)) + f"\n{words.replace('0.77 of a ', '')}\n"
    check_figures(text, facts)


def test_own_words(folder):
    notes = "summary: 'AP {{ evaluation.mean.average_precision|percent }}'\nlimits: [Only noise.]\nname: Named\n"
    (folder / "card.yaml").write_text(notes)
    text = str(build_card(facts_of(folder, "test/evaluation.json")))
    mean = read(folder, "test/evaluation.json")["mean"]["average_precision"]
    assert f"# Named\n\nAP {100 * mean:.1f}\n" in text and "- Only noise.\n- **A score" in text
    with pytest.raises(ValueError, match="`summary` can't be filled in .*'evaluation' is undefined"):
        build_card(facts_of(folder))
    for content, message in (
        ("licence: mit", "holds licence: it takes base_model"),
        ("limits: none", "`limits` must be a list of texts"),
        ("name: [a]", "`name` must be a text"),
        ("a: [", "is no YAML"),
        ("- a", "holds"),
    ):
        (folder / "card.yaml").write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            read_notes(folder / "card.yaml")
        assert "\n" not in str(caught.value)


def test_a_changed_card_is_known_and_kept(folder):
    write_card(folder, is_adapter=False)
    made = (folder / "README.md").read_text()
    assert is_sealed(made) and not is_sealed(made.replace("real", "true", 1)) and not is_sealed("# A card\n")
    assert is_sealed(str(ModelCard(made)))  # however it was read and written
    (folder / "README.md").write_text(seal("old\n"))
    write_card(folder, is_adapter=False)
    assert (folder / "README.md").read_text() == made
    (folder / "README.md").write_text(made + "mine\n")
    write_card(folder, is_adapter=False)
    assert (folder / "README.md").read_text() == made + "mine\n"


def test_structure(folder):
    text = str(build_card(facts_of(folder)))
    check_structure(text)
    for old, new, message in (
        ("library_name: transformers", "library_name: timm", "`library_name` must be 'transformers'"),
        ("pipeline_tag: image-classification", "other: 1", "`pipeline_tag`"),
        ("tags:", "base_model: /home/me/clip\ntags:", "`base_model` must be of the form owner/name"),
        ("tags:", "datasets: [mine]\ntags:", "`datasets` must be"),
        ("## What it can't do", "## What it can do", "must hold"),
    ):
        with pytest.raises(ValueError, match=message):
            check_structure(text.replace(old, new, 1))


def test_results_files_are_found_and_told_apart(folder, benchmark):
    assert results_within(folder) == [folder / "bench" / "results.json", folder / "test" / "evaluation.json"]
    assert find_results([folder / "test", benchmark]) == [folder / "test" / "evaluation.json", benchmark]
    with pytest.raises(FileNotFoundError, match="holds no evaluation.json and no results.json"):
        find_results([folder])


def test_the_template_is_found_in_a_wheel_and_in_a_checkout(tmp_path, monkeypatch):
    assert model_card.template_path() == ROOT / "model_cards" / "template.md"
    package = tmp_path / "mirage_hf"
    (package / "model_cards").mkdir(parents=True)
    monkeypatch.setattr(model_card, "__file__", str(package / "model_card.py"))
    assert model_card.template_path() == tmp_path / "model_cards" / "template.md"
    (package / "model_cards" / "template.md").write_text("")
    assert model_card.template_path() == package / "model_cards" / "template.md"


def test_committed_cards_are_current_and_traceable():
    """`python benchmarks/model_cards.py` makes them. Every file that they name is there, with every figure."""
    for path, text in make_cards().items():
        assert path.read_text(encoding="utf-8") == text, path
        check_structure(text)
        for source in re.findall(r"^Source: `([^`]+)`", text, re.MULTILINE):
            assert (ROOT / source).is_file(), source
    data = ModelCard.load(TINY / "README.md").data
    assert len({result.dataset_config for result in data.eval_results}) == 8 and data.license == "apache-2.0"
    for result in data.eval_results:
        stored = json.loads((ROOT / result.metric_args["source"]).read_text(encoding="utf-8"))
        assert result.metric_value == round(stored["generators"][result.dataset_config][result.metric_type], 4)
    for facts in (tiny_facts(), vitl14_facts()):
        assert all((ROOT / source).is_file() for source in facts.sources if source != "config.json")


def test_the_card_to_come_has_no_results():
    text = (ROOT / "model_cards" / "mirage-vitl14.md").read_text(encoding="utf-8")
    data = ModelCard(text).data
    assert (data.base_model, data.base_model_relation) == ("openai/clip-vit-large-patch14", "adapter")
    assert data.eval_results is None and "isn't trained yet" in text and "AUC" not in text
    recipe = yaml.safe_load((ROOT / "training" / "recipes" / "genimage_sdv14.yaml").read_text(encoding="utf-8"))
    for name in ("learning_rate", "num_train_epochs", "temperature", "memory_size", "seed"):
        assert f"| `{name}` | {recipe[name]} |" in text
