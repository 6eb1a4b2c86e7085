"""mkdocs hook: the command line's reference, from its own help."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterator
from typing import Any

import click

HEAD = """# Command line

What `--help` says of each command. Every command takes `--json FILE`, or `--json -` for standard output with nothing
else on it. `lrcsim --debug COMMAND` shows the traceback of an error. Exit codes: 0 good, 1 an error in the input (one
line on standard error), 2 wrong usage.
"""


def linked(text: str) -> str:
    """Return a help text as Markdown, with the documents that it names as links."""
    plain = html.escape(text, quote=False).replace("[", r"\[")  # `cpu[,admit:N[,payback]]` refers to nothing
    return re.sub(r"docs/(\w+\.md)", r"[\g<0>](\1)", plain)


def prose(help_text: str) -> str:
    r"""Return a command's help as Markdown; paragraphs that begin with ``\b`` keep their lines."""
    parts = []
    for paragraph in inspect.cleandoc(help_text).split("\n\n"):
        if paragraph.startswith("\b"):
            parts.append("```\n" + inspect.cleandoc(paragraph.removeprefix("\b\n")) + "\n```")
        else:
            parts.append(linked(paragraph))
    return "\n\n".join(parts)


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Give the commands below a group, in its order."""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, click.Context(below, info_name=name, parent=context))
    else:
        yield command, context


def described(command: click.Command, context: click.Context) -> str:
    """Return the section of one command."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [f"## {context.command_path}", "", f"```\n{usage}\n```", "", prose(command.help or ""), ""]
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record is not None and record[1] and "--help" not in record[0]:
            lines += [f"`{record[0]}`", f":   {linked(record[1])}", ""]
    if command.epilog:
        lines += [prose(command.epilog.replace("\nExamples:", "")), ""]
    return "\n".join(lines)


def page() -> str:
    """Return the page of all commands."""
    from lrcsim.cli.main import cli

    top = click.Context(cli, info_name="lrcsim")
    return "\n".join([HEAD, *(described(*found) for found in commands(cli, top))])


def on_files(files: Any, config: Any) -> Any:
    """Add the page."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "cli.md", content=page()))
    return files
