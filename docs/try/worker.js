// Enlarges a photo beside the page: the degradation of all of it, then tile by tile.

import { addUp, cut, parts, paste, tiles } from "./tiles.js";

const GRAPHS = ["features", "head", "rdan"];
const DEGRADATION_SHARE = 0.1; // of the work

self.onmessage = async ({ data: { photo, weights, engine } }) => {
  try {
    const files = await download(weights);
    self.postMessage({ kind: "done", ...(await enlargeAnywhere(photo, weights, files, engine)) });
  } catch (error) {
    self.postMessage({ kind: "error", sentence: sentenceOf(error) });
  }
};

class Told extends Error {}

function sentenceOf(error) {
  if (error instanceof Told) return error.message;
  const message = String(error?.message ?? error); // wasm throws numbers too
  if (error instanceof RangeError || /memory|alloc/i.test(message))
    return "This browser has not enough memory for the photo: try a smaller one.";
  return `This browser cannot run the network (${message}): try another browser.`;
}

/** Enlarge on the graphics processor if the browser offers it, on the main one if it does not or if that fails. */
async function enlargeAnywhere(photo, weights, files, engine) {
  const adapter = engine === "wasm" ? null : await navigator.gpu?.requestAdapter().catch(() => null);
  let failed = false;
  if (adapter) {
    try {
      return await enlarge(photo, weights, await load("webgpu", files), "Enlarging");
    } catch (error) {
      console.warn("WebGPU cannot run the network:", error);
      failed = !(error instanceof Told); // its library may be all that is missing
    }
  }
  const phase = failed ? "The graphics processor failed, so the main one enlarges" : "Enlarging";
  return { ...(await enlarge(photo, weights, await load("wasm", files), phase)), failed };
}

/** Load the library and the graphs. */
async function load(provider, files) {
  const ort = await import(`./ort/ort.${provider}.min.mjs`).catch(() => {
    throw new Told("The library that runs the network cannot be loaded: reload the page to try again.");
  });
  const sessions = {};
  for (const graph of GRAPHS)
    sessions[graph] = await ort.InferenceSession.create(files[graph], { executionProviders: [provider] });
  const run = async (graph, feeds) => {
    const tensors = Object.entries(feeds).map(([name, [data, ...shape]]) => [
      name,
      new ort.Tensor("float32", data, shape),
    ]);
    const result = await sessions[graph].run(Object.fromEntries(tensors));
    const output = result[sessions[graph].outputNames[0]];
    const data = await output.getData();
    output.dispose();
    return { data, shape: output.dims };
  };
  return { provider, run };
}

async function download(weights) {
  const files = {};
  let loaded = 0;
  for (const graph of GRAPHS) {
    const failed = new Told("The network cannot be downloaded: reload the page to try again.");
    const response = await fetch(`./${weights.name}/${graph}.onnx`).catch(() => {
      throw failed;
    });
    if (!response.ok) throw failed;
    const chunks = [];
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read().catch(() => {
        throw failed;
      });
      if (done) break;
      chunks.push(value);
      loaded += value.length;
      self.postMessage({ kind: "progress", phase: "Downloading the network", share: loaded / weights.bytes });
    }
    files[graph] = new Uint8Array(await new Blob(chunks).arrayBuffer());
  }
  return files;
}

async function enlarge(photo, weights, { provider, run }, phase) {
  const { scale, tile, pad } = weights;
  const { height, width } = photo;
  const tell = (share) => self.postMessage({ kind: "progress", phase, share });
  tell(0);
  const degradation = await read(photo, weights, run, tell);
  const grid = tiles(height, tile, pad).flatMap((rows) =>
    tiles(width, tile, pad).map((columns) => [rows, columns]),
  );
  const result = new ImageData(scale * width, scale * height);
  const before = performance.now();
  for (const [number, [rows, columns]] of grid.entries()) {
    const lr = cut(photo, rows.seen, columns.seen, tile, tile);
    const sr = await run("rdan", { lr: [lr, 1, 3, tile, tile], degradation: [degradation, 1, degradation.length] });
    if (!sr.data.every(Number.isFinite)) throw new Error("its result has values that are no numbers");
    paste(sr.data, tile, scale, rows, columns, result);
    tell(DEGRADATION_SHARE + ((1 - DEGRADATION_SHARE) * (number + 1)) / grid.length);
  }
  const seconds = (performance.now() - before) / 1000 / grid.length;
  const canvas = new OffscreenCanvas(result.width, result.height);
  canvas.getContext("2d").putImageData(result, 0, 0);
  const after = await canvas.convertToBlob({ type: "image/png" });
  return { after, stretched: await stretched(photo, canvas), tiles: grid.length, seconds, provider };
}

/** Read the degradation of the whole photo: the mean of all its features goes through the head. */
async function read(photo, { tile, denReach, denStride }, run, tell) {
  const columns = parts(photo.width, tile, denReach);
  const rows = parts(photo.height, tile, denReach);
  let sums = null, done = 0;
  for (const row of rows) {
    for (const column of columns) {
      const high = row.seenEnd - row.seen, wide = column.seenEnd - column.seen;
      const lr = cut(photo, row.seen, column.seen, high, wide);
      const { data, shape } = await run("features", { lr: [lr, 1, 3, high, wide] });
      sums ??= new Float64Array(shape[1]);
      addUp(sums, data, shape[2], shape[3], denStride, row, column);
      tell((DEGRADATION_SHARE * ++done) / (rows.length * columns.length));
    }
  }
  const pixels = Math.ceil(photo.height / denStride) * Math.ceil(photo.width / denStride);
  const mean = Float32Array.from(sums, (sum) => sum / pixels);
  return (await run("head", { mean: [mean, 1, mean.length] })).data;
}

/** Draw the photo in the size of its result, to stand beside it. */
async function stretched(photo, canvas) {
  const small = await createImageBitmap(new ImageData(photo.data, photo.width));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
}
