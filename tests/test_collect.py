"""Places where nothing can be found."""

import datasets
import pytest
from loading import load

pytestmark = pytest.mark.usefixtures("cache_of_its_own")


class TestRefusals:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(ValueError, match="'/nowhere/at/all' does not exist"):
            load("/nowhere/at/all")
        with pytest.raises(ValueError, match="'nowhere' does not exist .and is no Hub id"):
            load("nowhere")
        with pytest.raises(ValueError, match="no images under .* .0 other files"):
            load(tmp_path)
        (tmp_path / "x.txt").write_text("hello")
        with pytest.raises(ValueError, match="is neither a folder nor a .zip archive"):
            load(tmp_path / "x.txt")

    def test_hub_id_that_cannot_be_read(self, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(ValueError, match="'nobody/nothing' is neither a folder nor a data set that could be read"):
            load("nobody/nothing")
