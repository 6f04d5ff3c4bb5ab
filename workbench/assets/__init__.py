"""Files that ship with the package: the demo model, a small mixture, and the texts that calibrate and evaluate them."""

from __future__ import annotations

from pathlib import Path

#: The line at which stories of the embedded texts end.
STORY_SEPARATOR = "<|endoftext|>"

_HERE = Path(__file__).resolve().parent


def demo_model_path() -> Path:
    """Folder of the demo model: a Hugging Face Llama checkpoint in f16 with its tokenizer.

        workbench.describe(workbench.demo_model_path())

    It comes with the package, so that nothing is fetched. Raises nothing.
    """
    return _HERE / "demo-model"


def mixture_model_path() -> Path:
    """Folder of a small mixture of experts: a Qwen3-MoE checkpoint in f16 with the demo model's tokenizer."""
    return _HERE / "mixture-model"


def evaluation_text() -> Path:
    """Held-out text in the demo model's domain; stories end at a line `<|endoftext|>`."""
    return _HERE / "texts" / "evaluation.txt"


def notebooks() -> Path:
    """Folder of the notebooks: a wheel's, or the repository's beside the package."""
    inside = _HERE / "notebooks"
    return inside if inside.is_dir() else _HERE.parents[1] / "notebooks"


def calibration_text() -> Path:
    """Text for calibrating quantizers, sharing no story with the evaluation text; the same form."""
    return _HERE / "texts" / "calibration.txt"
