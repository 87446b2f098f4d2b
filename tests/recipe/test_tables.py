"""The paper's tables: their columns add up as printed, and variants leave out what they say."""

import pytest
from pydantic import ValidationError

from posttrain.recipe.schema import Mixture
from posttrain.recipe.tables import SAMPLE, TABLES, VARIANTS, licence_of, sources_of, table

# Tables 7, 15 and 22 of arXiv 2411.15124.
PRINTED = {"tulu3-sft": 939_344, "tulu3-preference-8b": 271_409, "tulu3-preference-70b": 334_302, "tulu3-rlvr": 29_946}


def mixture(name, variant="full", **changes):
    return Mixture.model_validate({"kind": "mixture", "table": name, "variant": variant} | changes)


@pytest.mark.parametrize("name", TABLES)
def test_parts_add_up_to_the_printed_totals(name):
    assert sum(part.used for part in table(name).parts) == table(name).total == PRINTED[name]


def test_table_7_adds_up_but_for_its_dpo_column():
    parts = table("tulu3-sft").parts
    assert len(parts) == 21 and sum(part.available or 0 for part in parts) == 23_327_961
    assert sum(part.dpo or 0 for part in parts) == 424_605 != table("tulu3-sft").dpo_total == 425_145


def test_table_15_counts_distinct_pairs():
    both = {part.name: part.used for name in TABLES if "preference" in name for part in table(name).parts}
    assert sum(both.values()) == 354_192


@pytest.mark.parametrize("name", TABLES)
def test_what_is_not_licensed_for_commerce_says_why_and_is_left_out(name):
    for part in table(name).parts:
        assert part.commercial or part.because or "NC" in (part.licence or "")
        assert not part.commercial or (part.licence and "NC" not in part.licence)
    text = str(sources_of(name, "commercial-safe"))
    for part in table(name).parts:
        if part.used:
            assert (str(part.row_source if table(name).mixture else part.id) in text) == part.commercial


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_table_stands_for_the_sources_of_a_mixture(name, variant):
    found = mixture(name, variant)
    assert found.rows == table(name).rows and found.sources
    assert Mixture.model_validate(found.model_dump(mode="json")) == found
    if variant == "sample":
        assert sum(source.count or 0 for source in found.sources) <= SAMPLE * len(table(name).parts)


def test_own_sources_come_after_the_table_and_a_wrong_name_is_refused():
    assert mixture("tulu3-rlvr", sources=[{"data": "own.jsonl"}]).sources[-1].data == "own.jsonl"
    for wrong in (
        {"table": "tulu3"},
        {"table": "tulu3-sft", "variant": "small"},
        {"variant": "sample"},
        {"without": []},
    ):
        with pytest.raises(ValidationError, match="not one of"):
            Mixture.model_validate({"kind": "mixture"} | wrong)


def test_the_licence_of_a_row_is_that_of_its_source():
    assert licence_of("ai2-adapt-dev/no_robots_converted", "allenai/tulu-3-sft-mixture") == "CC-BY-NC-4.0"
    assert licence_of("made here") is None and licence_of("ai2-adapt-dev/flan_v2_converted") is None
