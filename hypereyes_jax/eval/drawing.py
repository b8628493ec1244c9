"""The boxes of an episode drawn on its image, each with the title of what its search found first."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from hypereyes_jax.env.types import TurnRecord

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#000075", "#808000")
_MIN_SIDE = 640  # px; smaller images are enlarged, so that the labels can be read


def draw_boxes(image: Image.Image, turns: Sequence[TurnRecord], image_id: str = "img_0") -> Image.Image:
    """A copy of `image` with every box that `turns` cut from `image_id`; failed searches are drawn, too."""
    scale = max(1.0, _MIN_SIDE / max(image.size))
    canvas = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    boxes = [i for turn in turns for i in turn.invocations if i.source == image_id and i.box is not None]
    for number, invocation in enumerate(boxes):
        assert invocation.box is not None
        colour = _COLOURS[number % len(_COLOURS)]
        x1, x2 = sorted(min(max(x, 0.0), 1.0) * (canvas.width - 1) for x in invocation.box[0::2])
        y1, y2 = sorted(min(max(y, 0.0), 1.0) * (canvas.height - 1) for y in invocation.box[1::2])
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=3)
        title = invocation.hits[0].title[:40] if invocation.hits else invocation.error[:40] or "nothing"
        label = f"{invocation.crop_id} {title}"
        left, top, right, bottom = draw.textbbox((x1 + 4, y1 + 4), label, font=font)
        draw.rectangle((left - 3, top - 2, right + 3, bottom + 2), fill=colour)
        draw.text((x1 + 4, y1 + 4), label, fill="white", font=font)
    return canvas
