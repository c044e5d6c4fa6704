"""How many graphs torch.compile may make of one function."""

import torch

GRAPHS = 64


def allow_many_graphs() -> None:
    """Raises torch's limit of 8: past it a function runs uncompiled, and all that is said is a warning.

    A graph belongs to one set of dtypes, sizes, gradients wanted or not, and arguments of one kind: a class of blocks,
    or FlexAttention in training, validation and previews, has more than 8.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
