"""Run lm-evaluation-harness, with the engine as `--model workbench` (needs the extra lm-eval)."""

from __future__ import annotations

import argparse

EXAMPLES = (
    "lm-eval run --model workbench --model_args pretrained=OUT --tasks lambada_openai",
    "lm-eval run --model workbench --model_args pretrained=OUT,backend=torch --tasks wikitext --limit 10",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="run ...",
        help="what the harness's own command line takes, such as: "
        "run --model workbench --model_args pretrained=DIR,backend=wgpu --tasks lambada_openai",
    )


def run(arguments: argparse.Namespace) -> int:
    from eval.lm_eval_adapter import main

    return main(arguments.arguments)
