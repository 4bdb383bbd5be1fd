"Every command of the command line, with the words that call it."

import typer

from icdrat.cli.main import app


def commands():
    "Words and command, groups left out"

    def walk(command, *words):
        for name, below in getattr(command, "commands", {}).items():
            yield from walk(below, *words, name)
        if not hasattr(command, "commands"):
            yield words, command

    return walk(typer.main.get_command(app))
