"""Write what an adapter computes of every kernel's every variant and of a model, beside references in f64."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.commands import certificates
from workbench.commands.common import add_adapter
from workbench.commands.output import add_output, answer

EXAMPLES = (
    "certify here.json",
    "certify chrome.json --in browser",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="FILE", help="certificate to write, JSON")
    parser.add_argument(
        "--in",
        dest="place",
        choices=("wgpu", "browser", "node"),
        default="wgpu",
        help="where: in this process (default), in a browser with Chromium's options, or in Node",
    )
    add_adapter(parser, "the WebGPU adapter of wgpu")
    parser.add_argument("--browser", metavar="PROGRAM", help="the browser (default: the first that is found)")
    parser.add_argument(
        "--browser-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="one more of the browser's options",
    )
    parser.add_argument(
        "--package", default=".", metavar="DIR", help="folder in which npm's `webgpu` is installed, for Node"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.browser.certificate import Certificates, opened
    from workbench.browser.certify_in import in_browser, in_node, in_process
    from workbench.files.writing import write_text

    if arguments.place == "browser":
        text = in_browser(arguments.browser, arguments.browser_option)
    elif arguments.place == "node":
        text = in_node(arguments.package)
    else:
        text = in_process(arguments.adapter)
    write_text(Path(arguments.output), text)
    found = Certificates({Path(arguments.output).name: opened(text, arguments.output)})
    answer(arguments, certificates.told(found), lambda: certificates.record(found))
    return 1 if found.beyond() else 0
