// How tokens are chosen: options, checked, as the words that kernels read (wgsl_kernels/sampling/drawing.py in JavaScript).

import { BrowserError } from "./errors.js";

const OPTION_WORDS = 12;
export const GREEDY = 1;
export const NUCLEUS = 2;
export const HALVINGS = 42; // from so many on a weight is 0: HALVINGS in wgsl_kernels/sampling/drawing.py
const SMALLEST = 2 ** -126;
const LARGEST = 2 ** 127 * (2 - 2 ** -23);
const WORD = 0xffffffff;

/** @param {string} name @param {number} value @param {boolean} ok @param {string} allowed */
function check(name, value, ok, allowed) {
  if (!ok) throw new BrowserError("input", `sampling: ${name} = ${value}; allowed: ${allowed}`);
}

/** @param {number} count of tokens that are to come */
export function checkCount(count) {
  if (!Number.isInteger(count) || count < 1) throw new BrowserError("input", `new tokens = ${count}; allowed: an integer >= 1`);
}

/** As f32 that no device flushes. @param {number} value */
const normal = (value) => (value < SMALLEST ? 0 : Math.fround(Math.min(value, LARGEST)));

/** As Python's, of two the even one. @param {number} value */
function round(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

/** Whether tokens are the argmax of the logits. @param {Options} options */
export function isPlain({ temperature = 0, repetitionPenalty = 1 }) {
  return temperature < SMALLEST && repetitionPenalty === 1;
}

/** What the kernels read. @param {Options} options */
export function optionWords({ temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, seed = 0 }) {
  check("temperature", temperature, Number.isFinite(temperature) && temperature >= 0, "a number >= 0 (0 is greedy)");
  check("top-k", topK, Number.isInteger(topK) && topK >= 0, "an integer >= 0 (0 is off)");
  check("top-p", topP, topP >= 0 && topP <= 1, "a number from 0 to 1 (1 is off)");
  check("min-p", minP, minP >= 0 && minP <= 1, "a number from 0 to 1 (0 is off)");
  const penalized = repetitionPenalty >= SMALLEST && repetitionPenalty <= 1 / SMALLEST;
  check("repetition penalty", repetitionPenalty, penalized, "a number > 0 (1 is off)");
  const whole = typeof seed === "bigint" || Number.isInteger(seed);
  check("seed", Number(seed), whole && seed >= 0 && BigInt(seed) < 2n ** 64n, "an integer from 0 to 2^64 - 1");

  const greedy = temperature < SMALLEST;
  const scale = greedy ? 0 : normal(Math.LOG2E / temperature);
  const cutoff = greedy ? SMALLEST : normal(scale ? (HALVINGS + 1) / scale : LARGEST);
  const farthest = minP > 0 ? -Math.log2(minP) : LARGEST;
  const words = new Uint32Array(OPTION_WORDS);
  words[0] = Number(BigInt(seed) & BigInt(WORD));
  words[1] = Number(BigInt(seed) >> 32n);
  words[2] = (greedy ? GREEDY : 0) | (topP < 1 ? NUCLEUS : 0);
  words[3] = Math.min(topK, WORD);
  words[4] = Math.min(round(topP * 2 ** 32), WORD);
  new Float32Array(words.buffer).set([scale, cutoff, farthest, repetitionPenalty, 1 / repetitionPenalty], 5);
  return words;
}

/**
 * The set of tokens that have occurred: a bit a token, and a last word that tells of unusable logits.
 * @param {number} words
 * @param {Iterable<number>} ids
 */
export function seenWords(words, ids) {
  const seen = new Uint32Array(words);
  for (const id of ids) seen[id >>> 5] |= 1 << (id & 31);
  return seen;
}
