// Spoken words as the keyword spotting models hear them: two speech synthesizers (flite and espeak-ng, where they are installed) say the words in
// many voices, speeds and pitches; each is laid into a second of noise, and becomes the cepstral coefficients of TensorFlow's AudioSpectrogram
// and Mfcc, which the models were trained behind. Labels are what was said.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** In the order of the models' outputs. */
const LABELS = ["(silence)", "(unknown)", "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"];
const OTHERS = "bed bird cat dog eight five four happy house marvin nine one seven sheila six three tree two wow zero".split(" ");
const RATE = 16000;

const works = (command, ...args) => spawnSync(command, args).status === 0;
export const synthesizers = () =>
  [
    works("flite", "--version") || works("flite", "-lv") ? "flite" : undefined,
    works("espeak-ng", "--version") ? "espeak-ng" : undefined,
  ].filter((s) => s !== undefined);

const pick = (list, random) => list[Math.floor(random.unit() * list.length)];
const between = (low, high, random) => low + (high - low) * random.unit();

/** Samples of a 16-bit PCM file with one channel, at 16 kHz. */
function samplesOf(path) {
  const bytes = readFileSync(path);
  const rate = bytes.readUInt32LE(24);
  const start = bytes.indexOf("data") + 8;
  const source = Float32Array.from({ length: (bytes.length - start) >> 1 }, (_, i) => bytes.readInt16LE(start + 2 * i) / 32768);
  const step = rate / RATE;
  // The mean over what a sample covers, or the line between two, whichever is wider.
  return Float32Array.from({ length: Math.floor(source.length / step) }, (_, i) => {
    const at = i * step;
    const [low, share] = [Math.floor(at), at % 1];
    return (1 - share) * source[low] + share * (source[low + 1] ?? 0);
  });
}

function said(word, tools, folder, random) {
  const path = join(folder, "word.wav");
  if (pick(tools, random) === "flite") {
    const voice = pick(["awb", "rms", "slt", "kal16"], random);
    const pitch = (voice === "slt" ? 170 : 105) * between(0.85, 1.2, random);
    const set = [`duration_stretch=${between(0.85, 1.3, random).toFixed(2)}`, `int_f0_target_mean=${pitch.toFixed(0)}`];
    spawnSync("flite", ["-voice", voice, ...set.flatMap((s) => ["--setf", s]), "-t", word, "-o", path]);
  } else {
    const voice = pick(["en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029"], random);
    const kind = pick(["m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5"], random);
    const speed = between(110, 190, random).toFixed(0);
    spawnSync("espeak-ng", ["-v", `${voice}+${kind}`, "-s", speed, "-p", between(25, 75, random).toFixed(0), "-w", path, word]);
  }
  return samplesOf(path);
}

/** A second of sound around a word: its loud part somewhere about the middle, noise of one of three colours behind it. */
function second(word, tools, folder, random) {
  const out = new Float32Array(RATE);
  const level = 10 ** between(-3.5, -1.8, random);
  const colour = pick([0, 0.7, 0.97], random);
  let last = 0;
  for (let i = 0; i < RATE; i++) {
    last = colour * last + Math.sqrt(1 - colour ** 2) * random.normal();
    out[i] = level * last;
  }
  if (word === undefined) return out;
  const x = said(word, tools, folder, random);
  const most = x.reduce((a, v) => Math.max(a, Math.abs(v)), 1e-9);
  const loud = x.map((v) => (Math.abs(v) > 0.03 * most ? 1 : 0));
  const [from, to] = [loud.indexOf(1), loud.lastIndexOf(1)];
  const gain = between(0.1, 0.9, random) / most;
  const start = Math.round((RATE - (to - from)) / 2 + between(-0.1, 0.1, random) * RATE);
  for (let i = from; i <= to; i++) if (start + i - from >= 0 && start + i - from < RATE) out[start + i - from] += gain * x[i];
  return out;
}

const FFT = 1024;
const [COS, SIN] = [Math.cos, Math.sin].map((f) => Float64Array.from({ length: FFT }, (_, k) => f((-2 * Math.PI * k) / FFT)));
/** Squared magnitudes of the spectrum of FFT samples, in place radix 2. */
function power(re, im) {
  const n = FFT;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let size = 2; size <= n; size *= 2)
    for (let k = 0; k < size / 2; k++) {
      const [c, s] = [COS[(k * n) / size], SIN[(k * n) / size]];
      for (let i = k; i < n; i += size) {
        const j = i + size / 2;
        const x = c * re[j] - s * im[j];
        const y = s * re[j] + c * im[j];
        re[j] = re[i] - x;
        im[j] = im[i] - y;
        re[i] += x;
        im[i] += y;
      }
    }
  return Float64Array.from({ length: n / 2 + 1 }, (_, i) => re[i] ** 2 + im[i] ** 2);
}

const mel = (hertz) => 1127 * Math.log1p(hertz / 700);
const [LOW, HIGH, BANDS, BINS] = [20, 4000, 40, FFT / 2 + 1];
/** The bands' triangles: every bin's band below and its share of it. */
const triangles = (() => {
  const spacing = (mel(HIGH) - mel(LOW)) / (BANDS + 1);
  const centre = (i) => mel(LOW) + spacing * (i + 1);
  const width = (0.5 * RATE) / (BINS - 1);
  const [first, last] = [Math.trunc(1.5 + LOW / width), Math.trunc(HIGH / width)];
  return Array.from({ length: BINS }, (_, i) => {
    if (i < first || i > last) return undefined;
    const at = mel(i * width);
    let band = 0;
    while (band < BANDS && centre(band) < at) band++;
    band--;
    return { band, share: (centre(band + 1) - at) / spacing };
  });
})();

const turns = Float64Array.from({ length: BANDS ** 2 }, (_, i) =>
  Math.cos(((Math.floor(i / BANDS) * Math.PI) / BANDS) * ((i % BANDS) + 0.5)),
);
const WINDOW = 640;
const hann = Float64Array.from({ length: WINDOW }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / WINDOW));

/** [frames, coefficients] of a second of sound: windows of 40 ms, 49 of them overlapping by half or 25 side by side. */
function cepstra(sound, frames, coefficients) {
  const stride = frames > 25 ? WINDOW / 2 : WINDOW;
  const out = new Float32Array(frames * coefficients);
  for (let f = 0; f < frames; f++) {
    const [re, im] = [new Float64Array(FFT), new Float64Array(FFT)];
    for (let i = 0; i < WINDOW; i++) re[i] = (sound[f * stride + i] ?? 0) * hann[i];
    const bands = new Float64Array(BANDS);
    power(re, im).forEach((v, i) => {
      const t = triangles[i];
      if (t === undefined) return;
      const size = Math.sqrt(v);
      if (t.band >= 0) bands[t.band] += size * t.share;
      if (t.band + 1 < BANDS) bands[t.band + 1] += size * (1 - t.share);
    });
    const logs = bands.map((v) => Math.log(Math.max(v, 1e-12)));
    for (let c = 0; c < coefficients; c++)
      out[f * coefficients + c] = Math.sqrt(2 / BANDS) * logs.reduce((a, v, j) => a + v * turns[c * BANDS + j], 0);
  }
  return out;
}

/** `count` spoken words: labels as places in the models' outputs, and cepstra by the size that a model wants. */
export function spoken(count, tools, random) {
  const folder = mkdtempSync(join(tmpdir(), "partita-speech-"));
  try {
    const labels = Array.from({ length: count }, (_, i) => i % LABELS.length);
    const sounds = labels.map((label) =>
      second(label === 0 ? undefined : label === 1 ? pick(OTHERS, random) : LABELS[label], tools, folder, random),
    );
    const made = new Map();
    return {
      labels,
      cepstra(frames, coefficients) {
        const key = `${frames} ${coefficients}`;
        if (!made.has(key))
          made.set(
            key,
            sounds.map((s) => cepstra(s, frames, coefficients)),
          );
        return made.get(key);
      },
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
