// A benchmark of parts that do what benchmarks should not. argv: a file for the rows.
import { appendFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { inParts, part, row, runPart, underWay } from "../../bench/gpu/parts.mjs";

if (part !== undefined)
  await runPart({
    fine: async () => {
      row({ part, figure: 1 });
      row({ part, figure: 2 });
    },
    throws: async () => {
      throw new Error("no such figure");
    },
    spins: async () => {
      row({ part, figure: 3 });
      underWay("turning round");
      process.on("SIGTERM", () => undefined);
      await new Promise((resolve) => setTimeout(resolve, 10));
      for (;;);
    },
    stays: async () => {
      setInterval(() => undefined, 1000);
    },
    ends: async () => {
      underWay("leaving");
      process.stderr.write("out of here\n");
      process.exit(3);
    },
    last: async () => row({ part, figure: 4 }),
  });
else {
  const tell = (figures) => appendFileSync(process.argv[2], `${JSON.stringify(figures)}\n`);
  await inParts(fileURLToPath(import.meta.url), { fine: 20, throws: 20, spins: 1.5, stays: 1.5, ends: 20, last: 20 }, tell);
  process.exit();
}
