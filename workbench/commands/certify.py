"""Write what an adapter computes of every kernel's every variant and of a model, beside references in f64."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from workbench.commands import certificates
from workbench.commands.common import add_adapter
from workbench.commands.output import add_output, answer, check_folder
from workbench.errors import WorkbenchError

EXAMPLES = (
    "certify here.json",
    "certify chrome.json --in browser",
    "certify some.json --kernel linear[int4] rms_norm",
)
#: Options of one place, as the parser knows them and as they are written.
PLACES = {"adapter": "wgpu", "browser": "browser", "browser_option": "browser", "package": "node"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "output",
        metavar="FILE",
        help="certificate to write, JSON; the exit status is 1 where something is beyond its bounds",
    )
    parser.add_argument(
        "--in",
        dest="place",
        choices=("wgpu", "browser", "node"),
        default="wgpu",
        help="where: in this process (default), in a browser with Chromium's options, or in Node",
    )
    parser.add_argument(
        "--kernel",
        nargs="+",
        default=(),
        metavar="NAME",
        help="certify these alone, and no model; the certificate says so (default: all kernels, then the embedded "
        "model, which takes minutes)",
    )
    add_adapter(parser, "the WebGPU adapter of wgpu")
    parser.add_argument("--browser", metavar="PROGRAM", help="the browser (default: the first that is found)")
    parser.add_argument(
        "--browser-option",
        action="append",
        metavar="OPTION",
        help="one more of the browser's options, as in --browser-option=--no-sandbox",
    )
    parser.add_argument(
        "--package", metavar="DIR", help="folder in which npm's `webgpu` is installed, for Node (default: .)"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.browser import certify_in
    from workbench.browser.certificate import Certificates, opened
    from workbench.files.writing import write_text
    from workbench.show.progress import Console

    place, kernels, progress = arguments.place, arguments.kernel, Console()
    for option, of in PLACES.items():
        if getattr(arguments, option) is not None and of != place:
            written = f"--{option.replace('_', '-')}"
            raise WorkbenchError(f"certify: {written} is for --in {of}, and this is --in {place}")
    certify_in.check(kernels)
    check_folder(arguments.output)
    if place == "wgpu":
        text = certify_in.in_process(arguments.adapter, kernels, progress)
    else:
        packed = partial(certify_in.packed, kernels, progress)
        if place == "browser":
            text = certify_in.in_browser(arguments.browser, arguments.browser_option or (), packed)
        else:
            text = certify_in.in_node(arguments.package or ".", packed)
    write_text(Path(arguments.output), text)
    found = Certificates({Path(arguments.output).name: opened(text, arguments.output)})
    answer(arguments, certificates.told(found), lambda: certificates.record(found))
    return 1 if found.beyond() else 0
