// Buffers whose numbers follow from a program alone: workbench/plan/constants.py in JavaScript.

import { BrowserError } from "./errors.js";

/**
 * @typedef {{kind: string, frequencies: number[], factor: number, long?: number[], original?: number}} Initial
 */

/**
 * Cosines, then sines, of each position's angles: f32 [positions, 2 * frequencies]. Angles are rounded to f32 before
 * they are taken, as in wgsl_kernels/attention/rope.py.
 * @param {Initial} initial
 * @param {number[]} shape
 */
export function constant(initial, [positions, width]) {
  if (initial.kind !== "rotary table") {
    throw new BrowserError("unsupported", `constant: kind ${initial.kind}; this page knows rotary tables`);
  }
  const { long, original = 0, factor } = initial;
  const frequencies = Float32Array.from(long?.length && positions > original ? long : initial.frequencies);
  const table = new Float32Array(positions * width);
  const scale = Math.fround(factor);
  for (let position = 0; position < positions; position++) {
    for (const [n, frequency] of frequencies.entries()) {
      const angle = Math.fround(position * frequency);
      const at = position * width + n;
      table[at] = Math.fround(Math.cos(angle)) * scale;
      table[at + frequencies.length] = Math.fround(Math.sin(angle)) * scale;
    }
  }
  return table;
}
