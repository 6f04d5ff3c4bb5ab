// Every variant of every kernel on this adapter, beside what references in f64 gave of the same inputs.

import { aligned, Device } from "./device.js";
import { BrowserError } from "./errors.js";
import { sha256 } from "./loader.js";
import { toF32 } from "./uploads.js";

const KIND = "webgpu-quant-workbench/cases";
/** A dispatch is repeated within a pass until it takes so long: clocks of browsers are coarse. */
const TIMED_MS = 4;
const MOST_REPEATS = 1024;

/**
 * @typedef {{name: string, buffer: number, dtype: string, packed: number, expected: number, bound: number}} Output
 * @typedef {{kernel: string, variant: string, lanes: number, f16: boolean, module: number, grid: [number, number, number],
 *   bindings: [number, GPUBufferBindingType][], buffers: number[], outputs: Output[]}} Case
 * @typedef {{kernel: string, variant: string, lanes: number, status: string, worst: number | null, elements: number,
 *   off: number, us: number | null}} Result worst: the largest error over its bound; us: of one dispatch
 */

/** @param {Uint8Array<ArrayBuffer>} bytes */
function unpacked(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  if (head.kind !== KIND || head.version !== 1) throw new BrowserError("unsupported", "these are no cases of version 1");
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

/** Cases on a device. */
class Bench {
  /** @param {Device} device @param {any} head @param {Uint8Array<ArrayBuffer>[]} tensors */
  constructor(device, head, tensors) {
    this.device = device;
    this.head = head;
    this.tensors = tensors;
  }

  /** @param {Case} each @returns {Promise<Result>} */
  async run(each) {
    const { kernel, variant, lanes } = each;
    const result = { kernel, variant, lanes, status: "within", worst: /** @type {number | null} */ (null), elements: 0, off: 0, us: null };
    const pipeline = await this.compile(each).catch((error) => String(error.message ?? error));
    if (typeof pipeline === "string") return { ...result, status: `does not compile: ${pipeline}` };
    const wanted = each.buffers.map((tensor, n) => /** @type {[string, import("./device.js").Wanted]} */ (
      [String(n), { bytes: this.tensors[tensor].length, uniform: each.bindings[n][1] === "uniform" }]));
    const buffers = [...(await this.device.allocate(new Map(wanted), "a case")).values()];
    try {
      each.buffers.forEach((tensor, n) => this.device.write(buffers[n], 0, this.tensors[tensor]));
      const entries = buffers.map((buffer, n) => ({ binding: each.bindings[n][0], resource: { buffer } }));
      const group = this.device.gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
      await this.dispatched(pipeline, group, each.grid, 1);
      result.worst = 0;
      for (const output of each.outputs) {
        const size = this.tensors[each.buffers[output.buffer]].length;
        const double = (/** @type {number} */ n) => new Float64Array(this.tensors[n].buffer);
        const expected = double(output.expected);
        const { off, worst } = judged(numbers(await this.read(buffers[output.buffer], size), output), expected, double(output.bound));
        result.elements += expected.length;
        result.off += off;
        result.worst = Math.max(result.worst, worst);
      }
      return { ...result, status: result.off ? "beyond" : "within", us: await this.timed(pipeline, group, each.grid) };
    } finally {
      this.device.release(buffers);
    }
  }

  /** @param {Case} each */
  async compile({ module, bindings, kernel, variant }) {
    const { gpu } = this.device;
    const label = `${kernel}/${variant}`;
    const entries = bindings.map(([binding, type]) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } }));
    gpu.pushErrorScope("validation");
    const layout = gpu.createPipelineLayout({ bindGroupLayouts: [gpu.createBindGroupLayout({ entries })] });
    const compute = { module: gpu.createShaderModule({ label, code: this.head.modules[module] }), entryPoint: "main" };
    const invalid = await gpu.popErrorScope();
    if (invalid) throw new BrowserError("unsupported", invalid.message);
    return gpu.createComputePipelineAsync({ label, layout, compute });
  }

  /** @param {GPUBuffer} buffer @param {number} size */
  async read(buffer, size) {
    const staging = this.device.staging(size);
    const encoder = this.device.gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, staging, 0, aligned(size));
    this.device.gpu.queue.submit([encoder.finish()]);
    const data = await this.device.mapped(staging, aligned(size));
    staging.destroy();
    return data.slice(0, size);
  }

  /**
   * Milliseconds of a pass of some dispatches.
   * @param {GPUComputePipeline} pipeline
   * @param {GPUBindGroup} group
   * @param {[number, number, number]} grid
   * @param {number} repeats
   */
  async dispatched(pipeline, group, grid, repeats) {
    const encoder = this.device.gpu.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    for (let n = 0; n < repeats; n++) pass.dispatchWorkgroups(...grid);
    pass.end();
    const began = performance.now();
    this.device.gpu.queue.submit([encoder.finish()]);
    await this.device.gpu.queue.onSubmittedWorkDone();
    this.device.check();
    return performance.now() - began;
  }

  /** Microseconds of a dispatch. @param {GPUComputePipeline} pipeline @param {GPUBindGroup} group @param {[number, number, number]} grid */
  async timed(pipeline, group, grid) {
    for (let repeats = 1; ; repeats *= 4) {
      const took = await this.dispatched(pipeline, group, grid, repeats);
      if (took >= TIMED_MS || repeats >= MOST_REPEATS) return (1000 * took) / repeats;
    }
  }
}

/**
 * @param {GPU | undefined} gpu
 * @param {Uint8Array<ArrayBuffer>} bytes what workbench/browser/certificate.py packs
 * @param {string} runtime as the certificate names it
 * @param {(done: number, total: number) => void} [onProgress]
 */
export async function certify(gpu, bytes, runtime, onProgress) {
  const { head, tensors } = unpacked(bytes);
  const all = /** @type {Case[]} */ (head.cases);
  const sizes = [...new Set(all.map(({ lanes }) => lanes))];
  const f16 = (await gpu?.requestAdapter({ powerPreference: "high-performance" }))?.features.has("shader-f16") ?? false;
  const device = await Device.open(gpu, { bindingBytes: 128 << 20, subgroupSizes: sizes, f16 });
  const bench = new Bench(device, head, tensors);
  const chosen = all.filter((each) => [0, device.subgroupSize].includes(each.lanes) && (f16 || !each.f16));
  const results = [];
  for (const each of chosen) {
    results.push(await bench.run(each));
    onProgress?.(results.length, chosen.length);
  }
  const features = [...device.gpu.features].sort();
  device.close();
  const where = { runtime, adapter: device.name, lanes: device.subgroupSize, features };
  return { seed: head.seed, about: head.about, where, timed: "dispatches repeated within a pass", cases: results };
}

/** The file of a certificate: the content as text, whose sum is the seal. @param {object} found what `certify` gives */
export async function certificate(found) {
  const content = JSON.stringify(found);
  const seal = await sha256(new TextEncoder().encode(content));
  return JSON.stringify({ kind: "webgpu-quant-workbench/certificate", version: 1, seal, content }, undefined, 1);
}
