"""A restored aggregator's configuration: the paths into its data directory follow it to where it is now."""

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

from aggregator.backup import CONFIG, Manifest
from aggregator.config import AggregatorConfig
from aggregator.mosquitto import CONF
from vitalseal import config as configuration
from vitalseal.errors import UserError


def moved_config(backup: Path, manifest: Manifest, data: Path) -> AggregatorConfig:
    """The configuration in `backup`, for the data directory `data`; raises UserError if it is none."""
    path = backup / CONFIG
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    config = configuration.from_table(AggregatorConfig, table, f"{path}: ", Path(manifest.base))
    moved: AggregatorConfig = _moved(config, Path(manifest.data), data)
    return dataclasses.replace(moved, data=data)


def format_config(config: AggregatorConfig) -> str:
    """`config` as TOML, every value spelled out; what has no value is left out."""
    return "\n".join(_lines(config, ())) + "\n"


def move_broker(restored: Path, manifest: Manifest, data: Path) -> None:
    """The broker's configuration in `restored`, if there is one, names its files where they will be, in `data`."""
    path = restored / "broker" / CONF
    if path.exists():
        path.write_text(path.read_text(encoding="utf-8").replace(f"{manifest.data}/", f"{data}/"), encoding="utf-8")


def _moved(value: Any, old: Path, new: Path) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: _moved(item, old, new) for name, item in fields.items()})
    if isinstance(value, tuple):
        return tuple(_moved(item, old, new) for item in value)
    if isinstance(value, Path) and value.resolve().is_relative_to(old):
        return new / value.resolve().relative_to(old)
    return value


def _lines(table: Any, name: tuple[str, ...]) -> list[str]:
    values = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
    tables = {key: value for key, value in values.items() if dataclasses.is_dataclass(value)}
    lines = [f"\n[{'.'.join(name)}]"] if name else []
    lines += [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None and key not in tables]
    for key, value in tables.items():
        lines += _lines(value, (*name, key))
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    # JSON strings are TOML basic strings, as long as nothing is escaped by halves.
    return json.dumps(str(value), ensure_ascii=False)
