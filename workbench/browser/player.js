// Plays programs on a device. It knows no model: what it does is what programs say.

import { constant } from "./constants.js";
import { aligned, megabytes } from "./device.js";
import { BrowserError } from "./errors.js";
import { planesOf, readPlanes } from "./loader.js";
import { Uploader } from "./uploads.js";

/**
 * A program as `workbench/runtime/program.schema.json` describes it; buffers of uploads are named.
 * @typedef {object} Program
 * @property {{head: string, tokens: number, capacity: number, steps: number}} target
 * @property {string[]} modules
 * @property {{label: string, module: number, bindings: [number, GPUBufferBindingType][]}[]} pipelines
 * @property {{name: string, bytes: number, kind: string, uniform?: boolean, shape?: number[],
 *   initial?: import("./constants.js").Initial}[]} buffers
 * @property {import("./uploads.js").Upload[]} uploads
 * @property {Dispatch[]} dispatches
 * @property {Record<string, [buffer: number, shape: number[], dtype: string, byToken: boolean]>} values
 */

/**
 * buffers: index, offset and bytes of each, in the order of the pipeline's bindings.
 * @typedef {[pipeline: number, buffers: [number, number, number][], grid: [number, number, number], writes: string[]]} Dispatch
 */

/** @typedef {{pipeline: GPUComputePipeline, layout: GPUBindGroupLayout}} Built */
/** @typedef {{done: number, total: number}} Progress bytes */

/** Kinds of buffers that belong to one sequence; all others are the same for all. */
const OWN = new Set(["cache", "input", "state"]);

/** Uploads that may wait for the GPU: until it has taken them, the browser holds copies. */
const AHEAD_BYTES = 32 << 20;

/** The dispatches of a program, bound. */
class Recorded {
  /** @param {string} label @param {[GPUComputePipeline, GPUBindGroup, [number, number, number]][]} calls */
  constructor(label, calls) {
    this.label = label;
    this.calls = calls;
  }

  /** One step as one pass. @param {GPUCommandEncoder} encoder */
  encode(encoder) {
    const pass = encoder.beginComputePass({ label: this.label });
    let set;
    for (const [pipeline, group, grid] of this.calls) {
      if (pipeline !== set) pass.setPipeline((set = pipeline));
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...grid);
    }
    pass.end();
  }
}

/** Programs of one model on one device: their pipelines, weights, constants and activations. */
export class Player {
  /**
   * @param {import("./device.js").Device} device
   * @param {Program[]} programs all that will be played
   */
  constructor(device, programs) {
    this.device = device;
    this.programs = programs;
    /** By module and bindings. @type {Map<string, Built>} */
    this.built = new Map();
    /** Weights, constants and activations by name. @type {Map<string, GPUBuffer>} */
    this.buffers = new Map();
  }

  /**
   * Pipelines are compiled in the background while weights arrive.
   * @param {import("./loader.js").Read} read
   * @param {any} manifest
   * @param {(progress: Progress) => void} [onProgress]
   */
  async load(read, manifest, onProgress) {
    const shared = this.sizes((kind) => !OWN.has(kind));
    const weights = [...shared.values()].reduce((sum, { bytes }) => sum + aligned(bytes), 0);
    this.buffers = await this.device.allocate(shared, `a model of ${megabytes(weights)}`);
    await Promise.all([this.compile(), this.upload(read, manifest, onProgress)]);
    this.device.check();
  }

  /**
   * Buffers of some kinds by name, as large as any program wants them.
   * @param {(kind: string) => boolean} wanted
   * @returns {Map<string, import("./device.js").Wanted>}
   */
  sizes(wanted) {
    const found = new Map();
    for (const { buffers } of this.programs) {
      for (const { name, bytes, kind, uniform } of buffers) {
        if (wanted(kind) && bytes > (found.get(name)?.bytes ?? -1)) found.set(name, { bytes, uniform });
      }
    }
    return found;
  }

  /** A sequence's own buffers: cache, inputs and state. */
  allocateOwn() {
    return this.device.allocate(this.sizes((kind) => OWN.has(kind)), "keys and values of the text");
  }

  /**
   * A program's dispatches, bound.
   * @param {Program} program
   * @param {Map<string, GPUBuffer>} own of `allocateOwn`
   */
  record(program, own) {
    const calls = program.dispatches.map(([n, bound, grid]) => {
      const { pipeline, layout } = this.builtOf(program, n);
      const { label, bindings } = program.pipelines[n];
      const entries = bound.map(([index, offset, size], place) => {
        const { name, bytes } = program.buffers[index];
        const buffer = /** @type {GPUBuffer} */ (this.buffers.get(name) ?? own.get(name));
        const whole = offset === 0 && size === bytes; // the buffer then goes on to a multiple of 16
        return { binding: bindings[place][0], resource: { buffer, offset, size: whole ? aligned(size) : size } };
      });
      return /** @type {const} */ ([pipeline, this.device.gpu.createBindGroup({ label, layout, entries }), grid]);
    });
    return new Recorded(`${program.target.head}, ${program.target.tokens} token(s)`, /** @type {any} */ (calls));
  }

  /** @param {Program} program @param {number} n of its pipelines */
  builtOf(program, n) {
    const { module, bindings } = program.pipelines[n];
    return /** @type {Built} */ (this.built.get(JSON.stringify(bindings) + program.modules[module]));
  }

  async compile() {
    const { gpu } = this.device;
    /** @type {Map<string, Promise<Built>>} */
    const building = new Map();
    /** @type {Map<string, GPUShaderModule>} */
    const modules = new Map();
    for (const program of this.programs) {
      for (const { label, module, bindings } of program.pipelines) {
        const code = program.modules[module];
        const key = JSON.stringify(bindings) + code;
        if (building.has(key)) continue;
        const compiled = modules.get(code) ?? gpu.createShaderModule({ label, code });
        modules.set(code, compiled);
        const entries = bindings.map(([binding, type]) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } }));
        const layout = gpu.createBindGroupLayout({ label, entries });
        const pipeline = gpu.createComputePipelineAsync({
          label,
          layout: gpu.createPipelineLayout({ label, bindGroupLayouts: [layout] }),
          compute: { module: compiled, entryPoint: "main" },
        });
        const told = pipeline.catch((error) => {
          this.device.check();
          throw new BrowserError("unsupported", `this browser does not compile ${label}: ${error.message}`, error);
        });
        building.set(key, told.then((pipeline) => ({ pipeline, layout })));
      }
    }
    await Promise.all(building.values());
    for (const [key, built] of building) this.built.set(key, await built);
  }

  /**
   * @param {import("./loader.js").Read} read
   * @param {any} manifest
   * @param {(progress: Progress) => void} [onProgress]
   */
  async upload(read, manifest, onProgress) {
    /** Each upload once, though programs share them. @type {Map<string, import("./uploads.js").Upload>} */
    const uploads = new Map();
    for (const { uploads: each } of this.programs) for (const upload of each) uploads.set(JSON.stringify(upload), upload);
    for (const { buffers } of this.programs) {
      for (const { name, initial, shape = [] } of buffers) {
        if (initial) this.device.write(/** @type {GPUBuffer} */ (this.buffers.get(name)), 0, constant(initial, shape));
      }
    }
    const uploader = new Uploader(this.device, [...uploads.values()], this.buffers);
    const planes = planesOf(manifest, new Set(uploader.byTensor.keys()));
    const total = planes.reduce((sum, { length }) => sum + length, 0);
    let [done, waiting] = [0, 0];
    for await (const [plane, bytes] of readPlanes(read, planes)) {
      uploader.put(plane, bytes);
      if ((waiting += plane.length) >= AHEAD_BYTES) {
        await this.device.gpu.queue.onSubmittedWorkDone();
        waiting = 0;
      }
      this.device.check();
      onProgress?.({ done: (done += plane.length), total });
    }
    uploader.finish();
    await this.device.gpu.queue.onSubmittedWorkDone();
  }
}
