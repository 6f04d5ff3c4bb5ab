"""A GGUF file in llama.cpp and here: perplexity of two windows of 512 tokens, and how both split the text.

    npm install --prefix FOLDER --ignore-scripts node-llama-cpp
    python -m tests.models.foreign.llama_cpp FOLDER FILE.gguf

The text is the embedded one for evaluation. llama.cpp multiplies integers with activations in INT8, and f16 with f16:
only a file of f32 gives the figures of here to all digits, and one of integers nearly those of `--dtype int8`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import workbench
from tests.conftest import REPOSITORY
from workbench.assets import evaluation_text
from workbench.models.source import open_source
from workbench.models.tokenizer import load_tokenizer

SCRIPT = REPOSITORY / "tests" / "support" / "llama_cpp.mjs"
WINDOWS, LENGTH = 2, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where node-llama-cpp is installed")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    source = open_source(arguments.file)
    text = evaluation_text().read_text("utf-8")[: 8 * WINDOWS * LENGTH]
    ids = load_tokenizer(source.tokenizer_path)(text, add_special_tokens=False).input_ids
    windows = [ids[at * LENGTH : (at + 1) * LENGTH] for at in range(WINDOWS)]
    for dtype in ("f32", "int8"):
        model = workbench.load(source, backend="torch", dtype=dtype)
        nll = np.concatenate([model.score(np.array(window)).nll for window in windows])
        print(f"here, {dtype}: {np.exp(nll.mean()):.6f}")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(windows, file)
        file.flush()
        command = ["node", str(SCRIPT), str(arguments.folder), str(arguments.file), file.name, text]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["count"] == len(nll)
    print(f"llama.cpp: {np.exp(found['nll']):.6f}; the same tokens: {found['ids'] == ids}")


if __name__ == "__main__":
    main()
