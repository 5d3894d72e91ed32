"""Edits: what is not painted stays to the bit, what is painted follows a known distribution, bad input is one line."""

from __future__ import annotations

import io
import json
import math
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil
from PIL import ImageCms
from torch import Tensor

from kakusan.app import cli
from kakusan.app.draw.loaded import Loaded
from kakusan.app.draw.samples import reproduce
from kakusan.app.edit.blending import great_circle
from kakusan.app.edit.editing import Wanted
from kakusan.app.edit.fill import inpaint, outpaint
from kakusan.app.edit.layout import lay_out
from kakusan.app.edit.restyle import edit, strength_ratio
from kakusan.catalog import build
from kakusan.checkpoint import save_model
from kakusan.core.batch import Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.model import Model
from kakusan.core.param import X0
from kakusan.core.process import VP
from kakusan.core.space import Flat
from kakusan.domains.canvas import feathered, open_canvas, open_mask
from kakusan.domains.image import Image
from kakusan.domains.picture import decode, encode_png
from kakusan.part import KakusanError

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 8
PLACE = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).float()
COVARIANCE = 0.06 * torch.exp(-torch.cdist(PLACE, PLACE).square() / 18) + 0.001 * torch.eye(SIDE * SIDE)


class Smooth(Net):
    """The exact denoiser of smooth random pictures, each channel N(0, COVARIANCE), for a process with a^2 + s^2 = 1."""

    kind = "test/smooth"

    def __init__(self) -> None:
        super().__init__()
        values, vectors = torch.linalg.eigh(COVARIANCE.double())
        self.values = torch.nn.Parameter(values.float())
        self.vectors = torch.nn.Parameter(vectors.float())

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        share = torch.sigmoid(2 * lam)[:, None, None]  # alpha^2
        gain = share.sqrt() * self.values / (share * self.values + 1 - share)
        return ((x.flatten(2) @ self.vectors * gain) @ self.vectors.T).reshape(x.shape)


def smooth(mode: str = "L", depth: int = 8) -> Loaded:
    domain = Image([SIDE, SIDE], mode, depth, sigma_data=0.25)
    model = Model(Denoiser(Smooth(), VP("cosine"), X0(), Flat()), domain, defaults={"steps": 12})
    return Loaded(model.eval(), {"hash": "smooth"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A model file of a small network with two classes, its weights as they began."""
    net = {"kind": "net/unet", "channels": 3, "width": 8, "mults": [1], "attention": [], "blocks": 1, "vector": 8}
    spec = {
        "kind": "model",
        "denoiser": {
            "kind": "denoiser",
            "net": net,
            "process": {"kind": "process/ve"},
            "param": {"kind": "param/karras", "sigma_data": 0.5},
            "space": {"kind": "space/flat"},
        },
        "domain": {"kind": "domain/image", "size": [SIDE, SIDE], "mode": "RGB"},
        "encoders": {"label": {"kind": "condition/label", "classes": ["cat", "dog"], "dim": 8}},
        "defaults": {"steps": 3, "guidance": 2.0},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(spec, "model")
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, model, {"data": {}, "training": {}, "licence": ""})
    return path


def drawn(shape: tuple[int, ...], dtype=np.uint8, seed: int = 0) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype, endpoint=True)


def block(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2] = 255
    return mask


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GAMMA = (b"gAMA", struct.pack(">I", 45455))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_what_is_not_masked_comes_back_to_the_bit(tmp_path, mode, channels, dtype):
    """Hidden colours under transparency, 16 bits, the profile and the gamma too, whatever the model draws."""
    pixels, soft = drawn((SIDE, SIDE, channels), dtype), block()
    soft[3] //= 2
    profile = PROFILE if channels > 1 else None
    (tmp_path / "in.png").write_bytes(encode_png(pixels, icc=profile, chunks=[GAMMA]))
    Pil.fromarray(soft).save(tmp_path / "mask.png")
    for route in ("posterior", "replace"):
        made = inpaint(smooth(mode), tmp_path / "in.png", tmp_path / "mask.png", Wanted(n=2, steps=3), route=route)
        for each in made:
            data = each.save(tmp_path / "out").read_bytes()
            back = decode(data, "out")
            assert back.data.dtype == dtype
            assert np.array_equal(back.data[soft == 0], pixels[soft == 0])
            assert back.meta.get("icc") == profile
            assert b"gAMA" in data and GAMMA[1] in data
        assert not np.array_equal(made[0].data, made[1].data)
        assert not np.array_equal(made[0].data[soft > 0], pixels[soft > 0])


def test_a_jpeg_comes_back_as_the_png_of_its_pixels(tmp_path):
    Pil.fromarray(drawn((SIDE, SIDE, 3))).save(tmp_path / "in.jpg", icc_profile=PROFILE)
    made = inpaint(smooth("RGB"), tmp_path / "in.jpg", block(), Wanted(steps=3))[0]
    path = made.save(tmp_path / "out.png")
    with Pil.open(tmp_path / "in.jpg") as before, Pil.open(path) as after:
        assert after.format == "PNG" and after.info["icc_profile"] == PROFILE
        assert np.array_equal(np.asarray(after)[block() == 0], np.asarray(before)[block() == 0])


def test_grey_with_alpha_keeps_its_two_channels_and_its_profile(tmp_path):
    grey = b"\0" * 16 + b"GRAY" + b"\0" * 108
    pixels = drawn((SIDE, SIDE, 2))
    (tmp_path / "in.png").write_bytes(encode_png(pixels, icc=grey))
    path = inpaint(smooth(), tmp_path / "in.png", block(), Wanted(steps=3))[0].save(tmp_path / "out.png")
    with Pil.open(path) as after:
        assert after.mode == "LA" and after.info["icc_profile"] == grey
        assert np.array_equal(np.asarray(after)[block() == 0], pixels[block() == 0])


def test_fills_follow_the_exact_conditional():
    """Mean and spread over 200 seeds of what was masked, given the rest, through files' units and back."""
    loaded, white = smooth(), block() > 0
    x0 = torch.linalg.cholesky(COVARIANCE) @ torch.linspace(0, 40, SIDE * SIDE).sin()
    pixels = loaded.domain.records(x0.reshape(1, 1, SIDE, SIDE))[0].data
    made = inpaint(loaded, pixels, block(), Wanted(n=200, steps=24), resample=1)
    seen = torch.from_numpy(pixels / 127.5 - 1).flatten().double()
    k, u = (torch.from_numpy(v.flatten()).nonzero().flatten() for v in (~white, white))
    c = COVARIANCE.double()
    gain = c[u][:, k] @ torch.linalg.inv(c[k][:, k] + 1e-4 * torch.eye(len(k)).double())
    mean, spread = gain @ seen[k], (c[u][:, u] - gain @ c[k][:, u]).diagonal().sqrt()
    x = torch.stack([torch.from_numpy(e.data / 127.5 - 1).flatten()[u] for e in made])
    assert float(((x.mean(0) - mean) / spread).abs().max()) < 0.35  # three standard errors are 0.21
    assert float((x.std(0) / spread).mean()) == pytest.approx(1, abs=0.1)
    assert float((mean.abs() / spread).mean()) > 1.5  # the known pixels say much


def test_a_soft_mask_and_a_feather_blend_inside_the_masked_side_only():
    mask = (block(16, 16) > 0).astype(np.float32)
    mask[4:12, 4:12] = 1
    soft = feathered(mask, 2)
    assert np.array_equal(soft > 0, mask > 0)
    assert np.allclose(soft[8, 3:7], [0, 1 / 3, 2 / 3, 1])
    edge = feathered(np.ones((8, 8), np.float32), 3)
    assert np.array_equal(edge, np.ones((8, 8)))  # the picture's own border is none


def test_alpha_is_mixed_premultiplied(tmp_path):
    canvas = open_canvas(np.full((1, 1, 4), [255, 0, 0, 0], np.uint8))
    mixed = canvas.merged(np.full((1, 1, 4), [0, 255, 0, 200], np.uint8), np.full((1, 1), 0.5, np.float32))
    assert mixed.tolist() == [[[0, 255, 0, 100]]]


def test_outpainting_keeps_the_picture_and_its_windows_agree():
    """Smooth pictures come out smooth across the joints: no step twice as large as the picture's own."""
    loaded = smooth()
    x0 = (torch.linalg.cholesky(COVARIANCE) @ torch.linspace(0, 40, SIDE * SIDE).sin()).reshape(1, 1, SIDE, SIDE)
    pixels = loaded.domain.records(x0)[0].data
    for each in outpaint(loaded, pixels, Wanted(n=3), left=5, right=9, top=3):
        assert each.data.shape == (SIDE + 3, SIDE + 14, 1)
        assert np.array_equal(each.data[3:, 5 : 5 + SIDE], pixels)
        steps = np.abs(np.diff(each.data[..., 0].astype(float), axis=1))
        inside = np.abs(np.diff(pixels[..., 0].astype(float), axis=1)).max()
        assert steps.max() < 2 * inside
        assert each.notes == ["painting in 10 overlapping windows"]


def test_strength_0_is_the_input_and_the_distance_grows_with_strength(tmp_path):
    loaded, pixels = smooth("RGBA"), drawn((SIDE, SIDE, 4), np.uint16)
    (tmp_path / "in.png").write_bytes(encode_png(pixels, icc=PROFILE))
    same = edit(loaded, tmp_path / "in.png", strength=0)[0]
    assert np.array_equal(same.data, pixels) and not same.generated
    large = drawn((30, 20, 4))
    assert np.array_equal(edit(loaded, large, strength=0)[0].data, large)
    plain = smooth()
    x0 = (torch.linalg.cholesky(COVARIANCE) @ torch.linspace(0, 40, SIDE * SIDE).sin()).reshape(1, 1, SIDE, SIDE)
    seen = plain.domain.records(x0)[0].data
    away = [
        np.mean([(e.data.astype(float) - seen) ** 2 for e in edit(plain, seen, Wanted(n=64), strength=s)])
        for s in (0, 0.05, 0.15, 0.3, 0.5, 0.7, 1)
    ]
    assert away[0] == 0 and all(a < b for a, b in pairwise(away)), away


def test_strength_1_starts_from_noise_alone():
    loaded = smooth()
    one = edit(loaded, np.zeros((SIDE, SIDE), np.uint8), strength=1.0)[0]
    other = edit(loaded, np.full((SIDE, SIDE), 255, np.uint8), strength=1.0)[0]
    assert np.array_equal(one.data, other.data)
    assert np.array_equal(one.data, loaded.sample(1)[0].data)
    assert strength_ratio(0.5, 0.25) == pytest.approx(0.75) and math.isinf(strength_ratio(1, 0.25))


@pytest.mark.parametrize("kind", ["x2", "x4", "blur", "noise"])
def test_restorations_agree_with_what_was_measured(kind):
    loaded = smooth()
    factor = {"x2": 2, "x4": 4}.get(kind, 1)
    x0 = torch.linalg.cholesky(COVARIANCE) @ torch.linspace(0, 40, SIDE * SIDE).sin()
    small = torch.nn.functional.avg_pool2d(x0.reshape(1, 1, SIDE, SIDE), factor)
    pixels = loaded.domain.records(small)[0].data
    for each in loaded.restore(pixels, kind, n=2, steps=24):
        assert each.data.shape == (SIDE, SIDE, 1)
        assert each.told["residual"] < (0.25 if kind == "noise" else 0.02)


def test_a_grey_picture_is_coloured_with_its_luminance_kept():
    loaded, pixels = smooth("RGB"), np.full((SIDE, SIDE), 140, np.uint8)
    made = loaded.restore(pixels, "grey", steps=24)[0]
    assert made.data.shape == (SIDE, SIDE, 3)
    assert np.ptp(made.data.astype(int), axis=2).max() > 10
    assert np.abs(made.data @ [0.299, 0.587, 0.114] - 140).max() < 4


def test_the_great_circle_keeps_the_norm_and_meets_its_ends():
    a, b = torch.randn(2, 3, 40, 40)
    for share in (0.0, 0.3, 1.0):
        assert float(great_circle(a, b, share).norm()) == pytest.approx(float(a.norm()), rel=0.05)
    torch.testing.assert_close(great_circle(a, b, 0.0), a)
    torch.testing.assert_close(great_circle(a, b, 1.0), b)
    torch.testing.assert_close(great_circle(a, a, 0.4), a)


def test_a_blend_reconstructs_its_ends_and_says_how_well():
    loaded = smooth()
    x0 = torch.linalg.cholesky(COVARIANCE) @ torch.stack([torch.linspace(0, w, SIDE * SIDE).sin() for w in (40, 9)]).T
    first, second = (r.data for r in loaded.domain.records(x0.T.reshape(2, 1, SIDE, SIDE)))
    made = loaded.blend(first, second, frames=5)
    assert min(made[0].told["psnr"]) > 30
    assert np.abs(made[0].data.astype(int) - first).mean() < 4
    assert np.abs(made[-1].data.astype(int) - second).mean() < 4
    steps = [np.abs(a.data.astype(int) - b.data).mean() for a, b in pairwise(made)]
    assert max(steps) < 2 * min(steps)  # no jump on the way
    assert [e.recipe["edit"]["frame"] for e in made] == [0, 1, 2, 3, 4]


def test_layouts():
    assert lay_out((8, 8), (8, 8), False, False).region == (0, 0, 8, 8)
    mask = np.zeros((40, 60), np.float32)
    mask[20:24, 50:54] = 1
    found = lay_out((40, 60), (8, 8), True, False, mask)
    assert found.region == (18, 48, 8, 8) and found.windows == 1  # one window around the mask, not the whole picture
    mask[2, 2] = 1
    assert lay_out((40, 60), (8, 8), True, False, mask).windows > 1
    scaled = lay_out((40, 60), (8, 8), False, True)
    assert scaled.work == (8, 12) and scaled.region == (0, 0, 8, 12)
    small = lay_out((5, 8), (8, 8), True, False)
    assert small.padded(torch.zeros(1, 5, 8), 1.0).shape == (1, 8, 8)
    with pytest.raises(KakusanError, match=r"60 x 40 pixels, the model paints 8 x 8: add --tile .* or --resize"):
        lay_out((40, 60), (8, 8), False, False)


@pytest.mark.parametrize("size", [(19, 13), (5, 8), (40, 8)])
@pytest.mark.parametrize("how", ["tile", "resize"])
def test_pictures_of_other_sizes_are_filled_on_request(size, how):
    pixels, mask = drawn((*size, 3)), block(*size)
    made = inpaint(smooth("RGB"), pixels, mask, Wanted(steps=3), **{how: True})[0]
    assert np.array_equal(made.data[mask == 0], pixels[mask == 0])
    assert not np.array_equal(made.data, pixels)
    whole = edit(smooth("RGB"), pixels, Wanted(steps=3), strength=0.5, **{how: True})[0]
    assert whole.data.shape == pixels.shape


def test_an_even_fill_stays_in_its_place_when_resized():
    """A grey picture with a hole, scaled for the model and back: the fill is grey, not shifted or darkened."""
    pixels, mask = np.full((24, 24), 128, np.uint8), block(24, 24)
    made = inpaint(smooth(), pixels, mask, Wanted(n=8, steps=12), resize=True)
    assert abs(np.mean([e.data[mask > 0] for e in made]) - 128) < 6


def save(path: Path, pixels: np.ndarray) -> Path:
    Pil.fromarray(pixels).save(path)
    return path


def call(capsys, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(w) for w in words])
    said = capsys.readouterr()
    return int(stopped.value.code or 0), said.out, said.err


def test_masks_that_have_nothing_or_nearly_everything_to_do(trained, tmp_path, capsys):
    picture = save(tmp_path / "in.png", drawn((SIDE, SIDE, 3)))
    black, white = (save(tmp_path / f"{v}.png", np.full((SIDE, SIDE), v, np.uint8)) for v in (0, 255))
    code, out, err = call(capsys, "inpaint", trained, picture, black, "-o", tmp_path / "out")
    made = Path(out.strip())
    assert code == 0 and "black everywhere" in err
    assert np.array_equal(open_canvas(made).pixels, open_canvas(picture).pixels)
    assert b"trainedAlgorithmicMedia" not in made.read_bytes()
    code, _, err = call(capsys, "inpaint", trained, picture, white, "-o", tmp_path / "out")
    assert code == 0 and "100% of the mask is white" in err and "--invert" in err
    code, _, err = call(capsys, "inpaint", trained, picture, white, "--invert", "-o", tmp_path / "out")
    assert code == 0 and "black everywhere" in err


def test_masks_in_other_dress(tmp_path):
    clear = np.zeros((SIDE, SIDE, 4), np.uint8)
    clear[..., :3] = 255
    clear[block() > 0, 3] = 255
    mask, _ = open_mask(save(tmp_path / "clear.png", clear), (SIDE, SIDE))
    assert np.array_equal(mask > 0, block() > 0)  # white but transparent is not white
    big = np.kron(block(), np.ones((4, 4), np.uint8))
    Pil.fromarray(big).save(tmp_path / "mask.jpg", quality=60)
    mask, _ = open_mask(tmp_path / "mask.jpg", big.shape)
    assert np.array_equal(mask > 0, big > 0)  # without the specks of its compression


def bad(folder: Path) -> dict[str, list[object]]:
    picture = save(folder / "in.png", drawn((SIDE, SIDE, 3)))
    mask = save(folder / "mask.png", block())
    small = save(folder / "small.png", block(6, 7))
    large = save(folder / "large.png", drawn((12, 11, 3)))
    frames = [Pil.fromarray(drawn((SIDE, SIDE, 3), seed=i)) for i in range(3)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    (folder / "text.png").write_text("no picture")
    np.save(folder / "numbers.npy", np.zeros((SIDE, SIDE, 3), np.float32))
    return {
        "mask small.png is 7 x 6 pixels, the picture 8 x 8": ["inpaint", picture, small],
        "the picture is 11 x 12 pixels, the model paints 8 x 8: add --tile": ["edit", large],
        "add --tile": ["inpaint", large, save(folder / "m.png", block(12, 11))],
        "film.gif: is animated": ["inpaint", folder / "film.gif", mask],
        "text.png: unsupported: this is no picture": ["inpaint", folder / "text.png", mask],
        "text.png: unsupported": ["inpaint", picture, folder / "text.png"],
        "none.png: no such file": ["edit", folder / "none.png"],
        "is a folder; name one picture": ["edit", folder],
        "numbers.npy: holds numbers": ["edit", folder / "numbers.npy"],
        "strength=1.5": ["edit", picture, "--strength", "1.5"],
        "--restore x4 and --strength 0.5": ["edit", picture, "--restore", "x4", "--strength", "0.5"],
        "restored it is 32 x 32 pixels": ["edit", picture, "--restore", "x4"],
        "amount=2: x2 takes none": ["edit", picture, "--restore", "x2", "--amount", "2", "--tile"],
        "nothing to extend": ["outpaint", picture],
        "left=-3": ["outpaint", picture, "--left", "-3"],
        "feather=-1": ["inpaint", picture, mask, "--feather", "-1"],
        "--resample 0": ["inpaint", picture, mask, "--resample", "0"],
        "unknown label 'dgo': did you mean 'dog'": ["inpaint", picture, mask, "--label", "dgo"],
        "no condition 'prompt'": ["inpaint", picture, mask, "a red apple"],
        "without guidance": ["inpaint", picture, mask, "--label", "dog", "--route", "posterior"],
        "frames=1": ["blend", picture, picture, "-n", "1"],
        "the picture is 11 x 12": ["blend", picture, large],
    }


def test_bad_input_is_one_clear_line(trained, tmp_path, capsys):
    for said, (verb, *words) in bad(tmp_path).items():
        code, out, err = call(capsys, verb, trained, *words, "-o", tmp_path / "out")
        lines = [line for line in err.splitlines() if line.startswith("kakusan:")]
        assert code == 2 and not out and len(lines) == 1 and said in lines[0], (said, err)
    assert not (tmp_path / "out").exists()


def test_edits_are_made_again_from_their_recipes(trained, tmp_path, capsys):
    picture, mask = save(tmp_path / "in.png", drawn((SIDE, SIDE, 3))), save(tmp_path / "mask.png", block())
    other = save(tmp_path / "other.png", drawn((SIDE, SIDE, 3), seed=1))
    out = tmp_path / "out"
    for words in (
        ["inpaint", trained, picture, mask, "--feather", "1", "--seed", "3"],
        ["inpaint", trained, picture, mask, "--label", "dog"],
        ["outpaint", trained, picture, "--left", "3"],
        ["edit", trained, picture, "--strength", "0.4", "--label", "cat"],
        ["edit", trained, picture, "--strength", "0.4", "--label", "cat:2 | dog", "--guidance", "2"],
        ["edit", trained, picture, "--restore", "blur", "--amount", "1.2"],
        ["blend", trained, picture, other, "-n", "3", "--steps", "4"],
    ):
        code, said, _ = call(capsys, *words, "-o", out, "--json")
        assert code == 0, words
        file = Path(json.loads(said)["files"][0])
        code, said, err = call(capsys, "reproduce", file, "-o", tmp_path / "again.png", "--json")
        assert code == 0 and json.loads(said)["identical"], (words, err)
    picture.unlink()
    with pytest.raises(KakusanError, match=r"its image .*in.png is not there any more"):
        reproduce(file.with_name("inpaint-in-000003.png"))
    save(picture, drawn((SIDE, SIDE, 3)))
    save(mask, 255 - block())
    with pytest.raises(KakusanError, match=r"its mask .*mask.png has changed since"):
        reproduce(out / "inpaint-in-000003.png")
    save(out / "mask.png", block())  # a copy beside the edit serves as well
    assert reproduce(out / "inpaint-in-000003.png")[1]


def test_several_results_come_with_a_sheet_and_no_recipe_when_told(trained, tmp_path, capsys):
    picture = save(tmp_path / "in.png", drawn((SIDE, SIDE, 3)))
    words = ["edit", trained, picture, "-n", "3", "--batch", "2", "--no-recipe", "-o", tmp_path / "out", "--json"]
    code, said, _ = call(capsys, *words)
    found = json.loads(said)
    assert code == 0 and found["path"].endswith("edit-in-grid.png") and found["seeds"] == [0, 1, 2]
    with pytest.raises(KakusanError, match="carries no recipe"):
        reproduce(found["files"][0])
    assert picture.read_bytes() != Path(found["files"][0]).read_bytes()


def test_an_edit_that_is_stopped_gives_what_is_finished():
    asked = iter([False] * 4 + [True] * 99)
    made = edit(smooth(), drawn((SIDE, SIDE)), Wanted(n=3, steps=3, batch=1, stop=lambda: next(asked)), strength=1.0)
    assert len(made) == 2


def test_an_edit_shows_itself_in_a_notebook():
    made = edit(smooth(), drawn((SIDE, SIDE)), Wanted(steps=2))[0]
    with Pil.open(io.BytesIO(made._repr_png_())) as shown:
        assert shown.width >= 64
