/** Spectra of real signals, as products with tables of sines and cosines. */
import { defineTfOp, type Val } from "./define.js";
import { bounded, counting, upTo } from "./helpers.js";

const MAX_WINDOW = 1 << 12;
/** Windows under a periodic Hann bell, padded to a power of two; magnitude or power of half the spectrum. [samples, channels] to [channels, frames, bins]. */
export const audioSpectrogram = defineTfOp({
  name: "AudioSpectrogram",
  to: ["Transpose", "Gather", "MatMul", "Mul", "Add", "Sqrt", "Range", "Div"],
  lower: (n, b) => {
    const [size, stride] = [n.int("window_size"), n.int("stride")];
    if (size < 2 || size > MAX_WINDOW || stride < 1)
      return n.refuse(`its window of ${size} samples is out of reach`, `use 2 to ${MAX_WINDOW} samples`);
    let length = 1;
    while (length < size) length *= 2;
    const bins = length / 2 + 1;
    const table = (wave: (x: number) => number): readonly number[] => {
      const out = new Array<number>(size * bins);
      for (let i = 0; i < size; i++) {
        const bell = 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size);
        for (let j = 0; j < bins; j++) out[i * bins + j] = bell * wave((2 * Math.PI * ((i * j) % length)) / length);
      }
      return out;
    };
    const x = b.transpose(n.in(0), [1, 0]);
    const samples = b.dim(x, 1);
    const frames = b.add(b.div(b.sub(samples, b.int64(size)), b.int64(stride)), b.int64(1));
    const known = n.in(0).shape?.[0];
    const count = typeof known === "number" ? Math.max(0, Math.floor((known - size) / stride) + 1) : b.op("Max", [frames, b.int64(0)]);
    const places = b.add(b.unsqueeze(b.mul(counting(b, count), b.int64(stride)), [1]), b.int64(Array.from({ length: size }, (_, i) => i)));
    const windows = b.gather(x, places, 1);
    const part = (wave: (x: number) => number) => b.op("MatMul", [windows, b.const("float32", [size, bins], table(wave))]);
    const [re, im] = [part(Math.cos), part(Math.sin)];
    const power = b.add(b.mul(re, re), b.mul(im, im));
    return n.bool("magnitude_squared", false) ? power : b.op("Sqrt", [power]);
  },
});

/** The mel scale that HTK uses. */
const mel = (hertz: number): number => 1127 * Math.log1p(hertz / 700);
/**
 * Mel-frequency cepstral coefficients: magnitudes under overlapping triangles, equally wide on the mel scale, their logarithms, and of those
 * the first cosine coefficients (mfcc_mel_filterbank.cc, mfcc_dct.cc). [channels, frames, bins] of power to [channels, frames, coefficients].
 */
export const mfcc = defineTfOp({
  name: "Mfcc",
  to: [
    "Sqrt",
    "MatMul",
    "Log",
    "Max",
    "Min",
    "Mul",
    "Add",
    "Sub",
    "Div",
    "Floor",
    "Where",
    "And",
    "GreaterOrEqual",
    "LessOrEqual",
    "Range",
    "Cast",
  ],
  lower: (n, b) => {
    const k = (v: number): Val => b.scalar("float64", v);
    const bands = bounded(n, n.int("filterbank_channel_count", 40), 1024, "its mel bands");
    const coefficients = bounded(n, n.int("dct_coefficient_count", 13), bands, "its coefficients");
    const [low, high] = [n.float("lower_frequency_limit", 20), n.float("upper_frequency_limit", 4000)];
    if (bands === 0 || low < 0 || high <= low) return n.refuse(`it has ${bands} bands between ${low} and ${high} Hz`);
    const spectrum = n.in(0);
    const bins = b.dim(spectrum, 2);
    const rate = b.cast(b.reshape(n.in(1), []), "float64");
    const width = b.div(b.mul(k(0.5), rate), b.sub(b.cast(bins, "float64"), k(1)));
    const bin = b.cast(counting(b, bins), "float64");
    const at = b.unsqueeze(b.mul(k(1127), b.op("Log", [b.add(k(1), b.div(b.mul(bin, width), k(700)))])), [1]);
    // Bands `c` rise from centre c - 1 to centre c and fall to centre c + 1; the lowest begins at the lower limit.
    const step = (mel(high) - mel(low)) / (bands + 1);
    const rising = b.const(
      "float64",
      [bands],
      upTo(bands).map((c) => mel(low) + step * c),
    );
    const falling = b.const(
      "float64",
      [bands],
      upTo(bands).map((c) => mel(low) + step * (c + 2)),
    );
    const slope = b.op("Min", [b.sub(at, rising), b.sub(falling, at)]);
    const triangles = b.op("Max", [b.div(slope, k(step)), k(0)]);
    // The first bin, of no frequency, never counts.
    const from = b.op("Floor", [b.add(k(1.5), b.div(k(low), width))]);
    const to = b.op("Floor", [b.div(k(high), width)]);
    const inside = b.op("And", [b.op("GreaterOrEqual", [bin, from]), b.op("LessOrEqual", [bin, to])]);
    const weights = b.cast(b.where(b.unsqueeze(inside, [1]), triangles, k(0)), "float32");
    const energies = b.op("MatMul", [b.op("Sqrt", [spectrum]), weights]);
    const logs = b.op("Log", [b.op("Max", [energies, b.scalar("float32", 1e-12)])]);
    const cosines = upTo(bands * coefficients).map((i) => {
      const [band, order] = [Math.floor(i / coefficients), i % coefficients];
      return Math.sqrt(2 / bands) * Math.cos((Math.PI / bands) * order * (band + 0.5));
    });
    return b.op("MatMul", [logs, b.const("float32", [bands, coefficients], cosines)]);
  },
});
