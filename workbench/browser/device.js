// A WebGPU device, and buffers on it. What the browser says against it becomes a BrowserError.

import { because, BrowserError } from "./errors.js";

/** What a buffer of `bytes` takes: at least 16 bytes, in steps of 16, since kernels load four words at a time. */
export const aligned = (/** @type {number} */ bytes) => Math.max(16, Math.ceil(bytes / 16) * 16);

/** What activations need that not all devices have. @type {Record<string, string>} */
const NEEDED = { f16: "shader-f16", int8: "packed_4x8_integer_dot_product" };

/** An open device, its adapter and buffers. */
export class Device {
  /**
   * @param {GPUDevice} gpu
   * @param {GPUAdapterInfo} info
   * @param {number} subgroupSize lanes of every subgroup; 0: unknown or none
   * @param {Bindings} bindings
   * @param {GPU} instance
   */
  constructor(gpu, info, subgroupSize, bindings, instance) {
    this.gpu = gpu;
    this.bindings = bindings;
    /** Kept: Dawn for Node ends the process when it is collected before its devices. */
    this.instance = instance;
    this.subgroupSize = subgroupSize;
    this.name = info.description || [info.vendor, info.architecture].filter(Boolean).join(" ") || "an unnamed adapter";
    /** Bytes of its buffers. */
    this.allocated = 0;
    /** What ended it, or what it refused; all that follows fails so. @type {BrowserError | null} */
    this.failure = null;
    gpu.lost.then(({ reason, message }) => {
      this.failure ??= new BrowserError(
        "device-lost",
        reason === "destroyed"
          ? "the GPU device was closed"
          : `the browser took the GPU device away (${message || "no reason given"}); load the model again`,
      );
    });
    gpu.addEventListener("uncapturederror", ({ error }) => {
      this.failure ??= because("device", "the GPU device refused a command", error);
    });
  }

  /**
   * The most powerful adapter's. Programs stay within the limits that WebGPU promises, but for those of bindings; they are
   * lowered for one size of subgroups, which are asked for where all have it.
   * @param {GPU | undefined} gpu `navigator.gpu`
   * @param {Needs} needs
   */
  static async open(gpu, { bindings, subgroupSizes, f16 }) {
    if (!gpu) {
      throw new BrowserError(
        "no-webgpu",
        globalThis.isSecureContext === false
          ? "WebGPU is there on secure pages only: open this one over https or from localhost"
          : "this browser has no WebGPU; Chrome or Edge 113, Safari 26 and Firefox 141 (Windows) or 145 (macOS) have it",
      );
    }
    const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
    if (!adapter) {
      throw new BrowserError(
        "no-adapter",
        "the browser gives no GPU to pages; see chrome://gpu or about:support for why, or update the graphics driver",
      );
    }
    /** @type {GPUFeatureName[]} */
    const features = f16 && adapter.features.has("shader-f16") ? ["shader-f16"] : [];
    const { subgroupMinSize: least, subgroupMaxSize: most = 0 } = adapter.info;
    const lanes = adapter.features.has("subgroups") && least === most && subgroupSizes.includes(most) ? most : 0;
    if (lanes) features.push("subgroups");
    const { maxStorageBufferBindingSize, maxBufferSize, minStorageBufferOffsetAlignment } = adapter.limits;
    const has = Math.min(maxStorageBufferBindingSize, maxBufferSize);
    const chosen = bindings.findLast(({ bytes, alignment }) => bytes <= has && minStorageBufferOffsetAlignment <= alignment);
    if (!chosen) {
      throw new BrowserError("limits", `the programs bind up to ${bindings[0].bytes} bytes, and this adapter ${has}`);
    }
    const requiredLimits = {
      maxStorageBufferBindingSize: chosen.bytes,
      maxBufferSize: Math.max(chosen.bytes, 256 << 20),
      minStorageBufferOffsetAlignment: chosen.alignment,
    };
    try {
      const device = await adapter.requestDevice({ requiredFeatures: features, requiredLimits });
      return new Device(device, adapter.info, lanes, chosen, gpu);
    } catch (error) {
      throw because("no-adapter", "the GPU cannot be opened", error);
    }
  }

  /** What it lacks for such activations, if anything. @param {string} activations */
  lacks(activations) {
    const name = NEEDED[activations];
    const there = !name || this.gpu.features.has(name) || this.instance.wgslLanguageFeatures?.has(name);
    return there ? "" : name;
  }

  /** Throws what ended the device, if anything did. */
  check() {
    if (this.failure) throw this.failure;
  }

  /**
   * Zeroed buffers, all or none.
   * @param {Map<string, BufferWanted>} wanted @param {string} purpose as messages say it
   */
  async allocate(wanted, purpose) {
    this.check();
    const { STORAGE, COPY_SRC, COPY_DST, UNIFORM } = GPUBufferUsage;
    const made = /** @type {Buffers} */ (new Map());
    let total = 0;
    this.gpu.pushErrorScope("validation");
    this.gpu.pushErrorScope("out-of-memory");
    for (const [label, { bytes, uniform }] of wanted) {
      const usage = STORAGE | COPY_SRC | COPY_DST | (uniform ? UNIFORM : 0);
      made.set(label, this.gpu.createBuffer({ label, size: aligned(bytes), usage }));
      total += aligned(bytes);
    }
    const [memory, invalid] = await Promise.all([this.gpu.popErrorScope(), this.gpu.popErrorScope()]);
    this.allocated += total;
    if (!memory && !invalid) return made;
    this.release(made.values());
    this.check();
    if (invalid) throw because("limits", `no room for ${purpose}`, invalid);
    throw new BrowserError(
      "out-of-memory",
      `the GPU has no ${megabytes(total)} left for ${purpose} beside ${megabytes(this.allocated)} in use; close other ` +
        "pages, or take a smaller model or format",
      memory,
    );
  }

  /** Give memory back. @param {Iterable<GPUBuffer>} buffers */
  release(buffers) {
    for (const buffer of buffers) {
      this.allocated -= buffer.size;
      buffer.destroy();
    }
  }

  /**
   * Copy bytes to a buffer, padded to whole words.
   * @param {GPUBuffer} buffer @param {number} offset @param {ArrayBufferView<ArrayBuffer>} data
   */
  write(buffer, offset, data) {
    let bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    if (bytes.length % 4) {
      const padded = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
      padded.set(bytes);
      bytes = padded;
    }
    this.gpu.queue.writeBuffer(buffer, offset, bytes);
  }

  /** What a staging buffer holds once all that was submitted has run. @param {GPUBuffer} staging @param {number} bytes */
  async mapped(staging, bytes) {
    try {
      await staging.mapAsync(GPUMapMode.READ, 0, bytes);
    } catch (error) {
      await Promise.race([this.gpu.lost, new Promise((resolve) => setTimeout(resolve, 100))]);
      this.check();
      throw because("device", "reading from the GPU failed", error);
    }
    const data = staging.getMappedRange(0, bytes).slice(0);
    staging.unmap();
    this.check();
    return data;
  }

  /** What a buffer holds then. @param {GPUBuffer} buffer @param {number} size */
  async read(buffer, size) {
    const staging = this.staging(size);
    const encoder = this.gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, staging, 0, aligned(size));
    this.gpu.queue.submit([encoder.finish()]);
    const data = await this.mapped(staging, aligned(size)).finally(() => staging.destroy());
    return size === data.byteLength ? data : data.slice(0, size);
  }

  /** A buffer that can be mapped for reading. @param {number} size */
  staging(size) {
    return this.gpu.createBuffer({ size: aligned(size), usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  }

  close() {
    this.gpu.destroy();
  }
}

/** @param {number} bytes */
export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
