// One kernel on a device: a module compiled, dispatched on given bytes, read back and timed.

import { BrowserError } from "./errors.js";

/** A dispatch is repeated within a pass until it takes so long: clocks of browsers are coarse. */
const TIMED_MS = 4;
const MOST_REPEATS = 1024;

/** @typedef {{line: number, column: number, message: string}} Place of a compiler's error, from 1, in the module */

/** A kernel's pipeline and its buffers. */
export class Bound {
  /**
   * @param {GPUComputePipeline} pipeline @param {GPUBindGroup} group @param {[number, number, number]} grid
   * @param {GPUBuffer[]} buffers
   */
  constructor(pipeline, group, grid, buffers) {
    this.pipeline = pipeline;
    this.group = group;
    this.grid = grid;
    this.buffers = buffers;
  }
}

/** A compiler's complaint, with its places in the module. */
export class Uncompiled extends BrowserError {
  /** @param {string} message @param {Place[]} places @param {unknown} [cause] */
  constructor(message, places, cause) {
    super("unsupported", message, cause);
    this.places = places;
  }
}

/**
 * @param {Device} device
 * @param {{label: string, code: string, bindings: [number, GPUBufferBindingType][]}} kernel
 * @returns {Promise<GPUComputePipeline>} or an `Uncompiled`
 */
export async function compile({ gpu }, { label, code, bindings }) {
  const entries = bindings.map(([binding, type]) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } }));
  gpu.pushErrorScope("validation");
  const layout = gpu.createPipelineLayout({ label, bindGroupLayouts: [gpu.createBindGroupLayout({ label, entries })] });
  const module = gpu.createShaderModule({ label, code });
  const invalid = await gpu.popErrorScope();
  if (invalid) {
    const { messages } = await module.getCompilationInfo();
    const places = messages
      .filter(({ type }) => type === "error")
      .map(({ lineNum, linePos, message }) => ({ line: lineNum, column: linePos, message }));
    throw new Uncompiled(invalid.message, places, invalid);
  }
  try {
    return await gpu.createComputePipelineAsync({ label, layout, compute: { module, entryPoint: "main" } });
  } catch (error) {
    throw new Uncompiled(/** @type {Error} */ (error).message, [], error);
  }
}

/**
 * Buffers with these contents, bound. `device.release(bound.buffers)` gives them back.
 * @param {Device} device
 * @param {GPUComputePipeline} pipeline
 * @param {{bindings: [number, GPUBufferBindingType][], grid: [number, number, number]}} kernel
 * @param {Bytes[]} contents of each binding
 */
export async function bind(device, pipeline, { bindings, grid }, contents) {
  const wanted = contents.map((bytes, n) => /** @type {[string, BufferWanted]} */ (
    [String(n), { bytes: bytes.length, uniform: bindings[n][1] === "uniform" }]));
  const buffers = [...(await device.allocate(new Map(wanted), "a kernel's inputs and outputs")).values()];
  contents.forEach((bytes, n) => device.write(buffers[n], 0, bytes));
  const entries = buffers.map((buffer, n) => ({ binding: bindings[n][0], resource: { buffer } }));
  const group = device.gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  return new Bound(pipeline, group, grid, buffers);
}

/**
 * Milliseconds of a pass of some dispatches, from the submit until all has run.
 * @param {Device} device
 * @param {Bound} bound
 * @param {number} repeats
 */
export async function dispatched(device, { pipeline, group, grid }, repeats) {
  const encoder = device.gpu.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  for (let n = 0; n < repeats; n++) pass.dispatchWorkgroups(...grid);
  pass.end();
  const began = performance.now();
  device.gpu.queue.submit([encoder.finish()]);
  await device.gpu.queue.onSubmittedWorkDone();
  device.check();
  return performance.now() - began;
}

/**
 * How many dispatches make a pass long enough for the clock, and the milliseconds of such a pass.
 * @param {Device} device
 * @param {Bound} bound
 */
export async function paced(device, bound) {
  for (let repeats = 1; ; repeats *= 4) {
    const ms = await dispatched(device, bound, repeats);
    if (ms >= TIMED_MS || repeats >= MOST_REPEATS) return { repeats, ms };
  }
}
