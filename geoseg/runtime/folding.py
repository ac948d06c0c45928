"""Folding batch normalization into the convolution before it: the same numbers, less work.

In inference a batch norm is one multiplication and addition per channel, which the convolution's
own weights can take over. On a CPU this saves a fifth of the time, and roundings in bfloat16.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def fold_norms(network: nn.Module, probe: Tensor) -> nn.Module:
    """A network in eval mode without its foldable batch norms, or itself where that changes it.

    Which convolution feeds which norm is seen by running `probe` (N, C, H, W): no knowledge of
    the architecture is needed, and what was folded is run again to prove it.
    """
    pairs, before = _observe(network, probe)
    if not pairs:
        return network
    folded = copy.deepcopy(network)
    for conv_name, norm_name in pairs:
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            folded.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
            # Some norms (timm's) carry their activation inside; a plain one leaves nothing.
            folded.set_submodule(norm_name, nn.Sequential(*norm.children()))
    outputs = zip(_tensors(folded(probe)), before, strict=True)
    return folded if all(_close(a, b) for a, b in outputs) else network


def _tensors(output: Any) -> list[Tensor]:
    """Those of a network's output: one, or the feature maps of an encoder."""
    return [output] if isinstance(output, Tensor) else list(output)


def _close(after: Tensor, before: Tensor) -> bool:
    largest = float(before.abs().max()) if before.numel() else 0.0  # some maps have no channels
    return torch.allclose(after, before, rtol=1e-3, atol=1e-3 * largest)


def _observe(network: nn.Module, probe: Tensor) -> tuple[list[tuple[str, str]], list[Tensor]]:
    """(convolution, norm) names where the norm takes the convolution's output; and the outputs."""
    made: dict[int, tuple[str, Tensor]] = {}  # keeps the tensors, so that ids stay theirs
    runs: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):

            def ran(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                made[id(output)] = (name, output)
                runs[name] = runs.get(name, 0) + 1

            handles.append(module.register_forward_hook(ran))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:

            def fed(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                runs[name] = runs.get(name, 0) + 1
                if id(inputs[0]) in made:
                    pairs.append((made[id(inputs[0])][0], name))

            handles.append(module.register_forward_pre_hook(fed))
    try:
        output = network(probe)
    finally:
        for handle in handles:
            handle.remove()
    return [p for p in pairs if runs[p[0]] == runs[p[1]] == 1], _tensors(output)
