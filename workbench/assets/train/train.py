"""Train the demo model, or the small mixture: pretrain on sampled stories, fine-tune on real ones, keep what
validates best.

1. Pretraining on random windows of the sampled text (AdamW, cosine schedule), for `--steps`, or as many of them as
   `--seconds` allow.
2. Fine-tuning runs from the pretrained weights, one for each combination of learning rate, passes over the real
   training part and dropout. Batches mix real and sampled windows; the validation part of the real text is measured
   on the way and each run keeps its best weights.
3. Runs' weights are averaged greedily: best run first, each next one kept if validation improves.

The test part is measured once, for the weights that are written. `report.json` beside them records
all of it.

    python -m workbench.assets.train.train --real tinystories.txt --sampled runs/demo --tokenizer runs/demo/tokenizer \\
        --out runs/demo/model --steps 6000

`--architecture qwen3_moe` trains the mixture; its tokenizer is the demo model's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from workbench.assets.train.mixture import Mixture, MixtureShape
from workbench.assets.train.model import Llama, Shape
from workbench.assets.train.stories import read_pieces, read_stories, split_fingerprint, split_stories

PAD, BOS = 0, 1
ARCHITECTURES = {"llama": (Llama, Shape), "qwen3_moe": (Mixture, MixtureShape)}
#: What is measured on: never trained on, though a teacher may write a story twice.
SHIPPED = tuple(Path(__file__).parents[1] / "texts" / f"{name}.txt" for name in ("calibration", "evaluation"))
_tokenizer: Tokenizer | None = None


def _start_worker(path: str) -> None:
    global _tokenizer
    _tokenizer = Tokenizer.from_file(path)


def _encode(pieces: list[tuple[str, bool]]) -> np.ndarray:
    ids: list[int] = []
    for story, whole in pieces:
        ids += _tokenizer.encode(story).ids
        if not whole:
            ids.append(PAD)  # never scored: the text did not end here
    return np.array(ids, np.int16)


def encode(tokenizer: Path, pieces, workers: int) -> torch.Tensor:
    """Token ids int16 [n] of (story, whole) pairs, `<s>` before each, `<pad>` after those that were cut."""
    pieces = iter(pieces)
    chunks = iter(lambda: list(itertools.islice(pieces, 2000)), [])
    with multiprocessing.get_context("fork").Pool(
        workers, _start_worker, (str(tokenizer / "tokenizer.json"),)
    ) as pool:
        return torch.from_numpy(np.concatenate(list(pool.imap(_encode, chunks))))


def sampled_pieces(path: Path) -> Iterator[tuple[str, bool]]:
    """`read_pieces` without the stories of the texts that the package ships."""
    shipped = {story for text in SHIPPED for story in read_stories(text)}
    return (piece for piece in read_pieces(path) if piece[0] not in shipped)


class Windows:
    """Random windows of a token stream that lies on the device."""

    def __init__(self, stream: torch.Tensor, length: int, generator: torch.Generator):
        self.stream, self.length, self.generator = stream, length, generator
        self.reach = torch.arange(length, device=stream.device)

    def draw(self, count: int) -> torch.Tensor:
        """int64 [count, length]."""
        last = len(self.stream) - self.length + 1
        starts = torch.randint(last, (count, 1), device=self.stream.device, generator=self.generator)
        return self.stream[starts + self.reach].long()


class HeldOut:
    """Disjoint windows of held-out text; measures bits per byte of all text they hold (see measure.py)."""

    def __init__(self, stream: torch.Tensor, text_bytes: int, context: int, device: str):
        count = len(stream) // context
        self.windows = stream[: count * context].view(count, context).long().to(device)
        # bytes of the scored tokens, up to how evenly tokens spell bytes; measure.py counts them exactly
        self.bytes = text_bytes * count * (context - 1) / len(stream)

    @torch.no_grad()
    def bits_per_byte(self, model: Llama, amp) -> float:
        model.eval()
        with amp:
            nll = sum(float(model.loss(batch, "sum")) for batch in self.windows.split(64))
        model.train()
        return nll / math.log(2) / self.bytes


def optimizer_for(model: Llama, lr: float, decay: float) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


def update(model, loss, optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def pretrain(model, sampled: Windows, checks: dict[str, HeldOut], args, amp) -> int:
    """Returns the steps made: fewer than `args.steps` where `args.seconds` ended first."""
    optimizer = optimizer_for(model, args.lr, args.weight_decay)
    loss_of = torch.compile(model.loss, dynamic=False) if args.compile else model.loss
    started, warmup, step, progress, shown = time.time(), max(1, min(300, args.steps // 10)), 0, 0.0, 0.0
    while progress < 1:
        lr = args.lr * min((step + 1) / warmup, 0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2)
        with amp:
            loss = loss_of(sampled.draw(args.batch))
        update(model, loss, optimizer, lr)
        value = loss.item()  # waits for the device, so that the clock tells the truth
        if step == 0:
            started = time.time()  # compiling is no training
        step += 1
        seconds = time.time() - started
        progress = max(step / args.steps, seconds / (args.seconds or math.inf))
        if progress >= min(shown, 1):
            shown = progress + 1 / 12
            numbers = ", ".join(
                f"{name} {check.bits_per_byte(model, amp):.4f}" for name, check in checks.items()
            )
            print(f"step {step}: loss {value:.4f}, bits per byte: {numbers}, {seconds:.1f} s", flush=True)
    return step


def fine_tune(
    model, real: Windows, sampled: Windows, check: HeldOut, options: dict, args, amp
) -> tuple[float, dict]:
    """One run; returns the best validation bits per byte and the weights that reached it."""
    n_real = round(args.fine_tune_batch * options["real_share"])
    steps = max(8, round(options["passes"] * len(real.stream) / (n_real * real.length)))
    optimizer = optimizer_for(model, options["lr"], args.weight_decay)
    for layer in model.layers:
        layer.dropout = options["dropout"]
    best, weights = math.inf, {}
    for step in range(steps):
        lr = options["lr"] * min((step + 1) / max(1, steps // 10), 1 - step / steps)
        batch = torch.cat((real.draw(n_real), sampled.draw(args.fine_tune_batch - n_real)))
        with amp:
            loss = model.loss(batch)
        update(model, loss, optimizer, lr)
        if (step + 1) % max(1, steps // 8) == 0 or step == steps - 1:
            value = check.bits_per_byte(model, amp)
            if value < best:
                best, weights = value, snapshot(model)
    return best, weights


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def average(members: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([m[name] for m in members]).mean(0) for name in members[0]}


def greedy_average(model, runs: list[tuple[float, dict]], check: HeldOut, amp) -> tuple[float, int]:
    """Load the best average of runs into the model; returns its validation bits per byte and how many went in."""
    runs = sorted(runs, key=lambda run: run[0])
    best, members = math.inf, []
    for _, weights in runs:
        model.load_state_dict(average([*members, weights]))
        value = check.bits_per_byte(model, amp)
        if value < best:
            best, members = value, [*members, weights]
    model.load_state_dict(average(members))
    return best, len(members)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", choices=list(ARCHITECTURES), default="llama")
    parser.add_argument("--real", type=Path, required=True, help="real story file")
    parser.add_argument("--sampled", type=Path, required=True, help="folder that sample_teacher.py wrote")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seconds", type=float, help="the most that pretraining takes")
    parser.add_argument("--batch", type=int, default=128, help="windows a step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--fine-tune-batch", type=int, default=32)
    parser.add_argument("--fine-tune-lrs", type=float, nargs="+", default=[3e-4, 1e-3])
    parser.add_argument("--passes", type=float, nargs="+", default=[4, 8], help="over the real training part")
    parser.add_argument("--dropouts", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--real-shares", type=float, nargs="+", default=[0.5])
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--layers", type=int, help="other than the architecture's")
    parser.add_argument("--workers", type=int, default=8, help="processes that tokenize")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    return parser.parse_args()


def fresh(args) -> Llama:
    """A model of the architecture with weights as they are drawn."""
    build, shape_of = ARCHITECTURES[args.architecture]
    shape = shape_of() if args.layers is None else replace(shape_of(), layers=args.layers)
    return build(shape).to(args.device)


def fine_tuned(model, real: Windows, sampled: Windows, check: HeldOut, args, amp) -> dict:
    """Leaves the best average of all runs in the model; returns what the report says of them."""
    pretrained, started = snapshot(model), time.time()
    runs, told = [], []
    for lr, passes, dropout, share in itertools.product(
        args.fine_tune_lrs, args.passes, args.dropouts, args.real_shares
    ):
        options = {"lr": lr, "passes": passes, "dropout": dropout, "real_share": share}
        model.load_state_dict(pretrained)
        runs.append(fine_tune(model, real, sampled, check, options, args, amp))
        told.append({**options, "validation": runs[-1][0]})
        print(f"{options}: validation {runs[-1][0]:.4f}, {time.time() - started:.1f} s", flush=True)
    value, members = greedy_average(model, runs, check, amp)
    return {"runs": told, "averaged": members, "validation": value}


def main() -> None:
    args, started = parse(), time.time()
    parts = split_stories(args.real)
    texts = {
        "validation": parts["validation"],
        "test": parts["test"],
        "sampled validation": read_stories(args.sampled / "validation.txt"),
    }
    encoded = {
        name: encode(args.tokenizer, [(story, True) for story in stories], 1)
        for name, stories in {**texts, "train": parts["train"]}.items()
    }
    sampled_ids = encode(args.tokenizer, sampled_pieces(args.sampled / "train.txt"), args.workers)
    print(
        f"sampled {len(sampled_ids):,} tokens, real train {len(encoded['train']):,}; {time.time() - started:.1f} s"
    )

    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    model = fresh(args)
    context = model.shape.context
    generator = torch.Generator(args.device).manual_seed(args.seed)
    amp = torch.autocast(args.device, torch.bfloat16, enabled=args.device != "cpu")  # bf16 is slow there
    sampled = Windows(sampled_ids.to(args.device), context + 1, generator)
    real = Windows(encoded["train"].to(args.device), context + 1, generator)
    checks = {
        name: HeldOut(encoded[name], sum(len(s.encode()) for s in stories), context, args.device)
        for name, stories in texts.items()
    }
    test = checks.pop("test")

    steps = pretrain(model, sampled, checks, args, amp)
    report = {
        "split": split_fingerprint(parts),
        "parameters": sum(p.numel() for p in model.parameters()),
        "arguments": {
            k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in PRIVATE
        },
        "sampled_tokens": len(sampled_ids),
        "real_train_tokens": len(encoded["train"]),
        "pretrained": {name: check.bits_per_byte(model, amp) for name, check in checks.items()},
        "pretrain_steps": steps,
        "pretrain_seconds": round(time.time() - started, 1),
    }
    report |= fine_tuned(model, real, sampled, checks["validation"], args, amp)
    report["test"] = test.bits_per_byte(model, amp)
    if isinstance(model, Mixture):
        with amp:
            report["traffic"] = model.traffic(checks["validation"].windows.split(64))
    report["seconds"] = round(time.time() - started, 1)
    print({k: report[k] for k in ("pretrained", "averaged", "validation", "test", "seconds")})

    model.export(args.out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(args.tokenizer / name, args.out / name)
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")


PRIVATE = ("real", "sampled", "tokenizer", "out", "workers")  # where things lie says nothing about the model

if __name__ == "__main__":
    main()
