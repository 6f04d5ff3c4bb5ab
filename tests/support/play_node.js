// Reads a request from stdin, plays it with the browser's modules on Dawn for Node, and prints the answer as JSON.
import { readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { create, globals } from "webgpu";

import { play } from "./play.js";

Object.assign(globalThis, globals);
const request = JSON.parse(readFileSync(0, "utf8"));

async function read(file, offset = 0, length = undefined) {
  const handle = await open(join(request.folder, file));
  try {
    const bytes = new Uint8Array(length ?? (await handle.stat()).size);
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, offset);
    return bytes.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}

const gpu = create([]);
const answer = (await gpu.requestAdapter()) ? await play(gpu, read, request) : { missing: "no adapter" };
process.stdout.write(JSON.stringify(answer), () => process.exit(0)); // Dawn's threads would keep the process
