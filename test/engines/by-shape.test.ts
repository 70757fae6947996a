/** Segments of open dims, compiled, saved, loaded and run: buckets, padding and cutting, misses, the host in place of engines, refusals. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { Remark } from "../../src/diagnostics.js";
import { byShape, cannotPad } from "../../src/engines/by-shape.js";
import type { Artifact, DynamicShapes, Engine, Executable } from "../../src/engines/engine.js";
import { hostEngine } from "../../src/engines/host/index.js";
import { compile, load } from "../../src/index.js";
import { parse } from "../../src/ir/parse.js";
import type { CompileOptions } from "../../src/options.js";
import { Tensor, type TensorLike } from "../../src/tensor.js";
import { compareTensors } from "../support/compare.js";
import { compilerMissing, needsCompiler } from "../support/cuda.js";
import { maskedAttention } from "../support/masked.js";

const folder = mkdtempSync(join(tmpdir(), "partita-by-shape-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const weights = Array.from({ length: 16 }, (_, i) => `${((i * 5) % 7) - 3}.0`).join(", ");
const NET = parse(`graph "net" opset {"": 18} (%x: float32[batch, 4]) -> (%y, %z) {
  const %w = float32[4, 4] [${weights}]
  %a = MatMul(%x, %w)
  %y = Relu(%a)
  %z = Neg(%y)
}`);
const MASKED = maskedAttention("masked", 2, "seq", 4);
const rows = (n: number): Tensor =>
  new Tensor(
    "float32",
    Float32Array.from({ length: n * 4 }, (_, i) => (i % 13) - 6),
    [n, 4],
  );
const masked = (n: number): Record<string, Tensor> => ({
  x: new Tensor(
    "float32",
    Float32Array.from({ length: 8 * n }, (_, i) => Math.sin(i)),
    [2, n, 4],
  ),
  mask: new Tensor("float32", new Float32Array(2 * n).fill(1), [2, n]),
});
const host: CompileOptions = { target: "host" };

describe("a compiled model", () => {
  it.each([
    ["ranges", false],
    ["padding", true],
  ] as const)("with buckets by %s gives the results of the model at every size, from engines built beforehand", async (_, padding) => {
    const program = await compile(NET, { ...host, dynamic: { buckets: { batch: [2, 8] }, padding } });
    const [plain, session] = await Promise.all([(await compile(NET, host)).createSession(), program.createSession()]);
    for (const n of [1, 2, 3, 7, 8]) {
      const [ours, theirs] = await Promise.all([session.run({ x: rows(n) }), plain.run({ x: rows(n) })]);
      for (const name of ["y", "z"]) {
        expect(ours[name]?.dims).toEqual([n, 4]);
        expect(ours[name]?.data).toEqual(theirs[name]?.data);
      }
    }
    expect(session.stats().cache).toEqual({ hits: 5, misses: 0, builds: 0, evictions: 0, fallbacks: 0 });
    // Above the largest bucket: an engine of that size.
    expect((await session.run({ x: rows(9) }))["y"]?.data).toEqual((await plain.run({ x: rows(9) }))["y"]?.data);
    expect(session.stats().cache).toMatchObject({ misses: 1, builds: 1 });
    // No rows at all: nothing can be padded.
    expect((await session.run({ x: rows(0) }))["y"]?.dims).toEqual([0, 4]);
    await Promise.all([plain.dispose(), session.dispose()]);
  });

  it("without buckets follows TF-TRT's rule, within maximumCachedEngines, in a loaded bundle too", async () => {
    const path = join(folder, "net.partita");
    await (await compile(NET, { ...host, maximumCachedEngines: 1, dynamic: { padding: true } })).save(path);
    const session = await (await load(path)).createSession();
    for (const n of [4, 2, 4, 6, 5]) expect((await session.run({ x: rows(n) }))["y"]?.dims).toEqual([n, 4]);
    expect(session.stats().cache).toEqual({ hits: 3, misses: 2, builds: 2, evictions: 1, fallbacks: 0 });
    await session.dispose();
  });

  it("background and host: the host answers, the same", async () => {
    for (const onMiss of ["background", "host"] as const) {
      const session = await (await compile(NET, { ...host, dynamic: { onMiss, padding: true } })).createSession();
      const before = (await session.run({ x: rows(3) }))["y"]?.data;
      expect(session.stats().cache).toMatchObject({ misses: 1, fallbacks: 1, builds: onMiss === "background" ? 1 : 0 });
      const served = async (): Promise<boolean> => {
        await session.run({ x: rows(3) });
        return session.stats().cache.hits > 0;
      };
      await expect.poll(served).toBe(onMiss === "background");
      expect((await session.run({ x: rows(3) }))["y"]?.data).toEqual(before);
      await session.dispose();
    }
  });

  it("a masked dim is padded with zeros, and not without being called masked: P3120", async () => {
    const dynamic = { buckets: { seq: [4, 8] }, padding: true };
    await expect(compile(MASKED, { ...host, dynamic })).rejects.toThrow(
      /^P3120 feeds cannot be padded along 'seq' in host_0: node .*: its operands have the dim along different axes\. Leave its buckets out; if the graph masks/,
    );
    const session = await (await compile(MASKED, { ...host, dynamic: { ...dynamic, masked: ["seq"] } })).createSession();
    const plain = await (await compile(MASKED, host)).createSession();
    for (const n of [1, 3, 4, 5, 8]) {
      const [a, b] = [(await session.run(masked(n)))["y"], (await plain.run(masked(n)))["y"]];
      expect(a?.dims).toEqual([2, n, 4]);
      expect(compareTensors(a as Tensor, b as Tensor)).toMatchObject({ ok: true });
    }
    expect(session.stats().cache).toMatchObject({ hits: 5, builds: 0 });
    await Promise.all([session.dispose(), plain.dispose()]);
  });

  it("dims go by name or by input and axis; others are P1001 with what there is", async () => {
    const program = await compile(NET, { ...host, dynamic: { buckets: { "x[0]": [4] } } });
    const session = await program.createSession();
    await session.run({ x: rows(3) });
    expect(session.stats().cache.hits).toBe(1);
    await session.dispose();
    await expect(compile(NET, { ...host, dynamic: { buckets: { bach: [4] } } })).rejects.toThrow(
      "P1001 option 'dynamic.buckets' speaks of the dim 'bach', and no input has an open dim of that name. Did you mean 'batch'?",
    );
    await expect(compile(NET, { ...host, dynamic: { masked: ["x[1]"] } })).rejects.toThrow("The open dims are batch");
  });

  it("an artifact whose shapes cannot be read is P3121", async () => {
    const artifact: Artifact = { engine: "host", key: "k", inputs: ["x"], outputs: ["y"], settings: { dynamic: "{" }, files: [] };
    await expect(hostEngine.open(artifact, { streams: 1, threads: 1 })).rejects.toThrow(
      /^P3121 what it says of its shapes cannot be read: .*\. Compile the model again\./,
    );
  });
});

describe("an engine of fixed dims", () => {
  interface Log {
    readonly built: string[];
    readonly resident: boolean[];
    closed: number;
  }
  /** The host's engine as one that takes the dims alone that it was built for, and cannot be built for 13 rows. */
  function fixed(log: Log): Engine {
    const inner: Engine = {
      name: "cuda",
      serves: "dims",
      available: async () => ({ ok: true }),
      async build(segment, context) {
        const type = segment.values[segment.inputs[0] as number]?.type;
        const dims = type?.kind === "tensor" ? (type.shape ?? []) : [];
        log.built.push(dims.join("x"));
        if (dims[0] === 13) throw cannotPad({ dim: "x", segment: "s", why: "13 cannot be built" });
        return {
          ...(await hostEngine.build(segment, { ...context, dynamic: undefined })),
          engine: "cuda",
          settings: { dims: dims.join("x") },
        };
      },
      async open(artifact, context): Promise<Executable> {
        const { settings, ...rest } = artifact;
        const e = await hostEngine.open({ ...rest, engine: "host" }, context);
        const run = async (inputs: readonly TensorLike[]) => {
          if (inputs[0]?.dims.join("x") !== settings?.["dims"])
            throw new Error(`built for ${settings?.["dims"]}, run with ${inputs[0]?.dims}`);
          return await e.run(inputs);
        };
        return {
          run,
          async runResident(inputs, keep) {
            log.resident.push(...keep);
            return await run(inputs as readonly TensorLike[]);
          },
          async dispose() {
            log.closed++;
            await e.dispose();
          },
        };
      },
    };
    return byShape(inner, () => hostEngine);
  }
  const dynamic: DynamicShapes = {
    engines: [],
    onMiss: "build",
    capacity: 2,
    buckets: {},
    masked: [],
    padding: false,
    batch: [],
    strict: false,
  };
  async function open(given: Partial<DynamicShapes>, log: Log, remarks: Remark[] = []): Promise<Executable> {
    const engine = fixed(log);
    const artifact = await engine.build(NET, { target: { sm: 90, tensorrt: 0, precision: "fp32" }, dynamic: { ...dynamic, ...given } });
    return await engine.open(artifact, { streams: 1, threads: 1, onRemark: (r) => remarks.push(r) });
  }
  const logOf = (): Log => ({ built: [], resident: [], closed: 0 });

  it("is built for the dims that come, by itself, and keeps as many as it may", async () => {
    const log = logOf();
    const e = await open({}, log);
    for (const n of [3, 5, 3, 7, 3, 5]) expect((await e.run([rows(n)]))[0]?.dims).toEqual([n, 4]);
    expect(log.built).toEqual(["3x4", "5x4", "7x4", "5x4"]);
    expect(e.cache?.()).toEqual({ hits: 2, misses: 4, builds: 4, evictions: 2, fallbacks: 0 });
    await e.dispose();
    expect(log.closed).toBe(4);
  });
  it("serves smaller batches padded, where that was asked for and is proved", async () => {
    const log = logOf();
    const e = await open({ batch: ["batch"] }, log);
    const [large] = await e.run([rows(6)]);
    const [small] = await e.run([rows(4)]);
    expect(log.built).toEqual(["6x4"]);
    expect([...(small?.data ?? [])]).toEqual([...(large?.data ?? [])].slice(0, 16));
    await e.dispose();
  });
  it("what cannot be built runs on the host, and a remark says why, once", async () => {
    const [log, remarks]: [Log, Remark[]] = [logOf(), []];
    const e = await open({}, log, remarks);
    for (let i = 0; i < 2; i++) expect((await e.run([rows(13)]))[0]?.dims).toEqual([13, 4]);
    expect(e.cache?.()).toMatchObject({ builds: 1, fallbacks: 2 });
    expect(remarks.map((r) => r.text)).toEqual([
      expect.stringMatching(/^net: no cuda engine for batch\[13\], the host runs these shapes: P3120 .*13 cannot be built/),
    ]);
    await e.dispose();
    const strict = await open({ strict: true }, log);
    await expect(strict.run([rows(13)])).rejects.toMatchObject({ code: "P3120" });
    await strict.dispose();
  });
  it("tensors stay on the device where an engine fits exactly, and are fetched to be padded or for the host", async () => {
    const log = logOf();
    const e = await open({ batch: ["batch"] }, log);
    let fetches = 0;
    const there = (n: number) => ({
      type: "float32",
      dims: [n, 4],
      memory: 0 as never,
      room: n * 16,
      device: 0,
      release: () => {},
      fetch: async () => {
        fetches++;
        return rows(n);
      },
    });
    await e.runResident?.([rows(6)], [true, false]);
    expect(log.resident).toEqual([true, false]);
    const [y] = (await e.runResident?.([there(2)], [true, true])) ?? [];
    expect([fetches, y?.dims]).toEqual([1, [2, 4]]);
    expect((await e.runResident?.([there(13)], [false, false]))?.[0]?.dims).toEqual([13, 4]);
    expect(fetches).toBe(2);
    await e.dispose();
  });
});

describe.skipIf(compilerMissing !== undefined)(needsCompiler("the report"), () => {
  it("says what each engine takes on the device, before anything is allocated", async () => {
    const program = await compile(NET, {
      target: "cuda",
      computeCapability: 9,
      minimumSegmentSize: 1,
      tune: "none",
      dynamic: { buckets: { batch: [1, 64] } },
    });
    const [segment] = program.report.toJSON().segments;
    const [small, large] = segment?.deviceMemory ?? [];
    expect([small?.shape, large?.shape]).toEqual(["batch[1]", "batch[2..64]"]);
    // A weight of 4 x 4 floats; 64 rows in, twice 64 rows out.
    for (const m of [small, large]) expect(m?.weightsBytes).toBeGreaterThanOrEqual(64);
    expect(large?.streamBytes).toBeGreaterThanOrEqual(3 * 64 * 16);
    expect(program.report.toText()).toMatch(/on the device for batch\[2\.\.64\]: weights \d+ .?B, [\d.]+ .?B a stream/);
  });
});
