/** `partita bench`: prints what the benchmark measured. */
import { type CompileOptions, parseNumber } from "../options.js";
import { human, humanUs } from "../report/text.js";
import { isBundle, open } from "./files.js";
import type { Terminal } from "./terminal.js";

export async function bench(
  t: Terminal,
  path: string,
  options: CompileOptions,
  flags: { readonly batch: string; readonly seconds: string; readonly json?: boolean },
): Promise<void> {
  const { benchmark } = await import("../runtime/bench.js");
  const batches = flags.batch.split(",").map((b) => parseNumber("--batch", b, { least: 1, whole: true }));
  const seconds = parseNumber("--seconds", flags.seconds, { least: 0.001, whole: false });
  const program = await open(path, options);
  const rows = await benchmark(program, isBundle(path) ? undefined : path, batches, seconds, (stage, f) => t.progress(stage, f));
  if (flags.json === true) t.json({ schema: "partita.bench/1", energy: "not available", results: rows });
  else {
    t.out("batch  engine            items/s      p50        p90        p99     memory peak");
    for (const r of rows)
      t.out(
        `${String(r.batch).padStart(5)}  ${r.engine.padEnd(16)}${r.itemsPerSecond.toFixed(1).padStart(9)}${humanUs(r.p50Us).padStart(11)}${humanUs(r.p90Us).padStart(11)}${humanUs(r.p99Us).padStart(11)}${human(r.peakBytes, "B").padStart(12)}`,
      );
    t.out("energy per item: not available on this machine");
  }
}
