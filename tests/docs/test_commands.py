"""Every command of README and the documentation runs as written, only smaller.

The commands of all pages run in one directory, page after page in reading order, as somebody would type them who reads
it all. Two things are changed: `train` and `study` get the overrides SMALLER (a key that the command itself names is
left alone), and `study` and `bench` get `--repeats 1`. Beside the pages' own files the directory holds what they
speak of as the reader's: `book.txt`, `corpus/`, `reviews.csv`, `pairs.src` and `.tgt`, and `examples/`. Commands under
NOT_RUN need what a test has not; what is ours of them is checked without running.

The first of each of our commands begins in a new interpreter, and so do its ranks, as a reader's do. Later ones are
forks of a process that has torch imported (tests/warm), since the import takes longer than such a small command. On
emulated hosts every process is new: a fork would not be on them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Command, commands, inline_commands, name, pages
from tests.emulated import skip_without_lab
from tests.warm.client import SOCKET
from tests.warm.start import Warm
from worldsize.cli import COMMANDS

SMALLER = {
    "train.steps": "8",
    "train.eval_samples": "4",
    "model.num_layers": "2",
    "model.d_model": "32",
    "model.num_heads": "2",
    "model.context_length": "32",
    "data.max_bytes": "300000",
    "train.eval_translations": "4",
    "measure.warmup_steps": "2",
    "measure.probe_rounds": "1",
    "measure.trace_steps": "1",
    "measure.matmul": "false",
}
NOT_RUN = {
    r"^make ": "the whole project, these tests included",
    r"^python3 -m venv|pip install": "installs packages",
    r"hub:NAME": "stands for a data set on a network",
    r"wandb_project": "needs an account",
    r"^tensorboard ": "a server that does not end",
    r"^taskset ": "keeps a core busy on purpose",
    r"worldsize launch (?!.*--dry-run)": "needs a cluster",
    r"^modal setup": "needs an account",
    r"^apt-get ": "installs packages",
    r"gpt2": "needs GPUs, and the hub for its tokenizer",
    r"--try-remedies": "runs a dozen trainings",
}
NEEDS_HOSTS = r"worldsize lab|lab\.hosts=|--hosts"
"""Commands that run only where hosts can be emulated: as root, on a kernel with namespaces."""
LONGEST_S = 240


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the pages call the reader's own."""
    folder = tmp_path_factory.mktemp("desk")
    text = "".join(f"Line {i} of a book that {'rises' if i % 3 else 'falls'} by {i * i % 97}.\n" for i in range(2000))
    (folder / "book.txt").write_text(text)
    (folder / "corpus").mkdir()
    for i in range(3):
        (folder / "corpus" / f"part{i}.txt").write_text(text[i * 1000 :])
    rows = [f"{'good' if i % 2 else 'poor'} number {i * i % 97},{'pos' if i % 2 else 'neg'}" for i in range(400)]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    (folder / "pairs.src").write_text("".join(f"number {i}\n" for i in range(600)))
    (folder / "pairs.tgt").write_text("".join(f"Zahl {i}\n" for i in range(600)))
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def reason_not_to_run(text: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, text)), None)


def smaller(text: str) -> str:
    """Return a command with SMALLER added where it trains, and where it repeats what it measures, with one repeat."""
    found = re.search(r"\bworldsize (train|study|bench)\b", text)
    if not found:
        return text
    if found[1] == "bench":
        return text if "--repeats" in text else f"{text} --repeats 1"
    overrides = [f"{key}={value}" for key, value in SMALLER.items() if f"{key}=" not in text]
    repeats = ["--repeats", "1"] if found[1] == "study" else []
    return " ".join([text, *overrides, *repeats])


def shell(text: str, folder: Path, warm: Warm | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line in bash, with `worldsize`, `torchrun` and `python` those of this interpreter."""
    python = shlex.quote(sys.executable)
    ours = shlex.join(warm.command("worldsize")) if warm else f"{python} -m worldsize"
    functions = (
        f'worldsize() {{ {ours} "$@"; }}; python() {{ {python} "$@"; }}; '
        f'torchrun() {{ {python} -m torch.distributed.run "$@"; }}; '
    )
    environment = {**os.environ, "COLUMNS": "100", **({SOCKET: warm.socket} if warm else {})}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    here = str(Path(sys.executable).parent)  # for what other programs start, as `worldsize lab -- torchrun` does
    environment["PATH"] = os.pathsep.join([here, environment["PATH"]])
    return subprocess.run(
        ["bash", "-c", functions + text.replace(".venv/bin/", "")],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=LONGEST_S, check=False,
    )  # fmt: skip


def expect(command: Command, text: str, folder: Path, warm: Warm | None = None) -> None:
    done = shell(text, folder, warm)
    said = done.stdout + done.stderr
    assert done.returncode == command.exit_code, f"{text}\n{said}"
    assert "Traceback" not in said, said
    for line in command.said:
        assert line in said, said


with_commands = [page for page in pages() if commands(page)]
run = [command.text for page in with_commands for command in commands(page) if not reason_not_to_run(command.text)]
FIRST = {found[1]: text for text in reversed(run) if (found := re.search(r"\bworldsize (\w+)", text))}
"""Each of our commands → the line that runs it first."""


@pytest.mark.slow
@pytest.mark.parametrize("page", with_commands, ids=name)
def test_commands_run_as_written(page: Path, desk: Path, warm: Warm | None) -> None:
    for module in ("tokenizers", "tensorboard", "transformers", "sacrebleu"):
        pytest.importorskip(module)
    for command in commands(page):
        if re.search(NEEDS_HOSTS, command.text):
            skip_without_lab()
        if reason_not_to_run(command.text) is None:
            new = command.text in FIRST.values() or re.search(NEEDS_HOSTS, command.text)
            expect(command, smaller(command.text), desk, None if new else warm)


not_run = [command for page in with_commands for command in commands(page) if reason_not_to_run(command.text)]


def without_running(text: str) -> str:
    """Return what checks a command of ours that is not run: the grid of a study, the config of a run."""
    if " study " in text or " launch " in text:
        return f"{text} --dry-run"
    words = shlex.split(text)
    options = words[words.index("train") + 1 :]
    at = options.index("--out") if "--out" in options else len(options)
    nproc = ["--nproc", words[words.index("--nproc-per-node") + 1]] if words[0] == "torchrun" else []
    return shlex.join(["worldsize", "config", *options[:at], *options[at + 2 :], *nproc])


@pytest.mark.parametrize("command", not_run, ids=lambda command: command.text)
def test_commands_that_are_not_run_are_valid(command: Command, desk: Path, warm: Warm | None) -> None:
    if command.text.startswith("make "):
        target = command.text.split()[1]
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    elif re.search("worldsize (train|study|launch)", command.text):
        expect(command, without_running(command.text), desk, warm)
    elif "pip install '" in command.text:
        extra = re.search(r"worldsize\[(\w+)\]", command.text)
        assert extra
        assert re.search(rf"^{extra[1]} = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)


inline = sorted({text for page in pages() if page.parent.name != "reference" for text in inline_commands(page)})


@pytest.mark.parametrize("text", inline)
def test_commands_in_running_text_are_valid(text: str, desk: Path, warm: Warm | None) -> None:
    """Each names a command and options that exist; where it names a config, every rule lets it pass."""
    words = shlex.split(text)
    name = words[words.index("worldsize") + 1]
    assert name in COMMANDS
    known = shell(f"worldsize {name} --help", desk, warm).stdout
    for word in words[words.index("worldsize") :]:
        assert not word.startswith("--") or word in known, word
    if "run.yaml" in words:
        shell("worldsize config --preset tiny > run.yaml", desk, warm)
        shown = without_running(text) if name in ("train", "study", "launch") else text
        expect(Command(text, 0, ()), shown, desk, warm)


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_nothing_is_excused_that_no_page_holds(pattern: str) -> None:
    assert any(re.search(pattern, command.text) for command in not_run)
