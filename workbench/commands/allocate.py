"""Choose a format for each group of matrices under a budget: measure, solve exactly, verify."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from workbench.commands.common import add, add_adapter, positive, size
from workbench.commands.output import add_output, answer

#: Of a text; `workbench.precision.allocate` has the same, and would be slow to import for a help text.
WINDOWS = 8


EXAMPLES = (
    "allocate --model DIR --bits 3.5 --text calibration.txt --output allocation.json",
    "allocate --model DIR --fit-memory 2GB --dataset wikitext2 --check-text heldout.txt --output allocation.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "--model", required=True)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--budget", type=size, metavar="SIZE", help="bytes of all weights, such as 2.5MB")
    target.add_argument("--bits", type=float, metavar="B", help="bits a weight, scales and norms counted")
    target.add_argument(
        "--max-kl", type=float, metavar="NATS", help="predicted KL a token; takes the fewest bytes"
    )
    target.add_argument(
        "--fit-memory", type=size, metavar="SIZE", help="weights, cache and activations together, such as 2GB"
    )
    text = parser.add_mutually_exclusive_group(required=True)
    add(text, "--text", help="calibration text, UTF-8")
    add(text, "--dataset")
    add(parser, "--separator", help="what stands between documents of the texts")
    parser.add_argument("--output", required=True, metavar="FILE", help="the allocation, JSON")
    parser.add_argument(
        "--table",
        metavar="FILE",
        help="the measured sensitivities, kept for other budgets and resumed after a stop "
        "(default: OUTPUT with .sensitivity.json)",
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        metavar="FORMAT",
        help="candidates, such as int8 int4/64 int2 (default: the model's 16 bits, int8, int4, int2)",
    )
    add(parser, "--quantizer", "--protocol")
    parser.add_argument(
        "--max-windows",
        type=positive,
        default=WINDOWS,
        metavar="N",
        help=f"of the calibration text to measure the groups on (default {WINDOWS})",
    )
    parser.add_argument(
        "--check-windows",
        type=positive,
        default=WINDOWS,
        metavar="N",
        help=f"of each text to measure the allocation on (default {WINDOWS})",
    )
    add(parser, "--max-tokens", help="cache that --fit-memory counts")
    parser.add_argument(
        "--check-text", metavar="FILE", help="held-out text to measure the allocation on as well"
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="FORMAT",
        help="candidates to measure everywhere at once as well, paired with the allocation token by token",
    )
    parser.add_argument(
        "--experts",
        action="store_true",
        help="of a mixture: measure each expert alone in the candidates as well, and print it beside the tokens "
        "that go there; all experts of a layer keep one format",
    )
    parser.add_argument(
        "--plot",
        metavar="DIR",
        help="save sensitivity.png, pareto.png and allocation.png (experts.png) there",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of PyTorch (default: by the model's size)"
    )
    add_adapter(parser, "the WebGPU adapter whose limits --fit-memory counts with")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from eval.protocols import protocol
    from eval.texts import encode, load_dataset_text, load_text
    from workbench.formats.text import parse_format

    scheme = protocol(arguments.protocol)
    formats = [parse_format(text) for text in arguments.formats] if arguments.formats else None
    text = load_text(arguments.text) if arguments.text else load_dataset_text(arguments.dataset)
    held_out = load_text(arguments.check_text) if arguments.check_text else None

    from workbench.models.families import architecture_of
    from workbench.models.source import open_source
    from workbench.models.tokenizer import load_tokenizer
    from workbench.precision.allocate import Target
    from workbench.precision.experts import require_experts
    from workbench.precision.joint import measure_joint
    from workbench.precision.sensitivity import sensitivity

    target = Target(
        arguments.budget, arguments.bits, arguments.max_kl, arguments.fit_memory, arguments.max_tokens
    )
    source = open_source(arguments.model)
    if arguments.experts:
        require_experts(source)
    asked, scheme = scheme, scheme.within(architecture_of(source.config).context_length)
    if scheme.length != asked.length:
        print(f"{asked}: {scheme} instead, the model's context", file=sys.stderr)
    tokenizer = load_tokenizer(source.tokenizer_path)
    output = Path(arguments.output)
    tokens = encode(tokenizer, text, scheme, separator=arguments.separator)
    table = sensitivity(
        source,
        tokens,
        scheme,
        formats=formats,
        quantizer=arguments.quantizer,
        max_windows=arguments.max_windows,
        path=arguments.table or output.with_suffix(".sensitivity.json"),
        threads=arguments.threads,
        progress=not arguments.quiet,
    )
    front = table.pareto()
    chosen = target.solve(front, source)
    others = {text: front.uniform(parse_format(text)) for text in arguments.compare}
    texts = {f"calibration text {text.name}": tokens}
    if held_out is not None:
        if held_out.sha256 == text.sha256:
            print(f"{held_out.name}: is the calibration text itself, not a held-out one", file=sys.stderr)
        texts[f"held-out text {held_out.name}"] = encode(
            tokenizer, held_out, scheme, separator=arguments.separator
        )
    comparisons = []
    for name, each in texts.items():
        options = {"max_windows": arguments.check_windows, "threads": arguments.threads}
        joint = measure_joint(source, {"chosen": chosen, **others}, each, scheme, **options)
        chosen = chosen.with_joint(name, joint["chosen"].figures())
        comparisons += [_compared(name, others[other], joint, other) for other in others]
    chosen.save(output)
    if arguments.plot:
        _save_plots(Path(arguments.plot), table, front, chosen)
    told = [chosen, *comparisons]
    if arguments.experts:
        told.append(_experts(arguments, source, tokens, table))
    told.append(f"{output}: for workbench quantize --precision {output}")
    answer(arguments, "\n".join(map(str, told)), {"path": str(output), "allocation": chosen.to_json()})
    return 0


def _experts(arguments: argparse.Namespace, source, tokens, table) -> Any:
    """Measure the experts in the quantized candidates of the table, on its text and windows, and save them."""
    from workbench.precision.experts import expert_sensitivity

    found = expert_sensitivity(
        source,
        tokens,
        table.key["protocol"],
        formats=[fmt for fmt in table.formats if fmt.is_quantized],
        quantizer=arguments.quantizer,
        max_windows=arguments.max_windows,
        threads=arguments.threads,
        progress=not arguments.quiet,
    )
    found.save(Path(arguments.output).with_suffix(".experts.json"))
    if arguments.plot:
        found.plot().save(Path(arguments.plot) / "experts.png")
    return found


def _compared(name: str, uniform, joint, other: str) -> str:
    from eval.report import ONE_WINDOW, plus_minus

    found = joint[other].figures()
    kl, nll = joint["chosen"].kl_against(joint[other]), joint["chosen"].nll_against(joint[other])
    own, kl_error, nll_error = (
        plus_minus(se, ".1e", ONE_WINDOW) for se in (found["kl_se"], kl.se_clustered, nll.se_clustered)
    )
    return (
        f"{uniform.target} ({uniform.nbytes:,} bytes): KL {found['kl']:.3e}{own} on {name}; the allocation has "
        f"{kl.mean:+.2e}{kl_error} of KL, {nll.mean:+.2e}{nll_error} in ln PPL"
    )


def _save_plots(folder: Path, table, front, chosen) -> None:
    from workbench.precision import plots

    folder.mkdir(parents=True, exist_ok=True)
    measured = {
        name: (chosen.bits_per_weight, found["kl"], found["kl_se"]) for name, found in chosen.joint.items()
    }
    plots.sensitivity(table).save(folder / "sensitivity.png")
    plots.pareto(front, measured).save(folder / "pareto.png")
    plots.allocation(chosen).save(folder / "allocation.png")
