// Runs all files over the test images in turn. ?ort=URL says where onnxruntime-web's dist folder is, ?count=N how
// many images are run.
const asked = new URLSearchParams(location.search);
const place = new URL((asked.get("ort") ?? "node_modules/onnxruntime-web/dist").replace(/\/?$/, "/"), location.href);
const state = document.getElementById("state");

function tell(text, bad = false) {
  state.textContent = text;
  state.className = bad ? "bad" : "";
}

async function load(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is not there (${answer.status}): run make.py first`);
  return answer;
}

async function runtime() {
  const file = new URL("ort.wasm.min.mjs", place);
  const ort = await import(file).catch(() => {
    throw new Error(`no onnxruntime-web at ${place}: npm install --prefix . onnxruntime-web here, or add ?ort=URL`);
  });
  ort.env.wasm.wasmPaths = place.href;
  ort.env.wasm.numThreads = 1; // more need a page that is cross-origin isolated
  return ort;
}

async function open(ort, name) {
  const bytes = new Uint8Array(await (await load(name)).arrayBuffer());
  const start = performance.now();
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  return { name, bytes: bytes.length, opened: performance.now() - start, session, times: [], best: [], logits: [] };
}

const largest = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
// A browser's clock is coarse, and whatever else runs only adds: the mean of the faster half.
const typical = (values) => mean([...values].sort((a, b) => a - b).slice(0, -(values.length >> 1)));
const share = (best, truth) => best.filter((value, i) => value === truth[i]).length / best.length;

async function runAll(ort, models, about, images, count) {
  const size = about.shape.reduce((a, b) => a * b);
  for (let i = 0; i < count; i += 1) {
    const image = new ort.Tensor("float32", images.subarray(i * size, (i + 1) * size), [1, ...about.shape]);
    for (const model of models) {
      const start = performance.now();
      const [output] = Object.values(await model.session.run({ [about.input]: image }));
      if (i > 0) model.times.push(performance.now() - start); // the first run allocates
      model.best.push(largest(output.data));
      if (i < 16) model.logits.push([...output.data]);
    }
    if (i % 25 === 0) {
      tell(`Image ${i} of ${count}…`);
      await new Promise((done) => setTimeout(done)); // the page may draw
    }
  }
}

function row(model, float, labels) {
  const found = {
    file: model.name, bytes: model.bytes, opened: model.opened, ms: typical(model.times), logits: model.logits,
    right: share(model.best, labels), asFloat: share(model.best, float.best),
  };
  const texts = [
    found.file, found.bytes.toLocaleString("en"), `${(found.bytes / float.bytes).toFixed(2)}x`,
    `${(100 * found.right).toFixed(1)} %`, `${(100 * found.asFloat).toFixed(1)} %`,
    found.ms.toFixed(2), found.opened.toFixed(0),
  ];
  const line = document.querySelector("#files tbody").insertRow();
  for (const text of texts) line.insertCell().textContent = text;
  return found;
}

// Faint print is drawn with all the contrast there is.
function draw(image, [height, width]) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const [low, high] = [Math.min(...image), Math.max(...image)];
  const pixels = new ImageData(width, height);
  image.forEach((value, i) => pixels.data.set([...Array(3).fill((255 * (value - low)) / (high - low)), 255], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function figure(i, models, about, images) {
  const [, height, width] = about.shape;
  const made = document.createElement("figure");
  made.append(draw(images.subarray(i * height * width, (i + 1) * height * width), [height, width]));
  for (const { name, best } of models) {
    const line = made.appendChild(document.createElement("div"));
    line.textContent = `${name.replace(".onnx", "")}: ${about.classes[best[i]]}`;
    if (best[i] !== about.labels[i]) line.className = "wrong";
  }
  return made;
}

async function main() {
  const ort = await runtime();
  const about = await (await load("about.json")).json();
  about.classes = [...about.classes];
  const images = new Float32Array(await (await load("images.f32")).arrayBuffer());
  await open(ort, about.files[0]); // the first one starts the runtime too
  const models = [];
  for (const name of about.files) models.push(await open(ort, name));
  const count = Math.max(8, Math.min(Number(asked.get("count") ?? Infinity), about.labels.length));
  await runAll(ort, models, about, images, count);
  const found = models.map((model) => row(model, models[0], about.labels));
  for (let i = 0; i < Math.min(count, 12); i += 1) {
    document.getElementById("images").append(figure(i, models, about, images));
  }
  tell(`${count} images, onnxruntime-web ${ort.env.versions?.web ?? ""}.`);
  window.found = found; // for whoever drives the page
}

main().catch((error) => tell(error.message, true));
