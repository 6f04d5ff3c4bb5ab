"""Continue a prompt, streaming the text to stdout."""

from __future__ import annotations

import argparse
import itertools
import sys

from workbench import utf8
from workbench.commands.common import add, add_execution, execution_of, say_choices, utf8_text
from workbench.commands.output import add_output, answer, to_stdout
from workbench.commands.sampling import add_sampling, sampling_from

EXAMPLES = (
    'generate --model OUT --prompt "Once upon a time"',
    'generate --model OUT --prompt "Why is the sky blue?" --chat --temperature 0 --json',
)


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
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    sampling = sampling_from(arguments)
    prompt = utf8.read_stream(sys.stdin, "the prompt") if arguments.prompt == "-" else arguments.prompt

    import workbench

    model = workbench.load(arguments.model, **execution_of(arguments))
    if not arguments.quiet:
        say_choices(model)
    pieces = model.generate(prompt, **sampling, chat=arguments.chat)
    first = next(pieces, "")  # a prompt that does not fit fails here, before anything is written
    text = ""
    for piece in itertools.chain([first], pieces):
        if not to_stdout(arguments):
            sys.stdout.write(piece if text or arguments.chat else prompt + piece)
            sys.stdout.flush()
        text += piece
    written = {
        "prompt": prompt,
        "text": text,
        "finish_reason": pieces.finish_reason,
        "backend": model.backend,
    }
    answer(arguments, "", written)  # the newline behind the text
    if pieces.finish_reason == "context" and not arguments.quiet:
        print(
            f"stopped at the end of the context: {model.max_tokens} tokens, the prompt's among them; "
            "--max-tokens sets another, and --window bounds what is kept",
            file=sys.stderr,
        )
    return 0
