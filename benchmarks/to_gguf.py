"""A folder that `worldsize export` wrote → a GGUF file, by llama.cpp's own converter.

python benchmarks/to_gguf.py LLAMA_CPP EXPORTED --outfile model.gguf --outtype f16

LLAMA_CPP is a checkout of llama.cpp; everything after it goes to its convert_hf_to_gguf.py. That script knows a
tokenizer by a hash of how it cuts one text up, so it turns down every tokenizer that was trained here. Ours cut text
as GPT-2's does, and this says so in the hash's place. GPT-2's own tokenizer needs no such help: run the script itself.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
    script = folder / "convert_hf_to_gguf.py"
    sys.path[:0] = [str(folder), str(folder / "gguf-py")]
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
