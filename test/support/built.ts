/** The package as users get it: compiled once into .cache, for processes that load it outside the test runner. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { copyPlain } from "../../scripts/build.mjs";

const root = join(import.meta.dirname, "../..");

/** Compiles the sources and gives the folder of index.js. Type errors are `npm run check`'s business: they do not stop it. */
export function builtPackage(): string {
  const out = join(root, ".cache/conformance");
  const tsc = join(root, "node_modules/typescript/bin/tsc");
  const args = ["-p", join(root, "tsconfig.build.json"), "--outDir", out, "--declaration", "false", "--noEmitOnError", "false"];
  const { stdout } = spawnSync(process.execPath, [tsc, ...args], { encoding: "utf8" });
  if (!existsSync(join(out, "index.js"))) throw new Error(`the package does not compile: ${stdout}`);
  copyPlain(out);
  return out;
}
