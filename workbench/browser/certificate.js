// Every variant of every kernel on this adapter, and a model, beside what references in f64 gave of the same inputs.

import { playModelCase } from "./certificate_model.js";
import { Device } from "./device.js";
import { BrowserError } from "./errors.js";
import { bind, compile, dispatched, paced } from "./kernels.js";
import { sha256 } from "./loader.js";
import { toF32 } from "./uploads.js";

const KIND = "webgpu-quant-workbench/cases";
/** Of cases and certificates: VERSION in workbench/browser/certificate.py. */
const VERSION = 2;
/** What every WebGPU device binds. */
const PROMISED = { bytes: 128 << 20, alignment: 256 };

/**
 * @typedef {{name: string, buffer: number, dtype: string, packed: number, expected: number, bound: number}} Output
 * @typedef {{kernel: string, variant: string, lanes: number, f16: boolean, module: number, grid: [number, number, number],
 *   bindings: [number, GPUBufferBindingType][], buffers: number[], outputs: Output[]}} Case
 * @typedef {{kernel: string, variant: string, lanes: number, status: string, worst: number | null, elements: number,
 *   off: number, us: number | null}} Result worst: the largest error over its bound; us: of one dispatch
 */

/** @param {Bytes} bytes */
function unpacked(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  if (head.kind !== KIND || head.version !== VERSION) {
    throw new BrowserError("unsupported", `these are no cases of version ${VERSION}; certify again with one version of all files`);
  }
  const tensors = head.tensors.map((/** @type {[number, number]} */ [at, size]) => bytes.slice(4 + length + at, 4 + length + at + size));
  return { head, tensors };
}

/** What an output holds as numbers. @param {ArrayBuffer} data @param {Output} output @returns {ArrayLike<number>} */
function numbers(data, { dtype, packed }) {
  if (packed) {
    const found = [];
    for (const word of new Uint32Array(data)) {
      for (let shift = 0; shift < 32; shift += packed) {
        const value = (word >>> shift) & ((1 << packed) - 1);
        found.push(packed === 8 && value > 127 ? value - 256 : value);
      }
    }
    return found;
  }
  if (dtype === "u32") return new Int32Array(data); // as PyTorch has them
  if (dtype === "i32") return new Int32Array(data);
  if (dtype === "i8") return new Int8Array(data);
  return toF32(new Uint8Array(data), dtype, 0);
}

/**
 * How many numbers are beyond their bounds, and the largest error over its bound.
 * @param {ArrayLike<number>} got
 * @param {Float64Array} expected
 * @param {Float64Array} bound
 */
export function judged(got, expected, bound) {
  let [off, worst] = [0, 0];
  for (let n = 0; n < expected.length; n++) {
    const difference = Math.abs(got[n] - expected[n]);
    const error = Number.isNaN(difference) ? Infinity : difference;
    if (!(error <= bound[n])) off += 1;
    if (error) worst = Math.max(worst, error / Math.max(bound[n], 1e-300));
  }
  return { off, worst };
}

/**
 * @param {Device} device
 * @param {{head: any, tensors: Bytes[]}} cases
 * @param {Case} each
 * @returns {Promise<Result>}
 */
async function run(device, { head, tensors }, each) {
  const { kernel, variant, lanes } = each;
  const result = { kernel, variant, lanes, status: "within", worst: /** @type {number | null} */ (null), elements: 0, off: 0, us: null };
  const asked = { ...each, label: `${kernel}/${variant}`, code: head.modules[each.module] };
  const pipeline = await compile(device, asked).catch((error) => String(error.message ?? error));
  if (typeof pipeline === "string") return { ...result, status: `does not compile: ${pipeline}` };
  const bound = await bind(device, pipeline, each, each.buffers.map((tensor) => tensors[tensor]));
  try {
    await dispatched(device, bound, 1);
    result.worst = 0;
    for (const output of each.outputs) {
      const size = tensors[each.buffers[output.buffer]].length;
      const double = (/** @type {number} */ n) => new Float64Array(tensors[n].buffer);
      const expected = double(output.expected);
      const got = numbers(await device.read(bound.buffers[output.buffer], size), output);
      const { off, worst } = judged(got, expected, double(output.bound));
      result.elements += expected.length;
      result.off += off;
      result.worst = Math.max(result.worst, worst);
    }
    const { repeats, ms } = await paced(device, bound);
    return { ...result, status: result.off ? "beyond" : "within", us: (1000 * ms) / repeats };
  } finally {
    device.release(bound.buffers);
  }
}

/**
 * @param {GPU | undefined} gpu
 * @param {Bytes} bytes what workbench/browser/certificate.py packs
 * @param {string} runtime as the certificate names it
 * @param {(done: number, total: number) => void} [onProgress] cases; the model counts as one
 * @param {Read} [read] of the page's own folder, whose model is run where the cases carry none
 */
export async function certify(gpu, bytes, runtime, onProgress, read) {
  const cases = unpacked(bytes);
  const { head, tensors } = cases;
  const all = /** @type {Case[]} */ (head.cases);
  const sizes = [...new Set(all.map(({ lanes }) => lanes))];
  const device = await Device.open(gpu, { bindings: [PROMISED], subgroupSizes: sizes, f16: true });
  const chosen = all.filter((each) => [0, device.subgroupSize].includes(each.lanes) && !(each.f16 && device.lacks("f16")));
  const total = chosen.length + (head.model ? 1 : 0);
  const results = [];
  for (const each of chosen) {
    results.push(await run(device, cases, each));
    onProgress?.(results.length, total);
  }
  const features = [...device.gpu.features].sort();
  device.close();
  const model = head.model && (await playModelCase(gpu, head.model, tensors, read));
  onProgress?.(total, total);
  const where = { runtime, adapter: device.name, lanes: device.subgroupSize, features };
  return { seed: head.seed, about: head.about, where, timed: "dispatches repeated within a pass", cases: results, model };
}

/** The file of a certificate: the content as text, whose sum is the seal. @param {object} found what `certify` gives */
export async function certificate(found) {
  const content = JSON.stringify(found);
  const seal = await sha256(new TextEncoder().encode(content));
  return JSON.stringify({ kind: "webgpu-quant-workbench/certificate", version: VERSION, seal, content }, undefined, 1);
}
