"""Which tensor gets which format, and format names as users write them."""

from __future__ import annotations

import functools
import itertools

import pytest

from tests.models.checkpoints import CONFIG
from workbench.convert.options import ConvertOptions
from workbench.errors import WorkbenchError
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.formats.text import parse_format
from workbench.models.families import architecture_of
from workbench.models.families.dense import EMBEDDING, LM_HEAD

INT4, INT8, F16, F32 = (WeightFormat(name) for name in ("int4", "int8", "f16", "f32"))
SYMMETRIC = WeightFormat("int8", symmetric=True)
LINEAR = "model.layers.3.mlp.up_proj.weight"


def test_every_format_is_read_back_from_its_name():
    formats = [WeightFormat(name) for name in ("f32", "f16", "bf16")]
    shapes = [("block", 32), ("block", 256), ("channel", None), ("tensor", None)]
    for dtype, (granularity, size), symmetric, scale, order in itertools.product(
        ("int8", "int4", "int2"), shapes, (False, True), ("f16", "f32"), ("low-first", "high-first")
    ):
        formats.append(WeightFormat(dtype, granularity, size, symmetric, scale, 0, order))
    formats += [WeightFormat("int4", zero_frac_bits=3), WeightFormat("int2", zero_frac_bits=5)]
    formats += [WeightFormat("int4", block_size=32, offset=True, scale_dtype="f32")]
    for each in formats:
        assert parse_format(str(each)) == each
    assert parse_format("int4") == INT4


@pytest.mark.parametrize("text", ["int4/33x", "int4/row", "int4/", "int8//64", "f16/z"])
def test_parts_that_mean_nothing_are_named(text):
    with pytest.raises(WorkbenchError, match="means nothing; allowed"):
        parse_format(text)


@pytest.mark.parametrize("text", ["int3", "", "int4/33", "int4/channel/64", "int8/z3", "int4/sym/z3"])
def test_combinations_that_are_not_allowed_are_refused_by_the_format(text):
    with pytest.raises(FormatError):
        parse_format(text)


MODEL = architecture_of(CONFIG)


def choose(options: ConvertOptions, name: str, shape=(8, 8), tied=False) -> WeightFormat:
    return options.choose(name, shape, architecture_of(CONFIG | {"tie_word_embeddings": tied}))[0]


def test_choice_of_formats():
    options = ConvertOptions(
        INT4, embedding=F16, lm_head=INT8, overrides={"*.layers.3.*": F16, "*.up_proj.*": INT8}
    )
    assert choose(options, "model.layers.2.self_attn.q_proj.weight") == INT4
    assert choose(options, "model.layers.2.mlp.up_proj.weight") == INT8
    assert choose(options, LINEAR) == F16  # the first pattern wins
    assert choose(options, "model.layers.3.input_layernorm.weight", (8,)) == F32
    assert choose(options, EMBEDDING) == F16
    assert choose(options, LM_HEAD) == INT8


def test_a_tied_embedding_is_the_lm_head_too():
    assert choose(ConvertOptions(INT4, lm_head=F16), EMBEDDING, tied=True) == F16
    assert choose(ConvertOptions(INT4, lm_head=F16), EMBEDDING, tied=False) == INT4
    assert choose(ConvertOptions(INT4, lm_head=F16, embedding=INT8), EMBEDDING, tied=True) == INT8
    assert choose(ConvertOptions(INT4, overrides={EMBEDDING: INT8}, embedding=F16), EMBEDDING) == INT8


def test_patterns_mean_names_of_the_plan_too():
    options = ConvertOptions(
        INT4,
        overrides={"layers.*.mlp.up_proj": INT8, "embedding": F16, "*.mlp.*": F32},
        reason="it is enough",
        reasons={"embedding": "few rows"},
    )
    choose = functools.partial(options.choose, shape=(8, 8), model=MODEL)
    assert choose(LINEAR) == (INT8, "override 'layers.*.mlp.up_proj'")
    assert choose(EMBEDDING) == (F16, "few rows")
    assert choose("model.layers.3.mlp.down_proj.weight") == (F32, "override '*.mlp.*'")
    assert choose("model.layers.3.self_attn.o_proj.weight") == (INT4, "it is enough")
    options.check_overrides([LINEAR, EMBEDDING], MODEL)
    with pytest.raises(
        WorkbenchError, match=r"'embedding' matches no matrix; .* or 'layers\.3\.mlp\.up_proj'"
    ):
        options.check_overrides([LINEAR], MODEL)


def test_options_are_checked():
    with pytest.raises(WorkbenchError, match=r"quantizer = 'best'; allowed: .*rtn.*grid.*gptq"):
        ConvertOptions(INT4, quantizer="best")
    with pytest.raises(WorkbenchError, match="layout = 'rows'; allowed: planar, interleaved"):
        ConvertOptions(INT4, layout="rows")
    with pytest.raises(WorkbenchError, match=r"'\*.mpl.\*' matches no matrix"):
        ConvertOptions(INT4, overrides={"*.mpl.*": F16}).check_overrides([LINEAR], MODEL)


@pytest.mark.parametrize(
    ("what", "given"),
    [
        ("format = int8/sym", {"format": SYMMETRIC}),
        ("embedding = int8/sym", {"format": INT4, "embedding": SYMMETRIC}),
        ("lm_head = int8/sym", {"format": INT4, "lm_head": SYMMETRIC}),
        (r"overrides\['\*.mlp.\*'\] = int8/sym", {"format": INT4, "overrides": {"*.mlp.*": SYMMETRIC}}),
    ],
)
def test_hqq_takes_no_symmetric_format(what, given):
    with pytest.raises(WorkbenchError, match=f"{what} has no zero-points.*allowed: .*not symmetric.*'grid'"):
        ConvertOptions(**given, quantizer="hqq")
    assert ConvertOptions(**given, quantizer="grid").quantizer == "grid"


def test_hqq_takes_the_others():
    assert (
        ConvertOptions(INT4, quantizer="hqq", embedding=F16, overrides={"*.mlp.*": INT8}).quantizer == "hqq"
    )
