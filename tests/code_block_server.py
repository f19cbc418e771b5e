"""Runs the commands of documented shell blocks in forks of one process that has imported what they need.

    python tests/code_block_server.py SOCKET

A command line that loads torch, transformers and datasets takes ten seconds of processor time before it does anything;
the pages hold dozens of them. Small clients named `python`, `mirage-hf`, `torchrun`, `accelerate` and `check-pip` come
first in the blocks' PATH; each hands its arguments, folder, environment and standard streams to this server, whose
fork then does what the program of that name does, and gives back its exit code. A session is a fork that runs the
Python blocks of a page, one after the other.
"""

import configparser
import doctest
import json
import os
import re
import runpy
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path

FLAGS_WITH_VALUE = {"--config_file", "--nproc_per_node"}


def serve(address: str) -> None:
    """Answers requests for ever."""
    import datasets  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.linear_model  # noqa: F401

    import mirage_hf.benchmark
    import mirage_hf.benchmark_output
    import mirage_hf.calibration_run
    import mirage_hf.evaluation_run
    import mirage_hf.explain_run
    import mirage_hf.scoring
    import mirage_hf.training_run  # noqa: F401

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                answer(connection)
            connection.close()
            reap()


def reap() -> None:
    """Buries forks that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def answer(connection: socket.socket) -> None:
    """Serves one request, and ends this process."""
    os.setsid()
    message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
    request = json.loads(message)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if request["argv"] == ["session"]:
        run_session(connection)
    else:
        threading.Thread(target=end_with, args=(connection,), daemon=True).start()
        code = exit_code(lambda: run(request["argv"]))
        sys.stdout.flush()
        connection.sendall(f"{code}".encode())
    os._exit(0)


def end_with(connection: socket.socket) -> None:
    """Ends this process and its children when the client is gone."""
    if not connection.recv(1):
        os.killpg(0, signal.SIGKILL)


def exit_code(work) -> int:
    """What a Python program that does this work would end with."""
    try:
        work()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return 1 if isinstance(end.code, str) else end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(argv: list[str]) -> None:
    """Does what the program of that name does."""
    program, *rest = argv
    if program == "check-pip":
        check_pip(rest)
    elif program == "mirage-hf":
        sys.argv = argv
        from mirage_hf_cli.main import app

        app()
    elif program == "python":
        run_python(rest)
    else:  # accelerate launch or torchrun, as one process
        if program == "accelerate":
            rest.remove("launch")
        while rest[0].startswith("--"):
            flag = rest.pop(0)
            if flag in FLAGS_WITH_VALUE:
                rest.pop(0)
        run(rest if rest[0] == "mirage-hf" else ["python", *rest])


def run_python(arguments: list[str]) -> None:
    """`python SCRIPT`, `python -m MODULE` or `python -`."""
    first, sys.argv = arguments[0], arguments
    if first == "-":
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


def check_pip(arguments: list[str]) -> None:
    """Refuses extras that setup.cfg doesn't have, and packages of no fixed version."""
    setup = configparser.ConfigParser()
    setup.read("setup.cfg")
    extras = set(setup["options.extras_require"])
    for argument in arguments:
        own = re.fullmatch(r"(\.|mirage_hf)(?:\[(?P<extras>[\w,]+)\])?", argument)
        if own:
            unknown = set((own["extras"] or "").split(",")) - extras - {""}
            if unknown:
                sys.exit(f"no such extra: {', '.join(sorted(unknown))}")
        elif not re.fullmatch(r"-e|--?[a-z-]+|[\w-]+==[\w.]+", argument):
            sys.exit(f"not this package, and of no fixed version: {argument}")


def run_session(connection: socket.socket) -> None:
    """Runs Python blocks that share their names, until the client is gone."""
    names: dict = {"__name__": "__main__"}
    with connection.makefile("rw", encoding="utf-8") as channel:
        for line in channel:
            block = json.loads(line)
            failure = run_block(block["text"], block["name"], names)
            sys.stdout.flush()
            channel.write(json.dumps(failure) + "\n")
            channel.flush()


def run_block(text: str, name: str, names: dict) -> str | None:
    """Executes a block, with its printed answers compared where it has prompts; the failure in words, if any."""
    try:
        if not text.lstrip().startswith(">>>"):
            exec(compile(text, name, "exec"), names)
            return None
        report: list[str] = []
        test = doctest.DocTestParser().get_doctest(text, names, name, name, 0)
        test.globs = names  # and not a copy: what one block defines the next one uses
        runner = doctest.DocTestRunner(checker=CloseNumbers(), optionflags=doctest.ELLIPSIS)
        runner.run(test, out=report.append, clear_globs=False)
        return "".join(report) if runner.failures else None
    except BaseException:
        return traceback.format_exc()


class CloseNumbers(doctest.OutputChecker):
    """Numbers with a decimal point may differ as floating point does from one machine to the next."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, got, optionflags) or is_close(want, got)


def is_close(expected: str, found: str, tolerance: float = 2e-3) -> bool:
    """Whether two texts are equal but for white space and such differences of decimal numbers."""
    number = r"(-?\d+\.\d+(?:e[+-]\d+)?)"
    one, other = (re.split(number, " ".join(text.split())) for text in (expected, found))
    if one[::2] != other[::2]:
        return False
    return all(abs(float(a) - float(b)) <= tolerance for a, b in zip(one[1::2], other[1::2], strict=True))


if __name__ == "__main__":
    serve(sys.argv[1])
