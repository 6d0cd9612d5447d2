"""Token files: right tokens, made once, shared, and never half-written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from worldsize.config.schema import DataConfig
from worldsize.data import prepare as prepare_module
from worldsize.data import workers
from worldsize.data.pieces import Piece
from worldsize.data.prepare import prepare
from worldsize.data.token_file import TokenFile
from worldsize.data.tokenizer import ByteTokenizer, load_tokenizer
from worldsize.errors import UserError

MakeData = Callable[..., DataConfig]


@pytest.fixture
def books(tmp_path: Path) -> Path:
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "a.txt").write_text("one\n")
    (folder / "b.txt").write_text("två")
    (folder / "c.txt").write_text("three")
    return folder


def stamp(file: TokenFile) -> tuple[int, int]:
    return file.path.stat().st_ino, file.path.stat().st_mtime_ns


def test_bytes_are_the_documents_joined_by_newlines(books: Path, make_data: MakeData) -> None:
    file = prepare(make_data(books))
    expected = "one\n\ntvå\nthree".encode()
    assert file.tokens().tobytes() == expected
    assert (file.num_tokens, file.vocab_size, file.dtype) == (len(expected), 256, "uint8")
    assert (file.tokenizer, file.source) == ("bytes", str(books))
    assert load_tokenizer(file).decode(file.tokens()) == expected.decode()


def test_the_last_fraction_is_held_out_without_tokenizing_again(books: Path, make_data: MakeData) -> None:
    file = prepare(make_data(books, validation_fraction=0.25))
    assert (file.num_tokens, file.num_train_tokens) == (15, 12)
    everything = prepare(make_data(books, validation_fraction=0.0))
    assert everything.num_train_tokens == 15
    assert stamp(everything) == stamp(file)


def test_real_text_equals_its_file(shared_data: Path, make_data: MakeData) -> None:
    path = shared_data / "tinyshakespeare" / "input.txt"
    assert prepare(make_data(path)).tokens().tobytes() == path.read_bytes()


@pytest.mark.hf
@pytest.mark.parametrize("num_workers", [1, 2])
def test_gpt2_tokens_equal_transformers(
    num_workers: int, shared_data: Path, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Novels of up to 1.2 MB, cut in pieces and shared among processes, against each novel tokenized whole."""
    import gzip

    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(workers, "CHUNK_BYTES", 200_000)  # enough chunks for the processes to be used
    bpe, novels = shared_data / "gpt2_bpe", shared_data / "gutenberg_novels"
    reference = transformers.GPT2TokenizerFast(str(bpe / "encoder.json"), str(bpe / "vocab.bpe"))
    expected: list[int] = []
    for path in sorted(novels.iterdir()):
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        expected += [50256] * bool(expected) + reference(text)["input_ids"]
    file = prepare(make_data(novels, bpe, num_workers=num_workers))
    assert file.dtype == "uint16"
    assert np.array_equal(file.tokens(), np.array(expected))
    assert load_tokenizer(file).encode("Call me Ishmael.") == reference("Call me Ishmael.")["input_ids"]


@pytest.mark.hf
def test_a_tokenizer_without_end_of_text_separates_by_newline(books: Path, tmp_path: Path, make_data: MakeData) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"one": 5, "two": 6, "three": 7, "\n": 8, "?": 9}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "isolated")
    model.save(str(tmp_path / "words.json"))
    assert prepare(make_data(books, tmp_path / "words.json")).tokens().tolist() == [5, 8, 8, 9, 8, 7]


def test_a_second_call_does_no_work(books: Path, make_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[float, str]] = []
    first = prepare(make_data(books), on_progress=lambda share, doing: said.append((share, doing)))
    assert said[-1] == (1.0, "tokenizing")
    before = stamp(first)
    monkeypatch.setattr(prepare_module, "_make", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(prepare_module, "locked", lambda *_: pytest.fail("a reader needs no lock"))
    second = prepare(make_data(books), on_progress=lambda *_: pytest.fail("nothing to tell"))
    assert (second, stamp(second)) == (first, before)


def test_other_text_tokens_or_limit_are_another_file(books: Path, make_data: MakeData) -> None:
    first = prepare(make_data(books))
    limited = prepare(make_data(books, max_bytes=5))
    assert limited.tokens().tobytes() == b"one\n\nt"
    (books / "b.txt").write_text("two")
    changed = prepare(make_data(books))
    assert len({first.path, limited.path, changed.path}) == 3
    assert len({first.digest, limited.digest, changed.digest}) == 3


def test_equal_tokens_have_equal_digests_wherever_they_come_from(tmp_path: Path, make_data: MakeData) -> None:
    import gzip

    (tmp_path / "a.txt").write_text("same")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"same"))
    assert prepare(make_data(tmp_path / "a.txt")).digest == prepare(make_data(tmp_path / "a.txt.gz")).digest


def test_a_damaged_cache_is_made_again(books: Path, make_data: MakeData) -> None:
    (books / "long.txt").write_text("x" * 300_000)
    data = make_data(books)
    good = prepare(data)
    expected = good.tokens().tobytes()
    meta = good.path.with_suffix(".json")

    def flip() -> None:
        content = bytearray(good.path.read_bytes())
        content[150_000] ^= 1
        good.path.write_bytes(content)

    damages: list[Callable[[], object]] = [
        flip,
        lambda: os.truncate(good.path, 7),
        lambda: good.path.unlink(),
        lambda: meta.write_text("{"),
        lambda: meta.write_text("[]"),
        lambda: meta.write_text(json.dumps({**json.loads(meta.read_text()), "dtype": "no"})),
        lambda: meta.unlink(),
    ]
    for damage in damages:
        damage()
        assert prepare(data) == good
        assert good.path.read_bytes() == expected


def test_making_again_does_not_touch_the_file_that_others_have_mapped(books: Path, make_data: MakeData) -> None:
    file = prepare(make_data(books))
    file.path.write_bytes(b"damaged")
    mapped = np.memmap(file.path, dtype=np.uint8, mode="r")
    assert prepare(make_data(books)).tokens().tobytes() != b"damaged"
    assert mapped.tobytes() == b"damaged"


@pytest.mark.hf
def test_a_damaged_copy_of_the_tokenizer_is_made_again(books: Path, make_data: MakeData) -> None:
    pytest.importorskip("tokenizers")
    data = make_data(books, "bpe:260")
    file = prepare(data)
    copy = file.path.with_suffix(".tokenizer.json")
    for damage in (copy.unlink, lambda: copy.write_text("{")):
        damage()
        assert load_tokenizer(prepare(data)).decode(file.tokens()).startswith("one\n<|endoftext|>två")


def test_a_source_without_text_leaves_nothing_behind(tmp_path: Path, make_data: MakeData) -> None:
    import gzip

    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "late.txt").write_bytes(b"fine\n" * 100_000 + b"\xff")
    for name, match in (("empty.gz", "holds no text"), ("late.txt", "not UTF-8")):
        with pytest.raises(UserError, match=match):
            prepare(make_data(tmp_path / name))
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_a_cache_that_cannot_be_written_says_what_to_set(books: Path) -> None:
    for place in (books / "a.txt" / "sub", Path("/proc/worldsize")):
        with pytest.raises(UserError, match=r"cannot write the data cache .*data\.cache_dir=FOLDER"):
            prepare(DataConfig(source=str(books), cache_dir=str(place)))


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, make_data: MakeData) -> None:
    (tmp_path / "text.txt").write_text("x" * 3_000_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write the data cache .*Free some space.*data\.max_bytes"):
            prepare(make_data(tmp_path / "text.txt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}
    assert prepare(make_data(tmp_path / "text.txt")).num_tokens == 3_000_000


def test_a_cache_that_is_already_made_needs_no_writing(
    books: Path, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(make_data(books))

    def read_only(*_args: object, **_named: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("worldsize.data.cache.os.open", read_only)
    assert prepare(make_data(books)) == first
    (books / "a.txt").write_text("new")
    with pytest.raises(UserError, match="Read-only file system"):
        prepare(make_data(books))


PREPARE = """
import json, sys
from worldsize.config.schema import DataConfig
from worldsize.data import workers
from worldsize.data.prepare import prepare
workers.CHUNK_BYTES = 50_000
if __name__ == "__main__":
    said = []
    def tell(share, doing):
        said.append(doing)
        print(doing, flush=True)
    file = prepare(DataConfig(**json.loads(sys.argv[1])), on_progress=tell)
    print("done", file.digest, flush=True)
"""


def start(script: Path, data: DataConfig) -> subprocess.Popen[str]:
    if not script.exists():
        script.write_text(PREPARE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, str(script), data.model_dump_json()], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def test_of_several_processes_at_once_one_works(tmp_path: Path, make_data: MakeData) -> None:
    data = make_data("python-stdlib", max_bytes=15_000_000)
    processes = [start(tmp_path / "script.py", data) for _ in range(3)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({out.splitlines()[-1] for out, _ in outputs}) == 1
    assert sum("tokenizing" in out for out, _ in outputs) == 1


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process_and_no_file(
    ended_by: signal.Signals, shared_data: Path, tmp_path: Path, make_data: MakeData
) -> None:
    data = make_data("python-stdlib", shared_data / "gpt2_bpe", num_workers=2)
    process = start(tmp_path / "script.py", data)
    assert process.stdout is not None
    assert process.stdout.readline() == "tokenizing\n"
    family = psutil.Process(process.pid).children(recursive=True)
    assert len([child for child in family if "worldsize.data.workers" in " ".join(child.cmdline())]) == 2
    if ended_by is signal.SIGINT:
        os.killpg(process.pid, ended_by)  # as a terminal does
    else:
        process.send_signal(ended_by)
    process.communicate(timeout=20)
    assert psutil.wait_procs(family, timeout=10)[1] == []
    left = {path.suffix for path in (tmp_path / "cache").iterdir()}
    assert left <= ({".lock"} if ended_by is signal.SIGINT else {".lock", ".tmp"})
    if ended_by is signal.SIGKILL:  # the lock died with its holder, the temporary is overwritten
        prepare(data.model_copy(update={"max_bytes": 100_000}))


@pytest.mark.hf
@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_with_a_message(
    shared_data: Path, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "CHUNK_BYTES", 100_000)
    killed: list[int] = []

    def kill_one(_share: float, _doing: str) -> None:
        for child in psutil.Process().children() if not killed else []:
            if "worldsize.data.workers" in " ".join(child.cmdline()):
                killed.append(child.pid)
                child.kill()
                return

    data = make_data("python-stdlib", shared_data / "gpt2_bpe", num_workers=2)
    with pytest.raises(UserError, match=r"ended before its work was done.*data\.num_workers=1"):
        prepare(data, on_progress=kill_one)
    assert killed
    assert not [c for c in psutil.Process().children() if "worldsize.data.workers" in " ".join(c.cmdline())]


class SlowBytes(ByteTokenizer):
    """Later chunks return first, were order not kept."""

    def encode_batch(self, texts):
        time.sleep(0.2 if texts[0].startswith("0") else 0.0)
        return super().encode_batch(texts)


class Failing(ByteTokenizer):
    def encode_batch(self, texts):
        raise ValueError(f"no such text: {texts}")


def chunks_of(num_chunks: int, taken: list[int]):
    for i in range(num_chunks):
        taken.append(i)
        yield [Piece(f"{i} ", i > 0, (i + 1) / num_chunks)]


def test_processes_keep_the_order_and_read_no_further_than_they_must() -> None:
    taken: list[int] = []
    received = b""
    for index, tokens in enumerate(workers.tokenize_in_processes(SlowBytes(), chunks_of(12, taken), 2)):
        received += tokens.ids.tobytes()
        assert len(taken) - index <= 3, "at most one chunk a process is in flight, and one in hand"
    assert received.decode() == "\n".join(f"{i} " for i in range(12))


def test_an_error_in_a_process_is_raised_here() -> None:
    with pytest.raises(ValueError, match="no such text"):
        list(workers.tokenize_in_processes(Failing(), chunks_of(3, []), 1))


def test_data_imports_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import worldsize.data.prepare, worldsize.data.sampler, worldsize.data.language_modelling\n"
        "assert not {'transformers', 'tokenizers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
