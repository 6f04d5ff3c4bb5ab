// A page that certifies its adapter, on a button or, where a program opened it (#report), at once.

import { certificate, certify } from "./browser/certificate.js";
import { overHttp } from "./browser/loader.js";

const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** The browser's own name and version, as it tells them. */
const runtime = () => navigator.userAgent.match(/(Firefox|Edg|Chrome|Version)\/[\d.]+/)?.[0] ?? navigator.userAgent;

/** What came of the model. @param {import("./browser/certificate_model.js").ModelResult} model */
function sentence({ name, status, tokens, logits, perplexity }) {
  if (!tokens || !logits || !perplexity) return `${name} ${status}.`;
  const digits = (/** @type {number} */ value) => value.toFixed(4);
  return (
    `${name} is ${status} its bounds: ${tokens.equal} of ${tokens.count} tokens are the reference's, logits differ by ` +
    `${(logits.largest / logits.bound).toFixed(2)} of their bound at most, and the perplexity of ${perplexity.windows} windows is ` +
    `${digits(perplexity.here)} (the reference's: ${digits(perplexity.there)}).`
  );
}

async function run() {
  const [status, progress] = [element("status"), /** @type {HTMLProgressElement} */ (element("progress"))];
  element("certify").hidden = true;
  progress.hidden = false;
  status.textContent = "Running …";
  const answer = await fetch("certificate.bin");
  if (!answer.ok) throw new Error(`certificate.bin: the server says ${answer.status}`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const tell = (/** @type {number} */ done, /** @type {number} */ total) => (progress.value = done / total);
  const found = await certify(navigator.gpu, bytes, runtime(), tell, overHttp(document.baseURI));
  const off = found.cases.filter((each) => each.status !== "within");
  const within = `${found.cases.length - off.length} of ${found.cases.length} cases are within their bounds on ${found.where.adapter}.`;
  status.textContent = [within, ...(found.model ? [sentence(found.model)] : [])].join(" ");
  for (const { kernel, variant, status: why } of off) {
    const item = document.createElement("li");
    item.textContent = `${kernel}/${variant}: ${why}`;
    element("beyond").append(item);
  }
  const made = await certificate(found);
  const save = /** @type {HTMLAnchorElement} */ (element("save"));
  save.href = URL.createObjectURL(new Blob([made], { type: "application/json" }));
  save.hidden = false;
  return made;
}

/** @param {string} body @param {string} to */
const report = async (body, to) => void (location.hash === "#report" && (await fetch(to, { method: "POST", body })));

element("certify").addEventListener("click", () => start());
const start = () =>
  run().then(
    (made) => report(made, "certificate"),
    (error) => {
      element("alert").textContent = error.message;
      element("alert").hidden = false;
      report(error.message, "failure");
    },
  );
if (location.hash === "#report") start();
