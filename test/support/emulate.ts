/**
 * Kernels on the CPU: the sources of a plan compiled as C++, with threads of a block as fibers that change at barriers. For what needs no matrix units, tensor
 * maps or clusters: loops, FFMA products, depthwise convolutions, attention in float32, recurrent layers. Scratch memory starts as NaN.
 */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { portType } from "../../src/engines/cuda/check.js";
import type { Arg, KernelPlan, Launch } from "../../src/engines/cuda/plan.js";
import { Tensor, type TensorLike, typedArrayOf } from "../../src/tensor.js";

const run = promisify(execFile);
/** Why nothing is emulated here, or undefined. */
export const emulationMissing: string | undefined = await run("c++", ["--version"]).then(
  () => undefined,
  () => "there is no c++",
);

/** What a kernel uses that no CPU has. */
export class NotEmulated extends Error {}

/** Instructions that the kernels write as PTX, as functions of their outputs and inputs; others end the program. */
const INSTRUCTIONS: ReadonlySet<string> = new Set([
  "cvt.f32.f16",
  "cvt.rn.f16.f32",
  "cvt.rn.bf16.f32",
  "max.NaN.f32",
  "rcp.approx.ftz.f32",
  "ex2.approx.ftz.f32",
  "cp.async.commit_group",
  "cp.async.wait_group",
  "cp.async.ca.shared.global",
  "cp.async.cg.shared.global.L2::128B",
  "st.shared.f32",
]);

/** The C++ of a translation unit. */
function translated(source: string): string {
  let [out, at] = ["", 0];
  for (const m of source.matchAll(/\basm\s*(?:volatile)?\s*\(/g)) {
    if (m.index < at) continue;
    let [depth, quoted, end] = [1, false, m.index + m[0].length];
    for (; depth > 0; end++) {
      const c = source[end];
      if (c === '"' && source[end - 1] !== "\\") quoted = !quoted;
      else if (!quoted && c === "(") depth++;
      else if (!quoted && c === ")") depth--;
    }
    out += source.slice(at, m.index) + instruction(source.slice(m.index + m[0].length, end - 1));
    at = end;
  }
  return (out + source.slice(at)).replace(
    /extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];/g,
    "$1* const $2 = reinterpret_cast<$1*>(dynamic_shared);",
  );
}
/** One statement: text of the instruction, then its operands behind colons. */
function instruction(text: string): string {
  const [words = ""] = /^\s*(?:"(?:[^"\\]|\\.)*"\s*)+/.exec(text) ?? [];
  const name = /"([\w.:]+)/.exec(words)?.[1] ?? "";
  if (!INSTRUCTIONS.has(name)) return `unknown_instruction("${name}")`;
  const rest = text.slice(words.length);
  const operands = [...rest.matchAll(/"[=+]?[a-z]"\s*\(/g)].map((m) => {
    const from = m.index + m[0].length;
    let [depth, end] = [1, from];
    for (; depth > 0; end++) depth += rest[end] === "(" ? 1 : rest[end] === ")" ? -1 : 0;
    return rest.slice(from, end - 1);
  });
  return `ptx_${name.replace(/\W+/g, "_")}(${operands.join(", ")})`;
}

const PRELUDE = String.raw`
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <unistd.h>
#include <vector>
struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static
#define __grid_constant__
#define __CUDA_ARCH__ 800
alignas(1024) static char dynamic_shared[256 << 10];
[[noreturn]] static void unknown_instruction(const char* name) { fprintf(stderr, "not emulated: %s\n", name); _exit(42); }

// Threads of a block.
struct Fiber { ucontext_t context; dim3 thread; bool ended; long barriers, meetings; std::vector<char> stack; };
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static size_t running;
static int alive;
static void pause_fiber() { Fiber& f = fibers[running]; swapcontext(&f.context, &scheduler); }
static void __syncthreads() {
  const long mine = ++fibers[running].barriers;
  for (;;) {
    bool all = true;
    for (const Fiber& f : fibers) if (!f.ended && f.barriers < mine) { all = false; break; }
    if (all) return;
    pause_fiber();
  }
}
static void __syncwarp(unsigned = ~0u) {
  const long mine = ++fibers[running].meetings;
  const size_t first = running & ~31ul, last = std::min(first + 32, fibers.size());
  for (;;) {
    bool all = true;
    for (size_t i = first; i < last; i++) if (!fibers[i].ended && fibers[i].meetings < mine) { all = false; break; }
    if (all) return;
    pause_fiber();
  }
}
static uint64_t lanes[1024];
template <class T> static T shuffled(T x, size_t from) {
  memcpy(&lanes[running], &x, sizeof x);
  __syncwarp();
  T y;
  memcpy(&y, &lanes[from < fibers.size() ? from : running], sizeof y);
  __syncwarp();
  return y;
}
template <class T> static T __shfl_xor_sync(unsigned, T x, int mask, int = 32) { return shuffled(x, (running & ~31ul) + ((running & 31) ^ mask)); }
template <class T> static T __shfl_sync(unsigned, T x, int lane, int width = 32) {
  return shuffled(x, (running & ~31ul) + ((running & 31) & ~(width - 1)) + (lane & (width - 1)));
}
template <class T> static T __shfl_down_sync(unsigned, T x, int by, int = 32) {
  return shuffled(x, (running & 31) + by < 32 ? running + by : running);
}
template <class T> static T __shfl_up_sync(unsigned, T x, int by, int = 32) { return shuffled(x, (int)(running & 31) - by >= 0 ? running - by : running); }

template <class T, class F> static T bits_as(F x) { T y; static_assert(sizeof x == sizeof y, ""); memcpy(&y, &x, sizeof y); return y; }
static float __uint_as_float(unsigned x) { return bits_as<float>(x); }
static float __int_as_float(int x) { return bits_as<float>(x); }
static unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
static int __float_as_int(float x) { return bits_as<int>(x); }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fmul_rn(float a, float b) { return a * b; }
static float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static float __fdividef(float a, float b) { return a / b; }
#define __expf expf
#define __logf logf
static float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static float __frcp_rn(float x) { return 1.0f / x; }
static float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
static int __float2int_rn(float x) { return (int)rintf(x); }
static unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  const uint64_t both = (uint64_t)b << 32 | a;
  unsigned y = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned n = s >> 4 * i & 15, byte = both >> 8 * (n & 7) & 255;
    y |= (n & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
  }
  return y;
}
template <class A, class B> static auto min(A a, B b) { return a < b ? a : b; }
template <class A, class B> static auto max(A a, B b) { return a > b ? a : b; }
template <class T> static T __ldg(const T* p) { return *p; }
static size_t __cvta_generic_to_shared(const void* p) { return (size_t)p; }

static float half_bits(unsigned short h) {
  const unsigned sign = (unsigned)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
  if (e == 0) return (sign ? -1.0f : 1.0f) * ldexpf((float)m, -24);
  return __uint_as_float(sign | (e == 31 ? 0x7f800000u | m << 13 : (e + 112) << 23 | m << 13));
}
static unsigned short to_half(float f) {
  const unsigned x = __float_as_uint(f), sign = x >> 16 & 0x8000;
  const float a = fabsf(f);
  if (f != f) return 0x7fff;
  if (a >= 65520.0f) return sign | 0x7c00;
  if (a < 6.103515625e-5f) return sign | (unsigned short)rintf(ldexpf(a, 24));
  const unsigned y = (x & 0x7fffffff) - (112u << 23);
  return sign | (y + 0xfff + (y >> 13 & 1)) >> 13;
}
static void ptx_cvt_f32_f16(float& y, unsigned short x) { y = half_bits(x); }
static void ptx_cvt_rn_f16_f32(unsigned short& y, float x) { y = to_half(x); }
static void ptx_cvt_rn_bf16_f32(unsigned short& y, float x) {
  const unsigned b = __float_as_uint(x);
  y = x != x ? 0x7fff : (b + 0x7fff + (b >> 16 & 1)) >> 16;
}
static void ptx_max_NaN_f32(float& y, float x) { y = x != x ? x : x > 0 ? x : 0.0f; }
static void ptx_rcp_approx_ftz_f32(float& y, float x) { y = 1.0f / x; }
static void ptx_ex2_approx_ftz_f32(float& y, float x) { y = exp2f(x); }
static void ptx_cp_async_commit_group() {}
static void ptx_cp_async_wait_group(int) {}
static void ptx_cp_async_ca_shared_global(unsigned to, const void* from, int size, int bytes) {
  memset((void*)(size_t)to, 0, size);
  if (bytes > 0) memcpy((void*)(size_t)to, from, bytes);
}
static void ptx_cp_async_cg_shared_global_L2_128B(unsigned to, const void* from, int bytes) { ptx_cp_async_ca_shared_global(to, from, 16, bytes); }
static void ptx_st_shared_f32(unsigned to, float x) { memcpy((void*)(size_t)to, &x, 4); }

struct Address { char* at; template <class T> operator T*() const { return (T*)at; } };
template <class Kernel> static void enter(unsigned low, unsigned high) {
  (*(Kernel*)((uint64_t)high << 32 | low))();
  fibers[running].ended = true;
  alive--;
  pause_fiber();
}
template <class Kernel> static void launch(dim3 grid, dim3 block, bool meets, Kernel kernel) {
  gridDim = grid; blockDim = block;
  for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++) for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++) for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
    if (!meets) {
      for (threadIdx.z = 0; threadIdx.z < block.z; threadIdx.z++) for (threadIdx.y = 0; threadIdx.y < block.y; threadIdx.y++)
        for (threadIdx.x = 0; threadIdx.x < block.x; threadIdx.x++) kernel();
      continue;
    }
    fibers.resize(block.x * block.y * block.z);
    alive = fibers.size();
    for (size_t i = 0; i < fibers.size(); i++) {
      Fiber& f = fibers[i];
      f.thread = {(unsigned)i % block.x, (unsigned)i / block.x % block.y, (unsigned)i / (block.x * block.y)};
      f.ended = false; f.barriers = f.meetings = 0;
      f.stack.resize(64 << 10);
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = f.stack.data();
      f.context.uc_stack.ss_size = f.stack.size();
      f.context.uc_link = nullptr;
      makecontext(&f.context, (void (*)())enter<Kernel>, 2, (unsigned)(size_t)&kernel, (unsigned)((uint64_t)&kernel >> 32));
    }
    while (alive > 0) for (size_t i = 0; i < fibers.size(); i++) if (!fibers[i].ended) {
      running = i;
      threadIdx = fibers[i].thread;
      swapcontext(&scheduler, &fibers[i].context);
    }
  }
}
static char* filled(size_t bytes, int with) { char* p = (char*)aligned_alloc(256, (bytes + 511) / 256 * 256); memset(p, with, (bytes + 511) / 256 * 256); return p; }
static void take(FILE* f, char* to, size_t bytes) { if (bytes > 0 && fread(to, 1, bytes, f) != bytes) exit(43); }
`;

const dim = ([x, y, z]: Launch["grid"]): string => `{${x}u, ${y}u, ${z}u}`;
function argument(a: Arg): string {
  if (a.kind === "buffer") return `Address{b[${a.buffer}] + ${a.offset}}`;
  if (a.kind === "tensorMap") throw new NotEmulated("tensor maps");
  return a.kind === "i32" ? String(a.value) : `bits_as<float>(${new Int32Array(Float32Array.of(a.value).buffer)[0]})`;
}
function program(plan: KernelPlan): string {
  const unit = new Map(plan.sources.flatMap((s, i) => s.kernels.map((k) => [k, i] as const)));
  const meets = plan.sources.map((s) => /__sync|__shfl/.test(s.source));
  const steps = plan.operations.map((o) => {
    if (o.kind === "clear") return `memset(b[${o.buffer}] + ${o.offset}, 0, ${o.bytes});`;
    const { kernel, grid, block, args, cluster } = o.launch;
    if (cluster?.some((c) => c > 1) === true) throw new NotEmulated("clusters");
    const u = unit.get(kernel) ?? 0;
    return `launch(${dim(grid)}, ${dim(block)}, ${meets[u]}, [&] { u${u}::${kernel}(${args.map(argument).join(", ")}); });`;
  });
  const buffers = plan.buffers.map((x, i) =>
    x.kind === "weights" || x.kind === "arena" ? `b[${i}] = ${x.kind} + ${x.offset};` : `b[${i}] = filled(${x.bytes}, 0xff);`,
  );
  return [
    PRELUDE,
    ...plan.sources.map((s, i) => {
      const spaces = new Set([...s.source.matchAll(/^namespace (\w+) \{/gm)].map((m) => `using namespace ${m[1]};`));
      return `namespace u${i} {\n${translated(s.source)}\n${[...spaces].join(" ")}\n}`;
    }),
    "int main(int, char** names) {",
    `char *weights = filled(${plan.weightsBytes}, 0), *arena = filled(${plan.arenaBytes}, 0xff), *b[${plan.buffers.length + 1}];`,
    ...buffers,
    `FILE* in = fopen(names[1], "rb"); take(in, weights, ${plan.weightsBytes});`,
    ...plan.inputs.map((p) => `take(in, b[${p.buffer}], ${bytesOf(p)});`),
    ...steps,
    'FILE* out = fopen(names[2], "wb");',
    ...plan.outputs.map((p) => `fwrite(b[${p.buffer}], 1, ${bytesOf(p)}, out);`),
    "fclose(out); return 0; }",
  ].join("\n");
}
const count = (dims: readonly number[]): number => dims.reduce((a, d) => a * d, 1);
const bytesOf = (p: KernelPlan["inputs"][number]): number => count(p.dims) * typedArrayOf(portType(p)).BYTES_PER_ELEMENT;

/** What a plan makes of its inputs, in the order of its ports. Throws `NotEmulated`. */
export async function emulate(plan: KernelPlan, weights: Uint8Array, inputs: readonly TensorLike[]): Promise<readonly Tensor[]> {
  const text = program(plan);
  const folder = await mkdtemp(join(tmpdir(), "partita-emulated-"));
  try {
    const at = (name: string): string => join(folder, name);
    await writeFile(at("kernels.cc"), text);
    const bytes = (t: TensorLike): Uint8Array => {
      const a = t.data as Float32Array;
      return new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
    };
    const padded = new Uint8Array(plan.weightsBytes);
    padded.set(weights.subarray(0, plan.weightsBytes));
    await writeFile(at("in"), Buffer.concat([padded, ...inputs.map(bytes)]));
    // Addresses of shared memory are 32 bits wide: static data of a program without a random base is low enough.
    await run(
      "c++",
      ["-std=c++17", "-O1", "-w", "-no-pie", "-fno-strict-aliasing", "-ffp-contract=off", "-o", at("kernels"), at("kernels.cc")],
      {
        maxBuffer: 1 << 26,
      },
    );
    await run(at("kernels"), [at("in"), at("out")]).catch((error: { readonly code?: unknown; readonly stderr?: string }) => {
      if (error.code === 42) throw new NotEmulated(String(error.stderr).trim());
      throw error;
    });
    const found = await readFile(at("out"));
    let from = 0;
    return plan.outputs.map((p) => {
      const own = Uint8Array.from(found.subarray(from, (from += bytesOf(p))));
      return new Tensor(portType(p), new (typedArrayOf(portType(p)))(own.buffer as never) as never, p.dims);
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
