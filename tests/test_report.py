"""The table of what was loaded."""

import pytest
from loading import load
from trees import write_image

pytestmark = pytest.mark.usefixtures("cache_of_its_own")


def test_report_is_a_table(pair):
    write_image(pair / "a/real/notes.png").write_bytes(b"")
    (pair / "a/readme.txt").write_text("hello")
    _, report = load(pair)
    lines = str(report).splitlines()
    assert lines[0] == f"{pair}: layout generic, split train"
    assert [line.split() for line in lines[1:5]] == [
        ["generator", "real", "=", "0", "fake", "=", "1"],
        ["a", "6", "6"],
        ["b", "6", "6"],
        ["all", "12", "12"],
    ]
    assert lines[5] == "unreadable images left out: 1; other files ignored: 1"
    assert lines[6] == f"  {pair}/a/real/notes.png: empty file"


def test_report_is_logged_not_printed(pair, caplog, capsys):
    with caplog.at_level("INFO", logger="mirage_hf"):
        _, report = load(pair)
    assert str(report) in caplog.messages
    assert capsys.readouterr().out == ""
