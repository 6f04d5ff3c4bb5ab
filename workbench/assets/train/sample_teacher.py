"""Sample stories from a small teacher checkpoint, many streams at a time.

Every stream begins with `<s>` and is sampled to the teacher's context length; the teacher separates stories
by `<s>`, so a stream holds a few stories, the last one usually cut. All streams of a batch stand at the
same position, hence one KV cache sliced to the current length serves them without any mask.

Batch b draws from a generator seeded with `seed + b`. Batch 0 is held out: its whole stories become
`calibration.txt`, `validation.txt` and `evaluation.txt` (the three differ in the rows they come from, hence
share no stream); no story or long line of them may occur in the real text, none may occur twice, and
stories met again in training are removed there. Batches 1.. become `train.txt`, at the temperatures in
turn.

    python -m workbench.assets.train.sample_teacher --teacher stories260K-hf --real tinystories.txt \\
        --out runs/demo --megabytes 400 --temperatures 0.8 1.0 --seed 20
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import rms_norm, silu

from workbench.assets.train.stories import CUT, END, CopyCheck, read_stories, write_stories


class Teacher:
    """Llama decoder for batched sampling: one new token a stream and step, float32."""

    def __init__(self, folder: Path, device: str):
        self.config = json.loads((folder / "config.json").read_text())
        c = self.config
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.head_dim = c.get("head_dim") or c["hidden_size"] // self.heads
        self.context, self.eps = c["max_position_embeddings"], c["rms_norm_eps"]
        self.device = device
        self.weights = {
            k: v.to(device, torch.float32) for k, v in load_file(folder / "model.safetensors").items()
        }
        theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
        half = torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim
        angles = torch.outer(torch.arange(self.context, dtype=torch.float64), theta**-half)
        self.cos = angles.cos().float().to(device)
        self.sin = angles.sin().float().to(device)

    def new_cache(self, streams: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per layer keys [streams*kv_heads, head_dim, context] and values [streams*kv_heads, context, head_dim]."""
        rows = streams * self.kv_heads
        return [
            (
                torch.empty(rows, self.head_dim, self.context, device=self.device),
                torch.empty(rows, self.context, self.head_dim, device=self.device),
            )
            for _ in range(self.config["num_hidden_layers"])
        ]

    def rotate(self, x: torch.Tensor, position: int) -> torch.Tensor:
        cos, sin = self.cos[position], self.sin[position]
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def step(self, ids: torch.Tensor, position: int, cache: list) -> torch.Tensor:
        """Logits [streams, vocabulary] after feeding token `ids` [streams] at `position`."""
        w = self.weights
        x = w["model.embed_tokens.weight"][ids]
        n = len(ids)
        for i, (keys, values) in enumerate(cache):
            p = f"model.layers.{i}."
            h = rms_norm(x, (x.shape[-1],), w[p + "input_layernorm.weight"], self.eps)
            q = (h @ w[p + "self_attn.q_proj.weight"].T).view(n, self.heads, self.head_dim)
            k = (h @ w[p + "self_attn.k_proj.weight"].T).view(n, self.kv_heads, self.head_dim)
            v = (h @ w[p + "self_attn.v_proj.weight"].T).view(n, self.kv_heads, self.head_dim)
            keys[:, :, position] = self.rotate(k, position).reshape(-1, self.head_dim)
            values[:, position, :] = v.reshape(-1, self.head_dim)
            q = self.rotate(q, position).reshape(n * self.kv_heads, -1, self.head_dim)
            scores = torch.bmm(q, keys[:, :, : position + 1]) * self.head_dim**-0.5
            mixed = torch.bmm(scores.softmax(-1), values[:, : position + 1]).reshape(n, -1)
            x = x + mixed @ w[p + "self_attn.o_proj.weight"].T
            h = rms_norm(x, (x.shape[-1],), w[p + "post_attention_layernorm.weight"], self.eps)
            h = silu(h @ w[p + "mlp.gate_proj.weight"].T) * (h @ w[p + "mlp.up_proj.weight"].T)
            x = x + h @ w[p + "mlp.down_proj.weight"].T
        x = rms_norm(x, (x.shape[-1],), w["model.norm.weight"], self.eps)
        return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T

    @torch.inference_mode()
    def sample(self, streams: int, temperature: float, seed: int, cache: list) -> np.ndarray:
        """Token ids int16 [streams, context]; column 0 is `<s>`. p(token) = softmax(logits / temperature)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        ids = torch.full((streams, self.context), self.config["bos_token_id"], device=self.device)
        for position in range(self.context - 1):
            logits = self.step(ids[:, position], position, cache) / temperature
            # argmax(logits - ln E), E ~ Exp(1), is an exact draw from the softmax (Gumbel-max)
            noise = torch.empty_like(logits).exponential_(generator=generator)
            ids[:, position + 1] = (logits - noise.log()).argmax(-1)
        return ids.to(torch.int16).cpu().numpy()


class Spelling:
    """Turns a teacher's token ids into text: SentencePiece pieces, byte fallback."""

    def __init__(self, folder: Path, bos: int):
        vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        self.bos = bos
        self.pieces = [b""] * len(vocabulary)
        for piece, index in vocabulary.items():
            if piece.startswith("<0x") and piece.endswith(">"):
                self.pieces[index] = bytes([int(piece[3:-1], 16)])
            else:
                self.pieces[index] = piece.replace("\u2581", " ").encode()
        self.specials = {vocabulary[s] for s in ("<unk>", "<s>", "</s>")}

    def stories(self, stream: np.ndarray):
        """(story, whole) of one stream; stories that are no valid text, or hold control tokens, are left out."""
        starts = np.flatnonzero(stream == self.bos)
        ends = [*starts[1:], len(stream)]
        for start, end in zip(starts, ends, strict=True):
            ids = stream[start + 1 : end].tolist()
            if self.specials.intersection(ids):
                continue
            whole = end < len(stream)
            data = b"".join(map(self.pieces.__getitem__, ids))
            try:
                story = data.decode() if whole else data.decode(errors="ignore")
            except UnicodeDecodeError:
                continue
            story = story.strip()
            if len(story) >= 40 and "\0" not in story and "<|" not in story:
                yield story, whole


def held_out(
    batch: np.ndarray, spelling: Spelling, check: CopyCheck, characters: int
) -> dict[str, list[str]]:
    """Whole, distinct, uncopied stories of three thirds of a batch's rows, about `characters` of each."""
    parts, seen = {}, set()
    thirds = np.array_split(batch, 3)
    for name, rows in zip(("calibration", "validation", "evaluation"), thirds, strict=True):
        parts[name], size = [], 0
        for stream in rows:
            for story, whole in spelling.stories(stream):
                if whole and story not in seen and not check.copied(story) and size < characters:
                    seen.add(story)
                    parts[name].append(story)
                    size += len(story)
        if size < characters:
            raise SystemExit(f"{name}: only {size} of {characters} characters; raise --streams")
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path, required=True, help="Hugging Face folder of the teacher")
    parser.add_argument(
        "--real", type=Path, required=True, help="real story file, for the check against copies"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=400.0, help="sampled training text")
    parser.add_argument(
        "--temperatures", type=float, nargs="+", default=[0.8, 1.0], help="of the training batches"
    )
    parser.add_argument("--held-out-temperature", type=float, default=0.8)
    parser.add_argument("--held-out-characters", type=int, default=300_000, help="of each held-out text")
    parser.add_argument("--streams", type=int, default=16384, help="streams a batch")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    teacher = Teacher(args.teacher, args.device)
    spelling = Spelling(args.teacher, teacher.config["bos_token_id"])
    cache = teacher.new_cache(args.streams)
    started = time.time()

    batch = teacher.sample(args.streams, args.held_out_temperature, args.seed, cache)
    parts = held_out(batch, spelling, CopyCheck(read_stories(args.real)), args.held_out_characters)
    for name, stories in parts.items():
        digest = write_stories(args.out / f"{name}.txt", stories)
        print(f"{name}: {len(stories)} stories, sha256 {digest}", flush=True)

    reserved = {story for stories in parts.values() for story in stories}
    written, number, clashes = 0, 0, 0
    with (args.out / "train.txt").open("w", encoding="utf-8", newline="\n") as file:
        while written < args.megabytes * 1e6:
            temperature = args.temperatures[number % len(args.temperatures)]
            number += 1
            lines = []
            for stream in teacher.sample(args.streams, temperature, args.seed + number, cache):
                for story, whole in spelling.stories(stream):
                    if story in reserved:
                        clashes += 1
                    else:
                        lines.append(f"{story}\n{END if whole else CUT}\n")
            text = "".join(lines)
            file.write(text)
            written += len(text)
            print(
                f"batch {number}: T {temperature}, {written / 1e6:.0f} MB, {time.time() - started:.1f} s",
                flush=True,
            )
    print(f"{clashes} held-out stories met again and left out of training")


if __name__ == "__main__":
    main()
