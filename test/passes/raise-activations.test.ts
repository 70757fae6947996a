import { describe, expect, it } from "vitest";
import { numberToHalf } from "../../src/ir/numeric.js";
import { raiseActivations as raise } from "../../src/passes/raise/activations.js";
import { graph, leaves, raisesTo } from "./support.js";

const consts: Readonly<Record<string, number>> = {
  half: 0.5,
  one: 1,
  two: 2,
  three: 3,
  six: 6,
  zero: 0,
  sixth: 1 / 6,
  root2: Math.SQRT2,
  invroot2: Math.SQRT1_2,
  neginvroot2: -Math.SQRT1_2,
  k: 0.044715,
  c: Math.sqrt(2 / Math.PI),
  ck: Math.sqrt(2 / Math.PI) * 0.044715,
  quick: 1.702,
  slope: 0.2,
};
/** The body with the named constants it uses, as scalars of the element type. */
function expression(dtype: "float32" | "float16", dims: string, lines: readonly string[]): string {
  const used = Object.entries(consts).filter(([name]) => lines.some((l) => new RegExp(`%${name}\\b`).test(l)));
  const written = used.map(([name, x]) => {
    if (dtype === "float32") return `const %${name} = float32[] [${Number.isInteger(x) ? `${x}.0` : Math.fround(x)}]`;
    const bits = numberToHalf(x);
    return `const %${name} = float16[] hex "${Buffer.from(Uint16Array.of(bits).buffer).toString("hex")}"`;
  });
  return graph(`%x: ${dtype}[${dims}]`, "%y", ...written, ...lines);
}

const forms: readonly (readonly [title: string, op: string, lines: readonly string[]])[] = [
  ["GELU, PyTorch", "Gelu", ["%a = Div(%x, %root2)", "%b = Erf(%a)", "%d = Add(%b, %one)", "%e = Mul(%x, %d)", "%y = Mul(%e, %half)"]],
  ["GELU, TensorFlow", "Gelu", ["%a = Div(%x, %root2)", "%b = Erf(%a)", "%d = Add(%one, %b)", "%e = Mul(%half, %x)", "%y = Mul(%e, %d)"]],
  ["GELU, Keras", "Gelu", ["%a = Mul(%x, %invroot2)", "%b = Erf(%a)", "%d = Add(%b, %one)", "%e = Mul(%d, %half)", "%y = Mul(%e, %x)"]],
  ["GELU, by division", "Gelu", ["%a = Div(%x, %root2)", "%b = Erf(%a)", "%d = Add(%b, %one)", "%e = Mul(%x, %d)", "%y = Div(%e, %two)"]],
  [
    "GELU, distributed",
    "Gelu",
    ["%a = Mul(%x, %invroot2)", "%b = Erf(%a)", "%d = Mul(%b, %half)", "%e = Add(%d, %half)", "%y = Mul(%x, %e)"],
  ],
  [
    "GELU, by erfc",
    "Gelu",
    ["%a = Mul(%x, %neginvroot2)", "%b = Erf(%a)", "%d = Sub(%one, %b)", "%e = Mul(%x, %half)", "%y = Mul(%e, %d)"],
  ],
  [
    "GELU, by erfc of a negation",
    "Gelu",
    ["%n = Neg(%x)", "%a = Mul(%n, %invroot2)", "%b = Erf(%a)", "%d = Sub(%one, %b)", "%e = Mul(%d, %half)", "%y = Mul(%x, %e)"],
  ],
  [
    "GELU by tanh, Hugging Face",
    "Gelu",
    [
      "%h = Mul(%x, %half)",
      "%p = Pow(%x, %three)",
      "%q = Mul(%p, %k)",
      "%r = Add(%x, %q)",
      "%s = Mul(%r, %c)",
      "%t = Tanh(%s)",
      "%u = Add(%t, %one)",
      "%y = Mul(%h, %u)",
    ],
  ],
  [
    "GELU by tanh, products",
    "Gelu",
    [
      "%p = Mul(%x, %x)",
      "%q = Mul(%p, %x)",
      "%r = Mul(%k, %q)",
      "%s = Add(%r, %x)",
      "%t = Mul(%c, %s)",
      "%u = Tanh(%t)",
      "%v = Add(%one, %u)",
      "%w = Mul(%half, %v)",
      "%y = Mul(%x, %w)",
    ],
  ],
  [
    "GELU by tanh, factored",
    "Gelu",
    [
      "%p = Mul(%k, %x)",
      "%q = Mul(%p, %x)",
      "%r = Add(%one, %q)",
      "%s = Mul(%x, %c)",
      "%t = Mul(%s, %r)",
      "%u = Tanh(%t)",
      "%v = Add(%one, %u)",
      "%w = Mul(%x, %v)",
      "%y = Mul(%w, %half)",
    ].map((l) => (l.startsWith("%p") ? "%p = Pow(%x, %two)" : l.startsWith("%q") ? "%q = Mul(%p, %k)" : l)),
  ],
  [
    "GELU by tanh, one polynomial",
    "Gelu",
    [
      "%p = Mul(%x, %x)",
      "%q = Mul(%p, %ck)",
      "%r = Add(%q, %c)",
      "%s = Mul(%x, %r)",
      "%t = Tanh(%s)",
      "%u = Add(%t, %one)",
      "%v = Mul(%x, %half)",
      "%y = Mul(%v, %u)",
    ],
  ],
  ["SiLU", "Swish", ["%s = Sigmoid(%x)", "%y = Mul(%s, %x)"]],
  ["SiLU, spelled out", "Swish", ["%n = Neg(%x)", "%e = Exp(%n)", "%a = Add(%e, %one)", "%y = Div(%x, %a)"]],
  ["SiLU by a reciprocal", "Swish", ["%n = Neg(%x)", "%e = Exp(%n)", "%a = Add(%one, %e)", "%r = Reciprocal(%a)", "%y = Mul(%x, %r)"]],
  ["QuickGELU", "Swish", ["%a = Mul(%x, %quick)", "%s = Sigmoid(%a)", "%y = Mul(%x, %s)"]],
  ["HardSwish, PyTorch", "HardSwish", ["%a = Add(%x, %three)", "%b = Clip(%a, %zero, %six)", "%d = Mul(%x, %b)", "%y = Div(%d, %six)"]],
  ["HardSwish, Keras", "HardSwish", ["%a = Add(%x, %three)", "%b = Clip(%a, %zero, %six)", "%d = Mul(%b, %sixth)", "%y = Mul(%x, %d)"]],
  [
    "HardSwish by Relu and Min",
    "HardSwish",
    ["%a = Add(%three, %x)", "%r = Relu(%a)", "%b = Min(%r, %six)", "%d = Div(%b, %six)", "%y = Mul(%d, %x)"],
  ],
  ["HardSwish by HardSigmoid", "HardSwish", ["%a = HardSigmoid(%x) {alpha = 0.16666667163372, beta = 0.5}", "%y = Mul(%x, %a)"]],
  ["HardSigmoid", "HardSigmoid", ["%a = Add(%x, %three)", "%b = Clip(%a, %zero, %six)", "%y = Div(%b, %six)"]],
  ["Mish", "Mish", ["%a = Softplus(%x)", "%b = Tanh(%a)", "%y = Mul(%x, %b)"]],
  ["Mish, spelled out", "Mish", ["%e = Exp(%x)", "%p = Add(%e, %one)", "%a = Log(%p)", "%b = Tanh(%a)", "%y = Mul(%x, %b)"]],
  ["Softplus", "Softplus", ["%e = Exp(%x)", "%p = Add(%one, %e)", "%y = Log(%p)"]],
  ["LeakyRelu", "LeakyRelu", ["%a = Mul(%x, %slope)", "%y = Max(%a, %x)"]],
];

describe("raise-activations", () => {
  it.each(forms)("%s", async (_, op, lines) => {
    await raisesTo(raise, op, expression("float32", "n, 5, 7", lines));
  });
  it.each(forms.filter(([title]) => !/LeakyRelu|Min/.test(title)))("%s in float16", async (_, op, lines) => {
    await raisesTo(raise, op, expression("float16", "3, 64", lines), 4e-3);
  });

  it("says which form it was", async () => {
    const exact = await raisesTo(raise, "Gelu", expression("float32", "4", forms[0]?.[2] ?? []));
    expect(exact.nodes[0]).toContain('approximate = "none"');
    const tanh = await raisesTo(raise, "Gelu", expression("float32", "4", forms[7]?.[2] ?? []));
    expect(tanh.nodes[0]).toContain('approximate = "tanh"');
    const quick = await raisesTo(
      raise,
      "Swish",
      expression("float32", "4", ["%a = Mul(%x, %quick)", "%s = Sigmoid(%a)", "%y = Mul(%x, %s)"]),
    );
    expect(quick.nodes[0]).toContain("alpha = 1.7020000219345093");
    const leaky = await raisesTo(raise, "LeakyRelu", expression("float32", "4", forms.at(-1)?.[2] ?? []));
    expect(leaky.nodes[0]).toContain("alpha = 0.20000000298023224");
  });

  it("leaves an expression whose inside is read elsewhere, and says so", async () => {
    const lines = ["%s = Sigmoid(%x)", "%y = Mul(%s, %x)", "%z = Neg(%s)"];
    const text = expression("float32", "4", lines).replace("-> (%y)", "-> (%y, %z)");
    const { remarks } = await leaves(raise, text);
    expect(remarks.map((r) => r.text)).toEqual(["SiLU was recognised and left as it is: 's' inside it is read elsewhere"]);
  });
  it("leaves an expression whose inside is a graph output", async () => {
    await leaves(raise, expression("float32", "4", ["%s = Sigmoid(%x)", "%y = Mul(%s, %x)"]).replace("-> (%y)", "-> (%y, %s)"));
  });
  it.each([
    ["a wrong constant", ["%a = Div(%x, %two)", "%b = Erf(%a)", "%d = Add(%b, %one)", "%e = Mul(%x, %d)", "%y = Mul(%e, %half)"]],
    ["a missing half", ["%a = Div(%x, %root2)", "%b = Erf(%a)", "%d = Add(%b, %one)", "%y = Mul(%x, %d)"]],
    ["division the other way", ["%a = Div(%root2, %x)", "%b = Erf(%a)", "%d = Add(%b, %one)", "%e = Mul(%x, %d)", "%y = Mul(%e, %half)"]],
    ["another clip", ["%a = Add(%x, %three)", "%b = Clip(%a, %zero, %three)", "%d = Mul(%x, %b)", "%y = Div(%d, %six)"]],
    ["another slope", ["%a = Mul(%x, %two)", "%y = Max(%a, %x)"]],
    ["HardSigmoid's own slope", ["%a = HardSigmoid(%x)", "%y = Mul(%x, %a)"]],
  ])("leaves %s", async (_, lines) => {
    await leaves(raise, expression("float32", "4", lines));
  });
  it("leaves a constant that makes the result larger than x", async () => {
    const text = graph(
      "%x: float32[4]",
      "%y",
      "const %one = float32[2, 1] [1.0, 1.0]",
      "%e = Exp(%x)",
      "%a = Add(%e, %one)",
      "%y = Log(%a)",
    );
    await leaves(raise, text);
  });
  it("leaves float64", async () => {
    await leaves(raise, expression("float32", "4", ["%s = Sigmoid(%x)", "%y = Mul(%s, %x)"]).replaceAll("float32", "float64"));
  });
  it("leaves another x", async () => {
    await leaves(raise, graph("%x: float32[4], %z: float32[4]", "%y", "%s = Sigmoid(%x)", "%y = Mul(%s, %z)"));
  });
});
