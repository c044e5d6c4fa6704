"""The byte-level encoder: padding is invisible, order matters, the empty prompt is legal."""

import pytest
import torch

from dit.text.bytes import ByteEncoder, hashed_ngrams


@pytest.fixture
def encoder() -> ByteEncoder:
    torch.manual_seed(0)
    encoder = ByteEncoder(width=32, depth=2, heads=4, max_bytes=40, ngrams=[2, 4], buckets=64)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder.double()


def test_shapes_and_mask(encoder: ByteEncoder) -> None:
    out = encoder(["a red circle", "", "grün"])
    assert out["text"].shape == (3, 13, 32) and out["pooled"].shape == (3, 32)
    assert out["text_mask"].sum(1).tolist() == [13, 1, 6]  # one token opens each; ü is two bytes
    assert out["text"][~out["text_mask"]].abs().max() == 0


def test_a_prompt_does_not_depend_on_its_neighbours(encoder: ByteEncoder) -> None:
    prompts = ["a red circle", "", "a much longer prompt beside it"]
    together = encoder(prompts)
    for row, prompt in enumerate(prompts):
        alone = encoder([prompt])
        length = alone["text"].shape[1]
        torch.testing.assert_close(together["text"][row, :length], alone["text"][0])
        torch.testing.assert_close(together["pooled"][row], alone["pooled"][0])


def test_order_and_content_matter(encoder: ByteEncoder) -> None:
    red, der, bed = encoder(["red", "der", "bed"])["pooled"]
    assert (red - der).abs().max() > 1e-3 and (red - bed).abs().max() > 1e-3


def test_of_a_long_prompt_the_first_whole_characters_are_read_which_is_said_once(
    encoder: ByteEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = "ü" * 30  # 60 bytes, of which 40 are read
    assert encoder.readable("x" * 40) == "x" * 40 and encoder.readable(prompt) == "ü" * 20
    assert encoder.readable("x" + prompt) == "x" + "ü" * 19, "no half character"
    encoder(["x" * 40])
    assert not caplog.records
    long = encoder([prompt, "short"])
    assert long["text"].shape[1] == 41 and torch.equal(long["pooled"][0], encoder(["ü" * 20, "short"])["pooled"][0])
    encoder(["y" * 50])
    assert [record.getMessage()[:54] for record in caplog.records] == [
        "a prompt of 60 bytes is longer than text.max_bytes=40:"
    ]


def test_misfit() -> None:
    with pytest.raises(ValueError, match="heads=5 does not divide width=32; these do: 1, 2, 4, 8, 16, 32"):
        ByteEncoder(width=32, depth=1, heads=5, max_bytes=4, ngrams=[], buckets=1)


def test_an_ngram_hashes_alike_wherever_it_stands() -> None:
    ids = torch.randint(0, 258, (3, 20))
    ids[1, 10:14] = ids[0, 3:7]
    for length in (2, 4):
        hashes = hashed_ngrams(ids, length)
        assert torch.equal(hashes[0, 3 + length - 1 : 7], hashes[1, 10 + length - 1 : 14])
        for row, place in ((0, 9), (2, 0), (2, 19)):  # against Horner's rule in Python's own integers
            value = 0
            for at in range(place - length + 1, place + 1):
                value = (value * 1_000_003 + (int(ids[row, at]) if at >= 0 else 0)) % 2_147_483_647
            assert int(hashes[row, place]) == value
    grams = {
        tuple(ids[r, c - 3 : c + 1].tolist()): int(hashed_ngrams(ids, 4)[r, c]) for r in range(3) for c in range(3, 20)
    }
    assert len(set(grams.values())) == len(grams), "different n-grams hash apart"
