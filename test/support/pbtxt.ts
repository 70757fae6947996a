/** Protobuf's text format, as far as a model configuration uses it, and the fields of that configuration that exports write, with their types. */

type Value = string | number | boolean | Word | Message | Value[];
export interface Word {
  readonly word: string;
}
export interface Message {
  readonly fields: Readonly<Record<string, Value[]>>;
}

/** Throws with the place of what is no text format. */
export function parseText(text: string): Message {
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[A-Za-z_][\w]*|-?\d+|[{}[\]:,]|\S/g) ?? [];
  let at = 0;
  const fail = (): never => {
    throw new Error(`not text format at token ${at}: ${tokens.slice(Math.max(0, at - 3), at + 3).join(" ")}`);
  };
  const take = (expected: string): void => {
    if (tokens[at] !== expected) fail();
    at++;
  };
  const scalar = (): Value => {
    const t = tokens[at++] ?? fail();
    if (t.startsWith('"')) return string(t);
    if (/^-?\d+$/.test(t)) return Number(t);
    if (t === "true" || t === "false") return t === "true";
    if (/^[A-Za-z_]\w*$/.test(t)) return { word: t };
    return fail();
  };
  const one = (): Value => {
    if (tokens[at] !== "{") return scalar();
    at++;
    const m = message("}");
    take("}");
    return m;
  };
  const message = (end: string | undefined): Message => {
    const fields: Record<string, Value[]> = {};
    while (at < tokens.length && tokens[at] !== end) {
      const name = tokens[at++] ?? fail();
      if (!/^[a-z_]+$/.test(name)) fail();
      const colon = tokens[at] === ":";
      if (colon) at++;
      else if (tokens[at] !== "{" && tokens[at] !== "[") fail();
      const list = (fields[name] ??= []);
      if (tokens[at] !== "[") list.push(one());
      else {
        at++;
        while (tokens[at] !== "]") {
          list.push(one());
          if (tokens[at] === ",") at++;
          else if (tokens[at] !== "]") fail();
        }
        at++;
      }
    }
    return { fields };
  };
  const whole = message(undefined);
  if (at !== tokens.length) fail();
  return whole;
}
const string = (token: string): string => {
  const bytes: number[] = [];
  const inner = token.slice(1, -1);
  for (let i = 0; i < inner.length; i++) {
    if (inner[i] !== "\\") {
      bytes.push(...Buffer.from(inner[i] as string));
      continue;
    }
    const octal = /^[0-7]{3}/.exec(inner.slice(i + 1));
    bytes.push(octal === null ? inner.charCodeAt(i + 1) : Number.parseInt(octal[0], 8));
    i += octal === null ? 1 : 3;
  }
  return Buffer.from(bytes).toString("utf8");
};

type Kind = "string" | "int" | readonly string[] | { readonly message: string };
interface Field {
  readonly kind: Kind;
  readonly repeated?: boolean;
}
const TYPES = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16".split(" ").map((t) => `TYPE_${t}`);
const tensor: Readonly<Record<string, Field>> = {
  name: { kind: "string" },
  data_type: { kind: TYPES },
  dims: { kind: "int", repeated: true },
  reshape: { kind: { message: "reshape" } },
};
const entry: Readonly<Record<string, Field>> = { key: { kind: "string" }, value: { kind: "string" } };
/** Messages of a model configuration by the name of the field that holds them. */
const schema: Readonly<Record<string, Readonly<Record<string, Field>>>> = {
  model: {
    name: { kind: "string" },
    platform: { kind: "string" },
    backend: { kind: "string" },
    max_batch_size: { kind: "int" },
    default_model_filename: { kind: "string" },
    input: { kind: { message: "tensor" }, repeated: true },
    output: { kind: { message: "tensor" }, repeated: true },
    instance_group: { kind: { message: "instance_group" }, repeated: true },
    ensemble_scheduling: { kind: { message: "ensemble_scheduling" } },
  },
  tensor,
  reshape: { shape: { kind: "int", repeated: true } },
  instance_group: { count: { kind: "int" }, kind: { kind: ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"] } },
  ensemble_scheduling: { step: { kind: { message: "step" }, repeated: true } },
  step: {
    model_name: { kind: "string" },
    model_version: { kind: "int" },
    input_map: { kind: { message: "entry" }, repeated: true },
    output_map: { kind: { message: "entry" }, repeated: true },
  },
  entry,
};

/** What does not fit the schema, one line each. */
export function problems(m: Message, name = "model"): readonly string[] {
  const known = schema[name] ?? {};
  return Object.entries(m.fields).flatMap(([key, values]) => {
    const field = known[key];
    if (field === undefined) return [`${name} has no field '${key}'`];
    const many = values.length > 1 && field.repeated !== true ? [`${name}.${key} is given ${values.length} times`] : [];
    return [...many, ...values.flatMap((v) => fits(v, field.kind, `${name}.${key}`))];
  });
}
function fits(v: Value, kind: Kind, place: string): readonly string[] {
  if (kind === "string") return typeof v === "string" ? [] : [`${place} is no string`];
  if (kind === "int") return typeof v === "number" ? [] : [`${place} is no whole number`];
  if (Array.isArray(kind))
    return typeof v === "object" && "word" in v && kind.includes(v.word) ? [] : [`${place} is none of ${kind.join(", ")}`];
  const inner = (kind as { readonly message: string }).message;
  return typeof v === "object" && "fields" in v ? problems(v as Message, inner) : [`${place} is no message`];
}
