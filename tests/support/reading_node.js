// Pieces of files of a folder in Node, as loaders ask for them.
import { open } from "node:fs/promises";
import { join } from "node:path";

/** @param {string} folder */
export function reading(folder) {
  return async (/** @type {string} */ file, offset = 0, /** @type {number | undefined} */ length = undefined) => {
    const handle = await open(join(folder, file));
    try {
      const bytes = new Uint8Array(length ?? (await handle.stat()).size);
      const { bytesRead } = await handle.read(bytes, 0, bytes.length, offset);
      return bytes.subarray(0, bytesRead);
    } finally {
      await handle.close();
    }
  };
}
