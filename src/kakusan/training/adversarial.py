"""Adversarial: how a generator and a discriminator are trained, and one step of it.

The defaults are R3GAN's (Huang et al. 2024: rates, penalties and betas move along a cosine from their first to their
last value), changed where they do not suit a few thousand steps of 32 pictures, as docs/how-to/compare.md says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kakusan.core.adversarial import LOSSES, losses, moved, penalties
from kakusan.core.rng import Rng
from kakusan.nets.gan import towards_input
from kakusan.part import KakusanError, Part
from kakusan.training.ema import gamma_of
from kakusan.training.optim import AdamW, Optimiser
from kakusan.training.schedule import CLOCKS

__all__ = ["COLUMNS", "Adversarial", "Rivals"]

COLUMNS = ("d_loss", "g_loss", "r1", "r2", "real_score", "fake_score", "told_apart")


class Adversarial(Part):
    """How a generator and its discriminator are trained, one step of each in turn.

    ``loss``: "relativistic" or "non-saturating". ``penalty``: gamma of R1 (and, relativistic, of R2), [first, last]
    over the run; [0, 0] = none. ``lr`` and ``beta2``: [first, last] too. Penalties are taken every ``every`` steps,
    that many times as strong (lazy regularisation; Karras et al. 2020, section 3.1). ``augment``: real and generated
    pictures are moved and cut alike before they are judged, for small sets (Zhao et al. 2020). The generator that ships
    is an average of relative width ``ema``. The run has ``steps``, or is planned by the clock to end after ``minutes``,
    those on the wall or (``clock``) of processor time.
    """

    kind = "training/adversarial"

    def __init__(
        self,
        loss: str = "relativistic",
        penalty: list[float] = [1.0, 0.1],  # noqa: B006  (the signature is the schema)
        lr: list[float] = [1e-3, 2.5e-4],  # noqa: B006
        beta1: float = 0.0,
        beta2: list[float] = [0.9, 0.99],  # noqa: B006
        every: int = 4,
        batch: int = 32,
        steps: int | None = None,
        minutes: float | None = None,
        ema: float = 0.1,
        augment: bool = False,
        seed: int = 0,
        checkpoint_minutes: float = 5.0,
        previews: int = 12,
        log_every: int = 10,
        clock: str = "wall",
    ) -> None:
        if (steps is None) == (minutes is None):
            raise KakusanError(f"steps={steps}, minutes={minutes}: give exactly one of the two")
        if loss not in LOSSES:
            raise KakusanError(f"loss={loss!r}: choose one of {', '.join(LOSSES)}")
        for name, pair, high in (("penalty", penalty, 1e6), ("lr", lr, 1.0), ("beta2", beta2, 1.0)):
            if len(pair) != 2 or not all(0 <= v < high for v in pair):
                raise KakusanError(f"{name}={list(pair)}: give [first, last], each from 0 to below {high:g}")
        if clock not in CLOCKS:
            raise KakusanError(f"clock={clock!r}: choose one of {', '.join(CLOCKS)}")
        if not 0 <= beta1 < 1:
            raise KakusanError(f"beta1={beta1}: give a number from 0 to below 1 (0, or 0.5 for the classic GAN)")
        counts = {"every": every, "batch": batch, "checkpoint_minutes": checkpoint_minutes, "log_every": log_every}
        for name, value in (counts | {"steps": 1 if steps is None else steps}).items():
            if not value > 0:
                raise KakusanError(f"{name}={value}: need {name} > 0")
        if minutes is not None and not minutes > 0:
            raise KakusanError(f"minutes={minutes}: need minutes > 0")
        gamma_of(ema)
        self.loss, self.penalty, self.lr = loss, tuple(penalty), tuple(lr)
        self.beta1, self.beta2, self.every, self.batch = float(beta1), tuple(beta2), every, batch
        self.steps, self.minutes, self.ema, self.augment, self.seed = steps, minutes, ema, augment, seed
        self.checkpoint_minutes, self.previews, self.log_every = checkpoint_minutes, previews, log_every
        self.clock = clock

    def optimiser(self, net: nn.Module) -> Optimiser:
        """Adam for one of the two networks; rate and betas are set at every step."""
        return AdamW(lr=self.lr[0] or 1e-12, betas=(self.beta1, self.beta2[0])).build(net)

    def at(self, ends: tuple[float, ...], gone: float) -> float:
        """A setting's value after the share ``gone`` of the run: half a cosine from its first to its last."""
        return ends[1] + (ends[0] - ends[1]) * (0.5 + 0.5 * math.cos(math.pi * gone))


@dataclass
class Rivals:
    """The two networks with their optimisers, and one step of their contest."""

    settings: Adversarial
    generator: nn.Module
    discriminator: nn.Module
    g_optim: Optimiser
    d_optim: Optimiser

    @classmethod
    def of(cls, settings: Adversarial, generator: nn.Module, discriminator: nn.Module) -> Rivals:
        """With fresh optimisers."""
        return cls(settings, generator, discriminator, settings.optimiser(generator), settings.optimiser(discriminator))

    def step(self, real: Tensor, label: Tensor | None, rng: Rng, step: int, gone: float) -> tuple[Tensor, Tensor]:
        """One step of the discriminator and one of the generator on the real pictures (B, C, H, W) of this step.

        Returns the values of ``COLUMNS`` and whether all was finite; a network whose loss or gradient is not keeps its
        weights.
        """
        s = self.settings
        for optimiser in (self.d_optim, self.g_optim):
            for group in optimiser.param_groups:
                group["lr"], group["betas"] = s.at(s.lr, gone), (s.beta1, s.at(s.beta2, gone))
        gamma = s.at(s.penalty, gone) if step % s.every == 0 else 0.0
        d_values, d_fine = self._judge(real, label, rng, gamma * s.every)
        g_values, g_fine = self._forge(real, label, rng, d_fine)
        d_loss, *rest = d_values
        return torch.stack([d_loss, g_values, *rest]), d_fine & g_fine

    def _judge(self, real: Tensor, label: Tensor | None, rng: Rng, gamma: float) -> tuple[list[Tensor], Tensor]:
        """The discriminator's step."""
        with torch.no_grad():
            fake = self._drawn(rng, label, 0, real)
        real = self._shown(real, rng, 0)
        x = torch.cat([real, self._shown(fake, rng, 1)]).requires_grad_(gamma > 0)
        real_score, fake_score = self._scores(x, label)
        loss = losses(self.settings.loss, real_score, fake_score)[0].mean()
        total, r1, r2 = loss, loss.new_zeros(()), loss.new_zeros(())
        if gamma > 0:
            with towards_input():
                both = penalties(torch.cat([real_score, fake_score]), x)
            r1, r2 = (half.mean() for half in both.chunk(2))
            total = loss + gamma / 2 * (r1 + r2 if self.settings.loss == "relativistic" else r1)
        fine = _update(self.discriminator, self.d_optim, total, None)
        apart = (real_score > fake_score).float().mean()
        values = [loss, r1, r2, real_score.mean(), fake_score.mean(), apart]
        return [v.detach().float() for v in values], fine

    def _forge(self, real: Tensor, label: Tensor | None, rng: Rng, fine: Tensor) -> tuple[Tensor, Tensor]:
        """The generator's step."""
        with _frozen(self.discriminator):
            fake = self._shown(self._drawn(rng, label, 1, real), rng, 2)
            real_score = torch.zeros(())
            if self.settings.loss == "relativistic":
                with torch.no_grad():
                    real_score = self.discriminator(self._shown(real, rng, 3), label)
            loss = losses(self.settings.loss, real_score, self.discriminator(fake, label))[1].mean()
            return loss.detach().float(), _update(self.generator, self.g_optim, loss, fine)

    def _drawn(self, rng: Rng, label: Tensor | None, turn: int, like: Tensor) -> Tensor:
        """Generated pictures from latents that belong to (seed, step, row, turn)."""
        latent = int(self.generator.latent)  # type: ignore[arg-type]
        z = rng.normal([(latent,)] * like.shape[0], "latent", turn)
        return self.generator(z.to(like.device), label)

    def _shown(self, x: Tensor, rng: Rng, turn: int) -> Tensor:
        return moved(x, rng, turn) if self.settings.augment else x

    def _scores(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scores of real and generated pictures; apart where batch statistics would mix them."""
        if any(isinstance(m, nn.BatchNorm2d) for m in self.discriminator.modules()):
            real, fake = x.chunk(2)
            return self.discriminator(real, label), self.discriminator(fake, label)
        both = self.discriminator(x, None if label is None else torch.cat([label, label]))
        real_score, fake_score = both.chunk(2)
        return real_score, fake_score


class _frozen:
    """Inside, a network's weights get no gradients."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __enter__(self) -> None:
        self.net.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        self.net.requires_grad_(True)


def _update(net: nn.Module, optimiser: Optimiser, loss: Tensor, fine: Tensor | None) -> Tensor:
    """Backward and step, unless something is not finite (or was not before: ``fine``); says whether all was."""
    loss.backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(grads)).norm() if grads else loss.new_zeros(())
    good = torch.isfinite(loss.detach()) & torch.isfinite(norm)
    good = good if fine is None else good & fine
    optimiser.step(finite=good)
    optimiser.zero_grad(set_to_none=True)
    return good
