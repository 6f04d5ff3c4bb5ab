// The page itself in the browser's cache, from which its service worker answers where there is no network.

import { readJson, overHttp } from "./loader.js";

/** A cache of this page's own, beside those of other pages of the same server. */
const cacheName = () => `workbench-page:${new URL(".", document.baseURI).pathname}`;

/**
 * Keep all files but the shards, which are kept apart; whether the browser does such things.
 * @param {string[]} bundles files with the programs for this adapter
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
