"""What is to be scored: every kind of argument, in a fixed order, in little memory."""

import io
import os
import tarfile
import tracemalloc
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trees import image_bytes, write_tree

from mirage_hf.scoring_inputs import named_images, open_images
from mirage_hf.scoring_walk import InputLister, Listed


def names(*inputs, **options):
    return [image.name for image in InputLister(map(str, inputs), **options)]


def contents(*inputs, **options):
    """Name and encoded bytes of each image, wherever it lies."""
    found = {}
    for entry in open_images(enumerate(InputLister(map(str, inputs), **options)), os.getcwd()):
        source = entry.source() if callable(entry.source) else entry.source
        source = source["bytes"] if isinstance(source, dict) else source
        found[entry.path] = open(source, "rb").read() if isinstance(source, str) else source
    return found


def write_tar(path, members, **options):
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def tree(tmp_path):
    return write_tree(
        tmp_path / "in", ["b.png", "a/2.JPG", "a/10.jpg", "a/notes.txt", "B.png", ".hidden.png", "é.png"]
    )


class TestFolders:
    def test_order_is_that_of_bytes_and_what_is_left_out_is_counted(self, tree):
        (tree / "linked").symlink_to(tree / "a")
        (tree / "a" / "loop.png").symlink_to("loop.png")
        (tree / ".git").mkdir()
        lister = InputLister([str(tree)])
        expected = ["B.png", "a/10.jpg", "a/2.JPG", "a/loop.png", "b.png", "é.png"]
        assert [image.name for image in lister] == [os.fsencode(tree / name) for name in expected]
        assert lister.skipped == {"hidden": 2, "other_extension": 1, "linked_folder": 1}

    def test_sizes(self, tree):
        sizes = {os.path.basename(image.name): image.size for image in InputLister([str(tree)])}
        assert sizes[b"b.png"] == len(image_bytes()) and None not in sizes.values()
        os.mkfifo(tree / "pipe.png")
        (tree / "dangling.png").symlink_to("nowhere")
        sizes = {os.path.basename(image.name): image.size for image in InputLister([str(tree)])}
        assert sizes[b"pipe.png"] is None and sizes[b"dangling.png"] is None

    def test_all_files(self, tree):
        assert os.fsencode(tree / "a" / "notes.txt") in names(tree, all_files=True)
        assert os.fsencode(tree / ".hidden.png") not in names(tree, all_files=True)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
    def test_a_folder_that_can_not_be_read(self, tree):
        (tree / "a").chmod(0)
        lister = InputLister([str(tree)])
        assert len(list(lister)) == 3 and lister.skipped["unreadable_folder"] == 1
        (tree / "a").chmod(0o700)

    def test_names_that_are_not_utf8(self, tmp_path):
        name = os.fsencode(tmp_path) + b"/caf\xe9.png"
        with open(name, "wb") as file:
            file.write(image_bytes())
        assert names(tmp_path) == [name]
        assert [image.path for image in named_images([str(tmp_path)])] == [f"{tmp_path}/caf\\xe9.png"]


class TestFilesAndGlobs:
    def test_order_of_arguments_and_no_deduplication(self, tree):
        assert names(tree / "b.png", tree / "a", tree / "b.png")[0::3] == [os.fsencode(tree / "b.png")] * 2

    def test_a_named_file_counts_whatever_it_is_called_or_whether_it_exists(self, tree):
        given = [tree / "a/notes.txt", tree / "gone.png"]
        assert names(*given) == [os.fsencode(path) for path in given]

    def test_globs(self, tree):
        assert names(f"{tree}/**/*.[jJ]*") == [os.fsencode(tree / name) for name in ("a/10.jpg", "a/2.JPG")]
        assert len(names(f"{tree}/?*")) == 5  # a folder that matches is walked
        (tree / "odd[1].png").write_bytes(b"")
        assert names(tree / "odd[1].png") == [os.fsencode(tree / "odd[1].png")]
        with pytest.raises(ValueError, match="nothing matches .*none"):
            names(f"{tree}/none*")

    def test_addresses(self):
        with pytest.raises(ValueError, match="'https://x.org/a.png' is an address"):
            names("https://x.org/a.png")
        assert names("https://x.org/a.png", allow_urls=True) == [b"https://x.org/a.png"]


class TestLists:
    def test_lines(self, tmp_path):
        (tmp_path / "list.txt").write_bytes(b"a.png\r\n\nsub dir/b.png \ncaf\xe9.png")
        assert names(f"@{tmp_path / 'list.txt'}") == [b"a.png", b"sub dir/b.png ", b"caf\xe9.png"]

    @pytest.mark.parametrize("end", [b"", b"\0"])
    def test_null_across_blocks(self, tmp_path, end):
        given = [b"%06d\n\r.png" % number for number in range(12_000)]  # more than two blocks
        (tmp_path / "list.txt").write_bytes(b"\0".join(given) + end)
        assert names(f"@{tmp_path / 'list.txt'}", null=True) == given

    def test_stdin(self, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"x.png\ny.png\n")))
        assert names("-") == [b"x.png", b"y.png"]

    def test_an_address_in_a_list(self, tmp_path):
        (tmp_path / "list.txt").write_text("a.png\nhttp://x.org/b.png\n")
        with pytest.raises(ValueError, match="entry 2 of .*list.txt is an address"):
            names(f"@{tmp_path / 'list.txt'}")

    def test_a_long_list_never_lies_in_memory(self, tmp_path):
        with open(tmp_path / "list.txt", "w") as file:
            file.writelines(f"folder/{number:060}.png\n" for number in range(50_000))
        lister = InputLister([f"@{tmp_path / 'list.txt'}"])
        tracemalloc.start()
        assert sum(1 for _ in lister) == 50_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000  # as a list they would be 5 MB


class TestTar:
    MEMBERS = {"k/1.png": image_bytes(), "k/1.json": b"{}", "k/2.jpg": image_bytes(".jpg"), "odd": b"x"}

    @pytest.mark.parametrize("archive_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_members_are_read_at_their_place(self, tmp_path, archive_format):
        members = self.MEMBERS | {"é" * 150 + ".png": image_bytes(".png", (1, 2, 3))}
        if archive_format == tarfile.USTAR_FORMAT:
            members = self.MEMBERS
        path = write_tar(tmp_path / "s.tar", members, format=archive_format)
        with tarfile.open(path) as archive:  # the library's own way, as the reference
            expected = {
                f"{path}#{member.name}": archive.extractfile(member).read()
                for member in archive
                if member.name.endswith(("png", "jpg"))
            }
        assert contents(path) == expected and len(expected) >= 2
        assert set(contents(path, all_files=True)) > set(expected)

    def test_links_and_folders_are_no_files(self, tmp_path):
        path = write_tar(tmp_path / "s.tar", self.MEMBERS)
        with tarfile.open(path, "a") as archive:
            for kind in (tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE):
                info = tarfile.TarInfo(f"link{kind[0]}.png")
                info.type, info.linkname = kind, "k/1.png"
                archive.addfile(info)
        lister = InputLister([str(path)])
        assert len(list(lister)) == 2 and lister.skipped == {"other_extension": 2, "not_a_file": 2}

    @pytest.mark.parametrize("place", [0, 1024 + 100, -1])
    def test_damage_is_not_taken_for_the_end(self, tmp_path, place):
        path = write_tar(tmp_path / "s.tar", self.MEMBERS)
        data = bytearray(path.read_bytes())
        if place == -1:
            data = data[:700]
        else:
            with tarfile.open(path) as archive:
                header = archive.getmembers()[min(place, 1)].offset
            data[header + 150] ^= 0x3F  # in the checksum
        path.write_bytes(data)
        with pytest.raises(ValueError, match="s.tar' is no readable tar"):
            names(path)

    def test_packed_and_missing(self, tmp_path):
        (tmp_path / "s.tar.gz").write_bytes(b"")
        with pytest.raises(ValueError, match="is a packed tar.*unpack it"):
            names(tmp_path / "s.tar.gz")
        with pytest.raises(OSError, match="gone.tar"):
            names(tmp_path / "gone.tar")

    def test_one_that_shrinks_costs_its_rows_only(self, tmp_path):
        path = write_tar(tmp_path / "s.tar", self.MEMBERS)
        listed = list(enumerate(InputLister([str(path)])))
        path.write_bytes(path.read_bytes()[:520])
        for entry in open_images(listed, "/"):
            with pytest.raises(ValueError, match="has become shorter"):
                entry.source()


def test_zip(tmp_path):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("b.png", "notes.txt", "a.png"):
            archive.writestr(name, b"x" * len(name))
    lister = InputLister([str(path)])
    assert list(lister) == [Listed(f"zip://{name}::{path}".encode(), 5) for name in ("b.png", "a.png")]
    assert lister.skipped == {"other_extension": 1}
    assert [image.source for image in named_images([str(path)])][0] == f"zip://b.png::{path}"


class TestParquet:
    VALUES = [image_bytes(".png", (level, 0, 0)) for level in range(50)]

    def write(self, file, /, **columns):
        pq.write_table(pa.table(columns), file, row_group_size=7)
        return file

    @pytest.mark.parametrize("column", ["image", "bytes", "image_bytes"])
    def test_encoded_images(self, tmp_path, column):
        path = self.write(tmp_path / "p.parquet", label=[1] * 50, **{column: self.VALUES})
        assert contents(path) == {f"{path}#{row}": value for row, value in enumerate(self.VALUES)}

    def test_pairs_of_bytes_and_path(self, tmp_path):
        values = [{"bytes": value, "path": None} for value in self.VALUES[:-1]] + [{"bytes": None, "path": "x.png"}]
        path = self.write(tmp_path / "p.parquet", image=values)
        sources = [image.source for image in named_images([str(path)])]
        assert sources == values

    def test_paths(self, tmp_path):
        path = self.write(tmp_path / "p.parquet", path=["a.png", None, "b.png"])
        assert names(path) == [b"a.png", b"", b"b.png"]  # a row without a path has its row in the scores

    def test_any_range_of_rows(self, tmp_path):
        path = self.write(tmp_path / "p.parquet", bytes=self.VALUES)
        listed = list(enumerate([*InputLister([str(path), str(path)])]))  # twice in a row
        for start, stop in ((0, 100), (3, 5), (6, 8), (20, 50), (45, 62), (99, 100)):
            found = [entry.source for entry in open_images(listed[start:stop], "/")]
            assert found == [*self.VALUES, *self.VALUES][start:stop]

    def test_one_that_breaks_costs_its_rows_only(self, tmp_path):
        path = self.write(tmp_path / "p.parquet", bytes=self.VALUES)
        listed = list(enumerate(InputLister([str(path)])))
        self.write(path, bytes=self.VALUES[:20])
        entries = list(open_images(listed, "/"))
        assert [entry.source for entry in entries[:20]] == self.VALUES[:20] and len(entries) == 50
        for entry in entries[20:]:
            with pytest.raises(ValueError, match="p.parquet"):
                entry.source()
        path.write_bytes(b"PAR1")
        with pytest.raises(ValueError, match="p.parquet"):
            list(open_images(listed, "/"))[0].source()

    def test_what_is_no_input(self, tmp_path):
        path = self.write(tmp_path / "p.parquet", label=[1], text=["x"])
        with pytest.raises(ValueError, match="p.parquet' has no column of images.* and has label, text"):
            names(path)
        path.write_bytes(b"nothing")
        with pytest.raises(ValueError, match="p.parquet' is no readable Parquet file"):
            names(path)
