"""Certificates say no more than their records; records have the form of the schema."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import jsonschema
import pytest
import tile_kernels

from opwright.compiler.trusted import trusted_base
from opwright.ir.record import Record, Verdict
from opwright.ir.tile import Placement, TileProgram
from opwright.verify.certificate import (
    Certified,
    certificate,
    certificate_text,
    of_package,
)
from opwright.verify.context import Context
from opwright.verify.gates import safety

SCHEMA = json.loads(resources.files("opwright.verify").joinpath("record.schema.json").read_text())


@pytest.mark.parametrize(
    "program",
    [
        tile_kernels.softmax(),
        tile_kernels.softmax(bound=lambda a, b: a <= b),
        TileProgram("bad", tile_kernels.softmax().kernels, (Placement(),)),
    ],
    ids=["proved", "refuted", "without structure"],
)
def test_records_have_the_form_of_the_schema(program):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for r in safety(program, Context()):
        jsonschema.validate(json.loads(json.dumps(r.to_json())), SCHEMA)


@pytest.mark.parametrize(
    "change",
    [{"status": "VERIFIED"}, {"seconds": -1}, {"id": ""}, {"more": 1}, {"counterexample": 3}],
)
def test_the_schema_refuses_other_forms(change):
    good = Record("G2.bounds.x", "G2", "PROVED").to_json()
    jsonschema.validate(good, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good | change, SCHEMA)


def test_a_refutation_of_safety_needs_its_counterexample():
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(Record("G2.bounds.x", "G2", "REFUTED").to_json(), SCHEMA)


def test_a_proof_of_tile_ir_is_not_one_of_the_package():
    records = safety(tile_kernels.prefix_sum(), Context())
    assert {r.status for r in records} == {"PROVED"}
    assert of_package(records)[0] == "ASSUMED"
    read_back = [replace(r, subject="source sha256:00") for r in records]
    assert of_package(read_back)[0] == "PROVED"
    assert of_package([])[0] == "UNKNOWN"


def test_a_missing_gate_is_unknown_and_the_page_says_so():
    records = (
        *safety(tile_kernels.prefix_sum(), Context()),
        Record("G7.laws", "G7", "TESTED", "40 cases"),
    )
    data = certificate(
        "prefix_sum@1.0",
        "sha256:00",
        [Certified("plain", Verdict(records), {"T": "f32"}, ("C % 8 == 0",))],
        trusted_base(records, ("cpp",), "prefix_sum@1.0", "g++ 12", ("C % 8 == 0",)),
        ("finite inputs",),
    )
    json.dumps(data)
    (variant,) = data["variants"]
    assert variant["verdict"] == {
        "G1": "PROVED",
        "G2": "PROVED",
        "G3": "PROVED",
        "G6": "UNKNOWN",
        "G7": "TESTED",
    }
    assert variant["gates"]["G2"]["package"] == "ASSUMED"
    text = certificate_text(data)
    for part in (
        "G2 memory safety: PROVED",
        "of the package ASSUMED: proved of the TileIR",
        "G6 numbers against the float64 reference: UNKNOWN (no record)",
        "G7.laws: 40 cases",
        "TileIR sha256:",
        "finite inputs",
        "C % 8 == 0",
        "an input or output has at most",
        "g++ 12",
        "solver: z3 ",
    ):
        assert part in text
    assert "verified" not in text
