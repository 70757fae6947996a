/** Before the suites: no notes. After them: kernels/ledger.json says what ran here; a copy goes to the folder that OUT names. */
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { gpuVerdict, openDevice } from "../../src/engines/cuda/device.js";
import { forgetNotes, ledgerFile, renew } from "../support/ledger.js";

function driverVersion(): string {
  try {
    return (
      execFileSync("nvidia-smi", ["--query-gpu=driver_version", "--format=csv,noheader"], { encoding: "utf8" }).trim().split("\n", 1)[0] ??
      ""
    );
  } catch {
    return openDevice().driver.version;
  }
}

export default function setup(): () => void {
  mkdirSync(join(import.meta.dirname, "../../.cache"), { recursive: true });
  forgetNotes();
  return () => {
    if (!gpuVerdict().ok) return;
    renew({ gpu: openDevice().properties.name, driver: driverVersion(), date: new Date().toISOString().slice(0, 10) });
    const out = process.env["OUT"];
    if (out !== undefined) copyFileSync(ledgerFile, join(out, "ledger.json"));
  };
}
