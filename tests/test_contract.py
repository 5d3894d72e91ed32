"""One contract for the whole catalog: a part built from its own spec has that spec, through JSON too."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

from kakusan.catalog import CATALOG, build, find
from kakusan.part import Part

EXAMPLES = {
    "process/shifted": {"base": {"kind": "process/flow"}, "factor": 3.0},
    "process/zero-terminal": {"base": {"kind": "process/vp"}},
    "space/sphere": {"height": 8, "width": 16, "degree": 4},
    "objective/denoising": {"density": {"kind": "density/uniform-t"}, "weight": {"kind": "weight/edm"}},
    "grid/listed": {"ratios": [10.0, 1.0, 0.1]},
    "grid/learned": {"lams": [[-1.0, 1.5], [0.5]], "base": {"kind": "grid/karras"}},
    "grid/every": {"base": {"kind": "grid/karras"}, "steps": 8},
    "solver/learned": {
        "lams": [[-1.0, 1.5], [0.5]],
        "weights": [[0.2, 0.4, -0.1], [0.3]],
        "base": {"kind": "solver/dpm2m"},
    },
    "guide/several": {"weights": [1.5, 2.0]},
    "guide/apart": {"weights": [1.5, 2.0]},
    "guide/chain": {"weights": [1.5, 7.0]},
    "guide/relaxed": {"guide": {"kind": "guide/apg", "weights": [2.0]}, "shares": [0.5, 1.0]},
    "guide/apg": {"weights": [7.5], "parallel": 0.2, "limit": 0.5},
    "guide/rescaled": {"guide": {"kind": "guide/classifier-free"}},
    "guide/interval": {"guide": {"kind": "guide/classifier-free"}, "process": {"kind": "process/ve"}},
    "net/unet": {"channels": 1, "width": 16, "mults": [1, 2], "attention": [1], "blocks": 1, "vector": 8},
    "net/dit": {"channels": 1, "width": 16, "depth": 1, "heads": 2, "vector": 8},
    "net/unet2d": {"channels": 1, "widths": [8, 16], "groups": 4, "attention": [1], "head_dim": 8, "vector": 8},
    "net/autoencoder": {"channels": 1, "latent": 4, "width": 8},
    "gan/generator": {"channels": 1, "size": [8, 8], "widths": [8], "blocks": 1, "unshuffle": 2, "classes": 3},
    "gan/discriminator": {"channels": 1, "size": [8, 8], "widths": [8], "blocks": 1, "unshuffle": 2, "classes": 3},
    "gan/dc-generator": {"channels": 1, "size": [8, 8], "widths": [8], "classes": 3},
    "gan/dc-discriminator": {"channels": 1, "size": [8, 8], "widths": [8], "classes": 3},
    "training/adversarial": {"steps": 10},
    "condition/label": {"classes": ["cat", "dog"], "dim": 8},
    "condition/vector": {"size": 3, "dim": 8},
    "condition/scalar": {"name": "thickness", "unit": "mm", "mean": 1.0, "std": 2.0, "log": True, "dim": 8},
    "condition/tags": {"names": ["red", "round"], "dim": 8},
    "condition/text-transformers": {"folder": "models/none", "width": 12, "tokens": 8, "heads": 2, "dim": 4},
    "condition/text": {"vocabulary": "_ a b ab _a", "tokens": 8, "heads": 2, "dim": 4},
    "condition/text-table": {"vocabulary": "_ _a b _ab", "trained": 2, "width": 8, "tokens": 8, "heads": 2, "dim": 4},
    "condition/low-resolution": {"channels": 3, "factor": 2, "dim": 8},
    "condition/mask": {"channels": 3},
    "condition/map": {"mode": "RGB"},
    "condition/source": {"channels": 3},
    "condition/picture": {"channels": 3, "dim": 8, "width": 4},
    "domain/image": {"size": [8, 8], "mode": "L"},
}
EXAMPLES["denoiser"] = {
    "net": {"kind": "net/unet", **EXAMPLES["net/unet"]},
    "process": {"kind": "process/vp", "schedule": "cosine"},
    "param": {"kind": "param/v"},
    "space": {"kind": "space/flat"},
}
EXAMPLES["model"] = {
    "denoiser": {"kind": "denoiser", **EXAMPLES["denoiser"]},
    "domain": {"kind": "domain/image", **EXAMPLES["domain/image"]},
    "encoders": {"label": {"kind": "condition/label", **EXAMPLES["condition/label"]}},
    "defaults": {"solver": {"kind": "solver/dpm2m"}, "steps": 20, "guidance": 1.5},
}
EXAMPLES["domain/latent"] = {
    "domain": {"kind": "domain/image", **EXAMPLES["domain/image"]},
    "autoencoder": {"kind": "net/autoencoder", **EXAMPLES["net/autoencoder"]},
    "mean": [0.0, 1.0, -1.0, 0.5],
    "std": [1.0, 2.0, 3.0, 0.5],
}
EXAMPLES["training"] = {
    "objective": {"kind": "objective/denoising", **EXAMPLES["objective/denoising"]},
    "optim": {"kind": "optim/adamw"},
    "steps": 10,
}


MODULES = ("net", "gan", "condition", "denoiser")


def example(kind: str) -> Part:
    return build({"kind": kind, **EXAMPLES.get(kind, {})})


@pytest.mark.parametrize("kind", sorted(CATALOG))
def test_spec_round_trip(kind):
    part = example(kind)
    spec = part.spec()
    assert spec["kind"] == kind
    assert build(spec).spec() == spec
    assert json.loads(json.dumps(spec, allow_nan=False)) == spec
    assert build(json.loads(json.dumps(spec))).spec() == spec


@pytest.mark.parametrize("kind", sorted(CATALOG))
def test_spec_writes_every_argument(kind):
    cls = find(kind)
    assert set(example(kind).spec()) == {"kind", *cls.signature().parameters}


@pytest.mark.parametrize("kind", sorted(CATALOG))
def test_signatures_are_schemas(kind):
    """Every argument has a name and a type; nothing is swallowed by * or **."""
    for parameter in find(kind).signature().parameters.values():
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD, parameter
        assert parameter.annotation is not inspect.Parameter.empty, parameter


@pytest.mark.parametrize("kind", sorted(CATALOG))
def test_docstrings_say_what_it_is(kind):
    assert find(kind).__dict__.get("__doc__"), f"{kind} has no docstring of its own"


@pytest.mark.parametrize("kind", sorted(k for k in CATALOG if k.split("/")[0] in MODULES or k == "domain/latent"))
def test_modules_build_on_meta_and_keep_their_tensors(kind):
    """What a checkpoint does: shapes are known before anything is allocated."""
    with torch.device("meta"):
        empty = example(kind)
    full = example(kind)
    assert {n: v.shape for n, v in empty.state_dict().items()} == {n: v.shape for n, v in full.state_dict().items()}


@pytest.mark.parametrize("kind", sorted(k for k in CATALOG if k.startswith("process/")))
def test_processes_give_float64_on_the_cpu_of_any_shape(kind):
    process = example(kind)
    for t in (torch.tensor(0.5), torch.rand(3), torch.rand(2, 3, dtype=torch.float64)):
        for value in (*process.scales(t), process.logsnr(t), process.time(torch.zeros_like(t))):
            assert value.dtype == torch.float64
            assert value.shape == t.shape


@pytest.mark.parametrize("kind", sorted(k for k in CATALOG if k.startswith("param/")))
def test_params_keep_shape_and_type(kind):
    alpha = torch.tensor([0.9, 0.5], dtype=torch.float64)
    for value in example(kind).coefs(alpha, (1 - alpha**2).sqrt()):
        assert value.dtype == torch.float64
        assert value.shape == alpha.shape


@pytest.mark.parametrize("kind", sorted(k for k in CATALOG if k.startswith("weight/")))
def test_weights_are_positive_everywhere(kind):
    lam = torch.linspace(-10, 10, 41, dtype=torch.float64)
    value = example(kind).of(lam)
    assert value.shape == lam.shape
    assert bool(((value > 0) & torch.isfinite(value)).all())
