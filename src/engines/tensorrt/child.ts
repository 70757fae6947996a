/** A library at work in a child process: it says what it is about to do and what became of it, and one that ends its process ends only that. */
import { spawn } from "node:child_process";
import * as v from "valibot";
import { native } from "../cuda/native.js";
import { sentence } from "./failures.js";

/** Whether a part of the library works here; `why` in its own words. */
export type Ability = { readonly ok: true } | { readonly ok: false; readonly why: string };
export interface Told {
  readonly step: string;
  readonly ok?: boolean | undefined;
  readonly why?: string | undefined;
  readonly version?: number | undefined;
}

export interface ChildWork {
  /** What the child does: statements of an async function, with `addon`, `tensorrt`, `rest` (the arguments), `say(told)` and `attempt(step, work)`. */
  readonly source: string;
  readonly arguments: readonly string[];
  /** Bytes for the child's standard input. */
  readonly input?: Uint8Array | undefined;
  /** For everything. */
  readonly timeoutMs: number;
  /** What the child is doing, by the step it told of last: "when it loaded the library". */
  readonly steps: Readonly<Record<string, string>>;
  /** Called with what the child tells; what it throws ends the child and is what the call rejects with. */
  readonly onTold?: ((told: Told, answer: (message: object) => void) => void) | undefined;
}
export interface ChildEnd {
  /** Steps whose outcome was told. */
  readonly results: ReadonlyMap<string, Ability>;
  /** The last one that it told of; "start" where it told of none, "end" where it was done. */
  readonly step: string;
  /** How it died, what it was doing and the last it said; undefined where it got to its end. */
  readonly death: string | undefined;
}

const PRELUDE = `
const [path, ...rest] = process.argv.slice(1);
const addon = require(path);
const { tensorrt } = addon;
const say = (m) => new Promise((done) => process.send(m, done));
const attempt = async (step, work) => {
  await say({ step });
  try {
    const value = await work();
    await say({ step, ok: true });
    return value;
  } catch (e) {
    const errors = (e.log ?? []).filter((l) => l.severity === "error" || l.severity === "internal").map((l) => l.text);
    await say({ step, ok: false, why: errors.length > 0 ? errors.join("; ") : e.message });
  }
};
// Whoever asked is gone. A thread of the library may be stuck, which an ordinary end waits for.
process.once("disconnect", () => process.kill(process.pid, "SIGKILL"));
`;
const message = v.object({ step: v.string(), ok: v.optional(v.boolean()), why: v.optional(v.string()), version: v.optional(v.number()) });

/** Rejects with what the system says where no child can be started, and with what `onTold` throws. */
export async function inChild(work: ChildWork): Promise<ChildEnd> {
  const { timeoutMs, steps, input } = work;
  const source = `${PRELUDE}(async () => {\n${work.source}\n})().then(() => say({ step: "end" }));`;
  const child = spawn(process.execPath, ["-e", source, native().path, ...work.arguments], {
    stdio: [input === undefined ? "ignore" : "pipe", "ignore", "pipe", "ipc"],
  });
  let step = "start";
  let stderr = "";
  let slow = false;
  let refused: { readonly error: unknown } | undefined;
  const results = new Map<string, Ability>();
  // A child that dies first does not read to the end.
  child.stdin?.on("error", () => undefined).end(input);
  child.stderr?.on("data", (data: Buffer) => {
    stderr = `${stderr}${data.toString()}`.slice(-2000);
  });
  child.on("message", (raw) => {
    const parsed = v.safeParse(message, raw);
    if (!parsed.success || refused !== undefined) return;
    const told = parsed.output;
    step = told.step;
    if (told.ok !== undefined) results.set(step, told.ok ? { ok: true } : { ok: false, why: sentence(told.why ?? "") });
    try {
      work.onTold?.(told, (answer) => child.send(answer, () => undefined));
    } catch (error) {
      refused = { error };
    }
    // What libraries do when a process ends is of no interest, and may take long.
    if (step === "end" || refused !== undefined) child.kill("SIGKILL");
  });
  const timer = setTimeout(() => {
    slow = true;
    child.kill("SIGKILL");
  }, timeoutMs);
  const { code, signal } = await new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve, reject) => {
    child.on("error", reject);
    child.once("close", (code, signal) => resolve({ code, signal }));
  }).finally(() => clearTimeout(timer));
  if (refused !== undefined) throw refused.error;
  if (step === "end") return { results, step, death: undefined };
  const end = slow ? `it gave no answer in ${timeoutMs} ms` : signal === null ? `it ended with exit code ${code}` : `it ended by ${signal}`;
  const said = stderr.trim().split("\n").slice(-3).join("; ");
  return { results, step, death: `${end}, ${steps[step] ?? step}${said === "" ? "" : `: ${sentence(said)}`}` };
}
