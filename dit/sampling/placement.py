"""Where a pipeline's network is: still in its files, on the device, or out of the way of a text encoder.

All that is asked for is checked on shapes (torch's meta device), which take no memory. The weights are read when the
text encoder has said what it was asked and has gone, so that the two largest parts of a published model are never in
memory together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dit.diffusion.experts import ByLevel
from dit.sampling.runtime import peak_in_words, peak_memory

log = logging.getLogger(__name__)
Tensors = Callable[[], Iterable[tuple[str, Tensor]]]


@dataclass(frozen=True)
class Unread:
    """What brings the weights of networks.

    Attributes:
        device: where they go, one tensor after another.
        tensors: of each network, (name, tensor) of all that it saves. May be asked for again.
        dtype: of floats; None: as they are in the files.
    """

    device: torch.device
    tensors: Mapping[nn.Module, Tensors]
    dtype: torch.dtype | None = None

    def read(self, net: nn.Module) -> None:
        """Gives one network its weights."""
        own = net.state_dict()
        placed = {name: self._placed(tensor, own[name].dtype) for name, tensor in self.tensors[net]()}
        net.load_state_dict(placed, strict=True, assign=True)

    def read_all(self) -> None:
        """Gives each network its weights that has none."""
        for net in self.tensors:
            if is_unread(net):
                self.read(net)

    def _placed(self, tensor: Tensor, own: torch.dtype) -> Tensor:
        """own: that of the network's weights, for CogVideoX's table of positions, which is saved in float64."""
        dtype = own if tensor.dtype == torch.float64 else None
        return tensor.to(self.device, (self.dtype or dtype) if tensor.is_floating_point() else None)


class Placement:
    """A network, or two that share the noise levels, and where it is.

    Args:
        net: on the device where it computes; or on the meta device, if `unread` brings its weights.
    """

    def __init__(self, net: nn.Module, unread: Unread | None) -> None:
        self.net, self.unread = net, unread

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        if isinstance(self.net, ByLevel):
            return self.net.device
        if self.unread is not None and is_unread(self.net):
            return self.unread.device
        return next((parameter.device for parameter in self.net.parameters()), torch.device("cpu"))

    def read(self, take_turns: bool = False) -> nn.Module:
        """The network with its weights. take_turns: of two networks each is read when it is first asked."""
        each_itself = take_turns and isinstance(self.net, ByLevel) and self.net.read is not None
        if self.unread is not None and not each_itself:
            self.unread.read_all()
        return self.net

    @contextmanager
    def making_room(self, take_turns: bool, peaks: list[int]) -> Iterator[torch.device]:
        """The device, without the network; says how much memory was taken there, and adds it to `peaks`."""
        device = self.device
        if device.type != "cpu":
            for net in self.net.networks if isinstance(self.net, ByLevel) else (self.net,):
                if not is_unread(net):
                    net.cpu()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        try:
            yield device
        finally:
            took = time.perf_counter() - started
            peaks.append(peak_memory(device))
            if isinstance(self.net, ByLevel) and take_turns:
                self.net.take_turns(device)
            elif not is_unread(self.net):
                self.net.to(device)
        said = peak_in_words(device, peaks[-1])
        log.info("encoded what was asked in %.1f s, peak memory %s; the encoder has left the device", took, said)


def is_unread(net: nn.Module) -> bool:
    """Whether a network, or one of two, has no weights yet."""
    return any(parameter.is_meta for parameter in net.parameters())


def can_be_read(net: nn.Module) -> bool:
    """Whether what a network saves is all that it lacks on the meta device: no other tensors were made with it."""
    saved = {id(tensor) for tensor in net.state_dict(keep_vars=True).values()}
    held = (
        tensor
        for module in net.modules()
        for part in (vars(module), module._parameters, module._buffers)
        for tensor in part.values()
    )
    return all(id(each) in saved for each in held if isinstance(each, Tensor) and each.is_meta)
