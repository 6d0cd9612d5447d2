"""Names of the strategies (stand-in: replaced by the real registry)."""

from __future__ import annotations

from typing import cast

from worldsize.config.schema import Config
from worldsize.parallel.layout import Layout
from worldsize.parallel.strategy import Strategy


class _Single:
    @staticmethod
    def legal(config: Config, layout: Layout) -> list[str]:  # noqa: ARG004
        if layout.world_size == 1:
            return []
        return [f"parallel.strategy=single runs on one device, not {layout.world_size}. Use parallel.strategy=ddp."]


class _DDP:
    @staticmethod
    def legal(config: Config, layout: Layout) -> list[str]:  # noqa: ARG004
        return [] if layout.world_size == layout.dp else ["parallel.strategy=ddp has data-parallel ranks only."]


def strategies() -> dict[str, type[Strategy]]:
    """Return strategy name → class."""
    return cast(dict[str, type[Strategy]], {"single": _Single, "ddp": _DDP})
