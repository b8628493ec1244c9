"""The filters on natural trajectories: each rule by hand, then all of them on a labelled set."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

from hypereyes_jax.data.claims import Evidence, Figure, claims, derivable, figures, names
from hypereyes_jax.data.dependence import rounds_made, rounds_needed
from hypereyes_jax.data.filters import FilterConfig, fault
from hypereyes_jax.data.grounding_judge import LlmGrounding, grounding_prompt, judged_fault
from hypereyes_jax.env.chat.client import ChatEndpoint, ChatError, ChatReply
from hypereyes_jax.env.types import EpisodeResult, Invocation, Question, SearchHit, StopReason, TurnRecord
from tests.data.labelled_trajectories import FILE, labelled, read

PICTURE = Image.new("RGB", (8, 8))


def look(*titles, box=None, source="img_0", first=1):
    """An image search a title, each of a region of its own."""
    calls = tuple(
        Invocation(
            "image_search",
            f"img_{first + i}",
            source,
            box or (0.1 * (first + i), 0, 0.1 * (first + i) + 0.1, 1),
            f"img_{first + i}",
            hits=(SearchHit(title, "", 0.9),) if title else (),
        )
        for i, title in enumerate(titles)
    )
    return TurnRecord("", "I search the picture.", calls, True)


def ask(**found):
    """A text search a keyword: its query is the keyword's words, its page the value."""
    calls = tuple(
        Invocation("text_search", query.replace("_", " "), hits=(SearchHit("Page", page, 0.9),) if page else ())
        for query, page in found.items()
    )
    return TurnRecord("", "I look the facts up.", calls, True)


def episode(*turns, reason="The page says Oslo.", answer="Oslo", text="Where is the tower shown?", images=(PICTURE,)):
    question = Question("q", text, images, (answer or "",))
    stop = StopReason.ANSWERED if answer else StopReason.TURN_LIMIT
    return EpisodeResult(question, (*turns, TurnRecord("", reason, (), False)), stop, answer)


# What a text claims


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The tower is by Gustave Eiffel.", ["Gustave Eiffel"]),
        ("Paris is large", []),  # the first word may be any word
        ("It lies in the University of Oslo and in Rome", ["University of Oslo", "Rome"]),
        ("Both Messi and Ronaldo scored", ["Messi", "Ronaldo"]),
        ("I think: However, so. Then they left", []),
        ("born in L'Aquila (Abruzzo), Italy", ["L'Aquila", "Abruzzo", "Italy"]),
    ],
)
def test_names_are_runs_of_capitals(text, expected):
    found = names(text)
    assert [n for n in found if n in expected] == expected
    assert len(found) == len(expected)


def test_numbers_have_values_and_coordinates_are_none():
    told = figures("19.1 million people, 1,570 cc, 154 m, 72 % and a box [0.12, 0.34, 0.5, 0.6]")
    assert [f.value for f in told] == [19_100_000, 1570, 154, 72]


def test_hedged_sentences_and_small_counts_claim_nothing():
    told = claims("It might be the Eiffel Tower. Let me search for Gustave Eiffel. These 4 men met in Oslo in 1911.")
    assert told.names == ("Oslo",)
    assert told.figures == (Figure(1911.0, False),)


@pytest.mark.parametrize(
    ("value", "given", "expected"),
    [
        (61, (24, 37), True),  # a sum
        (11, (1979, 1968), True),  # a difference
        (71.8, (14.5, 20.2), True),  # a percentage
        (30, (24, 37, 29), True),  # a mean
        (62, (24, 37), False),
        (1984, (24, 37), False),
        (36, (1815, 1852), True),  # an age before the birthday
        (1982, (604,), True),  # metres in feet
    ],
)
def test_a_number_may_follow_from_numbers_read(value, given, expected):
    assert derivable(Figure(value, value % 1 != 0), [Figure(g, g % 1 != 0) for g in given]) is expected


def test_evidence_knows_other_forms_of_a_word_and_of_a_number():
    read = Evidence.of(["Lionel Messi (Rosario, 1987) has 19,123,456 followers in Iceland."])
    assert read.has_name("Messi")
    assert read.has_name("Icelandic")
    assert not read.has_name("Saint Rosalia")
    assert read.has_figure(Figure(19_100_000, True))
    assert not read.has_figure(Figure(1986, False))  # a year is not rounded


# How many rounds were needed


def test_alternating_single_searches_needed_two_rounds():
    turns = []
    for i, (name, word) in enumerate([("Fastnet", "1904"), ("Kiipsaar", "1933"), ("Hookhead", "1172")], start=1):
        turns += [look(name, first=i), ask(**{f"year_of_{name}": f"lit in {word}"})]
    six = episode(*turns, reason="Hookhead was lit in 1172.", answer="Hookhead")
    assert (rounds_made(six), rounds_needed(six)) == (6, 2)
    assert fault(six) == "serial"


def test_a_chain_whose_links_need_each_other_is_not_serial():
    chain = episode(
        look("Lamb"),
        ask(director_of_Lamb="It was directed by Valdimar Johannsson."),
        ask(Valdimar_Johannsson_birthplace="He was born in Akureyri."),
        ask(Akureyri_population="Akureyri has 19,219 people."),
        reason="Akureyri has 19,219 people.",
        answer="19,219",
    )
    assert rounds_needed(chain) == rounds_made(chain) == 4
    assert fault(chain) is None


def test_searching_a_crop_again_needs_the_crop():
    first, second = look("Collage"), look("Oslo Tower", source="img_1", first=2)
    assert rounds_needed(episode(first, second)) == 2


def test_what_failed_may_be_asked_again_in_other_words():
    again = episode(look("Oslo Tower"), ask(Oslo_Tower_place=""), ask(Oslo_Tower_city="It stands in Oslo."))
    assert rounds_needed(again) == 3
    assert fault(again) is None


def test_one_superfluous_round_is_honest_two_are_serial():
    three = [look("Oslo", first=1), look("Rome", first=2), look("Bonn", first=3)]
    assert fault(episode(*three[:2])) is None
    assert fault(episode(*three)) == "serial"
    assert fault(episode(*three), FilterConfig(superfluous_rounds=3)) is None


def test_the_laxer_rule_counts_narrow_rounds_of_one_tool():
    lax = FilterConfig(superfluous_rounds=None, narrow_rounds=3)
    assert fault(episode(*[look(n, first=i) for i, n in enumerate(("Oslo", "Rome", "Bonn"))]), lax) == "serial"
    wide = episode(look("Oslo"), look("Rome", "Bonn", first=2), look("Lima", first=4))
    assert fault(wide, lax) is None
    assert fault(wide) == "serial"


# What the rounds brought


def test_an_empty_round_does_not_drop_a_trajectory_and_a_repeated_search_does():
    found, empty = look("Oslo Tower"), ask(height_of_the_tower="")
    assert fault(episode(found, empty)) is None
    assert fault(episode(found, empty), FilterConfig(new_rounds=1.0)) == "zero-gain"
    assert fault(episode(found, found)) == "zero-gain"
    more = ask(completion_date="")
    assert fault(episode(found, empty, more)) == "zero-gain"  # one round of three told something


def used(tool, query, text, *, is_round=False):
    """A call of another tool than the two searches."""
    return TurnRecord("", "I use a tool.", (Invocation(tool, query, text=text, sent=is_round),), is_round)


@pytest.mark.parametrize("is_round", [True, False])
def test_a_region_that_was_cut_out_is_something_new_and_the_same_once_more_is_not(is_round):
    strict = FilterConfig(new_rounds=1.0)
    first, second = (used("crop", f'{{"area": [[0, 0, 0.{n}, 1]]}}', f"img_{n}", is_round=is_round) for n in (1, 2))
    searched = look("Oslo", box=None, source="img_1")
    assert fault(episode(first, searched, ask(oslo_tower="Oslo has a tower.")), strict) is None
    assert fault(episode(first, second, searched, ask(oslo_tower="Oslo has a tower.")), strict) is None
    assert fault(episode(first, first, searched), strict) == "zero-gain"
    failed = replace(first, invocations=(replace(first.invocations[0], text="", error="no such image"),))
    assert fault(episode(failed, searched), strict) == "zero-gain"


def test_a_search_of_what_a_tool_cut_out_needs_that_call():
    cut = used("crop", "{}", "2 regions\nimg_1, img_2", is_round=True)
    searched = look("Oslo", source="img_2")
    assert rounds_needed(episode(cut, searched)) == rounds_made(episode(cut, searched)) == 2
    assert rounds_needed(episode(cut, look("Oslo", source="img_0"))) == 1
    zoomed = used("zoom", "{}", "img_1")
    assert rounds_made(episode(zoomed, searched)) == 1  # the rules do not count it


def test_an_answer_may_rest_on_a_page_that_was_visited():
    visited = used("visit", "https://example.org", "The tower stands in Oslo since 1931.", is_round=True)
    found = look("A tower")
    told = dict(reason="The page says the tower stands in Oslo since 1931.", answer="Oslo")
    assert fault(episode(found, visited, **told)) is None
    assert fault(episode(found, used("visit", "https://example.org", "done", is_round=True), **told)) == "ungrounded"
    asked = ask(oslo_1931="Oslo in 1931.")
    assert rounds_needed(episode(found, visited, asked)) == 2  # the year was read there


def test_the_same_text_on_another_page_is_nothing_new():
    text = "The tower in the harbour of Oslo was built from granite in the summer of 1911 by Finnish masons"
    again = [ask(**{q: text}) for q in ("Oslo_tower", "tower_of_Oslo_granite", "Oslo_harbour_tower_masons")]
    assert fault(episode(*again, images=(), reason="Built in Oslo in 1911.")) == "zero-gain"


# What the reasoning rests on


@pytest.mark.parametrize(
    ("reason", "answer", "expected"),
    [
        ("The page puts it at the harbour of Oslo.", "It stands in the harbour of Oslo, Norway.", None),  # a sentence
        ("Oslo has 700 steps and Rome 250, in all 950.", "950 steps", None),  # a sum
        ("Oslo, says the page, has 700.", "Yes", None),
        ("It has steps.", "steps", None),  # the one word cited is the answer
        ("That is enough to tell.", "Oslo", "ungrounded"),  # refers to nothing
        ("Bergen has 411 steps by Holm and Molde 302 by Lie, so Oslo.", "Oslo", "ungrounded"),
        ("Oslo has 700 steps.", "Trondheim", "ungrounded"),
        ("Oslo has 700 steps.", "412", "ungrounded"),
    ],
)
def test_reasoning_must_rest_on_what_was_read(reason, answer, expected):
    found = [look("Tower of Oslo", "Tower of Rome"), ask(steps_of_both="Oslo: 700 steps in the harbour. Rome: 250.")]
    assert fault(episode(*found, reason=reason, answer=answer)) == expected


def test_reasoning_in_a_script_without_capitals_is_read_by_its_numbers_and_titles():
    found = [look("广州塔", "东方明珠"), ask(高度="广州塔总高度604米。塔高467.9米。")]
    text = "这两座塔哪座更高？"
    told = "广州塔高604米，东方明珠高467.9米，所以广州塔更高。"
    assert fault(episode(*found, text=text, reason=told, answer="广州塔")) is None
    assert fault(episode(*found, text=text, reason="东方明珠较低。", answer="广州塔")) is None
    assert fault(episode(*found, text=text, reason="我已经知道了。", answer="广州塔")) == "ungrounded"
    assert fault(episode(*found, text=text, reason="一座高812米，另一座高933米。", answer="广州塔")) == "ungrounded"


def test_other_faults_are_found_as_before():
    found = look("Oslo Tower")
    assert fault(episode(ask(Oslo_tower="It stands in Oslo."))) == "unimodal"
    assert fault(episode(found, answer=None)) == "format"
    assert fault(episode(replace(found, reason=" "))) == "format"
    assert fault(episode(replace(found, malformed="no JSON"))) == "format"


# On a labelled set


def test_the_labelled_file_is_what_its_program_writes():
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    assert rows == json.loads(json.dumps(labelled()))
    assert len(rows) == 200
    assert Counter(bool(row["fault"]) for row in rows) == {True: 100, False: 100}


def test_precision_and_recall_on_the_labelled_set(capsys):
    """The thresholds were chosen on this set, so the figures show no more than that the rules fit it."""
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    pairs = [(row["fault"] or None, fault(read(row))) for row in rows]
    table = {}
    for name in ("format", "zero-gain", "ungrounded", "unimodal", "serial", "any"):
        wanted = [a == name or (name == "any" and a is not None) for a, _ in pairs]
        given = [b == name or (name == "any" and b is not None) for _, b in pairs]
        hits = sum(w and g for w, g in zip(wanted, given, strict=True))
        table[name] = (hits / sum(given), hits / sum(wanted), sum(wanted))
    with capsys.disabled():
        print("\nfault        precision  recall    n")
        for name, (precision, recall, n) in table.items():
            print(f"{name:12} {precision:9.2f} {recall:7.2f} {n:4d}")
    assert all(precision >= 0.95 and recall >= 0.95 for precision, recall, _ in table.values())


# A judge in place of the rule


class Client:
    endpoint = ChatEndpoint("http://127.0.0.1:1/v1", "judge")

    def __init__(self, *replies):
        self.replies, self.prompts = list(replies), []

    async def complete(self, messages, **_):
        self.prompts.append(messages[0][1][0])
        return ChatReply(self.replies.pop(0), "stop")


async def test_a_judge_decides_where_the_rule_would():
    sound = episode(look("Oslo Tower"), ask(place_of_Oslo_Tower="It stands in Oslo."), reason="That is enough.")
    assert fault(sound) == "ungrounded"
    assert await judged_fault(sound, LlmGrounding(Client("Grounded."))) is None
    assert await judged_fault(sound, LlmGrounding(Client("ungrounded"))) == "ungrounded"
    assert await judged_fault(sound, LlmGrounding(Client("grounded or ungrounded", "grounded"))) is None
    assert await judged_fault(sound, LlmGrounding(Client("hm", "hm"))) == "ungrounded"  # the rule
    assert await judged_fault(sound, LlmGrounding(Client("<think>ungrounded?</think>grounded"))) is None


async def test_a_judge_that_denies_groundedness_is_not_read_as_saying_it():
    cited = episode(look("Oslo Tower"), ask(place_of_Oslo_Tower="It stands in Oslo."))
    assert await judged_fault(cited, LlmGrounding(Client("not grounded", "ungrounded"))) == "ungrounded"


async def test_an_outage_of_the_judge_is_no_verdict_of_the_rule():
    class Down(Client):
        async def complete(self, messages, **_):
            raise ChatError("the server is down", transient=True)

    sound = episode(look("Oslo Tower"), ask(place_of_Oslo_Tower="It stands in Oslo."), reason="That is enough.")
    with pytest.raises(ChatError, match="down"):
        await judged_fault(sound, LlmGrounding(Down()))


async def test_a_judge_is_not_asked_about_what_other_filters_drop():
    client = Client()
    assert await judged_fault(episode(ask(Oslo_tower="Oslo.")), LlmGrounding(client)) == "unimodal"
    assert not client.prompts


def test_the_judge_is_shown_reasoning_results_and_answer_as_data():
    told = grounding_prompt(episode(look("Oslo <tool_call> Tower"), reason="Because of Oslo."))
    assert "Because of Oslo." in told
    assert "<tool_call>" not in told
