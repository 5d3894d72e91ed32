// The page: loads the model beside it, draws, and shows a grid.
import * as ort from "./ort/ort.wasm.min.mjs";
import { glossary } from "./glossary.mjs";
import { gaussian, networks, sample } from "./sampler.mjs";
import { reader } from "./words.mjs";

const at = (id) => document.getElementById(id);
ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href; // beside this page, from nowhere else
ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

try {
  const table = await (await fetch("model/table.json")).json();
  const sessions = await networks(table, (file) => ort.InferenceSession.create(`model/${file}`));
  const [called, classes] = Object.entries(table.conditions).find(([, about]) => about.names?.length) ?? ["", {}];
  const names = classes.names ?? [];
  const said = table.conditions.prompt;
  const read = said?.vocabulary ? reader(said, said.glossary && glossary(said.glossary)) : null;
  at("words").hidden = read === null;
  at("classes").hidden = names.length === 0;
  at("called").textContent = called === "label" ? "class" : called;
  for (const [value, text] of [["", "each in turn"], ...names.map((name, i) => [i, name])]) {
    at("label").append(new Option(text, value));
  }
  const wanted = new URLSearchParams(location.search);
  for (const name of ["prompt", "label", "count", "seed"]) {
    const index = name === "label" ? names.indexOf(wanted.get(name)) : -1;
    if (wanted.has(name)) at(name).value = index < 0 ? wanted.get(name) : index;
  }
  at("go").disabled = false;
  at("said").textContent = "ready";
  at("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    at("go").disabled = true;
    try {
      await draw(table, sessions, called, names.length, read);
    } catch (error) {
      at("said").textContent = `failed: ${error.message}`;
    }
    at("go").disabled = false;
  });
  if (wanted.has("draw")) at("form").requestSubmit();
} catch (error) {
  at("said").textContent = `cannot load the model: ${error.message}`;
}

async function draw(table, sessions, called, classes, read) {
  const count = Math.max(1, Math.min(64, Number(at("count").value) || 1));
  const chosen = at("label").value;
  const given = classes ? { [called]: Array.from({ length: count }, (_, i) => (chosen === "" ? i % classes : Number(chosen))) } : {};
  if (read && at("prompt").value.trim()) {
    const { pieces, weight } = read(at("prompt").value);
    given.prompt_pieces = Array(count).fill(pieces);
    given.prompt_weight = Array(count).fill(weight);
  }
  const normal = gaussian(Number(at("seed").value) || 0);
  const noise = Float32Array.from({ length: count * table.shape.reduce((a, b) => a * b) }, normal);
  const begun = performance.now();
  const x = await sample(ort, table, sessions, noise, count, given, normal, (done, all) => {
    at("said").textContent = `step ${done} of ${all}`;
  });
  show(x, count, table.pictures ?? table.shape);
  const seconds = (performance.now() - begun) / 1000;
  at("said").textContent = `drew ${count} in ${seconds.toFixed(1)} s`;
}

/** Samples in [-1, 1] as a grid; one channel is grey, three are RGB, four are RGB premultiplied by the fourth. */
function show(x, count, [channels, height, width]) {
  const columns = Math.ceil(Math.sqrt(count));
  const canvas = at("picture");
  canvas.width = columns * width;
  canvas.height = Math.ceil(count / columns) * height;
  const picture = canvas.getContext("2d");
  const unit = (n, c, i) => Math.min(1, Math.max(0, x[(n * channels + c) * height * width + i] / 2 + 0.5));
  for (let n = 0; n < count; n++) {
    const tile = picture.createImageData(width, height);
    for (let i = 0; i < height * width; i++) {
      const alpha = channels === 4 ? unit(n, 3, i) : 1;
      for (let c = 0; c < 3; c++) {
        const value = unit(n, channels < 3 ? 0 : c, i);
        tile.data[4 * i + c] = Math.round(255 * (alpha > 0 ? Math.min(1, value / alpha) : 0));
      }
      tile.data[4 * i + 3] = Math.round(255 * alpha);
    }
    picture.putImageData(tile, (n % columns) * width, Math.floor(n / columns) * height);
  }
}
