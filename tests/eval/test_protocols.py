from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.protocols import Protocol, protocol
from workbench.errors import ProtocolError


@pytest.mark.parametrize(
    ("name", "kind", "length", "stride"),
    [
        ("disjoint-512", "disjoint", 512, 512),
        ("wikitext2-gptq-2048", "wikitext2-gptq", 2048, 2048),
        ("hf-strided-1024-512", "hf-strided", 1024, 512),
        ("hf-strided-8-8", "hf-strided", 8, 8),
        ("llamacpp-512", "llamacpp", 512, 512),
    ],
)
def test_names_say_what_they_are(name, kind, length, stride):
    found = protocol(name)
    assert (found.kind, found.length, found.stride, found.name, str(found)) == (
        kind,
        length,
        stride,
        name,
        name,
    )
    assert protocol(found) is found


@pytest.mark.parametrize(
    "name",
    [
        "",
        "disjoint",
        "disjoint-0",
        "disjoint-1",
        "disjoint-0512",
        "disjoint-512 ",
        "disjoint-512-256",
        "hf-strided-8",
        "hf-strided-8-9",
        "hf-strided-8-0",
        "llamacpp-7",
        "llamacpp-2",
        "wikitext2-2048",
        512,
        None,
    ],
)
def test_wrong_names_are_refused_with_what_is_allowed(name):
    with pytest.raises(ProtocolError, match="allowed: "):
        protocol(name)


def test_a_protocol_made_by_hand_is_checked_too():
    with pytest.raises(ProtocolError, match="disjoint, wikitext2-gptq, hf-strided, llamacpp"):
        Protocol("sliding", 8, 8)
    with pytest.raises(ProtocolError, match="stride must be 8"):
        Protocol("disjoint", 8, 4)


def scored_positions(windows) -> np.ndarray:
    return np.concatenate([np.arange(w.start + w.first_scored, w.start + len(w.ids)) for w in windows])


@given(
    length=st.integers(2, 40), count=st.integers(2, 400), kind=st.sampled_from(["disjoint", "wikitext2-gptq"])
)
def test_disjoint_windows_score_all_but_the_first_token_of_each(length, count, kind):
    tokens = np.arange(count) * 3
    if count < length:
        with pytest.raises(ProtocolError, match=f"at least {length} tokens; the text has {count}"):
            protocol(f"{kind}-{length}").windows(tokens)
        return
    windows = protocol(f"{kind}-{length}").windows(tokens)
    assert len(windows) == count // length
    assert all(w.first_scored == 1 and w.scored == length - 1 for w in windows)
    assert np.array_equal(np.concatenate([w.ids for w in windows]), tokens[: len(windows) * length])
    position = np.arange(len(windows) * length)
    assert np.array_equal(scored_positions(windows), position[position % length != 0])


@given(length=st.integers(2, 40), stride=st.integers(1, 40), count=st.integers(2, 400))
def test_strided_windows_score_every_target_once_with_the_context_promised(length, stride, count):
    stride = min(stride, length)
    tokens = np.arange(count) + 7
    windows = protocol(f"hf-strided-{length}-{stride}").windows(tokens)
    positions = scored_positions(windows)
    every = np.arange(1, count)
    # Only with no overlap at all do the first tokens of later windows have nothing to be predicted from.
    assert np.array_equal(positions, every if stride < length else every[every % length != 0])
    for index, window in enumerate(windows):
        assert np.array_equal(window.ids, tokens[window.start : window.start + len(window.ids)])
        assert window.start == index * stride
        assert len(window.ids) == length or window is windows[-1]
        assert window.scored >= 1
        if index and stride < length:
            assert window.first_scored == length - stride


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (5, [(0, 5, 1)]),  # shorter than a window: one window
        (8, [(0, 8, 1)]),  # ends with the first window: no second one
        (9, [(0, 8, 1), (3, 9, 5)]),  # a last window with one new token
        (14, [(0, 8, 1), (3, 11, 5), (6, 14, 5)]),
        (15, [(0, 8, 1), (3, 11, 5), (6, 14, 5), (9, 15, 5)]),
    ],
)
def test_strided_windows_by_hand(count, expected):
    windows = protocol("hf-strided-8-3").windows(range(count))
    assert [(w.start, w.start + len(w.ids), w.first_scored) for w in windows] == expected


def test_llamacpp_windows_score_255_of_512_and_begin_with_bos():
    tokens = np.arange(1100) + 10
    windows = protocol("llamacpp-512").windows(tokens, bos=1)
    assert [w.ids[0] for w in windows] == [1, 1]
    assert [w.scored for w in windows] == [255, 255]
    assert np.array_equal(windows[1].targets, tokens[512 + 257 : 1024])
    assert tokens[512] == 522, "the caller's tokens are left alone"
    assert protocol("llamacpp-512").windows(tokens)[1].ids[0] == 522


@pytest.mark.parametrize("tokens", [np.zeros((4, 4), int), np.zeros(16), ["a"] * 16])
def test_tokens_must_be_integers_in_a_row(tokens):
    with pytest.raises(ProtocolError, match=r"integers of shape \[T\]"):
        protocol("disjoint-4").windows(tokens)


def test_no_tokens_at_all():
    with pytest.raises(ProtocolError, match="at least 2 tokens; the text has 0"):
        protocol("hf-strided-4-2").windows([])
