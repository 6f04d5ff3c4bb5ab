"""`lm-eval-wikitext`: the cut into documents, the detokenizer, and the scores, against the harness and transformers."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.documents import detokenize, join_rows, pages, unjoin_rows, words
from eval.perplexity import perplexity
from eval.protocols import protocol
from eval.result import PerplexityResult
from eval.texts import WIKITEXT2_RAW_SHA256, Text, encode, load_text
from tests.eval.conftest import byte_tokenizer
from tests.eval.reference import ReferenceModel
from workbench.errors import ProtocolError

RAW = """ \n = First = \n \n The first article ( short ) has 1 @,@ 000 words , " quoted " . \n \n = = Part = = \n
 It 's here ; N is one . \n \n = Second = \n \n Über – a naïve owl 's song @-@ book : 2 @.@ 5 ° C .
 It sang all night of stones and rivers . \n """


def harness():
    """The harness's own functions for this task, from its task folder."""
    found = importlib.util.find_spec("lm_eval")
    if found is None:
        pytest.skip("lm-evaluation-harness is not installed")
    path = Path(found.origin).parent / "tasks" / "wikitext" / "preprocess_wikitext.py"
    spec = importlib.util.spec_from_file_location("preprocess_wikitext", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_cut_before_titles():
    first, second = pages(RAW)
    assert first.startswith(" = First = ") and "= = Part = =" in first and second.startswith(" = Second = ")
    assert "\n".join(pages(RAW)) in RAW, "nothing between pages is lost but the blank start"
    assert pages("no title at all") == ["no title at all"]


def test_detokenizing_by_hand():
    first, second = map(detokenize, pages(RAW))
    assert '1,000 words, "quoted".' in first and "(short)" in first and "It's here; 1 is one." in first
    assert "owl's song-book: 2.5°C .\nIt sang" in second, (
        "only a space behind it takes the space before a stop"
    )
    assert "== Part ==" in first


def test_the_wikitext_test_split_has_its_62_documents(shared):
    raw = load_text(shared / "data" / "wiki.test.raw").content
    found = pages(raw)
    assert len(found) == 62
    assert (sum(map(words, found)), sum(len(page.encode()) for page in found)) == (241_335, 1_290_527)
    reference = harness()
    for page in found:
        assert detokenize(page) == reference.wikitext_detokenizer({"page": page})
        assert reference.process_results({"page": page}, (-1.0,))["word_perplexity"] == (-1.0, words(page))


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="aN=@-,.;:!?()[]{}\"'s° \n1", max_size=60))
def test_detokenizing_anything_is_what_the_harness_does(page):
    assert detokenize(page) == harness().wikitext_detokenizer({"page": page})


def test_rows_come_apart_again(shared):
    raw = load_text(shared / "data" / "wiki.test.raw").content
    assert hashlib.sha256(unjoin_rows(join_rows(raw)).encode()).hexdigest() == WIKITEXT2_RAW_SHA256
    with pytest.raises(ProtocolError, match="not rows joined"):
        unjoin_rows("one\ntwo\n")


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=4), length=st.integers(2, 12))
def test_windows_are_the_harness_rolling_windows(lengths, length):
    utils = pytest.importorskip("lm_eval.utils")
    tokens = np.arange(sum(lengths)) + 10
    starts = np.cumsum([0, *lengths[:-1]])
    expected = []
    for begin, size in zip(starts, lengths, strict=True):
        document = [int(t) for t in tokens[begin : begin + size]]
        for pair in utils.get_rolling_token_windows(document, 1, max_seq_len=length, context_len=1):
            expected.append(utils.make_disjoint_window(pair))
    scheme = protocol(f"lm-eval-wikitext-{length}")
    if not expected:
        with pytest.raises(ProtocolError, match="at least 1 token"):
            scheme.windows(tokens, bos=1, starts=starts)
        return
    windows = scheme.windows(tokens, bos=1, starts=starts)
    assert [(list(w.ids[: w.first_scored]), list(w.targets)) for w in windows] == expected
    assert np.array_equal(np.concatenate([w.targets for w in windows]), tokens), "each token is a target once"
    assert all(len(w.ids) <= length + 1 for w in windows)
    for w in windows:
        at = w.start + w.first_scored
        assert np.array_equal(tokens[at : at + w.scored], w.targets)


def test_scores_are_those_of_transformers(tiny):
    """Each page behind BOS and the tokenizer's own BOS, in windows written out here, through the model's own loss."""
    import torch

    result = perplexity(tiny, RAW, "lm-eval-wikitext")
    assert result.protocol.name == "lm-eval-wikitext-64" and result.documents == 2
    total = count = 0
    for page in pages(RAW):
        ids = [0, *tiny.tokenizer(detokenize(page))["input_ids"]]
        assert ids[:2] == [0, 0], "the tokenizer's BOS is a target behind the prefix"
        for first in range(1, len(ids), 64):
            stop = min(first + 64, len(ids))
            begin = max(0, stop - 65)
            window = torch.tensor(ids[begin:stop])[None]
            labels = window.clone()
            labels[:, : first - begin] = -100
            with torch.no_grad():
                total += float(tiny.model(window, labels=labels).loss) * (stop - first)
            count += stop - first
    size = sum(len(re.split(r"\s+", page)) for page in pages(RAW))
    raw_bytes = sum(len(page.encode()) for page in pages(RAW))
    assert result.tokens_scored == count
    assert result.word_ppl == pytest.approx(math.exp(total / size), rel=1e-5)
    assert result.byte_ppl == pytest.approx(math.exp(total / raw_bytes), rel=1e-6)
    assert result.bits_per_byte == pytest.approx(total / raw_bytes / math.log(2), rel=1e-6)
    record = result.to_json()
    assert record["word_ppl"] == result.word_ppl and record["documents_scored"] == 2
    assert (
        "before detokenization" in record["normalisation"]
        and "again by the tokenizer" in record["bos_policy"]
    )
    assert "word perplexity" in result.summary()
    assert any("WikiText-2" in what for what in result.unrecorded)


def test_documents_cut_short_do_not_count(tiny, tmp_path):
    whole = perplexity(tiny, RAW, "lm-eval-wikitext-64")
    first = perplexity(tiny, RAW, "lm-eval-wikitext-64", max_windows=whole.document_sizes.windows[0] + 1)
    alone = perplexity(tiny, pages(RAW)[0], "lm-eval-wikitext-64")
    assert first.word_ppl == pytest.approx(alone.word_ppl, rel=1e-9)
    assert first.to_json()["documents_scored"] == 1
    none = perplexity(tiny, RAW, "lm-eval-wikitext-64", max_windows=1)
    assert none.word_ppl is None and none.bits_per_byte is None
    whole.save(tmp_path / "whole")
    assert PerplexityResult.load(tmp_path / "whole").word_ppl_se == whole.word_ppl_se > 0


def test_eos_stands_in_where_there_is_no_bos(tiny):
    model = ReferenceModel(tiny.model, byte_tokenizer(bos=False))
    result = perplexity(model, RAW, "lm-eval-wikitext-64")
    assert result.bos_policy == "in front of each document"
    tokens = encode(model.tokenizer, RAW, "lm-eval-wikitext-64")
    assert tokens.bos == model.tokenizer.eos_token_id and tokens.ids[0] != tokens.bos


def test_joined_rows_and_the_file_are_one_text(tiny):
    raw = "".join(line + "\n" for line in [" ", " = First = ", " ", " Text . ", " "])
    joined = Text(join_rows(raw), joined=True)
    one, other = (encode(tiny.tokenizer, text, "lm-eval-wikitext-8") for text in (Text(raw), joined))
    assert np.array_equal(one.ids, other.ids) and one.document_sizes == other.document_sizes


def test_what_does_not_fit_is_refused(tiny):
    with pytest.raises(ProtocolError, match="takes no document separator"):
        encode(tiny.tokenizer, RAW, "lm-eval-wikitext-8", separator="\n")
    with pytest.raises(ProtocolError, match="scores documents apart"):
        perplexity(tiny, encode(tiny.tokenizer, RAW, "disjoint-8"), "lm-eval-wikitext-8")
    with pytest.raises(ProtocolError, match="needs a length"):
        protocol("lm-eval-wikitext").windows([1, 2], bos=0)
    with pytest.raises(ProtocolError, match="neither"):
        protocol("lm-eval-wikitext-8").windows([1, 2])
    with pytest.raises(ProtocolError, match="up to 64"):
        perplexity(tiny, RAW, "lm-eval-wikitext-65")
