"""Graph: a model as one function of plain tensors, and as an ONNX file.

``x0 = c_skip x + c_out F(c_in x, lam, cond)``: the network with its encoders and its affine; coefficients are inputs,
one a sample, so that a server may put samples of different noise levels into one batch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.core.batch import Cond
from kakusan.core.model import Model
from kakusan.domains.latent import Latent
from kakusan.part import KakusanError

__all__ = ["COEFFICIENTS", "OPSET", "Condition", "Decoder", "Graph", "need", "write_onnx"]

OPSET = 18  # read by every ONNX Runtime since 1.14 (2023)
COEFFICIENTS = ("lam", "c_in", "c_skip", "c_out")
_BAKED = "augment"  # told to the network in training only: always "untouched" when sampling


class Condition:
    """One condition as a graph takes it: its inputs by name, what each is when there is no condition."""

    def __init__(self, name: str, model: Model) -> None:
        encoder = model.encoder(name)
        none = encoder.widened(encoder.null(1))
        self.name, self.kind = name, encoder.kind
        self.keys = {name if len(none) == 1 else f"{name}_{key}": key for key in none}
        self.dtypes = {given: none[key].dtype for given, key in self.keys.items()}
        self.none = {given: _widened(none[key]) for given, key in self.keys.items()}
        self.names = list(getattr(encoder, "names", []))
        if any(0 in value.shape for value in none.values()):
            raise KakusanError(
                f"condition {name!r} ({encoder.kind}) takes input of any length, which export does not know yet: "
                "only labels, numbers and words of a vocabulary of their own can be exported"
            )
        self.timed = encoder.timed  # told by the sampler at every step, as the coefficients are
        self.spelling = getattr(encoder, "spelling", dict)()  # of words, what a host needs to number their pieces

    def prepared(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The graph's inputs as the encoder's own."""
        return {key: _narrowed(given[name], self.dtypes[name]) for name, key in self.keys.items()}

    def dict(self) -> dict[str, Any]:
        """Plain data for the table: dtype, shape after the batch and the value without this condition, by input."""
        inputs = {
            name: {"dtype": str(v.dtype).removeprefix("torch."), "shape": list(v.shape[1:]), "none": v[0].tolist()}
            for name, v in self.none.items()
        }
        return {"kind": self.kind, "inputs": inputs} | ({"names": self.names} if self.names else {}) | self.spelling


def _widened(value: Tensor) -> Tensor:
    """Every input is float32 or int64, which all runtimes take: flags are 0 or 1."""
    return value.to(torch.float32 if value.is_floating_point() or value.dtype == torch.bool else torch.int64)


def _narrowed(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value > 0 if dtype == torch.bool else value.to(dtype)


class Graph(nn.Module):
    """A model as ``(x, lam, c_in, c_skip, c_out, {input: value}) -> x0``; x (B, C, *S), coefficients (B,)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.conditions = [Condition(name, model) for name in model.encoders if name != _BAKED]

    def forward(
        self, x: Tensor, lam: Tensor, c_in: Tensor, c_skip: Tensor, c_out: Tensor, given: dict[str, Tensor]
    ) -> Tensor:
        denoiser, rest = self.model.denoiser, [1] * (x.ndim - 1)
        known = {c.name: c for c in self.conditions}
        conds = []
        for name in self.model.encoders:
            encoder = self.model.encoder(name)
            if name in known:
                conds.append(encoder(known[name].prepared(given), lam == lam))
            else:  # a constant, made as long as the batch without asking for its shape, which runtimes stumble over
                alone = encoder(encoder.null(1), torch.zeros(1, dtype=torch.bool))
                conds.append(alone.map(lambda v: v + (0 * lam).reshape(-1, *[1] * (v.ndim - 1))))
        cond = Cond.merge(conds)
        out = denoiser.net(c_in.reshape(-1, *rest) * x, lam, cond)
        return denoiser.space.project(c_skip.reshape(-1, *rest) * x + c_out.reshape(-1, *rest) * out)

    def example(self, shape: tuple[int, ...], batch: int = 2) -> dict[str, Any]:
        """Arguments of the right shapes: noise, mid-range coefficients, no condition."""
        ones = torch.ones(batch)
        given = {n: v.expand(batch, *v.shape[1:]).clone() for c in self.conditions for n, v in c.none.items()}
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        return {"x": x, "lam": 0.3 * ones, "c_in": 0.9 * ones, "c_skip": 0.5 * ones, "c_out": 0.7 * ones} | {
            "given": given
        }


class Decoder(nn.Module):
    """The way from a latent back to pictures as ``(z, {}) -> x0``; z (B, C, *S) is what was sampled."""

    def __init__(self, domain: Latent) -> None:
        super().__init__()
        self.autoencoder = domain.autoencoder
        for name, values in (("mean", domain.mean), ("std", domain.std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, -1, *[1] * (len(domain.shape()) - 1)))

    def forward(self, z: Tensor, given: dict[str, Tensor]) -> Tensor:
        return self.autoencoder.decode(z * self.get_buffer("std") + self.get_buffer("mean"))

    def example(self, shape: tuple[int, ...], batch: int = 2) -> dict[str, Any]:
        """Noise of the latent's shape."""
        return {"z": torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)), "given": {}}


def need(module: str, extra: str) -> None:
    """Refuse, with the line that installs it, where an optional package is missing."""
    if importlib.util.find_spec(module) is None:
        raise KakusanError(f"this needs the package {module!r}, which is not installed: pip install 'kakusan[{extra}]'")


def write_onnx(module: nn.Module, arguments: dict[str, Any], path: Path, output: str) -> None:
    """A module as one ONNX file of float32 and opset ``OPSET``, at the shapes of ``arguments`` and any batch size.

    ``arguments``: tensors by name, and under "given" a table of more of them; each becomes an input of its own name.
    Token sequences may have any length too.
    """
    for name in ("onnx", "onnxscript"):
        need(name, "export")
    given = {name: value.clone() for name, value in arguments.get("given", {}).items()}
    plain = {name: value.clone() for name, value in arguments.items() if name != "given"}
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=1)
    dynamic: dict[str, Any] = {name: {0: batch} for name in plain}
    dynamic["given"] = {n: {0: batch} | ({1: length} if n in ("tokens", "tokens_mask") else {}) for n in given}
    with torch.no_grad(), _quietly():
        torch.onnx.export(
            module.eval(), (), str(path), kwargs=plain | {"given": given}, dynamo=True, dynamic_shapes=dynamic,
            opset_version=OPSET, input_names=[*plain, *given], output_names=[output], external_data=False,
            verbose=False,
        )  # fmt: skip


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter talks of packages that nobody asked for; its errors still come through as errors."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
