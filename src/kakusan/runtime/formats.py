"""Formats: what kakusan exports to, and the words for what a format cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kakusan.core.model import Model
from kakusan.part import KakusanError
from kakusan.runtime import engines
from kakusan.runtime.engines import Run
from kakusan.runtime.graph import Decoder, Graph, need, write_onnx
from kakusan.runtime.savedmodel import write_savedmodel

__all__ = ["FORMATS", "Format"]

Write = Callable[[Graph | Decoder, tuple[int, ...], Path, int], Run]


@dataclass(frozen=True)
class Format:
    """``write`` makes the file of one network or decoder and returns what runs it; ``check`` refuses beforehand."""

    suffix: str
    write: Write
    check: Callable[[Model], None]


def _onnx(graph: Graph | Decoder, shape: tuple[int, ...], path: Path, threads: int) -> Run:
    write_onnx(graph, graph.example(shape), path, "x0")
    return engines.onnxruntime(path, threads)


def _openvino(graph: Graph | Decoder, shape: tuple[int, ...], path: Path, threads: int) -> Run:
    import openvino as ov

    source = path.with_suffix(".onnx")
    write_onnx(graph, graph.example(shape), source, "x0")
    ov.save_model(ov.convert_model(str(source)), str(path), compress_to_fp16=False)
    source.unlink()
    return engines.openvino(path, threads)


def _tensorflow(graph: Graph | Decoder, shape: tuple[int, ...], path: Path, threads: int) -> Run:
    source = path.with_suffix(".onnx")
    write_onnx(graph, graph.example(shape), source, "x0")
    write_savedmodel(source, path)
    source.unlink()
    return engines.tensorflow(path, threads)


def _nothing(graph: Graph | Decoder, shape: tuple[int, ...], path: Path, threads: int) -> Run:
    raise AssertionError("refused before")


def _check_onnx(model: Model) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        need(module, "export")


def _check_openvino(model: Model) -> None:
    for module in ("onnx", "onnxscript"):
        need(module, "export")
    need("openvino", "openvino")


def _check_tensorflow(model: Model) -> None:
    for module in ("onnx", "onnxscript"):
        need(module, "export")
    need("tensorflow", "tf")


def _check_torch(model: Model) -> None:
    raise KakusanError(
        "--format torch: the model's own file is that already: averaged weights as safetensors, read with "
        "kakusan.load(FILE), or as plain tensors with safetensors.torch.load_file(FILE)"
    )


FORMATS = {
    "onnx": Format(".onnx", _onnx, _check_onnx),
    "openvino": Format(".xml", _openvino, _check_openvino),
    "tf": Format(".savedmodel", _tensorflow, _check_tensorflow),
    "torch": Format("", _nothing, _check_torch),
}
