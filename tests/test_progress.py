"""The progress bar counts images of all processes, from where a run goes on, and is silent without a terminal."""

from types import SimpleNamespace

import pytest

from mirage_hf import progress
from mirage_hf.progress import ImageProgressCallback

ARGS = SimpleNamespace(train_batch_size=8, gradient_accumulation_steps=2, world_size=3)


class Bar:
    """Stands in for tqdm and keeps what it was told."""

    def __init__(self, **options):
        self.options, self.count, self.closed = options, options["initial"], False

    def update(self, count):
        self.count += count

    def close(self):
        self.closed = True


@pytest.mark.parametrize("begun", [0, 4])
def test_counts_images_of_all_processes(monkeypatch, begun):
    monkeypatch.setattr(progress, "tqdm", Bar)
    callback, state = (
        ImageProgressCallback(),
        SimpleNamespace(global_step=begun, max_steps=10, is_world_process_zero=True),
    )
    callback.on_train_begin(ARGS, state, None)
    bar = callback.training_bar
    assert (bar.options["total"], bar.count, bar.options["unit"]) == (480, begun * 48, " images")
    assert bar.options["disable"] is None  # tqdm then asks whether stderr is a terminal
    for step in range(begun + 1, 11):
        state.global_step = step
        callback.on_step_end(ARGS, state, None)
    assert bar.count == 480
    callback.on_train_end(ARGS, state, None)
    assert bar.closed


def test_other_processes_show_nothing():
    callback, state = (
        ImageProgressCallback(),
        SimpleNamespace(global_step=0, max_steps=10, is_world_process_zero=False),
    )
    callback.on_train_begin(ARGS, state, None)
    callback.on_step_end(ARGS, state, None)
    assert callback.training_bar is None


@pytest.mark.parametrize("terminal", [False, True])
def test_evaluation_is_silent_without_a_terminal(monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    callback, state = ImageProgressCallback(), SimpleNamespace(is_world_process_zero=True)
    callback.on_prediction_step(ARGS, state, None, eval_dataloader=[1, 2])
    assert (callback.prediction_bar is not None) == terminal
