"""Engines: chosen by figures, put in a network's place without changing what is drawn."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kakusan.app.deploy import engines
from kakusan.app.draw.loaded import Loaded
from kakusan.app.draw.sampler import Request
from kakusan.checkpoint import model_hash
from kakusan.nets import winograd
from kakusan.part import KakusanError
from kakusan.runtime.choose import Timing, measure, pick, recall, remember
from kakusan.runtime.nets import engine
from runtime.small import model

ALL = ("eager", "onnx", "openvino")


def timing(engine: str, batch: int, seconds: float, load: float = 0.0, off: float = 0.0) -> Timing:
    return Timing(engine, batch, seconds, load, off)


def test_loading_counts():
    known = [timing("eager", 1, 0.004), timing("onnx", 1, 0.001, load=0.1), timing("openvino", 1, 0.0005, load=2.0)]
    assert pick(known, 1, 20, ALL) == "eager"  # 0.08 s, 0.12 s, 2.01 s
    assert pick(known, 1, 60, ALL) == "onnx"
    assert pick(known, 1, 10_000, ALL) == "openvino"
    assert pick(known, 1, 10_000, ("eager", "onnx")) == "onnx"


def test_the_nearest_batch_is_asked():
    known = [timing("eager", 1, 0.004), timing("onnx", 1, 0.001), timing("eager", 64, 0.08), timing("onnx", 64, 0.1)]
    assert [pick(known, n, 20, ALL) for n in (1, 4, 7, 9, 64, 256)] == ["onnx"] * 3 + ["eager"] * 3


def test_what_is_wrong_or_unknown_is_not_taken():
    assert pick([], 1, 20, ALL) == "eager"
    known = [
        timing("eager", 1, 0.004),
        timing("onnx", 1, 0.001, off=1.5),
        timing("openvino", 1, 0.001, off=float("nan")),
    ]
    assert pick(known, 1, 1000, ALL) == "eager"


def test_figures_are_kept_by_key_engine_and_batch(tmp_path):
    file = tmp_path / "f.json"
    assert recall(file, "a") == []
    remember(file, "a", [timing("eager", 1, 2.0), timing("eager", 64, 3.0)])
    remember(file, "b", [timing("onnx", 1, 9.0)])
    remember(file, "a", [timing("eager", 1, 1.0)])
    assert sorted(recall(file, "a"), key=lambda t: t.batch) == [timing("eager", 1, 1.0), timing("eager", 64, 3.0)]
    assert recall(file, "b") == [timing("onnx", 1, 9.0)]
    file.write_text('{"a": [{"engine": 1}]}')
    assert recall(file, "a") == []
    file.write_text("no JSON")
    assert recall(file, "a") == []


def test_measuring_tells_slow_from_quick_and_right_from_wrong():
    made = model(encoders={})

    def slow(x, lam, cond):
        time.sleep(0.03)
        return made.denoiser.net(x, lam, cond)

    def wrong(x, lam, cond):
        return made.denoiser.net(x, lam, cond) * 1.001

    calls = {"eager": (made.denoiser.net, 0.0), "slow": (slow, 0.5), "wrong": (wrong, 0.0)}
    found = {t.engine: t for t in measure(calls, lambda n: engines.noise(made, (1, 9, 11), n), 2, seconds=0.1)}
    assert found["slow"].seconds > found["eager"].seconds + 0.02
    assert found["eager"].correct and found["slow"].correct and not found["wrong"].correct
    assert found["slow"].load == 0.5


@pytest.fixture
def loaded(tmp_path, monkeypatch) -> Loaded:
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path))
    made = model("net/dit", encoders={})
    made.defaults["guidance"] = 1.0
    return Loaded(made, {"hash": model_hash(made)})


def test_nothing_measured_is_eager(loaded):
    net = loaded.model.denoiser.net
    assert engines.swap(loaded, "auto", Request(range(64))) == "eager"
    assert loaded.model.denoiser.net is net
    assert "runtime" not in loaded.sample(1, steps=2)[0].recipe
    with pytest.raises(
        KakusanError, match="--runtime 'fast' is not known; choose one of: auto, eager, winograd, bf16, onnx, openvino"
    ):
        engines.swap(loaded, "fast", Request([0]))


def test_bf16_is_near_and_never_taken_unasked(loaded, monkeypatch):
    monkeypatch.setattr("kakusan.runtime.nets.half_is_fast", lambda: True)
    before = loaded.sample(2, steps=4)
    net = loaded.model.denoiser.net
    call, _ = engine("bf16", net, *engines.noise(loaded.model, (1, 9, 11), 2)[::2], Path(), Path(), 1)
    found = measure({"eager": (net, 0.0), "bf16": (call, 0.0)}, lambda n: engines.noise(loaded.model, (1, 9, 11), n), 2)
    assert not found[1].correct
    assert pick([timing("eager", 1, 1.0), replace(found[1], seconds=1e-9)], 1, 1, ("eager", "bf16")) == "eager"
    assert engines.swap(loaded, "bf16", Request([0, 1], steps=4)) == "bf16"
    for one, other in zip(before, loaded.sample(2, steps=4), strict=True):
        assert other.recipe == one.recipe | {"runtime": "bf16"}
        assert 0 < float((one.raw - other.raw).abs().max()) < 0.1


def test_winograds_filtering_draws_the_same_and_is_refused_without_wide_layers(loaded, monkeypatch):
    with pytest.raises(KakusanError, match="--runtime winograd: no 3x3 convolution of this network has 64 channels"):
        engines.swap(loaded, "winograd", Request([0]))
    monkeypatch.setattr(winograd, "CHANNELS", 8)
    monkeypatch.setattr(winograd, "WASTE", 3.0)
    made = model("net/unet", encoders={})
    wide = Loaded(made, {"hash": model_hash(made)})
    before = wide.sample(2, steps=4)
    assert engines.swap(wide, "winograd", Request([0, 1], steps=4)) == "winograd"
    for one, other in zip(before, wide.sample(2, steps=4), strict=True):
        assert other.recipe == one.recipe | {"runtime": "winograd"}
        assert 0 < float((one.raw - other.raw).abs().max()) < 1e-4


def test_bf16_is_refused_where_the_processor_lacks_it(loaded, monkeypatch):
    monkeypatch.setattr("kakusan.runtime.nets.half_is_fast", lambda: False)
    with pytest.raises(KakusanError, match="--runtime bf16: this processor has no bf16 instructions"):
        engines.swap(loaded, "bf16", Request([0]))


@pytest.mark.skipif(
    any(importlib.util.find_spec(m) is None for m in ("onnx", "onnxscript", "onnxruntime")), reason="needs [export]"
)
def test_another_engine_draws_the_same(loaded):
    """Chosen by figures, kept between runs, refused when its file was changed, and told in the recipe."""
    before = loaded.sample(2, steps=4)
    key = engines.figures_key((1, 9, 11), torch.get_num_threads())
    remember(engines.figures_file(loaded), key, [timing("eager", 1, 1.0), timing("onnx", 1, 0.5)])
    assert engines.swap(loaded, "auto", Request([0, 1], steps=4)) == "onnx"
    after = loaded.sample(2, steps=4)
    for one, other in zip(before, after, strict=True):
        assert other.recipe == one.recipe | {"runtime": "onnx"}
        assert float((one.raw - other.raw).abs().max()) < 1e-4
    with pytest.raises(KakusanError, match="this engine was made for"):
        loaded.sample(1, steps=2, size=16)
    file = engines.network_file(loaded, (1, 9, 11), "model")
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(KakusanError, match="SHA-256 is not that of a file exported here"):
        engines.swap(Loaded(model("net/dit", encoders={}), {"hash": loaded.info()["hash"]}), "onnx", Request([0]))
