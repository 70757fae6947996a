/** Whether CUDA C++ reads other files. A source may come with a bundle: it must not make the compiler read files of this machine. */

const TOKENS = {
  blank: /[^\S\n]+|\/\/[^\n]*/y,
  hash: /#|%:|\?\?=/y,
  raw: /(?:u8|[LuU])?R"([^()\\\s]{0,16})\(/y,
  text: /"(?:[^"\\\n]|\\.)*"?/y,
  character: /'(?:[^'\\\n]|\\.)*'?/y,
  number: /\.?\d(?:[\w.]|'\w)*/y,
  word: /[A-Za-z_]\w*/y,
} as const;

/**
 * True when `source` has an #include, #import or #embed, whatever comments, line splices and digraphs surround it. Strings and comments that only
 * speak of one do not count. Linear in the length.
 */
export function includesFile(source: string): boolean {
  const text = source.replace(/\\[ \t]*\r?\n/g, "");
  let at = 0;
  const take = (token: RegExp): string | undefined => {
    token.lastIndex = at;
    const found = token.exec(text)?.[0];
    if (found !== undefined) at += found.length;
    return found;
  };
  const skipTo = (end: string, from: number): void => {
    const found = text.indexOf(end, from);
    at = found < 0 ? text.length : found + end.length;
  };
  const skip = (): void => {
    for (;;) {
      if (text.startsWith("/*", at)) skipTo("*/", at + 2);
      else if (take(TOKENS.blank) === undefined) return;
    }
  };
  let lineStart = true;
  while (at < text.length) {
    skip();
    if (text[at] === "\n") {
      at++;
      lineStart = true;
      continue;
    }
    if (lineStart && take(TOKENS.hash) !== undefined) {
      skip();
      if (/^(include|import|embed)/.test(take(TOKENS.word) ?? "")) return true;
    }
    lineStart = false;
    const raw = take(TOKENS.raw);
    if (raw !== undefined) skipTo(`)${raw.slice(raw.indexOf('"') + 1, -1)}"`, at);
    else if (
      take(TOKENS.text) === undefined &&
      take(TOKENS.character) === undefined &&
      take(TOKENS.number) === undefined &&
      take(TOKENS.word) === undefined
    )
      at++;
  }
  return false;
}
