"""Cropping by code: the model writes a few lines of Python that cut images, which are interpreted, never executed.

Only what cropping takes is understood: numbers, tuples, lists, names, assignment, `for`, arithmetic, the images by
their ids with `size`, `width`, `height` and `crop((left, top, right, bottom))` in pixels, `crop(image, x1, y1, x2, y2)`
in the episode's units, `show(image)`, and `int`, `round`, `min`, `max`, `range`. Anything else is refused.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from hypereyes_jax.env.media.crops import crop, to_fractions
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolError, ToolReply

_MOST_CHARACTERS, _MOST_STEPS, _MOST_NUMBER = 4000, 5000, 1e6
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"int": int, "round": round, "min": min, "max": max}


@dataclass(frozen=True)
class CropCode:
    """Runs code that crops images. It counts as `Crop` does: one invocation, and its turn is a round."""

    name: str = "python"
    description: str = (
        "runs Python that cuts regions out of images: crop(img_0, x1, y1, x2, y2), or img_0.crop((left, top, right, "
        "bottom)) in pixels; show(region) keeps one. It searches nothing; search the regions by their ids afterwards."
    )
    is_search: bool = True
    price: float = 0.0

    @property
    def parameters(self) -> Mapping[str, Any]:
        example = "show(crop(img_0, 0.05, 0.1, 0.45, 0.6))"
        code = {"type": "string", "description": "lines of Python.", "examples": [example]}
        return {"type": "object", "properties": {"code": code}, "required": ["code"]}

    async def call(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        code = arguments.get("code")
        if not isinstance(code, str) or not code.strip() or len(code) > _MOST_CHARACTERS:
            raise ToolError(f'"code" must be Python of at most {_MOST_CHARACTERS:,} characters')
        try:
            tree = ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ToolError("the code is no Python that can be parsed") from None
        program = _Program(episode)
        try:
            program.run(tree.body)
        except RecursionError:
            raise ToolError("the code nests too deeply") from None
        if not program.shown:
            raise ToolError("the code showed no region: call show(region) for each")
        width, count = episode.config.width, len(program.shown)
        left_out = () if count <= width else (f"the first {width} of {count} regions; a turn shows no more",)
        return ToolReply((*program.shown[:width], *left_out))


@dataclass
class _Program:
    """The state of one interpretation."""

    episode: SearchingEpisode
    names: dict[str, Any] = field(default_factory=dict)
    shown: list[Image.Image] = field(default_factory=list)
    steps: int = 0
    cuts: int = 0

    def run(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self._step(statement)
            match statement:
                case ast.Assign(targets=[target], value=value):
                    self._assign(target, self._value(value), statement)
                case ast.Expr(value=value):
                    self._value(value)
                case ast.For(target=target, iter=over, body=inner, orelse=[]):
                    items = self._value(over)
                    if not isinstance(items, tuple | list | range):
                        raise _refused(statement)
                    for item in items:
                        self._assign(target, item, statement)
                        self.run(inner)
                case _:
                    raise _refused(statement)

    def _assign(self, target: ast.expr, value: Any, statement: ast.AST) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
            return
        if not isinstance(target, ast.Tuple) or not isinstance(value, tuple | list):
            raise _refused(statement)
        if len(target.elts) != len(value):
            raise ToolError(f"line {_line(statement)}: {len(value)} values for {len(target.elts)} names")
        for each, item in zip(target.elts, value, strict=True):
            self._assign(each, item, statement)

    def _value(self, node: ast.expr) -> Any:
        self._step(node)
        match node:
            case ast.Constant(value=bool() | str() | bytes()):
                raise _refused(node)
            case ast.Constant(value=int() | float() as number):
                return _bounded(number, node)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -_number(self._value(operand), node)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
                one, other = _number(self._value(left), node), _number(self._value(right), node)
                try:
                    return _bounded(_OPERATORS[type(sign)](one, other), node)
                except ZeroDivisionError:
                    raise ToolError(f"line {_line(node)}: division by zero") from None
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return tuple(self._value(each) for each in elements)
            case ast.Name(id=name):
                return self._named(name, node)
            case ast.Attribute(value=of, attr="size" | "width" | "height" as name):
                return getattr(self._image(of), name)
            case ast.Call(keywords=[]):
                return self._called(node)
        raise _refused(node)

    def _named(self, name: str, node: ast.AST) -> Any:
        if name in self.names:
            return self.names[name]
        try:
            return self.episode.image(name)
        except KeyError:
            raise ToolError(f"line {_line(node)}: there is no image or value {name[:40]}") from None

    def _image(self, node: ast.expr) -> Image.Image:
        value = self._value(node)
        if not isinstance(value, Image.Image):
            raise ToolError(f"line {_line(node)}: an image is needed, such as img_0")
        return value

    def _called(self, node: ast.Call) -> Any:
        match node:
            case ast.Call(func=ast.Attribute(value=of, attr="crop"), args=[box]):
                image, edges = self._image(of), self._value(box)
                if not isinstance(edges, tuple) or len(edges) != 4:
                    raise ToolError(f"line {_line(node)}: crop takes one tuple (left, top, right, bottom)")
                return self._cut(image, edges, node, "pixel")
            case ast.Call(func=ast.Name(id="crop"), args=[of, *edges]) if len(edges) == 4:
                image = self._image(of)
                return self._cut(image, tuple(map(self._value, edges)), node, self.episode.config.box_units)
            case ast.Call(func=ast.Name(id="show"), args=[of]):
                self.shown.append(self._image(of))
                return None
            case ast.Call(func=ast.Name(id="range"), args=[stop]):
                return range(min(int(_number(self._value(stop), node)), _MOST_STEPS))
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in _FUNCTIONS and arguments:
                numbers = [_number(self._value(each), node) for each in arguments]
                try:
                    return _bounded(_FUNCTIONS[name](*numbers), node)
                except TypeError:
                    raise _refused(node) from None
        raise _refused(node)

    def _cut(self, image: Image.Image, edges: tuple[Any, ...], node: ast.AST, units: Any) -> Image.Image:
        x1, y1, x2, y2 = (float(_number(edge, node)) for edge in edges)
        self.cuts += 1
        most = self.episode.config.width_cap  # as many as a search of regions may cut; each costs what its pixels do
        if self.cuts > most:
            raise ToolError(f"line {_line(node)}: the code cuts more than {most} regions")
        box = to_fractions((x1, y1, x2, y2), image.size, units)
        region = None if box is None else crop(image, box, self.episode.config.crop_max_side)
        if region is None:
            raise ToolError(f"line {_line(node)}: the box is empty or outside the image")
        return region

    def _step(self, node: ast.AST) -> None:
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise ToolError(f"line {_line(node)}: the code runs too long")


def _number(value: Any, node: ast.AST) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ToolError(f"line {_line(node)}: a number is needed")
    return value


def _bounded(value: int | float, node: ast.AST) -> int | float:
    if not abs(value) <= _MOST_NUMBER:
        raise ToolError(f"line {_line(node)}: a number is too large")
    return value


def _line(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 1))


def _refused(node: ast.AST) -> ToolError:
    return ToolError(f"line {_line(node)}: only cropping is understood: crop, show, arithmetic and loops")
