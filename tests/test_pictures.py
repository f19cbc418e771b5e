"""Pictures hold the numbers they were given, come out the same every time, and refer to nothing outside."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from handmade_results import NASTY, ONE_CLASS, SCRIPT, SETS, make_results
from PIL import Image
from sklearn.metrics import roc_curve

import mirage_hf
from mirage_hf.pictures import (
    degradation_curves,
    embedding_map,
    figure_svg,
    generator_bars,
    heat_map,
    reliability_diagram,
    roc_curves,
    save_figure,
    score_histograms,
    sweep_curve,
    variation_against_accuracy,
)


def scores_of(seed, count=300, separation=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    scores = 1 / (1 + np.exp(-rng.normal(separation * (2 * labels - 1), 1.5)))
    scores[:2] = 0.0, 1.0
    return labels, scores


def embeddings(seed=0, count=40):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.normal(size=(count, 32)) + 9 * labels[:, None]
    generators = [("ADM", "_GLIDE")[i // 2 % 2] for i in range(count)]
    return images, labels, generators, np.array([np.zeros(32), np.full(32, 9.0)])


PICTURES = {
    "histograms": lambda: score_histograms({"a": scores_of(0), NASTY: scores_of(1)}, 0.5, 0.67),
    "reliability": lambda: reliability_diagram(*scores_of(2)),
    "roc": lambda: roc_curves({"a": scores_of(3), NASTY: scores_of(4)}),
    "bars": lambda: generator_bars(make_results(), "accuracy"),
    "degradations": lambda: degradation_curves(make_results(), "accuracy"),
    "map": lambda: embedding_map({"CLIP": embeddings(), NASTY: embeddings(1)}),
    "variation": lambda: variation_against_accuracy([("a", 0.5, 0.2, 0.81), (NASTY, 0.4, 0.3, 0.92)]),
    "heat map": lambda: heat_map([[0.9, 0.91], [0.92, None]], ["a", NASTY], ["x", "y"], "accuracy"),
    "sweep": lambda: sweep_curve([1, 2], [0.9, 0.91], [0.89, None], [0.92, None], ("m", NASTY)),
}


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def bars_of(container):
    return [bar.get_height() for bar in container]


def segments_of(axes):
    """The intervals drawn: arrays of (x, low, high), one for each call that drew some."""
    found = []
    for container in axes.containers:
        if hasattr(container, "has_yerr"):
            lines = container.lines[2][0].get_segments()
            found.append(np.array([[line[0, 0], line[0, 1], line[1, 1]] for line in lines if len(line)]))
    return found


# What is drawn is what was given


def test_histogram_bars_are_counts():
    sets = {"a": scores_of(0), "only reals": (np.zeros(3, int), np.array([0.1, 0.12, 1.0])), "none": ([], [])}
    figure = score_histograms(sets, 0.5, 0.6712)
    assert [axes.get_title() for axes in figure.axes] == list(sets)
    for axes, (labels, scores) in zip(figure.axes[:2], sets.values(), strict=False):
        for container, label in zip(axes.containers, (0, 1), strict=True):
            counts = [0] * 20
            for score, of in zip(scores, labels, strict=True):
                counts[min(int(score * 20), 19)] += of == label
            assert bars_of(container) == counts
        assert [line.get_xdata()[0] for line in axes.lines] == [0.5, 0.6712]
        real, fake = (container[0] for container in axes.containers)
        assert real.get_hatch() is None and fake.get_hatch()  # told apart without colours
    assert not figure.axes[2].containers and figure.axes[2].texts[0].get_text() == "no images"
    assert legend_of(figure) == ["real", "fake", "threshold (0.5)", "the detector's own threshold (0.6712)"]
    assert legend_of(score_histograms({"a": scores_of(0)}, 0.5))[2:] == ["threshold (0.5)"]


def test_reliability_points_are_means_of_bins():
    labels, scores = scores_of(5, 200)
    scores = np.where((scores > 0.4) & (scores < 0.6), 0.2, scores)  # an empty bin
    upper, lower = reliability_diagram(labels, scores).axes
    points, counts, gap = [], [], 0.0
    for place in range(15):
        inside = (scores > place / 15) & (scores <= (place + 1) / 15) | ((place == 0) & (scores == 0))
        counts.append(inside.sum())
        if inside.any():
            points.append((scores[inside].mean(), labels[inside].mean()))
            gap += inside.sum() / 200 * abs(points[-1][0] - points[-1][1])
    assert 0 in counts and sum(counts) == 200
    np.testing.assert_allclose(np.transpose(upper.lines[1].get_data()), points, rtol=1e-12)
    assert bars_of(lower.containers[0]) == counts
    assert [bar.get_x() for bar in lower.containers[0]] == pytest.approx(np.arange(15) / 15)
    assert upper.get_legend().get_texts()[1].get_text() == f"ECE {100 * gap:.1f}%"


@pytest.mark.parametrize(("labels", "scores", "count"), [([1, 1], [0.5, 0.51], 2), ([], [], 0)])
def test_reliability_of_one_class_has_counts_only(labels, scores, count):
    upper, lower = reliability_diagram(labels, scores).axes
    assert len(upper.lines) == 1 and upper.texts[0].get_text() == "one class only"
    assert sum(bars_of(lower.containers[0])) == count


def test_roc_lines_are_those_of_sklearn():
    curves = {"a": scores_of(6), "_b": scores_of(7, separation=0.2), "reals": (np.zeros(4, int), np.full(4, 0.3))}
    figure = roc_curves(curves)
    linear, log = figure.axes
    texts = legend_of(figure)
    for place, (labels, scores) in enumerate(list(curves.values())[:2]):
        false, true, _ = roc_curve(labels, scores)
        for line in (linear.lines[1 + place], log.lines[place]):
            np.testing.assert_array_equal(line.get_data(), [false, true])
        pairs = [(f > r) + 0.5 * (f == r) for f in scores[labels == 1] for r in scores[labels == 0]]
        assert texts[place].endswith(f"{('a', '_b')[place]}: AUC {100 * np.mean(pairs):.1f}")
    assert texts[2] == "reals: one class only"
    assert len(linear.lines) == 5 and len(log.lines) == 4
    for axes in (linear, log):
        assert [line.get_xdata() for line in axes.lines[-2:]] == [[0.01, 0.01], [0.1, 0.1]]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in log.lines[:2]}
    assert len(looks) == len({look[1] for look in looks}) == 2  # told apart without colours


def test_bars_are_the_values_with_their_intervals():
    results = make_results()
    figure = generator_bars(results, "accuracy")
    (axes,) = figure.axes
    shown = [name for name in SETS if name != ONE_CLASS]
    names = [*SETS, "BigGAN", "mean"]
    bars = [container for container in axes.containers if not hasattr(container, "has_yerr")]
    for container, drawn, view in zip(bars, segments_of(axes), ("raw", "aligned"), strict=True):
        content = results["views"][view]
        blocks = [*(content["sets"][name] for name in shown), content["mean"]]
        assert bars_of(container) == [block["metrics"]["accuracy"] for block in blocks]
        intervals = [block["intervals"]["accuracy"] for block in blocks]
        drawn = drawn[~np.isnan(drawn).any(axis=1)]
        np.testing.assert_allclose(drawn[:, 1:], intervals, rtol=1e-12)
        centres = [bar.get_x() + bar.get_width() / 2 for bar in container]
        np.testing.assert_allclose(drawn[:, 0], centres, rtol=1e-12)
        assert np.rint(centres).tolist() == [0, 1, 2, 5]
    assert sum(text.get_text() == "–" for text in axes.texts) == 4  # undefined: one class, and BigGAN
    published = [row["values"] for row in results["published"] if row["metric"] == "accuracy"]
    markers = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    for line, values in zip(markers, published, strict=True):
        points = [line.get_ydata()[place] for place, name in enumerate(names) if name in values]
        assert points == [values[name] for name in names if name in values]
        assert np.isfinite(line.get_ydata()).sum() == len(values)
        assert line.get_linestyle() == "None"
    assert legend_of(figure)[:3] == ["mirage_tiny, raw", "mirage_tiny, aligned", "UnivFD (published)"]
    assert len(legend_of(figure)) == 2 + len(published)
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert ticks[:2] == ["Midjourney", SCRIPT[:17] + "…"] and ticks[-1] == "mean"


def test_many_sets_take_more_rows():
    results = make_results()
    sets = results["views"]["raw"]["sets"]
    sets |= {f"set {number}": sets["Midjourney"] for number in range(14)}
    figure = generator_bars(results, "roc_auc")
    assert [len(axes.get_xticks()) for axes in figure.axes] == [10, 9]
    assert figure.axes[1].get_xlim() == figure.axes[0].get_xlim()


def test_degradation_points_are_the_means():
    results = make_results()
    for view in ("resize_112", "resize_64"):
        results["views"][view] = results["views"]["jpeg_65"]
    figure = degradation_curves(results, "accuracy")
    members = {
        "jpeg": ["raw", "jpeg_65"],
        "resize": ["raw", "resize_112", "resize_64"],
        "other": ["raw", "aligned"],
    }
    assert [axes.get_title() for axes in figure.axes] == list(members)
    for axes, (kind, views) in zip(figure.axes, members.items(), strict=True):
        means = [results["views"][view]["mean"] for view in views]
        assert axes.lines[0].get_ydata().tolist() == [mean["metrics"]["accuracy"] for mean in means]
        intervals = [mean["intervals"]["accuracy"] for mean in means]
        np.testing.assert_allclose(segments_of(axes)[0][:, 1:], intervals, rtol=1e-12)
        ticks = [tick.get_text() for tick in axes.get_xticklabels()]
        assert ticks == [view.removeprefix(f"{kind}_") for view in views]
        assert (axes.lines[0].get_linestyle() == "None") == (kind == "other")
    published = next(line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white")
    assert published.get_ydata().tolist() == [0.81, 0.688]
    assert legend_of(figure) == ["mirage_tiny, this run", "GramNet (published)"]
    given = [{"method": "DIRE", "metric": "accuracy", "values": {"jpeg_65": 0.854}, "source": "MiraGe, Table 10"}]
    assert legend_of(degradation_curves(results, "accuracy", given))[1:] == ["DIRE (published)"]
    assert legend_of(degradation_curves(results, "roc_auc")) == ["mirage_tiny, this run"]


def test_map_places_anchors_with_their_class():
    figure = embedding_map({"CLIP": embeddings(), "MiraGe": embeddings(1)})
    assert [axes.get_title() for axes in figure.axes] == ["CLIP", "MiraGe"]
    assert legend_of(figure) == [
        "real",
        "ADM",
        "_GLIDE",
        "text: real",
        "text: fake",
    ]
    for axes in figure.axes:
        real, adm, glide, real_anchor, fake_anchor = (np.transpose(line.get_data()) for line in axes.lines)
        assert [len(points) for points in (real, adm, glide, real_anchor, fake_anchor)] == [20, 10, 10, 1, 1]
        fake = np.concatenate([adm, glide])
        for anchor, own, other in ((real_anchor, real, fake), (fake_anchor, fake, real)):
            near, far = (np.linalg.norm(points - anchor, axis=1) for points in (own, other))
            assert near.max() < far.min()
    again, other = (embedding_map({"CLIP": embeddings()}, seed=seed).axes[0] for seed in (0, 1))
    assert np.array_equal(again.lines[0].get_data(), figure.axes[0].lines[0].get_data())
    assert not np.array_equal(again.lines[0].get_data(), other.lines[0].get_data())


def test_variation_points():
    rows = [("a", 0.5, 0.2, 0.81), ("_b", 0.4, 0.3, 0.92)]
    assert np.isnan(variation_against_accuracy([("a", None, 0.2, 0.8)]).axes[0].lines[0].get_xdata()[0])
    figure = variation_against_accuracy(rows)
    for axes, column in zip(figure.axes, (1, 2), strict=True):
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines] == [(r[column], r[3]) for r in rows]
        assert len({line.get_marker() for line in axes.lines}) == 2
    assert legend_of(figure) == ["a", "_b"]


def test_heat_map_prints_each_number_in_its_cell():
    values = [[0.9, 0.914, None], [0.926, 0.1, 0.333]]
    (axes,) = heat_map(values, ["λ = 0.1", "λ = 1"], ["256", "512", "1024"], "accuracy").axes
    texts = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    for row, column in np.ndindex(2, 3):
        value = values[row][column]
        assert texts[column + 0.5, row + 0.5] == ("–" if value is None else f"{100 * value:.1f}")
    assert axes.get_title() == "accuracy (%)"
    colours = axes.collections[0].get_array()
    assert colours.mask.tolist() == [[False, False, True], [False] * 3] and colours[1, 2] == 0.333
    assert axes.yaxis_inverted() and [tick.get_text() for tick in axes.get_yticklabels()] == ["λ = 0.1", "λ = 1"]
    light = {text.get_text(): text.get_color() for text in axes.texts}
    assert light["92.6"] == "black" and light["10.0"] == "white"


def test_sweep_points_and_intervals():
    (axes,) = sweep_curve(
        [1, 2, 4], [0.9, 0.92, 0.91], [0.89, None, 0.9], [0.95, None, 0.93], ("tokens", "accuracy")
    ).axes
    assert axes.lines[0].get_ydata().tolist() == [0.9, 0.92, 0.91]
    (drawn,) = segments_of(axes)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    np.testing.assert_allclose(drawn, [[0, 0.89, 0.95], [2, 0.9, 0.93]], rtol=1e-12)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tokens", "accuracy (%)")


def test_percent_ticks_are_not_rounded():
    axes = variation_against_accuracy([("a", 0.5, 0.2, 0.6), ("b", 0.4, 0.3, 0.75)]).axes[0]
    assert axes.yaxis.get_major_formatter()(0.625, None) == "62.5"


# Files


@pytest.fixture(scope="module")
def markup():
    return {name: figure_svg(draw()) for name, draw in PICTURES.items()}


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_numbers_give_the_same_bytes(name, markup):
    with matplotlib.rc_context(
        {"axes.facecolor": "black", "svg.hashsalt": "x", "font.size": 20, "svg.fonttype": "path"}
    ):
        assert figure_svg(PICTURES[name]()) == markup[name]


@pytest.mark.parametrize("name", PICTURES)
def test_svg_refers_to_nothing_outside(name, markup):
    text = markup[name]
    assert text.startswith("<svg") and "<!DOCTYPE" not in text
    root = ElementTree.fromstring(text)
    tags = {element.tag.split("}")[1] for element in root.iter()}
    assert tags <= {"svg", "defs", "style", "g", "path", "use", "text", "tspan", "clipPath", "rect", "pattern"}
    assert "text" in tags  # text as text
    ids = {element.get("id") for element in root.iter()}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href"):
                assert value[0] == "#" and value[1:] in ids
            for target in re.findall(r"url\((.*?)\)", value):
                assert target[0] == "#" and target[1:] in ids
    assert not re.search(r"https?:", re.sub(r' xmlns(:xlink)?="[^"]*"', "", text))


def test_names_stand_in_svg_as_they_are(markup):
    for name in ("histograms", "roc", "map", "variation", "heat map"):
        texts = "".join(ElementTree.fromstring(markup[name]).itertext())
        assert NASTY[:13] in texts  # `$x$` is no formula


def test_other_numbers_give_other_bytes(markup):
    assert figure_svg(reliability_diagram(*scores_of(8))) != markup["reliability"]


def test_a_figure_can_be_written_twice(tmp_path):
    figure = PICTURES["roc"]()
    assert figure_svg(figure) == figure_svg(figure)
    figure, again = PICTURES["sweep"](), PICTURES["sweep"]()
    for suffix in ("svg", "png", "pdf"):
        paths = [tmp_path / f"{number}.{suffix}" for number in range(2)]
        save_figure(figure, paths[0])
        save_figure(again, str(paths[1]))
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert Image.open(tmp_path / "0.png").size[0] == 700  # 3.5 inches at 200 dots
    pdf = (tmp_path / "0.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf and b"Producer" not in pdf
    assert (tmp_path / "0.svg").read_text(encoding="utf-8") == figure_svg(figure)


@pytest.mark.parametrize("name", ["a.jpg", "a"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: the suffix must be one of .svg, .png, .pdf"):
        save_figure(PICTURES["sweep"](), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_settings_stay_and_pyplot_is_never_imported():
    """In a process of its own, without the package's __init__: importing is cheap, drawing leaves nothing behind."""
    code = f"""
import sys, types
package = types.ModuleType("mirage_hf")
package.__path__ = [{str(Path(mirage_hf.__file__).parent)!r}]
sys.modules["mirage_hf"] = package
from mirage_hf.pictures import figure_svg, sweep_curve
assert not {{"matplotlib", "sklearn", "torch"}} & set(sys.modules)
import matplotlib
before = matplotlib.rcParams.copy()
figure_svg(sweep_curve([1], [0.5], [0.4], [0.6], ("x", "y")))
assert "matplotlib.pyplot" not in sys.modules
assert len(before) > 100  # all but the backend, which looking at would choose
assert all(before[key] == matplotlib.rcParams[key] for key in before if key != "backend")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# What can't be drawn


IMAGES, LABELS, GENERATORS, TEXT = embeddings()
REFUSED = [
    (lambda: score_histograms({}, 0.5), "`sets` is empty"),
    (lambda: score_histograms({"a": ([0, 1], [0.5])}, 0.5), "'a': labels of shape"),
    (lambda: score_histograms({"a": ([0, 2], [0.5, 0.5])}, 0.5), "'a': labels must be 0"),
    (lambda: score_histograms({"a": ([0, 1], [0.5, np.nan])}, 0.5), "'a': scores must lie in"),
    (lambda: reliability_diagram([0, 1], [0.5, 1.6]), "`scores`: scores must lie in"),
    (lambda: roc_curves({}), "`curves` is empty"),
    (lambda: roc_curves({"a": ([1, 1], [0.5, 0.6])}), "`curves`: none has both"),
    (lambda: generator_bars(make_results(), "auc"), "`metric` is 'auc': choose one of accuracy, "),
    (lambda: degradation_curves(make_results(), "auc"), "`metric` is 'auc'"),
    (
        lambda: degradation_curves(make_results() | {"views": {"raw": make_results()["views"]["raw"]}}, "accuracy"),
        r"one view \(raw\)",
    ),
    (lambda: embedding_map({}), "`embeddings` is empty"),
    (lambda: embedding_map({"a": (IMAGES, LABELS, GENERATORS, TEXT[:1])}), r"'a': embeddings must be"),
    (lambda: embedding_map({"a": (IMAGES, LABELS[1:], GENERATORS, TEXT)}), "'a': 40 images, 39 labels"),
    (lambda: embedding_map({"a": (IMAGES, LABELS, GENERATORS[1:], TEXT)}), "39 generators"),
    (lambda: embedding_map({"a": (IMAGES * np.inf, LABELS, GENERATORS, TEXT)}), "'a': an embedding isn't finite"),
    (lambda: embedding_map({"a": (IMAGES[:4], LABELS[:4], GENERATORS[:4], TEXT)}), "4 images are too few"),
    (lambda: variation_against_accuracy([]), "`rows` is empty"),
    (lambda: heat_map([[0.5]], ["a", "b"], ["c"], ""), r"`values` of shape \(1, 1\)"),
    (lambda: heat_map([[None]], ["a"], ["c"], ""), "`values` holds no number"),
    (lambda: sweep_curve([1], [0.5], [0.4], [0.6, 0.7], ("x", "y")), "don't fit 1 values of `x`"),
    (lambda: sweep_curve([], [], [], [], ("x", "y")), "don't fit 0 values of `x`"),
]


@pytest.mark.parametrize(("draw", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_drawn_is_said_in_one_line(draw, message):
    with pytest.raises(ValueError, match=message) as caught:
        draw()
    assert "\n" not in str(caught.value)
