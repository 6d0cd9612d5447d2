"""A model saved with fewer bits, and what that cost.

A method yields a row only when its folder was loaded by a new process and ran there.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from worldsize.errors import RunError, UserError
from worldsize.inference.compare import Comparison
from worldsize.inference.export import add_tokenizer, config_tree
from worldsize.inference.held_out import HeldOut
from worldsize.inference.methods import METHODS, Method, known
from worldsize.inference.open_model import HF_CONFIG, OUR_CONFIG, QUANTIZED, OpenedModel, read_json
from worldsize.inference.packing import EMBEDDING, HEAD, Packed, pack, share_quantized, tensors_of
from worldsize.inference.quantization_records import QuantizedRow, Refused, Sizes
from worldsize.inference.quantization_row import fp32_bytes, row_of
from worldsize.inference.stock import Stock
from worldsize.inference.tensor_files import read_tensors, write_tensors
from worldsize.models.cost import FP32_BYTES, num_parameters, parameter_shapes

LEAST_SHARE = 0.1
"""A method that changes less of the parameters than this is not called quantization."""

Say = Callable[[str], None]


def quantize(
    opened: OpenedModel, method: Method, out: Path, data: HeldOut, *, threads: int, say: Say
) -> QuantizedRow | Refused:
    """Write a model into the new folder `out` under a method, load it in a new process and compare it there.

    The folder is there only if all of it went well. Raises UserError when `out` is there already or cannot be written.
    """
    opened.needs_weights()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already. Nothing is overwritten: give another --out, or move it away.")
    reason = refusal_unpacked(opened, method)
    if reason is not None:
        return Refused(method=method.name, reason=reason)
    say(f"{method.name}: packing")
    packed = pack(opened.weights, opened.model, method)
    reason = refusal_of_size(opened, method, packed)
    if reason is not None:
        return Refused(method=method.name, reason=reason)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write(opened, method, packed, temporary)
        say(f"{method.name}: comparing in a new process, {data.num_windows} windows")
        found = _compared(opened.path, temporary, data, threads)
        if isinstance(found, str):
            return Refused(method=method.name, reason=found)
        sizes = sizes_of(temporary, parameters_of(opened))
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}. Give another --out.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return row_of(opened, method, out, sizes, found, data)


def refusal_unpacked(opened: OpenedModel, method: Method) -> str | None:
    """Return why a method is not worth trying on a model, or None."""
    missing = method.why_not()
    if missing is not None:
        return f"not here, because: {missing.rstrip('.')}"
    if issubclass(method.blocks, Stock) and _is_conv1d(opened):
        return _of_conv1d(opened)
    share = share_quantized(opened.model, method)
    if method.name != "fp32" and share < LEAST_SHARE:
        return f"it would change only {share:.1%} of the parameters{_embedding_stays(opened, method)}"
    return None


def _embedding_stays(opened: OpenedModel, method: Method) -> str:
    """Return in words that most of the parameters are a token embedding that a method cannot keep, where it is so."""
    shapes = parameter_shapes(opened.model)
    share = math.prod(shapes[EMBEDDING]) / sum(map(math.prod, shapes.values()))
    if method.ends.embeds or share < 1 / 2:
        return ""
    return f": {share:.0%} are the token embedding, which stays in fp32 with it. Use int8 or int4, which pack that too"


def refusal_of_size(opened: OpenedModel, method: Method, packed: Packed) -> str | None:
    """Return why a packed model is not worth keeping, or None."""
    now, before = sum(tensor.nbytes for tensor in tensors_of(packed).values()), fp32_bytes(opened)
    if method.name == "fp32" or now < before:
        return None
    copied = HEAD in packed and HEAD not in parameter_shapes(opened.model)
    why = " (the tied embedding stays in fp32, and the head becomes a copy of it)" if copied else ""
    return f"the file would be no smaller: {now / 1e6:.1f} MB for {before / 1e6:.1f} MB in fp32{why}"


def _is_conv1d(opened: OpenedModel) -> bool:
    """Return whether transformers' own module keeps this model's blocks in Conv1D, which is no nn.Linear."""
    return opened.kind == "hugging face" and read_json(opened.path / HF_CONFIG).get("model_type") == "gpt2"


def _of_conv1d(opened: OpenedModel) -> str:
    vocab_size, width = parameter_shapes(opened.model)["token_embedding.weight"]
    now = fp32_bytes(opened) + (vocab_size * width if opened.model.tied_head else (1 - FP32_BYTES) * vocab_size * width)
    return (
        "such libraries quantize nn.Linear, and Hugging Face's GPT-2 keeps its blocks in Conv1D: only the head, "
        f"{vocab_size * width / num_parameters(opened.model):.0%} of the parameters, would change, and the file would "
        f"have {now / 1e6:.1f} MB for {fp32_bytes(opened) / 1e6:.1f} MB in fp32. `worldsize export --format "
        "safetensors` makes it our decoder, whose layers are linear; quantize that, or use int8 or int4"
    )


def _write(opened: OpenedModel, method: Method, packed: Packed, folder: Path) -> None:
    tree = {"config": config_tree(opened), QUANTIZED: method.name}
    (folder / OUR_CONFIG).write_text(json.dumps(tree, indent=1) + "\n", "utf-8")
    write_tensors(tensors_of(packed), folder)
    add_tokenizer(opened, folder)


def _compared(original: Path, quantized: Path, data: HeldOut, threads: int) -> Comparison | str:
    """Return what a new process finds, or why it finds nothing."""
    with tempfile.TemporaryDirectory() as folder:
        held_out = Path(folder) / "held_out.safetensors"
        data.write(held_out)
        words = ["-m", "worldsize.inference.compare", str(original), str(quantized), str(held_out), str(threads)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return f"the saved folder does not run when loaded again: {said}"
    return Comparison.model_validate_json(done.stdout)


def parameters_of(opened: OpenedModel) -> list[str]:
    """Return the names that a model's parameters have in files, a head's copy of the embedding included."""
    return [*parameter_shapes(opened.model), HEAD]


def sizes_of(folder: Path, parameters: Collection[str]) -> Sizes:
    """Return a folder's bytes on disk, split."""
    tensors = {name: tensor.nbytes for name, tensor in read_tensors(folder).items()}
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return split_bytes(tensors, parameters, total)


def split_bytes(tensors_bytes: Mapping[str, int], parameters: Collection[str], total_bytes: int) -> Sizes:
    """Split a file: a tensor is a weight if it bears a parameter's name, or that name and one more word."""
    known = set(parameters)
    weights = sum(size for name, size in tensors_bytes.items() if name in known or name.rpartition(".")[0] in known)
    buffers = sum(tensors_bytes.values()) - weights
    return Sizes(weights_bytes=weights, buffers_bytes=buffers, rest_bytes=total_bytes - weights - buffers)


def methods_of(given: str) -> list[Method]:
    """Return the methods of a comma-separated list. Raises UserError for an unknown or repeated one."""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise UserError(f"--method {given!r} must name each method once. Allowed: {', '.join(METHODS)}.")
    return [known(name) for name in names]


def refused_all(refused: list[Refused]) -> RunError:
    """Return the error for a call that gave no row."""
    return RunError("nothing was written. " + " ".join(f"{one.method}: {one.reason}." for one in refused))
