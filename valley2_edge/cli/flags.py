"""A command takes whole options objects: each field of their dataclasses becomes one flag."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer


@dataclass(frozen=True)
class Flag:
    """How a field of an options class appears on the command line, where the field itself does not say it."""

    panel: str | None = None
    """Group of the help page; None: among the common options."""
    names: tuple[str, ...] = ()
    """The flag as it is typed; by default the field's name with dashes."""
    kind: Any = None
    """Type of what is typed; by default the field's own."""
    note: str = ""
    """What the help page says beyond the field's meaning."""
    metavar: str | None = None
    """What stands for the value in the help page."""
    default: Any = None
    """The default as it is typed, where `read` makes something else of it."""
    read: Callable[[Any], Any] | None = None
    """Makes the field's value from what was typed."""


@dataclass(frozen=True)
class Only:
    """Annotates a parameter whose command has a use for these fields alone; the others keep their defaults."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Without:
    """Annotates a parameter whose command has no use for these fields, which keep their defaults."""

    names: tuple[str, ...]


def with_flags(table: dict[str, Flag]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Expands the parameters of a command that are annotated with dataclasses into flags.

    A field of such a class is annotated as a flag of typer, or has a meaning in its metadata, which becomes the help.

    Args:
        table: What else is to be said about flags, by the names of fields.

    Returns:
        A decorator for the command's function, which is called with objects of the dataclasses.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        parameters: list[inspect.Parameter] = []
        expanded: dict[str, tuple[type, list[str]]] = {}
        for name, parameter in inspect.signature(function).parameters.items():
            options = _options_of(hints[name])
            if options is None:
                flag = parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
                parameters.append(flag)
                continue
            flags = [
                _parameter(field, hint, table.get(field.name, Flag()))
                for field, hint in _typed_fields(options, hints[name])
            ]
            parameters.extend(flags)
            expanded[name] = (options, [flag.name for flag in flags])

        def command(**typed: Any) -> None:
            objects = {}
            for name, (options, names) in expanded.items():
                values = {field: _read(table, field, typed.pop(field)) for field in names}
                objects[name] = options(**values)
            function(**typed, **objects)

        command.__name__, command.__doc__, command.__module__ = function.__name__, function.__doc__, function.__module__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _options_of(hint: Any) -> type | None:
    """The options class that a parameter is annotated with; None: it is a flag or an argument of its own."""
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return plain if isinstance(plain, type) and is_dataclass(plain) else None


def _typed_fields(options: type[Any], annotation: Any) -> list[tuple[Field[Any], Any]]:
    """The fields of an options class that get flags, each with its type."""
    hints = get_type_hints(options, include_extras=True)
    chosen = [field.name for field in fields(options)]
    for extra in get_args(annotation)[1:]:
        if isinstance(extra, Only):
            chosen = [name for name in chosen if name in extra.names]
        if isinstance(extra, Without):
            chosen = [name for name in chosen if name not in extra.names]
    return [(field, hints[field.name]) for field in fields(options) if field.name in chosen]


def _parameter(field: Field[Any], hint: Any, flag: Flag) -> inspect.Parameter:
    default = field.default if flag.default is None else flag.default
    if default is MISSING:
        default = inspect.Parameter.empty
    if get_origin(hint) is not Annotated:
        option = typer.Option(
            *(flag.names or _names(field.name, default)),
            metavar=flag.metavar,
            help=f"{field.metadata['meaning']} {flag.note}".strip(),
            rich_help_panel=flag.panel,
            # A default that the meaning explains need not be said again.
            show_default=default not in (None, False, True),
        )
        hint = Annotated[flag.kind or hint, option]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _names(field: str, default: Any) -> tuple[str, ...]:
    name = f"--{field.replace('_', '-')}"
    return (f"{name}/--no-{name[2:]}",) if default is True else (name,)


def _read(table: dict[str, Flag], field: str, typed: Any) -> Any:
    read = table.get(field, Flag()).read
    return typed if read is None or typed is None else read(typed)
