/**
 * What the CUDA engine emits is source that a CUDA compiler accepts for every generation of GPUs, in kernels that fit them: registers, shared and local
 * memory are read from the cubins. Right values are shown on a GPU (test/gpu).
 */
import { describe, expect, it } from "vitest";
import { compileSource } from "../../src/engines/cuda/compiler.js";
import { inspectCubin } from "../../src/engines/cuda/cubin.js";
import { type LowerOptions, lower } from "../../src/engines/cuda/lower.js";
import { a100, type DeviceModel, h200 } from "../../src/engines/cuda/templates/index.js";
import type { Graph } from "../../src/ir/types.js";
import { compilerMissing, needsCompiler } from "../support/cuda.js";
import { attentions, cachedAttentions, convolutions, matrices, recurrences } from "../support/cuda-cases.js";
import { emittedSamples } from "../support/emitted.js";

/** Most shared memory of a block with opt-in, bytes (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"). */
const shared: Readonly<Record<string, number>> = { sm_80: 163 * 1024, sm_90a: 227 * 1024, sm_120: 99 * 1024 };
const REGISTERS = 65_536;

const devices: Readonly<Record<string, DeviceModel>> = {
  sm_80: a100,
  sm_90a: h200,
  sm_120: { ...a100, arch: "sm_120", sharedPerBlock: 99 * 1024 },
};

describe.skipIf(compilerMissing !== undefined)(needsCompiler("emitted sources compile"), () => {
  const samples: readonly { readonly title: string; readonly graph: Graph }[] = emittedSamples();
  const sized = [...matrices(), ...convolutions(), ...attentions(), ...cachedAttentions(), ...recurrences()];
  it(`covers many operators: ${samples.length} samples`, () => {
    expect(new Set(samples.map((s) => s.title.split(":")[0])).size).toBeGreaterThan(125);
  });

  async function check(graphs: typeof samples, options: LowerOptions): Promise<readonly string[]> {
    const { arch } = options.device;
    const wrong: string[] = [];
    const queue = [...graphs];
    const known = new Map<string, Promise<Uint8Array>>();
    const compile = (source: string, name: string): Promise<Uint8Array> => {
      const made = known.get(source) ?? compileSource(source, arch, { name, cache: false }).then((c) => c.cubin);
      known.set(source, made);
      return made;
    };
    const worker = async (): Promise<void> => {
      for (let s = queue.shift(); s !== undefined; s = queue.shift()) {
        try {
          const { plan } = lower(s.graph, options);
          const launches = new Map(plan.operations.flatMap((o) => (o.kind === "launch" ? [[o.launch.kernel, o.launch] as const] : [])));
          for (const { source, kernels } of plan.sources) {
            const { sm, kernels: made } = inspectCubin(await compile(source, kernels[0] ?? "kernels"));
            if (!arch.startsWith(`sm_${sm}`)) wrong.push(`${s.title}: a cubin for sm_${sm}`);
            for (const k of made) {
              const launch = launches.get(k.name);
              if (launch === undefined) continue;
              const threads = launch.block.reduce((a, b) => a * b, 1);
              // Registers are given out in units of 8 a thread, to whole warps.
              const registers = Math.ceil(k.registers / 8) * 8 * Math.ceil(threads / 32) * 32;
              if (registers > REGISTERS) wrong.push(`${s.title}: ${k.name} wants ${registers} registers a block`);
              if (k.sharedBytes + launch.shared > (shared[arch] ?? 0))
                wrong.push(`${s.title}: ${k.name} wants ${k.sharedBytes + launch.shared} bytes of shared memory`);
              // Arrays of a few words may be indexed at run time; what does not fit registers would take more.
              if (k.localBytes > 256) wrong.push(`${s.title}: ${k.name} keeps ${k.localBytes} bytes a thread in local memory`);
            }
          }
        } catch (error) {
          wrong.push(`${s.title}: ${error instanceof Error ? error.message : error}`);
        }
      }
    };
    await Promise.all([worker(), worker(), worker()]);
    return wrong;
  }

  it.each([
    ["sm_80", "fp16"],
    ["sm_80", "tf32"],
    ["sm_90a", "fp32"],
    ["sm_90a", "fp16"],
    ["sm_120", "bf16"],
  ] as const)("%s, %s: samples and awkward sizes", async (arch, precision) => {
    const wrong = await check([...samples, ...sized], { precision, device: devices[arch] as DeviceModel });
    expect(wrong.slice(0, 20)).toEqual([]);
  });
});
