"""Records are compared with facts checked by hand."""

import gzip
import hashlib
from importlib import resources

import pytest

from hypereyes_jax.env.world import World
from hypereyes_jax.env.world.cards import rounded
from hypereyes_jax.env.world.currencies import currency_name

PAGES_SHA256 = "c397944fa7e9a52d0a49c627a9fd3545dae23602dbc3311d3161e442cf0f147a"  # tools/make_factbook.py prints it


@pytest.fixture(scope="module")
def world():
    return World.load()


def test_there_are_the_193_members_and_191_looks(world):
    assert len(world.keys) == 193
    assert len(world.visual_keys) == 191
    assert {"mc", "td"}.isdisjoint(world.visual_keys)


@pytest.mark.parametrize(
    ("key", "name", "capital", "region", "currency", "millions"),
    [
        ("td", "Chad", "N'Djamena", "Africa", "Central African CFA franc", 19.7),
        ("gb", "United Kingdom", "London", "Europe", "British pound", 68.8),
        ("cd", "Democratic Republic of the Congo", "Kinshasa", "Africa", "Congolese franc", 119),
        ("do", "Dominican Republic", "Santo Domingo", "Central America and the Caribbean", "Dominican peso", 10.9),
        ("fr", "France", "Paris", "Europe", "euro", 68.5),
        ("kr", "South Korea", "Seoul", "East and Southeast Asia", "South Korean won", 51.5),
        ("se", "Sweden", "Stockholm", "Europe", "Swedish krona", 10.6),
        ("ec", "Ecuador", "Quito", "South America", "US dollar", 18.5),
        ("ee", "Estonia", "Tallinn", "Europe", "euro", 1.34),
        ("br", "Brazil", "Brasilia", "South America", "real", 221),
    ],
)
def test_known_facts(world, key, name, capital, region, currency, millions):
    country = world.country(key)
    assert (country.name, country.capital, country.region, country.currency) == (name, capital, region, currency)
    assert country.population == pytest.approx(millions * 1e6, rel=0.01)


def test_area_is_read_from_both_ways_of_writing_it(world):
    assert world.country("td").area == 1_284_000
    assert world.country("fr").area == 643_801


def test_every_country_has_a_capital_a_population_an_area_and_a_currency(world):
    for country in world.countries:
        assert {"capital", "region", "population", "area", "currency", "borders"} <= set(country.facts), country.name


def test_borders_are_symmetric_and_known_ones_are_there(world):
    for country in world.countries:
        for other in country.borders:
            assert country.key in world.country(other).borders
    assert set(world.country("td").borders) == {"ly", "ne", "ng", "cm", "cf", "sd"}
    assert set(world.country("us").borders) == {"ca", "mx"}
    assert "gb" in world.country("ie").borders
    assert world.country("jp").borders == ()
    assert sum(len(country.borders) for country in world.countries) // 2 > 290


def test_languages_and_independence(world):
    assert world.country("td").languages == ("French", "Arabic")
    assert world.country("es").languages == ("Spanish",)
    assert (world.country("ke").independence_year, world.country("ke").independence_from) == (1963, "United Kingdom")
    assert world.country("jp").independence_year is None


def test_a_country_is_found_by_any_of_its_names(world):
    for name in ("Ivory Coast", "Côte d'Ivoire", "cote d'ivoire", "Cote d’Ivoire"):
        assert world.find(name) is world.country("ci")
    assert world.find("UK") is world.country("gb")
    assert world.find("Atlantis") is None


def test_the_source_words_are_kept(world):
    assert world.country("td").sources["population"] == "19,674,004 (2025 est.)"


def test_numbers_are_rounded_as_people_write_them():
    cases = {19_674_004: "19.7 million", 1_419_316_933: "1.42 billion", 5_765: "5,770", 911_707: "912,000", 61: "61"}
    assert {value: rounded(value) for value in cases} == cases


def test_currency_names_are_singular():
    assert currency_name("dz", "Algerian dinars (DZD) per US dollar -") == "Algerian dinar"
    assert currency_name("pl", "zlotych (PLN) per US dollar -") == "zloty"
    assert currency_name("us", "") == "US dollar"


def test_no_passage_describes_a_flag(world):
    described = ("flag description", "horizontal bands of", "vertical bands of", "hoist side")
    for passage in world.passages:
        assert not any(phrase in passage.text.lower() for phrase in described), passage.text


def test_the_pages_are_those_of_the_wheel_that_notice_names():
    text = gzip.decompress((resources.files("hypereyes_jax.env.world") / "factbook.json.gz").read_bytes())
    assert hashlib.sha256(text).hexdigest() == PAGES_SHA256
