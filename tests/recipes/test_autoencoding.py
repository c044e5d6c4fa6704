"""What an autoencoder's loss is made of, against formulas written out here; how two networks learn in one pass."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from dit.codec.vae.discriminator import PatchDiscriminator
from dit.codec.vae.network import Autoencoder
from dit.recipes.adversary import Adversary, adaptive_weight, judged
from dit.recipes.autoencoding import DISCRIMINATOR, Autoencoding, difference, divergence
from dit.recipes.base import NET, Clips
from dit.recipes.perceptual import LaplacianPyramid
from tests.codec.test_vae import SETTINGS, clip, network


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def adversary(first_step: int = 0, weight: float = 0.5) -> Adversary:
    torch.manual_seed(1)
    return Adversary(PatchDiscriminator([4, 6]).double(), sgd, weight, first_step)


def recipe(**changes: Any) -> Autoencoding:
    settings: dict[str, Any] = {
        "reconstruction": "l1", "kl_weight": 0.01, "perceptual": None, "perceptual_weight": 0.3, "adversary": None
    }  # fmt: skip
    return Autoencoding(None, **{**settings, **changes})


def losses(made: Autoencoding, net: Autoencoder, step: int = 0) -> Any:
    """Of one batch, with the same draws each time."""
    pixels = clip(net)
    torch.manual_seed(2)
    nets = {NET: net, **{name: part.module for name, part in made.parts(net).items()}}
    return made.losses(nets, Clips(pixels, pixels, {}, dict), step)


def coded(net: Autoencoder) -> Any:
    torch.manual_seed(2)
    return net(clip(net))


def test_kl_and_differences_by_other_formulas() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 3, 2, 4, 4).double(), torch.randn(2, 3, 2, 4, 4).double()
    of_torch = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(divergence(mean, log_variance).double(), of_torch.mean((1, 2, 3, 4)), rtol=1e-5, atol=0)
    assert divergence(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)).item() == 0
    made, pixels = torch.randn(2, 2, 3, 2, 4, 4)
    by_hand = [nn.functional.l1_loss(made[i], pixels[i]) for i in range(2)]
    torch.testing.assert_close(difference(made, pixels, "l1"), torch.stack(by_hand))
    by_hand = [nn.functional.mse_loss(made[i], pixels[i]) for i in range(2)]
    torch.testing.assert_close(difference(made, pixels, "l2"), torch.stack(by_hand))


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_the_loss_is_the_sum_of_its_terms(kind: str) -> None:
    net = network().train()
    pyramid = LaplacianPyramid(2)
    found = losses(recipe(reconstruction=kind, perceptual=pyramid), net)
    out, pixels = coded(net), clip(net)
    rebuilt, kl = difference(out.pixels.float(), pixels, kind), divergence(out.mean, out.log_variance).mean()  # type: ignore[arg-type]
    perceptual = pyramid(out.pixels.float(), pixels).mean()
    assert found.keys() == {NET}
    torch.testing.assert_close(found[NET].total, rebuilt.mean() + 0.01 * kl + 0.3 * perceptual)
    torch.testing.assert_close(found[NET].per_sample, rebuilt)
    torch.testing.assert_close(found[NET].shown, rebuilt.mean())
    torch.testing.assert_close(found[NET].columns["kl"], kl)
    torch.testing.assert_close(found[NET].columns["perceptual"], perceptual)


def test_the_pyramid_by_hand() -> None:
    """It sees edges at their own scale: nothing of what is flat; of stripes as wide as a place all in the first
    level, and of stripes twice as wide a part in the second."""
    flat, pyramid = torch.full((1, 3, 2, 8, 8), 0.5), LaplacianPyramid(2)
    nothing = torch.zeros_like(flat)
    assert pyramid(flat, nothing).item() == pytest.approx(0, abs=1e-6)
    one = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 3, 2, 8, 8)
    assert pyramid(one, nothing).item() == pytest.approx(1.0)  # their means are 0, so the second level sees none
    assert LaplacianPyramid(9)(one, nothing).item() == pytest.approx(1.0)
    two = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(2).expand(1, 3, 2, 8, 8)
    smooth = torch.tensor([1.0, 0.5, -0.5, -0.5, 0.5, 0.5, -0.5, -1.0])  # of 1, -1, 1, -1, as long as before
    first = (two[0, 0, 0, 0] - smooth).abs().mean().item()
    assert pyramid(two, nothing).item() == pytest.approx(first + 1.0)
    assert torch.equal(
        pyramid(torch.cat([two, one]), torch.cat([nothing, two])),
        pyramid(torch.cat([two, one - two]), 0 * torch.cat([one, one])),
    )


def test_the_hinge_and_whom_it_reaches() -> None:
    """A discriminator of which everything is known: the logit is the mean of the clip times a weight."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
            self.asked = 0

        def forward(self, pixels: Tensor) -> Tensor:
            self.asked += 1
            return self.weight * pixels.mean((1, 2, 3, 4))[:, None]

    judge = Mean()
    made = torch.tensor([-0.2, 0.1]).double().view(2, 1, 1, 1, 1).expand(2, 3, 2, 2, 2).clone().requires_grad_()
    clips = torch.tensor([0.3, 0.9]).double().view(2, 1, 1, 1, 1).expand(2, 3, 2, 2, 2)
    told = judged(judge, made, clips)
    # real logits 0.6 and 1.8, fake ones -0.4 and 0.2
    torch.testing.assert_close(told.loss, torch.tensor([0.5 * (0.4 + 0.6), 0.5 * (0.0 + 1.2)]))
    assert told.fooled.item() == pytest.approx(0.1)
    torch.testing.assert_close(told.gradient, torch.full_like(made, -2.0 / 24 / 2))
    told.loss.mean().backward()
    assert made.grad is None and judge.asked == 1
    # d/dw of 0.25 [ (1 - 0.3 w) + (1 - 0.2 w) + (1 + 0.1 w) ], the hinge of the other real clip being shut
    assert judge.weight.grad is not None and judge.weight.grad.item() == pytest.approx(0.25 * (-0.3 - 0.2 + 0.1))


def test_adaptive_weight() -> None:
    one, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.5]])
    assert adaptive_weight(one, other).item() == pytest.approx(5 / (0.5 + 1e-6))
    assert adaptive_weight(one, 0 * other).item() == 1e4  # at most


def test_the_adversarial_term_against_autograd() -> None:
    """The gradient of the whole loss, and the weight, against one graph through everything (equations 6 and 7)."""
    net, made = network().train(), recipe(adversary=adversary(), kl_weight=0.0)
    judge = made.parts(net)[DISCRIMINATOR].module
    found = losses(made, net)
    names = [name for name, _ in net.named_parameters()]
    mine = torch.autograd.grad(found[NET].total, list(net.parameters()), retain_graph=True, allow_unused=True)
    of_judge = torch.autograd.grad(found[DISCRIMINATOR].total, list(judge.parameters()), retain_graph=True)
    reaches = torch.autograd.grad(found[NET].total, list(judge.parameters()), retain_graph=True, allow_unused=True)
    back = torch.autograd.grad(found[DISCRIMINATOR].total, list(net.parameters()), retain_graph=True, allow_unused=True)
    assert all(each is None for each in (*reaches, *back)), "neither loss reaches the weights of the other"

    out, pixels, last = coded(net), clip(net), net.decoder.last.conv.weight
    rebuilt, fooled = (out.pixels - pixels).abs().mean(), -judge(out.pixels).mean()
    norms = [torch.autograd.grad(each, last, retain_graph=True)[0].norm() for each in (rebuilt, fooled)]
    weight = 0.5 * norms[0] / (norms[1] + 1e-6)
    wanted = torch.autograd.grad(
        rebuilt + weight.detach() * fooled, list(net.parameters()), retain_graph=True, allow_unused=True
    )
    assert found[NET].columns["adversarial_weight"].item() == pytest.approx(weight.item(), rel=1e-4)
    assert found[NET].columns["adversarial"].item() == pytest.approx(fooled.item(), rel=1e-4)
    for name, one, other in zip(names, mine, wanted, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6, msg=name)
    hinge = (torch.relu(1 - judge(pixels)).mean() + torch.relu(1 + judge(out.pixels.detach())).mean()) / 2
    assert found[DISCRIMINATOR].total.item() == pytest.approx(hinge.item(), rel=1e-4)
    for one, other in zip(of_judge, torch.autograd.grad(hinge, list(judge.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_the_adversary_begins_when_it_is_told() -> None:
    """Before, there is no loss of the discriminator, so its optimizer does nothing."""
    net, made = network().train(), recipe(adversary=adversary(first_step=3))
    assert made.optimizers == {DISCRIMINATOR: sgd} and recipe().optimizers == {} and recipe().parts(net) == {}
    part = made.parts(net)[DISCRIMINATOR]
    assert part.optimizer == DISCRIMINATOR and not part.averaged
    before, after = losses(made, net, step=2), losses(made, net, step=3)
    assert before.keys() == {NET} and after.keys() == {NET, DISCRIMINATOR}
    assert "adversarial" not in before[NET].columns
    torch.testing.assert_close(before[NET].total, losses(recipe(), net)[NET].total)


def test_a_patch_is_judged_by_what_is_near() -> None:
    judge = adversary().discriminator
    pixels = torch.randn(1, 3, 5, 32, 32, dtype=torch.float64)
    logits = judge(pixels)
    assert logits.shape == (1, 1, 3, 8, 8)
    spoiled = pixels.clone()
    spoiled[..., -1] += 1
    same = (judge(spoiled) == logits).all(dim=3).flatten()
    assert same.view(3, 8)[:, :5].all() and not same.view(3, 8)[:, -1].any()
    assert judge(pixels[:, :, :1]).shape == (1, 1, 1, 8, 8), "a picture, too"
    assert math.isfinite(logits.sum().item())


def test_some_steps_lower_the_loss_and_are_the_same_each_time() -> None:
    """On one batch, two networks of one pass. The discriminator learns on reconstructions that stand still."""

    def trained() -> tuple[list[float], list[float]]:
        torch.manual_seed(0)
        net, made = Autoencoder(**SETTINGS).train(), recipe(reconstruction="l2", adversary=adversary(first_step=20))
        judge = made.parts(net)[DISCRIMINATOR].module.float()
        pixels = torch.zeros(2, 3, 3, 8, 8)
        pixels[0, 0, :, 2:6, 1:5], pixels[1, 1, :, :, 4:] = 0.8, -0.5
        adam = torch.optim.Adam(net.parameters(), lr=1e-2)
        of_judge = torch.optim.Adam(judge.parameters(), lr=1e-3)
        seen: dict[str, list[float]] = {NET: [], DISCRIMINATOR: []}
        for step in range(40):
            found = made.losses({NET: net, DISCRIMINATOR: judge}, Clips(pixels, pixels, {}, dict), step)
            adam.zero_grad()
            of_judge.zero_grad()
            torch.stack([loss.total for loss in found.values()]).sum().backward()
            adam.step()
            of_judge.step()
            for name, loss in found.items():
                seen[name].append(loss.shown.item())
        return seen[NET], seen[DISCRIMINATOR]

    first, second = trained(), trained()
    assert first == second
    rebuilt, told = first
    assert rebuilt[-1] < 0.4 * rebuilt[0], rebuilt
    assert len(told) == 20

    judge, fakes = adversary().discriminator.float(), torch.randn(2, 2, 3, 3, 8, 8)
    adam, told = torch.optim.Adam(judge.parameters(), lr=1e-2), []
    for _ in range(15):
        loss = judged(judge, 0.3 * fakes[0], 0.3 * fakes[1] + 0.5).loss.mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        told.append(loss.item())
    assert told[-1] < told[0] - 0.3, told
