"""Help pages as plain text: common options first, the others under the name of their group, examples at the end.

Drawn without rich, whose import takes longer than everything else that a help page needs.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

_COMMON = "Options"


def examples(*lines: str) -> str:
    """The end of a help page: command lines to copy."""
    return "\n".join(("Examples:", *(f"  {line}" for line in lines)))


class HelpfulCommand(TyperCommand):
    """A command whose help page has its options in groups."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes the words of a completion as they are: to check values, typer would import pydantic."""
        if not ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        rest: list[str]
        values, rest, _ = self.make_parser(ctx).parse_args(args=args)
        ctx.params = {parameter.name: values.get(parameter.name) for parameter in self.get_params(ctx)}
        ctx.args = rest
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the arguments and options."""
        _write_parameters(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Writes the examples."""
        _write_examples(self.epilog, formatter)


class HelpfulGroup(TyperGroup):
    """A command with commands of its own, whose help page has its options in groups."""

    def get_help_option(self, ctx: Any) -> Any:
        """Gives --help a default, which typer would otherwise look for with the help of pydantic."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands, then the options."""
        rows = [(name, self.commands[name].get_short_help_str(limit=500)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        _write_parameters(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Writes the examples."""
        _write_examples(self.epilog, formatter)


def _write_parameters(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], _COMMON: []}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            sections["Arguments"].append((parameter.metavar or parameter.name.upper(), record[1]))
        else:
            sections.setdefault(parameter.rich_help_panel or _COMMON, []).append(record)
    for name, rows in sections.items():
        if rows:
            with formatter.section(name):
                formatter.write_dl(rows)


def _write_examples(text: str | None, formatter: Any) -> None:
    """Writes lines as they are, because a command line that was broken could not be copied."""
    if text:
        formatter.write(f"\n{text}\n")
