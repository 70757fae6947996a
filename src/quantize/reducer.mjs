// Counts tensors with the WebAssembly kernel, in whatever thread they are computed. Plain JavaScript, so that a worker thread loads it from
// the sources and from the package alike; observe.ts gives its types.
//
// Memory of the kernel: its own scratch up to 66048, a staging area that tensors are copied through, one state a tensor, one for its
// channels, and behind them room that ONNX Runtime writes its outputs into, so that they are counted where they lie.

const STAGING = 66048;
const STAGING_BYTES = 1 << 18;
const STATE_BYTES = 32832;
const CHANNEL_BYTES = 32;
const BINS = 4096;
const PAGE = 65536;
/** Outputs that are larger together are copied through the staging area. */
const MAX_OUTPUT_BYTES = 2 ** 30;
/** Sets of dims that are remembered. */
const MAX_PLANS = 64;

const aligned = (n) => (n + 63) & ~63;

/**
 * `kernel`: the assembled kernel.wat. `tensors`: names, with the axis of channels where those are wanted, and whether
 * equal inputs' dims give equal dims. Returns an object with `add` (one
 * tensor), `fetches`/`reduce` (a run's outputs, see worker.mjs of the host engine) and `collect`.
 */
export async function open({ kernel, tensors }) {
  const memory = new WebAssembly.Memory({ initial: 8, maximum: 65536 });
  const { instance } = await WebAssembly.instantiate(kernel, { env: { memory } });
  const { reset, count, channels } = instance.exports;
  let top = STAGING + STAGING_BYTES;
  const allocate = (bytes) => {
    const at = aligned(top);
    top = at + bytes;
    const missing = Math.ceil((top - memory.buffer.byteLength) / PAGE);
    if (missing > 0) memory.grow(missing);
    return at;
  };
  const states = new Map();
  for (const { name, axis, steady } of tensors) {
    const at = allocate(STATE_BYTES);
    reset(at);
    states.set(name, { name, at, axis, steady, channels: undefined });
  }

  /** [outer, channels, inner] of a tensor's dims. */
  const split = (state, dims) => {
    const axis = state.axis < 0 ? state.axis + dims.length : state.axis;
    const n = dims[axis];
    if (n === undefined) throw new Error(`tensor '${state.name}' of dims [${dims.join(", ")}] has no axis ${state.axis}`);
    if (state.channels === undefined) {
      state.channels = { at: allocate(n * CHANNEL_BYTES), n };
      new Uint8Array(memory.buffer, state.channels.at, n * CHANNEL_BYTES).fill(0);
    } else if (state.channels.n !== n)
      throw new Error(`tensor '${state.name}' has ${n} channels on axis ${state.axis}, and had ${state.channels.n} before`);
    const product = (list) => list.reduce((a, d) => a * d, 1);
    return { outer: product(dims.slice(0, axis)), n, inner: product(dims.slice(axis + 1)) };
  };

  /** Counts `n` float32 that lie in the kernel's memory. */
  const counted = (state, at, n, dims) => {
    count(at, n, state.at);
    if (state.axis === undefined || n === 0) return;
    const s = split(state, dims);
    channels(at, s.outer, s.n, s.inner, state.channels.at);
  };

  /** Counts values that lie elsewhere: whole rows of channels at a time where channels are wanted. */
  const copied = (state, values, dims) => {
    if (state.axis === undefined) {
      const step = STAGING_BYTES / 4;
      const stage = new Float32Array(memory.buffer, STAGING, step);
      for (let i = 0; i < values.length; i += step) {
        const piece = values.subarray(i, i + step);
        stage.set(piece);
        count(STAGING, piece.length, state.at);
      }
      return;
    }
    if (values.length === 0) return;
    split(state, dims);
    const before = top;
    const at = allocate(values.length * 4);
    new Float32Array(memory.buffer, at, values.length).set(values);
    counted(state, at, values.length, dims);
    top = before;
  };

  const float = (type, data) => {
    switch (type) {
      case "float32":
        return data;
      case "float16":
        return halves(data);
      case "float64":
        return Float32Array.from(data);
      default:
        throw new Error(`a tensor of ${type} has no histogram`);
    }
  };

  const add = (name, type, data, dims) => {
    const state = states.get(name);
    if (state !== undefined) copied(state, float(type, data), dims);
  };

  // Dims of a run's outputs by the dims of its inputs: known after the first such run.
  const plans = new Map();
  let room = { at: 0, bytes: 0 };
  const keyOf = (feeds) => feeds.map(([name, , , dims]) => `${name}[${dims.join(",")}]`).join(" ");

  return {
    add,
    /** Arrays for a run's outputs to be written into, by name; undefined when their dims are not known yet. */
    fetches(feeds) {
      const plan = plans.get(keyOf(feeds));
      if (plan === undefined || plan === "unsteady") return undefined;
      const bytes = plan.reduce((sum, o) => sum + aligned(o.n * 4), 0);
      if (bytes > MAX_OUTPUT_BYTES) return undefined;
      if (room.bytes < bytes) room = { at: allocate(bytes), bytes };
      // Made again when the room has moved, or the memory has grown, which detaches the arrays over it.
      if (plan.into?.room === room && plan.into.memory === memory.buffer) return plan.into.list;
      let { at } = room;
      const list = plan.map((o) => {
        const placed = { ...o, at, data: new Float32Array(memory.buffer, at, o.n) };
        at += aligned(o.n * 4);
        return placed;
      });
      plan.into = { room, memory: memory.buffer, list };
      return list;
    },
    /** Counts a run's feeds and outputs; `into` is what `fetches` gave for it. */
    reduce(feeds, outputs, into) {
      if (into !== undefined)
        for (const o of into) {
          const state = states.get(o.name);
          if (state !== undefined) counted(state, o.at, o.n, o.dims);
        }
      for (const [name, type, data, dims] of feeds) add(name, type, data, dims);
      if (into !== undefined) {
        const placed = new Set(into.map((o) => o.name));
        for (const [name, type, data, dims] of outputs) if (!placed.has(name)) add(name, type, data, dims);
        return;
      }
      for (const [name, type, data, dims] of outputs) add(name, type, data, dims);
      const key = keyOf(feeds);
      if (plans.has(key)) return;
      if (plans.size >= MAX_PLANS) plans.clear();
      const plan = outputs.filter(([name, type, data]) => type === "float32" && data.length > 0 && states.get(name)?.steady === true);
      plans.set(
        key,
        plan.map(([name, , data, dims]) => ({ name, n: data.length, dims: [...dims] })),
      );
    },
    /** The outputs' dims depend on more than the inputs' dims: they are not written in place any more. */
    unsteady(feeds) {
      plans.set(keyOf(feeds), "unsteady");
    },
    /** What was seen so far, and the buffers that move with it. */
    collect() {
      const view = new DataView(memory.buffer);
      const transfer = [];
      const seen = [...states.values()].map((s) => {
        const n = view.getFloat64(s.at + 16, true);
        const counts = new Float64Array(memory.buffer, s.at + 64, BINS).slice();
        transfer.push(counts.buffer);
        const found = {
          name: s.name,
          // Adding 0 makes 0 of -0.
          min: n === 0 ? 0 : view.getFloat32(s.at + 8, true) + 0,
          max: n === 0 ? 0 : view.getFloat32(s.at + 12, true) + 0,
          count: n,
          zeros: view.getFloat64(s.at + 24, true),
          nonFinite: view.getFloat64(s.at + 32, true),
          histogram: { exponent: view.getInt32(s.at, true), counts },
        };
        if (s.channels === undefined) return found;
        const each = (Kind, read, offset) => {
          const out = new Kind(s.channels.n);
          for (let c = 0; c < out.length; c++) out[c] = view[read](s.channels.at + c * CHANNEL_BYTES + offset, true);
          transfer.push(out.buffer);
          return out;
        };
        return {
          ...found,
          channels: {
            axis: s.axis,
            absmax: each(Float32Array, "getFloat32", 0),
            high: each(Float64Array, "getFloat64", 8),
            low: each(Float64Array, "getFloat64", 16),
            counts: each(Float64Array, "getFloat64", 24),
          },
        };
      });
      return { seen, transfer };
    },
  };
}

let table;
/** IEEE half bits as float32, by a table. */
function halves(bits) {
  if (table === undefined) {
    table = new Float32Array(65536);
    for (let i = 0; i < 65536; i++) {
      const [exponent, fraction] = [(i >> 10) & 31, i & 1023];
      const magnitude =
        exponent === 0
          ? fraction * 2 ** -24
          : exponent === 31
            ? fraction === 0
              ? Number.POSITIVE_INFINITY
              : Number.NaN
            : (1024 + fraction) * 2 ** (exponent - 25);
      table[i] = i & 0x8000 ? -magnitude : magnitude;
    }
  }
  const raw = bits instanceof Uint16Array ? bits : new Uint16Array(bits.buffer, bits.byteOffset, bits.length);
  const out = new Float32Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = table[raw[i]];
  return out;
}
