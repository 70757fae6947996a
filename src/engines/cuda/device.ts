/** The GPU: the driver and a device opened through the addon, memory and modules with coded errors, and what `doctor` says of them. */
import { no, PartitaError, type Verdict, yes } from "../../diagnostics.js";
import { inspectCubin } from "./cubin.js";
import { badCubin, gpuError, nativeFailure, noGpu, otherArch } from "./errors.js";
import { driverLibraries } from "./libraries.js";
import {
  type AnyHandle,
  type ContextHandle,
  type DeviceProperties,
  type MemoryHandle,
  type ModuleHandle,
  type NativeAddon,
  native,
  type PinnedHandle,
} from "./native.js";

export interface DriverInfo {
  /** CUDA version the driver speaks, "13.0". */
  readonly version: string;
  readonly devices: number;
  readonly library: string;
}

/** CUDA_ERROR_NO_DEVICE. */
const NO_DEVICE = 100;
const versionText = (v: number): string => `${Math.floor(v / 1000)}.${Math.floor((v % 1000) / 10)}`;

/** Opens the driver. Throws P2102 without the addon, P2103 when there is no driver, an old one, or no GPU. */
export function openDriver(): DriverInfo {
  const { addon } = native();
  try {
    const { version, devices, library } = addon.open(driverLibraries());
    if (devices === 0) throw noGpu({ why: "the driver shows no device", fix: "check CUDA_VISIBLE_DEVICES and nvidia-smi" });
    return { version: versionText(version), devices, library };
  } catch (error) {
    const failure = nativeFailure(error);
    if (failure === undefined) throw error;
    if (failure.call === "dlopen")
      throw noGpu(
        { why: failure.native, fix: "install NVIDIA's driver (it brings libcuda.so.1), or compile with --target host" },
        {},
        error,
      );
    if (failure.call === "dlsym")
      throw noGpu({ why: `the driver is too old: ${failure.native}`, fix: "install a driver for CUDA 12 or later" }, {}, error);
    if (failure.status === NO_DEVICE) throw noGpu({ why: failure.message, fix: "check CUDA_VISIBLE_DEVICES and nvidia-smi" }, {}, error);
    throw noGpu({ why: failure.message, fix: "check that nvidia-smi works; a new driver wants a restart" }, {}, error);
  }
}

/** One GPU's primary context. It stays open for the life of the process: opening one takes longer than most runs. */
export class Device {
  readonly ordinal: number;
  readonly driver: DriverInfo;
  readonly properties: DeviceProperties;
  readonly context: ContextHandle;
  readonly addon: NativeAddon;
  /** Runs of this thread's on the GPU. */
  underWay = 0;

  constructor(ordinal: number, driver: DriverInfo, addon: NativeAddon) {
    this.ordinal = ordinal;
    this.driver = driver;
    this.addon = addon;
    try {
      this.properties = addon.deviceInfo(ordinal);
      this.context = addon.contextCreate(ordinal);
    } catch (error) {
      throw gpuError(error, `opening GPU ${ordinal}`);
    }
  }

  /** The architecture to compile for, with the features of this GPU alone where it has such: "sm_80", "sm_90a". */
  get arch(): string {
    const { sm } = this.properties;
    return `sm_${sm}${sm >= 90 ? "a" : ""}`;
  }
  get freeBytes(): number | undefined {
    try {
      return this.addon.memoryInfo(this.context).freeBytes;
    } catch {
      return undefined;
    }
  }

  /** Device memory; `what` names it in the error. Throws P2104. */
  allocate(what: string, bytes: number): MemoryHandle {
    return this.#memory(what, bytes, () => this.addon.memAlloc(this.context, bytes));
  }
  /** Pinned host memory. Throws P2104. */
  pin(what: string, bytes: number): { readonly handle: PinnedHandle; readonly buffer: ArrayBuffer } {
    return this.#memory(what, bytes, () => this.addon.hostAlloc(this.context, bytes));
  }
  #memory<T>(what: string, bytes: number, allocate: () => T): T {
    try {
      return allocate();
    } catch (error) {
      throw gpuError(error, what, { bytes, free: this.freeBytes });
    }
  }

  /** A module of kernels, after it was found whole and of this GPU's kind. Throws P2109, P2110. */
  load(cubin: Uint8Array, kernels: readonly string[]): ModuleHandle {
    const info = inspectCubin(cubin);
    const { sm } = this.properties;
    // Machine code runs on later minor versions of its major version.
    if (Math.floor(info.sm / 10) !== Math.floor(sm / 10) || info.sm > sm) throw otherArch({ built: `sm_${info.sm}`, device: this.arch });
    for (const name of kernels)
      if (!info.kernels.some((k) => k.name === name)) throw badCubin({ what: `a compiled source lacks its kernel '${name}'` });
    try {
      return this.addon.moduleLoad(this.context, cubin);
    } catch (error) {
      throw gpuError(error, "loading compiled kernels");
    }
  }
}

const devices = new Map<number, Device>();

/** The GPU with that number among the visible ones. Throws P2102, P2103, P2105. */
export function openDevice(ordinal = 0): Device {
  const open = devices.get(ordinal);
  if (open !== undefined) return open;
  const driver = openDriver();
  if (!Number.isInteger(ordinal) || ordinal < 0 || ordinal >= driver.devices)
    throw noGpu({
      why: `GPU ${ordinal} was asked for, the driver shows ${driver.devices}`,
      fix: `use a number from 0 to ${driver.devices - 1}`,
    });
  const device = new Device(ordinal, driver, native().addon);
  devices.set(ordinal, device);
  return device;
}

/** Handles to release together, last first. */
export class Owned {
  readonly #addon: NativeAddon;
  #handles: AnyHandle[] = [];

  constructor(addon: NativeAddon) {
    this.#addon = addon;
  }
  own<H extends AnyHandle>(handle: H): H {
    this.#handles.push(handle);
    return handle;
  }
  /** Releases one before the rest. */
  drop(handle: AnyHandle): void {
    this.#handles = this.#handles.filter((h) => h !== handle);
    this.#addon.release(handle);
  }
  /** Releases everything, whatever fails on the way; gives back the first failure. */
  release(): unknown {
    let failure: unknown;
    for (const h of this.#handles.reverse())
      try {
        this.#addon.release(h);
      } catch (error) {
        failure ??= error;
      }
    this.#handles = [];
    return failure;
  }
}

/** Of the places that were looked in, joined by "; ", the first and most usual one: enough for a verdict; `doctor` names them all. */
export const firstPlace = (reasons: string): string => reasons.split("; ")[0] as string;

/** Whether this process can run kernels, and what is missing otherwise. */
export function gpuVerdict(): Verdict {
  try {
    openDriver();
    return yes;
  } catch (error) {
    if (error instanceof PartitaError) return no(firstPlace(error.why ?? error.what), error.fix);
    throw error;
  }
}

/** The visible GPUs, for reports. Throws as `openDriver`. */
export function listDevices(): readonly DeviceProperties[] {
  const { devices: count } = openDriver();
  const { addon } = native();
  return Array.from({ length: count }, (_, i) => addon.deviceInfo(i));
}
