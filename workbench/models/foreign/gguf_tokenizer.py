"""The tokenizer of a GGUF file's metadata as files of transformers.

Two kinds: byte-level BPE ("gpt2"), whose `pre` says how text is split before it, and SentencePiece's BPE ("llama"),
whose merges follow from the scores. What is built is of `tokenizers`; kinds and splits that are not listed are refused.

Text is split as llama.cpp splits it. A file of SentencePiece's has no rule that changes the text: where a checkpoint's
own `tokenizer.model` leaves out spaces that are doubled or at an end, or puts a text into NFKC, its GGUF file does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from workbench.errors import UnsupportedModelError
from workbench.files.writing import json_bytes
from workbench.models.foreign.gguf_config import under

PREFIX = "tokenizer.ggml."
#: Ids by their key, and the token's name for transformers; config.json has that with `_id`.
IDS = {
    "bos_token_id": "bos_token",
    "eos_token_id": "eos_token",
    "padding_token_id": "pad_token",
    "unknown_token_id": "unk_token",
}
#: A stored id that is none.
_NO_ID = 0xFFFFFFFF
#: Ids that end a text beside `eos_token_id`.
_ENDS = ("eot_token_id", "eom_token_id")
#: Keys that change nothing here: other programs' tokens, by number.
_WITHOUT_CONSEQUENCE = (
    "seperator_token_id",
    "mask_token_id",
    "cls_token_id",
    *(f"{name}_token_id" for name in ("prefix", "suffix", "middle", "fim_pre", "fim_suf", "fim_mid", "fim_pad",
                                      "fim_rep", "fim_sep")),
)  # fmt: skip
#: Types of values; ids and counts are whole numbers.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("model", "pre"), str),
    **dict.fromkeys(("tokens", "merges"), list),
    **dict.fromkeys(("token_type", "scores"), list | np.ndarray),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"), bool),
}
#: `tokenizer.ggml.token_type` of tokens that are no plain text.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
#: `pre` of byte-level BPE -> pattern of its split; None for GPT-2's, "digits" for GPT-2's behind single digits.
SPLITS = {
    "gpt-2": None,
    "smollm": "digits",
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
#: Of these the text is put into NFC, and whole words are taken before merges are looked at.
_NORMALIZED, _WHOLE_WORDS = ("qwen2", "deepseek-r1-qwen"), ("llama-bpe", "llama3", "llama-v3")
SPACE = "▁"  # a space, in SentencePiece's tokens


def ids_of(metadata: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Ids for config.json: `bos_token_id` and the like, those that the file has. Raises UnsupportedModelError."""
    ids: dict[str, int] = {}
    for name in (*IDS, *_ENDS):
        each = metadata.get(f"{PREFIX}{name}", _NO_ID)
        if type(each) is not int:
            raise _refused(where, name, type(each).__name__, ("an id",))
        if each != _NO_ID:
            ids[name] = each
    found: dict[str, Any] = {
        f"{role}_id": ids[name] for name, role in IDS.items() if name in ids and role != "unk_token"
    }
    more = [ids[name] for name in _ENDS if name in ids]
    if "eos_token_id" in found and (others := [each for each in more if each != found["eos_token_id"]]):
        found["eos_token_id"] = [found["eos_token_id"], *others]
    return found


def files_of(metadata: Mapping[str, Any], where: str) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja. Raises UnsupportedModelError."""
    optional = ("pre", "merges", "scores", "add_bos_token", "add_eos_token", "add_space_prefix",
                "remove_extra_whitespaces", "token_type_count", *IDS, *_ENDS, *_WITHOUT_CONSEQUENCE)  # fmt: skip
    found = under(PREFIX, metadata, ("model", "tokens", "token_type"), optional, where)
    for name, value in found.items():
        wanted = _TYPES.get(name, int)
        if not isinstance(value, wanted):
            raise _refused(where, name, type(value).__name__, (str(wanted),))
    makers = {"gpt2": _byte_level, "llama": _sentencepiece}
    kind = found["model"]
    if kind not in makers:
        raise _refused(where, "model", kind, makers)
    for name in ("add_eos_token", "remove_extra_whitespaces"):
        if found.get(name, False) is not False:
            raise _refused(where, name, found[name], ("False",))
    tokens, kinds = found["tokens"], found["token_type"]
    if (
        not all(isinstance(token, str) for token in tokens)
        or len(kinds) != len(tokens)
        or len(set(tokens)) != len(tokens)
    ):
        raise UnsupportedModelError(
            f"{where}: {PREFIX}tokens and token_type describe no vocabulary of different tokens"
        )
    special = {}
    for name, role in IDS.items():
        if (each := found.get(name, _NO_ID)) != _NO_ID:
            if not 0 <= each < len(tokens):
                raise _refused(where, name, each, (f"an id below {len(tokens)}",))
            special[role] = tokens[each]
    try:
        tokenizer, adds_bos = makers[kind](found, where)
    except UnsupportedModelError:
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UnsupportedModelError(f"{where}: its tokenizer cannot be built: {error}") from error
    _add_tokens(tokenizer, tokens, kinds)
    if found.get("add_bos_token", adds_bos) and "bos_token" in special:
        _put_bos_in_front(tokenizer, special["bos_token"], found["bos_token_id"])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **special,
    }
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": json_bytes(settings),
    }
    if isinstance(template := metadata.get("tokenizer.chat_template"), str):
        files["chat_template.jinja"] = template.encode()
    return files


def _refused(where: str, name: str, value: Any, allowed: Any) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{where}: {PREFIX}{name} is {str(value)[:60]!r}; allowed: {', '.join(map(str, allowed))}"
    )


def _byte_level(found: Mapping[str, Any], where: str) -> tuple[Any, bool]:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pre = found.get("pre", "gpt-2")
    if pre not in SPLITS:
        raise _refused(where, "pre", pre, map(repr, SPLITS))
    if found.get("add_space_prefix", False) is not False:
        raise _refused(where, "add_space_prefix", True, ("False",))
    if not isinstance(merges := found.get("merges"), list):
        raise UnsupportedModelError(f"{where}: {PREFIX}merges is missing")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    vocabulary = {token: at for at, token in enumerate(found["tokens"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=pre in _WHOLE_WORDS))
    split = SPLITS[pre]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split in (None, "digits"))
    if split is None:
        tokenizer.pre_tokenizer = byte_level
    else:
        digits = pre_tokenizers.Digits(individual_digits=True)
        first = digits if split == "digits" else pre_tokenizers.Split(Regex(split), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, byte_level])
    if pre in _NORMALIZED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, pre in _WHOLE_WORDS


def _sentencepiece(found: Mapping[str, Any], where: str) -> tuple[Any, bool]:
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens, scores = found["tokens"], found.get("scores")
    if scores is None or len(scores) != len(tokens):
        raise UnsupportedModelError(f"{where}: {PREFIX}scores are missing, or not as many as tokens")
    unknown = found.get("unknown_token_id", 0)
    if not 0 <= unknown < len(tokens):
        raise _refused(where, "unknown_token_id", unknown, (f"an id below {len(tokens)}",))
    vocabulary = {token: at for at, token in enumerate(tokens)}
    merges = _merges(tokens, scores, found["token_type"], where)
    model = models.BPE(vocabulary, merges, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    spaces, prefix = normalizers.Replace(" ", SPACE), found.get("add_space_prefix", True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer, True


def _merges(tokens: list[str], scores: Any, kinds: Any, where: str) -> list[tuple[str, str]]:
    """Pairs that SentencePiece joins, the best first: all divisions of a token into two others, by its score.

    Of pairs that are as good it joins the one further left, whichever it is; merges cannot say so of different tokens,
    so that scores which they share are refused. (Scripts that found no scores wrote -1000 for all.)
    """
    plain = {token: at for at, token in enumerate(tokens) if kinds[at] in (NORMAL, USER_DEFINED, UNUSED)}
    found = []
    for token, at in plain.items():
        pairs = [
            (plain[token[:cut]], plain[token[cut:]])
            for cut in range(1, len(token))
            if token[:cut] in plain and token[cut:] in plain
        ]
        found += [(-float(scores[at]), at, *pair) for pair in pairs]
    found.sort()
    # A token that users have defined is cut out of a text before anything is joined.
    ranked = [(rank, at) for rank, at, *_ in found if kinds[at] != USER_DEFINED]
    for (rank, at), (other_rank, other) in pairwise(ranked):
        if rank == other_rank and at != other:
            raise UnsupportedModelError(
                f"{where}: {PREFIX}scores of the tokens {tokens[at]!r} and {tokens[other]!r} are both {-rank:g}; which "
                "is joined first would depend on where they stand; allowed: another score for each"
            )
    return [(tokens[left], tokens[right]) for _, _, left, right in found]


def _add_tokens(tokenizer: Any, tokens: Sequence[str], kinds: Any) -> None:
    """Tokens that are found whole in a text: control tokens, and those that users have defined."""
    from tokenizers import AddedToken

    for special, wanted in ((True, (CONTROL, UNKNOWN)), (False, (USER_DEFINED,))):
        added = [
            AddedToken(token, special=special, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in wanted
        ]
        if special:
            tokenizer.add_special_tokens(added)
        else:
            tokenizer.add_tokens(added)


def _put_bos_in_front(tokenizer: Any, token: str, id: int) -> None:
    from tokenizers import processors

    pair = f"{token} $A {token} $B:1"
    tokenizer.post_processor = processors.TemplateProcessing(f"{token} $A", pair, [(token, int(id))])


def metadata_of(tokenizer: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Metadata of a tokenizer.json, read. Raises UnsupportedModelError where its splits or its normalizer are none of
    those that GGUF has a name for.

    Whether it really splits text alike is for the caller to see.
    """
    where, model = "tokenizer.json", tokenizer["model"]
    if model.get("type") != "BPE":
        raise UnsupportedModelError(f"{where}: model is {model.get('type')!r}; allowed: 'BPE'")
    tokens: list[str] = [f"[PAD{at}]" for at in range(vocab_size)]
    kinds = [UNUSED] * vocab_size
    for token, at in model["vocab"].items():
        if at < vocab_size:
            byte = model.get("byte_fallback") and len(token) == 6 and token.startswith("<0x")
            tokens[at], kinds[at] = token, BYTE if byte else NORMAL
    for added in tokenizer["added_tokens"]:
        if added["id"] >= vocab_size:
            raise UnsupportedModelError(
                f"{where}: the token {added['content']!r} is beyond vocab_size {vocab_size}"
            )
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    found = {f"{PREFIX}tokens": tokens, f"{PREFIX}token_type": kinds}
    if model.get("byte_fallback"):
        ranks: dict[str, float] = {}
        for rank, (left, right) in enumerate(merges):
            ranks.setdefault(left + right, -float(rank))
        scores = [ranks.get(token, 0.0) for token in tokens]
        prefix = "Prepend" in json.dumps(tokenizer.get("normalizer"))
        return {
            f"{PREFIX}model": "llama",
            **found,
            f"{PREFIX}scores": scores,
            f"{PREFIX}add_space_prefix": prefix,
        }
    return {
        f"{PREFIX}model": "gpt2",
        f"{PREFIX}pre": _pre_of(tokenizer, where),
        **found,
        f"{PREFIX}merges": [" ".join(merge) for merge in merges],
    }


def _pre_of(tokenizer: Mapping[str, Any], where: str) -> str:
    """The name of the split in front of byte-level BPE: the one whose parts are those of the file."""
    own = tokenizer.get("pre_tokenizer"), tokenizer.get("normalizer")
    for pre in SPLITS:
        built, _ = _byte_level({"pre": pre, "tokens": ["a"], "merges": []}, where)
        read = json.loads(built.to_str())
        if (read["pre_tokenizer"], read["normalizer"]) == own:
            return pre
    raise UnsupportedModelError(
        f"{where}: its pre_tokenizer and normalizer are of none that GGUF files name here: {', '.join(SPLITS)}"
    )
