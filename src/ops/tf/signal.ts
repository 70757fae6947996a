/** Spectra of real signals, as products with tables of sines and cosines. */
import { defineTfOp } from "./define.js";
import { counting } from "./helpers.js";

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
