"""Tokenizers against transformers', and what is said when there is none."""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.config.schema import DataConfig
from worldsize.data.corpus import open_corpus
from worldsize.data.tokenizer import ByteTokenizer, Tokenizer, open_tokenizer
from worldsize.errors import UserError

TRICKY = "Hello  world\n\n\tdéjà vu 12345 😀<|endoftext|>don't  \r\n end "


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    return path


def opened(spec: object, text_file: Path) -> Tokenizer:
    corpus = open_corpus(DataConfig(source=str(text_file)))
    return open_tokenizer(str(spec), corpus, text_file.parent)


@given(text=st.text())
def test_bytes_are_utf8(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(text) == list(text.encode("utf-8"))
    assert [ids.tolist() for ids in tokenizer.encode_batch([text])] == [tokenizer.encode(text)]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bytes_that_are_no_text_decode_to_replacement_marks() -> None:
    assert ByteTokenizer().decode([104, 0xFF, 105]) == "h\ufffdi"


@pytest.mark.hf
def test_gpt2_files_tokenize_as_transformers_does(shared_data: Path, text_file: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = shared_data / "gpt2_bpe"
    reference = transformers.GPT2TokenizerFast(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    tokenizer = opened(folder, text_file)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (50257, 50256)
    wikitext = lzma.decompress((shared_data / "wikitext2" / "valid.txt.xz").read_bytes()).decode()[:200_000]
    for text in (TRICKY, wikitext):
        assert tokenizer.encode(text) == reference(text)["input_ids"]
        assert tokenizer.encode_batch([text])[0].tolist() == tokenizer.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.hf
def test_the_same_tokenizer_in_four_shapes(shared_data: Path, text_file: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = shared_data / "gpt2_bpe"
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    shutil.copy(folder / "encoder.json", renamed / "vocab.json")
    shutil.copy(folder / "vocab.bpe", renamed / "merges.txt")
    saved = tmp_path / "saved"
    transformers.GPT2TokenizerFast(str(folder / "encoder.json"), str(folder / "vocab.bpe")).save_pretrained(saved)
    expected = opened(folder, text_file)
    for spec in (renamed, saved, saved / "tokenizer.json"):
        tokenizer = opened(spec, text_file)
        assert tokenizer.encode(TRICKY) == expected.encode(TRICKY)
        assert (tokenizer.vocab_size, tokenizer.end_of_text) == (50257, 50256)


@pytest.mark.hf
def test_special_tokens_padding_and_truncation_stay_out(text_file: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[CLS]": 1, "</s>": 2, "fox": 3, "dog": 4, "stop": 9}
    bert = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[PAD]"))
    bert.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    bert.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $0", special_tokens=[("[CLS]", 1)])
    bert.enable_truncation(2)
    bert.enable_padding(length=8)
    folder = tmp_path / "words"
    folder.mkdir()
    bert.save(str(folder / "tokenizer.json"))
    tokenizer = opened(folder, text_file)
    assert tokenizer.encode("fox dog fox") == [3, 4, 3]
    assert [ids.tolist() for ids in tokenizer.encode_batch(["fox dog fox", "dog"])] == [[3, 4, 3], [4]]
    assert tokenizer.vocab_size == 10, "one more than the largest id, holes or not"
    assert tokenizer.end_of_text == 2
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "stop"}}))
    assert opened(folder, text_file).end_of_text == 9


@pytest.mark.hf
def test_bpe_is_trained_once_and_round_trips(text_file: Path) -> None:
    pytest.importorskip("tokenizers")
    said: list[str] = []
    corpus = open_corpus(DataConfig(source=str(text_file)))
    tokenizer = open_tokenizer("bpe:280", corpus, text_file.parent, lambda: said.append("training"))
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (280, 0)
    assert tokenizer.decode(tokenizer.encode(TRICKY)) == TRICKY
    assert len(tokenizer.encode("the quick brown fox")) < 10
    again = open_tokenizer("bpe:280", corpus, text_file.parent, lambda: said.append("training"))
    assert again.digest == tokenizer.digest
    assert said == ["training"]


@pytest.mark.hf
def test_bpe_training_is_deterministic_across_processes_and_threads(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    code = (
        "import sys; from pathlib import Path; from worldsize.config.schema import DataConfig\n"
        "from worldsize.data.corpus import open_corpus; from worldsize.data.tokenizer import open_tokenizer\n"
        "c = open_corpus(DataConfig(source=sys.argv[1])); print(open_tokenizer('bpe:700', c, Path(sys.argv[2])).digest)"
    )
    source = Path(json.__file__).parent  # real text with ties in its counts
    digests = set()
    for threads in ("1", "2"):
        folder = tmp_path / threads
        folder.mkdir()
        command = [sys.executable, "-c", code, str(source), str(folder)]
        environment = {"RAYON_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path)}
        digests.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(digests) == 1


@pytest.mark.parametrize("spec", ["bpe:", "bpe:256", "bpe:many", "bpe:-5", "bpe:1.5"])
def test_a_bad_bpe_size_is_refused(spec: str, text_file: Path) -> None:
    with pytest.raises(UserError, match=r"at least 257 .*Try data\.tokenizer=bpe:4096"):
        opened(spec, text_file)


@pytest.mark.hf
def test_files_that_are_no_tokenizer(text_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(UserError, match=r"is not a tokenizer\.json"):
        opened(text_file, text_file)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"holds no tokenizer\. It needs tokenizer\.json"):
        opened(empty, text_file)
    (empty / "vocab.json").write_text("{}")
    (empty / "merges.txt").write_text("a b c d\n")
    with pytest.raises(UserError, match="are not GPT-2's tokenizer files"):
        opened(empty, text_file)


@pytest.mark.hf
def test_a_hub_name_goes_through_auto_tokenizer(
    shared_data: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = shared_data / "gpt2_bpe"
    reference = transformers.GPT2TokenizerFast(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    asked: list[str] = []

    def from_pretrained(name: str) -> object:
        asked.append(name)
        return reference

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", from_pretrained)
    tokenizer = opened("owner/name", text_file)
    assert asked == ["owner/name"]
    assert tokenizer.encode(TRICKY) == reference(TRICKY)["input_ids"]
    assert tokenizer.end_of_text == 50256


@pytest.mark.hf
@pytest.mark.usefixtures("no_network")
def test_a_misspelt_name_without_network_is_told_the_nearest(text_file: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match=r"'byte' is no file or folder here, and could not be had .*mean 'bytes'"):
        opened("byte", text_file)


@pytest.mark.parametrize(("module", "spec"), [("tokenizers", "bpe:300"), ("transformers", "gpt2")])
def test_without_the_extra_the_message_says_what_to_install(
    module: str, spec: str, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"pip install 'worldsize\[hf\]'"):
        opened(spec, text_file)
