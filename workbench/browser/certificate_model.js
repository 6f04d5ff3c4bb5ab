// A model on this adapter, beside what its references gave in f64: the end of a certificate (workbench/browser/model_case.py).

import { BrowserError } from "./errors.js";
import { Model } from "./model.js";
import { steps } from "./steps.js";

/** What ends the programs that are played: HEADS in model_case.py. */
const HEADS = new Set(["last", "score", "greedy"]);

/**
 * Numbers of tensors stand for what they hold. gaps: f64 [tokens]; logits: f32 [n, vocab], after the prompt and after each
 * `every` tokens; bound: how far one may be off; nll: the mean of each window; files: a folder by path, null for the page's.
 * @typedef {{name: string, manifest_sha256: string, reference: string, prompt: number[], tokens: number[], every: number,
 *   gaps: number, logits: number, bound: number, protocol: string, windows: number[][], nll: number[],
 *   files: Record<string, number> | null}} ModelCase
 */
/**
 * first: where the texts part, with how far the reference's likeliest logit stands above the next. Without the last three
 * the model did not run.
 * @typedef {{name: string, manifest_sha256: string, reference: string, status: string,
 *   tokens?: {count: number, equal: number, first: {at: number, here: number, there: number, gap: number} | null},
 *   logits?: {compared: number, largest: number, bound: number},
 *   perplexity?: {protocol: string, windows: number, tokens: number, here: number, there: number,
 *     largest_nll_difference: number}}} ModelResult
 */

/** Reads from files in memory. @param {Map<string, Bytes>} files @returns {Read} */
const fromMemory = (files) => async (file, offset = 0, length) => {
  const bytes = files.get(file);
  if (!bytes) throw new BrowserError("not-found", `${file}: is not among the files of the cases`);
  return bytes.subarray(offset, length === undefined ? undefined : offset + length);
};

/** The largest of some numbers; infinite where one is none. @param {Iterable<number>} values */
function largestOf(values) {
  let largest = 0;
  for (const value of values) largest = Number.isNaN(value) ? Infinity : Math.max(largest, value);
  return largest;
}

/**
 * What a certificate says of a model that gave these, the same as `ModelCase.judged` in model_case.py.
 * @param {ModelCase} wanted
 * @param {Float64Array} gaps
 * @param {{tokens: number[], compared: number, largest: number, nll: number[]}} got
 */
export function judgedModel(wanted, gaps, { tokens, compared, largest, nll }) {
  const { bound } = wanted;
  const at = wanted.tokens.findIndex((token, n) => tokens[n] !== token);
  const first = at < 0 ? null : { at, here: tokens[at], there: wanted.tokens[at], gap: gaps[at] };
  const sizes = wanted.windows.map((ids) => ids.length - 1);
  const scored = sizes.reduce((sum, size) => sum + size, 0);
  const ppl = (/** @type {number[]} */ means) => Math.exp(Math.min(means.reduce((sum, mean, n) => sum + mean * sizes[n], 0) / scored, 700));
  const moved = largestOf(nll.map((mean, n) => Math.abs(mean - wanted.nll[n])));
  const within = (!first || first.gap <= 2 * bound) && largest <= bound && moved <= 2 * bound;
  return {
    status: within ? "within" : "beyond",
    tokens: { count: wanted.tokens.length, equal: first ? at : wanted.tokens.length, first },
    logits: { compared, largest, bound },
    perplexity: {
      protocol: wanted.protocol,
      windows: sizes.length,
      tokens: scored,
      here: ppl(nll),
      there: ppl(wanted.nll),
      largest_nll_difference: moved,
    },
  };
}

/**
 * Mean -ln p of the targets of one text from an empty cache: all its tokens but the first.
 * @param {Session} session
 * @param {number[]} ids
 */
async function meanNll(session, ids) {
  const targets = ids.slice(1);
  session.reset();
  let total = 0;
  for await (const { rows } of steps(session, ids.slice(0, -1), "score", "log_likelihood", { targets })) {
    for (const likelihood of rows) total -= likelihood;
  }
  return total / targets.length;
}

/**
 * @param {Model} model
 * @param {ModelCase} wanted
 * @param {Float32Array} logits of the references
 */
async function played(model, wanted, logits) {
  const { prompt, tokens: text, every } = wanted;
  const session = await model.session();
  const tokens = [];
  for await (const token of session.generate(prompt, { count: text.length })) tokens.push(token);
  session.reset();
  let [compared, largest] = [0, 0];
  for (let fed = -every; fed < text.length; fed += every) {
    const found = await session.feed(fed < 0 ? prompt : text.slice(fed, fed + every));
    const from = compared;
    largest = Math.max(largest, largestOf(found.map((value, n) => Math.abs(value - logits[from + n]))));
    compared += found.length;
  }
  const nll = [];
  for (const ids of wanted.windows) nll.push(await meanNll(session, ids));
  session.close();
  return { tokens, compared, largest, nll };
}

/**
 * @param {GPU | undefined} gpu
 * @param {ModelCase} wanted
 * @param {Bytes[]} tensors
 * @param {Read} [read] of the page's folder
 * @returns {Promise<ModelResult>}
 */
export async function playModelCase(gpu, wanted, tensors, read) {
  const { name, manifest_sha256, reference, files } = wanted;
  const facts = { name, manifest_sha256, reference };
  let model;
  try {
    const source = files ? fromMemory(new Map(Object.entries(files).map(([file, n]) => [file, tensors[n]]))) : read;
    if (!source) throw new BrowserError("input", "the cases carry no model, and there is no page whose model it could be");
    model = await Model.load(gpu, source, { activations: "f32", wanted: ({ head }) => HEADS.has(head) });
    if (model.key !== manifest_sha256) throw new BrowserError("damaged", "the page holds another model than its cases are of");
    model.player.working += 1; // what is not played is not compiled meanwhile
    const got = await played(model, wanted, new Float32Array(tensors[wanted.logits].buffer));
    return { ...facts, ...judgedModel(wanted, new Float64Array(tensors[wanted.gaps].buffer), got) };
  } catch (error) {
    const { kind, message, stack } = /** @type {BrowserError} */ (error);
    return { ...facts, status: `does not run: ${kind ? message : `something unforeseen: ${stack ?? error}`}` };
  } finally {
    model?.close();
  }
}
