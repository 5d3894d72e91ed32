"""The classifier learns real pictures of any size, says how well, is the same every time, and refuses what it must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.real import fashion
from kakusan.evaluation.classifier import Classifier, load_classifier, train_classifier
from kakusan.evaluation.labels import accuracy, wilson
from kakusan.part import KakusanError
from kakusan.training.source import open_source

FULL = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def real() -> Classifier:
    """Trained for a moment on 3,000 real pictures."""
    pictures, labels, classes = fashion()
    return train_classifier(pictures[:3000], labels[:3000], classes, seconds=1.34)


def shapes(count: int, size: tuple[int, int], channels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bright squares and bars on noise: two classes, in turns."""
    rng = np.random.default_rng(seed)
    height, width = size
    x = rng.integers(0, 90, (count, height, width, channels), dtype=np.uint8)
    for i in range(count):
        top, left = rng.integers(1, height // 3), rng.integers(1, width // 3)
        tall, wide = (height // 3, width // 3) if i % 2 else (height // 6, width // 2)
        x[i, top : top + tall, left : left + wide, :3] = 220
    if channels == 4:
        x[..., 3] = 255
    return x, np.arange(count) % 2


def test_it_learns_and_knows_how_well(real):
    pictures, labels, _ = fashion()
    fresh = accuracy(labels[3000:], real.predict(pictures[3000:]))
    assert fresh.value > 0.7
    assert real.accuracy.count == 500
    assert (real.accuracy.low, real.accuracy.high) == wilson(round(500 * real.accuracy.value), 500)
    assert real.accuracy.low < fresh.high and fresh.low < real.accuracy.high


def test_its_features_know_the_classes(real):
    """The nearest class centre in feature space names most new pictures."""
    pictures, labels, classes = fashion()
    features = real.features(pictures[:4000])
    assert features.shape == (4000, real.dim) and features.dtype == np.float32
    features = (features - features.mean(0)) / features.std(0)
    centres = np.stack([features[:3000][labels[:3000] == i].mean(0) for i in range(len(classes))])
    near = ((features[3000:, None] - centres) ** 2).sum(2).argmin(1)
    assert (near == labels[3000:4000]).mean() > 0.65


def test_it_is_the_same_every_time_and_leaves_the_global_state_alone():
    pictures, labels = shapes(60, (16, 16), 1)
    torch.manual_seed(3)
    before, np_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    a = train_classifier(pictures, labels, ["bar", "square"], seconds=0.02)
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == np_before).all()
    torch.manual_seed(4)
    b = train_classifier(pictures, labels, ["bar", "square"], seconds=0.02)
    c = train_classifier(pictures, labels, ["bar", "square"], seconds=0.02, seed=1)
    assert a.hash == b.hash != c.hash and len(a.hash) == 16
    assert torch.is_grad_enabled() and not any(p.requires_grad for p in a.net.parameters())


def test_seconds_are_steps():
    """Twice the seconds are twice the steps, and few pictures are not seen for ever."""
    pictures, labels, classes = fashion()
    calls: list[tuple[int, int]] = []
    steps = []
    for seconds in (0.14, 0.28):
        made = train_classifier(
            pictures[:2000], labels[:2000], classes, seconds=seconds, progress=lambda *at: calls.append(at)
        )
        steps.append(made.steps)
    assert steps[1] == pytest.approx(2 * steps[0], abs=1)
    assert calls[steps[0] - 1] == (steps[0], steps[0]) and len(calls) == sum(steps)
    few = train_classifier(*shapes(12, (16, 16), 1), ["bar", "square"], seconds=1e6)
    assert few.steps == 150  # the least, for ten pictures


@pytest.mark.parametrize(
    "size, channels, seconds",
    [((16, 16), 1, 0.54), ((28, 28), 4, 0.54), ((33, 47), 3, 0.54), ((128, 128), 4, 1.6)],
    ids=str,
)
def test_any_size_and_channels(size, channels, seconds):
    pictures, labels = shapes(36, size, channels)
    made = train_classifier(pictures, labels, ["bar", "square"], seconds=seconds)
    assert made.accuracy.count == 6
    new, truth = shapes(40, size, channels, seed=1)
    assert (made.predict(new, batch=7) == truth).mean() > 0.85
    assert np.allclose(made.features(new, batch=7), made.features(new), atol=1e-4)


def test_sixteen_bits_and_hidden_colours():
    pictures, labels = shapes(30, (16, 16), 4)
    pictures[:, :, 8:, 3] = 0
    made = train_classifier(pictures, labels, ["bar", "square"], seconds=0.02)
    hidden = pictures.copy()
    hidden[:, :, 8:, :3] = 255
    assert np.array_equal(made.features(pictures), made.features(hidden))
    deep = pictures.astype(np.uint16) * 257
    assert np.allclose(made.features(deep), made.features(pictures), atol=1e-4)


def test_few_pictures_of_a_class():
    """Two are enough to go on; the interval says how little is known."""
    pictures, labels = shapes(4, (16, 16), 3)
    made = train_classifier(pictures, labels, ["bar", "square"], seconds=0.05)
    assert made.accuracy.count == 2 and made.accuracy.high - made.accuracy.low > 0.6


def test_its_own_test_set():
    pictures, labels = shapes(40, (16, 16), 1)
    made = train_classifier(pictures, labels, ["bar", "square"], seconds=0.05, held_out=shapes(30, (16, 16), 1, seed=2))
    assert made.accuracy.count == 30


def test_saved_and_loaded(real, tmp_path):
    path = real.save(tmp_path / "classifier.safetensors")
    again = load_classifier(path)
    pictures = fashion()[0][:50]
    assert np.array_equal(again.predict(pictures), real.predict(pictures))
    assert (again.hash, again.classes, again.shape, again.accuracy, again.steps) == (
        real.hash,
        real.classes,
        real.shape,
        real.accuracy,
        real.steps,
    )


def test_damaged_files(real, tmp_path):
    path = real.save(tmp_path / "classifier.safetensors")
    whole = path.read_bytes()
    for name, data in {
        "short": whole[:2000],
        "empty": b"",
        "text": b"hello" * 100,
        "header": b"\0" * 8 + whole,
    }.items():
        bad = tmp_path / f"{name}.safetensors"
        bad.write_bytes(data)
        with pytest.raises(KakusanError, match="damaged") as caught:
            load_classifier(bad)
        assert "\n" not in str(caught.value)
    with pytest.raises(KakusanError, match="no such file"):
        load_classifier(tmp_path / "none.safetensors")


GREY, LABELS = shapes(20, (16, 16), 1)
TWO = ["bar", "square"]


@pytest.mark.parametrize(
    "pictures, labels, classes, words",
    [
        (GREY, LABELS, [*TWO, "disc"], "'disc' has 0; every class needs at least 2"),
        (GREY, LABELS, [*TWO, *"abcde"], "and 2 more"),
        (GREY[:3], LABELS[:3], TWO, "'square' has 1"),
        (GREY, LABELS, ["bar"], "at least two"),
        (GREY, LABELS + 1, TWO, "labels run from 1 to 2"),
        (GREY, LABELS[:5], TWO, "one label each"),
        (GREY.astype(np.float32), LABELS, TWO, "8 or 16 bits"),
        (GREY[..., 0], LABELS, TWO, r"\(N, H, W, C\)"),
        (np.repeat(GREY, 2, 3), LABELS, TWO, "2 channels"),
        (GREY[:, :4], LABELS, TWO, "16 x 4 of 1 channels: the classifier takes sides of 8 to 256"),
    ],
)
def test_what_cannot_be_learned_is_one_clear_line(pictures, labels, classes, words):
    with pytest.raises(KakusanError, match=words) as caught:
        train_classifier(pictures, labels, classes, seconds=0.01)
    assert "\n" not in str(caught.value)


def test_nothing_is_resized(real):
    with pytest.raises(KakusanError, match="32 x 32 of 3 channels, but the classifier was trained on 28 x 28 of 1"):
        real.predict(np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(KakusanError, match="seconds=0"):
        train_classifier(GREY, LABELS, TWO, seconds=0)


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_to_ninety_percent():
    """The default budget, on the split that everyone uses."""
    parts = []
    for split in ("train", "test"):
        source = open_source(FULL, split=split)
        assert source.labels is not None
        pictures = np.stack([source.record(i).data for i in range(len(source))])
        parts.append((pictures, np.asarray(source.labels)))
    made = train_classifier(*parts[0], [str(i) for i in range(10)], held_out=parts[1])
    assert made.accuracy.count == 10_000 and made.accuracy.value >= 0.9
