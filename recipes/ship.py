"""Make of a finished run the file of a model that ships: what sampling needs, in half precision, compared with the run.

    python recipes/ship.py runs/icons src/kakusan/models --name icons --licence Apache-2.0 --guidance 2 --steps 12

Its averaged weights alone are taken, with the weak model where ``--autoguidance`` asks for it, without paths of this
machine. The file is loaded again and draws the same seeds as the run. ``--glossary`` puts one into a model of words,
``--classes`` names the classes of data that have numbers only. docs/how-to/shipped-models.md says what else a model
needs to ship.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch

from kakusan.app.command.options import weights
from kakusan.app.deploy.glossed import put_glossary
from kakusan.app.draw import branches, sampler
from kakusan.app.draw.loaded import Loaded, load
from kakusan.app.draw.sampler import Request
from kakusan.app.draw.upscale import encoder_of, upscale
from kakusan.app.edit.editing import Wanted, model_domain
from kakusan.app.edit.instruct import instruct
from kakusan.app.train.rundir import find_model
from kakusan.app.train.spatial import LOW
from kakusan.checkpoint import save_model
from kakusan.conditions.label import Label
from kakusan.conditions.pretrained import PretrainedText
from kakusan.core.model import Model
from kakusan.part import KakusanError
from kakusan.training.pairs import SOURCE

MOST = 20_000_000  # bytes of a file
APART = 1.0  # levels of 255: the mean difference from which half precision is not enough
SEEDS = 4


def shrunk(loaded: Loaded, settings: dict[str, Any]) -> Model:
    """The same modules, the weak model among them only where autoguidance is asked for, with these sampling defaults
    where they are not None."""
    model = loaded.model
    encoders = {name: model.encoder(name) for name in model.encoders}
    for name, encoder in encoders.items():
        if isinstance(encoder, PretrainedText):
            raise KakusanError(f"{name} is read by a text encoder in {encoder.folder}, which no file carries")
    if settings["classes"] is not None:
        encoders["label"] = classed(model, settings["classes"])
    weak = model.weak if settings["autoguidance"] is not None else None
    if weak is not None and settings["classes"] is not None:
        own = {name: weak.encoder(name) for name in weak.encoders}
        weak = Model(weak.denoiser, encoders=own | {"label": classed(weak, settings["classes"])})
    bare = Model(model.denoiser, model.domain, encoders, model.defaults | chosen(model, settings), weak)
    for name, value in bare.state_dict().items():
        if value.is_floating_point() and not value.half().isfinite().all():
            raise KakusanError(f"{name} has numbers that half precision cannot hold (above 65,504, or not finite)")
    return bare.eval()


def classed(model: Model, classes: list[str]) -> Label:
    """The model's classes under other names."""
    label = model.encoder("label") if "label" in model.encoders else None
    if not isinstance(label, Label) or len(label.names) != len(classes):
        count = len(label.names) if isinstance(label, Label) else 0
        raise KakusanError(f"--classes names {len(classes)}, the model has {count} classes")
    named = Label(classes, label.table.embedding_dim, label.called)
    named.load_state_dict(label.state_dict())
    return named


def chosen(model: Model, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not None as sampling defaults, checked as those of a request are."""
    guidance = settings["guidance"]
    if isinstance(guidance, dict):
        guidance = {branches.known(model, name): weight for name, weight in guidance.items()}
    cond = {name: [None] for name in guidance} if isinstance(guidance, dict) else {}
    weight = 1.0 if settings["autoguidance"] is None else settings["autoguidance"]
    told = {name: settings[name] for name in ("steps", "solver")}
    request = Request([0], cond, guidance=guidance, autoguidance=weight, **told)
    settled = sampler.settle(model, request)
    named = {"steps": ["steps"], "solver": ["solver", "eta"]}
    out = {each: settled[each] for name, several in named.items() if settings[name] is not None for each in several}
    return out | ({} if guidance is None else {"guidance": guidance}) | {"autoguidance": weight}


def portable(value: Any) -> Any:
    """What is known about a model, with what paths of a machine lead to by its name alone."""
    if isinstance(value, dict):
        return {name: portable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [portable(each) for each in value]
    for kind in (PurePosixPath, PureWindowsPath):
        if isinstance(value, str) and (path := kind(value)).is_absolute():
            return path.parent.name if path.name == "model.safetensors" else path.name
    return value


def drawn(loaded: Loaded, prompt: str | None) -> np.ndarray:
    """Pictures of the first seeds, in levels of 255."""
    if LOW in loaded.model.encoders:
        made = upscale(loaded, disc(32, encoder_of(loaded).channels), Wanted(n=SEEDS))
        return np.stack([each.data for each in made]).astype(np.float64)
    if SOURCE in loaded.model.encoders:
        domain = model_domain(loaded)
        edited = instruct(loaded, disc(domain.size[0], domain.channels), Wanted(n=SEEDS, prompt=prompt), resize=True)
        return np.stack([each.data for each in edited]).astype(np.float64)
    raw = [sample.raw for sample in loaded.sample(SEEDS, prompt=prompt)]
    return np.asarray(torch.stack([r for r in raw if r is not None]).clamp(-1, 1).double() * 127.5)


def disc(side: int, channels: int) -> np.ndarray:
    """A test picture (side, side, channels): a disc, shaded from left to right."""
    y, x = np.mgrid[:side, :side] / side
    picture = np.full((side, side, channels), 255, np.uint8)
    picture[..., 0] = 255 * x
    picture[..., -1] = 255 * ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.15)
    return picture


def ship(run: Path, out: Path, name: str, licence: str, settings: dict[str, Any], prompt: str | None = None) -> Path:
    """Write OUT/NAME.safetensors, or nothing where it is too large or draws something else; returns it."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise KakusanError(f"--name {name}: small letters, digits and hyphens, as icons-upscale")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".ship-") as folder:
        file = Path(folder) / f"{name}.safetensors"
        if settings["glossary"] is not None:
            put_glossary(find_model(run), settings["glossary"], file)
        whole = load(run if settings["glossary"] is None else file, "cpu")
        bare = shrunk(whole, settings)
        about = portable({k: v for k, v in whole.info_.items() if k not in ("hash", "parameters")})
        save_model(file, bare, about | {"name": name, "licence": licence}, torch.float16)
        size = file.stat().st_size
        print(f"{size:,} bytes, {sum(v.numel() for v in bare.state_dict().values()):,} numbers")
        if size > MOST:
            raise KakusanError(f"{name} has {size:,} bytes; what ships has at most {MOST:,}: train a smaller network")
        begun = time.process_time()
        again = load(file, "cpu")
        print(f"loaded in {time.process_time() - begun:.2f} s of processor time")
        away = np.abs(drawn(again, prompt) - drawn(Loaded(bare, whole.info_), prompt))
        figures = f"{away.max():.3g} levels of 255, {away.mean():.2g} on average"
        words = f"{SEEDS} pictures differ from the run's by up to {figures}"
        if not away.mean() <= APART:
            raise KakusanError(f"{words}: too much; half precision does not hold this model")
        print(words)
        return file.replace(out / file.name)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run or a model file")
    parser.add_argument("out", type=Path, help="the folder to write to, src/kakusan/models for what ships")
    parser.add_argument("--name", required=True, help="what it is called from then on")
    parser.add_argument("--licence", required=True, help="of the weights, as Apache-2.0")
    parser.add_argument("--guidance", action="append", help="the default weight, or NAME=W, may be repeated")
    parser.add_argument("--autoguidance", type=float, help="the default weight; the weak model then comes along")
    parser.add_argument("--steps", type=int, help="steps by default")
    parser.add_argument("--solver", help="the solver by default")
    parser.add_argument("--glossary", type=Path, help="words of other languages, for a model of words")
    parser.add_argument("--classes", help="names of the classes in their order, with commas between")
    parser.add_argument("--prompt", help="what is drawn for the comparison, by a model of words")
    args = parser.parse_args(words)
    try:
        settings = {"guidance": weights(args.guidance), "steps": args.steps, "solver": args.solver}
        settings |= {
            "autoguidance": args.autoguidance,
            "glossary": args.glossary,
            "classes": args.classes and args.classes.split(","),
        }
        file = ship(args.run, args.out, args.name, args.licence, settings, args.prompt)
    except KakusanError as error:
        sys.exit(f"ship.py: {error}")
    if not file.with_suffix(".md").is_file():
        print(f"its card is missing: write {file.with_suffix('.md')}")
    print(file)


if __name__ == "__main__":
    main()
