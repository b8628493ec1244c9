"""YAML as people mean it, read and written: version 1.2, without a name that stands twice."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import yaml

_INT, _FLOAT, _DATE = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))
_MERGE = "tag:yaml.org,2002:merge"
_WHOLE = re.compile(r"^[-+]?(?:0|[1-9][\d_]*|0x[\da-fA-F]+)$")
_NUMBER = re.compile(
    r"^[-+]?(?:(?:\d[\d_]*\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
)
_STARTS = list("-+.0123456789")


class YamlLoader(yaml.SafeLoader):
    """Reads numbers as YAML 1.2 means them, and refuses a name that stands twice in one object.

    PyYAML reads YAML 1.1, which takes `1e-5` for a text, `010` for 8, `1:30` for 90 and `2026-11-29` for a date.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE)
        for name, count in Counter(key.value for key in keys).items():
            if count > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


class YamlDumper(yaml.SafeDumper):
    """Quotes texts that either version of YAML would take for something else."""


YamlLoader.yaml_implicit_resolvers = {
    start: [(tag, form) for tag, form in pairs if tag not in (_INT, _FLOAT, _DATE)]
    for start, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _reader in (YamlLoader, YamlDumper):
    _reader.add_implicit_resolver(_INT, _WHOLE, _STARTS)
    _reader.add_implicit_resolver(_FLOAT, _NUMBER, _STARTS)
