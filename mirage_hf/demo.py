"""A page on which people can try a detector: `mirage-hf demo --model outputs/mine`.

It listens on the loopback unless told otherwise, asks nothing of any other host, neither itself nor through the
visitor's browser, and keeps no picture: uploads are deleted within minutes, and all that is left when it ends. Needs
the extra `demo`.
"""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from .demo_answers import Answers
from .demo_guard import Guard
from .description import describe_detector
from .detector import Detector
from .image_io import SCORING_LIMITS

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO_FONTS = ("ui-monospace", "Consolas", "Noto Sans Mono", "monospace")
KEPT = 600.0  # seconds that an upload stays, for the sliders
SWEEP = 30.0  # seconds between two looks for older ones


@dataclass(frozen=True)
class DemoArguments:
    """
    What to show, where.

    Args:
        model (`str`):
            Folder or Hub id, as in [`Detector.from_pretrained`].
        revision, device, fake_label (`str`, *optional*):
            As there.
        host (`str`, *optional*, defaults to `"127.0.0.1"`):
            Address to listen on.
        port (`int`, *optional*, defaults to 7860):
            Port to listen on.
        max_file_mb (`int`, *optional*, defaults to 20):
            Files of more MiB are refused while they arrive.
        max_files (`int`, *optional*, defaults to 16):
            Pictures at once.
        max_megapixels (`float`, *optional*):
            Larger pictures are not decoded; the limit of [`ImageLimits`] by default.

    Raises:
        ValueError: a limit below 1.
    """

    model: str
    revision: str | None = None
    device: str | None = None
    fake_label: str | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    max_file_mb: int = 20
    max_files: int = 16
    max_megapixels: float | None = None

    def __post_init__(self):
        for name in ("max_file_mb", "max_files"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")


@contextmanager
def running_demo(arguments: DemoArguments) -> Iterator[str]:
    """
    Serve the page from threads of this process.

    Args:
        arguments ([`DemoArguments`]): what and where.

    Returns:
        A context manager that gives the page's address, and in the end closes the server and deletes all uploads.

    Raises:
        ImportError: Gradio is missing.
        OSError: there is no such model, or the port is taken.
        ValueError: the model is no detector.
    """
    folder = Path(tempfile.mkdtemp(prefix="mirage-hf-demo-")).resolve()
    try:
        with _settings(folder), _swept(folder):
            import gradio as gr
            from starlette.middleware import Middleware

            from .demo_page import DemoEvents, build_page

            facts = describe_detector(arguments.model, arguments.revision, arguments.fake_label)
            events = DemoEvents(Answers(_load(arguments)), folder, arguments.max_files)
            page = build_page(events, facts, arguments.max_file_mb)
            try:
                _, address, _ = page.launch(
                    server_name=arguments.host,
                    server_port=arguments.port,
                    max_file_size=arguments.max_file_mb << 20,
                    theme=gr.themes.Default(
                        primary_hue="blue", neutral_hue="gray", font=list(FONTS), font_mono=list(MONO_FONTS)
                    ),
                    css=files("mirage_hf").joinpath("demo.css").read_text(encoding="utf-8"),
                    footer_links=[],
                    run_history=False,
                    share=False,
                    ssr_mode=False,
                    pwa=False,
                    mcp_server=False,
                    enable_monitoring=False,
                    prevent_thread_lock=True,
                    quiet=True,
                    app_kwargs={"middleware": [Middleware(Guard)]},
                )
                yield address
            finally:
                page.close(verbose=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def serve_demo(arguments: DemoArguments) -> None:
    """
    Serve the page until Ctrl-C.

    Args:
        arguments ([`DemoArguments`]): what and where.

    Raises:
        ImportError, OSError, ValueError: as [`running_demo`].
    """
    with running_demo(arguments) as address:
        print(f"{arguments.model}: {address} (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def _load(arguments: DemoArguments) -> Detector:
    limits = SCORING_LIMITS
    if arguments.max_megapixels is not None:
        limits = replace(limits, max_megapixels=arguments.max_megapixels)
    return Detector.from_pretrained(
        arguments.model,
        revision=arguments.revision,
        device=arguments.device,
        fake_label=arguments.fake_label,
        limits=limits,
        sha256=True,
    )


@contextmanager
def _settings(folder: Path) -> Iterator[None]:
    """Gradio's settings that are read from the environment, at import and later."""
    near = ",".join(filter(None, (os.environ.get("no_proxy", os.environ.get("NO_PROXY")), "127.0.0.1,localhost")))
    wanted = {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "no_proxy": near,  # it asks itself whether it has started
        "NO_PROXY": near,
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _swept(folder: Path) -> Iterator[None]:
    """Deletes what gets old in a folder. Gradio's own `delete_cache` leaves interrupted uploads and folders' names."""
    ended = threading.Event()

    def sweep() -> None:
        while not ended.wait(SWEEP):
            delete_older(folder, KEPT)

    thread = threading.Thread(target=sweep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def delete_older(folder: Path, age: float) -> None:
    """
    Delete files and empty folders in a folder that nobody touched lately.

    Args:
        folder (`Path`): stays itself.
        age (`float`): seconds.
    """
    limit = time.time() - age
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds comes before it
        with suppress(OSError):  # gone already, or not empty
            if path.lstat().st_ctime < limit:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


__all__ = ["DemoArguments", "delete_older", "running_demo", "serve_demo"]
