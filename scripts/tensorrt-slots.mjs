// Makes native/tensorrt/slots.h of native/tensorrt/slots.txt (--check only says whether it is up to date).
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = join(dirname(fileURLToPath(import.meta.url)), "../native/tensorrt");
export const families = ["10", "11", "rtx-1.3", "rtx-1.5"];

/** [{ kind, name, cells: [{ value, since }] }]: value -1 where a family has no such thing. */
export function readSlots(text = readFileSync(join(folder, "slots.txt"), "utf8")) {
  return text
    .split("\n")
    .filter((line) => line.trim() !== "" && !line.startsWith("#"))
    .map((line) => {
      const [entry, ...cells] = line.trim().split(/\s+/);
      const [kind, ...path] = entry.split(".");
      if (cells.length !== families.length || path.length !== 2 || !"VIAE".includes(kind)) throw new Error(`slots.txt: '${line}'`);
      return {
        kind,
        name: path.join("_"),
        cells: cells.map((cell) => {
          const [value, since = "0"] = cell.split("@");
          if (cell !== "-" && !/^\d+(@\d+)?$/.test(cell)) throw new Error(`slots.txt: '${cell}' in '${line}'`);
          return { value: cell === "-" ? -1 : Number(value), since: Number(since) };
        }),
      };
    });
}

export function slotsHeader(slots = readSlots()) {
  const constant = (family) => `slots${family.replace(/^rtx-/, "Rtx").replace(".", "")}`;
  const field = ({ name, cells }, i) => {
    const { value, since } = cells[i];
    return `    .${name} = {${value}${since > 0 ? `, ${since}` : ""}},`;
  };
  return [
    "// Made by scripts/tensorrt-slots.mjs from slots.txt. Do not edit.",
    "#pragma once",
    "#include <cstdint>",
    "",
    "namespace tensorrt {",
    "",
    "// A slot or an enumeration's value; -1 where the family has none. `since`: the minor version it came with.",
    "struct Slot {",
    "  int16_t value = -1;",
    "  int16_t since = 0;",
    "};",
    "",
    "struct Slots {",
    ...slots.map(({ name }) => `  Slot ${name};`),
    "};",
    "",
    ...families.flatMap((family, i) => [`constexpr Slots ${constant(family)} = {`, ...slots.map((s) => field(s, i)), "};", ""]),
    "}  // namespace tensorrt",
    "",
  ].join("\n");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const file = join(folder, "slots.h");
  const text = slotsHeader();
  if (!process.argv.includes("--check")) writeFileSync(file, text);
  else if (readFileSync(file, "utf8") !== text) {
    process.stderr.write("native/tensorrt/slots.h is not what slots.txt says: run `node scripts/tensorrt-slots.mjs`\n");
    process.exitCode = 1;
  }
}
