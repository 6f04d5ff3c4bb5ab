"""Texts to score, with the hashes that identify them, and their tokens.

A text is tokenized once, whole; BOS stands only where the tokenizer itself puts it. With a document separator
each document is stripped, tokenized without special tokens and given one BOS, and all are concatenated.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval import documents
from eval.advice import advise, left_marks
from eval.documents import join_rows, split_documents
from eval.protocols import Protocol, protocol
from workbench import utf8
from workbench.errors import ProtocolError, TextError


@dataclass(frozen=True)
class Dataset:
    """A text of the Hugging Face hub: rows of `column` of one split, joined with `join`.

    separator: what stands between documents in the joined text, None where rows are not documents.
    """

    repository: str
    configuration: str | None
    split: str
    column: str
    join: str
    revision: str | None = None
    separator: str | None = None


DATASETS: dict[str, Dataset] = {
    "wikitext2": Dataset(
        "Salesforce/wikitext",
        "wikitext-2-raw-v1",
        "test",
        "text",
        "\n\n",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
    ),
    "tinystories": Dataset(
        "roneneldan/TinyStories", None, "validation", "text", "\n<|endoftext|>\n", separator="<|endoftext|>"
    ),
}

# sha256 of WikiText-2 raw's test split: the file of one row a line, and its rows joined with two newlines.
WIKITEXT2_RAW_SHA256 = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"
WIKITEXT2_JOINED_SHA256 = "696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83"
_KNOWN = {WIKITEXT2_RAW_SHA256: "wikitext2", WIKITEXT2_JOINED_SHA256: "wikitext2"}


@dataclass(frozen=True)
class Text:
    """A text and what identifies it. sha256 is of the UTF-8 bytes of `content`; TextError where it has none.

    dataset, revision, split: None where unknown. joined: whether the rows are already joined. separator: what stands
    between its documents, where the text itself says so.
    """

    content: str = field(repr=False)
    name: str = "text"
    dataset: str | None = None
    revision: str | None = None
    split: str | None = None
    joined: bool = False
    sha256: str = ""
    separator: str | None = None

    def __post_init__(self) -> None:
        utf8.checked(self.content, f"text {self.name}")
        digest = hashlib.sha256(self.content.encode()).hexdigest()
        object.__setattr__(self, "sha256", digest)
        if digest in _KNOWN and self.dataset is None:
            known = DATASETS[_KNOWN[digest]]
            object.__setattr__(self, "dataset", f"{known.repository}/{known.configuration}")
            object.__setattr__(self, "revision", known.revision)
            object.__setattr__(self, "split", known.split)
        if digest == WIKITEXT2_JOINED_SHA256:
            object.__setattr__(self, "joined", True)

    @property
    def bytes(self) -> int:
        return len(self.content.encode())

    def to_json(self) -> dict[str, Any]:
        keys = ("name", "dataset", "revision", "split", "joined", "sha256", "bytes")
        return {key: getattr(self, key) for key in keys}


def load_text(path: str | Path) -> Text:
    """The file's text, newlines untouched. Raises ProtocolError if it cannot be read, is empty or not UTF-8."""
    path = Path(path)
    try:
        content = utf8.read(path, f"text {path}")
    except TextError as error:
        raise ProtocolError(str(error)) from error
    if not content.strip():
        raise ProtocolError(f"text {path}: is empty")
    return Text(content, name=path.name)


def load_dataset_text(name: str, *, revision: str | None = None) -> Text:
    """The joined rows of a dataset by its short name (see `DATASETS`), through `datasets`.

    revision: a commit of the dataset's repository; default the one pinned in `DATASETS`, else its newest,
    whose commit is recorded. Raises ProtocolError for unknown names and where the dataset can be neither
    fetched nor found.
    """
    if name not in DATASETS:
        raise ProtocolError(f"dataset {name!r} is unknown; allowed: {', '.join(sorted(DATASETS))}")
    spec = DATASETS[name]
    column, origin = dataset_rows(name, spec, revision)
    return Text(spec.join.join(column), name=name, joined=True, separator=spec.separator, **origin)


def dataset_rows(name: str, spec: Dataset, revision: str | None = None) -> tuple[list[str], dict[str, Any]]:
    """(the rows of a dataset's column, its `dataset`, `revision` and `split` for the record).

    revision and errors as in `load_dataset_text`; name: how messages speak of it.
    """
    import datasets

    local = Path(spec.repository).is_dir()
    revision = revision or spec.revision
    try:
        if revision is None and not local:
            from huggingface_hub import HfApi

            revision = HfApi().dataset_info(spec.repository).sha
        rows = datasets.load_dataset(spec.repository, spec.configuration, split=spec.split, revision=revision)
    except Exception as error:  # the hub's client and `datasets` raise a dozen kinds
        where = f"{spec.repository} ({spec.configuration}, {spec.split}, revision {revision})"
        raise ProtocolError(f"dataset {name!r}: {where} could not be loaded: {error}") from error
    column = [utf8.checked(row, f"dataset {name!r}, row {i}") for i, row in enumerate(rows[spec.column])]
    title = spec.repository if spec.configuration is None else f"{spec.repository}/{spec.configuration}"
    return column, {"dataset": title, "revision": revision, "split": spec.split}


#: What `Tokens.bos_policy` says of texts without a document separator.
ONCE, NONE, EACH_WINDOW = "once, by the tokenizer", "none", "in place of the first token of each window"


@dataclass(frozen=True, eq=False)
class Tokens:
    """A tokenized text. ids: int64 [T]; token_bytes: int64 [T], UTF-8 bytes of text that each token stands
    for (0 for BOS; None where the tokenizer gives no offsets); bos: the tokenizer's BOS id. Of a protocol that
    scores documents apart: starts int [D], where each begins, and its (words, bytes) before detokenization. warnings:
    what a reader of scores must know of the text."""

    ids: np.ndarray = field(repr=False)
    bos_policy: str | None = None
    bos: int | None = None
    separator: str | None = None
    documents: int | None = None
    text: dict[str, Any] | None = None
    tokenizer_sha256: str | None = None
    token_bytes: np.ndarray | None = field(default=None, repr=False)
    starts: np.ndarray | None = field(default=None, repr=False)
    document_sizes: tuple[tuple[int, int], ...] | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sha256(self) -> str:
        """Of the ids as little-endian int64."""
        return hashlib.sha256(self.ids.astype("<i8").tobytes()).hexdigest()

    def for_windows_of(self, scheme: Protocol) -> Tokens:
        """As that protocol takes them: llama.cpp writes BOS over the first token of each window, but only where the
        tokenizer adds one itself (`add_bos`)."""
        if scheme.kind != "llamacpp" or self.bos_policy not in (ONCE, NONE):
            return self
        return replace(self, bos_policy=EACH_WINDOW) if self.bos_policy == ONCE else replace(self, bos=None)


def encode(
    tokenizer: Any, text: str | Text, scheme: str | Protocol, *, separator: str | None = None
) -> Tokens:
    """Tokenize a text as a protocol wants it.

    tokenizer: a `transformers` tokenizer. separator: default the text's own, where the protocol takes one; with a
    tokenizer that has no BOS its documents are then one text, with an empty line between them. Raises ProtocolError
    where the protocol takes no separator, or where documents are to begin with BOS and the tokenizer has none.
    """
    scheme = protocol(scheme)
    if separator is not None:
        utf8.checked(separator, "the document separator")
    text = Text(text) if isinstance(text, str) else text
    if scheme.joins_rows and not text.joined:
        text = replace(text, content=join_rows(text.content), joined=True)
    bos = getattr(tokenizer, "bos_token_id", None)
    if separator is None and scheme.takes_separator and text.separator is not None:
        if bos is None:
            text = replace(text, content="\n\n".join(split_documents(text.content, text.separator)))
        else:
            separator = text.separator
    common: dict[str, Any] = {
        "bos": bos,
        "text": text.to_json(),
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
    }
    if scheme.by_document and separator is None:
        return _encode_pages(tokenizer, text, common)
    if separator is None:
        ids, sizes = _encode_one(tokenizer, text.content)
        common["warnings"] = tuple(filter(None, [left_marks(text.content, tokenizer)]))
        advise(common["warnings"])
        policy = ONCE if bos is not None and len(ids) and ids[0] == bos else NONE
        return Tokens(ids, bos_policy=policy, token_bytes=sizes, **common).for_windows_of(scheme)
    if not scheme.takes_separator:
        raise ProtocolError(
            f"protocol {scheme.name!r} takes no document separator; allowed: disjoint-L, hf-strided-L-S"
        )
    if bos is None:
        raise ProtocolError(
            "documents begin with BOS, but the tokenizer has no BOS token; score without a separator"
        )
    parts = split_documents(text.content, separator)
    if not parts:
        raise ProtocolError(f"text {text.name!r} holds no document between its separators {separator!r}")
    all_ids, all_sizes, known = [], [], True
    for document, (ids, ends) in zip(parts, _encode_many(tokenizer, parts, special=False), strict=True):
        known = known and ends is not None
        all_ids += [[bos], ids]
        all_sizes += [[0], _token_bytes(document, ends)] if known and ends is not None else []
    return Tokens(
        np.concatenate(all_ids).astype(np.int64),
        bos_policy="before each document",
        separator=separator,
        documents=len(parts),
        token_bytes=np.concatenate(all_sizes).astype(np.int64) if known else None,
        **common,
    )


def _encode_pages(tokenizer: Any, text: Text, common: dict[str, Any]) -> Tokens:
    """The pages of a WikiText file, detokenized, as the tokenizer reads each; BOS or else EOS goes in front."""
    pages = documents.pages(documents.unjoin_rows(text.content) if text.joined else text.content)
    if not pages:
        raise ProtocolError(f"text {text.name!r} holds no document")
    prefix = common["bos"] if common["bos"] is not None else getattr(tokenizer, "eos_token_id", None)
    plain = [documents.detokenize(page) for page in pages]
    encoded = _encode_many(tokenizer, plain, special=True)
    lengths = [len(ids) for ids, _ in encoded]
    known = all(ends is not None for _, ends in encoded)
    sizes = (
        [_token_bytes(page, ends) for page, (_, ends) in zip(plain, encoded, strict=True) if ends is not None]
        if known
        else []
    )
    own = any(len(ids) and ids[0] == prefix for ids, _ in encoded)
    policy = "in front of each document" + (", and again by the tokenizer as its first target" if own else "")
    return Tokens(
        np.concatenate([ids for ids, _ in encoded]).astype(np.int64),
        bos_policy=policy,
        documents=len(pages),
        token_bytes=np.concatenate(sizes).astype(np.int64) if known else None,
        starts=np.cumsum([0, *lengths[:-1]]),
        document_sizes=tuple((documents.words(page), len(page.encode())) for page in pages),
        **{**common, "bos": prefix},
    )


def _encode_one(tokenizer: Any, content: str) -> tuple[np.ndarray, np.ndarray | None]:
    [(ids, ends)] = _encode_many(tokenizer, [content], special=True)
    return ids, None if ends is None else _token_bytes(content, ends)


def _encode_many(
    tokenizer: Any, contents: list[str], *, special: bool
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Token ids and, from tokenizers that have them, the character at which each token ends."""
    fast = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(
        contents,
        add_special_tokens=special,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=fast,
        verbose=False,  # the whole text is meant to be longer than a context
    )
    ids = [np.asarray(one, np.int64) for one in encoded["input_ids"]]
    if not fast:
        return [(one, None) for one in ids]
    ends = [np.asarray(one, np.int64).reshape(-1, 2)[:, 1] for one in encoded["offset_mapping"]]
    return list(zip(ids, ends, strict=True))


def _token_bytes(content: str, ends: np.ndarray) -> np.ndarray:
    """UTF-8 bytes for which each token stands, int64 [T], from the character at which each ends.

    Text between two tokens (dropped by the normalizer) counts with the later one; a character cut into
    several byte tokens counts with the first of them. So any run of tokens sums to the bytes of text that it
    moves through.
    """
    points = np.frombuffer(content.encode("utf-32-le"), "<u4")
    sizes = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    position = np.concatenate([[0], np.cumsum(sizes)])
    reached = position[np.maximum.accumulate(ends)] if len(ends) else np.zeros(0, np.int64)
    return np.diff(reached, prepend=0)


def tokenizer_sha256(tokenizer: Any) -> str:
    """Identifies what a tokenizer does: sha256 of its serialized pipeline without truncation and padding,
    with sorted keys; of its sorted vocabulary where it has no such form."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        pipeline = json.loads(backend.to_str())
        for transient in ("truncation", "padding"):
            pipeline.pop(transient, None)
    else:
        pipeline = tokenizer.get_vocab()
    return hashlib.sha256(json.dumps(pipeline, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
