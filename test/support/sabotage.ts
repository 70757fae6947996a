/** Engines that compute something wrong, and programs that run on them, for the tests of verification. */
import { contextOf, segmentFor } from "../../src/build.js";
import { plan } from "../../src/compile.js";
import type { Engine } from "../../src/engines/engine.js";
import { hostEngine } from "../../src/engines/host/index.js";
import type { Graph, Node } from "../../src/ir/types.js";
import type { CompileOptions } from "../../src/options.js";
import { randomFeeds } from "../../src/runtime/measure.js";
import { planOf } from "../../src/runtime/plan.js";
import { Program } from "../../src/runtime/program.js";
import { untouched } from "../../src/runtime/untouched.js";
import { type Verifiable, type Verification, verifyProgram } from "../../src/runtime/verify.js";

export type Change = (g: Graph) => Graph;
/** Other operators in the place of some. */
export const swapped =
  (wrong: (n: Node, g: Graph) => boolean, op: string): Change =>
  (g) => ({ ...g, nodes: g.nodes.map((n) => (wrong(n, g) ? { ...n, op } : n)) });
/** An engine that computes another graph than it was given. */
export const sabotaged = (change: Change, engine: Engine = hostEngine): Engine => ({
  ...engine,
  build: async (g, context) => await engine.build(change(g), context),
});

/** The model compiled for the CUDA engine, whose segments that other engine runs; `rewrite` changes what it is given. */
export async function verifiedOn(
  model: string,
  engine: Engine,
  rewrite: Change = (g) => g,
  tolerance = 1e-3,
  options: CompileOptions = {},
): Promise<Verification> {
  const planned = await plan(model, { ...options, target: "cuda", minimumSegmentSize: 1 });
  const { segments } = planned.partition;
  const engines: Verifiable["engines"] = (name) => (name === "host" ? hostEngine : engine);
  const segment: Verifiable["segment"] = (i) => {
    const s = segments[i];
    return s === undefined
      ? undefined
      : {
          graph: (s.engine === "host" ? (g: Graph) => g : rewrite)(segmentFor(engines(s.engine), planned, s)),
          context: contextOf(planned),
        };
  };
  const artifacts = await Promise.all(
    segments.map(async (s, i) => {
      const built = segment(i);
      if (built === undefined) throw new Error("no segment");
      return { ...(await engines(s.engine).build(built.graph, built.context)), engine: s.engine };
    }),
  );
  const made = { plan: planOf(planned.inferred.graph, segments), artifacts, engines };
  const session = await new Program({ ...made, report: planned.report }).createSession();
  try {
    const feeds = randomFeeds(session.inputs, 1);
    return await verifyProgram({ ...made, segment }, await untouched(model), feeds, await session.run(feeds), { tolerance });
  } finally {
    await session.dispose();
  }
}
