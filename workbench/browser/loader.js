// Reading programs and weights: every byte comes from `read`, and is checked before it is used.

import { because, BrowserError } from "./errors.js";

export const PROGRAMS = "programs/";
export const MODEL = "model/";
const INDEX_KIND = "webgpu-quant-workbench/programs";
const VERSION = 2;

/** Of a request for neighbouring planes; two are in memory at a time. */
const REQUEST_BYTES = 8 << 20;

/**
 * Reads from a folder on a server. Whole files, from one that knows no ranges, are kept and not asked for again.
 * @param {string | URL} base @returns {Read}
 */
export function overHttp(base) {
  /** @type {Map<string, Promise<Bytes>>} */
  const whole = new Map();
  return async (file, offset = 0, length = undefined) => {
    const kept = whole.get(file);
    if (kept) return (await kept).subarray(offset, length === undefined ? undefined : offset + length);
    const headers = new Headers(length === undefined ? {} : { Range: `bytes=${offset}-${offset + length - 1}` });
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

/** @param {Bytes} bytes */
export async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {Read} read @param {string} file @param {string} [expected] sha256 of the file */
export async function readJson(read, file, expected) {
  const bytes = await read(file);
  if (expected !== undefined && (await sha256(bytes)) !== expected) {
    throw new BrowserError("damaged", `${file}: not the bytes that were written with the page (sha256); copy it again`);
  }
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw because("damaged", `${file}: is no JSON`, error);
  }
}

/** What `export-program` wrote. @param {Read} read @returns {Promise<Index>} */
export async function readIndex(read) {
  const index = await readJson(read, `${PROGRAMS}programs.json`);
  if (index.kind !== INDEX_KIND || index.version !== VERSION) {
    const wanted = `this page plays ${INDEX_KIND} of ${VERSION}`;
    throw new BrowserError("unsupported", `programs.json: kind ${index.kind} of version ${index.version}; ${wanted}`);
  }
  return index;
}

/** What bundles bind, the least first. @param {Bundle[]} bundles */
export const bindingsOf = (bundles) =>
  bundles
    .map(({ binding_bytes: bytes, offset_alignment: alignment }) => ({ bytes, alignment }))
    .sort((a, b) => a.bytes - b.bytes);

/**
 * Those for an adapter: of what it can bind, the ones that bind most at once.
 * @param {Bundle[]} bundles @param {string} activations @param {Device} device
 */
export function bundleFor(bundles, activations, device) {
  const { subgroupSize, bindings } = device;
  const lacks = device.lacks(activations);
  if (lacks) {
    throw new BrowserError("missing-feature", `activations in ${activations} need ${lacks}, which is not here; f32 runs everywhere`);
  }
  const [found] = bundles
    .filter((each) => each.activations === activations && each.subgroup_size === subgroupSize)
    .filter((each) => each.binding_bytes <= bindings.bytes && each.offset_alignment >= bindings.alignment)
    .sort((a, b) => b.binding_bytes - a.binding_bytes);
  if (!found) throw new BrowserError("unsupported", `no programs for ${activations} and subgroups of ${subgroupSize}`);
  return found;
}

/** With what programs share in each. @param {any} bundle @returns {Program[]} */
export function unbundled(bundle) {
  return bundle.programs.map((/** @type {any} */ program) => ({
    ...program,
    modules: program.modules.map((/** @type {number} */ n) => bundle.modules[n]),
    uploads: bundle.uploads[program.uploads],
  }));
}

/**
 * Planes of some tensors, as they lie in the shards.
 * @param {any} manifest @param {Set<string>} tensors @returns {Plane[]}
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
    const { shard, offset } = group?.[0] ?? { shard: "", offset: 0 };
    if (shard === plane.shard && plane.offset + plane.length - offset <= REQUEST_BYTES) group?.push(plane);
    else groups.push([plane]);
  }
  return groups;
}

/**
 * A plane with its bytes, of a shard's from `start` on. Throws where they are others.
 * @param {Plane} plane @param {Bytes} bytes @param {number} start @returns {Promise<[Plane, Bytes]>}
 */
async function checked(plane, bytes, start) {
  const { shard, tensor, name, offset, length, checksum } = plane;
  const found = bytes.subarray(offset - start, offset - start + length);
  if (found.length < length) throw new BrowserError("damaged", `${shard}: ends in the middle of ${tensor}; copy the file again`);
  if (`sha256:${await sha256(found)}` !== checksum) {
    const what = `${name} of ${tensor}, from byte ${offset} on`;
    throw new BrowserError("damaged", `${shard}: ${what}, does not have its checksum; copy the file again`);
  }
  return [plane, found];
}

/**
 * Planes with their bytes, checked, as they arrive; the next request is on its way.
 * @param {Read} read @param {Plane[]} planes of `planesOf` @param {Store} [store] asked first, given what it did not have
 * @returns {AsyncGenerator<[Plane, Bytes]>}
 */
export async function* readPlanes(read, planes, store) {
  const groups = requests(planes);
  const fetched = async (/** @type {Plane[]} */ group) => {
    const [{ shard, offset: start }, last] = [group[0], group[group.length - 1]];
    const size = last.offset + last.length - start;
    const cut = (/** @type {Bytes} */ bytes) => Promise.all(group.map((plane) => checked(plane, bytes, start)));
    const kept = await store?.get(shard, start, size);
    const found = kept && (await cut(kept).catch(() => undefined));
    if (found) return found;
    const bytes = await read(MODEL + shard, start, size);
    const parts = await cut(bytes);
    await store?.put(shard, start, bytes);
    return parts;
  };
  const ahead = (/** @type {number} */ n) => {
    const coming = groups[n] && fetched(groups[n]);
    coming?.catch(() => {}); // told where it is awaited
    return coming;
  };
  let coming = ahead(0);
  for (let n = 0; n < groups.length; n++) {
    const parts = await coming;
    coming = ahead(n + 1);
    yield* parts;
  }
}
