"""Text to token ids and back: bytes, BPE trained on the corpus, or any fast Hugging Face tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from worldsize.data.cache import atomic_file, locked
from worldsize.data.corpus import Corpus
from worldsize.data.hub import first_line, offline_when_unreachable
from worldsize.errors import UserError, nearest

if TYPE_CHECKING:
    from worldsize.data.token_file import TokenFile

END_OF_TEXT = "<|endoftext|>"
KNOWN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
"""Tried in this order where a tokenizer's files do not name its end-of-text token."""
MIN_BPE_SIZE = 257
"""256 bytes and the end of text."""


class NoTokenizerError(UserError):
    """A folder without a tokenizer."""


class Tokenizer(Protocol):
    """What the rest of the library asks of a tokenizer."""

    spec: str
    digest: str
    """Equal digests give equal ids."""
    vocab_size: int
    """One more than the largest id."""
    end_of_text: int | None
    """Id of the token between documents, where there is one."""

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, without special tokens at its ends."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...


class ByteTokenizer:
    """A token a byte of UTF-8. Documents are separated by a newline."""

    spec: str = "bytes"
    digest: str = "bytes"
    vocab_size: int = 256
    end_of_text: int | None = None

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(int(i) for i in ids).decode(errors="replace")


class FastTokenizer:
    """A tokenizer of the `tokenizers` library, known by its JSON. Can be pickled."""

    def __init__(self, spec: str, tokenizer_json: str, end_of_text: int | None) -> None:
        self.spec = spec
        self.json = tokenizer_json
        self.end_of_text = end_of_text
        self.digest = hashlib.sha256(f"{end_of_text} {tokenizer_json}".encode()).hexdigest()
        self._tokenizer = tokenizers_library().Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)
        return text


def tokenizers_library() -> Any:
    """Return the `tokenizers` library. Raises UserError where it is not installed."""
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            "every tokenizer but 'bytes' needs the extra 'hf': pip install 'worldsize[hf]', or data.tokenizer=bytes."
        ) from error
    return tokenizers


def open_tokenizer(spec: str, corpus: Corpus, folder: Path, on_train: Callable[[], None] | None = None) -> Tokenizer:
    """Return the tokenizer that `data.tokenizer` names; 'bpe:SIZE' is trained once and kept in `folder`.

    Raises UserError when it does not exist, cannot be read, or needs the extra hf.
    """
    if spec == "bytes":
        return ByteTokenizer()
    if spec.startswith("bpe:"):
        return _trained_bpe(spec, corpus, folder, on_train)
    path = Path(spec).expanduser()
    if path.is_file():
        return _from_json_file(spec, path)
    if path.is_dir():
        return _from_folder(spec, path)
    return _from_hub(spec)


def tokenizer_in(folder: Path) -> Tokenizer | None:
    """Return the tokenizer of a model's folder, or None when it holds none. Raises UserError on damaged files."""
    try:
        return _from_folder(str(folder), folder)
    except NoTokenizerError:
        return None


def load_tokenizer(token_file: TokenFile) -> Tokenizer:
    """Return the tokenizer that made `token_file`, from the copy beside it."""
    return read_tokenizer(token_file.tokenizer, token_file.path)


def read_tokenizer(spec: str, path: Path) -> Tokenizer:
    """Return the tokenizer `spec`, from the copy beside the token file at `path`."""
    if spec == "bytes":
        return ByteTokenizer()
    saved = json.loads(saved_path(path).read_text())
    return FastTokenizer(spec, saved["tokenizer_json"], saved["end_of_text"])


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Keep a copy beside the token file at `path`, so that a run's text can be decoded wherever its source went."""
    if isinstance(tokenizer, FastTokenizer):
        with atomic_file(saved_path(path)) as file:
            saved = {"tokenizer_json": tokenizer.json, "end_of_text": tokenizer.end_of_text}
            file.write(json.dumps(saved).encode())


def saved_path(path: Path) -> Path:
    """Return where the tokenizer of the token file at `path` is kept."""
    return path.with_suffix(".tokenizer.json")


def _trained_bpe(spec: str, corpus: Corpus, folder: Path, on_train: Callable[[], None] | None) -> FastTokenizer:
    size_text = spec.removeprefix("bpe:")
    if not size_text.isdecimal() or int(size_text) < MIN_BPE_SIZE:
        raise UserError(
            f"data.tokenizer={spec!r}: SIZE in bpe:SIZE is a number of tokens, at least {MIN_BPE_SIZE} (256 bytes and "
            "the end of text). Try data.tokenizer=bpe:4096."
        )
    key = hashlib.sha256(f"bpe {size_text} {corpus.digest} {corpus.max_bytes}".encode()).hexdigest()[:32]
    path = folder / f"bpe-{key}.json"
    if not path.exists():
        with locked(path.with_suffix(".lock"), on_train):
            if not path.exists():
                if on_train is not None:
                    on_train()
                trained = _train_bpe(corpus, int(size_text))
                with atomic_file(path) as file:
                    file.write(trained.encode())
    return FastTokenizer(spec, path.read_text(), 0)


def _train_bpe(corpus: Corpus, size: int) -> str:
    """Return the JSON of a byte-level BPE tokenizer of at most `size` tokens; the end of text has id 0."""
    tokenizers = tokenizers_library()
    tokenizer = _byte_level(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece.text for piece in corpus.pieces()), trainer)
    text: str = tokenizer.to_str()
    return text


def _byte_level(model: Any) -> Any:
    """Return GPT-2's tokenizer around a BPE model: its pre-tokenizing pattern, every byte a character."""
    tokenizers = tokenizers_library()
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def _from_json_file(spec: str, path: Path) -> FastTokenizer:
    tokenizers = tokenizers_library()
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"data.tokenizer={spec!r} is not a tokenizer.json ({first_line(error)}).") from error
    return FastTokenizer(spec, tokenizer.to_str(), _end_of_text(tokenizer, path.parent))


def _from_folder(spec: str, folder: Path) -> FastTokenizer:
    if (folder / "tokenizer.json").is_file():
        return _from_json_file(spec, folder / "tokenizer.json")
    for vocab, merges in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        if (folder / vocab).is_file() and (folder / merges).is_file():
            return _from_gpt2_files(spec, folder / vocab, folder / merges)
    raise NoTokenizerError(
        f"data.tokenizer={spec!r}: the folder holds no tokenizer. It needs tokenizer.json, or GPT-2's encoder.json and "
        "vocab.bpe (vocab.json and merges.txt)."
    )


def _from_gpt2_files(spec: str, vocab: Path, merges: Path) -> FastTokenizer:
    tokenizers = tokenizers_library()
    try:
        tokenizer = _byte_level(tokenizers.models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{vocab} and {merges.name} are not GPT-2's tokenizer files ({first_line(error)}).") from error
    ends = [token for token in KNOWN_ENDS if tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens(ends[:1])
    return FastTokenizer(spec, tokenizer.to_str(), tokenizer.token_to_id(ends[0]) if ends else None)


def _end_of_text(tokenizer: Any, folder: Path) -> int | None:
    """Return the id of the token that the folder's files call eos_token, else of the first known one, or None."""
    names = list(KNOWN_ENDS)
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / file).is_file():
            eos = json.loads((folder / file).read_text()).get("eos_token")
            names.insert(0, eos["content"] if isinstance(eos, dict) else eos)
    ids = [tokenizer.token_to_id(name) for name in names if name]
    return next((i for i in ids if i is not None), None)


def _from_hub(spec: str) -> FastTokenizer:
    close = nearest(spec, ["bytes", "bpe:4096"])
    hint = f" Did you mean {close!r}?" if close else ""
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"data.tokenizer={spec!r} is no file or folder here, and names of the Hugging Face hub need the extra "
            f"'hf': pip install 'worldsize[hf]'.{hint}"
        ) from error
    offline_when_unreachable()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(spec)
    except Exception as error:  # every library below raises its own kind
        raise UserError(
            f"data.tokenizer={spec!r} is no file or folder here, and could not be had from the Hugging Face hub "
            f"({first_line(error)}).{hint} Allowed: 'bytes', 'bpe:SIZE', a tokenizer's folder or tokenizer.json, "
            "a hub name."
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"data.tokenizer={spec!r} has no tokenizer.json. Give a tokenizer that has one.")
    return FastTokenizer(spec, tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id)
