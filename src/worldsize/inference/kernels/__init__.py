"""Compiled kernels for processors with AVX512-VNNI: products with int8 and int4 weights, and decoding's attention.

They are built from the C++ beside this file at first use, by torch's own extension tools, into a cache; later processes
load what is there. Where they cannot be had, `why_not` says so and everything runs in PyTorch alone.

WORLDSIZE_KERNELS=0 leaves them out. They are kept in TORCH_EXTENSIONS_DIR, or else in ~/.cache/worldsize/kernels.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

SWITCH = "WORLDSIZE_KERNELS"
SOURCES = ("operators.cpp", "products.cpp", "attention.cpp")
HEADER = "kernels.h"
INSTRUCTIONS = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
FLAGS = [
    "-O3", "-std=c++20", "-fopenmp", "-fno-math-errno", "-ffp-contract=off", "-mfma",
    *(f"-m{name.replace('_', '')}" for name in INSTRUCTIONS),
]  # fmt: skip


@functools.cache
def why_not() -> str | None:
    """Load the kernels, building them if they never were; return None, or why they cannot be had, in words."""
    reason = _missing()
    if reason is None:
        reason = _load()
    if reason is None:
        _tell_shapes()
    return reason


def _missing() -> str | None:
    if os.environ.get(SWITCH, "1") == "0":
        return f"{SWITCH}=0"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"they are written for x86-64 processors, and this is {platform.machine()}"
    lacking = [name for name in INSTRUCTIONS if name not in _processor_flags()]
    if lacking:
        return f"this processor lacks {', '.join(lacking)}"
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", ""), "g++", "clang++")):
        return "there is no C++ compiler (g++ or clang++)"
    if shutil.which("ninja") is None:
        return "ninja, which builds them, is not installed (pip install ninja)"
    return None


def _processor_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())


def _load() -> str | None:
    folder = Path(__file__).parent
    text = b"".join((folder / name).read_bytes() for name in (*SOURCES, HEADER))
    tag = hashlib.sha256(text + repr((FLAGS, torch.__version__)).encode()).hexdigest()[:12]
    built = _cache() / f"worldsize_kernels_{tag}.so"
    try:
        if built.exists():
            torch.ops.load_library(str(built))  # type: ignore[no-untyped-call]
        else:
            _build(built)
    except (RuntimeError, OSError, ImportError) as error:
        return f"they could not be built: {(str(error).strip().splitlines() or [repr(error)])[-1]}"
    return None


def _cache() -> Path:
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(given) if given else Path.home() / ".cache" / "worldsize" / "kernels"


def _build(built: Path) -> None:
    """Build and load the library. It gets its name when it is whole, so that processes need not wait for each other."""
    from torch.utils import cpp_extension

    built.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(__file__).parent
    with tempfile.TemporaryDirectory(dir=built.parent) as workshop:
        cpp_extension.load(
            built.stem,
            [str(folder / source) for source in SOURCES],
            extra_cflags=FLAGS,
            extra_ldflags=["-fopenmp"],
            build_directory=workshop,
            is_python_module=False,
        )
        os.replace(Path(workshop) / built.name, built)


def _tell_shapes() -> None:
    """Say what shape each operator returns, for torch.compile."""
    for name, shape in {"int8_linear": _linear_shape, "int4_linear": _linear_shape, "attend": _attend_shape}.items():
        torch.library.register_fake(f"worldsize_kernels::{name}", shape)


def _linear_shape(x: Tensor, weight: Tensor, scale: Tensor, bias_O: Tensor | None, num_outputs: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], num_outputs)


def _attend_shape(q_BHD: Tensor, keys: Tensor, values: Tensor, positions_B: Tensor, first_row: int) -> Tensor:
    return q_BHD.new_empty(q_BHD.shape[0], q_BHD.shape[1] * q_BHD.shape[2])
