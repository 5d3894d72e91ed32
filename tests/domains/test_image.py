"""Pictures: depth, mode and transparency survive, and hostile files are refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from kakusan.domains.domain import Record
from kakusan.domains.image import Image
from kakusan.domains.picture import PictureError, decode, encode_png, read_recipe
from kakusan.part import KakusanError

RNG = np.random.default_rng(0)


def file(im: Pil.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    im.save(out, kind, **options)
    return out.getvalue()


def noise(height: int, width: int, channels: int, dtype=np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_round_trip_is_exact_at_any_depth(channels, dtype):
    a = noise(9, 7, channels, dtype)
    back = decode(encode_png(a), "x.png").data
    assert back.dtype == dtype and np.array_equal(back, a)


def test_our_png_reads_the_same_in_pillow():
    a = noise(11, 5, 4)
    assert np.array_equal(np.asarray(Pil.open(io.BytesIO(encode_png(a)))), a)
    smooth = np.add.outer(np.arange(40), np.arange(40)).astype(np.uint8)[..., None]
    assert np.array_equal(np.asarray(Pil.open(io.BytesIO(encode_png(smooth)))), smooth[..., 0])


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("depth", [8, 16])
def test_model_tensors_and_back_are_exact(mode, depth):
    domain = Image([8, 6], mode, depth)
    a = noise(8, 6, domain.channels, np.uint8 if depth == 8 else np.uint16)
    x = domain.tensor(Record(a))
    assert x.shape == (domain.channels, 8, 6) and x.dtype == torch.float32 and x.min() >= -1 and x.max() <= 1
    (back,) = domain.records(x[None])
    assert back.data.dtype == a.dtype and np.array_equal(back.data, a)


def test_sixteen_bits_stay_exact_from_file_to_file(tmp_path):
    a = RNG.permutation(65536).astype(np.uint16).reshape(256, 256, 1)
    domain = Image.fit([decode(file(Pil.fromarray(a[..., 0])), "x.png")], size=[256, 256])
    assert (domain.mode, domain.depth) == ("L", 16)
    record = domain.records(domain.tensor(domain.load(file(Pil.fromarray(a[..., 0])), "x.png"))[None])[0]
    path = domain.save(record, tmp_path / "out.png")
    assert np.array_equal(np.asarray(Pil.open(path)), a[..., 0])


def test_sixteen_bit_grey_with_alpha():
    a = noise(5, 4, 2, np.uint16)
    back = decode(encode_png(a), "x.png").data
    assert np.array_equal(back[..., 0], a[..., 0]) and np.array_equal(back[..., 3], a[..., 1])


@pytest.mark.parametrize("hidden", [(255, 255, 255), (0, 0, 0), (0, 255, 0)])
@pytest.mark.parametrize("side", [16, 24])
def test_a_disc_on_transparency_has_no_fringe(hidden, side):
    y, x = np.indices((128, 128)) - 63.5
    inside = x**2 + y**2 < 50**2
    a = np.zeros((128, 128, 4), np.uint8)
    a[...] = (*hidden, 0)
    a[inside] = (255, 0, 0, 255)
    domain = Image([side, side], "RGBA")
    (back,) = domain.records(domain.tensor(Record(a))[None])
    edge = (back.data[..., 3] > 8) & (back.data[..., 3] < 247)
    assert edge.sum() > 8
    assert (back.data[edge][:, 0] >= 245).all() and (back.data[edge][:, 1:3] <= 8).all()
    other = a.copy()
    other[~inside, :3] = 77  # hidden colours do not matter at all
    assert torch.equal(domain.tensor(Record(a)), domain.tensor(Record(other)))


def test_nothing_is_minus_one_and_colour_stays_below_alpha():
    domain = Image([8, 8], "RGBA")
    assert domain.tensor(Record(np.full((8, 8, 4), (200, 100, 50, 0), np.uint8))).eq(-1).all()
    x = domain.tensor(Record(noise(40, 40, 4)))
    assert (x[:3] <= x[3:] + 1e-6).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation(turn):
    a = np.zeros((8, 16), np.uint8)
    a[:4, :8] = 255
    im = Pil.fromarray(a)
    exif = Pil.Exif()
    exif[0x0112] = turn
    got = decode(file(im, "PNG", exif=exif), "x.png").data[..., 0]
    expected = {
        1: a,
        2: a[:, ::-1],
        3: a[::-1, ::-1],
        4: a[::-1],
        5: a.T,
        6: a.T[:, ::-1],
        7: a.T[::-1, ::-1],
        8: a.T[::-1],
    }
    assert np.array_equal(got, expected[turn])
    jpeg = decode(file(im, "JPEG", exif=exif, quality=100), "x.jpg").data[..., 0]
    assert np.abs(jpeg.astype(int) - expected[turn]).max() < 40


def test_deep_colour_is_turned_as_well():
    a = noise(4, 6, 3, np.uint16)
    exif = Pil.Exif()
    exif[0x0112] = 6
    data, chunk = encode_png(a), exif.tobytes()[6:]
    chunk = struct.pack(">I", len(chunk)) + b"eXIf" + chunk + struct.pack(">I", zlib.crc32(b"eXIf" + chunk))
    assert np.array_equal(decode(data[:33] + chunk + data[33:], "x").data, a.transpose(1, 0, 2)[:, ::-1])


def test_modes_become_what_they_are():
    rgba = Pil.fromarray(noise(6, 6, 4))
    assert decode(file(rgba.convert("LA")), "x").data.shape[2] == 4
    assert decode(file(Pil.fromarray(noise(6, 6, 4), "CMYK"), "JPEG"), "x").data.shape[2] == 3
    palette = Pil.fromarray(noise(6, 6, 3)).quantize(8)
    assert decode(file(palette), "x").data.shape[2] == 3
    clear = decode(file(palette, transparency=0), "x").data
    assert clear.shape[2] == 4 and set(np.unique(clear[..., 3])) == {0, 255}
    assert np.array_equal(decode(file(Pil.fromarray(noise(6, 6, 1)[..., 0] > 99)), "x").data.max(), 255)


def huge_header(width: int, height: int) -> bytes:
    data = bytearray(encode_png(noise(4, 4, 1)))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9_000, 12_000, 30_000, 2**31 - 1])
def test_bombs_are_refused_by_their_header(side):
    with pytest.raises(PictureError) as caught:
        decode(huge_header(side, side), "bomb.png")
    assert caught.value.reason in ("oversized", "broken") and "bomb.png" in str(caught.value)


def test_truncated_broken_empty_and_foreign_files_are_named():
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        data = file(Pil.fromarray(noise(64, 64, 3)), kind)
        with pytest.raises(PictureError) as caught:
            decode(data[: len(data) // 2], "half")
        assert caught.value.reason in ("truncated", "broken"), kind
    data = file(Pil.fromarray(noise(64, 64, 3)), "JPEG")
    with pytest.raises(PictureError, match="truncated"):
        decode(data[: len(data) // 2], "half.jpg")
    for bad, reason in (
        (b"", "broken"),
        (b"hello world" * 9, "unsupported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "unsupported"),
    ):
        with pytest.raises(PictureError, match=reason):
            decode(bad, "bad.png")


def test_random_damage_never_escapes_as_another_error():
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        data = file(Pil.fromarray(noise(20, 20, 3)), kind)
        for _ in range(60):
            hurt = bytearray(data)
            for at in RNG.integers(0, len(hurt), 5):
                hurt[at] = RNG.integers(256)
            try:
                decode(bytes(hurt), "hurt", limit=10**6)
            except PictureError as error:
                assert error.reason


def test_pickled_arrays_are_refused():
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(PictureError, match="pickle"):
        decode(out.getvalue(), "x.npy")


def test_crop_pad_and_stretch():
    a = np.zeros((40, 80, 1), np.uint8)
    a[:, 20:60] = 255  # the middle square is white
    assert (Image([10, 10], "L", fit="crop").fitted(Record(a)) > 230).all()
    pad = Image([10, 10], "L", fit="pad").fitted(Record(a))
    assert (pad[:2] == 0).all() and pad[5, 5] > 250
    stretch = Image([10, 10], "L", fit="stretch").fitted(Record(a))
    assert stretch[5, 5] > 250 and stretch[5, 0] < 15
    clear = Image([8, 8], "RGBA", fit="pad").fitted(Record(noise(4, 8, 4)))
    assert (clear[:2] == 0).all()


def test_fit_reads_mode_size_and_spread_off_the_data():
    grey = [Record(np.repeat(noise(28, 28, 1), 3, 2)) for _ in range(8)]
    domain = Image.fit(grey)
    assert (domain.mode, domain.size) == ("L", (28, 28))
    assert domain.sigma_data == pytest.approx(2 / 12**0.5, abs=0.03)
    opaque = noise(100, 120, 4)
    opaque[..., 3] = 255
    assert (Image.fit([Record(opaque)]).mode, Image.fit([Record(opaque)]).size) == ("RGB", (64, 64))
    assert Image.fit([Record(opaque)], size=96).size == (96, 96)
    assert Image.fit([Record(opaque), Record(noise(70, 50, 4))]).mode == "RGBA"
    assert Image.fit([Record(noise(9, 9, 1, np.uint16))] * 2 + [Record(noise(9, 9, 1))]).depth == 16
    with pytest.raises(KakusanError, match="sise"):
        Image.fit(grey, sise=3)
    with pytest.raises(KakusanError, match="data check"):
        Image.fit([])


def test_arrays_of_any_channels(tmp_path):
    a = RNG.normal(size=(12, 10, 5)).astype(np.float32)
    out = io.BytesIO()
    np.save(out, a.transpose(2, 0, 1))
    record = decode(out.getvalue(), "x.npy")
    assert np.array_equal(record.data, a)
    domain = Image.fit([record])
    assert (domain.mode, domain.channels, domain.depth, domain.size) == ("array", 5, 32, (12, 10))
    x = domain.tensor(record)
    assert x.abs().max() <= 1.0001
    back = domain.records(x[None])[0]
    assert np.allclose(back.data, a, atol=1e-5)
    path = domain.save(back, tmp_path / "out", {"seed": 3})
    assert path.suffix == ".npy" and np.array_equal(np.load(path), back.data) and read_recipe(path) == {"seed": 3}


def test_saved_pictures_carry_recipe_and_mark(tmp_path):
    domain = Image([6, 6], "RGBA")
    record = domain.records(torch.zeros(1, 4, 6, 6))[0]
    recipe = {"seed": 7, "prompt": "ein roter Apfel – ü"}
    path = domain.save(record, tmp_path / "a.jpg", recipe)
    assert path.name == "a.jpg.png" and read_recipe(path) == recipe
    im = Pil.open(path)
    assert im.mode == "RGBA" and "trainedAlgorithmicMedia" in im.text["XML:com.adobe.xmp"]
    assert read_recipe(domain.save(record, tmp_path / "b.png")) is None
    assert "trainedAlgorithmicMedia" in Pil.open(tmp_path / "b.png").text["XML:com.adobe.xmp"]
    kept = domain.save(Record(noise(6, 6, 4)), tmp_path / "c.png")
    assert not Pil.open(kept).text
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_icc_profile_is_kept(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    domain = Image([6, 6], "RGB")
    record = domain.load(file(Pil.fromarray(noise(6, 6, 3)), icc_profile=profile), "x.png")
    assert Pil.open(domain.save(record, tmp_path / "x.png")).info["icc_profile"] == profile


def test_floats_are_channels_last_and_match_single_tensors():
    domain = Image([5, 7], "RGB")
    records = [Record(noise(20, 20, 3)) for _ in range(3)]
    x = domain.floats(np.stack([domain.fitted(r) for r in records]))
    assert x.is_contiguous(memory_format=torch.channels_last)
    batch, mask = domain.collate([domain.tensor(r) for r in records])
    assert mask is None and torch.equal(x, batch)


def test_jpeg_at_a_fraction_looks_the_same():
    y, x = np.indices((512, 512))
    a = np.stack([x / 2, y / 2, (x + y) / 4], 2).astype(np.uint8)
    data = file(Pil.fromarray(a), "JPEG", quality=95)
    domain = Image([32, 32], "RGB")
    fast, slow = domain.pack(data, "x.jpg"), domain.fitted(domain.load(data, "x.jpg"))
    assert np.abs(fast.astype(int) - slow).max() <= 6


def test_a_float_picture_that_is_not_finite_is_left_out():
    good = [Record(np.full((4, 4, 1), v, np.float32), {"name": str(v)}) for v in (-3.0, 5.0)]
    bad = [Record(np.full((4, 4, 1), v, np.float32), {"name": str(v)}) for v in (np.nan, np.inf)]
    domain = Image.fit([*bad, *good])
    assert (domain.low, domain.high) == (-3.0, 5.0) and np.isfinite(domain.sigma_data)
    for record in bad:
        with pytest.raises(PictureError, match="16 of its 16 values are not finite"):
            domain.fitted(record)
        with pytest.raises(PictureError, match="not finite"):
            domain.pack(record.data)
    with pytest.raises(KakusanError, match="no picture"):
        Image.fit(bad)


def test_nan_and_infinity_become_pictures():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0]).reshape(1, 1, 2, 2)
    assert Image([2, 2], "L").records(x)[0].data.ravel().tolist() == [128, 255, 0, 128]


@pytest.mark.parametrize("bad", [{"mode": "XYZ"}, {"depth": 9}, {"fit": "zoom"}, {"mode": "array"}, {"size": [0, 4]}])
def test_bad_arguments_are_named(bad):
    with pytest.raises(KakusanError):
        Image(**({"size": [4, 4]} | bad))


def test_spec_rebuilds_and_blank_gives_shapes():
    domain = Image([4, 6], "I;16", fit="pad", sigma_data=0.4)
    spec = domain.spec()
    again = Image(**{k: v for k, v in spec.items() if k != "kind"})
    assert again.spec() == spec and spec["kind"] == "domain/image" and again.depth == 16
    assert domain.blank(2) == [(1, 4, 6)] * 2 and domain.blank(1, size=9) == [(1, 9, 9)]
    with pytest.raises(KakusanError, match="colour"):
        domain.blank(1, colour=3)
