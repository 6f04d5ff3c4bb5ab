"""Others' files mutated at random, and what reading each may do: give a model, or raise one of our errors.

    python -m tests.models.foreign.mutations 10000 --reader gguf --seed 1

Others' models, LoRA's folders, and checkpoints in shards, with a single file beside their index or without: bytes
anywhere, the header of safetensors, the index and config.json value by value, tensors in other shapes and types, and
the numbers of a GGUF header. What is given must be of the shape and format that was described, and finite.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from tests.formats.damage import NONSENSE, places
from tests.formats.mutations import change_bytes
from tests.models.checkpoints import random_state, write_checkpoint
from tests.models.lora_cases import write_adapter
from tests.support.foreign import SIZES, write_quantized
from tests.support.gguf_files import LLAMA, Kind, quantized, write_gguf
from tests.support.limits import Worst, held
from workbench.errors import LONGEST, CheckpointError, UnsupportedModelError
from workbench.formats.errors import FormatError
from workbench.models.families import architecture_of
from workbench.models.foreign.export import export
from workbench.models.hub import INDEX
from workbench.models.lora import Lora
from workbench.models.source import open_source

#: One layer, as small as all layouts take it.
TINY = SIZES | {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
TINY |= {"num_key_value_heads": 2, "vocab_size": 32}
READERS = {
    "gptq": "gptq-4",
    "auto-round": "auto-round-gptq",
    "awq": "awq",
    "compressed-tensors": "packed-4-zeros",
    "compressed-tensors-int8": "int8-zeros",
    "compressed-tensors-experts": "packed-4-zeros",
    "bitsandbytes": "bnb-nf4-nested",
    "bitsandbytes-int8": "bnb-int8",
    "hqq": "hqq-4",
    "mlx": "mlx-4",
    "gguf": "",
    "gguf-experts": "",
    "onnx": "",
    "onnx-offsets": "mlx-4",
    "mlc": "",
    "lora": "",
    "shards": "",
    "shards-beside": "",
}
#: Of these, those that are written by what makes their folder.
OWN_FOLDER = ("lora", "onnx-offsets", "shards", "shards-beside")
#: Llama 4, whose experts lie one by one.
EXPERTS: dict[str, Any] = {
    "model_type": "llama4_text",
    **{name: TINY[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "rms_norm_eps")},
    **{
        name: TINY[name] for name in ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    },
    **{"head_dim": 16, "intermediate_size": 32, "intermediate_size_mlp": 32, "num_local_experts": 4},
    **{"moe_layers": [0], "pad_token_id": 0, "tie_word_embeddings": False},
}
WORDS = (
    b"GGUF", b"\xff" * 8, b"\x00" * 8, b"I32", b"F16", b"null", b"-1", b"1e999", b"9" * 30, b"[[[[", b"{}", b"llama.",
    b"tokenizer.ggml.", b"\x09\x00\x00\x00", b"\x08\x00\x00\x00",
)  # fmt: skip
NUMBERS = (0, 1, 7, 31, 255, 2**16, 2**24, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
KEYS = (
    *(b"llama." + name for name in (b"block_count", b"attention.head_count", b"rope.dimension_count", b"rope.freq_base",
                                    b"attention.layer_norm_rms_epsilon", b"vocab_size",
                                    b"expert_count", b"expert_used_count")),
    *(b"tokenizer.ggml." + name for name in (b"bos_token_id", b"eos_token_id", b"unknown_token_id", b"pre", b"model")),
    b"general.architecture",
    b"tokenizer.chat_template",
)  # fmt: skip
#: What patterns of modules in a LoRA's configuration are put together from.
PIECES = (
    "model", "layers", "0", "q_proj", ".", ".*", "[^x]*", r"\w+", r"\.", "^", "$", "|", "[[a]", "[a-", "(", "x",
)  # fmt: skip
DTYPES = (
    torch.int32,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.int8,
    torch.uint8,
    torch.int64,
    torch.bool,
)


def make(reader: str, folder: Path) -> dict[str, bytes]:
    """A whole small model in a folder; its files by name."""
    if reader not in OWN_FOLDER:
        folder.mkdir()
    if reader == "gguf":
        kinds = {"gate": Kind.Q8_0, "down": Kind.Q5_0, "up": Kind.Q4_1, "q_proj": Kind.IQ4_NL}
        config = LLAMA | {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "head_dim": 8}
        rng = np.random.default_rng(0)

        def store(name: str, values: np.ndarray):
            kind = next((kind for part, kind in kinds.items() if part in name), Kind.Q4_0)
            if kind is Kind.IQ4_NL and values.ndim == 2:
                blocks = rng.integers(0, 256, (len(values), 18), np.uint8)
                blocks[:, :2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
                return blocks, kind
            return quantized(name, values, kind)

        write_gguf(folder / "model.gguf", config, store)
    elif reader == "gguf-experts":
        config = LLAMA | {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "head_dim": 8}
        state = {name: value for name, value in random_state(config).items() if ".mlp." not in name}
        rng = np.random.default_rng(0)
        shapes = {"gate_inp": (4, 32), **{f"{part}_exps": (4, 32, 32) for part in ("gate", "up", "down")}}
        extra = {
            f"blk.0.ffn_{name}.weight": rng.normal(size=shape).astype(np.float16)
            for name, shape in shapes.items()
        }
        counts = {"llama__expert_count": 4, "llama__expert_used_count": 2}
        write_gguf(folder / "model.gguf", config, extra=extra, state=state, **counts)
    elif reader == "onnx":
        from tests.support.onnx_files import decoder, write_onnx

        write_onnx(folder, decoder("builder", zeros="packed", config=TINY))
    elif reader == "onnx-offsets":  # of our own export, which alone has them
        source = folder.parent / "source"
        write_quantized(source, READERS[reader], random_state(TINY), TINY)
        export(open_source(source), "onnx", folder)
    elif reader == "mlc":
        from tests.support.mlc_files import write_mlc

        write_mlc(folder, config=TINY, shard=6000)
    elif reader == "lora":
        base = folder.parent / "base"
        write_checkpoint(base, random_state(TINY), TINY)
        modules = {"model.layers.0.self_attn.q_proj": 4, "model.layers.0.mlp.down_proj": 2}
        write_adapter(folder, base, modules, rank_pattern={"down_proj": 2}, alpha_pattern={"q_proj": 3})
    elif reader.startswith("shards"):
        write_checkpoint(folder, random_state(TINY), TINY, shards=3)
        if reader == "shards-beside":
            write_checkpoint(folder, random_state(TINY), TINY)
    elif reader == "compressed-tensors-experts":
        model = architecture_of(EXPERTS)
        rng, gathered = np.random.default_rng(0), model.one_by_one()
        shapes = {name: spec.shape for name, spec in model.tensors().items() if name not in gathered}
        specs = model.tensors()
        shapes |= {
            piece.tensor: (piece.rows, specs[name].shape[1])
            for name, pieces in gathered.items()
            for piece in pieces
        }
        state = {name: torch.from_numpy(rng.normal(size=shape)) for name, shape in shapes.items()}
        write_quantized(folder, READERS[reader], state, EXPERTS)
    else:
        write_quantized(folder, READERS[reader], random_state(TINY), TINY)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def values_of(rng: random.Random, value: Any) -> Any:
    """JSON with some of its values replaced by nonsense, by another's, or a little changed, or taken away."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        where = [path for path in places(value) if path]
        if not where:
            break
        with contextlib.suppress(LookupError, TypeError, AttributeError):
            path, inner = rng.choice(where), value
            for key in path[:-1]:
                inner = inner[key]
            kind = rng.randrange(4)
            if kind == 0:
                inner[path[-1]] = rng.choice((*NONSENSE, *NUMBERS))
            elif kind == 1:
                other = value
                for key in rng.choice(where):
                    other = other[key]
                inner[path[-1]] = json.loads(json.dumps(other))
            elif kind == 2 and type(inner[path[-1]]) is int:
                inner[path[-1]] += rng.choice((-256, -32, -1, 1, 2, 31, 256, 4096))
            else:
                del inner[path[-1]]
    return value


def config_values(rng: random.Random, files: dict[str, bytes]) -> None:
    name = next(name for name in files if name.endswith("config.json"))
    config = json.loads(files[name])
    own = next((key for key in ("quantization", "quantization_config") if key in config), None)
    if own is not None and rng.random() < 0.7:
        config |= {own: values_of(rng, config[own])}
    else:
        config = values_of(rng, config)
    files[name] = json.dumps(config).encode()


def weights_in(rng: random.Random, files: dict[str, bytes]) -> str:
    """The name of a file of safetensors."""
    return rng.choice(sorted(name for name in files if name.endswith(".safetensors")))


def header_values(rng: random.Random, files: dict[str, bytes]) -> None:
    """The header of safetensors: dtypes, shapes and offsets."""
    name = weights_in(rng, files)
    data = files[name]
    (size,) = struct.unpack_from("<Q", data)
    header = json.dumps(values_of(rng, json.loads(data[8 : 8 + size]))).encode()
    files[name] = struct.pack("<Q", len(header)) + header + data[8 + size :]


def tensors(rng: random.Random, files: dict[str, bytes]) -> None:
    """Tensors of the right file with other values, shapes, types or names."""
    file = weights_in(rng, files)
    state = load(files[file])
    for _ in range(rng.choice((1, 1, 3))):
        name = rng.choice(sorted(state))
        value, kind = state[name], rng.randrange(7)
        if kind == 0:
            bits = torch.frombuffer(bytearray(rng.randbytes(max(1, value.nbytes))), dtype=torch.uint8)
            value = bits[: value.nbytes].view(value.dtype).reshape(value.shape)
        elif kind == 1:
            value = value.to(rng.choice(DTYPES))
        elif kind == 2:
            value = value.reshape(-1) if rng.random() < 0.5 else value[None]
        elif kind == 3:
            value = value[: rng.randrange(len(value) + 1)] if value.ndim else value
        elif kind == 4:
            value = torch.cat([value, value]) if value.ndim else value
        elif kind == 5 and value.dtype.is_floating_point:
            value = value * rng.choice((0.0, -1.0, torch.inf, torch.nan, 1e-7, 1e30))
        if kind == 6:
            del state[name]
        else:
            state[name] = value.contiguous().clone()
    files[file] = save(state, metadata={"format": "pt"})


def any_bytes(rng: random.Random, files: dict[str, bytes]) -> None:
    name = rng.choice(sorted(files))
    files[name] = change_bytes(rng, files[name], WORDS if rng.random() < 0.5 else ())


def gguf_numbers(rng: random.Random, files: dict[str, bytes]) -> None:
    """Numbers of the header and of the tensors' entries, which the metadata lie between."""
    data = bytearray(files["model.gguf"])
    tensors_at = data.index(b"token_embd.weight") - 8
    for _ in range(rng.choice((1, 1, 2))):
        start, stop = rng.choice(((4, 400), (4, 24), (tensors_at, tensors_at + 700)))
        form, size = rng.choice((("<I", 32), ("<Q", 64)))
        value = rng.choice(NUMBERS) if rng.random() < 0.7 else rng.randrange(300)
        struct.pack_into(form, data, rng.randrange(start, min(stop, len(data) - 8)), value % 2**size)
    files["model.gguf"] = bytes(data)


def gguf_values(rng: random.Random, files: dict[str, bytes]) -> None:
    """A value of the metadata of another type, or an array of another."""
    data = files["model.gguf"]
    key = rng.choice(KEYS)
    at = data.index(struct.pack("<Q", len(key)) + key) + 8 + len(key)
    kind, size = struct.unpack_from("<IQ", data, at)
    old = 12 + size if kind == 8 else 4 + {0: 1, 7: 1}.get(kind, 4)
    values = (
        struct.pack("<II", 4, rng.choice(NUMBERS) % 2**32), struct.pack("<If", 6, rng.choice((0.5, -1.0, 1e30))),
        struct.pack("<IB", 7, 1), struct.pack("<IQ", 8, 3) + b"two", struct.pack("<IIQ", 9, 5, 2) + bytes(8),
        struct.pack("<IIQ", 9, 8, 1) + struct.pack("<Q", 1) + b"x", struct.pack("<IIQ", 9, 6, 0),
    )  # fmt: skip
    files["model.gguf"] = data[:at] + rng.choice(values) + data[at + old :] + bytes(64)


def onnx_values(rng: random.Random, files: dict[str, bytes]) -> None:
    """Attributes, names, inputs, types, shapes and places of a graph that can still be parsed."""
    import onnx

    model = onnx.load_from_string(files["model.onnx"])
    for _ in range(rng.choice((1, 1, 3))):
        node, tensor = rng.choice(model.graph.node), rng.choice(model.graph.initializer)
        kind = rng.randrange(8)
        if kind == 0 and node.attribute:
            rng.choice(node.attribute).i = (
                rng.choice(NUMBERS[:8]) if rng.random() < 0.5 else rng.randrange(-300, 300)
            )
        elif kind == 1:
            node.input[rng.randrange(len(node.input))] = rng.choice(("", tensor.name, "x"))
        elif kind == 2:
            node.name = rng.choice(("", "/", node.name[:-9], rng.choice(model.graph.node).name))
        elif kind == 3:
            tensor.name = rng.choice(("", "model.norm.weight", rng.choice(model.graph.initializer).name))
        elif kind == 4:
            tensor.data_type = rng.randrange(24)
        elif kind == 5 and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((*NUMBERS[:8], -1, 2**40, 2**62))
        elif kind == 6 and tensor.external_data:
            said = rng.choice(tensor.external_data)
            said.value = rng.choice(
                ("../model.onnx", "/etc/passwd", "model.onnx", "-1", "0", "1e9", "9" * 30, "")
            )
        else:
            model.graph.initializer.remove(tensor)
    files["model.onnx"] = model.SerializeToString()


def mlc_values(rng: random.Random, files: dict[str, bytes]) -> None:
    """What both JSON files of MLC's say, the list of tensors more often."""
    name = rng.choice(("mlc-chat-config.json", "ndarray-cache.json", "ndarray-cache.json"))
    files[name] = json.dumps(values_of(rng, json.loads(files[name]))).encode()


def index_values(rng: random.Random, files: dict[str, bytes]) -> None:
    """Values of an index, and names of files in it: of another shard, of the single file, or that lead elsewhere."""
    index = json.loads(files[INDEX])
    if rng.random() < 0.5:
        index = values_of(rng, index)
    else:
        places = index["weight_map"]
        elsewhere = (
            "../x.safetensors",
            "/etc/passwd",
            "sub/model.safetensors",
            "no.safetensors",
            "",
            1,
            None,
        )
        for _ in range(rng.choice((1, 1, 3))):
            name = rng.choice((*places, "lm_head.weight", "x", ""))
            places[name] = rng.choice((*files, *elsewhere))
    files[INDEX] = json.dumps(index).encode()


def shard_files(rng: random.Random, files: dict[str, bytes]) -> None:
    """Files of weights missing, exchanged, twice the same, or empty."""
    one, other = weights_in(rng, files), weights_in(rng, files)
    kind = rng.randrange(4)
    if kind == 0:
        del files[one]
    elif kind == 1:
        files[one], files[other] = files[other], files[one]
    else:
        files[one] = files[other] if kind == 2 else b""


def lora_patterns(rng: random.Random, files: dict[str, bytes]) -> None:
    """Ranks and alphas by patterns that mean little, with many repetitions or few."""
    config = json.loads(files["adapter_config.json"])
    for _ in range(rng.choice((1, 1, 3))):
        few = rng.sample(PIECES, rng.choice((1, 2, 4)))
        pattern = "".join(rng.choices(few, k=rng.choice((1, 2, 4, 40)))) + rng.choice(("", "x"))
        config[rng.choice(("rank_pattern", "alpha_pattern"))][pattern] = rng.choice((2, 4, 1.5))
    files["adapter_config.json"] = json.dumps(config).encode()


def read(path: Path) -> Exception | None:
    """Everything of a model; the error that it is refused with, or None."""
    try:
        with np.errstate(all="ignore"):
            if path.name == "lora":
                return read_adapter(path)
            source = open_source(path)
            for name in source.names():
                described = source.describe(name)
                tensor = source.tensor(name)
                assert (tensor.shape, tensor.format) == described
                assert np.isfinite(tensor.dequantize()).all() or tensor.format.is_quantized
            assert source.tokenizer_path.is_dir()
    except (CheckpointError, UnsupportedModelError, FormatError) as error:
        assert 10 < len(str(error)) <= LONGEST, str(error)
        return error
    return None


def read_adapter(path: Path) -> None:
    """All factors of an adapter of `TINY`. Raises WorkbenchError."""
    lora = Lora.open(path, architecture_of(TINY))
    for weight, each in lora.factors.items():
        down, up = lora.down(weight), lora.up(weight)
        assert (len(down), up.shape) == (each.rank, (each.rows, each.rank))
        assert np.isfinite(down).all() and np.isfinite(up).all() and np.isfinite(each.scale)


def run(reader: str, count: int, seed: int, folder: Path) -> Counter:
    """Read `count` mutated models. Returns how many were refused, or read; AssertionError names the mutation."""
    whole = make(reader, folder / reader)
    assert read(folder / reader) is None
    own = {
        "gguf": (any_bytes, gguf_numbers, gguf_values),
        "gguf-experts": (any_bytes, gguf_numbers, gguf_values),
        "onnx": (any_bytes, onnx_values, onnx_values),
        "onnx-offsets": (any_bytes, onnx_values, onnx_values),
        "mlc": (any_bytes, mlc_values, mlc_values),
        "lora": (any_bytes, config_values, header_values, tensors, lora_patterns),
        **dict.fromkeys(
            ("shards", "shards-beside"),
            (any_bytes, config_values, header_values, tensors, index_values, index_values, shard_files),
        ),
    }
    mutations = own.get(reader, (any_bytes, config_values, header_values, tensors))
    told: Counter = Counter()
    worst = Worst()
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        files = dict(whole)
        done = rng.choices(mutations, k=rng.choice((1, 1, 1, 2)))
        for mutation in done:
            # What an earlier one has spoilt is left alone.
            with contextlib.suppress(Exception):
                mutation(rng, files)
        for name in whole:
            if name in files:
                (folder / reader / name).write_bytes(files[name])
            else:
                (folder / reader / name).unlink(missing_ok=True)
        with held(f"{reader}: mutation {number} of seed {seed} ({[each.__name__ for each in done]})", worst):
            error = read(folder / reader)
        told["refused" if error else "read"] += 1
    told["slowest, ms"], told["memory at most, MiB"] = round(1000 * worst.seconds), round(worst.mib)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=READERS, action="append")
    arguments = parser.parse_args()
    for reader in arguments.reader or READERS:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            told = run(reader, arguments.count, arguments.seed, Path(folder))
        print(f"{reader}: {dict(told)}")
        print(
            f"{arguments.count:,} in {time.perf_counter() - began:.0f} s, seed {arguments.seed}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
