// Plays programs on a device. It knows no model.

import { aligned, megabytes } from "./device.js";
import { because, BrowserError } from "./errors.js";
import { planesOf, readPlanes } from "./loader.js";
import { constant, Uploader } from "./uploads.js";

/** @typedef {{pipeline: GPUComputePipeline, layout: GPUBindGroupLayout}} Built */
/** @typedef {{pipeline: GPUComputePipeline, group: GPUBindGroup, x: number, y: number, z: number}} Call a dispatch, bound */

/** Kinds of buffers that a sequence has of its own. */
const OWN = new Set(["cache", "input", "state"]);

/** Uploads that may wait for the GPU; the browser holds copies of them. */
const AHEAD_BYTES = 16 << 20;

/** The dispatches of a program, bound. */
export class Recorded {
  /** @param {string} label @param {number} rows of a step @param {Call[]} calls */
  constructor(label, rows, calls) {
    this.label = label;
    this.rows = rows;
    this.calls = calls;
  }

  /**
   * Steps as one pass. Ones of a grid that are not said save 7 % of recording (Dawn for Node, no GPU).
   * @param {GPUCommandEncoder} encoder @param {number} [steps]
   */
  encode(encoder, steps = 1) {
    const pass = encoder.beginComputePass({ label: this.label });
    let set;
    for (let step = 0; step < steps; step++) {
      for (const { pipeline, group, x, y, z } of this.calls) {
        if (pipeline !== set) pass.setPipeline((set = pipeline));
        pass.setBindGroup(0, group);
        if (y === 1 && z === 1) pass.dispatchWorkgroups(x);
        else pass.dispatchWorkgroups(x, y, z);
      }
    }
    pass.end();
  }
}

/** Programs of one model on one device, with all that they bind. */
export class Player {
  /** @param {Device} device @param {Program[]} programs all that will be played */
  constructor(device, programs) {
    this.device = device;
    this.programs = programs;
    /** By module and bindings. @type {Map<string, Promise<Built>>} */
    this.building = new Map();
    /** Programs whose pipelines are there. @type {Set<Program>} */
    this.ready = new Set();
    /** Texts that are being written. */
    this.working = 0;
    /** @type {Map<string, GPUShaderModule>} */
    this.modules = new Map();
    /** Of weights, constants and activations. @type {Buffers} */
    this.buffers = new Map();
    /** Where the model is kept. @type {Store | undefined} */
    this.store = undefined;
  }

  /**
   * Upload weights, and compile the greedy program meanwhile; the others follow behind, the shortest first.
   * @param {Read} read @param {any} manifest @param {Loading} [how]
   */
  async load(read, manifest, how = {}) {
    const shared = this.sizes((kind) => !OWN.has(kind));
    const weights = [...shared.values()].reduce((sum, { bytes }) => sum + aligned(bytes), 0);
    this.buffers = await this.device.allocate(shared, `a model of ${megabytes(weights)}`);
    const [first, ...rest] = [...this.programs].sort(
      (a, b) => Number(b.target.head === "greedy") - Number(a.target.head === "greedy") || a.target.tokens - b.target.tokens,
    );
    await Promise.all([this.compile(first), this.upload(read, manifest, how)]);
    this.device.check();
    this.compileAhead(rest);
  }

  /**
   * One pipeline after the other, none while a text is written: compilers take software adapters' time.
   * @param {Program[]} programs
   */
  async compileAhead(programs) {
    for (const program of programs) {
      for (const pipeline of program.pipelines) {
        while (this.working && !this.device.failure) await new Promise((resolve) => setTimeout(resolve, 50));
        if (this.device.failure) return;
        await this.pipeline(program, pipeline).catch(() => {}); // told where the program is played
      }
      this.ready.add(program);
    }
  }

  /**
   * Buffers of some kinds, as large as any program of so many sequences at most wants them.
   * @param {(kind: string) => boolean} wanted @param {number} [sequences]
   * @returns {Map<string, BufferWanted>}
   */
  sizes(wanted, sequences = Infinity) {
    const found = new Map();
    for (const { target, buffers } of this.programs) {
      if (target.sequences > sequences) continue;
      for (const { name, bytes, kind, uniform } of buffers) {
        if (wanted(kind) && bytes > (found.get(name)?.bytes ?? -1)) found.set(name, { bytes, uniform });
      }
    }
    return found;
  }

  /** Those that end in `head`, the longest steps first. @param {string} head */
  ending(head) {
    const found = this.programs.filter(({ target }) => target.head === head).sort((a, b) => b.target.tokens - a.target.tokens);
    if (!found.length) throw new BrowserError("unsupported", `there is no program that ends in ${head}`);
    return found;
  }

  /**
   * The one of those for the next of so many tokens: its step is padded if that wastes a quarter at most.
   * @param {string} head @param {number} left
   */
  fitting(head, left) {
    const all = this.ending(head);
    return all.find(({ target }) => 3 * target.tokens <= 4 * left) ?? all[all.length - 1];
  }

  /** Where a value is, and its shape. @param {Program} program @param {string} name */
  value({ values, buffers }, name) {
    const [index, shape] = values[name];
    return { buffer: this.buffers.get(buffers[index].name), shape };
  }

  /** What sequences have of their own. @param {number} [sequences] */
  allocateOwn(sequences = 1) {
    return this.device.allocate(this.sizes((kind) => OWN.has(kind), sequences), "keys and values of the text");
  }

  /**
   * A program's dispatches, bound, once its pipelines are there.
   * @param {Program} program @param {Buffers} own of `allocateOwn`
   */
  async record(program, own) {
    const built = await this.compile(program);
    const calls = program.dispatches.map(([n, bound, [x, y, z]]) => {
      const { pipeline, layout } = built[n];
      const { label, bindings } = program.pipelines[n];
      const entries = bound.map(([index, offset, size], place) => {
        const { name, bytes } = program.buffers[index];
        const buffer = this.buffers.get(name) ?? own.get(name);
        const whole = offset === 0 && size === bytes; // up to a multiple of 16
        return { binding: bindings[place][0], resource: { buffer, offset, size: whole ? aligned(size) : size } };
      });
      return { pipeline, group: this.device.gpu.createBindGroup({ label, layout, entries }), x, y, z };
    });
    return new Recorded(`${program.target.head}, ${program.target.tokens} token(s)`, program.target.tokens, calls);
  }

  /** A program's pipelines. @param {Program} program */
  async compile(program) {
    const built = await Promise.all(program.pipelines.map((pipeline) => this.pipeline(program, pipeline)));
    this.ready.add(program);
    return built;
  }

  /** Compiled once for all programs. @param {Program} program @param {Program["pipelines"][number]} pipeline */
  pipeline(program, { label, module, bindings }) {
    const code = program.modules[module];
    const key = JSON.stringify(bindings) + code;
    let building = this.building.get(key);
    if (!building) this.building.set(key, (building = this.build(label, code, bindings)));
    return building;
  }

  /**
   * @param {string} label @param {string} code @param {[number, GPUBufferBindingType][]} bindings
   */
  async build(label, code, bindings) {
    const { gpu } = this.device;
    let module = this.modules.get(code);
    if (!module) this.modules.set(code, (module = gpu.createShaderModule({ label, code })));
    const entries = bindings.map(([binding, type]) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } }));
    const layout = gpu.createBindGroupLayout({ label, entries });
    const pipelineLayout = gpu.createPipelineLayout({ label, bindGroupLayouts: [layout] });
    try {
      const compute = { module, entryPoint: "main" };
      return { pipeline: await gpu.createComputePipelineAsync({ label, layout: pipelineLayout, compute }), layout };
    } catch (error) {
      this.device.check();
      throw because("unsupported", `this browser does not compile ${label}`, error);
    }
  }

  /** @param {Read} read @param {any} manifest @param {Loading} how */
  async upload(read, manifest, { onProgress, keep }) {
    /** Those that programs share, once. @type {Map<string, Upload>} */
    const uploads = new Map();
    for (const { uploads: each } of this.programs) for (const upload of each) uploads.set(JSON.stringify(upload), upload);
    const all = new Map(this.programs.flatMap(({ buffers }) => buffers.map((each) => [each.name, each])));
    for (const [name, { initial, shape = [] }] of all) {
      if (initial) this.device.write(this.buffers.get(name), 0, constant(initial, shape));
    }
    const uploader = new Uploader(this.device, [...uploads.values()], this.buffers);
    const planes = planesOf(manifest, new Set(uploader.byTensor.keys()));
    const total = planes.reduce((sum, { length }) => sum + length, 0);
    const store = (this.store = await keep?.(total));
    let [done, waiting] = [0, 0];
    try {
      for await (const [plane, bytes] of readPlanes(read, planes, store)) {
        uploader.put(plane, bytes);
        if ((waiting += plane.length) >= AHEAD_BYTES) {
          await this.device.gpu.queue.onSubmittedWorkDone();
          waiting = 0;
        }
        this.device.check();
        onProgress?.({ done: (done += plane.length), total });
      }
    } finally {
      await store?.close();
    }
    uploader.finish();
    await this.device.gpu.queue.onSubmittedWorkDone();
  }
}
