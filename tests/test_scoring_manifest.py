"""The manifest of a scoring run: what is pinned can't change behind finished shards."""

import dataclasses
import json
import os
import shutil
import subprocess

import pytest
from bulk import score, shards, write_images

from mirage_hf.image_io import ImageLimits
from mirage_hf.scoring_files import create_json, remove_stale_temporaries, temporary_name
from mirage_hf.scoring_manifest import PINNED, ScoringFolder, read_manifest, remove_run


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """One thread a process, whatever machine this is: such are forked, so that what is patched here counts."""
    monkeypatch.setattr("mirage_hf.scoring.usable_cores", lambda: 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("photos"), 6)


@pytest.fixture(scope="module")
def finished(photos, folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "out"
    score(photos, folders["full"], output, workers=64)
    return output


@pytest.fixture
def output(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


def refused(photos, model, output, **options):
    """The message of the refusal; nothing in the folder has changed."""
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(ValueError, match="holds scores of another run .*choose another --output-dir, or") as error:
        score(photos, model, output, **options)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    return str(error.value)


class TestRefusal:
    def test_the_same_goes_on(self, photos, folders, output):
        assert score(photos, folders["full"], output).images_scored == 0
        assert score(photos, folders["full"], output, shard_size=None, workers=2, batch_size=2).images_scored == 0

    @pytest.mark.parametrize(
        ("field", "options"),
        [
            ("dtype", {"dtype": "bfloat16"}),
            ("threshold", {"threshold": 0.9}),
            ("limits", {"limits": ImageLimits(min_side=17)}),
            ("sha256", {"sha256": True}),
            ("shard_size", {"shard_size": 5}),
            ("fake_label", {"fake_label": "fake"}),
        ],
    )
    def test_arguments(self, photos, folders, output, field, options):
        message = refused(photos, folders["full"], output, **options)
        differing = message.partition("(")[2].partition(")")[0]
        assert f"{field} " in differing and all(
            part.split()[0] in (field, "num_shards") for part in differing.split("; ")
        )

    def test_model(self, photos, folders, output, tmp_path):
        other = shutil.copytree(folders["full"], tmp_path / "renamed")
        assert "(model " in refused(photos, other, output)
        model = tmp_path / os.path.basename(folders["full"])
        shutil.copytree(folders["full"], model)
        settings = json.loads((model / "preprocessor_config.json").read_text())
        settings["image_mean"] = [0.1, 0.2, 0.3]
        (model / "preprocessor_config.json").write_text(json.dumps(settings))
        assert "(revision " in refused(photos, model, output)

    @pytest.mark.parametrize("change", ["added", "grown", "renamed"])
    def test_inputs(self, photos, folders, output, tmp_path, change, monkeypatch):
        copied = shutil.copytree(photos, tmp_path / "photos")
        monkeypatch.chdir(tmp_path)
        score("photos", folders["full"], output, restart=True)
        assert score("photos", folders["full"], output).images_scored == 0
        file = copied / "a" / "000.png"
        if change == "added":
            shutil.copy(file, copied / "a" / "more.png")
        elif change == "grown":
            file.write_bytes(file.read_bytes() + b"\0")
        else:
            file.rename(copied / "a" / "001.png")
        assert "(inputs " in refused("photos", folders["full"], output)

    @pytest.mark.parametrize("field", PINNED)
    def test_every_pinned_field(self, finished, tmp_path, field):
        """Also those that one can't easily change from outside, such as the version."""
        manifest = read_manifest(finished)
        other = manifest | {field: "something else"}
        ScoringFolder.claim(tmp_path, manifest)
        with pytest.raises(ValueError, match=rf"\({field} .* something else now\)"):
            ScoringFolder.claim(tmp_path, other)
        assert ScoringFolder(tmp_path, other).mark != ScoringFolder(tmp_path, manifest).mark
        assert ScoringFolder.claim(tmp_path, manifest | {"arguments": ["elsewhere"]}).manifest == manifest

    def test_restart(self, photos, folders, output):
        (output / "mine.txt").write_text("kept")
        summary = score(photos, folders["full"], output, shard_size=2, restart=True)
        assert summary.images_scored == 6 and len(shards(output)) == 3 and (output / "mine.txt").exists()
        assert len(list(output.glob("listing-*"))) == 1

    @pytest.mark.parametrize("content", ["{", "[]", '{"name": "an app"}'])
    @pytest.mark.parametrize("restart", [False, True])
    def test_a_manifest_of_something_else_is_left_alone(self, photos, folders, output, content, restart):
        (output / "manifest.json").write_text(content)
        before = sorted(output.iterdir())
        with pytest.raises(ValueError, match="manifest.json' is no manifest of scores: choose another"):
            score(photos, folders["full"], output, restart=restart)
        assert sorted(output.iterdir()) == before and (output / "manifest.json").read_text() == content

    def test_a_missing_listing(self, photos, folders, output):
        next(output.glob("listing-*")).unlink()
        shards(output)[0].unlink()
        with pytest.raises(ValueError, match="listing-.* is missing: start over with --restart"):
            score([], folders["full"], output)
        assert score(photos, folders["full"], output).images_scored == 4  # named again, it is listed again


class TestFinished:
    def test_only_whole_files_of_this_run_and_shard_count(self, photos, folders, output):
        first, second = shards(output)
        shutil.copy(second, first)
        assert score(photos, folders["full"], output).images_scored == 4
        first.write_bytes(first.read_bytes()[:-10])
        assert score(photos, folders["full"], output).images_scored == 4
        other = output.parent / "other"
        score(photos, folders["full"], other, threshold=0.9)
        shutil.copy(shards(other)[1], second)
        assert score(photos, folders["full"], output).images_scored == 2

    def test_summary_only_where_all_are_there(self, output):
        folder = ScoringFolder(output, read_manifest(output))
        (output / "summary.json").unlink()
        assert folder.write_summary() and json.loads((output / "summary.json").read_text())["images"] == 6
        shards(output)[1].unlink()
        (output / "summary.json").unlink()
        assert not folder.write_summary() and not (output / "summary.json").exists()


class TestTemporaries:
    def test_of_the_dead_and_of_other_machines_but_of_nobody_at_work(self, tmp_path):
        host = temporary_name(tmp_path / "x").name.split(".")[2]
        at_work, own = os.getppid(), os.getpid()
        names = {
            "dead": f".a.parquet.{host}.4194305.tmp",  # past the largest process number
            "elsewhere": ".a.parquet.other.1.tmp",
            "own": f".a.parquet.{host}.{own}.tmp",
            "at work": f".a.parquet.{host}.{at_work}.tmp",
            "another file": ".b.parquet.other.1.tmp",
            "no temporary": ".a.parquet.tmp",
        }
        for name in names.values():
            (tmp_path / name).touch()
        assert remove_stale_temporaries(tmp_path, ["a.parquet"]) == 3
        kept = {names["at work"], names["another file"], names["no temporary"]}
        assert {path.name for path in tmp_path.iterdir()} == kept
        (tmp_path / names["elsewhere"]).touch()
        assert remove_stale_temporaries(tmp_path, ["a.parquet"], shared=True) == 0

    def test_of_a_process_that_nobody_has_waited_for(self, tmp_path):
        process = subprocess.Popen(["true"])
        host = temporary_name(tmp_path / "x").name.split(".")[2]
        file = tmp_path / f".a.parquet.{host}.{process.pid}.tmp"
        file.touch()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert remove_stale_temporaries(tmp_path, ["a.parquet"]) == 1
        process.wait()

    def test_the_first_of_several_writers_wins(self, tmp_path, monkeypatch):
        create_json(tmp_path / "x.json", {"a": 1})
        create_json(tmp_path / "x.json", {"a": 2})
        assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}

        def no_links(*_):
            raise OSError("not supported")

        monkeypatch.setattr(os, "link", no_links)
        create_json(tmp_path / "x.json", {"a": 3})
        create_json(tmp_path / "y.json", {"a": 4})
        assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
        assert json.loads((tmp_path / "y.json").read_text()) == {"a": 4}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "y.json"]

    def test_remove_run_keeps_what_is_not_its_own(self, output):
        for name in ("summary.csv", "shard-00000-of-00009.parquet", "listing-0.parquet"):
            (output / name).touch()
        (output / ".shard-00001-of-00002.parquet.otherhost.1.tmp").touch()
        remove_run(output)
        kept = ["listing-0.parquet", "shard-00000-of-00009.parquet", "summary.csv"]
        assert sorted(path.name for path in output.iterdir()) == kept


def test_limits_are_all_pinned(finished):
    assert read_manifest(finished)["limits"].keys() == {field.name for field in dataclasses.fields(ImageLimits)}
