"""Arguments of commands that generate text, and the options that they stand for."""

from __future__ import annotations

import argparse
from typing import Any

from workbench.commands.common import positive, utf8_text

#: Names of `SamplingOptions`, in its order.
OPTIONS = ("temperature", "top_k", "top_p", "min_p", "seed", "repetition_penalty")


def add_sampling(parser: argparse.ArgumentParser) -> None:
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


def sampling_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of `Model.generate` and `Model.chat` by name. Raises WorkbenchError for values that mean nothing,
    before a model is loaded: a wrong option should not cost a minute."""
    from workbench.runtime.sampling import SamplingOptions

    given = {name: getattr(arguments, name) for name in OPTIONS}
    SamplingOptions(**given)
    return {**given, "max_new_tokens": arguments.max_new_tokens, "stop": tuple(arguments.stop)}
