"""Real models for the evaluation's tests: a trained checkpoint where the shared folder is, and a small random
Llama with a byte-level tokenizer, made here, everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from eval.texts import encode, load_text
from tests.eval.reference import ReferenceModel
from tests.support.steps import sizes_of_steps

STORIES = "<|endoftext|>"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small models run faster on one thread, and the same on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package", autouse=True)
def few_steps():
    with sizes_of_steps(16, 1):
        yield


def byte_tokenizer(bos: bool = True):
    """A byte-level tokenizer of 259 tokens (<s>, </s>, <unk> and the bytes); BOS first if asked."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if not bos:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


@pytest.fixture(scope="session")
def tiny() -> ReferenceModel:
    """A random Llama of two layers over bytes, context 64."""
    import torch
    import transformers

    torch.manual_seed(11)
    config = transformers.LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return ReferenceModel(transformers.LlamaForCausalLM(config), byte_tokenizer())


@pytest.fixture(scope="session")
def prose() -> str:
    """About 1,200 characters with umlauts, from a fixed seed."""
    generator = np.random.default_rng(5)
    words = ["a", "river", "über", "stone", "and", "the", "small", "garden", "naïve", "owl", "sang", "—"]
    return " ".join(generator.choice(words, 220))


@pytest.fixture(scope="session")
def stories(shared):
    return load_text(shared / "data" / "tinystories.txt")


@pytest.fixture(scope="session")
def story_tokens(stories, stories260k):
    """All stories as `disjoint-512` with a separator reads them."""
    return encode(stories260k.tokenizer, stories, "disjoint-512", separator=STORIES)


@pytest.fixture(scope="session")
def wikitext2_tokens(shared, stories260k):
    """WikiText-2's test file as `wikitext2-gptq-512` reads it."""
    return encode(stories260k.tokenizer, load_text(shared / "data" / "wiki.test.raw"), "wikitext2-gptq-512")


@pytest.fixture(scope="session")
def stories260k(shared) -> ReferenceModel:
    return ReferenceModel.load(shared / "models" / "stories260K-hf")


@pytest.fixture(scope="session")
def adapter():
    """Skips where no WebGPU adapter is; gives its facts."""
    from workbench.runtime.device import adapter_missing, open_device

    if reason := adapter_missing():
        pytest.skip(reason)
    return open_device().adapter
