"""What is changed in a documented command before it runs here: all of it, each change with its reason.

A rule is a pattern, searched in each command of a shell block (continued lines joined), and what takes its place;
rules apply in order. `$DATA`, `check-pip` and `once` are the sandbox's (`code_block_sandbox.py`): the folder of
generated data sets, a check of what would be installed, and a function that starts a server, asks it for its page and
stops it. Nothing else is changed, and a rule that no page needs fails a test.
"""

import re
from typing import NamedTuple

from code_blocks import commands_of

# Two small steps in place of hours on a GPU, behind the flags of the page.
SHORT = (
    "--max_steps 2 --per_device_train_batch_size 4 --per_device_eval_batch_size 8 --dataloader_num_workers 0 "
    "--fp16 false --bf16 false --use_cpu true"
)
# A comment or an alternative behind a command stays behind what is appended.
TRAINING = r"^(?!.*--help)(?P<run>(?:.*training/train\.py|mirage-hf train) .*?)(?P<end>\s+(?:#|\|\|).*)?$"


class Rule(NamedTuple):
    """A change to a command."""

    pattern: str
    replacement: str
    reason: str


RULES = (
    Rule(r"(?<![\w.])/data/(?=\w)", "$DATA/", "data sets of many GB: small trees of the same layout stand in"),
    Rule(r"^\. \.venv/bin/activate$", ":", "the environment is active already"),
    Rule(
        r"^make (?=\w)", "make --dry-run ", "minutes to hours; the commands that targets run have tests of their own"
    ),
    Rule(r"^(python -m )?pip install ", "check-pip ", "installs nothing here; extras that are named must exist"),
    Rule(r"^(apt-get|pre-commit|git clone|cd) .*$", ":", "would change the machine, the checkout or the folder"),
    Rule(r"one_gpu_fp16\.yaml", "cpu.yaml", "there is no GPU here"),
    Rule(r"--nproc_per_node 4", "--nproc_per_node 2", "there are two cores here"),
    Rule(TRAINING, rf"\g<run> {SHORT}\g<end>", "hours of training"),
    Rule(r"(training/sweep\.py \S+\.yaml)(?! list)", r"\1 list", "days of training; the grid must be readable"),
    Rule(
        r"^(mirage-hf (?:benchmark|compare) (?!.*--(?:list|help|replicates))[^#]*?)(\s*(?:#.*)?)$",
        r"\1 --replicates 20\2",
        "a thousand draws for each interval",
    ),
    Rule(r"--degrade all\b", "--degrade blur_3", "eight views of each image"),
    Rule(r"(minibench/build\.py|pretrain_tiny_clip\.py)", r"\1 --help", "downloads GB, or runs for hours"),
    Rule(r"(evidence/run\.py \w+)", r"\1 --help", "hours of training; the stage must exist"),
    Rule(r"(mirage-hf demo .*--port (\d+)[^#]*)", r"once \2 \1", "a server that runs until it is stopped"),
    Rule(r"((?:\w+=\S+ )*python examples/space/app\.py)", r"once 7860 env \1", "another such server"),
)


def rewrite(text: str) -> str:
    """The text of a shell block as it runs here."""
    return "\n".join(rewrite_command(command) for command in commands_of(text)) + "\n"


def rewrite_command(command: str) -> str:
    """One command as it runs here."""
    for rule in RULES:
        command = re.sub(rule.pattern, rule.replacement, command)
    return command


def unused_rules(commands: list[str]) -> list[Rule]:
    """The rules that change none of the commands."""
    changed = set()
    for command in commands:
        for rule in RULES:
            command, count = re.subn(rule.pattern, rule.replacement, command)
            if count:
                changed.add(rule)
    return [rule for rule in RULES if rule not in changed]
