import "./environment.mjs";
import mermaid from "mermaid";

// What mermaid takes away before a grammar sees a diagram, in its order; the line numbers of its errors count the rest.
const REMOVED = [
  /^[^\S\n]*-{3}\s*\n.*?\n[^\S\n]*-{3}\s*\n/s,
  /%{2}{\s*(?:(\w+)\s*:|(\w+))\s*(?:(\w+)|((?:(?!}%{2}).|\r?\n)*))?\s*(?:}%{2})?/gi,
  /^\s*%%(?!{)[^\n]+\n?/gm,
  /^\s+/,
];
// A sankey diagram's empty lines go, too.
const EMPTY_LINES = /\n+(?=\n)/g;

/** Starts to judge a diagram. When the pending jobs are done, `verdict` holds JSON: null, or {message, line, column}. */
globalThis.judge = (text) => {
  globalThis.verdict = undefined;
  mermaid.parse(text).then(
    () => (globalThis.verdict = "null"),
    (error) => (globalThis.verdict = JSON.stringify(problem(error, text))),
  );
};

function problem(error, text) {
  const message = String(error?.message ?? error);
  const place = placeOf(error, message);
  return { message, line: place && originalLine(text, place.line), column: place?.column ?? null };
}

/** Lines and columns count from 1. */
function placeOf(error, message) {
  const { hash } = error ?? {};
  if (hash?.loc) {
    // A grammar notices what is missing only at the line's end, or at the diagram's: then the place is the token before.
    if (!hash.text?.trim()) {
      const { first_line, last_line, last_column } = hash.loc;
      return { line: first_line, column: first_line === last_line ? last_column + 1 : null };
    }
    return { line: hash.line + 1 - (hash.text.match(/\n/g) ?? []).length, column: null };
  }
  const named = /on line (\d+)(?:, column (\d+))?/.exec(message);
  return named && { line: Number(named[1]), column: named[2] ? Number(named[2]) : null };
}

function originalLine(text, line) {
  let rest = text.replace(/\r\n?/g, "\n");
  let last = 1;
  let numbers = Array.from({ length: rest.length }, (_, at) => (rest[at] === "\n" ? last++ : last));
  for (const pattern of [...REMOVED, /^\s*sankey/m.test(text) ? EMPTY_LINES : /(?!)/]) {
    const kept = [];
    let end = 0;
    rest = rest.replace(pattern, (...match) => {
      const start = match[match.length - 2];
      kept.push(numbers.slice(end, start));
      end = start + match[0].length;
      return "";
    });
    numbers = kept.concat(numbers.slice(end)).flat();
  }
  const starts = [numbers[0]];
  for (let at = 0; at < rest.length; at++) if (rest[at] === "\n") starts.push(numbers[at + 1]);
  return starts[line - 1] ?? last;
}
