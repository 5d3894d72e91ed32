"""Exports: the same numbers as PyTorch in every form, or no files at all. One ONNX export serves most of the tests."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kakusan.app.command.show import Progress
from kakusan.app.deploy import int8 as verdict
from kakusan.app.deploy.export import export as export_verb
from kakusan.app.deploy.export import sampling
from kakusan.app.draw.loaded import Loaded
from kakusan.app.draw.sampler import Request, steps
from kakusan.catalog import build
from kakusan.core.batch import Cond
from kakusan.core.model import Encoder, Model
from kakusan.core.process import place
from kakusan.core.rng import Rng
from kakusan.part import KakusanError
from kakusan.runtime import engines, export, formats, host, int8, verify
from kakusan.runtime.bundle import ours, read_table
from kakusan.runtime.formats import FORMATS
from kakusan.runtime.graph import Graph, need
from kakusan.runtime.savedmodel import OPERATIONS
from runtime.small import LABEL, model

ROOT = Path(__file__).parents[2]
SHAPE = (1, 9, 11)
onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(m) is None for m in ("onnx", "onnxscript", "onnxruntime")), reason="needs [export]"
)


def written(tmp: Path, made, kind: str = "onnx", request: Request | None = None):
    chosen = sampling(made, request or Request(seeds=[0]))
    return export.export(made, chosen, SHAPE, kind, tmp / "out", tmp / "ledger", {"model": "abc"}, threads=1)


@pytest.fixture(scope="module")
def source():
    return model()


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory) -> Path:
    tmp = tmp_path_factory.mktemp("export")
    done = written(tmp, source)
    assert set(done.files) == {"model.onnx", "table.json"}
    return tmp


@pytest.fixture(scope="module")
def table(folder) -> dict:
    return read_table(folder / "out" / "table.json", folder / "ledger")


@onnx
def test_one_evaluation_in_batches_of_any_size(source, folder, table):
    run, truth = engines.onnxruntime(folder / "out" / "model.onnx", 1), engines.pytorch(Graph(source))
    for batch in (1, 2, 5):
        x = np.random.default_rng(batch).standard_normal((batch, *SHAPE), np.float32)
        given = verify.anything(table, batch)
        for none in ([], ["label"], ["numbers"], ["label", "numbers"]):
            feed = host.feeds(table, table["steps"][3], x, given, none)
            expected = truth(feed)
            assert expected.std() > 0.05
            assert np.abs(run(feed) - expected).max() < 1e-4


@onnx
def test_conditions_and_noise_levels_reach_the_graph(folder, table):
    """Each input changes the result, so that none of them was baked in."""
    run = engines.onnxruntime(folder / "out" / "model.onnx", 1)
    x = np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)
    plain = host.feeds(table, table["steps"][3], x, {}, [])
    given = verify.anything(table, 2)
    one = {"numbers_value": given["numbers_value"], "numbers_given": given["numbers_given"]}
    changes = [{"label": given["label"]}, one, *({n: plain[n] + np.float32(0.3)} for n in ("lam", "c_in", "c_out"))]
    for change in changes:
        assert np.abs(run(plain | change) - run(plain)).max() > 1e-3, list(change)


@onnx
def test_a_sample_is_the_one_that_the_sampler_draws(source, folder, table):
    """From the same seeds by ``kakusan sample``'s own way: guidance, defaults and all."""
    request = Request(seeds=[7, 8], cond={"label": ["dog", None], "numbers": [[0.5, -1.0, 0, 2, 1], None]})
    *_, last = steps(source, request, [SHAPE] * 2)
    given = {
        "label": np.array([1, 2]),
        "numbers_value": np.array([[0.5, -1.0, 0, 2, 1], [0] * 5]),
        "numbers_given": np.array([1, 0]),
    }
    eps = source.denoiser.space.noise([SHAPE] * 2, Rng([7, 8]), "start").numpy()
    run = {"model": engines.onnxruntime(folder / "out" / "model.onnx", 1)}
    found = host.sample(table, run, eps, given, np.random.default_rng(0))
    assert len(table["steps"]) == 10
    assert np.abs(found - last.x.numpy()).max() < 1e-4


@onnx
def test_a_network_that_is_told_where_steps_land_is_told_by_the_table(tmp_path):
    """As students of mean flow are; the export itself compares a whole sample with PyTorch's own."""
    made = model(encoders={"label": LABEL, "landing": {"kind": "condition/landing", "dim": 4}})
    request = Request(seeds=[0], solver="ddim", steps=4, guidance=1.0)
    done = written(tmp_path, made, request=request)
    table = json.loads((done.path / "table.json").read_text("utf-8"))
    assert table["coefficients"] == ["lam", "c_in", "c_skip", "c_out", "landing"]
    assert list(table["conditions"]) == ["label"], "nobody asks for it"
    told = [step["landing"] for step in table["steps"]]
    top = made.denoiser.process.logsnr(torch.tensor(table["steps"][0]["t"], dtype=torch.float64))
    assert min(told) > 0 and sum(told) == pytest.approx(float(place(top)), abs=1e-6), "falls make the whole way"
    run = {"model": engines.onnxruntime(done.path / "model.onnx", 1)}
    eps = np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)
    silent = table | {"steps": [step | {"landing": 0.0} for step in table["steps"]]}
    found, other = (host.sample(t, run, eps, {}, np.random.default_rng(0)) for t in (table, silent))
    assert np.abs(found - other).max() > 0.01


@onnx
def test_the_example_needs_no_torch(folder, tmp_path):
    """As a reader runs it, with torch and kakusan out of reach."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = sys.modules['kakusan'] = None\n")
    words = [ROOT / "examples" / "onnx_sample.py", folder / "out", "--count", "3", "--out", tmp_path / "g.png"]
    run = [sys.executable, *map(str, words)]
    done = subprocess.run(run, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    from PIL import Image

    with Image.open(tmp_path / "g.png") as grid:
        assert grid.size == (22, 18)
        assert np.asarray(grid).std() > 1


@onnx
def test_what_was_changed_or_comes_from_elsewhere_is_not_loaded(folder, tmp_path):
    file, ledger = folder / "out" / "model.onnx", folder / "ledger"
    assert ours(file, ledger) == file
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(KakusanError, match="SHA-256 is not that of a file exported here"):
        ours(tmp_path / "model.onnx", ledger)
    with pytest.raises(KakusanError, match="SHA-256 is not that of a file exported here"):
        ours(file, tmp_path / "another-ledger")
    told = json.loads((folder / "out" / "table.json").read_text())
    (tmp_path / "table.json").write_text(json.dumps(told | {"start": 2.0}))
    with pytest.raises(KakusanError, match="not loaded"):
        read_table(tmp_path / "table.json", ledger)
    with pytest.raises(KakusanError, match="no such file"):
        ours(tmp_path / "nothing.onnx", ledger)


@onnx
def test_the_manifest_has_the_hash_of_every_file(folder):
    import hashlib

    told = json.loads((folder / "out" / "manifest.json").read_text())
    assert told["model"] == "abc" and told["checked"]["evaluation"] < 1e-4
    there = {f.name for f in (folder / "out").iterdir()} - {"manifest.json"}
    assert set(told["files"]) == there
    for name, digest in told["files"].items():
        assert hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest() == digest


class Off:
    """A format whose networks are wrong by a little, in one of the ways there are; it writes its file as others do."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, graph, shape, path, threads):
        path.write_bytes(b"network")
        truth = engines.pytorch(graph)

        def run(feed):
            x0 = truth(feed)
            if self.how == "exact":
                return x0
            if self.how == "empty":  # as OpenVINO 2026.4 does with some conditions of numbers
                return x0[:0]
            if self.how == "off":
                return x0 + np.float32(5e-4)
            return np.where(feed["lam"].reshape(-1, 1, 1, 1) > 3, np.float32(np.nan), x0)

        return run


def faulty(monkeypatch, how: str) -> None:
    monkeypatch.setitem(FORMATS, "faulty", formats.Format(".bin", Off(how), lambda made: None))


@pytest.mark.parametrize("how", ["off", "nan", "empty"])
def test_a_failed_check_leaves_nothing_behind(source, tmp_path, monkeypatch, how):
    faulty(monkeypatch, how)
    with pytest.raises(KakusanError, match=r"not the same: .* differs from PyTorch .* its files were deleted"):
        written(tmp_path, source, "faulty")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(source, tmp_path, monkeypatch):
    faulty(monkeypatch, "exact")
    done = written(tmp_path, source, "faulty")
    before = {f: f.read_bytes() for f in done.path.iterdir()}
    with pytest.raises(KakusanError, match="exports overwrite nothing"):
        written(tmp_path, source, "faulty")
    assert {f: f.read_bytes() for f in done.path.iterdir()} == before


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_both_networks_and_fresh_noise(tmp_path, monkeypatch, eta):
    """Autoguidance: three branches of two networks; DDPM: noise at every row but the last."""
    faulty(monkeypatch, "exact")
    done = written(tmp_path, model(weak=True), "faulty", Request(seeds=[0], eta=eta))
    assert set(done.files) == {"model.bin", "weak.bin", "table.json"}
    told = json.loads((done.path / "table.json").read_text())
    assert [b["network"] for b in told["branches"]] == ["weak", "model", "model"]
    assert [b["none"] for b in told["branches"]] == [[], ["label", "numbers"], []]
    assert [bool(s["noise"]) for s in told["steps"]] == [bool(eta)] * 9 + [False]
    assert done.checked.sample < 1e-4


def test_a_dit_is_held_too(tmp_path, monkeypatch):
    faulty(monkeypatch, "exact")
    made = model("net/dit", {"label": LABEL})
    assert written(tmp_path, made, "faulty", Request(seeds=[0], solver="unipc")).checked.sample < 1e-4


class Words(Encoder):
    """A condition of any length."""

    kind = "condition/label"

    def prepare(self, values):
        return {"pieces": torch.zeros(len(values), 0, dtype=torch.int64)}

    def forward(self, inputs, keep):
        return Cond()


def test_what_a_format_cannot_hold_is_said_in_one_line(source, tmp_path):
    with pytest.raises(KakusanError, match="averaged weights as safetensors") as caught:
        written(tmp_path, source, "torch")
    assert "\n" not in str(caught.value)
    made = model(encoders={"label": LABEL})
    made.encoders["prompt"] = Words()
    with pytest.raises(KakusanError, match=r"condition 'prompt' .* input of any length"):
        Graph(made)


def test_a_missing_package_is_one_line_that_installs_it(source, tmp_path, monkeypatch):
    with pytest.raises(KakusanError, match=r"'nowhere_to_be_found', .* pip install 'kakusan\[export\]'"):
        need("nowhere_to_be_found", "export")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for kind, package in (("onnx", "onnx"), ("openvino", "onnx"), ("tf", "onnx")):
        with pytest.raises(KakusanError, match=rf"package '{package}', which is not installed: pip install"):
            written(tmp_path, source, kind)
    assert list(tmp_path.iterdir()) == []


@onnx
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs [openvino]")
def test_openvino_is_right_where_denormals_are_flushed(tmp_path):
    """As everywhere in kakusan: with flushing on, its integers became 0 and every class class 0."""
    torch.set_flush_denormal(True)
    try:
        done = written(tmp_path, model(encoders={"label": LABEL}), "openvino")
        assert bool(torch.full((), 1e-40) * 1 == 0)  # and still on
    finally:
        torch.set_flush_denormal(False)
    assert set(done.files) == {"model.xml", "model.bin", "table.json"}


@onnx
def test_every_operation_of_our_graphs_has_a_counterpart(folder):
    """In TensorFlow, which need not be installed to know."""
    import onnx as format

    found = {node.op_type for node in format.load(folder / "out" / "model.onnx").graph.node}
    assert found <= set(OPERATIONS)


def test_a_split_for_tensorflow_has_its_sizes_or_so_many_parts():
    class Said:
        @staticmethod
        def split(value, sizes, axis):
            return list(sizes), axis

    x = np.zeros((2, 7, 3))
    assert OPERATIONS["Split"](Said, [x], {"axis": 1, "num_outputs": 3}) == ([3, 3, 1], 1)
    assert OPERATIONS["Split"](Said, [x], {"axis": -1, "num_outputs": 3}) == ([1, 1, 1], -1)


@onnx
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs [tf]")
@pytest.mark.parametrize("net", ["net/unet", "net/dit"])
def test_tensorflow_gives_the_same(tmp_path, net):
    done = written(tmp_path, model(net, None if net == "net/unet" else {"label": LABEL}), "tf")
    assert "model.savedmodel/saved_model.pb" in done.files


def test_a_model_without_conditions(tmp_path, monkeypatch):
    faulty(monkeypatch, "exact")
    made = model(encoders={})
    made.defaults["guidance"] = 1.0
    done = written(tmp_path, made, "faulty")
    told = json.loads((done.path / "table.json").read_text())
    assert told["conditions"] == {} and told["branches"] == [{"network": "model", "none": []}]


@pytest.fixture(scope="module")
def feeds(folder, table) -> dict:
    return int8.recorded(table, {"model": engines.onnxruntime(folder / "out" / "model.onnx", 1)}, 4)


@onnx
def test_int8_rounds_the_hidden_convolutions_and_nothing_else(source, folder, table, feeds, tmp_path):
    import onnx as format

    assert len(feeds["model"]) == 20  # ten steps of two branches
    assert feeds["model"][0]["lam"][0] < 0 < feeds["model"][-1]["lam"][0]
    file, net = folder / "out" / "model.onnx", source.denoiser.net
    count, most = int8.quantise(file, tmp_path / "q.onnx", feeds["model"], net)
    graph = format.load(tmp_path / "q.onnx").graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    made = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    rounded = [node for node in convolutions if node.input[1] in made]
    assert len(convolutions) == most and len(rounded) == count == 11
    exact = {node.input[1] for node in convolutions if node not in rounded}
    assert {f"model.denoiser.net.{name}.weight" for name in ("stem", "out", "bypass")} <= exact
    assert len(exact) == 5  # and the two of attention
    assert int8.quantise(file, tmp_path / "fewer.onnx", feeds["model"], net, 0.25) == (7, 16)
    before, after = engines.onnxruntime(file, 1), engines.onnxruntime(tmp_path / "q.onnx", 1)
    for feed in feeds["model"]:
        truth = before(feed)
        assert 0 < np.abs(after(feed) - truth).max() < 0.1 * np.abs(truth).max()


@onnx
def test_int8_that_is_judged_worse_leaves_nothing_behind(source, folder, tmp_path, monkeypatch):
    def copied(graph, shape, path, threads):
        path.write_bytes((folder / "out" / "model.onnx").read_bytes())
        return engines.onnxruntime(path, 1)

    asked = []

    def worse(table, exact, rounded):
        asked.append(rounded)
        raise KakusanError("--int8: its distance is outside")

    monkeypatch.setitem(FORMATS, "onnx", formats.Format(".onnx", copied, lambda made: None))
    monkeypatch.setattr(int8, "_speed", lambda exact, rounded, feed: {"1": 1.5})
    chosen = sampling(source, Request(seeds=[0], steps=3))
    told = (source, chosen, SHAPE, "onnx", tmp_path / "out", tmp_path / "ledger", {})
    with pytest.raises(KakusanError, match="is outside"):
        export.export(*told, rounded=worse)
    assert list(tmp_path.iterdir()) == [] and len(asked) == 2  # the second with the outer layers in float32
    figures = {"float32": 100.0, "low": 90.0, "high": 110.0, "int8": 105.0}
    done = export.export(*told, rounded=lambda *given: dict(figures))
    assert set(done.files) == {"model.onnx", "table.json"}
    assert (done.path / "model.onnx").read_bytes() != (folder / "out" / "model.onnx").read_bytes()
    assert json.loads((done.path / "manifest.json").read_text())["int8"] == figures | {
        "layers": 11, "of": 16, "speed": {"1": 1.5},
    }  # fmt: skip
    assert "int8: 11 of 16 convolutions; Fréchet distance 105, in float32 100 (90 to 110)" in done.words()


def test_int8_needs_convolutions_and_what_to_judge_by(source, tmp_path):
    for asked, said in (
        ({"int8": True}, "add --data"),
        ({"int8": True, "data": "x", "format": "openvino"}, "--int8 goes with --format onnx, not openvino"),
        ({"int8": True, "data": "x", "size": 32}, "--size 32"),
        ({"data": "x"}, "add --int8"),
    ):
        with pytest.raises(KakusanError, match=said):
            export_verb(tmp_path / "nowhere", **asked)


def test_the_verdict_on_int8(source, table, monkeypatch):
    """Held against the real pictures by their distance: the same is kept, what draws noise is not."""
    draw = np.random.default_rng(0)

    class Held:
        def __init__(self, *given) -> None:
            self.features = 1 + 0.6 * draw.standard_normal((200, 4))
            self.real = SimpleNamespace(labels=None, words="some")

        def extract(self, pictures):
            return pictures.reshape(len(pictures), -1)[:, :4] / 128.0

    monkeypatch.setattr(verdict, "Judge", Held)
    monkeypatch.setattr(verdict.modeldata, "opened", lambda *given: (None, ""))
    compare = verdict.judge(Loaded(source, {}), "data", "auto", 60, Progress(quiet=True))
    short = dict(table) | {"steps": table["steps"][-1:], "start": 1.0}
    found = compare(short, {"model": lambda feed: feed["x"]}, {"model": lambda feed: feed["x"] * 1.001})
    assert found["low"] < found["float32"] < found["high"] and found["int8"] <= found["high"] and found["count"] == 60
    with pytest.raises(KakusanError, match=r"outside float32's .* nothing of it is kept"):
        compare(short, {"model": lambda feed: feed["x"]}, {"model": lambda feed: 0 * feed["x"] - 1})
    with pytest.raises(KakusanError, match="at least 50"):
        verdict.judge(Loaded(source, {}), "data", "auto", 10, Progress(quiet=True))


def latent() -> Model:
    """A small model in the latent of a small autoencoder: 4 x 6 x 2 for pictures of 8 x 12."""
    made = model(encoders={"label": LABEL}, unshuffle=1, channels=2)
    torch.manual_seed(0)
    autoencoder = {"kind": "net/autoencoder", "channels": 1, "latent": 2, "factor": 2, "width": 8}
    own = {"kind": "domain/image", "size": [8, 12], "mode": "L"}
    told = {"kind": "domain/latent", "domain": own, "autoencoder": autoencoder, "mean": [0.5, -1.0], "std": [2.0, 0.5]}
    domain = build(told).eval()
    return Model(made.denoiser, domain, {"label": made.encoder("label")}, made.defaults).eval()


def exported(tmp: Path, made: Model, kind: str):
    chosen = sampling(made, Request(seeds=[0]))
    return export.export(made, chosen, (2, 4, 6), kind, tmp / "out", tmp / "ledger", {}, threads=1)


@onnx
def test_a_latent_model_has_its_decoder_beside_it(tmp_path):
    """Pictures come out, those that the sampler itself draws and decodes."""
    made = latent()
    done = exported(tmp_path, made, "onnx")
    assert set(done.files) == {"model.onnx", "decoder.onnx", "table.json"}
    told = json.loads((done.path / "table.json").read_text())
    assert (told["shape"], told["pictures"], told["decoder"]) == ([2, 4, 6], [1, 8, 12], "decoder")
    runs = {name: engines.onnxruntime(done.path / file, 1) for name, file in told["networks"].items()}
    eps = made.denoiser.space.noise([(2, 4, 6)] * 3, Rng([7, 8, 9]), "start").numpy()
    found = host.sample(told, runs, eps, {"label": np.array([0, 1, 0])}, np.random.default_rng(0))
    *_, last = steps(made, Request(seeds=[7, 8, 9], cond={"label": [0, 1, 0]}), [(2, 4, 6)] * 3)
    assert np.abs(found - made.domain.decode(last.x).numpy()).max() < 1e-4


@pytest.mark.parametrize("wrong", ["model", "decoder"])
def test_either_part_of_a_latent_model_may_fail_the_check(tmp_path, monkeypatch, wrong):
    def write(graph, shape, path, threads):
        return Off("off" if path.stem == wrong else "exact")(graph, shape, path, threads)

    monkeypatch.setitem(FORMATS, "faulty", formats.Format(".bin", write, lambda made: None))
    with pytest.raises(KakusanError, match="the decoder differs" if wrong == "decoder" else "one evaluation differs"):
        exported(tmp_path, latent(), "faulty")
    assert list(tmp_path.iterdir()) == []
