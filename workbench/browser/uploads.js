// What is in buffers: planes of a file, and constants, whose numbers follow from a program (workbench/plan/constants.py).

import { BrowserError } from "./errors.js";

/** Float rows are padded to whole groups of columns: FLOAT_GROUP in wgsl_kernels/layout.py. */
const FLOAT_GROUP = 32;
/** @type {Record<string, number>} */
const ITEM_BYTES = { f32: 4, f16: 2, bf16: 2 };

/** @param {number} bits of an f16 */
function half(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}

/** Numbers as f32, with `offset` added. @param {Bytes} bytes @param {string} dtype @param {number} offset */
export function toF32(bytes, dtype, offset) {
  if (!(dtype in ITEM_BYTES)) throw new BrowserError("unsupported", `a vector is stored in ${dtype}; f32, f16 and bf16 are read`);
  const copy = bytes.slice().buffer; // where it begins at a whole number
  let values;
  if (dtype === "f32") values = new Float32Array(copy);
  else if (dtype === "f16") values = Float32Array.from(new Uint16Array(copy), half);
  else values = new Float32Array(Uint32Array.from(new Uint16Array(copy), (word) => word << 16).buffer);
  return offset ? values.map((value) => value + Math.fround(offset)) : values;
}

/**
 * Rows with zeros behind each.
 * @param {Bytes} bytes @param {number} columns @param {number} itemBytes
 */
export function padRows(bytes, columns, itemBytes) {
  const stored = columns * itemBytes;
  const wanted = Math.ceil(columns / FLOAT_GROUP) * FLOAT_GROUP * itemBytes;
  const rows = bytes.length / stored;
  const padded = new Uint8Array(rows * wanted);
  for (let row = 0; row < rows; row++) padded.set(bytes.subarray(row * stored, (row + 1) * stored), row * wanted);
  return padded;
}

/** Writes planes to buffers, in whatever order they come. */
export class Uploader {
  /** @param {Device} device @param {Upload[]} uploads @param {Buffers} buffers */
  constructor(device, uploads, buffers) {
    this.device = device;
    this.buffers = buffers;
    /** @type {Map<string, Upload[]>} */
    this.byTensor = new Map();
    for (const upload of uploads) {
      const same = this.byTensor.get(upload[0]);
      if (same) same.push(upload);
      else this.byTensor.set(upload[0], [upload]);
    }
    /** Rows that are no whole words, put together before they are written. @type {Map<Upload, Uint8Array>} */
    this.gathered = new Map();
  }

  /** @param {Plane} plane @param {Bytes} bytes */
  put(plane, bytes) {
    for (const upload of this.byTensor.get(plane.tensor) ?? []) {
      const [, name, first, stop, buffer, at] = upload;
      if (name !== plane.name) continue;
      if (!stop) {
        this.write(buffer, at, bytes);
        continue;
      }
      const [low, high] = [Math.max(first, plane.first), Math.min(stop, plane.stop)];
      if (low >= high) continue;
      const rowBytes = bytes.length / (plane.stop - plane.first);
      const rows = bytes.subarray((low - plane.first) * rowBytes, (high - plane.first) * rowBytes);
      this.rows(upload, low - first, transformed(rows, upload, plane), high - low);
    }
  }

  /**
   * @param {Upload} upload
   * @param {number} row the first, from the upload's first on
   * @param {Bytes} bytes
   * @param {number} count rows
   */
  rows(upload, row, bytes, count) {
    const [, , first, stop, buffer, at] = upload;
    const rowBytes = bytes.length / count;
    if (rowBytes % 4 === 0) {
      this.write(buffer, at + row * rowBytes, bytes);
      return;
    }
    let whole = this.gathered.get(upload);
    if (!whole) this.gathered.set(upload, (whole = new Uint8Array((stop - first) * rowBytes)));
    whole.set(bytes, row * rowBytes);
  }

  /** @param {string} buffer @param {number} at @param {Uint8Array<any>} bytes */
  write(buffer, at, bytes) {
    this.device.write(this.buffers.get(buffer), at, bytes);
  }

  /** When all planes have come. */
  finish() {
    for (const [[, , , , buffer, at], bytes] of this.gathered) this.write(buffer, at, bytes);
    this.gathered.clear();
  }
}

/** @param {Bytes} rows @param {Upload} upload @param {Plane} plane */
function transformed(rows, [, , , , , , transform, offset], { dtype, shape }) {
  if (transform === "as stored") return rows;
  if (transform === "padded rows") return padRows(rows, shape[1], ITEM_BYTES[dtype]);
  if (transform === "to f32") return new Uint8Array(toF32(rows, dtype, offset).buffer);
  throw new BrowserError("unsupported", `upload: transform ${transform}; this page knows as stored, padded rows, to f32`);
}

/**
 * Cosines, then sines, of each position's angles, which are rounded to f32 as in wgsl_kernels/attention/rope.py: f32
 * [positions, 2 * frequencies].
 * @param {Initial} initial @param {number[]} shape
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
