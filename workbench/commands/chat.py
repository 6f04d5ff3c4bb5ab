"""Talk with a model in its chat template, a line a turn."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from workbench.commands.common import add, add_execution, execution_of, say_choices, utf8_text
from workbench.commands.output import add_output
from workbench.commands.sampling import add_sampling, sampling_from
from workbench.errors import WorkbenchError

HELP = (
    "/undo forgets the last turn, /again answers it anew with the next seed, /bye or the end of the input ends; "
    "Ctrl-C stops an answer"
)


EXAMPLES = (
    "chat --model OUT",
    'chat --model OUT --system "Answer in one sentence." --temperature 0',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "--model", required=True)
    parser.add_argument("--system", type=utf8_text, metavar="TEXT", help="what the model is told first")
    add_sampling(parser)
    add_execution(parser)
    add(parser, "--lora", "--lora-format")
    add_output(parser, record=False)


def run(arguments: argparse.Namespace) -> int:
    sampling = sampling_from(arguments)

    import workbench

    model = workbench.load(arguments.model, **execution_of(arguments))
    seed = sampling["seed"]
    with model.chat(arguments.system, **sampling) as chat:
        if not arguments.quiet:
            say_choices(model)
            print(HELP, file=sys.stderr)
        for line in _lines(shown=sys.stdin.isatty()):
            if line == "/bye":
                break
            try:
                if line == "/undo":
                    chat.undo()
                    continue
                if line == "/again":
                    seed += 1
                answer = chat.again(seed) if line == "/again" else chat.say(line)
                try:
                    for piece in answer:
                        print(piece, end="", flush=True)
                except KeyboardInterrupt:  # what was said until then is the answer
                    answer.close()
                print(flush=True)
                if not arguments.quiet and answer.finish_reason == "context":
                    print("(the cache is full: /undo, or a larger --max-tokens)", file=sys.stderr)
            except WorkbenchError as error:  # of this turn alone: the conversation goes on
                print(f"error: {error}", file=arguments.complaints)
    return 0


def _lines(shown: bool) -> Iterator[str]:
    """What is typed, without empty lines."""
    while True:
        if shown:
            print("> ", end="", flush=True)
        if not (line := sys.stdin.readline()):
            return
        if line := line.strip():
            yield line
