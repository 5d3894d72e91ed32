"""SavedModel: an ONNX graph of ours as a TensorFlow function, operation by operation.

General converters guess where channels are and fail on pixel-unshuffle; the two dozen operations of our graphs have
plain counterparts, and one that has none is named.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.part import KakusanError

__all__ = ["OPERATIONS", "write_savedmodel"]

Attrs = dict[str, Any]
Operation = Callable[[Any, list[Any], Attrs], Any]  # (tensorflow, inputs, attributes) -> output, or a list of them
_FAR = 1 << 62  # an end of a slice that means "to the end"


def write_savedmodel(onnx_file: Path, folder: Path) -> None:
    """Translate an ONNX file into a SavedModel whose signature has the same inputs and outputs by name."""
    import onnx
    import tensorflow as tf

    graph = onnx.load(onnx_file).graph
    for node in graph.node:
        if node.op_type not in OPERATIONS:
            raise KakusanError(
                f"--format tf: the network's operation {node.op_type} ({node.name}) has no counterpart yet"
            )
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in graph.initializer}
    attributes = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in graph.node]

    def run(**given: Any) -> dict[str, Any]:
        values: dict[str, Any] = {"": None, **constants, **given}
        for node, attrs in zip(graph.node, attributes, strict=True):
            made = OPERATIONS[node.op_type](tf, [values[name] for name in node.input], attrs)
            values |= zip(node.output, made if isinstance(made, list) else [made], strict=True)
        return {out.name: values[out.name] for out in graph.output}

    signature = {i.name: _spec(tf, i) for i in graph.input}
    module = tf.Module()
    module.run = tf.function(run, autograph=False)
    tf.saved_model.save(module, str(folder), signatures=module.run.get_concrete_function(**signature))


def _spec(tf: Any, value: Any) -> Any:
    """An input's shape, None where it is free, and its type."""
    kind = value.type.tensor_type
    shape = [d.dim_value or None for d in kind.shape.dim]
    return tf.TensorSpec(shape, {1: tf.float32, 7: tf.int64}[kind.elem_type], name=value.name)


def _ints(value: Any, what: str) -> list[int]:
    if not isinstance(value, np.ndarray):
        raise KakusanError(f"--format tf: {what} depends on the input, which has no counterpart yet")
    return [int(n) for n in value.reshape(-1)]


def _conv(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    """Channels last, the only layout that TensorFlow has on CPUs, around a convolution of 2 dimensions."""
    x, weight = given[0], given[1]
    if weight.ndim != 4:
        raise KakusanError(f"--format tf: a convolution of {weight.ndim - 2} dimensions has no counterpart yet")
    top, left, bottom, right = attrs.get("pads", [0] * 4)
    x = tf.pad(tf.transpose(x, [0, 2, 3, 1]), [[0, 0], [top, bottom], [left, right], [0, 0]])
    out = tf.nn.conv2d(x, weight.transpose(2, 3, 1, 0), attrs["strides"], "VALID", dilations=attrs.get("dilations"))
    return tf.transpose(out if len(given) < 3 or given[2] is None else out + given[2], [0, 3, 1, 2])


def _gemm(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    a, b = given[0], given[1]
    out = tf.matmul(a, b, transpose_a=bool(attrs.get("transA", 0)), transpose_b=bool(attrs.get("transB", 0)))
    out = out * attrs.get("alpha", 1.0)
    return out + attrs.get("beta", 1.0) * given[2] if len(given) > 2 else out


def _reshape(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    """A size of 0 is that of the input there, unless ``allowzero`` says that it is 0."""
    x, sizes = given
    if isinstance(sizes, np.ndarray) and not attrs.get("allowzero", 0):
        own = tf.shape(x, tf.int64)
        sizes = tf.stack([own[i] if size == 0 else tf.constant(size, tf.int64) for i, size in enumerate(sizes)])
    return tf.reshape(x, sizes)


def _shape(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    sizes, start, end = tf.unstack(tf.shape(given[0], tf.int64)), attrs.get("start", 0), attrs.get("end")
    return tf.stack(sizes[start:end])


def _slice(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    x, starts, ends = given[0], _ints(given[1], "a slice"), _ints(given[2], "a slice")
    axes = _ints(given[3], "a slice") if len(given) > 3 and given[3] is not None else list(range(len(starts)))
    steps = _ints(given[4], "a slice") if len(given) > 4 and given[4] is not None else [1] * len(starts)
    cut = [slice(None)] * len(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cut[axis] = slice(start or None, None if end > _FAR else end, None if step == 1 else step)
    if len(cut) == 1 and x.shape[0] is not None:  # sizes; TensorFlow cannot infer a shape from a slice of them
        return tf.gather(x, list(range(x.shape[0]))[cut[0]])
    return x[tuple(cut)]


def _resize(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    """Nearest neighbours by whole factors: each cell repeated."""
    scales = [float(s) for s in given[2].reshape(-1)] if isinstance(given[2], np.ndarray) else [0.5]
    if attrs.get("mode") != b"nearest" or any(s != int(s) or s < 1 for s in scales):
        raise KakusanError("--format tf: a resize other than by whole factors has no counterpart yet")
    out = given[0]
    for axis, scale in enumerate(scales):
        out = tf.repeat(out, int(scale), axis) if scale != 1 else out
    return out


def _instance_norm(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    x, scale, shift = given
    mean, variance = tf.nn.moments(x, list(range(2, len(x.shape))), keepdims=True)
    form = [1, -1] + [1] * (len(x.shape) - 2)
    return (x - mean) * tf.math.rsqrt(variance + attrs["epsilon"]) * tf.reshape(scale, form) + tf.reshape(shift, form)


def _layer_norm(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    x, axis = given[0], attrs.get("axis", -1)
    mean, variance = tf.nn.moments(x, list(range(axis % len(x.shape), len(x.shape))), keepdims=True)
    out = (x - mean) * tf.math.rsqrt(variance + attrs.get("epsilon", 1e-5)) * given[1]
    return out + given[2] if len(given) > 2 and given[2] is not None else out


def _pad(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    if attrs.get("mode", b"constant") != b"constant" or (len(given) > 3 and given[3] is not None):
        raise KakusanError("--format tf: padding other than by a constant has no counterpart yet")
    pads = _ints(given[1], "padding")
    half = len(pads) // 2
    value = float(given[2]) if len(given) > 2 and given[2] is not None else 0.0
    return tf.pad(given[0], list(zip(pads[:half], pads[half:], strict=True)), constant_values=value)


def _squeeze(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    return tf.squeeze(given[0], _ints(given[1], "squeeze"))


def _unsqueeze(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    out = given[0]
    for axis in sorted(_ints(given[1], "unsqueeze")):
        out = tf.expand_dims(out, axis)
    return out


def _gelu(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    return tf.nn.gelu(given[0], approximate=attrs.get("approximate") == b"tanh")


def _split(tf: Any, given: list[Any], attrs: Attrs) -> Any:
    """Into the sizes that are given, or into so many parts, the last of which may be smaller."""
    axis = attrs.get("axis", 0)
    if len(given) > 1:
        return tf.split(given[0], _ints(given[1], "split"), axis)
    size, count = int(given[0].shape[axis]), attrs["num_outputs"]
    each = -(-size // count)
    return tf.split(given[0], [each] * (count - 1) + [size - each * (count - 1)], axis)


OPERATIONS: dict[str, Operation] = {
    "Add": lambda tf, v, a: v[0] + v[1],
    "And": lambda tf, v, a: tf.logical_and(v[0], v[1]),
    "Concat": lambda tf, v, a: tf.concat(v, a["axis"]),
    "Conv": _conv,
    "Cos": lambda tf, v, a: tf.cos(v[0]),
    "Div": lambda tf, v, a: v[0] / v[1],
    "Equal": lambda tf, v, a: tf.equal(v[0], v[1]),
    "Expand": lambda tf, v, a: tf.broadcast_to(v[0], tf.broadcast_dynamic_shape(tf.shape(v[0], tf.int64), v[1])),
    "Gather": lambda tf, v, a: tf.gather(v[0], v[1], axis=a.get("axis", 0)),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": lambda tf, v, a: tf.greater(v[0], v[1]),
    "Identity": lambda tf, v, a: v[0],
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": lambda tf, v, a: tf.matmul(v[0], v[1]),
    "Mul": lambda tf, v, a: v[0] * v[1],
    "Neg": lambda tf, v, a: -v[0],
    "Pad": _pad,
    "Pow": lambda tf, v, a: tf.pow(v[0], v[1]),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": lambda tf, v, a: tf.sigmoid(v[0]),
    "Sin": lambda tf, v, a: tf.sin(v[0]),
    "Slice": _slice,
    "Softmax": lambda tf, v, a: tf.nn.softmax(v[0], a.get("axis", -1)),
    "Split": _split,
    "Sqrt": lambda tf, v, a: tf.sqrt(v[0]),
    "Squeeze": _squeeze,
    "Sub": lambda tf, v, a: v[0] - v[1],
    "Tanh": lambda tf, v, a: tf.tanh(v[0]),
    "Transpose": lambda tf, v, a: tf.transpose(v[0], a["perm"]),
    "Unsqueeze": _unsqueeze,
    "Where": lambda tf, v, a: tf.where(v[0], v[1], v[2]),
}
