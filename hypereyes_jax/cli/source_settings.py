"""How a command reads other people's data: the settings that `sft`, `rl`, `eval` and `data` share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hypereyes_jax.errors import UserError

if TYPE_CHECKING:
    from hypereyes_jax.data.sources import SourceOptions


@dataclass(frozen=True)
class SourceSettings:
    """How rows are read. The defaults read what each format's own tools write."""

    columns: tuple[str, ...] = ()
    """Columns that fields are read from where they have other names, as field=column: `text=q answers=gt images=pics
    id=uid kind=topic`."""
    bad_rows: Literal["skip", "refuse"] = "skip"
    """What happens to a row that can't be used: skip (leave it out and count it by kind), or refuse (end with its file,
    number and cure)."""
    image_root: Path | None = None
    """The folder that image paths are relative to; without one, the folder of the file that holds them."""
    outside_images: bool = False
    """Allow image paths that lead out of that folder, for files whose author you trust."""
    private_urls: bool = False
    """Allow image URLs on loopback and private networks, on any port."""
    data_cache: Path | None = None
    """The folder that downloads are kept in; without one, hypereyes in $XDG_CACHE_HOME or ~/.cache."""
    box_units: Literal["auto", "unit", "permille", "pixel"] = "auto"
    """Units of boxes in foreign tool calls; auto infers them from the largest coordinate of each conversation."""
    tools: tuple[str, ...] = ()
    """Further foreign tools to read, beside those already known, as name=image_search or name=text_search."""
    data_system: str | None = None
    """System prompt of demonstrations; without one, a row keeps its own if its tool calls are ours, and gets the
    built-in one otherwise."""

    turn_format: Literal["tags", "native"] = "tags"
    """How the turns of demonstrations are written: in the paper's tags, or as Qwen's own models think and call
    functions (native); evaluate and serve such a model with --episode.prompt-style native."""

    def options(self, **changed: Any) -> SourceOptions:
        """The options that `open_questions` and `open_examples` take. Raises UserError for a pair without "="."""
        from hypereyes_jax.data.sources import SourceOptions

        values: dict[str, Any] = {
            "columns": pairs("columns", self.columns),
            "bad_rows": self.bad_rows,
            "image_root": self.image_root,
            "outside_images": self.outside_images,
            "private_urls": self.private_urls,
            "cache": self.data_cache,
            "box_units": self.box_units,
            "tools": pairs("tools", self.tools),
            "system": self.data_system,
            "turn_format": self.turn_format,
        }
        return SourceOptions(**(values | changed))


_OF_DEMONSTRATIONS = ("box_units", "tools", "data_system", "turn_format")


def refuse_settings_of_demonstrations(settings: SourceSettings, command: str) -> None:
    """Raises UserError for a setting that nothing would heed in a command that reads questions only."""
    for name in changed_settings(settings):
        if name in _OF_DEMONSTRATIONS:
            raise UserError(f"{_option(name)} says how demonstrations are read, and {command} reads questions only.")


def refuse_settings_of_sources(settings: SourceSettings, without: str) -> None:
    """Raises UserError for any setting, where there is no source; `without` is what the command has instead."""
    for name in changed_settings(settings):
        raise UserError(f"{_option(name)} says how a source is read, and {without}.")


def changed_settings(settings: SourceSettings) -> list[str]:
    """Names of the settings that are not the defaults."""
    default = SourceSettings()
    names = [each.name for each in fields(SourceSettings)]
    return [name for name in names if getattr(settings, name) != getattr(default, name)]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def pairs(option: str, words: tuple[str, ...]) -> dict[str, str]:
    """`name=value` words as a dict. Raises UserError for a word that is none."""
    out = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UserError(f"--{option} {word}: give pairs such as name=value, with nothing around the =")
        out[name] = value
    return out
