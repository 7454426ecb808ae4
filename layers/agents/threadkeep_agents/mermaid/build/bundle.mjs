import { readFile } from "node:fs/promises";
import { build } from "esbuild";

// Only drawing needs these, and here nothing is drawn.
const DRAWING = /^(cytoscape|cytoscape-.*|dagre-d3-es|elkjs|katex|roughjs|@iconify\/utils|@upsetjs\/venn\.js)(\/.*)?$/;
// Without a document the sanitizer has no functions at all; what is judged here is never shown from here.
const SANITIZER = /^dompurify$/;

const leaveOut = {
  name: "leave-out",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: DRAWING }, ({ path }) => ({ path, namespace: "drawing" }));
    onResolve({ filter: SANITIZER }, ({ path }) => ({ path, namespace: "sanitizer" }));
    onLoad({ filter: /./, namespace: "drawing" }, () => ({ contents: "module.exports = { use() {} };" }));
    onLoad({ filter: /./, namespace: "sanitizer" }, () => ({
      contents: "module.exports = { sanitize: (text) => text, addHook() {}, removeHook() {} };",
    }));
  },
};

// Two habits that cost nothing in a browser and minutes in a small engine, on a diagram of a few hundred lines.
const QUICKER = [
  {
    // A rule that starts with `^` is looked for through all of the text that is left, once for every token.
    slow: "this._input.match(this.rules[rules[i]])",
    quick: "matchAtStart(this._input, this.rules[rules[i]])",
    times: 19,
  },
  {
    // The settings are copied for every name in a diagram. The original is itself a copy, made for each diagram.
    slow: "return assignWithDepth_default({}, currentConfig);",
    quick: "return currentConfig;",
    times: 1,
  },
];

const quicken = {
  name: "quicken",
  setup({ onLoad, onEnd }) {
    const found = QUICKER.map(() => 0);
    onLoad({ filter: /[\\/]mermaid[\\/]dist[\\/].*\.mjs$/ }, async ({ path }) => {
      let contents = await readFile(path, "utf8");
      QUICKER.forEach(({ slow, quick }, habit) => {
        const parts = contents.split(slow);
        found[habit] += parts.length - 1;
        contents = parts.join(quick);
      });
      return { contents, loader: "js" };
    });
    onEnd(() => {
      QUICKER.forEach(({ slow, times }, habit) => {
        if (found[habit] !== times) throw new Error(`${slow} was found ${found[habit]} times, not ${times}`);
      });
    });
  },
};

await build({
  entryPoints: ["parser.mjs"],
  outfile: "../mermaid-parser.js",
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  plugins: [leaveOut, quicken],
});
