// Assembles src/quantize/kernel.wat into src/quantize/kernel.ts, the binary as base64. `--check` compares instead, and exits 1 on a difference.
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import wabt from "wabt";

const folder = join(dirname(fileURLToPath(import.meta.url)), "../src/quantize");

/** The text of kernel.ts. */
export async function kernelSource() {
  const tools = await wabt();
  const module = tools.parseWat("kernel.wat", readFileSync(join(folder, "kernel.wat"), "utf8"));
  module.validate();
  const base64 = Buffer.from(module.toBinary({ write_debug_names: false }).buffer).toString("base64");
  const lines = base64.match(/.{1,120}/g).map((line) => `  "${line}",`);
  return `/** kernel.wat, assembled; made by \`npm run build:kernel\`. */\nexport const KERNEL: string = [\n${lines.join("\n")}\n].join("");\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const source = await kernelSource();
  const path = join(folder, "kernel.ts");
  if (!process.argv.includes("--check")) writeFileSync(path, source);
  else if (readFileSync(path, "utf8") !== source) {
    console.error("src/quantize/kernel.ts is not what kernel.wat assembles to: run `npm run build:kernel`");
    process.exitCode = 1;
  }
}
