"""The page for the browser: its loop gives NumPy's numbers, and it draws in a real Chromium without another server."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import kakusan
from kakusan.app.deploy.export import sampling
from kakusan.app.draw.sampler import Request
from kakusan.runtime import export, host
from runtime.small import model

PAGE = Path(__file__).parents[2] / "examples" / "browser"
SCRIPT = """
import { sample } from "SAMPLER";
import { readFileSync } from "node:fs";
const { table, noise, given, count } = JSON.parse(readFileSync(0, "utf8"));
class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
const network = (gain) => ({
  async run(feed) {
    const size = feed.x.data.length / count, rows = feed.lam.data;
    const data = feed.x.data.map((v, i) => {
      const n = Math.floor(i / size);
      return gain * Math.tanh(v * feed.c_in.data[n]) + 0.01 * rows[n] + 0.1 * Number(feed.label.data[n]);
    });
    return { x0: new Tensor("float32", data, feed.x.dims) };
  },
});
const sessions = { model: network(0.8), weak: network(0.5) };
const x = await sample({ Tensor }, table, sessions, Float32Array.from(noise), count, given, () => 0);
console.log(JSON.stringify(Array.from(x)));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize("solver", ["dpm2m", "unipc"])
def test_the_pages_loop_is_numpys(solver):
    """With networks that both sides can compute, two of them and three branches."""
    made = model(weak=True)
    table = export.table(made, sampling(made, Request(seeds=[0], solver=solver)), (1, 9, 11), {})
    eps = np.random.default_rng(0).standard_normal((3, 1, 9, 11), np.float32)

    def network(gain):
        def run(feed):
            each = [feed[name].reshape(-1, 1, 1, 1) for name in ("c_in", "lam", "label")]
            return np.float32(gain * np.tanh(feed["x"] * each[0]) + 0.01 * each[1] + 0.1 * each[2])

        return run

    runs = {"model": network(0.8), "weak": network(0.5)}
    expected = host.sample(table, runs, eps, {"label": np.array([0, 1, 1])}, np.random.default_rng(0))
    asked = {"table": table, "noise": eps.flatten().tolist(), "given": {"label": [0, 1, 1]}, "count": 3}
    script = SCRIPT.replace("SAMPLER", (PAGE / "sampler.mjs").as_uri())
    words = ["node", "--input-type=module", "-e", script]
    done = subprocess.run(words, input=json.dumps(asked), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads(done.stdout)).reshape(expected.shape)
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() < 1e-4


def test_the_page_names_no_other_server():
    for file in PAGE.iterdir():
        if file.suffix in (".html", ".mjs"):
            assert not re.search(r"https?://", file.read_text("utf-8")), file.name


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The page with onnxruntime-web beside it, and no model yet."""
    if shutil.which("npm") is None or any(map(_missing, ("onnx", "onnxscript", "onnxruntime"))):
        pytest.skip("needs npm and [export]")
    tmp = tmp_path_factory.mktemp("browser")
    words = ["npm", "install", "--prefix", str(tmp / "npm"), "onnxruntime-web"]
    if subprocess.run(words, capture_output=True, timeout=300).returncode:
        pytest.skip("npm cannot install onnxruntime-web here")
    mine = tmp / "site"
    shutil.copytree(
        PAGE, mine, ignore=lambda folder, names: [n for n in names if n in ("model", "ort", "node_modules")]
    )
    (mine / "ort").mkdir()
    for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        shutil.copy(tmp / "npm" / "node_modules" / "onnxruntime-web" / "dist" / name, mine / "ort")
    return mine


def _missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def drawn(site: Path, tmp_path: Path, asked: str) -> str:
    """What the page holds after it has drawn, in a real Chromium; its picture is in the test's folder."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        place = f"http://127.0.0.1:{server.server_address[1]}/?{asked}&draw"
        own = [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=300000"]
        shot = [f"--screenshot={tmp_path / 'page.png'}", "--window-size=800,900", "--dump-dom"]
        done = subprocess.run([chromium, *quiet, *own, *shot, place], capture_output=True, text=True, timeout=400)
    finally:
        server.shutdown()
    return done.stdout


@pytest.mark.slow
def test_the_page_draws_in_chromium(site, tmp_path):
    made = model()
    shutil.rmtree(site / "model", ignore_errors=True)
    export.export(made, sampling(made, Request(seeds=[0])), (1, 9, 11), "onnx", site / "model", tmp_path / "ledger", {})
    page = drawn(site, tmp_path, "count=16")
    assert re.search(r"drew 16 in [\d.]+ s", page), page[-2000:]
    assert '<canvas id="picture" width="44" height="36"' in page


@pytest.mark.slow
def test_the_page_draws_icons_from_japanese_words(site, tmp_path):
    shutil.rmtree(site / "model", ignore_errors=True)
    kakusan.export("icons", out=site / "model")
    page = drawn(site, tmp_path, f"prompt={quote('緑色のりんご')}&label=flat&count=4")
    assert re.search(r"drew 4 in [\d.]+ s", page), page[-2000:]
    with Image.open(tmp_path / "page.png") as shot:
        pixels = np.asarray(shot.convert("RGB")).astype(int)
    green = (pixels[..., 1] > pixels[..., 0] + 40) & (pixels[..., 1] > pixels[..., 2] + 40)
    assert green.mean() > 0.02, "green apples on the page"
