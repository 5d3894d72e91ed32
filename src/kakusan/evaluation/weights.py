"""Weights of feature networks: read from a file that nobody vouches for, named by a hash, batch norms folded in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kakusan.part import KakusanError

__all__ = ["digest", "folded", "load_into", "read_weights"]

MAX_BYTES = 512 * 2**20  # of a weights file: Inception-v3 takes 96 MB
SUFFIXES = (".safetensors", ".pth", ".pt")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors``, ``.pth`` or ``.pt`` file; nothing in it is executed. Raises KakusanError."""
    path = Path(path)
    if not path.is_file():
        raise KakusanError(f"no weights file at {path}: give the path of a {', '.join(SUFFIXES)} file")
    if path.suffix not in SUFFIXES:
        raise KakusanError(f"{path} is no weights file: need one that ends in {', '.join(SUFFIXES)}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise KakusanError(f"{path} has {size / 2**20:.0f} MiB: feature networks have {MAX_BYTES >> 20} at most")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make readers raise nearly anything
        why = (str(error).strip().splitlines() or [""])[0][:120] or type(error).__name__
        raise KakusanError(f"the weights file {path} can not be read ({why}): fetch it again") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise KakusanError(f"the weights file {path} holds no named tensors: save the network's state_dict()")
    return {str(name): value for name, value in state.items()}


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (16 hex digits) over names, shapes and values in the order of names: of the weights, not of the file."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def folded(state: Mapping[str, Tensor], conv: str, norm: str, eps: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution without bias and the batch norm after it, as one convolution.

    ``W' = W gamma / sqrt(var + eps)``, ``b' = beta - mean gamma / sqrt(var + eps)``, computed in float64.
    """
    gamma, beta, mean, var = (
        state[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / (var + eps).sqrt()
    weight = state[f"{conv}.weight"].double() * scale[:, None, None, None]
    return weight.float(), (beta - mean * scale).float()


def load_into(
    network: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, tuple[str, str]], eps: float, where: str
) -> None:
    """Fold the tensors into the network's convolutions; ``names``: convolution -> its names in ``state`` (conv, norm).

    Names, shapes and finiteness are checked first; a file of another network is one clear line. A convolution with an
    even kernel takes an odd one after a row and a column of zeros.
    """
    convs = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    for name, module in convs.items():
        conv, norm = names[name]
        outputs = (module.out_channels,)
        even = 1 - module.kernel_size[0] % 2
        outer, inner = module.weight.shape[:2], module.kernel_size
        wanted = {f"{conv}.weight": (*outer, inner[0] - even, inner[1] - even)}
        wanted |= {f"{norm}.{part}": outputs for part in ("weight", "bias", "running_mean", "running_var")}
        for key, shape in wanted.items():
            if key not in state:
                raise KakusanError(f"the weights {where} lack {key!r}: they are of another network")
            have = tuple(state[key].shape)
            if have != shape:
                raise KakusanError(f"the weights {where} have {key!r} of shape {have} where {shape} is expected")
            if not (state[key].is_floating_point() and bool(torch.isfinite(state[key]).all())):
                raise KakusanError(f"the weights {where} are damaged: {key!r} is not finite; fetch the file again")
        weight, bias = folded(state, conv, norm, eps)
        assert module.bias is not None
        with torch.no_grad():
            module.weight.copy_(nn.functional.pad(weight, (even, 0, even, 0)))
            module.bias.copy_(bias)
