/** The partitioners on the models of the test data: the graphs as the pipeline hands them to the partitioner, verdicts of the engines' tables. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { plan } from "../../src/compile.js";
import type { EngineName } from "../../src/ops/define.js";
import { lossOf } from "../../src/partition/assign.js";
import type { SegmentInput } from "../../src/partition/input.js";
import { problemOf } from "../../src/partition/problem.js";
import { generator } from "./generators.js";

/** ONNX files and TensorFlow graphs below a folder, sorted; at most 200 MB each, so that the whole set takes minutes. */
export function modelFiles(root: string): readonly string[] {
  const found: string[] = [];
  for (const set of ["torch", "real", "tf", "real_tf", "digits"]) {
    const folder = join(root, set);
    if (!existsSync(folder)) continue;
    const walk = (at: string): void => {
      for (const entry of readdirSync(at, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
        const path = join(at, entry.name);
        if (entry.isDirectory()) {
          if (existsSync(join(path, "saved_model.pb"))) found.push(path);
          else walk(path);
        } else if (/\.(onnx|pb)$/.test(entry.name) && statSync(path).size <= 200e6) found.push(path);
      }
    };
    walk(folder);
  }
  return found;
}

export interface ModelCase {
  readonly model: string;
  /** Which verdicts: an engine's, or the engine's with one node in ten refused besides. */
  readonly verdicts: string;
  readonly input: SegmentInput;
  /** FLOPs by node. */
  readonly work: Float64Array;
}

/** The cases of one model, or why it cannot be read. */
export async function casesOf(path: string): Promise<readonly ModelCase[] | string> {
  const model = /^(model|legacy|dynamo|frozen|saved_model)\b/.test(basename(path))
    ? `${basename(dirname(path))}/${basename(path)}`
    : basename(path);
  const cases: ModelCase[] = [];
  for (const engine of ["cuda", "tensorrt"] as const) {
    try {
      const { inferred, verdicts } = await plan(path, { target: engine, minimumSegmentSize: 3 });
      const p = problemOf(inferred.graph, inferred.facts);
      const next = generator(7);
      for (const refused of [0, 0.1]) {
        const takes = (e: EngineName, i: number): boolean => verdicts.of(inferred.graph.nodes[i]?.id as never, e).ok;
        const own = Uint8Array.from(inferred.graph.nodes, (_, i) => (takes(engine, i) && next() >= refused ? 1 : 0));
        cases.push({
          model,
          verdicts: refused === 0 ? engine : `${engine}, 1 in 10 refused`,
          input: {
            n: inferred.graph.nodes.length,
            successors: p.successors,
            engine: own,
            size: p.size,
            minimumSize: 3,
            values: p.values,
            flops: p.flops,
            lossUs: lossOf(p, ["host", engine], own, "fp32"),
          },
          work: p.flops,
        });
      }
    } catch (error) {
      return error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
    }
  }
  return cases;
}
