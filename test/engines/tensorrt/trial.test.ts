/** Plans that end the process that loads them end a child's, over stand-ins for library and driver; what is known to load is not tried again. */
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { loadLibrary, presentGpu } from "../../../src/engines/tensorrt/load.js";
import { type Loader, loadTried } from "../../../src/engines/tensorrt/trial.js";
import { compile, load, type Session } from "../../../src/index.js";
import { parse } from "../../../src/ir/parse.js";
import { Tensor } from "../../../src/tensor.js";
import { useFakeDriver } from "../../support/fake-cuda.js";
import { standInFolder } from "../../support/tensorrt-folder.js";
import { withPlan } from "../../support/tensorrt-plans.js";

const noDriver = useFakeDriver({ memory: 64 << 20 });
const { folder: installed, missing: noLibrary } = standInFolder("11");
const missing = noDriver ?? noLibrary;

describe.skipIf(missing !== undefined)(`plans brought from elsewhere${missing === undefined ? "" : ` (skipped: ${missing})`}`, () => {
  const folder = mkdtempSync(join(tmpdir(), "partita-trial-"));
  const calls = join(folder, "calls");
  const before = { ...process.env };
  const execPath = process.execPath;
  const at = (name: string): string => join(folder, name);
  /** A cache folder that nobody has used is a machine that has loaded nothing. */
  let machines = 0;
  const elsewhere = (): string => {
    process.env["PARTITA_CACHE_DIR"] = at(`machine-${machines++}`);
    return process.env["PARTITA_CACHE_DIR"];
  };
  const saved = async (name: string, middle: string, tensorrt = {}): Promise<string> => {
    const text = `graph "net" opset {"": 18} (%x: float32[4, 3]) -> (%y) { %h = Relu(%x) @"${middle}"\n %y = Add(%h, %x) @"sum" }`;
    const program = await compile(parse(text), { target: "tensorrt", minimumSegmentSize: 1, tune: "none", strict: true, tensorrt });
    await program.save(at(name));
    return at(name);
  };
  const opened = async (bundle: string): Promise<Session> => await (await load(bundle)).createSession();
  const planIn = (bundle: string): Uint8Array => {
    const { artifacts } = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8")) as {
      artifacts: { files: { name: string; path: string }[] }[];
    };
    return readFileSync(join(bundle, artifacts.flatMap((a) => a.files).find((f) => f.name === "engine.plan")?.path ?? ""));
  };
  const x = new Tensor("float32", Float32Array.of(-3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8), [4, 3]);
  const values = async (session: Session): Promise<number[]> => {
    const { y } = await session.run({ x });
    await session.dispose();
    return Array.from(y?.data as Float32Array);
  };
  const right = [-3, -2, -1, 0, 2, 4, 6, 8, 10, 12, 14, 16];
  /** How often plans were loaded, in this process and in children; or another call was made. */
  const loads = async (work: () => Promise<unknown>, call = "Runtime.deserializeCudaEngine"): Promise<number> => {
    rmSync(calls, { force: true });
    process.env["FAKE_TENSORRT_CALLS"] = calls;
    try {
      await work();
    } finally {
      delete process.env["FAKE_TENSORRT_CALLS"];
    }
    if (!existsSync(calls)) return 0;
    return readFileSync(calls, "utf8")
      .split("\n")
      .filter((l) => l === call).length;
  };
  const caught = async (work: Promise<unknown>): Promise<Error & { readonly code?: string }> =>
    await work.then(
      () => new Error("nothing failed"),
      (e: unknown) => e as Error,
    );
  let good = "";
  beforeAll(async () => {
    process.env["PARTITA_TENSORRT_DIR"] = installed;
    elsewhere();
    good = await saved("good", "relu");
  });
  afterEach(() => {
    process.execPath = execPath;
  });
  afterAll(() => {
    process.env = before;
    rmSync(folder, { recursive: true, force: true });
  });

  it("P2216: the child that dies of a plan, or of its context, is not this process, and the next plan runs", async () => {
    const bundle = withPlan(good, at("deadly"), planIn(await saved("built", "fake:die-on-load")));
    const why =
      "P2216 TensorRT does not load the plan: a process that tried it first died: it ended by SIGABRT, when it loaded the plan: LLVM ERROR: out of memory. " +
      "Compile again on the machine that runs it: a plan is of one version and one kind of GPU, unless it was built to be compatible.";
    elsewhere();
    // Nothing is remembered of it: the second time is as the first.
    for (const _ of [0, 1]) {
      const session = opened(bundle);
      expect((await caught(session)).message).toBe(why);
      await expect(session).rejects.toMatchObject({ code: "P2216", exit: 3 });
    }
    const later = await saved("later", "fake:die-in-context");
    elsewhere();
    expect((await caught(opened(later))).message).toMatch(
      /^P2216 .* died: it ended by SIG(SEGV|BUS), when it made an execution context[:.] /,
    );
    expect(await values(await opened(good))).toEqual(right);
  });

  it("P2216: a child that gives no answer is ended", async () => {
    const plan = planIn(await saved("hangs", "fake:hang-on-load"));
    elsewhere();
    const never = (): Promise<never> => Promise.reject(new Error("it was loaded here"));
    expect((await caught(loadTried(plan, await loader(), { timeoutMs: 2000 }, never))).message).toMatch(
      /^P2216 .* died: it gave no answer in 2000 ms, when it loaded the plan\. /,
    );
  });
  const loader = async (): Promise<Loader> => {
    const device = presentGpu();
    if (device === undefined) throw new Error("there is no GPU");
    return { rt: (await loadLibrary({ sm: device.properties.sm })).rt, device };
  };

  it("one child the first time, none afterwards, and none for what was built here", async () => {
    const open = async (): Promise<void> => expect(await values(await opened(good))).toEqual(right);
    const first = elsewhere();
    expect(await loads(open)).toBe(2);
    expect(await loads(open)).toBe(1);
    // As another process on that machine, which has the folder alone.
    cpSync(first, elsewhere(), { recursive: true });
    expect(await loads(open)).toBe(1);
    elsewhere();
    expect(await loads(async () => expect(await values(await opened(await saved("own", "relu")))).toEqual(right))).toBe(1);
    // Sessions that open at once have one child together.
    elsewhere();
    expect(await loads(() => Promise.all([open(), open(), open()]))).toBe(4);
  });

  it("a plan without weights is tried without a context, for which they must be in", async () => {
    const bundles = [await saved("whole", "relu"), await saved("stripped", "relu", { stripWeights: true })];
    elsewhere();
    const contexts = [];
    for (const bundle of bundles)
      contexts.push(
        await loads(async () => expect(await values(await opened(bundle))).toEqual(right), "CudaEngine.createExecutionContext"),
      );
    expect(contexts).toEqual([2, 1]);
  });

  it("a plan that is refused in words is refused by this process, and not remembered", async () => {
    const bundle = withPlan(good, at("cut"), planIn(good).subarray(0, 100));
    elsewhere();
    const work = async (): Promise<void> => {
      const error = await caught(opened(bundle));
      expect(error.message).toMatch(/^P2216 TensorRT does not load the plan: .*plan\.header\.size == blobSize failed\)\. Compile again/);
      expect(error.cause).toMatchObject({ call: "deserializeCudaEngine" });
    };
    expect(await loads(work)).toBe(2);
    expect(await loads(work)).toBe(2);
  });

  it("without a child, and without a folder to write, plans run all the same", async () => {
    elsewhere();
    process.execPath = at("nothing");
    expect(await loads(async () => expect(await values(await opened(good))).toEqual(right))).toBe(1);
    process.execPath = execPath;
    const file = at("no folder");
    writeFileSync(file, "");
    process.env["PARTITA_CACHE_DIR"] = file;
    expect(await loads(async () => expect(await values(await opened(good))).toEqual(right))).toBe(2);
    // Once in a process is enough.
    expect(await loads(async () => expect(await values(await opened(good))).toEqual(right))).toBe(1);
  });
});
