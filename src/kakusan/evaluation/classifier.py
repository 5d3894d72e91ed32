"""A small convolutional classifier of the user's own labelled pictures: does a sample show what it was asked for?

Its own accuracy on pictures it never saw stands beside every figure it gives. What its last layer reads is a feature
network that knows this data. Pictures are folded to 16 x 16 cells or fewer (pixels into channels), so that 28 to 128
pixels cost about the same, and everything is channels-last.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from kakusan.core.rng import mix
from kakusan.evaluation.labels import Accuracy, accuracy
from kakusan.files import replacing
from kakusan.part import KakusanError

__all__ = ["Classifier", "load_classifier", "train_classifier"]

Progress = Callable[[int, int], None]  # (done, of all)

CELLS = 16  # a side, at most, after folding
WIDTHS = (32, 64, 128)
FEATURES = 128
BATCH = 128
PEAK = 0.01  # learning rate
SPEED = 45e9  # multiply-adds a second that two ordinary cores do: seconds become steps by it, never by the clock
FEWEST_STEPS, MOST_EPOCHS = 150, 40
TEST_SHARE, MOST_TEST = 1 / 6, 5000
SIDES = (8, 256)


class _Net(nn.Module):
    """Three 3x3 convolutions, each scale half the one before, down to 4 x 4 cells; two linear layers."""

    def __init__(self, channels: int, fold: int, classes: int) -> None:
        super().__init__()
        self.fold = fold
        sizes = [channels * fold**2, *WIDTHS]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in WIDTHS)
        self.narrow = nn.Linear(16 * WIDTHS[-1], FEATURES, bias=False)
        self.norm = nn.BatchNorm1d(FEATURES)
        self.head = nn.Linear(FEATURES, classes)
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) in [0, 1] to (B, FEATURES)."""
        x = (x - self.mean) / self.std
        down, right = (-x.shape[2] % self.fold, -x.shape[3] % self.fold)
        h = F.pixel_unshuffle(F.pad(x, (0, right, 0, down)), self.fold).contiguous(memory_format=torch.channels_last)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            h = F.relu(norm(conv(h if i == 0 else F.max_pool2d(h, 2, ceil_mode=True))))
        return F.relu(self.norm(self.narrow(F.adaptive_avg_pool2d(h, 4).flatten(1))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@dataclass(frozen=True)
class Classifier:
    """A trained classifier: ``accuracy`` is of pictures held out from it, ``by_class`` that of each class."""

    net: nn.Module
    classes: list[str]
    shape: tuple[int, int, int]  # (H, W, C) of the pictures it knows
    accuracy: Accuracy
    steps: int
    hash: str  # of its weights and classes, 16 hex digits

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return FEATURES

    def predict(self, pictures: np.ndarray, batch: int = 256, progress: Progress | None = None) -> np.ndarray:
        """The class of each picture (N, H, W, C): (N,) indices into ``classes``."""
        out = self._each(pictures, batch, progress, lambda x: self.net(x).argmax(1))
        return out.numpy().astype(np.int64)

    def features(self, pictures: np.ndarray, batch: int = 256, progress: Progress | None = None) -> np.ndarray:
        """What the last layer reads of each picture: (N, ``dim``) float32."""
        net = self.net
        assert isinstance(net, _Net)
        return self._each(pictures, batch, progress, net.features).float().numpy()

    def _each(
        self, pictures: np.ndarray, batch: int, progress: Progress | None, f: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if pictures.shape[1:] != self.shape:
            raise KakusanError(
                f"pictures are {_sized(pictures.shape[1:])}, but the classifier was trained on {_sized(self.shape)}: "
                "nothing is resized here; bring them to that size"
            )
        parts = []
        with torch.no_grad():
            for start in range(0, len(pictures), batch):
                parts.append(f(_floats(pictures[start : start + batch])))
                if progress is not None:
                    progress(min(start + batch, len(pictures)), len(pictures))
        return torch.cat(parts) if parts else torch.zeros(0, self.dim)

    def save(self, path: str | Path) -> Path:
        """One safetensors file; ``load_classifier`` reads it back."""
        about = {
            "format": "kakusan-classifier-1",
            "classes": self.classes,
            "shape": list(self.shape),
            "accuracy": [self.accuracy.value, self.accuracy.low, self.accuracy.high, self.accuracy.count],
            "steps": self.steps,
        }
        tensors = {name: v.contiguous() for name, v in self.net.state_dict().items()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"classifier": json.dumps(about, sort_keys=True)})
        return Path(path)


def load_classifier(path: str | Path) -> Classifier:
    """A saved classifier; one clear line where the file is none, or damaged."""
    try:
        with safe_open(str(path), "pt") as file:
            about = json.loads((file.metadata() or {})["classifier"])
            shape, classes = tuple(int(n) for n in about["shape"]), [str(c) for c in about["classes"]]
            _check_shape(shape)
            net = _Net(shape[2], _fold(shape), len(classes))
            net.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
        value, low, high, count = about["accuracy"]
        found = Accuracy(float(value), float(low), float(high), int(count))
        steps = int(about["steps"])
    except FileNotFoundError as error:
        raise KakusanError(f"{path}: there is no such file") from error
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError, IndexError) as error:
        raise KakusanError(
            f"{path}: not a classifier of kakusan's, or damaged: delete it to train a new one"
        ) from error
    return _finished(net, classes, (shape[0], shape[1], shape[2]), found, steps)


def train_classifier(
    pictures: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    seed: int = 0,
    seconds: float = 20,
    progress: Progress | None = None,
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
) -> Classifier:
    """Train on pictures (N, H, W, C) uint8, C = 1, 3 or 4, and their labels (N,), indices into ``classes``.

    A sixth of each class is left out to test on, unless ``held_out`` brings (pictures, labels) of its own.
    ``seconds`` of two cores are turned into a number of steps by arithmetic alone: the same arguments give the same
    network anywhere, up to the rounding of sums. AdamW with one cycle of the learning rate (Smith & Topin 2019).
    """
    labels = np.asarray(labels)
    _check(pictures, labels, classes, held_out is None)
    draw = np.random.default_rng(mix("classifier", seed))
    if held_out is None:
        tested = _stratified(labels, len(classes), draw)
        test = pictures[tested], labels[tested]
        pictures, labels = pictures[~tested], labels[~tested]
    else:
        test = held_out[0], np.asarray(held_out[1])
        _check(*test, classes, False, "held-out ")
    shape = (pictures.shape[1], pictures.shape[2], pictures.shape[3])
    steps, batch = _steps(shape, len(pictures), seconds)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("classifier weights", seed))
        net = _Net(shape[2], _fold(shape), len(classes))
    some = _floats(pictures[draw.permutation(len(pictures))[:2000]])
    net.mean.copy_(some.mean((0, 2, 3)).reshape(-1, 1, 1))
    net.std.copy_(some.std((0, 2, 3)).clamp_min(0.02).reshape(-1, 1, 1))
    _learn(net, pictures, torch.from_numpy(labels.astype(np.int64)), steps, batch, draw, progress)
    made = _finished(net, list(classes), shape, Accuracy(math.nan, 0.0, 1.0, 0), steps)
    found = accuracy(test[1], made.predict(test[0]))
    return _finished(net, list(classes), shape, found, steps)


def _learn(
    net: _Net,
    pictures: np.ndarray,
    labels: Tensor,
    steps: int,
    batch: int,
    draw: np.random.Generator,
    progress: Progress | None,
) -> None:
    """Every picture once an epoch, in a new order; moved by up to a fourteenth of its side where it is seen often."""
    reach = [max(1, round(n / 14)) for n in pictures.shape[1:3]] if steps * batch > 3 * len(labels) else [0, 0]
    optimiser = torch.optim.AdamW(net.parameters(), PEAK, weight_decay=0.01)
    net.train()
    order = np.zeros(0, np.int64)
    with torch.enable_grad():
        for step in range(steps):
            while len(order) < batch:
                order = np.concatenate([order, draw.permutation(len(labels))])
            rows, order = order[:batch], order[batch:]
            x = _moved(_floats(pictures[rows]), reach, draw)
            optimiser.param_groups[0]["lr"] = PEAK * _rate((step + 1) / steps)
            optimiser.zero_grad()
            F.cross_entropy(net(x), labels[torch.from_numpy(rows)]).backward()
            optimiser.step()
            if progress is not None:
                progress(step + 1, steps)


def _rate(place: float) -> float:
    """One cycle: up through the first quarter, then half a cosine down."""
    return 4 * place if place < 0.25 else 0.5 + 0.5 * math.cos(math.pi * (place - 0.25) / 0.75)


def _moved(x: Tensor, reach: list[int], draw: np.random.Generator) -> Tensor:
    """Each picture moved by up to ``reach`` pixels, its border repeated."""
    if not any(reach):
        return x
    count, _, height, width = x.shape
    places = []
    for size, most in zip((height, width), reach):
        offset = torch.from_numpy(draw.integers(-most, most + 1, count))
        places.append((torch.arange(size) + offset[:, None]).clamp(0, size - 1))
    rows, columns = places[0][:, :, None], places[1][:, None, :]
    return x.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def _finished(net: _Net, classes: list[str], shape: tuple[int, int, int], found: Accuracy, steps: int) -> Classifier:
    net.eval().requires_grad_(False)
    digest = hashlib.sha256(json.dumps([classes, list(shape)]).encode())
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return Classifier(net, classes, shape, found, steps, digest.hexdigest()[:16])


def _steps(shape: tuple[int, int, int], count: int, seconds: float) -> tuple[int, int]:
    """Steps and their batch: as many as ``seconds`` hold, within reason for few pictures."""
    if not seconds > 0:
        raise KakusanError(f"seconds={seconds}: need a number greater than 0")
    fold, batch = _fold(shape), min(BATCH, count)
    cells = math.ceil(shape[0] / fold) * math.ceil(shape[1] / fold)
    sizes = [shape[2] * fold**2, *WIDTHS]
    once = sum(9 * cells / 4**i * a * b for i, (a, b) in enumerate(pairwise(sizes)))  # multiply-adds of a picture
    affordable = seconds * SPEED / (3 * once * batch)  # backwards costs twice as much as forwards
    enough = max(FEWEST_STEPS, MOST_EPOCHS * count / batch)
    return max(1, int(min(affordable, enough))), batch


def _fold(shape: Sequence[int]) -> int:
    return max(1, math.ceil(max(shape[:2]) / CELLS))


def _floats(pictures: np.ndarray) -> Tensor:
    """(N, H, W, C) of 8 or 16 bits to (N, C, H, W) float32 in [0, 1]; colour under transparency does not count."""
    whole = float(np.iinfo(pictures.dtype).max)
    x = torch.from_numpy(pictures.astype(np.float32) / whole).permute(0, 3, 1, 2)
    return torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1) if x.shape[1] == 4 else x


def _stratified(labels: np.ndarray, classes: int, draw: np.random.Generator) -> np.ndarray:
    """Which pictures to test on, (N,) bool: a share of every class, at least one and never all."""
    share = min(TEST_SHARE, MOST_TEST / len(labels))
    tested = np.zeros(len(labels), bool)
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        tested[draw.permutation(rows)[: max(1, round(share * len(rows)))]] = True
    return tested


def _check(pictures: np.ndarray, labels: np.ndarray, classes: Sequence[str], split: bool, what: str = "") -> None:
    if pictures.ndim != 4 or pictures.dtype not in (np.uint8, np.uint16):
        raise KakusanError(
            f"{what}pictures are {pictures.dtype} of shape {pictures.shape}: pass (N, H, W, C) of 8 or 16 bits"
        )
    _check_shape(pictures.shape[1:])
    if labels.shape != (len(pictures),):
        raise KakusanError(f"{len(pictures)} {what}pictures with labels of shape {labels.shape}: one label each")
    if len(classes) < 2:
        raise KakusanError(f"{len(classes)} class(es): a classifier needs at least two")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise KakusanError(
            f"{what}labels run from {labels.min()} to {labels.max()}: "
            f"{len(classes)} classes have 0 to {len(classes) - 1}"
        )
    fewest = 2 if split else 1
    counts = np.bincount(labels.astype(np.int64), minlength=len(classes))
    poor = [f"{name!r} has {n}" for name, n in zip(classes, counts) if n < fewest]
    if poor:
        more = f" and {len(poor) - 3} more" if len(poor) > 3 else ""
        raise KakusanError(
            f"too few {what}pictures of a class: {', '.join(poor[:3])}{more}; every class needs at least {fewest}: "
            "add pictures, or leave the class out"
        )


def _check_shape(shape: Sequence[int]) -> None:
    height, width, channels = shape
    if channels not in (1, 3, 4):
        raise KakusanError(f"pictures have {channels} channels: the classifier takes 1, 3 or 4")
    if not SIDES[0] <= min(height, width) <= max(height, width) <= SIDES[1]:
        raise KakusanError(
            f"pictures are {_sized(shape)}: the classifier takes sides of {SIDES[0]} to {SIDES[1]} pixels"
        )


def _sized(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]} of {shape[2]} channels" if len(shape) == 3 else str(tuple(shape))
