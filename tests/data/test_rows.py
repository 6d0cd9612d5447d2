"""Hugging Face data sets: saved folders with the real library, hub names up to the call that needs the network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from worldsize.config.schema import DataConfig
from worldsize.data.corpus import open_corpus
from worldsize.errors import UserError

pytestmark = pytest.mark.hf
datasets = pytest.importorskip("datasets")
ROWS = {"text": ["one", "", "två\n", None, "three"], "label": [0, 1, 2, 3, 4]}


def documents(data: DataConfig) -> list[str]:
    return [piece.text for piece in open_corpus(data).pieces()]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    datasets.Dataset.from_dict(ROWS).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_saved_data_set_is_a_document_a_row(saved: Path) -> None:
    pieces = list(open_corpus(DataConfig(source=str(saved))).pieces())
    assert [piece.text for piece in pieces] == ["one", "två\n", "three"]
    assert [piece.separate for piece in pieces] == [False, True, True]
    assert pieces[-1].progress == 1.0
    assert documents(DataConfig(source=str(saved), max_bytes=6)) == ["one", "tv"]


def test_the_digest_survives_opening_again_and_knows_the_rows(saved: Path, tmp_path: Path) -> None:
    digest = open_corpus(DataConfig(source=str(saved))).digest
    assert open_corpus(DataConfig(source=str(saved))).digest == digest
    other = datasets.Dataset.from_dict({"text": ["one", "two"]})
    other.save_to_disk(str(tmp_path / "other"))
    assert open_corpus(DataConfig(source=str(tmp_path / "other"))).digest != digest


def test_of_several_splits_the_training_split_is_read(tmp_path: Path) -> None:
    split = datasets.Dataset.from_dict({"text": ["train"]})
    held = datasets.Dataset.from_dict({"text": ["test"]})
    datasets.DatasetDict({"test": held, "train": split}).save_to_disk(str(tmp_path / "both"))
    assert documents(DataConfig(source=str(tmp_path / "both"))) == ["train"]
    datasets.DatasetDict({"test": held}).save_to_disk(str(tmp_path / "one"))
    with pytest.raises(UserError, match=r"no split 'train' \(it has test\)"):
        documents(DataConfig(source=str(tmp_path / "one")))


def test_a_wrong_column_names_the_nearest(saved: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'txt'\. Did you mean data\.text_column=text\?.*text, label"):
        documents(DataConfig(source=str(saved), text_column="txt"))
    with pytest.raises(UserError, match=r"column 'label' .* does not hold text"):
        documents(DataConfig(source=str(saved), text_column="label"))


def test_a_folder_that_is_not_a_saved_data_set_says_so(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UserError, match="could not be read as a saved data set"):
        documents(DataConfig(source=str(tmp_path)))


@pytest.mark.parametrize(("source", "config"), [("hub:owner/name", None), ("hub:owner/name:raw-v1", "raw-v1")])
def test_a_hub_name_asks_for_the_training_split(
    source: str, config: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> object:
        asked.append((name, config, split))
        return datasets.Dataset.from_dict(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert documents(DataConfig(source=source)) == ["one", "två\n", "three"]
    assert asked == [("owner/name", config, "train")]


@pytest.mark.usefixtures("no_network")
def test_no_network_is_said_in_words() -> None:
    with pytest.raises(UserError, match=r"hub:no/such.* could not be loaded \(.*save_to_disk"):
        documents(DataConfig(source="hub:no/such"))


def test_a_hub_source_without_a_name_is_refused() -> None:
    with pytest.raises(UserError, match="names no data set"):
        documents(DataConfig(source="hub:"))


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'worldsize\[hf\]'"):
        documents(DataConfig(source="hub:owner/name"))


def test_an_empty_data_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = datasets.Dataset.from_dict({"text": []})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_args, **_rest: empty)
    with pytest.raises(UserError, match="is empty"):
        documents(DataConfig(source="hub:owner/name"))
