"""A directive that shows what a command of the shell says of itself: {shell-help} prune"""

import argparse

from datasparse.cli import build_parser
from docutils import nodes
from docutils.parsers.rst import Directive


def commands() -> dict[str, argparse.ArgumentParser]:
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise LookupError("the parser has no commands")


class ShellHelp(Directive):
    """Without an argument, that of the program itself."""

    optional_arguments = 1

    def run(self):
        parser = commands()[self.arguments[0]] if self.arguments else build_parser()
        parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=84)
        return [nodes.literal_block(text := parser.format_help(), text, language="text")]


def setup(app):
    app.add_directive("shell-help", ShellHelp)
    return {"parallel_read_safe": True}
