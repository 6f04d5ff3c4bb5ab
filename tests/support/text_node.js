// Reads {folder, texts, sample} from stdin and prints ids and text of each under the page's tokenizer, and the kind of
// error of a sample that is another tokenizer's.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { Text } from "../../workbench/browser/text.js";

const { folder, texts, sample } = JSON.parse(readFileSync(0, "utf8"));
const read = async (file) => new Uint8Array(readFileSync(join(folder, file)));
const files = JSON.parse(readFileSync(join(folder, "model/manifest.json"), "utf8")).tokenizer;
const text = await Text.load(read, files, sample);
const found = texts.map((each) => {
  const ids = text.encode(each);
  return { ids, text: text.decode(ids) };
});
const other = await Text.load(read, files, { text: sample.text, ids: [1, 2, 3] }).then(() => "none", ({ kind }) => kind);
process.stdout.write(JSON.stringify({ texts: found, other }));
