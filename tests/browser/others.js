// Three engines behind one question: greedy tokens behind a prompt, and when each came. `tests/browser/others.py` serves the
// folders that are named here, and asks.
import { Model, overHttp } from "/workbench/browser/model.js";

/** Where packages of npm are served. */
const NPM = "/npm/";
const MADE = new URL("/made/", location.href).href;

/** Tokens or pieces of text as they come, with their times. */
class Came {
  constructor() {
    this.times = [];
    this.what = [];
  }

  /** @param {unknown} what */
  add(what) {
    this.times.push(performance.now());
    this.what.push(what);
  }
}

/** This project's modules, in the page as the others are. */
async function own() {
  const model = await Model.load(navigator.gpu, overHttp(`${MADE}page/`));
  const session = await model.session();
  for (const program of model.player.programs) await model.player.compile(program); // not while others are timed
  return async ({ ids, count }) => {
    const came = new Came();
    session.reset();
    for await (const token of session.generate(ids, { count })) came.add(token);
    return came;
  };
}

/** transformers.js on onnxruntime-web: its WebGPU provider, with the cache on the device. */
async function transformers() {
  const { AutoModelForCausalLM, BaseStreamer, Tensor, env } = await import("@huggingface/transformers");
  Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: MADE, useBrowserCache: false });
  env.backends.onnx.wasm.wasmPaths = `${location.origin}${NPM}onnxruntime-web/dist/`;
  const model = await AutoModelForCausalLM.from_pretrained("onnx", { device: "webgpu", dtype: "fp32", subfolder: "" });

  class Streamer extends BaseStreamer {
    constructor() {
      super();
      this.came = new Came();
      this.prompt = true; // what comes first
    }

    put([tokens]) {
      if (!this.prompt) for (const token of tokens) this.came.add(Number(token));
      this.prompt = false;
    }

    end() {}
  }

  const int64 = (numbers) => new Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, numbers.length]);
  return async ({ ids, count }) => {
    const streamer = new Streamer();
    const inputs = { input_ids: int64(ids), attention_mask: int64(ids.map(() => 1)) };
    await model.generate({ ...inputs, max_new_tokens: count, do_sample: false, streamer });
    return streamer.came;
  };
}

/** llama.cpp in WebAssembly. */
async function wllama() {
  const { Wllama, LoggerWithoutDebug } = await import("@wllama/wllama");
  const engine = new Wllama({ default: `${NPM}@wllama/wllama/esm/wasm/wllama.wasm` }, { logger: LoggerWithoutDebug });
  const blob = await (await fetch(`${MADE}model.gguf`)).blob();
  await engine.loadModel([blob], { n_ctx: 512, n_gpu_layers: 0 });
  return async ({ text, count }) => {
    const came = new Came();
    await engine.createCompletion({
      prompt: text, max_tokens: count, temperature: 0, top_k: 1, stream: true, cache_prompt: false,
      onData: ({ choices: [choice] }) => { if (choice?.text) came.add(choice.text); },
    });
    return came;
  };
}

const ENGINES = { own, transformers, wllama };
const loaded = new Map();

/** Load an engine, once. @param {keyof typeof ENGINES} name */
export async function load(name) {
  loaded.set(name, await ENGINES[name]());
}

/**
 * What came behind a prompt, with milliseconds since it was asked for.
 * @param {{name: string, ids: number[], text: string, count: number}} request
 */
export async function write({ name, ...request }) {
  const began = performance.now();
  const { times, what } = await loaded.get(name)(request);
  return { times: times.map((time) => time - began), what };
}
