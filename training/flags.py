"""Command-line flags from the fields of a dataclass, one level of nested dataclasses included."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any


def setting(default: Any, meaning: str) -> Any:
    """A dataclass field with its default and the text that ``--help`` shows for its flag."""
    return dataclasses.field(default=default, metadata={"help": meaning})


def add_flags(parser: argparse.ArgumentParser, config: Any) -> None:
    """Add a flag for each field of a dataclass made of ``setting``, of its default's type.

    Args:
        parser: gets the flags.
        config: a dataclass, or an instance whose values are the defaults.
    """
    for field in dataclasses.fields(config):
        default = field.default if isinstance(config, type) else getattr(config, field.name)
        if dataclasses.is_dataclass(default):
            add_flags(parser, default)
            continue
        kind: dict[str, Any] = {"type": type(default)}
        if isinstance(default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        flag = "--" + field.name.replace("_", "-")
        meaning = field.metadata["help"].replace("%", "%%")  # argparse formats the text with %
        parser.add_argument(flag, default=default, help=meaning, **kind)


def to_flat(config: Any) -> dict[str, Any]:
    """A dataclass as a dictionary, with the fields of nested dataclasses beside its own."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        flat |= to_flat(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return flat


def from_flat(config: type, values: dict[str, Any]) -> Any:
    """The inverse of ``to_flat``; fields that ``values`` lacks get their defaults.

    Raises:
        TypeError: if ``values`` has a name that is no field.
    """
    values = dict(values)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(field.default):
            names = [inner.name for inner in dataclasses.fields(field.default) if inner.name in values]
            values[field.name] = dataclasses.replace(field.default, **{n: values.pop(n) for n in names})
    return config(**values)
