"""Foreign tool calls and tags as ours: names, arguments, units of boxes, thoughts; and what had no counterpart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.data.sources.call_notations import read_notation
from hypereyes_jax.data.sources.fields import call_in
from hypereyes_jax.data.sources.turn_checks import (
    EMPTY_TURN,
    NO_ANSWER,
    NO_BOX,
    NO_CALL,
    NO_QUERY,
    NO_SUCH_IMAGE,
    REASONS,
    UNKNOWN_TOOL,
    check_text,
    refuse_two_units,
)
from hypereyes_jax.data.sources.types import PIXELS, THOUSANDTHS, BadRow
from hypereyes_jax.env.actions import (
    IMAGE_SEARCH,
    TEXT_SEARCH,
    ImageSearch,
    Malformed,
    TextSearch,
    read_call,
    tool_call,
)
from hypereyes_jax.env.media.crops import BoxUnits
from hypereyes_jax.env.types import Box
from hypereyes_jax.env.web.untrusted import RepeatedKey, json_or_none

TOOLS: dict[str, str] = {
    name: ours
    for ours, names in {
        IMAGE_SEARCH: "image_search search_image image_search_tool reverse_image_search search_by_image visual_search "
        "image_retrieval lens_search google_lens google_lens_search VLSearchImage crop_and_search "
        "grounded_image_search crop_search region_search",
        TEXT_SEARCH: "text_search search search_text text_search_tool web_search web_search_tool google_search "
        "wikipedia_search wiki_search bing_search serp_search internet_search retrieve retrieval search_web "
        "VLSearchText local_search query_search",
    }.items()
    for name in names.split()
}
QUERIES = (
    "input",
    "queries",
    "query",
    "query_list",
    "q",
    "search_query",
    "keywords",
    "keyword",
    "text",
    "search_terms",
)
IMAGES = tuple(
    "image_id image_ids img_id img_ids image images img imgs image_index image_idx img_idx index target_image source "
    "image_path image_paths img_path image_url image_urls img_url".split()
)
BOXES = tuple("area areas bbox_2d bbox bboxes box boxes regions region crop coordinates".split())
_ANSWERS = ("answer", "final_answer")  # of an object that is asked for as an answer, beside a confidence
# Tools of other agents that end an episode with their one argument.
_ANSWERING = frozenset("final_answer finish answer submit submit_answer give_answer finish_answer".split())
_IGNORED = frozenset(("label", "goal", "reason", "k", "top_k", "topk", "num_results", "n", "lang", "language"))
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_THOUGHTS = REASONS[1:]
_CALL = re.compile(r"<(tool_call|function_call)>(.*?)</\1>", re.DOTALL)
_TAGS = re.compile(r"<(text_search|search)>(.*?)</\1>", re.DOTALL)  # MMSearch-R1 and Search-R1 write searches so
_MARKED = re.compile(  # answers as others mark them
    r"\\boxed\{(?:\\text\{(?P<text>[^{}]*)\}|(?P<boxed>(?:[^{}]|\{[^{}]*\})*))\}"
    r"|<(?:final_answer|Answer|solution)>(?P<tagged>.*?)</(?:final_answer|Answer|solution)>"
    r"|<\|begin_of_box\|>(?P<glm>.*?)<\|end_of_box\|>"
    r"|(?:^|\n)[ \t]*\**(?:Final Answer|Exact Answer|Answer)(?:\*\*)?[ \t]*:(?:\*\*)?"
    r"(?P<label>.+?)(?=\n[ \t]*\**(?:Confidence|Explanation|Sources?|References)\b[^\n:]*:|\Z)",
    re.DOTALL,
)

_SPELT = re.compile(r"<(/?)(answer|think|thinking|reason)(?:\s[^<>]*)?>", re.IGNORECASE)  # with attributes, in any case
_OURS = re.compile(r"img_\d{1,6}")
_NUMBERED = re.compile(r"\W*(?:(?:img|image|picture|pic|photo|frame)[\s_#-]*)?(\d{1,6})\W*", re.IGNORECASE)
_UNNUMBERED = re.compile(  # the image of a question that has one
    r"\W*(?:the[\s_-]+)?(?:(?:original|input|user|query|question|source|whole|full|given|uploaded)[\s_-]*)?"
    r"(?:img|image|picture|pic|photo)\W*",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_NUMBERS = re.compile(r"[\s\[(]*" + r"[\s,;)(\]\[]+".join([rf"({_NUMBER.pattern})"] * 4) + r"[\s\])]*")
_PATH = re.compile(r"[/\\]|\.\w{3,4}$")

SizeOf = Callable[[int], tuple[int, int]]  # number of a conversation's image -> (width, height); raises BadRow


@dataclass(frozen=True)
class ShownImages:
    """The images of a conversation.

    counts: how many have been shown before each turn.
    paths: the path or URL of each, "" where it has none.
    """

    counts: tuple[int, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True)
class _Image:
    """An image as a call names it: by a number, which counts from 0 unless the conversation's do from 1."""

    number: int
    counted: bool = False  # by the author of the call


@dataclass(frozen=True)
class _Call:
    """A foreign call, read but not yet converted: boxes are in the units it was written in."""

    name: str  # theirs
    tool: str  # ours
    queries: tuple[str, ...]
    images: tuple[_Image, ...]
    boxes: tuple[Box, ...]
    arguments: tuple[tuple[str, str], ...]  # (theirs, ours)
    value: Any

    @property
    def searches(self) -> tuple[Any, ...]:
        """What it searches for: the same of two calls that are written in other words."""
        return self.tool, self.queries, self.images, self.boxes


class ToolCalls:
    """Writes the turns of one conversation with our tools and tags.

    Args:
      units: of its boxes; "auto" = told by the largest coordinate of the conversation.
      tools: further names of tools.
      shown: the images of the conversation.
      size_of: their sizes, asked for only where boxes are in pixels or may be.
      mapped, unmapped: counted in, see `SourceReport`.
    """

    def __init__(
        self,
        units: BoxUnits,
        tools: Mapping[str, str],
        shown: ShownImages,
        size_of: SizeOf,
        mapped: Counter[tuple[str, str]],
        unmapped: Counter[str],
    ):
        self._units, self._tools = units, {**TOOLS, **tools}
        self._shown, self._size_of = shown, size_of
        self._first = 0  # the number of the first image
        self.boxes: tuple[BoxUnits, float] | None = None  # units of the boxes and the largest coordinate, once read
        self._mapped, self._unmapped = mapped, unmapped

    def turns(self, texts: Sequence[str], calls: Sequence[Sequence[Any]]) -> tuple[str, ...]:
        """The turns of a conversation, its last one an answer. Raises BadRow for a call that can't be mapped.

        Args:
          texts: of each turn, with whatever tags it holds.
          calls: beside each text, as JSON values.
        """
        read = [self._notation(text, beside) for text, beside in zip(texts, calls, strict=True)]
        for number, (text, _) in enumerate(read, start=1):
            check_text(text, last=number == len(read))
        calls_of_turns = [self._read_all(text, beside) for text, beside in read]
        units = self._infer_units(
            [box for inline, beside in calls_of_turns for call in (*inline, *beside) for box in call.boxes]
        )
        self._first = self._infer_first([[*inline, *beside] for inline, beside in calls_of_turns])
        out = []
        for number, ((text, _), (inline, beside)) in enumerate(zip(read, calls_of_turns, strict=True), start=1):
            out.append(self._turn(text, inline, beside, units, number == len(read)))
        return tuple(out)

    def _notation(self, text: str, beside: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """A turn's text and calls, where it may have been written in another notation."""
        text = _SPELT.sub(lambda tag: f"<{tag[1]}{tag[2].lower()}>", text)
        inside = list(_CALL.finditer(text))
        if len(beside) + len(inside) == 1 and "<answer>" not in text:
            call = beside[0] if beside else json_or_none(inside[0][2])
            answer = _answer_of(call)
            if answer is not None and call["name"] not in self._tools:
                self._mapped[call["name"], "<answer>"] += 1
                return f"{_CALL.sub('', text).rstrip()}\n<answer>{answer}</answer>".lstrip(), ()
        notation = None if beside or "<tool_call>" in text else read_notation(text)
        if notation is None:
            return text, beside
        self._mapped[notation.name, "<tool_call>" if notation.calls else "<answer>"] += 1
        return notation.text, notation.calls

    def _read_all(self, text: str, beside: Sequence[Any]) -> tuple[list[_Call], list[_Call]]:
        inline = []
        for match in _CALL.finditer(text):
            inline.append(self._read(_json_in_call(match[2])))
        for match in _TAGS.finditer(text):
            inline.append(self._read(_tag_value(match[1], match[2])))
        others = []
        written = [call.searches for call in inline]
        for call in map(self._read, beside):
            if call.searches in written:  # a server that parses a call may leave it in the text, too
                written.remove(call.searches)
            else:
                others.append(call)
        return inline, others

    def _read(self, value: Any) -> _Call:
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise BadRow(NO_CALL, "a tool call in it has no name, or is not JSON")
        name = value["name"]
        # Without what stands for a server or a module: mcp__serper__search, functions.search.
        tool = self._tools.get(name) or self._tools.get(re.split(r"\.|__|/|::", name)[-1])
        if tool is None:
            self._unmapped[f"tool {name[:60]}"] += 1
            raise BadRow(
                f"{UNKNOWN_TOOL} {name[:40]}",
                f"it calls the tool {name[:60]!r}, which has no counterpart here; say which with tools (--tools "
                f"{name[:60]}={IMAGE_SEARCH} or ={TEXT_SEARCH}), or leave such rows out",
            )
        arguments = value.get("arguments", value.get("parameters"))
        if isinstance(arguments, str):
            arguments = _json_in_call(arguments)
        if not isinstance(arguments, Mapping):
            raise BadRow(NO_CALL, f"the arguments of its call of {name[:60]!r} are not an object")
        return self._arguments(name, tool, arguments, value)

    def _arguments(self, name: str, tool: str, arguments: Mapping[str, Any], value: Any) -> _Call:
        queries: tuple[str, ...] = ()
        image: Any = None
        renames: list[tuple[str, str]] = []
        boxes: tuple[Box, ...] = ()
        if set(arguments) == {""}:  # without names, as ReAct may have it
            arguments = {QUERIES[0] if tool == TEXT_SEARCH else IMAGES[0]: arguments[""]}
        for theirs, content in arguments.items():
            if content is None:  # as tables hold the arguments of other tools
                continue
            if tool == TEXT_SEARCH and theirs in QUERIES and not queries:
                queries = _texts(content)
                renames.append((theirs, "input"))
            elif tool == IMAGE_SEARCH and theirs in BOXES and not boxes:
                boxes = _boxes(content)
                renames.append((theirs, "area"))
            elif tool == IMAGE_SEARCH and theirs in IMAGES and image is None:
                image = content
                renames.append((theirs, "image_id"))
            elif theirs not in _IGNORED or tool != IMAGE_SEARCH:
                if tool == IMAGE_SEARCH and _holds_box(content):
                    raise BadRow(
                        NO_BOX, f"its call of {name[:60]!r} has boxes as {theirs[:60]!r}, which is not read here"
                    )
                self._unmapped[f"argument {theirs[:60]} of {name[:60]}"] += 1
        if tool == TEXT_SEARCH and not queries:
            raise BadRow(NO_QUERY, f"its call of {name[:60]!r} has no query")
        images = tuple(map(self._image, _references(image))) if tool == IMAGE_SEARCH else ()
        return _Call(name, tool, queries, images, boxes, tuple(renames), value)

    def _infer_units(self, boxes: Sequence[Box]) -> BoxUnits:
        units, most = self._units, max((max(box) for box in boxes), default=0.0)
        if units == "auto":
            refuse_two_units(boxes)
            # Whole numbers up to 1000: thousandths, as Qwen3-VL grounds.
            whole = all(float(value).is_integer() for box in boxes for value in box)
            units = "unit" if most <= 1.05 else "permille" if most <= 1000 and whole else "pixel"
        self.boxes = (units, most) if boxes else None
        return units

    def _turn(self, text: str, inline: list[_Call], beside: list[_Call], units: BoxUnits, last: bool) -> str:
        text = self._thoughts(text)
        rest = iter(inline)
        text = _CALL.sub(lambda match: self._written(next(rest), units, match[0]), text)
        text = _TAGS.sub(lambda match: self._written(next(rest), units, ""), text)
        for call in beside:
            text = f"{text.rstrip()}\n" if text.strip() else ""
            text += self._written(call, units, "")
        text = self._reasoned(text.strip())
        if not text:
            raise BadRow(EMPTY_TURN, "a turn of the model in it is empty: it says nothing and calls nothing")
        return text if inline or beside or not last else self._answered(text)

    def _thoughts(self, text: str) -> str:
        for tag in _THOUGHTS:
            opened, closed = f"<{tag}>", f"</{tag}>"
            if closed in text:
                if opened not in text:  # the chat template wrote the opening
                    text = opened + text
                text = text.replace(opened, "<reason>").replace(closed, "</reason>")
                self._mapped[opened, "<reason>"] += 1
        return text

    def _reasoned(self, text: str) -> str:
        """Words before the first tag are the turn's reason, if it has no other."""
        at = text.find("<tool_call>")
        before = text[:at].strip() if at > 0 else ""
        if before and "<reason>" not in text:
            self._mapped["words before a tool call", "<reason>"] += 1
            return f"<reason>{before}</reason>\n{text[at:]}"
        return text

    def _answered(self, text: str) -> str:
        """The last turn answers: what it says after its reason, or in a box, where it has no <answer>."""
        if "<answer>" in text:
            return text
        head, closed, tail = text.rpartition("</reason>")
        *_, match = None, *_MARKED.finditer(tail)
        value = json_or_none(tail) if match is None else None
        named = next((value[name] for name in _ANSWERS if name in value), None) if isinstance(value, Mapping) else None
        if match is not None and not closed and (words := tail[: match.start()].strip()):
            head, closed = f"<reason>{words}", "</reason>"  # which would be lost
        is_marked = match is not None or isinstance(named, str)
        answer = (match[match.lastgroup or 0] if match else named if isinstance(named, str) else tail).strip()
        if not answer:
            raise BadRow(NO_ANSWER, "its last turn neither calls a tool nor answers")
        self._mapped["mark of an answer" if is_marked else "words of the last turn", "<answer>"] += 1
        return f"{head}{closed}{chr(10) if closed else ''}<answer>{answer}</answer>"

    def _written(self, call: _Call, units: BoxUnits, as_found: str) -> str:
        ours = read_call(call.value)
        as_it_is = _is_tagged_json(as_found) and not isinstance(ours, Malformed)
        if isinstance(ours, ImageSearch) and not all(map(_OURS.fullmatch, ours.image_ids)):
            as_it_is = False
        if as_it_is and (not call.boxes or units == "unit"):
            return as_found  # already ours: kept to the letter
        self._mapped[f"{call.name}", call.tool] += 1
        for theirs, name in call.arguments:
            if theirs != name:
                self._mapped[f"{call.name}({theirs})", f"{call.tool}({name})"] += 1
        if call.tool == TEXT_SEARCH:
            return tool_call(TextSearch(call.queries))
        if call.boxes and units != "unit":
            self._mapped[THOUSANDTHS if units == "permille" else PIXELS, "boxes in fractions"] += 1
        numbers = [image.number - (self._first if image.counted else 0) for image in call.images]
        # Images of several sizes have boxes of their own, where those are in pixels.
        groups = [[number] for number in numbers] if call.boxes and units == "pixel" else [numbers]
        return "\n".join(
            tool_call(
                ImageSearch(
                    "|".join(f"img_{number}" for number in group),
                    tuple(self._fractions(box, units, group[0]) for box in call.boxes),
                )
            )
            for group in groups
        )

    def _image(self, reference: int | str) -> _Image:
        """The image that is meant by 2, "img_2", "image 2", a path, or "the original image". Raises BadRow."""
        if isinstance(reference, int):
            number: int | None = reference
        else:
            match = _NUMBERED.fullmatch(reference)
            number = int(match[1]) if match else None
        if number is not None:
            return _Image(number, counted=True)
        text = str(reference)
        if text and text in self._shown.paths:
            return _Image(self._shown.paths.index(text))
        names = [re.split(r"[/\\]", path)[-1] for path in self._shown.paths]
        name = re.split(r"[/\\]", text)[-1]
        if name and names.count(name) == 1:
            return _Image(names.index(name))
        if text and not _UNNUMBERED.fullmatch(text) and not _PATH.search(text):
            raise BadRow(NO_SUCH_IMAGE, f"it searches the image {text[:60]!r}, which is none of those that are shown")
        if self._shown.counts[0] != 1:
            what = f"the image {text[:60]!r}" if text else "an image without saying which"
            many = f"{self._shown.counts[0]} images" if self._shown.counts[0] else "no image"
            raise BadRow(NO_SUCH_IMAGE, f"it searches {what}, and its question shows {many}")
        return _Image(0)

    def _infer_first(self, turns: Sequence[Sequence[_Call]]) -> int:
        """Whether the calls of a conversation count its images from 0 or from 1: the latter if none is 0, and one of
        them would not be there yet."""
        image_numbers, beyond, crops = set[int](), False, 0
        for calls, image_count in zip(turns, self._shown.counts, strict=True):
            crops = max(crops, image_count)
            numbers = {image.number for call in calls for image in call.images if image.counted}
            image_numbers |= numbers
            beyond |= any(number >= crops for number in numbers)
            crops += sum(len(call.boxes) * len(call.images) for call in calls)
        return int(beyond and 0 not in image_numbers)

    def _fractions(self, box: Box, units: BoxUnits, number: int) -> Box:
        if units == "unit":
            return box
        width, height = (1000.0, 1000.0) if units == "permille" else self._size_of(number)
        x1, y1, x2, y2 = box
        return (round(x1 / width, 4), round(y1 / height, 4), round(x2 / width, 4), round(y2 / height, 4))


def _answer_of(call: Any) -> str | None:
    """The answer that a call gives, where it is of a tool that ends an episode; None for any other call."""
    if not isinstance(call, Mapping) or call.get("name") not in _ANSWERING:
        return None
    arguments = call.get("arguments", call.get("parameters"))
    arguments = json_or_none(arguments) if isinstance(arguments, str) else arguments
    values = list(arguments.values()) if isinstance(arguments, Mapping) else []
    return values[0].strip() if len(values) == 1 and isinstance(values[0], str) and values[0].strip() else None


def _is_tagged_json(text: str) -> bool:
    """Whether a call stands in our tags in JSON, and not as Python would write it."""
    match = _CALL.fullmatch(text)
    return match is not None and match[1] == "tool_call" and json_or_none(match[2]) is not None


def _json_in_call(text: str) -> Any:
    """What `call_in` gives; None for what it does not read. Raises BadRow for a key that it holds twice."""
    try:
        return call_in(text)
    except RepeatedKey as error:
        raise BadRow(NO_CALL, f"a tool call in it can't be read: {error}") from None
    except ValueError:
        return None


def _tag_value(tag: str, body: str) -> dict[str, Any]:
    if re.fullmatch(r"\s*<img>.*", body, re.DOTALL) or body.strip() in ("img", "image"):
        return {"name": IMAGE_SEARCH, "arguments": {}}
    return {"name": "text_search" if tag == "text_search" else "search", "arguments": {"query": body.strip()}}


def _references(value: Any) -> list[int | str]:
    """The images that the argument of a call names, "" for none. Raises BadRow."""
    parts = value.split("|") if isinstance(value, str) else value if isinstance(value, list) else [value]
    references: list[int | str] = []
    for part in parts or [""]:
        if part is None or isinstance(part, str):
            references.append((part or "").strip())
        elif isinstance(part, int | float) and not isinstance(part, bool) and part == part // 1:
            references.append(int(part))
        else:
            raise BadRow(NO_SUCH_IMAGE, f"a tool call in it names its image by {str(part)[:60]}, which is no name")
    return references


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    if isinstance(value, list):
        texts: list[str] = []
        for part in value:
            texts += _texts(part)
        return tuple(texts)
    if isinstance(value, Mapping) and (named := next((value[name] for name in QUERIES if name in value), None)):
        return _texts(named)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value),)
    if value is not None and not isinstance(value, str):
        raise BadRow(NO_QUERY, f"a query of one of its tool calls is not a text: {str(value)[:80]}")
    return ()


def _boxes(value: Any) -> tuple[Box, ...]:
    """Boxes from four numbers, a list of fours, objects with corners or width and height, or JSON. Raises BadRow."""
    if isinstance(value, str) and value.strip():
        numbers = _NUMBERS.fullmatch(value)  # "10, 20, 30, 40", "(10,20),(30,40)"
        written, value = value, [float(number) for number in numbers.groups()] if numbers else json_or_none(value)
        if value is None and written.strip().lower() not in ("null", "none"):
            raise BadRow(NO_BOX, f"a box in one of its tool calls can't be read: {written[:80]}")
    if value is None or value in ("", []):
        return ()
    if isinstance(value, Mapping):
        for names in _CORNERS:
            if all(name in value for name in names):
                return (_box([value[name] for name in names]),)
        if all(name in value for name in ("x", "y", "width", "height")):
            x, y, width, height = _box([value[name] for name in ("x", "y", "width", "height")])
            return ((x, y, x + width, y + height),)
        for name in BOXES:
            if name in value:
                return _boxes(value[name])
    if isinstance(value, list):
        if len(value) == 4 and all(isinstance(part, str) and _NUMBER.fullmatch(part.strip()) for part in value):
            value = [float(part) for part in value]
        if len(value) == 4 and all(isinstance(part, int | float) for part in value):
            return (_box(value),)
        return tuple(box for part in value for box in _boxes(part))
    raise BadRow(NO_BOX, f"a box in one of its tool calls can't be read: {str(value)[:80]}")


def _holds_box(value: Any) -> bool:
    """Whether a value that is read as nothing else seems to be boxes."""
    try:
        return bool(_boxes(value))
    except BadRow:
        return False


def _box(values: Sequence[Any]) -> Box:
    if len(values) != 4 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise BadRow(NO_BOX, f"a box in one of its tool calls is not four numbers: {str(list(values))[:80]}")
    if not all(abs(v) < 1e9 for v in values):
        raise BadRow(NO_BOX, "a box in one of its tool calls is out of all bounds")
    x1, y1, x2, y2 = (float(v) for v in values)
    return x1, y1, x2, y2
