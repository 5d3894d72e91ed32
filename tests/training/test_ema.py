"""The power-function average: published width relation, closed forms, updates some steps apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kakusan.part import KakusanError
from kakusan.training.ema import PowerEma, gamma_of, width_of


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros((), dtype=torch.float64))


def averaged(values: list[float], width: float, every: int = 1) -> float:
    """The average after the weights took these values in turn."""
    model = One()
    ema = PowerEma(model, [width], every)
    for step, value in enumerate(values, 1):
        with torch.no_grad():
            model.x.fill_(value)
        ema.update(step, now=step == len(values))
    return ema.weights(width)["x"].item()


def test_published_pairs_of_width_and_exponent() -> None:
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.01)  # EDM2, section 3.1
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.01)


@pytest.mark.parametrize("width", [0.01, 0.02, 0.05, 0.1, 0.2, 0.28])
def test_the_exponent_has_the_width(width: float) -> None:
    assert width_of(gamma_of(width)) == pytest.approx(width, rel=1e-9)


@pytest.mark.parametrize("width", [0.02, 0.05, 0.10])
def test_measured_spread_of_the_profile(width: float) -> None:
    """The standard deviation of the weights given to the past, relative to the run, is the width asked for."""
    n = 4000
    mean = averaged([t / n for t in range(1, n + 1)], width)
    square = averaged([(t / n) ** 2 for t in range(1, n + 1)], width)
    assert (square - mean**2) ** 0.5 == pytest.approx(width, rel=0.02)


@pytest.mark.parametrize("width", [0.05, 0.10])
def test_closed_form(width: float) -> None:
    """x(i) has the weight (i^p - (i-1)^p) / t^p, p = gamma + 1: exactly, at every length."""
    p = gamma_of(width) + 1
    values = [(7 * i * i) % 11 - 5.0 for i in range(1, 31)]
    for n in (1, 2, 7, 30):
        expected = sum(v * (i**p - (i - 1) ** p) for i, v in enumerate(values[:n], 1)) / n**p
        assert averaged(values[:n], width) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("every", [2, 4, 5])
def test_updates_some_steps_apart_average_the_weights_held_between(every: int) -> None:
    values = [(5 * i * i) % 13 - 6.0 for i in range(1, 24)]
    seen = [s for s in range(1, 24) if s % every == 0 or s == 23]
    held = [values[next(s for s in seen if s >= i) - 1] for i in range(1, 24)]
    assert averaged(values, 0.1, every) == pytest.approx(averaged(held, 0.1), rel=1e-12)


def test_the_first_value_replaces_the_start() -> None:
    assert averaged([3.0], 0.05) == 3.0


def test_restores_exactly_and_goes_on() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    straight, first = (PowerEma(model, [0.05, 0.1], 2) for _ in range(2))
    moves = torch.randn(9, *model.weight.shape, generator=torch.Generator().manual_seed(0))
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.add_(moves[step])
        straight.update(step)
        first.update(step)
    second = PowerEma(model, [0.05, 0.1], 2)
    second.restore({k: v.contiguous() for k, v in first.tensors().items()}, first.last)
    for step in range(6, 9):
        with torch.no_grad():
            model.weight.add_(moves[step])
        straight.update(step)
        second.update(step)
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensor, second.tensors()[name])


def test_write_copies_into_another_model() -> None:
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    ema = PowerEma(model, [0.05])
    ema.write(0.05, other)
    assert torch.equal(model.weight, other.weight)
    assert other.weight.data_ptr() != ema.weights(0.05)["weight"].data_ptr()


@pytest.mark.parametrize("width", [0.0, -0.1, 0.3, 1.0])
def test_widths_out_of_reach_are_named(width: float) -> None:
    with pytest.raises(KakusanError, match=f"width {width}"):
        gamma_of(width)
