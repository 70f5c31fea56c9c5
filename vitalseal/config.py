"""Configuration: one frozen dataclass per program, read from TOML.

A key that the dataclass does not have, a missing one without a default, a value of another type: each is a
`UserError` that names file and key. Relative paths count from the configuration file's own directory, so a
configured program can be started from anywhere.
"""

import dataclasses
import difflib
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from vitalseal.errors import UserError

MAX_CONFIG = 1024 * 1024  # far beyond any; a bound, because the path may be a device

T = TypeVar("T")


def load(path: Path, cls: type[T]) -> T:
    """The configuration in `path` as a `cls`; raises UserError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG + 1)
        if len(data) > MAX_CONFIG:
            raise UserError(f"{path}: more than {MAX_CONFIG} bytes are no configuration")
        table = tomllib.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such configuration file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    return from_table(cls, table, f"{path}: ", path.parent.resolve())


def from_table(cls: type[T], table: dict[str, Any], where: str, base: Path) -> T:
    """`table` as the frozen dataclass `cls`; `where` begins each message, `base` is what relative paths count from.

    Raises:
        UserError: an unknown or missing key, or a value of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # only dataclasses come here
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(fields))}"
            raise UserError(f"{where}unknown key {key!r}{hint}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in table.items():
        values[name] = _convert(hints[name], value, f"{where}{name}", base)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UserError(f"{where}missing key {name!r}")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where}{error}") from None


def _convert(hint: Any, value: Any, where: str, base: Path) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where}: not a list")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, part, f"{where}[{at}]", base) for at, part in enumerate(value))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise UserError(f"{where}: not a table")
        return from_table(hint, value, f"{where}.", base)
    if hint is Path and isinstance(value, str):
        return base / value
    if hint is float and type(value) is int:
        return float(value)
    origin = typing.get_origin(hint) or hint
    if origin is Any or (isinstance(value, origin) and not (origin is not bool and isinstance(value, bool))):
        return value
    raise UserError(f"{where}: {value!r} is not of type {getattr(origin, '__name__', origin)}")
