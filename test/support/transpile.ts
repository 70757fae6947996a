/** Makes plain JavaScript of the sources for child processes: types are dropped, nothing is checked. Kept by content in .cache. */
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import ts from "typescript";

const root = join(import.meta.dirname, "../..");

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? filesBelow(path) : [path];
  });
}

/** The folder that holds `src/` and the given further folders of the project as JavaScript; imports between them work as in the sources. */
export function transpiled(...folders: readonly string[]): string {
  const files = ["src", ...folders].flatMap((f) => filesBelow(join(root, f))).sort();
  const hash = createHash("sha256").update(ts.version);
  const contents = files.map((path) => {
    const text = readFileSync(path);
    hash.update(path).update("\0").update(text);
    return text;
  });
  const target = join(root, ".cache/js", hash.digest("hex").slice(0, 16));
  if (existsSync(target)) return target;
  mkdirSync(dirname(target), { recursive: true });
  // Earlier versions are of no use any more, except perhaps to a run that started a moment ago.
  const old = readdirSync(dirname(target)).filter((name) => !name.startsWith("."));
  if (old.length > 8) for (const name of old) rmSync(join(dirname(target), name), { recursive: true, force: true });
  const staging = join(root, `.cache/js/.${process.pid}.${Date.now()}`);
  files.forEach((path, i) => {
    const out = join(staging, path.slice(root.length));
    mkdirSync(dirname(out), { recursive: true });
    if (!path.endsWith(".ts")) {
      copyFileSync(path, out);
      return;
    }
    const { outputText } = ts.transpileModule(String(contents[i]), {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, verbatimModuleSyntax: true },
    });
    writeFileSync(out.replace(/\.ts$/, ".js"), outputText);
  });
  try {
    renameSync(staging, target);
  } catch (error) {
    // Another process may have made it meanwhile.
    rmSync(staging, { recursive: true, force: true });
    if (!existsSync(target)) throw error;
  }
  return target;
}
