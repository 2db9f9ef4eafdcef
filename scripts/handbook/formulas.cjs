// Typesets every formula of the built site with the bundled KaTeX and fails where one is not valid: node formulas.cjs build/site
const fs = require("fs"), path = require("path");
const root = process.argv[2];
const katex = require(path.resolve(root, "assets/katex/katex.min.js"));
const entities = { "&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"', "&#39;": "'" };
let count = 0, wrong = 0;
for (const file of fs.readdirSync(root, { recursive: true })) {
  if (!file.endsWith(".html")) continue;
  const text = fs.readFileSync(path.join(root, file), "utf8");
  for (const [, inner] of text.matchAll(/<(?:span|div) class="arithmatex">([^]*?)<\/(?:span|div)>/g)) {
    const source = inner.replace(/&(lt|gt|amp|quot|#39);/g, (e) => entities[e]).trim().replace(/^\\[([]|\\[)\]]$/g, "");
    count += 1;
    try { katex.renderToString(source, { throwOnError: true, strict: "ignore" }); }
    catch (error) { wrong += 1; console.error(`${file}: ${error.message}\n  ${source}`); }
  }
}
console.log(`${count} formulas, ${wrong} wrong`);
process.exit(wrong || !count ? 1 : 0);
