"""What the network is told: the same from a batch, a request and nothing; what nobody reads or makes is refused."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from data.batch import NO_CLASS, Batch
from dit.net.reads import Reads
from dit.sampling.request import Request
from dit.signals.base import Around, check_asked, cond_of_batch, cond_of_example, cond_of_requests
from dit.signals.builtin import BUILT_IN, check_reads, completed, implied, node
from dit.signals.fps import FPS
from dit.signals.label import Label
from dit.signals.text import Text
from dit.text.bytes import ByteEncoder
from tests.test_configs import CONFIGS

CPU = torch.device("cpu")
CLIP: Any = SimpleNamespace(num_frames=5, height=4, width=4, fps=12)


class Net(nn.Module):
    """Declares what it is told to."""

    def __init__(self, required: Sequence[str] = (), optional: Sequence[str] = ()) -> None:
        super().__init__()
        self.reads = Reads(tuple(required), tuple(optional))
        self.num_classes = 7


@functools.cache
def encoder() -> ByteEncoder:
    torch.manual_seed(0)
    return ByteEncoder(width=8, depth=1, heads=2, max_bytes=40, ngrams=[2], buckets=16)


def everything() -> dict[str, Any]:
    around = Around(Net(), encoder(), ["a", "b"])
    return {name: kind(around) for name, kind in BUILT_IN.items()}


def batch() -> Batch:
    values = {"caption": ["x", "", "x"], "fps": torch.tensor([8.0, 9.0, 10.0]), "label": torch.tensor([4, 0, NO_CLASS])}
    return Batch(torch.zeros(3, 3, 1, 2, 2), ["p", "q", "r"], values)


def test_all_that_can_be_left_out_is_left_out_together() -> None:
    signals = everything()
    cond = cond_of_batch(signals, batch(), [True, False, False])
    assert cond["label"].tolist() == [7, 0, 7] and cond["fps"].tolist() == [8, 9, 10]
    torch.testing.assert_close(cond["pooled"], encoder()(["", "", "x"])["pooled"])
    assert cond_of_batch(signals, batch())["label"].tolist() == [4, 0, 7]
    without = Batch(torch.zeros(1, 3, 1, 2, 2), ["p"], {"caption": ["x"], "fps": torch.ones(1)})
    assert cond_of_batch(signals, without)["label"].tolist() == [7], "data without classes"


def test_a_request_says_what_a_batch_says_and_leads_away_from_nothing() -> None:
    signals = everything()
    wanted = [Request("x", "", 0, signals={"label": "4"}), Request("", "y", 1), Request("x", "", 2, "")]
    told, away = (cond_of_requests(signals, wanted, CLIP, CPU, out) for out in (False, True))
    trained = cond_of_batch(signals, batch())
    assert told.keys() == trained.keys() == away.keys()
    for key in ("text", "text_mask", "pooled"):
        torch.testing.assert_close(told[key], trained[key])
    assert told["label"].tolist() == [4, 7, 7] and away["label"].tolist() == [7, 7, 7]
    assert told["fps"].tolist() == away["fps"].tolist() == [12, 12, 12]
    torch.testing.assert_close(away["pooled"], encoder()(["", "y", ""])["pooled"])
    nothing = cond_of_batch(signals, batch(), [True] * 3)
    assert torch.equal(nothing["label"], away["label"])
    torch.testing.assert_close(nothing["pooled"][0], encoder()([""])["pooled"][0])


@pytest.mark.parametrize("name", BUILT_IN)
def test_entries_are_as_declared(name: str) -> None:
    signal = BUILT_IN[name](Around(Net(), encoder()))
    sizes = {"text_tokens": 1 + len(Text.example.encode()), "text_width": 8, "pooled_width": 8}
    made = cond_of_example({name: signal})
    assert {key: (tuple(each.shape), each.dtype) for key, each in made.items()} == {
        key: (entry.of(1, sizes), entry.dtype) for key, entry in signal.entries.items()
    }


def test_each_distinct_text_is_encoded_once_and_shares_gradients() -> None:
    asked: list[list[str]] = []
    made = encoder()
    signal = Text(Around(Net(), made))
    signal.encoder = lambda texts: asked.append(texts) or made(texts)  # type: ignore[assignment, func-returns-value]
    out = signal.encode(["a", "b", "a"])
    assert asked == [["a", "b"]] and torch.equal(out["text"][0], out["text"][2])

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, made.embedding.weight)[0]

    alone = [gradient(made([text])["pooled"].sum()) for text in ("a", "b", "a")]
    torch.testing.assert_close(gradient(out["pooled"].sum()), sum(alone))


@pytest.mark.parametrize(
    "required, optional, encoded, names",
    [
        (["pooled"], [], True, ["text"]),
        (["text", "label"], ["text_mask"], True, ["text", "label"]),
        (["label"], ["coordinates"], True, ["label"]),
        (["text"], ["fps"], True, ["text", "fps"]),
        (["text"], [], False, []),
        ([], [], True, []),
    ],
)
def test_parts_imply_what_of_them_is_read(
    required: list[str], optional: list[str], encoded: bool, names: list[str]
) -> None:
    assert list(implied(Net(required, optional), encoder() if encoded else None)) == names


def test_a_config_adds_replaces_and_leaves_out() -> None:
    net, own = Net(["text", "label"], ["fps"]), {"_target_": "mine.Label", "_partial_": True}
    assert completed(None, net, encoder()) == implied(net, encoder())
    made = completed({"label": None, "category": own, "fps": own}, net, encoder())
    assert made == {"text": node(Text), "category": own, "fps": own}


def test_the_config_group_holds_the_built_in_signals() -> None:
    held = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in (CONFIGS / "signals").glob("*.yaml")}
    assert {name: held[name] for name in BUILT_IN} == {name: {name: node(kind)} for name, kind in BUILT_IN.items()}


@pytest.mark.parametrize(
    "required, optional, names, said",
    [
        (["text"], [], [], r"needs cond\['text'\], which no signal .*text=bytes.*net/text=none"),
        (["pooled"], [], [], r"needs cond\['pooled'\].*net/pooled=none"),
        (["labl"], [], ["label"], r"signals.label makes label, which no part of this network reads \(it reads labl\)"),
        (["fps"], [], [], r"needs cond\['fps'\], .*signals=fps makes it, or net/fps=none"),
        (["guidance"], [], [], r"needs cond\['guidance'\], .*add one that does to signals, or net/guidance=none"),
        ([], ["fps"], ["text"], r"signals.text makes text and text_mask and pooled, which no part .*signals.text=null"),
        (["label"], [], ["label", "label"], r"signals.label and signals.label2 both make cond\['label'\]"),
    ],
)
def test_what_nobody_reads_or_makes_is_refused(
    required: list[str], optional: list[str], names: list[str], said: str
) -> None:
    around = Around(Net(), encoder())
    signals = {name if i == 0 else f"{name}2": BUILT_IN[name](around) for i, name in enumerate(names)}
    with pytest.raises(ValueError, match=said) as caught:
        check_reads(signals, Net(required, optional), ("given",))
    assert "\n" not in str(caught.value)


def test_what_fits_passes() -> None:
    check_reads(everything(), Net(["text", "label", "given"], ["fps", "coordinates"]), ("given",))


@pytest.mark.parametrize(
    "names, request_, said",
    [
        (["text"], Request("x", "", 0, label=3), "label=3, but this network reads no class labels; leave it out"),
        (["text"], Request("x", "", 0, signals={"speed": 2}), "signals.speed=2, but .* told no speed; .*said: none"),
        (["label"], Request("x", "", 0, signals={"speed": 2}), "what can be said: label"),
        (["label"], Request(9, "", 0), "class 9 is not known"),
    ],
)
def test_requests_that_cannot_be(names: list[str], request_: Request, said: str) -> None:
    signals = {name: BUILT_IN[name](Around(Net(), encoder() if name == "text" else None)) for name in names}
    with pytest.raises(ValueError, match=said):
        check_asked(signals, request_, CLIP)


def test_a_class_beyond_those_of_training_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    signal = Label(Around(Net(), None, ["a", "b"]))
    assert [signal.of_request(Request(said, "", 0), CLIP) for said in (5, 5, "b")] == [5, 5, 1]
    assert [r.getMessage() for r in caplog.records] == [
        "class 5 is sampled, but the checkpoint was trained on 2 classes"
    ]


def test_text_without_an_encoder() -> None:
    with pytest.raises(ValueError, match="signals.text needs a text encoder, and there is none: text=bytes"):
        Text(Around(Net()))
    assert FPS.nothing is None and Text.nothing == ""
