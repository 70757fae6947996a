/** Finding the driver, in the order things go wrong: this process's driver is loaded by the last test alone. */
import { execFileSync } from "node:child_process";
import { beforeAll, describe, expect, it } from "vitest";
import type { PartitaError } from "../../../src/diagnostics.js";
import { gpuVerdict, listDevices, openDevice, openDriver } from "../../../src/engines/cuda/device.js";
import { gpuError, isFault, nativeFailure } from "../../../src/engines/cuda/errors.js";
import { doctor } from "../../../src/runtime/doctor.js";
import { useFakeDriver } from "../../support/fake-cuda.js";

const missing = useFakeDriver({ devices: -1 });
const driver = process.env["PARTITA_CUDA_DRIVER"];
const linux = process.platform === "linux";
const fact = async (name: string) => (await doctor()).find((f) => f.name === name);

describe.runIf(linux)("without a driver", () => {
  it("P2103 with the loader's reason; doctor says the same", async () => {
    process.env["PARTITA_CUDA_DRIVER"] = "/nowhere/libcuda.so.1";
    const message =
      "P2103 there is no usable NVIDIA GPU: /nowhere/libcuda.so.1: cannot open shared object file: No such file or directory. " +
      "Install NVIDIA's driver (it brings libcuda.so.1), or compile with --target host.";
    expect(() => openDriver()).toThrow(message);
    expect(() => openDevice()).toThrow("P2103");
    expect(gpuVerdict()).toEqual({
      ok: false,
      why: "/nowhere/libcuda.so.1: cannot open shared object file: No such file or directory",
      fix: expect.stringContaining("install NVIDIA's driver"),
    });
    expect(await fact("CUDA addon")).toMatchObject({ ok: true, detail: expect.stringContaining("partita_native.node") });
    expect(await fact("GPU driver")).toMatchObject({ ok: false, detail: expect.stringContaining("/nowhere/libcuda.so.1") });
    for (const name of ["GPU", "Energy"]) expect(await fact(name)).toMatchObject({ ok: false, detail: "as for the GPU driver" });
  });
});

describe.skipIf(missing !== undefined)(`with a stand-in driver${missing === undefined ? "" : ` (skipped: ${missing})`}`, () => {
  beforeAll(() => {
    process.env["PARTITA_CUDA_DRIVER"] = driver;
  });
  it("P2103 when it knows no device, or shows none", () => {
    expect(() => openDriver()).toThrow(
      "P2103 there is no usable NVIDIA GPU: cuInit: CUDA_ERROR_NO_DEVICE. Check CUDA_VISIBLE_DEVICES and nvidia-smi.",
    );
    process.env["FAKE_CUDA_DEVICES"] = "0";
    expect(() => openDriver()).toThrow("P2103 there is no usable NVIDIA GPU: the driver shows no device. Check CUDA_VISIBLE_DEVICES");
  });
  it("opens the device that is asked for, once; doctor describes all", async () => {
    process.env["FAKE_CUDA_DEVICES"] = "2";
    process.env["FAKE_CUDA_SM"] = "80";
    expect(openDriver()).toMatchObject({ version: "13.0", devices: 2 });
    expect(gpuVerdict()).toEqual({ ok: true });
    const device = openDevice(1);
    expect(device.properties.name).toBe("Fake GPU 1");
    expect(device.arch).toBe("sm_80");
    expect(openDevice(1)).toBe(device);
    for (const odd of [2, -1, 0.5])
      expect(() => openDevice(odd)).toThrow(
        `P2103 there is no usable NVIDIA GPU: GPU ${odd} was asked for, the driver shows 2. Use a number from 0 to 1.`,
      );
    expect(listDevices().map((d) => d.name)).toEqual(["Fake GPU 0", "Fake GPU 1"]);
    expect(await fact("GPU driver")).toMatchObject({ ok: true, detail: expect.stringMatching(/^CUDA 13\.0, .*libcuda\.so\.1$/) });
    expect((await fact("GPU"))?.detail).toBe(
      "Fake GPU 0 (sm_80, 4 multiprocessors, 1.0 GiB), Fake GPU 1 (sm_80, 4 multiprocessors, 1.0 GiB)",
    );
  });
  it("P2103 for a driver that lacks a function", async () => {
    // The addon keeps the driver it has: another process meets the old one.
    const old = useFakeDriver({}, ["OLD_DRIVER"]);
    expect(old).toBeUndefined();
    const code = `const a = require(process.argv[1]);
      for (let i = 0; i < 2; i++) try { a.open([process.env.PARTITA_CUDA_DRIVER]); } catch (e) { console.log(e.call, e.missing, e.message.includes("has no")); }
      try { a.deviceInfo(0); } catch (e) { console.log(e.message); }`;
    const path = (await fact("CUDA addon"))?.detail ?? "";
    expect(execFileSync(process.execPath, ["-e", code, path], { encoding: "utf8" })).toBe(
      "dlsym cuTensorMapEncodeTiled true\ndlsym cuTensorMapEncodeTiled true\nopen has not succeeded\n",
    );
  });
});

describe("errors of the driver become coded ones", () => {
  const failure = (status: number): Error =>
    Object.assign(new Error(`cuX: status ${status}`), { call: "cuX", status, native: `status ${status}` });
  it.each([
    [2, "P2105"],
    [1, "P2105"],
    [700, "P2105"],
    [200, "P2109"],
    [209, "P2109"],
    [500, "P2109"],
  ])("status %i is %s", (status, code) => {
    const error = gpuError(failure(status), "doing it");
    expect((error as PartitaError).code).toBe(code);
    expect(error.message).toContain(`doing it failed: cuX: status ${status}`);
    expect(isFault(error as PartitaError)).toBe(status === 700);
  });
  it("memory tells what was asked for, and other errors stay what they are", () => {
    expect(gpuError(failure(2), "a buffer", { bytes: 3 << 20, free: 1 << 20 }).message).toBe(
      "P2104 a buffer needs 3.0 MiB, the GPU has 1.0 MiB free. Free memory on the GPU, use a smaller batch, or open fewer streams.",
    );
    expect(gpuError(failure(2), "a buffer", { bytes: 300, free: undefined }).message).toContain(
      "a buffer needs 300 bytes, which the GPU cannot give",
    );
    const odd = new TypeError("grid must be an array");
    expect(gpuError(odd, "doing it")).toBe(odd);
    expect(nativeFailure(odd)).toBeUndefined();
    expect(gpuError("text", "doing it")).toBeInstanceOf(Error);
  });
});
