// A token drawn from logits in the page, the same as by wgsl_kernels/sampling/drawing.py. Integers up to 2^53 are numbers, products
// beyond are split.

import { GREEDY, HALVINGS, isPlain, NUCLEUS, optionWords, seenWords } from "./sampling.js";

const WORD = 0xffffffff;
/** POWER in drawing.py: of 2^-x. */
const POWER = [2147483648, 1488522228, 515882323, 119192779, 20649271, 2851416, 316243, 23239];
/** Sums of weights below 2^41 are two numbers. */
const LOW = 2 ** 20;

const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

/** Of an f32; 0 of zeros and subnormal numbers. @param {number} value */
function bitsOf(value) {
  float[0] = value;
  return (word[0] & 0x7f800000) === 0 ? 0 : word[0];
}

/** @param {number} bits */
function floatOf(bits) {
  word[0] = bits;
  return float[0];
}

/** floor(a b / 2^32) of integers below 2^32. @param {number} a @param {number} b */
const high = (a, b) => Math.floor(((a >>> 16) * b + Math.floor(((a & 0xffff) * b) / 2 ** 16)) / 2 ** 16);

/** 2^(41 - halved) as an integer. @param {number} halved an f32 */
function weightOf(halved) {
  if (!(halved < HALVINGS)) return 0;
  const fixed = Math.floor(halved * 2 ** 26);
  const x = (fixed % 2 ** 26) * 64;
  let power = POWER[POWER.length - 1];
  for (let n = POWER.length - 2; n >= 0; n--) power = POWER[n] - high(x, power);
  return Math.floor((power * 2 ** 10) / 2 ** Math.floor(fixed / 2 ** 26));
}

/**
 * The first word of Philox4x32-10.
 * @param {number} low of the seed @param {number} top of the seed @param {number} position
 */
export function randomWord(low, top, position) {
  let [a, b, c, d] = [BigInt(position), 0n, 0n, 0n];
  let [first, second] = [BigInt(low), BigInt(top)];
  const all = BigInt(WORD);
  for (let round = 0; round < 10; round++) {
    const [x, y] = [0xd2511f53n * a, 0xcd9e8d57n * c];
    [a, b, c, d] = [(y >> 32n) ^ b ^ first, y & all, (x >> 32n) ^ d ^ second, x & all];
    [first, second] = [(first + 0x9e3779b9n) & all, (second + 0xbb67ae85n) & all];
  }
  return Number(a);
}

/** @typedef {{top: number, low: number}} Wide top 2^20 + low, which may pass 2^53 */

class Sum {
  constructor() {
    this.top = 0;
    this.low = 0;
  }

  /** @param {number} weight */
  add(weight) {
    this.low += weight % LOW;
    this.top += Math.floor(weight / LOW);
    if (this.low >= LOW) [this.low, this.top] = [this.low - LOW, this.top + 1];
  }

  /** floor(this share / 2^32) - less, at least 0. @param {number} share @param {bigint} [less] @returns {Wide} */
  part(share, less = 0n) {
    const value = (((BigInt(this.top) * BigInt(LOW) + BigInt(this.low)) * BigInt(share)) >> 32n) - less;
    return value > 0n ? { top: Number(value / BigInt(LOW)), low: Number(value % BigInt(LOW)) } : { top: 0, low: 0 };
  }

  /** @param {Wide} value */
  exceeds({ top, low }) {
    return this.top > top || (this.top === top && this.low > low);
  }
}

/**
 * Where the sum of weights passes floor(this share of all / 2^32) - less.
 * @param {Float64Array} weights @param {number} share @param {bigint} [less]
 */
function passing(weights, share, less) {
  const [total, sum] = [new Sum(), new Sum()];
  for (const weight of weights) total.add(weight);
  const wanted = total.part(share, less);
  return weights.findIndex((weight) => (sum.add(weight), sum.exceeds(wanted)));
}

/** Chooses tokens on the host. */
export class Sampler {
  /** @param {Options} options */
  constructor(options) {
    const words = optionWords(options);
    const floats = new Float32Array(words.buffer);
    this.plain = isPlain(options);
    this.seed = words[0];
    this.seedTop = words[1];
    this.flags = words[2];
    this.topK = words[3];
    this.topP = words[4];
    this.scale = floats[5];
    this.farthest = floats[7];
    this.penalty = floats[8];
    this.inverse = floats[9];
  }

  /**
   * @param {Float32Array} logits
   * @param {number} position how many tokens stand in front
   * @param {Iterable<number>} seen those that the penalty is for
   * @returns {number | undefined} undefined where the best logit is no finite number
   */
  draw(logits, position, seen) {
    const keys = this.keys(logits, seen);
    let best = 0;
    for (const key of keys) if (key > best) best = key;
    if (best >= 0xff800000 || best <= 0x007fffff) return undefined;
    if (this.plain) return largest(logits);
    const top = score(best);
    const halved = (/** @type {number} */ key) => {
      const distance = floatOf(bitsOf(Math.fround(top - score(key))));
      if (this.flags & GREEDY) return distance === 0 ? 0 : Infinity;
      return Math.fround(distance * this.scale);
    };
    const lowest = this.flags & GREEDY ? 0 : this.lowest(keys, halved);
    const weights = Float64Array.from(keys, (key) => {
      const times = key >= lowest ? halved(key) : Infinity;
      return times <= this.farthest ? weightOf(times) : 0;
    });
    return passing(weights, this.flags & GREEDY ? 0 : randomWord(this.seed, this.seedTop, position));
  }

  /** Integers in the order of penalised scores, NaN above all. @param {Float32Array} logits @param {Iterable<number>} seen */
  keys(logits, seen) {
    const mask = this.penalty === 1 ? undefined : seenWords(Math.ceil(logits.length / 32) + 1, seen);
    const keys = new Uint32Array(logits.length);
    for (let n = 0; n < logits.length; n++) {
      let bits = bitsOf(logits[n]);
      if ((bits & 0x7fffffff) > 0x7f800000) {
        keys[n] = WORD;
        continue;
      }
      if (mask && (mask[n >>> 5] >>> (n & 31)) & 1) {
        const value = floatOf(bits);
        bits = bitsOf(Math.fround(value * (value < 0 ? this.penalty : this.inverse)));
      }
      keys[n] = bits > 0x7fffffff ? WORD - bits : bits | 0x80000000;
    }
    return keys;
  }

  /** The lowest key that top-k and top-p leave. @param {Uint32Array} keys @param {(key: number) => number} halved */
  lowest(keys, halved) {
    const byTopK = this.topK > 0 && this.topK < keys.length;
    if (!byTopK && !(this.flags & NUCLEUS)) return 0;
    const sorted = keys.slice().sort();
    const lowest = byTopK ? sorted[sorted.length - this.topK] : 0;
    if (!(this.flags & NUCLEUS)) return lowest;
    const left = Array.from(sorted.subarray(sorted.findIndex((key) => key >= lowest)).reverse());
    const weights = Float64Array.from(left, (key) => weightOf(halved(key)));
    return left[passing(weights, this.topP, 1n)]; // the share is to be reached, and 1 at least
  }
}

/** The penalised score that a key stands for. @param {number} key */
const score = (key) => floatOf(key >= 0x80000000 ? key & 0x7fffffff : WORD - key);

/** The place of the largest, of equals the first. @param {Float32Array} logits */
function largest(logits) {
  let at = 0;
  for (let n = 1; n < logits.length; n++) if (logits[n] > logits[at]) at = n;
  return at;
}
