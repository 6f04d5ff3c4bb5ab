// What the browser keeps: shards in its storage (OPFS), checked like what comes from a server, so that there is no list of what
// has arrived; and the page in its cache, from which the service worker answers without a network.

import { megabytes } from "./device.js";
import { overHttp, readJson } from "./loader.js";

/** Of a folder for each model, by its manifest's checksum. */
const ROOT = "workbench-models";
/** A file there, written anew whenever the model is used. */
const USED = "used";

/** Some browsers, private windows and insecure pages have none. */
async function root() {
  const top = await navigator.storage?.getDirectory?.().catch(() => undefined);
  return top?.getDirectoryHandle(ROOT, { create: true });
}

/** One model's files. */
export class Store {
  /** @param {FileSystemDirectoryHandle} models @param {FileSystemDirectoryHandle} folder */
  constructor(models, folder) {
    this.models = models;
    this.folder = folder;
    /** Open for writing. @type {Map<string, Promise<FileSystemSyncAccessHandle>>} */
    this.writing = new Map();
    /** Why it is not kept, or not whole. */
    this.problem = "";
    /** Other models, the longest unused last. @type {{name: string, time: number}[]} */
    this.others = [];
  }

  /**
   * Room for a model, which others make that were not used for longer. Undefined where there is no storage.
   * @param {string} key @param {number} bytes of all @param {string[]} [beside] keys of models that make no room
   */
  static async open(key, bytes, beside = []) {
    try {
      const models = await root();
      if (!models || !("createSyncAccessHandle" in FileSystemFileHandle.prototype)) return undefined;
      const store = new Store(models, await models.getDirectoryHandle(key, { create: true }));
      await store.makeRoom([key, ...beside], bytes);
      if (!store.problem) await store.touch();
      return store;
    } catch {
      return undefined;
    }
  }

  /**
   * Browsers estimate their room: `put` may find less.
   * @param {string[]} keys of models that stay @param {number} bytes
   */
  async makeRoom(keys, bytes) {
    for await (const [name, entry] of this.models.entries()) {
      if (keys.includes(name) || entry.kind !== "directory") continue;
      const folder = /** @type {FileSystemDirectoryHandle} */ (entry);
      const used = await folder.getFileHandle(USED).then((handle) => handle.getFile()).catch(() => undefined);
      this.others.push({ name, time: used?.lastModified ?? 0 });
    }
    this.others.sort((a, b) => b.time - a.time);
    const missing = bytes - (await sizeOf(this.folder));
    for (;;) {
      const { quota = Infinity, usage = 0 } = await navigator.storage.estimate();
      if (quota - usage >= missing) return;
      if (await this.evict()) continue;
      this.problem = `the browser has ${megabytes(Math.max(0, quota - usage))} left for it, and it takes ${megabytes(missing)}`;
      return;
    }
  }

  /** Give up the longest unused model; whether there was one. */
  async evict() {
    const other = this.others.pop();
    if (other) await this.models.removeEntry(other.name, { recursive: true }).catch(() => {}); // another page may have it open
    return other !== undefined;
  }

  async touch() {
    const handle = await (await this.folder.getFileHandle(USED, { create: true })).createSyncAccessHandle();
    handle.truncate(0);
    handle.write(new Uint8Array(1));
    handle.close();
  }

  /**
   * Bytes, unchecked; undefined where there are not so many.
   * @param {string} shard @param {number} offset @param {number} length
   */
  async get(shard, offset, length) {
    try {
      const file = await (await this.folder.getFileHandle(shard)).getFile();
      if (file.size < offset + length) return undefined;
      return new Uint8Array(await file.slice(offset, offset + length).arrayBuffer());
    } catch {
      return undefined; // there is none, or another page writes it
    }
  }

  /** Keep checked bytes. @param {string} shard @param {number} offset @param {Bytes} bytes */
  async put(shard, offset, bytes) {
    while (!this.problem) {
      try {
        let handle = this.writing.get(shard);
        if (!handle) {
          handle = this.folder.getFileHandle(shard, { create: true }).then((file) => file.createSyncAccessHandle());
          this.writing.set(shard, handle);
        }
        // where there is no room, Chromium returns an error's number
        if ((await handle).write(bytes, { at: offset }) === bytes.length) return;
      } catch (error) {
        if (/** @type {DOMException} */ (error).name !== "QuotaExceededError") {
          this.problem = "another page keeps this model just now";
          return;
        }
      }
      if (!(await this.evict())) this.problem = "the browser's storage for this page is full";
    }
  }

  async close() {
    for (const opened of this.writing.values()) {
      await opened.then((handle) => (handle.flush(), handle.close())).catch(() => {}); // told as `problem`
    }
    this.writing.clear();
  }
}

/** @param {FileSystemDirectoryHandle} folder */
async function sizeOf(folder) {
  let total = 0;
  for await (const entry of folder.values()) total += (await /** @type {FileSystemFileHandle} */ (entry).getFile()).size;
  return total;
}

/** @param {string} key */
export async function forget(key) {
  await (await root())?.removeEntry(key, { recursive: true }).catch(() => {});
}

/** Of this page, beside those of others of its server. */
const cacheName = () => `workbench-page:${new URL(".", document.baseURI).pathname}`;

/**
 * Keep all files but the shards; whether the browser does such things.
 * @param {string[]} bundles with the programs for this adapter
 */
export async function keepPage(bundles) {
  if (!("serviceWorker" in navigator)) return false;
  const { files } = await readJson(overHttp(document.baseURI), "page.json");
  await navigator.serviceWorker.register(new URL("sw.js", document.baseURI));
  const cache = await caches.open(cacheName());
  await cache.addAll(["./", ...files, ...bundles].map((file) => new URL(file, document.baseURI).href));
  return true;
}

/** The page asks the network from now on. */
export async function forgetPage() {
  const registration = await navigator.serviceWorker?.getRegistration(document.baseURI);
  await Promise.all([registration?.unregister(), globalThis.caches?.delete(cacheName())]);
}
