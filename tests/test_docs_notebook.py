"""The notebook in examples/: what it prints is what it printed when it was stored."""

import re
from pathlib import Path

import nbformat
import pytest
from code_block_server import is_close

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "mirage_tiny.ipynb"
TOLERANCE = 0.02  # of decimal numbers, some of which are sums of many roundings; cells of training state their own


def printed(cell) -> str:
    """What a cell wrote to stdout."""
    return "".join(
        output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout"
    )


def pictures(cell) -> int:
    """How many pictures a cell shows."""
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_stored_outputs_are_whole_and_small(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(printed(cell)) for cell in cells) >= 6 and sum(map(pictures, cells)) == 2
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    assert NOTEBOOK.stat().st_size < 200_000
    assert str(ROOT) not in NOTEBOOK.read_text(encoding="utf-8")


@pytest.mark.slow
def test_notebook_prints_what_is_stored(notebook, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = nbformat.read(NOTEBOOK, as_version=4)
    for cell in again.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(again, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    for old, new in zip(notebook.cells, again.cells, strict=True):
        if old.cell_type == "code":
            tolerance = old.metadata.get("tolerance", TOLERANCE)
            assert is_close(printed(old), printed(new), tolerance), printed(new)
            assert pictures(old) == pictures(new)


def test_a_changed_number_would_be_noticed(notebook):
    text = next(printed(cell) for cell in notebook.cells if cell.cell_type == "code" and "p(fake)" in cell.source)
    number = re.findall(r"0\.\d+", text)[0]
    for added, same in ((0.001, True), (0.03, False)):
        assert is_close(text, text.replace(number, f"{float(number) + added:.3f}"), TOLERANCE) is same
    assert not is_close(text, text.replace("verdict", "word"), TOLERANCE)
