// Pages in a real browser: bundles and serves those of a folder, and does in Chromium what lines of JSON tell it.
//
// In:  {"act": "open", …what the act takes}
// Out: what a person sees then, {"text", "alert", "images"}, or {"failure": "…"}

import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const [folder, executablePath] = process.argv.slice(2);
const SECONDS = 45;

await build({
  absWorkingDir: folder,
  entryPoints: ["example.jsx", "page.jsx"],
  outdir: folder,
  bundle: true,
  format: "esm",
  target: "esnext",
  jsx: "automatic",
  alias: { ai: "ai7", "@ai-sdk/react": "react7" },
  nodePaths: [new URL("node_modules", import.meta.url).pathname],
  define: { "process.env.NODE_ENV": '"production"' },
});

const server = createServer((request, response) => {
  const [, name, isScript] = request.url.match(/^\/(example|page)(\.js)?$/) ?? [];
  response.writeHead(name ? 200 : 404, { "content-type": isScript ? "text/javascript" : "text/html" });
  const html = `<!doctype html><div id="root"></div><script type="module" src="/${name}.js"></script>`;
  response.end(name && (isScript ? readFileSync(join(folder, `${name}.js`)) : html));
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

const quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"];
const browser = await chromium.launch({ executablePath, args: quiet });
let page;

const acts = {
  async open({ name }) {
    // Each time another person, with no cookie.
    page = await (await browser.newContext()).newPage();
    page.setDefaultTimeout(SECONDS * 1000);
    await page.goto(`http://127.0.0.1:${server.address().port}/${name}`);
  },
  reload: () => page.reload(),
  async send({ text }) {
    await page.fill("input[name=text]", text);
    await page.click("button:not([disabled])");
  },
  attach: ({ files }) =>
    page.setInputFiles(
      "input[type=file]",
      files.map(({ name, mimeType, data }) => ({ name, mimeType, buffer: Buffer.from(data, "base64") })),
    ),
  until: ({ text }) => page.getByText(text).first().waitFor(),
  idle: () => page.waitForSelector("button:not([disabled])"),
  look() {},
};

async function seen() {
  return {
    text: await page.innerText("body"),
    alert: await page.locator("[role=alert]").allInnerTexts(),
    images: await page.evaluate(async () => {
      await Promise.allSettled([...document.images].map((image) => image.decode()));
      return [...document.images].map((image) => image.naturalWidth);
    }),
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { act, ...given } = JSON.parse(line);
  let answer;
  try {
    await acts[act](given);
    answer = await seen();
  } catch (error) {
    answer = { failure: `${error}\n${await page?.innerText("body").catch(() => "")}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
server.close();
