"""Train the demo model's tokenizer: byte-level BPE of 4,096 entries, `<s>` put before every text.

It learns from the head of the sampled training text and, repeated, from the training part of the real
stories, so words that the small teacher never spells get entries too. Byte level: every text comes back
exactly.

    python -m workbench.assets.train.build_tokenizer --real tinystories.txt --sampled runs/demo/train.txt \\
        --out runs/demo/tokenizer
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from workbench.assets.train.stories import read_pieces, split_stories

SPECIALS = ("<pad>", "<s>", "</s>")


def build(stories, vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise SystemExit(f"only {tokenizer.get_vocab_size()} of {vocabulary} entries: too little text")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIALS.index("<s>"))]
    )
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--sampled", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--sampled-stories", type=int, default=30_000)
    parser.add_argument("--real-repeats", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    real = split_stories(args.real)["train"] * args.real_repeats
    sampled = (story for story, _ in itertools.islice(read_pieces(args.sampled), args.sampled_stories))
    build(itertools.chain(real, sampled), args.vocabulary).save(str(args.out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "add_bos_token": True,
        "add_eos_token": False,
        "model_max_length": args.context,
        "clean_up_tokenization_spaces": False,
    }
    (args.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
