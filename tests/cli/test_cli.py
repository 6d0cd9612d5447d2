"""The command line as a whole: help, unknown commands, exit codes, and 200 malformed configs."""

import contextlib
import importlib
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import worldsize
from worldsize import cli
from worldsize.__main__ import main
from worldsize.config.messages import all_keys, allowed, sections
from worldsize.config.schema import Config
from worldsize.config.write import scalar
from worldsize.errors import RunError

Answer = tuple[int, str, str]


def run(*arguments: str) -> Answer:
    """Run the command line in this process; return exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


def test_help_lists_every_command_in_full() -> None:
    code, out, _ = run("--help")
    assert code == 0
    for name, text in cli.COMMANDS.items():
        assert any(line.split(None, 1) == [name, text] for line in out.splitlines())
    assert run() == (0, out, "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_table_says_what_the_commands_docstring_says(name: str) -> None:
    function = getattr(importlib.import_module(f"worldsize.cli.{name}"), name)
    assert function.__doc__.splitlines()[0] == cli.COMMANDS[name]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_examples_and_json(name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"\n  worldsize {name} " in out
    assert "--json" in out


def test_help_answers_in_a_third_of_a_second() -> None:
    def once() -> float:
        """Return the CPU seconds, which other programs on the machine do not lengthen much."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "worldsize", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(7)) < 0.35


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from worldsize.__main__ import main; main(['--help'])\n"
        "heavy = {'pydantic', 'yaml', 'numpy', 'torch', 'rich', 'worldsize.config'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_version() -> None:
    assert run("--version") == (0, f"worldsize {worldsize.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["confg"], "unknown command 'confg'. Did you mean 'config'? Allowed: "),
        (["config", "--prset", "tiny"], "No such option: --prset"),
        (["config", "--nproc", "two"], "Invalid value for '--nproc': "),
        (["config", "--nproc", "0"], "--nproc is 0, but must be at least 1."),
        (["config", "--preset"], "Option '--preset' requires an argument. See: worldsize config --help"),
        (["config", "--schema", "--presets"], "choose one of --print, --schema and --presets."),
        (["config", "none.yaml"], "cannot read the config 'none.yaml': No such file or directory."),
        (["config", "--preset", "tinny"], "unknown preset 'tinny'. Did you mean 'tiny'?"),
    ],
)
def test_bad_arguments_end_in_one_message(arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert "Input should be" not in err
    code, out, _ = run(*arguments, "--json")
    assert json.loads(out)["exit_code"] == code == 2


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "run_command", command)


def test_a_failed_run_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(RunError("rank 1 died at step 7."), monkeypatch)
    assert run("config") == (1, "", "error: rank 1 died at step 7.\n")
    assert json.loads(run("config", "--json")[1]) == {"error": "rank 1 died at step 7.", "exit_code": 1}


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    assert run("config") == (130, "", "error: stopped by Ctrl-C.\n")


def test_our_own_mistake_says_how_to_get_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(ZeroDivisionError("division by zero"), monkeypatch)
    monkeypatch.delenv("WORLDSIZE_DEBUG", raising=False)
    code, out, err = run("config")
    assert (code, out) == (70, "")
    assert err.startswith("error: worldsize made a mistake: ZeroDivisionError: division by zero (")
    assert "WORLDSIZE_DEBUG=1" in err
    assert "Traceback" not in err
    monkeypatch.setenv("WORLDSIZE_DEBUG", "1")
    assert "Traceback" in run("config")[2]


def test_json_after_a_double_dash_belongs_to_the_other_program(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(RunError("no."), monkeypatch)
    assert run("study", "--", "train.py", "--json")[1] == ""


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m worldsize config --schema | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode in (0, 141)  # 0 where the pipe's buffer took it all
    assert result.stderr == ""


def test_the_pipe_that_is_closed_before_the_first_byte() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "worldsize", "config"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


# --- malformed configs -------------------------------------------------------------------------------------------

KEYS = st.sampled_from(all_keys())
WORDS = st.text(min_size=1, max_size=12)
VALID = Config().model_dump(mode="json")


@st.composite
def illegal_values(draw: st.DrawFn) -> tuple[str, Any]:
    """A key and a value that its type forbids."""
    key = draw(KEYS)
    junk: list[Any] = [{"a": 1}, float("inf"), {}]
    if "list" not in allowed(key):
        junk.append([1, 2])
    if "text" not in allowed(key):
        junk += ["many", "1 2", "\U0001f600"]
    if "true" not in allowed(key):
        junk.append(True)
    if "number" in allowed(key):
        junk.append(-7)
    return key, draw(st.sampled_from(junk))


def with_value(key: str, value: Any) -> dict[str, Any]:
    section, name = key.split(".")
    return {**VALID, section: {**VALID[section], name: value}}


def to_text(tree: Any) -> str:
    """YAML in flow style, written without our writer or PyYAML's."""
    return json.dumps(tree).replace("Infinity", ".inf")


def valid_lines() -> list[str]:
    lines = []
    for section, values in VALID.items():
        lines += [f"{section}:"] + [f"  {key}: {scalar(value)}" for key, value in values.items()]
    return lines


@st.composite
def malformed(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """A config file and overrides of which at least one thing is certainly wrong."""
    kind = draw(st.sampled_from(["value", "key", "section", "list", "twice", "syntax", "bytes", "override", "rule"]))
    lines = valid_lines()
    at = draw(st.integers(1, len(lines) - 1))
    if kind == "value":
        return to_text(with_value(*draw(illegal_values()))).encode(), []
    if kind == "key":
        name = draw(WORDS.filter(lambda word: not any(word in section.model_fields for section in sections().values())))
        return to_text(with_value(f"{draw(KEYS).split('.')[0]}.{name.replace('.', '_')}", 1)).encode(), []
    if kind == "section":
        return to_text({**VALID, draw(st.sampled_from(list(VALID))): draw(st.integers() | st.just([1]))}).encode(), []
    if kind == "list":
        return to_text(draw(st.lists(st.integers(0, 9), min_size=1) | st.integers(0, 9))).encode(), []
    if kind == "twice":
        at = draw(st.sampled_from([i for i, line in enumerate(lines) if line.startswith("  ")]))
        return "\n".join([*lines[:at], lines[at], *lines[at:]]).encode(), []
    if kind == "syntax":
        wreck = draw(st.sampled_from(["\tx", "  : : :", "{", '  "open', "  &a *a", "---", "  x: @y", "  - ]"]))
        return "\n".join([*lines[:at], wreck, *lines[at:]]).encode(), []
    if kind == "bytes":
        return "\n".join(lines[:at]).encode() + draw(st.sampled_from([b"\xff", b"\xc3\x28", b"\x00", b"\x80abc"])), []
    if kind == "override":
        key, value = draw(illegal_values())
        word = draw(WORDS.filter(lambda word: "=" not in word and word[0] != "-"))
        return b"", [draw(st.sampled_from([f"{key}={to_text(value)}", f"{word}=1", f"train.steps={{{word}", word]))]
    rule = draw(st.sampled_from(["model.num_heads=3", "train.steps=1", "parallel.tp=64", "parallel.strategy=x"]))
    return "\n".join(lines).encode(), [rule]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("malformed")


def run_in(folder: Path, raw: bytes, command: str, *arguments: str) -> Answer:
    """Run a command on a config file in `folder`, and see that nothing else is in the folder afterwards."""
    (folder / "run.yaml").write_bytes(raw)
    with contextlib.chdir(folder):
        answer = run(command, "run.yaml", *arguments)
    assert [path.name for path in folder.rglob("*")] == ["run.yaml"]
    return answer


def assert_one_clear_message(answer: Answer) -> None:
    code, out, err = answer
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert len(err.removeprefix("error: ").strip()) > 10
    for jargon in ("Traceback", "pydantic", "Input should", "made a mistake", "http"):
        assert jargon not in err


@settings(max_examples=200, deadline=None)
@given(malformed())
def test_200_malformed_configs_end_in_a_message(folder: Path, case: tuple[bytes, list[str]]) -> None:
    raw, overrides = case
    assert_one_clear_message(run_in(folder, raw, "config", *overrides))


@pytest.mark.parametrize("command", sorted({"train", "study"} & set(cli.COMMANDS)))
@settings(max_examples=50, deadline=None)
@given(case=malformed())
def test_no_half_written_folder(folder: Path, command: str, case: tuple[bytes, list[str]]) -> None:
    raw, overrides = case
    assert_one_clear_message(run_in(folder, raw, command, *overrides, "--out", "out"))


junk_files = st.binary(max_size=200) | st.text(max_size=200).map(str.encode)


@settings(max_examples=200, deadline=None)
@given(junk_files, st.lists(st.text(max_size=30).filter(lambda text: not text.startswith("-")), max_size=2))
def test_junk_is_refused_or_understood_but_never_a_mistake_of_ours(
    folder: Path, raw: bytes, overrides: list[str]
) -> None:
    answer = run_in(folder, raw, "config", *overrides)
    if answer[0] != 0:
        assert_one_clear_message(answer)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2000), st.text(max_size=3), st.integers(0, 3))
def test_a_valid_file_with_a_few_characters_changed(folder: Path, at: int, inserted: str, cut: int) -> None:
    text = "\n".join(valid_lines())
    at %= len(text)
    answer = run_in(folder, (text[:at] + inserted + text[at + cut :]).encode(), "config")
    if answer[0] != 0:
        assert_one_clear_message(answer)
