/** The addon's TensorRT functions given whatever: an Error, or a promise that settles; never the end of the process. */
import { expect, it } from "vitest";
import { addon } from "../../../src/engines/tensorrt/addon.js";
import { useFakeDriver } from "../../support/fake-cuda.js";
import { compileStandIn } from "../../support/fake-tensorrt.js";
import { Gpu } from "../../support/tensorrt-gpu.js";
import { layer } from "../../support/tensorrt-models.js";

const missing = useFakeDriver();
const made = missing === undefined ? compileStandIn("11") : missing;

it.skipIf(typeof made === "string")(`odd arguments${typeof made === "string" ? ` (skipped: ${made})` : ""}`, async () => {
  if (typeof made === "string") return;
  const { tensorrt, release, live } = addon();
  const functions = Object.entries(tensorrt) as unknown as readonly (readonly [string, (...args: unknown[]) => unknown])[];
  expect(functions.map(([name]) => name).sort()).toEqual(
    [
      "bind",
      "build",
      "capture",
      "contextCreate",
      "deserialize",
      "inspect",
      "open",
      "outputDims",
      "range",
      "refit",
      "refittable",
      "rest",
      "run",
      "supports",
    ].sort(),
  );
  const odd: readonly unknown[] = [
    ...[undefined, null, -1, 1.5, Number.NaN, 1e300, "text", {}, [], [[1, 2, 3]], [{}], new Uint8Array(4), 7n, () => 1, Symbol("s")],
  ];
  // Nothing is opened yet: every number is wrong.
  for (const [name, f] of functions) {
    expect(() => f(), name).toThrow(Error);
    for (const a of [...odd, 0, 1]) for (const b of odd) expect(() => f(a, b, a, b, a, b), name).toThrow(Error);
  }
  const { id } = tensorrt.open(made.library, made.parser);
  expect(() => tensorrt.build(id, layer(), { stronglyTyped: true }, undefined)).toThrow(
    "expected an opened and bound TensorRT library, got 0",
  );
  expect(() => tensorrt.bind(id, "12")).toThrow("there is no family of TensorRT versions called '12'");
  tensorrt.bind(id, "11");
  expect(() => tensorrt.bind(id, "10")).toThrow(TypeError);
  const gpu = new Gpu();
  const profiles = [[{ name: "x", min: [1, 3], opt: [4, 3], max: [8, 3] }]];
  const { plan } = await tensorrt.build(id, layer(), { stronglyTyped: true, profiles }, undefined).promise;
  const { handle: engine } = await tensorrt.deserialize(id, plan, gpu.context, false);
  const context = await tensorrt.contextCreate(engine, 0);
  const [stream, memory] = [gpu.stream(), gpu.memory(24)];
  const before = live();
  const good: readonly unknown[] = [id, engine, context, stream, memory, gpu.context, plan, layer()];
  const heads = [...good.map((a) => [a]), ...good.flatMap((a) => good.map((b) => [a, b]))];
  let settled = 0;
  for (const [name, f] of functions.filter(([n]) => n !== "open" && n !== "contextCreate" && n !== "deserialize"))
    for (const head of heads)
      for (const a of odd) {
        try {
          const result = f(...head, a, a, a, a);
          const promise = name === "build" ? (result as { promise: Promise<unknown> }).promise : result;
          await promise;
          settled++;
        } catch (error) {
          expect(error, name).toBeInstanceOf(Error);
        }
      }
  expect(settled).toBeGreaterThan(0);
  expect(live()).toEqual(before);
  for (const h of [context, engine, stream, memory]) release(h);
});
