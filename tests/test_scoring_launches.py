"""Bulk scoring under `torchrun` and on Ray: the same rows as one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bulk import assert_same_rows, encoded, rows, score, shards, write_images

from mirage_hf.scoring_launch import device_of_launch, first_alone, part_of_launch, usable_cores
from mirage_hf.scoring_ray import import_ray

WORKER = Path(__file__).with_name("scoring_worker.py")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("photos"), 10)
    (folder / "a" / "cut.png").write_bytes(encoded(3)[:100])
    return folder


@pytest.fixture(scope="module")
def expected(photos, folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("expected")
    score(photos, folders["full"], output, workers=64)
    return rows(output)


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    # As many workers as cores, each with one thread, are forked.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, WORKER, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )


def test_torchrun(photos, expected, folders, tmp_path):
    answer = torchrun(photos, folders["full"], tmp_path / "out")
    assert answer.returncode == 0, answer.stderr
    summaries = [json.loads(line) for line in answer.stdout.splitlines()]
    assert {summary["rank"]: summary["images"] for summary in summaries} == {"0": 7, "1": 4}
    assert [summary["complete"] for summary in summaries].count(True) >= 1
    assert_same_rows(rows(tmp_path / "out"), expected)
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.slow  # Ray takes ten seconds to start
def test_ray(photos, expected, folders, tmp_path):
    first = score(photos, folders["full"], tmp_path, workers=2, engine="ray")
    assert first.images_scored == 11 and first.complete
    assert_same_rows(rows(tmp_path), expected)
    shards(tmp_path)[1].unlink()
    again = score(photos, folders["full"], tmp_path, workers=2, engine="ray")
    assert again.images_scored == 4 and again.complete
    assert_same_rows(rows(tmp_path), expected)
    shards(tmp_path)[1].unlink()
    next(tmp_path.glob("listing-*")).write_bytes(b"")  # what fails in a task is reported
    failed = score([], folders["full"], tmp_path, workers=2, engine="ray")
    assert set(failed.failures) == {1} and "ArrowInvalid" in failed.failures[1]
    import ray

    assert not ray.is_initialized()


def test_ray_that_is_not_installed(photos, folders, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install mirage_hf\[ray\]"):
        import_ray()
    with pytest.raises(ImportError, match=r"pip install mirage_hf\[ray\]"):
        score(photos, folders["full"], tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()  # before anything is loaded or listed


class TestLaunch:
    def test_part(self, monkeypatch):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
        assert part_of_launch() is None and device_of_launch("cuda") == "cuda" and device_of_launch("cpu") == "cpu"
        monkeypatch.setenv("RANK", "3")
        monkeypatch.setenv("WORLD_SIZE", "8")
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert part_of_launch() == (3, 8)
        assert [device_of_launch(device) for device in ("cuda", "cuda:5", "cpu")] == ["cuda:1", "cuda:5", "cpu"]
        assert 1 <= usable_cores() <= os.cpu_count()

    def test_the_others_hear_of_a_failure(self, monkeypatch):
        """Both sides of one store, one after the other."""
        import torch

        store = torch.distributed.HashStore()
        monkeypatch.setattr("torch.distributed.rendezvous", lambda *_, **__: iter([(store, 0, 2)]))

        def refuse():
            raise ValueError("holds scores\nof another run")

        with pytest.raises(ValueError, match="holds scores"):
            first_alone(refuse, (0, 2))
        with pytest.raises(ValueError, match="the first process failed: holds scores of another run"):
            first_alone(lambda: pytest.fail("not for this one"), (1, 2))
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        done = []
        assert first_alone(lambda: done.append(1) or "listed: é", (0, 2)) == "listed: é"
        assert first_alone(lambda: done.append(2) or "mine", (1, 2)) == "listed: é"
        assert first_alone(lambda: done.append(3) or "alone", None) == "alone"
        assert done == [1, 3]
