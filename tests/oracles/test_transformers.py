"""The emitted PyTorch models against those of transformers, with the same weights: logits, decoding, gradients.

Single precision; every weight of theirs is random. Where implementations are known to differ, the test that shows it
says which side ours takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.oracles.families import BERTS, DECODERS, FAMILIES, LONGFORMER, RELATIVES, VOCAB, recurrentgemma

TIME = 21  # more than three windows, no multiple of a chunk
BOUND = 1e-4


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Ours, imported, and theirs."""
    found = FAMILIES[name].imported
    return found.ours, found.theirs


@cache
def expected(name: str) -> Tensor:
    """Their logits of the whole sequences."""
    with torch.no_grad():
        logits: Tensor = pair(name)[1](tokens(), use_cache=False).logits
    return logits


def tokens(batch: int = 2, time: int = TIME) -> Tensor:
    return torch.randint(VOCAB, (batch, time), generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=DECODERS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def test_logits_are_theirs(name: str) -> None:
    ours, _ = pair(name)
    assert expected(name).std() > 1  # the bound means something
    assert_close(ours(tokens()), expected(name))


@torch.no_grad()
def test_token_by_token_gives_their_logits_of_the_whole_sequence(name: str) -> None:
    ours, _ = pair(name)
    state = ours.init_state(2, TIME)
    found = []
    for token in tokens().split(1, 1):
        logits, state = ours.step(token, state)
        found.append(logits)
    assert_close(torch.cat(found, 1), expected(name))


@pytest.mark.parametrize("name", RELATIVES)
@torch.no_grad()
def test_what_is_a_few_words_from_a_spec_has_their_logits_whole_and_behind_a_prompt(name: str) -> None:
    ours, _ = pair(name)
    assert expected(name).std() > 1
    assert_close(ours(tokens()), expected(name))
    prompt, state = ours.step(tokens()[:, :13], ours.init_state(2, TIME))
    token, _ = ours.step(tokens()[:, 13:14], state)
    assert_close(torch.cat([prompt, token], 1), expected(name)[:, :14])


@pytest.mark.parametrize("prompt", [2, 13])
@torch.no_grad()
def test_a_prompt_and_then_tokens_give_their_logits(name: str, prompt: int) -> None:
    # 13 is longer than two windows; transformers once crashed on a RecurrentGemma prompt longer than its window
    ours, _ = pair(name)
    logits, state = ours.step(tokens()[:, :prompt], ours.init_state(2, TIME))
    found = [logits]
    for token in tokens()[:, prompt:].split(1, 1):
        logits, state = ours.step(token, state)
        found.append(logits)
    assert_close(torch.cat(found, 1), expected(name))


@torch.no_grad()
def test_packed_documents_give_their_logits_of_each_alone(name: str) -> None:
    # Theirs let the convolution (and in Mamba the state) run on from one document into the next. Ours restart, as the
    # released code of RecurrentGemma does: the first token of each enters its recurrence unscaled.
    ours, theirs = pair(name)
    lengths = (2, 9, 1, 9)
    pos = torch.cat([torch.arange(n) for n in lengths]).expand(2, -1)
    alone = [theirs(part, use_cache=False).logits for part in tokens().split(lengths, 1)]
    assert_close(ours(tokens(), pos), torch.cat(alone, 1))


@pytest.mark.parametrize("name", [n for n, family in DECODERS.items() if not family.regrouped])
def test_gradients_of_every_weight_are_theirs(name: str) -> None:
    ours, theirs = pair(name)
    found = gradients(ours, next_token_loss(ours(tokens())))
    wanted = gradients(theirs, next_token_loss(theirs(tokens(), use_cache=False).logits))
    assert_same_gradients(found, DECODERS[name].moved(wanted))


@pytest.mark.parametrize("name", [n for n, family in DECODERS.items() if family.window])
@torch.no_grad()
def test_a_window_is_as_many_keys_as_theirs(name: str) -> None:
    # the released RecurrentGemma sees one key more than its window; transformers and we see `window` of them
    family, (_, theirs) = DECODERS[name], pair(name)
    released = family.ours(theirs, window=family.window + 1)
    first = slice(0, family.window)
    assert_close(released(tokens())[:, first], expected(name)[:, first])
    assert (released(tokens()) - expected(name))[:, family.window].abs().max() > 100 * BOUND


@torch.no_grad()
def test_the_scale_of_the_embedding_is_rounded_as_theirs() -> None:
    # the released code and transformers round sqrt(width) to bfloat16: 8.9375 for 8.944
    family = recurrentgemma(width=80)
    theirs = family.theirs()
    wanted = theirs(tokens(), use_cache=False).logits
    assert_close(family.ours(theirs)(tokens()), wanted)
    assert (family.ours(theirs, scale=80**0.5)(tokens()) - wanted).abs().max() > 10 * BOUND


def test_some_logits_are_near_the_soft_cap() -> None:
    assert expected("recurrentgemma").abs().max() > 20


@torch.no_grad()
def test_the_gated_norm_is_of_each_group() -> None:
    # as in transformers and in the released code on one device, not over all groups at once
    family = DECODERS["mamba-2 with groups"]
    whole = family.theirs()
    for layer in whole.backbone.layers:
        layer.mixer.norm.group_size = len(layer.mixer.norm.weight)
    ours, _ = pair("mamba-2 with groups")
    assert (ours(tokens()) - whole(tokens(), use_cache=False).logits).abs().max() > 100 * BOUND


def test_bert_has_their_two_heads_and_gradients() -> None:
    ours, theirs = BERTS["bert"].imported.ours, BERTS["bert"].imported.theirs
    words, is_next = ours(tokens(), segment())
    wanted = theirs(tokens(), token_type_ids=segment())
    assert_close(words, wanted.prediction_logits)
    assert_close(is_next, wanted.seq_relationship_logits)
    mine = gradients(ours, pretraining_loss(words, is_next))
    other = gradients(theirs, pretraining_loss(wanted.prediction_logits, wanted.seq_relationship_logits))
    assert_same_gradients(mine, BERTS["bert"].moved(other))


@pytest.mark.parametrize("name", [name for name in BERTS if name != "bert"])
@torch.no_grad()
def test_bert_with_less_behind_it_gives_what_theirs_does(name: str) -> None:
    found = BERTS[name].imported.ours(tokens(), segment())
    wanted = BERTS[name].imported.theirs(tokens(), token_type_ids=segment())
    for mine, other in zip(found if isinstance(found, tuple) else (found,), wanted.values(), strict=True):
        assert_close(mine, other)


def segment() -> Tensor:
    return (torch.arange(TIME) >= 8).long().expand(2, -1)


@pytest.mark.parametrize("chosen", [(), (0, 7)])
def test_longformer_has_their_logits_and_gradients(chosen: tuple[int, ...]) -> None:
    # a token that is the one of padding has no position there; theirs wants no masked key in a window that is cut
    ours, theirs = LONGFORMER.imported.ours, LONGFORMER.imported.theirs
    words, whole = tokens().clamp(min=2), torch.zeros(2, TIME, dtype=torch.long)
    whole[:, chosen] = 1
    found = ours(words, whole)
    wanted = theirs(words, global_attention_mask=whole).logits
    assert wanted.std() > 1
    assert_close(found, wanted)
    if chosen:
        mine, other = gradients(ours, next_token_loss(found)), gradients(theirs, next_token_loss(wanted))
        assert_same_gradients(mine, LONGFORMER.moved(other))


def pretraining_loss(words: Tensor, is_next: Tensor) -> Tensor:
    return cross_entropy(words.flatten(0, 1), tokens().flatten()) + cross_entropy(is_next, torch.tensor([0, 1]))


def assert_close(found: Tensor, wanted: Tensor, what: str = "logits") -> None:
    torch.testing.assert_close(found, wanted, atol=BOUND, rtol=0, msg=lambda text: f"{what}: {text}")


def next_token_loss(logits: Tensor) -> Tensor:
    return cross_entropy(logits[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten())


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """By the name of the weight."""
    weights = dict(model.named_parameters())
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def assert_same_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Each within 1e-4 of its largest element; one that is nothing beside the others (a bias that every key has makes
    no difference to a softmax) within 1e-7 of the largest of all.
    """
    assert found.keys() == wanted.keys()
    least = 1e-3 * max(gradient.abs().max() for gradient in wanted.values())
    for name, gradient in wanted.items():
        top = torch.maximum(gradient.abs().max(), least)
        assert_close(found[name] / top, gradient / top, name)
