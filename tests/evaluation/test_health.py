"""Health: bad samples are named, good ones of very different data are left alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kakusan.evaluation.health import diagnose, reference_stats
from kakusan.evaluation.statistics import spectral_slope
from kakusan.part import KakusanError


def blobs(n: int, channels: int, seed: int, roughness: float = 1.5, size: int = 32) -> torch.Tensor:
    """Photograph-like: random phases under a power law of amplitude f^-roughness."""
    g = torch.Generator().manual_seed(seed)
    f = torch.fft.fftfreq(size)
    radius = (f[:, None] ** 2 + f[None] ** 2).sqrt().clamp_min(1 / size)
    noise = torch.fft.fft2(torch.randn(n, channels, size, size, generator=g)) * radius**-roughness
    x = torch.fft.ifft2(noise).real
    x = x / x.std((2, 3), keepdim=True) * (0.3 + 0.3 * torch.rand(n, 1, 1, 1, generator=g))
    return (x + 0.3 * torch.randn(n, channels, 1, 1, generator=g)).clamp(-1, 1)


def icons(n: int, seed: int) -> torch.Tensor:
    """Flat shapes on an empty ground, RGBA."""
    g = torch.Generator().manual_seed(seed)
    x = torch.full((n, 4, 32, 32), -1.0)
    for i in range(n):
        for _ in range(3):
            a, b = torch.randint(2, 18, (2,), generator=g).tolist()
            h, w = torch.randint(5, 13, (2,), generator=g).tolist()
            x[i, :, a : a + h, b : b + w] = torch.cat([torch.rand(3, generator=g) * 2 - 1, torch.ones(1)])[
                :, None, None
            ]
    return x


def grass(n: int, seed: int) -> torch.Tensor:
    """A naturally noisy texture: neighbours hardly correlate."""
    x = torch.randn(n, 1, 34, 34, generator=torch.Generator().manual_seed(seed))
    kernel = torch.tensor([[0.0, 0.1, 0.0], [0.1, 1.0, 0.1], [0.0, 0.1, 0.0]])[None, None]
    return (0.3 * F.conv2d(x, kernel)).clamp(-1, 1)


def night(n: int, seed: int) -> torch.Tensor:
    return (blobs(n, 3, seed) + 1) * 0.08 - 1


DATA = {
    "photographs": lambda n, s: blobs(n, 3, s),
    "icons": icons,
    "grass": grass,
    "night": night,
    "white noise": lambda n, s: (torch.randn(n, 1, 32, 32, generator=torch.Generator().manual_seed(s)) / 3).clamp(
        -1, 1
    ),
    "audio": lambda n, s: blobs(n, 1, s)[:, :, 0].repeat(1, 1, 4),
}


@pytest.fixture(scope="module")
def references():
    return {name: reference_stats(make(300, 0)) for name, make in DATA.items()}


def kinds(x, reference, **context):
    return {f.kind for f in diagnose(x, reference, context)}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("count", [1, 4, 16, 64])
def test_no_false_alarm_on_other_samples_of_the_same_data(name, count, references):
    x = DATA[name](4 * count, 1)
    for part in x.split(count):
        assert diagnose(part, references[name]) == []
        assert diagnose(part * 1.03, references[name]) == []  # models overshoot a little


@pytest.mark.parametrize("name", ["photographs", "icons", "grass", "night", "audio"])
@pytest.mark.parametrize("count", [1, 16])
def test_pure_noise_is_a_problem(name, count, references):
    x = torch.randn(DATA[name](count, 2).shape, generator=torch.Generator().manual_seed(3))
    found = diagnose(x, references[name])
    assert found[0].severity == "problem" and found[0].kind in ("noise", "unconverged")
    assert "kakusan resume" in found[0].fix


@pytest.mark.parametrize(("name", "least"), [("photographs", 0.3), ("icons", 0.12), ("grass", 0.5), ("night", 0.08)])
def test_noise_left_in_samples_is_named_from_some_level_on(name, least, references):
    g = torch.Generator().manual_seed(4)
    clean = DATA[name](16, 2)
    for level in (least, 2 * least, 4 * least):
        noisy = clean + level * torch.randn(clean.shape, generator=g)
        assert kinds(noisy, references[name]) & {"noise", "unconverged"}, level
    assert kinds(clean + 0.01 * torch.randn(clean.shape, generator=g), references[name]) == set()


def test_noise_is_the_cause_of_values_out_of_range(references):
    found = diagnose(3 * torch.randn(8, 3, 32, 32), references["photographs"])
    assert [f.kind for f in found] == ["noise"]


@pytest.mark.parametrize("name", ["photographs", "icons", "grass", "night", "audio"])
def test_one_colour(name, references):
    x = DATA[name](16, 2)
    for level, word in ((-1.0, "black"), (1.0, "white"), (0.2, "one colour")):
        (found,) = diagnose(torch.full_like(x, level), references[name])
        assert (found.kind, found.severity) == ("constant", "problem") and word in found.message
    assert "constant" in kinds(
        x.mean((2, 3) if x.ndim == 4 else 2, keepdim=True) + 0.02 * (x - x.mean()), references[name]
    )


def test_data_with_empty_pictures_may_have_empty_samples():
    data = blobs(300, 1, 0)
    data[::10] = -1
    reference = reference_stats(data)
    x = blobs(20, 1, 1)
    x[::10] = -1
    assert diagnose(x, reference) == []
    assert kinds(torch.full_like(x, -1), reference) == {"constant"}


@pytest.mark.parametrize(
    ("epochs", "words"), [(0.04, "saw 4% of the pictures"), (2.55, "seen 2.5 times"), (90, "enough.")]
)
def test_how_much_was_seen_is_said_as_people_say_it(references, epochs, words):
    (found,) = diagnose(torch.randn(16, 3, 32, 32), references["photographs"], {"epochs": epochs})
    assert words in found.cause


def test_not_a_number(references):
    x = blobs(4, 3, 1)
    x[2, 0, 0, 0] = float("nan")
    x[3, 0, 0, 0] = float("inf")
    (found,) = diagnose(x, references["photographs"])
    assert (found.kind, found.severity) == ("nan", "problem") and "2 of 4" in found.message
    assert "resume" not in found.fix  # that would go on from the broken weights


def test_wrong_range_and_the_advice_to_lower_guidance(references):
    (found,) = diagnose(3 * blobs(16, 3, 1), references["photographs"], {"guidance": 7.0})
    assert found.kind == "range" and "guidance" in found.cause and "--guidance" in found.fix


def test_saturation(references):
    x = (6 * blobs(16, 3, 1, roughness=2.5)).clamp(-1, 1)
    assert "saturated" in kinds(x, reference_stats(blobs(300, 3, 0, roughness=2.5)))


def test_collapse(references):
    x = blobs(1, 3, 1).repeat(8, 1, 1, 1)
    x = x + 0.005 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert kinds(x, references["photographs"]) == {"collapse"}


def test_drifted_colour(references):
    x = blobs(16, 3, 1) * 0.5
    x[:, 1] = x[:, 1] * 0.1 + 0.95
    assert "colour" in kinds(x, references["photographs"])


def test_blur(references):
    x = F.avg_pool2d(blobs(16, 3, 1, roughness=1.5), 7, 1, 3, count_include_pad=False)
    assert "blurred" in kinds(x, references["photographs"])


def test_a_few_bad_samples_are_a_warning(references):
    x = blobs(16, 3, 1)
    x[3] = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    (found,) = diagnose(x, references["photographs"])
    assert (found.kind, found.severity) == ("noise", "warning") and found.message.startswith("1 of 16 samples is noise")


def test_the_cause_depends_on_what_is_known(references):
    x = torch.randn(4, 3, 32, 32)
    (few,) = diagnose(x, references["photographs"], {"steps": 4})
    assert "--steps 20" in few.fix
    (short,) = diagnose(x, references["photographs"], {"steps": 50, "epochs": 1.5, "minutes": 12.0, "run": "runs/a"})
    assert "1.5 times" in short.cause and "`kakusan resume runs/a --minutes 12`" in short.fix
    (cut,) = diagnose(x, references["photographs"], {"finished": False})
    assert "stopped" in cut.cause
    assert short.line().count("\n") == 0 and short.dict()["kind"] == "noise"


def test_without_a_reference_only_the_certain():
    assert diagnose(grass(8, 0)) == [] and diagnose(icons(8, 0)) == [] and diagnose(night(8, 0)) == []
    assert kinds(torch.randn(4, 3, 32, 32), None) == {"noise"}
    assert kinds(torch.zeros(4, 3, 32, 32), None) == {"constant"}


def test_reference_is_plain_and_measures_what_it_says():
    noise = (0.2 * torch.randn(64, 1, 64, 64, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    stats = reference_stats(noise)
    import json

    assert json.loads(json.dumps(stats)) == stats
    assert stats["corr"][2] == pytest.approx(0, abs=0.02) and stats["std"][2] == pytest.approx(0.2, rel=0.03)
    assert stats["grain"][2] == pytest.approx(0.2, rel=0.05) and stats["edges"][2] == pytest.approx(0.2, rel=0.05)
    assert stats["slope"] == pytest.approx(0, abs=0.1) and stats["spread"] == pytest.approx(0.2 * 2**0.5, rel=0.05)
    for roughness in (1.0, 1.5):
        assert spectral_slope(blobs(64, 1, 0, roughness, 64)) == pytest.approx(-2 * roughness, abs=0.4)


def test_bad_input_is_refused():
    with pytest.raises(KakusanError, match="shape"):
        diagnose(torch.zeros(3, 4))
    with pytest.raises(KakusanError, match="not finite"):
        reference_stats(torch.full((2, 1, 8, 8), float("nan")))


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (2, 3, 1, 9), (2, 1, 2, 2), (2, 1, 3), (2, 2, 4, 4, 4)])
def test_tiny_and_odd_shapes(shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    diagnose(x, reference_stats(x))
