// Runs ONNX files in onnxruntime-node or onnxruntime-web: `node infer.mjs FOLDER`. node.py writes the request
// (see exchange.py) and starts this in a process of its own.
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const request = JSON.parse(readFileSync(join(folder, "request.json"), "utf8"));

const arrays = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array,
  int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array,
  int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array, bool: Uint8Array,
};

function answer(value) {
  writeFileSync(join(folder, "answer.part"), JSON.stringify(value));
  renameSync(join(folder, "answer.part"), join(folder, "answer.json"));
}

// Where the package lies, by Node's own rules, seen from the folder that was named.
function find() {
  try {
    return createRequire(join(request.from, "from.js")).resolve(request.package);
  } catch {
    return null;
  }
}

async function runtime(file) {
  const loaded = await import(pathToFileURL(file));
  const ort = loaded.InferenceSession ? loaded : loaded.default;
  ort.env.logLevel = "error";
  if (request.package === "onnxruntime-web") ort.env.wasm.numThreads = 1;
  return ort;
}

// The package for browsers has no files of its own to look beside the model for.
function open(ort, { path, external }) {
  const options = { intraOpNumThreads: request.threads, interOpNumThreads: 1, logSeverityLevel: 3 };
  if (request.package === "onnxruntime-node") {
    return ort.InferenceSession.create(path, { ...options, executionProviders: ["cpu"] });
  }
  const externalData = external.map((name) => ({ path: name, data: readFileSync(join(dirname(path), name)) }));
  const more = externalData.length ? { externalData } : {};
  return ort.InferenceSession.create(readFileSync(path), { ...options, executionProviders: ["wasm"], ...more });
}

function feeds(ort, batch) {
  const made = {};
  for (const [name, { file, dtype, shape }] of Object.entries(batch)) {
    const kind = arrays[dtype];
    if (!kind) throw new Error(`the input '${name}' is of type ${dtype}, which JavaScript has no array for`);
    // A copy: a file's buffer may begin at an address that the wider types cannot be read from.
    const bytes = Uint8Array.from(readFileSync(join(folder, file)));
    made[name] = new ort.Tensor(dtype, new kind(bytes.buffer), shape);
  }
  return made;
}

function keep(outputs, number) {
  const records = {};
  Object.entries(outputs).forEach(([name, tensor], i) => {
    const file = `out-${number}-${i}.bin`;
    const { data } = tensor;
    if (!ArrayBuffer.isView(data)) throw new Error(`the output '${name}' is no tensor of numbers`);
    writeFileSync(join(folder, file), new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    records[name] = { file, dtype: tensor.type, shape: tensor.dims };
  });
  return records;
}

async function infer(ort) {
  const session = await open(ort, request.models[0]);
  const batches = [];
  for (const batch of request.batches) batches.push(keep(await session.run(feeds(ort, batch)), batches.length));
  return { batches };
}

// CPU time of all threads, in seconds: other load on the machine hardly changes it.
function clock() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

// Each round runs every file once, so that what else the machine does falls on all of them.
async function time(ort) {
  const sessions = [];
  for (const model of request.models) sessions.push(await open(ort, model));
  const fed = feeds(ort, request.batches[0]);
  const seconds = sessions.map(() => []);
  for (let round = -1; round < request.repeats; round += 1) {
    for (const [i, session] of sessions.entries()) {
      const start = clock();
      await session.run(fed);
      if (round >= 0) seconds[i].push(clock() - start);
    }
  }
  return { seconds };
}

const file = find();
if (file === null || request.task === "find") {
  answer(file === null ? { missing: true } : { file });
} else {
  try {
    const ort = await runtime(file);
    answer(await (request.task === "time" ? time(ort) : infer(ort)));
  } catch (error) {
    answer({ error: String(error?.message ?? error) });
  }
}
