"""`rms_norm` with its result in INT8, for the products behind it, where none of them makes its own input: in steps of
several tokens, and where several products read it."""

from __future__ import annotations

from ..composition import Facts, Match, fusion
from ..layout import A8, INT8_BLOCK
from ..makers import handing_on
from ..norm.rms_norm import rms_norm
from ..pair import Cost, Port, Variant, kernel
from ..reduce import by_quads, reduction
from .quantize_activations import quantize_activations, quantized_tolerance


def _tolerance(arguments, expected) -> dict:
    x, weight = arguments["x"].double(), arguments["weight"].double()
    normed = rms_norm.reference(x, weight, arguments["eps"])
    error = rms_norm.tolerance({"x": x}, {"y": normed})["y"]
    scales = expected["y_scales"].double()
    quants, off = quantized_tolerance(normed, scales, INT8_BLOCK, arguments["stride"], error)
    return {"y": quants, "y_scales": off}


@kernel(
    op="rms_norm",
    reads=dict(rms_norm.reads),
    writes={
        "y": Port(("tokens", "y_words"), "u32", packed=8, of="y", plane="quants"),
        "y_scales": Port(("tokens", "y_blocks"), "f32", of="y", plane="scales"),
    },
    form={"y": A8},
    params={"eps": float, "stride": int},
    derive=lambda s: (
        {"y_words": s["hidden"] // 4, "y_blocks": s["hidden"] // INT8_BLOCK} if "hidden" in s else {}
    ),
    variants={
        "row": Variant(
            "quantized/rms_norm_a8",
            grid=lambda c: (c["tokens"], 1, 1),
            tunables={"workgroup": (256, 64, 128)},
            library=lambda c: (reduction(c), f"own_quads/{by_quads(c)}"),
            refuse=lambda c: (
                f"rows of {c['hidden']} are not whole blocks of {INT8_BLOCK}"
                if c["hidden"] % INT8_BLOCK
                else None
            ),
        )
    },
    make_inputs=handing_on(
        lambda stride=1, **options: {**rms_norm.inputs(**options), "stride": stride}, rms_norm.make_inputs
    ),
    tolerance=_tolerance,
    cost=lambda s: Cost(
        4 * s["tokens"] * s["hidden"], 1.125 * s["tokens"] * s["hidden"], 7 * s["tokens"] * s["hidden"]
    ),
)
def rms_norm_a8(x, weight, eps, stride):
    """Words [tokens, y_words] and scales [tokens, y_blocks] of what `rms_norm` gives."""
    return quantize_activations.reference(rms_norm.reference(x, weight, eps), INT8_BLOCK, stride=stride)


def _on_a_gpu(facts: Facts, match: Match) -> bool:
    """On a CPU a dispatch more costs nothing."""
    return not facts.adapter.is_cpu and match.shape("x")[1] % INT8_BLOCK == 0


@fusion(op="rms_norm", where=_on_a_gpu)
def norm_in_int8(p, x, weight, *, eps):
    """A normalised row, in INT8."""
    return p.quantize_activations(x=p.rms_norm(x=x, weight=weight, eps=eps))
