"""Measure the perplexity on a text under a named protocol, alone or against a baseline."""

from __future__ import annotations

import argparse
import json
import sys

from workbench.commands.common import add_execution, add_model, positive, say_choices


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", metavar="FILE", help="a UTF-8 text file")
    text.add_argument("--dataset", metavar="NAME", help="a dataset by its short name, such as wikitext2")
    parser.add_argument(
        "--protocol",
        required=True,
        metavar="NAME",
        help="disjoint-L, wikitext2-gptq-L or hf-strided-L-S (L tokens a window, moved by S)",
    )
    parser.add_argument(
        "--separator", metavar="TEXT", help="what stands between documents; each then gets a BOS of its own"
    )
    parser.add_argument(
        "--baseline", metavar="DIR_OR_HUB_ID", help="a model to compare with, window by window"
    )
    parser.add_argument("--max-windows", type=positive, metavar="N", help="score only the first N windows")
    add_execution(parser)
    parser.add_argument("--json", action="store_true", help="print the whole record as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, nothing on stderr")


def run(arguments: argparse.Namespace) -> int:
    from eval.protocols import protocol
    from eval.texts import load_dataset_text, load_text

    # Text and protocol are looked at before a model is loaded: a wrong name should not cost a minute.
    scheme = protocol(arguments.protocol)
    text = load_text(arguments.text) if arguments.text else load_dataset_text(arguments.dataset)

    import workbench
    from eval.perplexity import perplexity

    def load(name: str):
        return workbench.load(
            name,
            backend=arguments.backend,
            dtype=arguments.dtype,
            max_tokens=arguments.max_tokens or scheme.length,
        )

    model = load(arguments.model)
    if not arguments.quiet:
        say_choices(model)
    result = perplexity(
        model,
        text,
        scheme,
        separator=arguments.separator,
        baseline=load(arguments.baseline) if arguments.baseline else None,
        max_windows=arguments.max_windows,
        progress=not arguments.quiet,
    )
    if arguments.json:
        json.dump(result.to_json(), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
        print()
    else:
        print(result.summary())
    return 0
