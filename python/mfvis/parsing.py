"""Parser of all commands: flags (tyro) override a preset, which overrides the defaults of a frozen dataclass.

A preset is a YAML file whose nested keys are the flags: ``train: {lr: 3e-4}`` means ``--train.lr 3e-4``. Each component
checks its own fields in ``__post_init__``; problems of all components are reported together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import yaml

from mfvis.errors import ConfigError
from mfvis.text import path_fault, shortened
from mfvis.yamlfile import read_yaml

T = TypeVar("T")
PRESETS = Path(__file__).parent / "presets"
_LARGEST = 2**53
"""Largest integer in a configuration: other JSON readers do not represent larger ones exactly."""
_KINDS = {
    int: "an integer",
    float: "a finite number",
    bool: "true or false",
    str: "a text (in YAML: in quotes)",
    Path: "a path (in YAML: in quotes)",
}
"""Names of field types in messages."""


def load_preset(preset: str | Path) -> dict[str, Any]:
    """Nested keys of a preset: a name in `mfvis/presets`, or a YAML file. ConfigError if it cannot be read.

    Several presets are separated by commas; later ones override earlier ones.
    """
    first, *others = str(preset).split(",")
    values = _read_preset(first)
    for other in others:
        values = overlaid(values, _read_preset(other))
    return values


def _read_preset(preset: str) -> dict[str, Any]:
    path = Path(preset)
    if path.suffix not in (".yaml", ".yml"):
        names = sorted(file.stem for file in PRESETS.glob("*.yaml"))
        if preset not in names:
            raise ConfigError(
                f"no preset {preset!r}{_suggestion(preset, names)}; there are {', '.join(names)}, or name a .yaml file"
            )
        path = PRESETS / f"{preset}.yaml"
    if path_fault(preset) is not None or not path.is_file():
        raise ConfigError(f"no preset file {path}")
    try:
        values = read_yaml(path, max_bytes=100_000, max_values=10_000)
    except (OSError, ValueError) as error:
        raise ConfigError(f"preset {path} cannot be read: it {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"preset {path} holds {type(values).__name__}; expected keys such as 'train: {{lr: 1e-4}}'")
    return values


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings laid over others, as presets are."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        merged[key] = overlaid(below[key], value) if both else value
    return merged


def parse(cls: type[T], argv: Sequence[str], prog: str, preset: str | None = None) -> T:
    """Build the dataclass `cls` from flags, which override a preset (``--preset`` or the given one) and the defaults.

    Unknown and malformed flags end the program with tyro's message and status 2; all other errors are ConfigErrors.
    """
    import tyro

    rest, arguments = [], iter(argv)
    for argument in arguments:
        name, _, inline = argument.partition("=")
        if name != "--preset":
            rest.append(argument)
        elif not (preset := inline or next(arguments, "")):
            raise ConfigError("--preset names nothing; give a preset or a .yaml file")
    relaxed = _unchecked(cls, for_help=any(argument in ("-h", "--help") for argument in rest))
    default = build(relaxed, load_preset(preset) if preset else {}, f"preset {preset}", missing=tyro.MISSING)
    description = (
        f"{' '.join((cls.__doc__ or '').split())}\n\n"
        "--preset NAME|FILE.yaml[,NAME...] sets any of the flags below; flags win over it. --dry-run shows the "
        "configuration and what follows from it, and does nothing."
    )
    flags = tyro.cli(relaxed, args=rest, default=default, prog=prog, description=description)
    return build(cls, _shallow(flags), "the configuration")


def build(cls: type[T], values: Mapping[str, Any], source: str, missing: Any = None) -> T:
    """Build the dataclass `cls` from nested plain values, as read from YAML or JSON.

    Unknown keys, wrong types and failed checks of all components are reported in one ConfigError that names `source`.
    If `missing` is given, it is the value of absent required fields, which are otherwise reported.
    """
    problems: list[str] = []
    instance = _build(cls, values, "", problems, missing)
    if problems:
        raise ConfigError(f"{source}:\n" + "\n".join(f"  {problem}" for problem in problems))
    return instance


def to_plain(config: Any) -> Any:
    """Nested dicts, lists and scalars that YAML and JSON can write and `build` can read back."""
    if dataclasses.is_dataclass(config):
        return {name: to_plain(value) for name, value in _shallow(config).items()}
    if isinstance(config, (tuple, list)):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = ()) -> list[str]:
    """Lines ``key: old then, new now`` for the differences of two configurations in `to_plain`'s form.

    ignored: keys such as ``train.lr`` that may differ.
    """
    old, new = flatten(before), flatten(now)
    keys = [key for key in {**new, **old} if old.get(key) != new.get(key) and key not in ignored]
    return [f"{key}: {old.get(key)} then, {new.get(key)} now" for key in keys]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def to_yaml(config: Any) -> str:
    """The configuration as a complete preset."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, default_flow_style=None)


def _shallow(config: Any) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def _unchecked(cls: type, for_help: bool) -> type:
    """A subclass of the dataclass without checks, whose components have none either.

    tyro creates instances twice: from a preset, which flags may still complete or correct, and from the flags,
    component by component. With the checks in ``__post_init__``, the first failure would end both, without the name of
    its component. Therefore tyro fills this class, and `build` creates the real one from it, with all checks and
    messages.

    Components marked with ``tyro.conf.Suppress`` are left out of the help text; their flags are still accepted.
    """
    import tyro

    plain, hints = typing.get_type_hints(cls), typing.get_type_hints(cls, include_extras=True)
    body: dict[str, Any] = {"__annotations__": {}, "__module__": cls.__module__, "__doc__": _documented(cls)}
    for f in dataclasses.fields(cls):
        if not dataclasses.is_dataclass(plain[f.name]):
            continue
        part = _unchecked(plain[f.name], for_help)
        hidden = for_help and tyro.conf.Suppress in getattr(hints[f.name], "__metadata__", ())
        body["__annotations__"][f.name] = Annotated[part, tyro.conf.Suppress] if hidden else part
        values = {} if f.default_factory is dataclasses.MISSING else _shallow(f.default_factory())
        body[f.name] = field(default_factory=functools.partial(build, part, values, f.name))
    return dataclass(frozen=True)(type(cls.__name__, (cls,), body | {"__post_init__": lambda self: None}))


def _documented(cls: type) -> str:
    """The class's docstring with those of its fields, each on one line. tyro, which would read them from the source,
    interprets the indentation of a second line as a new paragraph."""
    import docstring_parser

    kinds = filter(dataclasses.is_dataclass, reversed(cls.__mro__))
    parameters = [parameter for kind in kinds for parameter in docstring_parser.parse_from_object(kind).params]
    texts = {parameter.arg_name: " ".join((parameter.description or "").split()) for parameter in parameters}
    return "\n".join([cls.__doc__ or "", "", "Attributes:", *(f"    {name}: {text}" for name, text in texts.items())])


def _build(cls: type, values: Any, prefix: str, problems: list[str], missing: Any) -> Any:
    if dataclasses.is_dataclass(values):
        values = _shallow(values)
    if not isinstance(values, Mapping):
        problems.append(f"{prefix.rstrip('.') or 'the top level'} is {shortened(values)}; expected keys")
        return None
    before = len(problems)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    problems += [
        f"unknown key {prefix}{key}{_suggestion(key, list(fields), prefix)}"
        for key in map(_key, values)
        if key not in fields
    ]
    arguments = {}
    for name, f in fields.items():
        if name in values:
            value = values[name]
            has_default = f.default_factory is not dataclasses.MISSING
            if isinstance(value, Mapping) and dataclasses.is_dataclass(hints[name]) and has_default:
                # A partly given component overrides the field's default, which may differ from its class's defaults.
                value = overlaid(to_plain(f.default_factory()), value)
            try:
                arguments[name] = _convert(hints[name], value, f"{prefix}{name}", problems, missing)
            except ValueError as error:
                problems.append(str(error))
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            if missing is None:
                problems.append(f"{prefix}{name} is not given")
            arguments[name] = missing
    if len(problems) > before:
        return None
    try:
        return cls(**arguments)
    except (ConfigError, ValueError) as error:
        # A check's text begins with the invalid field; with the component's prefix it is the flag.
        for line in str(error).splitlines():
            first = re.split("[ .:,;]", line)[0]
            problems.append(f"{prefix}{line}" if first in fields or not prefix else f"{prefix.rstrip('.')}: {line}")
        return None


def _convert(kind: Any, value: Any, name: str, problems: list[str], missing: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, f"{name}.", problems, missing)
    if missing is not None and value is missing:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, name, problems, missing)
    if origin is Literal:
        if value in arguments and type(value) is not bool:
            return value
        guess = _suggestion(shortened(value).strip("'"), [str(a) for a in arguments])
        raise ValueError(f"{name} is {shortened(value)}{guess}; expected one of {', '.join(map(repr, arguments))}")
    if origin is tuple and isinstance(value, (str, Path)):
        value = [str(value)]  # a YAML file may give a single value for a list
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(_convert(k, v, name, problems, missing) for k, v in zip(kinds, value, strict=True))
    if kind in (str, Path) and isinstance(value, (str, Path)):
        if fault := path_fault(str(value)):
            raise ValueError(f"{name} {shortened(str(value))} {fault}")
        return kind(value)
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):  # YAML reads 1e-4, without a decimal point, as text
            if math.isfinite(number := float(value)):
                return number
        raise ValueError(f"{name} is {shortened(value)}; expected a finite number")
    if kind is int and type(value) is int and abs(value) > _LARGEST:
        raise ValueError(f"{name} is {shortened(value)}; expected at most {_LARGEST}")
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise ValueError(f"{name} is {shortened(value)}; expected {_KINDS.get(kind, kind)}")


def _key(key: Any) -> str:
    return key if isinstance(key, str) and len(key) <= 60 and key.isprintable() else shortened(key)


def _suggestion(word: str, known: Sequence[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {prefix}{close[0]}?" if close else ""
