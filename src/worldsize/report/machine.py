"""The machine, and the settings that are not the defaults, in words. Torch-free."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from worldsize.config.schema import Config
from worldsize.records import Environment, Origin
from worldsize.report.numbers import count
from worldsize.report.rows import Table, words
from worldsize.scaling.evidence import network_text


@dataclass(frozen=True)
class Setting:
    """A config value that is not the default, and where it came from."""

    key: str
    value: str
    source: str


def facts(environment: Environment) -> list[tuple[str, str]]:
    """Return what is known of the machine; what could not be found out says so."""
    more = f" and {environment.num_hosts - 1} more" if environment.num_hosts > 1 else ""
    processor = environment.cpu_name or "not known: because the system does not name it"
    memory = f"{environment.memory_bytes / 2**30:,.1f} GiB memory"
    devices = ", ".join(dict.fromkeys(environment.device_names))
    pinned = "not pinned"
    if environment.pinned_cores:
        cores = " | ".join(" ".join(map(str, cores)) for cores in environment.pinned_cores)
        pinned = f"pinned to cores {cores}"
    torch = environment.torch or "not known: because the run did not record it"
    code = f"worldsize {environment.worldsize} (code {environment.code_version[:12]})"
    network = [("Network", network_text(environment.emulated))] if environment.emulated else []
    return [
        ("Host", f"{environment.hostname}{more}, {environment.platform}"),
        ("Processor", f"{processor}, {count(environment.num_cores, 'core')}, {memory}"),
        ("Devices", f"{environment.device_kind}: {devices}"),
        (
            "Ranks",
            f"{count(environment.threads_per_rank, 'thread')} each, {pinned}; "
            f"backend {environment.backend or 'none, one device'}",
        ),
        *network,
        ("Versions", f"Python {environment.python}, torch {torch}, {code}"),
    ]


def settings(config: dict[str, Any], origins: dict[str, Origin]) -> list[Setting]:
    """Return the config's values that differ from the defaults, with their origins where the run recorded them."""
    defaults = _leaves(Config().model_dump(mode="json"))
    changed = {key: value for key, value in _leaves(config).items() if key not in defaults or value != defaults[key]}
    return [
        Setting(key, json.dumps(value, ensure_ascii=False), origins[key].source if key in origins else "not recorded")
        for key, value in changed.items()
    ]


def settings_table(found: list[Setting]) -> Table:
    """Return the settings as a table."""
    return Table(
        "Settings that differ from the defaults.",
        [
            words("setting", "setting", [setting.key for setting in found]),
            words("value", "value", [setting.value for setting in found]),
            words("from", "from", [setting.source for setting in found]),
        ],
    )


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a tree to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
