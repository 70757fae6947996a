// The models of the INT8 accuracy benchmark, with feeds for calibration and test. Digits are real data with labels. Of the other trained models'
// own data none is at hand: keyword spotting hears words that speech synthesizers say, with labels; beside that, feeds are made from the digits
// or from a seeded generator, and only agreement with FP32 is measured.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { readNpz, Tensor } from "../../dist/index.js";
import { generator as uniform } from "../../dist/runtime/measure.js";
import { spoken, synthesizers } from "./speech.mjs";

/** Uniform numbers in [0, 1), and normally distributed ones of them. */
function generator(seed) {
  const unit = uniform(seed);
  return { unit, normal: () => Math.sqrt(-2 * Math.log(1 - unit())) * Math.cos(2 * Math.PI * unit()) };
}

const rows = (t) => {
  const size = t.dims.slice(1).reduce((a, b) => a * b, 1);
  return Array.from({ length: t.dims[0] }, (_, i) => t.data.subarray(i * size, (i + 1) * size));
};
/** A plane of h0 x w0 as one of h x w, bilinear. */
function resized(x, h0, w0, h, w) {
  const out = new Float32Array(h * w);
  for (let i = 0; i < h; i++)
    for (let j = 0; j < w; j++) {
      const [y, z] = [Math.min(h0 - 1, Math.max(0, ((i + 0.5) * h0) / h - 0.5)), Math.min(w0 - 1, Math.max(0, ((j + 0.5) * w0) / w - 0.5))];
      const [y0, z0] = [Math.floor(y), Math.floor(z)];
      const [y1, z1] = [Math.min(h0 - 1, y0 + 1), Math.min(w0 - 1, z0 + 1)];
      const at = (a, b) => x[a * w0 + b];
      out[i * w + j] =
        (1 - y + y0) * ((1 - z + z0) * at(y0, z0) + (z - z0) * at(y0, z1)) + (y - y0) * ((1 - z + z0) * at(y1, z0) + (z - z0) * at(y1, z1));
    }
  return out;
}

/** 32 x 32 colour pictures: a digit in one colour over a gradient of two others, with noise; channels first, 0 to 1. */
function coloured(digit, random) {
  const shape = resized(digit, 16, 16, 32, 32);
  const colour = () => [random.unit(), random.unit(), random.unit()];
  const [front, left, right] = [colour(), colour(), colour()];
  const tilt = random.unit();
  const out = new Float32Array(3 * 1024);
  for (let c = 0; c < 3; c++)
    for (let i = 0; i < 1024; i++) {
      const across = tilt * ((i % 32) / 31) + (1 - tilt) * (Math.floor(i / 32) / 31);
      const back = left[c] * (1 - across) + right[c] * across;
      const ink = Math.min(1, Math.max(0, shape[i]));
      out[c * 1024 + i] = Math.min(1, Math.max(0, back * (1 - ink) + front[c] * ink + 0.05 * random.normal()));
    }
  return out;
}
const MEAN = [0.485, 0.456, 0.406];
const DEVIATION = [0.229, 0.224, 0.225];
const normalised = (x) => x.map((v, i) => (v - MEAN[Math.floor(i / 1024)]) / DEVIATION[Math.floor(i / 1024)]);
const channelsLast = (x, factor) => Float32Array.from({ length: 3072 }, (_, i) => factor * x[(i % 3) * 1024 + Math.floor(i / 3)]);
/** Cepstral coefficients [frames, coefficients]: every coefficient walks around the mean it has in a recording, with bursts. */
function cepstrum({ data: reference, dims: [, frames, width] }, random) {
  const out = new Float32Array(frames * width);
  for (let c = 0; c < width; c++) {
    const column = Array.from({ length: frames }, (_, t) => reference[t * width + c]);
    const mean = column.reduce((a, b) => a + b, 0) / frames;
    const spread = Math.sqrt(column.reduce((a, b) => a + (b - mean) ** 2, 0) / frames) + 0.5;
    const offset = mean + spread * random.normal();
    const [from, to, height] = [frames * random.unit(), frames * random.unit(), 2 * spread * random.normal()];
    let walk = random.normal();
    for (let t = 0; t < frames; t++) {
      walk = 0.85 * walk + 0.53 * random.normal();
      out[t * width + c] = offset + spread * walk + (t > Math.min(from, to) && t < Math.max(from, to) ? height : 0);
    }
  }
  return out;
}

/** { name, path, options, calibration, test, labels?, data } of every model that is there; feeds are { [input]: Tensor } in the form's layout. */
export function models(folder) {
  const digits = readNpz(join(folder, "digits/data.npz"));
  const sets = { calibration: rows(digits.get("x_val")), test: rows(digits.get("x_test")) };
  const labels = Array.from(digits.get("y_test").data, Number);
  const found = [];
  const add = (name, path, input, dims, make, rest) => {
    if (!existsSync(join(folder, path))) return;
    const feeds = (set, seed) => {
      const random = generator(seed);
      return sets[set].map((digit) => ({ [input]: new Tensor("float32", make(digit, random), dims) }));
    };
    found.push({ name, path: join(folder, path), options: {}, calibration: feeds("calibration", 1), test: feeds("test", 2), ...rest });
  };
  for (const network of ["resnet", "mobilenet", "vit"]) {
    const real = { data: "digits", labels };
    for (const form of ["", "_bn", "_dynamo"])
      add(`${network}${form}.onnx`, `digits/${network}${form}.onnx`, "x", [1, 1, 16, 16], (d) => d, real);
    add(`${network}.pb`, `digits/${network}.pb`, "x", [1, 16, 16, 1], (d) => d, real);
    add(`${network}_saved_model`, `digits/${network}_saved_model`, "x", [1, 16, 16, 1], (d) => d, real);
  }
  const other = { data: "made from digits" };
  add("cifar_resnet20", "real/cifar_resnet20/model.onnx", "x", [1, 3, 32, 32], (d, r) => normalised(coloured(d, r)), other);
  add("mlperf_ic_resnet8", "real_tf/mlperf_ic_resnet8/frozen.pb", "x", [1, 32, 32, 3], (d, r) => channelsLast(coloured(d, r), 255), other);
  add("mnist_cntk", "real/mnist_cntk/model.onnx", "Input3", [1, 1, 28, 28], (d) => resized(d, 16, 16, 28, 28).map((v) => 255 * v), other);
  add(
    "cnn_mnist_pytorch",
    "real/cnn_mnist_pytorch/model.onnx",
    "0",
    [1, 1, 28, 28],
    (d) => resized(d, 16, 16, 28, 28).map((v) => (v - 0.1307) / 0.3081),
    other,
  );
  add(
    "mlperf_ad_autoencoder",
    "real_tf/mlperf_ad_autoencoder/frozen.pb",
    "x",
    [1, 640],
    (_, r) => Float32Array.from({ length: 640 }, r.unit),
    {
      data: "uniform",
    },
  );
  const tools = synthesizers();
  const words = tools.length === 0 ? undefined : { calibration: spoken(179, tools, generator(3)), test: spoken(540, tools, generator(4)) };
  for (const kind of ["CNN_S", "DS_CNN_S", "DNN_S", "CRNN_S", "GRU_S", "LSTM_S", "Basic_LSTM_S"]) {
    const at = `real_tf/kws_${kind}`;
    if (!existsSync(join(folder, at, "io.npz"))) continue;
    const seen = [...readNpz(join(folder, at, "io.npz"))].find(([name]) => name.includes("Mfcc"))?.[1];
    const options = { inputs: ["Mfcc"], outputs: ["labels_softmax"] };
    add(`kws_${kind}`, `${at}/frozen.pb`, "Mfcc", seen.dims, (_, r) => cepstrum(seen, r), { data: "made cepstra", options });
    if (words === undefined) continue;
    const feeds = (set) => words[set].cepstra(...seen.dims.slice(1)).map((x) => ({ Mfcc: new Tensor("float32", x, seen.dims) }));
    const own = { data: "spoken words", labels: words.test.labels, calibration: feeds("calibration"), test: feeds("test") };
    found.push({ name: `kws_${kind} spoken`, path: join(folder, at, "frozen.pb"), options, ...own });
  }
  return found;
}
