/** Energy of a GPU, from NVML: its counter where it has one (Volta on), else its power, sampled. Also why there is no figure. */
import { PartitaError } from "../diagnostics.js";
import { openDevice } from "../engines/cuda/device.js";
import type { Environment } from "../engines/cuda/libraries.js";
import { type NativeAddon, native } from "../engines/cuda/native.js";

/** NVML by the names it goes by; PARTITA_NVML names one outright. */
export const nvmlLibraries = (env: Environment = process.env): readonly string[] =>
  env["PARTITA_NVML"] !== undefined && env["PARTITA_NVML"] !== ""
    ? [env["PARTITA_NVML"]]
    : ["libnvidia-ml.so.1", "libnvidia-ml.so", "/usr/lib/wsl/lib/libnvidia-ml.so.1"];

/** Milliseconds between samples of power. */
const SAMPLE_MS = 20;

export interface EnergyMeter {
  /** How the figure is found. */
  readonly how: string;
  /** Begins; the function it gives ends it and tells the joules since. */
  start(): () => number;
}

/** A meter of one GPU, or why there is none. */
export function energyMeter(ordinal = 0): EnergyMeter | { readonly missing: string } {
  try {
    const { addon } = native();
    const { bus } = openDevice(ordinal).properties;
    if (bus === undefined) return { missing: "the driver does not tell the GPU's PCI address" };
    addon.nvmlOpen(nvmlLibraries());
    const { energyMillijoules, powerMilliwatts, refused } = addon.nvmlRead(bus);
    if (energyMillijoules !== undefined) return counter(addon, bus);
    if (powerMilliwatts !== undefined) return sampler(addon, bus);
    return { missing: `NVML: ${refused["energyMillijoules"] ?? ""}; power: ${refused["powerMilliwatts"] ?? ""}` };
  } catch (error) {
    if (error instanceof PartitaError) return { missing: error.why ?? error.what };
    if (error instanceof Error && "native" in error) return { missing: `NVML: ${String(error.native)}` };
    throw error;
  }
}

function counter(addon: NativeAddon, bus: string): EnergyMeter {
  const read = (): number => addon.nvmlRead(bus).energyMillijoules ?? Number.NaN;
  return {
    how: "NVML's energy counter",
    start() {
      const from = read();
      return () => (read() - from) / 1000;
    },
  };
}

function sampler(addon: NativeAddon, bus: string): EnergyMeter {
  const read = (): number => (addon.nvmlRead(bus).powerMilliwatts ?? Number.NaN) / 1000;
  return {
    how: `NVML's power, sampled every ${SAMPLE_MS} ms`,
    start() {
      let [joules, watts, at] = [0, read(), performance.now()];
      const sample = (): void => {
        const [power, now] = [read(), performance.now()];
        joules += (((watts + power) / 2) * (now - at)) / 1000;
        [watts, at] = [power, now];
      };
      const timer = setInterval(sample, SAMPLE_MS);
      return () => {
        clearInterval(timer);
        sample();
        return joules;
      };
    },
  };
}
