// Sampling from an exported model: the table's loop, for onnxruntime-web or onnxruntime-node.

/** The networks of a table; `load(file)` gives a session. */
export async function networks(table, load) {
  const found = {};
  for (const [name, file] of Object.entries(table.networks)) found[name] = await load(file);
  return found;
}

/**
 * Samples (count x pictures, one Float32Array) from standard normal `noise`, count x shape.
 * `given` has the inputs of the conditions asked for, an array of `count` values each; `tell(done, all)` hears of steps.
 */
export async function sample(ort, table, sessions, noise, count, given, normal, tell = () => {}) {
  const dims = [count, ...table.shape];
  let x = noise.map((v) => table.start * v);
  let past = [];
  for (const [index, step] of table.steps.entries()) {
    const x0 = new Float32Array(x.length);
    for (const [j, branch] of table.branches.entries()) {
      const weight = step.weights[j];
      if (weight === 0) continue;
      const feed = { x: new ort.Tensor("float32", x, dims), ...inputs(ort, table, step, given, branch.none, count) };
      const estimate = (await sessions[branch.network].run(feed)).x0.data;
      for (let i = 0; i < x0.length; i++) x0[i] += weight * estimate[i];
    }
    past = [x0, ...past].slice(0, table.memory);
    x = x.map((v, i) => step.b.reduce((sum, b, j) => sum + b * past[j][i], step.a * v));
    if (step.noise) x = x.map((v) => v + step.noise * normal());
    tell(index + 1, table.steps.length);
  }
  if (!table.decoder) return x;
  return (await sessions[table.decoder].run({ z: new ort.Tensor("float32", x, dims) })).x0.data;
}

/** Coefficients and conditions as a network takes them: `count` equal numbers each, and "none" where nothing is asked. */
function inputs(ort, table, step, given, none, count) {
  const feed = {};
  for (const name of table.coefficients) {
    feed[name] = new ort.Tensor("float32", new Float32Array(count).fill(step[name]), [count]);
  }
  for (const [condition, about] of Object.entries(table.conditions)) {
    for (const [name, told] of Object.entries(about.inputs)) {
      const absent = none.includes(condition) || !(name in given);
      const values = (absent ? Array(count).fill(told.none) : given[name]).flat(Infinity);
      const data = told.dtype === "int64" ? BigInt64Array.from(values, BigInt) : Float32Array.from(values);
      feed[name] = new ort.Tensor(told.dtype, data, [count, ...told.shape]);
    }
  }
  return feed;
}

/** Standard normal numbers from a seed (mulberry32, Box-Muller). */
export function gaussian(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}
