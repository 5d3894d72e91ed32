"""Engines: functions from a feed of arrays to x0, whatever runs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kakusan.runtime.graph import COEFFICIENTS, Decoder, Graph, need

__all__ = ["Feed", "Run", "onnxruntime", "openvino", "pytorch", "tensorflow"]

Feed = dict[str, np.ndarray]  # x, lam, c_in, c_skip, c_out and the conditions' inputs, by name
Run = Callable[[Feed], np.ndarray]


def onnxruntime(path: Path, threads: int = 0) -> Run:
    """ONNX Runtime on the CPU; 0 threads = its own choice."""
    need("onnxruntime", "export")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}

    def run(feed: Feed) -> np.ndarray:
        return np.asarray(session.run(None, {n: v for n, v in feed.items() if n in wanted})[0])

    return run


def openvino(path: Path, threads: int = 0) -> Run:
    """OpenVINO on the CPU, from its IR or from ONNX, in float32 throughout."""
    need("openvino", "openvino")
    import openvino as ov

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    with _denormals_kept():
        compiled = ov.Core().compile_model(str(path), "CPU", settings)
    wanted = {i.get_any_name() for i in compiled.inputs}

    def run(feed: Feed) -> np.ndarray:
        with _denormals_kept():
            return np.array(compiled({n: v for n, v in feed.items() if n in wanted})[0])

    return run


@contextlib.contextmanager
def _denormals_kept() -> Iterator[None]:
    """OpenVINO moves integers through float registers, where a processor that flushes denormals makes small ones 0:
    with flushing on, every class was class 0 (2026.4)."""
    flushed = bool(torch.full((), 1e-40) * 1 == 0)
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


def tensorflow(path: Path, threads: int = 0) -> Run:
    """A SavedModel in TensorFlow, which decides on its threads for the whole process."""
    need("tensorflow", "tf")
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    signature = model.signatures["serving_default"]
    wanted = set(signature.structured_input_signature[1])

    def run(feed: Feed) -> np.ndarray:
        found = signature(**{name: tf.constant(value) for name, value in feed.items() if name in wanted})
        return np.asarray(found["x0"])

    return run


def pytorch(graph: Graph | Decoder) -> Run:
    """The graph itself."""

    def run(feed: Feed) -> np.ndarray:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feed.items()}
        given = {name: tensors.pop(name) for name in list(tensors) if name not in ("x", "z", *COEFFICIENTS)}
        with torch.inference_mode():
            return np.asarray(graph(**tensors, given=given))

    return run
