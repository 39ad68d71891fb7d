// The page: a photo comes in, a worker enlarges it, the result stands beside it. Nothing leaves the browser.

const MAX_PIXELS = 2 ** 20; // with scale 4 the result fits the canvas of a phone
const MAX_SIDE = 4096;
const ENGINE = new URLSearchParams(location.search).get("engine"); // wasm: not on the graphics processor

const part = Object.fromEntries(
  [...document.querySelectorAll("#try [data-part]")].map((element) => [element.dataset.part, element]),
);
const urls = [];
let facts, photo, worker;

start();

async function start() {
  const found = await fetch("./facts.json").catch(() => null);
  if (!found?.ok) {
    show("error", "This copy of the site was built without the network: make docs, with npm, adds it.");
    return;
  }
  facts = await found.json();
  part.kinds.append(...facts.weights.map(radioOf));
  show("hint", "Your photo and the result will appear here.");
  part.form.hidden = false;
  part.file.addEventListener("change", () => {
    const [file] = part.file.files;
    part.file.value = ""; // so that the same file may be chosen again
    if (file) take(file);
  });
  part.drop.addEventListener("click", () => part.file.click());
  part.drop.addEventListener("dragover", (event) => event.preventDefault());
  part.drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  part.form.addEventListener("submit", (event) => {
    event.preventDefault();
    enlarge();
  });
  part.stop.addEventListener("click", () => {
    end();
    show("hint", "Stopped. Press Enlarge to start again.");
    part.enlarge.focus();
  });
}

function radioOf(weights, number) {
  const label = document.createElement("label");
  const radio = Object.assign(document.createElement("input"), { type: "radio", name: "weights", value: number });
  radio.checked = number === 0;
  label.append(radio, ` ${weights.title}`);
  return label;
}

/** Take a photo that was chosen or dropped, and show it, or say why it cannot be. */
async function take(file) {
  end();
  photo = undefined;
  part.enlarge.disabled = true;
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (bitmap === null)
    return show("error", `This browser cannot read ${file.name}: save it as JPEG or PNG and try that.`);
  const { width, height } = bitmap;
  const size = `${width.toLocaleString("en")} x ${height.toLocaleString("en")} pixels`;
  if (width * height > MAX_PIXELS || Math.max(width, height) > MAX_SIDE)
    return show(
      "error",
      `${file.name} has ${size}, but this page takes up to ${MAX_PIXELS.toLocaleString("en")}, and ` +
        `${MAX_SIDE.toLocaleString("en")} a side: mrda upscale takes photos of any size.`,
    );
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // below what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  photo = { data, width, height, name: file.name.replace(/\.[^.]*$/, "") };
  canvas.className = "photo";
  canvas.role = "img";
  canvas.ariaLabel = "Your photo";
  show("photo", canvas);
  part.facts.textContent = size;
  part.enlarge.disabled = false;
}

function enlarge() {
  end();
  const weights = facts.weights[new FormData(part.form).get("weights")];
  const began = performance.now();
  part.enlarge.disabled = true;
  part.stop.disabled = false;
  show("progress", "Starting");
  worker = new Worker("./worker.js", { type: "module" });
  worker.onerror = () => fail("This browser cannot run the page's worker: try a newer browser.");
  worker.onmessage = ({ data }) => {
    if (data.kind === "error") fail(data.sentence);
    else if (data.kind === "progress") showProgress(data.phase, data.share);
    else {
      end();
      showResult(data, weights, (performance.now() - began) / 1000);
    }
  };
  worker.postMessage({ photo, weights, engine: ENGINE });
}

function fail(sentence) {
  end();
  show("error", sentence);
}

/** End the work, if there is some. */
function end() {
  worker?.terminate();
  worker = undefined;
  part.stop.disabled = true;
  part.enlarge.disabled = photo === undefined;
}

/** Put an element, or a sentence, where the result stands, in place of all that was there. */
function show(kind, content) {
  urls.splice(0).forEach((url) => URL.revokeObjectURL(url));
  part.download.hidden = true;
  part.facts.textContent = "";
  let element = content;
  if (typeof content === "string") {
    element = Object.assign(document.createElement("p"), { className: kind, textContent: content });
    if (kind === "error") element.role = "alert";
    if (kind === "progress") element.append(document.createElement("progress"));
  }
  part.stage.replaceChildren(element);
}

function showProgress(phase, share) {
  const bar = part.stage.querySelector("progress");
  if (bar === null) return;
  bar.value = share;
  bar.ariaLabel = phase;
  bar.previousSibling.textContent = `${phase}: ${Math.round(100 * share)} %`;
}

function showResult({ after, stretched, tiles, seconds, provider, failed }, weights, total) {
  const compare = part.compare.content.firstElementChild.cloneNode(true);
  const [before, result] = compare.querySelectorAll("img");
  show("result", compare);
  before.src = urlOf(stretched);
  result.src = urlOf(after);
  compare.querySelector("input").addEventListener("input", (event) => {
    compare.style.setProperty("--at", `${event.target.value}%`);
  });
  const name = `${photo.name}_x${weights.scale}.png`;
  part.download.textContent = `Download ${name}`;
  part.download.href = urlOf(after);
  part.download.download = name;
  part.download.hidden = false;
  const where = provider === "webgpu" ? "the graphics processor" : "the processor";
  const count = `${tiles === 1 ? "1 tile" : `${tiles} tiles`} of ${seconds.toFixed(1)} s`;
  const license = weights.license && `; the weights are under ${weights.license}`;
  const instead = failed ? " The graphics processor failed, so the main one enlarged the photo." : "";
  part.facts.textContent =
    `${(weights.scale * photo.width).toLocaleString("en")} x ${(weights.scale * photo.height).toLocaleString("en")} ` +
    `pixels, made in ${total.toFixed(1)} s on ${where} (${count})${license}.${instead}`;
}

function urlOf(blob) {
  urls.push(URL.createObjectURL(blob));
  return urls.at(-1);
}
