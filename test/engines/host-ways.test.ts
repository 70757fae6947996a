/** Which way runs go while they crowd: which gets more done, by the clock and the rates of a test; and that results stay right whichever it is. */
import { afterEach, describe, expect, it, vi } from "vitest";
import { compile } from "../../src/compile.js";
import { type Way, Ways } from "../../src/engines/host/ways.js";
import { Editor } from "../../src/ir/edit.js";
import { makeConstant } from "../../src/ir/payload.js";
import type { Graph } from "../../src/ir/types.js";
import type { Session } from "../../src/runtime/session.js";
import type { SessionOptions } from "../../src/runtime/settings.js";
import { Tensor } from "../../src/tensor.js";

/** A machine on which each way gets so much done by millisecond. A run is asked for every half millisecond. */
class Machine {
  readonly ways: Ways;
  rates: Record<Way, number>;
  now = 1000;
  constructor(kept: Way, rates: Record<Way, number>) {
    this.ways = new Ways(kept);
    this.rates = rates;
  }
  /** Goes on for so long; gives the milliseconds of each way. */
  go(ms: number, crowded = true, rate = (way: Way) => this.rates[way]): Record<Way, number> {
    const spent = { here: 0, threads: 0 };
    for (const end = this.now + ms; this.now < end; this.now += 0.5) {
      const way = this.ways.ask(this.now, crowded);
      spent[way] += 0.5;
      this.ways.did(rate(way) / 2);
    }
    return spent;
  }
}
const [SOON, LONG] = [400, 60_000];

describe("of two ways", () => {
  it.each<[Way, Record<Way, number>, Way]>([
    ["here", { here: 40, threads: 30 }, "here"],
    ["here", { here: 30, threads: 40 }, "threads"],
    ["threads", { here: 40, threads: 30 }, "here"],
    ["threads", { here: 40, threads: 39 }, "threads"],
    ["here", { here: 39, threads: 40 }, "here"],
  ])("from %s, at %j: %s is kept", (kept, rates, expected) => {
    const machine = new Machine(kept, rates);
    machine.go(SOON);
    expect(machine.ways.way).toBe(expected);
    const spent = machine.go(LONG);
    // What the trials cost.
    expect(spent[expected === "here" ? "threads" : "here"] / LONG).toBeLessThan(0.03);
  });

  it("the other is taken when it has become better, within seconds", () => {
    const machine = new Machine("here", { here: 40, threads: 30 });
    machine.go(LONG);
    machine.rates = { here: 20, threads: 30 };
    machine.go(20_000);
    expect(machine.ways.way).toBe("threads");
  });

  it("none is tried while runs come alone", () => {
    const machine = new Machine("here", { here: 30, threads: 40 });
    expect(machine.go(LONG, false)).toEqual({ here: LONG, threads: 0 });
  });

  it("one that had nothing to do is not judged by it", () => {
    const machine = new Machine("here", { here: 40, threads: 30 });
    machine.go(1);
    // The trial is under way: what comes now comes alone, then nothing for a second.
    machine.go(60, false, () => 1);
    expect(machine.ways.counting).toBe(false);
    machine.go(1020);
    expect(machine.ways.counting).toBe(true);
    machine.now += 1000;
    machine.go(10, true);
    expect(machine.ways).toMatchObject({ way: "here", counting: false });
    machine.go(LONG);
    expect(machine.ways.way).toBe("here");
  });

  it("a moment in which the machine did something else decides nothing", () => {
    const machine = new Machine("here", { here: 40, threads: 30 });
    let moments = 0;
    let counted = false;
    machine.go(SOON, true, (way) => {
      if (machine.ways.counting && !counted) moments++;
      counted = machine.ways.counting;
      // The first of the kept way's.
      return moments === 1 ? 1 : machine.rates[way];
    });
    expect([moments, machine.ways.way]).toEqual([6, "here"]);
  });
});

/** y = x W W W where W takes each to the next but one: long enough to be worth other threads, and short enough for the calling one. */
function shifting(width: number): Graph {
  const e = new Editor({ name: "shifting", opsets: { "": 18 } });
  const weights = Array.from({ length: width * width }, (_, i) => Number((Math.floor(i / width) + 2) % width === i % width));
  const w = e.addConstant("w", makeConstant("float32", [width, width], weights));
  let v = e.addInput("x", { kind: "tensor", dtype: "float32", shape: ["N", width] });
  for (const name of ["a", "b", "y"]) [v] = e.add({ op: "MatMul", ins: [v, w], outs: 1, name, attrs: {} }).outs as [typeof v];
  e.setOutputs([v]);
  return e.finish();
}
const WIDTH = 512;

describe("results", () => {
  const open: Session[] = [];
  afterEach(async () => {
    vi.restoreAllMocks();
    await Promise.all(open.splice(0).map((s) => s.dispose()));
  });
  /** A run that wants the row of each number back, shifted. */
  async function right(s: Session, rows: readonly number[]): Promise<boolean> {
    const data = new Float32Array(rows.length * WIDTH);
    for (const [i, row] of rows.entries()) data[i * WIDTH + (row % WIDTH)] = row + 1;
    const y = Object.values(await s.run({ x: new Tensor("float32", data, [rows.length, WIDTH]) }))[0] as Tensor<"float32">;
    return (
      rows.every((row, i) => y.data[i * WIDTH + ((row + 6) % WIDTH)] === row + 1) &&
      y.data.reduce((n, v) => n + Number(v !== 0), 0) === rows.length
    );
  }

  it.each<[SessionOptions]>([[{}], [{ streams: 2, threads: 1 }], [{ threads: 2 }], [{ batching: { maxBatch: 64 } }]])(
    "with %j: each its own, while the way changes with every question, and when the session ends meanwhile",
    async (options) => {
      let asked = 0;
      vi.spyOn(Ways.prototype, "ask").mockImplementation(() => (asked++ % 2 === 0 ? "here" : "threads"));
      const s = await (await compile(shifting(WIDTH), { target: "host" })).createSession(options);
      open.push(s);
      let wrong = 0;
      const callers = async (runs: number): Promise<void> => {
        const caller = async (_: unknown, c: number): Promise<void> => {
          for (let i = 0; i < runs; i++)
            if (
              !(await right(
                s,
                Array.from({ length: 1 + (c % 3) }, (_, k) => 17 * c + i + k),
              ))
            )
              wrong++;
        };
        await Promise.all(Array.from({ length: 32 }, caller));
      };
      for (let round = 0; round < 20 && asked < 100; round++) await callers(10);
      const last = callers(1);
      await Promise.resolve();
      await Promise.all([last, s.dispose()]);
      expect(wrong).toBe(0);
      expect(asked).toBeGreaterThan(0);
    },
  );
});
