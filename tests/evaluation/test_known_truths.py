"""What must be true of the figures on real pictures: Fashion-MNIST of the examples, features of EfficientNet-Lite0."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kakusan.evaluation.distances import Figure, measure
from kakusan.evaluation.features import extractor

EXAMPLES = Path(__file__).parents[2] / "examples" / "fashion.zip"
REAL, DRAWN = 300, 150
CLOTHES = {"T-shirt", "coat", "dress", "pullover", "shirt", "trouser"}  # without shoes and bags


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 28, 28, 1) and whether each shows clothes, shuffled."""
    with zipfile.ZipFile(EXAMPLES) as archive:
        names = sorted(archive.namelist())
        order = np.random.default_rng(0).permutation(len(names))[: REAL + 2 * DRAWN]
        images = [np.asarray(Image.open(io.BytesIO(archive.read(names[i])))) for i in order]
    return np.stack(images)[..., None], np.array([names[i].split("/")[1] in CLOTHES for i in order])


@pytest.fixture(scope="module")
def features(pictures) -> np.ndarray:
    return extractor()(pictures[0])


@pytest.fixture(scope="module")
def alike(features) -> dict[str, Figure]:
    """Real pictures against other real ones."""
    return measure(features[:REAL], features[REAL : REAL + DRAWN])


def test_two_parts_of_the_real_data_are_alike(alike):
    for name, truth in (("frechet_infinity", 0.0), ("kernel", 0.0), ("two_sample", 0.5)):
        assert alike[name].low <= truth <= alike[name].high, name
    assert alike["frechet"].low > 100 > abs(alike["frechet_infinity"].value)  # all of it bias
    assert alike["density"].low <= 1 <= alike["density"].high
    assert min(alike["precision"].value, alike["recall"].value) > 0.8


def test_dropped_classes_lower_recall_and_not_precision(features, pictures, alike):
    found = measure(features[:REAL], features[REAL:][pictures[1][REAL:]][:DRAWN])
    assert found["recall"].value < alike["recall"].low and found["coverage"].high < alike["coverage"].low
    assert found["precision"].value > alike["precision"].value - 0.03
    assert found["frechet_infinity"].value > alike["frechet_infinity"].high and found["kernel"].low > 0


def test_noise_lowers_precision_first(features, pictures, alike):
    """Four levels of 255: hardly to be seen."""
    real, drawn = features[:REAL], pictures[0][REAL : REAL + DRAWN]
    noise = np.random.default_rng(1).standard_normal(drawn.shape)
    noisy = np.clip(drawn + 4 * noise, 0, 255).round().astype(np.uint8)
    found = measure(real, extractor()(noisy))
    lost = {name: alike[name].value - found[name].value for name in ("precision", "recall")}
    assert lost["precision"] > 0.1 and lost["precision"] > 1.5 * lost["recall"]
    assert found["frechet_infinity"].low > alike["frechet_infinity"].value and found["two_sample"].low > 0.6
