// Reads {"module", "name", "arguments"} from stdin, calls that export of one of the browser's modules, and prints its
// answer as JSON. {"bytes": base64} stands for an array of bytes, on the way there and, for typed arrays, back.
import { readFileSync } from "node:fs";

const request = JSON.parse(readFileSync(0, "utf8"));
const module = await import(`../../workbench/browser/${request.module}`);
const given = request.arguments.map((each) => (each?.bytes === undefined ? each : new Uint8Array(Buffer.from(each.bytes, "base64"))));
let answer;
try {
  answer = await module[request.name](...given);
} catch (error) {
  answer = { kind: error.kind, message: error.message };
}
if (ArrayBuffer.isView(answer)) answer = { bytes: Buffer.from(answer.buffer).toString("base64") };
process.stdout.write(JSON.stringify(answer));
