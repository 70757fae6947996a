// docs/bench.schema.json: the shape of `partita bench --json` as JSON Schema (draft 2020-12), made of the schema that its types are made of.
import { build } from "./build.mjs";
import { text } from "./report-schema.mjs";

export const file = "docs/bench.schema.json";

export async function render() {
  build();
  const { benchSchema, BENCH_SCHEMA } = await import("../dist/runtime/bench-result.js");
  return text(benchSchema, BENCH_SCHEMA);
}
