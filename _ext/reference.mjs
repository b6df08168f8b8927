// Jupyter Book 2: what the pages of appendix D and E ask of Sphinx, in Markdown.
//
// Python writes the docstrings as Markdown, once for all modules. Where no Python with cnnlab is at
// hand, a page says how to read them instead.
import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
let pages;

function docstrings() {
  const files = readdirSync(join(root, "chapters", "library"));
  const modules = files.map((file) => `cnnlab.${file.replace(/\.md$/, "")}`);
  const command = ["-m", "cnnlab.course.reference", ...modules];
  for (const python of ["python", "python3"]) {
    try {
      const options = { cwd: root, stdio: ["ignore", "pipe", "ignore"], maxBuffer: 1e8 };
      return JSON.parse(execFileSync(python, command, options));
    } catch {
      // There is no such program, or it has no cnnlab.
    }
  }
  return {};
}

const reference = {
  name: "eval-rst",
  doc: "The docstrings of the module that an automodule directive names.",
  body: { type: String },
  run(data, vfile, ctx) {
    const [, module] = data.body.match(/automodule:: (\S+)/);
    pages ??= docstrings();
    return ctx.parseMyst(pages[module] ?? `\`help(${module})\` in Python prints this page.`).children;
  },
};

const timings = {
  name: "nb-exec-table",
  doc: "The seconds of each chapter, which only Sphinx knows.",
  run: (data, vfile, ctx) =>
    ctx.parseMyst("`cnnlab run` executes the chapters and prints how long each of them takes.").children,
};

const name = {
  name: "py:obj",
  doc: "The name of a Python object.",
  body: { type: String },
  run: (data) => [{ type: "inlineCode", value: data.body.replace(/\s*<.*>$/, "") }],
};

export default { name: "The library reference as Markdown", directives: [reference, timings], roles: [name] };
