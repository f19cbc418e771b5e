"""The stored listing: any shard of it is the same range of the whole."""

import os
import tracemalloc

import pytest
from trees import write_tree

from mirage_hf.scoring_listing import StoredListing, write_listing
from mirage_hf.scoring_walk import InputLister, Listed


def many(count):
    return (Listed(b"%d.png" % number, number) for number in range(count))


class TestStoredListing:
    @pytest.mark.parametrize("shard_size", [1000, 4096, 5000, 20_000])
    def test_shards_are_ranges(self, tmp_path, shard_size):
        file = write_listing(many(10_000), tmp_path)
        listing = StoredListing(file, "/root", shard_size)
        found = [entry for shard in range(-(-10_000 // shard_size)) for entry in listing.entries(shard)]
        assert [entry.position for entry in found] == list(range(10_000))
        assert found[4096] == (4096, b"4096.png", "/root/4096.png")
        last = [entry.position for entry in listing.entries(9999 // shard_size)]
        assert last[0] == 9999 // shard_size * shard_size and last[-1] == 9999
        assert list(listing.entries(10_000 // shard_size + 1)) == []

    def test_relative_names_begin_at_the_root_and_others_don_t(self, tmp_path):
        names = (b"a.png", b"/b/c.png", b"zip://m/x.png::z.zip", b"caf\xe9.png")
        file = write_listing([Listed(name) for name in names], tmp_path)
        sources = [entry.source for entry in StoredListing(file, "/r", 9).entries(0)]
        assert sources == ["/r/a.png", "/b/c.png", "zip://m/x.png::/r/z.zip", "/r/" + os.fsdecode(b"caf\xe9.png")]

    def test_paths_are_text_and_names_are_exact(self, tmp_path):
        file = write_listing([Listed(b"caf\xe9.png")], tmp_path)
        entry = next(StoredListing(file, "", 1).entries(0))
        assert (entry.name, entry.path) == (b"caf\xe9.png", "caf\\xe9.png")

    def test_name_of_the_file_is_a_hash_over_names_sizes_and_order(self, tmp_path):
        images = [Listed(b"a", 1), Listed(b"b", 2)]
        written = {
            write_listing(images, tmp_path).name,
            write_listing(images[::-1], tmp_path).name,
            write_listing([Listed(b"a", 1), Listed(b"b", 3)], tmp_path).name,
            write_listing([Listed(b"a", 1), Listed(b"c", 2)], tmp_path).name,
            write_listing([Listed(b"a 1 None None\n1 b", 2)], tmp_path).name,
            write_listing([Listed(b"a", 1, b"t.tar", 5), Listed(b"b", 2)], tmp_path).name,
            write_listing([], tmp_path).name,
        }
        assert len(written) == 7
        assert write_listing(images, tmp_path).name in written
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)  # and no temporaries

    def test_an_error_leaves_nothing(self, tmp_path):
        def failing():
            yield from many(5000)
            raise ValueError("no more")

        with pytest.raises(ValueError, match="no more"):
            write_listing(failing(), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_neither_writing_nor_reading_holds_the_whole(self, tmp_path):
        tracemalloc.start()
        file = write_listing(many(60_000), tmp_path)
        assert sum(1 for _ in StoredListing(file, "/r", 45_000).entries(0)) == 45_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5_000_000

    def test_a_real_folder(self, tmp_path):
        write_tree(tmp_path / "in", ["{0..20}.png"])
        listing = StoredListing(write_listing(InputLister([str(tmp_path / "in")]), tmp_path), "/", 4)
        paths = [entry.source for shard in range(6) for entry in listing.entries(shard)]
        assert paths == sorted(str(path) for path in (tmp_path / "in").iterdir())
