// What mermaid expects of a browser and an embedded engine lacks. Imported first, because mermaid uses some while it loads.
import { cloneDeep } from "es-toolkit";

const ignore = () => {};
globalThis.console ??= Object.fromEntries(
  ["log", "debug", "info", "warn", "error", "trace"].map((name) => [name, ignore]),
);
globalThis.structuredClone ??= cloneDeep;

const anchored = new WeakMap();
globalThis.matchAtStart = (text, rule) => {
  if (!rule.source.startsWith("^")) return text.match(rule);
  if (!anchored.has(rule)) anchored.set(rule, new RegExp(rule.source, `${rule.flags}y`));
  const sticky = anchored.get(rule);
  sticky.lastIndex = 0;
  return sticky.exec(text);
};
