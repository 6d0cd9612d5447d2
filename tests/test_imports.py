"""What describes, explains and talks to people imports where torch cannot be imported."""

import pkgutil
import subprocess
import sys

import pytest

import worldsize

NEEDS_TORCH = (
    "worldsize.models.decoder",
    "worldsize.models.linear",
    "worldsize.models.init",
    "worldsize.models.hf_weights",
    "worldsize.inference.",
    "worldsize.parallel.gradient_buckets",
    "worldsize.parallel.mesh",
    "worldsize.parallel.tensor_axis",
    "worldsize.parallel.tensor_plan",
    "worldsize.parallel.tensor_replica",
    "worldsize.models.build",
    "worldsize.models.encoder",
    "worldsize.models.segments",
    "worldsize.bench.load",
    "worldsize.bench.run",
    "worldsize.bench.speed",
    "worldsize.train.",
    "worldsize.measure.",
)
"""Modules that may import torch at their top, and whole rooms (those that end in a dot)."""

TORCH_FREE = ("worldsize.measure.statistics", "worldsize.measure.intervals")
"""Modules of those rooms that must not."""

BLOCK_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is blocked in this test")

sys.meta_path.insert(0, NoTorch())
"""


def torch_free_modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(worldsize.__path__, "worldsize.")]
    return [name for name in names if name in TORCH_FREE or not f"{name}.".startswith(NEEDS_TORCH)]


def python_without_torch(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK_TORCH + code], capture_output=True, text=True, check=False)


def test_torch_is_blocked() -> None:
    assert "torch is blocked in this test" in python_without_torch("import torch").stderr


def test_every_torch_free_module_imports_without_torch() -> None:
    modules = torch_free_modules()
    assert {"worldsize.records", "worldsize.config.load", "worldsize.parallel.registry"} <= set(modules)
    result = python_without_torch(
        f"import importlib\nfor name in {modules}:\n    print(name, flush=True)\n    importlib.import_module(name)\n"
    )
    assert result.returncode == 0, f"{result.stdout.splitlines()[-1]}\n{result.stderr}"


@pytest.mark.parametrize("arguments", [["--help"], ["config"], ["config", "--schema"], ["config", "--preset", "gpt2"]])
def test_reading_commands_work_without_torch(arguments: list[str]) -> None:
    result = python_without_torch(f"from worldsize.__main__ import main\nsys.exit(main({arguments}))")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout
