"""The reference of the command line, from the parsers themselves."""

from __future__ import annotations

import argparse
import functools
import re

from workbench import cli

WIDTH = 100
#: What Markdown or MyST would take for markup outside of code.
MARKUP = re.compile(r"[\\*_<\[\]{}|$~]")


def every_command() -> str:
    """A section for each command in the order of `workbench --help`: summary, usage, arguments, examples."""
    return "\n\n".join(section(sub) for sub in subparsers(cli.build_parser()).values())


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def section(parser: argparse.ArgumentParser, level: int = 2) -> str:
    """A parser as a section with a heading of so many hashes; those of its own commands are sections below it."""
    parser.formatter_class = functools.partial(parser.formatter_class, width=WIDTH)  # pyright: ignore
    parts = [f"{'#' * level} {parser.prog}"]
    if parser.description:
        parts.append(prose(parser.description))
    parts.append(f"```text\n{parser.format_usage().strip()}\n```")
    parts += [listed for group in parser._action_groups if (listed := arguments(parser, group))]
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog.strip()}\n```")
    parts += [section(sub, level + 1) for sub in subparsers(parser).values()]
    return "\n\n".join(parts)


def arguments(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> str:
    """A group's arguments as a list of definitions, below its title where it has one of its own; "" for none."""
    formatter = parser._get_formatter()
    items = []
    for action in group._group_actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        said = formatter._expand_help(action) if action.help else "(see above)"
        items.append(f"`{formatter._format_action_invocation(action)}`\n: {prose(said)}")
    if not items:
        return ""
    own = group.title not in ("positional arguments", "options", "optional arguments")
    above = [f"**{prose(group.title)}**"] if own and group.title else []
    return "\n\n".join([*above, *([prose(group.description)] if group.description else []), *items])


def prose(text: str) -> str:
    """A sentence of a parser as Markdown: code in backticks stays, everything else is shown as it is."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:  # a backtick alone
        return MARKUP.sub(r"\\\g<0>", "`".join(parts)).replace("`", r"\`")
    return "`".join(part if i % 2 else MARKUP.sub(r"\\\g<0>", part) for i, part in enumerate(parts))
