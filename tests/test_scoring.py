"""Bulk scoring: every image once with the detector's own answer, however the work is split, killed or gone on with."""

import json
import multiprocessing
import os
import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk import arguments, assert_same_rows, encoded, rows, score, shards, write_images, write_nasty

from mirage_hf import Detector
from mirage_hf.scoring import run_scoring
from mirage_hf.scoring_files import temporary_name
from mirage_hf.scoring_inputs import Entry
from mirage_hf.scoring_job import DetectorSettings, ShardJob
from mirage_hf.scoring_listing import StoredListing, write_listing
from mirage_hf.scoring_plan import default_shard_size
from mirage_hf.scoring_shard import SCHEMA, read_stats, score_shard
from mirage_hf.scoring_walk import InputLister
from mirage_hf.scoring_workers import ShardFailed, _work, run_decoders


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """One thread a process, whatever machine this is: such are forked, so that what is patched here counts."""
    monkeypatch.setattr("mirage_hf.scoring.usable_cores", lambda: 1)


@pytest.fixture(scope="module")
def model(folders) -> str:
    return folders["full"]


@pytest.fixture(scope="module")
def detector(model) -> Detector:
    return Detector.from_pretrained(model, device="cpu", batch_size=3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """20 good images and one that isn't."""
    folder = write_images(tmp_path_factory.mktemp("photos"))
    (folder / "a" / "cut.png").write_bytes(encoded(3)[:100])
    return folder


@pytest.fixture(scope="module")
def expected(photos, model, tmp_path_factory):
    """The rows of one process that was left alone."""
    output = tmp_path_factory.mktemp("expected")
    summary = score(photos, model, output, workers=64)
    assert (summary.images, summary.shards, summary.unreadable, summary.complete) == (21, 6, 1, True)
    return rows(output)


def in_a_fork(function, *args):
    """Runs it in a child that may be killed, and leads a group of processes."""

    def lead():
        os.setpgrp()
        function(*args)

    process = multiprocessing.get_context("fork").Process(target=lead)
    process.start()
    return process


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


class TestScoreShard:
    def test_rows_are_the_detector_s_answers(self, detector, photos, tmp_path):
        files = sorted(photos.rglob("*.png"))
        entries = [Entry(100 + number, os.fsencode(file), str(file)) for number, file in enumerate(files)]
        batches = []
        stats = score_shard(detector, iter(entries), tmp_path / "x.parquet", {"mirage_hf.run": "r"}, batches.append)
        table = pq.read_table(tmp_path / "x.parquet")
        assert table.schema.equals(SCHEMA) and table.num_rows == 21 and batches == [3] * 7
        expected = [
            detection.to_dict() | {"index": 100 + number, "path_bytes": os.fsencode(file)}
            for number, (file, detection) in enumerate(zip(files, detector.score(files), strict=True))
        ]
        assert_same_rows(table.to_pylist(), expected)
        assert stats.images == 21 and stats.unreadable == 1 and stats.status == {"ok": 20, "corrupt": 1}
        assert sum(stats.verdict.values()) == 20 and stats.seconds > 0
        metadata = {
            key.decode(): value.decode() for key, value in pq.read_metadata(tmp_path / "x.parquet").metadata.items()
        }
        assert metadata["mirage_hf.model"] == detector.name and metadata["mirage_hf.revision"] == detector.revision
        assert metadata["mirage_hf.calibration_id"] == "" and metadata["mirage_hf.version"] == "0.1.0"
        assert pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
        assert read_stats(tmp_path / "x.parquet", {"mirage_hf.run": "r"}) == stats
        assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]

    def test_without_images(self, detector, tmp_path):
        assert score_shard(detector, [], tmp_path / "x.parquet").images == 0
        assert pq.read_table(tmp_path / "x.parquet").num_rows == 0

    def test_a_failure_leaves_neither_file_nor_temporary(self, detector, tmp_path):
        def failing():
            yield Entry(0, b"a", encoded(0))
            raise MemoryError

        with pytest.raises(MemoryError):
            score_shard(detector, failing(), tmp_path / "x.parquet")
        assert list(tmp_path.iterdir()) == []

    def test_what_is_no_finished_shard(self, detector, tmp_path):
        file = tmp_path / "x.parquet"
        score_shard(detector, [Entry(0, b"a", encoded(0))], file, {"mirage_hf.run": "r", "mirage_hf.shard": "1"})
        assert read_stats(file, {"mirage_hf.run": "r", "mirage_hf.shard": "1"}).images == 1
        assert read_stats(file, {"mirage_hf.run": "s", "mirage_hf.shard": "1"}) is None
        assert read_stats(file, {"mirage_hf.run": "r", "mirage_hf.shard": "2"}) is None
        assert read_stats(tmp_path / "y.parquet", {}) is None
        pq.write_table(pa.table({"a": [1]}), tmp_path / "z.parquet")
        assert read_stats(tmp_path / "z.parquet", {}) is None
        for kept in (0, 10, len(file.read_bytes()) - 1):
            file.write_bytes(file.read_bytes()[:kept])
            assert read_stats(file, {}) is None


class TestSplits:
    def test_positions_and_paths(self, expected, photos):
        assert [row["index"] for row in expected] == list(range(21))
        assert [row["path_bytes"] for row in expected] == [os.fsencode(path) for path in sorted(photos.rglob("*.png"))]

    @pytest.mark.parametrize("options", [{"workers": 3}, {"workers": 2, "batch_size": 3}])
    def test_processes(self, expected, photos, model, tmp_path, options):
        summary = score(photos, model, tmp_path, **options)
        assert summary.images_scored == 21 and summary.complete
        assert_same_rows(rows(tmp_path), expected)

    def test_parts(self, expected, photos, model, tmp_path):
        listed = score(photos, model, tmp_path, list_only=True)
        assert listed.shards_finished == 0 and shards(tmp_path) == []
        found = [score([], model, tmp_path, part=(index, 4)) for index in (2, 0, 3)]
        assert not any(summary.complete for summary in found) and not (tmp_path / "summary.json").exists()
        found.append(score(photos, model, tmp_path, part=(1, 4)))  # with the input named again
        assert found[-1].complete and [summary.shards for summary in found] == [1, 2, 1, 2]
        assert sum(summary.images for summary in found) == sum(summary.images_scored for summary in found) == 21
        assert_same_rows(rows(tmp_path), expected)
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["images"] == 21 and summary["status"] == {"corrupt": 1, "ok": 20}

    def test_shard_size_changes_files_not_rows(self, expected, photos, model, tmp_path):
        score(photos, model, tmp_path, shard_size=9)
        assert len(shards(tmp_path)) == 3
        assert_same_rows(rows(tmp_path), expected)

    def test_default_shard_size(self):
        sizes = [default_shard_size(images) for images in (1, 100, 3200, 1_000_000, 10**9)]
        assert sizes == [16, 16, 100, 1000, 100_000]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_decoders_for_one_network(self, expected, photos, detector, tmp_path, workers):
        """What a GPU gets, here on the CPU."""
        listing = StoredListing(write_listing(InputLister([str(photos)]), tmp_path), "/", 4)
        files = {shard: (tmp_path / f"shard-{shard}.parquet", {}) for shard in range(7)}  # the last one is empty
        job = ShardJob(DetectorSettings("unused", batch_size=3), listing, files, detector=detector)
        reported = []
        events = list(run_decoders(job, range(7), workers, reported.append))
        assert [event.stats.images for event in events] == [4, 4, 4, 4, 4, 1, 0] and sum(reported) == 21
        assert_same_rows(rows(tmp_path), expected)


class TestNasty:
    def test_every_file_has_its_row(self, model, tmp_path):
        statuses = write_nasty(tmp_path / "in")
        summary = score(tmp_path / "in", model, tmp_path / "out", workers=2, sha256=True)
        found = {os.path.basename(row["path_bytes"]): row for row in rows(tmp_path / "out")}
        assert found.keys() == statuses.keys() and summary.images == len(statuses)
        for name, status in statuses.items():
            assert found[name]["status"] == status or (status is None and found[name]["status"] != "ok"), name
            assert (found[name]["error"] is None) == (found[name]["p_fake"] is not None) == (status == "ok")
        assert found[b"caf\xe9.png"]["path"].endswith("caf\\xe9.png")
        assert found["ü – 图.png".encode()]["path"].endswith("ü – 图.png")
        assert len({found[name]["sha256"] for name, status in statuses.items() if status == "ok"}) == 1
        assert summary.unreadable == sum(status != "ok" for status in statuses.values())

    def test_limits(self, model, tmp_path):
        from mirage_hf.image_io import ImageLimits

        write_nasty(tmp_path / "in")
        score(tmp_path / "in", model, tmp_path / "out", limits=ImageLimits(min_side=64, max_aspect_ratio=50))
        found = {os.path.basename(row["path_bytes"]): row["status"] for row in rows(tmp_path / "out")}
        assert found[b"caf\xe9.png"] == found[b"long.png"] == "too_small"


class TestKilled:
    @pytest.mark.parametrize("kill", [os.killpg, os.kill], ids=["everything", "the parent"])
    def test_sigkill_and_resume_leaves_every_image_exactly_once(
        self, expected, photos, model, tmp_path, monkeypatch, kill
    ):
        judge = Detector.judge
        with monkeypatch.context() as patch:
            patch.setattr(Detector, "judge", lambda *args: time.sleep(0.1) or judge(*args))
            process = in_a_fork(score, photos, model, tmp_path)
            wait_for(lambda: len(shards(tmp_path)) == 2 and list(tmp_path.glob(".*")))
            kill(process.pid, signal.SIGKILL)
            process.join()
        wait_for_rest(tmp_path)  # a worker notices that it is alone
        done = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
        assert 2 <= len(done) < 6
        assert kill is os.kill or len(list(tmp_path.glob(".shard-*"))) == 1
        summary = score(photos, model, tmp_path)
        assert summary.images_scored == 21 - 4 * len(done) and summary.images == 21 and summary.complete
        assert {path: path.stat().st_mtime_ns for path in done} == done
        assert_same_rows(rows(tmp_path), expected)
        assert not list(tmp_path.glob(".*"))

    def test_a_killed_worker_costs_its_shard_and_is_reported(self, expected, photos, model, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(StoredListing, "entries", killed_at(2, StoredListing.entries))
            summary = score(photos, model, tmp_path, workers=2)
        assert summary.failures == {2: "its process was killed, as happens when memory runs out"}
        assert summary.shards_finished == 5 and not summary.complete and not list(tmp_path.glob(".*"))
        assert score(photos, model, tmp_path).images_scored == 4
        assert_same_rows(rows(tmp_path), expected)

    def test_when_all_workers_are_gone_the_rest_is_reported_too(self, photos, model, tmp_path, monkeypatch):
        monkeypatch.setattr(StoredListing, "entries", killed_at(1, StoredListing.entries))
        summary = score(photos, model, tmp_path, workers=1)
        assert summary.shards_finished == 1 and set(summary.failures) == {1, 2, 3, 4, 5}
        assert summary.failures[2] == "no process was left for it"

    @pytest.mark.parametrize(("error", "unfinished"), [(MemoryError(), {2}), (OSError("No space left"), {2, 3, 4, 5})])
    def test_out_of_memory_costs_a_shard_and_a_full_disk_stops(
        self, photos, model, tmp_path, monkeypatch, error, unfinished
    ):
        entries = StoredListing.entries

        def failing(self, shard):
            if shard == 2:
                raise error
            return entries(self, shard)

        monkeypatch.setattr(StoredListing, "entries", failing)
        summary = score(photos, model, tmp_path)
        assert list(summary.failures) == [2] and summary.shards_finished == 6 - len(unfinished)
        assert ("out of memory" if isinstance(error, MemoryError) else "OSError: No space left") in summary.failures[2]

    def test_ctrl_c_ends_the_workers_and_leaves_no_temporaries(self, photos, model, tmp_path, monkeypatch, capfd):
        judge = Detector.judge
        monkeypatch.setattr(Detector, "judge", lambda *args: time.sleep(0.2) or judge(*args))

        def interrupted():
            try:
                score(photos, model, tmp_path, workers=2)
            except KeyboardInterrupt:
                os._exit(77)

        process = in_a_fork(interrupted)
        wait_for(lambda: shards(tmp_path))
        os.killpg(process.pid, signal.SIGINT)  # as from a terminal, to the workers as well
        process.join()
        assert process.exitcode == 77 and 1 <= len(shards(tmp_path)) < 6
        assert not list(tmp_path.glob(".*"))
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
        assert "Traceback" not in capfd.readouterr().err

    def test_a_run_killed_while_it_listed(self, photos, model, tmp_path):
        host = temporary_name(tmp_path / "x").name.split(".")[2]
        (tmp_path / f".listing.parquet.{host}.4194305.tmp").write_bytes(b"PAR1")
        (tmp_path / ".shard-00001-of-00006.parquet.otherhost.1.tmp").write_bytes(b"PAR1")
        score(photos, model, tmp_path)
        assert not list(tmp_path.glob(".*")) and len(rows(tmp_path)) == 21


def killed_at(shard, entries):
    def kill(self, number):
        if number == shard:
            os.kill(os.getpid(), signal.SIGKILL)
        return entries(self, number)

    return kill


def wait_for_rest(folder):
    """Waits until nobody writes into a folder any more."""
    last = None
    while last != (last := sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())):
        time.sleep(1)


class TestProcesses:
    def test_one_that_can_not_load_says_so(self, tmp_path):
        job = ShardJob(DetectorSettings(str(tmp_path / "nothing")), StoredListing(tmp_path, "/", 1), {})
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(job, theirs, os.getpid()))
        process.start()
        ours.send(3)
        event = ours.recv()
        ours.send(None)
        process.join()
        assert isinstance(event, ShardFailed) and event.fatal and event.shard == 3 and "nothing" in event.reason
        assert process.exitcode == 0


class TestPlan:
    def test_without_images(self, model, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "notes.txt").write_text("x")
        with pytest.raises(ValueError, match=r"no image in .*in \(left out: 1 other_extension\)"):
            score(tmp_path / "in", model, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []

    def test_nothing_to_go_on_with(self, model, tmp_path):
        with pytest.raises(ValueError, match="name what to score"):
            score([], model, tmp_path / "out")

    def test_relative_names_go_on_from_elsewhere(self, photos, model, tmp_path, monkeypatch):
        monkeypatch.chdir(photos.parent)
        score(photos.name, model, tmp_path, list_only=True)
        monkeypatch.chdir("/")
        assert score([], model, tmp_path).status == {"corrupt": 1, "ok": 20}
        assert rows(tmp_path)[0]["path"] == f"{photos.name}/a/000.png"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"engine": "spark"}, "`engine` must be one of local, ray"),
            ({"workers": 0}, "`workers` must be at least 1"),
            ({"shard_size": 0}, "`shard_size` must be at least 1"),
            ({"part": (2, 2)}, "`part` must be"),
            ({"part": (0, 2), "restart": True}, "start over with --restart and --list-only once"),
            ({"merge": "x.txt"}, "`merge` must end in .jsonl, .csv, .parquet"),
        ],
    )
    def test_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            arguments("x", "m", "out", **options)

    @pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
    def test_merge(self, photos, model, expected, tmp_path, ending):
        merged = tmp_path / f"all.{ending}"
        part = score(photos, model, tmp_path / "out", part=(0, 2), merge=str(merged))
        assert part.merged is None and not merged.exists()
        assert score(photos, model, tmp_path / "out", merge=str(merged)).merged == str(merged)
        if ending == "parquet":
            assert_same_rows(pq.read_table(merged).to_pylist(), expected)
        elif ending == "jsonl":
            found = [json.loads(line) | {"path_bytes": None} for line in merged.read_text().splitlines()]
            assert_same_rows(found, [row | {"path_bytes": None} for row in expected])
        else:
            lines = merged.read_text().splitlines()
            assert len(lines) == 22 and lines[0].startswith("index,path,status") and "path_bytes" not in lines[0]


def test_hub_streams(model, expected, photos, tmp_path, cache_of_its_own):
    """A data set of two files through `datasets`; the rows are those of the files."""
    files = sorted(photos.rglob("*.png"))
    (tmp_path / "set").mkdir()
    for part, chosen in enumerate((files[:12], files[12:])):
        values = [{"bytes": file.read_bytes(), "path": file.name} for file in chosen]
        features = {"info": {"features": {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}}}
        table = pa.table({"image": values, "label": [0] * len(values)})
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        pq.write_table(table, tmp_path / "set" / f"test-{part}.parquet")
    summary = run_scoring(
        arguments(f"hf:{tmp_path / 'set'}:test", model, tmp_path / "out", workers=2, shard_size=None)
    )
    found = rows(tmp_path / "out")
    assert summary.complete and [row["index"] for row in found] == [*range(12), *range(1 << 32, (1 << 32) + 9)]
    assert [row["status"] for row in found] == [row["status"] for row in expected]
    assert [row["p_fake"] for row in found] == pytest.approx([row["p_fake"] for row in expected], abs=1e-6)
    assert found[12]["path"] == f"hf:{tmp_path / 'set'}:test#1-0"
    assert score([], model, tmp_path / "out", shard_size=None).images_scored == 0
    with pytest.raises(ValueError, match="name one of the splits test"):
        score(f"hf:{tmp_path / 'set'}:train", model, tmp_path / "other")
    with pytest.raises(ValueError, match="is scored alone"):
        score([f"hf:{tmp_path / 'set'}", photos], model, tmp_path / "other")
