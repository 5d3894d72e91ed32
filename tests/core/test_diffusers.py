"""Numerical parity with Hugging Face Diffusers' schedulers, step by step, on the same network."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kakusan.core.batch import Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.grid import Discrete, Karras, UniformT, climb
from kakusan.core.param import Eps, Param, V, Velocity
from kakusan.core.param import Karras as KarrasParam
from kakusan.core.process import VE, Flow, Process, Shifted, Tabulated, betas
from kakusan.core.rng import Rng
from kakusan.core.sample import sample
from kakusan.core.solver import DDIM, DPM2M, Heun, Solver, UniPC
from kakusan.core.space import Flat

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SHAPE = (2, 3, 4, 4)
CLOSE = 1e-4


def network(x: Tensor, level: Tensor | float) -> Tensor:
    """A fixed network of the model's input and of lam, tame at every level."""
    return 0.7 * torch.tanh(x + 0.3 * x.roll(1, -1)) + 0.1 * torch.sin(3 * x) + 0.05 * level


class Fixed(Net):
    """That network."""

    kind = "test/fixed"

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        return network(x, lam.reshape(-1, 1, 1, 1).to(x.dtype))


class Recorded(Flat):
    """Noise as ever, keeping what was drawn so that another library can be fed the same."""

    kind = "test/recorded"

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def noise(self, shapes, rng, purpose, step=0):
        self.drawn.append(super().noise(shapes, rng, purpose, step))
        return self.drawn[-1]


def ours(
    process: Process, param: Param, times: Tensor, solver: Solver, x: Tensor
) -> tuple[list[Tensor], list[Tensor], Recorded]:
    """x after each fall to a time of the grid (climbs included), the estimates of x0, and the noise used."""
    space = Recorded()
    denoiser = Denoiser(Fixed(), process, param, Flat())
    steps = list(sample(lambda x, t, s: denoiser(x, t), x, times, solver, process, space, Rng([0, 1])))
    climbs = bool((times.diff() > 0).any())
    kept = [*steps[1::2], steps[-1]] if climbs else steps
    return [s.x for s in kept], [s.x0 for s in kept], space


def lam_at(process: Process, entry: Tensor | int) -> Tensor:
    t = (torch.as_tensor(entry).double() + 1) / process.steps
    return process.logsnr(t).clamp(-10, 10).float()


def first_noise() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))


def compare(mine: list[Tensor], theirs: list[Tensor], scale: list[float] | None = None) -> None:
    assert len(mine) == len(theirs)
    for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        unit = 1.0 if scale is None else scale[i]
        torch.testing.assert_close(a / unit, b / unit, atol=CLOSE, rtol=CLOSE, msg=lambda m, i=i: f"step {i}: {m}")


@pytest.mark.parametrize(
    ("name", "theirs", "limits"),
    [
        ("linear", "linear", (1e-4, 0.02)),
        ("scaled_linear", "scaled_linear", (0.00085, 0.012)),
        ("cosine", "squaredcos_cap_v2", (1e-4, 0.02)),
        ("sigmoid", "sigmoid", (1e-4, 0.02)),
    ],
)
def test_betas(name, theirs, limits):
    scheduler = diffusers.DDPMScheduler(beta_schedule=theirs, beta_start=limits[0], beta_end=limits[1])
    torch.testing.assert_close(betas(name, 1000, *limits).float(), scheduler.betas, atol=1e-6, rtol=1e-5)
    alpha = Tabulated(schedule=name, start=limits[0], end=limits[1]).scales(torch.arange(1, 1001).double() / 1000)[0]
    torch.testing.assert_close((alpha**2).float(), scheduler.alphas_cumprod, atol=1e-5, rtol=1e-4)


def test_rescaled_zero_terminal_snr():
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    alpha, _ = Tabulated(zero_terminal=True).scales(torch.arange(1, 1001).double() / 1000)
    torch.testing.assert_close(alpha.float() ** 2, scheduler.alphas_cumprod, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 4, 7, 50, 1000])
def test_discrete_spacings(spacing, steps):
    for scheduler in (
        diffusers.DDPMScheduler(timestep_spacing=spacing),
        diffusers.DDIMScheduler(timestep_spacing=spacing),
    ):
        scheduler.set_timesteps(steps)
        if (spacing, steps) == ("linspace", 1):  # numpy's one point is entry 0, from where nothing is sampled
            continue
        assert Discrete(spacing).entries(steps, 1000).tolist() == scheduler.timesteps.tolist()


def test_discrete_offset():
    scheduler = diffusers.DDIMScheduler(timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(50)
    assert Discrete("leading", offset=1).entries(50, 1000).tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddpm(spacing):
    """1,000-entry table walked in 20 steps: mean, fixed-small variance and the same noise."""
    scheduler = diffusers.DDPMScheduler(timestep_spacing=spacing, clip_sample=False, variance_type="fixed_small")
    walk(scheduler, Tabulated(), Eps(), Discrete(spacing), DDIM(), eta=1.0)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(("param", "prediction"), [(Eps(), "epsilon"), (V(), "v_prediction")], ids=["eps", "v"])
def test_ddim(eta, spacing, param, prediction):
    scheduler = diffusers.DDIMScheduler(
        timestep_spacing=spacing, clip_sample=False, prediction_type=prediction, beta_schedule="scaled_linear"
    )
    process = Tabulated(schedule="scaled_linear")
    walk(scheduler, process, param, Discrete(spacing), DDIM(), eta=eta)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_with_zero_terminal_snr(eta):
    scheduler = diffusers.DDIMScheduler(
        timestep_spacing="trailing", clip_sample=False, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    walk(scheduler, Tabulated(zero_terminal=True), V(), Discrete("trailing"), DDIM(), eta=eta)


def walk(scheduler, process: Tabulated, param: Param, grid: Discrete, solver: Solver, eta: float, n: int = 20) -> None:
    scheduler.set_timesteps(n)
    x = first_noise()
    mine, estimates, space = ours(process, param, climb(grid.times(n, process), process, eta), solver, x)
    theirs, clean = [], []
    replay = iter([*space.drawn, torch.zeros(SHAPE)])
    for entry in scheduler.timesteps:
        out = network(x, lam_at(process, entry))
        if isinstance(scheduler, diffusers.DDIMScheduler):
            noise = {"eta": eta, "variance_noise": next(replay)} if eta else {}
            step = scheduler.step(out, entry, x, **noise)
        else:
            step = ddpm_step(scheduler, out, entry, x, replay)
        x = step.prev_sample
        theirs.append(x)
        clean.append(step.pred_original_sample)
    compare(mine, theirs)
    compare(estimates, clean, [max(1.0, float(c.abs().max())) for c in clean])


def ddpm_step(scheduler, out: Tensor, entry: Tensor, x: Tensor, replay):
    """Their step with our noise in their draw's place."""
    module = __import__("diffusers.schedulers.scheduling_ddpm", fromlist=["randn_tensor"])
    original = module.randn_tensor
    module.randn_tensor = lambda *a, **k: next(replay)
    try:
        return scheduler.step(out, entry, x)
    finally:
        module.randn_tensor = original


@pytest.mark.parametrize(
    ("solver", "make"),
    [
        (DPM2M(), lambda: diffusers.DPMSolverMultistepScheduler(**COMMON, algorithm_type="dpmsolver++")),
        (UniPC(2), lambda: diffusers.UniPCMultistepScheduler(**COMMON, solver_type="bh2")),
        (UniPC(3), lambda: diffusers.UniPCMultistepScheduler(**COMMON | {"solver_order": 3}, solver_type="bh2")),
        (
            UniPC(2, corrector=False),
            lambda: diffusers.UniPCMultistepScheduler(**COMMON, solver_type="bh2", disable_corrector=list(range(1000))),
        ),
    ],
    ids=["dpm2m", "unipc-2", "unipc-3", "unipc-2-predictor"],
)
@pytest.mark.parametrize("n", [6, 20])
def test_multistep(solver, make, n):
    """Theirs lowers order 3 to 2 before the last step, ours does not: those two steps are left out there."""
    process, scheduler, x = Tabulated(schedule="scaled_linear"), make(), first_noise()
    scheduler.set_timesteps(n)
    mine, _, _ = ours(process, Eps(), Discrete("trailing").times(n, process), solver, x)
    theirs = []
    for entry in scheduler.timesteps:
        x = scheduler.step(network(x, lam_at(process, entry)), entry, x).prev_sample
        theirs.append(x)
    same = n - 2 if isinstance(solver, UniPC) and solver.order == 3 else n
    compare(mine[:same], theirs[:same])


COMMON = {
    "beta_schedule": "scaled_linear",
    "solver_order": 2,
    "timestep_spacing": "trailing",
    "final_sigmas_type": "zero",
    "lower_order_final": True,
}


def test_heun_discrete():
    """Diffusers keeps x/alpha and scales the network's input to variance one: the same path, two evaluations a step."""
    process, n = Tabulated(schedule="scaled_linear"), 12
    scheduler = diffusers.HeunDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=1e-4, beta_end=0.02, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(n)
    times = Discrete("trailing").times(n, process)
    x = first_noise()
    alpha, _ = process.scales(times)
    mine, _, _ = ours(process, Eps(), times, Heun(), x)
    x = x / float(alpha[0])
    theirs = []
    for entry in scheduler.timesteps:
        model_input = scheduler.scale_model_input(x, entry)
        x = scheduler.step(network(model_input, lam_at(process, entry)), entry, x).prev_sample
        theirs.append(x)
    theirs = [*theirs[1:-1:2], theirs[-1]]
    scale = [float(process.scales(t)[1] / process.scales(t)[0]) + 1 for t in times[1:]]
    compare([m / float(a) for m, a in zip(mine, alpha[1:], strict=True)], theirs, scale)


@pytest.mark.parametrize(
    ("solver", "name"), [(DDIM(), "EDMEulerScheduler"), (DPM2M(), "EDMDPMSolverMultistepScheduler")]
)
def test_edm(solver, name):
    """Karras' preconditioning and grid, variance exploding; the network sees ln(sigma)/4 there, -lam/4 here."""
    process, n = VE(0.002, 80.0), 15
    options = {"final_sigmas_type": "zero"} if "DPM" in name else {}
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(n)
    x = first_noise() * 80
    times = Karras(7, 0.002, 80).times(n, process)
    torch.testing.assert_close(process.scales(times)[1].float(), scheduler.sigmas, atol=1e-6, rtol=1e-5)
    mine, _, _ = ours(process, KarrasParam(0.5), times, solver, x)
    theirs = []
    for entry in scheduler.timesteps:
        out = network(scheduler.scale_model_input(x, entry), -4 * entry)
        x = scheduler.step(out, entry, x).prev_sample
        theirs.append(x)
    compare(mine, theirs, [float(s) + 1 for s in process.scales(times[1:])[1]])


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_flow(shift):
    """The straight path with Stable Diffusion 3's shift: DDIM on ``Shifted(Flow())`` is their Euler step."""
    process, n = Shifted(Flow(), shift), 12
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / n, n).tolist())
    times = UniformT().times(n, process)
    torch.testing.assert_close(process.scales(times)[1].float(), scheduler.sigmas, atol=1e-6, rtol=1e-5)
    x = first_noise()
    mine, _, _ = ours(process, Velocity(), times, DDIM(), x)
    theirs = []
    for i, entry in enumerate(scheduler.timesteps):
        lam = process.logsnr(times[i]).clamp(-10, 10).float()
        x = scheduler.step(network(x, lam), entry, x).prev_sample
        theirs.append(x)
    compare(mine, theirs)


def test_noise_is_added_alike():
    scheduler, process = diffusers.DDPMScheduler(), Tabulated()
    x0, eps, entries = first_noise(), torch.randn(SHAPE), torch.tensor([0, 700])
    mine = process.noised(x0, eps, (entries.double() + 1) / 1000)
    torch.testing.assert_close(mine, scheduler.add_noise(x0, eps, entries), atol=1e-5, rtol=1e-5)


def test_times_of_the_pairs_are_their_entries():
    times = Discrete("leading").times(50, Tabulated())
    assert all(s < t for t, s in pairwise(times.tolist()))
    assert float(times[0]) == pytest.approx(981 / 1000)
