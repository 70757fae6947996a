import { describe, expect, it } from "vitest";
import { PartitaError } from "../../../src/diagnostics.js";
import { inspectCubin } from "../../../src/engines/cuda/cubin.js";
import { craftCubin, fakeKernels } from "../../support/fake-cuda.js";

describe("cubins", () => {
  it("read back as they were made", () => {
    const info = inspectCubin(craftCubin([...fakeKernels, { name: "tile", parameters: [[0, 8]], registers: 168, shared: 49152 }], 80));
    expect(info.sm).toBe(80);
    expect(info.kernels.map((k) => k.name)).toEqual(["add", "scale", "fault", "slow", "map", "none", "tile"]);
    expect(info.kernels[0]).toEqual({ name: "add", registers: 16, sharedBytes: 0, localBytes: 0, parameters: fakeKernels[0]?.parameters });
    expect(info.kernels.at(-1)).toEqual({ name: "tile", registers: 168, sharedBytes: 49152, localBytes: 0, parameters: [[0, 8]] });
    expect(inspectCubin(craftCubin([], 120))).toEqual({ sm: 120, kernels: [] });
  });
  it("of older toolkits have their architecture in the first byte of the flags", () => {
    const cubin = craftCubin([], 0);
    const view = new DataView(cubin.buffer);
    view.setUint8(8, 7);
    view.setUint32(48, 0x005a055a, true);
    expect(inspectCubin(cubin).sm).toBe(90);
  });
  it("that are not whole are told apart", () => {
    const whole = craftCubin();
    expect(() => inspectCubin(new Uint8Array(10))).toThrow(
      "P2109 a compiled kernel is damaged: 10 bytes are too few for an ELF header. Compile the model again, or delete the cached kernels.",
    );
    expect(() => inspectCubin(new Uint8Array(100))).toThrow("it is no 64-bit little-endian ELF file");
    expect(() => inspectCubin(whole.subarray(0, whole.length - 1))).toThrow("its section table lies outside the file");
    const elsewhere = whole.slice();
    elsewhere[18] = 62;
    expect(() => inspectCubin(elsewhere)).toThrow("its machine is 62, not CUDA");
  });
  it("with bytes changed or cut off are read or refused, nothing else", () => {
    const whole = craftCubin();
    let [refused, seed] = [0, 1];
    const random = (n: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return Math.floor((seed / 2 ** 32) * n);
    };
    const attempt = (bytes: Uint8Array): void => {
      try {
        inspectCubin(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(PartitaError);
        expect((error as PartitaError).code).toBe("P2109");
        refused++;
      }
    };
    for (let length = 0; length < whole.length; length += 7) attempt(whole.subarray(0, length));
    for (let i = 0; i < 4000; i++) {
      const bytes = whole.slice();
      for (let n = random(4); n >= 0; n--) bytes[random(bytes.length)] = random(3) === 0 ? 0xff : random(256);
      attempt(bytes);
    }
    expect(refused).toBeGreaterThan(500);
  });
});
