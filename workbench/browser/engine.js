// The page's side of a worker that holds a model.

import { BrowserError } from "./errors.js";
import { serve } from "./port.js";

/** What a page of one model asks. */
const ONE = { worker: new URL("./worker.js", import.meta.url), calls: () => import("./service.js") };

/** @typedef {{event?: (event: any) => void, done: (value: any) => void, failed: (error: Error) => void}} Waiting */

/** Calls of a service, answered. */
export class Engine {
  /** @param {Worker | MessagePort} port */
  constructor(port) {
    this.port = port;
    this.count = 0;
    /** @type {Map<number, Waiting>} */
    this.waiting = new Map();
    /** What ended the service. @type {BrowserError | null} */
    this.failure = null;
    port.onmessage = ({ data }) => this.hear(data);
    if (port instanceof Worker) {
      port.onerror = ({ message }) => this.end(`the browser ended the model's worker (${message || "no reason given"}); load again`);
    }
  }

  /**
   * Models that are ready: in a worker, or in the page where only that has WebGPU.
   * @param {{base: string, keep: boolean}} given
   * @param {(progress: any) => void} onProgress
   * @param {{worker: URL, calls: () => Promise<{calls: (gpu: GPU | undefined) => import("./port.js").Calls}>}} [service]
   * @returns {Promise<[Engine, any]>} what the service's `load` answers
   */
  static async load(given, onProgress, service = ONE) {
    const engine = new Engine(new Worker(service.worker, { type: "module" }));
    try {
      return [engine, await engine.call("load", given, onProgress)];
    } catch (error) {
      engine.end("the worker was closed");
      if (!(error instanceof BrowserError && error.kind === "no-webgpu" && navigator.gpu)) throw error;
    }
    const { calls } = await service.calls();
    const { port1, port2 } = new MessageChannel();
    serve(port1, calls(navigator.gpu));
    const here = new Engine(port2);
    return [here, await here.call("load", given, onProgress)];
  }

  /**
   * @param {string} name
   * @param {object} [given]
   * @param {(event: any) => void} [event]
   * @returns {Promise<any>}
   */
  call(name, given, event) {
    return new Promise((done, failed) => {
      if (this.failure) return failed(this.failure);
      this.count += 1;
      this.waiting.set(this.count, { event, done, failed });
      this.port.postMessage({ call: this.count, name, given });
    });
  }

  /** @param {{call: number, event?: unknown, done?: unknown, error?: {kind?: import("./errors.js").Kind, message: string}}} data */
  hear({ call, event, done, error }) {
    const waiting = this.waiting.get(call);
    if (!waiting) return;
    if (event !== undefined) return waiting.event?.(event);
    this.waiting.delete(call);
    if (error) waiting.failed(error.kind ? new BrowserError(error.kind, error.message) : new Error(error.message));
    else waiting.done(done);
  }

  /** Nothing more is computed; what waits fails. @param {string} why */
  end(why) {
    this.failure ??= new BrowserError("worker", why);
    if (this.port instanceof Worker) this.port.terminate();
    else this.port.close();
    for (const { failed } of this.waiting.values()) failed(this.failure);
    this.waiting.clear();
  }
}
