/** Feeds and options as callers have them: Buffers, shared and foreign memory, lists, and what is none of what it should be. */
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import { fed } from "../../src/engines/host/native.mjs";
import { parse } from "../../src/ir/parse.js";
import type { Program } from "../../src/runtime/program.js";
import type { Session } from "../../src/runtime/session.js";
import { Tensor } from "../../src/tensor.js";

const messageOf = async (work: () => unknown): Promise<string> => {
  try {
    await work();
    return "none";
  } catch (error) {
    return String((error as Error).message);
  }
};
const program = async (text: string): Promise<Program> => await compile(parse(text), { target: "host" });

describe("feeds over memory of others", () => {
  let session: Session;
  beforeAll(async () => {
    session = await (await program(`graph "g" opset {"": 18} (%x: uint8[n]) -> (%y) { %y = Cast(%x) {to = 1} }`)).createSession();
  });
  afterAll(() => session.dispose());
  const total = async (data: Uint8Array, transfer = false): Promise<number> => {
    const { y } = await session.run({ x: { type: "uint8", data, dims: [data.length] } }, { transfer });
    return y === undefined ? Number.NaN : (y.data as Float32Array).reduce((sum, v) => sum + v, 0);
  };

  it("a part of a Buffer leaves the rest of it, and other Buffers, as they are", async () => {
    const file = Buffer.alloc(200_000, 1);
    expect(await total(new Tensor("uint8", file.subarray(54), [199_946]).data)).toBe(199_946);
    expect(await total(file.subarray(1000))).toBe(199_000);
    expect(await total(file.subarray(1000), true)).toBe(199_000);
    expect(file.length).toBe(200_000);
    const [small, other] = [Buffer.from([1, 2, 3]), Buffer.from("hello")];
    expect(await total(small, true)).toBe(6);
    expect(other.toString()).toBe("hello");
    const x = new Tensor("uint8", file, [file.length]);
    expect([x.data.constructor, x.data.buffer === file.buffer]).toEqual([Uint8Array, true]);
  });
  it("Buffers over shared memory, on either thread", async () => {
    for (const n of [8, 100_000]) for (let i = 0; i < 4; i++) expect(await total(Buffer.from(new SharedArrayBuffer(n)).fill(1))).toBe(n);
  });
  it("arrays of another realm", async () => {
    const foreign = runInNewContext("new Uint8Array([1, 2, 3, 4]).subarray(1)") as Uint8Array;
    expect(foreign instanceof Uint8Array).toBe(false);
    for (let i = 0; i < 4; i++) expect(await total(foreign)).toBe(9);
    expect(new Tensor("uint8", foreign, [3]).data).toEqual(Uint8Array.of(2, 3, 4));
  });
  it("memory that cannot move to a thread is copied there", async () => {
    const { WebAssembly } = globalThis as unknown as { WebAssembly: { Memory: new (how: object) => { buffer: ArrayBuffer } } };
    const { buffer } = new WebAssembly.Memory({ initial: 2 });
    const all = new Uint8Array(buffer).fill(1);
    expect(await total(all, true)).toBe(131_072);
    expect(all.length).toBe(131_072);
  });
  it("half bits are given to ONNX Runtime as such where Node.js has Float16Array", () => {
    class Float16Array extends Uint16Array {
      override get [Symbol.toStringTag](): never {
        return "Float16Array" as never;
      }
    }
    const { buffer } = Uint16Array.of(0, 0x3c00, 0x4000);
    expect(fed("float16", new Float16Array(buffer, 2), [2])).toEqual({
      type: "float16",
      data: Uint16Array.of(0x3c00, 0x4000),
      dims: [2],
      location: "cpu",
    });
  });
});

describe("tensors of what is no tensor's", () => {
  it("are refused with a code", async () => {
    expect(await messageOf(() => new Tensor("float32", [1], null as never))).toMatch(/^P3101 the dims are null/);
    expect(await messageOf(() => new Tensor("float32", [1], 1 as never))).toMatch(/^P3101 the dims are number/);
    expect(await messageOf(() => new Tensor("int64", [1.5]))).toMatch(/^P3101 a int64 tensor was given a list: The number 1.5 cannot/);
    expect(await messageOf(() => new Tensor("float32", ["x", 1] as never))).toMatch(/^P3101 .*'x' is no number. Give numbers of that type/);
    expect(await messageOf(() => new Tensor("float32", [null] as never))).toMatch(/^P3101 .*null is no number/);
    expect(await messageOf(() => new Tensor("uint8", Object.create(null)))).toMatch(/^P3101 a uint8 tensor was given a object/);
    expect(new Tensor("int64", [1, 2n, true]).data).toEqual(BigInt64Array.of(1n, 2n, 1n));
  });
  it("lists of text with anything else, and numbers over no array", async () => {
    const session = await (await program(`graph "g" opset {"": 18} (%s: string[n]) -> (%t) { %t = Identity(%s) }`)).createSession();
    for (const data of [[Symbol("a")], [1], new Array(1), [() => 1]])
      expect(await messageOf(() => session.run({ s: { type: "string", data: data as never, dims: [1] } }))).toMatch(
        /^P3104 value 's': it is string with what is no text/,
      );
    await session.dispose();
  });
});

describe("options that are none", () => {
  let session: Session;
  let compiled: Program;
  beforeAll(async () => {
    compiled = await program(`graph "g" opset {"": 18} (%x: float32[n]) -> (%y) { %y = Neg(%x) }`);
    session = await compiled.createSession();
  });
  afterAll(() => session.dispose());
  const x = new Tensor("float32", [1]);

  it("of runs are P3130, and names that are none P3103", async () => {
    const said = (options: object): Promise<string> => messageOf(() => session.run({ x }, options));
    expect(await said({ outputs: "y" })).toBe("P3130 outputs is y. Give a list of names.");
    for (const outputs of [null, [5], [null], new Set(["y"])]) expect(await said({ outputs })).toMatch(/^P3130 outputs is/);
    for (const signal of [null, 5, {}]) expect(await said({ signal })).toMatch(/^P3130 signal is .*Give an AbortSignal/);
    for (const deadlineMs of [null, "5", 5n, 0]) expect(await said({ deadlineMs })).toMatch(/^P3130 deadlineMs is .*Give milliseconds/);
    expect(await said({ transfer: "no" })).toMatch(/^P3130 transfer is no. Give true or false/);
  });
  it("of sessions", async () => {
    const said = (options: object): Promise<string> => messageOf(() => compiled.createSession(options));
    expect(await said({ batching: { maxBatch: 4, maxDelay: 5 } })).toMatch(
      /^P3130 maxDelay is no option of batching. Did you mean maxDelayMs/,
    );
    expect(await said({ batching: null })).toMatch(/^P3130 the options of batching are null/);
    expect(await said({ onRemark: 5 })).toMatch(/^P3130 onRemark is no function/);
    expect(await said({ allowHostCode: "yes" })).toMatch(/^P3130 allowHostCode is yes/);
  });
  it("of streams, which end all the same", async () => {
    const said = (options: unknown, feeds: unknown = {}): Promise<string> =>
      messageOf(async () => {
        const stream = session.stream(options as never);
        try {
          await stream.run(feeds as never);
        } finally {
          await stream.dispose();
        }
      });
    expect(await said({ carry: null })).toMatch(/^P3130 carry is null/);
    expect(await said({ carry: ["y"] })).toMatch(/^P3130 carry is a list/);
    expect(await said({ carry: { x: 5 } })).toMatch(/^P3103 there is nothing named '5'/);
    expect(await said({ carry: { x: "y" }, initial: 5 })).toMatch(/^P3130 initial is a number/);
    for (const wrong of [5, null])
      expect(await said({ carry: { x: "y" }, initial: { x: wrong } })).toMatch(/^P3104 value 'x': it is no tensor/);
    expect(await said({ carry: { x: "y" } }, null)).toMatch(/^P3102/);
  });
  it("a profile that was begun is not taken apart by dispose", async () => {
    const own = await compiled.createSession();
    const profile = own.profile({ detail: "nodes", runs: 50 });
    await own.dispose();
    expect((await profile).runs).toBe(50);
    expect(await messageOf(() => own.profile({ detail: "nodes" }))).toMatch(/^P3105/);
  });
  it("of tensors, and of paths", async () => {
    expect(await messageOf(() => session.allocate("float32", undefined as never))).toMatch(/^P3101 the dims are undefined/);
    expect(await messageOf(() => session.allocate("float32", [2 ** 40]))).toMatch(/^P3101 dims \[1099511627776\] take 4398046511104 bytes/);
    expect(await messageOf(() => compiled.save("a\0b"))).toMatch(/^P3005 .*without null bytes/);
  });
});
