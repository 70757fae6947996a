/** TensorFlow's diagonals, bands, decompositions (by what they must satisfy), special functions (by tabulated values). */
import { expect, it } from "vitest";
import { bool, float, int, text } from "../../support/tf-graph.js";
import { check, ci, f, i, plain, run, t, want, wf, wi } from "../../support/tf-ops.js";

const upTo = (n: number): number[] => Array.from({ length: n }, (_, k) => k);
type Matrix = readonly (readonly number[])[];
const rowsOf = (values: readonly number[], rows: number, cols: number): number[][] =>
  upTo(rows).map((r) => values.slice(r * cols, (r + 1) * cols));
const product = (a: Matrix, b: Matrix): number[] =>
  a.flatMap((r) => upTo(b[0]?.length ?? 0).map((c) => r.reduce((s, v, k) => s + v * (b[k]?.[c] ?? 0), 0)));
const flip = (a: Matrix): number[][] => upTo(a[0]?.length ?? 0).map((c) => a.map((r) => r[c] ?? 0));
const unit = (n: number): number[] => upTo(n * n).map((k) => (k % (n + 1) === 0 ? 1 : 0));
const close = (has: readonly number[], wanted: readonly number[], digits = 4): void => {
  expect(has.length).toBe(wanted.length);
  has.forEach((v, k) => expect(v, `element ${k}`).toBeCloseTo(wanted[k] ?? 0, digits));
};

it("puts diagonals in place and takes them out", async () => {
  await check("MatrixDiag", [i([2], [1, 2])], {}, wi([2, 2], [1, 0, 0, 2]));
  await check("MatrixDiagPart", [i([2, 3], upTo(6))], {}, wi([2], [0, 4]));
  await check("Diag", [i([2], [1, 2])], {}, wi([2, 2], [1, 0, 0, 2]));
  await check("DiagPart", [i([2, 2, 2, 2], upTo(16))], {}, wi([2, 2], [0, 5, 10, 15]));
  await check("MatrixSetDiag", [i([2, 3], upTo(6)), i([2], [8, 9])], {}, wi([2, 3], [8, 1, 2, 3, 9, 5]), { modes: ["static"] });
  await check("MatrixBandPart", [i([3, 3], upTo(9)), ci([], [1]), ci([], [0])], {}, wi([3, 3], [0, 0, 0, 3, 4, 0, 0, 7, 8]));
  await check(
    "MatrixBandPart",
    [t("bool", [2, 2], [true, true, true, true]), t("int64", [], [-1]), t("int64", [], [0])],
    {},
    want("bool", [2, 2], [1, 0, 1, 1]),
    { modes: ["static"] },
  );
});
it("reads bands of diagonals with either alignment", async () => {
  const x = i([3, 4], [1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6]);
  const band = ci([2], [-1, 1]);
  const only = { modes: ["static"] } as const;
  await check("MatrixDiagPartV3", [x, band, ci([], [0])], {}, wi([3, 3], [2, 7, 6, 1, 6, 7, 5, 8, 0]), only);
  await check("MatrixDiagPartV3", [x, ci([2], [1, 2]), ci([], [0])], {}, wi([2, 3], [0, 3, 8, 2, 7, 6]), only);
  await check("MatrixDiagPartV3", [x, ci([2], [1, 2]), ci([], [9])], { align: text("LEFT_RIGHT") }, wi([2, 3], [3, 8, 9, 2, 7, 6]), only);
  await check("MatrixDiagPartV2", [x, ci([], [3]), ci([], [0])], {}, wi([1], [4]), only);
  await check(
    "MatrixDiagV3",
    [i([2], [1, 2]), ci([], [1]), ci([], [-1]), ci([], [-1]), i([], [0])],
    {},
    wi([3, 3], [0, 1, 0, 0, 0, 2, 0, 0, 0]),
    only,
  );
  await check(
    "MatrixDiagV3",
    [i([2], [1, 2]), ci([], [-1]), ci([], [3]), ci([], [4]), i([], [9])],
    {},
    wi([3, 4], [9, 9, 9, 9, 1, 9, 9, 9, 9, 2, 9, 9]),
    only,
  );
  await check(
    "MatrixDiagV3",
    [i([3, 3], [0, 8, 9, 1, 2, 3, 4, 5, 0]), band, ci([], [-1]), ci([], [-1]), i([], [0])],
    {},
    wi([3, 3], [1, 8, 0, 4, 2, 9, 0, 5, 3]),
    only,
  );
  await check(
    "MatrixSetDiagV3",
    [i([3, 4], new Array(12).fill(7)), i([2, 3], [9, 1, 2, 4, 5, 6]), ci([2], [0, 1])],
    {},
    wi([3, 4], [4, 9, 7, 7, 7, 5, 1, 7, 7, 7, 6, 2]),
    only,
  );
});

const A: Matrix = [
  [4, -2, 1],
  [3, 6, -4],
  [2, 1, 8],
];
it("inverts, solves, takes determinants, with pivoting", async () => {
  const [inverse] = await run("MatrixInverse", [f([1, 3, 3], A.flat())]);
  close(product(A, rowsOf(plain(inverse), 3, 3)), unit(3));
  const swapped = [0, 1, 1, 0];
  await check("MatrixInverse", [f([2, 2], swapped)], {}, wf([2, 2], swapped));
  const [x] = await run("MatrixSolve", [t("float64", [3, 3], A.flat()), t("float64", [3, 1], [3, 5, 11])], { adjoint: bool(true) });
  close(product(flip(A), rowsOf(plain(x), 3, 1)), [3, 5, 11], 8);
  await check("MatrixDeterminant", [f([3, 3], A.flat())], {}, wf([], [263]));
  await check("LogMatrixDeterminant", [f([2, 2, 2], [0, 1, 1, 0, 2, 0, 0, 3])], {}, [wf([2], [-1, 1]), wf([2], [0, Math.log(6)])]);
});
it("factorises symmetric matrices, solves triangular ones without reading the other half", async () => {
  const s = [4, 2, 2, 5];
  await check("Cholesky", [f([2, 2], s)], {}, wf([2, 2], [2, 0, 1, 2]));
  await check("MatrixTriangularSolve", [f([2, 2], [2, 99, 1, 4]), f([2, 1], [2, 9])], { lower: bool(true) }, wf([2, 1], [1, 2]));
  await check("MatrixTriangularSolve", [f([2, 2], [2, 1, 99, 4]), f([2, 1], [4, 8])], { lower: bool(false) }, wf([2, 1], [1, 2]));
  await check(
    "MatrixTriangularSolve",
    [f([2, 2], [2, 99, 1, 4]), f([2, 1], [4, 8])],
    { lower: bool(true), adjoint: bool(true) },
    wf([2, 1], [1, 2]),
  );
});
it.each([
  [3, 3],
  [5, 3],
  [3, 5],
  [4, 1],
])("takes a %d by %d matrix apart by singular values", async (rows, cols) => {
  const values = upTo(rows * cols).map((k) => Math.fround(Math.sin(k * k + 1)));
  for (const full of [false, true]) {
    const [s, u, v] = await run("Svd", [f([rows, cols], values)], { full_matrices: bool(full) }, 3);
    const k = Math.min(rows, cols);
    expect([s?.dims, u?.dims, v?.dims]).toEqual([[k], [rows, full ? rows : k], [cols, full ? cols : k]]);
    const [U, V] = [rowsOf(plain(u), rows, full ? rows : k), rowsOf(plain(v), cols, full ? cols : k)];
    const S = plain(s);
    expect(S).toEqual([...S].sort((a, b) => b - a));
    const scaled = U.map((r) => r.slice(0, k).map((x, c) => x * (S[c] ?? 0)));
    close(product(scaled, flip(V.map((r) => r.slice(0, k)))), values);
    close(product(flip(U), U), unit(full ? rows : k));
    close(product(flip(V), V), unit(full ? cols : k));
  }
});
it("finds eigenvalues of symmetric matrices in ascending order", async () => {
  const s = [
    [2, -1, 0, 3],
    [-1, 2, -1, 0],
    [0, -1, 2, 1],
    [3, 0, 1, -1],
  ];
  for (const n of [3, 4]) {
    const m = s.slice(0, n).map((r) => r.slice(0, n));
    const [e, v] = await run("SelfAdjointEigV2", [f([n, n], m.flat())], {}, 2);
    const V = rowsOf(plain(v), n, n);
    const E = plain(e);
    expect(E).toEqual([...E].sort((a, b) => a - b));
    close(
      product(m, V),
      V.flatMap((r) => r.map((x, c) => x * (E[c] ?? 0))),
    );
    close(product(flip(V), V), unit(n));
  }
});
it.each([
  [3, 2],
  [2, 3],
  [3, 3],
])("takes a %d by %d matrix apart into rotations and a triangle", async (rows, cols) => {
  const values = upTo(rows * cols).map((k) => Math.fround(Math.cos(k * k + 2)));
  for (const full of [false, true]) {
    const [q, r] = await run("Qr", [f([rows, cols], values)], { full_matrices: bool(full) }, 2);
    const k = full ? rows : Math.min(rows, cols);
    const [Q, R] = [rowsOf(plain(q), rows, k), rowsOf(plain(r), k, cols)];
    close(product(Q, R), values);
    close(product(flip(Q), Q), unit(k));
    R.forEach((row, a) => row.forEach((x, c) => a > c && expect(x).toBe(0)));
    expect(Math.sign(R[0]?.[0] ?? 0)).toBe(-Math.sign(values[0] ?? 0));
  }
});

it("knows special functions where tables do", async () => {
  const d = (values: readonly number[]) => t("float64", [values.length], values);
  const wd = (values: readonly number[]) => want("float64", [values.length], values);
  const tight = { tolerance: 1e-9 };
  await check(
    "Lgamma",
    [d([0.5, 1, 2, 3.5, 10, 100, -1.5, Number.POSITIVE_INFINITY])],
    {},
    wd([0.5723649429247001, 0, 0, 1.2009736023470743, 12.801827480081469, 359.1342053695754, 0.860047015376481, Number.POSITIVE_INFINITY]),
    tight,
  );
  await check(
    "Digamma",
    [d([1, 0.5, 10, -0.5])],
    {},
    wd([-0.5772156649015329, -1.9635100260214235, 2.251752589066721, 0.03648997397857652]),
    tight,
  );
  await check(
    "Zeta",
    [d([2, 4, 3, 1, 0.5]), d([1, 1, 2, 1, 1])],
    {},
    wd([1.6449340668482264, 1.082323233711138, 0.2020569031595943, Number.POSITIVE_INFINITY, Number.NaN]),
    tight,
  );
  await check("Polygamma", [d([1, 2, 0]), d([1, 1, 1])], {}, wd([1.6449340668482264, -2.404113806319188, -0.5772156649015329]), tight);
  await check(
    "Igamma",
    [d([1, 2.5, 0.5, 10, 1, 1]), d([1, 1, 4, 3, 0, Number.POSITIVE_INFINITY])],
    {},
    wd([0.6321205588285577, 0.15085496391539038, 0.9953222650189527, 0.0011024881301154815, 0, 1]),
    tight,
  );
  await check("Igammac", [d([1, 5, -1]), d([2, 1, 1])], {}, wd([0.1353352832366127, 0.9963401531726563, Number.NaN]), tight);
  await check(
    "Betainc",
    [d([2, 0.5, 5, 1]), d([3, 0.5, 1, 1]), d([0.5, 0.25, 0.9, 1])],
    {},
    wd([0.6875, 0.3333333333333333, 0.59049, 1]),
    tight,
  );
  await check("BesselI0e", [d([0, 1, -30])], {}, wd([1, 0.46575960759364043, 0.07314594648223725]), { tolerance: 1e-7 });
  await check("BesselI1", [d([1, -2])], {}, wd([0.5651591039924851, -1.5906368546373291]), tight);
  await check("Erfinv", [f([4], [0, 0.5, -0.9, 1])], {}, wf([4], [0, 0.4769362762044699, -1.1630871536766743, Number.POSITIVE_INFINITY]));
  await check("Ndtri", [f([2], [0.5, 0.975])], {}, wf([2], [0, 1.959963984540054]));
});
it("shows a pure tone in its own bin", async () => {
  const samples = upTo(16).map((k) => Math.cos((2 * Math.PI * 2 * k) / 8));
  const [y] = await run("AudioSpectrogram", [f([16, 1], samples)], { window_size: int(8), stride: int(4), magnitude_squared: bool(true) });
  expect(y?.dims).toEqual([1, 3, 5]);
  // A Hann window of 8 samples sums to 4: the bin of the tone has (4 / 2)^2, its neighbours a quarter.
  close(plain(y).slice(0, 5), [0, 1, 4, 1, 0]);
});

it("gives cepstral coefficients of a spectrum, bin by bin", async () => {
  const [bins, rate, bands, low, high, count] = [33, 8000, 6, 50, 3000, 4];
  const mel = (hertz: number): number => 1127 * Math.log1p(hertz / 700);
  const spectrum = upTo(bins).map((k) => Math.fround(1 + Math.cos(k) ** 2));
  const hertz = (0.5 * rate) / (bins - 1);
  const centre = (c: number): number => mel(low) + ((mel(high) - mel(low)) / (bands + 1)) * (c + 1);
  const energies = new Array<number>(bands).fill(0);
  for (let k = Math.floor(1.5 + low / hertz); k <= Math.floor(high / hertz); k++) {
    const m = mel(k * hertz);
    let channel = 0;
    while (channel < bands && centre(channel) < m) channel++;
    channel--;
    const weight = (centre(channel + 1) - m) / (centre(channel + 1) - centre(channel));
    const magnitude = Math.sqrt(spectrum[k] ?? 0);
    if (channel >= 0) energies[channel] = (energies[channel] ?? 0) + magnitude * weight;
    if (channel + 1 < bands) energies[channel + 1] = (energies[channel + 1] ?? 0) + magnitude * (1 - weight);
  }
  const wanted = upTo(count).map((i) =>
    energies.reduce((s, e, j) => s + Math.sqrt(2 / bands) * Math.cos((i * Math.PI * (j + 0.5)) / bands) * Math.log(Math.max(e, 1e-12)), 0),
  );
  const attrs = {
    filterbank_channel_count: int(bands),
    dct_coefficient_count: int(count),
    lower_frequency_limit: float(low),
    upper_frequency_limit: float(high),
  };
  await check("Mfcc", [f([1, 1, bins], spectrum), i([], [rate])], attrs, wf([1, 1, count], wanted));
});
