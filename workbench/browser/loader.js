// Reading programs and weights: every byte comes from `read`, and is what the checksums say before it is used.

import { BrowserError } from "./errors.js";

/**
 * Bytes of a file from `offset` on, all of them without `length`.
 * @typedef {(file: string, offset?: number, length?: number) => Promise<Uint8Array<ArrayBuffer>>} Read
 */

/**
 * One plane of one part of a tensor.
 * @typedef {object} Plane
 * @property {string} tensor
 * @property {string} name of the plane
 * @property {number[]} shape of the tensor
 * @property {string} dtype of the tensor's format
 * @property {number} first row of the part
 * @property {number} stop row behind the part
 * @property {string} shard
 * @property {number} offset
 * @property {number} length
 * @property {string} checksum "sha256:" and hex digits
 */

export const PROGRAMS = "programs/";
export const MODEL = "model/";
const INDEX_KIND = "webgpu-quant-workbench/programs";
const VERSION = 2;

/** Planes that follow each other are read in requests of about so many bytes; two of them are in memory at a time. */
const REQUEST_BYTES = 8 << 20;

/**
 * Reads from a folder on a server with range requests.
 *
 * A server that knows no ranges sends whole files: such a file is kept, and not asked for again.
 * @param {string | URL} base
 * @returns {Read}
 */
export function overHttp(base) {
  /** @type {Map<string, Promise<Uint8Array<ArrayBuffer>>>} */
  const whole = new Map();
  return async (file, offset = 0, length = undefined) => {
    const kept = whole.get(file);
    if (kept) return (await kept).subarray(offset, length === undefined ? undefined : offset + length);
    /** @type {Record<string, string>} */
    const headers = length === undefined ? {} : { Range: `bytes=${offset}-${offset + length - 1}` };
    const answer = await fetch(new URL(file, base), { headers }).catch((error) => {
      throw new BrowserError("not-found", `${file}: the server cannot be reached; try again`, error);
    });
    if (!answer.ok) throw new BrowserError("not-found", `${file}: the server says ${answer.status} ${answer.statusText}`);
    const bytes = answer.arrayBuffer().then((data) => new Uint8Array(data));
    if (answer.status === 206 || length === undefined) return bytes;
    whole.set(file, bytes);
    return (await bytes).subarray(offset, offset + length);
  };
}

/** @param {Uint8Array<ArrayBuffer>} bytes */
export async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {Read} read
 * @param {string} file
 * @param {string} [expected] sha256 of the file
 */
export async function readJson(read, file, expected) {
  const bytes = await read(file);
  if (expected !== undefined && (await sha256(bytes)) !== expected) {
    throw new BrowserError("damaged", `${file}: not the bytes that were written with the page (sha256); copy it again`);
  }
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new BrowserError("damaged", `${file}: is no JSON: ${/** @type {Error} */ (error).message}`, error);
  }
}

/** What `export-program` wrote: kinds of adapters, sizes, checksums. @param {Read} read */
export async function readIndex(read) {
  const index = await readJson(read, `${PROGRAMS}programs.json`);
  if (index.kind !== INDEX_KIND || index.version !== VERSION) {
    throw new BrowserError(
      "unsupported",
      `programs.json: kind ${index.kind} of version ${index.version}; this page plays ${INDEX_KIND} of ${VERSION}`,
    );
  }
  return index;
}

/** What the bundles of an index bind, the least first. @param {any} index @returns {import("./device.js").Bindings[]} */
export function bindingsOf({ bundles }) {
  const found = bundles.map((/** @type {any} */ each) => ({ bytes: each.binding_bytes, alignment: each.offset_alignment }));
  return found.sort((/** @type {any} */ a, /** @type {any} */ b) => a.bytes - b.bytes);
}

/**
 * The file that holds the programs of one kind of adapter: of those that it can bind, the one that binds most at once.
 * @param {any} index
 * @param {string} activations "f32" or "f16"
 * @param {import("./device.js").Device} device
 * @returns {{file: string, sha256: string}}
 */
export function bundleFor(index, activations, { subgroupSize, bindings }) {
  const found = index.bundles
    .filter((/** @type {any} */ each) => each.activations === activations && each.subgroup_size === subgroupSize)
    .filter((/** @type {any} */ each) => each.binding_bytes <= bindings.bytes && each.offset_alignment >= bindings.alignment)
    .sort((/** @type {any} */ a, /** @type {any} */ b) => b.binding_bytes - a.binding_bytes)[0];
  if (!found) throw new BrowserError("unsupported", `no programs for ${activations} and subgroups of ${subgroupSize}`);
  return found;
}

/**
 * @param {Read} read
 * @param {{file: string, sha256: string}} entry
 * @returns {Promise<import("./player.js").Program[]>}
 */
export async function readBundle(read, entry) {
  return unbundled(await readJson(read, PROGRAMS + entry.file, entry.sha256));
}

/** Programs, with what they share in each. @param {any} bundle @returns {import("./player.js").Program[]} */
export function unbundled(bundle) {
  return bundle.programs.map((/** @type {any} */ program) => ({
    ...program,
    modules: program.modules.map((/** @type {number} */ n) => bundle.modules[n]),
    uploads: bundle.uploads[program.uploads],
  }));
}

/** The manifest that the programs were lowered for. @param {Read} read @param {any} index */
export function readManifest(read, index) {
  return readJson(read, `${MODEL}manifest.json`, index.model.manifest_sha256);
}

/**
 * The planes of some tensors, in the order in which they lie in the shards.
 * @param {any} manifest
 * @param {Set<string>} tensors
 * @returns {Plane[]}
 */
export function planesOf(manifest, tensors) {
  const found = [];
  for (const tensor of tensors) {
    const { shape, format, parts } = manifest.tensors[tensor];
    for (const { rows, planes } of parts) {
      for (const [name, place] of Object.entries(planes)) {
        found.push({ tensor, name, shape, dtype: format.dtype, first: rows[0], stop: rows[1], ...place });
      }
    }
  }
  return found.sort((a, b) => (a.shard < b.shard ? -1 : a.shard > b.shard ? 1 : a.offset - b.offset));
}

/** Neighbours of one shard, up to `REQUEST_BYTES` or one plane. @param {Plane[]} planes */
function requests(planes) {
  /** @type {Plane[][]} */
  const groups = [];
  for (const plane of planes) {
    const group = groups.at(-1);
    const first = group?.[0];
    const fits = first && first.shard === plane.shard && plane.offset + plane.length - first.offset <= REQUEST_BYTES;
    if (fits) group.push(plane);
    else groups.push([plane]);
  }
  return groups;
}

/** What is wrong with the bytes of a plane; undefined if nothing is. @param {Plane} plane @param {Uint8Array<ArrayBuffer>} bytes */
async function damage({ shard, tensor, name, offset, length, checksum }, bytes) {
  if (bytes.length < length) return `${shard}: ends in the middle of ${tensor}; copy the file again`;
  if (`sha256:${await sha256(bytes)}` === checksum) return undefined;
  return `${shard}: ${name} of ${tensor}, from byte ${offset} on, does not have its checksum; copy the file again`;
}

/**
 * Planes with their bytes, checked, as they arrive; the next request is on its way meanwhile.
 * @param {Read} read
 * @param {Plane[]} planes in the order of `planesOf`
 * @param {import("./storage.js").Store} [store] asked first, and given what it did not have
 * @returns {AsyncGenerator<[Plane, Uint8Array<ArrayBuffer>]>}
 */
export async function* readPlanes(read, planes, store) {
  const groups = requests(planes);
  const cut = (/** @type {Plane[]} */ group, /** @type {Uint8Array<ArrayBuffer>} */ bytes) =>
    group.map(({ offset, length }) => bytes.subarray(offset - group[0].offset, offset - group[0].offset + length));
  const fetched = async (/** @type {Plane[]} */ group) => {
    const [first, last] = [group[0], /** @type {Plane} */ (group.at(-1))];
    const length = last.offset + last.length - first.offset;
    const kept = await store?.get(first.shard, first.offset, length);
    if (kept) {
      const parts = cut(group, kept);
      const wrong = await Promise.all(group.map((plane, n) => damage(plane, parts[n])));
      if (!wrong.some(Boolean)) return parts;
    }
    const bytes = await read(MODEL + first.shard, first.offset, length);
    const parts = cut(group, bytes);
    for (const [n, plane] of group.entries()) {
      const wrong = await damage(plane, parts[n]);
      if (wrong) throw new BrowserError("damaged", wrong);
    }
    await store?.put(first.shard, first.offset, bytes);
    return parts;
  };
  const ahead = (/** @type {number} */ n) => {
    const coming = groups[n] && fetched(groups[n]);
    coming?.catch(() => {}); // told where it is awaited
    return coming;
  };
  let coming = ahead(0);
  for (const [n, group] of groups.entries()) {
    const parts = await coming;
    coming = ahead(n + 1);
    for (const [place, plane] of group.entries()) yield [plane, parts[place]];
  }
}
