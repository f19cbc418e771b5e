"""Every fenced code block of the pages is run, or checked by the rule of its language (`code_block_runner.py`).

What is changed in a command first is listed in `code_block_rules.py`, what commands find in `code_block_sandbox.py`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from code_block_rules import RULES, rewrite_command, unused_rules
from code_block_runner import RULES_OF_LANGUAGES, BlockFailed, PageRunner
from code_block_sandbox import ROOT, Sandbox, alternatives
from code_block_server import is_close
from code_blocks import Block, commands_of, find_blocks, find_pages
from hub_stub import HubStub

PAGES = {str(path.relative_to(ROOT)): path for path in find_pages(ROOT)}
# Pages whose blocks take too long for the default tests, and why.
SLOW_PAGES = {
    "docs/pages/export.md": "three exports, one of them to 8 bits",
    "docs/pages/score.md": "a Ray cluster, torchrun, and one folder in three parts",
    "docs/pages/reproduce.md": "GenImage and UniversalFakeDetect",
    "model_cards/mirage-vitl14.md": "GenImage again, from training to a dry run of publishing",
}
# Detectors that a reader of a page has trained before, with the code that loads them without the package.
CHECKPOINTS = """
from transformers import AutoImageProcessor, AutoModelForImageClassification
import mirage_hf

source = "benchmarks/minibench/mirage-tiny"
model, processor = (auto.from_pretrained(source) for auto in (AutoModelForImageClassification, AutoImageProcessor))
for target in ("outputs/mine", "outputs/mirage-tiny", source):
    model.save_pretrained(target)
    processor.save_pretrained(target)
"""


def blocks_of(page: str) -> list[Block]:
    return find_blocks(PAGES[page].read_text(encoding="utf-8"), page)


@pytest.fixture(scope="module")
def hub(clip_repository, classifier_repository):
    with HubStub() as hub:
        hub.commit("openai/clip-vit-large-patch14", clip_repository)
        hub.commit("someone/a-two-class-detector", classifier_repository)
        yield hub


@pytest.fixture(scope="module")
def clip_repository() -> dict[str, bytes]:
    """A small CLIP with a tokenizer under the name of the large one."""
    return {path.name: path.read_bytes() for path in (ROOT / "benchmarks" / "minibench" / "tiny-clip").iterdir()}


@pytest.fixture(scope="module")
def classifier_repository(tmp_path_factory) -> dict[str, bytes]:
    """An image classifier that is not of this package."""
    from transformers import ResNetConfig, ResNetForImageClassification

    from mirage_hf.image_processing import build_image_processor

    folder = tmp_path_factory.mktemp("classifier")
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label={0: "fake", 1: "real"}, num_labels=2
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    build_image_processor(image_size=32).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def server(tmp_path_factory, hub):
    """The socket of the process whose forks run commands."""
    folder = tmp_path_factory.mktemp("server")
    address = str(folder / "s")
    sandbox = Sandbox(folder / "own", hub)
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("code_block_server.py"), address],
        env=sandbox.env | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield address
    process.kill()
    process.communicate()


@pytest.fixture
def make_runner(tmp_path, hub, server):
    """Makes a sandbox for a page; `full` is with real executables and all of the carried mini-benchmark."""
    runners = []

    def make(full: bool = False) -> PageRunner:
        log = open(tmp_path / "printed", "a")
        runners.append(PageRunner(Sandbox(tmp_path, hub, server, full), server, log))
        assert runners[0].python(Block("checkpoints", 1, "python", CHECKPOINTS)) is None
        return runners[0]

    yield make
    for runner in runners:
        runner.close()
        runner.log.close()


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW_PAGES else []) for page in PAGES]
)
def test_blocks_of_a_page_run(page, make_runner):
    blocks = blocks_of(page)
    if not blocks:
        pytest.skip("no code blocks")
    runner = make_runner()
    for block in blocks:
        runner.run(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_a_page_run_with_the_real_executables(page, make_runner):
    runner = make_runner(full=True)
    for block in blocks_of(page):
        runner.run(block)


def test_every_block_has_a_rule():
    for page in PAGES:
        for block in blocks_of(page):
            assert block.language in RULES_OF_LANGUAGES, block


def test_pages_are_found():
    assert {"README.md", "CONTRIBUTING.md", "docs/pages/index.md", "docs/pages/train.md"} <= set(PAGES)
    assert sum(len(blocks_of(page)) for page in PAGES) > 50
    assert set(SLOW_PAGES) <= set(PAGES)


def test_every_rule_is_needed():
    commands = [
        command
        for page in PAGES
        for block in blocks_of(page)
        if RULES_OF_LANGUAGES[block.language] is PageRunner.shell
        for command in commands_of(block.text)
    ]
    assert unused_rules(commands) == []
    assert unused_rules(["echo nothing"]) == list(RULES)


@pytest.mark.parametrize(
    ("language", "text", "reason"),
    [
        ("sh", "mirage-hf predict photo.jpg --no-such-option\n", "No such option"),
        ("sh", "mirage-hf info outputs/nothing\nmirage-hf --version\n", "outputs/nothing"),
        (
            "sh",
            "mirage-hf train --model_name_or_path openai/clip-vit-large-patch14 --data nowhere --output_dir o\n",
            "nowhere",
        ),
        ("sh", "python training/sweep.py training/grids/nothing.yaml\n", "nothing.yaml"),
        ("sh", "make no-such-target\n", "no-such-target"),
        ("sh", 'pip install -e ".[nothing]"\n', "no such extra: nothing"),
        ("sh", "pip install requests\n", "no fixed version"),
        ("sh", "benchmarks/minibench/build.py\npython benchmarks/minibench/evidence/run.py nothing\n", ""),
        ("python", "import mirage_hf\nmirage_hf.nothing\n", "has no attribute 'nothing'"),
        ("python", ">>> import mirage_hf\n>>> 1 + 1\n3\n", "Expected:"),
        ("python", ">>> 0.1234\n0.1334\n", "Expected:"),
        ("text", "what nothing printed\n", "doesn't print"),
        ("yaml", "learning_rate: 1\n", "must name the file"),
        ("bibtex", "@misc{mirage,\n  title = {Another}\n}\n", "lacks"),
        ("console", "$ ls\n", "nothing checks"),
    ],
)
def test_a_planted_block_fails(make_runner, language, text, reason):
    (block,) = find_blocks(f"```{language}\n{text}```\n", "planted.md")
    with pytest.raises(BlockFailed, match=f"planted.md:2: (?s:.*){reason}"):
        make_runner().run(block)


def test_a_session_keeps_its_names_and_files_between_blocks(make_runner):
    runner = make_runner()
    page = "```python\nnumber = 40\n```\n```python\n>>> number + 2\n42\n\n```\n```sh\necho 0.5001 of it\n```\n"
    page += "```text\n...\n0.5 of it\n```\n```layout\nnew/{real,fake}/*.png\n```\n```sh\ntest -f new/fake/7.png\n```\n"
    for block in find_blocks(page, "page.md"):
        runner.run(block)
    assert not (ROOT / "new").exists()


def test_blocks_are_found_with_their_lines():
    text = "a\n```sh\nls\n```\n\n    ~~~python\n    if x:\n        y\n    ~~~\n```\n~~~\n```\n"
    assert find_blocks(text, "p") == [
        Block("p", 3, "sh", "ls\n"),
        Block("p", 7, "python", "if x:\n    y\n"),
        Block("p", 11, "", "~~~\n"),
    ]
    with pytest.raises(ValueError, match="p:2: this fence is never closed"):
        find_blocks("\n```sh\nls\n", "p")


def test_commands_are_changed_as_the_rules_say():
    assert commands_of("a \\\n    b\nc\n") == ["a b", "c"]
    assert rewrite_command("mirage-hf predict photo.jpg") == "mirage-hf predict photo.jpg"
    assert rewrite_command("mirage-hf train --help") == "mirage-hf train --help"
    changed = rewrite_command("mirage-hf train r.yaml --seed 2   # again")
    assert changed.startswith("mirage-hf train r.yaml --seed 2 --max_steps 2") and changed.endswith("true   # again")
    assert rewrite_command("cd elsewhere") == ":"


def test_layouts_are_expanded():
    assert alternatives("a/{b,c}/{d,e}.jpg") == ["a/b/d.jpg", "a/b/e.jpg", "a/c/d.jpg", "a/c/e.jpg"]


def test_numbers_are_compared_as_numbers():
    assert is_close("p 0.4303 of\n x", "p  0.4311 of x") and is_close("", "")
    assert not is_close("p 0.43", "p 0.44") and not is_close("3 images", "4 images") and not is_close("a", "a b")


def test_checkout_stays_as_it_is():
    assert not os.path.lexists(ROOT / "outputs" / "mine_calibrated")
    assert not (ROOT / "my_images").exists()
