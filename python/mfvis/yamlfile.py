"""Reading YAML files of unknown origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mfvis.text import shortened


def read_yaml(path: Path, max_bytes: int = 10**6, max_values: int = 10**5) -> Any:
    """Value of a YAML file, which contains plain values only.

    Args:
        max_bytes: Maximum size of the file. YAML is slow to read: 100 kB take a second.
        max_values: Maximum number of values after the aliases are resolved, which can multiply them without limit.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not YAML in UTF-8, too large, nested too deeply, or has a key twice, of which YAML readers
            silently take the last.
    """
    if path.stat().st_size > max_bytes:
        raise ValueError(f"has {path.stat().st_size} bytes, at most {max_bytes} are expected")
    try:
        value = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML that can be read: {error}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if _count(value, max_values) > max_values:
        raise ValueError(f"stands for more than {max_values} values; write them without aliases")
    return value


class _Loader(yaml.SafeLoader):
    """YAML loader that rejects duplicate keys."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.YAMLError(f"key {shortened(key.value)} occurs twice{key.start_mark}")
            seen.add(key.value)
        return node


def _count(value: Any, limit: int) -> int:
    """Number of values in nested lists and mappings; counting stops above `limit`."""
    count, stack = 0, [value]
    while stack and count <= limit:
        inner = stack.pop()
        count += 1
        if isinstance(inner, Mapping):
            stack += inner.values()
        elif isinstance(inner, (list, tuple, set)):
            stack += inner
    return count
