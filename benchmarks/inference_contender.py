"""One contender of `inference_speed` in its own process: `python -m benchmarks.inference_contender '{"name": …}'`.

It makes itself ready, says so with what a step reads of its weights, and then answers each task that it is told on a
line of standard input with the seconds that it took; an empty input ends it. It keeps to one core.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEERS: dict[str, tuple[str, str, str]] = {
    "transformers fp32": ("Transformers", "float32", "transformers"),
    "transformers bf16": ("Transformers", "bfloat16", "transformers"),
    "ONNX Runtime int8": ("OnnxRuntime", "int8", "onnxruntime"),
    "CTranslate2 int8": ("CTranslate2", "int8", "ctranslate2"),
    "llama.cpp F16": ("LlamaCpp", "f16", "llama_cpp"),
    "llama.cpp Q8_0": ("LlamaCpp", "q8_0", "llama_cpp"),
    "llama.cpp Q4_0": ("LlamaCpp", "q4_0", "llama_cpp"),
}
"""Name → class in inference_peers, precision, and the module without which it is absent."""

NEEDED = {
    "transformers": ("transformers",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "ctranslate2": ("ctranslate2",),
    "llama_cpp": ("llama_cpp", "gguf"),
}
"""Modules that a peer imports."""
PIP = {
    "transformers": "pip install 'transformers>=4.50'",
    "onnxruntime": "pip install onnxruntime onnx",
    "ctranslate2": "pip install ctranslate2",
    "llama_cpp": "pip install llama-cpp-python gguf    (builds llama.cpp: half an hour on one core)",
}
OURS, COMPILED, ALONE = "worldsize ", " compiled", " alone"
"""Ours by method; decoding by torch.compile's graphs; and PyTorch alone, without kernels that need a compiler."""
MEMORY = "memory alone"


def open_contender(name: str, folder: Path) -> tuple[Callable[[str, int, int], float], dict[str, Any]]:
    """Return what does a task, and what is known of it: bytes of weights that a step reads, and whether a kernel of
    ours multiplies."""
    if name == MEMORY:
        return _memory()
    from benchmarks import inference_peers

    peer: Any
    if name in PEERS:
        kind, precision, _ = PEERS[name]
        peer = getattr(inference_peers, kind)(folder, precision)
    else:
        method = name.removeprefix(OURS).removesuffix(COMPILED).removesuffix(ALONE)
        peer = inference_peers.Ours(folder, method, name.endswith(COMPILED))

    def run(task: str, num_rows: int, num_tokens: int) -> float:
        seconds = peer.prefill(num_tokens) if task == "prefill" else peer.decode(num_rows, num_tokens)
        return float(seconds)

    return run, {"read_bytes": int(peer.read_bytes), "kernel": getattr(peer, "has_kernel", False)}


def _memory() -> tuple[Callable[[str, int, int], float], dict[str, Any]]:
    """Reading, and nothing else: as seconds for one read of `read_bytes`."""
    from worldsize.measure.bandwidth import ReadBandwidth

    bandwidth = ReadBandwidth()

    def run(task: str, num_rows: int, num_tokens: int) -> float:
        bandwidth.best_bytes_per_s = 0.0
        return bandwidth.num_bytes / bandwidth.measure()

    return run, {"read_bytes": bandwidth.num_bytes, "kernel": False}


def main() -> None:
    given = json.loads(sys.argv[1])
    os.environ["OMP_NUM_THREADS"] = "1"
    if ALONE in given["name"]:
        os.environ["WORLDSIZE_KERNELS"] = "0"
    os.sched_setaffinity(0, {given["core"]})
    if given["name"] not in PEERS or PEERS[given["name"]][2] == "transformers":
        import torch

        torch.set_num_threads(1)
    run, known = open_contender(given["name"], Path(given["folder"]))
    for task in given["tasks"]:  # compilation and caches
        for _ in range(2):
            run(*task)
    _say({"ready": True} | known)
    for line in sys.stdin:
        _say({"seconds": run(*json.loads(line))})


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
