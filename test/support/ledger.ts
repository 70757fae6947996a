/**
 * The ledger of kernels (kernels/ledger.json): for every template, and for the loops that the engine writes itself, what last ran on a GPU. An entry holds for
 * the text it names: the code of the template and of what instantiates it, comments and layout aside.
 */
import { createHash } from "node:crypto";
import { appendFileSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";

const root = join(import.meta.dirname, "../..");
const engine = join(root, "src/engines/cuda");
const kernels = join(root, "kernels");
export const ledgerFile = join(kernels, "ledger.json");
/** What the suites of a run on a GPU note, one line a case, before it becomes the ledger. */
const notesFile = join(root, ".cache/ledger.jsonl");

export interface Entry {
  /** SHA-256 of the code. */
  readonly hash: string;
  readonly gpu: string;
  readonly driver: string;
  readonly date: string;
  /** Kernels launched. */
  readonly kernels: number;
  /** Largest error of the results they took part in, as a share of the largest value, by precision. */
  readonly maxError: Readonly<Record<string, number>>;
}
export interface Ledger {
  readonly schema: "partita.ledger/1";
  readonly templates: Readonly<Record<string, Entry>>;
}

/** TypeScript that writes constants into the templates of a file of kernels/. */
const instances: Readonly<Record<string, readonly string[]>> = {
  attention: ["attention"],
  attention_simt: ["attention"],
  attention_step: ["attention-step", "contraction"],
  depthwise: ["depthwise"],
  mma: ["tiled", "contraction"],
  pooled: ["pooled"],
  recurrent: ["recurrent"],
  simt: ["tiled", "contraction"],
  wgmma: ["hopper", "contraction"],
};
const shared = ["text", "problem"];
/** What writes loops without a template, and the ends of the others. */
const LOOPS = "loops";
const loops: readonly string[] = [
  ...[
    "block",
    "direct",
    "einsum",
    "epilogue",
    "indexed",
    "indexing",
    "inline",
    "loops",
    "pointwise",
    "pooled",
    "reduce",
    "reduction",
    "resize",
  ],
  ...["rows", "scatter", "storage", "topk", "windows"],
];

const cuda = (file: string): string => readFileSync(join(kernels, file), "utf8");
/** The code of a template without its comments; `//@use` brings in the files it names. */
function templateCode(file: string, seen = new Set<string>()): string {
  if (seen.has(file)) return "";
  seen.add(file);
  return cuda(file)
    .split("\n")
    .map((line) => {
      const use = /^\s*\/\/@use\s+(\S+)/.exec(line);
      if (use?.[1] !== undefined) return templateCode(use[1], seen);
      return /^\s*\/\/@/.test(line) ? line.trim() : line.replace(/\/\/.*$/, "").trim();
    })
    .filter((line) => line !== "")
    .join("\n");
}
const script = (path: string): string =>
  ts.transpileModule(readFileSync(path, "utf8"), {
    compilerOptions: { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext, removeComments: true },
  }).outputText;

/** Templates by name, with the hash of their code. */
export function currentHashes(): Readonly<Record<string, string>> {
  const found: Record<string, string> = {};
  const hash = (parts: readonly string[]): string => createHash("sha256").update(parts.join("\n\f\n")).digest("hex");
  for (const file of readdirSync(kernels).filter((f) => f.endsWith(".cu"))) {
    if (!/\bKERNEL\b/.test(cuda(file))) continue;
    const name = file.slice(0, -3);
    const own = instances[name];
    if (own === undefined) throw new Error(`kernels/${file} is a template that test/support/ledger.ts does not know`);
    // Texts that a template takes in by its instance code belong to it, whether or not it names them.
    const parts = readdirSync(kernels).filter((f) => f.startsWith(`${name.split("_", 1)[0]}_`) && !/\bKERNEL\b/.test(cuda(f)));
    found[name] = hash([
      templateCode(file),
      ...parts.map((f) => templateCode(f)),
      ...[...own, ...shared].map((f) => script(join(engine, "templates", `${f}.ts`))),
    ]);
  }
  found[LOOPS] = hash(loops.map((f) => script(join(engine, `${f}.ts`))));
  return found;
}

const heads = new Map<string, string>();
/** Which template a translation unit comes from: its first line is the template's. */
export function templateOf(source: string): string {
  if (heads.size === 0)
    for (const file of readdirSync(kernels).filter((f) => f.endsWith(".cu")))
      if (/\bKERNEL\b/.test(cuda(file))) heads.set(cuda(file).split("\n", 1)[0] ?? "", file.slice(0, -3));
  return heads.get(source.split("\n", 1)[0] ?? "") ?? LOOPS;
}

/** Notes that these sources ran and how far their results were off. */
export function note(
  sources: readonly { readonly source: string; readonly kernels: readonly string[] }[],
  precision: string,
  error: number,
): void {
  const counts = new Map<string, number>();
  for (const s of sources) counts.set(templateOf(s.source), (counts.get(templateOf(s.source)) ?? 0) + s.kernels.length);
  for (const [template, count] of counts) appendFileSync(notesFile, `${JSON.stringify({ template, precision, error, count })}\n`);
}
export const forgetNotes = (): void => rmSync(notesFile, { force: true });

export function readLedger(): Ledger {
  return existsSync(ledgerFile) ? (JSON.parse(readFileSync(ledgerFile, "utf8")) as Ledger) : { schema: "partita.ledger/1", templates: {} };
}
/** Puts what was noted into the ledger, in place of the older entries of those templates. */
export function renew(machine: { readonly gpu: string; readonly driver: string; readonly date: string }, file = ledgerFile): Ledger {
  const hashes = currentHashes();
  const before = readLedger().templates;
  const fresh: Record<string, { kernels: number; maxError: Record<string, number> }> = {};
  if (existsSync(notesFile))
    for (const line of readFileSync(notesFile, "utf8").trim().split("\n")) {
      const { template, precision, error, count } = JSON.parse(line) as {
        template: string;
        precision: string;
        error: number;
        count: number;
      };
      fresh[template] ??= { kernels: 0, maxError: {} };
      const entry = fresh[template];
      entry.kernels += count;
      entry.maxError[precision] = Math.max(entry.maxError[precision] ?? 0, Number(error.toPrecision(3)));
    }
  const templates: Record<string, Entry> = {};
  for (const [name, hash] of Object.entries(hashes)) {
    const [ran, old] = [fresh[name], before[name]];
    if (ran !== undefined) templates[name] = { hash, ...machine, ...ran };
    else if (old !== undefined) templates[name] = old;
  }
  const ledger: Ledger = { schema: "partita.ledger/1", templates };
  writeFileSync(file, `${JSON.stringify(ledger, null, 2)}\n`);
  return ledger;
}
