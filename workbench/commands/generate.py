"""Continue a prompt, streaming the text to stdout."""

from __future__ import annotations

import argparse
import sys

from workbench import utf8
from workbench.commands.common import add, add_execution, positive, say_choices, utf8_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "--model", required=True)
    parser.add_argument(
        "--prompt", type=utf8_text, required=True, help="the text to continue; - reads it from stdin"
    )
    parser.add_argument("--max-new-tokens", type=positive, default=200, metavar="N", help="default 200")
    parser.add_argument("--temperature", type=float, default=0.0, help="default 0: greedy")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="default 0: off")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="default 1: off")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="default 0: off")
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="divide positive logits of tokens that have occurred, multiply negative ones; default 1: off",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default 0)")
    parser.add_argument(
        "--stop",
        type=utf8_text,
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; repeatable",
    )
    parser.add_argument(
        "--chat", action="store_true", help="put the prompt into the tokenizer's chat template"
    )
    add_execution(parser)
    add(parser, "--window", "--sinks")
    add(parser, "--quiet", help="say nothing on stderr")


def run(arguments: argparse.Namespace) -> int:
    from workbench.runtime.sampling import SamplingOptions

    # Checked before the model is loaded: a wrong option should not cost a minute.
    sampling = SamplingOptions(
        arguments.temperature,
        arguments.top_k,
        arguments.top_p,
        arguments.min_p,
        arguments.seed,
        arguments.repetition_penalty,
    )
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
    )
    if not arguments.quiet:
        say_choices(model)
    pieces = model.generate(
        prompt,
        max_new_tokens=arguments.max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=sampling.seed,
        repetition_penalty=sampling.repetition_penalty,
        stop=tuple(arguments.stop),
        chat=arguments.chat,
    )
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
