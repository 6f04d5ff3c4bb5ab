// What the modules hand to each other and read from files: names that all of them know, as they know those of WebGPU. The
// pages' types are checked by `make lint`; no page loads this file.

type Bytes = Uint8Array<ArrayBuffer>;
type Words = Uint32Array<ArrayBuffer>;
type Device = import("./device.js").Device;
type Player = import("./player.js").Player;
type Recorded = import("./player.js").Recorded;
type Session = import("./session.js").Session;
type Store = import("./storage.js").Store;

// ---- devices -----------------------------------------------------------------------------------------------------------

/** What a `BrowserError` is about. */
type ErrorKind =
  | "no-webgpu" | "no-adapter" | "missing-feature" | "limits" | "out-of-memory" | "device-lost" | "device"
  | "not-found" | "damaged" | "unsupported" | "input" | "context" | "not-finite" | "worker";

/** What is bound at once: so many bytes, from multiples of `alignment` on. */
type Bindings = { bytes: number; alignment: number };

/** What there are programs for. */
type Needs = {
  /** In order, of which the last that the adapter has are asked for. */
  bindings: Bindings[];
  subgroupSizes: number[];
  /** Where the adapter has it. */
  f16: boolean;
};

/** By name: those that programs name, all of which there are. */
interface Buffers extends Map<string, GPUBuffer> {
  get(name: string): GPUBuffer;
}

type BufferWanted = {
  bytes: number;
  /** It is bound as a uniform too. */
  uniform?: boolean;
};

// ---- programs: workbench/runtime/program.schema.json -------------------------------------------------------------------

/** A program whose modules and uploads stand in it; buffers of uploads are named. */
type Program = {
  target: { head: string; tokens: number; capacity: number; sequences: number; steps: number; back: number };
  modules: string[];
  pipelines: { label: string; module: number; bindings: [number, GPUBufferBindingType][] }[];
  buffers: { name: string; bytes: number; kind: string; uniform?: boolean; shape?: number[]; initial?: Initial }[];
  uploads: Upload[];
  dispatches: Dispatch[];
  values: Record<string, [buffer: number, shape: number[], dtype: string, byToken: boolean]>;
};

/** buffers: index, offset and bytes of each, in the order of the pipeline's bindings. */
type Dispatch = [pipeline: number, buffers: [number, number, number][], grid: [number, number, number], writes: string[]];

/** A buffer's numbers, where they follow from the program alone. */
type Initial = { kind: string; frequencies: number[]; factor: number; long?: number[]; original?: number };

/**
 * Rows `first` to `stop` of a plane of a tensor (stop 0: a plane that all rows share), into a buffer from byte `at` on.
 */
type Upload = [
  tensor: string, plane: string, first: number, stop: number, buffer: string, at: number, transform: string, offset: number,
];

/** What lies between layers; int8: the inputs of linear layers with integer weights, and f32 elsewhere. */
type Activations = "f32" | "f16" | "int8";

/** Programs of a kind of adapter. */
type Bundle = {
  file: string;
  sha256: string;
  activations: Activations;
  subgroup_size: number;
  binding_bytes: number;
  offset_alignment: number;
};

/** programs.json, which `export-program` writes. */
type Index = {
  kind: string;
  version: number;
  capacity: number;
  model: { name: string; manifest_sha256: string; vocab_size: number };
  bundles: Bundle[];
};

// ---- weights -----------------------------------------------------------------------------------------------------------

/** Bytes of a file from `offset` on, all of them without `length`. */
type Read = (file: string, offset?: number, length?: number) => Promise<Bytes>;

/** One plane of one part of a tensor. */
type Plane = {
  tensor: string;
  /** Of the plane. */
  name: string;
  /** Of the tensor. */
  shape: number[];
  /** Of the tensor's format. */
  dtype: string;
  /** The part's first row. */
  first: number;
  /** The row behind the part. */
  stop: number;
  shard: string;
  offset: number;
  length: number;
  /** "sha256:" and hex digits. */
  checksum: string;
};

/** Bytes; of one of several models. */
type Progress = { done: number; total: number; which?: number; of?: number };

/** How a player loads. */
type Loading = {
  onProgress?: (progress: Progress) => void;
  /** Where so many bytes are kept. */
  keep?: (bytes: number) => Promise<Store | undefined>;
};

/** How a model is loaded. */
type LoadOptions = {
  /** The first that there are programs for and the adapter has, where none are asked for. */
  activations?: string;
  /** Shards in the browser's storage, where there is one. */
  keep?: boolean;
  /** Keys of models that make no room for it there. */
  beside?: string[];
  /** The programs that will be played. */
  wanted?: (target: Program["target"], vocabSize: number) => boolean;
  onProgress?: (progress: Progress) => void;
};

// ---- texts -------------------------------------------------------------------------------------------------------------

type Message = { role: string; content: string };

/** A chat template as Python's transformers applies it. */
type Chat = {
  template: string;
  /** Those that templates may name, such as bos_token. */
  tokens: Record<string, string>;
  /** What Python made of a conversation; null: it says the date. */
  sample: { messages: Message[]; ids: number[] } | null;
};

/** temperature 0 is greedy; topK 0, topP 1, minP 0 and repetitionPenalty 1 are off. seed: of 64 bits. */
type Options = {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  seed?: number | bigint;
};

type Reason = "eos" | "length" | "context" | "stop" | "stopped";

/** Of a prompt that is continued twice. */
type Together = {
  count: number;
  settings: Options[];
  ends?: Set<number>;
  /** Whether no more is wanted of a text. */
  enough?: (row: number) => boolean;
};

// ---- what a page asks of its worker, and hears -------------------------------------------------------------------------

type Calls = Record<string, (given: any, tell: (event: object) => void) => unknown>;

/** A module that is a worker, and its calls for a page that is to answer them itself. */
type Served = { worker: string; calls: () => Promise<{ calls: (gpu: GPU | undefined) => Calls }> };

/** A call that was not answered yet. */
type Waiting = { event?: (event: any) => void; done: (value: any) => void; failed: (error: Error) => void };

/** How a page differs from other pages. */
type Manner = {
  /** The element in which texts appear. */
  busy: string;
  /** Radio buttons: ways of using it. */
  ways: string[];
  /** The way that needs a chat template. */
  chat: string;
  /** What is said meanwhile. */
  working: string;
};

/** Of models that are ready. */
type Facts = {
  title: string;
  /** With the programs that were loaded. */
  files: string[];
  adapter: string;
  /** Bytes of the GPU. */
  memory: number;
  capacity: number;
  chat: boolean;
  /** Those that are played, and all that there are programs for, with what the adapter lacks for them or nothing. */
  activations: string;
  offered: Record<string, string>;
  /** Why the browser's storage does not hold them whole; empty where it does. */
  unkept: string;
  /** Whether there is a page that certifies the adapter. */
  certificate: boolean;
};

/** prompt: a text, or a conversation. count: tokens at most. stop: strings that end the text. */
type Wanted = { prompt: string | Message[]; count: number; options?: Options; stop?: string[] };

/** Tokens of the prompt. */
type Begun = { given: number };

/** Tokens and milliseconds since the call, until now. */
type Piece = { text: string; tokens: number; ms: number };

type Ended = { reason: Reason; tokens: number; ms: number; first: number };

/** Of one of two texts; tokens: of both. */
type RowPiece = Piece & { row: number };

/** tokens: of both texts. */
type BothEnded = { reasons: Reason[]; tokens: number; ms: number };

// ---- two models beside each other --------------------------------------------------------------------------------------

type PairFacts = Facts & { names: string[] };

type Likely = { name: string; p: number };

/**
 * One or more tokens that make up a piece of text: their KL(first || second) in nats, their probability under each model,
 * the likeliest tokens at the last of them, and whether the two differ in the likeliest at any.
 */
type Unit = { text: string; tokens: number; kl: number; p: [number, number]; likely: [Likely[], Likely[]]; flip: boolean };

/** Of a text that both have read. kl: mean over its tokens, and the standard error, as if tokens were independent. */
type Reading = {
  units: Unit[];
  tokens: number;
  kl: { mean: number; error: number };
  flips: number;
  /** Of each model. */
  ppl: [number, number];
};

/** parted: how many of the first tokens both texts share. */
type PairEnded = { reason: string; tokens: number; ms: number; first: number; parted: number | null };
