"""Files of rows: there when the block ended well, and only then."""

import pytest

from mirage_hf.row_files import ENDINGS, RowFile

COLUMNS = ["path", "p_fake"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_error_leaves_what_was_there(tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    with RowFile(path, COLUMNS) as rows:
        rows.write({"path": "a.png", "p_fake": 0.25, "label": "real"})
    first = path.read_bytes()
    with pytest.raises(RuntimeError), RowFile(path, COLUMNS) as rows:
        rows.write({"path": "b.png", "p_fake": 0.75})
        raise RuntimeError
    assert path.read_bytes() == first and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_ending_says_what_is_written(tmp_path):
    with pytest.raises(ValueError, match="rows.txt must end in .jsonl, .csv, .parquet"):
        RowFile(tmp_path / "rows.txt", COLUMNS)
