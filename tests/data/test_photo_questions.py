"""Questions over mosaics of photos: from templates, and by a chat model whose work is checked."""

import json

import numpy as np
import pytest
from PIL import Image

from hypereyes_jax.data.knowledge import dictionary_knowledge
from hypereyes_jax.data.photo_mosaics import GAP, draw_photo_mosaic, layout_of
from hypereyes_jax.data.photo_plans import EachInTurn, Extreme, OnlyOne, Ranking, Shared, Total, superfluous
from hypereyes_jax.data.photo_questions import NEEDS_SOME, PhotoConfig, Shown, draw_photo_question, draw_shown
from hypereyes_jax.data.photos import Photo, open_photos
from hypereyes_jax.data.question_writer import QuestionWriter, read_question
from hypereyes_jax.env.chat.client import ChatEndpoint, ChatReply
from hypereyes_jax.errors import UserError
from tests.data import photo_folders

FIELDS = {"wingspan": ("typical wingspan in centimetres", "number"), "diet": ("main food", "text")}
FACTS = {
    "Laysan Albatross": {"wingspan": 195, "diet": "squid"},
    "Indigo Bunting": {"wingspan": 21, "diet": "seeds"},
    "Black footed Albatross": {"wingspan": 220, "diet": "squid"},
}
KNOWN = dictionary_knowledge(FACTS)


@pytest.fixture
def birds(tmp_path):
    return open_photos("cub", photo_folders.cub(tmp_path))


# Mosaics


def test_photos_keep_their_resolution_and_their_boxes():
    small, large = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (100, 60), "blue")
    mosaic = draw_photo_mosaic([(small, Photo("a", "a", box=(10, 5, 30, 25))), (large, Photo("b", "b"))], (1, 2))
    assert mosaic.image.size == (40 + GAP + 100, 60)
    x1, y1, x2, y2 = (edge * side for edge, side in zip(mosaic.boxes[0], mosaic.image.size * 2, strict=True))
    assert (x1, y1, x2, y2) == pytest.approx((0, 15, 40, 45))  # in the middle of its cell's height
    sx1, sy1, sx2, sy2 = (edge * side for edge, side in zip(mosaic.subjects[0], mosaic.image.size * 2, strict=True))
    assert (sx1, sy1, sx2, sy2) == pytest.approx((10, 20, 30, 40))
    assert mosaic.subjects[1] is None
    assert mosaic.image.getpixel((45 + GAP, 30)) == (0, 0, 255)


def test_a_mosaic_that_is_too_large_is_scaled_as_a_whole():
    photos = [(Image.new("RGB", (100, 100)), Photo("a", "a"))] * 4
    mosaic = draw_photo_mosaic(photos, (2, 2), max_side=108)
    assert max(mosaic.image.size) == 108
    assert mosaic.boxes[0][2] == pytest.approx(100 / (200 + GAP))
    with pytest.raises(ValueError, match="no layout holds 5"):
        layout_of(5, np.random.default_rng(0))


# Plans


def test_plans_by_hand():
    three = [KNOWN[name] for name in FACTS]
    assert Ranking("wingspan", True).answer(three) == "Black footed Albatross, Laysan Albatross, Indigo Bunting"
    assert Total("wingspan").answer(three) == "436"
    assert EachInTurn("diet").answer(three) == "squid; seeds; squid"
    assert Extreme("wingspan", False).answer(three) == "Indigo Bunting"
    assert Extreme("wingspan", False, "diet").answer(three) == "seeds"
    assert Shared("diet").answer(three) == "squid"
    assert OnlyOne("diet", "Seeds").answer(three) == "Indigo Bunting"
    assert OnlyOne("diet", "squid").answer(three) is None
    assert Total("wingspan").answer([None, None]) is None
    assert superfluous(Ranking("wingspan", True), three, Ranking("wingspan", True).answer(three)) == ()
    assert superfluous(Extreme("wingspan", True), three, "Black footed Albatross") == (0, 1)


# Templates


def test_template_questions_follow_from_the_knowledge_and_name_nothing(birds):
    rng = np.random.default_rng(0)
    config = PhotoConfig(max_entities=3)
    kinds = set()
    for number in range(40):
        asked = draw_photo_question(birds, KNOWN, FIELDS, rng, config, f"p{number}")
        kinds.add(asked.kind)
        shown = asked.meta["entities"]
        assert not any(name in asked.text for name in FACTS)
        spans = {name: FACTS[name]["wingspan"] for name in shown}
        if asked.kind == "total":
            assert asked.answers[0] == str(sum(spans.values()))
        elif asked.kind == "ranking":
            ordered = sorted(spans, key=spans.get, reverse="highest to the lowest" in asked.text)
            assert asked.answers[0] == ", ".join(ordered)
        else:
            assert asked.answers[0] == "; ".join(FACTS[name]["diet"] for name in shown)
        assert asked.meta["licence"] == birds.licence
        assert len(asked.meta["boxes"]) == len(asked.meta["subjects"]) == len(shown)
        assert {fact["source"] for fact in asked.meta["facts"]} == {"dictionary"}
    assert kinds == {"ranking", "total", "each_in_turn"}


def test_without_the_drop_one_rule_there_are_more_kinds(birds):
    rng = np.random.default_rng(1)
    config = PhotoConfig(max_entities=3, drop_one=False)
    kinds = {draw_photo_question(birds, KNOWN, FIELDS, rng, config).kind for _ in range(80)}
    assert kinds >= {"comparison", "two_hop", "only_one", "shared"}
    assert len(NEEDS_SOME) == 3


def test_splits_and_coarser_classes_are_kept_to(birds):
    rng = np.random.default_rng(0)
    shown = draw_shown(birds, KNOWN, rng, PhotoConfig(max_entities=3, splits=("train",)))
    assert {photo.split for photo in shown.photos} == {"train"}
    with pytest.raises(UserError, match="Build the knowledge base of more classes"):
        draw_shown(birds, {"Rook": KNOWN["Indigo Bunting"]}, rng, PhotoConfig())
    with pytest.raises(UserError, match="too few comparable facts"):
        draw_photo_question(
            birds, dictionary_knowledge({name: {"x": "y"} for name in FACTS}), FIELDS, rng, PhotoConfig()
        )


# A chat model


SHOWN = Shown((Photo("a", "a"), Photo("b", "b")), (KNOWN["Laysan Albatross"], KNOWN["Indigo Bunting"]), (1, 2))
ASKED = {
    "question": "What do the wingspans of the one on the left and the one on the right add up to, in centimetres?",
    "answer": "216",
    "aliases": ["216 cm"],
    "used": [{"entity": 1, "fact": "wingspan"}, {"entity": 2, "fact": "wingspan"}],
}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"question": "?"}, "no question"),
        ({"answer": ""}, "no answer"),
        ({"used": []}, "a fact that is not known"),
        ({"used": [{"entity": 1, "fact": "age"}]}, "a fact that is not known"),
        ({"used": [{"entity": 3, "fact": "diet"}]}, "a fact that is not known"),
        ({"used": ASKED["used"][:1]}, "an entity is not used"),
        ({"question": "How wide are the Laysan albatross and the other one together?"}, "names what is shown"),
        ({"question": "Do the two wingspans add up to 216 centimetres?"}, "names what is shown"),
    ],
)
def test_what_a_model_writes_is_checked_against_the_knowledge(change, why):
    found = read_question("Here it is: " + json.dumps(ASKED | change), SHOWN, "aggregation")
    assert (
        found == why if why else (found.answer, found.aliases, found.plan.fields) == ("216", ("216 cm",), ("wingspan",))
    )
    assert read_question("no object", SHOWN, "aggregation") == "no JSON"


class Model:
    """Writes one question; solves by what it is told of both things, of the first only, of none."""

    endpoint = ChatEndpoint("http://127.0.0.1:1/v1", "m")

    def __init__(self, both=("216",), one=(), looked=()):
        self.both, self.one, self.looked, self.asked = both, one, looked, []

    async def complete(self, messages, **_):
        parts = messages[0][1]
        prompt = parts[-1]
        self.asked.append(prompt)
        if "You write questions" in prompt:
            return ChatReply(json.dumps(ASKED), "stop")
        if isinstance(parts[0], Image.Image):
            return ChatReply(json.dumps({"answers": list(self.looked)}), "stop")
        answers = self.one if '"unknown"' in prompt.split("{", 1)[1] and '"facts": "unknown"' in prompt else self.both
        return ChatReply(json.dumps({"answers": list(answers)}), "stop")


PICTURE = Image.new("RGB", (8, 8))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Model(), None),
        (Model(both=()), "no answer from all facts"),
        (Model(both=("216", "300")), "several answers"),
        (Model(both=("300",)), "another answer"),
        (Model(one=("216 cm",)), "an entity is not needed"),
        (Model(looked=("216",)), "the picture alone tells"),
    ],
)
async def test_a_question_must_have_one_answer_that_needs_every_entity_and_not_the_picture_alone(model, expected):
    found = await QuestionWriter(model, model).write(SHOWN, "bird species", "aggregation", PICTURE)
    if expected:
        assert found == expected
    else:
        assert found.answer == "216"
        assert sum("list none" in prompt for prompt in model.asked) == 3  # all facts, and without each entity
    assert all("<tool_call>" not in prompt for prompt in model.asked)


async def test_a_model_that_sees_no_picture_is_not_shown_one():
    model = Model(looked=("216",))
    found = await QuestionWriter(model, model, looks=False).write(SHOWN, "bird species", "aggregation", PICTURE)
    assert found.answer == "216"
