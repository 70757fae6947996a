/** Operators on text, and the n-gram features made of it. */

import { UNKNOWN } from "../ir/dims.js";
import type { Node } from "../ir/types.js";
import { hostOnly } from "./answers.js";
import { absent, defineOp, flag, int, ints, optInt, optString, optStrings, shapeOf, tensor, word } from "./define.js";
import { aInt, aInts, aText, fed } from "./samples.js";
import { broadcast, fact, perOutput } from "./shapes.js";

const int8 = absent("text has no numeric scale");
const on = hostOnly("GPU engines hold no strings", "tokenize on the host, in front of the model");
const words = (...values: readonly string[]) => fed("string", [values.length], values);

/**
 * n-grams of n items lie in the pool from ngram_counts[n - 1] to ngram_counts[n], and each has one entry of ngram_indexes. ONNX Runtime trusts
 * that, and ends the process where it does not hold.
 */
function checkPool(at: {
  readonly attrs: {
    readonly max_gram_length: number;
    readonly min_gram_length: number;
    readonly ngram_counts: readonly number[];
    readonly ngram_indexes: readonly number[];
  };
  readonly node: Node;
  fail(what: string, fix: string): never;
}): void {
  const fix = "export the vectorizer again: its pool, counts and indexes do not belong together";
  const { ngram_counts: counts, ngram_indexes: indexes, max_gram_length: longest, min_gram_length: shortest } = at.attrs;
  const raw = at.node.attrs["pool_int64s"] ?? at.node.attrs["pool_strings"];
  const pool = raw?.kind === "ints" || raw?.kind === "strings" ? raw.value.length : 0;
  if (shortest < 1 || longest < shortest || longest > counts.length)
    at.fail(`grams of ${shortest} to ${longest} items, counts for ${counts.length}`, fix);
  let grams = 0;
  counts.forEach((from, i) => {
    const to = counts[i + 1] ?? pool;
    if (from < 0 || to < from || to > pool || (to - from) % (i + 1) !== 0)
      at.fail(`the pool of ${pool} has no whole ${i + 1}-grams from ${from} to ${to}`, fix);
    grams += (to - from) / (i + 1);
  });
  if (grams !== indexes.length) at.fail(`${grams} n-grams in the pool, ${indexes.length} indexes`, fix);
  if (indexes.some((x) => x < 0)) at.fail("an index is negative", fix);
}

export const stringNormalizer = defineOp({
  name: "StringNormalizer",
  doc: "Removes stop words from a list of strings ([C] or [1, C]) and changes their case.",
  reads: { onnx: [{ since: 10 }] },
  in: { x: tensor("string") },
  out: { y: tensor("string") },
  attrs: {
    case_change_action: word("NONE", "NONE", "LOWER", "UPPER"),
    is_case_sensitive: flag(false),
    locale: optString(),
    stopwords: optStrings(),
  },
  role: "compute",
  infer: (at) => {
    const s = shapeOf(at.in.x);
    return [fact("string", (at.attrs.stopwords?.length ?? 0) === 0 ? s : s?.map((d, i) => (i === s.length - 1 ? UNKNOWN : d)))];
  },
  cost: perOutput(1),
  int8,
  on,
  *samples() {
    yield { name: "unchanged", in: { x: words("Monday", "Tuesday") }, attrs: { is_case_sensitive: aInt(1) } };
  },
});
export const tfIdfVectorizer = defineOp({
  name: "TfIdfVectorizer",
  doc: "Counts the n-grams of a pool in each row of [C] or [N, C], optionally weighted: [features] or [N, features].",
  reads: { onnx: [{ since: 9 }] },
  in: { x: tensor("T") },
  out: { y: tensor("float32") },
  types: { T: ["string", "int32", "int64"] },
  attrs: {
    max_gram_length: int(),
    max_skip_count: int(),
    min_gram_length: int(),
    mode: word(undefined, "TF", "IDF", "TFIDF"),
    ngram_counts: ints(),
    ngram_indexes: ints(),
  },
  role: "compute",
  infer: (at) => {
    const s = shapeOf(at.in.x);
    checkPool(at);
    const features = at.attrs.ngram_indexes.reduce((a, b) => Math.max(a, b + 1), 0);
    return [fact("float32", s === undefined ? undefined : [...s.slice(0, -1), features])];
  },
  cost: perOutput(4),
  int8,
  on: hostOnly("counting n-grams has no kernel", "compute the features on the host"),
  *samples() {
    const attrs = {
      max_gram_length: aInt(2),
      min_gram_length: aInt(1),
      max_skip_count: aInt(0),
      mode: aText("TF"),
      ngram_counts: aInts(0, 2),
      ngram_indexes: aInts(0, 1, 2),
      pool_int64s: aInts(2, 3, 5, 4),
    };
    yield { name: "list", in: { x: fed("int64", [5], [2, 3, 5, 4, 2]) }, attrs };
    yield { name: "rows", in: { x: fed("int32", [2, 3], [2, 3, 5, 4, 5, 4]) }, attrs };
  },
});
export const stringConcat = defineOp({
  name: "StringConcat",
  doc: "Joins strings elementwise, broadcasting.",
  reads: { onnx: [{ since: 20 }] },
  in: { a: tensor("string"), b: tensor("string") },
  out: { y: tensor("string") },
  attrs: {},
  role: "compute",
  infer: (at) => {
    const s = broadcast(shapeOf(at.in.a), shapeOf(at.in.b));
    if (s === null)
      return at.fail(
        `dims [${shapeOf(at.in.a)}] and [${shapeOf(at.in.b)}] do not broadcast`,
        "make each pair of trailing dims equal, or one of them 1",
      );
    return [fact("string", s)];
  },
  cost: perOutput(1),
  int8,
  on,
  *samples() {
    yield { name: "broadcast", in: { a: words("ab", "cd"), b: words(".com") } };
  },
});
export const stringSplit = defineOp({
  name: "StringSplit",
  doc: "Splits strings at a delimiter (at white space by default): the pieces, padded with empty strings along a new last axis, and their counts.",
  reads: { onnx: [{ since: 20 }] },
  in: { x: tensor("string") },
  out: { y: tensor("string"), counts: tensor("int64") },
  attrs: { delimiter: optString(), maxsplit: optInt() },
  role: "compute",
  infer: (at) => {
    const s = shapeOf(at.in.x);
    return [fact("string", s === undefined ? undefined : [...s, UNKNOWN]), fact("int64", s)];
  },
  cost: perOutput(1),
  int8,
  on,
  *samples() {
    yield { name: "dots", in: { x: words("a.b", "c") }, attrs: { delimiter: aText(".") }, outs: 2 };
  },
});
export const regexFullMatch = defineOp({
  name: "RegexFullMatch",
  doc: "Whether each string matches a regular expression (RE2 syntax) as a whole.",
  reads: { onnx: [{ since: 20 }] },
  in: { x: tensor("string") },
  out: { y: tensor("bool") },
  attrs: { pattern: optString() },
  role: "compute",
  infer: (at) => [fact("bool", shapeOf(at.in.x))],
  cost: perOutput(8),
  int8,
  on,
  *samples() {
    yield { name: "digits", in: { x: words("123", "12a") }, attrs: { pattern: aText("[0-9]+") } };
  },
});
