"""Bits per byte of Hugging Face checkpoints, each with its own tokenizer, on one part of a story file.

Protocol: each story stripped, tokenized with `<s>` before it, all concatenated and cut into disjoint
windows of the context length (the incomplete last one dropped); the first token of each window is not
scored. Bits per byte is the summed -ln p of the scored tokens, over ln 2, over the bytes of text that the
scored tokens spell. `<s>` spells none, but predicting it is scored: it is how these models end a story.

    python -m workbench.assets.train.measure --real tinystories.txt --part test demo-model stories260K-hf
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from workbench.assets.train.stories import read_stories, split_fingerprint, split_stories


@dataclass(frozen=True)
class Measured:
    windows: int
    scored: int
    bytes: int
    nll: float

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll / self.scored)

    @property
    def bits_per_byte(self) -> float:
        return self.nll / math.log(2) / self.bytes


def tokens_and_bytes(tokenizer, stories: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all stories, `<s>` before each, and how many bytes of the text each id spells."""
    ids, sizes = [], []
    backend = tokenizer.backend_tokenizer
    sentencepiece = '"Prepend"' in backend.to_str()
    for story in stories:
        encoded = backend.encode(story)
        spelled = [piece_bytes(piece, sentencepiece) for piece in encoded.tokens]
        if sentencepiece:
            spelled[1] -= 1  # the space put before the first word is not in the text
        spelled[0] = 0
        ids += encoded.ids
        sizes += spelled
    return np.array(ids), np.array(sizes)


def piece_bytes(piece: str, sentencepiece: bool) -> int:
    """Bytes that a piece spells: byte-level pieces hold one character a byte."""
    if not sentencepiece:
        return len(piece)
    if len(piece) == 6 and piece.startswith("<0x"):
        return 1
    return len(piece.replace("\u2581", " ").encode())


@torch.inference_mode()
def measure(folder: Path, stories: list[str], context: int = 512, device: str = "cpu") -> Measured:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    model = model.to(device).eval()
    ids, sizes = tokens_and_bytes(tokenizer, stories)
    count = len(ids) // context
    windows = torch.from_numpy(ids[: count * context]).view(count, context)
    nll = 0.0
    for batch in windows.split(8):
        batch = batch.to(device)
        logits = model(batch).logits[:, :-1].float()
        nll += float(
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
            .double()
            .sum()
        )
    scored = sizes[: count * context].reshape(count, context)[:, 1:]
    return Measured(count, scored.size, int(scored.sum()), nll)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--real", type=Path, required=True, help="story file")
    parser.add_argument("--part", default="test", choices=["train", "validation", "test", "all"])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.part == "all":
        stories = read_stories(args.real)
        print(f"{args.real.name}: {len(stories)} stories")
    else:
        parts = split_stories(args.real)
        stories = parts[args.part]
        print(f"{args.real.name}, {args.part}: {len(stories)} stories; split {split_fingerprint(parts)}")
    for folder in args.models:
        m = measure(folder, stories, args.context, args.device)
        print(
            f"{folder.name}: {m.bits_per_byte:.4f} bits per byte, perplexity {m.perplexity:.4f} "
            f"({m.windows} windows, {m.scored} tokens, {m.bytes} bytes)"
        )


if __name__ == "__main__":
    main()
