"""What a benchmark's results look like in Markdown, LaTeX, CSV and HTML, read back and compared with the numbers."""

import copy
import csv
import io
import json
import re
from html.parser import HTMLParser
from importlib import resources

import pytest
from handmade_results import NASTY, ONE_CLASS, SCRIPT, SETS, make_results

from mirage_hf.benchmark_metrics import METRICS
from mirage_hf.benchmark_report import to_csv, to_html, to_latex, to_markdown, validate_results
from mirage_hf.benchmark_tables import printable

COLUMNS = [*SETS, "BigGAN", "mean"]  # of the table of accuracies
OURS, ALIGNED = "mirage_tiny, raw", "mirage_tiny, aligned"


def shown(value):
    return "–" if value is None else f"{100 * value:.1f}"


def with_interval(block, metric):
    value, interval = block["metrics"][metric], block["intervals"][metric]
    return shown(value) + (f" [{shown(interval[0])}, {shown(interval[1])}]" if interval else "")


def expected_headline(results, metric, columns):
    """Name -> cells of a headline table, straight from the results."""
    rows = {}
    for row in results["published"]:
        if row["metric"] == metric:
            twice = [other["method"] for other in results["published"]].count(row["method"]) > 1
            name = f"{row['method']}, {row['note']}" if twice else row["method"]
            rows[f"{name} (published)"] = [shown(row["values"].get(column)) for column in columns]
    for view in ("raw", "aligned"):
        content = results["views"][view]
        sets = content["sets"]
        cells = [shown(sets[name]["metrics"][metric]) if name in sets else "–" for name in columns[:-1]]
        rows[f"mirage_tiny, {view}"] = [*cells, with_interval(content["mean"], metric)]
    nulls = {"raw": ["71.2", "55.0", "–", "–"], "aligned": ["50.1", "49.0", "52.3", "–"]}
    means = {"raw": "–", "aligned": "50.5"}  # raw: undefined for one set; aligned: (50.1 + 49 + 52.3) / 3
    for view, cells in nulls.items():
        blank = ["–"] * (len(columns) - 5)
        rows[f"metadata only, {view} (balanced acc.)"] = [*cells, *blank, means[view]]
    return rows


def expected_details(results, view, metrics):
    content = results["views"][view]
    rows = {name: [with_interval(block, metric) for metric in metrics] for name, block in content["sets"].items()}
    return rows | {"mean of 3": [with_interval(content["mean"], metric) for metric in metrics]}


def check_tables(tables, results):
    """`tables`: for each table, its header and its rows by name. The same check for every format."""
    assert len(tables) == 2 + 3 * 2 + 2
    for (header, rows), metric in zip(tables, ("accuracy", "average_precision"), strict=False):
        columns = COLUMNS if metric == "accuracy" else [*SETS, "mean"]
        assert header == ["method", *columns]
        expected = expected_headline(results, metric, columns)
        assert list(rows) == list(expected) and rows == expected
    parts = [list(METRICS)[:4], list(METRICS)[4:8], list(METRICS)[8:]]
    for place, view in enumerate(("raw", "aligned")):
        for (header, rows), metrics in zip(tables[2 + 3 * place : 5 + 3 * place], parts, strict=True):
            expected = expected_details(results, view, metrics)
            if metrics[0] == "accuracy":
                assert header[1:4] == ["real", "fake", "skipped"]
                assert rows[ONE_CLASS][:3] == ["1,234", "0", "0"]
                assert rows["Midjourney"][:3] == ["6,000", "6,000", "17" if view == "raw" else "0"]
                rows = {name: cells[3:] for name, cells in rows.items()}
            assert header[-4:] == [METRICS[metric] for metric in metrics]
            assert list(rows) == list(expected) and rows == expected
    header, rows = tables[8]
    assert header == ["method", "raw", "aligned", "jpeg_65", "mean"]
    means = [results["views"][view]["mean"] for view in ("raw", "aligned", "jpeg_65")]
    both = (means[0]["metrics"]["accuracy"] + means[2]["metrics"]["accuracy"]) / 2  # the views of the published row
    assert rows == {
        "GramNet, accuracy (published)": ["81.0", "–", "68.8", "74.9"],
        "mirage_tiny, accuracy": [*(with_interval(mean, "accuracy") for mean in means), shown(both)],
        "mirage_tiny, AP": [*(with_interval(mean, "average_precision") for mean in means), "–"],
        "metadata only, all rows pooled (balanced acc.)": ["61.7 [58.7, 64.7]", "61.7 [58.7, 64.7]", "–", "–"],
    }
    assert tables[9][1] == {"raw, Euclidean": ["0.123", "1.234", "1.346", "–"]}


# Markdown, read back by markdown-it, which knows nothing of ours.


def read_markdown(text):
    markdown_it = pytest.importorskip("markdown_it")
    tables, row = [], None
    tokens = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    for token in tokens:
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            row = []
            tables[-1].append(row)
        elif token.type == "tr_close":
            row = None
        elif token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.content
            if row is not None:
                row.append("".join(child.content for child in token.children))
    return [(rows[0], {row[0]: row[1:] for row in rows[1:]}) for rows in tables]


def test_markdown_reads_back_as_the_numbers():
    results = make_results()
    check_tables(read_markdown(to_markdown(results)), results)


@pytest.mark.parametrize("start", [0.3, 0.45])
def test_another_run_gives_other_numbers(start):
    """Negative control: the check of the tables fails on numbers that are not the run's."""
    results, other = make_results(), make_results()
    other["views"]["aligned"]["sets"][NASTY]["metrics"]["tpr_at_fpr_1"] = start
    tables = read_markdown(to_markdown(other))
    check_tables(tables, other)
    with pytest.raises(AssertionError):
        check_tables(tables, results)


def test_captions_say_what_was_done():
    captions = [line for line in to_markdown(make_results()).replace("\\", "").split("\n") if line[:1].isalpha()]
    accuracy, precision = captions[1:3]
    for words in (
        "Fake means a score above 0.5.",
        "The mean covers 3 sets, each counting the same (the protocol: eight generators)",
        "One class only, so outside the mean: [only]_reals.",
        "Refused: VQ_DM, since it holds 0 real and 5 fake images, and needs both.",
        "can't be read: 17 (raw).",
        "Published, not run here: UnivFD; CNN_Det, trained on A; CNN_Det, trained on B (MiraGe, Table 1).",
        "Published detectors were trained on Stable Diffusion 1.4.",
        "Not in this run, so the means are of different sets: BigGAN.",
        "on all rows pooled it scores 61.7 [58.7, 64.7] (raw)",
        "The null exceeds 60% on <b>Midjourney</b>.",
    ):
        assert words in accuracy
    assert "Fake means" not in precision and "BigGAN" not in precision  # no threshold; no published set of its own
    assert "(MiraGe, Table 1; on <ProGAN>)" in precision
    assert "Published detectors were trained on" not in precision  # the row says so itself


def test_a_run_without_extras():
    """No published rows, no nulls, no own threshold, one view: what is not there leaves no trace."""
    results = make_results()
    results |= {"published": [], "notes": []}
    del results["published_views"], results["refused"]
    results["model"]["threshold"] = None
    results["views"] = {"jpeg_65": results["views"]["jpeg_65"]}
    tables = read_markdown(to_markdown(results))
    assert [header[0] for header, _ in tables] == ["method", "method", "set", "set"]
    assert list(tables[0][1]) == ["mirage_tiny, jpeg_65"]
    assert not re.search("published|null|metadata|own threshold|refused", to_markdown(results), re.IGNORECASE)
    assert "One class only" in to_markdown(results) and "can't be read: none" in to_markdown(results)


def test_calibrated_headline_names_its_threshold_and_many_notes_are_cut():
    results = make_results()
    results["protocol"]["metrics"] = ["calibrated_accuracy"]
    results["notes"] = [f"note {number}!" for number in range(12)]
    del results["published_views"][0]["values"]["mean"]  # then there is none for ours to stand beside
    text = to_markdown(results)
    assert "| method | raw | aligned | jpeg\\_65 |\n" in text
    assert "above 0.6712, the detector's own threshold." in text
    assert "note 9! 2 more notes" in text and "note 10" not in text


def test_names_that_cannot_be_printed():
    assert printable("a\nb\x1b\u202e\udcff\xa0c") == "a b\ufffd\ufffd\ufffd c" and printable("") == "(no name)"
    results = make_results()
    for content in results["views"].values():
        content["sets"]["bad\n\udcff"] = content["sets"].pop(SCRIPT)
        content["mean"]["over"].remove(SCRIPT)
    for render in (to_markdown, to_latex, to_html, to_csv):
        render(results).encode()
    assert "Outside the mean: bad \ufffd." in to_markdown(results)


# LaTeX


UNESCAPED = [
    ("\\textbackslash{}", "\\"),
    ("\\textasciitilde{}", "~"),
    ("\\textasciicircum{}", "^"),
    ("\\textless{}", "<"),
    ("\\textgreater{}", ">"),
    ("\\textbar{}", "|"),
    ("{[}", "["),
    ("{]}", "]"),
    ("{*}", "*"),
    ("--", "–"),
]


def from_latex(text):
    protected = re.sub(r"\\([&%$#_{}])", lambda match: chr(0xE000 + ord(match[1])), text)
    for escaped, plain in UNESCAPED:
        protected = protected.replace(escaped, plain)
    return "".join(chr(ord(c) - 0xE000) if 0xE000 <= ord(c) < 0xE100 else c for c in protected).strip()


def read_latex(text):
    tables = []
    for table in re.findall(r"\\begin\{table\}(.*?)\\end\{table\}", text, re.S):
        header, rows = [], {}
        for block, (columns, body) in enumerate(
            re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", table, re.S)
        ):
            lines = [line for line in body.strip().split("\n") if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
            assert all(line.endswith(r" \\") for line in lines)
            cells = [[from_latex(cell) for cell in re.split(r"(?<!\\)&", line[:-3])] for line in lines]
            assert {len(row) for row in cells} == {len(columns)}  # as many & in every row as the preamble says
            header += cells[0] if block == 0 else cells[0][1:]
            for name, *values in cells[1:]:
                rows.setdefault(name, []).extend(values)
        tables.append((header, rows))
    return tables


def test_latex_reads_back_as_the_numbers():
    results = make_results()
    check_tables(read_latex(to_latex(results)), results)


def test_latex_is_balanced_and_needs_booktabs_only():
    text = to_latex(make_results())
    assert text.startswith("% ") and r"\usepackage{booktabs}" in text.split("\n")[0]
    body = re.sub(r"\\.", "", "\n".join(text.split("\n")[1:]))
    assert body.count("{") == body.count("}")
    assert re.sub(r"\\[a-z]+", "", body).isascii()
    assert not set(re.sub(r"(?<!\\)&", "", body.replace("~", ""))) & set("%#$^_<>|\\")  # all escaped
    used = set(re.findall(r"\\([a-zA-Z]+)", text))
    assert used <= set(
        "usepackage begin end centering footnotesize setlength tabcolsep caption label toprule midrule bottomrule "
        "medskip textbackslash textasciitilde textasciicircum textless textgreater textbar".split()
    )
    assert not re.search(r"\\\\\s*[\[*]", text)  # would be read as an argument of \\
    assert len(set(re.findall(r"\\label\{(.*?)\}", text))) == text.count(r"\label")
    assert "textbf" not in text


def test_latex_rule_between_published_and_run():
    lines = to_latex(make_results()).split("\n")
    start = lines.index(r"\label{tab:genimage-accuracy}")
    names = [line.split(" & ")[0] for line in lines[start + 4 : lines.index(r"\bottomrule", start)]]
    kinds = ["(published)" if name.endswith("(published)") else name.split(",")[0] for name in names]
    rule = r"\midrule"
    assert kinds == [rule, *["(published)"] * 3, rule, *[r"mirage\_tiny"] * 2, rule, *["metadata only"] * 2]


def test_wide_latex_tables_go_on_below_and_narrow_ones_do_not():
    results = make_results()
    first = to_latex(results).split(r"\end{table}")[0]
    headers = [line.split(" & ")[1:] for line in first.split("\n") if line.startswith("method & ")]
    assert 1 < len(headers) < 6 and sum(map(len, headers)) == 6
    assert all(sum(len(from_latex(name)) for name in columns) < 60 for columns in headers)
    sets = results["views"]["raw"]["sets"]
    results["views"] = {"raw": results["views"]["raw"] | {"sets": {name: sets[name] for name in ("Midjourney",)}}}
    results["views"]["raw"]["mean"]["over"] = ["Midjourney"]
    results["published"] = []
    first = to_latex(results).split(r"\end{table}")[0]
    assert first.count(r"\begin{tabular}") == 1


# CSV


def test_csv_gives_back_every_number():
    results = make_results()
    rows = list(csv.DictReader(io.StringIO(to_csv(results))))
    found = {
        (row["source"], row["view"], row["set"], row["metric"], row["method"], row["note"]): tuple(
            float(row[key]) if row[key] else None for key in ("value", "low", "high", "n_real", "n_fake")
        )
        for row in rows
    }
    assert len(found) == len(rows)
    expected = {}
    for view, content in results["views"].items():
        for name, block in [*content["sets"].items(), ("mean", content["mean"]), ("all rows", {})]:
            counts = (block.get("n_real"), block.get("n_fake"))
            if block:
                for metric, value in block["metrics"].items():
                    key = ("run", view, name, metric, "mirage_tiny", "")
                    expected[key] = (value, *(block["intervals"][metric] or (None, None)), *counts)
            null = content["null"] if name == "all rows" else block.get("null")
            if null:
                key = ("null", view, name, "balanced_accuracy", "metadata only", "")
                expected[key] = (null["balanced_accuracy"], *(null["interval"] or (None, None)), *counts)
                key = ("null", view, name, "roc_auc", "metadata only", "")
                expected[key] = (null["roc_auc"], None, None, *counts)
    for row in results["published"]:
        note = "; ".join(part for part in ("MiraGe, Table 1", row["note"]) if part)
        for name, value in row["values"].items():
            expected["published", "", name, row["metric"], row["method"], note] = (value, None, None, None, None)
    for row in results["published_views"]:
        for view, value in row["values"].items():
            place = ("", "mean") if view == "mean" else (view, "mean")
            key = ("published", *place, row["metric"], row["method"], "MiraGe, Table 1")
            expected[key] = (value, None, None, None, None)
    assert found == expected


# HTML


class Page(HTMLParser):
    """Tables, text, ids and everything that could be fetched; fails on tags that are not closed in order."""

    VOID = {"meta", "link", "img", "br", "input"}
    SELF_CLOSED_IN_SVG = {"path", "use", "rect"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.references, self.tables = [], [], [], [], []
        self.cell, self.style = None, ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        self.references += [
            (tag, name, value)
            for name, value in attributes
            if name in ("src", "href", "srcset", "xlink:href", "data", "action") or "url(" in (value or "")
        ]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        if self.cell:
            self.tables[-1][-1][-1] += data
        if "style" in self.open:
            self.style += data


SVG = '<?xml version="1.0"?><svg width="9" id="figure"><path id="m1"/><use href="#m1" clip-path="url(#m1)"/></svg>'


def test_html_reads_back_as_the_numbers():
    results = make_results()
    page = Page(to_html(results, {"Scores": SVG}))
    tables = [(rows[0], {row[0]: [cell.strip() for cell in row[1:]] for row in rows[1:]}) for rows in page.tables]
    check_tables(tables, results)
    interval = results["views"]["raw"]["sets"][NASTY]["intervals"]["accuracy"]
    hint = f"95% interval [{shown(interval[0])}, {shown(interval[1])}]"
    assert ("td", {"title": hint}) in page.tags


def test_html_fetches_nothing_and_runs_nothing():
    page = Page(to_html(make_results(), {"Scores": SVG, SCRIPT: SVG}))
    for tag, name, value in page.references:
        if tag == "a" and value.startswith("https:"):
            assert value == "https://arxiv.org/abs/2306.08571"  # a link, followed by people only
        else:
            target = value.removeprefix("url(").removesuffix(")")
            assert name in ("href", "clip-path") and target[0] == "#" and target[1:] in page.ids
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "b", "cpu", "base"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "url(" not in page.style and "@import" not in page.style
    assert len(set(page.ids)) == len(page.ids)


def test_html_can_be_read_by_everyone():
    page = Page(to_html(make_results(), {"Scores": SVG, SCRIPT: SVG}))
    assert ("html", {"lang": "en"}) in page.tags
    assert "prefers-color-scheme: dark" in page.style and "overflow-x: auto" in page.style
    assert [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"] == ["Scores", SCRIPT]
    assert all(attributes.get("role") == "img" for tag, attributes in page.tags if tag == "svg")
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    boxes = [attributes for tag, attributes in page.tags if attributes.get("class") == "scroll"]
    assert len(boxes) == len(page.tables) + 2 and all(box["tabindex"] == "0" for box in boxes)
    contents = [value[1:] for tag, name, value in page.references if tag == "a" and value[0] == "#"][1:]
    assert contents == [attributes["id"] for tag, attributes in page.tags if tag == "section"]


def test_html_holds_the_run():
    text = to_html(make_results())
    page = text[text.index("<details>") :]
    for key, value in [("python", "3.12.1"), ("device", "&lt;cpu&gt;"), ("revision", "none"), ("data", "a &amp; b")]:
        assert f"<dt>{key}</dt><dd>{value}</dd>" in page
    assert "<dt>degrade</dt><dd>jpeg_65</dd>" in page and "<dt>layout</dt><dd>genimage</dd>" in page


def test_picture_must_be_svg():
    with pytest.raises(ValueError, match="`pictures`: 'Scores' is no SVG markup"):
        to_html(make_results(), {"Scores": "<b>no</b>"})


# The schema


def test_schema_knows_the_metrics():
    schema = json.loads((resources.files("mirage_hf") / "benchmark.schema.json").read_text())
    assert schema["$defs"]["metric"]["enum"] == schema["$defs"]["metrics"]["required"] == list(METRICS)


def test_schema_is_one():
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(
        json.loads((resources.files("mirage_hf") / "benchmark.schema.json").read_text())
    )


def test_results_fit_the_schema_before_and_after_json():
    results = make_results()
    validate_results(results)
    validate_results(json.loads(json.dumps(results)))
    del results["published_views"]
    validate_results(results)


def at(results, path):
    for key in path[:-1]:
        results = results[key]
    return results, path[-1]


RAW = ("views", "raw")
FAULTS = [
    (("schema_version",), 2, "results.schema_version: "),
    (("protocol", "metrics", 0), "f1", r"results.protocol.metrics\[0\]: "),
    (("protocol", "threshold"), 1.5, "results.protocol.threshold: "),
    (("model", "threshold"), "0.5", "results.model.threshold: "),
    (("notes",), "a note", "results.notes: "),
    (("refused", "VQ_DM"), 5, "results.refused.VQ_DM: "),
    (("views",), {}, "results.views: "),
    ((*RAW, "sets", "Midjourney", "n_real"), -1, "results.views.raw.sets.Midjourney.n_real: "),
    ((*RAW, "sets", "Midjourney", "metrics", "roc_auc"), 52.0, "sets.Midjourney.metrics.roc_auc: 52.0 is greater"),
    ((*RAW, "sets", "Midjourney", "metrics", "roc_auc"), float("nan"), "metrics.roc_auc: nan is not finite"),
    ((*RAW, "sets", "Midjourney", "metrics", "auc"), 0.5, "sets.Midjourney.metrics: 'auc' is not one of"),
    ((*RAW, "sets", "Midjourney", "intervals", "roc_auc"), [0.1], "sets.Midjourney.intervals.roc_auc: "),
    ((*RAW, "sets", "Midjourney", "intervals", "roc_auc"), (0.6, 0.5), "Midjourney.intervals.roc_auc: .* upwards"),
    ((*RAW, "mean", "intervals", "accuracy"), (0.6, 0.5), "raw.mean.intervals.accuracy: .* upwards"),
    ((*RAW, "mean", "over"), ["x", "Midjourney"], "results.views.raw.mean.over: no set is called 'x'"),
    ((*RAW, "null"), {"balanced_accuracy": 0.5}, "results.views.raw.null: "),
    ((*RAW, "sets", "mean"), {}, "results.views.raw.sets: 'mean' "),
    ((*RAW, "representation", "Euclidean", "real_variation"), "1", "Euclidean.real_variation: "),
    (("published", 0, "values", "BigGAN"), 87.65, r"results.published\[0\].values.BigGAN: "),
    (("published", 0, "sources"), "x", r"results.published\[0\]: .*'sources' was unexpected"),
    (("published_views", 0, "metric"), "x", r"results.published_views\[0\].metric: "),
]


@pytest.mark.parametrize(("path", "value", "message"), FAULTS)
def test_a_fault_is_named_in_one_line(path, value, message):
    results = make_results()
    holder, key = at(results, path)
    holder[key] = value
    with pytest.raises(ValueError, match=message) as caught:
        validate_results(results)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "path", [("views",), ("published",), ("protocol", "metrics"), (*RAW, "mean"), (*RAW, "sets", SCRIPT, "null")]
)
def test_what_is_missing_is_named(path):
    results = make_results()
    holder, key = at(results, path)
    del holder[key]
    with pytest.raises(ValueError, match=f"'{key}' is a required property"):
        validate_results(results)


def test_nothing_changes_the_results():
    results = make_results()
    before = copy.deepcopy(results)
    for render in (to_markdown, to_latex, to_csv, to_html, validate_results):
        render(results)
    assert results == before
