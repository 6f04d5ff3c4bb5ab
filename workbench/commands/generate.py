"""Continue a prompt, streaming the text to stdout."""

from __future__ import annotations

import argparse
import sys

from workbench import utf8
from workbench.commands.common import add, add_execution, say_choices, utf8_text
from workbench.commands.sampling import add_sampling, sampling_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "--model", required=True)
    parser.add_argument(
        "--prompt", type=utf8_text, required=True, help="the text to continue; - reads it from stdin"
    )
    add_sampling(parser)
    parser.add_argument(
        "--chat", action="store_true", help="put the prompt into the tokenizer's chat template"
    )
    add_execution(parser)
    add(parser, "--window", "--sinks", "--lora", "--lora-format")
    add(parser, "--quiet", help="say nothing on stderr")


def run(arguments: argparse.Namespace) -> int:
    sampling = sampling_from(arguments)
    prompt = utf8.read_stream(sys.stdin, "the prompt") if arguments.prompt == "-" else arguments.prompt

    import workbench

    model = workbench.load(
        arguments.model,
        backend=arguments.backend,
        dtype=arguments.dtype,
        max_tokens=arguments.max_tokens,
        cache=arguments.cache,
        window=arguments.window,
        sinks=arguments.sinks,
        lora=arguments.lora,
        lora_format=arguments.lora_format,
    )
    if not arguments.quiet:
        say_choices(model)
    pieces = model.generate(prompt, **sampling, chat=arguments.chat)
    first = next(pieces, "")  # a prompt that does not fit fails here, before anything is written
    sys.stdout.write(first if arguments.chat else prompt + first)
    sys.stdout.flush()
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    if pieces.finish_reason == "context" and not arguments.quiet:
        print(
            f"stopped at the end of the context: {model.max_tokens} tokens, the prompt's among them; "
            "--max-tokens sets another, and --window bounds what is kept",
            file=sys.stderr,
        )
    return 0
