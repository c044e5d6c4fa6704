"""Two networks that share the noise levels: who is asked at which level, and what the two must agree on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusion_parts import TinyNet
from torch import Tensor, nn

from dit.diffusion.denoiser import Denoiser
from dit.diffusion.errors import errors
from dit.diffusion.experts import ByLevel
from dit.diffusion.path import Cosine, Linear
from dit.diffusion.prediction import EDM, Flow

SHAPE = (2, 3, 4, 3, 3)


class Expert(nn.Module):
    """Multiplies by its weight; remembers at which levels it was asked."""

    patch = (1, 2, 2)
    out_channels = 3

    def __init__(self, weight: float, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.weight = nn.Parameter(torch.tensor(weight))
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.asked.append(t)
        return self.weight * x + cond.get("shift", 0)


def pair(boundary: float) -> tuple[Any, Any, ByLevel]:
    high, low = Expert(2.0), Expert(3.0)
    return high, low, ByLevel(high, low, boundary)


def test_the_choice_at_the_boundary() -> None:
    """As WanPipeline: `t >= boundary_ratio * num_train_timesteps` is the first transformer's."""
    x = torch.randn(SHAPE)
    for boundary in (0.875, 0.9):
        for dtype in (torch.float32, torch.float64):
            exact = torch.tensor(boundary, dtype=dtype)
            below = torch.nextafter(exact, torch.zeros((), dtype=dtype))
            for level, wanted in ((exact, 2.0), (below, 3.0), (torch.ones_like(exact), 2.0), (0 * exact, 3.0)):
                for shape in ((2, 1), (2, 4)):
                    _, _, net = pair(boundary)
                    torch.testing.assert_close(net(x, level.expand(shape), {}), wanted * x)


def test_a_spoiled_boundary_is_noticed() -> None:
    x, t = torch.randn(SHAPE), torch.full((2, 1), 0.88)
    assert not torch.equal(pair(0.875)[2](x, t, {}), pair(0.9)[2](x, t, {}))


@pytest.mark.parametrize("prediction", [Flow(), EDM(0.5)], ids=["flow", "edm"])
def test_equal_networks_are_the_plain_one(prediction: Any) -> None:
    """Also where the network is not given the level itself, but EDM's c_noise."""
    net, path = TinyNet(3), Cosine()
    twin = TinyNet(3)
    twin.load_state_dict(net.state_dict())
    x, cond = torch.randn(SHAPE), {"given": torch.rand(2, 1, *SHAPE[2:])}
    for t in (torch.tensor([[0.95], [0.9]]), torch.tensor([[0.2], [0.9]]), torch.tensor([[0.1], [0.3]])):
        wanted = Denoiser(net, path, prediction)(x, t, cond)
        found = Denoiser(ByLevel(net, twin, 0.5), path, prediction)(x, t, cond)
        torch.testing.assert_close(found, wanted)


def test_the_level_is_meant_and_not_what_the_network_is_given() -> None:
    high, low, net = pair(0.5)  # EDM's c_noise is below 0.5 at most levels of this path
    Denoiser(net, Linear(), EDM(0.5))(torch.randn(SHAPE), torch.full((2, 1), 0.6), {})
    assert len(high.asked) == 1 and not low.asked


def test_samples_on_both_sides_go_each_its_own_way() -> None:
    high, low, net = pair(0.5)
    x, t = torch.randn(4, *SHAPE[1:]), torch.tensor([[0.1], [0.7], [0.5], [0.2]])
    shift = torch.arange(4.0)[:, None, None, None, None]
    found = net(x, t, {"shift": shift})
    assert torch.equal(found, torch.tensor([3.0, 2, 2, 3])[:, None, None, None, None] * x + shift)
    assert high.asked[0].tolist() == [*t[1:3].tolist()] and low.asked[0].tolist() == [t[0].tolist(), t[3].tolist()]


def test_given_frames_do_not_count() -> None:
    high, low, net = pair(0.5)
    x, t = torch.randn(SHAPE), torch.tensor([[0.0, 0.9, 0.9, 0.9], [0.1, 0.9, 0.9, 0.9]])
    given = torch.zeros(2, 1, 4, 3, 3)
    given[:, :, 0] = 1
    net(x, t, {"given": given})
    assert len(high.asked) == 1 and not low.asked
    given[0, :, 0, 0, 0] = 0  # a part of the first frame is made
    with pytest.raises(ValueError, match="from 0 to 0.9, on both sides of the boundary 0.5"):
        net(x, t, {"given": given})
    with pytest.raises(ValueError, match="sample with one level for all frames"):
        net(x, t, {})


def test_levels_of_frames_are_checked_beforehand() -> None:
    net = pair(0.5)[2]
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.6, 0.6], [0.4, 0.4, 0.3], [0.0, 0.0, 0.0]])
    net.check_levels(rows, torch.zeros(3, dtype=torch.bool))
    rows[2, 0] = 0.6
    net.check_levels(rows, torch.tensor([True, False, False]))
    with pytest.raises(ValueError, match="from 0.3 to 0.6, on both sides of the boundary 0.5"):
        net.check_levels(rows, torch.zeros(3, dtype=torch.bool))


def test_validation_asks_both_at_once() -> None:
    high, low, net = pair(0.5)
    errors(Denoiser(net, Linear(), Flow()), torch.randn(1, *SHAPE[1:]), {}, [0.1, 0.9, 0.3], [torch.Generator()])
    assert len(high.asked[0]) == 1 and len(low.asked[0]) == 2


def test_one_network_is_on_the_device_at_a_time() -> None:
    """On the meta device, where nothing can be computed: only where the weights are is looked at."""
    high, low, net = pair(0.5)
    net.take_turns(torch.device("meta"))
    assert net.device.type == "meta" and not high.weight.is_meta and not low.weight.is_meta
    x, t = torch.randn(SHAPE, device="meta"), torch.full((2, 1), 0.9)
    net.choose(t, {})(x, t.to("meta"), {})
    assert high.weight.is_meta and not low.weight.is_meta
    high.to_empty(device="cpu")  # as if it held values
    net._ready(False)
    assert low.weight.is_meta and not high.weight.is_meta
    net.one_at_a_time = False
    net._ready(True)
    assert low.weight.is_meta and high.weight.is_meta
    assert list(net.state_dict()) == ["high.weight", "low.weight"]


class Counted:
    """A context that says how often it was entered and left."""

    def __init__(self) -> None:
        self.entered = self.left = 0

    def __enter__(self) -> None:
        self.entered += 1

    def __exit__(self, *_: object) -> None:
        self.left += 1


def test_what_surrounds_one_network_surrounds_both() -> None:
    """Reused texts, which are entered at each step, and blocks that are left out."""
    high, low, net = pair(0.5)
    texts, skips = [Counted(), Counted()], [Counted(), Counted()]
    for expert, text, skip in zip((high, low), texts, skips, strict=True):
        expert.text_reuse = lambda text=text: text
        expert.skipping = lambda blocks, skip=skip: skip
    reuse = net.text_reuse()
    for _ in range(3):
        with reuse:
            pass
    with pytest.raises(RuntimeError), net.skipping([1]):
        raise RuntimeError
    assert [(each.entered, each.left) for each in texts + skips] == [(3, 3), (3, 3), (1, 1), (1, 1)]
    plain = pair(0.5)[2].text_reuse()  # networks that know of no such thing
    with plain:
        pass


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="differ: in_channels is 3 and 4"):
        ByLevel(Expert(1.0), Expert(1.0, in_channels=4), 0.5)
    for boundary in (-0.1, 875):
        with pytest.raises(ValueError, match=f"boundary={boundary} between two networks is a noise level"):
            pair(boundary)
    assert pair(0.5)[2].patch == (1, 2, 2) and not hasattr(pair(0.5)[2], "num_classes")
