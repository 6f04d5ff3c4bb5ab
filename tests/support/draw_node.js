// Reads {"logits": [base64], "cases": [{row, position, seen, options}]} from stdin, draws a token in each case with the
// browser's module, and prints tokens (null where logits are unusable) and the random words of the cases as JSON.
import { readFileSync } from "node:fs";
import { randomWord, Sampler } from "../../workbench/browser/drawing.js";

const { logits, cases } = JSON.parse(readFileSync(0, "utf8"));
const rows = logits.map((each) => new Float32Array(new Uint8Array(Buffer.from(each, "base64")).buffer));
const tokens = cases.map(({ row, position, seen, options }) => new Sampler(options).draw(rows[row], position, seen) ?? null);
const words = cases.map(({ position, options: { seed = 0 } }) => randomWord(seed % 2 ** 32, Math.floor(seed / 2 ** 32), position));
process.stdout.write(JSON.stringify({ tokens, words }));
