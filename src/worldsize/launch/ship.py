"""What a machine in a cloud needs of this one: the package, its dependencies and the user's files. Torch-free."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path

import worldsize
from worldsize.config.load import Loaded, from_dict
from worldsize.records import Origin

REMOTE_DATA = "worldsize-data"
"""Folder beside the runs, on the other machine."""
PATH_KEYS = ("data.source", "data.tokenizer")
"""Keys whose value may be a file or folder of this machine."""


def package_folder() -> Path:
    """Return where this very package lies: what runs there is what runs here, commit or not."""
    return Path(worldsize.__file__).parent


def requirements() -> list[str]:
    """Return the package's dependencies at this environment's versions, so that runs there are comparable with ours."""
    pinned = []
    for requirement in importlib.metadata.requires("worldsize") or []:
        if "extra ==" not in requirement:
            name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
            pinned.append(f"{name}=={importlib.metadata.version(name).split('+')[0]}")
    return sorted(pinned, key=str.lower)


def shipped_files(loaded: Sequence[Loaded]) -> dict[str, Path]:
    """Return remote name → file or folder of this machine, for everything that the configs name."""
    found: dict[str, Path] = {}
    for each in loaded:
        found |= {name: path for _, name, path in _local_paths(each)}
    return found


def _local_paths(loaded: Loaded) -> list[tuple[str, str, Path]]:
    """Return (key, remote name, local path) for each value that names something of this machine."""
    tree = loaded.config.model_dump()
    found = []
    for key in PATH_KEYS:
        section, name = key.split(".")
        path = Path(str(tree[section][name])).expanduser()
        if path.exists():
            found.append((key, f"{name}-{path.name}", path.absolute()))
    return found


def rebased(loaded: Loaded, folder: str) -> Loaded:
    """Return the config with local paths replaced by where they lie on the other machine, under `folder`."""
    tree = loaded.config.model_dump()
    origins = dict(loaded.origins)
    for key, remote, _ in _local_paths(loaded):
        section, name = key.split(".")
        tree[section][name] = f"{folder}/{remote}"
        origins[key] = Origin(value=tree[section][name], source=f"{loaded.origins[key].source}, copied there")
    return Loaded(from_dict(tree), origins)
