// Reads {folder, texts, sample, streams, chats} from stdin and prints ids and text of each under the page's tokenizer, the kind of
// error of a sample that is another tokenizer's, of each stream {prompt, ids, stop} its pieces and why it ended, and of each chat
// {chat, messages} its ids, or null where the template refuses.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { streamText, Text } from "../../workbench/browser/text.js";

const { folder, texts, sample, streams, chats } = JSON.parse(readFileSync(0, "utf8"));
const read = async (file) => new Uint8Array(readFileSync(join(folder, file)));
const files = JSON.parse(readFileSync(join(folder, "model/manifest.json"), "utf8")).tokenizer;
const text = await Text.load(read, files, sample);
const found = texts.map((each) => {
  const ids = text.encode(each);
  return { ids, text: text.decode(ids) };
});
const other = await Text.load(read, files, { text: sample.text, ids: [1, 2, 3] }).then(() => "none", ({ kind }) => kind);
async function* given(ids) {
  yield* ids;
  return "length";
}

async function streamed({ prompt, ids, stop }) {
  const pieces = [];
  const how = { prompt, stop, since: () => 0, wanted: () => true, tell: (piece) => pieces.push(piece.text) };
  const { reason } = await streamText(text, given(ids), how);
  return { pieces, reason };
}

function talked({ chat, messages }) {
  try {
    return new Text(text.tokenizer, text.special, chat).encodeChat(messages);
  } catch (error) {
    if (error.kind !== "input") throw error;
    return null;
  }
}

const talks = chats.map(talked);
process.stdout.write(JSON.stringify({ texts: found, other, streams: await Promise.all(streams.map(streamed)), talks }));
